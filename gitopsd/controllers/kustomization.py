"""The Kustomization controller: a source's files become objects in the cluster, and stay so.

The reconciler decides what kind of run an object needs: none, the end of it, or an attempt
(`kustomization_run`). Errors become conditions here and nowhere else; the last write of a run is here too.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gitopsd.api.conditions import is_ready
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.meta import KUSTOMIZE_COMPONENT, ConditionType, Reason
from gitopsd.api.resource import DecodeError
from gitopsd.apply.health import HealthError
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.controllers import broken
from gitopsd.controllers.kustomization_context import (
    NOT_SUPPORTED,
    OWNED,
    ArtifactAwaitedError,
    Memory,
    Parts,
    QuietError,
    ready_reason,
    unsupported,
)
from gitopsd.controllers.kustomization_inventory import Inventories
from gitopsd.controllers.kustomization_run import Attempt
from gitopsd.errors import ReconcileError, RetryError, StallError, WaitError
from gitopsd.krm.objects import Obj, ObjectKey, get_in
from gitopsd.runtime.controller import Result, Run
from gitopsd.runtime.status import StatusSession

__all__ = ["OWNED", "KustomizationReconciler", "Parts"]

log = structlog.get_logger()


class KustomizationReconciler:
    """Reconciles Kustomizations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._memory = Memory()
        self._inventories = Inventories(parts)

    # -- what the triggers ask (runtime.triggers.Follower) ------------------------------------------------------

    def has_attempted(self, key: ObjectKey, revision: str) -> bool:
        """Whether the newest run of `key` works on `revision`, or did (`spec/kustomize.md` 7.1)."""
        if self._memory.is_looking(key):
            return True
        if self._memory.is_waiting(key):
            return False
        attempted = self._memory.attempted(key)
        if attempted is None:
            obj = self._parts.kustomizations.lister.get(key)
            attempted = get_in(obj, "status", "lastAttemptedRevision", default="")
        return attempted == revision

    def waits_for_dependency(self, key: ObjectKey) -> bool:
        """Whether the last run of `key` ended because a source or a dependency was not ready."""
        return self._memory.is_waiting(key)

    # -- one reconcile -----------------------------------------------------------------------------------------

    async def reconcile(self, run: Run) -> Result:
        """Make the cluster what the Kustomization says (`spec/kustomize.md` 3.1)."""
        self._memory.looks(run.key, is_looking=True)
        try:
            return await self._reconcile(run)
        finally:
            self._memory.looks(run.key, is_looking=False)

    async def _reconcile(self, run: Run) -> Result:
        parts = self._parts
        cached = parts.kustomizations.lister.get(run.key)
        if cached is None:
            self._forget(run.key)
            return Result()
        obj = parts.status.newest(cached)
        try:
            kustomization = Kustomization.from_object(obj)
        except DecodeError as error:
            self._memory.waits(run.key, is_waiting=False)
            await broken.report(obj, error, parts.status, parts.recorder, parts.tasks, component=KUSTOMIZE_COMPONENT)
        if kustomization.metadata.is_being_deleted:
            return await self._finalize(run, obj, kustomization)
        if not kustomization.metadata.has_finalizer:
            obj = await parts.status.add_finalizer(obj)
            self._inventories.begins(obj)
        async with parts.status.session(obj, parts.tasks) as status:
            self._inventories.restore(status)
            if kustomization.spec.suspend:
                log.info("Reconciliation is suspended for this object")
                await self._conclude(status)
                return Result()
            attempt = Attempt(parts, self._memory, self._inventories, run, kustomization, status)
            self._memory.waits(run.key, is_waiting=False)
            try:
                result = await attempt.run()
            except ReconcileError as error:
                self._memory.waits(run.key, is_waiting=isinstance(error, WaitError | QuietError))
                if self._is_untold(run.key, kustomization, error):
                    raise
                status.mark(ConditionType.READY, "False", error.reason, error.message)
                if isinstance(error, StallError):
                    status.mark_stalled(error.reason, error.message)
                await self._conclude(status)
                raise
            self._memory.has_artifact(run.key)
            await self._conclude(status)
        return result

    def _is_untold(self, key: ObjectKey, kustomization: Kustomization, error: ReconcileError) -> bool:
        """Whether to keep a failure to ourselves for a while.

        After a restart, sources fetch what was lost; who was content stays so meanwhile.
        """
        if not isinstance(error, ArtifactAwaitedError):
            self._memory.has_artifact(key)
            return False
        seconds = self._memory.awaits_artifact(key)
        return is_ready(kustomization.status.conditions) and seconds < self._parts.settings.requeue_dependency / 2

    async def _conclude(self, status: StatusSession) -> None:
        """The last write of a run: the request is answered, and the verdict of Ready decides the rest."""
        status.handled()
        ready = status.get(ConditionType.READY)
        if ready is not None and ready.is_true:
            status.delete(ConditionType.RECONCILING)
            status.fields["observedGeneration"] = status.generation
        elif ready is not None and ready.is_false:
            reconciling = status.get(ConditionType.RECONCILING)
            if reconciling is not None:
                status.mark_reconciling(Reason.PROGRESSING_WITH_RETRY, reconciling.message)
        await status.finish()
        self._inventories.settle(status.obj)

    def _forget(self, key: ObjectKey) -> None:
        """The object is gone."""
        self._memory.forget(key)
        self._parts.renderer.forget(key.subject)

    # -- deletion ----------------------------------------------------------------------------------------------

    async def _finalize(self, run: Run, obj: Obj, kustomization: Kustomization) -> Result:
        """Delete what the deletion policy says, then let the object go (`spec/kustomize.md` 5.4)."""
        if not kustomization.metadata.has_finalizer:
            return Result()
        entries = await self._inventories.remaining(obj, self._parts.applier(kustomization).owner)
        spec = kustomization.spec
        policy = spec.deletion_policy or "MirrorPrune"
        deletes = policy in ("Delete", "WaitForTermination") or (policy == "MirrorPrune" and spec.prune)
        if deletes and entries and not spec.suspend:
            self._refuse_foreign_rights(kustomization)
            await self._delete_all(run, obj, kustomization, entries, wait=policy == "WaitForTermination")
        await self._parts.status.remove_finalizer(obj)
        self._parts.status.forget(obj)
        self._inventories.forget(obj)
        self._forget(run.key)
        return Result()

    def _refuse_foreign_rights(self, kustomization: Kustomization) -> None:
        """Never delete with our own rights what was to be applied with others'."""
        asked = unsupported(kustomization, self._parts.settings)
        if asked in ("spec.serviceAccountName", "spec.kubeConfig", "--default-service-account"):
            raise StallError(NOT_SUPPORTED, f"{asked} is not supported yet, nothing was deleted")

    async def _delete_all(
        self, run: Run, obj: Obj, kustomization: Kustomization, entries: Sequence[InventoryEntry], *, wait: bool
    ) -> None:
        applier = self._parts.applier(kustomization)
        revision = kustomization.status.last_applied_revision
        reason = ready_reason(kustomization, "info")
        pruned = await applier.prune(entries)
        if pruned.errors:
            message = pruned.message
            self._parts.tell(
                obj, "Warning", ready_reason(kustomization, "error"), "pruning for deleted resource failed", revision
            )
            raise RetryError(Reason.PRUNE_FAILED, message)
        if wait:
            timeout = kustomization.spec.effective_timeout
            try:
                async with run.outside_slot():
                    await self._parts.waiter.wait_gone(pruned.deleted(), timeout=timeout)
            except HealthError as error:
                text = f"failed to wait for resources termination: {error}"
                log.info(text)
                self._parts.tell(obj, "Warning", ready_reason(kustomization, "error"), text, revision)
        if pruned.entries:
            self._parts.tell(obj, "Normal", reason, "\n".join(pruned.lines()), revision)
