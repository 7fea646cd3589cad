from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gitopsd import metrics
from gitopsd.tasks import watch_lag
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
