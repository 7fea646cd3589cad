"""The quick reader never says anything that the real one would not say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.fetch.helmindexquick import read_item
from gitopsd.krm.documents import Dialect, DocumentError, load_all

USUAL = """\
  - apiVersion: v2
    annotations:
      a/b: |
        - one: 1

          two
      c: |-
        x
    appVersion: 1.10
    created: "2024-03-01T10:11:12Z"
    deprecated: true
    description: It's a 'thing'
    dependencies:
    - name: a
      tags:
      - x
      version: 1.x.x
    - name: b
    home: ''
    icon: 'it''s'
    keywords: []
    maintainers:
      - email: a@b.c
    urls:
    - https://a/b.tgz
    type:
    version: 1.2.3
"""


def _real(text: str) -> object:
    try:
        documents = load_all(text, source="item", dialect=Dialect.YAML11)
    except DocumentError:
        return DocumentError
    return documents[0] if documents else None


def _agrees(text: str, indent: int = 2) -> bool:
    """Whether the quick reader said something; what it says must be the truth."""
    value = read_item(text, indent)
    if value is not None:
        assert _real(text) == [value], text
    return value is not None


def test_what_helm_writes_is_read() -> None:
    assert _agrees(USUAL)


@pytest.mark.parametrize(
    "text",
    [
        "  - a: 1\n    a: 2\n",
        "  - a: 1 # comment\n",
        "  - a: b: c\n",
        "  - a: b\n      c: d\n",
        "  - a: b\n     c\n",
        "  - a: &x 1\n    b: *x\n",
        "  - a: !!str 1\n",
        "  - a: [1]\n",
        "  - a: {b: 1}\n",
        "  - a: >\n      b\n",
        "  - a: |2\n        b\n",
        "  - a: |\n\n      b\n",
        '  - a: "x\\ty"\n',
        '  - a: "x\n      y"\n',
        "  - a: 'x\n      y'\n",
        "  - a: \ud7ff\x85b\n",
        "  - a: x\ty\n",
        "  - a: x\r\n    b: y\r\n",
        "  - a:\n    - b\n     - c\n",
        "  - a:\n    -\n      b\n",
        "  - - a\n",
        "  - a\n",
        "  - a: 1\n  - b: 2\n",
        "  - a: 1\n   b: 2\n",
        "  - <<: {a: 1}\n",
        "  - a: .inf\n",
        "  - ? a\n    : b\n",
        "  - a: @b\n",
        "  - a: %b\n",
        "  - a: - b\n",
        "  - a: ? b\n",
        "  - a:\n    - - b\n",
        '  - a: "b" c\n',
        "  - a: 'b' 'c'\n",
        "  - a: |\n      b",
        "  - a: |\n      b\n\xa0\n",
    ],
)
def test_everything_else_is_left_to_the_real_reader(text: str) -> None:
    assert not _agrees(text)


_PIECES = st.sampled_from(
    [
        *(
            "a: ",
            "b: ",
            "yes: ",
            "1: ",
            "a/b: ",
            "- ",
            "  ",
            "    ",
            "      ",
            "\n    ",
            "\n    ",
            "\n    - ",
            "\n      ",
            "\n",
        ),
        *(
            "x",
            "1.10",
            "0x1F",
            "no",
            "~",
            "null",
            "'q'",
            '"q"',
            "''",
            '"',
            "'",
            "#",
            " #c",
            ": ",
            ":",
            "|\n",
            "|-\n",
            "[]",
            "{}",
        ),
        *(
            "http://h/p",
            "2024-01-01T00:00:00Z",
            "\xa0",
            "é",
            "\u2028",
            "\t",
            "-",
            "?",
            "<<: ",
            "&a ",
            "*a",
            "..",
            "---\n",
        ),
    ]
)


@given(st.lists(_PIECES, max_size=14).map("".join))
@settings(max_examples=2000, deadline=None)
def test_whatever_it_says_is_true(rest: str) -> None:
    _agrees(f"  - a0: 1\n    {rest}\n")
    _agrees(f"  - {rest}\n")
