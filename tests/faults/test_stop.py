"""The daemon ends when it is asked to: soon, politely, and with its last word written (T44)."""

from __future__ import annotations

import signal

import pytest

from tests.faults import proxy as faults
from tests.faults.proxy import FaultProxy
from tests.faults.scene import KUSTOMIZATIONS, Scene, condition, config_map, config_maps, inventory_of, until
from tests.servers import trouble

STUCK = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}
"""


def waits_for_health(scene: Scene, name: str = "app") -> None:
    """Wait until the Kustomization waits."""
    scene.until(
        "Kustomization",
        name,
        lambda obj: "Running health checks" in condition(obj, "Reconciling").get("message", ""),
    )


def test_T44_an_idle_daemon_ends_with_code_zero(scene: Scene) -> None:
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    daemon = scene.start()
    scene.until_converged()
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=10) == 0
    assert '"msg":"stopped"' in daemon.log_text()


def test_T44_a_wait_for_health_is_cut_short_and_what_it_knew_is_written(scene: Scene) -> None:
    revision = scene.push({"disk.yaml": STUCK, "cm.yaml": config_map("one")})
    scene.source()
    scene.kustomization(wait=True, timeout="10m")
    daemon = scene.start()
    waits_for_health(scene)
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=15) == 0
    seen = scene.get("Kustomization")
    assert seen is not None
    assert inventory_of(seen) == {
        f"{scene.namespace}_disk__PersistentVolumeClaim",
        f"{scene.namespace}_one__ConfigMap",
    }
    assert seen["status"]["lastAttemptedRevision"] == revision
    assert condition(seen)["status"] != "True"
    scene.start()
    waits_for_health(scene)


def test_T44_a_second_signal_ends_it_at_once(scene: Scene) -> None:
    """The first one waits for an apply whose requests hang, the second does not."""
    proxy = scene.proxy()
    scene.push(config_maps(3, key="1"))
    scene.source()
    scene.kustomization()
    proxy.inject(trouble.never(), verbs={"apply"}, resource="configmaps")
    daemon = scene.start("--graceful-shutdown-timeout=60s", through=proxy)
    until(lambda: proxy.troubles[0].used, what="an apply")
    daemon.send(signal.SIGTERM)
    until(lambda: '"msg":"stopping"' in daemon.log_text(), what="the stop")
    assert daemon.is_running
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=5) != 0


def test_T44_an_apply_in_progress_ends_at_an_object_and_is_accounted_for(scene: Scene) -> None:
    """A stop amid sixty writes loses none of them (V3), and the next start goes on from there."""
    proxy = scene.proxy()
    scene.push(config_maps(60, key="1"))
    scene.source()
    scene.kustomization()
    proxy.inject(trouble.late(0.1), verbs={"apply"}, resource="configmaps")
    daemon = scene.start("--graceful-shutdown-timeout=1s", through=proxy)
    until(lambda: len(writes(proxy)) > 5, what="the first writes")
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=20) == 0
    assert len(writes(proxy)) < 60, "the stop came too late to prove anything"
    scene.verify_nothing_lost()
    proxy.heal()
    scene.start()
    scene.until_converged()


def test_T44_a_daemon_that_never_saw_the_api_server_ends_too(scene: Scene) -> None:
    proxy = scene.proxy()
    proxy.refuse()
    daemon = scene.start(through=proxy, wait=False)
    until(lambda: daemon.get("health", "/healthz") == "ok", what="life")
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=10) == 0


@pytest.mark.parametrize("code", [500, 429])
def test_T44_an_end_while_nothing_can_be_written(scene: Scene, code: int) -> None:
    """The last status cannot be written; the end does not wait for it for ever."""
    proxy = scene.proxy()
    scene.push({"disk.yaml": STUCK})
    scene.source()
    scene.kustomization(wait=True, timeout="10m")
    daemon = scene.start(through=proxy)
    waits_for_health(scene)
    proxy.inject(faults.api_status(code), verbs={"patch"}, resource=KUSTOMIZATIONS)
    daemon.send(signal.SIGTERM)
    assert daemon.wait(timeout=25) == 0


def writes(proxy: FaultProxy) -> list[faults.ApiRequest]:
    """The real applies of ConfigMaps that were answered."""
    return [seen for seen in proxy.log if seen.verb == "apply" and seen.is_write]
