"""The newest artifact of each source: its files for us, its archive for everybody who asks over HTTP.

Theory of operation. `put` packs a tree in a thread and has it written (`artifact.folder`). Trees stay in memory, those
used last within the budget; one that is still in use somewhere is found again even beyond it, any other is read from
disk when it is needed, and only with its right digest. `announce` says that the source's own status has been written:
from then on `announced` gives the artifact to consumers, ahead of the way over the API server.

Knows artifacts and sources' keys; refuses to know Kubernetes. Invariants: bytes never pass for an artifact whose digest
they do not have; all disk work happens in threads. One source is worked on by one task at a time (the queue's promise);
everything else may overlap.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Final
from weakref import WeakValueDictionary

from gitopsd import metrics
from gitopsd.api.meta import Artifact, rfc3339
from gitopsd.artifact.archive import ArchiveError, digest_of, hasher, pack, unpack
from gitopsd.artifact.folder import ArtifactMissingError, Folder, Step, StoreError, checked, source_folder
from gitopsd.artifact.shared import spill_into
from gitopsd.artifact.tree import FileTree
from gitopsd.krm.objects import ObjectKey
from gitopsd.tasks import offload

__all__ = ["LATEST", "ArtifactMissingError", "ArtifactStore", "Step", "StoreError"]

LATEST: Final = "latest.tar.gz"


class _Announcements(asyncio.Queue[ObjectKey]):
    """A queue that holds each source once, in the order of their first announcement."""

    def _init(self, maxsize: int) -> None:
        self._queue: dict[ObjectKey, None] = {}

    def _put(self, item: ObjectKey) -> None:
        self._queue[item] = None

    def _get(self) -> ObjectKey:
        source = next(iter(self._queue))
        del self._queue[source]
        return source


class ArtifactStore:
    """Artifacts below one folder, and the trees of the newest in memory."""

    def __init__(
        self,
        root: Path,
        *,
        advertised: str,
        budget: int,
        retention_ttl: float = 60.0,
        retention_records: int = 2,
        digest_algorithm: str = "sha256",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`advertised` is the host, or the URL prefix, of artifacts; `budget` bounds the trees in memory (bytes)."""
        self._folder = Folder(root)
        self._root = root
        self._prefix = advertised.rstrip("/") if "://" in advertised else f"http://{advertised.rstrip('/')}"
        self._budget = budget
        self._ttl = retention_ttl
        self._records = retention_records
        self._algorithm = digest_algorithm
        self._clock = clock
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 16)  # each tree is an open file
        self._latest: dict[ObjectKey, Artifact] = {}
        self._announced: dict[ObjectKey, Artifact] = {}
        self._withdrawn: set[ObjectKey] = set()
        self._kept: OrderedDict[str, FileTree] = OrderedDict()
        self._held = 0
        self._in_use: WeakValueDictionary[str, FileTree] = WeakValueDictionary()
        self._reading: dict[str, asyncio.Event] = {}
        self.announcements: asyncio.Queue[ObjectKey] = _Announcements()

    async def open(self) -> None:
        """Check the folder and sweep what dead processes left half-written. Raises StoreError."""
        try:
            hasher(self._algorithm)
        except ArchiveError as error:
            raise StoreError(str(error)) from error
        await offload(self._folder.open)
        spill_into(self._root)

    # -- for sources ---------------------------------------------------------------------------------------------------

    async def put(
        self,
        source: ObjectKey,
        revision: str,
        file_name: str,
        tree: FileTree,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store a tree as the artifact of `revision`. Raises StoreError."""
        packed = await offload(pack, tree, self._algorithm)
        artifact = await self._put(source, revision, file_name, packed.data, packed.digest, metadata)
        self._keep(artifact.digest, tree)
        return artifact

    async def put_bytes(
        self,
        source: ObjectKey,
        revision: str,
        file_name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store bytes as they are: a chart, an index, a layer that is not to be unpacked. Raises StoreError."""
        digest = await offload(digest_of, data, self._algorithm)
        return await self._put(source, revision, file_name, data, digest, metadata)

    async def _put(
        self,
        source: ObjectKey,
        revision: str,
        file_name: str,
        data: bytes,
        digest: str,
        metadata: Mapping[str, str] | None,
    ) -> Artifact:
        path = f"{source_folder(source)}/{checked(file_name)}"
        await offload(self._folder.write, path, data, digest)
        return self._noted(source, revision, path, digest, len(data), metadata)

    def _noted(
        self, source: ObjectKey, revision: str, path: str, digest: str, size: int, metadata: Mapping[str, str] | None
    ) -> Artifact:
        artifact = Artifact(
            digest=digest,
            path=path,
            url=self.url(path),
            revision=revision,
            last_update_time=rfc3339(datetime.fromtimestamp(self._clock(), UTC)),
            size=size,
            metadata=dict(metadata or {}),
        )
        before = self._latest.get(source)
        self._latest[source] = artifact
        if before is not None and before.digest != digest:
            # Who still wants it has it or reads the file; a tree in memory costs an open file, too.
            self._release(before.digest)
        return artifact

    async def put_file(
        self,
        source: ObjectKey,
        revision: str,
        file_name: str,
        spooled: Path,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Take a file of `spool` in as the artifact; it is not there any more afterwards. Raises StoreError."""
        path = f"{source_folder(source)}/{checked(file_name)}"
        digest, size = await offload(self._folder.adopt, path, spooled, self._algorithm)
        return self._noted(source, revision, path, digest, size, metadata)

    def spool(self) -> Path:
        """A name for a file that is written piece by piece, for `put_file`; swept after a crash, as all half-written.

        Whoever gives it up removes it.
        """
        return self._folder.spool()

    async def give_up(self, spooled: Path) -> None:
        """Remove a file of `spool`. One that cannot be removed is swept by the next start."""
        with suppress(OSError):
            await offload(spooled.unlink, missing_ok=True)

    async def note(self, source: ObjectKey, text: bytes) -> None:
        """Keep a few words about a source until it goes, over restarts too. A disk that fails here fails nothing."""
        with suppress(StoreError):
            await offload(self._folder.note, source_folder(source), text)

    async def noted(self, source: ObjectKey) -> bytes:
        """What `note` kept of a source, and a restart did not lose; empty without it."""
        try:
            return await offload(self._folder.noted, source_folder(source))
        except StoreError:
            return b""

    async def link(self, source: ObjectKey, artifact: Artifact, name: str = LATEST) -> str:
        """Let `name` beside the artifact stand for it, and return the URL of that. Raises StoreError."""
        await offload(self._folder.link, f"{source_folder(source)}/{PurePosixPath(artifact.path).name}", name)
        return self.link_url(source, name)

    def link_url(self, source: ObjectKey, name: str = LATEST) -> str:
        """Where the newest artifact of a source is found."""
        return self.url(f"{source_folder(source)}/{name}")

    async def verify(self, source: ObjectKey, artifact: Artifact) -> bool:
        """Tell whether the file is there with its digest; one that has not been touched is not hashed again.

        An artifact that verifies becomes the latest of its source; a file that does not is removed. Raises StoreError.
        """
        is_its_own = str(PurePosixPath(artifact.path).parent) == source_folder(source)
        is_good = is_its_own and await offload(self._folder.verify, artifact.path, artifact.digest)
        if is_good:
            self._latest[source] = artifact
        return is_good

    async def restore(self, source: ObjectKey, artifact: Artifact) -> bool:
        """After a restart: verify what the source's status tells of, and take it as announced."""
        is_good = await self.verify(source, artifact)
        if is_good:
            self._announced[source] = artifact
        return is_good

    async def collect(self, source: ObjectKey, current: Artifact | None) -> int:
        """Remove superseded files of a source by age and number (spec/source.md 4.6); returns how many.

        A disk that fails here fails nothing: what is left is tried again at the next run.
        """
        keep = PurePosixPath(current.path).name if current is not None else ""
        too_old = self._clock() - self._ttl
        folder = source_folder(source)
        try:
            return await offload(self._folder.collect, folder, keep, too_old=too_old, records=self._records)
        except StoreError:
            return 0

    async def drop(self, source: ObjectKey) -> int:
        """Remove everything of a source that is gone; returns how many files. Raises StoreError."""
        self._forget(source)
        count = await offload(self._folder.drop, source_folder(source))
        self._withdrawn.discard(source)
        return count

    def _forget(self, source: ObjectKey) -> Artifact | None:
        latest = self._latest.pop(source, None)
        self._announced.pop(source, None)
        if latest is not None:
            self._release(latest.digest)
        return latest

    def withdraw(self, source: ObjectKey) -> bool:
        """Give a source's artifact to nobody any more, at once; `drop` has still to come. False where there is none."""
        if self._forget(source) is None:
            return False
        self._withdrawn.add(source)
        return True

    def is_withdrawn(self, source: ObjectKey) -> bool:
        """Whether files of a source are left which are nobody's."""
        return source in self._withdrawn

    # -- for consumers -------------------------------------------------------------------------------------------------

    def latest(self, source: ObjectKey) -> Artifact | None:
        """The newest artifact of a source that is stored."""
        return self._latest.get(source)

    def announced(self, source: ObjectKey) -> Artifact | None:
        """The newest artifact that the source's own status tells of."""
        return self._announced.get(source)

    def announce(self, source: ObjectKey) -> None:
        """Say that the source's status has been written; consumers hear of an artifact they do not know yet."""
        latest = self._latest.get(source)
        if latest is None or self._announced.get(source) == latest:
            return
        self._announced[source] = latest
        self.announcements.put_nowait(source)

    async def files(self, artifact: Artifact) -> FileTree:
        """The tree of an artifact, from memory or from disk.

        Raises ArtifactMissingError, and ArchiveError for one that is not an archive. Several who ask at once have it
        read once; if the one who reads is cancelled, the next one does.
        """
        while True:
            tree = self._tree(artifact.digest)
            if tree is not None:
                return tree
            reading = self._reading.get(artifact.digest)
            if reading is None:
                break
            await reading.wait()
        self._reading[artifact.digest] = done = asyncio.Event()
        try:
            tree = await offload(self._read, artifact)
            self._keep(artifact.digest, tree)
            return tree
        finally:
            del self._reading[artifact.digest]
            done.set()

    async def content(self, artifact: Artifact) -> bytes:
        """The bytes of an artifact's file. Raises ArtifactMissingError."""
        return await offload(self._folder.read, artifact.path, artifact.digest)

    def held(self, digest: str) -> FileTree | None:
        """The tree behind a digest if it is in memory."""
        return self._tree(digest)

    def hold(self, digest: str, tree: FileTree) -> None:
        """Keep the tree of an artifact that is stored elsewhere, within the budget."""
        self._keep(digest, tree)

    def path(self, artifact: Artifact) -> Path | None:
        """The file of an artifact, None when there is none; it may go at any time. Blocking."""
        return self._folder.resolve(artifact.path)

    def _read(self, artifact: Artifact) -> FileTree:
        return unpack(self._folder.read(artifact.path, artifact.digest), backslashes=True)

    def _tree(self, digest: str) -> FileTree | None:
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._in_use.get(digest)

    def _keep(self, digest: str, tree: FileTree) -> None:
        self._release(digest)
        self._in_use[digest] = tree
        self._kept[digest] = tree
        self._held += tree.size
        while self._held > self._budget or len(self._kept) > self._most:
            self._release(next(iter(self._kept)))
        metrics.artifact_memory.set(self._held)

    def _release(self, digest: str) -> None:
        tree = self._kept.pop(digest, None)
        if tree is not None:
            self._held -= tree.size
            metrics.artifact_memory.set(self._held)

    # -- for HTTP ------------------------------------------------------------------------------------------------------

    def url(self, path: str) -> str:
        """Where a stored file can be fetched (spec/source.md 4.5)."""
        return f"{self._prefix}/{path}"

    def resolve(self, request_path: str) -> Path | None:
        """The file or folder that a request means, None when there is none. Never leaves the root. Blocking."""
        return self._folder.resolve(request_path)
