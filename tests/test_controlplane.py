"""What tests rely on: the control plane comes up, breaks on request, and never outlives whoever started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiclient import ApiClient, ApiStatusError
from tests.controlplane import ControlPlane
from tests.processes import Processes

pytestmark = pytest.mark.control_plane

ROOT = Path(__file__).resolve().parent.parent

_STARTS_ONE_AND_DIES = """
import os, signal, sys
from tests.controlplane import ControlPlane
control_plane = ControlPlane().start()
print(control_plane.folder, flush=True)
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def own() -> Iterator[ControlPlane]:
    """A control plane that tests may break."""
    with ControlPlane(nodes=2, users={"reader": ["readers"]}, audit=True) as control_plane:
        yield control_plane


def _processes_naming(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


@pytest.mark.parametrize("end", ["kill", "forget"])
def test_nothing_outlives_a_process_that_dies(end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STARTS_ONE_AND_DIES, end], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0), done.stderr
    folder = done.stdout.strip()
    assert "gitopsd-controlplane" in folder
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (_processes_naming(folder) or Path(folder).exists()):
        time.sleep(0.05)
    assert _processes_naming(folder) == []
    assert not Path(folder).exists()


def test_a_closed_folder_of_processes_is_gone() -> None:
    with Processes("gitopsd-test") as processes:
        sleeper = processes.start("sleep", ["sleep", "1000"])
        assert processes.stop(processes.start("true", ["sh", "-c", "echo hello; sleep 1000"])) == -signal.SIGTERM
        folder = processes.folder
    assert sleeper.returncode == -signal.SIGKILL
    assert not folder.exists()


def test_deployments_become_ready_and_jobs_complete_on_pretended_nodes(own: ControlPlane) -> None:
    namespace = own.create_namespace()
    containers = [{"name": "c", "image": "none"}]
    selector = {"matchLabels": {"a": "b"}}
    for name, pretend in (("good", ""), ("hanging", "hang")):
        metadata = {"labels": {"a": "b"}, "annotations": {"gitopsd.dev/pretend": pretend}}
        template = {"metadata": metadata, "spec": {"containers": containers}}
        own.api.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name},
                "spec": {"replicas": 2, "selector": selector, "template": template},
            },
            namespace,
        )
    for name, pretend in (("good", ""), ("bad", "fail")):
        annotations = {"annotations": {"gitopsd.dev/pretend": pretend}}
        spec = {"containers": containers, "restartPolicy": "Never"}
        job = {"backoffLimit": 0, "template": {"metadata": annotations, "spec": spec}}
        own.api.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job}, namespace)
    own.api.until("apps/v1", "Deployment", "good", namespace, lambda obj: _status(obj).get("readyReplicas") == 2)
    own.api.until("batch/v1", "Job", "good", namespace, lambda obj: _status(obj).get("succeeded") == 1)
    own.api.until("batch/v1", "Job", "bad", namespace, lambda obj: _status(obj).get("failed") == 1)
    hanging = own.api.get("apps/v1", "Deployment", "hanging", namespace)
    assert _status(hanging).get("readyReplicas") is None
    own.api.delete("apps/v1", "Deployment", "good", namespace)
    own.api.until("apps/v1", "Deployment", "good", namespace, lambda obj: obj is None)


def _status(obj: dict[str, object] | None) -> dict[str, object]:
    status = (obj or {}).get("status", {})
    assert isinstance(status, dict)
    return status


def test_users_have_the_rights_of_their_groups(own: ControlPlane) -> None:
    with pytest.raises(ApiStatusError, match='User "reader" cannot list'):
        own.client_for("reader").list("v1", "Secret", "default")
    own.kubectl("create", "clusterrolebinding", "readers", "--clusterrole=view", "--group=readers")
    assert own.kubectl("get", "configmaps", kubeconfig=own.kubeconfig_for("reader")) is not None
    with pytest.raises(AssertionError, match="Forbidden"):
        own.kubectl("get", "secrets", kubeconfig=own.kubeconfig_for("reader"))
    by_certificate = own.kubeconfig_for("somebody:else", ["readers"])
    assert "somebody:else" in own.kubectl("auth", "whoami", kubeconfig=by_certificate)


def test_the_audit_log_tells_who_asked_for_what(own: ControlPlane) -> None:
    own.kubectl("get", "nodes")
    verbs = {(event["verb"], event["user"]["username"]) for event in own.audit_events()}
    assert ("list", "admin") in verbs


def test_the_apiserver_comes_back_with_its_data(own: ControlPlane) -> None:
    namespace = own.create_namespace()
    own.stop_apiserver()
    with pytest.raises(ConnectionError):
        own.api.request("GET", "/readyz")
    own.start_apiserver()
    assert own.api.get("v1", "Namespace", namespace)
    own.kill_apiserver()
    own.start_apiserver()
    assert own.api.get("v1", "Namespace", namespace)


def test_a_standing_etcd_lets_no_write_through(own: ControlPlane) -> None:
    own.pause_etcd()
    try:
        with pytest.raises(ApiStatusError, match=r"timed out|[Tt]imeout"):
            own.api.request(
                "POST",
                "/api/v1/namespaces",
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}},
                params={"timeout": "1s"},
            )
    finally:
        own.resume_etcd()
    assert own.create_namespace()


def test_crds_are_served_after_their_installation(own: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "crds.yaml").write_text(_CRD)
    own.install_crds(tmp_path)
    own.api.create({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}}, "default")
    assert own.api.list("example.com/v1", "Thing", "default")[0]["metadata"]["name"] == "x"


def test_its_metrics_can_be_read(own: ControlPlane) -> None:
    assert "apiserver_request_total{" in own.metrics()


def test_as_a_program_it_prints_how_to_use_it_and_ends_on_interrupt() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.controlplane"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    kubeconfig = Path(lines[1].removeprefix("export KUBECONFIG=").strip())
    assert kubeconfig.is_file()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    process.stdout.close()
    assert not kubeconfig.exists()


def test_clients_survive_a_restart_of_their_server(own: ControlPlane) -> None:
    client = ApiClient(own.server, own.authority.client_context(), own.admin_token)
    assert client.request("GET", "/readyz") == "ok"
    own.kill_apiserver()
    own.start_apiserver()
    assert client.request("GET", "/readyz") == "ok"
    client.close()


_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
