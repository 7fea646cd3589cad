"""Addresses and listings of S3."""

from __future__ import annotations

import pytest

from gitopsd.fetch.buckets3 import S3Place, _read_page
from gitopsd.fetch.errors import RemoteError


@pytest.mark.parametrize(
    ("place", "region", "url"),
    [
        (S3Place("minio:9000", "b", insecure=True), "", "http://minio:9000/b/k%20/%C3%A9"),
        (S3Place("minio.example.com", "b"), "eu-west-1", "https://minio.example.com/b/k%20/%C3%A9"),
        (S3Place("[::1]:9000", "b"), "", "https://[::1]:9000/b/k%20/%C3%A9"),
        (S3Place("s3.amazonaws.com", "bucket"), "", "https://bucket.s3.amazonaws.com/k%20/%C3%A9"),
        (S3Place("s3.amazonaws.com", "bucket"), "eu-west-1", "https://bucket.s3.eu-west-1.amazonaws.com/k%20/%C3%A9"),
        (
            S3Place("s3.eu-west-1.amazonaws.com", "bucket"),
            "us-east-1",
            "https://bucket.s3.eu-west-1.amazonaws.com/k%20/%C3%A9",
        ),
        (S3Place("s3.amazonaws.com", "with.dots"), "", "https://s3.amazonaws.com/with.dots/k%20/%C3%A9"),
        (S3Place("oss-cn-x.aliyuncs.com", "bucket"), "", "https://bucket.oss-cn-x.aliyuncs.com/k%20/%C3%A9"),
        (S3Place("storage.googleapis.com", "bucket"), "", "https://storage.googleapis.com/bucket/k%20/%C3%A9"),
    ],
)
def test_s9_1_where_an_object_is(place: S3Place, region: str, url: str) -> None:
    assert place.url("k /é", region) == url


@pytest.mark.parametrize(
    ("endpoint", "configured", "region"),
    [
        ("minio:9000", "", ""),
        ("minio:9000", "local", "local"),
        ("s3.amazonaws.com", "", ""),
        ("s3.eu-west-1.amazonaws.com", "", "eu-west-1"),
        ("s3-eu-west-1.amazonaws.com", "", "eu-west-1"),
        ("s3.dualstack.eu-west-1.amazonaws.com", "", "eu-west-1"),
        ("s3-fips.us-gov-west-1.amazonaws.com", "", "us-gov-west-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "", "cn-north-1"),
        ("s3-external-1.amazonaws.com", "", ""),
        ("s3.eu-west-1.amazonaws.com", "us-east-2", "us-east-2"),
    ],
)
def test_s9_1_the_region_is_configured_or_told_by_the_endpoint(endpoint: str, configured: str, region: str) -> None:
    assert S3Place(endpoint, "b", configured).wanted_region == region


def page(body: str) -> bytes:
    return f"<ListBucketResult>{body}</ListBucketResult>".encode()


def test_s9_3_etags_are_unquoted_and_keys_read_as_they_were_encoded() -> None:
    row = "<Contents><Key>a+b%2Bc</Key><ETag>&quot;{}&quot;</ETag><Size>3</Size></Contents>"
    plain = _read_page(page(row.format("x-1"))).entries
    encoded = _read_page(page("<EncodingType>url</EncodingType>" + row.format("0" * 32))).entries
    assert [tuple(one) for one in plain] == [("a+b%2Bc", "x-1", 3, "x-1", b"")]
    assert [tuple(one) for one in encoded] == [("a b+c", "0" * 32, 3, "0" * 32, bytes(16))]


def test_an_object_without_an_etag_or_a_size_is_an_object() -> None:
    found = _read_page(page("<Contents><Key>a</Key></Contents>"))
    assert [tuple(one) for one in found.entries] == [("a", "", -1, "", b"")]


def test_I03_a_listing_says_how_it_goes_on() -> None:
    more = "<NextContinuationToken>t</NextContinuationToken>"
    assert _read_page(page(f"<IsTruncated>true</IsTruncated>{more}")).token == "t"
    assert _read_page(page(f"<IsTruncated>false</IsTruncated>{more}")).token == ""
    with pytest.raises(RemoteError, match="cut off"):
        _read_page(page("<IsTruncated>true</IsTruncated>"))
