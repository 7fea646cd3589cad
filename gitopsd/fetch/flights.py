"""Equal questions asked at the same time are asked once.

Knows keys and results; refuses to know what is asked. Needs no task of its own: the first caller does the work, the
others wait for it, and when the first is cancelled, one of the others begins again.
Invariant: a result is never kept beyond its flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gitopsd.fetch.errors import FetchError

T = TypeVar("T")


class Flights(Generic[T]):
    """Work in progress, by key. Used within one event loop."""

    def __init__(self) -> None:
        # None: the one who worked was cancelled, somebody else has to.
        self._running: dict[Hashable, asyncio.Future[tuple[T] | FetchError | None]] = {}

    async def share(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of an equal one that is under way. A FetchError reaches everybody who waits."""
        while (running := self._running.get(key)) is not None:
            # Without the shield, one who stops waiting would end the wait of all.
            outcome = await asyncio.shield(running)
            if isinstance(outcome, FetchError):
                raise FetchError(outcome.reason, outcome.message, stalls=outcome.stalls) from outcome
            if outcome is not None:
                return outcome[0]
        return await self._lead(key, work)

    async def _lead(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        flight: asyncio.Future[tuple[T] | FetchError | None] = asyncio.get_running_loop().create_future()
        self._running[key] = flight
        outcome: tuple[T] | FetchError | None = None
        try:
            result = await work()
            outcome = (result,)
        except FetchError as error:
            outcome = error
            raise
        else:
            return result
        finally:
            del self._running[key]
            flight.set_result(outcome)
