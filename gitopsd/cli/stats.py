"""`gitopsd stats`: how many objects of each kind run, fail and rest, and what they store (`spec/cli.md` 11)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from gitopsd.cli import console, session
from gitopsd.cli.durations import human_size
from gitopsd.cli.flags import Verb
from gitopsd.cli.kinds import STATISTICS, Kind, condition, is_suspended
from gitopsd.cli.objects import list_all
from gitopsd.cli.session import Session
from gitopsd.cli.table import render
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, get_in

_COLUMNS = ("Reconcilers", "Running", "Failing", "Suspended", "Storage")


def count(kind: Kind, objects: Sequence[Obj]) -> list[str]:
    """The row of one kind."""
    suspended = sum(is_suspended(obj) for obj in objects)
    failing = sum((condition(obj, "Ready") or {}).get("status") == "False" for obj in objects)
    sizes = (get_in(obj, "status", "artifact", "size", default=0) for obj in objects)
    stored = sum(size for size in sizes if isinstance(size, int))
    return [kind.name, str(len(objects) - suspended), str(failing), str(suspended), human_size(stored)]


async def show(at: Session, namespace: str) -> None:
    """Count every kind; one that cannot be listed counts nothing."""
    found = await asyncio.gather(*(_listed(at, kind, namespace) for kind in STATISTICS))
    rows = [count(kind, objects) for kind, objects in zip(STATISTICS, found, strict=True)]
    console.out(render(_COLUMNS, rows))


async def _listed(at: Session, kind: Kind, namespace: str) -> list[Obj]:
    try:
        return await list_all(at.client, kind, namespace)
    except GitopsdError:
        return []


def _stats(*, all_namespaces: bool) -> None:
    session.run(lambda at: show(at, "" if all_namespaces else at.namespace))


stats = Verb(
    "stats",
    callback=_stats,
    help="Count what runs, fails and is suspended.",
    params=[click.Option(["-A", "--all-namespaces"], is_flag=True, help="count the objects of all namespaces")],
)
