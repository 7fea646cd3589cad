"""The public trusted root: fetched once a day, not asked for again and again when it cannot be had."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gitopsd.fetch.imagesignatures import VerifyError
from gitopsd.fetch.trustroot import PUBLIC_SIGSTORE, PublicRoot, TrustRoot, embedded_root
from tests.sigstore import Sigstore

ROOT = Sigstore().trusted_root()


class Source:
    """Gives out roots, or what goes wrong instead, in order."""

    def __init__(self, *results: bytes | str) -> None:
        self.results = list(results)
        self.asked = 0
        self.now = 1000.0

    def fetch(self) -> bytes:
        self.asked += 1
        result = self.results.pop(0)
        if isinstance(result, str):
            raise VerifyError(result)
        return result

    def root(self) -> PublicRoot:
        return PublicRoot(self.fetch, clock=lambda: self.now)


async def test_s11_1_the_public_root_is_fetched_once_a_day() -> None:
    source = Source(ROOT)
    public = source.root()
    assert source.asked == 0
    first, *others = await asyncio.gather(*(public.get() for _ in range(5)))
    source.now += 86399
    assert await public.get() is first
    assert all(other is first for other in others)
    assert isinstance(first, TrustRoot)
    assert source.asked == 1


async def test_s11_1_an_old_root_is_renewed_and_used_until_then() -> None:
    source = Source(ROOT, "unreachable", "unreachable", ROOT)
    public = source.root()
    first = await public.get()
    for pause in (86400.0, 0.0, 3599.0, 1.0, 3599.0):
        source.now += pause
        assert await public.get() is first
    assert source.asked == 3
    source.now += 1
    second = await public.get()
    assert second is not first
    source.now += 86399
    assert await public.get() is second
    assert source.asked == 4


async def test_s11_1_a_renewal_that_takes_too_long_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    now, fetched = 0.0, [ROOT]

    def fetch() -> bytes:
        if not fetched:
            assert release.wait(20)
            return ROOT
        return fetched.pop()

    public = PublicRoot(fetch, clock=lambda: now)
    first = await public.get()
    monkeypatch.setattr("gitopsd.fetch.trustroot._LONGEST_RENEWAL", 0.01)
    now += 86400
    assert await public.get() is first
    release.set()
    while await public.get() is first:
        await asyncio.sleep(0)


async def test_s11_1_after_a_failure_it_is_asked_for_once_a_minute() -> None:
    source = Source("unreachable", b"{}", ROOT)
    public = source.root()
    for _ in range(3):
        with pytest.raises(VerifyError, match=r"^unreachable$"):
            await public.get()
    source.now += 59.9
    with pytest.raises(VerifyError, match=r"^unreachable$"):
        await public.get()
    assert source.asked == 1
    source.now += 0.1
    with pytest.raises(VerifyError, match="the trusted root of the public Sigstore cannot be read"):
        await public.get()
    source.now += 60
    assert await public.get()
    assert source.asked == 3


async def test_s11_1_a_fetch_that_takes_too_long_is_given_up_and_its_result_is_used_later() -> None:
    release = threading.Event()

    def fetch() -> bytes:
        assert release.wait(20)
        return ROOT

    public = PublicRoot(fetch, clock=lambda: 0.0, limit=0.01)
    for _ in range(2):
        with pytest.raises(VerifyError, match="could not be fetched in time"):
            await public.get()
    release.set()
    while True:
        try:
            assert await public.get()
        except VerifyError:
            await asyncio.sleep(0)
        else:
            return


async def test_s11_1_who_is_cancelled_does_not_stop_the_others() -> None:
    source = Source(ROOT)
    public = source.root()
    waiting = asyncio.ensure_future(public.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    source.now += 60
    source.results.append(ROOT)
    assert await public.get()


def test_the_first_root_of_the_public_sigstore_is_at_hand() -> None:
    assert b'"root"' in embedded_root(PUBLIC_SIGSTORE)
