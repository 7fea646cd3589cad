"""Indexes that are block style YAML, cut into their entries by the indentation of lines, each read by itself.

Theory of operation. In block style an entry is a dash and the lines that are indented more; its chart's name stands
above. Every piece that is cut out is then read as a document of its own, and must be whole: text that only looks like a
new line of the index, in quotes for example, leaves a piece that cannot be read, and the file is then read another way.

Knows lines and indentation; refuses to know what entries mean. Invariant: gives what the whole file would give when it
was read at once, or raises `UnevenError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import IO, Any, Final

from gitopsd.fetch.helmindexquick import read_item
from gitopsd.krm.documents import Dialect, DocumentError, load_all
from gitopsd.krm.scalars import key_text, read_plain

_BOM: Final = b"\xef\xbb\xbf"
_ENTRIES = re.compile(rb"entries:[ ]*(?:[ ]#.*)?\r?\n?")
_NAME = re.compile(
    rb"(?:\"([A-Za-z0-9][^\"\\\x00-\x1f]*)\"|'([A-Za-z0-9][^'\x00-\x1f]*)'|([A-Za-z0-9][A-Za-z0-9_./-]*))"
    rb":(?:[ ]+(\[\]|null|~))?[ ]*\r?\n?"
)
_BLANK: Final = (b"", b"\n", b"\r\n")
_DASHES: Final = (b"- ", b"-\n", b"-\r\n")
_MARKS: Final = (b"---", b"...", b"%", _BOM)
_LARGEST_REST: Final = 1 << 20


class UnevenError(Exception):
    """The file is not in the form that can be cut."""


def split(file: IO[bytes], take: Callable[[str, Any], None], *, source: str) -> dict[str, Any]:
    """Give every entry to `take(name, entry)`; returns the rest of the index, with all charts' names.

    Raises UnevenError when the file has to be read another way, DocumentError for a doubled key, and what `take`
    raises.
    """
    splitter = _Splitter(file, take, source)
    rest = splitter.head()
    if splitter.has_entries:
        after = splitter.entries()
        if "entries" in after or not rest.keys().isdisjoint(after):
            raise UnevenError
        rest |= after
        rest["entries"] = splitter.names
    return rest


class _Splitter:
    def __init__(self, file: IO[bytes], take: Callable[[str, Any], None], source: str) -> None:
        self._lines = iter(file)
        self._take = take
        self._source = source
        self._number = 0
        self.has_entries = False
        self.names: dict[str, list[Any]] = {}
        self._name = ""
        self._item: list[bytes] = []
        self._item_line = 0

    def head(self) -> dict[str, Any]:
        """What stands before the entries."""
        return self._rest(self._until_entries())

    def _until_entries(self) -> Iterable[bytes]:
        is_first = True
        for line in self._lines:
            self._number += 1
            text = line.removeprefix(_BOM) if self._number == 1 else line
            if text.startswith(_MARKS) and not (is_first and text.rstrip() == b"---"):
                raise UnevenError
            if _ENTRIES.fullmatch(text) is not None:
                self.has_entries = True
                return
            if is_first and text.startswith(b" ") and text.strip():
                raise UnevenError
            is_first = is_first and (text.startswith(b"#") or not text.strip())
            yield b"\n" if text.startswith(b"---") else text

    def entries(self) -> dict[str, Any]:
        """Take all entries; returns what stands behind them."""
        outer = inner = -1  # the columns of names and of dashes
        deep = b"\0"
        for line in self._lines:
            self._number += 1
            if line.startswith(deep):
                self._item.append(line)
                continue
            text = line.lstrip(b" ")
            if text in _BLANK or text.startswith(b"#"):
                self._item.append(line)
                continue
            column = len(line) - len(text)
            is_dash = text.startswith(_DASHES)
            if is_dash and (column == inner or (inner < 0 and self._name and column >= outer)):
                self._flush()
                inner, deep = column, b" " * (column + 1)
                self._item, self._item_line = [line], self._number
            elif column == 0 and not is_dash:
                self._flush()
                return self._rest(self._behind(line))
            elif not is_dash and column == (outer if outer >= 0 else column):
                self._flush()
                outer, inner, deep = column, -1, b"\0"
                self._begin(text)
            else:
                raise UnevenError
        self._flush()
        return {}

    def _behind(self, line: bytes) -> Iterable[bytes]:
        for text in (line, *self._lines):
            if text.startswith(_MARKS) or _ENTRIES.fullmatch(text) is not None:
                raise UnevenError
            yield text

    def _rest(self, lines: Iterable[bytes]) -> dict[str, Any]:
        kept: list[bytes] = []
        left = _LARGEST_REST
        for line in lines:
            kept.append(line)
            left -= len(line)
            if left < 0:
                raise UnevenError
        documents = self._read(b"".join(kept))
        if not documents:
            return {}
        if len(documents) > 1 or not isinstance(documents[0], dict):
            raise UnevenError
        return dict(documents[0])

    def _begin(self, text: bytes) -> None:
        """A chart's name."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise UnevenError
        double, single, plain, value = found.groups()
        try:
            name = (double or single or plain).decode()
        except UnicodeDecodeError:
            raise UnevenError from None
        if plain:
            name = key_text(read_plain(name, Dialect.YAML11), Dialect.YAML11)
        if not name.isprintable():
            raise UnevenError
        if name in self.names:
            message = f'mapping key "{name[:128]}" already defined'
            raise DocumentError(self._source, "duplicate-key", message, line=self._number)
        self.names[name] = []
        self._name = "" if value else name  # nothing may stand below a value

    def _flush(self) -> None:
        """Read the entry that has ended."""
        lines, self._item = self._item, []
        if not lines or not lines[0].lstrip(b" ").startswith(b"-"):
            return  # nothing but comments
        raw = b"".join(lines)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise UnevenError from None
        value = read_item(text, text.index("-"))
        if value is not None:
            self._take(self._name, value)
            return
        for document in self._read(raw):
            if not isinstance(document, list):
                raise UnevenError
            for item in document:
                self._take(self._name, item)

    def _read(self, raw: bytes) -> list[Any]:
        try:
            return load_all(raw, source=self._source, dialect=Dialect.YAML11)
        except DocumentError as error:
            if error.rule != "duplicate-key" or error.line is None:
                raise UnevenError from None
            line = self._item_line + error.line - 1
            raise DocumentError(self._source, error.rule, error.message, line=line) from None
