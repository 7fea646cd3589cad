"""The newest artifact of each source: its files for us, its tarball for everybody who asks over HTTP.

Theory of operation. `put` packs a tree in a thread, writes it beside its final name and renames it, so that a name
never stands for half a file; the tree stays in memory while the budget lasts, the one unused for longest goes first and
is read from disk again when it is needed. `announce` says that the source's own status has been written: from then on
`announced` gives the artifact to consumers, ahead of the way over the API server. Files of superseded artifacts go by
age and number (`spec/source.md` 4.6), those of a process that died are swept at the start.

Knows files and digests; refuses to know Kubernetes beyond an object's key. All disk work happens in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gitopsd import metrics
from gitopsd.api.meta import Artifact, rfc3339
from gitopsd.artifact.archive import pack, unpack
from gitopsd.artifact.tree import FileTree, clamp_path
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import ObjectKey
from gitopsd.tasks import offload

_TEMPORARY = ".tmp-"
_MOST_COLLECTED = 1000


class StoreError(GitopsdError):
    """The storage could not be read or written; the text names the operation, never our own path."""


class ArtifactMissingError(StoreError):
    """The artifact is not in the storage."""


class _Stamp(NamedTuple):
    """What a file looked like when its digest was last verified."""

    digest: str
    size: int
    modified: int


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
        """`advertised` is the URL prefix of artifacts; `budget` bounds the trees in memory (bytes)."""
        self._root = root
        self._advertised = advertised.rstrip("/")
        self._budget = budget
        self._ttl = retention_ttl
        self._records = retention_records
        self._algorithm = digest_algorithm
        self._clock = clock
        self._latest: dict[ObjectKey, Artifact] = {}
        self._announced: dict[ObjectKey, Artifact] = {}
        self._trees: OrderedDict[str, FileTree] = OrderedDict()
        self._held = 0
        self._verified: dict[str, _Stamp] = {}
        self._reading: dict[str, asyncio.Future[FileTree]] = {}
        self.announcements: asyncio.Queue[ObjectKey] = asyncio.Queue()

    async def open(self) -> None:
        """Check the folder and sweep what a dead process left half-written. Raises StoreError."""
        await offload(self._open)

    def _open(self) -> None:
        if not self._root.is_dir():
            raise StoreError(f"the storage path {self._root} does not exist or is not a directory")
        for path in self._root.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    # -- for sources -------------------------------------------------------------------------------------------

    async def put(self, source: ObjectKey, revision: str, file_name: str, tree: FileTree) -> Artifact:
        """Store a tree as the artifact of `revision`. Raises StoreError."""
        path = f"{_folder(source)}/{file_name}"
        try:
            digest, size = await offload(self._write, path, tree)
        except OSError as error:
            raise StoreError(f"{error.strerror or 'the storage failed'} ({path})") from error
        artifact = Artifact(
            digest=digest,
            path=path,
            url=self.url(path),
            revision=revision,
            last_update_time=rfc3339(datetime.fromtimestamp(self._clock(), UTC)),
            size=size,
        )
        self._latest[source] = artifact
        self._keep(artifact.digest, tree)
        return artifact

    def _write(self, path: str, tree: FileTree) -> tuple[str, int]:
        packed = pack(tree, self._algorithm)
        target = self._root / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}-{time.monotonic_ns()}-{target.name}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(packed.data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        self._verified[path] = self._stamp(target, packed.digest)
        return packed.digest, packed.size

    @staticmethod
    def _stamp(target: Path, digest: str) -> _Stamp:
        found = target.stat()
        return _Stamp(digest, found.st_size, found.st_mtime_ns)

    async def verify(self, source: ObjectKey, artifact: Artifact) -> bool:
        """Whether the file is there with its digest; a file that has not been touched is not hashed again.

        An artifact that verifies becomes the latest of its source. A file that does not is removed.
        """
        try:
            is_good = await offload(self._verify, artifact)
        except OSError as error:
            raise StoreError(f"{error.strerror or 'the storage failed'} ({artifact.path})") from error
        if is_good:
            self._latest[source] = artifact
        return is_good

    def _verify(self, artifact: Artifact) -> bool:
        target = self._inside(artifact.path)
        if target is None or not target.is_file() or target.is_symlink():
            return False
        if self._verified.get(artifact.path) == self._stamp(target, artifact.digest):
            return True
        algorithm, _, _ = artifact.digest.partition(":")
        with target.open("rb") as file:
            found = f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
        if found != artifact.digest:
            target.unlink(missing_ok=True)
            return False
        self._verified[artifact.path] = self._stamp(target, found)
        return True

    async def collect(self, source: ObjectKey, current: Artifact | None) -> int:
        """Remove superseded files of a source by age and number (`spec/source.md` 4.6); returns how many."""
        try:
            return await offload(self._collect, source, current)
        except OSError:
            return 0  # tried again at the next run

    def _collect(self, source: ObjectKey, current: Artifact | None) -> int:
        folder = self._root / _folder(source)
        if not folder.is_dir():
            return 0
        keep = Path(current.path).name if current is not None else ""
        found: list[tuple[float, Path]] = []
        for path in folder.iterdir():
            if path.name != keep and not path.is_symlink() and path.is_file() and not path.name.endswith(".lock"):
                found.append((path.stat().st_mtime, path))
            if len(found) >= _MOST_COLLECTED:
                break
        gone = _superseded(sorted(found), self._clock() - self._ttl, self._records - (1 if keep else 0))
        for path in gone:
            path.unlink(missing_ok=True)
            self._verified.pop(f"{_folder(source)}/{path.name}", None)
        return len(gone)

    async def drop(self, source: ObjectKey) -> int:
        """Remove everything of a source that is gone; returns how many files. Raises StoreError."""
        latest = self._latest.pop(source, None)
        self._announced.pop(source, None)
        if latest is not None:
            self._release(latest.digest)
        try:
            return await offload(self._drop, source)
        except OSError as error:
            raise StoreError(f"{error.strerror or 'the storage failed'} ({_folder(source)})") from error

    def _drop(self, source: ObjectKey) -> int:
        folder = self._root / _folder(source)
        if not folder.is_dir():
            return 0
        count = sum(1 for path in folder.iterdir() if path.is_file())
        shutil.rmtree(folder)
        return count

    # -- for consumers -----------------------------------------------------------------------------------------

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
        """The tree of an artifact, from memory or from disk. Raises ArtifactMissingError."""
        tree = self._trees.get(artifact.digest)
        if tree is not None:
            self._trees.move_to_end(artifact.digest)
            return tree
        reading = self._reading.get(artifact.digest)
        if reading is None:
            reading = asyncio.get_running_loop().create_future()
            self._reading[artifact.digest] = reading
            try:
                reading.set_result(await self._read(artifact))
            except GitopsdError as error:
                reading.set_exception(error)
                reading.exception()  # it is raised below; nobody else has to look
            except BaseException:
                reading.cancel()
                raise
            finally:
                del self._reading[artifact.digest]
        return await asyncio.shield(reading)

    async def _read(self, artifact: Artifact) -> FileTree:
        if not await offload(self._verify, artifact):
            raise ArtifactMissingError(f"artifact '{artifact.path}' is not in the storage")
        target = self._inside(artifact.path)
        assert target is not None
        try:
            tree = await offload(lambda: unpack(target.read_bytes()))
        except OSError as error:
            raise ArtifactMissingError(f"artifact '{artifact.path}' is not in the storage") from error
        self._keep(artifact.digest, tree)
        return tree

    def _keep(self, digest: str, tree: FileTree) -> None:
        self._release(digest)
        self._trees[digest] = tree
        self._held += tree.size
        while self._held > self._budget and len(self._trees) > 1:
            self._release(next(iter(self._trees)))
        metrics.artifact_memory.set(self._held)

    def _release(self, digest: str) -> None:
        tree = self._trees.pop(digest, None)
        if tree is not None:
            self._held -= tree.size
            metrics.artifact_memory.set(self._held)

    # -- for HTTP ----------------------------------------------------------------------------------------------

    def url(self, path: str) -> str:
        """Where a stored file can be fetched."""
        return f"{self._advertised}/{path}"

    def resolve(self, request_path: str) -> Path | None:
        """The file or folder that a request means, None when there is none. Never leaves the root. Blocking."""
        found = self._inside(request_path)
        return found if found is not None and found.exists() and not found.name.startswith(_TEMPORARY) else None

    def _inside(self, path: str) -> Path | None:
        if "\0" in path:
            return None
        root = self._root.resolve()
        found = (root / clamp_path(path)).resolve()
        return found if found == root or root in found.parents else None


def _folder(source: ObjectKey) -> str:
    return f"{source.kind.lower()}/{source.namespace}/{source.name}"


def _superseded(oldest_first: list[tuple[float, Path]], too_old: float, keep: int) -> list[Path]:
    """Everything that is too old, then the oldest of the rest until only `keep` are left."""
    gone = [path for modified, path in oldest_first if modified < too_old]
    rest = [path for modified, path in oldest_first if modified >= too_old]
    return [*gone, *rest[: max(len(rest) - keep, 0)]]
