"""The token cache on a clock that tests own (spec/source.md 11.2 and 12.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.fetch.cloud.cache import TokenCache
from gitopsd.fetch.cloud.identity import Identity, Issued, NoCredentialsError
from gitopsd.fetch.errors import RemoteError
from tests.virtual import run

WANTS = Identity("OCIRepository", "apps", "cache-test")


class Cloud:
    """Issues numbered tokens."""

    def __init__(self, lifetime: float = 3600.0) -> None:
        self.lifetime = lifetime
        self.issued = 0
        self.error: RemoteError | None = None
        self.takes = 0.0

    async def issue(self) -> Issued[str]:
        self.issued += 1
        number = self.issued
        await asyncio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return Issued(f"token {number}", self.lifetime)


def cache(size: int = 100, max_duration: float = 3600.0) -> TokenCache:
    loop = asyncio.get_running_loop()
    return TokenCache(size, max_duration, lambda: 1_000_000.0 + loop.time())


def sample(metric: str, /, **labels: str) -> float:
    return metrics.registry.get_sample_value(metric, labels) or 0.0


def events(event_type: str, wants: Identity = WANTS) -> float:
    labels = {"kind": wants.kind, "name": wants.name, "namespace": wants.namespace, "operation": "reconcile"}
    return sample("gotk_token_cache_events_total", event_type=event_type, **labels)


@pytest.mark.parametrize(
    ("lifetime", "max_duration", "kept"),
    [(1000.0, 3600.0, 800.0), (10_000.0, 3600.0, 3600.0), (1000.0, 60.0, 60.0)],
    ids=["80-percent-of-its-lifetime", "an-hour-at-most", "token-cache-max-duration"],
)
def test_s11_2_how_long_a_token_is_kept(lifetime: float, max_duration: float, kept: float) -> None:
    async def scene() -> None:
        tokens, cloud = cache(max_duration=max_duration), Cloud(lifetime)
        assert await tokens.get("key", WANTS, cloud.issue) == "token 1"
        await asyncio.sleep(kept - 0.001)
        assert await tokens.get("key", WANTS, cloud.issue) == "token 1"
        await asyncio.sleep(0.001)
        assert await tokens.get("key", WANTS, cloud.issue) == "token 2"

    run(scene())


def test_a_machine_that_slept_does_not_use_what_ended_meanwhile() -> None:
    async def scene() -> None:
        wall = [1000.0]
        tokens, cloud = TokenCache(100, 3600.0, lambda: wall[0]), Cloud(100.0)
        await tokens.get("key", WANTS, cloud.issue)
        wall[0] += 80.0
        assert await tokens.get("key", WANTS, cloud.issue) == "token 2"

    run(scene())


@pytest.mark.parametrize("lifetime", [0.0, -5.0])
def test_a_token_without_a_lifetime_is_used_once(lifetime: float) -> None:
    async def scene() -> None:
        tokens, cloud = cache(), Cloud(lifetime)
        assert await tokens.get("key", WANTS, cloud.issue) == "token 1"
        assert await tokens.get("key", WANTS, cloud.issue) == "token 2"
        assert sample("gotk_token_cached_items") == 0

    run(scene())


def test_s11_2_size_0_keeps_nothing() -> None:
    async def scene() -> None:
        tokens, cloud = cache(size=0), Cloud()
        assert [await tokens.get("key", WANTS, cloud.issue) for _ in range(2)] == ["token 1", "token 2"]
        assert sample("gotk_token_cached_items") == 0

    run(scene())


def test_s11_2_the_one_that_was_not_used_for_the_longest_time_goes() -> None:
    async def scene() -> None:
        tokens, cloud = cache(size=2), Cloud()
        evicted = sample("gotk_token_cache_evictions_total")

        async def get(key: Hashable) -> Any:
            return await tokens.get(key, WANTS, cloud.issue)

        assert [await get(key) for key in "abac"] == ["token 1", "token 2", "token 1", "token 3"]
        assert sample("gotk_token_cache_evictions_total") == evicted + 1
        assert sample("gotk_token_cached_items") == 2
        assert [await get(key) for key in "cab"] == ["token 3", "token 1", "token 4"]

    run(scene())


def test_s12_3_metrics_of_hits_misses_and_failures() -> None:
    async def scene() -> None:
        wants = Identity("Bucket", "apps", "metrics-test")
        tokens, cloud = cache(), Cloud()
        good, bad = (sample("gotk_token_cache_requests_total", status=status) for status in ("success", "failure"))
        await tokens.get("key", wants, cloud.issue)
        await tokens.get("key", wants, cloud.issue)
        await tokens.get("key", wants, cloud.issue)
        cloud.error = RemoteError("no")
        with pytest.raises(RemoteError):
            await tokens.get("other", wants, cloud.issue)
        assert (events("cache_hit", wants), events("cache_miss", wants)) == (2, 1)
        assert sample("gotk_token_cache_requests_total", status="success") == good + 3
        assert sample("gotk_token_cache_requests_total", status="failure") == bad + 1
        assert sample("gotk_token_cached_items") == 1

    run(scene())
    metrics.forget_object("Bucket", "apps", "metrics-test")
    assert b"metrics-test" not in metrics.exposition()


def test_s11_2_equal_questions_at_the_same_time_are_asked_once() -> None:
    async def scene() -> None:
        wants = Identity("Bucket", "apps", "shared-test")
        tokens, cloud = cache(), Cloud()
        cloud.takes = 1.0
        found = await asyncio.gather(*(tokens.get("key", wants, cloud.issue) for _ in range(5)))
        assert found == ["token 1"] * 5
        assert (events("cache_hit", wants), events("cache_miss", wants)) == (4, 1)

    run(scene())
    metrics.forget_object("Bucket", "apps", "shared-test")


def test_a_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    async def scene() -> None:
        tokens, cloud = cache(), Cloud()
        cloud.takes, cloud.error = 1.0, NoCredentialsError("nobody", rule="x")
        found = await asyncio.gather(*(tokens.get("key", WANTS, cloud.issue) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [NoCredentialsError] * 3
        assert {(one.message, one.rule) for one in found if isinstance(one, RemoteError)} == {("nobody", "x")}
        assert len({id(one) for one in found}) == 3
        assert cloud.issued == 1
        cloud.error = None
        assert await tokens.get("key", WANTS, cloud.issue) == "token 2"

    run(scene())


def test_one_who_gives_up_does_not_take_the_token_from_the_others() -> None:
    async def scene() -> None:
        tokens, cloud = cache(), Cloud()
        cloud.takes = 10.0

        async def impatient() -> str:
            async with asyncio.timeout(1.0):
                return await tokens.get("key", WANTS, cloud.issue)

        found = await asyncio.gather(impatient(), tokens.get("key", WANTS, cloud.issue), return_exceptions=True)
        assert isinstance(found[0], TimeoutError)
        assert found[1] == "token 2"

    run(scene())
