"""Trees laid over each other: files of other repositories at their places in one tree (spec/source.md 5.5).

Theory of operation. Nothing is unpacked: a merge is a table of which file comes from which tree, and the new tree reads
each file once, in its own order, while it is laid down. Later trees win over earlier ones, file by file.

Knows trees and paths; refuses to know sources and ignore rules. Invariants: the trees that go in are not changed; no
path of the result lies outside of it, and a path that would is an error and not a shorter path; a file never takes the
place of a directory, or a directory that of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree, TreeError, TreeLimits, shown

# How often, on average, a place may be taken by one file after the other.
_MOST_TIMES: Final = 4


class PlaceError(TreeError):
    """A path leads out of the tree that it is meant to be in."""


@dataclass(frozen=True)
class Overlay:
    """What to lay over a tree: the directory or file `source` of `tree`, as `target`; empty paths are the roots."""

    tree: FileTree
    source: str
    target: str


class OverlayError(TreeError):
    """One of the overlays cannot be laid: `number` counts from 0, `is_misplaced` says that its target is no place."""

    def __init__(self, number: int, error: TreeError) -> None:
        super().__init__(str(error))
        self.number = number
        self.is_misplaced = isinstance(error, PlaceError)


def place(path: str) -> str:
    """The path below the root that `path` means: `a/../b` is `b`, `/a` is `a`, the root is empty.

    Raises PlaceError for one that climbs out.
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and not parts:
            raise PlaceError(f"'{shown(path)}' leads out of the tree")
        if part == "..":
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def merge(base: FileTree, overlays: Sequence[Overlay], limits: TreeLimits = DEFAULT_LIMITS) -> FileTree:
    """Lay `overlays` over `base`, in their order. Blocking. Raises OverlayError for the first that cannot be.

    Raises TreeError when all together are more than a tree may hold.
    """
    merged = _Merged(base, limits)
    for number, overlay in enumerate(overlays):
        try:
            merged.lay(overlay)
        except TreeError as error:
            raise OverlayError(number, error) from error
    if not overlays:
        return base
    return FileTree.build(merged, merged.executables(), merged.directories, limits=limits)


class _Merged(Mapping[str, bytes]):
    """The files of several trees under the names that they get, read when asked for."""

    def __init__(self, base: FileTree, limits: TreeLimits) -> None:
        self._limits = limits
        self._laid = 0
        self._origins: dict[str, tuple[FileTree, str]] = {path: (base, path) for path in base}
        self.directories: set[str] = set(base.directories())

    def __getitem__(self, path: str) -> bytes:
        tree, name = self._origins[path]
        return tree[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def executables(self) -> list[str]:
        return [path for path, (tree, name) in self._origins.items() if tree.is_executable(name)]

    def lay(self, overlay: Overlay) -> None:
        target, source = place(overlay.target), place(overlay.source)
        tree = overlay.tree
        if source in tree:
            self._add_file(target, tree, source)
            return
        if source and source not in tree.directories():
            raise TreeError(f"there is no '{shown(overlay.source)}' in it")
        self._add_directory(target)
        start = f"{source}/" if source else ""
        for directory in tree.directories():
            if directory.startswith(start):
                self._add_directory(_joined(target, directory.removeprefix(start)))
        for path in tree:
            if path.startswith(start):
                self._add_file(_joined(target, path.removeprefix(start)), tree, path)

    def _add_file(self, path: str, tree: FileTree, name: str) -> None:
        if not path or path in self.directories:
            raise TreeError(f"a file cannot take the place of directory '{shown(path) or '.'}'")
        self._add_directory(path.rpartition("/")[0])
        self._origins[path] = (tree, name)
        self._laid += 1
        if len(self._origins) > self._limits.files or self._laid > _MOST_TIMES * self._limits.files:
            raise TreeError(f"there are more than {self._limits.files} files")

    def _add_directory(self, path: str) -> None:
        """Make sure that a directory and those above it are there."""
        while path and path not in self.directories:
            if path in self._origins:
                raise TreeError(f"a directory cannot take the place of file '{shown(path)}'")
            self.directories.add(path)
            path = path.rpartition("/")[0]


def _joined(directory: str, path: str) -> str:
    return f"{directory}/{path}" if directory else path
