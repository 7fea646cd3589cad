"""One version of a chart as an index writes it: read field by field, made fit to be shown, or found to be unusable.

Knows the fields of an index's entries and Helm's rules for them (spec/source.md 7.4); refuses to know files, syntax and
other entries. Pure. Invariants: what comes out has known fields of the right types only and a semantic version; its
texts hold no control characters (spec/hostile-inputs.md F03, F09).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from gitopsd.versions import Version, VersionError

_TYPES = frozenset(("", "application", "library"))
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")
_TIME = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:[.,]\d+)?"
    r"(?:Z|[-+](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_Fields = Mapping[str, Callable[[Any], Any]]
NEVER: Final = "0001-01-01T00:00:00Z"
"""What stands in an index for a time that nobody wrote down."""


class UnknownFieldError(ValueError):
    """A field that no entry has; an index with one is refused as a whole, as Helm does where it is strict."""


class EntryError(ValueError):
    """An entry that cannot be used; the rest of the index can."""


def read_entry(raw: Any, *, is_strict: bool) -> tuple[dict[str, Any], Version]:
    """An entry with its fields in Helm's order and what says nothing left out, and its version.

    Unknown fields are dropped unless `is_strict`. Raises UnknownFieldError and EntryError.
    """
    if not isinstance(raw, Mapping):
        raise EntryError("it is not a mapping")
    known = _STRICT if is_strict else _LENIENT
    found = _fields(raw, known, is_strict=is_strict)
    found.setdefault("apiVersion", "v1")
    found.setdefault("urls", [])
    found.setdefault("created", NEVER)
    version = _checked(found)
    return {name: found[name] for name in known if name in found}, version


def _checked(entry: Mapping[str, Any]) -> Version:
    """Helm's rules for a chart's metadata; that two dependencies have one name is tolerated in an index."""
    name = entry.get("name", "")
    if not name or "/" in name or name in {".", ".."}:
        raise EntryError("its name is missing or invalid")
    if entry.get("type", "") not in _TYPES:
        raise EntryError("its type is neither application nor library")
    for dependency in entry.get("dependencies", ()):
        if "alias" in dependency and _ALIAS.fullmatch(dependency["alias"]) is None:
            raise EntryError("a dependency has disallowed characters in its alias")
    try:
        return Version(entry.get("version", ""))
    except VersionError:
        raise EntryError("its version is missing or is not a semantic version") from None


def _fields(raw: Mapping[str, Any], known: _Fields, *, is_strict: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in raw.items():
        read = known.get(key)
        name = key
        if read is None:
            name = _FOLDED.get(key.lower(), "")
            read = known.get(name)
        if read is None:
            _refuse(key, value, is_strict=is_strict)
        elif value is not None:
            kept = read(value)
            if kept:
                found[name] = kept
    return found


def _refuse(key: str, value: Any, *, is_strict: bool) -> None:
    if key == "metadata" and value is None:
        raise EntryError("its metadata is null")
    if is_strict:
        raise UnknownFieldError(f'unknown field "{text_of(key)[:128]}"')


def text_of(value: Any) -> str:
    """A text, or what was written where one is wanted, without characters that cannot be seen."""
    if value.__class__ is str:
        text: str = value
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, (int, float)):
        return repr(value)  # what was not quoted has lost its zeros: 1.10 is 1.1, for Helm too
    else:
        raise EntryError("a list or mapping stands where a text belongs")
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else " " for one in text if one.isprintable() or one.isspace())


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EntryError("something else stands where true or false belongs")
    return value


def _texts(value: Any) -> list[str]:
    return ["" if item is None else text_of(item) for item in _list(value)]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise EntryError("something else stands where a list belongs")
    return value


def _annotations(value: Any) -> dict[str, str]:
    """Their texts are for people, and keep their line ends."""
    if not isinstance(value, Mapping):
        raise EntryError("something else stands where a mapping belongs")
    return {key: item if item.__class__ is str else _annotation(item) for key, item in value.items()}


def _annotation(item: Any) -> str:
    return "" if item is None else text_of(item)


def _time(value: Any) -> str:
    text = text_of(value)
    if _TIME.fullmatch(text) is None:
        raise EntryError("it was created at no valid time")
    return text


def _parts(value: Any, known: _Fields, *, is_strict: bool) -> list[dict[str, Any]]:
    """The mappings in a list of an entry."""
    if not all(isinstance(item, Mapping) for item in _list(value)):
        raise EntryError("an empty node stands where a mapping belongs")
    return [_fields(item, known, is_strict=is_strict) for item in value]


_MAINTAINER: Final[_Fields] = {"name": text_of, "email": text_of, "url": text_of}
_DEPENDENCY: Final[_Fields] = {
    **dict.fromkeys(("name", "version", "repository", "condition"), text_of),
    "tags": _texts,
    "enabled": _flag,
    "import-values": _list,
    "alias": text_of,
}


def _entry_fields(*, is_strict: bool) -> _Fields:
    """The fields of an entry in the order in which Helm writes them."""
    return {
        **dict.fromkeys(("name", "home"), text_of),
        "sources": _texts,
        **dict.fromkeys(("version", "description"), text_of),
        "keywords": _texts,
        "maintainers": partial(_parts, known=_MAINTAINER, is_strict=is_strict),
        **dict.fromkeys(("icon", "apiVersion", "condition", "tags", "appVersion"), text_of),
        "deprecated": _flag,
        "annotations": _annotations,
        "kubeVersion": text_of,
        "dependencies": partial(_parts, known=_DEPENDENCY, is_strict=is_strict),
        "type": text_of,
        "urls": _texts,
        "created": _time,
        "removed": _flag,
        **dict.fromkeys(("digest", "checksum", "engine", "tillerVersion", "url"), text_of),
    }


_STRICT: Final = _entry_fields(is_strict=True)
_LENIENT: Final = _entry_fields(is_strict=False)
# A reader of Go takes a field's name in any case.
_FOLDED: Final = {name.lower(): name for name in (*_STRICT, *_MAINTAINER, *_DEPENDENCY)}
