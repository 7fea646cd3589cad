"""The promises of the work queue."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.runtime.queue import WorkQueue
from tests.virtual import run


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_key_wanted_twice_before_work_starts_is_offered_once() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a")
        queue.add("a")
        queue.add("b")
        async with queue.hold_next() as first, queue.hold_next() as second:
            assert (first.key, second.key) == ("a", "b")
        assert len(queue) == 0

    run(scenario())


def test_a_key_added_while_held_is_offered_again() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a")
        async with queue.hold_next() as held:
            assert not held.superseded.is_set()
            queue.add("a", cause="GitRepository/x/y")
            assert held.superseded.is_set()
            assert held.superseded_by == "GitRepository/x/y"
            assert len(queue) == 0, "one key is never held by two workers"
        async with queue.hold_next() as again:
            assert (again.key, again.cause) == ("a", "GitRepository/x/y")

    run(scenario())


def test_a_key_added_before_work_on_it_has_begun_is_not_offered_again() -> None:
    """The work that is about to begin will see what was wanted; a second look would find nothing new."""

    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a")
        held = await queue.take()
        queue.add("a")
        queue.release(held)
        assert len(queue) == 0
        queue.add("a")
        held = await queue.take()
        held.has_begun = True
        queue.add("a")
        queue.release(held)
        assert len(queue) == 1

    run(scenario())


def test_a_timer_that_is_set_while_held_does_not_supersede_and_counts_from_its_own_moment() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a")
        async with queue.hold_next() as held:
            queue.add("a", after=10)
            assert not held.superseded.is_set()
            await asyncio.sleep(4)
        async with queue.hold_next():
            assert now() == 10

    run(scenario())


def test_the_earlier_wish_wins() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a", after=60)
        queue.add("a", after=5)
        queue.add("a", after=90)
        async with queue.hold_next():
            assert now() == 5
        assert queue.due("a") is None

    run(scenario())


def test_retry_waits_longer_each_time_until_forgotten() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test", floor=0.75, ceiling=900)
        delays = []
        for _ in range(12):
            delays.append(queue.retry("a"))
            async with queue.hold_next():
                pass
        assert delays[:4] == [0.75, 1.5, 3.0, 6.0]
        assert delays[-1] == 900
        queue.forget("a")
        assert queue.retry("a") == 0.75

    run(scenario())


def test_T62_those_who_failed_together_come_back_one_by_one() -> None:
    """spec/hostile-inputs.md T62: never later than without the spread."""

    async def scenario() -> None:
        chances = iter([0.0, 0.5, 1.0])
        queue: WorkQueue[str] = WorkQueue("test", floor=10, jitter=0.1, rand=lambda: next(chances))
        assert [queue.retry(key) for key in "abc"] == [10, 9.5, 9]

    run(scenario())


def test_discard_drops_timer_and_failures_but_not_what_is_held() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("held")
        async with queue.hold_next():
            queue.add("held")
            queue.discard("held")
            queue.retry("later")
            queue.discard("later")
            assert queue.held == 1
        assert queue.due("held") is None
        assert queue.due("later") is None

    run(scenario())


def test_drain_takes_no_more_wishes_and_returns_when_nothing_is_held() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        queue.add("a")
        queue.add("b", after=1)
        held = await queue.take()
        draining = asyncio.ensure_future(queue.drain())
        await asyncio.sleep(5)
        assert not draining.done()
        queue.add("c")
        queue.release(held)
        await draining
        assert (len(queue), queue.held, queue.due("b"), queue.due("c")) == (0, 0, None, None)

    run(scenario())


def test_a_cancelled_taker_loses_no_key() -> None:
    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        taker = asyncio.ensure_future(queue.take())
        await asyncio.sleep(0)
        queue.add("a")
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        async with asyncio.timeout(1), queue.hold_next() as held:
            assert held.key == "a"

    run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.0, 1.0, 3.0]), st.integers(0, 2)), max_size=40)
)
def test_no_wish_is_lost_whatever_the_order(wishes: list[tuple[str, float, int]]) -> None:
    """After the last wish of a key was made, work on that key starts at least once, not before the wish is due."""

    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue("test")
        starts: dict[str, list[float]] = {}
        holding: set[str] = set()

        async def work() -> None:
            while True:
                async with queue.hold_next() as held:
                    assert held.key not in holding
                    holding.add(held.key)
                    starts.setdefault(held.key, []).append(now())
                    await asyncio.sleep(0.5)
                    holding.discard(held.key)

        workers = [asyncio.ensure_future(work()) for _ in range(2)]
        last: dict[str, float] = {}
        for key, after, pause in wishes:
            queue.add(key, after=after)
            if after == 0:
                last[key] = now()
            await asyncio.sleep(pause / 4)
        await asyncio.sleep(60)
        for worker in workers:
            worker.cancel()
        for key, moment in last.items():
            assert starts[key][-1] >= moment
        assert {key for key, _, _ in wishes} == set(starts)

    run(scenario())
