"""The pipeline of all sources where the kinds do not matter: failures nobody foresaw, and objects that go meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gitopsd.errors import GitopsdError, RetryError
from tests.unit.controllers.gitbench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        yield bench


# -- failures that no kind has words for


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (GitopsdError("something of ours"), "something of ours"),
        (OSError(24, "Too many open files", "/data/secret/place"), "Too many open files"),
        (TimeoutError(), "no answer in time"),
    ],
    ids=["ours", "the system's", "time"],
)
async def test_T15_s2_3_what_nobody_foresaw_is_a_failed_run_too(bench: Bench, failure: Any, text: str) -> None:
    bench.apply()
    await bench.good()
    before = bench.status()["artifact"]
    bench.request("now")
    bench.remote.failure = failure
    outcome = await bench.run()
    assert isinstance(outcome, RetryError)
    status = bench.status()
    assert status["artifact"] == before
    assert status["lastHandledReconcileAt"] == "now"
    assert bench.condition("Ready")[:2] == ("False", "ProgressingWithRetry")  # type: ignore[index]
    assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")  # type: ignore[index]
    assert bench.events == [("Warning", "Failed", text)]
