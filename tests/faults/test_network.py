"""What lies between the daemon and the API server is slow, breaks, lies, or lets only one direction through."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults import proxy as faults
from tests.faults.conftest import FULL
from tests.faults.proxy import FaultProxy
from tests.faults.scene import KUSTOMIZATIONS, OWNER, Scene, condition, config_map, config_maps, until
from tests.flows.stage import KUSTOMIZE_API, SOURCE_API
from tests.servers import trouble

SEEDS = range(3) if FULL else range(1)
MIXED = 600.0 if FULL else 8.0
CUT = 300.0 if FULL else 10.0
SOURCES = "gitrepositories.source.toolkit.fluxcd.io"


@pytest.fixture
def proxy(scene: Scene) -> FaultProxy:
    return scene.proxy(seed=7)


def commits(scene: Scene, seconds: float, chance: random.Random) -> None:
    """Commit every second for a while: objects come, change and go."""
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
        files = {f"cm-{chance.randrange(20):03}.yaml": None for _ in range(3)}
        present = scene.pushed[-1].files
        files = {path: text for path, text in files.items() if path in present and len(present) > 5}
        for changed in range(3):
            at = chance.randrange(20)
            files[f"cm-{at:03}.yaml"] = config_map(f"cm-{at:03}", key=f"{number}-{changed}")
        scene.push(files)
        scene.request("GitRepository")
        time.sleep(1)


@pytest.mark.parametrize("seconds", [0.2, 2.0] if FULL else [0.2])
def test_T05_a_slow_api_server_slows_and_breaks_nothing(scene: Scene, proxy: FaultProxy, seconds: float) -> None:
    scene.push(config_maps(20, key="1"))
    scene.source()
    scene.kustomization()
    proxy.inject(trouble.late(seconds))
    scene.start(through=proxy)
    scene.until_converged(timeout=90)
    scene.push({"cm-000.yaml": config_map("cm-000", key="2"), "cm-001.yaml": None})
    scene.request("GitRepository")
    scene.until_converged(timeout=90)
    assert [event["reason"] for event in scene.events("Kustomization") if event["type"] == "Warning"] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_T06_one_request_in_ten_fails(scene: Scene, seed: int) -> None:
    """500, 429, 409 and broken connections on every verb, while somebody commits every second."""
    proxy = scene.proxy(seed=seed)
    scene.push(config_maps(10, key="1"))
    scene.source()
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    for rule in (
        faults.api_status(500),
        faults.api_status(429, retry_after=1),
        faults.api_status(409),
        trouble.reset(),
    ):
        proxy.inject(rule, chance=0.025)
    proxy.inject(faults.lost_answer(), verbs={"apply", "patch", "delete"}, chance=0.025)
    commits(scene, MIXED, random.Random(seed))
    assert sum(one.used for one in proxy.troubles) > 0
    proxy.heal()
    scene.request("GitRepository")
    scene.until_converged(timeout=120)
    assert [condition(obj, "Stalled") for obj in scene.kustomizations()] == [{}]


@pytest.mark.parametrize("seed", range(30) if FULL else range(1))
def test_T15_any_single_request_fails_for_good(scene: Scene, seed: int) -> None:
    """A commit that adds, changes and removes, with one refusal at another request each time: each is made up for."""
    chance = random.Random(seed)
    proxy = scene.proxy()
    scene.push(config_maps(4, key="0"))
    scene.source()
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    met = 0
    for number in range(1, 5):
        at = chance.randint(0, 24)
        refusal = chance.choice([faults.api_status(403), faults.api_status(422), trouble.reset(), faults.lost_answer()])
        verbs = {"get", "list", "create", "apply", "patch", "delete"}
        proxy.inject(refusal, verbs=verbs, path=f"*/{scene.namespace}/*", after=at, times=1)
        files = {
            "cm-000.yaml": config_map("cm-000", key=str(number)),
            f"new-{number}.yaml": config_map(f"new-{number}"),
        }
        scene.push(files | {f"new-{number - 1}.yaml": None} if number > 1 else files)
        scene.request("GitRepository")
        scene.until_converged()
        scene.verify_inventories()
        met += sum(one.used for one in proxy.troubles)
        proxy.heal()
    assert met


def test_T70_watches_are_cut_every_second(scene: Scene, proxy: FaultProxy) -> None:
    """No news is lost, nothing is listed anew, and every commit arrives."""
    scene.push(config_maps(10, key="1"))
    scene.source()
    scene.kustomization()
    daemon = scene.start(through=proxy)
    scene.until_converged()
    before = whole_lists(proxy)
    with every_second(lambda: proxy.break_connections()):
        commits(scene, CUT, random.Random(70))
    scene.until_converged()
    assert len(proxy.find(verb="watch")) > 30, "the watches were not cut"
    assert whole_lists(proxy) == before
    assert daemon.get("health", "/readyz") == "ok"


def whole_lists(proxy: FaultProxy) -> int:
    """How often everything of a kind was asked for, by a list or by a watch that begins with all."""
    lists = [seen for seen in proxy.find(verb="list") if "limit=1&" not in f"{seen.query}&"]
    return len(lists) + len([seen for seen in proxy.find(verb="watch") if "sendInitialEvents" in seen.query])


def test_T07_watches_are_dead_and_writes_work(scene: Scene, proxy: FaultProxy) -> None:
    """What the daemon does by its own clock goes on; nothing is deleted that a look would have spared."""
    scene.push(config_maps(4, key="1"))
    scene.source(interval="1s")
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    proxy.inject(faults.frozen_watch(), verbs={"watch"})
    proxy.break_connections()
    time.sleep(3)  # for the watches to come back and freeze
    kept = {"metadata": {"annotations": {f"{OWNER}/prune": "disabled"}}}
    scene.api.merge("v1", "ConfigMap", "cm-000", kept, scene.namespace)
    given = {"metadata": {"labels": {f"{OWNER}/name": "another"}}}
    scene.api.merge("v1", "ConfigMap", "cm-001", given, scene.namespace)
    scene.push({f"cm-{number:03}.yaml": None for number in range(3)} | {"new.yaml": config_map("new")})
    scene.until_converged()
    names = {obj["metadata"]["name"] for obj in scene.owned_objects()}
    assert names == {"cm-000", "cm-001", "cm-003", "new"}
    scene.api.merge(KUSTOMIZE_API, "Kustomization", "app", {"spec": {"suspend": True}}, scene.namespace)
    scene.api.merge(SOURCE_API, "GitRepository", "app", {"spec": {"interval": "10m"}}, scene.namespace)
    proxy.heal()
    proxy.break_connections()
    scene.until("GitRepository", "app", lambda obj: bool(obj and obj["status"]["observedGeneration"] == 2))
    scene.api.merge(KUSTOMIZE_API, "Kustomization", "app", {"spec": {"suspend": None}}, scene.namespace)
    scene.until_converged()
    for name in ("cm-000", "cm-001"):
        scene.api.delete("v1", "ConfigMap", name, scene.namespace)


def test_T07_watches_work_and_writes_are_lost(scene: Scene, proxy: FaultProxy) -> None:
    """Nothing is told that is not so, and all of it is made up for."""
    before = scene.push(config_maps(4, key="1"))
    scene.source()
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    proxy.inject(trouble.reset(), verbs={"apply", "patch", "create", "delete", "update"})
    scene.push({"cm-000.yaml": None, "cm-001.yaml": config_map("cm-001", key="2"), "new.yaml": config_map("new")})
    scene.request("GitRepository")
    until(lambda: proxy.troubles[0].used > 3, what="a write")
    seen = scene.get("Kustomization")
    assert seen is not None
    assert seen["status"]["lastAppliedRevision"] == before
    assert len(scene.owned_objects()) == 4
    proxy.heal()
    scene.until_converged(timeout=90)


def test_Q06_a_status_that_cannot_be_written_loses_nothing(scene: Scene, proxy: FaultProxy) -> None:
    """Objects are made, the verdict is refused again and again, and the next commit has none of them."""
    scene.push(config_maps(2, key="1"))
    scene.source()
    scene.start(through=proxy)
    scene.until_ready("GitRepository")
    proxy.inject(faults.api_status(409), verbs={"patch"}, path="*/status", resource=KUSTOMIZATIONS)
    scene.kustomization()
    until(lambda: len(scene.owned_objects()) == 2, what="the apply")
    until(lambda: proxy.troubles[0].used > 5, what="the refusals")
    scene.push({f"cm-{number:03}.yaml": None for number in range(2)} | {"other.yaml": config_map("other")})
    scene.refetch()
    proxy.heal()
    scene.until_converged()


@contextmanager
def every_second(work: object) -> Iterator[None]:
    """Do something each second, beside the block."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(1):
            work()  # type: ignore[operator]

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
