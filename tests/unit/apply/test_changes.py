"""Change sets: lines, inventory, what the next run may take for granted."""

from __future__ import annotations

from gitopsd.apply.changes import Action, ApplyError, ChangeSet, Entry, Known
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.krm.objects import ObjectKey


def key(name: str, kind: str = "ConfigMap", namespace: str = "ns") -> ObjectKey:
    return ObjectKey("", kind, namespace, name)


CHANGES = ChangeSet(
    (
        Entry(key("a"), "v1", Action.CREATED, None, Known("d1", "u1", "7")),
        Entry(key("b"), "v1", Action.CONFIGURED, None, Known("d2", "u2", "7")),
        Entry(key("c"), "v1", Action.UNCHANGED, None, Known("d3", "u3", "7")),
        Entry(key("d"), "v1", Action.SKIPPED, {"metadata": {"uid": "u4"}}),
    )
)


def test_an_event_lists_only_what_was_created_or_configured() -> None:
    """spec/kustomize.md 4.7."""
    assert CHANGES.changed().lines() == ["ConfigMap/ns/a created", "ConfigMap/ns/b configured"]


def test_the_log_has_every_action() -> None:
    """spec/kustomize.md 4.7, with and without the gate GroupChangeLog."""
    assert CHANGES.output()["ConfigMap/ns/d"] == "skipped"
    assert CHANGES.output(grouped=True)["unchanged"] == ["ConfigMap/ns/c"]


def test_skipped_objects_are_in_the_inventory() -> None:
    """spec/kustomize.md 1.3."""
    assert CHANGES.inventory()[-1] == InventoryEntry("ns_d__ConfigMap", "v1")
    assert len(CHANGES.inventory()) == 4


def test_an_object_stands_in_the_inventory_once() -> None:
    assert len((CHANGES + CHANGES).inventory()) == 4


def test_only_settled_objects_are_known() -> None:
    assert CHANGES.known()[key("a")] == Known("d1", "u1", "7")
    assert key("d") not in CHANGES.known()
    assert [entry.uid for entry in CHANGES] == ["u1", "u2", "u3", "u4"]


def test_an_apply_error_ends_with_a_newline_and_the_changes_so_far() -> None:
    """spec/kustomize.md 2.3; goldens dry-run-failure and no-namespace."""
    assert str(ApplyError("boom")) == "boom\n"
    assert str(ApplyError("boom", CHANGES)) == "boom\nConfigMap/ns/a created\nConfigMap/ns/b configured\n"
