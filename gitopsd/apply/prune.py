"""Deletes what an inventory names and a build no longer has, and nothing else.

Every object is read right before it is deleted, and the deletion names the uid and resourceVersion that were read: what
changed in between is read and judged again, so that an object that somebody took over or protected a moment ago stays
(`spec/kustomize.md` 5.2, `spec/hostile-inputs.md` J34, V2). What could not be decided or deleted is handed back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from gitopsd.apply import control
from gitopsd.apply.changes import Action, ChangeSet, Entry
from gitopsd.apply.control import Owner
from gitopsd.apply.inventory import InventoryEntry, InventoryError, deletion_order
from gitopsd.apply.parallel import side_by_side
from gitopsd.apply.stages import by_kind
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery, NoMatchError, PathError, Resource, UnknownKindError
from gitopsd.kube.errors import ApiError, ConflictError, NotFoundError, UnreachableError

_CONFLICT_TRIES: Final = 5


class _DeleteError(GitopsdError):
    """One object is still there and should not be."""


@dataclass(frozen=True)
class PruneResult:
    """What became of each stale object, in the order of deletion.

    `entries` are those with a verdict: deleted (or gone before) and skipped. `undeleted` belong back into the
    inventory, so that the next run tries again.
    """

    entries: ChangeSet = field(default_factory=ChangeSet)
    errors: tuple[str, ...] = ()
    undeleted: tuple[InventoryEntry, ...] = ()

    @property
    def message(self) -> str:
        """The message of reason PruneFailed (`spec/kustomize.md` 5.2); empty when all went well."""
        return f"delete failed, errors: {''.join(f'{error};' for error in self.errors)}" if self.errors else ""

    def lines(self) -> list[str]:
        """`<subject> deleted` or `<subject> skipped`, in order: what the log and the event list."""
        return self.entries.lines()

    def deleted(self) -> tuple[Entry, ...]:
        """The entries that are gone, or will be once their finalizers are through."""
        return tuple(entry for entry in self.entries if entry.action == Action.DELETED)


async def prune(
    client: KubeClient, discovery: Discovery, owner: Owner, stale: Iterable[InventoryEntry], *, concurrency: int = 4
) -> PruneResult:
    """Delete stale objects in the reverse of the apply order; errors do not stop it.

    Deletions are asked for in the background and not waited for (`HealthWaiter.wait_gone` does).
    """
    pruner = _Pruner(client, discovery, owner)
    keys: list[ObjectKey] = []
    readable: list[InventoryEntry] = []
    errors: list[str] = []
    undeleted: list[InventoryEntry] = []
    for entry in deletion_order(stale):
        try:
            keys.append(entry.key)
            readable.append(entry)
        except InventoryError as error:
            errors.append(str(error))
            undeleted.append(entry)
    verdicts: list[tuple[InventoryEntry, Entry | _DeleteError]] = []
    for run in by_kind(readable, keys):
        verdicts += zip(run, await side_by_side(run, pruner.judge, limit=concurrency, catch=_DeleteError), strict=True)
    failed = [(entry, verdict) for entry, verdict in verdicts if isinstance(verdict, _DeleteError)]
    return PruneResult(
        entries=ChangeSet(tuple(verdict for _, verdict in verdicts if isinstance(verdict, Entry))),
        errors=(*(str(verdict) for _, verdict in failed), *errors),
        undeleted=(*(entry for entry, _ in failed), *undeleted),
    )


class _Pruner:
    """Judges and deletes one object after the other."""

    def __init__(self, client: KubeClient, discovery: Discovery, owner: Owner) -> None:
        self._client = client
        self._discovery = discovery
        self._owner = owner

    async def judge(self, entry: InventoryEntry) -> Entry | _DeleteError:
        """Delete the object if it is ours to delete; the verdict, or why there is none."""
        key = entry.key
        try:
            return await self._delete(key, entry.v)
        except (ApiError, UnreachableError, UnknownKindError, PathError) as error:
            return _DeleteError(f"{key.subject} delete failed: {error}")

    async def _delete(self, key: ObjectKey, version: str) -> Entry:
        resource = await self._resource(key, version)
        if resource is None:
            return Entry(key, version, Action.DELETED)
        path = resource.path(key.namespace, key.name)
        for _ in range(_CONFLICT_TRIES):
            try:
                live = await self._client.get(path, metadata_only=True)
                if not self._owner.owns(live) or control.is_kept(live):
                    return Entry(key, version, Action.SKIPPED, live)
                if not (live.get("metadata") or {}).get("deletionTimestamp"):
                    await self._client.delete(path, options=_options(live))
            except NotFoundError:
                return Entry(key, version, Action.DELETED)
            except ConflictError as error:
                conflict = error  # it changed since we looked: look again
            else:
                return Entry(key, version, Action.DELETED, live)
        raise conflict

    async def _resource(self, key: ObjectKey, version: str) -> Resource | None:
        """The kind, in the version that still serves it; None when no version does, so that no object is left."""
        try:
            return await self._discovery.resource(GVK(key.group, version, key.kind))
        except NoMatchError:
            try:
                return await self._discovery.preferred(key.group, key.kind)
            except NoMatchError:
                return None


def _options(live: Obj) -> dict[str, Any]:
    """Delete what was read, and only that."""
    metadata = live.get("metadata") or {}
    preconditions = {"uid": metadata.get("uid"), "resourceVersion": metadata.get("resourceVersion")}
    return {"propagationPolicy": "Background", "preconditions": preconditions}
