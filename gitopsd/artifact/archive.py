"""Trees as compressed archives: repeatable on the way out, bounded and escape-proof on the way in.

Theory of operation. Packing compresses the tar that a tree already is; the gzip header holds neither name nor time, so
equal trees give equal bytes (spec/source.md 4.3). Unpacking reads gzip and tar in one pass with a small reader of its
own, and lays each file down as it comes. An archive of ours comes in the order a tree has, and what was laid down *is*
the tree; any other is laid down a second time in that order. No name is ever used on a file system.

Knows gzip and tar; refuses to know where archives come from. Invariants of unpacking: never more memory than the bounds
allow, whatever the headers claim; time linear in what is read; links are skipped or refused, every other special entry
is refused (spec/kustomize.md 3.2, spec/hostile-inputs.md E01 to E06).
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from gitopsd.artifact.tarform import BLOCK
from gitopsd.artifact.tree import (
    DEFAULT_LIMITS,
    FileTree,
    TreeError,
    TreeLimits,
    TreeWriter,
    decode_path,
    encode_path,
    shown,
)
from gitopsd.errors import GitopsdError

# No name, no time, unknown system: the bytes depend on nothing but the content.
_GZIP_HEADER: Final = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF))
_LEVEL: Final = 6
_FEED: Final = 16 << 10
_BUFFER: Final = 256 << 10
_LONGEST_RECORD: Final = 1 << 20
"""Bytes of a long name or of PAX records; as Go's reader has it."""
_LONGEST_TRAILER: Final = 16 << 20
"""Bytes after the end of the tar: padding to whole tape records."""
_MOST_STREAMS: Final = 100_000
"""Gzip streams one after the other in one archive."""
_DIGESTS: Final = frozenset(("sha1", "sha256", "sha384", "sha512"))


class ArchiveError(GitopsdError):
    """An archive that cannot be read, or may not be; the text names the entry and the rule."""


# -- digests and packing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A compressed archive: its bytes, and their digest as `<algorithm>:<hex>`."""

    data: bytes
    digest: str

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return len(self.data)


def hasher(algorithm: str) -> Any:
    """A new hash object. Raises ArchiveError for an algorithm that artifacts do not use."""
    if algorithm in _DIGESTS:
        return hashlib.new(algorithm, usedforsecurity=False)
    if algorithm == "blake3":
        try:
            return import_module("blake3").blake3()
        except ImportError:
            raise ArchiveError("digests by blake3 need the package of that name") from None
    raise ArchiveError(f"unknown digest algorithm '{shown(algorithm)}'")


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`<algorithm>:<hex>` of the bytes. Raises ArchiveError for an unknown algorithm."""
    found = hasher(algorithm)
    found.update(data)
    return f"{algorithm}:{found.hexdigest()}"


def pack(tree: FileTree, algorithm: str = "sha256") -> Packed:
    """Compress a tree. Blocking; other threads run while it compresses."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [_GZIP_HEADER]
    checksum = 0
    for chunk in tree.chunks():
        checksum = zlib.crc32(chunk, checksum)
        parts.append(compressor.compress(chunk))
    parts.append(compressor.flush())
    parts.append(checksum.to_bytes(4, "little") + (tree.size & 0xFFFF_FFFF).to_bytes(4, "little"))
    data = b"".join(parts)
    return Packed(data, digest_of(data, algorithm))


# -- unpacking ---------------------------------------------------------------------------------------------------------


def unpack(
    data: bytes | mmap.mmap, *, limits: TreeLimits = DEFAULT_LIMITS, strict: bool = False, backslashes: bool = False
) -> FileTree:
    """Read a gzipped tar. Blocking. Raises ArchiveError.

    Symbolic links are skipped, or refused when `strict`. Names with a backslash are refused, for another consumer may
    take it for a separator; `backslashes` lets them pass where the archive is known to be our own.
    """
    writer = TreeWriter(limits)
    try:
        source = _Inflater(data)
        _Reader(source, writer, limits, strict=strict, backslashes=backslashes).run()
        source.drain(_LONGEST_TRAILER)
        return writer.finish()
    except (zlib.error, TreeError) as error:
        writer.discard()
        raise ArchiveError(f"the archive cannot be read: {error}") from error
    except BaseException:
        writer.discard()
        raise


class _Inflater:
    """The bytes inside one or more gzip streams, read like a file."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._stream: Any = None
        self._streams = 0
        self._rest: bytes | memoryview = b""
        self._ready = b""
        self._taken = 0

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        part = self._ready[self._taken : self._taken + size]
        self._taken += len(part)
        if len(part) == size:
            return part
        parts = [part]
        left = size - len(part)
        while left > 0 and self._inflate():
            part = self._ready[:left]
            self._taken = len(part)
            left -= len(part)
            parts.append(part)
        return b"".join(parts)

    def drain(self, most: int) -> None:
        """Read to the end, where the checksum stands; more than `most` bytes are refused."""
        most -= len(self._ready) - self._taken
        while most >= 0 and self._inflate():
            most -= len(self._ready)
        if most < 0:
            raise ArchiveError("the archive goes on after its end")

    def _inflate(self) -> bool:
        """Make some more bytes ready; false at the end of the last stream."""
        while self._stream is not None or self._next_stream():
            fed = self._rest or self._feed()
            self._ready = self._stream.decompress(fed, _BUFFER)
            self._taken = 0
            self._rest = self._stream.unconsumed_tail
            if self._stream.eof:
                self._rest = self._stream.unused_data
                self._stream = None
            elif not fed and not self._ready:
                raise ArchiveError("the archive ends too early")
            if self._ready:
                return True
        return False

    def _next_stream(self) -> bool:
        self._rest = self._rest or self._feed()
        if not self._rest and self._streams:
            return False
        self._streams += 1
        if self._streams > _MOST_STREAMS:
            raise ArchiveError(f"the archive consists of more than {_MOST_STREAMS} compressed parts")
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True

    def _feed(self) -> memoryview:
        part = self._data[self._at : self._at + _FEED]
        self._at += len(part)
        return part


@dataclass
class _Entry:
    """One header of a tar, with what records before it said."""

    kind: bytes
    name: bytes
    size: int
    mode: int


@dataclass
class _Records:
    """What the records before an entry say about it."""

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


class _Reader:
    """Reads a tar entry by entry into a tree."""

    def __init__(
        self, source: _Inflater, writer: TreeWriter, limits: TreeLimits, *, strict: bool, backslashes: bool
    ) -> None:
        self._source = source
        self._writer = writer
        self._most = 2 * (limits.files + limits.directories) + 16
        self._strict = strict
        self._backslashes = backslashes

    def run(self) -> None:
        """Read up to the end of the tar, which is a block of zeros or the end of the data."""
        records = _Records()
        for _ in range(self._most):
            entry = self._header()
            if entry is None:
                return
            if entry.kind in b"xgLK":
                self._record(entry, records)
                continue
            self._take(entry, records)
            records = _Records()
        raise ArchiveError(f"the archive holds more than {self._most} entries")

    def _header(self) -> _Entry | None:
        block = self._source.read(BLOCK)
        if not block or block.count(0) == BLOCK:
            return None
        if len(block) < BLOCK:
            raise ArchiveError("the archive ends too early")
        _check_sum(block)
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0":
            prefix = block[345:500].split(b"\0", 1)[0]
            name = prefix + b"/" + name if prefix else name
        return _Entry(block[156:157], name, _number(block[124:136], "size"), _number(block[100:108], "mode"))

    def _record(self, entry: _Entry, records: _Records) -> None:
        """Read what tells about the next entry: a long name or PAX records. Global records tell nothing here."""
        if entry.size > _LONGEST_RECORD:
            raise ArchiveError(f"the archive holds a record of more than {_LONGEST_RECORD} bytes")
        data = self._content(entry.size)
        if entry.kind == b"L":
            records.name = data.split(b"\0", 1)[0]
        elif entry.kind == b"x":
            _read_pax(data, records)

    def _take(self, entry: _Entry, records: _Records) -> None:
        name = entry.name if records.name is None else records.name
        size = entry.size if records.size is None else records.size
        if records.is_sparse or entry.kind not in b"\x00075" or entry.kind == b"":
            self._refuse_or_skip(entry.kind, name)
            return
        is_directory = entry.kind == b"5" or (entry.kind in b"\0" and name.endswith(b"/"))
        path = self._path(name, is_directory=is_directory)
        if is_directory:
            if path:
                self._writer.add_directory(path)
            return
        self._writer.begin_file(path, size, executable=bool(entry.mode & 0o111))
        left = size
        while left > 0:
            part = self._source.read(min(left, _BUFFER))
            if not part:
                raise ArchiveError("the archive ends too early")
            self._writer.write(part)
            left -= len(part)
        self._source.read(-size % BLOCK)

    def _refuse_or_skip(self, kind: bytes, name: bytes) -> None:
        text = shown(decode_path(name))
        if kind != b"2":
            raise ArchiveError(f"entry '{text}' is neither a file nor a directory")
        if self._strict:
            raise ArchiveError(f"entry '{text}' is a symbolic link")

    def _content(self, size: int) -> bytes:
        """Read a content with its padding."""
        data = self._source.read(size)
        if len(data) < size:
            raise ArchiveError("the archive ends too early")
        self._source.read(-size % BLOCK)
        return data

    def _path(self, raw: bytes, *, is_directory: bool) -> str:
        """The safe path of an entry; `` is the root. Raises ArchiveError."""
        name = raw
        while name.startswith(b"./"):
            name = name[2:]
        name = name.rstrip(b"/") if is_directory and not name.startswith(b"/") else name
        path = decode_path(name)
        if is_directory and path in {"", "."} and raw:
            return ""
        if "\\" in path and not self._backslashes:
            raise ArchiveError(f"entry '{shown(path)}' has a backslash in its name")
        encode_path(path)
        return path


def _check_sum(block: bytes) -> None:
    """Headers carry the sum of their bytes, taken by some writers over signed ones."""
    stored = _number(block[148:156], "checksum")
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stored != unsigned and stored != unsigned - 256 * sum(byte > 127 for byte in block):
        raise ArchiveError("the archive holds a broken header")


def _number(text: bytes, what: str) -> int:
    """An octal or, when its first bit says so, a binary number of a header; never negative, never beyond 63 bits."""
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        if text[0] & 0x40 or value >= 1 << 63:
            raise ArchiveError(f"the archive holds a header with an impossible {what}")
        return value
    digits = text.strip(b" \0").split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise ArchiveError(f"the archive holds a header with an impossible {what}")
    return int(digits or b"0", 8)


def _read_pax(data: bytes, records: _Records) -> None:
    """Take name and size from PAX records: `<length> <key>=<value>` and a newline, the length counting all of it."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        if space < 0 or not data[at:space].isdigit():
            raise ArchiveError("the archive holds broken records")
        end = at + int(data[at:space])
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveError("the archive holds broken records")
        if key == b"path":
            records.name = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ArchiveError("the archive holds a record with an impossible size")
            records.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            records.is_sparse = True
        at = end
