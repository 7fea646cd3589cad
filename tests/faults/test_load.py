"""One object that is hot, hangs or fails, or all of them at once, does not take the others with it."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.controlplane import ControlPlane
from tests.faults.conftest import FULL
from tests.faults.scene import Scene, condition, config_map, until
from tests.faults.test_stop import STUCK, waits_for_health
from tests.flows.stage import KUSTOMIZE_API, REQUESTED_AT, is_ready
from tests.servers import trouble

HOT_SECONDS = 300.0 if FULL else 6.0
MANY = 200 if FULL else 30


def test_T60_a_hot_object_is_deduplicated_and_delays_nobody(scene: Scene, control_plane: ControlPlane) -> None:
    """Its annotation changes fifty times a second; ten others take a commit meanwhile."""
    others = [f"other-{number}" for number in range(10)]
    scene.push({f"{name}/cm.yaml": config_map(name, key="1") for name in ("hot", *others)})
    scene.source()
    for name in ("hot", *others):
        scene.kustomization(name, path=f"./{name}")
    daemon = scene.start()
    scene.until_converged()
    with asked_all_the_time(scene, control_plane, "hot") as tokens:
        until(lambda: len(tokens) > 20, what="the heat")
        scene.push({f"{name}/cm.yaml": config_map(name, key="2") for name in ("hot", *others)})
        scene.request("GitRepository")
        scene.until_converged(*others)
        until(lambda: len(tokens) > HOT_SECONDS * 20, timeout=10 * HOT_SECONDS, what="enough heat")
    scene.handled("Kustomization", tokens[-1], "hot")
    runs = Counter(line["name"] for line in daemon.log_lines() if line["msg"].startswith("Reconciliation finished"))
    assert runs["hot"] <= len(tokens) + 3
    assert max(runs[name] for name in others) <= 4, "somebody else was woken by it"


@contextmanager
def asked_all_the_time(scene: Scene, control_plane: ControlPlane, name: str) -> Iterator[list[str]]:
    """Annotate a Kustomization about fifty times a second; gives the tokens so far."""
    over = threading.Event()
    tokens: list[str] = []
    api = control_plane.client_for("admin")  # threads have connections of their own

    def run() -> None:
        while not over.wait(0.02):
            token = f"heat-{len(tokens)}"
            patch = {"metadata": {"annotations": {REQUESTED_AT: token}}}
            api.merge(KUSTOMIZE_API, "Kustomization", name, patch, scene.namespace)
            tokens.append(token)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield tokens
    finally:
        over.set()
        thread.join()
        api.close()


@pytest.mark.parametrize("workers", [1, 4])
def test_T61_checks_that_hang_keep_no_worker(scene: Scene, workers: int) -> None:
    """As many as there are workers and more wait for what never comes; others are applied, and applied again."""
    hanging = [f"hang-{number}" for number in range(5)]
    others = [f"other-{number}" for number in range(3)]
    stuck = {f"{name}/disk.yaml": STUCK.replace("name: disk", f"name: {name}") for name in hanging}
    scene.push(stuck | {f"{name}/cm.yaml": config_map(name, key="1") for name in others})
    scene.source()
    for name in hanging:
        scene.kustomization(name, path=f"./{name}", wait=True, timeout="10m")
    scene.start(f"--concurrent={workers}")
    for name in hanging:
        waits_for_health(scene, name)
    for name in others:
        scene.kustomization(name, path=f"./{name}")
    scene.until_converged(*others)
    scene.push({f"{name}/cm.yaml": config_map(name, key="2") for name in others})
    scene.refetch()
    scene.until_converged(*others)
    for name in hanging:
        waits_for_health(scene, name)


@pytest.mark.skipif(not FULL, reason="a health check may never be given less than thirty seconds")
def test_T61_checks_that_hang_end_at_their_own_time(scene: Scene) -> None:
    scene.push({"disk.yaml": STUCK})
    scene.source()
    scene.kustomization(wait=True, timeout="30s", retryInterval="10m")
    scene.start()
    seen = scene.until_reason("Kustomization", "HealthCheckFailed", timeout=60)
    assert "timeout waiting for: [PersistentVolumeClaim/" in condition(seen)["message"]


def test_T21_remotes_that_never_answer_keep_no_worker(scene: Scene) -> None:
    """More of them than there are workers; a stop does not wait for them either."""
    names = [f"silent-{number}" for number in range(3)]
    scene.push({"cm.yaml": config_map("one", key="1")})
    with scene.git.behave(f"/{scene.namespace}-silent-*", trouble.never()) as silence:
        for name in names:
            scene.source(name, url=scene.url.replace(".git", f"-{name}.git"), timeout="10m")
        daemon = scene.start("--concurrent-sources=2")
        until(lambda: silence.used >= 2, what="the silence")
        scene.source()
        scene.kustomization()
        scene.until_converged()
        until(lambda: silence.used >= 3, what="the third of them")
        daemon.send(signal.SIGTERM)
        assert daemon.wait(timeout=15) == 0


def test_T20_T62_the_git_server_goes_for_all_at_once_and_comes_back(scene: Scene) -> None:
    """Sources fail and back off each by itself, requests are answered, consumers KEEP, and all recover alone."""
    names = [f"source-{number:03}" for number in range(MANY)]
    before = scene.push({"cm.yaml": config_map("one", key="1")})
    scene.source()
    scene.kustomization()
    for name in names:
        scene.source(name)
    daemon = scene.start()
    scene.until_converged()
    for name in names:
        scene.until_ready("GitRepository", name)
    owned = scene.owned_objects()
    repository = f"/{scene.namespace}.git/*"
    with scene.git.behave(repository, trouble.say(503, "maintenance")) as outage:
        scene.push({"cm.yaml": config_map("one", key="2")})
        for name in ("app", *names):
            scene.request("GitRepository", name)
        for name in ("app", *names):
            scene.until_reason("GitRepository", "GitOperationFailed", name)
        token = scene.request("GitRepository")
        seen = scene.handled("GitRepository", token)
        assert condition(seen, "FetchFailed")["status"] == "True"
        assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
        assert seen["status"]["artifact"]["revision"] == before
        asked = scene.handled("Kustomization", scene.request("Kustomization"))
        assert is_ready(asked)
        assert asked["status"]["lastAppliedRevision"] == before
        assert scene.owned_objects() == owned
        assert outage.used
    failures = Counter(line["name"] for line in daemon.log_lines() if "503" in line.get("error", ""))
    assert max(failures.values()) < 10, "somebody does not back off"
    scene.git.refuse()
    try:
        scene.handled("GitRepository", scene.request("GitRepository"))
    finally:
        scene.git.accept()
    for name in ("app", *names):
        scene.until_ready("GitRepository", name, timeout=60)
    scene.until_converged()


def test_T62_retries_of_those_who_failed_together_drift_apart(scene: Scene) -> None:
    """Their next attempts do not come in one burst for ever."""
    names = [f"source-{number:02}" for number in range(20)]
    scene.push({"cm.yaml": config_map("one", key="1")})
    for name in names:
        scene.source(name, url=scene.url.replace(".git", "-gone.git"))
    daemon = scene.start()

    def delays() -> list[str]:
        failed = [line for line in daemon.log_lines() if "Reconciliation failed after" in line["msg"]]
        count = Counter(line["name"] for line in failed)
        return [line["msg"].rpartition(" ")[2] for line in failed] if len(count) == 20 else []

    until(lambda: len(delays()) > 50, what="two retries of everybody")
    assert len(set(delays())) > 20
