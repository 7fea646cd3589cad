"""Objects read and changed through the rows of `kinds`: one page at a time, one change at a time.

The only module of the CLI that speaks to the API server about our kinds. A kind that the cluster does not serve is
its own error, so that `get all` can pass over it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from gitopsd.cli.flags import CommandError
from gitopsd.cli.kinds import Kind, name_of, namespace_of, text_at
from gitopsd.krm.objects import Obj

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient
    from gitopsd.kube.errors import NotFoundError
    from gitopsd.kube.watch import Changed, Replaced

FIELD_MANAGER = "flux"
"""Who owns what the CLI writes; the same name as flux, so that `managedFields` looks the same."""

_CONFLICT_TRIES = 5
_REFUSALS = frozenset({400, 401, 403, 404, 405})
_SELECTOR_SYNTAX = re.compile(r"([\\,=])")
_BACKSLASHED = r"\\\1"


class NoMatchError(CommandError):
    """The cluster does not serve this kind."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f'no matches for kind "{kind.name}" in version "{kind.gvk.api_version}"')


def _reraise(error: NotFoundError, kind: Kind) -> Exception:
    return NoMatchError(kind) if error.is_kind_missing else error


async def read(client: KubeClient, kind: Kind, namespace: str, name: str) -> Obj:
    """One object. Raises `NotFoundError` with the server's text, or `NoMatchError`."""
    from gitopsd.kube.errors import NotFoundError

    try:
        return await client.get(kind.path(namespace, name))
    except NotFoundError as error:
        raise _reraise(error, kind) from error


async def list_all(
    client: KubeClient, kind: Kind, namespace: str = "", params: Mapping[str, str] | None = None
) -> list[Obj]:
    """Every object of a namespace (of all when empty), in the server's order."""
    from gitopsd.kube.errors import InvalidError, NotFoundError

    objects: list[Obj] = []
    try:
        async for page in client.list_pages(kind.path(namespace), params=dict(params or {})):
            objects.extend(page.get("items") or [])
    except NotFoundError as error:
        raise _reraise(error, kind) from error
    except InvalidError as error:
        if params and "labelSelector" in params:
            raise CommandError(f"unable to parse label selector: {error}") from error
        raise
    return objects


async def named(client: KubeClient, kind: Kind, namespace: str, name: str) -> list[Obj]:
    """The object called `name` as a list of one or none: asking for what is not there is no error."""
    return await list_all(client, kind, namespace, {"fieldSelector": name_selector(name)})


def name_selector(name: str) -> str:
    """A field selector for the objects called `name`, whatever letters that holds."""
    return f"metadata.name={_SELECTOR_SYNTAX.sub(_BACKSLASHED, name)}"


async def merge_patch(client: KubeClient, kind: Kind, namespace: str, name: str, body: Obj) -> Obj:
    """Change an object by a merge patch; somebody else's write at the same moment is no reason to fail."""
    from gitopsd.kube.client import PatchType
    from gitopsd.kube.errors import ConflictError

    path = kind.path(namespace, name)
    for _ in range(_CONFLICT_TRIES - 1):
        try:
            return await client.patch(path, body, kind=PatchType.MERGE, params={"fieldManager": FIELD_MANAGER})
        except ConflictError:
            continue
    return await client.patch(path, body, kind=PatchType.MERGE, params={"fieldManager": FIELD_MANAGER})


async def news(client: KubeClient, path: str, params: Mapping[str, str]) -> AsyncGenerator[Replaced | Changed, None]:
    """All objects at `path`, then every change, without end; close the generator to end it.

    A connection that was lost is made again, quietly; one that never came about, and a refusal, is raised.
    """
    from gitopsd.kube.errors import ApiError
    from gitopsd.kube.watch import Changed, Failed, Replaced, list_and_watch

    has_started = False
    async with aclosing(list_and_watch(client, path, params=params)) as stream:
        async for told in stream:
            if isinstance(told, Failed):
                is_refusal = isinstance(told.error, ApiError) and told.error.status in _REFUSALS
                if is_refusal or not has_started:
                    raise told.error
            elif isinstance(told, Replaced | Changed):
                has_started = True
                yield told


async def changes(
    client: KubeClient, kind: Kind, namespace: str, params: Mapping[str, str]
) -> AsyncGenerator[Obj, None]:
    """Every object that is there, then the object of every change (a deletion tells its last state), without end.

    After a lost connection only what differs is told again.
    """
    from gitopsd.kube.errors import NotFoundError
    from gitopsd.kube.watch import Replaced

    known: dict[tuple[str, str], str] = {}
    try:
        async with aclosing(news(client, kind.path(namespace), params)) as stream:
            async for told in stream:
                for obj in told.items if isinstance(told, Replaced) else (told.obj,):
                    identity, version = (namespace_of(obj), name_of(obj)), _version(obj)
                    if known.get(identity) != version:
                        yield obj
                    known[identity] = version
    except NotFoundError as error:
        raise _reraise(error, kind) from error


_version = text_at("metadata", "resourceVersion")


async def states(client: KubeClient, collection: str, name: str) -> AsyncGenerator[Obj | None, None]:
    """The object called `name` as it is now and after every change, without end; None while it is not there."""
    from gitopsd.kube.watch import Replaced

    async with aclosing(news(client, collection, {"fieldSelector": name_selector(name)})) as stream:
        async for told in stream:
            if isinstance(told, Replaced):
                yield told.items[0] if told.items else None
            else:
                yield None if told.type == "DELETED" else told.obj
