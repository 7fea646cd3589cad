"""`gitopsd debug`: what the daemon saw and computed for one object (`spec/cli.md` 12).

Prints Secrets' contents where values or variables come from Secrets: it is the user's own right to read them that
decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import click

from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb, Verbs
from gitopsd.cli.kinds import HELM_RELEASE, KUSTOMIZATION, Kind, path_segment
from gitopsd.cli.objects import read
from gitopsd.cli.output import as_yaml
from gitopsd.cli.session import Session
from gitopsd.krm.objects import Obj, get_in

_DOCUMENTATION = {
    HELM_RELEASE.name: "https://fluxcd.io/flux/components/helm/helmreleases/#{kind}-status",
    KUSTOMIZATION.name: "https://fluxcd.io/flux/components/kustomize/kustomizations/#{kind}-status",
}

Show = Callable[[Session, Kind, Obj], Awaitable[None]]


def _comment(kind: Kind, what: str) -> str:
    return f"# {what} documentation: {_DOCUMENTATION[kind.name].format(kind=kind.name.lower())}\n"


async def _show_status(_: Session, kind: Kind, obj: Obj) -> None:
    console.out(_comment(kind, "Status") + as_yaml(obj.get("status") or {}))


async def _show_history(_: Session, kind: Kind, obj: Obj) -> None:
    console.out(_comment(kind, "History") + as_yaml(get_in(obj, "status", "history", default=[])))


async def _show_variables(at: Session, _: Kind, obj: Obj) -> None:
    from gitopsd.api.kustomization import Kustomization
    from gitopsd.kustomize.variables import gather

    post_build = Kustomization.from_object(obj).spec.post_build
    if post_build is None:
        raise CommandError("no post build substitutions found")
    variables = await gather(post_build, _config_reader(at))
    console.out(
        "".join(f"{console.printable(name)}={console.printable(variables[name])}\n" for name in sorted(variables))
    )


def _config_reader(at: Session) -> Callable[[str, str], Awaitable[Obj | None]]:
    from gitopsd.kube.errors import NotFoundError

    async def read_config(kind: str, name: str) -> Obj | None:
        plural = "secrets" if kind == "Secret" else "configmaps"
        try:
            return await at.client.get(f"/api/v1/namespaces/{at.namespace}/{plural}/{path_segment(name)}")
        except NotFoundError:
            return None

    return read_config


def _verb(kind: Kind, shows: Mapping[str, Show], required: str) -> Verb:
    def command(names: tuple[str, ...], **asked: bool) -> None:
        chosen = [show for flag, show in shows.items() if asked[flag]]
        if not names:
            raise CommandError(f"{kind.human} name is required")
        if len(chosen) != 1:
            raise CommandError(f"exactly one of {required} must be set")

        async def work(at: Session) -> None:
            obj = await read(at.client, kind, at.namespace, names[0])
            await chosen[0](at, kind, obj)

        session.run(work)

    flags = [
        click.Option([f"--{flag.replace('_', '-')}"], is_flag=True, help=f"print its {flag.removeprefix('show_')}")
        for flag in shows
    ]
    return Verb(
        kind.word,
        callback=command,
        params=[click.Argument(["names"], nargs=-1, metavar="NAME"), *flags],
        help=f"Look into a {kind.name}.",
    )


async def _show_values(at: Session, kind: Kind, obj: Obj) -> None:
    raise CommandError("--show-values is not supported by gitopsd")


debug = Verbs(
    "debug", help="Look into what was computed for an object.", aliases={"hr": "helmrelease", "ks": "kustomization"}
)
debug.add_command(
    _verb(
        HELM_RELEASE,
        {"show_status": _show_status, "show_values": _show_values, "show_history": _show_history},
        "--show-status, --show-values, or --show-history",
    )
)
debug.add_command(
    _verb(
        KUSTOMIZATION,
        {"show_status": _show_status, "show_vars": _show_variables, "show_history": _show_history},
        "--show-status, --show-vars, or --show-history",
    )
)
