from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.krm.kstatus import Status, assess, assess_with_pods, recheck_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
API = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Widget": "example.com/v1",
}


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def make(kind: str, spec: Any = None, status: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": API.get(kind, "v1"),
        "kind": kind,
        "metadata": {"name": "x", "namespace": "ns", "generation": 2, **metadata},
        "spec": spec or {},
        "status": {"observedGeneration": 2, **(status or {})},
    }


def state(kind: str, spec: Any = None, status: Any = None, **metadata: Any) -> str:
    return assess(make(kind, spec, status, **metadata), now=NOW).status.value


def pod(phase: str = "Pending", age: float = 0, *conditions: dict[str, str], **metadata: Any) -> dict[str, Any]:
    created = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return make("Pod", None, {"phase": phase, "conditions": list(conditions)}, creationTimestamp=created, **metadata)


UNSCHEDULABLE = condition("PodScheduled", "False", "Unschedulable")
READY_DEPLOYMENT = {
    "replicas": 2,
    "updatedReplicas": 2,
    "availableReplicas": 2,
    "readyReplicas": 2,
    "conditions": [condition("Available"), condition("Progressing", "True", "NewReplicaSetAvailable")],
}
DEADLINE = {"replicas": 2, "progressDeadlineSeconds": 600}


def test_what_is_being_deleted_is_terminating_whatever_else_it_says() -> None:
    """spec/kustomize.md 6.3, 1"""
    assert (
        state("Widget", None, {"conditions": [condition("Stalled")]}, deletionTimestamp="2026-01-01T00:00:00Z")
        == "Terminating"
    )


def test_a_generation_that_nobody_observed_is_in_progress() -> None:
    """spec/kustomize.md 6.3, 2"""
    assert state("Widget", None, {"observedGeneration": 1, "conditions": [condition("Ready")]}) == "InProgress"
    assert state("Widget", None, {"observedGeneration": 3}) == "InProgress"
    assert assess({"apiVersion": "v1", "kind": "Widget", "status": {"observedGeneration": 3}}).status is Status.CURRENT


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], "Current"),
        ([condition("Ready")], "Current"),
        ([condition("Ready", "False")], "InProgress"),
        ([condition("Ready", "Unknown")], "InProgress"),
        ([condition("Ready", "Odd")], "Current"),
        ([condition("Ready"), condition("Reconciling")], "InProgress"),
        ([condition("Ready"), condition("Reconciling", "False")], "Current"),
        ([condition("Ready", "False"), condition("Stalled")], "Failed"),
        ([condition("Stalled"), condition("Reconciling")], "Failed"),
        ([condition("Reconciling"), condition("Stalled")], "InProgress"),
        (["odd", None, 1], "Current"),
        ("odd", "Current"),
    ],
)
def test_conditions_decide_for_kinds_without_a_rule(conditions: Any, expected: str) -> None:
    """spec/kustomize.md 6.3, 3, 5 and 6"""
    assert state("Widget", None, {"conditions": conditions}) == expected


@pytest.mark.parametrize(
    ("spec", "change", "expected"),
    [
        (DEADLINE, {}, "Current"),
        (DEADLINE, {"replicas": 1}, "InProgress"),
        (DEADLINE, {"updatedReplicas": 1}, "InProgress"),
        (DEADLINE, {"replicas": 3}, "InProgress"),
        (DEADLINE, {"availableReplicas": 1}, "InProgress"),
        (DEADLINE, {"readyReplicas": 1}, "InProgress"),
        (DEADLINE, {"conditions": [condition("Available")]}, "InProgress"),
        ({"replicas": 2}, {"conditions": [condition("Available")]}, "Current"),
        ({"replicas": 2, "progressDeadlineSeconds": 2147483647}, {"conditions": [condition("Available")]}, "Current"),
        (DEADLINE, {"conditions": [condition("Progressing", "True", "NewReplicaSetAvailable")]}, "InProgress"),
        (DEADLINE, {"conditions": [condition("Progressing", "False", "ProgressDeadlineExceeded")]}, "Failed"),
        (
            DEADLINE,
            {"replicas": 1, "conditions": [condition("Progressing", "False", "ProgressDeadlineExceeded")]},
            "Failed",
        ),
        ({"replicas": 0}, {"replicas": 0, "updatedReplicas": 0, "availableReplicas": 0, "readyReplicas": 0}, "Current"),
    ],
)
def test_deployments(spec: Any, change: Any, expected: str) -> None:
    assert state("Deployment", spec, READY_DEPLOYMENT | change) == expected


def test_a_deployment_without_replicas_wants_one() -> None:
    one = {
        "replicas": 1,
        "updatedReplicas": 1,
        "availableReplicas": 1,
        "readyReplicas": 1,
        "conditions": [condition("Available")],
    }
    assert state("Deployment", {}, one) == "Current"
    assert state("Deployment", {}, {}) == "InProgress"


READY_SET = {
    "replicas": 2,
    "readyReplicas": 2,
    "currentReplicas": 2,
    "updatedReplicas": 2,
    "currentRevision": "a",
    "updateRevision": "a",
}


@pytest.mark.parametrize(
    ("spec", "change", "expected"),
    [
        ({}, {}, "Current"),
        ({}, {"replicas": 1}, "InProgress"),
        ({}, {"readyReplicas": 1}, "InProgress"),
        ({}, {"replicas": 3}, "InProgress"),
        ({}, {"currentReplicas": 1}, "InProgress"),
        ({}, {"updateRevision": "b"}, "InProgress"),
        ({"updateStrategy": {"type": "OnDelete"}}, {"replicas": 0}, "Current"),
        (
            {"updateStrategy": {"rollingUpdate": {"partition": 1}}},
            {"updatedReplicas": 1, "updateRevision": "b"},
            "Current",
        ),
        ({"updateStrategy": {"rollingUpdate": {"partition": 1}}}, {"updatedReplicas": 0}, "InProgress"),
        ({"updateStrategy": {"rollingUpdate": {"partition": 0}}}, {"updatedReplicas": 1}, "InProgress"),
    ],
)
def test_stateful_sets(spec: Any, change: Any, expected: str) -> None:
    assert state("StatefulSet", {"replicas": 2, **spec}, READY_SET | change) == expected


READY_DAEMONS = {
    "desiredNumberScheduled": 2,
    "currentNumberScheduled": 2,
    "updatedNumberScheduled": 2,
    "numberAvailable": 2,
    "numberReady": 2,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "Current"),
        ({"desiredNumberScheduled": 3}, "InProgress"),
        ({"currentNumberScheduled": 1}, "InProgress"),
        ({"updatedNumberScheduled": 1}, "InProgress"),
        ({"numberAvailable": 1}, "InProgress"),
        ({"numberReady": 1}, "InProgress"),
        ({"desiredNumberScheduled": None}, "InProgress"),
        ({"observedGeneration": None}, "InProgress"),
        ({"desiredNumberScheduled": 0, "numberReady": 0}, "Current"),
    ],
)
def test_daemon_sets(change: Any, expected: str) -> None:
    assert state("DaemonSet", {}, READY_DAEMONS | change) == expected


def test_a_daemon_set_without_generation_was_never_seen() -> None:
    assert state("DaemonSet", {}, READY_DAEMONS, generation=None) == "InProgress"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "Current"),
        ({"fullyLabeledReplicas": 1}, "InProgress"),
        ({"availableReplicas": 1}, "InProgress"),
        ({"readyReplicas": 1}, "InProgress"),
        ({"replicas": 3}, "InProgress"),
        ({"conditions": [condition("ReplicaFailure")]}, "InProgress"),
        ({"conditions": [condition("ReplicaFailure", "False")]}, "Current"),
    ],
)
def test_replica_sets(change: Any, expected: str) -> None:
    ready = {"replicas": 2, "fullyLabeledReplicas": 2, "availableReplicas": 2, "readyReplicas": 2}
    assert state("ReplicaSet", {"replicas": 2}, ready | change) == expected


@pytest.mark.parametrize(
    ("spec", "conditions", "expected"),
    [
        ({}, [], "InProgress"),
        ({"suspend": True}, [], "Current"),
        ({}, [condition("Complete")], "Current"),
        ({}, [condition("Failed")], "Failed"),
        ({}, [condition("Failed", "False"), condition("Complete", "False")], "InProgress"),
    ],
)
def test_jobs_are_current_only_when_they_are_done(spec: Any, conditions: Any, expected: str) -> None:
    """spec/kustomize.md 6.2"""
    assert state("Job", spec, {"conditions": conditions}) == expected
    assert state("Job", spec, {"conditions": conditions, "observedGeneration": 1}, deletionTimestamp="x") == expected


def running(*reasons: str) -> dict[str, Any]:
    obj = pod("Running")
    obj["status"]["containerStatuses"] = [
        {"name": reason, "state": {"waiting": {"reason": reason}}} for reason in reasons
    ]
    return obj


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (pod("Succeeded"), "Current"),
        (pod("Failed"), "Current"),
        (pod("Running", 0, condition("Ready")), "Current"),
        (pod("Running"), "InProgress"),
        (running("CrashLoopBackOff"), "Failed"),
        (running("ContainerCreating", "CrashLoopBackOff"), "Failed"),
        (running("ContainerCreating"), "InProgress"),
        (pod("Pending"), "InProgress"),
        (pod("Pending", 999), "InProgress"),
        (pod("Pending", 14, UNSCHEDULABLE), "InProgress"),
        (pod("Pending", 15, UNSCHEDULABLE), "Failed"),
        (pod("Pending", 99, condition("PodScheduled", "False", "Other")), "InProgress"),
        (pod(""), "InProgress"),
        (pod("Odd"), "Unknown"),
        (pod("Running", 0, condition("Ready"), deletionTimestamp="x"), "Terminating"),
    ],
)
def test_pods(obj: Any, expected: str) -> None:
    assert assess(obj, now=NOW).status == expected


@pytest.mark.parametrize(
    ("kind", "spec", "status", "expected"),
    [
        ("PersistentVolumeClaim", {}, {"phase": "Bound"}, "Current"),
        ("PersistentVolumeClaim", {}, {"phase": "Pending"}, "InProgress"),
        ("PersistentVolumeClaim", {}, {}, "InProgress"),
        ("Service", {"type": "LoadBalancer"}, {}, "InProgress"),
        ("Service", {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}, {}, "Current"),
        ("Service", {}, {}, "Current"),
        ("CustomResourceDefinition", {}, {}, "InProgress"),
        (
            "CustomResourceDefinition",
            {},
            {"conditions": [condition("NamesAccepted"), condition("Established")]},
            "Current",
        ),
        (
            "CustomResourceDefinition",
            {},
            {"conditions": [condition("NamesAccepted", "False"), condition("Established")]},
            "Failed",
        ),
        (
            "CustomResourceDefinition",
            {},
            {"conditions": [condition("Established", "False", "Installing")]},
            "InProgress",
        ),
        ("CustomResourceDefinition", {}, {"conditions": [condition("Established", "False", "NotAccepted")]}, "Failed"),
        ("PodDisruptionBudget", {}, {"conditions": [condition("Ready", "False")]}, "Current"),
        ("Secret", {}, {}, "Current"),
        ("ConfigMap", {}, {}, "Current"),
        ("CronJob", {}, {"conditions": [condition("Ready", "False")]}, "Current"),
    ],
)
def test_other_kinds(kind: str, spec: Any, status: Any, expected: str) -> None:
    assert state(kind, spec, status) == expected


def test_a_kind_of_the_same_name_in_another_group_has_no_rule() -> None:
    obj = make("Deployment") | {"apiVersion": "example.com/v1"}
    assert assess(obj).status is Status.CURRENT


def with_pods(*pods: dict[str, Any], kind: str = "StatefulSet", selector: Any = None) -> str:
    chosen = {"matchLabels": {"app": "x"}} if selector is None else selector
    return assess_with_pods(make(kind, {"replicas": 1, "selector": chosen}), pods, NOW).status.value


def labelled(obj: dict[str, Any], **labels: str) -> dict[str, Any]:
    obj = {
        key: value for key, value in obj.items() if key not in {"kind", "apiVersion"}
    }  # items of a list have no kind
    return obj | {"metadata": obj["metadata"] | {"labels": labels or {"app": "x"}}}


def test_a_failed_pod_fails_the_set_that_waits_for_it() -> None:
    crashing = labelled(running("CrashLoopBackOff"))
    assert with_pods(crashing) == "Failed"
    assert with_pods(crashing, kind="ReplicaSet") == "Failed"
    assert with_pods(crashing, kind="DaemonSet") == "InProgress"
    assert with_pods() == "InProgress"
    assert with_pods(labelled(running("CrashLoopBackOff"), app="y")) == "InProgress"


def test_pods_that_go_or_wait_for_a_node_do_not_fail_their_set() -> None:
    leaving = labelled(running("CrashLoopBackOff"))
    leaving["metadata"]["deletionTimestamp"] = "x"
    assert with_pods(leaving) == "InProgress"
    assert with_pods(labelled(pod("Pending", 99, UNSCHEDULABLE))) == "InProgress"


def test_a_set_that_is_done_is_not_failed_by_a_pod() -> None:
    done = make("StatefulSet", {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}})
    assert assess_with_pods(done, [labelled(running("CrashLoopBackOff"))], NOW).status is Status.CURRENT


@pytest.mark.parametrize(
    ("expression", "is_meant"),
    [
        ({"key": "app", "operator": "In", "values": ["x", "y"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["x"]}, False),
        ({"key": "tier", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
        ({"key": "app", "operator": "Odd"}, False),
    ],
)
def test_selectors_with_expressions(expression: Any, is_meant: bool) -> None:
    found = with_pods(labelled(running("CrashLoopBackOff")), selector={"matchExpressions": [expression]})
    assert found == ("Failed" if is_meant else "InProgress")


def test_only_a_pod_that_waits_for_a_node_needs_another_look_in_time() -> None:
    assert recheck_after(pod("Pending", 5, UNSCHEDULABLE), NOW) == 10
    for other in (pod("Pending", 15, UNSCHEDULABLE), pod("Pending", 5), pod("Running", 5), make("Deployment")):
        assert recheck_after(other, NOW) is None
    again = NOW + timedelta(seconds=10)
    assert assess(pod("Pending", 5, UNSCHEDULABLE), now=again).status is Status.FAILED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "status", "reason", "conditions", "phase", "replicas", "state", "waiting"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([*API, "Pod", "Service", "PersistentVolumeClaim"]), JSON, JSON)
def test_an_object_of_any_shape_gets_a_verdict(kind: str, spec: Any, status: Any) -> None:
    obj = make(kind) | {"spec": spec, "status": status}
    assert assess(obj, now=NOW).status in Status
    assert assess_with_pods(obj, [obj], NOW).status in Status
