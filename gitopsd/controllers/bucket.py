"""Buckets for the source pipeline: what they hold now, is it stored already, and the tree of it.

A part of the source controller. Knows `spec/source.md` 9 and 11.1's rows about buckets; the protocols are behind
`fetch.bucket`. Of every stored listing sixteen bytes a key are remembered, within a bound, so that after a change only
what changed is downloaded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from gitopsd.api.meta import Artifact, ConditionType, Reason
from gitopsd.api.resource import Resource
from gitopsd.api.source import Bucket
from gitopsd.artifact.archive import ArchiveError
from gitopsd.artifact.store import LATEST, ArtifactMissingError
from gitopsd.controllers.bucket_access import BucketAccess
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, outdated
from gitopsd.fetch.bucket import BucketRequest, fetch, look
from gitopsd.fetch.bucketdownload import Before
from gitopsd.fetch.bucketlisting import BucketIndex, Seen
from gitopsd.fetch.errors import FetchError
from gitopsd.krm.objects import ObjectKey
from gitopsd.runtime.status import StatusSession
from gitopsd.tasks import offload

_REMEMBERED_BYTES: Final = 32 << 20


class _Place(NamedTuple):
    """Where objects are: etags need not be digests, and say nothing about objects elsewhere."""

    provider: str
    endpoint: str
    bucket: str

    @classmethod
    def of(cls, source: Bucket) -> _Place:
        return cls(source.spec.provider, source.spec.endpoint, source.spec.bucket_name)


class _Known(NamedTuple):
    """The objects of an artifact of that revision."""

    revision: str
    place: _Place
    fingerprints: bytes


class _Memory:
    """What is known of the objects in stored artifacts, by source; the longest unused goes first."""

    def __init__(self, budget: int = _REMEMBERED_BYTES) -> None:
        self._budget = budget
        self._held = 0
        self._known: OrderedDict[ObjectKey, _Known] = OrderedDict()

    def note(self, source: ObjectKey, revision: str, place: _Place, fingerprints: bytes) -> None:
        """Remember the objects of an artifact that is being stored, and where they came from."""
        self.forget(source)
        self._known[source] = _Known(revision, place, fingerprints)
        self._held += len(fingerprints)
        while self._held > self._budget:
            self.forget(next(iter(self._known)))

    def forget(self, source: ObjectKey) -> None:
        """Know nothing of a source any more."""
        known = self._known.pop(source, None)
        if known is not None:
            self._held -= len(known.fingerprints)

    def seen(self, source: ObjectKey, revision: str, place: _Place) -> Seen:
        """The objects of the artifact with that revision, as far as they are known to be from that place."""
        known = self._known.get(source)
        is_same = known is not None and (known.revision, known.place) == (revision, place)
        return Seen(known.fingerprints if known is not None and is_same else b"")

    def knows(self, source: ObjectKey, revision: str) -> bool:
        """Whether that artifact's objects are known."""
        known = self._known.get(source)
        return known is not None and known.revision == revision


class BucketSource:
    """The Bucket kind of source."""

    model: type[Resource] = Bucket
    link = LATEST
    failures = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED)

    def __init__(self, services: Services) -> None:
        self._services = services
        self._memory = _Memory()

    def is_static(self, source: Bucket) -> bool:
        """Never."""
        return False

    def forget(self, key: ObjectKey) -> None:
        """Keep nothing of a bucket that is gone."""
        self._memory.forget(key)

    async def fetch(self, source: Bucket, current: Artifact | None, status: StatusSession) -> Fetched | Unchanged:
        """List what the bucket has; download what changed, if anything did."""
        try:
            request = await self._request(source)
            seen = await look(request)
            if current is not None and await self._is_stored(source, seen.index, current):
                return _unchanged(source, seen.index, current.revision)
            revision = await self._revision(seen.index)
            outdated(status, Reason.NEW_REVISION, f"new upstream revision '{revision}'")
            index, tree = await fetch(request, seen, await self._before(source, current))
        except FetchError as error:
            raise SourceError(ConditionType.FETCH_FAILED, error.reason, error.message, stalls=error.stalls) from error
        if index is not seen.index:
            revision = await self._revision(index)
        await self._remember(source, index, revision)
        return Fetched(
            revision=revision,
            file_name=f"{revision.partition(':')[2]}.tar.gz",
            content=tree,
            stored=_stored(revision),
            told=_told(source, index),
            observed={"observedIgnore": source.spec.ignore},
        )

    async def _request(self, source: Bucket) -> BucketRequest:
        spec = source.spec
        return BucketRequest(
            bucket=spec.bucket_name,
            connect=await BucketAccess(self._services, source).prepare(),
            prefix=spec.prefix,
            ignore=spec.ignore,
            timeout=spec.timeout_seconds,
        )

    async def _revision(self, index: BucketIndex) -> str:
        return await offload(index.revision, self._services.settings.artifact_digest_algo)

    async def _is_stored(self, source: Bucket, index: BucketIndex, current: Artifact) -> bool:
        """Whether the index is that of the stored artifact, by the algorithm of its time."""
        try:
            revision = await offload(index.revision, current.revision.partition(":")[0])
        except ArchiveError:
            return False
        if revision != current.revision:
            return False
        if not self._memory.knows(source.key, revision):
            await self._remember(source, index, revision)
        return True

    async def _remember(self, source: Bucket, index: BucketIndex, revision: str) -> None:
        self._memory.note(source.key, revision, _Place.of(source), await offload(lambda: index.fingerprints))

    async def _before(self, source: Bucket, current: Artifact | None) -> tuple[Before, ...]:
        """The tree of the stored artifact, for what did not change."""
        if current is None:
            return ()
        try:
            tree = await self._services.store.files(current)
        except (ArtifactMissingError, ArchiveError):
            return ()
        seen = await offload(self._memory.seen, source.key, current.revision, _Place.of(source))
        return (Before(tree, seen),)


def _stored(revision: str) -> str:
    return f"stored artifact: revision '{revision}'"


def _told(source: Bucket, index: BucketIndex) -> str:
    return f"stored artifact with {len(index)} fetched files from '{source.spec.bucket_name}' bucket"


def _unchanged(source: Bucket, index: BucketIndex, revision: str) -> Unchanged:
    return Unchanged(
        stored=_stored(revision),
        told=f"artifact up-to-date with remote revision: '{revision}'",
        recovered=_told(source, index),
    )
