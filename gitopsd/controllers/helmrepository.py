"""HelmRepositories for the source pipeline: the index that is served now, is it stored already, and what to store.

A part of the source controller. Knows `spec/source.md` 7 and the rows of 11.1 about it; how an index is downloaded and
read is `fetch.helmindex*`. Of every repository the server's validators are remembered, so that an index that has not
changed is not sent again, neither after a restart that left the storage. A repository of type `oci` is data for its
charts: nothing is fetched for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import structlog

from gitopsd import metrics
from gitopsd.api.meta import Artifact, ConditionType, Reason, format_duration
from gitopsd.api.resource import Resource
from gitopsd.api.source import HelmRepository
from gitopsd.artifact.archive import ArchiveError, hasher
from gitopsd.artifact.folder import source_folder
from gitopsd.controllers.helmrepository_access import repository_access
from gitopsd.controllers.source import Fetched, Services, SourceError, Unchanged, outdated
from gitopsd.fetch.auth import mask
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindexbuild import Built, IndexFormatError
from gitopsd.fetch.helmindexdownload import BusyError, Downloaded, Validators, download
from gitopsd.fetch.helmindexurls import index_url, shown_url
from gitopsd.fetch.http import Access
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.runtime.status import StatusSession

log = structlog.get_logger()

_MOST_REMEMBERED: Final = 10_000
_NOT_FETCHED: Final = "failed to fetch Helm repository index: failed to cache index to temporary file: "
_NOT_LOADED: Final = "failed to load Helm repository from index YAML: "
_NOT_ENCODED: Final = "unable to get JSON index from chart repo: "
_NOT_STORED: Final = "unable to save artifact to storage"
_NO_TLS: Final = "failed to construct Helm client's TLS config: "
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


class _Note(msgspec.Struct, frozen=True):
    """What is kept of `_Known` beside the index; of the address, which may hold a token, a hash."""

    revision: str
    address: str
    etag: str = ""
    modified: str = ""


class _Known(NamedTuple):
    """What a server said about the index that became an artifact of that revision."""

    revision: str
    validators: Validators


class HelmRepositorySource:
    """The HelmRepository kind of source."""

    model: type[Resource] = HelmRepository
    link = "index.yaml"
    failures = (ConditionType.STORAGE_OPERATION_FAILED, ConditionType.FETCH_FAILED)

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: OrderedDict[ObjectKey, _Known] = OrderedDict()
        self._refusals: dict[ObjectKey, int] = {}  # how often in a row a server asked to be left alone

    def is_static(self, source: HelmRepository) -> bool:
        """Whether it is an address for charts, and nothing more (`spec/source.md` 7.3)."""
        return source.spec.is_oci

    def forget(self, key: ObjectKey) -> None:
        """Keep nothing of a repository that is gone."""
        self._refusals.pop(key, None)
        known = self._known.pop(key, None)
        if known is not None:
            self._services.indexes.drop(_artifact_path(key, known.revision))

    async def fetch(
        self, source: HelmRepository, current: Artifact | None, status: StatusSession
    ) -> Fetched | Unchanged:
        """Download the index unless the server says that it is still the same; read it if its bytes are others."""
        url = _index_url(source)
        access = await repository_access(source, self._services.secrets)
        async with self._drafted() as target:
            async with self._spooled() as spool:
                known = await self._validators(source.key, url, current)
                downloaded = await self._download(source, url, access, _algorithms(current), spool, known)
                self._refusals.pop(source.key, None)
                if current is not None and (downloaded is None or current.revision in downloaded.digests.values()):
                    if downloaded is not None:
                        await self._remember(source.key, current.revision, downloaded)
                    return _unchanged(source, current)
                assert downloaded is not None
                revision = downloaded.digests[self._services.settings.artifact_digest_algo]
                outdated(status, Reason.NEW_REVISION, f"new index revision '{revision}'")
                built = await self._build(spool, target)
            await self._remember(source.key, revision, downloaded)
            return self._fetched(source, current, revision, target, built)

    async def restore(self, source: HelmRepository, artifact: Artifact, obj: Obj) -> Fetched | None:
        """The index that was stored, if the server still has just that one."""
        url = _index_url(source)
        access = await repository_access(source, self._services.secrets)
        async with self._drafted() as target:
            async with self._spooled() as spool:
                downloaded = await self._download(source, url, access, _algorithms(artifact), spool, None)
                if downloaded is None or artifact.revision not in downloaded.digests.values():
                    return None
                built = await self._build(spool, target)
            await self._remember(source.key, artifact.revision, downloaded)
            return self._fetched(source, artifact, artifact.revision, target, built)

    @asynccontextmanager
    async def _spooled(self) -> AsyncIterator[Path]:
        """A file for what is downloaded, gone at the end."""
        path = self._services.store.spool()
        try:
            yield path
        finally:
            await self._services.store.give_up(path)

    @asynccontextmanager
    async def _drafted(self) -> AsyncIterator[Path]:
        """A file for what is to be stored, gone unless it comes to that."""
        path = self._services.store.spool()
        try:
            yield path
        except BaseException:
            await self._services.store.give_up(path)
            raise

    # -- what the server has -------------------------------------------------------------------------------------------

    async def _download(
        self,
        source: HelmRepository,
        url: str,
        access: Access,
        algorithms: set[str],
        path: Path,
        known: Validators | None,
    ) -> Downloaded | None:
        settings = self._services.settings
        try:
            async with asyncio.timeout(source.spec.timeout_seconds):
                return await download(
                    self._services.web,
                    url,
                    path,
                    access=access,
                    limit=settings.helm_index_max_size,
                    algorithms={settings.artifact_digest_algo} | algorithms,
                    known=known,
                )
        except TimeoutError:
            raise _failure(f"no complete answer within {format_duration(source.spec.timeout_seconds)}") from None
        except TLSMaterialError as error:
            raise _not_fetched(Reason.AUTHENTICATION_FAILED, f"{_NO_TLS}{error}") from error
        except BusyError as error:
            raise _failure(error.message, again_in=self._delay(source.key, error.again_in)) from error
        except RemoteError as error:
            _count(error)
            message = mask(error.message, access.secrets)
            if error.rule == "size":
                raise _not_fetched(Reason.INDEXATION_FAILED, f"{_NOT_LOADED}{message}") from error
            raise _failure(message) from error

    async def _validators(self, key: ObjectKey, url: str, current: Artifact | None) -> Validators | None:
        if current is None:
            return None
        known = self._known.get(key) or _known(await self._services.store.noted(key), url)
        return known.validators if known is not None and known.revision == current.revision else None

    async def _remember(self, key: ObjectKey, revision: str, downloaded: Downloaded) -> None:
        known = _Known(revision, downloaded.validators)
        if self._known.get(key) != known and known.validators.is_useful:
            await self._services.store.note(key, _note(known))
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)

    def _delay(self, key: ObjectKey, wanted: float) -> float:
        """Seconds until the next try: what the server wants, or what would have been waited anyway."""
        settings = self._services.settings
        tries = self._refusals.get(key, 0)
        self._refusals[key] = min(tries + 1, 30)
        return float(min(max(wanted, settings.min_retry_delay * 2**tries), settings.max_retry_delay))

    # -- what is stored ------------------------------------------------------------------------------------------------

    async def _build(self, spool: Path, target: Path) -> Built:
        try:
            built = await self._services.indexes.reader.build(
                spool, target, self._services.settings.helm_index_max_size
            )
        except IndexFormatError as error:
            _count(error)
            raise _not_fetched(Reason.INDEXATION_FAILED, f"{_NOT_LOADED}{error.message}") from error
        except RemoteError as error:
            reason, message = Reason.ARCHIVE_OPERATION_FAILED, f"{_NOT_ENCODED}{error.message}"
            raise SourceError(ConditionType.STORAGE_OPERATION_FAILED, reason, message) from error
        if built.dropped:
            log.debug("entries of the index cannot be used", entries=built.dropped, first=list(built.notes))
        return built

    def _fetched(
        self, source: HelmRepository, current: Artifact | None, revision: str, target: Path, built: Built
    ) -> Fetched:
        indexes = self._services.indexes
        if current is not None:
            indexes.drop(current.path)
        indexes.adopt(_artifact_path(source.key, revision), built.table)
        return Fetched(
            revision=revision,
            file_name=_file_name(revision),
            content=target,
            stored=_stored(revision),
            told=_told(source, built.table.file_size),
            not_stored=_NOT_STORED,
        )


def _file_name(revision: str) -> str:
    return f"index-{revision.partition(':')[2]}.yaml"


def _artifact_path(key: ObjectKey, revision: str) -> str:
    return f"{source_folder(key)}/{_file_name(revision)}"


def _index_url(source: HelmRepository) -> str:
    """Where the index is. Raises SourceError for addresses that can never have one."""
    scheme = source.spec.url.partition("://")[0].lower()
    if scheme == "oci":
        message = "'oci' URL scheme cannot be used with 'default' HelmRepository type"
        raise _not_fetched(Reason.URL_INVALID, f"invalid Helm repository URL: {message}", stalls=True)
    try:
        url = index_url(source.spec.url)
    except ValueError as error:
        raise _not_fetched(Reason.URL_INVALID, f"invalid Helm repository URL: {error}", stalls=True) from error
    if scheme not in {"http", "https"}:
        raise _not_fetched(
            Reason.FAILED, "failed to construct Helm client: the scheme is not http or https", stalls=True
        )
    return url


def _algorithms(current: Artifact | None) -> set[str]:
    """What to hash with besides today's: as when the stored artifact was made (`spec/source.md` 4.2)."""
    if current is None:
        return set()
    earlier = current.revision.partition(":")[0]
    try:
        hasher(earlier)
    except ArchiveError:
        return set()
    return {earlier}


def _address(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _note(known: _Known) -> bytes:
    found = known.validators
    return msgspec.json.encode(_Note(known.revision, _address(found.url), found.etag, found.modified))


def _known(note: bytes, url: str) -> _Known | None:
    """What a note says of the index at `url`; None without a note, and when it is about another address."""
    if not note:
        return None
    try:
        found = msgspec.json.decode(note, type=_Note)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if found.address != _address(url) or not (found.etag + found.modified).isprintable():
        return None
    return _Known(found.revision, Validators(url, found.etag, found.modified))


def _not_fetched(reason: str, message: str, *, stalls: bool = False) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, reason, message, stalls=stalls)


def _failure(message: str, *, again_in: float | None = None) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, Reason.FAILED, f"{_NOT_FETCHED}{message}", again_in=again_in)


def _count(error: RemoteError) -> None:
    if error.rule:
        metrics.refused_inputs.labels("helm-index", error.rule).inc()


def _unchanged(source: HelmRepository, current: Artifact) -> Unchanged:
    return Unchanged(
        stored=_stored(current.revision),
        told=f"artifact up-to-date with remote revision: '{current.revision}'",
        recovered=_told(source, current.size),
    )


def _stored(revision: str) -> str:
    return f"stored artifact: revision '{revision}'"


def _told(source: HelmRepository, size: int | None) -> str:
    text = f"size {_human(size)}" if size else "unknown size"
    return f"stored fetched index of {text} from '{shown_url(source.spec.url)}'"


def _human(size: float) -> str:
    """A size as people read it, in steps of a thousand and with four digits: `30.88kB`."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return f"{size:.4g}{_UNITS[unit]}"
