"""manifests/install.yaml on a real API server of its own: it applies without a warning and grants what it says."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tools import manifests
from tools.controlplane import build

pytestmark = pytest.mark.control_plane
DAEMON = "system:serviceaccount:flux-system:gitopsd"
SAMPLES = Path(__file__).parents[3] / "manifests" / "samples"


@pytest.fixture(scope="module")
def installed() -> Iterator[ControlPlane]:
    """A control plane in which nothing but the bundle was applied."""
    with ControlPlane() as control_plane:
        done = subprocess.run(
            [
                build.binaries(frozenset({"kubectl"}))["kubectl"],
                *("apply", "--server-side", "-f", manifests.BUNDLE, "--kubeconfig", control_plane.kubeconfig),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "deployment.apps/gitopsd serverside-applied" in done.stdout
        yield control_plane


def may(control_plane: ControlPlane, verb: str, resource: str, *, user: str, namespace: str = "flux-system") -> bool:
    group, _, name = resource.rpartition("/")
    review = control_plane.api.request(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user,
                "resourceAttributes": {"verb": verb, "group": group, "resource": name, "namespace": namespace},
            },
        },
    )
    return bool(review["status"]["allowed"])


def becomes(control_plane: ControlPlane, verb: str, resource: str, *, user: str, namespace: str, allowed: bool) -> bool:
    """Whether a right is given (or taken) before long: the server's authorizer learns of a change by a watch."""
    deadline = time.monotonic() + 10
    while may(control_plane, verb, resource, user=user, namespace=namespace) is not allowed:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_bundle_is_what_its_source_says() -> None:
    assert manifests.rendered() == manifests.BUNDLE.read_text(encoding="utf-8")


def test_the_bundle_applies_without_a_warning(installed: ControlPlane) -> None:
    """The namespace warns of pods below the restricted level: ours is not one of them."""
    deployment = installed.api.get("apps/v1", "Deployment", "gitopsd", "flux-system")
    assert deployment is not None
    assert deployment["metadata"]["generation"] == 1


def test_the_daemon_may_do_everything(installed: ControlPlane) -> None:
    assert may(installed, "create", "apps/deployments", user=DAEMON, namespace="default")
    assert may(installed, "impersonate", "serviceaccounts", user=DAEMON, namespace="default")


def test_without_the_reconciler_binding_only_its_own_work_is_left(installed: ControlPlane) -> None:
    """spec/runtime.md 4.2: locking down is removing one binding."""
    installed.api.delete("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "cluster-reconciler-flux-system")
    installed.kubectl("wait", "--for=delete", "clusterrolebinding/cluster-reconciler-flux-system", "--timeout=10s")
    for verb, resource in (
        ("patch", "source.toolkit.fluxcd.io/gitrepositories"),
        ("patch", "helm.toolkit.fluxcd.io/helmreleases"),
        ("watch", "secrets"),
        ("patch", "events"),
        ("update", "coordination.k8s.io/leases"),
    ):
        assert may(installed, verb, resource, user=DAEMON), f"{verb} {resource}"
    for verb, resource in (
        ("create", "apps/deployments"),
        ("create", "secrets"),
        ("delete", "namespaces"),
        ("impersonate", "serviceaccounts"),
    ):
        assert becomes(installed, verb, resource, user=DAEMON, namespace="flux-system", allowed=False), (
            f"{verb} {resource}"
        )


def test_viewers_and_editors_of_a_namespace_may_so_with_our_kinds(installed: ControlPlane) -> None:
    """The two aggregated roles."""
    installed.kubectl("create", "namespace", "team")
    for role, user in (("view", "viewer"), ("edit", "editor")):
        installed.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={user}", "-n", "team")
    kind = "kustomize.toolkit.fluxcd.io/kustomizations"
    assert becomes(installed, "list", kind, user="viewer", namespace="team", allowed=True)
    assert becomes(installed, "patch", kind, user="editor", namespace="team", allowed=True)
    assert not may(installed, "patch", kind, user="viewer", namespace="team")
    assert not may(installed, "list", kind, user="viewer", namespace="flux-system")


def test_the_samples_are_accepted(installed: ControlPlane) -> None:
    out = installed.kubectl("apply", "-f", str(SAMPLES))
    assert "gitrepository.source.toolkit.fluxcd.io/platform-apps created" in out
    assert "kustomization.kustomize.toolkit.fluxcd.io/web-api created" in out
