from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gitopsd.fetch.errors import printable


def test_A29_escapes_are_stripped_and_length_is_bounded():
    assert printable(b"fatal: \x1b[31mno\x1b[0m way\n\n") == "fatal: [31mno[0m way"
    assert len(printable("x" * (1 << 20)).encode()) == 1024
    assert printable("x" * 2000, 10) == "xxxxxxx..."


def test_B11_bidi_and_invalid_bytes_do_not_reach_a_message():
    assert printable("a\u202eb\u200dc\u2066d") == "abcd"
    assert printable(b"\xff\xfe ok") == "\ufffd\ufffd ok"


@given(st.binary(max_size=400) | st.text(max_size=400), st.integers(8, 300))
def test_whatever_comes_is_printable_and_bounded(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown.encode()) <= limit
