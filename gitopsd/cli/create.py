"""`gitopsd export`: objects as they would be written into a repository (`spec/cli.md` 14.1).

What only a cluster gives an object (status, uid, versions, managed fields) is left out, so that the output can be
applied to another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb, Verbs
from gitopsd.cli.kinds import KINDS, Kind, namespace_of, path_segment, text_at
from gitopsd.cli.objects import list_all, read
from gitopsd.cli.output import as_yaml
from gitopsd.cli.session import Session
from gitopsd.krm.objects import Obj, get_in

_KEPT_METADATA = ("name", "namespace", "labels", "annotations")


def exported(obj: Obj, api_version: str, kind: str) -> Obj:
    """What of an object its author wrote."""
    metadata = obj.get("metadata") or {}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {key: metadata[key] for key in _KEPT_METADATA if metadata.get(key)},
        "spec": obj.get("spec") or {},
    }


def exported_secret(secret: Obj) -> Obj:
    """A Secret as it can be applied elsewhere, data included."""
    found = exported(secret, "v1", "Secret")
    del found["spec"]
    found |= {key: secret[key] for key in ("data", "immutable") if secret.get(key)}
    return {**found, "type": secret.get("type") or "Opaque"}


async def export_objects(at: Session, kind: Kind, names: Sequence[str], *, with_credentials: bool) -> None:
    """Print one object, or all of the namespace."""
    if names:
        objects = [await read(at.client, kind, at.namespace, names[0])]
    else:
        objects = await list_all(at.client, kind, at.namespace)
        if not objects:
            raise CommandError(f"no objects found in {at.namespace} namespace")
    for obj in objects:
        _print(exported(obj, kind.gvk.api_version, kind.name))
        if with_credentials and get_in(obj, "spec", "secretRef", "name"):
            await _export_credentials(at, obj)


async def _export_credentials(at: Session, obj: Obj) -> None:
    name = text_at("spec", "secretRef", "name")(obj)
    path = f"/api/v1/namespaces/{path_segment(namespace_of(obj))}/secrets/{path_segment(name)}"
    _print(exported_secret(await at.client.get(path)))


def _print(obj: Obj) -> None:
    console.out("---\n" + as_yaml(obj))


def _verb(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], *, all_objects: bool, with_credentials: bool = False) -> None:
        if not names and not all_objects:
            raise CommandError("name is required")
        # Unlike elsewhere, --all beats a name.
        chosen = () if all_objects else names
        session.run(lambda at: export_objects(at, kind, chosen, with_credentials=with_credentials))

    params: list[click.Parameter] = [
        click.Argument(["names"], nargs=-1, metavar="[NAME]"),
        click.Option(["--all", "all_objects"], is_flag=True, help="every one of the namespace"),
    ]
    if kind.family == "source":
        params.append(click.Option(["--with-credentials"], is_flag=True, help="the Secret it names as well"))
    return Verb(kind.word, callback=command, params=params, help=f"Print a {kind.name} as YAML.")


def _assemble() -> Verbs:
    verb = Verbs("export", help="Print objects as YAML that can be applied elsewhere.")
    families = {
        "source": Verbs("source", help="Objects that something is fetched for."),
        "image": Verbs("image", help="Image repositories, policies and automations."),
        "artifact": Verbs("artifact", help="Artifact generators."),
    }
    for group in families.values():
        verb.add_command(group)
    for kind in KINDS:
        group = families.get(kind.family, verb)
        group.add_command(_verb(kind))
        for alias in kind.aliases:
            group.aliases[alias] = kind.word
    return verb


export = _assemble()
