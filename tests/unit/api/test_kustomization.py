"""Promises of the Kustomization (spec/kustomize.md 1)."""

from __future__ import annotations

from typing import Any

import pytest

from gitopsd.api.kustomization import Kustomization, KustomizationStatus
from gitopsd.api.parts import Inventory, InventoryEntry
from gitopsd.api.resource import DecodeError
from gitopsd.krm.objects import ObjectKey


def kustomization(**spec: Any) -> Kustomization:
    base = {"interval": "5m", "prune": True, "sourceRef": {"kind": "GitRepository", "name": "app"}}
    return Kustomization.from_object({"metadata": {"name": "cart", "namespace": "shop"}, "spec": base | spec})


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"interval": "5m"}, 270.0),
        ({"interval": "40s"}, 30.0),
        ({"interval": "10s"}, 30.0),
        ({"timeout": "1s"}, 30.0),
        ({"timeout": "30s"}, 30.0),
        ({"timeout": "10m"}, 600.0),
        ({"interval": "1h", "timeout": "2m0.5s"}, 120.5),
    ],
)
def test_the_timeout_is_the_interval_less_thirty_seconds_and_never_below_thirty(
    spec: dict[str, str], seconds: float
) -> None:
    """spec/kustomize.md 1.2, effective timeout."""
    assert kustomization(**spec).spec.effective_timeout == seconds


def test_a_failure_is_tried_again_after_the_retry_interval_or_the_interval() -> None:
    """spec/kustomize.md 1.2."""
    assert kustomization().spec.retry_seconds == 300.0
    assert kustomization(retryInterval="20s").spec.retry_seconds == 20.0


@pytest.mark.parametrize(
    ("policy", "prune", "effective"),
    [
        (None, True, "Delete"),
        (None, False, "Orphan"),
        ("MirrorPrune", True, "Delete"),
        ("MirrorPrune", False, "Orphan"),
        ("Delete", False, "Delete"),
        ("WaitForTermination", False, "WaitForTermination"),
        ("Orphan", True, "Orphan"),
    ],
)
def test_a_mirrored_deletion_policy_follows_prune(policy: str | None, effective: str, *, prune: bool) -> None:
    spec = {"prune": prune} | ({"deletionPolicy": policy} if policy else {})
    assert kustomization(**spec).spec.effective_deletion_policy == effective


def test_references_without_namespace_are_of_the_own_one() -> None:
    found = kustomization(dependsOn=[{"name": "a"}, {"name": "b", "namespace": "infra", "readyExpr": "true"}])
    assert found.source_key == ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "shop", "app")
    assert [key.path for key in found.dependency_keys] == ["shop/a", "infra/b"]
    elsewhere = kustomization(sourceRef={"kind": "Bucket", "name": "x", "namespace": "infra"})
    assert elsewhere.source_key == ObjectKey("source.toolkit.fluxcd.io", "Bucket", "infra", "x")


def test_a_health_check_means_apps_and_gets_no_namespace() -> None:
    """spec/kustomize.md 1.2: the two traps of healthChecks."""
    first, second = kustomization(
        healthChecks=[{"kind": "Deployment", "name": "web"}, {"apiVersion": "v1", "kind": "Service", "name": "web"}]
    ).spec.health_checks
    assert first.key == ObjectKey("apps", "Deployment", "", "web")
    assert second.key == ObjectKey("", "Service", "", "web")


def test_substitution_without_variables_has_to_be_asked_for() -> None:
    assert kustomization().spec.post_build is None
    always = kustomization(postBuild={"substituteStrategy": "Always"}).spec.post_build
    assert always is not None
    assert always.is_unconditional
    default = kustomization(postBuild={"substituteFrom": [{"kind": "ConfigMap", "name": "vars"}]}).spec.post_build
    assert default is not None
    assert not default.is_unconditional
    assert not default.substitute_from[0].optional


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"targetNamespace": "n" * 64}, "$.spec.targetNamespace"),
        ({"targetNamespace": ""}, "$.spec.targetNamespace"),
        ({"namePrefix": "p" * 201}, "$.spec.namePrefix"),
        ({"nameSuffix": ""}, "$.spec.nameSuffix"),
        ({"sourceRef": {"kind": "HelmRepository", "name": "x"}}, "$.spec.sourceRef.kind"),
        ({"buildMetadata": ["managedByLabel"]}, "$.spec.buildMetadata[0]"),
        ({"decryption": {"provider": "vault"}}, "$.spec.decryption.provider"),
        (
            {"postBuild": {"substituteFrom": [{"kind": "Secret", "name": ""}]}},
            "$.spec.postBuild.substituteFrom[0].name",
        ),
        ({"postBuild": {"substitute": {"a": 1}}}, "$.spec.postBuild.substitute"),
        ({"deletionPolicy": "Keep"}, "$.spec.deletionPolicy"),
        ({"ignore": [{"target": {}}]}, "$.spec.ignore[0]"),
        ({"retryInterval": "1d"}, "$.spec.retryInterval"),
    ],
)
def test_O01_what_the_schema_refuses_is_refused_when_it_is_read(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        kustomization(**spec)
    assert f"`{field}" in str(caught.value)


def test_an_inventory_of_nothing_is_written() -> None:
    """spec/kustomize.md 1.3: a run with no objects stores `entries: []`."""
    assert KustomizationStatus(inventory=Inventory(entries=())).to_builtins() == {"inventory": {"entries": []}}
    assert KustomizationStatus().to_builtins() == {}


def test_the_healthy_object_of_the_specification_goes_in_and_comes_out() -> None:
    """spec/kustomize.md 1.3, shape of a healthy object."""
    status = {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "ReconciliationSucceeded",
                "message": "Applied revision: main@sha1:1f2e",
                "observedGeneration": 3,
                "lastTransitionTime": "2026-08-01T10:00:07Z",
            }
        ],
        "history": [
            {
                "digest": "sha256:9b1c",
                "firstReconciled": "2026-08-01T09:00:03Z",
                "lastReconciled": "2026-08-01T10:00:07Z",
                "lastReconciledDuration": "6.311204s",
                "lastReconciledStatus": "ReconciliationSucceeded",
                "totalReconciliations": 7,
                "metadata": {"revision": "main@sha1:1f2e"},
            }
        ],
        "inventory": {"entries": [{"id": "_shop__Namespace", "v": "v1"}, {"id": "shop_cart__ConfigMap", "v": "v1"}]},
        "lastAppliedRevision": "main@sha1:1f2e",
        "lastAttemptedRevision": "main@sha1:1f2e",
        "lastHandledReconcileAt": "2026-08-01T10:00:00.1Z",
        "observedGeneration": 3,
    }
    plain = kustomization().to_object() | {"status": status}
    read = Kustomization.from_object(plain)
    assert read.status.inventory == Inventory(
        entries=(InventoryEntry(id="_shop__Namespace", v="v1"), InventoryEntry(id="shop_cart__ConfigMap", v="v1"))
    )
    assert read.to_object() == plain
