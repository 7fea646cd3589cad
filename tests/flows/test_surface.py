"""What others read of the daemon: metrics, probes, artifact files, log lines, events."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import Stage, config_map
from tests.servers.git import GitServer
from tests.servers.webhook import WebhookServer

_METRICS = """
gotk_reconcile_duration_seconds_bucket gotk_reconcile_duration_seconds_sum gotk_reconcile_duration_seconds_count
controller_runtime_reconcile_total controller_runtime_reconcile_errors_total
controller_runtime_reconcile_time_seconds_bucket
controller_runtime_active_workers controller_runtime_max_concurrent_reconciles
workqueue_depth workqueue_adds_total workqueue_retries_total workqueue_queue_duration_seconds_bucket
workqueue_work_duration_seconds_count workqueue_unfinished_work_seconds workqueue_longest_running_processor_seconds
rest_client_requests_total process_cpu_seconds_total process_resident_memory_bytes process_open_fds go_info
""".split()  # noqa: SIM905 - a list of names reads best as words


def test_metrics_have_the_names_that_dashboards_ask_for(stage: Stage, daemon: Daemon) -> None:
    """spec/runtime.md 2.1, 2.2"""
    stage.push({"cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization()
    stage.until_ready("Kustomization")
    sample = f'kind="Kustomization",le="0.01",name="app",namespace="{stage.namespace}"'
    # A run is counted when it is over, a moment after its status was written.
    assert daemon.until(lambda: f"_bucket{{{sample}}}" in daemon.get("metrics", "/metrics"))
    text = daemon.get("metrics", "/metrics")
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert set(_METRICS) <= names
    assert f"gotk_reconcile_duration_seconds_bucket{{{sample}}}" in text
    for result in ("success", "error", "requeue", "requeue_after"):
        assert f'controller_runtime_reconcile_total{{controller="helmrelease",result="{result}"}}' in text
    assert "_created" not in text


def test_the_series_of_an_object_go_with_it(stage: Stage, daemon: Daemon) -> None:
    """spec/runtime.md 2.1"""
    stage.push({"cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization("passing")
    stage.until_ready("Kustomization", "passing")
    assert daemon.until(lambda: 'name="passing"' in daemon.get("metrics", "/metrics"))
    stage.api.delete("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "passing", stage.namespace)
    stage.until("Kustomization", "passing", lambda obj: obj is None)
    assert daemon.until(lambda: 'name="passing"' not in daemon.get("metrics", "/metrics"))
    stage.kustomization("next")
    stage.until_ready("Kustomization", "next")
    assert 'name="passing"' not in daemon.get("metrics", "/metrics"), "the last run brought its series back"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz/ping", "/readyz/ping"])
def test_probes_answer(daemon: Daemon, path: str) -> None:
    """spec/runtime.md 3"""
    assert daemon.get("health", path) == "ok"
    assert "passed" in daemon.get("health", f"{path}?verbose") or path.endswith("ping")


def test_s4_1_an_artifact_is_what_its_status_says(stage: Stage) -> None:
    """spec/source.md 4.1, 4.3, 4.5"""
    stage.push(
        {"a.yaml": config_map("one"), "dir/run.sh": {"exec": "#!/bin/sh\n"}, "img.png": "x", "link": {"link": "a.yaml"}}
    )
    stage.source()
    artifact = stage.until_ready("GitRepository")["status"]["artifact"]
    with urllib.request.urlopen(artifact["url"], timeout=5) as answer:
        data = answer.read()
    assert artifact["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert artifact["size"] == len(data)
    assert artifact["path"] == f"gitrepository/{stage.namespace}/app/{stage.repository.commits[-1]}.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        members = [(member.name, oct(member.mode)) for member in archive]
    assert members == [(".", "0o750"), ("a.yaml", "0o600"), ("dir", "0o750"), ("dir/run.sh", "0o700")]
    request = urllib.request.Request(artifact["url"], headers={"Range": "bytes=0-1"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert (answer.status, answer.read()) == (206, b"\x1f\x8b")


def test_every_log_line_is_one_that_flux_logs_can_read(stage: Stage, daemon: Daemon) -> None:
    """spec/cli.md 17.3"""
    stage.push({"kustomization.yaml": "resources: [missing.yaml]\n"})
    stage.source()
    stage.kustomization()
    stage.until_reason("Kustomization", "BuildFailed")
    own = daemon.until(lambda: _errors(daemon, stage.namespace))
    lines = daemon.log_lines()
    for line in lines:
        for key in ("ts", "level", "msg", "error", "logger", "controllerKind", "name", "namespace"):
            assert isinstance(line.get(key, ""), str), line
        assert line["level"] in ("trace", "debug", "info", "error")
    assert own
    assert own[-1]["controllerKind"] == "Kustomization"
    assert own[-1]["Kustomization"] == {"name": "app", "namespace": stage.namespace}
    assert own[-1]["error"].startswith("kustomize build failed: ")
    assert own[-1]["msg"].startswith("Reconciliation failed after ")


def _errors(daemon: Daemon, namespace: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log_lines() if line.get("namespace") == namespace and line["level"] == "error"]


@pytest.fixture
def receiver() -> Iterator[WebhookServer]:
    with WebhookServer() as server:
        yield server


def test_events_reach_the_receiver(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, receiver: WebhookServer
) -> None:
    """spec/runtime.md 1.5"""
    own = Daemon(
        control_plane.kubeconfig,
        arguments=[f"--events-addr={receiver.url}/", "--watch-all-namespaces=false"],
        runtime_namespace=namespace,
    )
    try:
        own.start()
        stage = Stage(control_plane, git_server, namespace)
        revision = stage.push({"cm.yaml": config_map("one")})
        stage.source()
        stage.kustomization()
        stage.until_applied(revision)
        event = receiver.wait_for_post(lambda one: one["reason"] == "ReconciliationSucceeded")
        assert event["involvedObject"]["kind"] == "Kustomization"
        assert event["involvedObject"]["namespace"] == namespace
        assert event["severity"] == "info"
        assert event["reportingController"] == "kustomize-controller"
        assert event["metadata"] == {
            "kustomize.toolkit.fluxcd.io/revision": revision,
            "kustomize.toolkit.fluxcd.io/commit_status": "update",
        }
    finally:
        own.close()
