"""Where each version of each chart stands in a stored index: some twenty bytes for each, searched without the file.

Theory of operation. Versions of one chart are neighbours, the newest first, in arrays that all charts share: texts in
one string of bytes, places in the file beside them. A table goes from one process to another as one string of bytes.

Knows versions and places; refuses to know entries and files. Invariants: of two entries with one version text the first
as written counts; versions that are equal in precedence stand by the time of their creation, the newest first
(spec/source.md 8.3, spec/hostile-inputs.md F05).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, takewhile
from typing import Any, Final, NamedTuple

import orjson

from gitopsd.versions import Range, Version, VersionError

# What a chart's name and its place in the tables cost beside the arrays.
_PER_NAME: Final = 200
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
# Only a version with three parts is compared with a range.
_FULL: Final = re.compile(r"v?\d+\.\d+\.\d+(?![\d.]).*", re.ASCII | re.DOTALL)


class Place(NamedTuple):
    """Where an entry is in the file, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class Record:
    """One version of a chart while its neighbours are still unknown. `created` is as RFC 3339 writes it."""

    text: str
    version: Version
    created: str
    place: Place


def arranged(records: Iterable[Record]) -> list[Record]:
    """The records of one chart, the newest version first, doubles left out."""
    unique: dict[str, Record] = {}
    for record in records:
        unique.setdefault(record.text, record)
    newest_first = sorted(unique.values(), key=lambda record: record.version, reverse=True)
    found: list[Record] = []
    for _, equals in groupby(newest_first, key=lambda record: record.version):
        tied = list(equals)
        if len(tied) > 1:
            tied.sort(key=_instant, reverse=True)
        found += tied
    return found


def _instant(record: Record) -> tuple[datetime, str]:
    """When it was created: the second, and the digits behind it."""
    second, rest = record.created[:19], record.created[19:]
    digits = "".join(takewhile(str.isdigit, rest.lstrip(".,")))
    zone = rest.lstrip(".,")[len(digits) :]
    try:
        return datetime.fromisoformat(f"{second}{zone}"), digits
    except ValueError:
        return _LONG_AGO, ""


class Table:
    """All versions of all charts of one index. Made by `TableWriter`, or from bytes."""

    def __init__(
        self,
        file_size: int,
        names: Sequence[str],
        firsts: array[int],
        starts: array[int],
        texts: bytes,
        offsets: array[int],
        lengths: array[int],
    ) -> None:
        self.file_size = file_size
        self._rows = {name: row for row, name in enumerate(names)}
        self._firsts = firsts
        self._starts = starts
        self._texts = texts
        self._offsets = offsets
        self._lengths = lengths

    @property
    def weight(self) -> int:
        """About how much memory it takes, in bytes."""
        arrays = (self._firsts, self._starts, self._offsets, self._lengths)
        names = sum(map(len, self._rows)) + _PER_NAME * len(self._rows)
        return len(self._texts) + names + sum(len(one) * one.itemsize for one in arrays)

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def versions(self, name: str) -> list[str]:
        """The versions of a chart as they are written, the newest first; none of a chart that is not there."""
        row = self._rows.get(name)
        if row is None or self._firsts[row] == self._firsts[row + 1]:
            return []
        return self._texts[self._starts[row] : self._starts[row + 1]].decode().split("\n")

    def place(self, name: str, index: int) -> Place:
        """Where the entry of `versions(name)[index]` is."""
        at = self._firsts[self._rows[name]] + index
        return Place(self._offsets[at], self._lengths[at])

    def encode(self) -> bytes:
        """The table as bytes, for `decode`."""
        arrays = (self._firsts, self._starts, self._offsets, self._lengths)
        head: dict[str, Any] = {
            "size": self.file_size,
            "names": list(self._rows),
            "texts": len(self._texts),
            "arrays": [[one.typecode, len(one)] for one in arrays],
        }
        return b"\n".join((orjson.dumps(head), self._texts + b"".join(one.tobytes() for one in arrays)))

    @classmethod
    def decode(cls, data: bytes) -> Table:
        """Read what `encode` wrote in a process of the same program."""
        line, _, rest = data.partition(b"\n")
        head = orjson.loads(line)
        at = head["texts"]
        texts, arrays = rest[:at], []
        for typecode, count in head["arrays"]:
            one = array(typecode)
            one.frombytes(rest[at : at + count * one.itemsize])
            at += count * one.itemsize
            arrays.append(one)
        firsts, starts, offsets, lengths = arrays
        return cls(head["size"], head["names"], firsts, starts, texts, offsets, lengths)


class TableWriter:
    """Makes a table, chart by chart."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._firsts = array("I", [0])
        self._starts = array("Q", [0])
        self._texts: list[str] = []
        self._offsets = array("Q")
        self._lengths = array("I")

    def add(self, name: str, records: Sequence[Record]) -> None:
        """Add a chart that was not there yet, with its arranged versions."""
        texts = [record.text for record in records]
        self._offsets.extend(record.place.offset for record in records)
        self._lengths.extend(record.place.length for record in records)
        block = "\n".join(texts)
        self._names.append(name)
        self._texts.append(block)
        self._firsts.append(len(self._offsets))
        self._starts.append(self._starts[-1] + len(block))

    def finish(self, file_size: int) -> Table:
        """The table of a file of so many bytes."""
        texts = "".join(self._texts).encode()
        return Table(file_size, self._names, self._firsts, self._starts, texts, self._offsets, self._lengths)


def best(versions: Sequence[str], wanted: str) -> int | None:
    """The index of the version that is written like `wanted`, else of the newest in that range; None without one.

    `versions` have the newest first; "" means `*`. Raises VersionError for what is no range.
    """
    if wanted in versions:
        return versions.index(wanted)
    accepted = Range(wanted or "*")
    for index, text in enumerate(versions):
        if _FULL.fullmatch(text) is None:
            continue
        try:
            if accepted.matches(Version(text)):
                return index
        except VersionError:
            continue
    return None
