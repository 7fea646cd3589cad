"""Promises of the HelmRelease (spec/helm.md 1 and 2)."""

from __future__ import annotations

from typing import Any

import pytest

from gitopsd.api.helmrelease import HelmRelease, HelmReleaseStatus, Snapshot
from gitopsd.api.resource import DecodeError
from gitopsd.krm.objects import ObjectKey

CHART = {"spec": {"chart": "podinfo", "sourceRef": {"kind": "HelmRepository", "name": "charts"}}}


def release(name: str = "app", **spec: Any) -> HelmRelease:
    base = {"interval": "5m"} if "chartRef" in spec else {"interval": "5m", "chart": CHART}
    return HelmRelease.from_object({"metadata": {"name": name, "namespace": "shop"}, "spec": base | spec})


# --- names (1.3) ----------------------------------------------------------------------------------------------------


def test_a_release_has_the_objects_name() -> None:
    found = release()
    assert (found.release_name, found.stored_release_name) == ("app", "app")
    assert (found.release_namespace, found.storage_namespace) == ("shop", "shop")


def test_a_release_of_another_namespace_is_prefixed_with_it_but_keeps_its_records_at_home() -> None:
    found = release(targetNamespace="prod")
    assert (found.release_name, found.release_namespace, found.storage_namespace) == ("prod-app", "prod", "shop")


def test_a_name_that_was_given_is_used() -> None:
    found = release(targetNamespace="prod", releaseName="other", storageNamespace="records")
    assert (found.release_name, found.storage_namespace) == ("other", "records")


def test_a_long_name_is_cut_and_told_apart_by_a_digest() -> None:
    """spec/helm.md 1.3. The example there keeps 42 bytes, which is over Helm's 53; the rule, and the code, say 40."""
    found = release("with-a-nice-object-name", targetNamespace="a-very-lengthy-target-namespace")
    assert found.release_name == "a-very-lengthy-target-namespace-with-a-nice-object-name"
    assert found.stored_release_name == "a-very-lengthy-target-namespace-with-a-n-97af5d7f41f3"


def test_a_name_of_53_bytes_is_not_cut() -> None:
    assert release("n" * 53).stored_release_name == "n" * 53
    assert len(release("n" * 54).stored_release_name) == 53


def test_the_chart_object_lives_beside_its_source() -> None:
    elsewhere = {"spec": CHART["spec"] | {"sourceRef": {"kind": "GitRepository", "name": "x", "namespace": "infra"}}}
    group = "source.toolkit.fluxcd.io"
    assert release().chart_key == ObjectKey(group, "HelmChart", "shop", "shop-app")
    assert release(chart=elsewhere).chart_key == ObjectKey(group, "HelmChart", "infra", "shop-app")
    assert release(chartRef={"kind": "OCIRepository", "name": "x"}).chart_key == ObjectKey(
        group, "OCIRepository", "shop", "x"
    )
    assert release(chart=None).chart_key is None


def test_dependencies_without_namespace_are_of_the_own_one() -> None:
    found = release(dependsOn=[{"name": "a"}, {"name": "b", "namespace": "infra"}])
    assert [key.subject for key in found.dependency_keys] == ["HelmRelease/shop/a", "HelmRelease/infra/b"]


# --- defaults (1.2 to 1.9) ------------------------------------------------------------------------------------------


def test_an_action_without_timeout_takes_that_of_the_spec_or_five_minutes() -> None:
    bare, set_ = release(), release(timeout="2m", upgrade={"timeout": "10s"})
    assert bare.spec.timeout_of(bare.spec.test) == 300.0
    assert set_.spec.timeout_of(set_.spec.install) == 120.0
    assert set_.spec.timeout_of(set_.spec.upgrade) == 10.0


def test_five_records_are_kept_and_zero_keeps_all() -> None:
    assert release().spec.history_limit == 5
    assert release(maxHistory=0).spec.history_limit == 0


def test_what_nobody_set_is_what_upstream_does() -> None:
    spec = release().spec
    assert (spec.install.crds, spec.upgrade.crds) == ("Create", "Create")
    assert not spec.install.disable_take_ownership
    assert spec.install.server_side_apply is None
    assert (spec.upgrade.server_side_apply, spec.rollback.server_side_apply) == ("auto", "auto")
    assert spec.upgrade.chart_name_change_strategy == "Reinstall"
    assert spec.uninstall.deletion_propagation == "background"
    assert (spec.drift_detection.mode, spec.test.enable, spec.persistent_client) == ("disabled", False, True)
    assert (spec.post_render_strategy, spec.wait_strategy) == (None, None)


@pytest.mark.parametrize(
    ("remediation", "on_install", "on_upgrade"),
    [
        ({}, False, False),
        ({"retries": 3}, False, True),
        ({"retries": -1}, False, False),
        ({"retries": 3, "remediateLastFailure": False}, False, False),
        ({"remediateLastFailure": True}, True, True),
    ],
)
def test_the_last_failure_is_remediated_by_default_only_on_upgrade_with_retries(
    remediation: dict[str, Any], *, on_install: bool, on_upgrade: bool
) -> None:
    spec = release(install={"remediation": remediation}, upgrade={"remediation": remediation}).spec
    assert spec.install.remediation.remediates_last_failure is on_install
    assert spec.upgrade.remediation.remediates_last_failure is on_upgrade


def test_a_strategy_waits_five_minutes_before_the_next_try() -> None:
    strategy = release(install={"strategy": {"name": "RetryOnFailure"}}).spec.install.strategy
    assert strategy is not None
    assert strategy.retry_seconds == 300.0
    other = release(upgrade={"strategy": {"name": "RetryOnFailure", "retryInterval": "10s"}}).spec.upgrade.strategy
    assert other is not None
    assert other.retry_seconds == 10.0


def test_values_may_hold_anything_and_nulls_stay() -> None:
    """A null in the values removes a chart's default; it must not get lost on the way."""
    plain = {"a": None, "b": [None, {"c": None}], "9": 1.5}
    assert release(values=plain).spec.inline_values == plain
    assert release(values=plain, timeout=None).spec.inline_values == plain
    assert release(values=["no", "mapping"]).spec.inline_values == {}
    assert release().spec.inline_values == {}


def test_a_values_reference_reads_values_yaml_by_default() -> None:
    first, second = release(
        valuesFrom=[
            {"kind": "Secret", "name": "s"},
            {"kind": "ConfigMap", "name": "c", "valuesKey": "x.y", "targetPath": r"a.b[0].c\.d", "literal": True},
        ]
    ).spec.values_from
    assert (first.key, first.optional) == ("values.yaml", False)
    assert (second.key, second.target_path, second.literal) == ("x.y", r"a.b[0].c\.d", True)


def test_odd_spellings_are_those_of_the_api() -> None:
    plain = {
        "chart": CHART,
        "interval": "5m",
        "install": {"skipCRDs": True, "disableOpenAPIValidation": True},
        "upgrade": {"disableOpenAPIValidation": True, "cleanupOnFail": True},
    }
    found = release(**plain)
    assert found.spec.install.skip_crds
    assert found.spec.install.disable_open_api_validation
    assert found.spec.to_builtins() == plain


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"releaseName": "n" * 54}, "$.spec.releaseName"),
        ({"targetNamespace": ""}, "$.spec.targetNamespace"),
        ({"storageNamespace": "n" * 64}, "$.spec.storageNamespace"),
        ({"serviceAccountName": ""}, "$.spec.serviceAccountName"),
        ({"chart": {"spec": {"chart": "", "sourceRef": CHART["spec"]["sourceRef"]}}}, "$.spec.chart.spec.chart"),
        ({"chartRef": {"kind": "GitRepository", "name": "x"}}, "$.spec.chartRef.kind"),
        ({"install": {"strategy": {}}}, "$.spec.install.strategy"),
        ({"install": {"crds": "Replace"}}, "$.spec.install.crds"),
        ({"upgrade": {"serverSideApply": True}}, "$.spec.upgrade.serverSideApply"),
        ({"uninstall": {"deletionPropagation": "fast"}}, "$.spec.uninstall.deletionPropagation"),
        ({"valuesFrom": [{"kind": "Secret", "name": "s", "valuesKey": "a/b"}]}, "$.spec.valuesFrom[0].valuesKey"),
        ({"valuesFrom": [{"kind": "Secret", "name": "s", "targetPath": "a b"}]}, "$.spec.valuesFrom[0].targetPath"),
        ({"test": {"filters": [{"name": ""}]}}, "$.spec.test.filters[0].name"),
        ({"waitStrategy": {"name": "watcher"}}, "$.spec.waitStrategy.name"),
        ({"driftDetection": {"mode": "on"}}, "$.spec.driftDetection.mode"),
        ({"install": {"timeout": "99999999999h"}}, "$.spec.install"),
    ],
)
def test_O01_what_the_schema_refuses_is_refused_when_it_is_read(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        release(**spec)
    assert f"`{field}" in str(caught.value)


# --- status (2) -----------------------------------------------------------------------------------------------------


def snapshot(**more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v2",
        "digest": "sha256:1",
        "name": "app",
        "namespace": "shop",
        "version": 1,
        "status": "deployed",
        "action": "install",
        "chartName": "podinfo",
        "chartVersion": "1.0.0",
        "configDigest": "sha256:2",
        "firstDeployed": "2026-08-01T10:00:07Z",
        "lastDeployed": "2026-08-01T10:00:07Z",
    } | more


@pytest.mark.parametrize(
    "hooks",
    [
        {},
        {"testHooks": {}},
        {"testHooks": {"t": {"phase": "Succeeded", "lastStarted": "2026-08-01T10:00:07Z"}}},
        {"deleted": "2026-08-01T10:00:09Z", "ociDigest": "sha256:3", "appVersion": "6"},
    ],
)
def test_a_history_goes_in_and_comes_out_unchanged(hooks: dict[str, Any]) -> None:
    """spec/helm.md 2.2: testHooks that are there but empty differ from none."""
    plain = release().to_object() | {"status": {"history": [snapshot(**hooks)], "storageNamespace": "shop"}}
    assert HelmRelease.from_object(plain).to_object() == plain


def test_a_test_that_was_not_run_may_be_null() -> None:
    plain = release().to_object() | {"status": {"history": [snapshot(testHooks={"t": None})]}}
    assert HelmRelease.from_object(plain).status.history[0].test_hooks == {"t": None}


def test_an_untouched_status_is_empty() -> None:
    assert HelmReleaseStatus().to_builtins() == {}
    assert Snapshot.__struct_config__.frozen
