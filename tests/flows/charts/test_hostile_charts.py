"""Hostile charts: each is refused by its rule, nothing that was stored goes, and a repaired one is taken up again."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.flows.charts.chartstage import CHART, FILES, ChartStage
from tests.servers.charts import chart_archive
from tests.servers.git import File
from tests.servers.helmrepo import HelmRepo


def raw(*members: tuple[str, str | bytes, bytes], link: str = "/etc/passwd") -> bytes:
    """An archive of entries as they are told: name, content, type."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content, kind in members:
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), link if kind != tarfile.REGTYPE else ""
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1)


def with_entry(name: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A good chart with one more entry."""
    return raw(("demo/Chart.yaml", CHART, tarfile.REGTYPE), (name, "" if kind != tarfile.REGTYPE else "x", kind))


@dataclass(frozen=True)
class Case:
    """A hostile form of a chart, and the answer that is due."""

    says: str
    reason: str = "ChartPullError"
    stalls: bool = False
    archive: bytes = b""
    files: Mapping[str, File] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)


ZEROS = bytes((5 << 20) - 1)
ARCHIVES = {
    "G01-archive": Case("the chart is larger than 10485760 bytes", archive=b"\x1f\x8b" + bytes(10 << 20)),
    "G01-file": Case("larger than the maximum file size", archive=chart_archive("demo", files={"big": ZEROS + b"12"})),
    "G01-bomb": Case(
        "decompressed chart is larger than the maximum size",
        archive=chart_archive("demo", files={f"f{number}": ZEROS for number in range(30)}),
    ),
    "G02-html": Case("it is no gzipped archive", archive=b"<html>"),
    "G02-nothing": Case("no files in chart archive", archive=raw()),
    "G02-no-top": Case("outside the base directory", archive=raw(("values.yaml", "a: 1", tarfile.REGTYPE))),
    "G02-two-tops": Case("two top directories", archive=with_entry("other/x")),
    "G02-at-root": Case("chart yaml not in base directory", archive=raw(("Chart.yaml", CHART, tarfile.REGTYPE))),
    "G03-parent": Case("illegally references parent directory", archive=with_entry("demo/../../x")),
    "G03-absolute": Case("illegally contains absolute paths", archive=with_entry("/etc/x")),
    "G03-backslash": Case("illegally references parent directory", archive=with_entry("demo\\..\\x")),
    "G03-mixed": Case("mixes separators", archive=with_entry("demo\\..\\/x")),
    "G03-drive": Case("illegally named", archive=with_entry("demo/C:/x")),
    "G03-symlink": Case("neither a file nor a directory", archive=with_entry("demo/x", tarfile.SYMTYPE)),
    "G03-hardlink": Case("neither a file nor a directory", archive=with_entry("demo/x", tarfile.LNKTYPE)),
    "G03-device": Case("neither a file nor a directory", archive=with_entry("demo/x", tarfile.CHRTYPE)),
    "G04-name": Case("is invalid", archive=raw(("demo/Chart.yaml", CHART.replace("demo", "../../x"), tarfile.REGTYPE))),
    "G14-many": Case(
        "more than 10000 files", archive=chart_archive("demo", files={f"templates/{n}": "" for n in range(10_001)})
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_G01_G02_G03_G04_G14_archives_of_a_repository(name: str, stage: ChartStage, charts: HelmRepo) -> None:
    case = ARCHIVES[name]
    charts.package("demo", "1.0.0")
    stage.helm_repository(charts.repository)
    stage.chart(version="1.x")
    before = stage.ready(revision="1.0.0")
    good = charts.package("demo", "1.1.0")
    entry = charts.entries["demo"][0]
    del entry["digest"]
    charts.publish()
    charts.serve({"charts/demo-1.1.0.tgz": case.archive})
    stage.request("HelmRepository", "charts")
    seen = stage.refused(case.reason, case.says, stalls=case.stalls, kind="FetchFailed")
    assert seen["status"]["artifact"] == before["status"]["artifact"]
    charts.serve({"charts/demo-1.1.0.tgz": good})
    stage.request("HelmChart", "demo")
    stage.ready(revision="1.1.0")


BILLION_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
REFERENCE, PACKAGE, VALUES, DEPENDENCY = (
    "InvalidChartReference", "ChartPackageError", "ValuesFilesError", "DependencyBuildError"
)  # fmt: skip


def depending(repository: str, **more: str) -> dict[str, File]:
    """A chart that wants one thing."""
    entry = {"name": "near", "version": "'*'", "repository": f"'{repository}'"} | more
    return {
        "Chart.yaml": CHART + "dependencies: [{" + ", ".join(f"{key}: {one}" for key, one in entry.items()) + "}]\n"
    }


def nested(levels: int) -> bytes:
    """A chart in a chart in a chart."""
    data = chart_archive("c0")
    for level in range(levels):
        data = chart_archive(f"c{level + 1}", files={"charts/x.tgz": data})
    return data


TREES = {
    "G04-missing": Case("Chart.yaml file is missing", REFERENCE, stalls=True, files={"Chart.yaml": None}),
    "G04-empty": Case("name is required", REFERENCE, stalls=True, files={"Chart.yaml": ""}),
    "G04-dot": Case("is not allowed", REFERENCE, stalls=True, files={"Chart.yaml": CHART.replace("demo", ".")}),
    "G04-slash": Case("is invalid", REFERENCE, stalls=True, files={"Chart.yaml": CHART.replace("demo", "a/b")}),
    "G04-long": Case("is invalid", REFERENCE, stalls=True, files={"Chart.yaml": CHART.replace("demo", "a" * 5000)}),
    "G04-version": Case("is invalid", REFERENCE, stalls=True, files={"Chart.yaml": CHART.replace("0.3.0", "../1")}),
    "G04-api": Case("is not supported", REFERENCE, stalls=True, files={"Chart.yaml": CHART.replace("v2", "v9")}),
    "G04-alias-bomb": Case("recursive alias", REFERENCE, stalls=True, files={"Chart.yaml": "a: &a [*a]\n"}),
    "G06-symlink": Case(
        "failed to load chart from '/chart/charts/near'", DEPENDENCY,
        files=depending("") | {"charts/near": {"link": "/etc"}},
    ),
    "G06-outside": Case("failed to load chart from '/etc'", DEPENDENCY, files=depending("file://../../../etc")),
    "G06-missing": Case("failed to load chart from '/nope'", DEPENDENCY, files=depending("file://../nope")),
    "G06-deep": Case("charts in charts more than 16 deep", PACKAGE, files={"charts/x.tgz": nested(20)}),
    "G07-lock": Case("failed to load chart from '/gone'", DEPENDENCY, files=depending("file://../lib") | {
        "Chart.lock": "dependencies: [{name: near, version: 1.0.0, repository: 'file://../gone'}]\ndigest: x\n"}),
    "G08-alias": Case("disallowed characters", REFERENCE, stalls=True, files=depending("https://x", alias="'a/b'")),
    "G09-climbs": Case("no values file found", VALUES, stalls=True, spec={"valuesFiles": ["../../x.yaml"]}),
    "G09-absolute": Case("no values file found", VALUES, stalls=True, spec={"valuesFiles": ["/etc/passwd"]}),
    "G09-symlink": Case(
        "no values file found", VALUES, stalls=True,
        files={"v.yaml": {"link": "/etc/passwd"}}, spec={"valuesFiles": ["chart/v.yaml"]},
    ),
    "G09-large": Case(
        "larger than the maximum file size", VALUES, stalls=True,
        files={"v.yaml": "# " + "x" * (20 << 20)}, spec={"valuesFiles": ["chart/v.yaml"]},
    ),
    "G09-no-map": Case(
        "unmarshaling values from 'chart/v.yaml' failed", VALUES, stalls=True,
        files={"v.yaml": "- 1\n"}, spec={"valuesFiles": ["chart/v.yaml"], "ignoreMissingValuesFiles": True},
    ),
    "G13-missing": Case("no chart found at path '/nope'", REFERENCE, stalls=True, spec={"chart": "nope"}),
    "G13-file": Case("it is no gzipped archive", REFERENCE, stalls=True, spec={"chart": "chart/values.yaml"}),
    "G13-outside": Case("no chart found at path '/etc'", REFERENCE, stalls=True, spec={"chart": "../../../etc"}),
    "G13-no-chart": Case("Chart.yaml file is missing", REFERENCE, stalls=True, spec={"chart": "chart/templates"}),
    "G14-helmignore": Case(".helmignore has more than", PACKAGE, files={".helmignore": "a*b*c\n" * 100_000}),
    "G14-many": Case("more than 10000 files", PACKAGE, files={f"t/{number}": "x" for number in range(10_001)}),
    "K-values": Case("more than 1000000 nodes", PACKAGE, files={"values.yaml": BILLION_LAUGHS}),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_G04_G06_G07_G08_G09_G13_G14_charts_of_a_tree(name: str, stage: ChartStage) -> None:
    case = TREES[name]
    stage.push(FILES)
    stage.source()
    stage.chart("GitRepository", "app", chart="chart")
    before = stage.ready()
    stage.push({f"chart/{path}": content for path, content in case.files.items()} | {"other": name})
    stage.refetch()
    # Another generation: with the strategy ChartVersion, the same version is the same chart.
    stage.chart("GitRepository", "app", **{"chart": "chart", "interval": "20m", **case.spec})
    seen = stage.refused(case.reason, case.says, stalls=case.stalls)
    assert seen["status"]["artifact"] == before["status"]["artifact"]
    stage.push(
        {f"chart/{path}": None for path, content in case.files.items() if content is not None}
        | FILES
        | {"other": "good"}
    )
    stage.refetch()
    stage.chart("GitRepository", "app", chart="chart", interval="30m")
    stage.ready()
