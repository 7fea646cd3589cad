"""A quick reader for YAML in the form in which Helm writes indexes; whatever looks different is left to the real one.

Theory of operation. Nearly all indexes were written by one program: block style, one line for each value, a small
alphabet. One regular expression takes all lines of an entry apart at once, and what the lines mean is told by their
indentation. This takes a third of the time of the real reader (docs/decisions/0006-helm-indexes.md).

Knows a subset of YAML; refuses to know errors. Invariant: it gives what `krm.documents.load_all` gives for the same
text, or None; when in doubt, None (comments, folded lines, anchors, tags, flow style, doubled keys, odd characters).
"""

from __future__ import annotations

import re
from typing import Any, Final

from gitopsd.krm.scalars import Dialect, ScalarError, key_text, read_plain

# Indentation, dash, key, value of a line; or what else stands in it.
_LINE = re.compile(r"^( *)(- )?(?:([A-Za-z0-9_][A-Za-z0-9_./-]*):(?: +(\S.*?))? *|(.*))$", re.MULTILINE)
_ODD = re.compile("[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue003-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_PLAIN = re.compile(r"[A-Za-z0-9_/(.](?:[^:#]|:(?=[^ ])|(?<=[^ ])#)*")
_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_DOUBLE = re.compile(r'"([^"\\]*)"')
_DEEPEST: Final = 20
_MOST_KEYS: Final = 4096
_EMPTY: Final = {"[]": list, "{}": dict}

_Line = tuple[str, str, str, str, str]
_keys: dict[str, str] = {}


class _UnusualError(Exception):
    """Not in the form in which Helm writes."""


def read_item(text: str, indent: int) -> Any:
    """The one mapping of a list whose dash stands `indent` columns from the left; None when it is not that simple."""
    if not text.endswith("\n") or _ODD.search(text) is not None:
        return None
    try:
        reader = _Reader(text)
        value = reader.mapping(indent + 2, 0)
    except (_UnusualError, ScalarError):
        return None
    return value if reader.is_done else None


class _Reader:
    """Reads lines from the first to the last; `_at` is the next one."""

    def __init__(self, text: str) -> None:
        self._text = text.removesuffix("\n")
        self._lines: list[_Line] = _LINE.findall(self._text)
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether every line was read."""
        return self._at == len(self._lines)

    def mapping(self, column: int, depth: int) -> dict[str, Any]:
        """A mapping whose keys begin at `column`; its first line may have a dash before it."""
        found: dict[str, Any] = {}
        lines = self._lines
        is_first = True
        while self._at < len(lines):
            indent, dash, key, value, _ = lines[self._at]
            begins = len(indent) + len(dash)
            if begins < column or (dash and not is_first):
                break
            name = _keys.get(key) or _key(key)
            if begins > column or name in found:
                raise _UnusualError
            is_first = False
            self._at += 1
            found[name] = self._value(value, column, depth) if value else self._below(column, depth)
        return found

    def _value(self, text: str, column: int, depth: int) -> Any:
        if text in {"|", "|-"}:
            return self._literal(column, keeps_end=text == "|")
        if text in _EMPTY:
            return _EMPTY[text]()
        return _scalar(text)

    def _below(self, column: int, depth: int) -> Any:
        """What stands below a key without a value: a list, a mapping, or nothing."""
        if self.is_done:
            return None
        if depth > _DEEPEST:
            raise _UnusualError
        indent, dash, *_ = self._lines[self._at]
        begins = len(indent)
        if dash and begins >= column:
            return self._list(begins, depth + 1)
        if not dash and begins > column:
            return self.mapping(begins, depth + 1)
        return None

    def _list(self, column: int, depth: int) -> list[Any]:
        found: list[Any] = []
        lines = self._lines
        while self._at < len(lines):
            indent, dash, key, _, other = lines[self._at]
            if not dash or len(indent) < column:
                break
            if len(indent) > column:
                raise _UnusualError
            if key:
                found.append(self.mapping(column + 2, depth))
            else:
                self._at += 1
                found.append(_scalar(other.rstrip(" ")))
        return found

    def _literal(self, column: int, *, keeps_end: bool) -> str:
        """The lines below `|`: as they are, without their indentation."""
        lines = self._text.split("\n")
        first = self._at
        if first == len(lines) or not lines[first].strip(" "):
            raise _UnusualError
        inner = len(lines[first]) - len(lines[first].lstrip(" "))
        if inner <= column:
            raise _UnusualError
        kept = []
        lead = " " * inner
        for line in lines[first:]:
            if line.strip(" ") and not line.startswith(lead):
                break
            kept.append(line[inner:])
        self._at = first + len(kept)
        return "\n".join(kept).rstrip("\n") + ("\n" if keeps_end else "")


def _key(key: str) -> str:
    """The text of a key; most are asked for again and again."""
    if not key:
        raise _UnusualError
    name = key_text(read_plain(key, Dialect.YAML11), Dialect.YAML11)
    if len(_keys) < _MOST_KEYS and len(key) < 64:
        _keys[key] = name
    return name


def _scalar(text: str) -> Any:
    found = _DOUBLE.fullmatch(text)
    if found is not None:
        return found[1]
    if _PLAIN.fullmatch(text) is not None:
        return read_plain(text, Dialect.YAML11)
    found = _SINGLE.fullmatch(text)
    if found is None:
        raise _UnusualError
    return found[1].replace("''", "'")
