"""What a reader of Git's objects asks for, whatever holds them: a pack, or several of one repository.

Knows kinds and hashes; refuses to know where objects come from. Pure.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Protocol, overload

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
KINDS = {COMMIT: "commit", TREE: "tree", BLOB: "blob", TAG: "tag"}


class Bytes(Protocol):
    """The bytes of a pack: in memory, mapped, or in a file."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...


class Objects(Protocol):
    """Objects by hash."""

    def __contains__(self, wanted: str) -> bool: ...

    def has(self, wanted: bytes) -> bool:
        """Whether the object with this hash (20 bytes) is here."""

    def get(self, wanted: bytes) -> tuple[int, bytes]:
        """Kind and content of the object with this hash (20 bytes). Raises RemoteError when it is not here."""


@dataclass(frozen=True)
class Columns:
    """Where every object of a pack is, each by its number. `bases` below zero: none, or one that is outside."""

    kinds: bytearray
    starts: array[int]
    sizes: array[int]
    bases: array[int]
    numbers: dict[bytes, int]
