"""Charts in the engine: what a chart is, and its package, made by Helm's own library.

Knows the engine's two methods for charts (`engine/helm.go`) and the bounds it is to keep; refuses to know what a
failure means to a HelmChart. The archives that go in come from strangers and are read nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gitopsd.engine import Engine, SharedTree
from gitopsd.tasks import offload

TIMEOUT: Final = 60.0
"""Seconds that reading and packaging a chart may take."""


@dataclass(frozen=True)
class ChartPlace:
    """A chart: the directory or archive at `path` in a tree, or an `archive` that is at hand."""

    path: str = ""
    archive: bytes | None = None


@dataclass(frozen=True)
class ChartIdentity:
    """What a chart says it is."""

    name: str
    version: str
    is_archive: bool


@dataclass(frozen=True)
class Requirement:
    """A dependency as Chart.lock, or else Chart.yaml, tells of it."""

    name: str
    version: str
    repository: str
    alias: str = ""


@dataclass(frozen=True)
class PackageOrder:
    """What to make of a chart. Values files are paths in the tree, or in the archive; `version` as it is when empty."""

    version: str = ""
    values_files: Sequence[str] = ()
    ignore_missing: bool = False
    dependencies: Sequence[ChartPlace] | None = None  # None: not looked for yet


@dataclass(frozen=True)
class Package:
    """An archive; or none, because the chart has other dependencies than the `vendored` ones: then say which."""

    archive: bytes | None
    values_files: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    vendored: tuple[str, ...]


@dataclass(frozen=True)
class ChartEngine:
    """Charts of one tree, or that are at hand, on behalf of `subject`. Every method raises EngineError, ChartError."""

    engine: Engine
    subject: str
    archive_limit: int
    file_limit: int
    tree: SharedTree | None = None

    async def identify(self, chart: ChartPlace) -> ChartIdentity:
        """Read what a chart says it is; an archive is looked through, for all of it must be sound."""
        answer, _ = await self._ask("chart", _Parts(chart), {})
        return ChartIdentity(answer["name"], answer["version"], answer["isArchive"])

    async def package(self, chart: ChartPlace, order: PackageOrder) -> Package:
        """Make a chart's package; equal inputs give equal bytes."""
        parts = _Parts(chart)
        dependencies = order.dependencies
        header = {
            "version": order.version,
            "valuesFiles": list(order.values_files),
            "ignoreMissing": order.ignore_missing,
            "dependencies": None if dependencies is None else [parts.place(one) for one in dependencies],
        }
        answer, contents = await self._ask("package", parts, header)
        return Package(
            archive=await offload(b"".join, contents) if contents else None,
            values_files=tuple(answer.get("valuesFiles") or ()),
            requirements=tuple(Requirement(**raw) for raw in answer.get("requirements") or ()),
            vendored=tuple(answer.get("vendored") or ()),
        )

    async def _ask(
        self, method: str, parts: _Parts, header: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Sequence[bytes]]:
        tree = self.tree
        whole = {
            **header,
            "chart": parts.chart,
            "tree": None if tree is None else {"path": tree.shared_path(), "digest": tree.digest, "size": tree.size},
            "archiveLimit": self.archive_limit,
            "fileLimit": self.file_limit,
        }
        answer = await self.engine.request(
            method, whole, parts.contents, subject=self.subject, timeout=TIMEOUT, holds=(tree,)
        )
        return answer.header, answer.parts


class _Parts:
    """The archives that go along with a request, and what it calls them."""

    def __init__(self, chart: ChartPlace) -> None:
        self.contents: list[bytes] = []
        self.chart = self.place(chart)

    def place(self, chart: ChartPlace) -> dict[str, Any]:
        if chart.archive is None:
            return {"path": chart.path}
        self.contents.append(chart.archive)
        return {"part": len(self.contents) - 1}
