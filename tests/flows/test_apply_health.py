"""Waiting for health against a real API server: by events, with few watches, in the right words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gitopsd.apply.health import HealthError, HealthWaiter, Target, targets_of, ttl_jobs
from gitopsd.apply.wait import FEW
from gitopsd.krm.kstatus import Status, Verdict
from gitopsd.krm.objects import Obj, ObjectKey, get_in, key_of
from gitopsd.kube.errors import NotFoundError
from tests.controlplane import ControlPlane
from tests.flows.applying import Workbench, workbench

CRD = "apiextensions.k8s.io/v1"


@pytest.fixture
async def bench(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Workbench]:
    async with workbench(control_plane, namespace) as bench:
        yield bench


def is_established(crd: Obj | None) -> bool:
    conditions = get_in(crd, "status", "conditions", default=[])
    return ("Established", "True") in {(found["type"], found["status"]) for found in conditions}


@pytest.fixture(scope="module")
def widgets(control_plane: ControlPlane) -> Iterator[str]:
    """A group with a kind whose status only tests write."""
    group = f"{control_plane.create_namespace('health')}.example.com"
    bench = Workbench.__new__(Workbench)
    bench.namespace = ""
    control_plane.api.create(Workbench.crd(bench, group))
    control_plane.api.until(CRD, "CustomResourceDefinition", f"widgets.{group}", None, is_established)
    yield group
    control_plane.api.delete(CRD, "CustomResourceDefinition", f"widgets.{group}")


def report(bench: Workbench, group: str, name: str, **conditions: str) -> None:
    """Play the controller of a widget: write its conditions."""
    found = [{"type": kind, "status": status} for kind, status in conditions.items()]
    status = {"status": {"conditions": found}}
    bench.api.merge(f"{group}/v1", "Widget", name, status, bench.namespace, subresource="status")


def key(bench: Workbench, group: str, name: str) -> ObjectKey:
    return ObjectKey(group, "Widget", bench.namespace, name)


def is_asleep(task: asyncio.Future[Any]) -> bool:
    return not task.done()


async def applied(bench: Workbench, group: str, *names: str) -> list[Target]:
    """Widgets that exist and are not ready."""
    objects = [bench.widget(group, name, size=1) for name in names]
    changes = await bench.apply(*objects)
    for name in names:
        report(bench, group, name, Ready="False")
    return [Target(entry.key) for entry in changes]


async def failure(waiting: Any) -> str:
    with pytest.raises(HealthError) as error:
        await waiting
    return str(error.value)


# -- ready


async def test_what_an_apply_returned_as_current_costs_nothing(bench: Workbench) -> None:
    """decisions.md 3: no watch, no read."""
    changes = await bench.apply(bench.config_map("a"), bench.config_map("b"))
    bench.requests.clear()
    await bench.waiter.wait(targets_of(changes), timeout=5)
    assert bench.requests == []
    assert len(bench.pool) == 0


async def test_nothing_to_wait_for_is_healthy_at_once(bench: Workbench) -> None:
    await bench.waiter.wait([], timeout=0)


async def test_a_deployment_is_awaited_by_one_watch(bench: Workbench) -> None:
    """Golden wait-success."""
    changes = await bench.apply(bench.deployment("web"))
    bench.requests.clear()
    await bench.waiter.wait(targets_of(changes), timeout=20)
    assert bench.count("GET", "/deployments/web") == 0


async def test_T63_the_event_ends_the_wait(bench: Workbench, widgets: str) -> None:
    targets = await applied(bench, widgets, "w")
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=30))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    bench.requests.clear()
    report(bench, widgets, "w", Ready="True")
    await waiting
    assert bench.requests == []


async def test_named_objects_that_nobody_owns_are_read_once_and_then_watched(bench: Workbench, widgets: str) -> None:
    """spec/kustomize.md 6.1, golden health-checks."""
    bench.api.create(bench.widget(widgets, "foreign"))
    report(bench, widgets, "foreign", Ready="False")
    bench.api.create(bench.config_map("ready"))
    wanted = [
        Target(key(bench, widgets, "foreign"), is_managed=False),
        Target(ObjectKey("", "ConfigMap", bench.namespace, "ready"), is_managed=False),
    ]
    waiting = asyncio.ensure_future(bench.waiter.wait(wanted, timeout=30))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    report(bench, widgets, "foreign", Ready="True")
    await waiting


async def test_an_object_that_comes_later_is_noticed(bench: Workbench, widgets: str) -> None:
    wanted = [Target(key(bench, widgets, "late"), is_managed=False)]
    waiting = asyncio.ensure_future(bench.waiter.wait(wanted, timeout=30))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    bench.api.create(bench.widget(widgets, "late"))
    await waiting


async def test_a_kind_that_comes_later_is_noticed(bench: Workbench) -> None:
    group = f"{bench.namespace}.example.com"
    wanted = [Target(ObjectKey(group, "Widget", bench.namespace, "w"), is_managed=False)]
    waiting = asyncio.ensure_future(bench.waiter.wait(wanted, timeout=30))
    await asyncio.sleep(0.5)
    assert is_asleep(waiting)
    try:
        await bench.apply(bench.crd(group), bench.widget(group, "w"))
        await waiting
    finally:
        bench.api.delete(CRD, "CustomResourceDefinition", f"widgets.{group}")


async def test_an_older_state_in_the_cache_is_no_news(bench: Workbench, widgets: str) -> None:
    """The shared watch may still show the object as it was before this apply."""
    targets = await applied(bench, widgets, "w")
    report(bench, widgets, "w", Ready="True")
    await bench.waiter.wait(targets, timeout=10)
    changes = await bench.apply(bench.widget(widgets, "w", size=2))
    generation = changes.entries[0].live["metadata"]["generation"]  # type: ignore[index]
    status = {"status": {"observedGeneration": generation - 1}}
    bench.api.merge(f"{widgets}/v1", "Widget", "w", status, bench.namespace, subresource="status")
    waiting = asyncio.ensure_future(bench.waiter.wait([Target(targets[0].key)], timeout=20))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    status = {"status": {"observedGeneration": generation}}
    bench.api.merge(f"{widgets}/v1", "Widget", "w", status, bench.namespace, subresource="status")
    await waiting


# -- not ready


async def test_the_first_failure_ends_the_wait(bench: Workbench, widgets: str) -> None:
    """spec/kustomize.md 6.4: only the failed ones are named, sorted."""
    targets = await applied(bench, widgets, "a", "b", "c")
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=30))
    await asyncio.sleep(0.3)
    report(bench, widgets, "b", Stalled="True")
    assert await failure(waiting) == (
        f"failed early due to stalled resources: [Widget/{bench.namespace}/b status: 'Failed']"
    )


async def test_without_fail_fast_the_others_are_awaited(bench: Workbench, widgets: str) -> None:
    """Gate DisableFailFastBehavior."""
    targets = await applied(bench, widgets, "a", "b")
    report(bench, widgets, "a", Stalled="True")
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=30, fail_fast=False))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    report(bench, widgets, "b", Ready="True")
    assert await failure(waiting) == (
        f"failed early due to stalled resources: [Widget/{bench.namespace}/a status: 'Failed']"
    )


async def test_a_failed_job_ends_the_wait(bench: Workbench) -> None:
    """Golden health-failed-early."""
    changes = await bench.apply(bench.job("job", backoffLimit=0, activeDeadlineSeconds=1))
    text = await failure(bench.waiter.wait(targets_of(changes), timeout=40))
    assert text == f"failed early due to stalled resources: [Job/{bench.namespace}/job status: 'Failed']"


async def test_J36_when_the_time_is_up_everything_that_is_not_current_is_listed(bench: Workbench, widgets: str) -> None:
    """spec/kustomize.md 6.4, golden wait-timeout."""
    claim: Obj = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "disk"}}
    claim["metadata"]["namespace"] = bench.namespace
    claim["spec"] = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "none",
        "resources": {"requests": {"storage": "1Gi"}},
    }
    changes = await bench.apply(claim, bench.config_map("a"))
    held = bench.widget(widgets, "held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    bench.api.create(held)
    bench.api.delete(f"{widgets}/v1", "Widget", "held", bench.namespace)
    wanted = [
        *targets_of(changes),
        Target(key(bench, widgets, "held"), is_managed=False),
        Target(key(bench, widgets, "missing"), is_managed=False),
        Target(ObjectKey("nowhere.example.com", "Gadget", bench.namespace, "g"), is_managed=False),
    ]
    text = await failure(bench.waiter.wait(wanted, timeout=0.8))
    bench.api.merge(f"{widgets}/v1", "Widget", "held", {"metadata": {"finalizers": None}}, bench.namespace)
    space = bench.namespace
    assert text == (
        f"timeout waiting for: [Gadget/{space}/g status: 'Unknown': "
        'no matches for kind "Gadget" in group "nowhere.example.com", '
        f"PersistentVolumeClaim/{space}/disk status: 'InProgress', "
        f"Widget/{space}/held status: 'Terminating', Widget/{space}/missing status: 'NotFound']"
    )


async def test_a_namespaced_kind_without_namespace_ends_the_wait_at_once(bench: Workbench) -> None:
    """spec/kustomize.md 6.4."""
    text = await failure(bench.waiter.wait([Target(ObjectKey("apps", "Deployment", "", "web"))], timeout=20))
    assert text == "resource Deployment.apps web is namespace scoped, but namespace is not set"


async def test_an_object_that_is_deleted_while_awaited_is_not_found(bench: Workbench, widgets: str) -> None:
    targets = await applied(bench, widgets, "w")
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=1.2))
    await asyncio.sleep(0.3)
    bench.api.delete(f"{widgets}/v1", "Widget", "w", bench.namespace)
    assert await failure(waiting) == f"timeout waiting for: [Widget/{bench.namespace}/w status: 'NotFound']"


async def test_a_job_that_removes_itself_counts_as_ended(bench: Workbench) -> None:
    """spec/kustomize.md 6.1, 6.4."""
    job = bench.job("job", ttlSecondsAfterFinished=0)
    changes = await bench.apply(job)
    waiting = asyncio.ensure_future(bench.waiter.wait(targets_of(changes), timeout=20, ttl_jobs=ttl_jobs([job])))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    bench.api.delete("batch/v1", "Job", "job", bench.namespace)
    await waiting


async def test_a_stateful_set_fails_with_its_pods(bench: Workbench) -> None:
    """spec/kustomize.md 6.3: the Pods are looked at once it takes a while."""
    stateful = bench.deployment("db", replicas=1)
    stateful |= {"kind": "StatefulSet"}
    stateful["spec"] |= {"serviceName": "db"}
    changes = await bench.apply(stateful)
    waiting = asyncio.ensure_future(bench.waiter.wait(targets_of(changes), timeout=30))
    await asyncio.to_thread(bench.api.until, "v1", "Pod", "db-0", bench.namespace, lambda pod: pod is not None)
    crash = {"name": "web", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "image": "x", "imageID": ""}
    crash |= {"ready": False, "restartCount": 3}
    status = {"status": {"phase": "Running", "containerStatuses": [crash]}}
    bench.api.merge("v1", "Pod", "db-0", status, bench.namespace, subresource="status")
    assert await failure(waiting) == (
        f"failed early due to stalled resources: [StatefulSet/{bench.namespace}/db status: 'Failed']"
    )


# -- readers


class Sized:
    """A reader as `healthCheckExprs` makes them: ready by its size."""

    def reads(self, group: str, kind: str) -> bool:
        return kind in {"Widget", "Job"}

    async def read(self, obj: Obj) -> Verdict:
        size = obj["spec"].get("size")
        if size is None:
            return Verdict(Status.UNKNOWN, "no such key: size")
        return Verdict(Status.CURRENT if size > 2 else Status.IN_PROGRESS, "")


async def test_a_reader_of_the_kind_replaces_the_rules(bench: Workbench, widgets: str) -> None:
    """spec/kustomize.md 6.2: CEL readers; their errors are Unknown with the reason, and are tried again."""
    changes = await bench.apply(bench.widget(widgets, "w"))
    text = await failure(bench.waiter.wait(targets_of(changes), timeout=0.5, readers=[Sized()]))
    assert text == f"timeout waiting for: [Widget/{bench.namespace}/w status: 'Unknown': no such key: size]"
    changes = await bench.apply(bench.widget(widgets, "w", size=1))
    waiting = asyncio.ensure_future(bench.waiter.wait(targets_of(changes), timeout=20, readers=[Sized()]))
    await asyncio.sleep(0.3)
    assert is_asleep(waiting)
    bench.api.merge(f"{widgets}/v1", "Widget", "w", {"spec": {"size": 3}}, bench.namespace)
    await waiting


async def test_the_rule_for_jobs_goes_before_readers_except_under_impersonation(bench: Workbench) -> None:
    """spec/kustomize.md 6.2."""
    job = bench.job("job", suspend=True)
    changes = await bench.apply(job)
    await bench.waiter.wait(targets_of(changes), timeout=5, readers=[Sized()])
    tenant = HealthWaiter(bench.pool, bench.discovery, bench.client, reads_jobs_first=False)
    text = await failure(tenant.wait(targets_of(changes), timeout=0.3, readers=[Sized()]))
    assert text.endswith("status: 'Unknown': no such key: size]")


# -- cost and care


async def test_many_waits_share_one_watch_of_the_kind(bench: Workbench, widgets: str) -> None:
    """decisions.md 3: a few watches by name, then one for all."""
    names = [f"w{number}" for number in range(3 * FEW)]
    targets = await applied(bench, widgets, *names)
    waits = []
    for target in targets:
        waits.append(asyncio.ensure_future(bench.waiter.wait([target], timeout=60)))
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    assert len(bench.pool) == FEW + 1
    for name in names:
        report(bench, widgets, name, Ready="True")
    await asyncio.gather(*waits)
    await asyncio.sleep(0.5)
    assert len(bench.pool) == 0


async def test_one_wait_for_many_objects_uses_one_watch(bench: Workbench, widgets: str) -> None:
    names = [f"w{number}" for number in range(2 * FEW)]
    targets = await applied(bench, widgets, *names)
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=60))
    await asyncio.sleep(0.5)
    assert len(bench.pool) == 1
    for name in names:
        report(bench, widgets, name, Ready="True")
    await waiting


async def test_an_object_that_lost_our_labels_is_still_followed(bench: Workbench, widgets: str) -> None:
    """The shared watch shows only objects with owner labels."""
    names = [f"w{number}" for number in range(FEW + 1)]
    targets = await applied(bench, widgets, *names)
    labels = {"metadata": {"labels": None}}
    bench.api.merge(f"{widgets}/v1", "Widget", "w0", labels, bench.namespace)
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=30))
    await asyncio.sleep(0.5)
    for name in names[1:]:
        report(bench, widgets, name, Ready="True")
    await asyncio.sleep(0.2)
    assert is_asleep(waiting)
    report(bench, widgets, "w0", Ready="True")
    await waiting


async def test_T16_a_cancelled_wait_leaves_no_watch_behind(bench: Workbench, widgets: str) -> None:
    targets = await applied(bench, widgets, "w")
    for pause in (0, 0, 0.05, 0.3):
        waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=30))
        await asyncio.sleep(pause)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.sleep(0.6)
    assert len(bench.pool) == 0
    assert set(bench.waiter._sight.crowd.values()) <= {0}


def role(bench: Workbench, group: str, *verbs: str) -> list[Obj]:
    """A role for the account `robot` on widgets, and its binding."""
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "User", "apiGroup": rbac, "name": f"system:serviceaccount:{bench.namespace}:robot"}
    metadata = {"name": "robot", "namespace": bench.namespace}
    rules = [{"apiGroups": [group], "resources": ["widgets"], "verbs": list(verbs)}]
    reference = {"apiGroup": rbac, "kind": "Role", "name": "robot"}
    binding = {"roleRef": reference, "subjects": [subject]}
    return [
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": metadata, **binding},
    ]


def tenant(bench: Workbench) -> Any:
    client = bench.client.as_user(f"system:serviceaccount:{bench.namespace}:robot")
    return HealthWaiter(bench.pool, bench.discovery, client, pause=0.2)


@pytest.mark.parametrize("verbs", [("get",), ("get", "list", "watch")])
@pytest.mark.parametrize("count", [1, FEW + 1])
async def test_P08_a_tenant_waits_with_its_own_rights(bench: Workbench, widgets: str, verbs: Any, count: int) -> None:
    """Where the rights do not reach for a watch of the kind, smaller ones or plain reads must do."""
    for obj in role(bench, widgets, *verbs):
        bench.api.create(obj)
    names = [f"w{number}" for number in range(count)]
    targets = await applied(bench, widgets, *names)
    waiting = asyncio.ensure_future(tenant(bench).wait(targets, timeout=30))
    await asyncio.sleep(0.6)
    assert is_asleep(waiting)
    for name in names:
        report(bench, widgets, name, Ready="True")
    await waiting


async def test_P08_without_rights_the_wait_tells_nothing_of_the_object(bench: Workbench, widgets: str) -> None:
    bench.api.create(bench.widget(widgets, "there"))
    texts = [
        await failure(tenant(bench).wait([Target(key(bench, widgets, name), is_managed=False)], timeout=0.4))
        for name in ("there", "missing")
    ]
    assert texts[0].replace("there", "missing") == texts[1]
    assert "status: 'Unknown': " in texts[0]
    assert "is forbidden" in texts[0]


async def test_two_tenants_never_share_a_watch(bench: Workbench, widgets: str) -> None:
    for obj in role(bench, widgets, "get", "list", "watch"):
        bench.api.create(obj)
    targets = await applied(bench, widgets, "w")
    waits = [asyncio.ensure_future(waiter.wait(targets, timeout=20)) for waiter in (tenant(bench), bench.waiter)]
    await asyncio.sleep(0.4)
    assert len(bench.pool) == 2
    report(bench, widgets, "w", Ready="True")
    await asyncio.gather(*waits)


async def test_a_read_that_fails_says_so_and_the_watch_heals_it(bench: Workbench, widgets: str) -> None:
    targets = await applied(bench, widgets, "w")
    get = bench.client.get

    async def lose(path: str, **options: Any) -> Any:
        raise NotFoundError(404, "NotFound", "no such thing", details={"name": "w"})

    bench.client.get = lose  # type: ignore[method-assign]
    waiting = asyncio.ensure_future(bench.waiter.wait(targets, timeout=20))
    await asyncio.sleep(0.3)
    bench.client.get = get  # type: ignore[method-assign]
    report(bench, widgets, "w", Ready="True")
    await waiting


def test_only_jobs_with_a_time_to_live_are_expected_to_go() -> None:
    """spec/kustomize.md 6.1."""
    job: Obj = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {}}
    mortal = {**job, "metadata": {"name": "b"}, "spec": {"ttlSecondsAfterFinished": 0}}
    assert ttl_jobs([job, mortal]) == {key_of(mortal)}
