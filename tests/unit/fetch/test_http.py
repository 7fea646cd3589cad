"""What an HTTP answer is read as, and what is told of one that cannot be read."""

from __future__ import annotations

import asyncio
import gzip
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from gitopsd.fetch.connections import Connector
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import HttpClient, HttpRules, Pools, body_of, cause
from gitopsd.fetch.proxy import Proxy


class Stream:
    """The body of an answer, piece by piece, all of it already here."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def answer(encoding: str, *pieces: bytes) -> Any:
    return SimpleNamespace(headers={"Content-Encoding": encoding}, content=Stream(list(pieces)))


async def whole(encoding: str, *pieces: bytes) -> bytes:
    read = body_of(answer(encoding, *pieces))
    found = []
    while piece := await read():
        found.append(piece)
    assert await read() == b""
    return b"".join(found)


TEXT = bytes(range(256)) * 2000


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
async def test_F01_a_compression_that_nobody_asked_for_is_undone(step: int) -> None:
    packed = gzip.compress(TEXT[: step * 2000])
    assert await whole("gzip", *(packed[at : at + step] for at in range(0, len(packed), step))) == TEXT[: step * 2000]


async def test_compressed_files_in_a_row_are_one_answer() -> None:
    packed = gzip.compress(b"one, ") + gzip.compress(b"") + gzip.compress(b"two")
    assert await whole("gzip", packed) == b"one, two"
    assert await whole("gzip", packed[:30], packed[30:]) == b"one, two"
    assert await whole("gzip") == b""


@pytest.mark.parametrize("cut", [1, 5, 10, 100, 400])
async def test_A05_a_compressed_answer_that_ends_too_early_is_not_a_short_one(cut: int) -> None:
    packed = gzip.compress(TEXT)
    with pytest.raises(RemoteError, match="the server ended the conversation early"):
        await whole("gzip", packed[:-cut])
    with pytest.raises(RemoteError, match="the server ended the conversation early"):
        await whole("gzip", packed + packed[:-cut])


@pytest.mark.parametrize("rest", [b"garbage", b"\0" * 20, gzip.compress(b"") * 1001])
async def test_F01_what_follows_a_compressed_answer_must_be_another(rest: bytes) -> None:
    with pytest.raises(RemoteError, match="cannot be decompressed"):
        await whole("gzip", gzip.compress(b"text") + rest)


async def test_F01_others_have_their_turn_while_a_bomb_is_read() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    assert len(await whole("gzip", gzip.compress(bytes(4 << 20)))) == 4 << 20
    task.cancel()
    assert turns >= 64


@pytest.mark.parametrize("encoding", ["br", "deflate", "bearer-of-a-long-token-that-was-sent", "x y", "ü"])
def test_A29_of_an_unknown_encoding_only_a_plain_name_is_shown(encoding: str) -> None:
    with pytest.raises(RemoteError, match="content encoding") as caught:
        body_of(answer(encoding))
    assert (encoding in caught.value.message) == (encoding in {"br", "deflate"})


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("Invalid header token:\n\n  b'Bad Bearer secret: x'\n     ^", "Invalid header token"),
        ("Invalid HTTP header: b'Bearer secret'", "Invalid HTTP header"),
        ("Bad status line: Expected HTTP/: b'Bearer secret'", "Bad status line"),
        ("Got more than 8190 bytes when reading: b'Bearer secret'", "Got more than 8190 bytes when reading"),
        ('Bad status line "Bearer secret"', "Bad status line"),
    ],
)
def test_A29_what_the_library_quotes_of_an_unreadable_answer_is_not_told(told: str, shown: str) -> None:
    error = aiohttp.ClientResponseError(None, (), message=told)  # type: ignore[arg-type]
    assert cause(error) == f"the answer cannot be read: {shown}"


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:10.0.0.1]"])
async def test_A10_an_address_that_a_stranger_named_is_treated_as_a_redirect(address: str) -> None:
    client = HttpClient(HttpRules(deny_private_redirects=True))
    with pytest.raises(RemoteError, match="leads into a private network") as caught:
        async with client.request("GET", f"http://{address}:1/", is_foreign=True):
            raise AssertionError
    assert caught.value.rule == "private-redirect"
    await client.aclose()


async def test_pools_of_proxies_that_are_gone_are_given_up() -> None:
    """Every new password of a SOCKS proxy would leave a pool behind, for ever."""
    pools = Pools()
    proxies = [Proxy("socks5", "proxy.example", 1080, "user", f"password-{number}") for number in range(200)]
    direct = pools.session(None, guarded=False)
    for proxy in proxies:
        pools.session(proxy, guarded=False)
        assert pools.session(None, guarded=False) is direct
    assert len(pools._sessions) == 64
    last = pools.session(proxies[-1], guarded=False)
    assert not last.closed
    assert not direct.closed
    first = pools.session(proxies[0], guarded=False)
    assert pools.session(proxies[0], guarded=False) is first
    await pools.aclose()
    assert direct.closed
    assert last.closed


async def test_a_pool_in_use_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = Pools()
    used = Proxy("socks5", "used.example", 1080)
    session = pools.session(used, guarded=False)
    with monkeypatch.context() as patch:
        patch.setattr(Connector, "is_used", property(lambda connector: connector is session.connector))
        for number in range(100):
            pools.session(Proxy("socks5", "proxy.example", 1080 + number), guarded=False)
    assert pools.session(used, guarded=False) is session
    await pools.aclose()
