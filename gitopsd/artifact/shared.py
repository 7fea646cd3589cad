"""Bytes in memory that another process of the same user can open by a path: sealed, and gone with the last reference.

Knows memfd and, where the system has none, temporary files; refuses to know what the bytes mean. Invariants: nobody can
change the bytes once they are finished; nothing is left when the owner lets go of them or never finishes.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

_BUFFER: Final = 1 << 20
SPILL_PREFIX: Final = ".tree-"
"""How names of such files begin; the number of the process follows."""
_SPILL: list[Path] = []


def spill_into(directory: Path) -> None:
    """Where the system has no memfd, keep them as files in `directory` (the system's own place otherwise)."""
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
                raise OSError("shared bytes are shorter than they were")
            data += more
        return data


class SharedFileWriter:
    """Writes a SharedFile from its beginning to its end; ends with `finish` or `discard`, or when it is forgotten."""

    def __init__(self) -> None:
        self._temporary = False
        try:
            self._descriptor = os.memfd_create("gitopsd-tree", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        except (AttributeError, OSError):
            directory = next(iter(_SPILL), None)
            self._descriptor, self._path = tempfile.mkstemp(prefix=f"{SPILL_PREFIX}{os.getpid()}-", dir=directory)
            self._temporary = True
        self._forget = weakref.finalize(self, _release, self._descriptor, self._path if self._temporary else None)
        self._out = os.fdopen(self._descriptor, "wb", buffering=_BUFFER, closefd=False)
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
        self._forget.detach()
        return SharedFile(self._descriptor, self._path, self.size, temporary=self._temporary)

    def discard(self) -> None:
        """Forget it, for an error stopped the writing. Has no effect once it is finished."""
        if self._forget.alive:
            with suppress(OSError):
                self._out.close()
            self._forget()


def _release(descriptor: int, path: str | None) -> None:
    with suppress(OSError):
        os.close(descriptor)
    if path is not None:
        Path(path).unlink(missing_ok=True)
