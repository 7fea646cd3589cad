"""The source controller: one pipeline for every kind of source, one `SourceKind` for what differs.

The pipeline owns what all have in common (`spec/source.md` 2): due or not, storage, conditions, events, requeue, and
the announcement to consumers, which comes only after the status was written. A kind knows its protocol and its words:
how to see cheaply what the remote has, how to fetch it, and what to say about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec
import structlog

from gitopsd.api.meta import FINALIZER, SOURCE_COMPONENT, SOURCE_GROUP, Artifact, ConditionType, Reason
from gitopsd.api.resource import DecodeError, Resource
from gitopsd.artifact.store import ArtifactStore, StoreError
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers import broken
from gitopsd.errors import ReconcileError, RetryError, StallError, WaitError
from gitopsd.krm.objects import Obj, ObjectKey, get_in
from gitopsd.kube.informer import Informer
from gitopsd.runtime.controller import Result, Run, jittered
from gitopsd.runtime.recorder import EventType, Recorder
from gitopsd.runtime.status import StatusOwner, StatusSession
from gitopsd.settings import Settings
from gitopsd.tasks import TaskScope

log = structlog.get_logger()

S = TypeVar("S", bound=Resource)
S_contra = TypeVar("S_contra", bound=Resource, contravariant=True)

# A remote that has not given everything after so long (seconds) keeps no other source waiting.
_PATIENCE = 2.0
_FAILURES = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED, ConditionType.INCLUDE_UNAVAILABLE)


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought: a tree, how it is called, and what is said about it."""

    revision: str
    file_name: str
    tree: FileTree
    stored: str  # message of ArtifactInStorage
    told: str  # message of the event
    observed: Mapping[str, object] = field(default_factory=dict)  # status fields that go with the new artifact


class Unchanged(NamedTuple):
    """The remote has what is stored already."""

    stored: str  # message of ArtifactInStorage
    told: str  # message of the event that says so
    recovered: str  # message of the event when the run before had failed


class Told(NamedTuple):
    """What the events of a good run may say: that nothing moved, or what was stored."""

    unchanged: str
    stored: str
    is_new: bool


class SourceKind(Protocol[S_contra]):
    """One kind of source: its protocol and its words."""

    @property
    def model(self) -> type[Resource]:
        """The kind's type."""

    def unsupported(self, source: S_contra) -> str:
        """The first field that asks for what this version cannot do, empty when there is none."""

    async def fetch(self, source: S_contra, current: Artifact | None, status: StatusSession) -> Fetched | Unchanged:
        """Fetch what the source points at, unless `current` is just that.

        Raises `SourceError` for what ends in a condition.
        """


class SourceError(ReconcileError):
    """A run that failed with a condition of its own."""

    def __init__(self, condition: ConditionType, reason: str, message: str, *, stalls: bool = False) -> None:
        super().__init__(reason, message)
        self.condition = condition
        self.stalls = stalls


@dataclass(frozen=True)
class Parts:
    """What the controller of one kind works with."""

    informer: Informer[Obj]
    store: ArtifactStore
    recorder: Recorder
    status: StatusOwner
    tasks: TaskScope
    settings: Settings


class SourceReconciler(Generic[S]):
    """Reconciles the sources of one kind."""

    def __init__(self, kind: SourceKind[S], parts: Parts) -> None:
        self._kind = kind
        self._parts = parts

    async def reconcile(self, run: Run) -> Result:
        """Bring the artifact to what the source points at (`spec/source.md` 2.2)."""
        parts = self._parts
        cached = parts.informer.lister.get(run.key)
        if cached is None:
            return Result()
        obj = parts.status.newest(cached)
        if get_in(obj, "metadata", "deletionTimestamp") is not None:
            return await self._finalize(run.key, obj)
        try:
            source: S = self._kind.model.from_object(obj)  # type: ignore[assignment]
        except DecodeError as error:
            await broken.report(obj, error, parts.status, parts.recorder, parts.tasks, component=SOURCE_COMPONENT)
        if not source.metadata.has_finalizer:
            obj = await parts.status.add_finalizer(obj)
        async with parts.status.session(obj, parts.tasks) as status:
            if get_in(obj, "spec", "suspend"):
                log.info("reconciliation is suspended for this object")
                await self._conclude_suspended(status)
                return Result()
            before = status.conditions
            self._begin(status)
            try:
                told = await self._attempt(run, source, status)
            except ReconcileError as error:
                await self._conclude_failed(status, error)
                raise _outcome(error) from error
            self._conclude(status)
            await status.finish()
        self._tell(run.key, status, told, {condition.type for condition in before if condition.is_true})
        self._parts.store.announce(run.key)
        interval: float = source.spec.interval_seconds  # type: ignore[attr-defined]
        if interval <= 0:
            return Result()
        return Result(again_in=jittered(interval, parts.settings.interval_jitter_percentage))

    # -- the phases of a run -----------------------------------------------------------------------------------

    def _begin(self, status: StatusSession) -> None:
        """In progress; visible early only where somebody waits for an answer (step 5 and 6)."""
        message = "reconciliation in progress"
        observed = int(status.fields.get("observedGeneration", -1))
        ready = status.get(ConditionType.READY)
        if observed != status.generation:
            message = f"processing object: new generation {observed} -> {status.generation}"
        status.mark_reconciling(Reason.PROGRESSING, message)
        if ready is None or ready.status == "Unknown":
            status.mark(ConditionType.READY, "Unknown", Reason.PROGRESSING, message)
        handled = status.fields.get("lastHandledReconcileAt")
        if observed != status.generation or (status.requested_at is not None and status.requested_at != handled):
            status.progress()

    async def _attempt(self, run: Run, source: S, status: StatusSession) -> Told:
        key = run.key
        unsupported = self._kind.unsupported(source)
        if unsupported:
            raise StallError("NotSupported", f"{unsupported} is not supported yet")
        current = await self._stored(key, status)
        async with run.lending_slot(_PATIENCE):
            fetched = await self._kind.fetch(source, current, status)
        status.delete(ConditionType.FETCH_FAILED)
        if isinstance(fetched, Unchanged):
            self._in_storage(status, fetched.stored)
            return Told(fetched.told, fetched.recovered, is_new=False)
        is_new = await self._store(key, fetched, status)
        return Told(f"artifact up-to-date with remote revision: '{fetched.revision}'", fetched.told, is_new)

    async def _stored(self, key: ObjectKey, status: StatusSession) -> Artifact | None:
        """The artifact that is recorded and really there (the storage step of `spec/source.md` 2.2)."""
        store = self._parts.store
        recorded = get_in(status.fields, "artifact")
        current = msgspec.convert(recorded, Artifact) if recorded else None
        try:
            await store.collect(key, current)
            is_there = current is not None and await store.verify(key, current)
        except StoreError as error:
            raise SourceError(
                ConditionType.STORAGE_OPERATION_FAILED, Reason.STAT_OPERATION_FAILED, str(error)
            ) from error
        if current is not None and is_there:
            status.fields["artifact"] = dict(recorded) | {"url": store.url(current.path)}
            return current
        message = "building artifact" if current is None else "building artifact: disappeared from storage"
        status.fields.pop("artifact", None)
        status.delete(ConditionType.ARTIFACT_IN_STORAGE)
        building(status, message)
        return None

    async def _store(self, key: ObjectKey, fetched: Fetched, status: StatusSession) -> bool:
        """Put the files into the storage and the artifact into the status; True when its bytes are new."""
        try:
            artifact = await self._parts.store.put(key, fetched.revision, fetched.file_name, fetched.tree)
        except StoreError as error:
            message = f"unable to archive artifact to storage: {error}"
            raise SourceError(
                ConditionType.STORAGE_OPERATION_FAILED, Reason.ARCHIVE_OPERATION_FAILED, message
            ) from error
        old = status.obj.get("status", {}).get("artifact") or {}
        status.fields["artifact"] = artifact.to_builtins()
        for name, value in fetched.observed.items():
            if value is None:
                status.fields.pop(name, None)
            else:
                status.fields[name] = value
        self._in_storage(status, fetched.stored)
        return old.get("digest") != artifact.digest

    def _in_storage(self, status: StatusSession, message: str) -> None:
        status.delete(ConditionType.ARTIFACT_OUTDATED, ConditionType.STORAGE_OPERATION_FAILED)
        status.mark(ConditionType.ARTIFACT_IN_STORAGE, "True", Reason.SUCCEEDED, message)

    # -- the end of a run --------------------------------------------------------------------------------------

    def _conclude(self, status: StatusSession) -> None:
        status.delete(ConditionType.RECONCILING, ConditionType.STALLED)
        status.fields["observedGeneration"] = status.generation
        status.handled()
        status.summarise(self._kind.model.SUMMARISED)

    async def _conclude_failed(self, status: StatusSession, error: ReconcileError) -> None:
        """The table of `spec/source.md` 2.3, and the event of a failure."""
        if isinstance(error, SourceError):
            status.mark(error.condition, "True", error.reason, error.message)
        if _stalls(error):
            status.mark_stalled(error.reason, error.message)
            status.fields["observedGeneration"] = status.generation
        else:
            status.delete(ConditionType.STALLED)
            status.conditions = status.retrying()
        status.handled()
        status.summarise(self._kind.model.SUMMARISED)
        self._event(status.obj, "Trace" if isinstance(error, WaitError) else "Warning", error.reason, error.message)
        await status.finish()

    async def _conclude_suspended(self, status: StatusSession) -> None:
        status.handled()
        if status.conditions:
            status.fields["observedGeneration"] = status.generation
            status.observe(ConditionType.READY)
            status.delete(ConditionType.STALLED)
        await status.finish()

    def _tell(self, key: ObjectKey, status: StatusSession, told: Told, before: set[str]) -> None:
        """The events of a good run (`spec/source.md` 2.6); that nothing moved is told only to those who asked."""
        artifact = status.fields["artifact"]
        annotations = {
            f"{SOURCE_GROUP}/revision": str(artifact["revision"]),
            f"{SOURCE_GROUP}/digest": str(artifact["digest"]),
        }
        if told.is_new:
            log.info(told.stored)
            self._event(status.obj, "Normal", Reason.NEW_ARTIFACT, told.stored, annotations)
        elif before.intersection(_FAILURES):
            log.info(told.stored)
            self._event(status.obj, "Normal", Reason.SUCCEEDED, told.stored, annotations)
        elif status.requested_at is not None and status.requested_at != get_in(
            status.obj, "status", "lastHandledReconcileAt"
        ):
            reason = Reason.GIT_OPERATION_SUCCEEDED if key.kind == "GitRepository" else Reason.ARTIFACT_UP_TO_DATE
            self._event(status.obj, "Trace", reason, told.unchanged)

    async def _finalize(self, key: ObjectKey, obj: Obj) -> Result:
        """Drop the artifacts, then let the object go; also when it is suspended, or cannot be read."""
        try:
            dropped = await self._parts.store.drop(key)
        except StoreError as error:
            message = f"garbage collection for deleted resource failed: {error}"
            self._event(obj, "Warning", Reason.GARBAGE_COLLECTION_FAILED, message)
            raise RetryError(Reason.GARBAGE_COLLECTION_FAILED, message) from error
        if dropped:
            text = "garbage collected artifacts for deleted resource"
            self._event(obj, "Trace", Reason.GARBAGE_COLLECTION_SUCCEEDED, text)
        if FINALIZER in get_in(obj, "metadata", "finalizers", default=[]):
            await self._parts.status.remove_finalizer(obj)
        self._parts.status.forget(obj)
        return Result()

    def _event(
        self,
        obj: Obj,
        event_type: EventType,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        self._parts.recorder.event(SOURCE_COMPONENT, obj, event_type, reason, message, annotations)


def building(status: StatusSession, message: str) -> None:
    """A new artifact is being made: say so if it takes long."""
    status.mark_reconciling(Reason.PROGRESSING, message)
    status.mark(ConditionType.READY, "Unknown", Reason.PROGRESSING, message)
    status.progress()


def outdated(status: StatusSession, reason: str, what: str) -> None:
    """The remote has something else than what is stored (`spec/source.md` 3.4)."""
    if get_in(status.fields, "artifact") is not None:
        status.mark(ConditionType.ARTIFACT_OUTDATED, "True", reason, what)
    building(status, f"building artifact: {what}")


def _stalls(error: ReconcileError) -> bool:
    return isinstance(error, StallError) or (isinstance(error, SourceError) and error.stalls)


def _outcome(error: ReconcileError) -> ReconcileError:
    """What the queue is told: a source error retries with a growing delay, or waits for a change of the object."""
    if not isinstance(error, SourceError):
        return error
    kind = StallError if error.stalls else RetryError
    return kind(error.reason, error.message)
