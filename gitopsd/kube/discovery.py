"""Which kinds the API server serves, at which path, in which scope.

Knows the discovery documents and the shape of paths; refuses to know what anybody does with a kind. One table for all
who share a client, fetched when first needed, again when a kind is missing from it (at most once a second) and after
`forget`, which whoever watches CustomResourceDefinitions and APIServices calls.

A kind is said not to exist only by a server that answered for its whole group: when an aggregated API is down, its
kinds are unknown, not gone (pruning would otherwise believe their objects gone with them).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj
from gitopsd.kube.client import KubeClient
from gitopsd.kube.errors import ApiError, BrokenAnswerError, UnreachableError
from gitopsd.tasks import Backoff

# A miss so soon (seconds) after a refresh is believed.
_FRESH = 1.0
_AGGREGATED = ",".join(
    (
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        "application/json",
    )
)
_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9:_-][A-Za-z0-9:._-]*")


class NoMatchError(GitopsdError):
    """No such kind is served."""


class UnknownKindError(GitopsdError):
    """The server cannot say now whether it serves the kind; ask again later."""


class PathError(GitopsdError):
    """A name or namespace that cannot stand in a path, and so cannot exist."""


@dataclass(frozen=True)
class Resource:
    """One kind as it is served."""

    gvk: GVK
    plural: str
    namespaced: bool
    verbs: frozenset[str] = field(default=frozenset(), compare=False)
    subresources: frozenset[str] = field(default=frozenset(), compare=False)

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of one object, or of a collection when there is no `name`.

        Without a namespace the collection spans all of them; cluster-scoped kinds ignore it. Raises PathError rather
        than let an empty or crafted name reach another object or a whole collection.
        """
        group, version, _ = self.gvk
        parts = ["", "apis", group, version] if group else ["", "api", version]
        if self.namespaced and namespace:
            parts += ("namespaces", _segment(namespace))
        elif self.namespaced and name is not None:
            raise PathError(f"{self.gvk.kind} {name!r} has no namespace")
        parts.append(self.plural)
        if name is not None:
            parts.append(_segment(name))
            if subresource:
                parts.append(subresource)
        return "/".join(parts)


class Discovery:
    """The table of served kinds, kept fresh."""

    def __init__(self, client: KubeClient, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._table: _Table | None = None
        self._is_forgotten = False
        # Single flight: all who miss something wait for one refresh.
        self._refreshing = asyncio.Lock()

    async def resource(self, gvk: GVK, *, patience: float = 0.0) -> Resource:
        """Find a kind in exactly this version.

        `patience` (seconds) waits for a kind whose definition was just created: the server serves it a moment after
        it says so. Raises NoMatchError, UnknownKindError, or what the request for discovery raised.
        """
        missing = f'no matches for kind "{gvk.kind}" in version "{gvk.api_version}"'
        return await self._find(lambda table: table.kinds.get(gvk), gvk.group, gvk.version, missing, patience)

    async def preferred(self, group: str, kind: str) -> Resource:
        """Find a kind in the version its server prefers. Raises as `resource` does."""
        missing = f'no matches for kind "{kind}" in group "{group}"'
        return await self._find(lambda table: table.preferred.get((group, kind)), group, "", missing, 0.0)

    async def served(self) -> Collection[Resource]:
        """Every kind in every version."""
        table = self._table
        if table is None or self._is_forgotten:
            table = await self._refresh(table)
        return table.kinds.values()

    def forget(self) -> None:
        """Something about kinds changed: the next question asks the server."""
        self._is_forgotten = True

    async def _find(
        self, look: Callable[[_Table], Resource | None], group: str, version: str, missing: str, patience: float
    ) -> Resource:
        ends = self._clock() + patience
        backoff = Backoff(0.05, 1.0)
        while True:
            table = self._table
            found = look(table) if table is not None else None
            is_settled = table is not None and not self._is_forgotten
            if found is not None and is_settled:
                return found
            if not is_settled or (table is not None and self._clock() - table.at >= _FRESH):
                try:
                    table = await self._refresh(table)
                except (ApiError, UnreachableError):
                    if found is None:
                        raise
                    return found  # the old copy serves on
                found = look(table)
                if found is not None:
                    return found
            if self._clock() >= ends:
                assert table is not None
                if table.is_unsure_of(group, version):
                    raise UnknownKindError(f"{missing}: the API group does not answer")
                raise NoMatchError(missing)
            await asyncio.sleep(backoff.next())
            self._is_forgotten = True

    async def _refresh(self, seen: _Table | None) -> _Table:
        async with self._refreshing:
            if self._table is not None and self._table is not seen and not self._is_forgotten:
                return self._table
            self._is_forgotten = False  # a `forget` from here on asks for yet another refresh
            started = self._clock()
            try:
                self._table = await _fetch(self._client, self._table, started)
            except BaseException:
                self._is_forgotten = True
                raise
            return self._table


@dataclass(frozen=True)
class _Table:
    """What the server served at one moment."""

    at: float
    kinds: dict[GVK, Resource] = field(default_factory=dict)
    preferred: dict[tuple[str, str], Resource] = field(default_factory=dict)
    silent: set[tuple[str, str]] = field(default_factory=set)  # group versions whose server did not answer

    def add(self, resource: Resource) -> None:
        """Take a kind in; versions come in the server's order of preference."""
        self.kinds.setdefault(resource.gvk, resource)
        self.preferred.setdefault((resource.gvk.group, resource.gvk.kind), resource)

    def keep(self, old: _Table | None, group: str, version: str) -> None:
        """A group version does not answer: what was known of it stays, the rest is unsure."""
        self.silent.add((group, version))
        for resource in old.kinds.values() if old else ():
            if resource.gvk[:2] == (group, version):
                self.add(resource)

    def is_unsure_of(self, group: str, version: str) -> bool:
        """Whether a missing kind may exist all the same; without a version any of the group counts."""
        return any(group == silent and version in {"", gap} for silent, gap in self.silent)


async def _fetch(client: KubeClient, old: _Table | None, at: float) -> _Table:
    table = _Table(at)
    for path in ("/api", "/apis"):
        document = await _read(client, path, _AGGREGATED)
        if document.get("kind") == "APIGroupDiscoveryList":
            _take_aggregated(table, document, old)
        else:
            await _take_plain(table, client, document, old)
    return table


async def _read(client: KubeClient, path: str, accept: str) -> Obj:
    body = await client.raw("GET", path, accept=accept)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BrokenAnswerError("the discovery document is not JSON") from error
    if not isinstance(document, dict):
        raise BrokenAnswerError("the discovery document is not an object")
    return document


def _take_aggregated(table: _Table, document: Obj, old: _Table | None) -> None:
    for item in _rows(document, "items"):
        group = str((item.get("metadata") or {}).get("name") or "")
        for served in _rows(item, "versions"):
            version = str(served.get("version") or "")
            for row in _rows(served, "resources"):
                kind = str((row.get("responseKind") or {}).get("kind") or "")
                subresources = frozenset(str(sub.get("subresource")) for sub in _rows(row, "subresources"))
                namespaced = row.get("scope") == "Namespaced"
                table.add(_resource(group, version, kind, str(row.get("resource")), namespaced, row, subresources))
            if served.get("freshness") == "Stale":
                table.keep(old, group, version)


async def _take_plain(table: _Table, client: KubeClient, document: Obj, old: _Table | None) -> None:
    """Ask a server from before aggregated discovery, one group version after the other."""
    for group, version in _plain_versions(document):
        path = f"/apis/{_segment(group)}/{_segment(version)}" if group else f"/api/{_segment(version)}"
        try:
            rows = _rows(await _read(client, path, "application/json"), "resources")
        except ApiError:
            table.keep(old, group, version)
            continue
        names = [str(row.get("name")) for row in rows]
        for row, name in zip(rows, names, strict=True):
            if "/" not in name:
                subresources = frozenset(sub.partition("/")[2] for sub in names if sub.startswith(f"{name}/"))
                namespaced = row.get("namespaced") is True
                table.add(_resource(group, version, str(row.get("kind")), name, namespaced, row, subresources))


def _plain_versions(document: Obj) -> Iterator[tuple[str, str]]:
    """Group versions of an APIVersions or an APIGroupList, the preferred version of each group first."""
    versions = document.get("versions")
    for version in versions if isinstance(versions, list) else ():
        yield "", str(version)
    for group in _rows(document, "groups"):
        preferred = (group.get("preferredVersion") or {}).get("version")
        listed = [str(row.get("version")) for row in _rows(group, "versions")]
        for version in sorted(listed, key=lambda version: version != preferred):
            yield str(group.get("name")), version


def _resource(
    group: str, version: str, kind: str, plural: str, namespaced: bool, row: Obj, subresources: frozenset[str]
) -> Resource:
    verbs = row.get("verbs")
    known = frozenset(str(verb) for verb in verbs) if isinstance(verbs, list) else frozenset[str]()
    return Resource(GVK(group, version, kind), plural, namespaced, known, subresources)


def _rows(obj: Any, name: str) -> list[Obj]:
    rows = obj.get(name) if isinstance(obj, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _segment(text: str) -> str:
    """One segment of a path, encoded. What the server refuses as a name is refused here, before it becomes a path."""
    if _PLAIN_SEGMENT.fullmatch(text):
        return text
    if text in {"", ".", ".."} or "/" in text or "%" in text:
        raise PathError(f"{text!r} is not a name that an object can have")
    return quote(text, safe=":")
