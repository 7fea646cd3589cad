"""`gitopsd get`: what is there, and is it well (`spec/cli.md` 4).

One listing over the rows of `kinds`, one stream of changes for `--watch`. A kind that the cluster does not know is an
error where it was asked for by name and nothing at all where everything was asked for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click

from gitopsd.cli import console, session
from gitopsd.cli.flags import CommandError, Verb, Verbs, persistent_option, stored
from gitopsd.cli.kinds import ALL_IMAGES, ALL_SOURCES, EVERYTHING, KINDS, Kind
from gitopsd.cli.objects import NoMatchError, changes, list_all, name_selector
from gitopsd.cli.session import Session
from gitopsd.cli.table import Paint, render
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj


@dataclass(frozen=True)
class Selector:
    """`--status-selector`: a condition and the status it must, or must not, have."""

    condition: str
    status: str
    negated: bool

    @classmethod
    def parse(cls, text: str) -> Selector | None:
        """Read `type=status` or `type!=status`; None when there is nothing to select by."""
        if not text:
            return None
        kind, equals, status = text.partition("=")
        if not equals:
            raise CommandError(f"expected status selector in type=status or type!=status format, but found: {text}")
        return cls(kind.removesuffix("!"), status, kind.endswith("!"))

    def selects(self, kind: Kind, obj: Obj) -> bool:
        """Whether an object is to be shown; with `!=` also one that lacks the condition."""
        return kind.matches(obj, self.condition, self.status) is not self.negated


@dataclass(frozen=True)
class Listing:
    """What was asked for, whatever the kind."""

    name: str
    all_namespaces: bool
    with_heading: bool
    watch: bool
    selector: Selector | None
    labels: str
    show_source: bool = False
    with_kind: bool = False

    def table(self, kind: Kind, objects: Sequence[Obj], *, with_heading: bool) -> str:
        """The rows of `objects` that the status selector lets through."""
        return render(
            kind.headings(all_namespaces=self.all_namespaces, show_source=self.show_source),
            [
                kind.row(
                    obj,
                    all_namespaces=self.all_namespaces,
                    show_source=self.show_source,
                    with_kind=self.with_kind,
                )
                for obj in objects
                if self.selector is None or self.selector.selects(kind, obj)
            ],
            with_heading=with_heading,
            paint=_paint(),
        )

    def missing(self, kind: Kind, namespace: str) -> str:
        """The error of an empty listing."""
        where = "in any namespace" if self.all_namespaces else f'in "{namespace}" namespace'
        if self.name:
            return f"{kind.name} object '{self.name}' not found {where}"
        return f"no {kind.name} objects found {where}"

    def params(self) -> dict[str, str]:
        """The query of the list or watch request."""
        params = {"fieldSelector": name_selector(self.name)} if self.name else {}
        return {**params, "labelSelector": self.labels} if self.labels else params


def _paint() -> Paint | None:
    """A person who looks at a terminal sees what is not ready; a script sees bytes."""
    if not sys.stdout.isatty():
        return None
    return lambda title, cell: f"\x1b[31m{cell}\x1b[0m" if title == "READY" and cell.startswith("False") else cell


async def show(at: Session, kind: Kind, listing: Listing) -> None:
    """List one kind; nothing found is an error."""
    objects = await _objects(at, kind, listing)
    if not objects:
        raise CommandError(listing.missing(kind, at.namespace))
    console.out(listing.table(kind, objects, with_heading=listing.with_heading))


async def show_all(at: Session, kinds: Sequence[Kind], listing: Listing) -> None:
    """List several kinds, asked for at once and printed in order; a kind that fails does not stop the others."""
    found = await asyncio.gather(*(_objects(at, kind, listing) for kind in kinds), return_exceptions=True)
    for kind, objects in zip(kinds, found, strict=True):
        if isinstance(objects, NoMatchError):
            continue
        if isinstance(objects, GitopsdError):
            console.failure(str(objects))
        elif isinstance(objects, BaseException):
            raise objects
        elif objects:
            console.out(listing.table(kind, objects, with_heading=listing.with_heading) + "\n")


async def follow(at: Session, kind: Kind, listing: Listing) -> None:
    """Print a row for every object and every change, until the time is up."""
    with_heading = listing.with_heading
    try:
        async with asyncio.timeout(at.flags.timeout) as limit:
            namespace = "" if listing.all_namespaces else at.namespace
            async with aclosing(changes(at.client, kind, namespace, listing.params())) as stream:
                async for obj in stream:
                    console.out(listing.table(kind, [obj], with_heading=with_heading))
                    console.flush()
                    with_heading = False
    except TimeoutError:
        if not limit.expired():
            raise


async def _objects(at: Session, kind: Kind, listing: Listing) -> list[Obj]:
    namespace = "" if listing.all_namespaces else at.namespace
    return await list_all(at.client, kind, namespace, listing.params())


def _listing(names: Sequence[str], **more: Any) -> Listing:
    given = stored()
    return Listing(
        name=names[0] if names else "",
        all_namespaces=given["all_namespaces"],
        with_heading=not given["no_header"],
        watch=given["watch"],
        selector=Selector.parse(given["status_selector"]),
        labels=given["label_selector"],
        **more,
    )


get = Verbs(
    "get",
    help="Print the objects of a kind and their status.",
    persistent=(
        persistent_option("-A", "--all-namespaces", is_flag=True, help="list the objects of all namespaces"),
        persistent_option("--no-header", is_flag=True, help="leave the heading out"),
        persistent_option("-w", "--watch", is_flag=True, help="go on and print a row for each change"),
        persistent_option("--status-selector", default="", help="type=status or type!=status of a condition"),
        persistent_option("-l", "--label-selector", default="", help="Kubernetes label selector"),
    ),
)


def _single(kind: Kind) -> Verb:
    def command(names: tuple[str, ...], *, show_source: bool = False) -> None:
        listing = _listing(names, show_source=show_source)
        if listing.watch:
            session.run(lambda at: follow(at, kind, listing), limited=False)
        else:
            session.run(lambda at: show(at, kind, listing))

    params: list[click.Parameter] = [click.Argument(["names"], nargs=-1, metavar="[NAME]")]
    if kind.source is not None:
        params.append(click.Option(["--show-source"], is_flag=True, help="add the source of each object"))
    return Verb(kind.get_word, callback=command, params=params, help=f"{kind.name} objects and their status.")


def _several(kinds: Sequence[Kind], what: str) -> Verb:
    def command(names: tuple[str, ...]) -> None:
        listing = _listing(names, with_kind=True)
        if listing.watch:
            raise CommandError("expected a single resource type, but found all")
        session.run(lambda at: show_all(at, kinds, listing))

    return Verb("all", callback=command, params=[click.Argument(["names"], nargs=-1, metavar="[NAME]")], help=what)


def _assemble() -> None:
    families = {
        "source": Verbs("sources", help="Objects that something is fetched for."),
        "image": Verbs("images", help="Image repositories, policies and automations."),
        "artifact": Verbs("artifacts", help="Artifact generators."),
    }
    for family, group in families.items():
        get.add_command(group)
        get.aliases[family] = f"{family}s"
    for kind in KINDS:
        group = families.get(kind.family, get)
        group.add_command(_single(kind))
        for alias in (kind.word, *kind.aliases):
            if alias != kind.get_word:
                group.aliases[alias] = kind.get_word
    families["source"].add_command(_several(ALL_SOURCES, "Sources of every kind."))
    families["image"].add_command(_several(ALL_IMAGES, "Image objects of every kind."))
    get.add_command(_several(EVERYTHING, "Objects of every kind."))


_assemble()
