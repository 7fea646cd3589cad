"""Where a pack waits between the network and its reader: in memory while it is small, then in a file without a name.

Knows how large a pack may be and when to stop working on one; refuses to know what is in it.
Invariant: after `close`, or after the death of the process, nothing is left on disk.
"""

from __future__ import annotations

import mmap
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitobjects import Bytes
from gitopsd.tasks import offload, pass_on

HEADER_SIZE = 12
_SPILL_AT = 32 << 20


@dataclass(frozen=True)
class PackLimits:
    """How much a pack may hold (spec/hostile-inputs.md, bounds)."""

    bytes: int = 512 << 20
    objects: int = 1_000_000
    object_bytes: int = 100 << 20
    # All inflating together, repetitions included: what bounds the work that a small pack can cause.
    inflated_bytes: int = 8 << 30
    chain: int = 50
    cached_bytes: int = 64 << 20


class Stop:
    """Tells a thread to end: at a deadline (`time.monotonic()`) or when its caller is gone."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End soon."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise TimeoutError when it is time to end; let others work before that, if they wait."""
        pass_on()
        if self._cancelled.is_set() or time.monotonic() > self._deadline:
            raise TimeoutError


class PackBuffer:
    """Collects the bytes of one pack. Close it when done: then nothing is left of it, in memory or on disk."""

    def __init__(self, limits: PackLimits, spool: Path | None = None) -> None:
        self._limits = limits
        self._spool = spool
        self._chunks: list[bytes] = []
        self._held = 0
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self.size = 0

    async def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises RemoteError beyond the bound, and as soon as the header claims too much."""
        if self.size < HEADER_SIZE:
            self._check_header(data)
        self.size += len(data)
        if self.size > self._limits.bytes:
            raise RemoteError(f"the pack is larger than {self._limits.bytes} bytes", rule="pack-size")
        self._chunks.append(data)
        self._held += len(data)
        if self._held >= _SPILL_AT:
            await offload(self._write_out)

    def _check_header(self, data: bytes) -> None:
        start = b"".join(self._chunks) + data[:HEADER_SIZE]
        if len(start) >= HEADER_SIZE:
            read_header(start, self._limits)

    def _write_out(self) -> None:
        if self._file is None:
            # Has no name, so that nothing is left of it even if the process dies.
            self._file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 - closed by `close`
        self._file.writelines(self._chunks)
        self._chunks = []
        self._held = 0

    def content(self) -> bytes | mmap.mmap:
        """All bytes. Blocking when they are many."""
        if self._file is None:
            self._chunks = [b"".join(self._chunks)]
            return self._chunks[0]
        if self._map is None:
            self._write_out()
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def close(self) -> None:
        """Forget everything."""
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()
        self._chunks = []


def read_header(data: Bytes, limits: PackLimits) -> int:
    """The number of objects that a pack claims to hold. Raises RemoteError when it cannot be one, or is too large."""
    if len(data) < HEADER_SIZE or data[:4] != b"PACK" or int.from_bytes(data[4:8], "big") not in {2, 3}:
        raise RemoteError("the pack does not begin like one", rule="pack")
    count = int.from_bytes(data[8:HEADER_SIZE], "big")
    if count > limits.objects:
        raise RemoteError(f"the pack claims {count} objects, more than {limits.objects}", rule="pack-objects")
    return count
