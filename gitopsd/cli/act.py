"""`gitopsd reconcile`, `suspend`, `resume`: ask for work, hold it back, let it go on (`spec/cli.md` 5 and 6).

All three change one field of an object and leave the work to the daemon. Waiting is a watch: a verb returns at the
change that ends it, not at the next look. The lines are those that scripts know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import partial

import click

from gitopsd.api.meta import FORCE_AT, REQUESTED_AT, RESET_AT
from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb, Verbs
from gitopsd.cli.kinds import (
    BUCKET,
    BY_NAME,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KINDS,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    Kind,
    condition,
    is_suspended,
    name_of,
    namespace_of,
    text_at,
)
from gitopsd.cli.objects import list_all, merge_patch, named, read, states
from gitopsd.cli.session import Session
from gitopsd.errors import GitopsdError
from gitopsd.krm.kstatus import Status, assess
from gitopsd.krm.objects import Obj, get_in

_handled = text_at("status", "lastHandledReconcileAt")

# What `--with-source` can reconcile first, for each kind that has a source.
_SOURCES = {
    KUSTOMIZATION.name: (GIT_REPOSITORY, OCI_REPOSITORY, BUCKET),
    HELM_CHART.name: (HELM_REPOSITORY, GIT_REPOSITORY, BUCKET),
    HELM_RELEASE.name: (HELM_CHART, OCI_REPOSITORY),
}


@dataclass(frozen=True)
class Request:
    """What to ask of an object."""

    with_source: bool = False
    force: bool = False
    reset: bool = False


def timestamp(nanoseconds: int, zone: tzinfo | None = None) -> str:
    """RFC 3339 in the local zone, with as many digits of the second as are not zero."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    local = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    offset = local.strftime("%z")
    offset = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:5]}"
    return f"{local:%Y-%m-%dT%H:%M:%S}{fraction}{offset}"


async def reconcile(at: Session, kind: Kind, namespace: str, name: str, request: Request) -> None:
    """Ask for a reconciliation of one object and wait until it was done."""
    obj = await read(at.client, kind, namespace, name)
    if kind is HELM_REPOSITORY and kind.is_static(obj):
        console.success("reconciliation not supported by the object")
        return
    if is_suspended(obj):
        raise CommandError("resource is suspended")
    if request.with_source:
        await _reconcile_source(at, kind, obj)
    console.action(f"annotating {kind.name} {name} in {namespace} namespace")
    token = timestamp(time.time_ns())
    annotations = {REQUESTED_AT: token}
    if request.force:
        annotations[FORCE_AT] = token
    if request.reset:
        annotations[RESET_AT] = token
    await merge_patch(at.client, kind, namespace, name, {"metadata": {"annotations": annotations}})
    console.success(f"{kind.name} annotated")
    console.waiting(f"waiting for {kind.name} reconciliation")
    before = _handled(obj)
    done = await _wait(at, kind, namespace, name, lambda seen: _handled(seen) != before and _is_current(seen))
    _judge(kind, done)
    console.success(kind.success(done))


def _judge(kind: Kind, obj: Obj) -> None:
    ready = condition(obj, "Ready")
    if ready is None:
        raise CommandError("status can't be determined")
    if ready.get("status") != "True":
        message = ready.get("message") or ""
        # Kinds that have a source of their own print the message bare; scripts may match either.
        quoted = message if kind.name in _SOURCES else f"'{message}'"
        raise CommandError(f"{kind.name} reconciliation failed: {quoted}")


def _is_current(obj: Obj) -> bool:
    verdict = assess(obj)
    if verdict.status in {Status.CURRENT, Status.IN_PROGRESS}:
        return verdict.status is Status.CURRENT
    raise CommandError(verdict.message)


async def _wait(at: Session, kind: Kind, namespace: str, name: str, is_done: Callable[[Obj], bool]) -> Obj:
    """The first state of the object that `is_done`; when the time is up, a note says what kept it."""
    seen: Obj | None = None
    try:
        async with aclosing(states(at.client, kind.path(namespace), name)) as stream:
            async for seen in stream:
                if seen is None:
                    raise CommandError(f'{kind.resource} "{name}" not found')
                if is_done(seen):
                    return seen
    except asyncio.CancelledError as stopped:
        ready = None if seen is None else condition(seen, "Ready")
        if ready is not None and ready.get("status") == "False" and ready.get("message"):
            stopped.add_note(f"{kind.name} {name} is not ready: {ready['message']}")
        raise
    raise AssertionError("a watch ended by itself")


async def _reconcile_source(at: Session, kind: Kind, obj: Obj) -> None:
    """Reconcile what `obj` is made from, and before that what its source is made from (`spec/cli.md` 5.4)."""
    if kind is HELM_RELEASE:
        source_kind, namespace, name = _release_source(obj)
    else:
        reference = get_in(obj, "spec", "sourceRef", default={})
        source_kind, name = str(reference.get("kind") or ""), str(reference.get("name") or "")
        # A HelmChart's source always lives in the chart's own namespace.
        named_namespace = "" if kind is HELM_CHART else reference.get("namespace")
        namespace = str(named_namespace or namespace_of(obj))
    source = BY_NAME.get(source_kind)
    if source is None or source not in _SOURCES[kind.name]:
        raise CommandError(f"cannot reconcile source of kind {source_kind}")
    await reconcile(at, source, namespace, name, Request(with_source=source is HELM_CHART))


def _release_source(obj: Obj) -> tuple[str, str, str]:
    chart_ref = get_in(obj, "spec", "chartRef")
    if chart_ref:
        return str(chart_ref.get("kind")), str(chart_ref.get("namespace") or namespace_of(obj)), str(chart_ref["name"])
    source = get_in(obj, "spec", "chart", "spec", "sourceRef", default={})
    # The daemon makes this chart, beside its source and not beside the release.
    return HELM_CHART.name, str(source.get("namespace") or namespace_of(obj)), f"{namespace_of(obj)}-{name_of(obj)}"


async def suspend(at: Session, kind: Kind, names: Sequence[str]) -> None:
    """Hold objects back; without names all of the namespace. What fails for a name is said and passed over."""
    if not names:
        objects = await list_all(at.client, kind, at.namespace)
        if not objects:
            raise CommandError("no objects found")
        for obj in objects:
            await _suspend_one(at, kind, name_of(obj))
    for name in dict.fromkeys(names):
        try:
            if not await named(at.client, kind, at.namespace, name):
                console.failure(f"{kind.name} {name} not found in {at.namespace} namespace")
                continue
            await _suspend_one(at, kind, name)
        except GitopsdError as error:
            console.failure(f"failed suspending {kind.name} {name} in {at.namespace} namespace: {error}")


async def _suspend_one(at: Session, kind: Kind, name: str) -> None:
    console.action(f"suspending {kind.human} {name} in {at.namespace} namespace")
    await merge_patch(at.client, kind, at.namespace, name, {"spec": {"suspend": True}})
    console.success(f"{kind.human} suspended")


async def resume(at: Session, kind: Kind, names: Sequence[str], *, wait: bool) -> None:
    """Let objects go on; without names all of the namespace. `wait` stays until they are ready."""
    async with at.deadline():
        resumed = await _resume_named(at, kind, names) if names else await _resume_all(at, kind)
    if not wait or not resumed:
        return
    for _ in resumed:
        console.waiting(f"waiting for {kind.name} reconciliation")
    results = await asyncio.gather(*(_resumed(at, kind, name) for name in resumed))
    failed = 0
    for name, result in sorted(zip(resumed, results, strict=True), key=lambda pair: pair[0]):
        if isinstance(result, GitopsdError):
            failed += 1
            console.failure(f"{kind.name} {name} reconciliation failed: {result}")
        else:
            console.success(f"{kind.name} {name} reconciliation completed")
            console.success(kind.success(result))
    if failed:
        raise CommandError(f"reconciliation failed for {failed} {kind.name}(s)")


async def _resume_named(at: Session, kind: Kind, names: Sequence[str]) -> list[str]:
    resumed: list[str] = []
    for name in dict.fromkeys(names):
        if await named(at.client, kind, at.namespace, name):
            await _resume_one(at, kind, name)
            resumed.append(name)
        else:
            # Always the first argument, whichever is missing: kept as scripts know it.
            console.failure(f"{kind.name} object '{names[0]}' not found in {at.namespace} namespace")
    return resumed


async def _resume_all(at: Session, kind: Kind) -> list[str]:
    try:
        objects = await list_all(at.client, kind, at.namespace)
        for obj in objects:
            await _resume_one(at, kind, name_of(obj))
    except GitopsdError as error:
        raise CommandError(f"failed patching objects: {error}") from error
    if not objects:
        console.failure(f"no {kind.name} objects found in {at.namespace} namespace")
    return [name_of(obj) for obj in objects]


async def _resume_one(at: Session, kind: Kind, name: str) -> None:
    console.action(f"resuming {kind.human} {name} in {at.namespace} namespace")
    await merge_patch(at.client, kind, at.namespace, name, {"spec": {"suspend": None}})
    console.success(f"{kind.human} resumed")


async def _resumed(at: Session, kind: Kind, name: str) -> Obj | GitopsdError:
    try:
        async with at.deadline():
            return await _wait(at, kind, at.namespace, name, partial(is_ready, kind))
    except GitopsdError as error:
        return error


def is_ready(kind: Kind, obj: Obj) -> bool:
    """Whether the newest generation was worked on, well (`spec/cli.md` 6.2)."""
    if kind.is_static(obj):
        return _is_current(obj)
    observed = get_in(obj, "status", "observedGeneration", default=0)
    ready = condition(obj, "Ready")
    if observed < 1 or ready is None:
        return False
    generation = get_in(obj, "metadata", "generation", default=0)
    return (ready.get("observedGeneration") or observed) == generation and _is_current(obj)


_NAMES = click.Argument(["names"], nargs=-1, metavar="[NAME]...")


def _reconcile_verb(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], **flags: bool) -> None:
        if not names:
            raise CommandError(f"{kind.name} name is required")
        request = Request(**flags)
        session.run(lambda at: reconcile(at, kind, at.namespace, names[0], request))

    params: list[click.Parameter] = [_NAMES]
    if kind.name in _SOURCES:
        params.append(click.Option(["--with-source"], is_flag=True, help="reconcile its source first"))
    if kind is HELM_RELEASE:
        params.append(click.Option(["--force"], is_flag=True, help="install or upgrade once, whatever the state"))
        params.append(click.Option(["--reset"], is_flag=True, help="forget the failures so far"))
    return Verb(kind.word, callback=command, params=params, help=f"Reconcile a {kind.name} now.")


def _suspend_verb(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], *, all_objects: bool) -> None:
        if not names and not all_objects:
            raise CommandError(f"{kind.human} name is required")
        session.run(lambda at: suspend(at, kind, names))

    params = [_NAMES, click.Option(["--all", "all_objects"], is_flag=True, help="every one of the namespace")]
    return Verb(kind.word, callback=command, params=params, help=f"Suspend the reconciliation of a {kind.name}.")


def _resume_verb(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], *, all_objects: bool, wait: bool | None) -> None:
        if not names and not all_objects:
            raise CommandError(f"{kind.human} name is required")
        waits = len(names) == 1 if wait is None else wait
        # The time is kept for each object, so that those that made it are told.
        session.run(lambda at: resume(at, kind, names, wait=waits), limited=False)

    params = [
        _NAMES,
        click.Option(["--all", "all_objects"], is_flag=True, help="every one of the namespace"),
        click.Option(["--wait/--no-wait"], default=None, help="wait until they are ready (default: for a single name)"),
    ]
    return Verb(kind.word, callback=command, params=params, help=f"Resume a suspended {kind.name}.")


def _assemble(verb: Verbs, make: Callable[[Kind], Verb], kinds: Sequence[Kind]) -> Verbs:
    families = {
        "source": Verbs("source", help=f"{verb.name} sources"),
        "image": Verbs("image", help=f"{verb.name} image objects"),
    }
    for group in families.values():
        verb.add_command(group)
    for kind in kinds:
        group = families.get(kind.family, verb)
        group.add_command(make(kind))
        for alias in kind.aliases:
            group.aliases[alias] = kind.word
    return verb


reconcile_verbs = _assemble(
    Verbs("reconcile", help="Ask for a reconciliation now, and wait for its end."),
    _reconcile_verb,
    [kind for kind in KINDS if kind.can_reconcile],
)
suspend_verbs = _assemble(
    Verbs("suspend", help="Hold objects back."), _suspend_verb, [kind for kind in KINDS if kind.can_suspend]
)
resume_verbs = _assemble(
    Verbs("resume", help="Let suspended objects go on."), _resume_verb, [kind for kind in KINDS if kind.can_suspend]
)
