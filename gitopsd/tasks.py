"""Tasks that are named, owned and never forgotten; threads for what must not stand in the loop.

`TaskScope` is the only place that starts tasks. A task that ends with an error brings its scope down, so that the
process ends with an error code and Kubernetes restarts it: nothing dies silently. `offload` is the only place that
decides where blocking work runs.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from itertools import islice
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar

from gitopsd import metrics

P = ParamSpec("P")
T = TypeVar("T")

# Threads wait for disks and networks most of their time; the bound keeps memory and file descriptors in check.
_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="offload")


async def offload(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking or CPU-heavy work in a thread.

    Cancelling the caller does not stop the thread: `fn` must end by its own deadline.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_THREADS, lambda: fn(*args, **kwargs))


class Turns:
    """Lets a few threads work at a time, in turns, first come, first served.

    Threads that compute compete with the event loop for the interpreter: with sixteen of them it waited up to a third
    of a second, with two it hardly notices, and the work as a whole takes no longer. Turns keep one that computes for
    a minute from holding up those who need a moment.
    """

    def __init__(self, places: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = places
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._turn = threading.local()

    def __enter__(self) -> None:
        gate: threading.Lock | None = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                gate = threading.Lock()
                gate.acquire()
                self._waiting.append(gate)
        if gate is not None:
            gate.acquire()  # until somebody hands his place over
        self._turn.ends = self._clock() + self._seconds

    def __exit__(self, *exc: object) -> None:
        del self._turn.ends
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def pass_on(self) -> None:
        """End this thread's turn if it has lasted long enough and somebody waits; returns when it is on again."""
        if self._waiting and self._clock() > getattr(self._turn, "ends", float("inf")):
            self.__exit__()
            self.__enter__()


# A second pool, so that who waits for a turn keeps no thread from the disk.
_COMPUTERS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="compute")
_turns = Turns(2, 0.05)
# How long (seconds) a computing thread may make the event loop wait each time; five times that is the default.
_SWITCH_INTERVAL = 0.001


async def compute(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work that computes for long in a thread, two at a time; `fn` calls `pass_on` often.

    Cancelling the caller does not stop the thread: `fn` must end by its own deadline.
    """

    def work() -> T:
        with _turns:
            return fn(*args, **kwargs)

    sys.setswitchinterval(_SWITCH_INTERVAL)
    return await asyncio.get_running_loop().run_in_executor(_COMPUTERS, work)


def pass_on() -> None:
    """Let others have their turn; for work inside `compute`, to be called every few milliseconds."""
    _turns.pass_on()


# So many can be put in order in a few milliseconds.
_SORTED_AT_ONCE = 4096


def sorted_in_parts(items: Iterable[T], key: Callable[[T], Any] | None = None) -> list[T]:
    """As `sorted`, for work in threads: a list is sorted in one go, and the event loop would wait for it."""
    rest, parts = iter(items), list[list[T]]()
    while part := sorted(islice(rest, _SORTED_AT_ONCE), key=key):  # type: ignore[type-var,arg-type]
        parts.append(part)
    return parts[0] if len(parts) == 1 else list(heapq.merge(*parts, key=key))  # type: ignore[arg-type]


_LAG_PERIOD = 0.05
_LAG_WINDOW = 60.0


async def watch_lag(
    *, period: float = _LAG_PERIOD, window: float = _LAG_WINDOW, clock: Callable[[], float] = time.monotonic
) -> NoReturn:
    """Measure for ever how late the event loop wakes a timer.

    Looks every `period` seconds, so that nothing that blocks for twice as long stays unseen, at a thousandth of a core.
    The highest value stands for `window` to twice `window` seconds: every scraper sees it, however many there are.
    """
    current = previous = 0.0
    ends = clock() + window
    while True:
        due = clock() + period
        await asyncio.sleep(period)
        now = clock()
        lag = max(now - due, 0.0)
        if now >= ends:
            current, previous, ends = 0.0, current, now + window
        current = max(current, lag)
        metrics.loop_lag.observe(lag)
        metrics.loop_lag_max.set(max(current, previous))


class Backoff:
    """Delays that double from `floor` to `ceiling` seconds, each spread by `jitter` (a fraction)."""

    def __init__(
        self, floor: float, ceiling: float, *, jitter: float = 0.0, rand: Callable[[], float] = random.random
    ) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._jitter = jitter
        self._rand = rand
        self._failures = 0

    def next(self) -> float:
        """The next delay in seconds."""
        # 2**60 floors are beyond any ceiling; the bound keeps the power small.
        delay: float = min(self._floor * 2 ** min(self._failures, 60), self._ceiling)
        self._failures += 1
        return delay * (1 + self._jitter * (2 * self._rand() - 1))

    def reset(self) -> None:
        """It went well: the next delay is the floor again."""
        self._failures = 0


class TaskScope(AbstractAsyncContextManager["TaskScope"]):
    """Owns tasks. Leaving the scope cancels and awaits them; the first error of any task is raised there.

    `grace` is how long (seconds) cancelled tasks may take to end before they are reported and left behind.
    """

    def __init__(self, name: str, *, grace: float = 5.0) -> None:
        self.name = name
        self._grace = grace
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._failed = asyncio.get_running_loop().create_future()
        return self

    def start(self, name: str, work: Coroutine[Any, Any, T], *, essential: bool = False) -> asyncio.Task[T]:
        """Start `work` as a task of this scope; an `essential` task may not even end without an error."""
        task = asyncio.create_task(work, name=f"{self.name}/{name}")  # noqa: TID251 - the one place that may
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, essential=essential))
        return task

    def _ended(self, task: asyncio.Task[Any], *, essential: bool) -> None:
        self._tasks.discard(task)
        if self._failed is None or self._failed.done() or task.cancelled():
            return
        error = task.exception()
        if error is None and essential:
            error = RuntimeError(f"{task.get_name()} ended, which it never should")
        if error is not None:
            self._failed.set_exception(error)

    async def failure(self) -> None:
        """Wait until a task of this scope fails, and raise its error."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def cancel(self) -> list[str]:
        """Cancel every task and wait up to the grace; returns the names of those that did not end."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, pending = await asyncio.wait(tasks, timeout=self._grace)
        return sorted(task.get_name() for task in pending)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stuck = await self.cancel()
        failed = self._failed
        self._failed = None
        if failed is not None and failed.done():
            error = failed.exception()
            if error is not None and exc is None:
                raise error
        elif failed is not None:
            failed.cancel()
        if stuck and exc is None:
            raise RuntimeError(f"tasks did not end within {self._grace:g}s: {', '.join(stuck)}")


async def first(*events: Awaitable[Any]) -> int:
    """Wait until one of `events` is done, cancel the others, and return the index of the winner.

    An error of the winner is raised.
    """
    tasks = [asyncio.ensure_future(event) for event in events]  # noqa: TID251 - awaited right here
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for index, task in enumerate(tasks):
            if task in done:
                task.result()
                return index
        raise AssertionError("asyncio.wait returned without a finished task")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
