"""What a Kustomization owns, as its status stores it, and what of it is to be pruned.

Pure. The format is byte-exact with Flux's (`spec/kustomize.md` 1.3), so that either can take over from the other.
Identity ignores the version: an apiVersion bump is the same object. An entry that cannot be read is never dropped and
never read as something else (`spec/hostile-inputs.md` J35): it stays in the inventory, and pruning reports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, ObjectKey, apply_order, gvk_of, key_of

_RBAC_GROUP = "rbac.authorization.k8s.io"
# Only their names may hold a colon, which some systems that read inventories do not take.
_RBAC_KINDS = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})
_SHOWN = 80
# etcd takes 1.5 MiB for a whole object; what is left is for spec, conditions, history and managed fields.
STATUS_BUDGET: Final = 1_200_000


class InventoryError(GitopsdError):
    """An inventory entry that names no object."""


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """One tracked object, in the two fields that the status has for it."""

    id: str
    v: str

    @classmethod
    def of(cls, key: ObjectKey, version: str) -> InventoryEntry:
        """Write the entry of one object."""
        return cls(encode(key), version)

    @property
    def key(self) -> ObjectKey:
        """The object it names. Raises InventoryError."""
        return decode(self.id)

    def to_builtins(self) -> dict[str, str]:
        """The entry as the status holds it."""
        return {"id": self.id, "v": self.v}


class InventoryTooLargeError(GitopsdError):
    """More objects than a status can list."""


def require_fits(objects: Iterable[Obj], *, limit: int = STATUS_BUDGET) -> None:
    """Refuse a build whose inventory the status could not hold, before anything of it is applied.

    Raises InventoryTooLargeError (`spec/hostile-inputs.md` O08).
    """
    count = size = 0
    for obj in objects:
        count += 1
        size += len(encode(key_of(obj)).encode()) + len(gvk_of(obj).version) + len('{"id":"","v":""},')
    if size > limit:
        raise InventoryTooLargeError(
            f"the inventory of {count} objects is too large: {size} bytes, a status has room for {limit}"
        )


def encode(key: ObjectKey) -> str:
    """Write `<namespace>_<name>_<group>_<kind>`."""
    name = key.name
    if key.group == _RBAC_GROUP and key.kind in _RBAC_KINDS:
        name = name.replace(":", "__")
    return f"{key.namespace}_{name}_{key.group}_{key.kind}"


def decode(entry_id: str) -> ObjectKey:
    """Read an id. Raises InventoryError when it has not four parts, or no name or kind."""
    namespace, first, rest = entry_id.partition("_")
    rest, last, kind = rest.rpartition("_")
    name, middle, group = rest.rpartition("_")
    if not (first and last and middle and name and kind):
        shown = entry_id if len(entry_id) <= _SHOWN else f"{entry_id[:_SHOWN]}…"
        raise InventoryError(f"unable to parse inventory entry id: {shown!r}")
    return ObjectKey(group, kind, namespace, name.replace("__", ":"))


def read(entries: Iterable[Mapping[str, Any]] | None) -> tuple[InventoryEntry, ...]:
    """Read `status.inventory.entries` as it stands, unreadable ids included, each id once."""
    found = (InventoryEntry(str(entry.get("id") or ""), str(entry.get("v") or "")) for entry in entries or ())
    return tuple({entry.id: entry for entry in found if entry.id}.values())


def stale(old: Iterable[InventoryEntry], new: Iterable[InventoryEntry]) -> tuple[InventoryEntry, ...]:
    """What was owned and is so no longer, by id; versions come from the old entries."""
    kept = {_identity(entry) for entry in new}
    return tuple(entry for entry in old if _identity(entry) not in kept)


def union(first: Iterable[InventoryEntry], second: Iterable[InventoryEntry]) -> tuple[InventoryEntry, ...]:
    """All of `first`, then what only `second` has; where both have an id, the version of `second`."""
    return tuple({entry.id: entry for entry in (*first, *second)}.values())


def deletion_order(entries: Iterable[InventoryEntry]) -> tuple[InventoryEntry, ...]:
    """The reverse of the apply order over the whole set (`spec/kustomize.md` 5.1); unreadable entries last."""
    readable: list[tuple[tuple[int, str, str, str, str], InventoryEntry]] = []
    unreadable: list[InventoryEntry] = []
    for entry in entries:
        try:
            readable.append((apply_order(entry.key), entry))
        except InventoryError:
            unreadable.append(entry)
    readable.sort(key=lambda item: item[0], reverse=True)
    return (*(entry for _, entry in readable), *unreadable)


def _identity(entry: InventoryEntry) -> ObjectKey | str:
    """Compare by what an id means: `a__b` and `a:b` are one name however the writer spelled it."""
    try:
        return entry.key
    except InventoryError:
        return entry.id
