"""The main job, end to end: a commit becomes objects, stays so, and goes when it went from Git."""

from __future__ import annotations

import pytest

from tests.flows.stage import Stage, condition, config_map, is_ready

STUCK = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}
"""


def test_a_commit_becomes_objects_and_the_status_says_so(stage: Stage) -> None:
    """spec/kustomize.md 1.3, 2.2"""
    revision = stage.push({"deploy/cm.yaml": config_map("one", key="value")})
    stage.source()
    stage.kustomization(path="./deploy")
    seen = stage.until_applied(revision)
    assert condition(seen)["message"] == f"Applied revision: {revision}"
    assert seen["status"]["inventory"]["entries"] == [{"id": f"{stage.namespace}_one__ConfigMap", "v": "v1"}]
    assert seen["status"]["lastAttemptedRevision"] == revision
    found = stage.get("ConfigMap", "one")
    assert found is not None
    assert found["data"] == {"key": "value"}
    assert found["metadata"]["labels"] == {
        "kustomize.toolkit.fluxcd.io/name": "app",
        "kustomize.toolkit.fluxcd.io/namespace": stage.namespace,
    }


def test_a_push_is_applied_when_the_source_is_asked_and_a_removed_file_is_pruned(stage: Stage) -> None:
    stage.push({"one.yaml": config_map("one", key="1"), "two.yaml": config_map("two")})
    stage.source()
    stage.kustomization()
    stage.until_ready("Kustomization")
    revision = stage.push({"one.yaml": config_map("one", key="2"), "two.yaml": None})
    stage.refetch()
    seen = stage.until_applied(revision)
    assert (stage.get("ConfigMap", "one") or {})["data"] == {"key": "2"}
    assert stage.get("ConfigMap", "two") is None
    assert [entry["id"] for entry in seen["status"]["inventory"]["entries"]] == [f"{stage.namespace}_one__ConfigMap"]


def test_a_broken_commit_changes_nothing_and_the_fix_heals(stage: Stage) -> None:
    """spec/kustomize.md 2.3 BuildFailed"""
    good = stage.push({"kustomization.yaml": "resources: [cm.yaml]\n", "cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization()
    stage.until_applied(good)
    stage.push({"kustomization.yaml": "resources: [cm.yaml, missing.yaml]\n"})
    stage.refetch()
    seen = stage.until_reason("Kustomization", "BuildFailed")
    assert condition(seen)["message"].startswith("kustomize build failed: ")
    assert seen["status"]["lastAppliedRevision"] == good
    assert stage.get("ConfigMap", "one") is not None
    fixed = stage.push({"kustomization.yaml": "resources: [cm.yaml]\n"})
    stage.refetch()
    stage.until_applied(fixed)


def test_a_chain_of_ten_advances_by_events(stage: Stage) -> None:
    """spec/kustomize.md 3.3, 9.3; spec/hostile-inputs.md T63"""
    stage.push({f"{number}/cm.yaml": config_map(f"cm-{number}") for number in range(10)})
    for number in reversed(range(10)):
        after = {"dependsOn": [{"name": f"link-{number - 1}"}]} if number else {}
        stage.kustomization(f"link-{number}", path=f"./{number}", wait=True, **after)
    stage.until_reason("Kustomization", "ArtifactFailed", "link-9")
    stage.source()
    for number in range(10):
        stage.until_ready("Kustomization", f"link-{number}", timeout=20)


def test_T64_a_fix_does_not_wait_for_the_health_check_of_what_it_fixes(stage: Stage) -> None:
    """spec/kustomize.md 6.5"""
    stage.push({"disk.yaml": STUCK})
    stage.source()
    stage.kustomization(wait=True, timeout="10m")
    stage.until(
        "Kustomization",
        "app",
        lambda obj: "Running health checks" in condition(obj, "Reconciling").get("message", ""),
    )
    revision = stage.push({"disk.yaml": None, "cm.yaml": config_map("one")})
    stage.refetch()
    stage.until_applied(revision)
    reasons = {event["reason"] for event in stage.events("Kustomization")}
    assert "HealthCheckCanceled" in reasons


def test_nothing_is_pruned_when_the_artifact_cannot_be_read(stage: Stage) -> None:
    """KEEP of spec/hostile-inputs.md: unreadable is not empty."""
    revision = stage.push({"app/cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization(path="./app")
    stage.until_applied(revision)
    stage.push({"app/cm.yaml": None, "other/cm.yaml": config_map("two")})
    stage.refetch()
    seen = stage.until_reason("Kustomization", "ArtifactFailed")
    assert condition(seen)["message"] == "kustomization path not found: stat app: no such file or directory"
    assert stage.get("ConfigMap", "one") is not None
    assert seen["status"]["lastAppliedRevision"] == revision


def test_suspend_pauses_and_resume_catches_up(stage: Stage) -> None:
    stage.push({"cm.yaml": config_map("one", key="1")})
    stage.source()
    stage.kustomization()
    stage.until_ready("Kustomization")
    stage.api.merge(
        "kustomize.toolkit.fluxcd.io/v1", "Kustomization", "app", {"spec": {"suspend": True}}, stage.namespace
    )
    revision = stage.push({"cm.yaml": config_map("one", key="2")})
    stage.refetch()
    token = stage.request("Kustomization")
    stage.handled("Kustomization", token)
    assert (stage.get("ConfigMap", "one") or {})["data"] == {"key": "1"}
    stage.api.merge(
        "kustomize.toolkit.fluxcd.io/v1", "Kustomization", "app", {"spec": {"suspend": None}}, stage.namespace
    )
    stage.until_applied(revision)
    assert (stage.get("ConfigMap", "one") or {})["data"] == {"key": "2"}


def test_deleting_a_kustomization_removes_what_it_owns(stage: Stage) -> None:
    """spec/kustomize.md 5.4"""
    stage.push({"cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization()
    stage.until_ready("Kustomization")
    stage.api.delete("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "app", stage.namespace)
    stage.until("Kustomization", "app", lambda obj: obj is None)
    assert stage.get("ConfigMap", "one") is None


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"decryption": {"provider": "sops"}}, "spec.decryption"),
        ({"serviceAccountName": "tenant"}, "spec.serviceAccountName"),
        ({"kubeConfig": {"secretRef": {"name": "remote"}}}, "spec.kubeConfig"),
        (
            {"healthCheckExprs": [{"apiVersion": "example.com/v1", "kind": "Thing", "current": "true"}]},
            "spec.healthCheckExprs",
        ),
        ({"dependsOn": [{"name": "other", "readyExpr": "true"}]}, "spec.dependsOn[].readyExpr"),
    ],
)
def test_what_comes_later_is_said_and_never_ignored(stage: Stage, spec: dict[str, object], named: str) -> None:
    stage.push({"cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization(**spec)
    seen = stage.until_reason("Kustomization", "NotSupported")
    assert condition(seen)["message"] == f"{named} is not supported yet"
    assert condition(seen, "Stalled")["status"] == "True"
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    assert stage.get("ConfigMap", "one") is None


def test_a_later_kind_is_told_that_it_is_one(stage: Stage) -> None:
    api = "helm.toolkit.fluxcd.io/v2"
    chart = {"spec": {"chart": "podinfo", "sourceRef": {"kind": "HelmRepository", "name": "podinfo"}}}
    release = {
        "apiVersion": api,
        "kind": "HelmRelease",
        "metadata": {"name": "app"},
        "spec": {"interval": "1m", "chart": chart},
    }
    stage.api.apply(release, stage.namespace)
    seen = stage.until("HelmRelease", "app", lambda obj: condition(obj).get("reason") == "NotSupported", api=api)
    assert condition(seen)["message"] == "HelmRelease is not supported yet"
    assert condition(seen, "Stalled")["status"] == "True"


def test_s5_4_a_source_that_did_not_move_costs_no_new_artifact(stage: Stage) -> None:
    """spec/source.md 5.4"""
    stage.push({"cm.yaml": config_map("one")})
    stage.source()
    first = stage.until_ready("GitRepository")["status"]["artifact"]
    seen = stage.refetch()
    assert seen["status"]["artifact"] == first
    assert is_ready(seen)
