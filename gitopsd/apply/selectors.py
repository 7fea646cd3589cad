"""Which objects a rule of `spec.ignore` or `driftDetection.ignore` speaks of.

Pure. A selector's group, version, kind, name and namespace are regular expressions anchored to the whole text, its two
selectors have the syntax of Kubernetes' label selectors (`spec/kustomize.md` 1.2); every given field must hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gitopsd.apply.patterns import PatternError, whole
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, annotations_of, get_in, gvk_of, labels_of

Requirement = Callable[[Mapping[str, str]], bool]


class SelectorError(GitopsdError):
    """A selector that cannot be read."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Says of an object whether it is meant."""

    fields: tuple[tuple[str, Callable[[str], bool]], ...] = ()
    labels: tuple[Requirement, ...] = ()
    annotations: tuple[Requirement, ...] = ()

    def matches(self, obj: Obj) -> bool:
        """Whether every given field holds for `obj`."""
        gvk = gvk_of(obj)
        values = {
            "group": gvk.group,
            "version": gvk.version,
            "kind": gvk.kind,
            "name": str(get_in(obj, "metadata", "name", default="")),
            "namespace": str(get_in(obj, "metadata", "namespace", default="")),
        }
        return (
            all(test(values[field]) for field, test in self.fields)
            and all(test(labels_of(obj)) for test in self.labels)
            and all(test(annotations_of(obj)) for test in self.annotations)
        )


def parse_selector(spec: Mapping[str, Any] | None) -> Selector:
    """Read a selector as a spec holds it; None and an empty one mean every object. Raises SelectorError."""
    given = spec or {}
    try:
        fields = tuple(
            (field, whole(str(given[field])))
            for field in ("group", "version", "kind", "name", "namespace")
            if given.get(field)
        )
    except PatternError as error:
        raise SelectorError(str(error)) from error
    return Selector(
        fields,
        parse_label_selector(str(given.get("labelSelector") or "")),
        parse_label_selector(str(given.get("annotationSelector") or "")),
    )


_KEY: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-\w.]*[A-Za-z0-9])?"
_SET: Final = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)", re.ASCII)
_EQUAL: Final = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([-\w.]*)", re.ASCII)
_EXISTS: Final = re.compile(rf"(!?)\s*({_KEY})", re.ASCII)
_MAX_SELECTOR: Final = 4096


def parse_label_selector(text: str) -> tuple[Requirement, ...]:
    """Read `a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises SelectorError."""
    if len(text) > _MAX_SELECTOR:
        raise SelectorError(f"selector of {len(text)} characters is longer than {_MAX_SELECTOR}")
    return tuple(_requirement(part) for part in _split(text))


def _split(text: str) -> list[str]:
    """Cut at the commas outside parentheses."""
    if not text.strip():
        return []
    parts, depth = [""], 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _requirement(text: str) -> Requirement:
    if found := _SET.fullmatch(text):
        key, operator, listed = found.groups()
        values = frozenset(value.strip() for value in listed.split(","))
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.fullmatch(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.fullmatch(text):
        absent, key = found.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise SelectorError(f"unable to parse selector requirement {text[:80]!r}")
