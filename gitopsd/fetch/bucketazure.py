"""Containers of Azure Blob Storage.

Knows the requests "list blobs" and "get blob", and the three ways of proving who asks: bearer token, shared key, and a
signature in the address; refuses to know where tokens come from.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from gitopsd.fetch.bucketclient import BucketError, Entry, Exchange, Fault, Page, read_size
from gitopsd.fetch.bucketsigning import SharedKey
from gitopsd.fetch.bucketxml import read_xml
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access, Answer, HttpClient, origin_of
from gitopsd.tasks import offload

_VERSION = "2021-12-02"
_LISTING = "listing"
_HIDDEN_QUERY = frozenset(("sig", "skoid", "sktid"))


@dataclass(frozen=True)
class AzurePlace:
    """Where a container is. `endpoint` is an address, perhaps with a query; values of `sas` win over that."""

    endpoint: str
    container: str
    sas: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what is no address. Raises ValueError, safe to show."""
        try:
            origin_of(self.endpoint)
        except ValueError as error:
            shown = printable(self.endpoint.partition("?")[0].rpartition("@")[2], 256)
            raise ValueError(f"endpoint '{shown}': {error}") from None

    @property
    def account(self) -> str:
        """The account that the endpoint's host begins with; empty when it has fewer than three parts."""
        labels = origin_of(self.endpoint)[1].split(".")
        return labels[0] if len(labels) >= 3 else ""

    @property
    def signature(self) -> dict[str, str]:
        """The query that every address carries."""
        query = dict(parse_qsl(urlsplit(self.endpoint).query.replace("+", "%2B"), keep_blank_values=True))
        return query | dict(parse_qsl(self.sas.removeprefix("?").replace("+", "%2B"), keep_blank_values=True))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold."""
        return tuple(value for name, value in self.signature.items() if name in _HIDDEN_QUERY)

    def url(self, key: str = "", **query: str) -> str:
        """The address of a blob, or of the container."""
        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        path = "/".join((parts.path.rstrip("/"), quote(self.container, safe="")))
        path += f"/{quote(key, safe='/')}" if key else ""
        text = urlencode({**self.signature, **query}, quote_via=quote, safe="")
        return f"{parts.scheme}://{host}{path}" + (f"?{text}" if text else "")


class AzureBucket:
    """Reads one container. `access` holds a bearer token, if there is one."""

    def __init__(
        self,
        web: HttpClient,
        place: AzurePlace,
        access: Access,
        shared_key: SharedKey | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._place = place
        self._shared_key = shared_key
        self._now = now
        self._exchange = Exchange(web, access, self._sign, _read_fault, (*access.secrets, *place.secrets))

    def _sign(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        stamped = {"x-ms-version": _VERSION, "x-ms-date": format_datetime(self._now(), usegmt=True)}
        if self._shared_key is None:
            return stamped
        return stamped | {"Authorization": self._shared_key.authorization(method, url, {**headers, **stamped})}

    async def exists(self) -> bool:
        """List one blob: a signature that may list need not be allowed to ask for the container itself."""
        try:
            await self._listed(maxresults="1")
        except BucketError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def page(self, prefix: str, token: str) -> Page:
        """One page of at most five thousand blobs."""
        query = {name: value for name, value in (("prefix", prefix), ("marker", token)) if value}
        return await offload(_read_page, await self._listed(**query))

    async def _listed(self, **query: str) -> bytes:
        return await self._exchange.document(self._place.url(restype="container", comp="list", **query), _LISTING)

    @asynccontextmanager
    async def get(self, key: str, version: str = "", offset: int = 0) -> AsyncIterator[Answer]:
        """GET with If-Match."""
        headers = {"If-Match": version} if version else {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        async with self._exchange.answer("GET", self._place.url(key), headers) as answer:
            if answer.status not in {200, 206}:
                raise await self._exchange.failure(answer)
            yield answer


def _read_fault(body: bytes) -> Fault:
    found = read_xml(body, "Error").records
    error = found[0] if found else {}
    # The lines after the first name the request and the time: with them no two failures would be the same.
    return Fault(error.get("Code", ""), error.get("Message", "").partition("\n")[0])


def _read_page(data: bytes) -> Page:
    document = read_xml(data, "Blob", _LISTING)
    if document.root != "EnumerationResults":
        raise RemoteError(f"the answer is no listing but a '{printable(document.root, 64)}'", rule="listing")
    blobs = [record for record in document.records if record.get("Properties/ResourceType") != "directory"]
    return Page([_entry(record) for record in blobs], document.fields.get("NextMarker", ""))


def _entry(record: Mapping[str, str]) -> Entry:
    """Listings give an etag bare, downloads in quotes: it is one form here (spec/source.md 16, 1.9.6)."""
    key = record.get("Name", "")
    if record.get("Name@Encoded") == "true":
        key = unquote(key)
    if not key:
        raise RemoteError("the listing names an object without its key", rule="listing")
    etag = record.get("Properties/Etag", "").strip().strip('"')
    quoted = f'"{etag}"' if etag else ""
    # Its Content-MD5 is whatever somebody wrote there, and stays when pages of a blob change: it proves nothing.
    return Entry(key, quoted, read_size(record.get("Properties/Content-Length", "")), quoted)
