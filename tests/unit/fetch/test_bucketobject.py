"""One object, read to its end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gitopsd.fetch.bucketclient import BucketError, Entry, ObjectMovedError, Page
from gitopsd.fetch.bucketobject import ObjectError, Objects
from gitopsd.fetch.errors import RemoteError
from tests.answering import instant_threads
from tests.virtual import run


class Source:
    """Gives these bodies one after the other; an exception in a body breaks the connection there."""

    def __init__(self, *bodies: list[bytes | Exception], ranges: bool = True, length: bool = False) -> None:
        self._bodies = list(bodies)
        self._ranges = ranges
        self._length = length
        self.asked: list[tuple[str, int, float]] = []

    @asynccontextmanager
    async def get(self, key: str, version: str = "", offset: int = 0) -> AsyncIterator[Any]:
        self.asked.append((version, offset, asyncio.get_running_loop().time()))
        body = self._bodies.pop(0)
        if body and isinstance(body[0], Exception):
            raise body[0]
        headers = (
            {"Content-Length": str(sum(len(one) for one in body if isinstance(one, bytes)))} if self._length else {}
        )
        yield _Answer(body, 206 if offset and self._ranges else 200, headers)

    async def exists(self) -> bool:
        return True

    async def page(self, prefix: str, token: str) -> Page:
        return Page([])


class _Answer:
    def __init__(self, body: list[bytes | Exception], status: int, headers: dict[str, str]) -> None:
        self._body = body
        self.status = status
        self.headers = headers

    async def pieces(self, limit: int, what: str = "answer", *, as_sent: bool = False) -> AsyncIterator[bytes]:
        for piece in self._body:
            if isinstance(piece, Exception):
                raise piece
            limit -= len(piece)
            if limit < 0:
                raise RemoteError(f"the {what} is too large", rule="size")
            yield piece


BROKEN = RemoteError("the server ended the conversation early")


def content(source: Source, size: int = 6, version: str = "v", md5: bytes = b"") -> bytes:
    return run(Objects(source, unknown=10).content(Entry("key", "e", size, version, md5)))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(ranges: bool) -> None:
    """Also with a server that ignores the wish."""
    rest: list[list[bytes | Exception]] = [[b"cd", BROKEN], [b"ef"]]
    if not ranges:
        rest = [[b"a", b"bcd", BROKEN], [b"abcde", b"f"]]
    source = Source([b"ab", BROKEN], *rest, ranges=ranges)
    assert content(source) == b"abcdef"
    assert source.asked == [("v", 0, 0.0), ("v", 2, 0.2), ("v", 4, 1.0)]


def test_the_third_break_is_a_failure_that_names_the_object() -> None:
    with pytest.raises(ObjectError) as caught:
        content(Source([b"a", BROKEN], [BROKEN], [BROKEN]))
    assert caught.value.message == "failed to get 'key' object: the server ended the conversation early"
    assert not caught.value.moved


def test_without_a_version_nothing_is_put_together() -> None:
    with pytest.raises(ObjectError):
        content(Source([b"a", BROKEN], [b"bcdef"]), version="")
    assert content(Source([BROKEN], [b"abcdef"]), version="") == b"abcdef"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source([ObjectMovedError("NoSuchKey (status 404)")]), "NoSuchKey (status 404)"),
        (Source([b"abc"]), "it has 3 bytes, the listing says 6"),
        (Source([b"abcdefg"], length=True), "it has 7 bytes, the listing says 6"),
        (Source([b"abc", BROKEN], [b"defg"], length=True), "it has 3 bytes, the listing says 6"),
    ],
)
def test_I04_an_object_that_is_not_what_was_listed_has_moved(source: Source, says: str) -> None:
    with pytest.raises(ObjectError) as caught:
        content(source)
    assert caught.value.moved
    assert says in caught.value.message


@pytest.mark.parametrize("error", [BucketError("AccessDenied", status=403), RemoteError("no", rule="redirect")])
def test_a_refusal_is_final(error: Exception) -> None:
    source = Source([error])
    with pytest.raises(ObjectError) as caught:
        content(source)
    assert not caught.value.moved
    assert len(source.asked) == 1


def test_more_than_was_listed_is_cut_off() -> None:
    with pytest.raises(ObjectError) as caught:
        content(Source([b"abcdefg"]))
    assert caught.value.rule == "size"


def test_an_object_of_unknown_size_is_bounded() -> None:
    assert content(Source([b"0123456789"]), size=-1) == b"0123456789"
    with pytest.raises(ObjectError) as caught:
        content(Source([b"0123456789a"]), size=-1)
    assert caught.value.rule == "size"


GOOD = hashlib.md5(b"abcdef").digest()


def test_T23_a_corrupted_download_is_made_again() -> None:
    source = Source([b"abcdeX"], [b"abcdef"])
    assert content(source, md5=GOOD) == b"abcdef"
    assert len(source.asked) == 2


def test_T23_bytes_that_are_others_each_time_are_refused() -> None:
    with pytest.raises(ObjectError) as caught:
        content(Source([b"abcdeX"], [b"abcdeY"]), md5=GOOD)
    assert caught.value.rule == "digest"


def test_T23_the_same_bytes_twice_show_that_the_etag_is_no_digest_and_are_asked_once() -> None:
    source = Source([b"abcdef"], [b"abcdef"], [b"other!"])
    objects = Objects(source, unknown=10)

    async def both() -> list[bytes]:
        return [await objects.content(Entry(key, "e", 6, "v", bytes(16))) for key in ("a", "b")]

    assert run(both()) == [b"abcdef", b"other!"]
    assert len(source.asked) == 3


@pytest.mark.parametrize(("second", "fails"), [(b"abcdef", True), (b"abcdeX", False), (b"abcdeY", True)])
def test_T23_a_streamed_object_is_confirmed_by_a_second_download(
    monkeypatch: pytest.MonkeyPatch, second: bytes, fails: bool
) -> None:
    """What was handed out first counts: it is right only when the second download is the same."""
    taken: list[bytes] = []
    objects = Objects(Source([b"abc", b"deX"], [second]), unknown=10)
    work = objects.stream(Entry("key", "e", 6, "v", GOOD), taken.append)
    with instant_threads(monkeypatch, "gitopsd.fetch.bucketobject"):
        if fails:
            with pytest.raises(ObjectError) as caught:
                run(work)
            assert caught.value.rule == "digest"
        else:
            run(work)
            assert b"".join(taken) == b"abcdeX"
