"""Listings and refusals of Google's storage."""

from __future__ import annotations

import base64

import orjson
import pytest

from gitopsd.fetch.bucketgcs import _read_fault, _read_page
from gitopsd.fetch.errors import RemoteError


def page(*items: dict[str, object], **more: object) -> bytes:
    return orjson.dumps({"items": list(items), **more})


def test_an_object_has_what_the_listing_tells() -> None:
    digest = base64.b64encode(bytes(range(16))).decode()
    item = {"name": "a/b", "etag": "CAE=", "size": "7", "generation": "17", "md5Hash": digest}
    found = _read_page(page(item, nextPageToken="t"))
    assert found.token == "t"
    assert [tuple(entry) for entry in found.entries] == [("a/b", "CAE=", 7, "17", bytes(range(16)))]


def test_what_is_stored_compressed_has_neither_size_nor_digest() -> None:
    digest = base64.b64encode(bytes(16)).decode()
    item = {"name": "a", "etag": "e", "size": "7", "generation": "1", "md5Hash": digest, "contentEncoding": "gzip"}
    assert [tuple(entry) for entry in _read_page(page(item)).entries] == [("a", "e", -1, "1", b"")]


def test_an_empty_bucket_has_no_items_at_all() -> None:
    assert _read_page(b"{}").entries == []


@pytest.mark.parametrize("digest", ["", "###", "AAAA", "A" * 100])
def test_a_digest_that_is_none_is_none(digest: str) -> None:
    assert _read_page(page({"name": "a", "md5Hash": digest})).entries[0].md5 == b""


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"<html>", b'{"items": {}}', b'{"items": ["a"]}', b'{"items": [{"name": ""}]}', b"[" * 100_000]
)
def test_I03_what_is_no_listing_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        _read_page(data)
    assert caught.value.rule == "listing"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error":{"code":403,"message":"m","errors":[{"reason":"forbidden"}]}}', "forbidden", "m"),
        (b'{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}', "PERMISSION_DENIED", "m"),
        (b'{"error":"text"}', "", ""),
        (b"{}", "", ""),
    ],
)
def test_I07_a_refusal_has_a_code(body: bytes, code: str, message: str) -> None:
    assert _read_fault(body)[:2] == (code, message)
