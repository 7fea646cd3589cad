"""From the file that a repository serves to the one that is stored: read entry by entry, checked, written as JSON.

Theory of operation. One of three readers goes through the file (`helmindexjson`, `helmindexsplit`, the YAML door for
what is neither), and gives each entry to the writer, which keeps no entry but only where it put it. When a chart is
complete and its versions did not come in order, its part of the file is written again in order.

Knows the rules for whole indexes (spec/source.md 7.4); refuses to know networks and the event loop: this is work for
another thread or process. Invariants: memory does not grow with the size of an index beyond its table and its largest
chart's; what is stored is JSON whatever strangers wrote (spec/hostile-inputs.md F02-F06, F09).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.helmindexentry import EntryError, UnknownFieldError, read_entry, text_of
from gitopsd.fetch.helmindexjson import JsonError, JsonIndex
from gitopsd.fetch.helmindexsplit import UnevenError, split
from gitopsd.fetch.helmindextable import Place, Record, Table, TableWriter, arranged
from gitopsd.krm.documents import Dialect, DocumentError, Limits, load_large

_SOURCE: Final = "index.yaml"
_FIELDS: Final = ("apiVersion", "generated", "publicKeys", "annotations", "serverInfo")
_LARGEST_VALUE: Final = 32 << 20
_IN_MEMORY: Final = 16 << 20
_BUFFER: Final = 1 << 20
_MOST_NOTES: Final = 10
# A value takes some bytes of text; more values than this come from aliases.
_BYTES_PER_VALUE: Final = 4
# Also escaped, so that no browser takes what a stranger wrote for markup (spec/hostile-inputs.md F09).
_ESCAPES: Final = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))


class IndexFormatError(RemoteError):
    """A file that is no index."""


@dataclass(frozen=True)
class Built:
    """The table of an index, and which entries could not be used: how many, and what was wrong with the first."""

    table: Table
    dropped: int = 0
    notes: tuple[str, ...] = field(default=())


def build(source: Path, target: Path, limit: int) -> Built:
    """Read the index in `source` and write the one to store to `target`. Blocking. Raises IndexFormatError."""
    size = source.stat().st_size
    if size == 0:
        raise IndexFormatError("empty index.yaml file", rule="empty")
    if size > limit:
        raise IndexFormatError(f"the index is larger than {limit} bytes", rule="size")
    with source.open("rb") as file, target.open("w+b", buffering=_BUFFER) as out:
        for read in (_read_json, _read_split, _read_any):
            file.seek(0)
            out.seek(0)
            out.truncate()
            writer = _Writer(out, target.parent)
            try:
                return writer.finish(read(file, writer))
            except (JsonError, UnevenError):
                continue
            except DocumentError as error:
                raise IndexFormatError(_told(error), rule=error.rule) from None
            except UnknownFieldError as error:
                raise IndexFormatError(str(error), rule="unknown-field") from None
    raise AssertionError("the last reader takes or refuses everything")


def rebuild(path: Path) -> Built:
    """The table of an index that is stored already. Blocking. Raises IndexFormatError."""
    table = TableWriter()
    charts: dict[str, list[Record]] = {}
    seen: set[str] = set()

    def take(name: str, raw: Any, offset: int, length: int) -> None:
        if name not in charts:
            _complete(charts, table)
            charts[name] = []
            seen.add(name)
        record = _stored_record(raw, Place(offset, length))
        if record is not None:
            charts[name].append(record)

    with path.open("rb") as file:
        try:
            rest = JsonIndex(file, _LARGEST_VALUE).run(take)
        except JsonError as error:
            raise IndexFormatError(f"the stored index cannot be read: {error}") from None
        _complete(charts, table)
        for name in rest.get("entries") or ():
            if name not in seen:
                table.add(name, [])
        return Built(table.finish(file.seek(0, 2)))


def _complete(charts: dict[str, list[Record]], table: TableWriter) -> None:
    """Take over the chart that has no further entries."""
    for name, records in charts.items():
        table.add(name, arranged(records))
    charts.clear()


def _stored_record(raw: Any, place: Place) -> Record | None:
    try:
        entry, version = read_entry(raw, is_strict=False)
    except EntryError:
        return None
    return Record(entry["version"], version, entry["created"], place)


def _told(error: DocumentError) -> str:
    where = f"line {error.line}: " if error.line is not None else ""
    return printable(f"{where}{error.message}", 512)


def _read_json(file: IO[bytes], writer: _Writer) -> Any:
    """JSON says itself that it is; what is unknown in it is passed over."""
    if file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in {b"{", b""}:
        raise JsonError("not JSON")
    file.seek(0)
    writer.is_strict = False
    return JsonIndex(file, _LARGEST_VALUE).run(lambda name, raw, _offset, _length: writer.entry(name, raw))


def _read_split(file: IO[bytes], writer: _Writer) -> Any:
    return split(file, writer.entry, source=_SOURCE)


def _read_any(file: IO[bytes], writer: _Writer) -> Any:
    size = file.seek(0, 2)
    file.seek(0)
    limits = Limits(size=size, nodes=max(Limits.nodes, size // _BYTES_PER_VALUE))
    return load_large(file, writer.entry, at="entries", source=_SOURCE, dialect=Dialect.YAML11, limits=limits)


class _Writer:
    """Writes an index, chart by chart, and notes where everything is."""

    def __init__(self, out: IO[bytes], scratch: Path) -> None:
        self._out = out
        self._scratch = scratch
        self.is_strict = True
        self._table = TableWriter()
        self._names: set[str] = set()
        self._name: str | None = None
        self._records: list[Record] = []
        self._at = 0
        self._begin = 0
        self._dropped = 0
        self._notes: list[str] = []
        self._write(b'{\n  "entries": {')

    def entry(self, name: str, raw: Any) -> None:
        """Write one entry of a chart; one that cannot be used is noted. Raises UnknownFieldError."""
        if name != self._name:
            self._chart(name)
        try:
            entry, version = read_entry(raw, is_strict=self.is_strict)
            data = _encoded(entry)
        except EntryError as error:
            self._dropped += 1
            if len(self._notes) < _MOST_NOTES:
                self._notes.append(printable(f"{name}: {error}", 200))
            return
        self._write(b",\n      " if self._records else b"\n      ")
        place = Place(self._at, len(data))
        self._write(data)
        self._records.append(Record(entry["version"], version, entry["created"], place))

    def finish(self, rest: Any) -> Built:
        """Write what stands beside the entries, and check it. Raises IndexFormatError and UnknownFieldError."""
        fields = self._checked(rest)
        for name, items in (fields.get("entries") or {}).items():
            if name not in self._names:
                self._chart(name)
                for item in items if isinstance(items, list) else ():
                    self.entry(name, item)
        self._end_chart()
        self._write(b"\n  }" if self._names else b"}")
        for key in _FIELDS:
            if fields.get(key):
                value = orjson.dumps(fields[key], option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
                self._write(b',\n  "%s": %s' % (key.encode(), _escaped(value)))
        self._write(b"\n}\n")
        self._out.flush()
        return Built(self._table.finish(self._at), self._dropped, tuple(self._notes))

    def _checked(self, rest: Any) -> dict[str, Any]:
        if rest is not None and not isinstance(rest, dict):
            raise IndexFormatError("the index is not a mapping", rule="shape")
        fields = dict(rest or {})
        unknown = next((key for key in fields if key not in _FIELDS and key != "entries"), None)
        if unknown is not None and self.is_strict:
            raise UnknownFieldError(f'unknown field "{text_of(unknown)[:128]}"')
        if not isinstance(fields.get("apiVersion"), (str, int, float)) or not fields["apiVersion"]:
            raise IndexFormatError("no API version specified", rule="api-version")
        if not isinstance(fields.get("entries"), (dict, type(None))):
            raise IndexFormatError("the index's entries are not a mapping", rule="shape")
        return fields

    def _chart(self, name: str) -> None:
        self._end_chart()
        if name in self._names:
            raise IndexFormatError("the entries of one chart stand in two places", rule="shape")
        self._write(b"%s\n    %s: [" % (b"," if self._names else b"", _escaped(orjson.dumps(name))))
        self._names.add(name)
        self._name = name
        self._begin = self._at

    def _end_chart(self) -> None:
        if self._name is None:
            return
        ordered = arranged(self._records)
        if ordered != self._records:
            ordered = self._rewritten(ordered)
        self._write(b"\n    ]" if ordered else b"]")
        self._table.add(self._name, ordered)
        self._name, self._records = None, []

    def _rewritten(self, ordered: list[Record]) -> list[Record]:
        """Write the entries of the chart at hand again, in the right order."""
        moved: list[Record] = []
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._scratch)) as scratch:
            for record in ordered:
                self._out.seek(record.place.offset)
                scratch.write(self._out.read(record.place.length))
            scratch.seek(0)
            self._out.seek(self._begin)
            self._out.truncate()
            self._at = self._begin
            for record in ordered:
                self._write(b",\n      " if moved else b"\n      ")
                place = Place(self._at, record.place.length)
                self._write(scratch.read(place.length))
                moved.append(Record(record.text, record.version, record.created, place))
        return moved

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)


def _encoded(entry: dict[str, Any]) -> bytes:
    try:
        data = orjson.dumps(entry, option=orjson.OPT_INDENT_2)
    except TypeError:
        raise EntryError("it cannot be written") from None
    return _escaped(data.replace(b"\n", b"\n      "))


def _escaped(data: bytes) -> bytes:
    for mark, escape in _ESCAPES:
        if mark in data:
            data = data.replace(mark, escape)
    return data
