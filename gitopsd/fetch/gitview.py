"""Several packs of one repository seen as one, and whether a commit is whole in them.

Knows how objects name each other; refuses to know where packs come from and which names files may have.
Invariant: an object that is in two of the packs is the same in both (spec/hostile-inputs.md B12).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitobjects import COMMIT, TAG, TREE, Objects
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import Stop

_TREE_OF = re.compile(rb"tree ([0-9a-f]{40})\n")
_TARGET_OF = re.compile(rb"object ([0-9a-f]{40})\n")
_ENTRY = re.compile(rb"([0-7]{1,7}) [^\0]+\0(.{20})", re.DOTALL)
_DIRECTORIES = frozenset((b"40000", b"040000"))
_MODULE = b"160000"


class Layers:
    """Objects of several packs, looked for in their order."""

    def __init__(self, packs: Sequence[Objects]) -> None:
        self._packs = packs

    def __contains__(self, wanted: str) -> bool:
        return self.has(bytes.fromhex(wanted))

    def has(self, wanted: bytes) -> bool:
        """Whether one of the packs has the object with this hash (20 bytes)."""
        return any(pack.has(wanted) for pack in self._packs)

    def get(self, wanted: bytes) -> tuple[int, bytes]:
        """Kind and content of the object with this hash (20 bytes). Raises RemoteError when it is in no pack."""
        for pack in self._packs:
            if pack.has(wanted):
                return pack.get(wanted)
        raise RemoteError(f"object {wanted.hex()} is in no pack", rule="missing-object")


def laid_over(new: Pack, old: Objects, want: str, stop: Stop) -> Objects:
    """See `new` and `old` as one. Raises RemoteError unless all of `want` is there, and nothing twice and different.

    What stands alone and is whole needs nothing else, and is returned as it is.
    """
    if new.stands_alone and is_whole(new, want, stop):
        return new
    for name in new.columns.numbers:
        stop.check()
        if old.has(name) and old.get(name) != new.get(name):
            raise RemoteError(f"two different objects have the hash {name.hex()}", rule="hash-collision")
    both = Layers((new, old))
    if not is_whole(both, want, stop):
        raise RemoteError(f"the server did not send all of {want}", rule="missing-object")
    return both


def is_whole(objects: Objects, want: str, stop: Stop) -> bool:
    """Whether everything that `want` needs is there; submodules and parents are no part of it."""
    return all(is_there for _, is_there in reachable(objects, (want,), stop))


def reachable(objects: Objects, wants: Iterable[str], stop: Stop) -> Iterator[tuple[bytes, bool]]:
    """The hashes of all objects that the commits and tags `wants` need, each once, and whether they are there.

    Trees that cannot be read count as missing. Reads no file.
    """
    walk = [bytes.fromhex(want) for want in wants]
    seen = set(walk)
    files: set[bytes] = set()
    while walk:
        stop.check()
        name = walk.pop()
        if not objects.has(name):
            yield name, False
            continue
        yield name, True
        kind, content = objects.get(name)
        if kind == TREE:
            names = list(_entries(content))
        elif kind in {COMMIT, TAG}:
            found = (_TREE_OF if kind == COMMIT else _TARGET_OF).match(content)
            names = [(True, bytes.fromhex(found[1].decode()))] if found else []
        else:
            continue
        for is_directory, child in names:
            if child in seen or child in files:
                continue
            if is_directory:
                seen.add(child)
                walk.append(child)
            else:
                files.add(child)
                yield child, objects.has(child)


def _entries(tree: bytes) -> Iterator[tuple[bool, bytes]]:
    for mode, child in _ENTRY.findall(tree):
        if mode != _MODULE:
            yield mode in _DIRECTORIES, child
