"""Indexes of Helm repositories: which versions of a chart there are, and where each can be fetched.

Knows stored index files and how many of their tables may stay in memory; refuses to know how an index is downloaded
(`helmindexdownload`), read (`helmindexbuild`) and by which process (`helmindexworker`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitopsd.fetch.errors import RemoteError


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

    async def find(self, name: str, wanted: str) -> ChartVersion:
        """The version that is written just like `wanted`, else the newest one in that range; "" is `*`.

        Raises ChartNotFoundError, and RemoteError when `wanted` is no range, or the index has gone from the disk.
        """
        raise NotImplementedError


class Indexes:
    """The indexes that are in use, each read once; those that were not used for longest make room."""

    def __init__(self, *, most: int = 0, ttl: float = 900.0, budget: int = 64 << 20) -> None:
        """At most `most` indexes (0: any number) of together `budget` bytes of tables, each for `ttl` seconds idle."""

    async def open(self, path: Path, key: str, *, namespace: str = "", name: str = "") -> HelmIndex:
        """The index in a stored file; `key` is its artifact's path, the rest names its HelmRepository for the metric.

        Raises RemoteError.
        """
        raise NotImplementedError
