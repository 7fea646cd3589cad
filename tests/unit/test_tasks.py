from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.tasks import Turns, compute, pass_on, sorted_in_parts, watch_lag
from tests import virtual


class Clock:
    """The event loop's own time, plus what somebody blocked."""

    blocked = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.blocked


def highest() -> float:
    return round(metrics.loop_lag_max._value.get(), 6)


def seen_late(limit: float) -> float:
    """How many of all looks were later than `limit` seconds."""
    samples = [one for family in metrics.loop_lag.collect() for one in family.samples]
    counts = {one.labels.get("le", ""): one.value for one in samples if one.name.endswith("_bucket")}
    return counts["+Inf"] - counts[str(limit)]


def watched(story: Coroutine[Any, Any, None], clock: Clock) -> None:
    async def play() -> None:
        watching = asyncio.ensure_future(watch_lag(clock=clock))
        await story
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    virtual.run(play())


def test_what_blocks_the_event_loop_is_seen_by_every_scraper_for_a_minute():
    clock = Clock()

    async def story() -> None:
        await asyncio.sleep(1.02)
        before = seen_late(0.25)
        clock.blocked += 0.3
        await asyncio.sleep(0.1)
        assert highest() == 0.3
        assert seen_late(0.25) == before + 1
        await asyncio.sleep(59)
        assert highest() == 0.3
        await asyncio.sleep(121)
        assert highest() == 0.0

    watched(story(), clock)


def test_a_loop_that_nobody_blocks_has_no_lag():
    async def story() -> None:
        await asyncio.sleep(200)
        assert highest() == 0.0

    watched(story(), Clock())


def test_computing_threads_take_turns_first_come_first_served():
    now = [0.0]
    turns = Turns(1, 0.05, lambda: now[0])
    log: list[str] = []
    started, all_wait = threading.Event(), threading.Event()

    def long() -> None:
        with turns:
            started.set()
            assert all_wait.wait(10)
            turns.pass_on()
            log.append("long, for its turn lasts")
            now[0] += 1
            turns.pass_on()
            log.append("long again")

    def short(name: str) -> None:
        with turns:
            log.append(name)

    threads = [threading.Thread(target=long)]
    threads[0].start()
    assert started.wait(10)
    for name in ("first", "second"):
        threads.append(threading.Thread(target=short, args=(name,)))
        threads[-1].start()
        while len(turns._waiting) < len(threads) - 1:
            pass
    all_wait.set()
    for thread in threads:
        thread.join(10)
    assert log == ["long, for its turn lasts", "first", "second", "long again"]
    assert turns._free == 1


def test_no_more_than_the_places_are_taken_and_each_is_given_back():
    turns = Turns(2, 0.0)
    inside: set[int] = set()
    most = 0

    def work(number: int) -> None:
        nonlocal most
        for _ in range(100):
            try:
                with turns:
                    inside.add(number)
                    most = max(most, len(inside))
                    inside.discard(number)
                    turns.pass_on()
                    raise ValueError
            except ValueError:
                pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert 1 <= most <= 2
    assert turns._free == 2


async def test_what_computes_may_pass_its_turn_on_from_anywhere():
    pass_on()

    def work(number: int) -> int:
        for _ in range(100):
            pass_on()
        return number

    assert await asyncio.gather(*(compute(work, number) for number in range(40))) == list(range(40))
    with pytest.raises(ZeroDivisionError):
        await compute(lambda: 1 // 0)


@pytest.mark.parametrize("many", [0, 1, 4096, 4097, 30_000])
def test_V8_sorting_in_parts_sorts(many: int) -> None:
    items = [(number * 7919 % 65_521, number) for number in range(many)]
    assert sorted_in_parts(items) == sorted(items)
    assert sorted_in_parts(items, lambda item: item[0] % 10) == sorted(items, key=lambda item: item[0] % 10)
