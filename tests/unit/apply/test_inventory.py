"""The inventory's text format and what is stale in it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.apply import inventory
from gitopsd.apply.inventory import (
    InventoryEntry,
    InventoryError,
    InventoryTooLargeError,
    decode,
    deletion_order,
    encode,
    require_fits,
    stale,
    union,
)
from gitopsd.krm.objects import ObjectKey, key_of

RBAC = "rbac.authorization.k8s.io"

EXAMPLES = [
    (ObjectKey("", "Service", "default", "podinfo"), "default_podinfo__Service"),
    (ObjectKey("", "Namespace", "", "apps"), "_apps__Namespace"),
    (ObjectKey("apps", "Deployment", "default", "web"), "default_web_apps_Deployment"),
    (ObjectKey(RBAC, "ClusterRole", "", "system:foo:bar"), f"_system__foo__bar_{RBAC}_ClusterRole"),
    (ObjectKey("example.com", "Widget", "shop", "a.b"), "shop_a.b_example.com_Widget"),
]


@pytest.mark.parametrize(("key", "text"), EXAMPLES)
def test_ids_are_written_and_read_byte_exact(key: ObjectKey, text: str) -> None:
    """spec/kustomize.md 1.3, 10 row 1."""
    assert encode(key) == text
    assert decode(text) == key


def test_colons_are_kept_in_names_of_other_kinds() -> None:
    """spec/kustomize.md 1.3: only the four RBAC kinds are escaped."""
    assert encode(ObjectKey("example.com", "Role", "a", "x:y")) == "a_x:y_example.com_Role"


def test_a_double_underscore_is_a_colon_for_any_kind() -> None:
    """spec/kustomize.md 1.3, parse rule."""
    assert decode("a_x__y_example.com_Thing").name == "x:y"


@given(
    st.sampled_from(["", "apps", "example.com", RBAC]),
    st.sampled_from(["Role", "ConfigMap", "Widget"]),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True) | st.just(""),
    st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,10}[a-z0-9])?", fullmatch=True),
)
def test_every_id_reads_back_as_it_was_written(group: str, kind: str, namespace: str, name: str) -> None:
    key = ObjectKey(group, kind, namespace, name)
    assert decode(encode(key)) == key


@pytest.mark.parametrize("text", ["", "a_b", "a_b_c", "___", "a__b_", "_a__", "x" * 2_000_000])
def test_J35_an_unreadable_id_is_an_error_of_bounded_length(text: str) -> None:
    with pytest.raises(InventoryError) as error:
        decode(text)
    assert len(str(error.value)) < 200


def test_J35_an_unreadable_entry_is_kept_and_never_read_as_something_else() -> None:
    broken = InventoryEntry("a_b", "v1")
    good = InventoryEntry("ns_a__ConfigMap", "v1")
    assert stale([broken, good], [good]) == (broken,)
    assert deletion_order([broken, good]) == (good, broken)


def test_an_api_version_bump_is_not_stale() -> None:
    """spec/kustomize.md 1.3: identity ignores the version."""
    old = InventoryEntry("ns_a_autoscaling_HorizontalPodAutoscaler", "v2beta2")
    assert stale([old], [InventoryEntry(old.id, "v2")]) == ()


def test_the_version_of_a_stale_entry_is_the_old_one() -> None:
    """spec/kustomize.md 5.1."""
    assert stale([InventoryEntry("ns_a__ConfigMap", "v7")], [])[0].v == "v7"


def test_ids_that_mean_the_same_object_are_one() -> None:
    old = InventoryEntry(f"_a:b_{RBAC}_ClusterRole", "v1")
    assert stale([old], [InventoryEntry(f"_a__b_{RBAC}_ClusterRole", "v1")]) == ()


def test_a_union_forgets_nothing_and_appends_at_the_end() -> None:
    """spec/kustomize.md 1.3: survivors of a failed prune come last."""
    a, b, b2, c = (InventoryEntry(i, v) for i, v in [("a", "v1"), ("b", "v1"), ("b", "v2"), ("c", "v1")])
    assert union([a, b], [b2, c]) == (a, b2, c)


def test_deletion_goes_backwards_through_the_apply_order() -> None:
    """spec/kustomize.md 5.1: webhooks first, definitions last."""
    ids = [
        "_w_admissionregistration.k8s.io_ValidatingWebhookConfiguration",
        "ns_b__ConfigMap",
        "ns_a__ConfigMap",
        "_ns__Namespace",
        "_x_apiextensions.k8s.io_CustomResourceDefinition",
    ]
    mixed = [InventoryEntry(ids[at], "v1") for at in (3, 1, 4, 0, 2)]
    assert [entry.id for entry in deletion_order(mixed)] == ids


def test_a_status_is_read_as_it_stands() -> None:
    assert inventory.read(None) == ()
    assert inventory.read([{"id": "a_b__C", "v": "v1"}, {"id": "a_b__C", "v": "v1"}, {"v": "v1"}]) == (
        InventoryEntry("a_b__C", "v1"),
    )


def test_O08_an_inventory_that_no_status_can_hold_is_refused_beforehand() -> None:
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "ns", "name": f"n{number:03}"}}
        for number in range(10)
    ]
    size = len(orjson.dumps([InventoryEntry.of(key_of(obj), "v1").to_builtins() for obj in objects])) - 1
    require_fits(objects, limit=size)
    with pytest.raises(InventoryTooLargeError, match=rf"^the inventory of 10 objects is too large: {size} bytes"):
        require_fits(objects, limit=size - 1)
