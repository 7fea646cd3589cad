"""Taking fields over from kubectl and its kin."""

from __future__ import annotations

from typing import Any

from gitopsd.apply.managed_fields import cleanup, merged, migrated, other_appliers, taken_over, union
from gitopsd.krm.objects import Obj

OURS = "kustomize-controller"
TAKEN = taken_over(OURS)


def entry(manager: str, operation: str = "Update", fields: Any = None, **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields or {}, **more}


def live(*entries: dict[str, Any], **metadata: Any) -> Obj:
    return {"metadata": {"resourceVersion": "7", "managedFields": list(entries), **metadata}}


def test_fields_of_kubectl_join_ours_at_the_end() -> None:
    """spec/kustomize.md 4.4 step 5, golden kubectl-takeover."""
    entries = [
        entry(OURS, "Apply", {"f:data": {"f:k": {}}}),
        entry("kubectl-edit", "Update", {"f:data": {"f:more": {}}}),
        entry("flux-client-side-apply", "Update", {"f:data": {"f:flux": {}}}),
        entry("kubectl", "Apply", {"f:metadata": {"f:labels": {"f:a": {}}}}),
    ]
    result = merged(entries, OURS, TAKEN)
    assert result == [
        entries[2],
        entry(OURS, "Apply", {"f:data": {"f:k": {}, "f:more": {}}, "f:metadata": {"f:labels": {"f:a": {}}}}),
    ]


def test_the_first_taken_entry_is_renamed_when_we_have_none() -> None:
    """spec/kustomize.md 4.4 step 5."""
    result = merged([entry("before-first-apply", fields={"f:data": {}}), entry(OURS)], OURS, TAKEN)
    assert result == [entry(OURS, "Apply", {"f:data": {}})]


def test_writers_of_subresources_and_other_controllers_keep_their_fields() -> None:
    """spec/kustomize.md 4.4 step 5: `kubectl scale`, helm, controllers."""
    entries = [
        entry("kubectl", fields={"f:spec": {"f:replicas": {}}}, subresource="scale"),
        entry("helm"),
        entry("before-first-apply", "Apply"),
        entry(OURS, "Apply"),
    ]
    assert merged(entries, OURS, TAKEN) is None
    assert cleanup(live(*entries), OURS, TAKEN) == []


def test_overridden_managers_are_taken_by_prefix_for_both_operations() -> None:
    """spec/kustomize.md 7.5, --override-manager."""
    managers = taken_over(OURS, ["my-tool"])
    assert merged([entry("my-tool-v2", "Apply")], OURS, managers) == [entry(OURS, "Apply")]
    assert merged([entry("my-tool", "Update")], OURS, managers) == [entry(OURS, "Apply")]


def test_legacy_marks_are_removed_and_the_patch_is_pinned_to_what_it_was_computed_from() -> None:
    """spec/kustomize.md 3.8, key checksum."""
    obj = live(
        annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}", "keep": "me"},
        labels={"fluxcd.io/sync-gc-mark": "x"},
    )
    assert cleanup(obj, OURS, TAKEN) == [
        {"op": "remove", "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"},
        {"op": "remove", "path": "/metadata/labels/fluxcd.io~1sync-gc-mark"},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
    ]


def test_migration_moves_every_entry_to_the_manifests_version() -> None:
    """spec/kustomize.md 4.4 step 3, gate MigrateAPIVersion."""
    patch = migrated(live(entry("a", apiVersion="apps/v1beta1"), entry("b", apiVersion="apps/v1")), "apps/v1")
    assert [item["apiVersion"] for item in patch[0]["value"]] == ["apps/v1", "apps/v1"]
    assert migrated(live(entry("b", apiVersion="apps/v1")), "apps/v1") == []


def test_a_union_has_every_path_of_both() -> None:
    one = {"f:spec": {"f:a": {}, "f:list": {'k:{"name":"x"}': {".": {}}}}}
    other = {"f:spec": {"f:list": {'k:{"name":"x"}': {"f:image": {}}}}, "f:data": {}}
    assert union(one, other) == {
        "f:spec": {"f:a": {}, "f:list": {'k:{"name":"x"}': {".": {}, "f:image": {}}}},
        "f:data": {},
    }


def test_only_appliers_other_than_us_count_as_such() -> None:
    entries = [entry(OURS, "Apply", {"a": {}}), entry("vpa", "Apply", {"b": {}}), entry("x", "Update", {"c": {}})]
    assert list(other_appliers(live(*entries), OURS)) == [{"b": {}}]
