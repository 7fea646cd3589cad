"""Where indexes are read: small ones in a thread, others in a process of their own, within bounds of time and memory.

Theory of operation. Reading is work for one processor, most of it in Python: a thread would take every other moment
from the event loop, and what it allocated would stay with the daemon. A process costs its start, and then neither. It
gets its order as one line, and answers with one line and the table (docs/decisions/0006-helm-indexes.md).

Knows processes and their bounds; refuses to know what indexes mean. Invariants: no process outlives the one who waits
for it; a stranger's index can take as much memory as is said here, and no more.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindexbuild import Built, IndexFormatError, build, rebuild
from gitopsd.fetch.helmindextable import Table
from gitopsd.tasks import offload

log = structlog.get_logger()

# Read in a thread up to this size: less work than starting a process.
_SMALL: Final = 256 << 10
_MEMORY: Final = 512 << 20
_SECONDS: Final = 180.0
_NICE: Final = 5
_PROGRAM: Final = (
    "import json, sys; order = json.loads(sys.stdin.buffer.readline()); sys.path[:] = order['path'];"
    "from gitopsd.fetch.helmindexworker import work; work(order)"
)


class IndexReader:
    """Reads indexes, a few at once."""

    def __init__(self, *, at_once: int = 2, small: int = _SMALL, memory: int = _MEMORY) -> None:
        """Indexes of more than `small` bytes are read in processes of at most `memory` bytes each."""
        self._slots = asyncio.Semaphore(at_once)
        self._small = small
        self._memory = memory

    async def build(self, source: Path, target: Path, limit: int) -> Built:
        """`helmindexbuild.build` somewhere else. Raises RemoteError."""
        order = {"source": str(source), "target": str(target), "limit": limit}
        return await self._do(source, partial(build, source, target, limit), order)

    async def rebuild(self, path: Path) -> Built:
        """`helmindexbuild.rebuild` somewhere else. Raises RemoteError."""
        return await self._do(path, partial(rebuild, path), {"source": str(path)})

    async def _do(self, path: Path, work: partial[Built], order: dict[str, Any]) -> Built:
        try:
            size = await offload(lambda: path.stat().st_size)
            if size <= self._small:
                return await offload(work)
            async with self._slots:
                return await self._ordered({**order, "path": sys.path, "memory": self._memory})
        except OSError as error:
            raise RemoteError(f"the index cannot be read: {error.strerror}") from None

    async def _ordered(self, order: dict[str, Any]) -> Built:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", _PROGRAM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            start_new_session=True,  # what a terminal sends to us is not meant for it
        )
        try:
            async with asyncio.timeout(_SECONDS):
                answer, words = await child.communicate(orjson.dumps(order) + b"\n")
        except TimeoutError:
            raise IndexFormatError(f"the index was not read within {_SECONDS:g}s", rule="time") from None
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await asyncio.shield(child.wait())
        return await offload(_answer, answer, words)


def _answer(answer: bytes, words: bytes) -> Built:
    head, _, table = answer.partition(b"\n")  # some megabytes of a large index
    if not head:
        log.error("reading an index ended without an answer", words=words[-2000:].decode("utf-8", "replace"))
        raise RemoteError("reading the index ended unexpectedly")
    told = orjson.loads(head)
    if "error" in told:
        kind = IndexFormatError if told["rule"] else RemoteError
        raise kind(told["error"], rule=told["rule"])
    return Built(Table.decode(table), told["dropped"], tuple(told["notes"]))


def work(order: dict[str, Any]) -> None:
    """What the process does: carry out one order, and answer on its standard output."""
    with suppress(OSError, ValueError):
        os.nice(_NICE)
        resource.setrlimit(resource.RLIMIT_AS, (order["memory"], order["memory"]))
    try:
        built = _carried_out(order)
    except MemoryError:
        answer: dict[str, Any] = {"error": "the index needs more memory than it may", "rule": "memory"}
        body = b""
    except (GitopsdError, OSError) as error:
        text = str(error) if isinstance(error, GitopsdError) else f"the index cannot be read: {error.strerror}"
        answer, body = {"error": text, "rule": getattr(error, "rule", "")}, b""
    else:
        answer, body = {"dropped": built.dropped, "notes": built.notes}, built.table.encode()
    sys.stdout.buffer.write(orjson.dumps(answer) + b"\n" + body)
    sys.stdout.buffer.flush()


def _carried_out(order: dict[str, Any]) -> Built:
    source = Path(order["source"])
    if "target" in order:
        return build(source, Path(order["target"]), order["limit"])
    return rebuild(source)
