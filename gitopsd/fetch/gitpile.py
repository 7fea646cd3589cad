"""Packs in files: as they came, or written object by object, with the columns that make walking them needless.

A file holds a pack's bytes, then its columns. It is of use only together with its `PackFile`, which the process that
wrote it keeps in memory. Everything here blocks and raises OSError.
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from gitopsd.fetch.gitobjects import Bytes, Columns

_PIECE = 1 << 20
_TRAILER = bytes(20)


class FileBytes:
    """The bytes of a file as a pack sees them: read where they are asked for."""

    _descriptor = -1

    def __init__(self, path: Path, size: int) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __getitem__(self, key: int | slice, /) -> int | bytes:
        if isinstance(key, int):
            return self.read(key, 1)[0]
        start, stop, _ = key.indices(self._size)
        return self.read(start, max(stop - start, 0))

    def read(self, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start` on, those behind the pack included."""
        return os.pread(self._descriptor, size, start)

    def close(self) -> None:
        """Close the file; doing it twice is harmless."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True)
class PackFile:
    """One kept pack: how long it is, and how many objects and hashes its columns have."""

    path: Path
    packed: int
    objects: int
    names: int

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.packed + 25 * self.objects + 28 * self.names


def write_pack(path: Path, data: Bytes, columns: Columns) -> PackFile:
    """Write a pack as it came."""
    try:
        with path.open("xb") as out:
            for start in range(0, len(data), _PIECE):
                out.write(data[start : start + _PIECE])
            _write_columns(out.write, columns)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return PackFile(path, len(data), len(columns.kinds), len(columns.numbers))


class PackWriter:
    """Writes objects as they are, compressed each for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out = path.open("xb")
        self._size = 0
        self._columns = Columns(bytearray(), array("Q"), array("Q"), array("q"), {})

    def add(self, name: bytes, kind: int, content: bytes) -> None:
        """Write one object."""
        columns = self._columns
        compressed = zlib.compress(content, 1)
        columns.numbers[name] = len(columns.kinds)
        columns.kinds.append(kind)
        columns.starts.append(self._size)
        columns.sizes.append(len(content))
        columns.bases.append(-1)
        self._out.write(compressed)
        self._size += len(compressed)

    def finish(self) -> PackFile:
        """Write the columns, and close the file."""
        self._out.write(_TRAILER)
        _write_columns(self._out.write, self._columns)
        self._out.close()
        count = len(self._columns.kinds)
        return PackFile(self._path, self._size + len(_TRAILER), count, count)

    def abandon(self) -> None:
        """Leave nothing."""
        self._out.close()
        self._path.unlink(missing_ok=True)


def _write_columns(write: Callable[[bytes | bytearray | array[int]], object], columns: Columns) -> None:
    write(columns.kinds)
    write(columns.starts)
    write(columns.sizes)
    write(columns.bases)
    write(array("Q", columns.numbers.values()))
    for names in _batches(columns.numbers):
        write(names)


def _batches(numbers: dict[bytes, int]) -> Iterator[bytes]:
    names = list(numbers)
    for start in range(0, len(names), 1 << 14):
        yield b"".join(names[start : start + (1 << 14)])


def read_columns(data: FileBytes, file: PackFile) -> Columns:
    """Read the columns that lie behind a pack. Raises OSError when they are not all there."""
    at = file.packed

    def take(size: int) -> bytes:
        nonlocal at
        found = data.read(at, size)
        if len(found) != size:
            raise OSError("the file is shorter than it was")
        at += size
        return found

    kinds = bytearray(take(file.objects))
    starts, sizes = array("Q", take(8 * file.objects)), array("Q", take(8 * file.objects))
    bases, places = array("q", take(8 * file.objects)), array("Q", take(8 * file.names))
    names = take(20 * file.names)
    numbers = {names[20 * place : 20 * place + 20]: number for place, number in enumerate(places)}
    return Columns(kinds, starts, sizes, bases, numbers)
