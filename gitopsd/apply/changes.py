"""What one apply did to each object, as a value: for the log, the event, the inventory and the next run.

Pure. Entries stand in apply order (`spec/kustomize.md` 4.2, 4.7); texts are those that users of Flux know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from gitopsd.apply.inventory import InventoryEntry
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, ObjectKey, get_in


class Action(StrEnum):
    """What became of one object."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    DELETED = "deleted"
    UNKNOWN = "unknown"
    """A write was sent and its answer never came: the object may be there."""


_CHANGES = frozenset({Action.CREATED, Action.CONFIGURED})


class Known(NamedTuple):
    """One object as it was after we last looked: what was wanted of it, and which state answered to that."""

    digest: str
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a change set. `live` is the server's whole object where the apply has seen it."""

    key: ObjectKey
    version: str
    action: Action
    live: Obj | None = field(default=None, compare=False, repr=False)
    known: Known | None = field(default=None, compare=False)

    @property
    def subject(self) -> str:
        """`Kind/namespace/name`."""
        return self.key.subject

    @property
    def line(self) -> str:
        """`<subject> <action>`, as events and errors list it."""
        return f"{self.key.subject} {self.action}"

    @property
    def has_changed(self) -> bool:
        """Something was written."""
        return self.action in _CHANGES

    @property
    def uid(self) -> str:
        """The live object's uid, empty when it is not known."""
        return self.known.uid if self.known else str(get_in(self.live, "metadata", "uid", default=""))


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """The entries of one apply (or of one prune), in the order of their application."""

    entries: tuple[Entry, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __add__(self, other: Iterable[Entry]) -> ChangeSet:
        return ChangeSet((*self.entries, *other))

    def changed(self) -> ChangeSet:
        """Only what was created or configured."""
        return ChangeSet(tuple(entry for entry in self.entries if entry.has_changed))

    def without(self, *actions: Action) -> ChangeSet:
        """All but the entries with one of these actions."""
        return ChangeSet(tuple(entry for entry in self.entries if entry.action not in actions))

    def lines(self) -> list[str]:
        """`<subject> <action>` of every entry; an event carries those of `changed()`."""
        return [entry.line for entry in self.entries]

    def output(self, *, grouped: bool = False) -> dict[str, str] | dict[str, list[str]]:
        """The field `output` of the log line: subject to action, or with the gate GroupChangeLog action to subjects."""
        if not grouped:
            return {entry.subject: str(entry.action) for entry in self.entries}
        groups: dict[str, list[str]] = {}
        for entry in self.entries:
            groups.setdefault(str(entry.action), []).append(entry.subject)
        return groups

    def inventory(self) -> tuple[InventoryEntry, ...]:
        """Every entry as the status stores it, skipped ones too, in apply order and each object once."""
        return tuple({entry.key: InventoryEntry.of(entry.key, entry.version) for entry in self.entries}.values())

    def known(self) -> Mapping[ObjectKey, Known]:
        """What the next apply may take for granted of the objects that were written or found as wanted."""
        return {entry.key: entry.known for entry in self.entries if entry.known is not None}


class ApplyError(GitopsdError):
    """An apply that ended early. `done` is what was written, or may have been written, before.

    The text is the first error, a newline, and one line for each object created or configured, each with a newline
    (`spec/kustomize.md` 2.3): it always ends with one.
    """

    def __init__(self, message: str, done: ChangeSet = ChangeSet()) -> None:
        lines = "".join(f"{line}\n" for line in done.changed().lines())
        super().__init__(f"{message}\n{lines}")
        self.message = str(self)
        self.done = done
