"""Texts of storages, fit to be shown."""

from __future__ import annotations

import pytest

from gitopsd.fetch.bucketclient import read_size, without_queries


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no address, no question?", "no address, no question?"),
        ("is it so? yes", "is it so? yes"),
        ('Get "https://h/b/k?X-Amz-Signature=abc&x=1": dial tcp', 'Get "https://h/b/k": dial tcp'),
        ("see http://h/k?sig=a'b&sig=c, and", "see http://h/k, and"),
        ("h/k?sig=1", "h/k"),
        ("k?sig=1", "k"),
        ("(https://h/?a=b)", "(https://h/)"),
        ("a https://h/p?q=1\nb", "a https://h/p"),
    ],
)
def test_I06_queries_are_cut_off(text: str, shown: str) -> None:
    assert without_queries(text) == shown


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (" 17 ", 17), ("", -1), ("-1", -1), ("1.5", -1), ("٣", -1), ("9" * 20, -1), ("0x10", -1)],
)
def test_sizes_are_numbers_or_unknown(text: str, size: int) -> None:
    assert read_size(text) == size
