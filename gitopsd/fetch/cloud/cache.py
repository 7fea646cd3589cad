"""Tokens are kept while they are fresh, and asked for once.

Theory of operation. An entry belongs to a key that holds everything the answer depends on: the provider, the identity
down to its annotations, what the token is for, and the way to it (`Key`). Two objects share an entry only when they
would have asked the same party the same question in the same name, so nobody can put a token into another's entry
(spec/hostile-inputs.md P16). Entries go after 80 % of their lifetime, at the latest after `max_duration`; when there is
no room, the one that was not used for the longest time goes. Equal questions under way are shared (`fetch.flights`).

Knows lifetimes, room and the metrics of spec/source.md 12.3; refuses to know what a token is. Invariant: a failure is
never kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gitopsd import metrics
from gitopsd.fetch.cloud.identity import Identity, Issued
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.flights import Flights

T = TypeVar("T")

# As the kubelet does with the tokens of ServiceAccounts.
_FRESH_PART = 0.8
_OPERATION = "reconcile"


@dataclass(frozen=True)
class _Entry:
    value: Any = field(repr=False)
    loop_deadline: float
    wall_deadline: float  # the loop's clock stands still while a machine sleeps


class TokenCache:
    """Tokens by key. `size` 0 keeps none; equal questions at the same time are shared all the same."""

    def __init__(self, size: int, max_duration: float, now: Callable[[], float]) -> None:
        self._size = size
        self._max_duration = max_duration
        self._now = now
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._flights: Flights[tuple[Any, RemoteError | None]] = Flights()
        metrics.token_cached_items.set(0)

    async def get(self, key: Hashable, identity: Identity, issue: Callable[[], Awaitable[Issued[T]]]) -> T:
        """The token of `key`, from `issue` where none is fresh. Raises what `issue` raises as RemoteError."""
        entry = self._fresh(key)
        worked: list[bool] = []
        if entry is not None:
            self._count(identity, hit=True)
            value: T = entry.value
            return value

        async def work() -> tuple[Any, RemoteError | None]:
            worked.append(True)
            try:
                return self._keep(key, await issue()), None
            except RemoteError as error:
                return None, error

        value, error = await self._flights.share(key, work)
        if error is not None:
            metrics.token_cache_requests.labels("failure").inc()
            raise error if worked else type(error)(error.message, rule=error.rule) from error
        self._count(identity, hit=not worked)
        return value

    def _fresh(self, key: Hashable) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.loop_deadline <= asyncio.get_running_loop().time() or entry.wall_deadline <= self._now():
            del self._entries[key]
            metrics.token_cached_items.set(len(self._entries))
            return None
        self._entries.move_to_end(key)
        return entry

    def _keep(self, key: Hashable, issued: Issued[T]) -> T:
        good_for = min(_FRESH_PART * issued.lifetime, self._max_duration)
        if self._size > 0 and good_for > 0:
            loop_time = asyncio.get_running_loop().time()
            self._entries[key] = _Entry(issued.value, loop_time + good_for, self._now() + good_for)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
                metrics.token_cache_evictions.inc()
            metrics.token_cached_items.set(len(self._entries))
        return issued.value

    def _count(self, identity: Identity, *, hit: bool) -> None:
        metrics.token_cache_requests.labels("success").inc()
        event = "cache_hit" if hit else "cache_miss"
        metrics.token_cache_events.labels(event, identity.kind, identity.name, identity.namespace, _OPERATION).inc()
