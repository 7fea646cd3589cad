"""Artifacts that another controller stores and serves: an ExternalArtifact's, another shard's.

Theory of operation. The file is spooled below the storage path, checked by its digest, and only then unpacked; the
tree is what everybody gets. Who asks for the same artifact at the same time shares one download. What may pass is
tried again (`Retrying`); that the file is not there is an answer, and told at once.

Knows the artifact server's protocol (spec/kustomize.md 3.2); refuses to know Kubernetes and the store. Invariants:
bytes with another digest are never unpacked; a redirect never leads to another origin; nothing is left on disk.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from gitopsd import metrics
from gitopsd.api.meta import Artifact
from gitopsd.artifact.archive import ArchiveError, hasher, unpack
from gitopsd.artifact.tree import FileTree
from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.flights import Flights
from gitopsd.fetch.http import REDIRECTS, Answer, HttpClient, origin_of
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.tasks import Backoff, offload

_MOST_HOPS = 5
_LARGEST = 1 << 30
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 30.0


class DownloadError(GitopsdError):
    """An artifact that could not be fetched or read, in words that may be shown."""


class NotThereError(DownloadError):
    """The server has no such file; most often it is about to have another."""


@dataclass(frozen=True)
class Retrying:
    """How often a download is tried again after what may pass, and how long one try may take (seconds)."""

    retries: int = 9
    timeout: float = 30.0


class Downloads:
    """Downloads artifacts of other controllers."""

    def __init__(
        self, web: HttpClient, spool: Callable[[], Path], retrying: Retrying, *, largest: int = _LARGEST
    ) -> None:
        """`spool` names a new file to write to; `largest` bounds a download (bytes)."""
        self._web = web
        self._spool = spool
        self._retrying = retrying
        self._largest = largest
        self._flights: Flights[FileTree | DownloadError] = Flights()

    async def files(self, artifact: Artifact) -> FileTree:
        """The files of an artifact. Raises NotThereError and DownloadError."""
        outcome = await self._flights.share((artifact.url, artifact.digest), lambda: self._outcome(artifact))
        if isinstance(outcome, DownloadError):
            raise type(outcome)(str(outcome))
        return outcome

    async def _outcome(self, artifact: Artifact) -> FileTree | DownloadError:
        try:
            return await self._fetch(artifact)
        except DownloadError as error:
            return error

    async def _fetch(self, artifact: Artifact) -> FileTree:
        if not artifact.digest:
            raise DownloadError("failed to verify archive: empty digest")
        path = self._spool()
        try:
            await self._download(artifact.url, path)
            return await offload(_opened, path, artifact.digest)
        finally:
            await offload(path.unlink, missing_ok=True)

    async def _download(self, url: str, path: Path) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        for _ in range(self._retrying.retries):
            try:
                return await self._try(url, path)
            except RemoteError:
                await asyncio.sleep(backoff.next())  # no event tells when a server of others recovers
        try:
            return await self._try(url, path)
        except RemoteError as error:
            attempts = self._retrying.retries + 1
            text = f"failed to download archive: GET {_shown(url)} giving up after {attempts} attempt(s): {error}"
            raise DownloadError(text) from error

    async def _try(self, url: str, path: Path) -> None:
        """One try. Raises RemoteError for what may pass, DownloadError for what will not."""
        try:
            async with asyncio.timeout(self._retrying.timeout):
                await self._get(url, path)
        except TimeoutError:
            raise RemoteError(f"no answer within {self._retrying.timeout:g}s") from None
        except TLSMaterialError as error:
            raise DownloadError(f"failed to download archive: {error}") from error

    async def _get(self, url: str, path: Path) -> None:
        address = url
        for _ in range(_MOST_HOPS):
            async with self._web.request("GET", address, follow=False) as answer:
                if answer.status not in REDIRECTS:
                    _check(answer, url)
                    return await self._save(answer, path)
                address = _redirected(address, answer.headers.get("Location", ""))
        raise DownloadError("failed to download archive: the server redirects for ever")

    async def _save(self, answer: Answer, path: Path) -> None:
        file = await offload(path.open, "wb")
        try:
            async for piece in answer.pieces(self._largest, "archive"):
                await offload(file.write, piece)
        except RemoteError as error:
            if not error.rule:
                raise
            metrics.refused_inputs.labels("artifact", error.rule).inc()
            raise DownloadError(f"failed to download archive: {error}") from error
        finally:
            await offload(file.close)


def _check(answer: Answer, url: str) -> None:
    if answer.status == 200:
        return
    if answer.status == 404:
        raise NotThereError("artifact not found")
    if answer.status == 429 or answer.status >= 500:
        raise RemoteError(f"the server answered {answer.status}")
    raise DownloadError(f"failed to download archive from {_shown(url)} (status: {answer.status})")


def _redirected(current: str, location: str) -> str:
    target = urljoin(current, location)
    try:
        is_elsewhere = origin_of(target) != origin_of(current)
    except ValueError:
        is_elsewhere = True
    if is_elsewhere:
        metrics.refused_inputs.labels("artifact", "redirect").inc()
        raise DownloadError("failed to download archive: the server redirects to another host")
    return target


def _shown(url: str) -> str:
    return printable(url.partition("?")[0], 256)


def _opened(path: Path, digest: str) -> FileTree:
    """Check the digest of the compressed file, then unpack it. Blocking."""
    algorithm, _, wanted = digest.rpartition(":")
    try:
        found = hasher(algorithm or "sha256")
    except ArchiveError as error:
        raise DownloadError(f"failed to verify archive: {error}") from error
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.seek(0, 2) else b""
    found.update(content)
    if found.hexdigest() != wanted:
        raise DownloadError(
            f"failed to verify archive: computed digest doesn't match provided '{printable(digest, 256)}'"
            " (check whether file size exceeds max download size)"
        )
    try:
        return unpack(content)
    except ArchiveError as error:
        raise DownloadError(f"failed to extract archive: {error}") from error
