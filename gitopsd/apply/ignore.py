"""Fields that somebody else looks after: left out of the drift test, and given up or kept when an object is applied.

Pure; the rules are `spec/kustomize.md` 4.5. Paths are JSON pointers; what they name may be missing, and array indices
may count from the end. Nothing here changes the objects it is given.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gitopsd.apply.managed_fields import FieldSet, other_appliers
from gitopsd.apply.selectors import Selector, SelectorError, parse_selector
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj

Pointer = tuple[str, ...]

_MISSING: Final = object()


class IgnoreError(GitopsdError):
    """A rule that cannot be read; it fails the apply."""


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """These paths, in the objects that `target` means."""

    paths: tuple[Pointer, ...]
    target: Selector


def parse_rules(rules: Iterable[Mapping[str, Any]] | None) -> tuple[IgnoreRule, ...]:
    """Read `spec.ignore`. Raises IgnoreError for a bad pointer, regular expression or selector."""
    parsed: list[IgnoreRule] = []
    for rule in rules or ():
        try:
            target = parse_selector(rule.get("target"))
        except SelectorError as error:
            raise IgnoreError(f"invalid ignore rule target: {error}") from error
        parsed.append(IgnoreRule(tuple(parse_pointer(str(path)) for path in rule.get("paths") or ()), target))
    return tuple(parsed)


def parse_pointer(text: str) -> Pointer:
    """Read a JSON pointer; the empty one is the whole object. Raises IgnoreError."""
    if text and not text.startswith("/"):
        raise IgnoreError(f"invalid ignore rule path {text[:80]!r}: a JSON pointer starts with /")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def pointers_for(obj: Obj, rules: Sequence[IgnoreRule]) -> tuple[Pointer, ...]:
    """The paths to be ignored in this object, as the server completed it."""
    return tuple(path for rule in rules if rule.target.matches(obj) for path in rule.paths)


def without(obj: Obj, pointers: Iterable[Pointer]) -> Obj:
    """A copy that lacks the fields named; those that are not there are not missed."""
    result: Any = copy.deepcopy(obj)
    for pointer in pointers:
        if not pointer:
            return {}
        _remove(result, pointer)
    return dict(result)


def yielded(payload: Obj, live: Obj, dry_run: Obj, pointers: Sequence[Pointer], field_manager: str) -> Obj:
    """What to apply so that ignored fields keep their live values.

    A field whose live value differs from the one we would write leaves the payload when another manager holds it by
    server-side apply, so that our ownership ends; otherwise it is written as it stands, so that it stays.
    """
    result: Any = copy.deepcopy(payload)
    others = list(other_appliers(live, field_manager))
    for pointer in pointers:
        now = lookup(live, pointer)
        if not pointer or _same(now, lookup(dry_run, pointer)):
            continue
        if any(owns(fields, live, pointer) for fields in others):
            _remove(result, pointer)
        else:
            _put(result, pointer, None if now is _MISSING else copy.deepcopy(now))
    return dict(result)


def owns(fields: FieldSet, live: Obj, pointer: Pointer) -> bool:
    """Whether a field set holds the path, something below it, or the atomic field that it is part of."""
    at: FieldSet = fields
    value: Any = live
    for token in pointer:
        if isinstance(value, list):
            index = _index(value, token)
            if index is None:
                return False
            value = value[index]
            step = _item_key(at, value, index)
        else:
            step = f"f:{token}"
            value = value.get(token) if isinstance(value, dict) else None
        if step not in at:
            return False
        at = at[step]
        if not at:
            return True
    return True


def _item_key(fields: FieldSet, item: Any, index: int) -> str:
    """How managedFields names one item of a list: by its key fields, its value or its place; empty if it does not."""
    for step in fields:
        kind, _, text = step.partition(":")
        if kind == "i" and text == str(index):
            return step
        if kind not in {"k", "v"}:
            continue
        wanted = json.loads(text)
        if kind == "v" and wanted == item:
            return step
        if kind == "k" and isinstance(item, dict) and all(item.get(key) == val for key, val in wanted.items()):
            return step
    return ""


def lookup(obj: Any, pointer: Pointer) -> Any:
    """The value at a path; a marker that equals nothing but itself when there is none."""
    at = obj
    for token in pointer:
        if isinstance(at, dict) and token in at:
            at = at[token]
        elif isinstance(at, list) and (index := _index(at, token)) is not None:
            at = at[index]
        else:
            return _MISSING
    return at


def _same(one: Any, other: Any) -> bool:
    return one is other or (one is not _MISSING and other is not _MISSING and bool(one == other))


def _index(items: list[Any], token: str) -> int | None:
    digits = token.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        return None
    index = int(token)
    return index % len(items) if -len(items) <= index < len(items) else None


def _remove(obj: Any, pointer: Pointer) -> None:
    parent = lookup(obj, pointer[:-1])
    if isinstance(parent, dict):
        parent.pop(pointer[-1], None)
    elif isinstance(parent, list) and (index := _index(parent, pointer[-1])) is not None:
        del parent[index]


def _put(obj: Any, pointer: Pointer, value: Any) -> None:
    """Write a value, making the objects on the way; where a list on the way lacks the item, nothing is written."""
    at = obj
    for token in pointer[:-1]:
        if isinstance(at, dict):
            if not isinstance(at.get(token), (dict, list)):
                at[token] = {}
            at = at[token]
        elif isinstance(at, list) and (index := _index(at, token)) is not None:
            at = at[index]
        else:
            return
    last = pointer[-1]
    if isinstance(at, dict):
        at[last] = value
    elif isinstance(at, list) and (index := _index(at, last)) is not None:
        at[index] = value
