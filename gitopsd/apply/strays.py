"""Objects that an earlier process applied and did not live to write into an inventory.

Theory of operation (`docs/decisions/0001-what-a-crash-must-not-lose.md`). An object counts as applied for an owner
when it carries the owner's labels *and* our field manager applied it, since a given moment: labels alone prove
nothing, for anybody may set them and some controllers copy them from parent to child. One survey over every kind that
can be listed, metadata only, answers for all owners that `is_wanted` names; it happens when somebody first asks, which
is rare, and once per process, because what this process applies itself is known without it.

Refuses to know who may ask, and what becomes of what is found.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from gitopsd.apply.control import Owner
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.apply.parallel import side_by_side
from gitopsd.krm.objects import Obj, ObjectKey, get_in, labels_of
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery, Resource
from gitopsd.kube.errors import ApiError, UnreachableError

log = structlog.get_logger()

_LISTS_AT_ONCE: Final = 4
_NEEDED_VERBS: Final = frozenset({"list", "patch", "delete"})


class _Stray(NamedTuple):
    entry: InventoryEntry
    applied_at: str  # the API server's clock


class Strays:
    """Finds what was applied for an owner, whatever any inventory says."""

    def __init__(
        self, client: KubeClient, discovery: Discovery, group: str, is_wanted: Callable[[str, str], bool]
    ) -> None:
        """`group` is that of the owner labels; `is_wanted` tells of a name and namespace whether it may ever ask."""
        self._client = client
        self._discovery = discovery
        self._labels = f"{group}/name", f"{group}/namespace"
        self._is_wanted = is_wanted
        self._found: defaultdict[tuple[str, str], list[_Stray]] | None = None
        # Single flight: all who ask at the start wait for one survey.
        self._surveying = asyncio.Lock()

    async def of(self, owner: Owner, since: str) -> tuple[InventoryEntry, ...]:
        """What was applied for `owner` at or after `since` (a time of the API server, as it writes times).

        Raises UnreachableError when nobody can say.
        """
        async with self._surveying:
            if self._found is None:
                self._found = await self._survey(owner.field_manager)
        found = self._found.pop((owner.name, owner.namespace), [])
        return tuple(stray.entry for stray in found if stray.applied_at >= since)

    async def _survey(self, manager: str) -> defaultdict[tuple[str, str], list[_Stray]]:
        found: defaultdict[tuple[str, str], list[_Stray]] = defaultdict(list)
        kinds: dict[tuple[str, str], Resource] = {}
        for resource in await self._discovery.served():
            if resource.verbs >= _NEEDED_VERBS:
                kinds.setdefault((resource.gvk.group, resource.gvk.kind), resource)  # the preferred version comes first

        async def look(resource: Resource) -> None:
            await self._list(resource, manager, found)

        await side_by_side(list(kinds.values()), look, limit=_LISTS_AT_ONCE, catch=UnreachableError)
        return found

    async def _list(self, resource: Resource, manager: str, found: defaultdict[tuple[str, str], list[_Stray]]) -> None:
        params = {"labelSelector": ",".join(self._labels)}
        try:
            async for page in self._client.list_pages(resource.path(), params=params, metadata_only=True):
                for obj in page.get("items") or ():
                    labels = labels_of(obj)
                    owner = (labels[self._labels[0]], labels[self._labels[1]])
                    applied_at = _applied_at(obj, manager)
                    if applied_at and self._is_wanted(*owner):
                        found[owner].append(_Stray(_entry(resource, obj), applied_at))
        except ApiError as error:
            # A kind that we may not list is hardly one that we apply.
            log.info("objects of a kind that may have been applied before a crash are not looked for",
                     kind=resource.gvk.kind, error=str(error))  # fmt: skip


def _entry(resource: Resource, obj: Obj) -> InventoryEntry:
    group, version, kind = resource.gvk
    namespace, name = (str(get_in(obj, "metadata", field, default="")) for field in ("namespace", "name"))
    return InventoryEntry.of(ObjectKey(group, kind, namespace, name), version)


def _applied_at(obj: Obj, manager: str) -> str:
    """When `manager` last applied the object, empty when it never did."""
    entries = get_in(obj, "metadata", "managedFields", default=[])
    times = (
        str(entry.get("time") or "")
        for entry in entries
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
    )
    return max(times, default="")
