"""Fields that the server does not know, read from its own words."""

from __future__ import annotations

import copy

import pytest

from gitopsd.apply.undeclared import is_lenient, undeclared_paths, without_fields
from gitopsd.krm.objects import Obj

ONE = (
    "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): "
    ".spec.replicass: field not declared in schema"
)
TWO = (
    "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): errors:\n"
    '  .spec.template.spec.containers[name="web"].imagee: field not declared in schema\n'
    "  .spec.replicass: field not declared in schema"
)
MIXED = (
    "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): errors:\n"
    "  .spec.replicas: expected numeric (int or float), got string\n"
    "  .spec.replicass: field not declared in schema"
)


def deployment() -> Obj:
    container = {
        "name": "web",
        "imagee": "x",
        "ports": [{"containerPort": 80, "a.b": 1}, {"containerPort": 81, "c": 1}],
    }
    return {"spec": {"replicass": 3, "template": {"spec": {"containers": [{"name": "side"}, container]}}}}


def test_paths_are_read_from_one_complaint_and_from_many() -> None:
    assert undeclared_paths(ONE) == [".spec.replicass"]
    assert undeclared_paths(TWO) == ['.spec.template.spec.containers[name="web"].imagee', ".spec.replicass"]


def test_any_other_complaint_leaves_the_object_to_the_server() -> None:
    """spec/kustomize.md 4.3: a type error leaves the object as is."""
    assert undeclared_paths(MIXED) == []
    assert undeclared_paths('Deployment.apps "web" is invalid: .spec.x: field not declared in schema') == []
    assert undeclared_paths("") == []


def test_a_message_that_was_cut_gives_the_paths_that_are_whole() -> None:
    assert undeclared_paths(TWO[:-10] + "…") == ['.spec.template.spec.containers[name="web"].imagee']


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        (".spec.replicass", ("spec", "replicass")),
        ('.spec.template.spec.containers[name="web"].imagee', ("imagee",)),
        ('.spec.template.spec.containers[name="web"].ports[containerPort=80,protocol="TCP"].a.b', ("a.b",)),
        ('.spec.template.spec.containers[1].ports[containerPort=81,protocol="TCP"].c', ("c",)),
    ],
)
def test_the_field_named_is_taken_out_of_a_copy(path, gone) -> None:
    obj = deployment()
    before = copy.deepcopy(obj)
    result = without_fields(obj, [path])
    assert obj == before
    assert result is not None
    assert str(before).count(f"'{gone[-1]}'") == 1
    assert str(result).count(f"'{gone[-1]}'") == 0
    assert without_fields(result, [path]) is None


def test_a_key_with_brackets_and_quotes_is_found() -> None:
    obj = {"spec": {"items": [{"name": 'a"]b', "x": 1}]}}
    assert without_fields(obj, ['.spec.items[name="a\\"]b"].x']) == {"spec": {"items": [{"name": 'a"]b'}]}}


@pytest.mark.parametrize(
    "path", [".nope", ".spec[0]", ".spec.template.nope.x", "[name=1]", ".spec.template.spec.containers[9].x"]
)
def test_a_path_that_leads_nowhere_changes_nothing(path) -> None:
    assert without_fields(deployment(), [path]) is None


@pytest.mark.parametrize(
    ("api_version", "kind", "expected"),
    [
        ("apps/v1", "Deployment", True),
        ("v1", "Secret", True),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", True),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", False),
        ("rbac.authorization.k8s.io/v1", "RoleBinding", True),
        ("gateway.networking.k8s.io/v1", "Gateway", False),
        ("example.com/v1", "Widget", False),
    ],
)
def test_only_built_in_kinds_are_lenient(api_version, kind, expected) -> None:
    """spec/kustomize.md 4.3: Role and ClusterRole are not passed through structs, custom kinds never are."""
    assert is_lenient({"apiVersion": api_version, "kind": kind}) is expected
