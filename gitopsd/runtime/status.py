"""One status session for each reconcile: late progress, one last patch.

Theory of operation. A session starts from the object as the cache has it and collects what the reconcile finds. A run
that ends quickly writes once, at its end. A run that is still going after `LATE` seconds shows its progress, and then
again at most every `LATE` seconds while the progress changes. Writes are merge patches with the resourceVersion that
the session last saw; on a conflict the object is read again, conditions of types that we do not own are kept, and the
patch is repeated. Nothing changed: no write. Nobody else writes a status.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import structlog

from gitopsd.api import conditions as conds
from gitopsd.api.meta import FINALIZER, REQUESTED_AT, Condition
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, annotations_of, get_in, key_of
from gitopsd.kube.client import KubeClient, PatchType
from gitopsd.kube.errors import ConflictError, NotFoundError
from gitopsd.tasks import TaskScope

log = structlog.get_logger()

LATE = 0.5
_LAST_WRITE_DEADLINE = 5.0
_CONFLICT_TRIES = 5


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class StatusOwner:
    """How one controller writes: its client, its field manager, and the condition types that are its own.

    It remembers the server's answer to its last write of each object until the cache has caught up, so that no
    reconcile ever starts from a status that is older than what the one before it wrote.
    """

    client: KubeClient
    field_manager: str
    owned: frozenset[str]
    path_of: Callable[[Obj], str]
    clock: Callable[[], datetime] = _now
    _answers: dict[str, Obj] = field(default_factory=dict)

    def newest(self, cached: Obj) -> Obj:
        """The cached object, or the answer to our own last write where the cache is still behind it."""
        uid = cached["metadata"]["uid"]
        answer = self._answers.get(uid)
        if answer is None:
            return cached
        if int(answer["metadata"]["resourceVersion"]) > int(cached["metadata"]["resourceVersion"]):
            return answer
        del self._answers[uid]
        return cached

    def forget(self, obj: Obj) -> None:
        """The object is gone."""
        self._answers.pop(obj["metadata"]["uid"], None)

    def remember(self, answer: Obj) -> None:
        """Keep the server's answer to a write of ours."""
        answer["metadata"].pop("managedFields", None)
        self._answers[answer["metadata"]["uid"]] = answer

    def session(self, obj: Obj, tasks: TaskScope) -> StatusSession:
        """Start a session; `tasks` owns the writing of late progress."""
        return StatusSession(self, obj, tasks)

    def scratch(self, obj: Obj, tasks: TaskScope) -> StatusSession:
        """Start a session of which nobody gets to see anything, unless it is told to `finish`."""
        return _Scratch(self, obj, tasks)

    async def add_finalizer(self, obj: Obj) -> Obj:
        """Put our finalizer on the object; returns the object as it is now."""
        finalizers = [*get_in(obj, "metadata", "finalizers", default=[]), FINALIZER]
        return await self._patch_finalizers(obj, finalizers)

    async def remove_finalizer(self, obj: Obj) -> None:
        """Take our finalizer away, so that the object may go; an object that is gone already is fine."""
        finalizers = [name for name in get_in(obj, "metadata", "finalizers", default=[]) if name != FINALIZER]
        try:
            await self._patch_finalizers(obj, finalizers)
        except NotFoundError:
            log.debug("the object was gone before its finalizer was removed")

    async def _patch_finalizers(self, obj: Obj, finalizers: Sequence[str]) -> Obj:
        body = {"metadata": {"finalizers": list(finalizers), "resourceVersion": obj["metadata"]["resourceVersion"]}}
        answer = await self.client.patch(
            self.path_of(obj), body, kind=PatchType.MERGE, params={"fieldManager": self.field_manager}
        )
        self.remember(answer)
        return answer


class StatusSession:
    """What one reconcile found out about one object, on its way to the API server."""

    def __init__(self, owner: StatusOwner, obj: Obj, tasks: TaskScope) -> None:
        self._owner = owner
        self._tasks = tasks
        self.obj = obj
        self.generation: int = get_in(obj, "metadata", "generation", default=0)
        self.requested_at: str | None = annotations_of(obj).get(REQUESTED_AT)
        self._version: str = obj["metadata"]["resourceVersion"]
        self._written: Obj = obj.get("status") or {}
        self.fields: Obj = copy.copy(self._written)
        self._conditions: tuple[Condition, ...] = conds.decode(self.fields.pop("conditions", None))
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._next_progress = self._loop.time() + LATE
        self.has_written = False  # sent anything, whether or not it arrived
        self.is_gone = False  # the object was not there any more for the last write

    # -- conditions --------------------------------------------------------------------------------------------

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions as they stand now."""
        return self._conditions

    @conditions.setter
    def conditions(self, conditions: Iterable[Condition]) -> None:
        self._conditions = tuple(conditions)

    def get(self, condition_type: str) -> Condition | None:
        """One condition, if it is there."""
        return conds.get(self._conditions, condition_type)

    def is_true(self, condition_type: str) -> bool:
        """Whether the condition is there and True."""
        found = self.get(condition_type)
        return found is not None and found.status == "True"

    def mark(self, condition_type: str, status: str, reason: str, message: str) -> None:
        """Set one condition for this generation."""
        self._conditions = conds.mark(
            self._conditions, condition_type, status, reason, message, self.generation, self._owner.clock()
        )

    def delete(self, *condition_types: str) -> None:
        """Remove conditions."""
        self._conditions = conds.delete(self._conditions, *condition_types)

    def mark_reconciling(self, reason: str, message: str) -> None:
        """`Reconciling=True`; an object that is worked on is not stalled."""
        self.delete("Stalled")
        self.mark("Reconciling", "True", reason, message)

    def mark_stalled(self, reason: str, message: str) -> None:
        """`Stalled=True`; a stalled object is not worked on."""
        self.delete("Reconciling")
        self.mark("Stalled", "True", reason, message)

    def summarise(self, types: Sequence[str]) -> None:
        """Compute Ready from the conditions of `types` (`spec/source.md` 3.3)."""
        self._conditions = conds.summarise(self._conditions, types, self.generation, self._owner.clock())

    def retrying(self) -> tuple[Condition, ...]:
        """The conditions with `Reconciling` turned to "will be tried again"."""
        return conds.mark_retrying(self._conditions, self.generation, self._owner.clock())

    def observe(self, condition_type: str) -> None:
        """Let one condition speak of this generation, all else unchanged."""
        self._conditions = conds.observe(self._conditions, condition_type, self.generation)

    @property
    def is_requested(self) -> bool:
        """Whether somebody asked for a reconcile that no run has answered yet (`spec/source.md` 2.1)."""
        handled = get_in(self.obj, "status", "lastHandledReconcileAt")
        return self.requested_at is not None and self.requested_at != handled

    # -- writing -----------------------------------------------------------------------------------------------

    def progress(self) -> None:
        """Let what is known by now be seen, if the run is still going in a while."""
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_at(self._next_progress, self._start_writing)

    def _start_writing(self) -> None:
        self._timer = None
        self._writing = self._tasks.start("progress", self._write_progress())

    async def _write_progress(self) -> None:
        try:
            await self._write()
        except GitopsdError as error:
            log.debug("progress was not written", error=str(error))
        finally:
            self._writing = None
            self._next_progress = self._loop.time() + LATE

    def handled(self) -> None:
        """The request in `reconcile.fluxcd.io/requestedAt` has been answered by this run."""
        if self.requested_at is not None:
            self.fields["lastHandledReconcileAt"] = self.requested_at

    async def checkpoint(self) -> None:
        """Write what is known by now, and return when the API server has it. Raises what the write raised."""
        await self._settle()
        await self._write()
        self._next_progress = self._loop.time() + LATE

    async def finish(self) -> None:
        """Write what has changed, once. An object that is gone needs no status."""
        await self._settle()
        try:
            await self._write()
        except NotFoundError:
            self.is_gone = True
            log.debug("the object was gone before its status was written")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Whatever ended the run, no progress is written after it; on cancellation what is known is still written."""
        if isinstance(exc, asyncio.CancelledError):
            await asyncio.shield(self._tasks.start("last status", self._write_last()))
        await self._settle()

    async def _write_last(self) -> None:
        try:
            async with asyncio.timeout(_LAST_WRITE_DEADLINE):
                await self.finish()
        except (GitopsdError, TimeoutError) as error:
            log.info("the last status was not written", error=str(error) or "no answer in time")

    async def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _wanted(self) -> Obj:
        status = dict(self.fields)
        if self._conditions:
            status["conditions"] = conds.encode(conds.ordered(self._conditions))
        return status

    async def _write(self) -> None:
        for attempt in range(_CONFLICT_TRIES):
            wanted = self._wanted()
            patch = merge_patch(self._written, wanted)
            if not patch:
                return
            try:
                await self._send(patch)
            except ConflictError:
                if attempt == _CONFLICT_TRIES - 1:
                    raise
                await self._reread()
            else:
                self._written = copy.deepcopy(wanted)
                return

    async def _send(self, patch: Obj) -> None:
        body = {"metadata": {"resourceVersion": self._version}, "status": patch}
        self.has_written = True
        answer = await self._owner.client.patch(
            f"{self._owner.path_of(self.obj)}/status",
            body,
            kind=PatchType.MERGE,
            params={"fieldManager": self._owner.field_manager},
        )
        self._version = answer["metadata"]["resourceVersion"]
        self._owner.remember(answer)

    async def _reread(self) -> None:
        """Someone else wrote: take their resourceVersion and their conditions, keep what is ours."""
        live = await self._owner.client.get(self._owner.path_of(self.obj))
        if live["metadata"]["uid"] != self.obj["metadata"]["uid"]:
            raise NotFoundError(404, "NotFound", f"{key_of(self.obj).subject} was replaced by another of its name")
        self._version = live["metadata"]["resourceVersion"]
        self._written = live.get("status") or {}
        ours = {condition.type for condition in self._conditions}
        foreign = [
            condition
            for condition in conds.decode(self._written.get("conditions"))
            if condition.type not in self._owner.owned and condition.type not in ours
        ]
        self._conditions = (*self._conditions, *foreign)


class _Scratch(StatusSession):
    """A session that shows no progress."""

    def progress(self) -> None:
        """Nobody is waiting."""


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Obj:
    """The JSON merge patch (RFC 7386) that turns `old` into `new`; empty when they are equal."""
    patch: Obj = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = merge_patch(before, value)
            if inner:
                patch[key] = inner
        elif value != before:
            patch[key] = value
    return patch
