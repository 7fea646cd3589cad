"""Workers: one reconcile at a time for each key, and what its outcome means for the queue.

Outcomes meet the queue here and nowhere else. An exception in a reconcile never leaves this module; `CancelledError`
always does. A reconcile that only waits gives its worker back (`Run.outside_slot`), so that waits cost no throughput.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Protocol

import structlog

from gitopsd import metrics
from gitopsd.api.meta import format_duration
from gitopsd.errors import GitopsdError, RetryError, StallError, WaitError
from gitopsd.krm.objects import ObjectKey
from gitopsd.logs import bound
from gitopsd.runtime.queue import Held, WorkQueue
from gitopsd.tasks import TaskScope

log = structlog.get_logger()

_jitter = Random()  # noqa: S311 - spreads load, protects nothing


@dataclass(frozen=True)
class Result:
    """It went as it should. `again_in` (seconds) is when to look again; None: when something changes."""

    again_in: float | None = None


class OutdatedError(Exception):
    """What was worked on is not wanted any more; the queue has the key again already. No failure of anything."""


class Run:
    """One reconcile as its reconciler sees it: who woke it, and whether newer work has arrived."""

    def __init__(self, held: Held[ObjectKey], slots: asyncio.Semaphore) -> None:
        self.key = held.key
        self.cause = held.cause
        self.superseded = held.superseded
        self.started = time.monotonic()
        self._held = held
        self._slots = slots
        self._waits_in: asyncio.Task[object] | None = None
        self._is_stopping = False

    @property
    def superseded_by(self) -> str:
        """What brought the newer work (`GitRepository/ns/name`)."""
        return self._held.superseded_by

    def begin(self) -> None:
        """Work begins, with the next line: what is wanted from now on may come too late for it."""
        self._held.has_begun = True

    @property
    def is_gone(self) -> bool:
        """Whether the object went away while it was worked on."""
        return self._held.is_gone

    def gone(self) -> None:
        """There is no such object: nothing about it is to be looked at again, or counted."""
        self._held.is_gone = True

    @property
    def elapsed(self) -> float:
        """Seconds since the reconcile began."""
        return time.monotonic() - self.started

    @asynccontextmanager
    async def outside_slot(self) -> AsyncIterator[None]:
        """Give the worker to others while this reconcile only waits; the key stays held.

        A wait loses nothing by being cut short, so a stop cancels it at once (`stop`).
        """
        self._waits_in = asyncio.current_task()
        if self._is_stopping:
            self.stop()
        self._slots.release()
        try:
            yield
        finally:
            self._waits_in = None
            await self._slots.acquire()

    @asynccontextmanager
    async def lending_slot(self, after: float, is_outdated: Callable[[], bool] | None = None) -> AsyncIterator[None]:
        """As `outside_slot`, but the worker is given away only when the block takes longer than `after` seconds.

        For what is work as a rule and a wait when somebody else does not answer. With news that `is_outdated` is true
        of, the block is cancelled and OutdatedError raised.
        """
        is_lent = False

        def lend() -> None:
            nonlocal is_lent
            is_lent = True
            self._slots.release()

        self._waits_in = asyncio.current_task()
        if self._is_stopping:
            self.stop()
        timer = asyncio.get_running_loop().call_later(after, lend)
        try:
            async with self._given_up_when(is_outdated):
                yield
        finally:
            self._waits_in = None
            timer.cancel()
            if is_lent:
                await self._slots.acquire()

    @asynccontextmanager
    async def _given_up_when(self, is_outdated: Callable[[], bool] | None) -> AsyncIterator[None]:
        limit = asyncio.timeout(None)

        def look() -> None:
            if is_outdated is not None and is_outdated():
                self._held.on_news = None
                limit.reschedule(asyncio.get_running_loop().time())

        try:
            async with limit:
                self._held.on_news = look
                look()
                yield
        except TimeoutError as error:
            if limit.expired():
                raise OutdatedError("there is a newer wish") from error
            raise
        finally:
            self._held.on_news = None

    def stop(self) -> None:
        """The daemon stops: cancel the reconcile if it only waits, else as soon as it does."""
        self._is_stopping = True
        if self._waits_in is not None:
            self._waits_in.cancel()


class Reconciler(Protocol):
    """What a controller runs: it gets a name, reads the current state, and makes it so."""

    async def reconcile(self, run: Run) -> Result: ...


@dataclass(frozen=True)
class ControllerSpec:
    """Who a controller is: `name` in metrics, `kind` and `group` of its objects, how many `workers`."""

    name: str
    kind: str
    group: str
    workers: int


class Controller:
    """Takes keys from one queue and hands each to the reconciler."""

    def __init__(self, spec: ControllerSpec, queue: WorkQueue[ObjectKey], reconciler: Reconciler) -> None:
        self.spec = spec
        self.queue = queue
        self._reconciler = reconciler
        self._slots = asyncio.Semaphore(spec.workers)
        self._working: dict[ObjectKey, Run] = {}
        metrics.max_concurrent_reconciles.labels(spec.name).set(spec.workers)
        metrics.active_workers.labels(spec.name).set(0)
        for result in ("success", "error", "requeue", "requeue_after"):
            metrics.reconcile_total.labels(spec.name, result)
        for counter in (
            metrics.reconcile_errors,
            metrics.reconcile_terminal_errors,
            metrics.reconcile_panics,
            metrics.reconcile_timeouts,
        ):
            counter.labels(spec.name)
        metrics.queue_unfinished.labels(spec.name, spec.name).set_function(self._unfinished)
        metrics.queue_longest.labels(spec.name, spec.name).set_function(self._longest)

    async def run(self) -> None:
        """Work until cancelled; running reconciles are cancelled with it."""
        async with TaskScope(self.spec.name, grace=10.0) as tasks:
            tasks.start("accept", self._accept(tasks), essential=True)
            await tasks.failure()

    async def _accept(self, tasks: TaskScope) -> None:
        while True:
            # A slot is taken only when there is work for it: one that waits for work would be missed by those
            # who come back from a wait.
            await self.queue.offered()
            await self._slots.acquire()
            held = self.queue.take_nowait()
            if held is None:
                self._slots.release()
            else:
                tasks.start(held.key.path, self._work(held))

    async def drain(self) -> None:
        """Take no more work, cut waits short, and return when what runs has ended."""
        for run in self._working.values():
            run.stop()
        await self.queue.drain()

    async def _work(self, held: Held[ObjectKey]) -> None:
        run = Run(held, self._slots)
        self._working[held.key] = run
        active = metrics.active_workers.labels(self.spec.name)
        active.inc()
        try:
            with bound(**self._log_fields(held.key)):
                await self._reconcile(run)
        finally:
            active.dec()
            del self._working[held.key]
            self.queue.release(held)
            self._slots.release()

    async def _reconcile(self, run: Run) -> None:
        outcome: Result | Exception
        run.begin()
        try:
            outcome = await self._reconciler.reconcile(run)
        except GitopsdError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - the last line: a defect in one object must not stop the others
            metrics.reconcile_panics.labels(self.spec.name).inc()
            outcome = error
            self._report_defect(error)
        self._requeue(run, outcome)
        metrics.reconcile_time.labels(self.spec.name).observe(run.elapsed)
        metrics.queue_work.labels(self.spec.name, self.spec.name).observe(run.elapsed)
        if run.is_gone:  # its series were removed already, and what was counted since must not stay
            metrics.forget_object(run.key.kind, run.key.namespace, run.key.name)
        else:
            metrics.reconcile_duration.labels(self.spec.kind, run.key.name, run.key.namespace).observe(run.elapsed)

    def _requeue(self, run: Run, outcome: Result | Exception) -> None:
        """Turn an outcome into the next look, the log line of a failure, and metrics (`spec/kustomize.md` 7.2)."""
        queue, key = self.queue, run.key
        delay: float | None
        match outcome:
            # Who took its name meanwhile has been offered by the one who saw it come.
            case _ if run.is_gone:
                queue.forget(key)
                delay = None
            case Result(again_in=None) | StallError():
                queue.forget(key)
                delay = None
            case Result(again_in=float() | int() as delay) | WaitError(again_in=delay):
                queue.forget(key)
                queue.add(key, after=delay)
            case RetryError(again_in=float() | int() as delay):
                queue.forget(key)
                queue.add(key, after=delay)
            case _:
                delay = queue.retry(key)
        self._count(outcome)
        if isinstance(outcome, Exception):
            self._report(run, outcome, delay)

    def _count(self, outcome: Result | Exception) -> None:
        name = self.spec.name
        match outcome:
            case Result(again_in=None):
                result = "success"
            case Result() | WaitError():
                result = "requeue_after"
            case _:
                result = "error"
                metrics.reconcile_errors.labels(name).inc()
        if isinstance(outcome, StallError):
            metrics.reconcile_terminal_errors.labels(name).inc()
        metrics.reconcile_total.labels(name, result).inc()

    def _report(self, run: Run, error: Exception, delay: float | None) -> None:
        if isinstance(error, WaitError):
            log.info(str(error), reason=error.reason)
            return
        then = "waiting for a change" if delay is None else f"next try in {format_duration(delay)}"
        log.error(f"Reconciliation failed after {format_duration(run.elapsed)}, {then}", error=str(error))

    def _report_defect(self, error: Exception) -> None:
        log.error("Reconciler ended unexpectedly", error=f"{type(error).__name__}: {error}", trace=_trace(error))

    def _log_fields(self, key: ObjectKey) -> dict[str, object]:
        return {
            "controller": self.spec.name,
            "controllerGroup": self.spec.group,
            "controllerKind": self.spec.kind,
            self.spec.kind: {"name": key.name, "namespace": key.namespace},
            "name": key.name,
            "namespace": key.namespace,
            "reconcileID": str(uuid.uuid4()),
        }

    # Metrics are written in a thread: it looks at a copy, which is made in one go.

    def _unfinished(self) -> float:
        return sum(run.elapsed for run in list(self._working.values()))

    def _longest(self) -> float:
        return max((run.elapsed for run in list(self._working.values())), default=0.0)


def _trace(error: BaseException) -> str:
    """Where an exception came from, outermost first, without reading any source file and without our paths."""
    frames = []
    at = error.__traceback__
    while at is not None:
        frames.append(f"{at.tb_frame.f_globals.get('__name__')}.{at.tb_frame.f_code.co_name}:{at.tb_lineno}")
        at = at.tb_next
    return " > ".join(frames[-20:])


def jittered(seconds: float, percentage: int, rand: Callable[[], float] = _jitter.random) -> float:
    """`seconds` spread uniformly by plus and minus `percentage` per cent."""
    return seconds * (1 + percentage / 100 * (2 * rand() - 1))
