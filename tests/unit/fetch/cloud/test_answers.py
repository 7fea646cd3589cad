from __future__ import annotations

from pathlib import Path

import pytest

from gitopsd.fetch.cloud import jwt
from gitopsd.fetch.cloud.answers import is_safe, one_word, read_file, seconds, seconds_until
from gitopsd.fetch.errors import RemoteError
from tests.servers.clouds import jwt_like

NOW = 1440938160.0  # 2015-08-30T12:36:00Z


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3600, 3600.0),
        ("3599", 3599.0),
        (1.5, 1.5),
        (1e9, 86400.0),
        ("1e400", 86400.0),
        (10**400, 0.0),
        (-1, 0.0),
        ("nan", 0.0),
        ("soon", 0.0),
        (None, 0.0),
        ([3600], 0.0),
        ({}, 0.0),
    ],
)
def test_lifetimes(given: object, expected: float) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (NOW + 60, 60.0),
        (str(int(NOW) + 60), 60.0),
        ("2015-08-30T12:37:00Z", 60.0),
        ("2015-08-30T14:37:00+02:00", 60.0),
        ("2015-08-30T12:35:00Z", 0.0),
        ("2015-08-30T12:37:00", 0.0),  # no time zone: nobody knows when that is
        ("9999-99-99T00:00:00Z", 0.0),
        ("", 0.0),
        (None, 0.0),
        ([], 0.0),
    ],
)
def test_ends(end: object, expected: float) -> None:
    assert seconds_until(end, NOW) == expected


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "a\r\nX-Header: 1", "tök", "\x7f", "a\u202eb"])
def test_what_could_not_stand_in_a_header_is_no_token(value: str) -> None:
    with pytest.raises(RemoteError) as caught:
        one_word(value, "endpoint", "token")
    assert caught.value.message in {
        "endpoint: the answer has no 'token'",
        "endpoint: 'token' of the answer is not usable",
    }


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://example.com", True),
        ("http://127.0.0.1:1234/x", True),
        ("http://[::1]/x", True),
        ("http://example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://127.0.0.1@example.com", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_addresses_that_objects_name(url: str, safe: bool) -> None:
    assert is_safe(url) is safe


async def test_files_are_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (1 << 20))
    assert len(await read_file(str(tmp_path / "large"), "file")) == 256 * 1024
    for path in (str(tmp_path), str(tmp_path / "missing"), "a\0b"):
        with pytest.raises(RemoteError, match=r"^file: the file cannot be read: ") as caught:
            await read_file(path, "file")
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (jwt_like({"exp": 12}), 12.0),
        (jwt_like({"exp": True}), None),
        (jwt_like({"exp": "12"}), None),
        (jwt_like({}), None),
        ("a.b", None),
        ("a.!!!.c", None),
        ("", None),
        ("..", None),
        ("a.W10.c", None),  # a list
    ],
)
def test_the_end_that_a_token_says_of_itself(token: str, expected: float | None) -> None:
    assert jwt.expiry(token) == expected
