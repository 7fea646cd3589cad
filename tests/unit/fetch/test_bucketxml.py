"""XML of storages: flat, whole, and without document types."""

from __future__ import annotations

import pytest

from gitopsd.fetch.bucketxml import read_xml
from gitopsd.fetch.errors import RemoteError


def test_fields_and_records_are_told_apart() -> None:
    document = read_xml(
        b"<L xmlns='x'><Token>t</Token><P><Token>other</Token></P>"
        b"<R><Key>a</Key><Owner><ID>1</ID></Owner></R><R><Key Encoded='true'>b&amp;c</Key></R></L>",
        "R",
    )
    assert document.root == "L"
    assert document.fields["Token"] == "t"
    assert document.records == [
        {"Key": "a", "Owner/ID": "1", "Owner": ""},
        {"Key": "b&c", "Key@Encoded": "true"},
    ]


def test_the_root_may_be_a_record_and_prefixes_do_not_matter() -> None:
    assert read_xml(b"<?xml version='1.0'?><Error><Code>X</Code></Error>", "Error").records == [{"Code": "X"}]
    assert read_xml(b"<a:E xmlns:a='u'><a:Code>X</a:Code></a:E>", "E").records[0]["Code"] == "X"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "xml"),
        (b"<a>", "xml"),
        (b"<a></b>", "xml"),
        (b"<a/><b/>", "xml"),
        (b"\xff\xfe", "xml"),
        (b"<a>&x;</a>", "xml"),
        (b"<!DOCTYPE a><a/>", "xml-doctype"),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "xml-doctype"),
        (b"<a>" * 17 + b"</a>" * 17, "xml-depth"),
        (b"<a>" * 100_000, "xml-depth"),
    ],
)
def test_I03_what_is_not_whole_or_could_grow_is_refused(data: bytes, rule: str) -> None:
    with pytest.raises(RemoteError) as caught:
        read_xml(data, "R")
    assert caught.value.rule == rule
    assert len(caught.value.message) < 200


def test_I03_sixteen_levels_are_read() -> None:
    assert read_xml(b"<a>" * 16 + b"</a>" * 16, "R").root == "a"
