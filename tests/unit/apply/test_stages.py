"""Stages, ranks and the flag that adds kinds to a stage."""

from __future__ import annotations

import random

from gitopsd.apply.stages import by_kind, parse_stage_kinds, staged
from gitopsd.krm.objects import Obj, key_of, subject


def obj(api_version: str, kind: str, name: str, namespace: str = "") -> Obj:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}


# golden apply-order, with a definition and webhooks around it
IN_ORDER = [
    obj("apiextensions.k8s.io/v1", "CustomResourceDefinition", "widgets.example.com"),
    obj("v1", "Namespace", "ns"),
    obj("rbac.authorization.k8s.io/v1", "ClusterRole", "reader"),
    obj("scheduling.k8s.io/v1", "PriorityClass", "high"),
    obj("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "reader"),
    obj("v1", "ResourceQuota", "a", "ns"),
    obj("v1", "ServiceAccount", "a", "ns"),
    obj("rbac.authorization.k8s.io/v1", "Role", "a", "ns"),
    obj("rbac.authorization.k8s.io/v1", "RoleBinding", "a", "ns"),
    obj("v1", "ConfigMap", "a", "ns"),
    obj("v1", "ConfigMap", "b", "ns"),
    obj("v1", "Secret", "a", "ns"),
    obj("v1", "Service", "a", "ns"),
    obj("v1", "LimitRange", "a", "ns"),
    obj("apps/v1", "StatefulSet", "a", "ns"),
    obj("batch/v1", "CronJob", "a", "ns"),
    obj("policy/v1", "PodDisruptionBudget", "a", "ns"),
    obj("apps/v1", "DaemonSet", "a", "ns"),
    obj("networking.k8s.io/v1", "Ingress", "a", "ns"),
    obj("networking.k8s.io/v1", "NetworkPolicy", "a", "ns"),
    obj("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "w"),
    obj("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "w"),
]


def test_stages_and_ranks_are_those_of_the_table() -> None:
    """spec/kustomize.md 4.2, golden apply-order."""
    shuffled = IN_ORDER.copy()
    random.Random(7).shuffle(shuffled)
    stages = staged(shuffled)
    assert [stage.name for stage in stages] == ["definitions", "classes", "rest"]
    assert [stage.awaited for stage in stages] == [True, True, False]
    assert [subject(item) for stage in stages for item in stage.objects] == [subject(item) for item in IN_ORDER]


def test_a_definition_counts_by_group_and_a_class_by_name_alone() -> None:
    """spec/kustomize.md 4.2."""
    stages = staged([obj("example.com/v1", "Namespace", "x"), obj("example.com/v1", "MyClass", "y")])
    assert [(stage.name, stage.objects[0]["kind"]) for stage in stages] == [
        ("classes", "MyClass"),
        ("rest", "Namespace"),
    ]


def test_custom_kinds_have_a_stage_of_their_own_without_a_wait() -> None:
    """spec/kustomize.md 4.2, flag --custom-apply-stage-kinds."""
    kinds = parse_stage_kinds("rbac.authorization.k8s.io/Role, ServiceAccount")
    assert kinds == {("rbac.authorization.k8s.io", "Role"), ("", "ServiceAccount")}
    stages = staged(IN_ORDER, kinds)
    custom = next(stage for stage in stages if stage.name == "custom")
    assert [item["kind"] for item in custom.objects] == ["ServiceAccount", "Role"]
    assert not custom.awaited


def test_an_empty_flag_names_no_kind() -> None:
    assert parse_stage_kinds("") == frozenset()


def test_objects_of_one_kind_may_be_written_side_by_side() -> None:
    rest = staged(IN_ORDER)[-1].objects
    runs = by_kind(rest, [key_of(item) for item in rest])
    assert [len(run) for run in runs if run[0]["kind"] == "ConfigMap"] == [2]
    assert sum(len(run) for run in runs) == len(rest)
