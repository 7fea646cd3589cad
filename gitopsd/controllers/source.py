"""The source controller: one pipeline for every kind of source, one `SourceKind` for what differs.

The pipeline owns what all have in common (`spec/source.md` 2): due or not, storage, conditions, events, requeue, and
the announcement to consumers, which comes only after the status was written. A kind knows its protocol and its words:
how to see cheaply what the remote has, how to fetch it, and what to say about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec
import structlog

from gitopsd.api import conditions
from gitopsd.api.meta import FINALIZER, SOURCE_COMPONENT, SOURCE_GROUP, Artifact, ConditionType, Reason
from gitopsd.api.resource import DecodeError, Resource
from gitopsd.artifact.store import ArtifactStore, Step, StoreError
from gitopsd.artifact.tree import FileTree
from gitopsd.controllers import broken
from gitopsd.controllers.secrets import Secrets
from gitopsd.engine import Engine
from gitopsd.errors import GitopsdError, ReconcileError, RetryError, StallError, WaitError
from gitopsd.fetch.cloud.tokens import CloudTokens
from gitopsd.fetch.helmindex import Indexes
from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.imageverify import ImageVerifier
from gitopsd.fetch.registry import Registry
from gitopsd.krm.objects import Obj, ObjectKey, get_in, key_of
from gitopsd.kube.client import KubeClient
from gitopsd.kube.informer import Informer
from gitopsd.kube.lister import Lister
from gitopsd.runtime.controller import OutdatedError, Result, Run, jittered
from gitopsd.runtime.recorder import EventType, Recorder
from gitopsd.runtime.status import StatusOwner, StatusSession
from gitopsd.settings import Settings
from gitopsd.tasks import TaskScope, offload

log = structlog.get_logger()

S = TypeVar("S", bound=Resource)
S_contra = TypeVar("S_contra", bound=Resource, contravariant=True)

# A remote that has not given everything after so long (seconds) keeps no other source waiting.
_PATIENCE = 2.0
_NOT_STORED = "unable to archive artifact to storage"


@dataclass(frozen=True)
class Services:
    """What the kinds of sources work with; one for the whole source controller."""

    client: KubeClient
    settings: Settings
    store: ArtifactStore
    engine: Engine
    recorder: Recorder
    web: HttpClient
    secrets: Secrets
    registry: Registry
    indexes: Indexes
    cloud: CloudTokens
    verifier: ImageVerifier
    listers: Mapping[str, Lister[Obj]]  # by kind

    def event(self, obj: Obj, event_type: EventType, reason: str, message: str) -> None:
        """Tell something about an object besides what the pipeline tells."""
        self.recorder.event(SOURCE_COMPONENT, obj, event_type, reason, message, None)


@dataclass(frozen=True)
class Fetched:
    """What a fetch brought, how it is called, and what is said about it.

    A tree is stored as an archive, bytes as they are; a path is a file of `ArtifactStore.spool`, which the store takes.
    """

    revision: str
    file_name: str
    content: FileTree | bytes | Path
    stored: str  # message of ArtifactInStorage
    told: str  # message of the event
    reason: str = Reason.SUCCEEDED  # of ArtifactInStorage
    event_reason: str = Reason.NEW_ARTIFACT
    recovered_reason: str = Reason.SUCCEEDED  # of the event when only a failure ended, and the bytes are the same
    observed: Mapping[str, object] = field(default_factory=dict)  # status fields that go with the new artifact
    metadata: Mapping[str, str] = field(default_factory=dict)
    not_stored: str = _NOT_STORED  # begins the message when the storage fails
    age: float = 0.0  # seconds since the remote was looked at; the next look is due that much sooner


class Unchanged(NamedTuple):
    """The remote has what is stored already."""

    stored: str  # message of ArtifactInStorage
    told: str  # message of the event that says so
    recovered: str  # message of the event when the run before had failed
    reason: str = Reason.SUCCEEDED  # of ArtifactInStorage
    told_reason: str = Reason.ARTIFACT_UP_TO_DATE
    event_reason: str = Reason.SUCCEEDED  # of the event when the run before had failed
    age: float = 0.0  # seconds since the remote was looked at; the next look is due that much sooner


class Told(NamedTuple):
    """What the event of a good run may say: that something was stored, that a failure ended, that nothing moved.

    `age` is how old (seconds) the look at the remote is.
    """

    new: tuple[str, str] | None
    recovered: tuple[str, str]
    unchanged: tuple[str, str]
    age: float


class SourceKind(Protocol[S_contra]):
    """One kind of source: its protocol and its words."""

    @property
    def model(self) -> type[Resource]:
        """The kind's type."""

    @property
    def link(self) -> str:
        """The name beside the artifact that always stands for the newest one; empty for none."""

    @property
    def failures(self) -> tuple[ConditionType, ...]:
        """The conditions whose end is worth an event (`spec/source.md` 2.6)."""

    def is_static(self, source: S_contra) -> bool:
        """Whether the object is only data for others: nothing is fetched, and its status is empty."""

    async def fetch(self, source: S_contra, current: Artifact | None, status: StatusSession) -> Fetched | Unchanged:
        """Fetch what the source points at, unless `current` is just that.

        Raises `SourceError` for what ends in a condition.
        """


@runtime_checkable
class Restoring(Protocol[S_contra]):
    """A kind that can fetch again just what an artifact was made of."""

    async def restore(self, source: S_contra, artifact: Artifact, obj: Obj) -> Fetched | None:
        """Fetch the artifact's revision as it was made then, whatever the object asks for now; None if it cannot be.

        Raises `SourceError`.
        """


@runtime_checkable
class Remembering(Protocol):
    """A kind that keeps something of each source between runs."""

    def forget(self, key: ObjectKey) -> None:
        """Keep nothing of a source that is gone."""


class SourceError(ReconcileError):
    """A run that failed with a condition of its own; without one, Ready tells only that it will be tried again.

    It is tried again with a growing delay, unless it `stalls`, or `waits` so many seconds because nothing is wrong.
    `again_in` (seconds) replaces the growing delay. A `quiet` one is told by no event. `told` is what the event and
    the Stalled condition say where they differ from the condition: reason and message.
    """

    def __init__(
        self,
        condition: ConditionType | None,
        reason: str,
        message: str,
        *,
        stalls: bool = False,
        waits: float | None = None,
        again_in: float | None = None,
        quiet: bool = False,
        told: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message)
        self.condition = condition
        self.stalls = stalls
        self.waits = waits
        self.again_in = again_in
        self.quiet = quiet
        self.told = told or (reason, self.message)

    @property
    def outcome(self) -> ReconcileError:
        """What the queue is told."""
        reason, message = self.told
        if self.stalls:
            return StallError(reason, message)
        if self.waits is not None:
            return WaitError(reason, message, again_in=self.waits)
        return RetryError(reason, message, again_in=self.again_in)


@dataclass(frozen=True)
class Parts:
    """What the controller of one kind works with."""

    informer: Informer[Obj]
    store: ArtifactStore
    recorder: Recorder
    status: StatusOwner
    tasks: TaskScope
    settings: Settings


class SourceFollower:
    """Knows of sources which news of other sources they have seen, for `runtime.triggers`."""

    _WAITING = frozenset((Reason.NO_SOURCE_ARTIFACT, Reason.SOURCE_UNAVAILABLE, Reason.NO_ARTIFACT, Reason.NOT_FOUND))

    def __init__(self, parts: Parts, has_seen: Callable[[Obj, str], bool]) -> None:
        """`has_seen(obj, revision)` tells whether the object's status speaks of that revision already."""
        self._parts = parts
        self._has_seen = has_seen

    def has_attempted(self, key: ObjectKey, revision: str) -> bool:
        """Whether the status of `key` speaks of `revision` already; who waits for something takes any news."""
        obj = self._newest(key)
        return obj is not None and self._has_seen(obj, revision) and not self.waits_for_dependency(key)

    def waits_for_dependency(self, key: ObjectKey) -> bool:
        """Whether the last run of `key` ended because something it needs was not there."""
        found = get_in(self._newest(key), "status", "conditions")
        rows = found if isinstance(found, list) else []
        return any(get_in(row, "status") == "True" and get_in(row, "reason") in self._WAITING for row in rows)

    def _newest(self, key: ObjectKey) -> Obj | None:
        cached = self._parts.informer.lister.get(key)
        return None if cached is None else self._parts.status.newest(cached)


class SourceReconciler(Generic[S]):
    """Reconciles the sources of one kind."""

    def __init__(self, kind: SourceKind[S], parts: Parts) -> None:
        self._kind = kind
        self._parts = parts
        # When a source that was content began to wait for another one (`_is_untold`).
        self._awaited_since: dict[ObjectKey, float] = {}

    async def reconcile(self, run: Run) -> Result:
        """Bring the artifact to what the source points at (`spec/source.md` 2.2).

        What went without its finalizer leaves nothing either: who comes under its name begins with nothing (O04, O05).
        """
        if self._parts.store.is_withdrawn(run.key):
            await self._drop(run.key)
        seen = self._uid(run.key)
        try:
            return await self._reconcile(run)
        except OutdatedError:
            log.info("given up for a newer generation")
            return Result()
        finally:
            if run.is_gone and self._uid(run.key) != seen:
                await self._drop(run.key)

    async def _reconcile(self, run: Run) -> Result:
        parts = self._parts
        cached = parts.informer.lister.get(run.key)
        if cached is None:
            run.gone()
            return Result()
        obj = parts.status.newest(cached)
        if get_in(obj, "metadata", "deletionTimestamp") is not None:
            return await self._finalize(run.key, obj)
        try:
            source: S = self._kind.model.from_object(obj)  # type: ignore[assignment]  # the kind's model is S
        except DecodeError as error:
            await broken.report(obj, error, parts.status, parts.recorder, parts.tasks, component=SOURCE_COMPONENT)
        if self._kind.is_static(source):
            return await self._rest(run.key, obj)
        if not source.metadata.has_finalizer:
            obj = await parts.status.add_finalizer(obj)
        async with parts.status.session(obj, parts.tasks) as status:
            if get_in(obj, "spec", "suspend"):
                log.info("reconciliation is suspended for this object")
                await self._conclude_suspended(status)
                return await self._restore(run, source, status)
            before = status.conditions
            self._begin(status)
            try:
                told = await self._attempt(run, source, status)
            except (GitopsdError, OSError) as problem:
                failure = problem if isinstance(problem, ReconcileError) else _unforeseen(problem)
                await self._conclude_failed(status, failure)
                raise (failure.outcome if isinstance(failure, SourceError) else failure) from problem
            self._awaited_since.pop(run.key, None)
            self._conclude(status)
            await status.finish()
        if status.is_gone or run.is_gone:
            return Result()
        self._tell(status, told, {condition.type for condition in before if condition.is_true})
        self._parts.store.announce(run.key)
        interval: float = source.spec.interval_seconds  # type: ignore[attr-defined]
        if interval <= 0:
            return Result()
        pause = jittered(interval, parts.settings.interval_jitter_percentage)
        return Result(again_in=max(pause - told.age, 0.0))

    def _is_untold(self, key: ObjectKey, failure: ReconcileError, status: StatusSession) -> bool:
        """Whether to keep to ourselves for a while that another source has nothing.

        After a restart, sources fetch what was lost; who was content with it stays so meanwhile.
        """
        if not isinstance(failure, SourceError) or not failure.quiet:
            self._awaited_since.pop(key, None)
            return False
        now = time.monotonic()
        seconds = now - self._awaited_since.setdefault(key, now)
        seen = status.obj.get("status") or {}
        ready = conditions.get(conditions.decode(seen.get("conditions")), ConditionType.READY)
        was_ready = ready is not None and ready.is_true
        is_current = seen.get("observedGeneration") == status.generation
        return (
            was_ready
            and is_current
            and not status.is_requested
            and seconds < self._parts.settings.requeue_dependency / 2
        )

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
        if observed != status.generation or status.is_requested:
            status.progress()

    async def _attempt(self, run: Run, source: S, status: StatusSession) -> Told:
        current = await self._stored(run.key, status)
        async with run.lending_slot(_PATIENCE, lambda: self._is_outdated(run.key, status)):
            fetched = await self._kind.fetch(source, current, status)
        status.delete(ConditionType.FETCH_FAILED)
        if isinstance(fetched, Unchanged):
            self._in_storage(status, fetched.reason, fetched.stored)
            unmoved = fetched.told_reason, fetched.told
            return Told(None, (fetched.event_reason, fetched.recovered), unmoved, fetched.age)
        is_new = await self._store(run.key, fetched, status)
        unchanged = f"artifact up-to-date with remote revision: '{fetched.revision}'"
        return Told(
            (fetched.event_reason, fetched.told) if is_new else None,
            (fetched.recovered_reason, fetched.told),
            (Reason.ARTIFACT_UP_TO_DATE, unchanged),
            fetched.age,
        )

    async def _stored(self, key: ObjectKey, status: StatusSession) -> Artifact | None:
        """The artifact that is recorded and really there (the storage step of `spec/source.md` 2.2)."""
        store = self._parts.store
        recorded = get_in(status.fields, "artifact")
        current = self._newest(key, msgspec.convert(recorded, Artifact)) if recorded else None
        try:
            is_there = await self._swept(key, current, status.obj)
        except StoreError as error:
            raise SourceError(
                ConditionType.STORAGE_OPERATION_FAILED, Reason.STAT_OPERATION_FAILED, str(error)
            ) from error
        if current is not None and is_there:
            status.fields["artifact"] = current.to_builtins() | {"url": store.url(current.path)}
            if self._kind.link:
                status.fields["url"] = store.link_url(key, self._kind.link)
            return current
        message = "building artifact" if current is None else "building artifact: disappeared from storage"
        status.fields.pop("artifact", None)
        if self._kind.link:
            status.fields.pop("url", None)
        status.delete(ConditionType.ARTIFACT_IN_STORAGE)
        building(status, message)
        return None

    def _newest(self, key: ObjectKey, recorded: Artifact) -> Artifact:
        """The recorded artifact, or the one that took its file when the status could not be written."""
        latest = self._parts.store.latest(key)
        return latest if latest is not None and latest.path == recorded.path else recorded

    async def _swept(self, key: ObjectKey, current: Artifact | None, obj: Obj) -> bool:
        """Remove what is too old, and tell whether the artifact is there as it was made. Raises StoreError."""
        store = self._parts.store
        collected = await store.collect(key, current)
        if collected:
            text = f"garbage collected {collected} artifacts"
            self._event(obj, "Trace", Reason.GARBAGE_COLLECTION_SUCCEEDED, text)
        if current is None:
            return False
        has_file = await offload(store.path, current) is not None
        if await store.verify(key, current):
            return True
        if has_file:
            text = f"failed to verify integrity of artifact: computed digest doesn't match '{current.digest}'"
            self._event(obj, "Warning", Reason.ARTIFACT_VERIFICATION_FAILED, text)
        return False

    async def _store(self, key: ObjectKey, fetched: Fetched, status: StatusSession) -> bool:
        """Put the files into the storage and the artifact into the status; True when its bytes are new."""
        try:
            artifact = await self._put(key, fetched)
        except StoreError as error:
            raise _storage_failure(error, fetched) from error
        old = status.obj.get("status", {}).get("artifact") or {}
        status.fields["artifact"] = artifact.to_builtins()
        for name, value in fetched.observed.items():
            if value is None:
                status.fields.pop(name, None)
            else:
                status.fields[name] = value
        self._in_storage(status, fetched.reason, fetched.stored)
        if self._kind.link:
            await self._link(key, artifact, status)
        return old.get("digest") != artifact.digest

    async def _put(self, key: ObjectKey, fetched: Fetched) -> Artifact:
        store = self._parts.store
        content, name = fetched.content, fetched.file_name
        if isinstance(content, Path):
            try:
                return await store.put_file(key, fetched.revision, name, content, metadata=fetched.metadata)
            finally:
                await store.give_up(content)
        if isinstance(content, bytes):
            return await store.put_bytes(key, fetched.revision, name, content, metadata=fetched.metadata)
        return await store.put(key, fetched.revision, name, content, metadata=fetched.metadata)

    async def _link(self, key: ObjectKey, artifact: Artifact, status: StatusSession) -> None:
        """Let the newest artifact be found under a name that stays; best effort, as upstream."""
        try:
            status.fields["url"] = await self._parts.store.link(key, artifact, self._kind.link)
        except StoreError as error:
            text = f"failed to update status URL symlink: {error}"
            self._event(status.obj, "Trace", Reason.SYMLINK_UPDATE_FAILED, text)

    def _in_storage(self, status: StatusSession, reason: str, message: str) -> None:
        status.delete(ConditionType.ARTIFACT_OUTDATED, ConditionType.STORAGE_OPERATION_FAILED)
        status.mark(ConditionType.ARTIFACT_IN_STORAGE, "True", reason, message)

    # -- the end of a run --------------------------------------------------------------------------------------

    def _conclude(self, status: StatusSession) -> None:
        status.delete(ConditionType.RECONCILING, ConditionType.STALLED)
        status.fields["observedGeneration"] = status.generation
        status.handled()
        status.summarise(self._kind.model.SUMMARISED)

    async def _conclude_failed(self, status: StatusSession, error: ReconcileError) -> None:
        """The table of `spec/source.md` 2.3, and the event of a failure."""
        if self._is_untold(key_of(status.obj), error, status):
            return
        reason, message = error.reason, error.message
        is_quiet, is_waiting = False, isinstance(error, WaitError)
        if isinstance(error, SourceError):
            if error.condition is not None:
                status.mark(error.condition, "True", error.reason, error.message)
            reason, message = error.told
            is_quiet, is_waiting = error.quiet, error.waits is not None
        if _stalls(error):
            status.mark_stalled(reason, message)
            status.fields["observedGeneration"] = status.generation
        else:
            status.delete(ConditionType.STALLED)
            status.conditions = status.retrying()
        status.handled()
        status.summarise(self._kind.model.SUMMARISED)
        if not is_quiet:
            self._event(status.obj, "Trace" if is_waiting else "Warning", reason, message)
        await status.finish()

    async def _conclude_suspended(self, status: StatusSession) -> None:
        status.handled()
        if status.conditions:
            status.fields["observedGeneration"] = status.generation
            status.observe(ConditionType.READY)
            status.delete(ConditionType.STALLED)
        await status.finish()

    async def _restore(self, run: Run, source: S, status: StatusSession) -> Result:
        """Have again what a restart lost: a suspended source is not looked at, but what it has is still used."""
        store, key = self._parts.store, run.key
        recorded = get_in(status.fields, "artifact")
        if not recorded:
            return Result()
        artifact = msgspec.convert(recorded, Artifact)
        try:
            if not await store.verify(key, artifact):
                async with run.lending_slot(_PATIENCE):
                    fetched = await self._again(source, artifact, status.obj)
                if fetched is None or not await self._is_restored(key, fetched, artifact, status):
                    return Result()
        except (ReconcileError, StoreError) as error:
            message = f"the artifact of a suspended source cannot be restored: {error}"
            raise RetryError(Reason.STAT_OPERATION_FAILED, message) from error
        store.announce(key)
        return Result()

    async def _again(self, source: S, artifact: Artifact, obj: Obj) -> Fetched | None:
        """Just what the artifact was made of: as the kind knows how, or by looking whether that is still there."""
        if isinstance(self._kind, Restoring):
            return await self._kind.restore(source, artifact, obj)
        unseen = self._parts.status.scratch(obj, self._parts.tasks)
        found = await self._kind.fetch(source, None, unseen)
        return found if isinstance(found, Fetched) and found.revision == artifact.revision else None

    async def _is_restored(self, key: ObjectKey, fetched: Fetched, artifact: Artifact, status: StatusSession) -> bool:
        """Store what was fetched again. Other bytes of that revision will do only if the revision names the content."""
        made = await self._put(key, fetched)
        if made.digest == artifact.digest:
            return True
        if not isinstance(self._kind, Restoring):
            await self._parts.store.drop(key)
            return False
        status.fields["artifact"] = made.to_builtins()
        await status.finish()
        return True

    def _tell(self, status: StatusSession, told: Told, before: set[str]) -> None:
        """The events of a good run (`spec/source.md` 2.6); that nothing moved is told only to those who asked."""
        artifact = status.fields["artifact"]
        annotations = {
            f"{SOURCE_GROUP}/revision": str(artifact["revision"]),
            f"{SOURCE_GROUP}/digest": str(artifact["digest"]),
        }
        if told.new is not None:
            log.info(told.new[1])
            self._event(status.obj, "Normal", *told.new, annotations)
        elif before.intersection(self._kind.failures):
            log.info(told.recovered[1])
            self._event(status.obj, "Normal", *told.recovered, annotations)
        elif status.is_requested:
            self._event(status.obj, "Trace", *told.unchanged)

    async def _rest(self, key: ObjectKey, obj: Obj) -> Result:
        """An object that is only data: nothing of ours stays on it (`spec/source.md` 7.3)."""
        parts = self._parts
        if get_in(obj, "spec", "suspend"):
            return Result()
        await self._drop(key)
        async with parts.status.session(obj, parts.tasks) as status:
            status.fields.clear()
            status.conditions = ()
            await status.finish()
        obj = parts.status.newest(obj)
        if FINALIZER in get_in(obj, "metadata", "finalizers", default=[]):
            await parts.status.remove_finalizer(obj)
        return Result()

    def _is_outdated(self, key: ObjectKey, status: StatusSession) -> bool:
        """Whether somebody wants something else by now, or nothing any more: a server that hangs holds up no fix."""
        newest = self._parts.informer.lister.get(key)
        return newest is None or int(get_in(newest, "metadata", "generation", default=0)) > status.generation

    def _uid(self, key: ObjectKey) -> str:
        return str(get_in(self._parts.informer.lister.get(key), "metadata", "uid", default=""))

    async def _drop(self, key: ObjectKey) -> int:
        """Keep nothing of a source, on disk or in memory; returns how many files there were. Raises RetryError."""
        self._awaited_since.pop(key, None)
        if isinstance(self._kind, Remembering):
            self._kind.forget(key)
        try:
            return await self._parts.store.drop(key)
        except StoreError as error:
            raise RetryError(Reason.GARBAGE_COLLECTION_FAILED, str(error)) from error

    async def _finalize(self, key: ObjectKey, obj: Obj) -> Result:
        """Drop the artifacts, then let the object go; also when it is suspended, or cannot be read."""
        try:
            dropped = await self._drop(key)
        except RetryError as error:
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


def _unforeseen(problem: GitopsdError | OSError) -> RetryError:
    """What no kind has words for fails the run as anything else does; of the system's errors only what is no path."""
    text = (problem.strerror or "no answer in time") if isinstance(problem, OSError) else str(problem)
    return RetryError(Reason.FAILED, text)


def _storage_failure(error: StoreError, fetched: Fetched) -> SourceError:
    """The conditions of a storage that fails (`spec/source.md` 5.7)."""
    if error.step is Step.DIRECTORY:
        reason, what = Reason.DIRECTORY_CREATION_FAILED, "failed to create artifact directory"
    else:
        reason, what = Reason.ARCHIVE_OPERATION_FAILED, fetched.not_stored
    return SourceError(ConditionType.STORAGE_OPERATION_FAILED, reason, f"{what}: {error}")
