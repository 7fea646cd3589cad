"""What outcomes mean for the queue, and that workers are given back while a reconcile waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gitopsd import metrics
from gitopsd.errors import RetryError, StallError, WaitError
from gitopsd.krm.objects import ObjectKey
from gitopsd.runtime.controller import Controller, ControllerSpec, OutdatedError, Result, Run, jittered
from gitopsd.runtime.queue import WorkQueue
from gitopsd.tasks import TaskScope
from tests.virtual import run

A, B, C = (ObjectKey("g", "Thing", "ns", name) for name in "abc")


class Script:
    """A reconciler that does what the test says, and remembers when."""

    def __init__(self, *outcomes: Result | Exception) -> None:
        self.outcomes = list(outcomes)
        self.at: list[float] = []

    async def reconcile(self, run: Run) -> Result:
        self.at.append(asyncio.get_running_loop().time())
        outcome = self.outcomes.pop(0) if self.outcomes else Result()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def moments(*outcomes: Result | Exception, until: float = 100) -> list[float]:
    """When the reconciler ran, on a virtual clock."""

    async def scenario() -> list[float]:
        script = Script(*outcomes)
        queue: WorkQueue[ObjectKey] = WorkQueue("test", floor=1, ceiling=50)
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, script)
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(until)
        return script.at

    return run(scenario())


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        pytest.param([Result(again_in=30), Result()], [0, 30], id="again at its interval"),
        pytest.param([Result()], [0], id="on change only"),
        pytest.param([StallError("R", "m")], [0], id="a stalled object waits for a change"),
        pytest.param([WaitError("R", "m", again_in=7)], [0, 7], id="a wait has its safety net"),
        pytest.param([RetryError("R", "m", again_in=9)], [0, 9], id="a fixed retry"),
        pytest.param([RetryError("R", "m")] * 3, [0, 1, 3, 7], id="backoff doubles"),
        pytest.param(
            [RetryError("R", "m"), Result(again_in=5), RetryError("R", "m")], [0, 1, 6, 7], id="success resets it"
        ),
        pytest.param([KeyError("bug")], [0, 1], id="a defect in one object is a retry, not the end"),
    ],
)
def test_s2_3_an_outcome_decides_the_next_look(outcomes: list[Result | Exception], expected: list[float]) -> None:
    """spec/kustomize.md 7.2, spec/source.md 2.3"""
    assert moments(*outcomes) == expected


def test_every_result_is_counted() -> None:
    def value(result: str) -> float:
        return (
            metrics.registry.get_sample_value(
                "controller_runtime_reconcile_total", {"controller": "test", "result": result}
            )
            or 0.0
        )

    before = {result: value(result) for result in ("success", "error", "requeue_after")}
    moments(Result(again_in=1), RetryError("R", "m"), Result())
    assert {result: value(result) - before[result] for result in before} == {
        "success": 1,
        "error": 1,
        "requeue_after": 1,
    }


def test_a_reconcile_that_only_waits_gives_its_worker_to_others() -> None:
    """spec/hostile-inputs.md T61: as many waits as workers do not stop others."""

    async def scenario() -> None:
        started: list[str] = []
        release = asyncio.Event()

        class Waiting:
            async def reconcile(self, run: Run) -> Result:
                started.append(run.key.name)
                if run.key == A:
                    async with run.outside_slot():
                        await release.wait()
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Waiting())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(1)
            queue.add(B)
            await asyncio.sleep(1)
            assert started == ["a", "b"]
            release.set()

    run(scenario())


def test_T21_work_that_turns_out_to_be_a_wait_lends_its_worker_and_quick_work_does_not() -> None:
    """spec/hostile-inputs.md T21: a remote that never answers keeps no worker, one that answers costs none."""

    async def scenario() -> None:
        at: dict[str, float] = {}
        clock = asyncio.get_running_loop().time

        class Fetching:
            async def reconcile(self, run: Run) -> Result:
                at[f"{run.key.name} begins"] = clock()
                async with run.lending_slot(2):
                    await asyncio.sleep(60 if run.key == A else 1)
                at[f"{run.key.name} ends"] = clock()
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Fetching())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            for key in (A, B, C):
                queue.add(key)
            await asyncio.sleep(100)
        assert at == {"a begins": 0, "b begins": 2, "b ends": 3, "c begins": 3, "c ends": 4, "a ends": 60}

    run(scenario())


def test_T64_work_that_nobody_wants_any_more_is_given_up_at_once_and_all_other_news_waits() -> None:
    async def scenario() -> None:
        told: list[str] = []
        is_other = False

        class Fetching:
            async def reconcile(self, run: Run) -> Result:
                try:
                    async with run.lending_slot(2, lambda: is_other and len(told) < 1):
                        await asyncio.sleep(60)
                except OutdatedError:
                    told.append(f"given up at {asyncio.get_running_loop().time():g}")
                else:
                    told.append(f"done at {asyncio.get_running_loop().time():g}")
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Fetching())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(5)
            queue.add(A)
            await asyncio.sleep(5)
            is_other = True
            queue.add(A)
            await asyncio.sleep(100)
        assert told == ["given up at 10", "done at 70"]

    run(scenario())


def test_newer_work_reaches_the_one_who_waits() -> None:
    """spec/hostile-inputs.md T64"""

    async def scenario() -> None:
        seen: list[str] = []

        class Waiting:
            async def reconcile(self, run: Run) -> Result:
                if not seen:
                    async with run.outside_slot():
                        await run.superseded.wait()
                seen.append(run.superseded_by or run.cause)
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Waiting())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(1)
            queue.add(A, cause="GitRepository/ns/app")
            await asyncio.sleep(1)
        assert seen == ["GitRepository/ns/app", "GitRepository/ns/app"]

    run(scenario())


@pytest.mark.parametrize("waits_before_stop", [True, False])
def test_a_stop_cuts_waits_short_and_lets_work_end(waits_before_stop: bool) -> None:
    async def scenario() -> None:
        ended: list[str] = []

        class Working:
            async def reconcile(self, run: Run) -> Result:
                if not waits_before_stop:
                    await asyncio.sleep(2)
                try:
                    async with run.outside_slot():
                        await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    ended.append("cut short")
                    raise
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Working())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(1)
            await controller.drain()
            assert ended == ["cut short"]
            assert asyncio.get_running_loop().time() == (1 if waits_before_stop else 2)

    run(scenario())


def test_an_object_that_goes_while_it_is_worked_on_leaves_no_series() -> None:
    """spec/runtime.md 2.1: series removed when the object is gone"""
    name = "gone-while-held"
    key = ObjectKey("g", "Thing", "ns", name)

    async def scenario() -> None:
        class Going:
            async def reconcile(self, run: Run) -> Result:
                queue.discard(run.key)  # the news of the deletion, as the trigger takes it
                metrics.forget_object("Thing", "ns", name)
                return Result()

        queue: WorkQueue[ObjectKey] = WorkQueue("test")
        controller = Controller(ControllerSpec("test", "Thing", "g", 1), queue, Going())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(key)
            await asyncio.sleep(1)

    run(scenario())
    assert name not in metrics.exposition().decode()


@pytest.mark.parametrize(("rand", "expected"), [(0.0, 95.0), (0.5, 100.0), (1.0, 105.0)])
def test_intervals_are_spread_by_their_percentage(rand: float, expected: float) -> None:
    source: Callable[[], float] = lambda: rand  # noqa: E731
    assert jittered(100, 5, source) == pytest.approx(expected)


@pytest.mark.parametrize(
    "outcome",
    [Result(again_in=5), WaitError("R", "m", again_in=5), RetryError("R", "m"), RetryError("R", "m", again_in=5)],
    ids=["good", "wait", "retry", "fixed retry"],
)
def test_s12_3_nothing_is_left_of_an_object_that_went_while_it_was_worked_on(outcome: Result | Exception) -> None:
    """No timer, no failures, and no series that come back, be it with a later look."""
    ran: list[float] = []
    token_series = ("cache_hit", "Thing", "a", "ns", "reconcile")

    async def scenario() -> None:
        queue: WorkQueue[ObjectKey] = WorkQueue("gone", floor=1, ceiling=50)

        class Going:
            async def reconcile(self, run: Run) -> Result:
                ran.append(asyncio.get_running_loop().time())
                queue.discard(A)
                metrics.token_cache_events.labels(*token_series).inc()
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        controller = Controller(ControllerSpec("gone", "Gone", "g", 1), queue, Going())
        async with TaskScope("test") as tasks:
            tasks.start("run", controller.run())
            queue.add(A)
            await asyncio.sleep(100)

    run(scenario())
    assert ran == [0]
    assert token_series not in metrics.token_cache_events._metrics
    assert ("Gone", "a", "ns") not in metrics.reconcile_duration._metrics
