"""Pruning against a real API server: what goes, what stays, and what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gitopsd.apply.control import Owner
from gitopsd.apply.health import HealthError
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.krm.objects import Obj
from gitopsd.kube.errors import UnreachableError
from tests.controlplane import ControlPlane
from tests.flows.applying import PREFIX, Workbench, enforced, guard, unguard, workbench


@pytest.fixture
async def bench(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Workbench]:
    async with workbench(control_plane, namespace) as bench:
        yield bench


async def test_objects_go_in_the_reverse_of_the_apply_order(bench: Workbench) -> None:
    """spec/kustomize.md 5.1, golden apply-order."""
    changes = await bench.apply(bench.config_map("a"), bench.config_map("b"), bench.deployment("web"), bench.job("j"))
    result = await bench.prune(changes.inventory())
    assert result.lines() == [
        f"Job/{bench.namespace}/j deleted",
        f"Deployment/{bench.namespace}/web deleted",
        f"ConfigMap/{bench.namespace}/b deleted",
        f"ConfigMap/{bench.namespace}/a deleted",
    ]
    assert (result.message, result.undeleted) == ("", ())
    lines = [line for line in bench.requests if line.startswith("DELETE")]
    # An object that its controller moves meanwhile is deleted on a second try.
    deletes = list(dict.fromkeys(line.rpartition("/")[2] for line in lines))
    assert deletes[:2] == ["j", "web"]
    assert sorted(deletes[2:]) == ["a", "b"]
    assert bench.live("ConfigMap", "a") is None


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize("mark", ["prune: Disabled", "reconcile: disabled", "ssa: Ignore"])
async def test_J33_objects_marked_on_the_cluster_stay(bench: Workbench, field: str, mark: str) -> None:
    """spec/kustomize.md 5.2, golden prune-disabled."""
    changes = await bench.apply(bench.config_map("a"), bench.config_map("c"))
    key, value = mark.split(": ")
    patch = {"metadata": {field: {f"{PREFIX}/{key}": value}}}
    bench.api.merge("v1", "ConfigMap", "a", patch, bench.namespace)
    result = await bench.prune(changes.inventory())
    assert result.lines() == [f"ConfigMap/{bench.namespace}/c deleted", f"ConfigMap/{bench.namespace}/a skipped"]
    assert result.undeleted == ()
    assert bench.live("ConfigMap", "a") is not None


@pytest.mark.parametrize("label", ["name=other", "namespace=other", "name="])
async def test_J34_an_object_with_another_owner_stays(bench: Workbench, label: str) -> None:
    """spec/kustomize.md 5.2, golden delete-prune."""
    changes = await bench.apply(bench.config_map("a"))
    key, value = label.split("=")
    patch = {"metadata": {"labels": {f"{PREFIX}/{key}": value or None}}}
    bench.api.merge("v1", "ConfigMap", "a", patch, bench.namespace)
    result = await bench.prune(changes.inventory())
    assert result.lines() == [f"ConfigMap/{bench.namespace}/a skipped"]
    assert bench.live("ConfigMap", "a") is not None


async def test_O06_a_forged_inventory_deletes_nothing_that_is_not_ours(bench: Workbench) -> None:
    result = await bench.prune([InventoryEntry("kube-system_kube-root-ca.crt__ConfigMap", "v1")])
    assert result.lines() == ["ConfigMap/kube-system/kube-root-ca.crt skipped"]


async def test_an_object_that_was_never_ours_stays_although_it_is_in_the_inventory(bench: Workbench) -> None:
    """spec/kustomize.md 3.8: IfNotPresent on an object that was there before; golden ssa-annotations."""
    bench.api.create(bench.config_map("there", {"k": "hand"}))
    marked = {"annotations": {f"{PREFIX}/ssa": "IfNotPresent"}}
    changes = await bench.apply(bench.config_map("there", **marked), bench.config_map("new", **marked))
    result = await bench.prune(changes.inventory())
    assert result.lines() == [f"ConfigMap/{bench.namespace}/there skipped", f"ConfigMap/{bench.namespace}/new deleted"]


async def test_what_is_gone_or_going_counts_as_deleted(bench: Workbench) -> None:
    """spec/kustomize.md 5.2."""
    changes = await bench.apply(bench.config_map("held", finalizers=["example.com/hold"]), bench.config_map("gone"))
    bench.api.delete("v1", "ConfigMap", "gone", bench.namespace)
    bench.api.delete("v1", "ConfigMap", "held", bench.namespace)
    try:
        result = await bench.prune(changes.inventory())
        assert [str(entry.action) for entry in result.entries] == ["deleted", "deleted"]
    finally:
        bench.api.merge("v1", "ConfigMap", "held", {"metadata": {"finalizers": None}}, bench.namespace)


async def test_V2_an_object_that_is_protected_between_look_and_delete_stays(bench: Workbench) -> None:
    """The DELETE names the state that was judged."""
    changes = await bench.apply(bench.config_map("a"))
    delete, raced = bench.client.delete, []

    async def late(path: str, **options: Any) -> Any:
        if not raced:
            raced.append(path)
            patch = {"metadata": {"annotations": {f"{PREFIX}/prune": "disabled"}}}
            await asyncio.to_thread(bench.api.merge, "v1", "ConfigMap", "a", patch, bench.namespace)
        return await delete(path, **options)

    bench.client.delete = late  # type: ignore[method-assign]
    result = await bench.prune(changes.inventory())
    assert raced
    assert result.lines() == [f"ConfigMap/{bench.namespace}/a skipped"]
    assert bench.live("ConfigMap", "a") is not None


async def test_an_object_that_only_moved_between_look_and_delete_goes(bench: Workbench) -> None:
    changes = await bench.apply(bench.config_map("a"))
    delete, raced = bench.client.delete, []

    async def late(path: str, **options: Any) -> Any:
        if len(raced) < 2:
            raced.append(path)
            await asyncio.to_thread(bench.edit, "a", {"n": str(len(raced))})
        return await delete(path, **options)

    bench.client.delete = late  # type: ignore[method-assign]
    assert (await bench.prune(changes.inventory())).lines() == [f"ConfigMap/{bench.namespace}/a deleted"]
    assert bench.live("ConfigMap", "a") is None


async def test_Q20_a_deletion_denied_by_policy_keeps_its_entry(bench: Workbench) -> None:
    """spec/kustomize.md 5.2, 10 row 13."""
    changes = await bench.apply(bench.config_map("guarded"), bench.config_map("free"))
    policy = guard(bench, "DELETE", "stays")
    try:
        await enforced(bench, policy)
        result = await bench.prune(changes.inventory())
    finally:
        unguard(bench, policy)
    assert result.lines() == [f"ConfigMap/{bench.namespace}/free deleted"]
    assert result.message == (
        f'delete failed, errors: ConfigMap/{bench.namespace}/guarded delete failed: configmaps "guarded" is forbidden: '
        f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: stays;"
    )
    assert [entry.id for entry in result.undeleted] == [f"{bench.namespace}_guarded__ConfigMap"]


async def test_a_deletion_without_answer_is_reported_and_handed_back(bench: Workbench) -> None:
    """spec/kustomize.md 5.2, 10 row 13: joined, and the rest goes on."""
    changes = await bench.apply(bench.config_map("a"), bench.config_map("b"), bench.config_map("c"))
    delete = bench.client.delete

    async def refuse(path: str, **options: Any) -> Any:
        if not path.endswith("/b"):
            raise UnreachableError(f"no answer for {path.rpartition('/')[2]}")
        return await delete(path, **options)

    bench.client.delete = refuse  # type: ignore[method-assign]
    result = await bench.prune(changes.inventory())
    space = bench.namespace
    assert result.lines() == [f"ConfigMap/{space}/b deleted"]
    assert result.message == (
        f"delete failed, errors: ConfigMap/{space}/c delete failed: no answer for c;"
        f"ConfigMap/{space}/a delete failed: no answer for a;"
    )
    assert [entry.id for entry in result.undeleted] == [f"{space}_c__ConfigMap", f"{space}_a__ConfigMap"]


async def test_P02_a_tenant_deletes_with_its_own_rights(bench: Workbench) -> None:
    changes = await bench.apply(bench.config_map("a"))
    bench.client = bench.client.as_user(f"system:serviceaccount:{bench.namespace}:robot")
    result = await bench.prune(changes.inventory())
    assert result.message.startswith(
        f'delete failed, errors: ConfigMap/{bench.namespace}/a delete failed: configmaps "a" is forbidden: '
    )
    assert result.undeleted == changes.inventory()
    assert bench.live("ConfigMap", "a") is not None


async def test_J35_an_unreadable_entry_is_reported_and_kept(bench: Workbench) -> None:
    changes = await bench.apply(bench.config_map("a"))
    broken = InventoryEntry("a_b", "v1")
    result = await bench.prune([broken, *changes.inventory()])
    assert result.lines() == [f"ConfigMap/{bench.namespace}/a deleted"]
    assert result.message == "delete failed, errors: unable to parse inventory entry id: 'a_b';"
    assert result.undeleted == (broken,)


@pytest.mark.parametrize("entry_id", ["_x__ConfigMap", "ns_.._apps_Deployment"])
async def test_J35_an_entry_that_can_name_no_object_is_reported_and_kept(bench: Workbench, entry_id: str) -> None:
    entry = InventoryEntry(entry_id, "v1")
    result = await bench.prune([entry])
    assert result.undeleted == (entry,)
    assert bench.count("DELETE") == 0


async def test_Q18_a_kind_that_is_no_longer_served_has_no_objects_left(bench: Workbench) -> None:
    result = await bench.prune([InventoryEntry(f"{bench.namespace}_w_gone.example.com_Widget", "v1")])
    assert result.lines() == [f"Widget/{bench.namespace}/w deleted"]


async def test_an_object_recorded_in_a_version_that_is_gone_is_deleted_in_another(bench: Workbench) -> None:
    """Upstream fails for ever on such an entry."""
    changes = await bench.apply(bench.deployment("web"))
    old = InventoryEntry(changes.inventory()[0].id, "v1beta1")
    assert (await bench.prune([old])).lines() == [f"Deployment/{bench.namespace}/web deleted"]
    assert bench.live("Deployment", "web", api_version="apps/v1") is None


async def test_owners_are_told_apart(bench: Workbench) -> None:
    """spec/hostile-inputs.md P12: being in somebody's inventory gives no right."""
    changes = await bench.apply(bench.config_map("a"))
    result = await bench.prune(changes.inventory(), owner=Owner("other", bench.namespace))
    assert [str(entry.action) for entry in result.entries] == ["skipped"]


# -- waiting for the end


async def test_a_wait_for_termination_ends_when_the_last_object_is_gone(bench: Workbench) -> None:
    """spec/kustomize.md 5.4."""
    held: Obj = bench.config_map("held", finalizers=["example.com/hold"])
    changes = await bench.apply(held, bench.config_map("free"))
    result = await bench.prune(changes.inventory())
    waiting = asyncio.ensure_future(bench.waiter.wait_gone(result.deleted(), timeout=20))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    bench.api.merge("v1", "ConfigMap", "held", {"metadata": {"finalizers": None}}, bench.namespace)
    await waiting


async def test_Q26_a_wait_for_termination_says_what_remains(bench: Workbench) -> None:
    changes = await bench.apply(bench.config_map("held", finalizers=["example.com/hold"]), bench.config_map("free"))
    result = await bench.prune(changes.inventory())
    with pytest.raises(HealthError) as error:
        await bench.waiter.wait_gone(result.deleted(), timeout=0.8)
    assert str(error.value) == f"timeout waiting for: [ConfigMap/{bench.namespace}/held status: 'Terminating']"
    bench.api.merge("v1", "ConfigMap", "held", {"metadata": {"finalizers": None}}, bench.namespace)


async def test_a_successor_is_not_waited_for(bench: Workbench) -> None:
    changes = await bench.apply(bench.config_map("a"))
    result = await bench.prune(changes.inventory())
    bench.api.create(bench.config_map("a"))
    await bench.waiter.wait_gone(result.deleted(), timeout=5)
