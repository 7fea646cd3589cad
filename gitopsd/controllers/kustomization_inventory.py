"""What a Kustomization owns: what its status says, what this process could not write there yet, what a dead one left.

A part of the Kustomization controller. The invariant (`docs/decisions/0001-what-a-crash-must-not-lose.md`): before an
object is written that the status on the API server does not name, either that status is made to name it, or the status
tells of no attempt at all, which makes the next process look for strays. So a quick first run writes its status once,
and no crash loses track of an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from gitopsd.api.meta import KUSTOMIZE_GROUP
from gitopsd.apply.control import Owner
from gitopsd.apply.inventory import InventoryEntry, read, union
from gitopsd.apply.strays import Strays
from gitopsd.controllers.kustomization_context import Parts
from gitopsd.krm.objects import Obj, ObjectKey, get_in
from gitopsd.runtime.status import StatusSession

log = structlog.get_logger()


class Inventories:
    """The inventories of all Kustomizations, as far as they are more than their statuses say."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._claims: dict[str, tuple[InventoryEntry, ...]] = {}  # by uid: written objects, unwritten inventory
        self._begun: set[str] = set()  # uids of which no earlier process can have left anything
        self._strays = Strays(parts.client, parts.discovery, KUSTOMIZE_GROUP, self._may_have_strays)

    def begins(self, obj: Obj) -> None:
        """This process is the first that works on the object."""
        self._begun.add(_uid(obj))

    def restore(self, status: StatusSession) -> None:
        """Lay what an earlier run of this process could not write over the status."""
        claimed = self._claims.get(_uid(status.obj))
        if claimed:
            store(status, union(listed(status), claimed))

    async def recall(self, status: StatusSession, owner: Owner) -> tuple[InventoryEntry, ...]:
        """Everything that may exist of a Kustomization, and from now on in its status too.

        Raises UnreachableError or ApiError when nobody can say what a dead process has left.
        """
        entries = union(listed(status), await self.remaining(status.obj, owner))
        if len(entries) > len(listed(status)):
            store(status, entries)
        return entries

    async def remaining(self, obj: Obj, owner: Owner) -> tuple[InventoryEntry, ...]:
        """Everything that may exist of a Kustomization, as its status, this process and the cluster know it."""
        uid = _uid(obj)
        entries = union(read(get_in(obj, "status", "inventory", "entries")), self._claims.get(uid, ()))
        if not is_untold(obj) or uid in self._begun:
            return entries
        strays = await self._strays.of(owner, str(get_in(obj, "metadata", "creationTimestamp", default="")))
        self._begun.add(uid)
        if strays:
            ids = [stray.id for stray in strays]
            log.info("objects that were applied before a crash are taken up again", objects=ids)
            entries = self._claims[uid] = union(entries, strays)
        return entries

    async def claim(self, status: StatusSession, entries: Sequence[InventoryEntry]) -> None:
        """Make sure that no crash loses track of `entries`, which are about to be written."""
        known = listed(status)
        claimed = union(known, entries)
        if len(claimed) == len(known):
            return
        store(status, claimed)
        self._claims[_uid(status.obj)] = claimed
        if status.has_written or not is_untold(status.obj):
            await status.checkpoint()

    def settle(self, obj: Obj) -> None:
        """The status has been written with everything in it."""
        self._claims.pop(_uid(obj), None)

    def forget(self, obj: Obj) -> None:
        """The object is gone."""
        self.settle(obj)
        self._begun.discard(_uid(obj))

    def _may_have_strays(self, name: str, namespace: str) -> bool:
        key = ObjectKey(KUSTOMIZE_GROUP, "Kustomization", namespace, name)
        obj = self._parts.kustomizations.lister.get(key)
        return obj is not None and is_untold(obj) and _uid(obj) not in self._begun


def listed(status: StatusSession) -> tuple[InventoryEntry, ...]:
    """The inventory as the session has it."""
    return read(get_in(status.fields, "inventory", "entries"))


def store(status: StatusSession, entries: Sequence[InventoryEntry]) -> None:
    """Let the session have these entries."""
    status.fields["inventory"] = {"entries": [entry.to_builtins() for entry in entries]}


def is_untold(obj: Obj) -> bool:
    """Whether the status on the API server tells of no attempt to apply anything."""
    return not get_in(obj, "status", "lastAttemptedRevision") and not get_in(obj, "status", "inventory", "entries")


def _uid(obj: Obj) -> str:
    return str(obj["metadata"]["uid"])
