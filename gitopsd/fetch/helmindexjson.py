"""Indexes that are JSON, ours among them: taken apart entry by entry, without the whole ever being in memory.

Theory of operation. A window slides over the file. Where a value ends is found by counting brackets outside of strings;
an entry as we write it ends at the first bracket of its own column, which takes no counting. Each entry is then read
by itself, with its place in the file.

Knows the syntax of JSON and the shape of an index; refuses to know what entries mean. Invariant: whatever is accepted
is valid JSON; at most one entry, and what stands beside the entries, is in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import orjson

_WINDOW: Final = 1 << 20
_SPACE: Final = b" \t\n\r"
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|["{}\[\]]', re.DOTALL)
_END = re.compile(rb"[,\]}\s]")
_OUR_START, _OUR_END = b"\n      {", b"\n      }"
_CLOSING: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}

_NOTHING: Final = object()

Take = Callable[[str, Any, int, int], None]


class JsonError(ValueError):
    """Not JSON, or not the shape of an index."""


class JsonIndex:
    """One index file, read once from its beginning to its end."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        """At most `limit` bytes of one value are kept in memory."""
        self._file = file
        self._limit = limit
        self._window = b""
        self._base = 0  # where the window begins in the file
        self._at = 0  # where we are in the window
        self._end = 0  # where the value at hand ends in the window

    def run(self, take: Take) -> dict[str, Any]:
        """Give every entry to `take(name, entry, offset, length)`, and return everything else of the index.

        Charts without a list of entries stay in what is returned. Raises JsonError, and what `take` raises.
        """
        rest: dict[str, Any] = {}
        for key in self._members():
            if key == "entries" and self._peek() == b"{":
                rest[key] = self._charts(take)
            else:
                rest[key], _, _ = self._value()
        if self._peek():
            raise JsonError("something follows the end")
        return rest

    def _charts(self, take: Take) -> dict[str, Any]:
        rest: dict[str, Any] = {}
        for name in self._members():
            if name in rest:
                raise JsonError("a chart is there twice")
            rest[name] = []
            if self._peek() != b"[":
                rest[name], _, _ = self._value()
                continue
            for _ in self._items():
                take(name, *self._value())
        return rest

    # -- syntax --------------------------------------------------------------------------------------------------------

    def _members(self) -> Iterator[str]:
        """Stand before each value of an object in turn, with its key."""
        self._expect(b"{")
        if self._peek() == b"}":
            self._at += 1
            return
        while True:
            if self._peek() != b'"':
                raise JsonError("a key is missing")
            key, _, _ = self._value()
            self._expect(b":")
            yield key
            if self._next_of(b"}"):
                return

    def _items(self) -> Iterator[None]:
        """Stand before each value of a list in turn."""
        self._expect(b"[")
        if self._peek() == b"]":
            self._at += 1
            return
        while True:
            yield
            if self._next_of(b"]"):
                return

    def _next_of(self, closing: bytes) -> bool:
        """Pass the comma, or the end."""
        found = self._peek()
        if found not in (b",", closing):
            raise JsonError("a comma is missing")
        self._at += 1
        return found == closing

    def _expect(self, wanted: bytes) -> None:
        if self._peek() != wanted:
            raise JsonError(f"'{wanted.decode()}' is missing")
        self._at += 1

    def _peek(self) -> bytes:
        """The next byte that is no space, none at the end."""
        while True:
            window = self._window
            while self._at < len(window):
                one = window[self._at : self._at + 1]
                if one not in _SPACE:
                    return one
                self._at += 1
            if not self._more():
                return b""

    def _more(self) -> bool:
        """Slide the window on, keeping what was not passed yet."""
        data = self._file.read(_WINDOW)
        if self._at:
            self._base += self._at
            self._window = self._window[self._at :]
            self._at = 0
        if len(self._window) > self._limit:
            raise JsonError("a value is too large")
        self._window += data
        return bool(data)

    def _value(self) -> tuple[Any, int, int]:
        """The next value, and its offset and length in the file."""
        first = self._peek()
        value = self._parsed(self._our_end()) if first == b"{" else _NOTHING
        if value is _NOTHING:
            value = self._parsed(_ENDS.get(first, JsonIndex._scalar_end)(self))
        if value is _NOTHING:
            raise JsonError("a value cannot be read")
        offset, length = self._base + self._at, self._end - self._at
        self._at = self._end
        return value, offset, length

    def _parsed(self, end: int) -> Any:
        """The value that ends there, if it is one."""
        self._end = end
        try:
            return orjson.loads(self._window[self._at : end])
        except orjson.JSONDecodeError:
            return _NOTHING

    def _our_end(self) -> int:
        """Where an entry as we write it ends; 0 when it is written otherwise.

        Another's writing may break its lines elsewhere: then what ends there is no value.
        """
        start = self._at - len(_OUR_START) + 1
        if start < 0 or not self._window.startswith(_OUR_START, start):
            return 0
        end = self._window.find(_OUR_END, self._at)
        while end < 0 and self._more():
            end = self._window.find(_OUR_END, self._at)
        if end < 0:
            return 0
        return end + len(_OUR_END)

    def _closing_end(self) -> int:
        depth, at = 0, self._at
        while True:
            for found in _TOKEN.finditer(self._window, at):
                token = self._window[found.start()]
                if token == ord('"'):
                    if found.end() - found.start() == 1:
                        at = found.start()  # the string is longer than the window
                        break
                    continue
                depth += _CLOSING[token]
                if depth == 0:
                    return found.end()
                at = found.end()
            at -= self._at
            if not self._more():
                raise JsonError("the end is missing")
            at += self._at

    def _string_end(self) -> int:
        while True:
            found = _TOKEN.match(self._window, self._at)
            if found is not None and found.end() - found.start() > 1:
                return found.end()
            if not self._more():
                raise JsonError("the end is missing")

    def _scalar_end(self) -> int:
        while True:
            found = _END.search(self._window, self._at)
            if found is not None:
                return found.start()
            if not self._more():
                return len(self._window)


_ENDS: Final[dict[bytes, Callable[[JsonIndex], int]]] = {
    b"{": JsonIndex._closing_end,  # noqa: SLF001 - a table of this class's own
    b"[": JsonIndex._closing_end,  # noqa: SLF001 - as above
    b'"': JsonIndex._string_end,  # noqa: SLF001 - as above
}
