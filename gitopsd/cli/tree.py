"""`gitopsd tree kustomization`: what an object applied, and what that applied in turn (`spec/cli.md` 9).

Reads inventories, and for a HelmRelease the release record that Helm itself keeps. What another cluster holds is not
looked for. Records come from a cluster and are unpacked with a bound.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from gitopsd.apply import inventory
from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb, Verbs
from gitopsd.cli.kinds import ARTIFACT_GENERATOR, HELM_RELEASE, KUSTOMIZATION, Kind, name_of, namespace_of, path_segment
from gitopsd.cli.objects import read
from gitopsd.cli.output import as_json, as_yaml
from gitopsd.cli.session import Session
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj, ObjectKey, get_in, gvk_of, key_of

RECORD_BOUND = 64 << 20
"""Bytes of an unpacked release record; Helm's own limit is that of a Secret, 1 MiB packed."""

_OUR_GROUPS = "toolkit.fluxcd.io"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_GZIP = b"\x1f\x8b\x08"


class RecordError(GitopsdError):
    """A release record that cannot be read."""


@dataclass
class Node:
    """One object and what it applied."""

    key: ObjectKey
    children: list[Node] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The tree as text, with branches."""
        yield console.printable(self.key.subject).replace("\n", "\\n")
        yield from self._branches("")

    def _branches(self, lead: str) -> Iterator[str]:
        for number, child in enumerate(self.children, 1):
            is_last = number == len(self.children)
            first, *rest = child.lines()
            yield f"{lead}{'└── ' if is_last else '├── '}{first}"
            for line in rest:
                yield f"{lead}{'    ' if is_last else '│   '}{line}"

    def to_builtins(self) -> dict[str, Any]:
        """The tree as scripts read it."""
        group, kind, namespace, name = self.key
        resource = {"Namespace": namespace, "Name": name, "GroupKind": {"Group": group, "Kind": kind}}
        if not self.children:
            return {"resource": resource}
        return {"resource": resource, "resources": [child.to_builtins() for child in self.children]}


class Planter:
    """Grows the tree of one object, reading what it needs."""

    def __init__(self, at: Session, *, compact: bool) -> None:
        self._at = at
        self._compact = compact
        self._discovery: Any = None

    async def grow(self, obj: Obj, above: frozenset[ObjectKey] = frozenset()) -> Node:
        """The tree below `obj`. `above` are its ancestors: what contains itself is not expanded again."""
        key = key_of(obj)
        node = Node(key)
        above |= {key}
        is_remote = bool(get_in(obj, "spec", "kubeConfig"))
        for found in self._inventory(obj):
            if found == key:
                continue
            if found in above or is_remote:
                node.children.append(Node(found))
            else:
                node.children.append(await self._child(found, above))
        return node

    def _inventory(self, obj: Obj) -> list[ObjectKey]:
        entries = inventory.read(get_in(obj, "status", "inventory", "entries", default=[]))
        keys = [entry.key for entry in entries]
        return [key for key in keys if not self._compact or _OUR_GROUPS in key.group]

    async def _child(self, key: ObjectKey, above: frozenset[ObjectKey]) -> Node:
        if _is(key, KUSTOMIZATION):
            return await self.grow(await self._found(KUSTOMIZATION, key), above)
        if _is(key, HELM_RELEASE):
            children = await self._release(await self._found(HELM_RELEASE, key))
            return Node(key, [Node(child) for child in children])
        return Node(key)

    async def _found(self, kind: Kind, key: ObjectKey) -> Obj:
        try:
            obj = await read(self._at.client, kind, key.namespace, key.name)
        except GitopsdError as error:
            raise CommandError(f"failed to find object: {error}") from error
        return {"apiVersion": kind.gvk.api_version, "kind": kind.name, **obj}

    async def _release(self, release: Obj) -> list[ObjectKey]:
        """What a HelmRelease installed; nothing where Helm's record is elsewhere or gone."""
        from gitopsd.kube.errors import NotFoundError

        newest = get_in(release, "status", "history", 0, default={})
        namespace = get_in(release, "status", "storageNamespace")
        if not newest or not namespace or get_in(release, "spec", "kubeConfig"):
            return []
        secret = f"sh.helm.release.v1.{newest.get('name')}.v{newest.get('version')}"
        try:
            record = await self._at.client.get(
                f"/api/v1/namespaces/{path_segment(namespace)}/secrets/{path_segment(secret)}"
            )
        except NotFoundError:
            return []
        found = [await self._key(obj, str(newest.get("namespace") or "")) for obj in manifest_objects(record)]
        found += await self._release_crds(release)
        return [key for key in found if not self._compact or _OUR_GROUPS in key.group]

    async def _key(self, obj: Obj, namespace: str) -> ObjectKey:
        """The identity of a rendered object: charts leave out the namespace that Helm installs into."""
        key = key_of(obj)
        if key.namespace or not namespace or not await self._is_namespaced(gvk_of(obj)):
            return key
        return key._replace(namespace=namespace)

    async def _is_namespaced(self, gvk: GVK) -> bool:
        from gitopsd.kube.discovery import Discovery, NoMatchError, UnknownKindError

        if self._discovery is None:
            self._discovery = Discovery(self._at.client)
        try:
            return bool((await self._discovery.resource(gvk)).namespaced)
        except (NoMatchError, UnknownKindError):
            return False

    async def _release_crds(self, release: Obj) -> list[ObjectKey]:
        policies = [get_in(release, "spec", action, "crds", default="") for action in ("install", "upgrade")]
        if all(policy == "Skip" for policy in policies):
            return []
        group = HELM_RELEASE.gvk.group
        selector = f"{group}/name={name_of(release)},{group}/namespace={namespace_of(release)}"
        pages = self._at.client.list_pages(_CRDS, params={"labelSelector": selector}, metadata_only=True)
        return [
            ObjectKey("apiextensions.k8s.io", "CustomResourceDefinition", "", name_of(crd))
            async for page in pages
            for crd in page.get("items") or []
        ]


def _is(key: ObjectKey, kind: Kind) -> bool:
    return (key.group, key.kind) == (kind.gvk.group, kind.name)


def manifest_objects(secret: Obj) -> list[Obj]:
    """The objects of the release that a Secret of Helm's records. Raises RecordError, DocumentError."""
    from gitopsd.krm.documents import Limits, load_json, load_objects

    limits = Limits(size=RECORD_BOUND)
    record = load_json(_unpack(secret), source="release record", limits=limits)
    manifest = record.get("manifest") if isinstance(record, Mapping) else None
    return load_objects(str(manifest or ""), source="release manifest", limits=limits)


def _unpack(secret: Obj) -> bytes:
    try:
        packed = base64.b64decode(base64.b64decode(str(get_in(secret, "data", "release", default=""))))
        if not packed.startswith(_GZIP):
            return packed
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        record = unpacker.decompress(packed, RECORD_BOUND)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise RecordError("the release record is damaged") from error
    if unpacker.unconsumed_tail:
        raise RecordError(f"the release record is larger than {RECORD_BOUND} bytes")
    return record


async def show(at: Session, kind: Kind, name: str, *, compact: bool, output: str) -> None:
    """Print the tree of one object."""
    obj = await read(at.client, kind, at.namespace, name)
    obj = {"apiVersion": kind.gvk.api_version, "kind": kind.name, **obj}
    tree = await Planter(at, compact=compact).grow(obj)
    if output == "json":
        console.out(as_json(tree.to_builtins(), sort=False))
    elif output == "yaml":
        console.out(as_yaml(tree.to_builtins()))
    else:
        console.out("\n".join(tree.lines()) + "\n\n")


def _verb(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], *, compact: bool, output: str) -> None:
        if not names:
            raise CommandError(f"{kind.human} name is required")
        session.run(lambda at: show(at, kind, names[0], compact=compact, output=output))

    return Verb(
        kind.word,
        callback=command,
        help=f"Print what a {kind.name} applied, as a tree.",
        params=[
            click.Argument(["names"], nargs=-1, metavar="NAME"),
            click.Option(["--compact"], is_flag=True, help="only objects of our own groups"),
            click.Option(["-o", "--output"], default="", metavar="json|yaml"),
        ],
    )


tree = Verbs("tree", help="Print what objects applied, as a tree.")
tree.add_command(_verb(KUSTOMIZATION))
tree.aliases["ks"] = KUSTOMIZATION.word
_artifacts = Verbs("artifact", help="Artifact generators.")
_artifacts.add_command(_verb(ARTIFACT_GENERATOR))
tree.add_command(_artifacts)
