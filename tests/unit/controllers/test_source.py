"""The pipeline of all sources where the kinds do not matter: failures nobody foresaw, and objects that go meanwhile."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gitopsd import wiring
from gitopsd.errors import GitopsdError, RetryError
from gitopsd.fetch.errors import FetchError
from gitopsd.kube.errors import ServerError
from gitopsd.runtime.controller import Result
from gitopsd.runtime.queue import WorkQueue
from tests.signing import commit_object
from tests.unit.controllers.gitbench import Bench, _lending_slot, key


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        yield bench


# -- failures that no kind has words for


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (GitopsdError("something of ours"), "something of ours"),
        (OSError(24, "Too many open files", "/data/secret/place"), "Too many open files"),
        (TimeoutError(), "no answer in time"),
    ],
    ids=["ours", "the system's", "time"],
)
async def test_T15_s2_3_what_nobody_foresaw_is_a_failed_run_too(bench: Bench, failure: Any, text: str) -> None:
    bench.apply()
    await bench.good()
    before = bench.status()["artifact"]
    bench.request("now")
    bench.remote.failure = failure
    outcome = await bench.run()
    assert isinstance(outcome, RetryError)
    status = bench.status()
    assert status["artifact"] == before
    assert status["lastHandledReconcileAt"] == "now"
    assert bench.condition("Ready")[:2] == ("False", "ProgressingWithRetry")  # type: ignore[index]
    assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")  # type: ignore[index]
    assert bench.events == [("Warning", "Failed", text)]


# -- what is told of the storage


async def test_C13_s2_6_a_file_that_was_altered_is_told_and_made_again(bench: Bench, tmp_path: Path) -> None:
    bench.apply()
    await bench.good()
    artifact = bench.status()["artifact"]
    (tmp_path / artifact["path"]).write_bytes(b"altered")
    await bench.good()
    told = f"failed to verify integrity of artifact: computed digest doesn't match '{artifact['digest']}'"
    assert bench.events == [("Warning", "ArtifactVerificationFailed", told)]
    assert bench.status()["artifact"]["digest"] == artifact["digest"]
    (tmp_path / artifact["path"]).unlink()
    await bench.good()
    assert bench.events == []  # one that is only missing was not altered by anybody


async def test_s2_6_collected_files_are_told(bench: Bench, tmp_path: Path) -> None:
    bench.apply()
    for subject in ("one", "two", "three"):
        bench.remote.commit = commit_object(subject)
        await bench.good()
    await bench.good()
    assert bench.events == [("Trace", "GarbageCollectionSucceeded", "garbage collected 1 artifacts")]
    await bench.good()
    assert bench.events == []


async def test_T02_a_status_that_could_not_be_written_costs_no_artifact(bench: Bench) -> None:
    """The same revision under other rules takes the place of the same file."""
    bench.apply()
    await bench.good()
    before = bench.status()["artifact"]
    bench.apply(ignore="b.yaml")
    bench.remote.files["c.yaml"] = b"c: 1\n"
    patch, bench.api.patch = bench.api.patch, refused  # type: ignore[method-assign]
    with pytest.raises(ServerError):
        await bench.run()
    bench.api.patch = patch  # type: ignore[method-assign]
    assert bench.status()["artifact"] == before
    bench.remote.failure = FetchError("GitOperationFailed", "down")
    assert isinstance(await bench.run(), RetryError)
    assert bench.events == [("Warning", "GitOperationFailed", "down")]
    stored = bench.store.latest(key("app"))
    assert stored is not None
    assert bench.status()["artifact"] == stored.to_builtins()
    assert await bench.files() == {"a.yaml": b"a: 1\n", "c.yaml": b"c: 1\n"}
    bench.remote.failure = None
    await bench.good()
    assert bench.status()["observedIgnore"] == "b.yaml"


async def refused(*_: Any, **__: Any) -> Any:
    raise ServerError(500, "InternalError", "etcd is away")


# -- objects that go, and others that come under their names


class Went:
    """A run whose object is taken away in its midst, finalizer or not, as the informer would tell it."""

    def __init__(self, bench: Bench) -> None:
        self.key = key("app")
        self.is_gone = False
        self.lending_slot = _lending_slot
        self._bench = bench

    def gone(self) -> None:
        self.is_gone = True

    def happen(self) -> None:
        self._bench.vanish()
        self.gone()


async def test_O05_what_goes_while_it_is_fetched_leaves_no_artifact(bench: Bench, tmp_path: Path) -> None:
    bench.apply()
    run: Any = Went(bench)
    bench.remote.before_fetch = run.happen
    assert await bench.reconcile(run) == Result()
    assert bench.store.latest(key("app")) is None
    assert bench.store.announced(key("app")) is None
    assert bench.store.announcements.empty()
    assert bench.events == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_O04_what_takes_a_name_meanwhile_is_given_nothing_of_the_one_before(bench: Bench) -> None:
    bench.apply()
    run: Any = Went(bench)

    def replace() -> None:
        run.happen()
        bench.apply(uid="another")

    bench.remote.before_fetch = replace
    assert await bench.reconcile(run) == Result()
    assert "artifact" not in bench.status()
    assert bench.store.announced(key("app")) is None
    bench.remote.before_fetch = lambda: None
    await bench.good()
    assert bench.store.announced(key("app")) is not None


async def test_O05_one_that_went_between_two_runs_leaves_nothing_to_who_comes_next(
    bench: Bench, tmp_path: Path
) -> None:
    bench.apply()
    await bench.good()
    queue = deletions(bench)
    bench.vanish()
    assert bench.store.announced(key("app")) is None
    assert queue.due(key("app")) == 0
    run: Any = Went(bench)
    assert await bench.reconcile(run) == Result()
    assert run.is_gone
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    bench.apply(uid="another")
    await bench.good()


async def test_Q17_a_kind_that_is_not_served_for_a_while_costs_no_artifact(bench: Bench) -> None:
    bench.apply()
    await bench.good()
    found = bench.cache.get(key("app"))
    artifact = bench.store.latest(key("app"))
    assert found is not None
    bench.cache.drop(key("app"))  # and no word of a deletion
    run: Any = Went(bench)
    assert await bench.reconcile(run) == Result()
    bench.api.put(found)
    assert bench.store.announced(key("app")) == artifact
    await bench.good()
    assert bench.remote.asked == ["resolve"]


async def test_answers_to_writes_are_not_kept_of_what_is_gone(bench: Bench) -> None:
    bench.apply()
    await bench.good()
    assert bench.parts.status._answers
    deletions(bench)
    bench.vanish()
    assert not bench.parts.status._answers


def deletions(bench: Bench) -> WorkQueue[Any]:
    """What the daemon listens to, fed by the bench."""
    queue: WorkQueue[Any] = WorkQueue("deletions")
    bench.parts.informer.tell = bench.listeners.append  # type: ignore[method-assign,assignment]
    wiring.let_go(bench.parts, queue)
    return queue


async def test_V7_objects_that_come_and_go_leave_nothing_in_memory(bench: Bench, tmp_path: Path) -> None:
    for number in range(30):
        name = f"app-{number}"
        bench.apply(name)
        await bench.good(name)
        found = bench.cache.get(key(name))
        assert found is not None
        metadata = {**found["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
        bench.api.put({**found, "metadata": metadata})
        assert await bench.run(name) == Result()
        bench.cache.drop(key(name))
    store = bench.store
    gc.collect()
    kept = (store._latest, store._announced, store._withdrawn, store._kept, store._in_use, store._folder._verified)
    assert [len(one) for one in kept] == [0] * len(kept)
    assert store._held == 0
    assert not bench.parts.status._answers
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()]
