"""Which runs of a GitRepository may do with an older look at the remote (spec/source.md 2.4, 15.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gitopsd.fetch.errors import FetchError
from tests.unit.controllers.gitbench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        bench.apply(interval="1m")
        yield bench


async def test_s15_2_only_a_run_that_its_interval_caused_shares_the_look_of_others(bench):
    await bench.good()
    await bench.good()
    assert bench.remote.allowed == [0, 54]


async def asked_for(bench: Bench) -> None:
    bench.cache.list()[0]["metadata"]["annotations"] = {"reconcile.fluxcd.io/requestedAt": "now"}
    await bench.good()


async def changed(bench: Bench) -> None:
    bench.apply(ignore="/x\n")
    await bench.good()


async def failed_before(bench: Bench) -> None:
    bench.remote.failure = FetchError("GitOperationFailed", "gone")
    await bench.run()
    bench.remote.failure = None
    bench.remote.allowed.clear()
    await bench.run()


async def lost_its_artifact(bench: Bench) -> None:
    bench.cache.list()[0]["status"].pop("artifact")
    await bench.good()


@pytest.mark.parametrize("cause", [asked_for, changed, failed_before, lost_its_artifact])
async def test_s15_2_everybody_else_always_asks_the_server(bench, cause):
    await bench.good()
    bench.remote.allowed.clear()
    await cause(bench)
    assert bench.remote.allowed == [0]
    await bench.good()
    assert bench.remote.allowed == [0, 54]


async def test_s2_4_the_next_look_is_due_an_interval_after_the_one_that_answered(bench):
    await bench.good()
    bench.remote.seen_ago = 50.0
    for _ in range(20):
        outcome = await bench.run()
        assert 57 - 50 <= outcome.again_in <= 63 - 50


@pytest.mark.parametrize(("percentage", "allowed"), [("0", 60), ("10", 48), ("60", 0)])
async def test_s2_4_the_jitter_of_two_timers_is_left_as_a_margin(tmp_path, percentage, allowed):
    async with Bench.opened(tmp_path, f"--interval-jitter-percentage={percentage}") as bench:
        bench.apply(interval="1m")
        await bench.good()
        await bench.good()
        assert bench.remote.allowed[1] == pytest.approx(allowed)
