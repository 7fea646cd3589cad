"""What is read of an endpoint's answer."""

from __future__ import annotations

import pytest

from gitopsd.fetch.cloud.endpoint import read_xml

DECLARING = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "text">]><a>&b;</a>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp037"])
def test_I09_a_declaration_is_refused_in_every_encoding(encoding: str) -> None:
    head = b'<?xml version="1.0" encoding="cp037"?>' if encoding == "cp037" else b""
    assert read_xml(head + DECLARING.encode(encoding)) is None
    assert read_xml(head + DECLARING[21:].encode(encoding)) is None


@pytest.mark.parametrize("body", [b"", b"text", b"<a>", b"<a>\xff</a>", b"\xff\xfe<\0", b"<a>\0</a>"])
def test_what_is_no_xml_is_none(body: bytes) -> None:
    assert read_xml(body) is None


def test_xml_is_read() -> None:
    found = read_xml('<?xml version="1.0" encoding="UTF-8"?>\n<a><b>ü</b></a>'.encode())
    assert found is not None
    assert found.findtext("b") == "ü"
