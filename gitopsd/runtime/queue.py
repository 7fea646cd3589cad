"""The work queue: which keys somebody wants looked at, and which are being worked on.

Theory of operation. A key is in at most one of four places: *ready* (first come, first served), *held* by one worker,
*wanted again* while it is held, or behind a *timer*. Asking twice before work starts is asking once, and the earlier
wish wins. A key that is wanted while it is held is offered again when it is released; the holder is told at once
through `Held.superseded`, so that it can give up a wait that nobody needs any more. Keys carry no data: what a key
means is read when it is worked on.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from gitopsd import metrics

K = TypeVar("K", bound=Hashable)

_PRIORITY = "0"


class Held(Generic[K]):
    """One key while a worker has it, and whether newer work has arrived for it since."""

    def __init__(self, key: K, cause: str) -> None:
        self.key = key
        self.cause = cause  # what woke it, for logs: "" when it was a timer
        self.superseded = asyncio.Event()
        self.superseded_by = ""
        self.on_news: Callable[[], None] | None = None  # called each time, unlike the event that stays set
        self.has_begun = False  # work that has not begun will see everything that is new by then
        self.is_gone = False  # what the key named is gone: nothing about it is worth keeping

    def supersede(self, cause: str) -> None:
        """Say that the key is wanted again, and by what."""
        self.superseded_by = cause
        self.superseded.set()
        if self.on_news is not None:
            self.on_news()


class WorkQueue(Generic[K]):
    """Keys somebody wants looked at. One key is never held by two workers."""

    def __init__(
        self,
        name: str,
        *,
        floor: float = 0.75,
        ceiling: float = 900.0,
        jitter: float = 0.0,
        clock: Callable[[], float] | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        """`floor` and `ceiling` bound the growing delay (seconds) of `retry`.

        `jitter` spreads it by up to this fraction, downwards only, so that those who failed together do not come back
        together.
        """
        self._name = name
        self._floor = floor
        self._ceiling = ceiling
        self._jitter = jitter
        self._rand = rand
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._ready: OrderedDict[K, tuple[float, str]] = OrderedDict()
        self._held: dict[K, Held[K]] = {}
        self._again: dict[K, tuple[float, str]] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._offer = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._depth = metrics.queue_depth.labels(name, name, _PRIORITY)
        self._adds = metrics.queue_adds.labels(name, name)
        self._retries = metrics.queue_retries.labels(name, name)
        self._waits = metrics.queue_wait.labels(name, name)
        self._works = metrics.queue_work.labels(name, name)
        metrics.queue_unfinished.labels(name, name).set(0)
        metrics.queue_longest.labels(name, name).set(0)

    def __len__(self) -> int:
        """How many keys are ready."""
        return len(self._ready)

    def add(self, key: K, *, after: float = 0.0, cause: str = "") -> None:
        """Want `key` looked at, `after` seconds from now; the earlier wish wins.

        `cause` names what woke it (`GitRepository/ns/name`), for logs and for the one who waits.
        """
        if self._draining:
            return
        due = self._clock() + after
        held = self._held.get(key)
        if held is not None:
            if held.has_begun or after > 0:
                self._want_again(key, due, after, cause)
        elif key in self._ready:
            return
        elif after > 0:
            self._set_timer(key, due, cause)
        else:
            self._make_ready(key, cause)

    def retry(self, key: K) -> float:
        """Want it again after its own growing delay (seconds), which is returned."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retries.inc()
        delay: float = min(self._floor * 2 ** min(failures, 60), self._ceiling)
        delay *= 1 - self._jitter * self._rand()
        self.add(key, after=delay)
        return delay

    def forget(self, key: K) -> None:
        """It went well: its delay starts small again."""
        self._failures.pop(key, None)

    def discard(self, key: K) -> None:
        """What it named is gone: drop its timer and its failures. A held key stays held, and is told."""
        self.forget(key)
        if key in self._held:
            self._held[key].is_gone = True
        self._cancel_timer(key)
        if self._ready.pop(key, None) is not None:
            self._depth.set(len(self._ready))
        self._again.pop(key, None)

    @asynccontextmanager
    async def hold_next(self) -> AsyncIterator[Held[K]]:
        """Hold one key until the block ends."""
        held = await self.take()
        held.has_begun = True
        try:
            yield held
        finally:
            self.release(held)

    async def take(self) -> Held[K]:
        """Wait for a key and hold it. Whoever takes must say when work begins, and `release`; prefer `hold_next`."""
        while True:
            await self.offered()
            held = self.take_nowait()
            if held is not None:
                return held

    async def offered(self) -> None:
        """Wait until a key is ready."""
        while not self._ready:
            self._offer.clear()
            await self._offer.wait()

    def take_nowait(self) -> Held[K] | None:
        """Hold the next key that is ready, if there is one."""
        if not self._ready:
            return None
        key, (since, cause) = self._ready.popitem(last=False)
        self._depth.set(len(self._ready))
        self._waits.observe(self._clock() - since)
        held = Held(key, cause)
        self._held[key] = held
        self._idle.clear()
        return held

    def release(self, held: Held[K]) -> None:
        """Work on the key has ended; if it was wanted meanwhile it is offered again."""
        key = held.key
        del self._held[key]
        if not self._held:
            self._idle.set()
        wish = self._again.pop(key, None)
        if wish is None or self._draining:
            return
        due, cause = wish
        after = due - self._clock()
        self.add(key, after=max(after, 0.0), cause=cause)

    async def drain(self) -> None:
        """Take no more wishes; return when nothing is held."""
        self._draining = True
        for key in list(self._timers):
            self._cancel_timer(key)
        self._ready.clear()
        self._depth.set(0)
        await self._idle.wait()

    @property
    def held(self) -> int:
        """How many keys are being worked on."""
        return len(self._held)

    def due(self, key: K) -> float | None:
        """Seconds until the key's timer, 0 when it is ready or wanted again, None when nobody wants it."""
        if key in self._ready:
            return 0.0
        if key in self._again:
            return max(self._again[key][0] - self._clock(), 0.0)
        timer = self._timers.get(key)
        return None if timer is None else max(timer.when() - self._clock(), 0.0)

    def _want_again(self, key: K, due: float, after: float, cause: str) -> None:
        wish = self._again.get(key)
        if wish is None or due < wish[0]:
            self._again[key] = (due, cause)
        if after <= 0:
            self._held[key].supersede(cause)

    def _set_timer(self, key: K, due: float, cause: str) -> None:
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= due:
            return
        self._cancel_timer(key)
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_at(due, self._make_ready, key, cause)

    def _make_ready(self, key: K, cause: str) -> None:
        self._cancel_timer(key)
        if self._draining:
            return
        if key in self._held:
            self._again.setdefault(key, (self._clock(), cause))
            return
        self._adds.inc()
        self._ready[key] = (self._clock(), cause)
        self._depth.set(len(self._ready))
        self._offer.set()

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
