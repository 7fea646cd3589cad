"""A tree of files as one immutable value: fetched once, held in memory once, read by every controller and the engine.

Theory of operation. A `FileTree` *is* an uncompressed tar archive with one fixed form (spec/source.md 4.3), kept in a
sealed memfd. Reading a file is one `pread` at a known offset; another process of the same user opens the same memory
through `shared_path()`. So there is neither a second copy for the engine nor a directory on disk. Where the system
has no memfd, a private file takes its place (`artifact.shared`).

Knows paths, bytes and the tar form; refuses to know compression, sources and Kubernetes.
Invariants: every path is relative, has no empty, `.` or `..` part and stays within the bounds; nothing is both a file
and a directory; every parent is a directory of the tree; there are no links and no special files; equal content has
equal bytes and thus an equal digest. Paths that are not UTF-8 are kept byte for byte (surrogate escapes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from gitopsd.artifact.shared import SharedFile, SharedFileWriter
from gitopsd.artifact.tarform import (
    BLOCK,
    MODE_DIRECTORY,
    MODE_EXECUTABLE,
    MODE_FILE,
    TYPE_DIRECTORY,
    TYPE_FILE,
    header,
    padding,
)
from gitopsd.errors import GitopsdError
from gitopsd.tasks import sorted_in_parts

_CHUNK: Final = 1 << 20
_PARENT_PARTS: Final = frozenset((b"", b".", b".."))


class TreeError(GitopsdError):
    """Files that cannot be a tree: a path that leaves it, a name used twice, more than the bounds allow."""


@dataclass(frozen=True)
class TreeLimits:
    """How much one tree may hold (spec/hostile-inputs.md, bounds): counts, and bytes of content and of all names."""

    files: int = 200_000
    directories: int = 200_000
    content: int = 1 << 30
    names: int = 64 << 20
    depth: int = 128
    path: int = 4096
    component: int = 255


DEFAULT_LIMITS = TreeLimits()


def shown(path: str) -> str:
    """`path` as a message may show it: escaped where it is not plain text, and cut when very long."""
    text = path.encode("utf-8", "backslashreplace").decode()
    if not text.isprintable():
        text = "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode() for ch in text)
    return text if len(text) <= 256 else f"{text[:253]}..."


def encode_path(path: str, limits: TreeLimits = DEFAULT_LIMITS) -> bytes:
    """Check that `path` is one that a tree may hold, and return its bytes. Raises TreeError naming the rule."""
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise TreeError(f"path '{shown(path)}' is not text") from None
    if len(raw) > limits.path:
        raise TreeError(f"path '{shown(path)}' is longer than {limits.path} bytes")
    if b"\0" in raw:
        raise TreeError(f"path '{shown(path)}' holds a NUL byte")
    parts = raw.split(b"/")
    if not _PARENT_PARTS.isdisjoint(parts):
        raise TreeError(f"path '{shown(path)}' must be relative, without empty, '.' or '..' parts")
    if len(parts) > limits.depth:
        raise TreeError(f"path '{shown(path)}' is deeper than {limits.depth}")
    if len(raw) > limits.component and max(map(len, parts)) > limits.component:
        raise TreeError(f"path '{shown(path)}' has a part longer than {limits.component} bytes")
    return raw


def decode_path(raw: bytes) -> str:
    """The text form of a path's bytes; the inverse of `encode_path`."""
    return raw.decode("utf-8", "surrogateescape")


def clamp_path(path: str) -> str:
    """Resolve `path` the way a chroot does: `..` stops at the root, an absolute path starts there; the root is ``.

    spec/kustomize.md 8.1
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


class FileTree(Mapping[str, bytes]):
    """Fetched files: immutable, in memory once, and no path or link leaves the tree.

    Iterates over the files in the order of the tar: each directory's entries by name, depth first.
    """

    __slots__ = ("__dict__", "__weakref__", "_directories", "_files", "_shared")

    def __init__(self, shared: SharedFile, files: dict[str, int], directories: frozenset[str]) -> None:
        """Adopt a tar that is known to have the fixed form; everybody else calls `build`."""
        self._shared = shared
        self._files = files
        self._directories = directories

    @classmethod
    def build(
        cls,
        files: Mapping[str, bytes],
        executables: Iterable[str] = (),
        directories: Iterable[str] = (),
        *,
        limits: TreeLimits = DEFAULT_LIMITS,
    ) -> FileTree:
        """Lay `files` and the (perhaps empty) `directories` down as a tree.

        `files[path]` is read once, in order, while the tree is written: a lazy mapping needs no memory for all
        contents. Blocking. Raises TreeError for paths or amounts that a tree may not hold.
        """
        layout = Layout.plan(files, directories, limits)
        runnable = frozenset(executables)
        spool = _Spool(limits)
        try:
            for path, raw, is_directory in layout.entries:
                if is_directory:
                    spool.lay_directory(raw)
                    continue
                data = files[path]
                spool.lay_file(path, raw, len(data), executable=path in runnable)
                spool.write(data)
                spool.write(padding(len(data)))
            return cls(spool.finish(), spool.members, layout.directories)
        except BaseException:
            spool.discard()
            raise

    def __getitem__(self, path: str) -> bytes:
        offset, size, _ = unpack_member(self._files[path])
        return self._shared.read(offset, size)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: object) -> bool:
        return path in self._files

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FileTree):
            return self is other or (self.size == other.size and self.digest == other.digest)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<FileTree of {len(self)} files, {self.size} bytes>"

    def is_executable(self, path: str) -> bool:
        """Tell whether a file may be run; raises KeyError when there is no such file."""
        return unpack_member(self._files[path])[2]

    def length(self, path: str) -> int:
        """The number of bytes of a file, without reading it; raises KeyError when there is no such file."""
        return unpack_member(self._files[path])[1]

    def directories(self) -> frozenset[str]:
        """Every directory below the root, empty ones too."""
        return self._directories

    @property
    def size(self) -> int:
        """The bytes that the tree takes in memory: those of its tar."""
        return self._shared.size

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of the tar: equal for equal content, modes and directories."""
        hashed = hashlib.sha256()
        for chunk in self.chunks():
            hashed.update(chunk)
        return f"sha256:{hashed.hexdigest()}"

    def tar(self) -> bytes:
        """The tree as a tar archive, in a copy. Two calls, two processes, two days: the same bytes."""
        return self._shared.read(0, self._shared.size)

    def chunks(self) -> Iterator[bytes]:
        """The same bytes as `tar()`, a megabyte at a time."""
        for offset in range(0, self._shared.size, _CHUNK):
            yield self._shared.read(offset, min(_CHUNK, self._shared.size - offset))

    def shared_path(self) -> str:
        """A path under which a process of the same user reads the tar, for as long as this tree is referenced."""
        return self._shared.path

    def subtree(self, path: str) -> FileTree:
        """The tree below directory `path` (clamped to the root). Blocking. Raises TreeError when it is not there."""
        wanted = clamp_path(path)
        if not wanted:
            return self
        if wanted not in self._directories:
            raise TreeError(f"there is no directory '{shown(wanted)}'")
        start = f"{wanted}/"
        below = {name.removeprefix(start): name for name in self._files if name.startswith(start)}
        return FileTree.build(
            _Renamed(self, below),
            [name for name, original in below.items() if self.is_executable(original)],
            [name.removeprefix(start) for name in self._directories if name.startswith(start)],
        )


class TreeWriter:
    """Takes files and directories as they come, in any order, and makes a tree of them.

    What comes in the order of a tree is laid down once; anything else a second time when it is complete. Of two files
    of one name the later counts. Ends with `finish` or `discard`. Every method may raise TreeError.
    """

    def __init__(self, limits: TreeLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._spool = _Spool(limits)
        self._spool.lay_directory(b".")
        self._arrived: list[str] = []
        self._directories: set[str] = set()
        self._names = 0
        self._left = 0
        self._padding = b""

    def add_directory(self, path: str) -> None:
        """Add a directory; adding it twice is adding it once."""
        raw = encode_path(path, self._limits)
        if path in self._directories:
            return
        self._count(path, raw)
        self._directories.add(path)
        if len(self._directories) > self._limits.directories:
            raise TreeError(f"there are more than {self._limits.directories} directories")
        self._spool.lay_directory(raw)

    def add_file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file that is in memory."""
        self.begin_file(path, len(data), executable=executable)
        self.write(data)

    def begin_file(self, path: str, size: int, *, executable: bool = False) -> None:
        """Begin a file of exactly `size` bytes, which `write` then takes in pieces."""
        assert self._left == 0, "the file before is not complete"
        raw = encode_path(path, self._limits)
        self._count(path, raw)
        self._spool.lay_file(path, raw, size, executable=executable)
        if len(self._spool.members) > self._limits.files:
            raise TreeError(f"there are more than {self._limits.files} files")
        self._left = size
        self._padding = padding(size)

    def write(self, data: bytes) -> None:
        """Add the next piece of the file that was begun."""
        assert len(data) <= self._left, "more bytes than the file has"
        self._spool.write(data)
        self._left -= len(data)
        if not self._left:
            self._spool.write(self._padding)

    def finish(self) -> FileTree:
        """The tree of all that was added."""
        assert self._left == 0, "the last file is not complete"
        members = self._spool.members
        layout = Layout.plan(members, self._directories, self._limits)
        if self._arrived == [path for path, _, _ in layout.entries[1:]]:
            return FileTree(self._spool.finish(), members, layout.directories)
        spooled = FileTree(self._spool.finish(), members, layout.directories)
        return selection(spooled, members, layout.directories, self._limits)

    def discard(self) -> None:
        """Forget what was added."""
        self._spool.discard()

    def _count(self, path: str, raw: bytes) -> None:
        self._arrived.append(path)
        self._names += len(raw)
        if self._names > self._limits.names:
            raise TreeError(f"the names of the files take more than {self._limits.names} bytes")


class _Renamed(Mapping[str, bytes]):
    """Files of a tree under other names, read when asked for."""

    def __init__(self, tree: FileTree, originals: Mapping[str, str]) -> None:
        self._tree = tree
        self._originals = originals

    def __getitem__(self, path: str) -> bytes:
        return self._tree[self._originals[path]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._originals)

    def __len__(self) -> int:
        return len(self._originals)


def selection(
    tree: FileTree, files: Iterable[str], directories: Iterable[str], limits: TreeLimits = DEFAULT_LIMITS
) -> FileTree:
    """The tree that holds only these `files` and `directories` of `tree`. Blocking."""
    names = {name: name for name in files}
    executables = [name for name in names if tree.is_executable(name)]
    return FileTree.build(_Renamed(tree, names), executables, directories, limits=limits)


# -- the tar form ------------------------------------------------------------------------------------------------------


def pack_member(offset: int, size: int, *, executable: bool) -> int:
    """Where a file's bytes are, in one integer: a tree of 200,000 files has as many of them."""
    return (offset // BLOCK) << 41 | size << 1 | executable


def unpack_member(member: int) -> tuple[int, int, bool]:
    """Offset, size and executable bit; the inverse of `pack_member`."""
    return (member >> 41) * BLOCK, (member >> 1) & 0xFF_FFFF_FFFF, bool(member & 1)


class _Spool:
    """Lays entries down one after the other, in the form of the tar, and notes where each file's bytes are."""

    def __init__(self, limits: TreeLimits) -> None:
        self._limits = limits
        self._writer = SharedFileWriter()
        self._content = 0
        self.members: dict[str, int] = {}
        self.write = self._writer.write
        self.discard = self._writer.discard

    def lay_directory(self, raw: bytes) -> None:
        self.write(header(raw, 0, MODE_DIRECTORY, TYPE_DIRECTORY))

    def lay_file(self, path: str, raw: bytes, size: int, *, executable: bool) -> None:
        """Write the header; the content and its padding follow."""
        self._content += size
        if self._content > self._limits.content:
            raise TreeError(f"the files hold more than {self._limits.content} bytes")
        self.write(header(raw, size, MODE_EXECUTABLE if executable else MODE_FILE, TYPE_FILE))
        self.members[path] = pack_member(self._writer.size, size, executable=executable)

    def finish(self) -> SharedFile:
        self.write(bytes(2 * BLOCK))
        return self._writer.finish()


@dataclass(frozen=True)
class Layout:
    """The entries of a tar in their order, the root first: (path, its bytes, is it a directory)."""

    entries: list[tuple[str, bytes, bool]]
    directories: frozenset[str]

    @classmethod
    def plan(cls, files: Iterable[str], directories: Iterable[str], limits: TreeLimits) -> Layout:
        """Check every path and put them in order; parents that nobody named become directories."""
        names = {path: encode_path(path, limits) for path in files}
        if len(names) > limits.files:
            raise TreeError(f"there are more than {limits.files} files")
        folders: dict[str, bytes] = {}
        for path in directories:
            _add_with_parents(folders, path, encode_path(path, limits))
        for path, raw in names.items():
            parent, _, _ = path.rpartition("/")
            if parent:
                _add_with_parents(folders, parent, raw.rpartition(b"/")[0])
        if len(folders) > limits.directories:
            raise TreeError(f"there are more than {limits.directories} directories")
        if sum(map(len, names.values())) + sum(map(len, folders.values())) > limits.names:
            raise TreeError(f"the names of the files take more than {limits.names} bytes")
        both = names.keys() & folders.keys()
        if both:
            raise TreeError(f"'{shown(min(both))}' is both a file and a directory")
        entries = [(path, raw, False) for path, raw in names.items()]
        entries += [(path, raw, True) for path, raw in folders.items()]
        # A parent comes before what is in it, and what is in it before the parent's next sibling: NUL sorts first.
        ordered = sorted_in_parts(entries, lambda entry: entry[1].replace(b"/", b"\0"))
        return cls([("", b".", True), *ordered], frozenset(folders))


def _add_with_parents(folders: dict[str, bytes], path: str, raw: bytes) -> None:
    while path and path not in folders:
        folders[path] = raw
        path, _, _ = path.rpartition("/")
        raw, _, _ = raw.rpartition(b"/")
