"""Indexes of Helm repositories: which versions of a chart there are, and where each can be fetched.

Theory of operation. A stored index is a JSON file, and what is kept of it in memory is a table of versions and their
places (`helmindextable`). A look-up finds the version in the table and reads its one entry from the file. All charts of
a repository share one table; the table of a new index is taken over from who read it, that of an older one, after a
restart, is made again from the file on its first use. Tables that were not used for longest make room for others.

Knows stored index files and how many of their tables may stay in memory; refuses to know how an index is downloaded
(`helmindexdownload`), read (`helmindexbuild`) and by which process (`helmindexworker`). Invariant: an answer comes from
the file that its table was made of, or there is none.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from gitopsd import metrics
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.helmindextable import Place, Table, best
from gitopsd.fetch.helmindexworker import IndexReader
from gitopsd.tasks import offload
from gitopsd.versions import VersionError

__all__ = ["ChartNotFoundError", "ChartVersion", "HelmIndex", "Indexes"]

_GONE: Final = "the index is not in the storage any more, or not as it was"


class ChartNotFoundError(RemoteError):
    """The index has no such chart, or no version of it in the range."""


@dataclass(frozen=True)
class ChartVersion:
    """One version of a chart, as the index tells of it; `urls` are as written: see `helmindexurls.chart_url`."""

    name: str
    version: str
    urls: tuple[str, ...]
    created: str
    digest: str
    raw: Mapping[str, Any]


class HelmIndex:
    """The index of one repository: a table in memory, the entries themselves on disk."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._table = table

    async def find(self, name: str, wanted: str) -> ChartVersion:
        """The version that is written just like `wanted`, else the newest one in that range; "" is `*`.

        Raises ChartNotFoundError, and RemoteError when `wanted` is no range, or the index has gone from the disk.
        """
        return await offload(self._find, name, wanted)

    async def versions(self, name: str) -> list[str]:
        """All versions of a chart as they are written, the newest first; none of a chart that is not there."""
        return await offload(self._table.versions, name)

    def _find(self, name: str, wanted: str) -> ChartVersion:
        if name not in self._table:
            raise ChartNotFoundError(f"no chart '{printable(name, 128)}' found in the index")
        try:
            index = best(self._table.versions(name), wanted)
        except VersionError as error:
            raise RemoteError(printable(str(error), 256), rule="range") from None
        if index is None:
            wanted = printable(wanted, 128)
            raise ChartNotFoundError(f"no '{printable(name, 128)}' chart with version matching '{wanted}' found")
        return _chart_version(self._read(self._table.place(name, index)))

    def _read(self, place: Place) -> dict[str, Any]:
        try:
            with self._path.open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != self._table.file_size:
                    raise RemoteError(_GONE)
                raw = os.pread(file.fileno(), place.length, place.offset)
            entry: dict[str, Any] = orjson.loads(raw)
        except (OSError, orjson.JSONDecodeError):
            raise RemoteError(_GONE) from None
        return entry


def _chart_version(entry: Mapping[str, Any]) -> ChartVersion:
    return ChartVersion(
        name=entry["name"],
        version=entry["version"],
        urls=tuple(entry.get("urls") or ()),
        created=entry.get("created", ""),
        digest=entry.get("digest", ""),
        raw=entry,
    )


@dataclass
class _Kept:
    """A table, and when it was last asked for (by the clock of `Indexes`)."""

    table: Table
    used: float = field(default=0.0)


class Indexes:
    """The indexes that are in use, each read once; those that were not used for longest make room."""

    def __init__(
        self,
        *,
        most: int = 0,
        ttl: float = 900.0,
        budget: int = 64 << 20,
        reader: IndexReader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `most` indexes (0: any number) of together `budget` bytes of tables, each for `ttl` seconds idle."""
        self._most = most
        self._ttl = ttl
        self._budget = budget
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._weight = 0
        self._reading: dict[str, asyncio.Event] = {}
        self.reader = reader or IndexReader()

    async def open(self, path: Path, key: str, *, namespace: str = "", name: str = "") -> HelmIndex:
        """The index in a stored file; `key` is its artifact's path, the rest names its HelmRepository for the metric.

        Several who ask at once have it read once; if the one who reads is cancelled, the next one does.
        Raises RemoteError.
        """
        kept = self._used(key)
        if name:
            event = "cache_miss" if kept is None else "cache_hit"
            metrics.index_cache_events.labels(event, name, namespace).inc()
        while kept is None:
            reading = self._reading.get(key)
            if reading is None:
                return await self._read(path, key)
            await reading.wait()
            kept = self._used(key)
        return HelmIndex(path, kept.table)

    async def _read(self, path: Path, key: str) -> HelmIndex:
        self._reading[key] = done = asyncio.Event()
        try:
            built = await self.reader.rebuild(path)
        finally:
            del self._reading[key]
            done.set()
        self.adopt(key, built.table)
        return HelmIndex(path, built.table)

    def adopt(self, key: str, table: Table) -> None:
        """Take over the table of an index that was just made, and is or will be stored as the artifact `key`."""
        self.drop(key)
        self._kept[key] = _Kept(table, self._clock())
        self._weight += table.weight
        self._make_room()

    def drop(self, key: str) -> None:
        """Forget an index that is not needed any more."""
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._weight -= kept.table.weight

    @property
    def weight(self) -> int:
        """About how much memory all tables take, in bytes."""
        return self._weight

    def _used(self, key: str) -> _Kept | None:
        self._make_room()
        kept = self._kept.get(key)
        if kept is None:
            return None
        kept.used = self._clock()
        self._kept.move_to_end(key)
        return kept

    def _make_room(self) -> None:
        """Forget what is idle for too long, then what was used longest ago; the newest stays whatever it takes."""
        too_old = self._clock() - self._ttl
        for key in [key for key, kept in self._kept.items() if kept.used < too_old]:
            self.drop(key)
        while len(self._kept) > 1 and (self._weight > self._budget or 0 < self._most < len(self._kept)):
            self.drop(next(iter(self._kept)))
