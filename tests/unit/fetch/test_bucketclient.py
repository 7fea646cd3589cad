"""Texts of storages, fit to be shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gitopsd.fetch.bucketclient import Exchange, Fault, read_size, without_queries
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import ANYBODY, HttpClient
from tests.virtual import run


class Web(HttpClient):
    """Answers with these statuses, or raises these errors, one after the other; notes when it was asked."""

    def __init__(self, *outcomes: int | Exception) -> None:
        super().__init__()
        self._outcomes = list(outcomes)
        self.times: list[float] = []
        self.closed = 0

    @asynccontextmanager
    async def request(self, method: str, url: str, **_: Any) -> AsyncIterator[Any]:
        self.times.append(asyncio.get_running_loop().time())
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        try:
            yield _Answer(outcome)
        finally:
            self.closed += 1


class _Answer:
    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}

    async def read(self, limit: int, what: str = "answer") -> bytes:
        return b"body"


def ask(web: Web) -> bytes:
    exchange = Exchange(web, ANYBODY, lambda *_: {}, lambda _: Fault("Code", "secret words"), ("secret words",))
    return run(exchange.document("https://h/b?x=1", "listing"))


BROKEN = RemoteError("cannot talk to h: connection refused")


@pytest.mark.parametrize("first", [429, 500, 502, 503, 504, BROKEN])
def test_what_may_pass_is_asked_again_after_growing_pauses(first: int | Exception) -> None:
    web = Web(first, first, 200)
    assert ask(web) == b"body"
    assert web.times == [0.0, 0.2, 1.0]
    assert web.closed == (1 if isinstance(first, Exception) else 3)


def test_the_third_failure_is_told_in_the_storages_words_without_secrets() -> None:
    with pytest.raises(RemoteError) as caught:
        ask(Web(503, BROKEN, 503))
    assert caught.value.message == "Code: *** (status 503)"
    with pytest.raises(RemoteError) as caught:
        ask(Web(503, 503, RemoteError("at https://h/b?secret words, broken")))
    assert caught.value.message == "at https://h/b words, broken"


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 412, 501])
def test_a_refusal_is_final(status: int) -> None:
    web = Web(status)
    with pytest.raises(RemoteError):
        ask(web)
    assert web.times == [0.0]
    assert web.closed == 1


def test_what_was_refused_by_a_rule_of_ours_is_final() -> None:
    with pytest.raises(RemoteError) as caught:
        ask(Web(RemoteError("no", rule="redirect")))
    assert caught.value.rule == "redirect"


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
