"""Buckets that speak S3: Amazon's own, and everything that calls itself compatible.

Knows the requests HEAD bucket, ListObjectsV2 and GET object, how their addresses are made, and how a storage tells
which region it wants; refuses to know where keys come from.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote_plus, urlsplit

from gitopsd.fetch.bucketclient import BucketError, Entry, Exchange, Fault, Page, read_size
from gitopsd.fetch.bucketsigning import SignatureV4, encoded_query
from gitopsd.fetch.bucketxml import read_xml
from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.http import Access, Answer, HttpClient
from gitopsd.tasks import offload

DEFAULT_REGION = "us-east-1"
_LISTING = "listing"
_MD5 = re.compile(r"[0-9a-f]{32}")
# s3.amazonaws.com, s3.eu-west-1.amazonaws.com, s3-eu-west-1…, s3.dualstack.eu-west-1…, s3-fips.…
_AMAZON = re.compile(r"s3(?:-fips)?(?:[.-](?:dualstack\.)?(?P<region>[a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?")
_ALIBABA = re.compile(r"oss-[a-z0-9-]+\.aliyuncs\.com")
_DNS_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_ELSEWHERE = frozenset(("AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"))
_REGION = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class S3Place:
    """Where a bucket is. `endpoint` is a host with perhaps a port."""

    endpoint: str
    bucket: str
    region: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no address. Raises ValueError, safe to show."""
        try:
            parts = urlsplit(f"//{self.endpoint}")
            is_plain = bool(parts.hostname) and parts.netloc == self.endpoint and "@" not in self.endpoint
            _ = parts.port
        except ValueError:
            is_plain = False
        if not is_plain or not self.endpoint.isprintable() or any(map(str.isspace, self.endpoint)):
            shown = printable(self.endpoint.partition("?")[0].rpartition("@")[2], 256)
            raise ValueError(f"endpoint '{shown}' is not a host, or a host and a port")

    @property
    def wanted_region(self) -> str:
        """The region that is configured, or the one that the endpoint's name tells; else empty."""
        named = _AMAZON.fullmatch(self.endpoint.lower())
        return self.region or (named["region"] if named and named["region"] not in {"external-1", None} else "")

    def url(self, key: str = "", region: str = "") -> str:
        """The address of an object, or of the bucket; `region` is where Amazon said that it is."""
        endpoint, scheme = self.endpoint, "http" if self.insecure else "https"
        is_amazon = _AMAZON.fullmatch(endpoint.lower())
        if is_amazon and region and not is_amazon["region"]:
            endpoint = f"s3.{region}.amazonaws.com"
        path = quote(key, safe="/")
        if (is_amazon or _ALIBABA.fullmatch(endpoint.lower())) and _DNS_NAME.fullmatch(self.bucket):
            return f"{scheme}://{self.bucket}.{endpoint}/{path}"
        bucket = quote(self.bucket, safe="")
        return f"{scheme}://{endpoint}/{bucket}/{path}"


class S3Bucket:
    """Reads one bucket; without keys as anybody may."""

    def __init__(
        self,
        web: HttpClient,
        place: S3Place,
        keys: AwsKeys | None,
        access: Access,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._place = place
        self._keys = keys if keys is not None and keys.access_key else None
        self._now = now
        self._region = ""
        self._has_learned = False
        self._signature: SignatureV4 | None = None
        self._settle(place.wanted_region)
        secrets = (keys.secret_key, keys.session_token) if keys is not None else ()
        self._exchange = Exchange(web, access, self._sign, _read_fault, (*secrets, *access.secrets))

    def _settle(self, region: str) -> None:
        self._region = region
        if self._keys is not None:
            self._signature = SignatureV4(self._keys, region or DEFAULT_REGION)

    def _sign(self, method: str, url: str, _: Mapping[str, str]) -> Mapping[str, str]:
        return self._signature.headers(method, url, self._now()) if self._signature is not None else {}

    async def exists(self) -> bool:
        """Ask for the bucket's head; where that is refused, for a listing, whose refusal says why."""
        async with self._exchange.answer("HEAD", self._place.url(region=self._region)) as answer:
            status, region = answer.status, answer.headers.get("x-amz-bucket-region", "")
        if status in {301, 307, 400, 403} and self._learns(region):
            return await self.exists()
        if status not in {200, 404}:
            try:
                await self._listed([("list-type", "2"), ("max-keys", "1")])
            except BucketError as error:
                if error.code == "NoSuchBucket":
                    return False
                raise
        return status != 404

    def _learns(self, region: str) -> bool:
        """Take a region that the storage names, unless one is configured; True once, and only when it is news."""
        if self._has_learned or self._place.region or region == self._region or not _REGION.fullmatch(region):
            return False
        self._has_learned = True
        self._settle(region)
        return True

    async def page(self, prefix: str, token: str) -> Page:
        """One page of ListObjectsV2."""
        query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)]
        if token:
            query.append(("continuation-token", token))
        data = await self._listed(query)
        return await offload(_read_page, data)

    async def _listed(self, query: list[tuple[str, str]]) -> bytes:
        url = f"{self._place.url(region=self._region)}?{encoded_query(query)}"
        try:
            return await self._exchange.document(url, _LISTING)
        except BucketError as error:
            if error.code not in {"AuthorizationHeaderMalformed", "PermanentRedirect"} or not self._learns(
                error.region
            ):
                raise
        return await self._listed(query)

    @asynccontextmanager
    async def get(self, key: str, version: str = "", offset: int = 0) -> AsyncIterator[Answer]:
        """GET with If-Match."""
        headers = {"If-Match": f'"{version}"'} if version else {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        async with self._exchange.answer("GET", self._place.url(key, self._region), headers) as answer:
            if answer.status not in {200, 206}:
                raise await self._exchange.failure(answer)
            yield answer


def _read_fault(body: bytes) -> Fault:
    found = read_xml(body, "Error").records
    error = found[0] if found else {}
    return Fault(error.get("Code", ""), error.get("Message", ""), error.get("Region", ""))


def _read_page(data: bytes) -> Page:
    document = read_xml(data, "Contents", _LISTING)
    if document.root != "ListBucketResult":
        raise RemoteError(f"the answer is no listing but a '{printable(document.root, 64)}'", rule="listing")
    read = unquote_plus if document.fields.get("EncodingType", "").lower() == "url" else str
    token = document.fields.get("NextContinuationToken", "")
    if document.fields.get("IsTruncated", "").strip().lower() != "true":
        token = ""
    elif not token:
        raise RemoteError("the listing is cut off, and does not say how it goes on", rule="listing")
    return Page([_entry(record, read) for record in document.records], token)


def _entry(record: Mapping[str, str], read: Callable[[str], str]) -> Entry:
    key, etag = record.get("Key", ""), record.get("ETag", "").strip()
    if not key:
        raise RemoteError("the listing names an object without its key", rule="listing")
    etag = etag.removeprefix('"').removesuffix('"')
    # The digest of the content, unless it came in parts or is encrypted: then it equals nobody's.
    md5 = bytes.fromhex(etag) if _MD5.fullmatch(etag) else b""
    return Entry(read(key), etag, read_size(record.get("Size", "")), etag, md5)
