"""GitRepositories of one URL in a running daemon: one look for all, one fetch for all (spec/source.md 15.2, 15.4)."""

from __future__ import annotations

import re

import pytest

from tests.daemon import Daemon
from tests.flows.stage import SOURCE_API, Stage, config_map

NAMES = [f"app-{number}" for number in range(8)]


def asked(stage: Stage, command: bytes) -> int:
    """How often the stage's repository was asked for something since the server forgot."""
    return sum(stage.namespace in seen.path and b"command=" + command in seen.body for seen in stage.git.requests)


def runs(daemon: Daemon, stage: Stage, name: str) -> int:
    """How often an object was reconciled so far."""
    labels = f'kind="GitRepository",name="{name}",namespace="{stage.namespace}"'
    pattern = rf"^gotk_reconcile_duration_seconds_count\{{{re.escape(labels)}\}} (\S+)$"
    found = re.search(pattern, daemon.get("metrics", "/metrics"), re.MULTILINE)
    return int(float(found[1])) if found else 0


def kept(daemon: Daemon) -> int:
    """How many files are kept of repositories."""
    folder = daemon.storage / ".git-objects"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.fixture
def sources(stage: Stage) -> Stage:
    """Eight objects that follow one branch, all ready."""
    stage.push({"cm.yaml": config_map("one")})
    for name in NAMES:
        stage.source(name)
    for name in NAMES:
        stage.until_ready("GitRepository", name)
    return stage


def test_s15_2_one_who_looks_brings_the_news_to_all(sources: Stage, daemon: Daemon) -> None:
    sources.git.forget()
    revision = sources.push({"cm.yaml": config_map("two")})
    sources.request("GitRepository", NAMES[3])
    for name in NAMES:
        sources.until(
            "GitRepository", name, lambda obj: (obj or {})["status"].get("artifact", {}).get("revision") == revision
        )
    assert asked(sources, b"ls-refs") == 1
    assert asked(sources, b"fetch") == 1


def test_s15_2_who_is_asked_for_a_look_always_looks(sources: Stage) -> None:
    sources.git.forget()
    for name in NAMES[:3]:
        sources.handled("GitRepository", sources.request("GitRepository", name), name)
    assert asked(sources, b"ls-refs") == 3
    assert asked(sources, b"fetch") == 0


def test_s15_2_intervals_of_many_cost_the_looks_of_one(sources: Stage, daemon: Daemon) -> None:
    for name in NAMES:
        sources.source(name, interval="1s")
    for name in NAMES:
        sources.until_ready("GitRepository", name)
    sources.git.forget()
    before = {name: runs(daemon, sources, name) for name in NAMES}

    def since() -> list[int]:
        return [runs(daemon, sources, name) - before[name] for name in NAMES]

    assert daemon.until(lambda: min(since()) >= 5, timeout=30)
    looks = asked(sources, b"ls-refs")
    assert 3 <= looks <= max(since()) + 1
    assert asked(sources, b"fetch") == 0


def test_A33_an_interval_without_news_writes_and_tells_nothing(sources: Stage, daemon: Daemon) -> None:
    sources.source(NAMES[0], interval="1s")
    ready = sources.until_ready("GitRepository", NAMES[0])
    told, before = len(sources.events("GitRepository", NAMES[0])), runs(daemon, sources, NAMES[0])
    assert daemon.until(lambda: runs(daemon, sources, NAMES[0]) >= before + 3, timeout=30)
    assert sources.get("GitRepository", NAMES[0])["metadata"]["resourceVersion"] == ready["metadata"]["resourceVersion"]
    assert len(sources.events("GitRepository", NAMES[0])) == told


def test_s15_4_what_is_kept_of_a_repository_goes_with_its_last_object(sources: Stage, daemon: Daemon) -> None:
    with_us = kept(daemon)
    assert with_us >= 1
    for name in NAMES:
        sources.api.delete(SOURCE_API, "GitRepository", name, sources.namespace)
    assert daemon.until(lambda: kept(daemon) < with_us)
    assert daemon.get("storage", "/.git-objects/").strip() in {"", "404: Not Found", "not found", "Not Found"}
    assert ".git-objects" not in daemon.get("storage", "/")


def test_the_lag_of_the_event_loop_is_a_metric(daemon: Daemon) -> None:
    text = daemon.get("metrics", "/metrics")
    assert re.search(r"^gitopsd_event_loop_lag_seconds_count [1-9]", text, re.MULTILINE)
    assert re.search(r"^gitopsd_event_loop_lag_max_seconds \d", text, re.MULTILINE)
