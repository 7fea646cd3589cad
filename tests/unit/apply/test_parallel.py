"""Side by side, with the outcome of one after the other."""

from __future__ import annotations

import asyncio

import pytest

from gitopsd.apply.parallel import side_by_side
from gitopsd.errors import GitopsdError


class FailedError(GitopsdError):
    pass


async def test_results_stand_in_the_order_of_the_items() -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(0 if item % 2 else 0.001)
        return item * 10

    assert await side_by_side(range(7), work, limit=3, catch=FailedError) == [item * 10 for item in range(7)]
    assert await side_by_side([], work, limit=3, catch=FailedError) == []


async def test_no_more_than_the_limit_run_at_once() -> None:
    running, most = 0, 0

    async def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await side_by_side(range(20), work, limit=4, catch=FailedError)
    assert most == 4


async def test_the_earliest_failure_is_raised_and_what_began_is_ended() -> None:
    gate, begun, ended = asyncio.Event(), [], []

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            gate.set()
            raise FailedError("two")
        await gate.wait()
        await asyncio.sleep(0)
        ended.append(item)
        if item == 1:
            raise FailedError("one")

    with pytest.raises(FailedError, match="one"):
        await side_by_side(range(10), work, limit=3, catch=FailedError)
    assert begun == [0, 1, 2]
    assert ended == [0, 1]


async def test_T16_a_cancellation_cancels_all_that_runs() -> None:
    cancelled = []

    async def work(item: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    task = asyncio.ensure_future(side_by_side(range(5), work, limit=3, catch=FailedError))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cancelled) == [0, 1, 2]
