"""Apply, prune and health while the API server's answers get lost: nothing is forgotten, nothing wrongly deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from gitopsd.apply.changes import ApplyError
from gitopsd.apply.health import targets_of
from gitopsd.apply.inventory import InventoryEntry, union
from gitopsd.krm.objects import Obj
from gitopsd.kube.client import KubeClient, KubeSettings
from gitopsd.tasks import TaskScope
from tests.controlplane import ControlPlane
from tests.faults import proxy as faults
from tests.faults.proxy import FaultProxy
from tests.flows.applying import Workbench


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane, seed=7) as proxy:
        yield proxy


@pytest.fixture
async def bench(control_plane: ControlPlane, proxy: FaultProxy, namespace: str) -> AsyncIterator[Workbench]:
    settings = KubeSettings(kubeconfig=proxy.kubeconfig)
    async with KubeClient.connect(settings) as client, TaskScope("workbench") as tasks:
        yield Workbench(control_plane, client.with_patience(0.0), tasks, namespace)


def ours(bench: Workbench) -> list[str]:
    """The names of the ConfigMaps that carry our labels."""
    selector = ",".join(f"{name}={value}" for name, value in bench.owner.labels.items())
    found = bench.api.list("v1", "ConfigMap", bench.namespace, labelSelector=selector)
    return sorted(obj["metadata"]["name"] for obj in found)


async def test_T06_whatever_was_written_is_in_the_inventory_and_the_next_runs_converge(
    bench: Workbench, proxy: FaultProxy
) -> None:
    """Lost answers to writes count as written; V3: live objects and inventory are the same set after settling."""
    objects: list[Obj] = [bench.config_map(f"c{number:02}", {"k": "v"}) for number in range(20)]
    await bench.discovery.served()
    proxy.inject(faults.lost_answer(), verbs=["apply"], chance=0.04)
    proxy.inject(faults.api_status(500), verbs=["get", "apply"], chance=0.02)
    inventory: tuple[InventoryEntry, ...] = ()
    for _ in range(60):
        try:
            changes = await bench.apply(*objects)
        except ApplyError as error:
            inventory = union(inventory, error.done.inventory())
            tracked = {entry.key.name for entry in inventory}
            assert set(await asyncio.to_thread(ours, bench)) <= tracked
            continue
        assert [entry.key.name for entry in changes] == [f"c{number:02}" for number in range(20)]
        break
    else:
        raise AssertionError("it never converged")
    proxy.heal()
    again = await bench.apply(*objects)
    assert {str(entry.action) for entry in again} == {"unchanged"}
    result = await bench.prune(again.inventory())
    assert result.errors == ()
    assert await asyncio.to_thread(ours, bench) == []


async def test_T02_a_prune_in_doubt_is_handed_back_and_never_skipped(bench: Workbench, proxy: FaultProxy) -> None:
    objects = [bench.config_map(f"c{number:02}") for number in range(12)]
    rest = (await bench.apply(*objects)).inventory()
    proxy.inject(faults.lost_answer(), verbs=["delete"], chance=0.4)
    proxy.inject(faults.api_status(429), verbs=["get"], chance=0.2)
    for _ in range(40):
        result = await bench.prune(rest)
        left = {entry.key.name for entry in result.undeleted}
        assert set(await asyncio.to_thread(ours, bench)) <= left
        assert bool(result.errors) == bool(left)
        rest = result.undeleted
        if not rest:
            break
    assert await asyncio.to_thread(ours, bench) == []


async def test_T70_a_wait_survives_its_watches(bench: Workbench, proxy: FaultProxy) -> None:
    """Every watch is cut again and again; the news come all the same."""
    changes = await bench.apply(bench.job("job"))
    waiting = asyncio.ensure_future(bench.waiter.wait(targets_of(changes), timeout=60))
    for _ in range(4):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(proxy.break_connections, resource="jobs.batch")
    assert not waiting.done()
    bench.api.merge("batch/v1", "Job", "job", {"spec": {"suspend": True}}, bench.namespace)
    await waiting


async def test_Q05_a_read_that_is_refused_for_now_is_no_verdict_on_the_object(
    bench: Workbench, proxy: FaultProxy
) -> None:
    """T07: no decision on an answer that never came."""
    await bench.apply(bench.config_map("a", {"k": "git"}))
    proxy.inject(faults.api_status(503), verbs=["get"])
    with pytest.raises(ApplyError, match=f"^ConfigMap/{bench.namespace}/a dry-run failed"):
        await bench.apply(bench.config_map("a", {"k": "new"}))
    proxy.heal()
    assert (bench.live("ConfigMap", "a") or {})["data"] == {"k": "git"}
