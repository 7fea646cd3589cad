"""What a Kustomization refers to, and that no object, however wrong, is a surprise to those who look."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.controllers.kustomization_context import artifact_of
from gitopsd.controllers.kustomization_references import configs_of, dependencies_of, source_of
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.runtime.triggers import _readiness, revision_of

_FIELDS = ["name", "namespace", "kind", "secretRef", "configMapRef", "substituteFrom", "type", "status", "revision"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.text("ab/", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4),
    max_leaves=10,
)
_SPECS = st.dictionaries(st.sampled_from(["sourceRef", "dependsOn", "postBuild", "decryption", "kubeConfig"]), _JSON)
_STATUSES = st.dictionaries(st.sampled_from(["conditions", "artifact", "observedGeneration"]), _JSON)


def kustomization(spec: Any, status: Any = None) -> Obj:
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": "app", "namespace": "ns", "generation": 1},
        "spec": spec,
        "status": status,
    }


def test_references_are_found_in_their_namespaces() -> None:
    """spec/kustomize.md 7.1"""
    obj = kustomization(
        {
            "sourceRef": {"kind": "Bucket", "name": "b"},
            "dependsOn": [{"name": "one"}, {"name": "two", "namespace": "other"}],
            "postBuild": {"substituteFrom": [{"kind": "ConfigMap", "name": "vars"}]},
            "decryption": {"provider": "sops", "secretRef": {"name": "keys"}},
            "kubeConfig": {"secretRef": {"name": "remote"}},
        }
    )
    assert source_of(obj) == [ObjectKey("source.toolkit.fluxcd.io", "Bucket", "ns", "b")]
    assert [key.path for key in dependencies_of(obj)] == ["ns/one", "other/two"]
    assert [key.subject for key in configs_of(obj)] == ["ConfigMap/ns/vars", "Secret/ns/keys", "Secret/ns/remote"]


def test_a_source_of_another_namespace_is_found_there() -> None:
    obj = kustomization({"sourceRef": {"kind": "GitRepository", "name": "a", "namespace": "infra"}})
    assert [key.path for key in source_of(obj)] == ["infra/a"]


@given(_SPECS | _JSON, _STATUSES | _JSON)
def test_O01_no_object_is_a_surprise(spec: Any, status: Any) -> None:
    """spec/hostile-inputs.md O01: an error in an index would end the watch of everybody."""
    obj = kustomization(spec, status)
    for key in (*source_of(obj), *configs_of(obj), *dependencies_of(obj)):
        assert hash(key) == hash(tuple(key))
    assert len(_readiness(obj)) == 3
    assert isinstance(revision_of(obj), str)
    artifact = artifact_of(obj)
    assert artifact is None or artifact.revision


@pytest.mark.parametrize("artifact", ["text", {"digest": 3}, ["list"]])
def test_O01_an_artifact_that_cannot_be_read_is_none(artifact: Any) -> None:
    assert artifact_of(kustomization({}, {"artifact": artifact})) is None
