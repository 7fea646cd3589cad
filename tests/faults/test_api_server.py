"""The API server, or etcd behind it, goes away and comes back; the daemon does what it can and then catches up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane
from tests.faults.conftest import FULL
from tests.faults.scene import Scene, condition, config_map, config_maps, until
from tests.faults.test_stop import STUCK, waits_for_health

AWAY = 20.0
PAUSED = 60.0 if FULL else 10.0


@pytest.fixture(autouse=True)
def whole_again(control_plane: ControlPlane) -> Iterator[None]:
    """Whatever a test did to the control plane is undone before the scene is looked at."""
    yield
    control_plane.resume_etcd()
    control_plane.start_apiserver()


def busy_scene(scene: Scene) -> None:
    """One Kustomization idle, one waiting for health, and one about to apply a lot."""
    scene.push(
        {f"idle/{path}": text for path, text in config_maps(3, prefix="idle", key="1").items()}
        | {"wait/disk.yaml": STUCK}
        | {f"apply/{path}": text for path, text in config_maps(100, prefix="apply", key="1").items()}
    )
    scene.source()
    scene.kustomization("idle", path="./idle")
    scene.kustomization("wait", path="./wait", wait=True, timeout="10m")


def amid_the_apply(scene: Scene) -> None:
    """Let the third Kustomization begin, and wait until some of its objects are there."""
    scene.kustomization("apply", path="./apply")
    until(lambda: len(scene.creations()) > 20, what="the apply")


def recovers(scene: Scene) -> None:
    """All three go on by themselves, and a new commit reaches them."""
    scene.until_converged("idle", "apply")
    waits_for_health(scene, "wait")
    scene.push({"wait/disk.yaml": None, "wait/cm.yaml": config_map("waited"), "idle/more.yaml": config_map("more")})
    scene.request("GitRepository")
    scene.until_converged()


def stays_alive(scene: Scene, seconds: float) -> None:
    """The process lives and answers, all the time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert scene.daemon.is_running
        assert scene.daemon.get("health", "/healthz") == "ok"
        time.sleep(0.2)


@pytest.mark.parametrize("politely", [False, True] if FULL else [False], ids=["killed", "ended"][: 1 + FULL])
def test_T01_the_api_server_goes_amid_an_apply_and_comes_back(
    scene: Scene, control_plane: ControlPlane, politely: bool
) -> None:
    busy_scene(scene)
    scene.start()
    scene.until_converged("idle")
    waits_for_health(scene, "wait")
    amid_the_apply(scene)
    control_plane.stop_apiserver() if politely else control_plane.kill_apiserver()
    stays_alive(scene, AWAY)
    control_plane.start_apiserver()
    scene.until_served()
    recovers(scene)
    assert set(scene.creations().values()) == {1}
    told = [event for event in scene.events("Kustomization", "idle") if event["type"] == "Warning"]
    assert told == [], "an idle object has nothing to complain about"


def test_T02_a_prune_in_doubt_is_repeated(scene: Scene, control_plane: ControlPlane) -> None:
    """The API server dies amid deletions: none is skipped, none is done to what is wanted."""
    scene.push(config_maps(60, key="1"))
    scene.source()
    scene.kustomization()
    scene.start()
    scene.until_converged()
    scene.push({f"cm-{number:03}.yaml": None for number in range(50)})
    scene.request("GitRepository")
    until(lambda: [event for event in scene.audit() if event["verb"] == "delete"], what="the first deletion")
    control_plane.kill_apiserver()
    control_plane.start_apiserver()
    scene.until_served()
    scene.until_converged()
    assert len(scene.owned_objects()) == 10


def test_T03_etcd_stands_still(scene: Scene, control_plane: ControlPlane) -> None:
    """Nothing is answered for a while; nobody dies of it and nothing is stalled."""
    busy_scene(scene)
    scene.start()
    scene.until_converged("idle")
    waits_for_health(scene, "wait")
    amid_the_apply(scene)
    control_plane.pause_etcd()
    stays_alive(scene, PAUSED)
    control_plane.resume_etcd()
    scene.until_served()
    recovers(scene)
    assert [condition(obj, "Stalled") for obj in scene.kustomizations()] == [{}] * 3


def test_T01_a_daemon_that_starts_first_waits_for_the_api_server(scene: Scene, control_plane: ControlPlane) -> None:
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    control_plane.stop_apiserver()
    daemon = scene.start(wait=False)
    until(lambda: daemon.get("health", "/healthz") == "ok", what="life")
    assert daemon.get("health", "/readyz").startswith("not ready")
    control_plane.start_apiserver()
    scene.until_served()
    scene.until_converged()
    daemon.wait_ready()
