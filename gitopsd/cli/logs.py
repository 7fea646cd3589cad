"""`gitopsd logs`: what the controllers wrote, one readable line for each JSON line (`spec/cli.md` 7).

One pod of every Deployment that is part of the installation is read, whoever's controllers they are. Log lines are
foreign text: parsed strictly, bounded, and printed so that a terminal obeys none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gitopsd.api.meta import parse_time
from gitopsd.cli import console, session
from gitopsd.cli.flags import DEFAULT_NAMESPACE, DURATION, CommandError, Verb
from gitopsd.cli.install import deployments_path, labelled
from gitopsd.cli.kinds import condition
from gitopsd.cli.session import Session
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, get_in

if TYPE_CHECKING:
    from gitopsd.kube.client import KubeClient

LINE_BOUND = 64 << 10

_LEVELS = ("debug", "info", "error")
_KEYS = ("ts", "level", "msg", "error", "logger", "reconciler kind", "controllerKind", "name", "namespace")


class LineError(GitopsdError):
    """A line that looks like JSON and is not a log line."""


@dataclass(frozen=True)
class Filter:
    """Which lines are printed; an empty field lets everything through."""

    level: str = ""
    kind: str = ""
    name: str = ""
    namespace: str = ""

    def format(self, line: bytes) -> str | None:
        """The line as it is printed; None when it is not to be. Raises LineError."""
        if not line.startswith(b"{"):
            return None
        entry = _parse(line)
        if not self._accepts(entry):
            return None
        kind = entry["reconciler kind"] or entry["controllerKind"]
        subject = f"{kind}/{entry['name']}.{entry['namespace']}" if entry["name"] else kind
        text = f"{entry['ts']} {entry['level']} {subject} - {entry['msg']} {entry['error']}"
        return console.printable(text) + "\n"

    def _accepts(self, entry: Mapping[str, str]) -> bool:
        kinds = (entry["reconciler kind"].lower(), entry["controllerKind"].lower())
        return (
            self.level in {"", entry["level"]}
            and (not self.kind or self.kind.lower() in kinds)
            and self.name.lower() in {"", entry["name"].lower()}
            and self.namespace.lower() in {"", entry["namespace"].lower()}
        )


def _parse(line: bytes) -> Mapping[str, str]:
    import orjson

    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError(f"invalid JSON: {error.msg}") from error
    entry: dict[str, str] = {}
    for key in _KEYS:
        value = found.get(key)
        if value is not None and not isinstance(value, str):
            raise LineError(f'"{key}" is not a string')
        entry[key] = value or ""
    return entry


class Lines:
    """Cuts a stream into lines. A line over the bound ends the stream: `is_over` tells."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_over = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        for line in complete:
            if len(line) >= LINE_BOUND:
                self.is_over = True
                return
            yield line.removesuffix(b"\r")
        self.is_over = len(self._rest) >= LINE_BOUND

    def end(self) -> Iterator[bytes]:
        """What was left without a newline."""
        if self._rest:
            yield self._rest


@dataclass(frozen=True)
class Pod:
    """Where to read from."""

    path: str
    container: str


def choose_pod(pods: list[Obj]) -> Obj:
    """The pod whose log says most: running, ready, ready for longest, most restarts, oldest."""
    return min(pods, key=_logging_order)


def _logging_order(pod: Obj) -> tuple[bool, bool, str, int, str]:
    ready = condition(pod, "Ready") or {}
    statuses = get_in(pod, "status", "containerStatuses", default=[])
    return (
        get_in(pod, "status", "phase") != "Running",
        ready.get("status") != "True",
        str(ready.get("lastTransitionTime") or ""),
        -max((int(status.get("restartCount") or 0) for status in statuses), default=0),
        str(get_in(pod, "metadata", "creationTimestamp", default="")),
    )


async def find_pods(client: KubeClient, namespace: str) -> list[Pod]:
    """One pod of each Deployment. Raises CommandError when there is none at all."""
    found: list[Pod] = []
    for deployment in await labelled(client, deployments_path(namespace)):
        labels = get_in(deployment, "spec", "template", "metadata", "labels", default={})
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods: list[Obj] = []
        async for page in client.list_pages(f"/api/v1/namespaces/{namespace}/pods", params={"labelSelector": selector}):
            pods.extend(page.get("items") or [])
        if pods:
            found.append(_pod(namespace, choose_pod(pods)))
    if not found:
        raise CommandError(f'no Flux pods found in namespace "{namespace}"')
    return found


def _pod(namespace: str, pod: Obj) -> Pod:
    containers = get_in(pod, "spec", "containers", default=[])
    container = "manager" if len(containers) > 1 else str(get_in(containers, 0, "name", default=""))
    return Pod(f"/api/v1/namespaces/{namespace}/pods/{get_in(pod, 'metadata', 'name')}/log", container)


@dataclass(frozen=True)
class Query:
    """What to read of each pod."""

    flux_namespace: str
    follow: bool
    options: Mapping[str, str]


async def show(at: Session, query: Query, accepted: Filter) -> None:
    """Print the logs of all pods; with `follow` side by side until the time is up."""
    try:
        async with asyncio.timeout(at.flags.timeout) as limit:
            pods = await find_pods(at.client, query.flux_namespace)
            read = partial(_print_pod, at, query, accepted)
            if query.follow and len(pods) > 1:
                outcomes = await asyncio.gather(*(read(pod) for pod in pods))
            else:
                outcomes = [await read(pod) for pod in pods]
    except TimeoutError:
        if limit.expired() and query.follow:
            return
        raise CommandError(session.DEADLINE) from None
    if not all(outcomes):
        raise CommandError("failed to collect logs from all Flux pods")


async def _print_pod(at: Session, query: Query, accepted: Filter, pod: Pod) -> bool:
    """Whether the log of `pod` could be read to its end."""
    try:
        async for text in _formatted(at.client, query, accepted, pod, at.flags.timeout):
            console.out(text)
            console.flush()
    except LineError as error:
        console.failure(f"parse error: {error}")
    except GitopsdError as error:
        console.plain_error(f"failed getting logs: {error}\n")
        return False
    return True


async def _formatted(
    client: KubeClient, query: Query, accepted: Filter, pod: Pod, lifetime: float
) -> AsyncIterator[str]:
    params = {**query.options, "container": pod.container}
    if query.follow:
        params["follow"] = "true"
    lines = Lines()
    async for chunk in client.stream(pod.path, params=params, lifetime=lifetime):
        for line in lines.feed(chunk):
            if (text := accepted.format(line)) is not None:
                yield text
        if lines.is_over:
            return
    for line in lines.end():
        if (text := accepted.format(line)) is not None:
            yield text


def _options(since: float, since_time: str, tail: int) -> dict[str, str]:
    if since and since_time:
        raise CommandError("at most one of `sinceTime` or `sinceDuration` may be specified")
    options: dict[str, str] = {}
    if since:
        options["sinceSeconds"] = str(max(round(since), 1))
    if since_time:
        try:
            parse_time(since_time)
        except ValueError as error:
            raise CommandError(f"{since_time} is not a valid (RFC3339) time") from error
        options["sinceTime"] = since_time
    if tail >= 0:
        options["tailLines"] = str(tail)
    return options


def _logs(*, arguments: tuple[str, ...], all_namespaces: bool, level: str, flux_namespace: str, **given: Any) -> None:
    if arguments:
        raise CommandError("no argument required")
    if level and level not in _LEVELS:
        raise CommandError(f"unsupported log level '{level}', must be one of: {', '.join(_LEVELS)}")
    options = _options(given["since"], given["since_time"], given["tail"])
    query = Query(flux_namespace, given["follow"], options)

    async def work(at: Session) -> None:
        namespace = "" if all_namespaces else at.namespace
        await show(at, query, Filter(level, given["kind"], given["name"], namespace))

    session.run(work, limited=False)


logs = Verb(
    "logs",
    callback=_logs,
    help="Print what the controllers logged.",
    params=[
        click.Argument(["arguments"], nargs=-1, metavar=""),
        click.Option(["-f", "--follow"], is_flag=True, help="go on until --timeout"),
        click.Option(["-A", "--all-namespaces"], is_flag=True, help="also lines about other namespaces, or none"),
        click.Option(["--level"], default="", help=f"only lines of this level: {', '.join(_LEVELS)}"),
        click.Option(["--kind"], default="", help="only lines about this kind"),
        click.Option(["--name"], default="", help="only lines about objects of this name"),
        click.Option(["--flux-namespace"], default=DEFAULT_NAMESPACE, help="where the controllers run (flux-system)"),
        click.Option(["--since"], type=DURATION, default=0.0, help="only lines younger than this"),
        click.Option(["--since-time"], default="", help="only lines since this time (RFC 3339)"),
        click.Option(["--tail"], type=int, default=-1, help="only the last lines of each pod"),
    ],
)
