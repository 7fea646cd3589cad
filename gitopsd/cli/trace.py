"""`gitopsd trace`: from an object in the cluster back to the commit or chart it came from (`spec/cli.md` 10).

Follows the owner labels that the daemon puts on what it applies, through ownerReferences where an object has none of
its own. An object that nobody here owns is no error: the answer is that it is not managed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import click

from gitopsd.api.meta import ORIGIN_REVISION, ORIGIN_SOURCE, parse_time
from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb
from gitopsd.cli.kinds import (
    BY_NAME,
    EXTERNAL_ARTIFACT,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    Kind,
    artifact_revision,
    condition,
    name_of,
    namespace_of,
    text_at,
)
from gitopsd.cli.objects import read
from gitopsd.cli.resources import resolve
from gitopsd.cli.session import Session
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj, ObjectKey, get_in, gvk_of, labels_of

if TYPE_CHECKING:
    from gitopsd.kube.discovery import Discovery

# Widths of the label column; those of the Helm report are what scripts know, however odd.
_WIDE = 17
_HELM = 16
_HELM_GIT = 15

# Owners are followed so far and no further: a crafted cycle must end.
_MAX_OWNERS = 32


class NotManagedError(GitopsdError):
    """None of our objects applied it."""

    def __init__(self) -> None:
        super().__init__("object not managed by Flux")


@dataclass
class Block:
    """Lines of one object, labels padded to one width."""

    width: int
    lines: list[str] = field(default_factory=list)

    def add(self, label: str, value: str) -> None:
        """Add a line."""
        padded = f"{label}:".ljust(self.width)
        # A value is one line, or it could forge the next.
        self.lines.append(padded + console.printable(value).replace("\n", "\\n"))

    def add_if(self, label: str, value: str) -> None:
        """Add a line unless there is nothing to say."""
        if value:
            self.add(label, value)

    def add_status(self, obj: Obj, *, tells_failure: bool) -> None:
        """Add when the object was reconciled last, and what came of it."""
        ready = condition(obj, "Ready")
        if ready is None:
            self.add("Status", "Unknown")
            return
        has_failed = tells_failure and ready.get("status") == "False"
        what = "Last reconciliation failed at" if has_failed else "Last reconciled at"
        self.add("Status", f"{what} {local_time(str(ready.get('lastTransitionTime') or ''))}")
        self.lines.append(f"{'Message:'.ljust(self.width)}{console.printable(str(ready.get('message') or ''))}")


def local_time(text: str) -> str:
    """A time as Go prints it, in the local zone; unreadable ones as they are."""
    try:
        then: datetime = parse_time(text).astimezone()
    except ValueError:
        return text
    return f"{then:%Y-%m-%d %H:%M:%S %z %Z}"


def _head(obj: Obj, width: int, kind: str) -> Block:
    block = Block(width)
    block.add("Object", f"{kind}/{name_of(obj)}")
    block.add_if("Namespace", namespace_of(obj))
    block.add("Status", "Managed by Flux")
    return block


def _named(kind: Kind, obj: Obj, width: int) -> Block:
    block = Block(width)
    block.add(kind.name, name_of(obj))
    block.add("Namespace", namespace_of(obj))
    return block


def kustomization_block(obj: Obj) -> Block:
    """The report of a Kustomization."""
    block = _named(KUSTOMIZATION, obj, _WIDE)
    block.add_if("Target", text_at("spec", "targetNamespace")(obj))
    block.add("Path", text_at("spec", "path")(obj))
    block.add("Revision", text_at("status", "lastAppliedRevision")(obj))
    block.add_status(obj, tells_failure=False)
    return block


def release_block(obj: Obj) -> Block:
    """The report of a HelmRelease."""
    block = _named(HELM_RELEASE, obj, _HELM)
    block.add_if("Target", text_at("spec", "targetNamespace")(obj))
    block.add("Revision", text_at("status", "lastAttemptedRevision")(obj))
    block.add_status(obj, tells_failure=False)
    return block


def chart_block(obj: Obj) -> Block:
    """The report of a HelmChart."""
    block = _named(HELM_CHART, obj, _HELM)
    block.add("Chart", text_at("spec", "chart")(obj))
    block.add("Version", text_at("spec", "version")(obj))
    block.add_if("Revision", artifact_revision(obj))
    block.add_status(obj, tells_failure=False)
    return block


def source_block(kind: Kind, obj: Obj, *, for_release: bool) -> Block:
    """The report of whatever was fetched."""
    widths = {GIT_REPOSITORY.name: _HELM_GIT, HELM_REPOSITORY.name: _HELM} if for_release else {}
    block = _named(kind, obj, widths.get(kind.name, _WIDE))
    if kind is EXTERNAL_ARTIFACT:
        reference = get_in(obj, "spec", "sourceRef", default={})
        namespace = reference.get("namespace") or namespace_of(obj)
        block.add("Source", f"{reference.get('kind', '')}/{namespace}/{reference.get('name', '')}")
    else:
        block.add("URL", text_at("spec", "url")(obj))
    _add_reference(block, kind, obj)
    block.add_if("Revision", artifact_revision(obj))
    if kind is OCI_REPOSITORY and not for_release:
        block.add_if("Origin Revision", text_at("status", "artifact", "metadata", ORIGIN_REVISION)(obj))
        block.add_if("Origin Source", text_at("status", "artifact", "metadata", ORIGIN_SOURCE)(obj))
    block.add_status(obj, tells_failure=kind in {GIT_REPOSITORY, OCI_REPOSITORY})
    return block


def _add_reference(block: Block, kind: Kind, obj: Obj) -> None:
    reference = get_in(obj, "spec", "ref", default={})
    other = {GIT_REPOSITORY.name: "branch", OCI_REPOSITORY.name: "digest"}.get(kind.name)
    if other is None:
        return
    tag = reference.get("tag") or reference.get("semver")
    if tag:
        block.add("Tag", str(tag))
    else:
        block.add_if(other.capitalize(), str(reference.get(other) or ""))


class Tracer:
    """Reads what the report of one object needs."""

    def __init__(self, at: Session) -> None:
        from gitopsd.kube.discovery import Discovery

        self._at = at
        self._discovery: Discovery = Discovery(at.client)

    async def report(self, obj: Obj) -> str:
        """The whole report. Raises NotManagedError."""
        if (owner := await self._owner(obj, KUSTOMIZATION.gvk.group)) is not None:
            blocks = await self._kustomization(owner)
            head = _head(obj, _WIDE, gvk_of(obj).kind)
        elif (owner := await self._owner(obj, HELM_RELEASE.gvk.group)) is not None:
            blocks = await self._release(owner)
            head = _head(obj, _HELM, gvk_of(obj).kind)
        else:
            raise NotManagedError
        return "\n" + "---\n".join("".join(f"{line}\n" for line in block.lines) for block in (head, *blocks))

    async def _owner(self, obj: Obj, group: str) -> tuple[str, str] | None:
        """Namespace and name in the owner labels of `obj`, or of what owns it."""
        waiting = [obj]
        seen: set[ObjectKey] = set()
        while waiting and len(seen) < _MAX_OWNERS:
            at = waiting.pop(0)
            labels = labels_of(at)
            name, namespace = labels.get(f"{group}/name"), labels.get(f"{group}/namespace")
            if name and namespace:
                return namespace, name
            for reference in get_in(at, "metadata", "ownerReferences", default=[]):
                gvk = GVK.parse(str(reference.get("apiVersion") or ""), str(reference.get("kind") or ""))
                key = ObjectKey(gvk.group, gvk.kind, namespace_of(obj), str(reference.get("name") or ""))
                if key not in seen:
                    seen.add(key)
                    waiting += await self._found(gvk, key)
        return None

    async def _found(self, gvk: GVK, key: ObjectKey) -> list[Obj]:
        from gitopsd.kube.errors import NotFoundError

        resource = await self._discovery.resource(gvk)
        try:
            return [await self._at.client.get(resource.path(key.namespace or None, key.name))]
        except NotFoundError:
            return []

    async def _kustomization(self, owner: tuple[str, str]) -> list[Block]:
        obj = await self._read(KUSTOMIZATION, *owner)
        reference = get_in(obj, "spec", "sourceRef", default={})
        source = await self._source(reference, namespace_of(obj), for_release=False)
        return [kustomization_block(obj), *source]

    async def _release(self, owner: tuple[str, str]) -> list[Block]:
        obj = await self._read(HELM_RELEASE, *owner)
        blocks = [release_block(obj)]
        chart_namespace, slash, chart_name = text_at("status", "helmChart")(obj).partition("/")
        if slash:
            chart = await self._read(HELM_CHART, chart_namespace, chart_name)
            reference = get_in(chart, "spec", "sourceRef", default={})
            return [*blocks, chart_block(chart), *await self._source(reference, chart_namespace, for_release=True)]
        reference = get_in(obj, "spec", "chartRef", default={})
        return [*blocks, *await self._source(reference, namespace_of(obj), for_release=True)]

    async def _source(self, reference: Obj, namespace: str, *, for_release: bool) -> list[Block]:
        kind = BY_NAME.get(str(reference.get("kind") or ""))
        if kind not in {GIT_REPOSITORY, OCI_REPOSITORY, HELM_REPOSITORY, EXTERNAL_ARTIFACT}:
            return []
        assert kind is not None
        obj = await self._read(kind, str(reference.get("namespace") or namespace), str(reference.get("name") or ""))
        return [source_block(kind, obj, for_release=for_release)]

    async def _read(self, kind: Kind, namespace: str, name: str) -> Obj:
        try:
            return await read(self._at.client, kind, namespace, name)
        except GitopsdError as error:
            raise CommandError(f"failed to find {kind.name}: {error}") from error


async def _read_named(at: Session, arguments: Sequence[str]) -> list[Obj]:
    """The objects of `<resource> <name>…` or `<resource>/<name>…`."""
    if "/" not in arguments[0]:
        pairs = [(arguments[0], name) for name in arguments[1:]]
    else:
        pairs = [(resource, name) for resource, _, name in (each.partition("/") for each in arguments)]
    if not pairs or not all(resource and name for resource, name in pairs):
        raise CommandError("either `<resource>/<name>` or `<resource> <name>` is required as an argument")
    found: list[Obj] = []
    for word, name in pairs:
        resource = (await resolve(at.client, word)).resource()
        found.append(await at.client.get(resource.path(at.namespace, name)))
    return found


async def _read_typed(at: Session, name: str, kind: str, api_version: str) -> list[Obj]:
    """The object of `<name> --kind <Kind> --api-version <gv>`."""
    from gitopsd.kube.discovery import Discovery

    resource = await Discovery(at.client).resource(GVK.parse(api_version, kind))
    return [await at.client.get(resource.path(at.namespace, name))]


async def show(at: Session, objects: Sequence[Obj]) -> None:
    """Print the reports of all objects; one that is not managed is told and passed over."""
    tracer = Tracer(at)
    for number, obj in enumerate(objects):
        if number:
            console.out("---\n")
        try:
            console.out(await tracer.report(obj))
        except GitopsdError as error:
            what = f"{gvk_of(obj).kind}/{name_of(obj)} in namespace {namespace_of(obj)}"
            console.plain_error(f"failed to trace {what}: {error}")


def _trace(arguments: tuple[str, ...], *, kind: str, api_version: str) -> None:
    if kind or api_version:
        if not arguments:
            raise CommandError("object name is required")
        if not kind:
            raise CommandError("object kind is required (--kind)")
        if not api_version:
            raise CommandError("object apiVersion is required (--api-version)")
    elif not arguments:
        raise CommandError("either `<resource>/<name>` or `<resource> <name>` is required as an argument")

    async def work(at: Session) -> None:
        if kind:
            await show(at, await _read_typed(at, arguments[0], kind, api_version))
        else:
            await show(at, await _read_named(at, arguments))

    session.run(work)


trace = Verb(
    "trace",
    callback=_trace,
    help="Follow an object back to the commit or chart it came from.",
    params=[
        click.Argument(["arguments"], nargs=-1, metavar="RESOURCE NAME..."),
        click.Option(["--kind"], default="", help="kind of the object, with --api-version"),
        click.Option(["--api-version"], default="", help="apiVersion of the object"),
    ],
)
