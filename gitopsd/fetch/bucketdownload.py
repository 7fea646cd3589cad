"""From an index to a tree: what changed is downloaded, the rest is taken from the tree before.

Theory of operation. The tree is laid down in its own order, once. While one object is being laid down, those that come
next are on their way, as many and as large as the bounds allow; a large one is not fetched ahead but streamed when its
turn comes. Objects that have not changed are copied from the tree before: known by key and etag, or, where nothing is
known (after a restart), by the digest of their content if the storage tells it. A download whose connection breaks goes
on where it stopped. All copying is done in a thread, a few megabytes at a time.

Knows entries, trees and bounds; refuses to know protocols. Invariants: a file has exactly the bytes that the listing
announced, of exactly the version that it named; at most `ahead_bytes` and one piece are in memory besides the tree;
nothing goes on after a failure or a cancellation.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gitopsd.artifact.ignore import IGNORE_FILE
from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree, Layout, TreeLimits, TreeWriter, shown
from gitopsd.fetch.bucketclient import BucketClient, BucketError, Entry, ObjectMovedError
from gitopsd.fetch.bucketlisting import BucketIndex, Seen
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import Answer
from gitopsd.tasks import offload

_BATCH_STEPS = 512
_BATCH_BYTES = 4 << 20
_PAUSES = (0.2, 0.8)


@dataclass(frozen=True)
class DownloadBounds:
    """How many downloads run at a time, how many bytes wait for their turn, and from where on an object is streamed."""

    parallel: int = 64
    ahead_bytes: int = 32 << 20
    large: int = 4 << 20


class ObjectError(RemoteError):
    """An object could not be downloaded.

    `moved` says that the listing is out of date; `salvaged` is then what had come before.
    """

    def __init__(self, key: str, error: RemoteError) -> None:
        super().__init__(f"failed to get '{shown(key)}' object: {error.message}", rule=error.rule)
        self.moved = isinstance(error, ObjectMovedError)
        self.salvaged: Before | None = None


@dataclass(frozen=True)
class Before:
    """A tree made before, and what is known of its objects."""

    tree: FileTree
    seen: Seen

    def has(self, path: str, entry: Entry) -> bool:
        """Whether the object is in the tree already. Takes time: offload it."""
        if path not in self.tree:
            return False
        if entry in self.seen:
            return True
        if not entry.md5 or self.tree.length(path) != entry.size:
            return False
        return hashlib.md5(self.tree[path], usedforsecurity=False).digest() == entry.md5


@dataclass
class _Step:
    """One entry of the tree: a directory, a file that is there, or one that has to come."""

    path: str
    entry: Entry | None = None  # to be downloaded
    tree: FileTree | None = None  # where it is
    content: bytes | None = None  # at hand
    is_directory: bool = False


async def download(
    client: BucketClient,
    index: BucketIndex,
    before: Sequence[Before] = (),
    *,
    limits: TreeLimits = DEFAULT_LIMITS,
    bounds: DownloadBounds | None = None,
) -> FileTree:
    """Make the tree of an index; what one of `before` has is not downloaded.

    Raises ObjectError, RemoteError, and TreeError for keys that exclude each other.
    """
    steps = await offload(_plan, index, before, limits)
    filling = await offload(_Filling, client, steps, limits, bounds or DownloadBounds())
    try:
        return await filling.run()
    except ObjectError as error:
        if error.moved:
            error.salvaged = await offload(filling.salvage, index)
        raise


def _plan(index: BucketIndex, before: Sequence[Before], limits: TreeLimits) -> list[_Step]:
    paths = list(index.entries)
    if index.sourceignore is not None:
        paths.append(IGNORE_FILE)
    steps: list[_Step] = []
    for path, _, is_directory in Layout.plan(paths, (), limits).entries[1:]:
        entry = index.entries.get(path)
        if is_directory:
            steps.append(_Step(path, is_directory=True))
        elif entry is None:
            steps.append(_Step(path, content=index.sourceignore))
        else:
            tree = next((one.tree for one in before if one.has(path, entry)), None)
            steps.append(_Step(path, entry=entry if tree is None else None, tree=tree))
    return steps


class _Filling:
    """Lays one tree down."""

    def __init__(
        self,
        client: BucketClient,
        steps: list[_Step],
        limits: TreeLimits,
        bounds: DownloadBounds,
    ) -> None:
        self._client = client
        self._steps = steps
        self._limits = limits
        self._bounds = bounds
        self._writer = TreeWriter(limits)
        self._batch: list[_Step] = []
        self._batch_bytes = 0
        self._is_within_file = False
        # A thread goes on when the one who waits for it is cancelled: it must not meet the one who salvages.
        self._writing = threading.Lock()
        self._is_over = False

    async def run(self) -> FileTree:
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._lay_all(_Ahead(self._client, self._steps, self._bounds, self._limits, tasks))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        return await offload(self._writer.finish)

    def salvage(self, index: BucketIndex) -> Before | None:
        """What has been laid down so far, as a tree; None in the middle of a file. Blocking."""
        with self._writing:
            self._is_over = True
            if self._is_within_file:
                return None
            for step in self._batch:
                self._write_one(step)
            return Before(self._writer.finish(), Seen(index.fingerprints))

    async def _lay_all(self, ahead: _Ahead) -> None:
        for step in self._steps:
            if step.entry is None:
                await self._lay(step)
            elif ahead.is_streamed(step.entry):
                await self._stream(step.path, step.entry)
            else:
                await self._lay(_Step(step.path, content=await ahead.next()))
        await self._flush()

    async def _lay(self, step: _Step) -> None:
        self._batch.append(step)
        self._batch_bytes += len(step.content or b"")
        if len(self._batch) >= _BATCH_STEPS or self._batch_bytes >= _BATCH_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            await offload(self._write, batch)

    def _write(self, batch: list[_Step]) -> None:
        with self._writing:
            if not self._is_over:
                for step in batch:
                    self._write_one(step)

    def _write_one(self, step: _Step) -> None:
        if step.is_directory:
            self._writer.add_directory(step.path)
        elif step.content is not None:
            self._writer.add_file(step.path, step.content)
        else:
            assert step.tree is not None
            self._writer.add_file(step.path, step.tree[step.path])

    async def _stream(self, path: str, entry: Entry) -> None:
        await self._flush()
        self._is_within_file = True
        await offload(self._writer.begin_file, path, entry.size)
        pieces: list[bytes] = []
        held = 0
        async with aclosing(object_pieces(self._client, entry, entry.size)) as arriving:
            async for piece in arriving:
                pieces.append(piece)
                held += len(piece)
                if held >= _BATCH_BYTES:
                    await offload(self._writer.write, b"".join(pieces))
                    pieces, held = [], 0
        await offload(self._writer.write, b"".join(pieces))
        self._is_within_file = False


class _Ahead:
    """Downloads what comes next before it is its turn."""

    def __init__(
        self,
        client: BucketClient,
        steps: list[_Step],
        bounds: DownloadBounds,
        limits: TreeLimits,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._client = client
        self._bounds = bounds
        self._limits = limits
        self._tasks = tasks
        self._waiting: Iterator[Entry] = (
            step.entry for step in steps if step.entry is not None and not self.is_streamed(step.entry)
        )
        self._upcoming = next(self._waiting, None)
        self._started: deque[tuple[asyncio.Task[bytes], int]] = deque()
        self._bytes = 0

    def is_streamed(self, entry: Entry) -> bool:
        """Whether an object is too large to be held in memory as a whole; one of unknown size has to be."""
        return entry.size >= self._bounds.large

    async def next(self) -> bytes:
        """The content of the next object."""
        self._fill()
        task, size = self._started.popleft()
        content = await task
        self._bytes -= size
        self._fill()
        return content

    def _fill(self) -> None:
        while self._upcoming is not None and len(self._started) < self._bounds.parallel:
            # What an object of unknown size will take is a guess; at least one is always under way.
            size = self._upcoming.size if self._upcoming.size >= 0 else self._bounds.large
            if self._started and self._bytes + size > self._bounds.ahead_bytes:
                return
            task = self._tasks.create_task(self._content(self._upcoming))
            self._started.append((task, size))
            self._bytes += size
            self._upcoming = next(self._waiting, None)

    async def _content(self, entry: Entry) -> bytes:
        return b"".join([piece async for piece in object_pieces(self._client, entry, self._limits.content)])


async def object_pieces(client: BucketClient, entry: Entry, limit: int) -> AsyncGenerator[bytes, None]:
    """The content of an object; a connection that breaks is made again from where it stopped. Raises ObjectError."""
    offset = 0
    for pause in (*_PAUSES, None):
        try:
            async with (
                client.get(entry.key, entry.version, offset) as answer,
                aclosing(_from(answer, offset, entry, limit)) as pieces,
            ):
                async for piece in pieces:
                    offset += len(piece)
                    yield piece
            if entry.size >= 0 and offset != entry.size:
                raise ObjectMovedError(f"it has {offset} bytes, the listing says {entry.size}")
        except RemoteError as error:
            if pause is None or error.rule or isinstance(error, BucketError) or (offset and not entry.version):
                raise ObjectError(entry.key, error) from error
        else:
            return
        await asyncio.sleep(pause)


async def _from(answer: Answer, offset: int, entry: Entry, limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces of an answer, which may begin at `offset`, or ignore that it was asked to."""
    skip = 0 if answer.status == 206 else offset
    announced = answer.headers.get("Content-Length", "")
    if entry.size >= 0 and announced.isdigit() and int(announced) != entry.size - offset + skip:
        raise ObjectMovedError(f"it has {int(announced) + offset - skip} bytes, the listing says {entry.size}")
    most = limit if entry.size < 0 else entry.size
    async for piece in answer.pieces(most - offset + skip, "object", as_sent=True):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:]
        skip = 0


def _first(failures: BaseExceptionGroup) -> BaseException:
    """One error for many: they all ended the same work."""
    errors = list(_leaves(failures))
    return next((error for error in errors if isinstance(error, ObjectError) and error.moved), errors[0])


def _leaves(failures: BaseExceptionGroup) -> Iterator[BaseException]:
    for error in failures.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
