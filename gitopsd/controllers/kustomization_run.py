"""One run over one Kustomization: from its source to the verdict, as `spec/kustomize.md` 3.1 numbers the steps.

A part of the Kustomization controller. A run that ends early raises what ended it; everything it found out by then is
in the status session. It reads from the caches and the artifact store and writes to the API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from gitopsd.api.conditions import is_ready
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.meta import (
    KUSTOMIZE_GROUP,
    ORIGIN_REVISION,
    SOURCE_GROUP,
    Artifact,
    ConditionType,
    Reason,
    format_duration,
    rfc3339,
)
from gitopsd.api.resource import DecodeError
from gitopsd.apply.changes import Action, ApplyError, ChangeSet
from gitopsd.apply.control import EncryptedSecretError, Owner, require_decrypted, with_metadata, with_owner
from gitopsd.apply.health import HealthError, targets_of, ttl_jobs
from gitopsd.apply.inventory import InventoryEntry, stale, union
from gitopsd.apply.wait import Target
from gitopsd.artifact.store import ArtifactMissingError
from gitopsd.artifact.tree import FileTree, clamp_path
from gitopsd.controllers.dependency_cycle import cycle
from gitopsd.controllers.kustomization_context import (
    NOT_SUPPORTED,
    ArtifactAwaitedError,
    Memory,
    Parts,
    QuietError,
    artifact_of,
    source_key,
    unsupported,
)
from gitopsd.controllers.kustomization_inventory import Inventories, store
from gitopsd.errors import GitopsdError, ReconcileError, RetryError, StallError, WaitError, presentable
from gitopsd.fetch.foreign import NotThereError
from gitopsd.krm.objects import GVK, Obj, ObjectKey, get_in
from gitopsd.kube.discovery import Resource
from gitopsd.kube.errors import ApiError, NotFoundError, UnreachableError
from gitopsd.kustomize.build import RefusedError, Rendered, RenderError
from gitopsd.runtime.controller import Result, Run, jittered
from gitopsd.runtime.recorder import EventType
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import first

log = structlog.get_logger()

_HISTORY_LENGTH = 5
# A server that has not given an artifact after so long (seconds) keeps no other Kustomization waiting.
_PATIENCE = 2.0
_EMPTY = "EmptyBuild"
_COMMIT_STATUS = f"{KUSTOMIZE_GROUP}/commit_status"


class Attempt:
    """One run over one Kustomization that is neither suspended nor to be deleted."""

    def __init__(
        self,
        parts: Parts,
        memory: Memory,
        inventories: Inventories,
        run: Run,
        kustomization: Kustomization,
        status: StatusSession,
    ) -> None:
        self._parts = parts
        self._memory = memory
        self._inventories = inventories
        self._settings = parts.settings
        self._run = run
        self._kustomization = kustomization
        self._spec = kustomization.spec
        self._status = status
        self._obj = status.obj
        self._retry = kustomization.spec.retry_seconds
        self._timeout = kustomization.spec.effective_timeout
        self._revision = ""
        self._origin = ""
        self._digest = ""
        self._owned_before: tuple[InventoryEntry, ...] = ()

    async def run(self) -> Result:
        """From the source to the verdict. Raises the error that ends the run early."""
        self._refuse_unsupported()
        source, artifact = await self._require_source()
        self._revision = artifact.revision
        # From here on the news of this revision, which may come twice, wakes nobody for a second run.
        self._memory.attempts(self._run.key, self._revision)
        self._origin = artifact.metadata.get(ORIGIN_REVISION, "")
        await self._require_dependencies(source)
        try:
            await self._reconcile_revision(artifact)
        except StallError as error:
            self._tell("Warning", error.message, reason=error.reason)
            raise
        except WaitError:
            raise
        except ReconcileError as error:
            if error.reason != Reason.HEALTH_CHECK_CANCELED:
                self._tell("Warning", error.message, reason=error.reason)
            raise
        if self._status.get(ConditionType.READY) is None or not is_ready(self._status.conditions):
            return Result()  # given up for newer work, which is waiting already
        return self._succeeded()

    def _succeeded(self) -> Result:
        interval = self._spec.interval_seconds
        took = format_duration(self._run.elapsed)
        message = f"Reconciliation finished in {took}, next run in {format_duration(interval)}"
        log.info(message, revision=self._revision)
        self._tell("Normal", message, reason=Reason.RECONCILIATION_SUCCEEDED, **{_COMMIT_STATUS: "update"})
        return Result(again_in=jittered(interval, self._settings.interval_jitter_percentage))

    def _tell(self, event_type: EventType, message: str, *, reason: str = Reason.PROGRESSING, **more: str) -> None:
        self._parts.tell(self._obj, event_type, reason, message, self._revision, self._origin, **more)

    # -- before the work ---------------------------------------------------------------------------------------

    def _refuse_unsupported(self) -> None:
        asked = unsupported(self._kustomization, self._settings)
        if asked:
            message = f"{asked} is not supported yet"
            self._status.fields["observedGeneration"] = self._status.generation
            self._parts.tell(self._obj, "Warning", NOT_SUPPORTED, message)
            raise StallError(NOT_SUPPORTED, message)

    def _refuse_other_namespace(self, kind: str, namespace: str, name: str) -> None:
        if self._settings.no_cross_namespace_refs and namespace != self._kustomization.metadata.namespace:
            message = f"can't access '{kind}/{namespace}/{name}', cross-namespace references have been blocked"
            self._parts.tell(self._obj, "Warning", Reason.ACCESS_DENIED, message)
            raise StallError(Reason.ACCESS_DENIED, message)

    async def _require_source(self) -> tuple[ObjectKey, Artifact]:
        """The source and its artifact (`spec/kustomize.md` 3.1 step 7, 2.3)."""
        reference = self._spec.source_ref
        namespace = reference.namespace or self._kustomization.metadata.namespace
        self._refuse_other_namespace(reference.kind, namespace, reference.name)
        if reference.kind == "ExternalArtifact" and not self._settings.feature_gates["ExternalArtifact"]:
            shown = f"ExternalArtifact/{namespace}/{reference.name}"
            message = f"can't access '{shown}', ExternalArtifact feature gate is disabled"
            self._parts.tell(self._obj, "Warning", Reason.ACCESS_DENIED, message)
            raise StallError(Reason.ACCESS_DENIED, message)
        key = ObjectKey(SOURCE_GROUP, reference.kind, namespace, reference.name)
        self._memory.looks(self._run.key, is_looking=False)
        artifact = self._newest_artifact(key) or artifact_of(await self._source(key))
        if artifact is None:
            pause = self._settings.requeue_dependency
            message = f"Source artifact not found, retrying in {format_duration(pause)}"
            raise ArtifactAwaitedError(Reason.ARTIFACT_FAILED, message, again_in=pause)
        return key, artifact

    def _newest_artifact(self, key: ObjectKey) -> Artifact | None:
        """What the source's own status tells of: as announced, or as the cache heard a moment before that."""
        store, informer = self._parts.store, self._parts.sources.get(key.kind)
        latest, source = store.latest(key), informer.lister.get(key) if informer is not None else None
        cached = artifact_of(source) if source is not None else None
        if latest is not None and cached is not None and cached.digest == latest.digest:
            return latest
        return store.announced(key)

    async def _source(self, key: ObjectKey) -> Obj:
        """The source object. Raises QuietError when there is none."""
        informer = self._parts.sources.get(key.kind)
        if informer is None:
            message = f"source `{key.name}` kind '{key.kind}' not supported"
            raise RetryError(Reason.ARTIFACT_FAILED, message)
        source = informer.lister.get(key)
        if source is None and self._settings.watched_namespace not in (None, key.namespace):
            source = await self._read(informer.resource.path(key.namespace, key.name))
        if source is None:
            # controller-runtime's cache words it this way, with the kind where the API server has the plural.
            message = f'{key.kind}.{SOURCE_GROUP} "{key.name}" not found'
            log.info(f"Source '{key.kind}/{key.path}' not found")
            raise QuietError(Reason.ARTIFACT_FAILED, message, again_in=self._retry)
        return source

    async def _read(self, path: str) -> Obj | None:
        try:
            return await self._parts.client.get(path)
        except NotFoundError:
            return None

    async def _require_dependencies(self, source: ObjectKey) -> None:
        """Every dependency must be ready, and as new as this run (`spec/kustomize.md` 3.3)."""
        for reference in self._spec.depends_on:
            namespace = reference.namespace or self._kustomization.metadata.namespace
            key = ObjectKey(KUSTOMIZE_GROUP, "Kustomization", namespace, reference.name)
            problem = await self._dependency_problem(key, source)
            if problem:
                pause = self._settings.requeue_dependency
                text = f"Dependencies do not meet ready condition, retrying in {format_duration(pause)}"
                log.info(text)
                self._tell("Normal", text, reason=Reason.DEPENDENCY_NOT_READY)
                message = f"dependency '{key.path}' {problem}{self._cycle(key)}"
                raise WaitError(Reason.DEPENDENCY_NOT_READY, message, again_in=pause)
        if self._spec.depends_on:
            log.info("All dependencies are ready, proceeding with reconciliation")

    def _cycle(self, through: ObjectKey) -> str:
        """What to say of a dependency that can never become ready, because it waits for this object."""
        way = cycle(self._run.key, through, self._parts.kustomizations.lister.get)
        return f", dependsOn has a cycle: {' -> '.join(key.path for key in way)}" if way else ""

    async def _dependency_problem(self, key: ObjectKey, source: ObjectKey) -> str:
        """What keeps a dependency from being ready, empty when nothing does."""
        informer = self._parts.kustomizations
        found = informer.lister.get(key)
        if found is None and self._settings.watched_namespace not in (None, key.namespace):
            found = await self._read(informer.resource.path(key.namespace, key.name))
        if found is None:
            return f'not found: kustomizations.{KUSTOMIZE_GROUP} "{key.name}" not found'
        try:
            dependency = Kustomization.from_object(self._parts.status.newest(found))
        except DecodeError:
            return "is not ready"
        is_current = dependency.metadata.generation == dependency.status.observed_generation
        if not is_current or not is_ready(dependency.status.conditions):
            return "is not ready"
        if source_key(dependency) == source and dependency.status.last_applied_revision != self._revision:
            return "revision is not up to date"
        return ""

    # -- the work ----------------------------------------------------------------------------------------------

    async def _reconcile_revision(self, artifact: Artifact) -> None:
        """Steps 9 to 20 of `spec/kustomize.md` 3.1."""
        status = self._status
        status.mark(ConditionType.READY, "Unknown", Reason.PROGRESSING, "Reconciliation in progress")
        self._progress("Fetching manifests")
        tree = await self._files(artifact)
        await self._recall()
        status.fields["lastAttemptedRevision"] = self._revision
        self._progress("Building manifests")
        rendered = await self._render(tree)
        self._digest = rendered.digest
        self._progress("Detecting drift")
        changes = await self._apply(rendered)
        await self._prune(changes)
        if not await self._is_healthy(changes, rendered):
            return
        self._applied()

    def _progress(self, what: str) -> None:
        text = f"{what} for revision {self._revision} with a timeout of {format_duration(self._timeout)}"
        self._status.mark_reconciling(Reason.PROGRESSING, text)
        self._status.progress()

    async def _files(self, artifact: Artifact) -> FileTree:
        try:
            tree = await self._tree(artifact)
        except (ArtifactMissingError, NotThereError) as error:
            pause = self._settings.requeue_dependency
            message = f"Source is not ready, artifact not found, retrying in {format_duration(pause)}"
            raise ArtifactAwaitedError(Reason.ARTIFACT_FAILED, message, again_in=pause) from error
        except GitopsdError as error:
            raise RetryError(Reason.ARTIFACT_FAILED, str(error), again_in=self._retry) from error
        path = clamp_path(self._spec.path)
        if path and path not in tree and path not in tree.directories():
            message = f"kustomization path not found: stat {path}: no such file or directory"
            raise RetryError(Reason.ARTIFACT_FAILED, message, again_in=self._retry)
        return tree

    async def _tree(self, artifact: Artifact) -> FileTree:
        """The artifact's files: from the store, or from the server of the controller that has them."""
        parts, key = self._parts, source_key(self._kustomization)
        informer = parts.sources.get(key.kind)
        if not parts.is_foreign(informer.lister.get(key) if informer is not None else None):
            return await parts.store.files(artifact)
        tree = parts.store.held(artifact.digest)
        if tree is None:
            async with self._run.lending_slot(_PATIENCE):
                tree = await parts.downloads.files(artifact)
            parts.store.hold(artifact.digest, tree)
        return tree

    async def _render(self, tree: FileTree) -> Rendered:
        try:
            return await self._parts.renderer.render(self._kustomization, tree, self._read_config)
        except RefusedError as error:
            raise StallError(Reason.BUILD_FAILED, str(error)) from error
        except RenderError as error:
            raise RetryError(Reason.BUILD_FAILED, str(error), again_in=self._retry) from error

    async def _read_config(self, kind: str, name: str) -> Obj | None:
        configs = Resource(GVK("", "v1", kind), "secrets" if kind == "Secret" else "configmaps", namespaced=True)
        return await self._read(configs.path(self._kustomization.metadata.namespace, name))

    async def _recall(self) -> None:
        """Know what may exist before the status tells of an attempt: from then on nobody looks for strays."""
        owner = self._parts.applier(self._kustomization).owner
        try:
            self._owned_before = await self._inventories.recall(self._status, owner)
        except (ApiError, UnreachableError) as error:
            raise RetryError(Reason.RECONCILIATION_FAILED, str(error), again_in=self._retry) from error

    async def _apply(self, rendered: Rendered) -> ChangeSet:
        applier = self._parts.applier(self._kustomization)
        try:
            require_decrypted(rendered.objects)
            wanted = [self._owned(obj, applier.owner) for obj in rendered.objects]
            changes = await applier.apply(wanted, known=self._memory.known(self._run.key), claim=self._claim)
        except (ApplyError, EncryptedSecretError, ApiError, UnreachableError) as error:
            self._keep_written(applier.touched)
            if isinstance(error, ApplyError):
                self._record(Reason.RECONCILIATION_FAILED)
            raise RetryError(Reason.RECONCILIATION_FAILED, str(error), again_in=self._retry) from error
        except asyncio.CancelledError:
            self._keep_written(applier.touched)
            raise
        self._memory.applied(self._run.key, changes)
        output = changes.output(grouped=self._settings.feature_gates["GroupChangeLog"])
        log.info("server-side apply completed", output=output, revision=self._revision)
        changed = changes.changed()
        if changed:
            self._tell("Normal", "\n".join(changed.lines()))
        return changes

    def _owned(self, obj: Obj, owner: Owner) -> Obj:
        """The object with the owner labels, then with `spec.commonMetadata` (steps 16 and 17)."""
        owned = with_owner(obj, owner)
        common = self._spec.common_metadata
        if common is None:
            return owned
        return with_metadata(owned, labels=common.labels, annotations=common.annotations)

    async def _claim(self, entries: Sequence[InventoryEntry]) -> None:
        await self._inventories.claim(self._status, entries)

    def _keep_written(self, done: ChangeSet) -> None:
        """What was written must not be lost track of because the rest was not; what was only planned is dropped."""
        entries = union(self._owned_before, done.without(Action.SKIPPED, Action.UNCHANGED).inventory())
        if entries or get_in(self._obj, "status", "inventory") is not None:
            store(self._status, entries)
        else:
            self._status.fields.pop("inventory", None)

    async def _prune(self, changes: ChangeSet) -> None:
        """Replace the inventory and delete what has left it (`spec/kustomize.md` 5)."""
        new = changes.inventory()
        gone = stale(self._owned_before, new) if self._spec.prune else ()
        # However this ends, what is not deleted yet is still named.
        store(self._status, (*new, *gone))
        if not gone:
            return
        if not new:
            # As asked, but more often than not it is a mistake (`spec/hostile-inputs.md` J30).
            self._tell("Warning", f"nothing is left to apply, all {len(gone)} objects are pruned", reason=_EMPTY)
        applier = self._parts.applier(self._kustomization)
        pruned = await applier.prune(gone)
        store(self._status, (*new, *pruned.undeleted))
        if pruned.errors:
            self._record(Reason.PRUNE_FAILED)
            raise RetryError(Reason.PRUNE_FAILED, pruned.message, again_in=self._retry)
        log.info(f"garbage collection completed: {', '.join(pruned.lines())}", revision=self._revision)
        self._tell("Normal", "\n".join(pruned.lines()))

    # -- health ------------------------------------------------------------------------------------------------

    async def _is_healthy(self, changes: ChangeSet, rendered: Rendered) -> bool:
        """Wait for health where it is asked for; False when the wait was given up for newer work."""
        wanted = self._to_check(changes)
        if not wanted:
            self._status.delete(ConditionType.HEALTHY)
            return True
        was_healthy = self._status.is_true(ConditionType.HEALTHY)
        is_new = self._status.fields.get("lastAppliedRevision") != self._revision
        self._progress("Running health checks")
        progress = self._status.get(ConditionType.RECONCILING)
        assert progress is not None
        self._status.mark(ConditionType.HEALTHY, "Unknown", Reason.PROGRESSING, progress.message)
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._run.outside_slot():
                winner = await first(self._wait(wanted, rendered), self._run.superseded.wait())
        except HealthError as error:
            self._unhealthy(str(error), loop.time() - started)
        if winner == 1:
            self._give_up()
            return False
        took = format_duration(loop.time() - started)
        self._status.mark(ConditionType.HEALTHY, "True", Reason.SUCCEEDED, f"Health check passed in {took}")
        if not was_healthy or (is_new and changes.changed()):
            self._tell("Normal", f"Health check passed in {took}")
        return True

    def _to_check(self, changes: ChangeSet) -> list[Target]:
        """Who is checked; the Kustomization itself never is (`spec/kustomize.md` 6.1)."""
        if self._spec.wait:
            found = targets_of(changes)
        else:
            live = {entry.key: entry.live for entry in changes}
            found = []
            for check in self._spec.health_checks:
                gvk = GVK.parse(check.api_version or "apps/v1", check.kind)
                key = ObjectKey(gvk.group, gvk.kind, check.namespace, check.name)
                found.append(Target(key, live.get(key), is_managed=key in live))
        return [target for target in found if target.key != self._kustomization.key]

    async def _wait(self, wanted: Sequence[Target], rendered: Rendered) -> None:
        await self._parts.waiter.wait(
            wanted,
            timeout=self._timeout,
            fail_fast=not self._settings.feature_gates["DisableFailFastBehavior"],
            ttl_jobs=ttl_jobs(rendered.objects),
        )

    def _unhealthy(self, problem: str, seconds: float) -> None:
        self._status.mark(ConditionType.HEALTHY, "False", Reason.HEALTH_CHECK_FAILED, presentable(problem))
        self._record(Reason.HEALTH_CHECK_FAILED)
        message = f"health check failed after {format_duration(seconds)}: {problem}"
        raise RetryError(Reason.HEALTH_CHECK_FAILED, message, again_in=self._retry)

    def _give_up(self) -> None:
        """Newer work has come: the old wait means nothing any more (`spec/kustomize.md` 6.5)."""
        cause = self._run.superseded_by or self._run.key.subject
        log.info("New reconciliation triggered, canceling health checks", trigger=cause)
        text = f"New reconciliation triggered by {cause}"
        self._status.mark(ConditionType.READY, "False", Reason.HEALTH_CHECK_CANCELED, text)
        self._tell(
            "Normal",
            f"Health checks canceled due to new reconciliation triggered by {cause}",
            reason=Reason.HEALTH_CHECK_CANCELED,
        )

    # -- verdict -----------------------------------------------------------------------------------------------

    def _applied(self) -> None:
        fields = self._status.fields
        fields["lastAppliedRevision"] = self._revision
        fields.pop("lastAppliedOriginRevision", None)
        if self._origin:
            fields["lastAppliedOriginRevision"] = self._origin
        text = f"Applied revision: {self._revision}"
        self._status.mark(ConditionType.READY, "True", Reason.RECONCILIATION_SUCCEEDED, text)
        self._record(Reason.RECONCILIATION_SUCCEEDED)

    def _record(self, verdict: str) -> None:
        """Put this run into the history: the last five distinct pairs of digest and status."""
        now = rfc3339(datetime.now(UTC))
        history: list[Obj] = list(self._status.fields.get("history") or [])
        metadata = {"revision": self._revision} | ({"originRevision": self._origin} if self._origin else {})
        entry: Obj = {
            "digest": self._digest,
            "firstReconciled": now,
            "lastReconciled": now,
            "lastReconciledDuration": format_duration(self._run.elapsed),
            "lastReconciledStatus": verdict,
            "totalReconciliations": 1,
            "metadata": metadata,
        }
        for index, old in enumerate(history):
            if old.get("digest") == self._digest and old.get("lastReconciledStatus") == verdict:
                entry["firstReconciled"] = old.get("firstReconciled", now)
                entry["totalReconciliations"] = int(old.get("totalReconciliations") or 0) + 1
                del history[index]
                break
        self._status.fields["history"] = [entry, *history][:_HISTORY_LENGTH]
