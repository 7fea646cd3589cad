"""The engine's client for charts, against the real engine, and its packages, against Helm's own client."""

from __future__ import annotations

import asyncio
import gzip
import io
import subprocess
import tarfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from gitopsd import metrics
from gitopsd.artifact.tree import FileTree
from gitopsd.engine import ChartError, Engine, EngineSettings, EngineTimeout
from gitopsd.helm import package
from gitopsd.helm.package import ChartEngine, ChartIdentity, ChartPlace, PackageOrder, Requirement
from gitopsd.tasks import offload
from tests.processes import quiet_environment
from tests.servers.charts import chart_archive
from tools import build_engine
from tools.controlplane import build

CHART = "apiVersion: v2\nname: demo\nversion: 0.3.0\n"
FILES = {
    "chart/Chart.yaml": CHART,
    "chart/values.yaml": "# kept\na: 1\n",
    "chart/templates/cm.yaml": "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\ndata: {a: '{{ .Values.a }}'}\n",
    "chart/charts/sub/Chart.yaml": "apiVersion: v2\nname: sub\nversion: 1.0.0\n",
    "chart/charts/sub/templates/cm.yaml": "kind: ConfigMap\napiVersion: v1\nmetadata: {name: sub}\n",
    "chart/.helmignore": "*.bak\n",
    "chart/a.bak": "x",
}


@pytest.fixture(scope="session")
def program() -> Path:
    return build_engine.cached()


@pytest.fixture
async def engine(program: Path) -> AsyncIterator[Engine]:
    async with Engine(EngineSettings(program, test_methods=True)) as engine:
        yield engine


async def charts(engine: Engine, files: Mapping[str, str] | None = None, *, limit: int = 10 << 20) -> ChartEngine:
    tree = None
    if files is not None:
        tree = await offload(FileTree.build, {name: text.encode() for name, text in files.items()})
        await offload(lambda: tree.digest)
    return ChartEngine(engine, "HelmChart/ns/app", limit, 5 << 20, tree)


async def test_a_chart_says_what_it_is(engine: Engine) -> None:
    assert await (await charts(engine, FILES)).identify(ChartPlace("chart")) == ChartIdentity("demo", "0.3.0", False)
    archive = ChartPlace(archive=chart_archive("demo", "v1.2"))
    assert await (await charts(engine)).identify(archive) == ChartIdentity("demo", "v1.2", True)


async def test_helms_own_client_takes_a_package_for_its_own(engine: Engine, tmp_path: Path) -> None:
    made = await (await charts(engine, FILES)).package(ChartPlace("chart"), PackageOrder("0.3.0+1", dependencies=()))
    assert made.archive is not None
    path = tmp_path / "demo.tgz"
    await offload(path.write_bytes, made.archive)
    helm = (await offload(build.binaries, frozenset({"helm"})))["helm"]

    def ask(*arguments: str | Path) -> str:
        environment = quiet_environment(HOME=str(tmp_path))
        done = subprocess.run([helm, *arguments], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "version: 0.3.0+1" in await offload(ask, "show", "chart", path)
    assert "# kept" in await offload(ask, "show", "values", path)
    rendered = await offload(ask, "template", "release", path)
    assert "# Source: demo/charts/sub/templates/cm.yaml" in rendered
    assert "data: {a: '1'}" in rendered


async def test_helms_own_client_packs_the_same_files(engine: Engine, tmp_path: Path) -> None:
    made = await (await charts(engine, FILES)).package(ChartPlace("chart"), PackageOrder(dependencies=()))
    helm = (await offload(build.binaries, frozenset({"helm"})))["helm"]

    def packed() -> bytes:
        for name, text in FILES.items():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        command: list[str | Path] = [helm, "package", "chart", "--destination", "."]
        subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, env=quiet_environment(HOME=str(tmp_path))
        )
        return (tmp_path / "demo-0.3.0.tgz").read_bytes()

    assert made.archive is not None
    assert entries(made.archive) == entries(await offload(packed))


def entries(archive: bytes) -> dict[str, bytes]:
    """The files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as found:
        files = {member.name: found.extractfile(member) for member in found if member.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}


async def test_dependencies_are_asked_for_before_anything_is_packaged(engine: Engine) -> None:
    text = (
        CHART
        + "dependencies:\n- {name: far, version: ^1, repository: 'https://x', alias: near}\n"
        + "- {name: sub, version: 1.0.0}\n"
    )
    found = await charts(engine, FILES | {"chart/Chart.yaml": text})
    asked = await found.package(ChartPlace("chart"), PackageOrder())
    assert (asked.archive, asked.vendored) == (None, ("sub",))
    assert asked.requirements == (Requirement("far", "^1", "https://x", "near"), Requirement("sub", "1.0.0", ""))
    order = PackageOrder(dependencies=[ChartPlace(archive=chart_archive("far", "1.1.0"))])
    made = await found.package(ChartPlace("chart"), order)
    assert made.archive is not None
    assert "demo/charts/far/Chart.yaml" in entries(made.archive)


@pytest.mark.parametrize(
    ("place", "order", "step"),
    [
        ("nope", PackageOrder(), "load"),
        ("chart", PackageOrder(values_files=["x"]), "values"),
        ("chart", PackageOrder(dependencies=[ChartPlace("nope")]), "dependencies"),
    ],
)
async def test_s8_5_a_failure_names_its_step(engine: Engine, place: str, order: PackageOrder, step: str) -> None:
    with pytest.raises(ChartError) as caught:
        await (await charts(engine, FILES)).package(ChartPlace(place), order)
    assert caught.value.step == step
    with pytest.raises(ChartError) as caught:
        await (await charts(engine, FILES)).identify(ChartPlace("nope"))
    assert caught.value.step == "metadata"


async def test_G01_what_breaks_a_bound_is_counted(engine: Engine) -> None:
    counter = metrics.refused_inputs.labels("engine", "chart-archive-size")
    before = counter._value.get()
    with pytest.raises(ChartError) as caught:
        await (await charts(engine, limit=100)).identify(ChartPlace(archive=chart_archive("demo")))
    assert caught.value.rule == "chart-archive-size"
    assert counter._value.get() == before + 1


async def test_G01_reading_an_archive_takes_no_memory_for_what_it_holds(engine: Engine) -> None:
    """19 files of 5 MiB in it: what is stored as it came is looked through, not unpacked."""
    large = {f"f{number}": bytes((5 << 20) - 1) for number in range(19)}
    archive = await offload(chart_archive, "demo", "1.0.0", large)
    await (await charts(engine)).identify(ChartPlace(archive=archive))
    assert await offload(peak, engine) < 80


def peak(engine: Engine) -> float:
    """MiB that its one process has had at most."""
    (pid,) = engine.pids
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


async def test_G01_a_bomb_ends_at_its_bound_and_not_the_engine(engine: Engine) -> None:
    large = {f"f{number}": bytes((5 << 20) - 1) for number in range(40)}
    archive = await offload(chart_archive, "demo", "1.0.0", large)
    found = await charts(engine)
    for _ in range(3):
        with pytest.raises(ChartError, match="decompressed chart is larger than the maximum size"):
            await found.package(ChartPlace(archive=archive), PackageOrder("1"))
    assert await offload(peak, engine) < 20 + 150, "the process itself takes 20 MiB"


async def test_a_package_that_takes_too_long_is_given_up(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "TIMEOUT", 0.0001)
    with pytest.raises(EngineTimeout):
        await (await charts(engine, FILES)).package(ChartPlace("chart"), PackageOrder())


async def test_many_at_once_get_their_own_answers(engine: Engine) -> None:
    found = await charts(engine)
    archives = [ChartPlace(archive=chart_archive(f"chart-{number}", f"1.0.{number}")) for number in range(20)]
    identities = await asyncio.gather(*map(found.identify, archives))
    assert [(one.name, one.version) for one in identities] == [(f"chart-{n}", f"1.0.{n}") for n in range(20)]
