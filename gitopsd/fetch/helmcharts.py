"""Charts in Helm repositories, those with an index and those in registries: found by version, downloaded, checked.

Knows spec/source.md 8.3 and spec/hostile-inputs.md F07, F08, F14, G05; refuses to know what is in a chart.
Invariants: credentials go where `helmindexurls` lets them; what an index or a manifest has a digest for has that digest
when it leaves here; nothing is larger than its bound. Everything raises RemoteError; ChartNotFoundError where only
another index or another wish can help.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, Protocol

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.helmindex import ChartNotFoundError, HelmIndex
from gitopsd.fetch.helmindexurls import chart_url, may_send_credentials, shown_url
from gitopsd.fetch.http import Access, HttpClient
from gitopsd.fetch.registry import Descriptor, Registry, RegistryAccess, Repository, parse_repository
from gitopsd.fetch.registrytags import newest_tag
from gitopsd.fetch.tls import TLSMaterialError
from gitopsd.tasks import offload

__all__ = ["ChartNotFoundError", "ChartRepository", "IndexCharts", "Offer", "RegistryCharts"]

CHART_CONTENT: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_SUFFIX: Final = r"(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:[+_][0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
# Which tags are versions, and which wishes are so exact that no tags need to be listed.
_TAG = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}{_SUFFIX}")
_EXACT = re.compile(rf"v?[0-9]+\.[0-9]+\.[0-9]+{_SUFFIX}")


@dataclass(frozen=True)
class Offer:
    """A version of a chart that a repository has.

    `digest` is that of the chart (an index's) or of its manifest (a registry's); empty when unknown.
    """

    name: str
    version: str
    urls: tuple[str, ...] = ()
    tag: str = ""
    digest: str = ""


class ChartRepository(Protocol):
    """Where charts are found and downloaded."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message."""

    async def find(self, name: str, wanted: str) -> Offer:
        """The version that is written just like `wanted`, else the newest one in that range."""

    async def download(self, offer: Offer) -> bytes:
        """The archive of a version."""


class IndexCharts:
    """The charts of a repository with an index."""

    def __init__(
        self,
        web: HttpClient,
        index: HelmIndex,
        url: str,
        access: Access,
        *,
        pass_credentials: bool,
        timeout: float,
        limit: int,
        registry: Registry | None = None,
    ) -> None:
        """`limit` bounds an archive (bytes), `timeout` a download (seconds); `registry` is for what is in one."""
        self._web = web
        self._index = index
        self._url = url
        self._access = access
        self._pass_credentials = pass_credentials
        self._timeout = timeout
        self._limit = limit
        self._registry = registry

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message."""
        return self._access.secrets

    async def find(self, name: str, wanted: str) -> Offer:
        """Look into the index."""
        try:
            found = await self._index.find(name, wanted)
        except RemoteError as error:
            if error.rule == "range":
                raise ChartNotFoundError(error.message, rule=error.rule) from error
            raise
        return Offer(found.name, found.version, urls=found.urls, digest=found.digest)

    async def download(self, offer: Offer) -> bytes:
        """Download from the first address of the entry, and hold it against the entry's digest."""
        if not offer.urls:
            raise RemoteError(f"chart '{printable(offer.name, 128)}' has no downloadable URLs", rule="chart-url")
        try:
            url = chart_url(self._url, offer.urls[0])
        except ValueError as error:
            raise RemoteError(str(error), rule="chart-url") from None
        if url.startswith("oci://"):
            content = await self._from_registry(url)
        else:
            content = await self._from_web(url)
        await offload(_check_digest, content, offer)
        return content

    async def _from_web(self, url: str) -> bytes:
        access = self._access
        if not may_send_credentials(self._url, url, pass_credentials=self._pass_credentials):
            access = Access(tls=access.tls.without_certificate, proxy=access.proxy)
        try:
            async with _bounded(self._timeout), self._web.request("GET", url, access=access) as answer:
                if answer.status != HTTPStatus.OK:
                    raise RemoteError(f"failed to fetch {shown_url(url)} : {_status(answer.status)}")
                return await answer.read(self._limit, "chart")
        except TLSMaterialError as error:
            raise RemoteError(str(error)) from error

    async def _from_registry(self, url: str) -> bytes:
        """A chart that an index says is in a registry; nobody's credentials are for that one."""
        address, colon, tag = url.rpartition(":")
        if not colon or "/" in tag or self._registry is None:
            raise RemoteError(f"the address of the chart has no tag: '{shown_url(url)}'", rule="chart-url")
        folder, _, name = address.rpartition("/")
        access = RegistryAccess(timeout=self._timeout)
        charts = RegistryCharts(self._registry, folder, access, limit=self._limit)
        return await charts.download(Offer(name, tag, tag=tag))


class RegistryCharts:
    """The charts below an address of a registry."""

    def __init__(self, registry: Registry, url: str, access: RegistryAccess, *, limit: int) -> None:
        """`url` is `oci://host/path`; the charts' names are further parts of the path."""
        self._registry = registry
        self._url = url.rstrip("/")
        self._limit = limit
        self.access = access

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message."""
        return self.access.secrets

    async def find(self, name: str, wanted: str) -> Offer:
        """A full version is taken for granted; anything else is looked for in the list of tags."""
        if _EXACT.fullmatch(wanted) is not None:
            return Offer(name, wanted, tag=wanted.replace("+", "_"))
        repository = self.repository(name)
        shown = f"{self._url}/{name}"
        try:
            tags = await self._registry.tags(repository, self.access)
        except RemoteError as error:
            raise RemoteError(f"could not get tags for '{shown}': {error}", rule=error.rule) from error
        versions = [tag for tag in tags if _TAG.fullmatch(tag) is not None]
        if not versions:
            raise RemoteError(f"unable to locate any tags in provided repository: {shown}")
        try:
            tag = await offload(newest_tag, versions, wanted or "*", underscores=True)
        except RemoteError as error:
            if error.message.startswith("no match found"):
                text = f"could not locate a version matching provided version string {printable(wanted, 256)}"
                raise RemoteError(text) from error
            raise
        return Offer(name, tag.replace("_", "+"), tag=tag)

    async def pinned(self, offer: Offer) -> tuple[Offer, Descriptor]:
        """The offer with the digest that its tag stands for now, so that nothing after this can be another chart's."""
        descriptor = await self._registry.resolve(self.repository(offer.name), offer.digest or offer.tag, self.access)
        return replace(offer, digest=descriptor.digest), descriptor

    async def download(self, offer: Offer) -> bytes:
        """Download the chart's layer."""
        repository = self.repository(offer.name)
        manifest = await self._registry.image(repository, offer.digest or offer.tag, self.access)
        layer = next((layer for layer in manifest.layers if layer.media_type == CHART_CONTENT), None)
        if layer is None:
            shown = repository.reference(manifest.descriptor.digest)
            raise RemoteError(f"manifest of {shown} does not contain a layer with mediatype {CHART_CONTENT}")
        if layer.size > self._limit:
            raise RemoteError(f"the chart is larger than {self._limit} bytes", rule="size")
        return await self._registry.blob(repository, layer, self.access, limit=self._limit)

    def repository(self, name: str) -> Repository:
        """Where the versions of a chart are."""
        try:
            return parse_repository(f"{self._url}/{name}")
        except ValueError as error:
            raise RemoteError(str(error)) from error


@asynccontextmanager
async def _bounded(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RemoteError(f"no complete answer within {seconds:g}s") from None


def _check_digest(content: bytes, offer: Offer) -> None:
    """Hold a download against what the index says of it; what is no digest says nothing."""
    wanted = _SHA256.fullmatch(offer.digest)
    if wanted is not None and hashlib.sha256(content).hexdigest() != wanted[1].lower():
        text = f"the download of chart '{printable(offer.name, 128)}' does not have the digest that the index tells"
        raise RemoteError(text, rule="digest")


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
