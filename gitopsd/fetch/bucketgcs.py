"""Buckets of Google Cloud Storage, over its JSON API.

Knows the requests "get bucket", "list objects" and "get media"; refuses to know where tokens come from.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from gitopsd.fetch.bucketclient import BucketError, Entry, Exchange, Fault, Page, read_size
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import Access, Answer, HttpClient
from gitopsd.tasks import offload

ENDPOINT = "https://storage.googleapis.com"
_FIELDS = "nextPageToken,items(name,etag,size,generation,md5Hash,contentEncoding)"
_LISTING = "listing"


class GcsBucket:
    """Reads one bucket. `access` holds the bearer token."""

    def __init__(self, web: HttpClient, bucket: str, access: Access, *, endpoint: str = ENDPOINT) -> None:
        self._address = f"{endpoint}/storage/v1/b/{quote(bucket, safe='')}"
        self._exchange = Exchange(web, access, _unsigned, _read_fault, access.secrets)

    async def exists(self) -> bool:
        """Ask for the bucket's metadata."""
        try:
            await self._exchange.document(f"{self._address}?fields=name", "answer")
        except BucketError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def page(self, prefix: str, token: str) -> Page:
        """One page of at most a thousand objects."""
        query = {"fields": _FIELDS, "maxResults": "1000"}
        if prefix:
            query["prefix"] = prefix
        if token:
            query["pageToken"] = token
        data = await self._exchange.document(f"{self._address}/o?{urlencode(query, quote_via=quote)}", _LISTING)
        return await offload(_read_page, data)

    @asynccontextmanager
    async def get(self, key: str, version: str = "", offset: int = 0) -> AsyncIterator[Answer]:
        """The content, if the object's generation is still `version`."""
        query = "alt=media" + (f"&ifGenerationMatch={quote(version, safe='')}" if version else "")
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        url = f"{self._address}/o/{quote(key, safe='')}?{query}"
        async with self._exchange.answer("GET", url, headers) as answer:
            if answer.status not in {200, 206}:
                raise await self._exchange.failure(answer)
            yield answer


def _unsigned(*_: object) -> Mapping[str, str]:
    return {}


def _read_fault(body: bytes) -> Fault:
    error = _object(orjson.loads(body).get("error"))
    details = error.get("errors")
    first = _object(details[0]) if isinstance(details, list) and details else {}
    return Fault(str(first.get("reason") or error.get("status") or ""), str(error.get("message") or ""))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_page(data: bytes) -> Page:
    try:
        document = orjson.loads(data)
    except ValueError:
        raise RemoteError("the listing is no JSON", rule="listing") from None
    if not isinstance(document, dict):
        raise RemoteError("the answer is no listing", rule="listing")
    items = document.get("items", [])
    if not isinstance(items, list) or not all(isinstance(item, dict) and item.get("name") for item in items):
        raise RemoteError("the listing names an object without its key", rule="listing")
    return Page([_entry(item) for item in items], str(document.get("nextPageToken") or ""))


def _entry(item: Mapping[str, Any]) -> Entry:
    # What is stored compressed may come uncompressed: then neither its size nor its digest is that of the content.
    is_plain = item.get("contentEncoding") in {None, "", "identity"}
    return Entry(
        str(item["name"]),
        str(item.get("etag", "")),
        read_size(str(item.get("size", ""))) if is_plain else -1,
        str(item.get("generation", "")),
        _md5(str(item.get("md5Hash", ""))) if is_plain else b"",
    )


def _md5(text: str) -> bytes:
    """An MD5 digest from base64; empty when it is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return raw if len(raw) == 16 else b""
