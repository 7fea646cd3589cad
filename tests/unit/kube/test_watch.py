"""How long a stream waits between its rounds, by what ended them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gitopsd.krm.objects import Obj
from gitopsd.kube.errors import ServerError, TooManyRequestsError, UnreachableError
from gitopsd.kube.watch import Pace, list_and_watch

AWAY = UnreachableError("refused")
WARMING_UP = TooManyRequestsError(429, "TooManyRequests", "storage is (re)initializing", retry_after=1.0)
BROKEN = ServerError(500, "InternalError", "broken")


class EnoughError(Exception):
    """The script is over."""


class Script:
    """A server whose watches end as told, and a clock that does not run."""

    def __init__(self, *failures: Exception) -> None:
        self._failures: Iterator[Exception] = iter(failures)
        self.pauses: list[float] = []

    def with_patience(self, patience: float) -> Script:
        return self

    @asynccontextmanager
    async def watch(self, path: str, **_: Any) -> AsyncIterator[AsyncIterator[Obj]]:
        failure = next(self._failures, None)
        if failure is None:
            raise EnoughError
        raise failure
        yield

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def pauses(*failures: Exception) -> list[float]:
    """What is waited after each failure."""
    script = Script(*failures)
    pace = Pace(jitter=0.0, rand=lambda: 0.5, sleep=script.sleep)
    with pytest.raises(EnoughError):
        async for _ in list_and_watch(script, "/api/v1/things", pace=pace):  # type: ignore[arg-type]
            pass
    return script.pauses


async def test_a_server_that_is_away_is_asked_again_soon_however_long_it_stays() -> None:
    assert await pauses(*[AWAY] * 6) == [1, 2, 4, 5, 5, 5]


async def test_Q06_a_server_that_fails_is_asked_less_and_less() -> None:
    assert await pauses(*[BROKEN] * 7) == [1, 2, 4, 8, 16, 30, 30]


async def test_T01_a_server_that_warms_up_after_a_long_absence_is_not_left_alone() -> None:
    """spec/hostile-inputs.md T01: all has to be well within a minute."""
    assert await pauses(*[AWAY] * 9, WARMING_UP, WARMING_UP) == [1, 2, 4, 5, 5, 5, 5, 5, 5, 1, 2]


async def test_a_server_that_fails_and_is_away_by_turns_gets_no_rest_from_its_absence() -> None:
    assert await pauses(*[BROKEN, AWAY] * 4) == [1, 1, 2, 1, 4, 1, 8, 1]
