"""A tree of files as one immutable value: fetched once, held in memory once, read by every controller and the engine.

Theory of operation. A `FileTree` *is* an uncompressed tar archive with one fixed form (spec/source.md 4.3), kept in a
sealed memfd. Reading a file is one `pread` at a known offset; another process of the same user opens the same memory
through `shared_path()`. So there is neither a second copy for the engine nor a directory on disk. Where the system
has no memfd, a file in the directory given to `spill_trees_into` takes its place.

Knows paths, bytes and the tar form; refuses to know compression, sources and Kubernetes.
Invariants: every path is relative, has no empty, `.` or `..` part and stays within the bounds; nothing is both a file
and a directory; every parent is a directory of the tree; there are no links and no special files; equal content has
equal bytes and thus an equal digest. Paths that are not UTF-8 are kept byte for byte (surrogate escapes).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gitopsd.errors import GitopsdError

BLOCK = 512
_CHUNK = 1 << 20
_PARENT_PARTS = frozenset((b"", b".", b".."))
_MODE_DIRECTORY, _MODE_FILE, _MODE_EXECUTABLE = 0o750, 0o600, 0o700
_TYPE_FILE, _TYPE_DIRECTORY, _TYPE_PAX = b"0", b"5", b"x"


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
        members: dict[str, int] = {}
        writer = SharedFileWriter()
        try:
            content = 0
            for path, raw, is_directory in layout.entries:
                if is_directory:
                    writer.write(header(raw, 0, _MODE_DIRECTORY, _TYPE_DIRECTORY))
                    continue
                data = files[path]
                content += len(data)
                if content > limits.content:
                    raise TreeError(f"the files hold more than {limits.content} bytes")
                executable = path in runnable
                writer.write(header(raw, len(data), _MODE_EXECUTABLE if executable else _MODE_FILE, _TYPE_FILE))
                members[path] = pack_member(writer.size, len(data), executable=executable)
                writer.write(data)
                writer.write(padding(len(data)))
            writer.write(bytes(2 * BLOCK))
            return cls(writer.finish(), members, layout.directories)
        except BaseException:
            writer.discard()
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


def selection(tree: FileTree, files: Iterable[str], directories: Iterable[str]) -> FileTree:
    """The tree that holds only these `files` and `directories` of `tree`. Blocking."""
    names = {name: name for name in files}
    return FileTree.build(_Renamed(tree, names), [name for name in names if tree.is_executable(name)], directories)


# -- the tar form ------------------------------------------------------------------------------------------------------


def pack_member(offset: int, size: int, *, executable: bool) -> int:
    """Where a file's bytes are, in one integer: a tree of 200,000 files has as many of them."""
    return (offset // BLOCK) << 41 | size << 1 | executable


def unpack_member(member: int) -> tuple[int, int, bool]:
    """Offset, size and executable bit; the inverse of `pack_member`."""
    return (member >> 41) * BLOCK, (member >> 1) & 0xFF_FFFF_FFFF, bool(member & 1)


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
        entries.sort(key=lambda entry: entry[1].replace(b"/", b"\0"))
        return cls([("", b".", True), *entries], frozenset(folders))


def _add_with_parents(folders: dict[str, bytes], path: str, raw: bytes) -> None:
    while path and path not in folders:
        folders[path] = raw
        path, _, _ = path.rpartition("/")
        raw, _, _ = raw.rpartition(b"/")


def padding(size: int) -> bytes:
    """The zero bytes that fill content up to a whole block."""
    return bytes(-size % BLOCK)


def header(raw: bytes, size: int, mode: int, kind: bytes) -> bytes:
    """The header of one entry: USTAR, preceded by a PAX record only when the name does not fit into it."""
    if len(raw) <= 100 and raw.isascii():
        return _block(raw, b"", size, mode, kind)
    split = _split_name(raw)
    if split is not None:
        return _block(split[1], split[0], size, mode, kind)
    record = _pax_record(b"path", raw)
    folder, _, name = raw.rpartition(b"/")
    pax_name = b"/".join(part for part in (folder, b"PaxHeaders.0", name) if part)
    pax = _block(_ascii(pax_name)[:100].rstrip(b"/"), b"", len(record), 0, _TYPE_PAX)
    return pax + record + padding(len(record)) + _block(_ascii(raw)[:100].rstrip(b"/"), b"", size, mode, kind)


def _ascii(raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode("ascii", "ignore")


def _split_name(raw: bytes) -> tuple[bytes, bytes] | None:
    """The prefix and the name of a USTAR header, or None when the path cannot be split into the two."""
    if not raw.isascii():
        return None
    at = raw.rfind(b"/", 0, 156)
    return (raw[:at], raw[at + 1 :]) if at > 0 and len(raw) - at - 1 <= 100 else None


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> key=value` where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


_ZERO_ID = b"0000000\0"
_FIXED_SUM = sum(_ZERO_ID * 2 + b"00000000000\0" + b"ustar\x0000") + 8 * ord(" ")


def _block(name: bytes, prefix: bytes, size: int, mode: int, kind: bytes) -> bytes:
    mode_field = b"%07o\0" % mode
    size_field = b"%011o\0" % size
    # A PAX record's own header names no device: so the usual tar writers have it, and so readers may expect it.
    devices = bytes(16) if kind == _TYPE_PAX else _ZERO_ID * 2
    checksum = sum(devices) + _FIXED_SUM + sum(name) + sum(prefix) + sum(mode_field) + sum(size_field) + kind[0]
    return b"".join(
        (
            name.ljust(100, b"\0"),
            mode_field,
            _ZERO_ID,
            _ZERO_ID,
            size_field,
            b"00000000000\0",
            b"%06o\0 " % checksum,
            kind,
            bytes(100),
            b"ustar\x0000",
            bytes(64),
            devices,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )


# -- memory that another process can open ------------------------------------------------------------------------------

_SPILL: list[Path] = []


def spill_trees_into(directory: Path) -> None:
    """Where the system has no memfd, keep trees as files in `directory` (the system's own place otherwise)."""
    _SPILL[:] = [directory]


class SharedFile:
    """Bytes that do not change any more and that have a path; gone when the last reference to it is."""

    __slots__ = ("__weakref__", "_descriptor", "path", "size")

    def __init__(self, descriptor: int, path: str, size: int, *, temporary: bool) -> None:
        self._descriptor = descriptor
        self.path = path
        self.size = size
        weakref.finalize(self, _release, descriptor, path if temporary else None)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; never fewer."""
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                raise TreeError("a stored tree is shorter than it was")
            data += more
        return data


class SharedFileWriter:
    """Writes a SharedFile from its beginning to its end; ends with `finish` or `discard`."""

    def __init__(self) -> None:
        self._temporary = False
        try:
            self._descriptor = os.memfd_create("gitopsd-tree", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        except (AttributeError, OSError):
            self._descriptor, self._path = tempfile.mkstemp(
                prefix=f"tree-{os.getpid()}-", suffix=".tar", dir=next(iter(_SPILL), None)
            )
            self._temporary = True
        self._out = os.fdopen(self._descriptor, "wb", buffering=_CHUNK, closefd=False)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._out.write(data)
        self.size += len(data)

    def finish(self) -> SharedFile:
        """Seal what was written: from now on nobody can change it."""
        self._out.close()
        if not self._temporary:
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
        return SharedFile(self._descriptor, self._path, self.size, temporary=self._temporary)

    def discard(self) -> None:
        """Forget it, for an error stopped the writing."""
        with suppress(OSError):
            self._out.close()
        _release(self._descriptor, self._path if self._temporary else None)


def _release(descriptor: int, path: str | None) -> None:
    with suppress(OSError):
        os.close(descriptor)
    if path is not None:
        Path(path).unlink(missing_ok=True)
