"""The daemon is killed amid its work; the next start leaves nothing lost, nothing doubled, nothing wrong (T10, T13)."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.apiclient import Obj
from tests.faults.conftest import FULL
from tests.faults.proxy import FaultProxy, read_request
from tests.faults.scene import KUSTOMIZATIONS, OWNER, Scene, condition, config_map, config_maps, until
from tests.flows.stage import SOURCE_API
from tests.servers.loopback import Answer, Ask
from tests.servers.trouble import late, say

SAMPLE = range(200) if FULL else range(3)
COUNT = 60
SOURCES = "gitrepositories.source.toolkit.fluxcd.io"


class Killer:
    """Kills the daemon at one request, before or after the API server has seen it."""

    def __init__(self, scene: Scene, proxy: FaultProxy) -> None:
        self._scene = scene
        self._proxy = proxy
        self._struck = threading.Event()

    def strike(
        self, at: int, *, verb: str, resource: str, subresource: str = "", says: bytes = b"", is_late: bool = False
    ) -> None:
        """Kill at the `at`-th real request of a verb on a resource whose body `says` something.

        `is_late`: when its answer is ready.
        """
        passed = 0

        def meets(request: web.Request) -> bool:
            nonlocal passed
            seen = read_request(request)
            if (seen.verb, seen.resource, seen.subresource) != (verb, resource, subresource) or seen.is_dry_run:
                return False
            if says not in (request._read_bytes or b""):
                return False
            passed += 1
            return passed == at

        async def rule(request: web.Request, ask: Ask) -> Answer:
            answer = await ask() if is_late else Answer(500)
            os.kill(self._scene.daemon.pid, signal.SIGKILL)
            self._struck.set()
            return answer

        self._proxy.behave(meets, rule)

    def strike_verdict(self, *, is_late: bool = False) -> None:
        """Kill when all is applied and the status is about to say so."""
        verdict = {"verb": "patch", "resource": KUSTOMIZATIONS, "subresource": "status", "says": b"lastAppliedRevision"}
        self.strike(1, is_late=is_late, **verdict)

    def wait(self) -> None:
        """Wait until the daemon is dead, and let requests pass again."""
        assert self._struck.wait(40), "the request at which to kill never came"
        self._scene.crash()
        self._struck.clear()
        self._proxy.heal()


@pytest.fixture
def proxy(scene: Scene) -> FaultProxy:
    return scene.proxy()


@pytest.fixture
def killer(scene: Scene, proxy: FaultProxy) -> Killer:
    return Killer(scene, proxy)


def verify_no_duplicate_work(scene: Scene) -> None:
    """Every object was created once; at most what was in flight at a kill was written again."""
    assert set(scene.creations().values()) == {1}


@pytest.mark.parametrize("seed", SAMPLE)
def test_T10_killed_amid_an_apply(scene: Scene, proxy: FaultProxy, killer: Killer, seed: int) -> None:
    chance = random.Random(seed)
    scene.push(config_maps(COUNT, key="1"))
    scene.source()
    scene.kustomization()
    killer.strike(chance.randint(1, COUNT), verb="apply", resource="configmaps", is_late=chance.random() < 0.5)
    scene.start(through=proxy)
    killer.wait()
    scene.start(through=proxy)
    scene.until_converged()
    verify_no_duplicate_work(scene)
    applies = [
        one for one in scene.audit() if (one["verb"], one["objectRef"].get("resource")) == ("patch", "configmaps")
    ]
    assert len(applies) <= COUNT + 2 * 4, "more was written twice than was in flight"


@pytest.mark.parametrize("seed", SAMPLE)
def test_T10_killed_amid_a_change_that_adds_changes_and_removes(
    scene: Scene, proxy: FaultProxy, killer: Killer, seed: int
) -> None:
    """The kill hits any real write of an upgrade: an apply, a deletion, or a status."""
    chance = random.Random(f"change {seed}")
    scene.push(config_maps(20, key="1"))
    scene.source()
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    changed: dict[str, str | None] = {f"cm-{number:03}.yaml": None for number in range(8)}
    changed |= {f"cm-{number:03}.yaml": config_map(f"cm-{number:03}", key="2") for number in range(8, 14)}
    scene.push(changed | config_maps(8, prefix="new"))
    verb, at = chance.choice([("apply", chance.randint(1, 14)), ("delete", chance.randint(1, 8))])
    killer.strike(at, verb=verb, resource="configmaps", is_late=chance.random() < 0.5)
    scene.request("GitRepository")
    killer.wait()
    scene.start(through=proxy)
    scene.until_converged()
    verify_no_duplicate_work(scene)


@pytest.mark.parametrize("seed", range(200) if FULL else range(1))
def test_T10_killed_at_any_time_while_somebody_commits(scene: Scene, seed: int) -> None:
    chance = random.Random(f"any time {seed}")
    scene.push(config_maps(20, key="0"))
    scene.source(interval="1s")
    scene.kustomization()
    scene.start()
    ends = time.monotonic() + chance.uniform(0, 8)
    for number in itertools.count(1):
        changed: dict[str, str | None] = {}
        for at in chance.sample(range(20), 6):
            path = f"cm-{at:03}.yaml"
            changed[path] = (
                None if path in scene.pushed[-1].files and at % 2 else config_map(f"cm-{at:03}", key=str(number))
            )
        scene.push(changed)
        left = ends - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(left, 1))
    scene.crash()
    scene.start()
    scene.until_converged()


def test_T14_a_crash_loop_piles_nothing_up(scene: Scene, tmp_path: Path) -> None:
    """Storage, history and events of many short lives are those of one."""
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    scene.storage = tmp_path / "artifacts"
    scene.start()
    scene.until_converged()
    for _ in range(20 if FULL else 4):
        scene.crash()
        scene.start()
        scene.handled("Kustomization", scene.request("Kustomization"))
    scene.until_converged()
    seen = scene.get("Kustomization")
    assert seen is not None
    assert len(seen["status"]["history"]) == 1
    assert len([path for path in scene.storage.rglob("*") if path.is_file()]) == 1
    assert set(scene.creations().values()) == {1}
    reasons = Counter(event["reason"] for event in scene.events("Kustomization"))
    assert reasons["Progressing"] == 1, "an apply that changed nothing was told as news"
    assert not [event for event in scene.events("GitRepository") if event["type"] == "Warning"]


@pytest.mark.parametrize("is_slow", [False, True], ids=["quick", "slow"])
def test_T34_a_restart_that_lost_the_artifacts_makes_nobody_unready(scene: Scene, is_slow: bool) -> None:
    """The source fetches again, and those who were content stay so meanwhile."""
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    scene.start()
    scene.until_converged()
    scene.crash()
    before = len(verdicts(scene))
    with scene.git.behave(f"/{scene.namespace}.git/*", late(1.5 if is_slow else 0.0)):
        scene.start()
        token = scene.request("Kustomization")
        scene.handled("Kustomization", token)
    scene.until_converged()
    assert "False" not in verdicts(scene)[before:]


def test_T20_lost_artifacts_that_cannot_be_fetched_are_told_and_nothing_goes(scene: Scene) -> None:
    """A restart without artifacts while the Git server is down: KEEP, and the truth."""
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    scene.start()
    scene.until_converged()
    owned = scene.owned_objects()
    scene.crash()
    with scene.git.behave(f"/{scene.namespace}.git/*", say(503)):
        scene.start("--requeue-dependency=2s")
        scene.until_reason("GitRepository", "GitOperationFailed")
        seen = scene.until_reason("Kustomization", "ArtifactFailed")
        assert seen["status"]["lastAppliedRevision"] == scene.pushed[-1].revision
        assert scene.owned_objects() == owned
        scene.verify_inventories()
    scene.until_converged()


def test_s15_7_a_suspended_source_gets_back_what_a_restart_lost(scene: Scene) -> None:
    """Just what it had, although the branch has moved on; who builds from it never fails."""
    first = scene.push(config_maps(3, key="1"))
    scene.source(ignore="# nothing\n*.md\n")
    scene.kustomization()
    scene.start()
    scene.until_converged()
    artifact = source_of(scene)["status"]["artifact"]
    suspend(scene, True)
    scene.push({**config_maps(3, key="2"), "more.md": "x"})
    scene.crash()
    scene.start("--requeue-dependency=1s")
    until(lambda: _served(artifact, scene), what="the artifact")
    seen = source_of(scene)
    assert seen["status"]["artifact"] | {"url": ""} == artifact | {"url": ""}
    scene.request("Kustomization")
    scene.until_applied(first)
    scene.verify_inventories()
    suspend(scene, False)
    scene.until_converged()


def suspend(scene: Scene, yes: bool) -> None:
    scene.api.merge(SOURCE_API, "GitRepository", "app", {"spec": {"suspend": yes}}, scene.namespace)


def source_of(scene: Scene) -> Obj:
    found = scene.get("GitRepository")
    assert found is not None
    return found


def _served(artifact: Mapping[str, Any], scene: Scene) -> bool:
    """Whether the new daemon hands out the artifact's very bytes."""
    address = f"http://{scene.daemon.address('storage')}/{artifact['path']}"
    try:
        with urllib.request.urlopen(address) as answer:
            return f"sha256:{hashlib.sha256(answer.read()).hexdigest()}" == artifact["digest"]
    except OSError:
        return False


def verdicts(scene: Scene) -> list[str]:
    """Every status of Ready that was written to a Kustomization."""
    found = []
    for event in scene.audit():
        target = event["objectRef"]
        is_status = (target["resource"], target.get("subresource")) == ("kustomizations", "status")
        if is_status and event["responseStatus"]["code"] == 200:
            found.append(condition(event["responseObject"]).get("status", ""))
    return found


@pytest.mark.parametrize("is_late", [False, True], ids=["unwritten", "unheard"])
def test_T12_killed_between_an_artifact_and_the_status_that_tells_of_it(
    scene: Scene, proxy: FaultProxy, killer: Killer, tmp_path: Path, is_late: bool
) -> None:
    """The status never points at what is not there, and half a file of a dead process goes."""
    scene.storage = tmp_path / "artifacts"
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    killer.strike(1, verb="patch", resource=SOURCES, subresource="status", says=b'"artifact"', is_late=is_late)
    scene.start(through=proxy)
    killer.wait()
    half = next(path for path in scene.storage.rglob("*") if path.is_file()).with_name(f".tmp-{scene.daemon.pid}-half")
    half.write_bytes(b"half")
    scene.start(through=proxy)
    scene.until_converged()
    source = scene.get("GitRepository")
    assert source is not None
    artifact = source["status"]["artifact"]
    with urllib.request.urlopen(artifact["url"], timeout=10) as answer:
        body = answer.read()
    assert artifact["digest"] == f"sha256:{hashlib.sha256(body).hexdigest()}"
    assert artifact["size"] == len(body)
    assert not half.exists()


@pytest.mark.parametrize("is_late", [False, True], ids=["unwritten", "unheard"])
@pytest.mark.parametrize("had_run", [False, True], ids=["first", "later"])
def test_T13_killed_between_apply_and_inventory(
    scene: Scene, proxy: FaultProxy, killer: Killer, had_run: bool, is_late: bool
) -> None:
    """What is in no inventory is found, although the next revision has neither the objects nor their kind."""
    scene.source()
    scene.push(config_maps(2, prefix="old", key="1"))
    if had_run:
        scene.kustomization()
        scene.start(through=proxy)
        scene.until_converged()
    lost = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: lost}\n"
    scene.push({**config_maps(3, prefix="lost"), "account.yaml": lost})
    killer.strike_verdict(is_late=is_late)
    if had_run:
        scene.request("GitRepository")
    else:
        scene.kustomization()
        scene.start(through=proxy)
    killer.wait()
    assert len([obj for obj in scene.owned_objects() if obj["metadata"]["name"].startswith("lost")]) == 4
    scene.push({"account.yaml": None, **{f"lost-{number:03}.yaml": None for number in range(3)}})
    scene.start(through=proxy)
    scene.until_converged()
    assert not _has(scene, "lost"), "what was in no inventory was lost track of"


def test_T13_progress_that_is_shown_early_hides_nothing(scene: Scene, proxy: FaultProxy, killer: Killer) -> None:
    """The look for what is in no inventory takes long: nobody may be told of an attempt before it has ended."""
    scene.source()
    scene.push(config_maps(3, prefix="lost", key="1"))
    killer.strike_verdict()
    scene.kustomization()
    scene.start(through=proxy)
    killer.wait()
    scene.push({**config_maps(2, prefix="new", key="1"), **{f"lost-{number:03}.yaml": None for number in range(3)}})
    proxy.behave(lambda request: "labelSelector" in request.query_string, late(1.0))
    scene.start(through=proxy)
    scene.until_converged()
    assert not _has(scene, "lost"), "what was in no inventory was lost track of"


def _has(scene: Scene, prefix: str) -> bool:
    return any(obj["metadata"]["name"].startswith(prefix) for obj in scene.owned_objects())


def test_T13_killed_between_apply_and_inventory_and_then_deleted(
    scene: Scene, proxy: FaultProxy, killer: Killer
) -> None:
    """A Kustomization that goes before anybody looked again takes everything with it."""
    scene.source()
    scene.push(config_maps(3, key="1"))
    scene.kustomization()
    killer.strike_verdict()
    scene.start(through=proxy)
    killer.wait()
    assert len(scene.owned_objects()) == 3
    scene.api.delete("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "app", scene.namespace)
    scene.start(through=proxy)
    scene.until("Kustomization", "app", lambda obj: obj is None)
    assert scene.owned_objects() == []
    scene.pushed.clear()  # its commits asked for no deletion, the user did


def test_T13_what_others_labelled_is_left_alone(scene: Scene, proxy: FaultProxy, killer: Killer) -> None:
    """spec/hostile-inputs.md P12: labels alone make nobody's object ours, not even after a kill."""
    scene.source()
    scene.push(config_maps(2, key="1"))
    owner = {"name": "app", "namespace": scene.namespace}
    labels = {f"{OWNER}/{key}": text for key, text in owner.items()}
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "foreign", "labels": labels}}
    scene.api.apply(foreign, scene.namespace)
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "older", "labels": labels}}
    scene.api.apply(old, scene.namespace, manager="kustomize-controller")
    until(lambda: _second_passed(scene), what="the next second")
    scene.kustomization()
    killer.strike_verdict()
    scene.start(through=proxy)
    killer.wait()
    scene.start(through=proxy)
    scene.until_converged()
    for name in ("foreign", "older"):
        assert scene.get("ConfigMap", name) is not None
        scene.api.delete("v1", "ConfigMap", name, scene.namespace)


def _second_passed(scene: Scene) -> bool:
    """Whether the API server's clock shows another second than that of the last object."""
    probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "clock-"}}
    made = scene.api.create(probe, scene.namespace)
    older = scene.get("ConfigMap", "older")
    assert older is not None
    return bool(made["metadata"]["creationTimestamp"] > older["metadata"]["creationTimestamp"])


def test_T02_killed_amid_a_prune_repeats_it(scene: Scene, proxy: FaultProxy, killer: Killer) -> None:
    """The status that a slow prune shows on its way still names what is not deleted yet."""
    scene.source()
    scene.push(config_maps(12, key="1"))
    scene.kustomization()
    scene.start(through=proxy)
    scene.until_converged()
    scene.push({f"cm-{number:03}.yaml": None for number in range(10)})
    proxy.inject(late(0.4), verbs={"delete"}, resource="configmaps")
    scene.request("GitRepository")
    scene.until("Kustomization", "app", lambda obj: condition(obj, "Reconciling").get("status") == "True")
    assert len(scene.owned_objects()) > 2, "the kill came too late to prove anything"
    scene.crash()
    scene.verify_nothing_lost()
    proxy.heal()
    scene.start(through=proxy)
    scene.until_converged()
