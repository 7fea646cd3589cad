"""From an index to a tree: what changed is downloaded, the rest is taken from the tree before.

Theory of operation. The tree is laid down in its own order, once. While one object is being laid down, those that come
next are on their way, as many and as large as the bounds allow; a large one is not fetched ahead but streamed when its
turn comes. Objects that have not changed are copied from the tree before: known by key and etag, or, where nothing is
known (after a restart), by the digest of their content if the storage tells it. All copying is done in a thread, a few
megabytes at a time.

Knows entries, trees and bounds; refuses to know protocols, and how one object is read (`bucketobject`). Invariants:
little more than `ahead_bytes` is in memory besides the tree; nothing goes on after a failure or a cancellation.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gitopsd.artifact.ignore import IGNORE_FILE
from gitopsd.artifact.tree import DEFAULT_LIMITS, FileTree, Layout, TreeLimits, TreeWriter
from gitopsd.fetch.bucketclient import BucketClient, Entry
from gitopsd.fetch.bucketlisting import BucketIndex, Seen
from gitopsd.fetch.bucketobject import ObjectError, Objects
from gitopsd.fetch.errors import RemoteError
from gitopsd.tasks import offload

_BATCH_STEPS = 512
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class DownloadBounds:
    """How many downloads run at a time, how many bytes wait for their turn, and from where on an object is streamed.

    An object whose size nobody told (it may be decompressed on its way) is held as a whole, up to `unknown` bytes.
    """

    parallel: int = 64
    ahead_bytes: int = 32 << 20
    large: int = 4 << 20
    unknown: int = 64 << 20


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


class OutdatedError(RemoteError):
    """An object is not what the listing said. `salvaged` is what had come before that was noticed."""

    def __init__(self, error: ObjectError, salvaged: Before | None) -> None:
        super().__init__(error.message)
        self.salvaged = salvaged


@dataclass(slots=True)
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

    Raises OutdatedError, other RemoteErrors, and TreeError for keys that exclude each other.
    """
    steps = await offload(_plan, index, before, limits)
    filling = await offload(_Filling, client, steps, limits, bounds or DownloadBounds())
    try:
        return await filling.run()
    except ObjectError as error:
        if not error.moved:
            raise
        raise OutdatedError(error, await offload(filling.salvage, index)) from error


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
        self._objects = Objects(client, unknown=bounds.unknown)
        self._steps = steps
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
                await self._lay_all(_Ahead(self._objects, self._steps, self._bounds, tasks))
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
        await self._objects.stream(entry, self._writer.write)
        self._is_within_file = False


class _Ahead:
    """Downloads what comes next before it is its turn."""

    def __init__(
        self,
        objects: Objects,
        steps: list[_Step],
        bounds: DownloadBounds,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._objects = objects
        self._bounds = bounds
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
            # One of unknown size takes all there is; one at least is always under way.
            size = self._upcoming.size if self._upcoming.size >= 0 else self._bounds.ahead_bytes
            if self._started and self._bytes + size > self._bounds.ahead_bytes:
                return
            task = self._tasks.create_task(self._objects.content(self._upcoming))
            self._started.append((task, size))
            self._bytes += size
            self._upcoming = next(self._waiting, None)


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
