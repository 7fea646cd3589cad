"""Promises of the way in and out of a plain object."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.api import resource
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.resource import Broken, DecodeError
from gitopsd.api.source import GitRepository
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import ObjectKey

PLAIN: dict[str, Any] = {
    "apiVersion": "source.toolkit.fluxcd.io/v1",
    "kind": "GitRepository",
    "metadata": {
        "name": "app",
        "namespace": "shop",
        "uid": "u-1",
        "generation": 2,
        "finalizers": ["finalizers.fluxcd.io"],
    },
    "spec": {"url": "https://example.com/app.git", "interval": "1m"},
    "status": {
        "observedGeneration": -1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Succeeded",
                "message": "",
                "lastTransitionTime": "2026-08-01T10:00:07Z",
            }
        ],
    },
}


def changed(**spec: Any) -> dict[str, Any]:
    return PLAIN | {"spec": PLAIN["spec"] | spec}


def test_an_object_goes_in_and_comes_out_unchanged() -> None:
    before = copy.deepcopy(PLAIN)
    assert GitRepository.from_object(PLAIN).to_object() == before
    assert before == PLAIN


def test_O01_fields_of_a_newer_release_are_passed_over() -> None:
    plain = changed(ref={"branch": "main", "fork": True}, shallow=True) | {"extra": 1}
    read = GitRepository.from_object(plain)
    assert read.spec.ref is not None
    assert read.spec.ref.branch == "main"


def test_nulls_count_as_unset() -> None:
    """Objects that Go tools print carry `creationTimestamp: null` and the like."""
    plain = changed(ref=None, ignore=None, timeout=None, include=None) | {"status": None}
    plain["metadata"] = PLAIN["metadata"] | {"creationTimestamp": None, "labels": None}
    read = GitRepository.from_object(plain)
    assert (read.spec.ref, read.spec.ignore, read.spec.timeout, read.spec.include) == (None, None, "60s", ())


@pytest.mark.parametrize(
    ("spec", "field", "rule"),
    [
        ({"interval": "5 minutes"}, "$.spec.interval", "matching regex"),
        ({"interval": "9999999999h"}, "$.spec", "invalid duration"),
        ({"interval": 60}, "$.spec.interval", "Expected `str`"),
        ({"timeout": "1h"}, "$.spec.timeout", "matching regex"),
        ({"provider": "gitlab"}, "$.spec.provider", "Invalid enum value 'gitlab'"),
        ({"suspend": "true"}, "$.spec.suspend", "Expected `bool`"),
        ({"include": [{"fromPath": "x"}]}, "$.spec.include[0]", "missing required field `repository`"),
        ({"verify": {}}, "$.spec.verify", "missing required field `secretRef`"),
        ({"ref": []}, "$.spec.ref", "Expected `object | null`"),
    ],
)
def test_O01_an_object_that_breaks_its_schema_is_refused_with_field_and_rule(
    spec: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        GitRepository.from_object(changed(**spec))
    assert isinstance(caught.value, GitopsdError)
    assert str(caught.value).startswith("GitRepository/shop/app is invalid: ")
    assert field in str(caught.value)
    assert rule in str(caught.value)


def test_O01_an_object_without_spec_is_refused_by_name() -> None:
    with pytest.raises(DecodeError, match=r"GitRepository/shop/app is invalid: .*`spec`"):
        GitRepository.from_object({name: value for name, value in PLAIN.items() if name != "spec"})


def test_O01_what_is_left_of_a_broken_object_can_still_be_spoken_of_and_let_go() -> None:
    found = resource.read(GitRepository, changed(interval="never"))
    assert isinstance(found, Broken)
    assert found.key == ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "shop", "app")
    assert found.metadata.has_finalizer
    assert found.metadata.generation == 2
    assert "$.spec.interval" in found.error
    assert [condition.type for condition in found.conditions] == ["Ready"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(["metadata", "spec", "status"]),
)
def test_O01_no_object_at_all_can_stop_the_reader(junk: Any, where: str) -> None:
    found = resource.read(GitRepository, PLAIN | {where: junk})
    assert isinstance(found, GitRepository | Broken)


def test_a_good_object_is_read_as_its_kind() -> None:
    found = resource.read(GitRepository, PLAIN)
    assert isinstance(found, GitRepository)
    assert found.key == ObjectKey("source.toolkit.fluxcd.io", "GitRepository", "shop", "app")


def test_O06_a_status_that_somebody_edited_does_not_make_the_object_unreadable() -> None:
    forged = {
        "inventory": {"entries": [{"id": "kube-system_x_apps_Deployment", "v": "v1"}, {"id": "nonsense", "v": ""}]},
        "lastAppliedRevision": "forged",
        "conditions": [
            {"type": "?", "status": "Maybe", "reason": "", "message": "", "lastTransitionTime": "yesterday"}
        ],
    }
    read = Kustomization.from_object(
        {
            "metadata": {"name": "app", "namespace": "shop"},
            "spec": {"interval": "5m", "prune": True, "sourceRef": {"kind": "GitRepository", "name": "app"}},
            "status": forged,
        }
    )
    assert read.status.inventory is not None
    assert [entry.id for entry in read.status.inventory.entries] == ["kube-system_x_apps_Deployment", "nonsense"]
