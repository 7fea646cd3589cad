from __future__ import annotations

import asyncio

import pytest

from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.flights import Flights


class Work:
    """Counts how often it was begun, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.error: BaseException | None = None

    async def __call__(self) -> str:
        self.begun += 1
        number = self.begun
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return f"result {number}"


async def started(flights: Flights[str], work: Work, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(flights.share("key", work)) for _ in range(count)]
    while not work.begun:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_A42_equal_questions_asked_at_once_are_asked_once():
    flights, work = Flights[str](), Work()
    tasks = await started(flights, work, 5)
    work.may_end.set()
    assert await asyncio.gather(*tasks) == ["result 1"] * 5
    assert work.begun == 1


async def test_a_result_is_not_kept():
    flights, work = Flights[str](), Work()
    work.may_end.set()
    assert await flights.share("key", work) == "result 1"
    assert await flights.share("key", work) == "result 2"


async def test_different_questions_are_asked_apart():
    flights, work = Flights[str](), Work()
    work.may_end.set()
    assert sorted(await asyncio.gather(flights.share("a", work), flights.share("b", work))) == ["result 1", "result 2"]


async def test_a_failure_reaches_everybody_who_waits():
    flights, work = Flights[str](), Work()
    tasks = await started(flights, work, 3)
    work.error = FetchError("GitOperationFailed", "no", stalls=True)
    work.may_end.set()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, FetchError)
        assert (outcome.reason, outcome.message, outcome.stalls) == ("GitOperationFailed", "no", True)
    assert work.begun == 1


async def test_when_the_first_is_cancelled_another_begins_again():
    flights, work = Flights[str](), Work()
    first, *others = await started(flights, work, 3)
    first.cancel()
    while work.begun < 2:
        await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*others) == ["result 2", "result 2"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_who_stops_waiting_does_not_disturb_the_others():
    flights, work = Flights[str](), Work()
    first, second, third = await started(flights, work, 3)
    second.cancel()
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(first, third) == ["result 1", "result 1"]
    assert work.begun == 1
