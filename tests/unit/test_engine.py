"""The engine's client against the real engine: what it builds, and that nothing in it harms anything outside of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.artifact.tree import FileTree
from gitopsd.engine import (
    BuildError,
    BuildSpec,
    Engine,
    EngineError,
    EngineRefused,
    EngineSettings,
    EngineTimeout,
    RemoteReference,
    SharedTree,
)
from gitopsd.errors import GitopsdError
from gitopsd.tasks import offload
from tools import build_engine

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: NAME\n"
LISTED = "resources: [a.yaml]\n"


@pytest.fixture(scope="session")
def program() -> Path:
    """The engine, built from this checkout."""
    return build_engine.cached()


@pytest.fixture
async def engine(program: Path) -> AsyncIterator[Engine]:
    async with Engine(EngineSettings(program, test_methods=True)) as engine:
        yield engine


async def tree(files: Mapping[str, str]) -> FileTree:
    """A tree whose digest is known, as the artifact store hands it out."""
    built = await offload(FileTree.build, {name: text.encode() for name, text in files.items()})
    await offload(lambda: built.digest)
    return built


def config_map(name: str) -> str:
    return CONFIG_MAP.replace("NAME", name)


async def app(name: str = "a", kustomization: str = LISTED) -> FileTree:
    return await tree({"kustomization.yaml": kustomization, "a.yaml": config_map(name)})


async def build(engine: Engine, files: SharedTree, timeout: float = 20, **fields: Any) -> list[str]:
    remote_bases = fields.pop("remote_bases", False)
    spec = BuildSpec(**fields)
    result = await engine.build(
        files, spec, subject="Kustomization/default/app", timeout=timeout, remote_bases=remote_bases
    )
    return [obj["metadata"]["name"] for obj in result.objects]


async def ask(
    engine: Engine, method: str, timeout: float = 20, subject: str = "Kustomization/default/app", **header: Any
) -> None:
    await engine.request(method, header, subject=subject, timeout=timeout)


def count(collector: Any, *labels: str) -> float:
    value: float = collector.labels(*labels)._value.get()
    return value


async def gone(pid: int) -> None:
    """Wait until a process has ended and was waited for."""
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.01)


# -- building ----------------------------------------------------------------------------------------------------------


async def test_a_build_gives_objects_in_build_order_and_the_digest_of_their_text(engine: Engine) -> None:
    """`spec/kustomize.md` 1.3: sha256 over the multi-document YAML."""
    files = await tree({"b/b.yaml": config_map("b"), "a.yaml": config_map("a") + "data: {n: 1.10, y: yes}\n"})
    result = await engine.build(files, BuildSpec(), subject="Kustomization/x/y", timeout=20)
    assert result.objects == [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": 1.1, "y": "yes"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}},
    ]
    # Recorded from kustomize 5.8.1 on the same files.
    assert result.digest == "sha256:c59f9b34db7c543c6a9d96409c58c5e1afdb0c63015db97549d13d37abffbcec"
    assert not result.remote


async def test_the_fields_of_the_spec_reach_the_build(engine: Engine) -> None:
    fields = {"namePrefix": "p-", "targetNamespace": "ns", "patches": [{"patch": config_map("a") + "data: {k: v}\n"}]}
    result = await engine.build(await app(), BuildSpec(fields=fields), subject="Kustomization/x/y", timeout=20)
    assert result.objects == [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p-a", "namespace": "ns"}, "data": {"k": "v"}}
    ]


async def test_variables_are_replaced_only_when_there_is_a_substitution(engine: Engine) -> None:
    """`spec/kustomize.md` 3.7: None is no substitution, an empty mapping is one in which every variable is missing."""
    files = await app("${name}")
    assert await build(engine, files, variables={"name": "one"}) == ["one"]
    assert await build(engine, files, variables=None) == ["${name}"]
    with pytest.raises(BuildError, match=r"envsubst error: .*variable not set \(strict mode\): \"name\""):
        await build(engine, files, variables={})


async def test_an_error_of_a_build_is_told_in_its_own_words(engine: Engine) -> None:
    with pytest.raises(BuildError) as caught:
        await build(engine, await app(kustomization="resources: [gone.yaml]\n"))
    assert str(caught.value) == (
        "kustomize build failed: accumulating resources: accumulation err='accumulating resources from 'gone.yaml': "
        "open /gone.yaml: no such file or directory': must build at directory: not a valid directory: "
        "evalsymlink failure on '/gone.yaml' : lstat /gone.yaml: no such file or directory"
    )
    assert caught.value.rule == ""


async def test_a_refused_input_is_counted_by_its_rule(engine: Engine) -> None:
    before = count(metrics.refused_inputs, "engine", "yaml-alias")
    with pytest.raises(BuildError, match="recursive alias") as caught:
        await build(engine, await tree({"a.yaml": config_map("a") + "spec: &s {a: *s}\n"}))
    assert caught.value.rule == "yaml-alias"
    assert count(metrics.refused_inputs, "engine", "yaml-alias") == before + 1


async def test_documents_are_substituted_one_by_one(engine: Engine) -> None:
    first, second, third = await engine.substitute(
        ["${a}-${b:=x}", "${gone}", "plain"], {"a": "ä"}, strict=True, subject="Kustomization/x/y", timeout=20
    )
    assert (first, third) == ("ä-x", "plain")
    assert isinstance(second, BuildError)
    assert str(second) == 'envsubst error: variable substitution failed: variable not set (strict mode): "gone"'


async def test_a_large_result_arrives_whole(engine: Engine) -> None:
    files = await tree(
        {f"{number:04}.yaml": config_map(f"c{number}") + f"data: {{k: {'x' * 4000}}}\n" for number in range(500)}
    )
    assert await build(engine, files) == [f"c{number}" for number in range(500)]


async def test_J23_builds_of_one_tree_at_once_give_the_same(engine: Engine) -> None:
    files = await app()
    results = await asyncio.gather(
        *(engine.build(files, BuildSpec(), subject="Kustomization/x/y", timeout=20) for _ in range(16))
    )
    assert {result.digest for result in results} == {results[0].digest}
    assert len(engine.pids) <= 2


async def test_nothing_of_our_environment_reaches_the_engine(engine: Engine) -> None:
    await ask(engine, "test-echo")
    (pid,) = engine.pids
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert environment == b"PATH=\0HOME=\0GOTRACEBACK=single\0"


# -- requests side by side ---------------------------------------------------------------------------------------------


async def test_a_slow_request_does_not_hold_up_a_quick_one(engine: Engine) -> None:
    slow = asyncio.ensure_future(ask(engine, "test-sleep", seconds=60))
    await asyncio.sleep(0)
    assert await build(engine, await app()) == ["a"]
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_processes_start_on_first_use_and_only_as_many_as_are_needed(engine: Engine) -> None:
    assert engine.pids == []
    await ask(engine, "test-echo")
    await ask(engine, "test-echo")
    assert len(engine.pids) == 1
    sleeping = [asyncio.ensure_future(ask(engine, "test-sleep", seconds=60)) for _ in range(5)]
    while len(engine.pids) < 2:
        await asyncio.sleep(0.01)
    for task in sleeping:
        task.cancel()
    await asyncio.gather(*sleeping, return_exceptions=True)
    assert len(engine.pids) == 2


async def test_a_cancelled_request_ends_in_the_engine_too(engine: Engine) -> None:
    restarts = count(metrics.engine_restarts, "stuck")
    task = asyncio.ensure_future(ask(engine, "test-sleep", seconds=60))
    while not engine.pids or not engine._processes[0].load:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pids = engine.pids
    while engine._processes[0].load:
        await asyncio.sleep(0.01)
    assert engine.pids == pids
    assert count(metrics.engine_restarts, "stuck") == restarts


async def test_a_tree_is_kept_until_the_engine_is_done_with_it_even_if_nobody_waits(engine: Engine) -> None:
    """Otherwise its place could be taken by another tree while the engine opens it."""
    files = await app()
    held = weakref.ref(files)
    request = engine.request("test-stall", {"seconds": 0.3}, subject="x", timeout=20, holds=[files])
    task = asyncio.ensure_future(request)
    del files, request
    while not engine.pids or not engine._processes[0].load:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    del task
    gc.collect()
    assert held() is not None
    while engine._processes[0].load:
        await asyncio.sleep(0.01)
    gc.collect()
    assert held() is None


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_J24_a_request_ends_with_its_time(engine: Engine) -> None:
    with pytest.raises(EngineTimeout, match=r"no result within 0\.2s"):
        await ask(engine, "test-sleep", timeout=0.2, seconds=60)
    assert await build(engine, await app()) == ["a"]


async def test_a_process_that_does_not_stop_is_ended_and_the_others_in_it_start_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gitopsd.engine._OVERDUE", 0.1)
    restarts = count(metrics.engine_restarts, "stuck")
    innocent = asyncio.ensure_future(ask(engine, "test-sleep", seconds=1.5))
    await asyncio.sleep(0)
    with pytest.raises(EngineTimeout):
        await ask(engine, "test-stall", timeout=0.3, seconds=60)
    (stuck,) = engine.pids
    await gone(stuck)
    await innocent
    assert stuck not in engine.pids
    assert count(metrics.engine_restarts, "stuck") == restarts + 1


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["test-crash", "test-overflow"])
async def test_who_brings_the_engine_down_twice_is_refused_by_name_and_the_others_succeed(
    engine: Engine, method: str
) -> None:
    """`design/decisions.md` 1: after a crash, what was in flight runs again one at a time."""
    crashes = count(metrics.engine_restarts, "crash")
    others = [asyncio.ensure_future(ask(engine, "test-sleep", seconds=1)) for _ in range(2)]
    while not engine._processes or engine._processes[0].load < 2:
        await asyncio.sleep(0.01)
    with pytest.raises(EngineRefused, match=r"^Kustomization/tenant/bad brought the engine down twice"):
        await ask(engine, method, subject="Kustomization/tenant/bad")
    await asyncio.gather(*others)
    assert count(metrics.engine_restarts, "crash") == crashes + 2
    assert await build(engine, await app()) == ["a"]


async def test_who_was_beside_a_crash_is_not_blamed_when_it_runs_alone(engine: Engine) -> None:
    await ask(engine, "test-echo")
    (pid,) = engine.pids
    tasks = [asyncio.ensure_future(ask(engine, "test-sleep", seconds=0.3)) for _ in range(3)]
    while engine._processes[0].load < 3:
        await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*tasks)
    assert pid not in engine.pids


async def test_a_panic_is_the_requests_own_error_and_nothing_else(engine: Engine) -> None:
    await ask(engine, "test-echo")
    pids = engine.pids
    with pytest.raises(BuildError, match="recovered from panic: on purpose"):
        await ask(engine, "test-panic")
    assert engine.pids == pids


async def test_a_process_that_has_grown_is_replaced_in_peace(program: Path) -> None:
    restarts = count(metrics.engine_restarts, "memory")
    settings = EngineSettings(program, processes=1, memory=512 << 20, test_methods=True)
    async with Engine(settings) as engine:
        await ask(engine, "test-echo")
        (first,) = engine.pids
        await ask(engine, "test-memory", bytes=300 << 20)
        await ask(engine, "test-echo")
        while first in engine.pids:
            await asyncio.sleep(0.01)
        assert len(engine.pids) == 1
    assert count(metrics.engine_restarts, "memory") == restarts + 1


async def test_memory_beyond_the_limit_ends_the_process_not_the_machine(program: Path) -> None:
    async with Engine(EngineSettings(program, memory=256 << 20, test_methods=True)) as engine:
        with pytest.raises(EngineRefused, match="brought the engine down twice"):
            await ask(engine, "test-memory", bytes=1 << 30)


# -- start and end -----------------------------------------------------------------------------------------------------


async def test_the_processes_end_with_the_context(program: Path) -> None:
    async with Engine(EngineSettings(program, test_methods=True)) as engine:
        await ask(engine, "test-echo")
        sleeping = asyncio.ensure_future(ask(engine, "test-sleep", seconds=60))
        await asyncio.sleep(0.05)
        pids = engine.pids
        sleeping.cancel()
        await asyncio.gather(sleeping, return_exceptions=True)
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_a_request_after_the_end_is_an_error_and_starts_nothing(program: Path) -> None:
    async with Engine(EngineSettings(program)) as engine:
        pass
    with pytest.raises(EngineError, match="being shut down"):
        await build(engine, await app())
    assert engine.pids == []


async def test_a_program_that_is_not_there_is_said_without_a_path(tmp_path: Path) -> None:
    async with Engine(EngineSettings(tmp_path / "gitopsd-engine")) as engine:
        with pytest.raises(EngineError) as caught:
            await build(engine, await app())
    assert str(caught.value) == "gitopsd-engine cannot be started: No such file or directory"


async def test_test_methods_do_not_exist_unless_asked_for(program: Path) -> None:
    async with Engine(EngineSettings(program)) as engine:
        with pytest.raises(EngineError, match='there is no method "test-crash"'):
            await ask(engine, "test-crash")


# -- remote bases ------------------------------------------------------------------------------------------------------

REMOTE = "resources: ['https://user:secret@example.com/org/repo//deploy?ref=v1', a.yaml]\n"


class Remotes:
    """Stands for the daemon's own clients: hands out what it was given, and remembers what it was asked for."""

    def __init__(self, content: SharedTree | bytes | GitopsdError) -> None:
        self.content = content
        self.asked: list[RemoteReference] = []

    async def __call__(self, reference: RemoteReference) -> SharedTree | bytes:
        self.asked.append(reference)
        if isinstance(self.content, GitopsdError):
            raise self.content
        return self.content


async def test_J03_a_remote_base_is_refused_before_anything_is_fetched(program: Path) -> None:
    remotes = Remotes(b"")
    async with Engine(EngineSettings(program), fetch_remote=remotes) as engine:
        with pytest.raises(BuildError) as caught:
            await build(engine, await app(kustomization=REMOTE), remote_bases=False)
    assert str(caught.value) == (
        "kustomize build failed: remote bases are not allowed: 'https://example.com/org/repo//deploy'"
    )
    assert remotes.asked == []


async def test_a_remote_repository_is_fetched_by_us_and_built_as_if_it_were_here(program: Path) -> None:
    base = await tree(
        {"deploy/kustomization.yaml": "resources: [../b.yaml]\nnamePrefix: far-\n", "b.yaml": config_map("b")}
    )
    remotes = Remotes(base)
    async with Engine(EngineSettings(program), fetch_remote=remotes) as engine:
        result = await engine.build(
            await app(kustomization=REMOTE), BuildSpec(), subject="Kustomization/x/y", timeout=20, remote_bases=True
        )
    assert [obj["metadata"]["name"] for obj in result.objects] == ["far-b", "a"]
    assert result.remote
    (asked,) = remotes.asked
    assert asked.url.startswith("https://user:secret@example.com/")
    assert asked.git is not None
    assert (asked.git.url, asked.git.ref, asked.git.path) == (
        "https://user:secret@example.com/org/repo",
        "v1",
        "deploy",
    )


async def test_a_remote_file_is_fetched_once_although_two_ask_for_it(program: Path) -> None:
    remotes = Remotes(config_map("far").encode())
    files = await tree(
        {
            "kustomization.yaml": "resources: [one, two]\n",
            "one/kustomization.yaml": "resources: ['https://example.com/f.yaml']\nnamePrefix: x-\n",
            "two/kustomization.yaml": "resources: ['https://example.com/f.yaml']\nnamePrefix: y-\n",
        }
    )
    async with Engine(EngineSettings(program), fetch_remote=remotes) as engine:
        assert await build(engine, files, remote_bases=True) == ["x-far", "y-far"]
    assert len(remotes.asked) == 1


async def test_a_remote_base_that_cannot_be_fetched_fails_the_build_without_its_secrets(program: Path) -> None:
    async with Engine(EngineSettings(program), fetch_remote=Remotes(GitopsdError("no route to host"))) as engine:
        with pytest.raises(BuildError) as caught:
            await build(engine, await app(kustomization=REMOTE), remote_bases=True)
    assert str(caught.value) == (
        "kustomize build failed: remote base 'https://example.com/org/repo//deploy': no route to host"
    )


async def test_remote_bases_that_refer_to_ever_more_others_come_to_an_end(program: Path) -> None:
    class Endless:
        asked = 0

        async def __call__(self, reference: RemoteReference) -> SharedTree | bytes:
            self.asked += 1
            return await tree({"kustomization.yaml": f"resources: ['https://example.com/org/repo{self.asked}']\n"})

    async with Engine(EngineSettings(program), fetch_remote=Endless()) as engine:
        with pytest.raises(BuildError, match="refer to others more than"):
            await build(
                engine, await app(kustomization="resources: ['https://example.com/org/repo']\n"), remote_bases=True
            )


async def test_remote_bases_that_hold_too_much_together_are_refused(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec/hostile-inputs.md J04"""
    content = config_map("far").encode()
    monkeypatch.setattr("gitopsd.engine._REMOTE_BYTES", len(content))
    references = ["https://example.com/1.yaml", "https://example.com/2.yaml"]
    async with Engine(EngineSettings(program), fetch_remote=Remotes(content)) as engine:
        assert await build(engine, await app(kustomization=f"resources: {references[:1]}\n"), remote_bases=True)
        with pytest.raises(BuildError, match="remote bases hold more than"):
            await build(engine, await app(kustomization=f"resources: {references}\n"), remote_bases=True)
