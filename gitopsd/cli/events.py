"""`gitopsd events`: what happened to an object and to what it is made from (`spec/cli.md` 8).

Reads core/v1 events. Kinds are told by name alone, as flux does; a foreign kind of the same name shows as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import click

from gitopsd.api.meta import parse_time
from gitopsd.cli import console, session
from gitopsd.cli.durations import human_duration
from gitopsd.cli.flags import CommandError, Verb, split_commas
from gitopsd.cli.kinds import BY_NAME
from gitopsd.cli.objects import news, read
from gitopsd.cli.session import Session
from gitopsd.cli.table import render
from gitopsd.krm.objects import Obj, get_in
from gitopsd.tasks import TaskScope

_KINDS = frozenset(BY_NAME) - {"ExternalArtifact"}
_TYPES = ("Normal", "Warning")
_AHEAD = 100  # events read before they are printed
_COLUMNS = ("Last seen", "Type", "Reason", "Object", "Message")


class Subject(NamedTuple):
    """Whose events are wanted; an empty field means any."""

    kind: str = ""
    namespace: str = ""
    name: str = ""

    def params(self) -> dict[str, str]:
        """The field selector of the events about this subject."""
        fields = {"involvedObject.kind": self.kind, "involvedObject.name": self.name}
        selector = ",".join(f"{field}={value}" for field, value in fields.items() if value)
        return {"fieldSelector": selector} if selector else {}

    def path(self) -> str:
        """Where the events about this subject are listed."""
        return f"/api/v1/namespaces/{self.namespace}/events" if self.namespace else "/api/v1/events"


def parse_subject(text: str) -> tuple[str, str]:
    """Kind and name of `--for`; both empty when it was not given."""
    if not text:
        return "", ""
    kind, slash, name = text.partition("/")
    if not kind or (slash and not name) or "/" in name:
        raise CommandError("--for selector must be of format <kind>[/<name>]")
    for known in _KINDS:
        if known.lower() == kind.lower():
            return known, name
    raise CommandError(f"'{kind}' is not a recognized Flux kind")


def parse_types(types: Iterable[str]) -> frozenset[str]:
    """Event types in any case; empty means all."""
    by_name = {known.lower(): known for known in _TYPES}
    for each in types:
        if each.lower() not in by_name:
            raise CommandError(f"type '{each}' not supported. Supported types are {', '.join(_TYPES)}")
    return frozenset(by_name[each.lower()] for each in types)


def related(kind: str, obj: Obj) -> list[Subject]:
    """What `obj` is made from, as far as events about it help to understand `obj`."""
    namespace = str(get_in(obj, "metadata", "namespace", default=""))
    match kind:
        case "Kustomization" | "HelmChart":
            return [_reference(obj, ("spec", "sourceRef"), namespace)]
        case "HelmRelease":
            chart = Subject("HelmChart", namespace, f"{namespace}-{get_in(obj, 'metadata', 'name', default='')}")
            return [_reference(obj, ("spec", "chart", "spec", "sourceRef"), namespace), chart]
        case "Alert":
            return [_reference(obj, ("spec", "providerRef"), namespace, kind="Provider")]
        case "ImagePolicy":
            return [_reference(obj, ("spec", "imageRepositoryRef"), namespace, kind="ImageRepository")]
    return []


def _reference(obj: Obj, path: tuple[str, ...], namespace: str, *, kind: str = "") -> Subject:
    reference = get_in(obj, *path, default={})
    fields = {"kind": kind or reference.get("kind"), "name": reference.get("name")}
    for field, value in fields.items():
        if not value:
            of = f"{namespace}/{get_in(obj, 'metadata', 'name', default='')}"
            raise CommandError(f"field '{'.'.join((*path, field))}' for '{of}' not found")
    return Subject(str(fields["kind"]), str(reference.get("namespace") or namespace), str(fields["name"]))


@dataclass(frozen=True)
class Query:
    """What was asked for."""

    subjects: Sequence[Subject]
    types: frozenset[str]
    with_namespace: bool

    def wants(self, event: Obj) -> bool:
        """Whether an event is printed."""
        kind = get_in(event, "involvedObject", "kind", default="")
        return kind in _KINDS and (not self.types or event.get("type") in self.types)

    def table(self, events: Sequence[Obj], now: datetime, *, with_heading: bool) -> str:
        """The rows of `events`."""
        columns = ("Namespace", *_COLUMNS) if self.with_namespace else _COLUMNS
        rows = [self._row(event, now) for event in events]
        return render(columns, rows, with_heading=with_heading)

    def _row(self, event: Obj, now: datetime) -> list[str]:
        about = event.get("involvedObject") or {}
        shown = [str(get_in(event, "metadata", "namespace", default=""))] if self.with_namespace else []
        return [
            *shown,
            last_seen(event, now),
            str(event.get("type") or ""),
            str(event.get("reason") or ""),
            f"{about.get('kind', '')}/{about.get('name', '')}",
            str(event.get("message") or ""),
        ]


def last_seen(event: Obj, now: datetime) -> str:
    """How long ago an event was seen, and how often since when."""
    first = _ago(event.get("eventTime") or event.get("firstTimestamp"), now)
    series = event.get("series")
    if series:
        return f"{_ago(series.get('lastObservedTime'), now)} (x{series.get('count', 0)} over {first})"
    if (event.get("count") or 0) > 1:
        return f"{_ago(event.get('lastTimestamp'), now)} (x{event['count']} over {first})"
    return first


def _time(text: object) -> datetime | None:
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _ago(text: object, now: datetime) -> str:
    then = _time(text)
    return "<unknown>" if then is None else human_duration((now - then).total_seconds())


def _order(event: Obj) -> datetime:
    series = event.get("series") or {}
    for text in (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime")):
        if (found := _time(text)) is not None:
            return found
    return datetime.min.replace(tzinfo=UTC)


async def _subjects(at: Session, kind: str, name: str, *, all_namespaces: bool) -> list[Subject]:
    namespace = "" if all_namespaces else at.namespace
    found = [Subject(kind, namespace, name)]
    if kind and name:
        found += related(kind, await read(at.client, BY_NAME[kind], at.namespace, name))
    return found


async def show(at: Session, query: Query, *, nothing: str) -> None:
    """Print what happened, oldest first; `nothing` is said when nothing did."""
    found: list[Obj] = []
    for subject in query.subjects:
        async for page in at.client.list_pages(subject.path(), params=subject.params()):
            found.extend(event for event in page.get("items") or [] if query.wants(event))
    if not found:
        console.failure(nothing)
        return
    console.out(query.table(sorted(found, key=_order), datetime.now(UTC), with_heading=True))


async def follow(at: Session, query: Query) -> None:
    """Print what happened, then every event as it happens, until the time is up."""
    queue: asyncio.Queue[Obj] = asyncio.Queue(maxsize=_AHEAD)
    try:
        async with asyncio.timeout(at.flags.timeout) as limit, TaskScope("events") as tasks:
            for subject in query.subjects:
                tasks.start(f"watch {subject}", _pass_on(at, subject, queue), essential=True)
            tasks.start("print", _print(query, queue), essential=True)
            await tasks.failure()
    except TimeoutError:
        if not limit.expired():
            raise


async def _pass_on(at: Session, subject: Subject, queue: asyncio.Queue[Obj]) -> None:
    from gitopsd.kube.watch import Replaced

    known: set[str] = set()
    async with aclosing(news(at.client, subject.path(), subject.params())) as stream:
        async for told in stream:
            # All of them are told again after a longer loss of connection: what was printed stays printed once.
            for event in sorted(told.items, key=_order) if isinstance(told, Replaced) else (told.obj,):
                version = str(get_in(event, "metadata", "resourceVersion", default=""))
                is_deleted = not isinstance(told, Replaced) and told.type == "DELETED"
                if version not in known and not is_deleted:
                    await queue.put(event)
                known.add(version)


async def _print(query: Query, queue: asyncio.Queue[Obj]) -> None:
    with_heading = True
    while True:
        event = await queue.get()
        if query.wants(event):
            console.out(query.table([event], datetime.now(UTC), with_heading=with_heading))
            console.flush()
            with_heading = False


def _events(*, all_namespaces: bool, watch: bool, selector: str, types: tuple[str, ...]) -> None:
    kind, name = parse_subject(selector)
    wanted = parse_types(types)

    async def work(at: Session) -> None:
        subjects = await _subjects(at, kind, name, all_namespaces=all_namespaces)
        elsewhere = any(subject.namespace != at.namespace for subject in subjects)
        query = Query(subjects, wanted, all_namespaces or elsewhere)
        if watch:
            await follow(at, query)
            return
        where = "" if all_namespaces else f" in {at.namespace} namespace"
        await show(at, query, nothing=f"No events found{where}.")

    session.run(work, limited=not watch)


events = Verb(
    "events",
    callback=_events,
    help="Print the events of our objects.",
    params=[
        click.Option(["-A", "--all-namespaces"], is_flag=True, help="of all namespaces"),
        click.Option(["-w", "--watch"], is_flag=True, help="go on and print what happens"),
        click.Option(["--for", "selector"], default="", metavar="KIND[/NAME]", help="about a kind or an object"),
        click.Option(["--types"], multiple=True, callback=split_commas, help="Normal, Warning"),
    ],
)
