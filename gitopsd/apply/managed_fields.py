"""Who owns which field of a live object, and how fields of kubectl and the like become ours.

Pure. Works on `metadata.managedFields` as the server returns it. Taking over is a JSON patch (`spec/kustomize.md`
4.4 step 5): fields that become ours and are not in the manifest vanish with the apply that follows, which is how manual
edits are undone. The patch carries the resourceVersion it was computed from, so that it never overwrites a newer state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from gitopsd.api import meta
from gitopsd.krm.objects import Obj, annotations_of, get_in, labels_of

Patch = list[dict[str, Any]]
FieldSet = dict[str, Any]


class FieldManager(NamedTuple):
    """Managers by prefix of their name, and the operation they wrote with."""

    prefix: str
    operation: str


_APPLY: Final = "Apply"
_UPDATE: Final = "Update"


def taken_over(field_manager: str, overridden: Iterable[str] = ()) -> tuple[FieldManager, ...]:
    """Whose fields `field_manager` makes its own; `overridden` are the flags `--override-manager`."""
    return (
        FieldManager("kubectl", _APPLY),
        FieldManager("kubectl", _UPDATE),
        FieldManager("before-first-apply", _UPDATE),
        FieldManager(field_manager, _UPDATE),
        *(FieldManager(name, operation) for name in overridden for operation in (_APPLY, _UPDATE)),
    )


def cleanup(live: Obj, field_manager: str, managers: Sequence[FieldManager]) -> Patch:
    """The JSON patch that removes legacy marks and takes fields over; empty when there is nothing to do."""
    patch = [*_removals("annotations", annotations_of(live), meta.LEGACY_ANNOTATIONS)]
    patch += _removals("labels", labels_of(live), meta.LEGACY_LABELS)
    entries = merged(_entries(live), field_manager, managers)
    if entries is not None:
        patch.append({"op": "replace", "path": "/metadata/managedFields", "value": entries})
    return _guarded(patch, live)


def migrated(live: Obj, api_version: str) -> Patch:
    """The JSON patch that moves every entry to `api_version` (gate MigrateAPIVersion); empty when none differs."""
    entries = _entries(live)
    if all(entry.get("apiVersion") == api_version for entry in entries):
        return []
    moved = [{**entry, "apiVersion": api_version} for entry in entries]
    return _guarded([{"op": "replace", "path": "/metadata/managedFields", "value": moved}], live)


def merged(
    entries: Sequence[dict[str, Any]], field_manager: str, managers: Sequence[FieldManager]
) -> list[dict[str, Any]] | None:
    """The entries after the take-over, ours last; None when nobody's fields are to be taken."""
    ours: dict[str, Any] | None = None
    others: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    for entry in entries:
        if _is_ours(entry, field_manager):
            ours = entry
        elif _is_taken(entry, managers):
            taken.append(entry)
        else:
            others.append(entry)
    if not taken:
        return None
    first = ours or {**taken[0], "manager": field_manager, "operation": _APPLY}
    fields: FieldSet = dict(first.get("fieldsV1") or {})
    for entry in taken:
        fields = union(fields, entry.get("fieldsV1") or {})
    return [*others, {**first, "fieldsV1": fields}]


def union(one: FieldSet, other: FieldSet) -> FieldSet:
    """Every path that either set has."""
    result = dict(one)
    for path, below in other.items():
        mine = result.get(path)
        result[path] = union(mine, below) if isinstance(mine, dict) and isinstance(below, dict) else below
    return result


def other_appliers(live: Obj, field_manager: str) -> Iterator[FieldSet]:
    """The field sets that other managers hold by server-side apply."""
    for entry in _entries(live):
        if entry.get("operation") == _APPLY and entry.get("manager") != field_manager:
            yield entry.get("fieldsV1") or {}


def _entries(live: Obj) -> list[dict[str, Any]]:
    found = get_in(live, "metadata", "managedFields", default=[])
    return [entry for entry in found if isinstance(entry, dict)]


def _is_ours(entry: dict[str, Any], field_manager: str) -> bool:
    return entry.get("manager") == field_manager and entry.get("operation") == _APPLY and not entry.get("subresource")


def _is_taken(entry: dict[str, Any], managers: Sequence[FieldManager]) -> bool:
    """A subresource's writer (`kubectl scale`) keeps its fields."""
    name, operation = str(entry.get("manager") or ""), entry.get("operation")
    return not entry.get("subresource") and any(
        name.startswith(manager.prefix) and operation == manager.operation for manager in managers
    )


def _removals(field: str, present: dict[str, str], legacy: Iterable[str]) -> Patch:
    return [
        {"op": "remove", "path": f"/metadata/{field}/{key.replace('~', '~0').replace('/', '~1')}"}
        for key in legacy
        if key in present
    ]


def _guarded(patch: Patch, live: Obj) -> Patch:
    """Naming the resourceVersion makes the server refuse with a conflict when the object has moved on."""
    version = get_in(live, "metadata", "resourceVersion")
    if not patch or version is None:
        return patch
    return [*patch, {"op": "replace", "path": "/metadata/resourceVersion", "value": version}]
