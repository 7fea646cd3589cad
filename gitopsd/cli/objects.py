"""Objects read and changed through the rows of `kinds`: one page at a time, one change at a time.

The only module of the CLI that speaks to the API server about our kinds. A kind that the cluster does not serve is
its own error, so that `get all` can pass over it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from gitopsd.cli.flags import CommandError
from gitopsd.cli.kinds import Kind, name_of, namespace_of, text_at
from gitopsd.krm.objects import Obj

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient
    from gitopsd.kube.errors import NotFoundError

FIELD_MANAGER = "flux"
"""Who owns what the CLI writes; the same name as flux, so that `managedFields` looks the same."""

_CONFLICT_TRIES = 5
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


async def changes(
    client: KubeClient, kind: Kind, namespace: str, params: Mapping[str, Any]
) -> AsyncIterator[tuple[str, Obj]]:
    """Every object that is there, then every change as (`ADDED`, `MODIFIED` or `DELETED`, object), without end.

    After a lost connection only what differs is told again.
    """
    from gitopsd.kube.errors import NotFoundError
    from gitopsd.kube.watch import Changed, Replaced, list_and_watch

    known: dict[tuple[str, str], str] = {}
    try:
        async for told in list_and_watch(client, kind.path(namespace), params=dict(params)):
            if isinstance(told, Replaced):
                for obj in told.items:
                    identity, version = (namespace_of(obj), name_of(obj)), _version(obj)
                    if known.get(identity) != version:
                        yield ("MODIFIED" if identity in known else "ADDED"), obj
                    known[identity] = version
            elif isinstance(told, Changed):
                known[namespace_of(told.obj), name_of(told.obj)] = _version(told.obj)
                yield told.type, told.obj
    except NotFoundError as error:
        raise _reraise(error, kind) from error


_version = text_at("metadata", "resourceVersion")


async def states(client: KubeClient, collection: str, name: str) -> AsyncIterator[Obj | None]:
    """The object called `name` as it is now and after every change, without end; None while it is not there."""
    from gitopsd.kube.watch import Changed, Replaced, list_and_watch

    async for told in list_and_watch(client, collection, params={"fieldSelector": name_selector(name)}):
        if isinstance(told, Replaced):
            yield told.items[0] if told.items else None
        elif isinstance(told, Changed):
            yield None if told.type == "DELETED" else told.obj
