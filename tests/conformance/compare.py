"""A recording beside a run: deliberate differences laid over the recording, and what is left shown as text. Pure."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.normalise import comparable
from tests.conformance.scenario import load_yaml

_MISSING = object()
_ROW = re.compile(r"^\| (D\d+) \|", re.MULTILINE)


@dataclass(frozen=True)
class Difference:
    """One place where we differ from the recording on purpose.

    `path` leads from the object to the place, parts separated by slashes. A number chooses from a list; so does
    `[key=value]`, by a part of an item's value. `ours` is what stands there with us; without it the place is not
    there, and at the end of a list (`-`) it is one more.
    """

    scenario: str
    step: int
    object: str
    path: str
    ours: Any
    reason: str
    row: str


def load_differences(path: Path) -> list[Difference]:
    """Read the list of deliberate differences."""
    document = load_yaml(path) or {}
    return [
        Difference(
            scenario, row["step"], row["object"], row["path"], row.get("ours", _MISSING), row["reason"], row["row"]
        )
        for scenario, rows in document.items()
        for row in rows
    ]


def rows_of(document: str) -> set[str]:
    """The numbers of the rows in `docs/differences.md`."""
    return set(_ROW.findall(document))


def expected(golden: Sequence[Mapping[str, Any]], differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """The recording with our deliberate differences in it. Raises `AssertionError` for one that changes nothing."""
    changed = copy.deepcopy(list(golden))
    for difference in differences:
        where = f"{difference.scenario}, step {difference.step}, {difference.object}, {difference.path}"
        observation = next((item for item in changed if item["step"] == difference.step), None)
        assert observation is not None, f"{where}: nothing is observed at this step"
        before = copy.deepcopy(observation)
        try:
            _lay(observation["objects"], [difference.object, *difference.path.split("/")], difference.ours)
        except (KeyError, IndexError, StopIteration, TypeError) as error:
            raise AssertionError(f"{where}: there is no such place ({error!r})") from error
        assert observation != before, f"{where}: the recording says the same; this row is not needed"
    return [dict(item) for item in changed]


def _lay(value: Any, path: Sequence[str], ours: Any) -> None:
    for part in path[:-1]:
        value = value[_index(value, part)]
    last = path[-1]
    if isinstance(value, list) and last == "-":
        value.append(ours)
    elif ours is _MISSING:
        del value[_index(value, last)]
    else:
        value[_index(value, last) if isinstance(value, list) else last] = ours


def _index(value: Any, part: str) -> Any:
    if not isinstance(value, list):
        return part
    if part.startswith("["):
        key, _, wanted = part.strip("[]").partition("=")
        return next(number for number, item in enumerate(value) if wanted in str(item.get(key, "")))
    return int(part)


def difference_text(golden: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> str:
    """What differs, step by step and object by object, as a diff of YAML; empty when nothing does."""
    wanted, seen = comparable(golden), comparable(ours)
    if wanted == seen:
        return ""
    parts = []
    for number in sorted({item["step"] for item in [*wanted, *seen]}):
        left = next((item for item in wanted if item["step"] == number), {})
        right = next((item for item in seen if item["step"] == number), {})
        parts += _step_difference(number, left, right)
    return "\n".join(parts)


def _step_difference(number: int, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    lefts, rights = dict(left.get("objects", {})), dict(right.get("objects", {}))
    if "rejected" in left or "rejected" in right:
        lefts["rejected"], rights["rejected"] = left.get("rejected"), right.get("rejected")
    parts = []
    for name in sorted({*lefts, *rights}):
        before, after = (_text(side.get(name, "<not looked at>")).splitlines() for side in (lefts, rights))
        if before != after:
            lines = difflib.unified_diff(before, after, "recorded", "ours", n=4, lineterm="")
            parts.append(f"step {number}, {name}:\n" + "\n".join(f"  {line}" for line in lines))
    return parts


def _text(value: Any) -> str:
    return yaml.dump(value, Dumper=_Readable, allow_unicode=True, width=200, default_flow_style=False)


class _Readable(yaml.CSafeDumper):
    """Several lines stay several lines."""


def _string(dumper: yaml.CSafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _string)
