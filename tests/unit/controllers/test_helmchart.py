"""What a HelmChart's run decides and says: the rules and tables of `spec/source.md` 8, and hostile charts."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from gitopsd.api.meta import ConditionType
from gitopsd.controllers.helmchart import HelmChartSource
from gitopsd.controllers.source import Fetched, SourceError
from gitopsd.engine import Engine, EngineRefused, EngineSettings, EngineTimeout
from gitopsd.fetch.errors import FetchError, RemoteError
from gitopsd.krm.objects import ObjectKey
from tests.answering import Asked, Reply
from tests.servers.charts import chart_archive
from tests.unit.controllers.chartbench import NAMESPACE, REPO, Bench
from tools import build_engine

CHART = "apiVersion: v2\nname: demo\nversion: 0.3.0\n"
FILES = {"chart/Chart.yaml": CHART, "chart/values.yaml": "a: 1\n", "chart/templates/cm.yaml": "kind: ConfigMap\n"}
SHA = "ab" * 20
USER = {"username": b"user", "password": b"secret-pass"}


@pytest.fixture(scope="session")
def program() -> Path:
    return build_engine.cached()


@pytest.fixture
async def engine(program: Path) -> AsyncIterator[Engine]:
    async with Engine(EngineSettings(program, test_methods=True)) as engine:
        yield engine


@pytest.fixture
async def bench(tmp_path: Path, engine: Engine) -> Bench:
    found = Bench(tmp_path, engine)
    await found.store.open()
    return found


def contents(found: Fetched) -> dict[str, str]:
    """The files of a package, below its folder."""
    assert isinstance(found.content, bytes)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(found.content))) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        return {name: file.read().decode() for name, file in files.items() if file is not None}


def metadata(found: Fetched) -> dict[str, Any]:
    """What the package's Chart.yaml says."""
    parsed: dict[str, Any] = yaml.safe_load(contents(found)["Chart.yaml"])
    return parsed


# -- 8.1, 8.3: which chart, from where ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("*", "1.1.0"),
        ("", "1.1.0"),
        ("1.0.x", "1.0.0"),
        (">=1.0.0-0", "1.2.0-rc.1"),
        ("1.0.0", "1.0.0"),
        ("<1.1.0", "1.0.0"),
        ("~0.9", "0.9.5"),
    ],
)
async def test_s8_3_an_index_is_asked_for_the_highest_version_in_the_range(
    bench: Bench, version: str, expected: str
) -> None:
    archives = await bench.serve("1.2.0-rc.1", "1.1.0", "1.0.0", "0.9.5")
    found = await bench.fetched(version=version)
    assert (found.revision, found.file_name) == (expected, f"demo-{expected}.tgz")
    assert found.content == archives[expected], "byte for byte"
    assert found.stored == found.told == f"pulled 'demo' chart with version '{expected}'"
    assert found.reason == found.event_reason == found.recovered_reason == "ChartPullSucceeded"
    assert found.observed == {"observedChartName": "demo", "observedValuesFiles": None}
    assert bench.web.lines == [f"GET {REPO}/demo-{expected}.tgz"]


async def test_s8_3_an_exact_string_wins_over_a_range(bench: Bench) -> None:
    await bench.serve("1.2.3+b", "1.2.3+a")
    assert (await bench.fetched(version="1.2.3+a")).revision == "1.2.3+a"


@pytest.mark.parametrize(
    ("base", "written", "expected"),
    [
        (REPO, "demo.tgz", f"{REPO}/demo.tgz"),
        (f"{REPO}/sub/", "demo.tgz", f"{REPO}/sub/demo.tgz"),
        (REPO, "https://elsewhere.example.com/demo.tgz", "https://elsewhere.example.com/demo.tgz"),
        (f"{REPO}/sub", "../demo.tgz", f"{REPO}/demo.tgz"),
        (f"{REPO}?token=t", "demo.tgz", f"{REPO}/demo.tgz?token=t"),
    ],
)
async def test_s8_3_the_first_url_is_resolved_against_the_repositorys(
    bench: Bench, base: str, written: str, expected: str
) -> None:
    bench.files[expected] = chart_archive("demo", "1.0.0")
    await bench.index({"demo": [{"version": "1.0.0", "urls": [written, "https://second.example.com/x.tgz"]}]}, url=base)
    await bench.fetched()
    assert bench.web.lines == [f"GET {expected}"]


@pytest.mark.parametrize(
    ("version", "tag", "asked"),
    [
        ("1.0.0", "1.0.0", []),
        ("1.0.0+b", "1.0.0+b", []),
        ("*", "1.1.0", ["tags ghcr.io/charts/demo"]),
        ("", "1.1.0", ["tags ghcr.io/charts/demo"]),
        ("<1.1.0", "1.0.0+b", ["tags ghcr.io/charts/demo"]),
        (">=1.0.0-0", "1.2.0-rc.1", ["tags ghcr.io/charts/demo"]),
        ("1", "1.1.0", ["tags ghcr.io/charts/demo"]),
    ],
)
async def test_s8_3_a_registry_lists_its_tags_only_for_a_range(
    bench: Bench, version: str, tag: str, asked: list[str]
) -> None:
    bench.oci()
    for one in ("1.0.0", "1.0.0_b", "1.1.0", "1.2.0-rc.1", "v9.0.0", "latest", "8", "07.0.0"):
        bench.registry.push("ghcr.io/charts/demo", one, chart_archive("demo", one.replace("_", "+").strip("v")))
    found = await bench.fetched(version=version)
    assert found.revision == tag
    assert bench.registry.asked[: len(asked)] == asked
    assert bench.registry.asked[len(asked)] == f"image ghcr.io/charts/demo {tag.replace('+', '_')}"
    assert found.stored == f"pulled 'demo' chart with version '{tag}'"
    assert "observedSourceArtifactRevision" not in bench.status


async def test_s8_3_a_chart_in_a_registry_may_have_a_slash_in_its_name_and_is_not_pulled_again(bench: Bench) -> None:
    """`spec/source.md` 15.15: upstream pulls it again at every interval."""
    bench.oci()
    bench.registry.push("ghcr.io/charts/sub/demo", "1.0.0", chart_archive("demo", "1.0.0"))
    found = await bench.fetched(chart="sub/demo", version="1.0.0")
    assert found.file_name == "demo-1.0.0.tgz"
    assert found.stored == "pulled 'sub/demo' chart with version '1.0.0'"
    bench.registry.asked.clear()
    await bench.unchanged()
    assert bench.registry.asked == []


@pytest.mark.parametrize("path", ["chart", "./chart", "chart/", "/chart", "../chart", "x/../chart"])
async def test_s8_3_a_directory_in_a_tree_is_packaged(bench: Bench, path: str) -> None:
    await bench.tree(FILES)
    found = await bench.fetched(chart=path)
    assert (found.revision, found.file_name) == ("0.3.0", "demo-0.3.0.tgz")
    assert found.stored == "packaged 'demo' chart with version '0.3.0'"
    assert found.reason == found.event_reason == "ChartPackageSucceeded"
    assert set(contents(found)) == {"Chart.yaml", "values.yaml", "templates/cm.yaml"}
    assert bench.status["observedSourceArtifactRevision"] == f"main@sha1:{SHA}"
    assert bench.status["observedChartName"] == "demo"


@pytest.mark.parametrize("path", [".", "./", "/", "..", "x/.."])
async def test_s8_3_the_chart_may_be_the_whole_tree(bench: Bench, path: str) -> None:
    await bench.tree({name.removeprefix("chart/"): text for name, text in FILES.items()})
    assert (await bench.fetched(chart=path)).revision == "0.3.0"


async def test_s8_3_the_same_tree_gives_the_same_bytes(bench: Bench) -> None:
    await bench.tree(FILES)
    first = await bench.fetched(chart="chart")
    second = await bench.fetched(interval="2m")
    assert first.content == second.content


async def test_s8_1_version_is_ignored_for_trees_and_strategy_for_repositories(bench: Bench) -> None:
    await bench.tree(FILES)
    assert (await bench.fetched(chart="chart", version="9.x")).revision == "0.3.0"
    del bench.spec["sourceRef"]
    await bench.serve("1.0.0", name="other")
    assert (await bench.fetched(chart="demo", version="*", reconcileStrategy="Revision")).revision == "1.0.0"


async def test_s8_3_an_archive_in_a_tree_is_copied_unless_it_must_be_changed(bench: Bench) -> None:
    archive = chart_archive("demo", "1.0.0")
    await bench.tree({"demo.tgz": archive, "v.yaml": "b: 2\n"})
    found = await bench.fetched(chart="demo.tgz")
    assert found.content == archive
    assert found.stored == "pulled 'demo' chart with version '1.0.0'"
    found = await bench.fetched(valuesFiles=["v.yaml"])
    assert found.stored == "packaged 'demo' chart with version '1.0.0+2' and merged values files [v.yaml]"
    assert contents(found)["values.yaml"] == "b: 2\n"
    found = await bench.fetched(valuesFiles=[], reconcileStrategy="Revision")
    assert (found.revision, metadata(found)["version"]) == (f"1.0.0+{SHA[:12]}", f"1.0.0+{SHA[:12]}")


@pytest.mark.parametrize(
    ("kind", "revision", "spec", "expected"),
    [
        ("GitRepository", f"main@sha1:{SHA}", {"reconcileStrategy": "Revision"}, f"0.3.0+{SHA[:12]}"),
        ("Bucket", "sha256:" + "cd" * 32, {"reconcileStrategy": "Revision"}, "0.3.0+" + "cd" * 6),
        ("GitRepository", f"main@sha1:{SHA}", {"valuesFiles": ["chart/values.yaml"]}, "0.3.0+1"),
        ("GitRepository", f"main@sha1:{SHA}", {"valuesFiles": ["values.yaml"]}, "0.3.0"),
        (
            "GitRepository",
            f"main@sha1:{SHA}",
            {"reconcileStrategy": "Revision", "valuesFiles": ["chart/values.yaml"]},
            f"0.3.0+{SHA[:12]}.1",
        ),
    ],
    ids=["git-revision", "bucket-revision", "values-files", "own-values", "both"],
)
async def test_s8_3_build_metadata(bench: Bench, kind: str, revision: str, spec: dict[str, Any], expected: str) -> None:
    await bench.tree(FILES, revision, kind)
    found = await bench.fetched(chart="chart", **spec)
    assert found.revision == expected
    assert metadata(found)["version"] == expected


async def test_s8_3_with_chart_version_a_change_without_another_version_gives_no_new_artifact(bench: Bench) -> None:
    await bench.tree(FILES)
    await bench.fetched(chart="chart")
    await bench.tree(FILES | {"chart/values.yaml": "a: 2\n"}, "main@sha1:" + "cd" * 20)
    found = await bench.unchanged()
    assert found.told == "artifact up-to-date with remote revision: '0.3.0'"
    assert found.stored == found.recovered == "packaged 'demo' chart with version '0.3.0'"
    assert (found.reason, found.event_reason) == ("ChartPackageSucceeded", "ChartPackageSucceeded")
    assert bench.status["observedSourceArtifactRevision"] == "main@sha1:" + "cd" * 20
    bench.spec["reconcileStrategy"] = "Revision"
    bench.generation += 1
    await bench.fetched()
    await bench.tree(FILES, "main@sha1:" + "ef" * 20)
    assert (await bench.fetched()).revision == "0.3.0+" + "ef" * 6


async def test_s8_3_what_is_stored_is_kept_until_the_spec_changes(bench: Bench) -> None:
    await bench.serve("1.1.0", "1.0.0")
    await bench.fetched(version="1.x")
    assert (await bench.unchanged()).stored == "pulled 'demo' chart with version '1.1.0'"
    assert len(bench.web.lines) == 1, "nothing was downloaded again"
    await bench.fetched(interval="2m")
    assert len(bench.web.lines) == 2
    await bench.serve("1.2.0", "1.1.0")
    assert (await bench.fetched()).revision == "1.2.0"


async def test_what_is_stored_from_elsewhere_is_not_kept_after_a_failure(bench: Bench) -> None:
    """Upstream keeps it: the generation in which the source changed was observed, though it failed."""
    await bench.serve("1.0.0")
    await bench.fetched()
    await bench.index({"other": []}, name="other", url="https://other.example.com")
    await bench.fails(sourceRef={"kind": "HelmRepository", "name": "other"})
    assert bench.status["observedGeneration"] == bench.generation
    archive = chart_archive("demo", "1.0.0", {"x": "another"})
    bench.files["https://other.example.com/demo.tgz"] = archive
    entries = {"demo": [{"version": "1.0.0", "urls": ["demo.tgz"]}]}
    await bench.index(entries, name="other", url="https://other.example.com")
    assert (await bench.fetched()).content == archive


async def test_s8_5_what_is_said_when_the_storage_fails(bench: Bench) -> None:
    await bench.serve("1.0.0")
    assert (await bench.fetched()).not_stored == "unable to copy Helm chart to storage"


async def test_s8_2_a_build_that_is_kept_tells_its_values_files_again(bench: Bench) -> None:
    await bench.tree(FILES | {"b.yaml": "b: 1\n"})
    spec = {"chart": "chart", "valuesFiles": ["b.yaml", "no.yaml"], "ignoreMissingValuesFiles": True}
    first = await bench.fetched(**spec)
    assert first.observed == {"observedChartName": "demo", "observedValuesFiles": ["b.yaml"]}
    assert bench.status["observedValuesFiles"] == ["b.yaml"]
    assert (await bench.unchanged()).stored == first.stored
    assert first.stored == "packaged 'demo' chart with version '0.3.0+1' and merged values files [b.yaml]"
    again = await bench.fetched(valuesFiles=["b.yaml"], ignoreMissingValuesFiles=False)
    assert again.observed["observedValuesFiles"] is None
    assert "observedValuesFiles" not in bench.status


async def test_s8_3_values_files_of_a_repositorys_chart_are_inside_it(bench: Bench) -> None:
    bench.files[f"{REPO}/demo.tgz"] = chart_archive(
        "demo", "1.0.0", {"values.yaml": "a: 1\nm: {x: 1}\n", "ci/b.yaml": "m: {y: 2}\n"}
    )
    await bench.index({"demo": [{"version": "1.0.0", "urls": ["demo.tgz"]}]})
    found = await bench.fetched(valuesFiles=["values.yaml", "ci/b.yaml"])
    assert (
        found.stored == "packaged 'demo' chart with version '1.0.0+1' and merged values files [values.yaml ci/b.yaml]"
    )
    assert contents(found)["values.yaml"] == 'a: 1\nm:\n  "true": 2\n  x: 1\n'
    error = await bench.fails(valuesFiles=["nope.yaml"])
    assert error.message == (
        "values files merge error: failed to merge chart values: no values file found at path 'nope.yaml'"
    )


# -- 8.3: dependencies -------------------------------------------------------------------------------------------------


def depending(*dependencies: dict[str, str], lock: list[dict[str, str]] | None = None, **files: str) -> dict[str, str]:
    """A chart in `chart` with dependencies."""
    tree = FILES | {"chart/Chart.yaml": CHART + yaml.safe_dump({"dependencies": list(dependencies)})} | files
    if lock is not None:
        tree["chart/Chart.lock"] = yaml.safe_dump({"dependencies": lock, "digest": "sha256:x"})
    return tree


async def test_s8_3_dependencies_come_from_trees_repositories_and_registries(bench: Bench) -> None:
    bench.registry.push("ghcr.io/lib/far", "2.1.0", chart_archive("far", "2.1.0"))
    bench.registry.push("ghcr.io/lib/far", "2.0.0", chart_archive("far", "2.0.0"))
    await bench.serve("1.5.0", "1.0.0", chart="near", name="near")
    del bench.spec["sourceRef"]
    files = depending(
        {"name": "near", "version": "1.x", "repository": f"{REPO}/", "condition": "near.enabled"},
        {"name": "far", "version": "^2", "repository": "oci://ghcr.io/lib/", "alias": "other"},
        {"name": "local", "version": ">=0.1", "repository": "file://../local"},
        {"name": "there", "version": "1.0.0", "repository": "https://never.asked/"},
    )
    files |= {
        "local/Chart.yaml": "apiVersion: v2\nname: local\nversion: 0.1.0\n",
        "chart/charts/there/Chart.yaml": "apiVersion: v2\nname: there\nversion: 1.0.0\n",
    }
    await bench.tree(files)
    found = await bench.fetched(chart="chart")
    packaged = contents(found)
    assert {name for name in packaged if name.endswith("/Chart.yaml")} == {
        f"charts/{name}/Chart.yaml" for name in ("near", "far", "local", "there")
    }
    assert yaml.safe_load(packaged["charts/near/Chart.yaml"])["version"] == "1.5.0"
    assert yaml.safe_load(packaged["charts/far/Chart.yaml"])["version"] == "2.1.0"
    assert bench.events == [("Trace", "ResolvedDependencies", "resolved 3 chart dependencies")]


async def test_s8_3_as_many_vendored_charts_as_requirements_are_enough(bench: Bench) -> None:
    files = depending({"name": "a", "version": "1.x", "repository": "https://never.asked/"})
    await bench.tree(files | {"chart/charts/x/Chart.yaml": "apiVersion: v2\nname: x\nversion: 1.0.0\n"})
    await bench.fetched(chart="chart")
    assert (bench.web.lines, bench.events) == ([], [])


async def test_s8_3_the_lock_says_which_version(bench: Bench) -> None:
    await bench.serve("1.5.0", "1.0.0", chart="near", name="near")
    del bench.spec["sourceRef"]
    near = {"name": "near", "version": "1.x", "repository": REPO}
    await bench.tree(depending(near, lock=[near | {"version": "1.0.0"}]))
    found = await bench.fetched(chart="chart")
    assert yaml.safe_load(contents(found)["charts/near/Chart.yaml"])["version"] == "1.0.0"


async def test_s8_3_an_archive_gets_no_dependencies(bench: Bench) -> None:
    meta = {"dependencies": [{"name": "a", "version": "1.x", "repository": "https://never.asked/"}]}
    await bench.tree({"demo.tgz": chart_archive("demo", "1.0.0", meta=meta), "v.yaml": "a: 1\n"})
    await bench.fetched(chart="demo.tgz", valuesFiles=["v.yaml"])
    assert bench.web.lines == []


async def test_s8_3_a_repository_that_nobody_declared_is_asked_anonymously(bench: Bench) -> None:
    url = "https://other.example.com/charts"
    archive = chart_archive("near", "1.0.0")
    bench.files[f"{url}/index.yaml"] = yaml.safe_dump(
        {"apiVersion": "v1", "entries": {"near": [{"name": "near", "version": "1.0.0", "urls": ["near.tgz"]}]}}
    ).encode()
    bench.files[f"{url}/near.tgz"] = archive
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": url}))
    await bench.fetched(chart="chart")
    assert bench.web.lines == [f"GET {url}/index.yaml", f"GET {url}/near.tgz"]
    assert {one.authorization for one in bench.web.asked} == {""}


async def test_G07_only_a_declared_repository_of_the_namespace_lends_its_credentials(bench: Bench) -> None:
    bench.secrets.add("auth", USER)
    await bench.serve("1.0.0", chart="near", name="near", secretRef={"name": "auth"})
    del bench.spec["sourceRef"]
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": f"{REPO}/"}))
    await bench.fetched(chart="chart")
    assert [one.authorization for one in bench.web.asked] == ["Basic dXNlcjpzZWNyZXQtcGFzcw=="]
    bench.web.asked.clear()
    bench.files["http://charts.example.com/index.yaml"] = b"apiVersion: v1\nentries: {}\n"
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": "http://charts.example.com"}))
    error = await bench.fails(interval="2m")
    assert error.reason == "DependencyBuildError"
    assert {one.authorization for one in bench.web.asked} == {""}


async def test_s8_3_several_dependencies_of_one_repository_share_its_index(bench: Bench) -> None:
    url = "https://other.example.com"
    entries = {name: [{"name": name, "version": "1.0.0", "urls": [f"{name}.tgz"]}] for name in ("a", "b", "c")}
    bench.files[f"{url}/index.yaml"] = yaml.safe_dump({"apiVersion": "v1", "entries": entries}).encode()
    bench.files |= {f"{url}/{name}.tgz": chart_archive(name, "1.0.0") for name in entries}
    await bench.tree(depending(*({"name": name, "version": "1.x", "repository": url} for name in entries)))
    await bench.fetched(chart="chart")
    assert bench.web.lines.count(f"GET {url}/index.yaml") == 1


async def test_s15_13_dependencies_are_downloaded_side_by_side(bench: Bench) -> None:
    url = "https://other.example.com"
    names = ("a", "b", "c", "d")
    entries = {name: [{"name": name, "version": "1.0.0", "urls": [f"{name}.tgz"]}] for name in names}
    index = yaml.safe_dump({"apiVersion": "v1", "entries": entries}).encode()
    arrived: list[str] = []
    everybody = asyncio.Event()

    async def answer(asked: Asked) -> Reply:
        if asked.url.endswith("index.yaml"):
            return Reply(200, index)
        arrived.append(asked.url)
        if len(arrived) == len(names):
            everybody.set()
        await everybody.wait()
        return Reply(200, chart_archive(asked.url.rpartition("/")[2].removesuffix(".tgz"), "1.0.0"))

    bench.web._script = answer
    await bench.tree(depending(*({"name": name, "version": "1.x", "repository": url} for name in names)))
    await bench.fetched(chart="chart")


REMOTE = "dependency build error: failed to add remote dependency 'near': "
LOCAL = "dependency build error: failed to add local dependency 'near': "
DEPENDENCIES = {
    "alias": ({"repository": "@stable"}, f"{REMOTE}aliased repository dependency is not supported: @stable"),
    "scheme": ({"repository": "ftp://x/"}, f"{REMOTE}no chart repository for URL 'ftp://x/'"),
    "no-index": (
        {"repository": "https://gone.example.com"},
        f"{REMOTE}failed to get chart downloader for URL 'https://gone.example.com/': not found",
    ),
    "no-chart": ({"repository": "oci://ghcr.io/x"}, f"{REMOTE}unable to locate any tags in provided repository"),
    "local-missing": ({"repository": "file://../nope"}, f"{LOCAL}failed to load chart from '/nope'"),
    "local-outside": ({"repository": "file://../../../etc"}, f"{LOCAL}failed to load chart from '/etc'"),
    "local-version": (
        {"repository": "file://../lib", "version": "9.x"},
        f"{LOCAL}can't get a valid version for constraint '9.x'",
    ),
    "local-constraint": (
        {"repository": "file://../lib", "version": ">>1"},
        f"{LOCAL}invalid version/constraint format '>>1'",
    ),
    "empty": ({"repository": ""}, f"{LOCAL}failed to load chart from '/chart/charts/near'"),
}


@pytest.mark.parametrize("name", DEPENDENCIES)
async def test_G06_dependencies_that_cannot_be_had(bench: Bench, name: str) -> None:
    changed, message = DEPENDENCIES[name]
    files = depending({"name": "near", "version": "1.x"} | changed)
    await bench.tree(files | {"lib/Chart.yaml": "apiVersion: v2\nname: near\nversion: 1.0.0\n"})
    error = await bench.fails(chart="chart")
    assert error.message.startswith(message), error.message
    assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "DependencyBuildError", False)


async def test_G06_a_chart_that_depends_on_itself_ends(bench: Bench) -> None:
    await bench.tree(depending({"name": "demo", "version": "*", "repository": "file://.", "alias": "demo"}))
    found = await bench.fetched(chart="chart")
    assert sum(name.endswith("Chart.yaml") for name in contents(found)) == 2


async def test_G06_a_downloaded_dependency_is_a_stranger_too(bench: Bench) -> None:
    await bench.serve("1.0.0", chart="near", name="near", digests=False)
    del bench.spec["sourceRef"]
    bench.files[f"{REPO}/near-1.0.0.tgz"] = b"<html>login</html>"
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": REPO}))
    error = await bench.fails(chart="chart")
    assert error.message == f"{REMOTE}failed to load downloaded archive of version '1.0.0': it is no gzipped archive"


async def test_G08_an_alias_is_refused_by_the_rule_for_names(bench: Bench) -> None:
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": REPO, "alias": "a/b"}))
    error = await bench.fails(chart="chart")
    assert (error.reason, error.stalls) == ("InvalidChartReference", True)
    assert "disallowed characters in the alias" in error.message


# -- 8.5: failures -----------------------------------------------------------------------------------------------------


async def test_s8_5_a_version_that_is_not_in_the_index_stalls(bench: Bench) -> None:
    await bench.serve("1.0.0")
    error = await bench.fails(version="9.x")
    assert error.message == (
        "invalid chart reference: failed to get chart version for remote reference: "
        "no 'demo' chart with version matching '9.x' found"
    )
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "InvalidChartReference", True)
    error = await bench.fails(chart="other", version="*")
    assert (error.reason, error.stalls) == ("InvalidChartReference", True)
    error = await bench.fails(chart="demo", version=">>1")
    assert (error.reason, error.stalls) == ("InvalidChartReference", True)


@pytest.mark.parametrize(
    ("call", "version", "message"),
    [
        ("tags", "1.x", "failed to get chart version for remote reference: could not get tags for "),
        ("image", "1.0.0", "failed to download chart for remote reference: no"),
        ("", "9.x", "failed to get chart version for remote reference: could not locate a version matching"),
        ("", "1.2.3", "failed to download chart for remote reference: MANIFEST_UNKNOWN"),
    ],
)
async def test_s8_5_in_a_registry_every_lookup_error_is_tried_again(
    bench: Bench, call: str, version: str, message: str
) -> None:
    bench.oci()
    bench.registry.push("ghcr.io/charts/demo", "1.0.0", chart_archive("demo", "1.0.0"))
    bench.registry.failures[call] = RemoteError("no")
    error = await bench.fails(version=version)
    assert error.message.startswith(f"chart pull error: {message}"), error.message
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "ChartPullError", False)


async def test_s8_5_a_registry_without_versions_says_so(bench: Bench) -> None:
    bench.oci()
    bench.registry.push("ghcr.io/charts/demo", "latest", chart_archive("demo", "1.0.0"))
    error = await bench.fails(version="*")
    assert "unable to locate any tags in provided repository: oci://ghcr.io/charts/demo" in error.message


@pytest.mark.parametrize("name", ["Demo", "../demo", "demo_x", ""])
async def test_s8_5_a_name_that_is_none_stalls(bench: Bench, name: str) -> None:
    await bench.serve("1.0.0")
    error = await bench.fails(chart=name)
    assert error.message.startswith("invalid chart reference: ")
    assert (error.reason, error.stalls) == ("InvalidChartReference", True)


async def test_s8_5_values_files_that_are_missing_stall(bench: Bench) -> None:
    await bench.tree(FILES)
    error = await bench.fails(chart="chart", valuesFiles=["chart/nope.yaml"])
    assert error.message == (
        "values files merge error: no values file found at path '/chart/nope.yaml' (reference 'chart/nope.yaml')"
    )
    assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "ValuesFilesError", True)


async def test_s8_5_a_chart_that_cannot_be_packaged_is_tried_again(bench: Bench) -> None:
    await bench.tree(FILES | {"chart/values.schema.json": "{"})
    error = await bench.fails(chart="chart")
    assert error.message == "chart package error: invalid JSON in values.schema.json"
    assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "ChartPackageError", False)


async def test_s8_5_a_chart_of_a_repository_that_cannot_be_loaded(bench: Bench) -> None:
    bench.files[f"{REPO}/demo.tgz"] = chart_archive("demo", "1.0.0", {"values.yaml": "- 1\n"})
    await bench.index({"demo": [{"version": "1.0.0", "urls": ["demo.tgz"]}]})
    error = await bench.fails(valuesFiles=["values.yaml", "x.yaml"])
    assert error.message.startswith("chart package error: failed to load downloaded chart: cannot load values.yaml")


async def test_s8_5_metadata_that_cannot_be_set_stalls(bench: Bench) -> None:
    long = "1.0.0-" + "a" * 245
    await bench.tree(FILES | {"chart/Chart.yaml": CHART.replace("0.3.0", long)})
    error = await bench.fails(chart="chart", reconcileStrategy="Revision")
    assert error.message.startswith("chart metadata patch error: ")
    assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "MetadataPatchError", True)


async def test_s8_5_of_the_two_conditions_only_the_last_failure_is_left(bench: Bench) -> None:
    await bench.tree(FILES)
    await bench.fails(chart="nope")
    assert set(bench.conditions()) == {"FetchFailed"}
    await bench.fails(chart="chart", valuesFiles=["nope.yaml"])
    assert set(bench.conditions()) == {"BuildFailed"}
    await bench.fails(chart="nope")
    assert set(bench.conditions()) == {"FetchFailed"}
    await bench.fails(chart="chart")
    await bench.fetched(valuesFiles=[])
    assert bench.conditions() == {}


SETUP: dict[str, tuple[Callable[[Bench], None], str, str, bool]] = {
    "secret": (
        lambda bench: None,
        "AuthenticationFailed",
        "failed to get authentication secret 'ns/auth': ",
        False,
    ),
    "malformed": (
        lambda bench: bench.secrets.add("auth", {"username": b"x"}),
        "AuthenticationFailed",
        "failed to detect authentication methods: ",
        False,
    ),
}


@pytest.mark.parametrize("name", SETUP)
async def test_s8_5_what_is_no_build_error_ends_as_unknown_and_the_event_says_more(bench: Bench, name: str) -> None:
    prepare, reason, message, stalls = SETUP[name]
    await bench.serve("1.0.0", secretRef={"name": "auth"})
    prepare(bench)
    error = await bench.fails()
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "Unknown", stalls)
    assert error.message.startswith(f"unknown build error: {message}")
    assert error.told[0] == reason
    assert error.told[1].startswith(message)
    assert error.outcome.reason == reason


REGISTRY_SETUP: dict[str, tuple[dict[str, Any], dict[str, bytes] | None, str, str, str, bool]] = {
    "url": ({"url": "https://x/y"}, None, "", "URLInvalid", "invalid Helm repository URL: ", True),
    "no-secret": (
        {"secretRef": {"name": "auth"}}, None, "", "AuthenticationFailed",
        "failed to get authentication secret 'ns/auth': ", False,
    ),
    "tls": (
        {"certSecretRef": {"name": "auth"}}, {"x": b"y"}, "Opaque", "AuthenticationFailed",
        "failed to construct Helm client's TLS config: ", False,
    ),
    "docker-host": (
        {"secretRef": {"name": "auth"}}, {".dockerconfigjson": b'{"auths":{"x.example.com":{"auth":"dTpw"}}}'},
        "kubernetes.io/dockerconfigjson", "AuthenticationFailed",
        "failed to configure Helm client with secret data: "
        "no auth config for 'ghcr.io' in the docker-registry Secret 'auth'",
        False,
    ),
    "empty": (
        {"secretRef": {"name": "auth"}}, {"x": b"y"}, "Opaque", "AuthenticationFailed",
        "failed to configure Helm client with secret data: ", False,
    ),
    "cloud": (
        {"provider": "aws"}, None, "", "AuthenticationFailed", "failed to get credential from 'aws': no", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REGISTRY_SETUP)
async def test_s11_1_registries_credentials_that_cannot_be_used(bench: Bench, name: str) -> None:
    spec, data, kind, reason, message, stalls = REGISTRY_SETUP[name]
    bench.oci(**spec)
    bench.cloud.failure = RemoteError("no")
    if data is not None:
        bench.secrets.add("auth", data, kind)
    error = await bench.fails(version="1.0.0")
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "Unknown", stalls)
    assert error.told[0] == reason
    assert error.told[1].startswith(message), error.told


async def test_s11_1_credentials_of_registries(bench: Bench) -> None:
    bench.registry.push("ghcr.io/charts/demo", "1.0.0", chart_archive("demo", "1.0.0"))
    config = b'{"auths":{"ghcr.io":{"username":"docker","password":"p"}}}'
    bench.secrets.add("docker", {".dockerconfigjson": config}, "kubernetes.io/dockerconfigjson")
    bench.secrets.add("basic", USER)
    expected: dict[str, tuple[dict[str, Any], str]] = {
        "docker": ({"secretRef": {"name": "docker"}}, "docker"),
        "basic": ({"secretRef": {"name": "basic"}, "provider": "aws"}, "user"),
        "cloud": ({"provider": "aws"}, "aws-user"),
        "nobody": ({"insecure": True, "timeout": "7s"}, ""),
    }
    for spec, user in expected.values():
        bench.oci(**spec)
        await bench.fetched(version="1.0.0", interval=f"{len(bench.registry.accesses) + 1}m")
        assert bench.registry.accesses[-1].username == user
    assert (bench.registry.accesses[-1].plain_http, bench.registry.accesses[-1].timeout) == (True, 7.0)
    for spec in ({"provider": "aws"}, {"provider": "aws", "secretRef": {"name": "basic"}}):
        bench.oci(insecure=True, **spec)
        await bench.fetched(version="1.0.0", interval=f"{len(bench.registry.accesses) + 1}m")
        # A cloud's token is never sent in the clear.
        assert bench.registry.accesses[-1].plain_http == ("secretRef" in spec)


async def test_s11_2_a_gate_that_is_closed_stalls(bench: Bench) -> None:
    bench.oci(provider="gcp")
    bench.cloud.failure = FetchError("FeatureGateDisabled", "the gate", stalls=True)
    error = await bench.fails(version="1.0.0")
    assert (error.stalls, error.told) == (True, ("FeatureGateDisabled", "the gate"))


@pytest.mark.parametrize(
    "text", ["401 Unauthorized", "unauthorized", "authentication required", "tls: bad", "unknown certificate authority"]
)
async def test_s8_5_what_sounds_like_authentication_is_told_as_that(bench: Bench, text: str) -> None:
    bench.oci()
    bench.registry.failures["tags"] = RemoteError(f"GET: {text}")
    error = await bench.fails(version="1.x")
    assert error.told[0] == "AuthenticationFailed"
    assert error.told[1].startswith("failed to authenticate with the Helm repository: chart pull error: ")
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "Unknown", False)
    assert error.message == f"unknown build error: {error.told[1]}"


async def test_s8_5_even_a_chart_whose_name_has_tls_in_it(bench: Bench) -> None:
    await bench.serve("1.0.0")
    error = await bench.fails(chart="mytls")
    assert (error.told[0], error.stalls) == ("AuthenticationFailed", False)


async def test_s8_5_a_number_in_a_port_is_no_status(bench: Bench) -> None:
    await bench.index({"demo": [{"version": "1.0.0", "urls": ["http://127.0.0.1:40123/demo.tgz"]}]})
    assert (await bench.fails()).reason == "ChartPullError"


async def test_s8_5_a_source_that_is_not_there(bench: Bench) -> None:
    error = await bench.fails(sourceRef={"kind": "GitRepository", "name": "gone"})
    assert error.message == 'failed to get source: GitRepository.source.toolkit.fluxcd.io "gone" not found'
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "SourceUnavailable", False)


async def test_s8_5_a_kind_of_source_that_cannot_be(bench: Bench) -> None:
    chart = HelmChartSource.model.from_object(
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "HelmChart",
            "metadata": {"name": "app", "namespace": NAMESPACE},
            "spec": {"chart": "x", "interval": "1m", "sourceRef": {"kind": "Bucket", "name": "x"}},
        }
    )
    reference = msgspec.structs.replace(chart.spec.source_ref, kind="OCIRepository")  # type: ignore[attr-defined]
    chart = msgspec.structs.replace(chart, spec=msgspec.structs.replace(chart.spec, source_ref=reference))  # type: ignore[attr-defined]
    with pytest.raises(SourceError) as caught:
        HelmChartSource(bench.services)._source_object(chart)  # type: ignore[arg-type]
    error = caught.value
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "SourceUnavailable", True)
    assert error.told[0] == "UnsupportedSourceKind"
    assert error.message.startswith("failed to get source: unsupported source kind 'OCIRepository'")


@pytest.mark.parametrize("kind", ["GitRepository", "Bucket", "HelmRepository"])
async def test_s8_5_a_source_without_an_artifact_is_waited_for_in_silence(bench: Bench, kind: str) -> None:
    bench.source(kind, "app", {"interval": "1m", "url": REPO})
    error = await bench.fails(sourceRef={"kind": kind, "name": "app"})
    assert error.message == f"no artifact available for {kind} source 'app'"
    assert (error.condition, error.reason, error.stalls, error.quiet, error.waits) == (
        "FetchFailed", "NoSourceArtifact", False, True, None
    )  # fmt: skip
    assert bench.events == [("Trace", "NoSourceArtifact", f"no artifact available for {kind} source 'app'")]
    assert "observedSourceArtifactRevision" not in bench.status


async def test_s8_5_an_artifact_whose_file_is_missing_is_none(bench: Bench, tmp_path: Path) -> None:
    await bench.serve("1.0.0")
    for path in tmp_path.rglob("index-*"):
        path.unlink()
    assert (await bench.fails()).reason == "NoSourceArtifact"


async def test_s8_5_the_artifact_of_another_namespace_is_not_seen(bench: Bench) -> None:
    await bench.tree(FILES)
    key = ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "other", "app")
    assert bench.listers["GitRepository"].get(key) is None
    bench.listers["GitRepository"].objects.clear()
    assert (await bench.fails(chart="chart")).reason == "SourceUnavailable"


async def test_s3_4_progress_tells_what_is_wanted(bench: Bench) -> None:
    await bench.serve("1.0.0")
    await bench.fetched()
    await bench.serve("2.0.0", digests=False)
    bench.files.clear()
    await bench.fails()
    assert bench.conditions()["ArtifactOutdated"] == (
        "True", "NewChart", "new 'demo' chart with version '2.0.0'"
    )  # fmt: skip
    assert bench.status["artifact"]["revision"] == "1.0.0", "what is stored stays"


# -- verification ------------------------------------------------------------------------------------------------------


async def signed(bench: Bench, **more: Any) -> str:
    bench.oci()
    bench.secrets.add("keys", {"cosign.pub": b"key"})
    bench.spec |= {"version": "1.0.0", "verify": {"provider": "cosign", "secretRef": {"name": "keys"}} | more}
    return bench.registry.push("ghcr.io/charts/demo", "1.0.0", chart_archive("demo", "1.0.0"))


async def test_s8_5_verification_runs_at_every_run(bench: Bench) -> None:
    digest = await signed(bench)
    await bench.fetched()
    assert bench.conditions()["SourceVerified"] == ("True", "Succeeded", "verified signature of version 1.0.0")
    assert f"image ghcr.io/charts/demo {digest}" in bench.registry.asked, "what was verified is what is pulled"
    await bench.unchanged()
    assert bench.verifier.verified == [digest, digest]
    bench.verifier.failure = RemoteError("no matching signatures")
    error = await bench.fails()
    assert error.reason == "ChartVerificationError"


async def test_G12_a_signature_that_is_not_good(bench: Bench) -> None:
    await signed(bench)
    for text in ("no matching signatures were found", "the log cannot be reached: connection refused"):
        bench.verifier.failure = RemoteError(text)
        error = await bench.fails()
        assert error.message.startswith(
            "chart verification error: failed to verify 'demo' chart with version '1.0.0': "
        )
        assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "ChartVerificationError", False)
        assert bench.conditions()["SourceVerified"] == ("False", "VerificationError", error.message)
        assert "blob" not in " ".join(bench.registry.asked), "not a byte of it was pulled"
    bench.verifier.failure = None
    await bench.fetched()
    assert set(bench.conditions()) == {"SourceVerified"}


async def test_G12_what_is_stored_stays_when_a_new_version_is_not_signed(bench: Bench) -> None:
    await signed(bench)
    await bench.fetched()
    bench.registry.push("ghcr.io/charts/demo", "2.0.0", chart_archive("demo", "2.0.0"))
    bench.verifier.failure = RemoteError("no signature")
    await bench.fails(version="2.0.0")
    assert bench.status["artifact"]["revision"] == "1.0.0"


async def test_s8_5_a_secret_without_public_keys(bench: Bench) -> None:
    await signed(bench)
    bench.secrets.add("keys", {"other": b"x"})
    error = await bench.fails()
    message = "failed to verify the signature using provider 'cosign': no public keys found in secret 'ns/keys'"
    assert error.told == ("VerificationError", message)
    assert (error.condition, error.reason, error.message) == (
        "FetchFailed",
        "Unknown",
        f"unknown build error: {message}",
    )
    assert bench.conditions()["SourceVerified"] == ("False", "VerificationError", message)
    bench.secrets.secrets.clear()
    error = await bench.fails()
    assert error.told[1].startswith(
        "failed to verify the signature using provider 'cosign': failed to get secret 'ns/keys'"
    )


async def test_s3_1_the_condition_goes_with_the_demand(bench: Bench) -> None:
    await signed(bench)
    await bench.fetched()
    del bench.spec["verify"]
    await bench.unchanged()
    assert "SourceVerified" not in bench.conditions()


async def test_s8_5_a_policy_that_skips_verification_leaves_no_condition(bench: Bench) -> None:
    await signed(bench, provider="notation")
    bench.secrets.add("keys", {"trustpolicy.json": b"{}", "a.crt": b"x"})
    bench.verifier.result = False
    await bench.fetched()
    assert "SourceVerified" not in bench.conditions()


async def test_s8_1_only_charts_in_registries_can_be_verified(bench: Bench) -> None:
    await bench.serve("1.0.0")
    error = await bench.fails(verify={"provider": "cosign"})
    assert error.reason == "ChartVerificationError"


# -- hostile -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([], "has no downloadable URLs"),
        (["file:///etc/passwd"], "is not http, https or oci"),
        (["ftp://x/y.tgz"], "is not http, https or oci"),
        (["oci://ghcr.io/charts/demo"], "has no tag"),
    ],
)
async def test_F07_addresses_that_are_not_followed(bench: Bench, urls: list[str], message: str) -> None:
    await bench.index({"demo": [{"version": "1.0.0", "urls": urls}]})
    error = await bench.fails()
    assert message in error.message
    assert (error.reason, error.stalls) == ("ChartPullError", False)
    assert bench.web.lines == []


async def test_F07_an_index_may_name_a_chart_in_a_registry(bench: Bench) -> None:
    bench.secrets.add("auth", USER)
    archive = chart_archive("demo", "1.0.0")
    bench.registry.push("ghcr.io/charts/demo", "1.0.0", archive)
    await bench.index(
        {"demo": [{"version": "1.0.0", "urls": ["oci://ghcr.io/charts/demo:1.0.0"]}]}, secretRef={"name": "auth"}
    )
    assert (await bench.fetched()).content == archive
    assert {one.username for one in bench.registry.accesses} == {""}


@pytest.mark.parametrize(("passes", "sent"), [(False, ""), (True, "Basic dXNlcjpzZWNyZXQtcGFzcw==")])
async def test_F08_credentials_go_to_other_hosts_only_on_request(bench: Bench, passes: bool, sent: str) -> None:
    bench.secrets.add("auth", USER)
    url = "https://elsewhere.example.com/demo.tgz"
    bench.files[url] = chart_archive("demo", "1.0.0")
    await bench.index(
        {"demo": [{"version": "1.0.0", "urls": [url]}]}, secretRef={"name": "auth"}, passCredentials=passes
    )
    await bench.fetched()
    assert [one.authorization for one in bench.web.asked] == [sent]


async def test_G01_an_archive_beyond_the_bound_is_not_read(bench: Bench) -> None:
    bench.settings.helm_chart_max_size = 100
    await bench.serve("1.0.0")
    error = await bench.fails()
    assert "the chart is larger than 100 bytes" in error.message
    assert error.reason == "ChartPullError"
    bench.oci()
    bench.registry.push("ghcr.io/charts/demo", "1.0.0", chart_archive("demo", "1.0.0"))
    error = await bench.fails(version="1.0.0")
    assert (error.reason, "larger than 100 bytes" in error.message) == ("ChartPullError", True)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", gzip.compress(b""), gzip.compress(b"x" * 2000)],
    ids=["empty", "html", "gzip-of-nothing", "no-tar"],
)
async def test_G02_what_is_no_chart_is_a_pull_error(bench: Bench, content: bytes) -> None:
    await bench.serve("1.0.0", digests=False)
    bench.files[f"{REPO}/demo-1.0.0.tgz"] = content
    error = await bench.fails()
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "ChartPullError", False)


async def test_G03_a_download_with_a_link_is_refused(bench: Bench) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {"demo/Chart.yaml": CHART}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("demo/values.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    await bench.serve("1.0.0", digests=False)
    bench.files[f"{REPO}/demo-1.0.0.tgz"] = buffer.getvalue()
    error = await bench.fails()
    assert error.message == "chart pull error: 'demo/values.yaml' is neither a file nor a directory"


@pytest.mark.parametrize(
    "text",
    [
        "", "name: ../../x\nversion: 1.0.0\n", "name: .\nversion: 1.0.0\n", "name: a/b\nversion: 1.0.0\n",
        "name: a\nversion: ../1\n", "apiVersion: v9\nname: a\nversion: 1.0.0\n",
        f"name: {'a' * 5000}\nversion: 1.0.0\n",
    ],
    ids=["empty", "climbs", "dot", "slash", "version", "api", "long"],
)  # fmt: skip
async def test_G04_metadata_that_is_none_stalls(bench: Bench, text: str) -> None:
    await bench.tree(FILES | {"chart/Chart.yaml": text})
    error = await bench.fails(chart="chart")
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "InvalidChartReference", True)


async def test_G04_an_index_cannot_choose_the_name_of_a_file(bench: Bench) -> None:
    entry = {"name": "<script>", "version": "1.0.0", "urls": ["demo.tgz"]}
    await bench.index({"demo": [entry]})
    error = await bench.fails()
    assert (error.reason, error.stalls) == ("ChartPullError", False)
    assert error.message.endswith("the index has another chart's entry as 'demo'")


async def test_what_brings_the_engine_down_stalls(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise EngineRefused("HelmChart/ns/app brought the engine down twice and is not tried again")

    monkeypatch.setattr(bench.engine, "request", refuse)
    await bench.tree(FILES)
    error = await bench.fails(chart="chart")
    assert (error.condition, error.reason, error.stalls) == ("BuildFailed", "ChartPackageError", True)
    assert error.message.startswith("chart package error: HelmChart/ns/app brought the engine down twice")


async def test_an_engine_that_takes_too_long_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object, **__: object) -> None:
        raise EngineTimeout("no result within 60s")

    monkeypatch.setattr(bench.engine, "request", hang)
    await bench.tree(FILES)
    error = await bench.fails(chart="chart")
    assert (error.message, error.stalls) == ("chart package error: no result within 60s", False)


async def test_G05_a_download_with_another_digest_is_refused(bench: Bench) -> None:
    await bench.serve("1.0.0")
    bench.files[f"{REPO}/demo-1.0.0.tgz"] = chart_archive("demo", "1.0.0", {"evil.yaml": "x"})
    error = await bench.fails()
    assert error.message == (
        "chart pull error: failed to download chart for remote reference: "
        "the download of chart 'demo' does not have the digest that the index tells"
    )
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "ChartPullError", False)


@pytest.mark.parametrize("form", ["{}", "sha256:{}", "upper", "not a digest"])
async def test_G05_digests_as_indexes_write_them(bench: Bench, form: str) -> None:
    archive = chart_archive("demo", "1.0.0")
    digest = hashlib.sha256(archive).hexdigest()
    bench.files[f"{REPO}/demo.tgz"] = archive
    written = digest.upper() if form == "upper" else form.format(digest)
    await bench.index({"demo": [{"version": "1.0.0", "urls": ["demo.tgz"], "digest": written}]})
    await bench.fetched()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../x.yaml", "no values file found at path '/x.yaml'"),
        ("/etc/passwd", "no values file found at path '/etc/passwd'"),
        ("chart", "invalid values file path '/chart'"),
        ("list.yaml", "unmarshaling values from 'list.yaml' failed"),
        ("big.yaml", "larger than the maximum file size"),
    ],
)
async def test_G09_values_files_that_cannot_be_stall(bench: Bench, name: str, message: str) -> None:
    await bench.tree(FILES | {"list.yaml": "- 1\n", "big.yaml": "x" * (5 << 20) + "x"})
    error = await bench.fails(chart="chart", valuesFiles=[name])
    assert message in error.message
    assert (error.reason, error.stalls) == ("ValuesFilesError", True)
    if "no values file" not in message:
        assert (await bench.fails(ignoreMissingValuesFiles=True)).reason == "ValuesFilesError"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no path set for local chart reference"),
        ("nope", "no chart found at path '/nope'"),
        ("chart/values.yaml", "it is no gzipped archive"),
        ("../../../etc", "no chart found at path '/etc'"),
        ("chart/templates", "Chart.yaml file is missing"),
    ],
)
async def test_G13_paths_that_are_no_chart_stall(bench: Bench, path: str, message: str) -> None:
    await bench.tree(FILES)
    error = await bench.fails(chart=path)
    assert message in error.message
    assert (error.condition, error.reason, error.stalls) == ("FetchFailed", "InvalidChartReference", True)


async def test_a_request_that_takes_too_long_ends_at_the_repositorys_timeout(bench: Bench) -> None:
    async def hang(_: Any) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    await bench.serve("1.0.0", timeout="50ms")
    bench.web._script = hang
    error = await bench.fails()
    assert "no complete answer within 0.05s" in error.message
    assert error.reason == "ChartPullError"


async def test_nothing_that_was_downloaded_is_left(bench: Bench, tmp_path: Path) -> None:
    url = "https://other.example.com"
    bench.files[f"{url}/index.yaml"] = b"apiVersion: v1\nentries: {}\n"
    await bench.tree(depending({"name": "near", "version": "1.x", "repository": url}))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    await bench.fails(chart="chart")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


async def test_no_credential_is_in_a_message(bench: Bench) -> None:
    bench.oci(secretRef={"name": "auth"})
    bench.secrets.add("auth", USER)
    bench.registry.failures["tags"] = RemoteError("no entry for user:secret-pass")
    error = await bench.fails(version="1.x")
    assert "secret-pass" not in error.message + error.told[1]


def test_conditions_whose_end_is_told() -> None:
    assert set(HelmChartSource.failures) == {
        ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED, ConditionType.BUILD_FAILED
    }  # fmt: skip
