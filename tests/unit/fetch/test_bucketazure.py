"""Addresses, listings and refusals of Azure's storage."""

from __future__ import annotations

import pytest

from gitopsd.fetch.bucketazure import AzurePlace, _read_fault, _read_page
from gitopsd.fetch.errors import RemoteError

HOST = "https://account.blob.core.windows.net"


@pytest.mark.parametrize(
    ("place", "key", "url"),
    [
        (AzurePlace(HOST, "c"), "a b/é?", f"{HOST}/c/a%20b/%C3%A9%3F"),
        (AzurePlace(f"{HOST}/", "c"), "", f"{HOST}/c"),
        (AzurePlace("http://127.0.0.1:10000/devaccount", "c"), "k", "http://127.0.0.1:10000/devaccount/c/k"),
        (AzurePlace("https://user:pw@a.b.c", "c"), "k", "https://a.b.c/c/k"),
        (AzurePlace(f"{HOST}?sv=1&x=a%2Bb", "c"), "k", f"{HOST}/c/k?sv=1&x=a%2Bb"),
        (AzurePlace(f"{HOST}?sv=1&x=2", "c", "?sv=3&sig=a%2B%3D"), "k", f"{HOST}/c/k?sv=3&x=2&sig=a%2B%3D"),
        (AzurePlace(HOST, "c", "sig=a+b"), "k", f"{HOST}/c/k?sig=a%2Bb"),
    ],
)
def test_s11_1_addresses_carry_the_signature_whose_values_win_over_the_endpoints(
    place: AzurePlace, key: str, url: str
) -> None:
    assert place.url(key) == url


def test_what_a_signature_hides_is_known() -> None:
    assert AzurePlace(HOST, "c", "?sv=1&sig=secret%2B").secrets == ("secret+",)
    assert "secret" not in repr(AzurePlace(HOST, "c", "?sig=secret"))


@pytest.mark.parametrize(
    ("endpoint", "account"),
    [(HOST, "account"), ("https://a.b.c:444", "a"), ("https://localhost", ""), ("https://a.b", "")],
)
def test_s11_1_the_account_is_the_first_of_at_least_three_labels(endpoint: str, account: str) -> None:
    assert AzurePlace(endpoint, "c").account == account


def page(*blobs: str, marker: str = "") -> bytes:
    text = f"<EnumerationResults><Blobs>{''.join(blobs)}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    return f"\ufeff<?xml version='1.0' encoding='utf-8'?>{text}".encode()


def blob(name: str, **properties: str) -> str:
    told = "".join(f"<{key.replace('_', '-')}>{value}</{key.replace('_', '-')}>" for key, value in properties.items())
    return f"<Blob>{name}<Properties>{told}</Properties></Blob>"


def test_s16_1_9_6_etags_have_the_form_of_downloads() -> None:
    found = _read_page(
        page(
            blob("<Name>a</Name>", Etag="0x8D", Content_Length="3"),
            blob("<Name>b</Name>", Etag='"0x8E"', Content_Length="4"),
            blob("<Name>c</Name>"),
            marker="next",
        )
    )
    assert found.token == "next"
    assert [tuple(entry[:4]) for entry in found.entries] == [
        ("a", '"0x8D"', 3, '"0x8D"'),
        ("b", '"0x8E"', 4, '"0x8E"'),
        ("c", "", -1, ""),
    ]


def test_a_digest_that_somebody_wrote_there_proves_nothing() -> None:
    found = _read_page(page(blob("<Name>a</Name>", Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==")))
    assert found.entries[0].md5 == b""


def test_names_that_xml_cannot_hold_are_decoded_and_folders_are_no_objects() -> None:
    found = _read_page(
        page(
            blob("<Name Encoded='true'>a%02b%25</Name>"),
            blob("<Name>50%25</Name>"),
            blob("<Name>folder</Name>", ResourceType="directory"),
            blob("<Name>folder/x</Name>", ResourceType="file"),
        )
    )
    assert [entry.key for entry in found.entries] == ["a\x02b%", "50%25", "folder/x"]


@pytest.mark.parametrize("data", [b"<Error/>", b"<html/>", page(blob("<Name></Name>")), page("<Blob></Blob>")])
def test_I03_what_is_no_listing_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        _read_page(data)
    assert caught.value.rule == "listing"


def test_I07_a_refusal_has_a_code_and_one_line() -> None:
    assert _read_fault(b"<Error><Code>C</Code><Message>m\nRequestId:1\nTime:2</Message></Error>")[:2] == ("C", "m")
