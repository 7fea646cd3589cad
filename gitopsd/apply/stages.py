"""In which order objects go onto a cluster, and which must be settled before the next may follow.

Pure; the rule is `spec/kustomize.md` 4.2. A stage is checked as a whole before anything of it is written; inside a
stage, objects of one kind may be written side by side, kinds one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from gitopsd.krm.objects import Obj, ObjectKey, apply_order, key_of

T = TypeVar("T")

GroupKind = tuple[str, str]

_DEFINITIONS = frozenset(
    {
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
        ("", "Namespace"),
        ("rbac.authorization.k8s.io", "ClusterRole"),
    }
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Objects that are checked together, sorted; `awaited` stages must be Current before the next begins."""

    name: str
    objects: tuple[Obj, ...]
    awaited: bool = False


def staged(objects: Iterable[Obj], custom_kinds: frozenset[GroupKind] = frozenset()) -> list[Stage]:
    """Split objects into definitions, classes, custom and the rest; empty stages are left out."""
    members: dict[str, list[Obj]] = {"definitions": [], "classes": [], "custom": [], "rest": []}
    for obj in objects:
        members[_stage_of(key_of(obj), custom_kinds)].append(obj)
    return [
        Stage(name, tuple(sorted(found, key=lambda obj: apply_order(key_of(obj)))), name in {"definitions", "classes"})
        for name, found in members.items()
        if found
    ]


def _stage_of(key: ObjectKey, custom_kinds: frozenset[GroupKind]) -> str:
    if (key.group, key.kind) in _DEFINITIONS:
        return "definitions"
    if key.kind.endswith("Class"):
        return "classes"
    if (key.group, key.kind) in custom_kinds:
        return "custom"
    return "rest"


def by_kind(items: Sequence[T], keys: Sequence[ObjectKey]) -> list[list[T]]:
    """Cut a sorted list where the kind changes: what stands together may be worked on side by side."""
    pairs = zip(keys, items, strict=True)
    return [[item for _, item in run] for _, run in groupby(pairs, key=lambda pair: pair[0][:2])]


def parse_stage_kinds(text: str) -> frozenset[GroupKind]:
    """Read the flag `--custom-apply-stage-kinds`: `group/Kind,Kind`, the core group without a slash."""
    kinds: set[GroupKind] = set()
    for item in text.split(","):
        group, _, kind = item.strip().rpartition("/")
        if kind:
            kinds.add((group, kind))
    return frozenset(kinds)
