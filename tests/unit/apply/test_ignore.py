"""Ignored fields: what is compared, what is given up, what is kept."""

from __future__ import annotations

import copy

import pytest

from gitopsd.apply.ignore import IgnoreError, owns, parse_pointer, parse_rules, pointers_for, without, yielded
from gitopsd.krm.objects import Obj

OURS = "kustomize-controller"


def deployment(replicas: int | None = 2, image: str = "a:1") -> Obj:
    spec = {"template": {"spec": {"containers": [{"name": "web", "image": image}, {"name": "side", "image": "s"}]}}}
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def owned_by(manager: str, fields: dict, operation: str = "Apply") -> dict:
    return {"managedFields": [{"manager": manager, "operation": operation, "fieldsV1": fields}]}


REPLICAS = (parse_pointer("/spec/replicas"),)
IMAGE = (parse_pointer("/spec/template/spec/containers/0/image"),)


def test_rules_speak_only_of_their_target() -> None:
    """spec/kustomize.md 4.5."""
    rules = parse_rules([{"paths": ["/spec/replicas"], "target": {"kind": "Deployment"}}, {"paths": ["/data"]}])
    assert pointers_for(deployment(), rules) == (("spec", "replicas"), ("data",))
    assert pointers_for({"kind": "ConfigMap"}, rules) == (("data",),)
    assert parse_rules(None) == ()


@pytest.mark.parametrize("rule", [{"paths": ["spec"]}, {"paths": ["/a"], "target": {"name": "["}}])
def test_a_bad_rule_fails_the_apply(rule) -> None:
    """spec/kustomize.md 4.5."""
    with pytest.raises(IgnoreError):
        parse_rules([rule])


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/a~1b", {"m~n": 1, "l": [1, 2, 3]}),
        ("/m~0n", {"a/b": 1, "l": [1, 2, 3]}),
        ("/l/-1", {"a/b": 1, "m~n": 1, "l": [1, 2]}),
        ("/l/0", {"a/b": 1, "m~n": 1, "l": [2, 3]}),
        ("/l/9", {"a/b": 1, "m~n": 1, "l": [1, 2, 3]}),
        ("/l/x", {"a/b": 1, "m~n": 1, "l": [1, 2, 3]}),
        ("/nope/nope", {"a/b": 1, "m~n": 1, "l": [1, 2, 3]}),
        ("", {}),
    ],
)
def test_paths_are_json_pointers_that_may_lead_nowhere(path, left) -> None:
    """spec/kustomize.md 4.5."""
    obj = {"a/b": 1, "m~n": 1, "l": [1, 2, 3]}
    before = copy.deepcopy(obj)
    assert without(obj, [parse_pointer(path)]) == left
    assert obj == before


def test_a_field_that_another_applier_holds_leaves_the_payload() -> None:
    """spec/kustomize.md 4.5."""
    live = deployment(5)
    live["metadata"] |= owned_by("vpa", {"f:spec": {"f:replicas": {}}})
    assert "replicas" not in yielded(deployment(2), live, deployment(2), REPLICAS, OURS)["spec"]


@pytest.mark.parametrize("operation", ["Update", "Apply"])
def test_a_field_that_nobody_else_applies_keeps_its_live_value(operation) -> None:
    """spec/kustomize.md 4.5: adopted."""
    live = deployment(5)
    live["metadata"] |= owned_by("editor" if operation == "Update" else OURS, {"f:spec": {"f:replicas": {}}}, operation)
    assert yielded(deployment(2), live, deployment(2), REPLICAS, OURS)["spec"]["replicas"] == 5


def test_an_absent_live_value_becomes_null() -> None:
    """spec/kustomize.md 4.5."""
    assert yielded(deployment(2), deployment(None), deployment(2), REPLICAS, OURS)["spec"]["replicas"] is None


def test_a_field_without_drift_is_applied_as_ever() -> None:
    live = deployment(2)
    live["metadata"] |= owned_by("vpa", {"f:spec": {"f:replicas": {}}})
    assert yielded(deployment(2), live, deployment(2), REPLICAS, OURS) == deployment(2)


def test_indices_find_their_item_through_the_live_list() -> None:
    """spec/kustomize.md 4.5: array indices map to `k:` keys."""
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"web"}': {"f:image": {}}}}}}}
    live = deployment(image="a:2")
    live["metadata"] |= owned_by("updater", fields)
    assert (
        "image"
        not in yielded(deployment(), live, deployment(), IMAGE, OURS)["spec"]["template"]["spec"]["containers"][0]
    )
    side = (parse_pointer("/spec/template/spec/containers/1/image"),)
    live["spec"]["template"]["spec"]["containers"][1]["image"] = "s:2"
    kept = yielded(deployment(), live, deployment(), side, OURS)
    assert kept["spec"]["template"]["spec"]["containers"][1]["image"] == "s:2"


@pytest.mark.parametrize(
    ("fields", "path", "expected"),
    [
        ({"f:spec": {"f:selector": {}}}, "/spec/selector/matchLabels", True),
        ({"f:spec": {"f:selector": {"f:matchLabels": {}}}}, "/spec/selector", True),
        ({"f:spec": {"f:other": {}}}, "/spec/selector", False),
        ({"f:l": {'v:"x"': {}}}, "/l/0", True),
        ({"f:l": {"i:1": {}}}, "/l/1", True),
        ({"f:l": {"i:1": {}}}, "/l/0", False),
        ({"f:l": {'k:{"name":"z"}': {}}}, "/l/2", False),
        ({"f:l": {'v:"x"': {}}}, "/l/7", False),
    ],
)
def test_ownership_counts_from_the_path_downwards_and_from_atomic_fields(fields, path, expected) -> None:
    live = {"spec": {"selector": {"matchLabels": {"a": "b"}}}, "l": ["x", "y", {"name": "w"}]}
    assert owns(fields, live, parse_pointer(path)) is expected
