"""What counts as news: a wait fed by an informer that the test drives by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gitopsd.apply.tally import Outcome, Tally
from gitopsd.apply.wait import Sight, Target, Wait, selector_text
from gitopsd.krm.kstatus import Status, Verdict, assess
from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.discovery import Resource
from gitopsd.kube.informer import Informer
from gitopsd.kube.watch import Changed, Replaced

RESOURCE = Resource(GVK("example.com", "v1", "Widget"), "widgets", namespaced=True)
KEY = ObjectKey("example.com", "Widget", "ns", "w")


def widget(version: int, ready: str, uid: str = "u") -> Obj:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "ns", "uid": uid, "resourceVersion": str(version)},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


class Cluster:
    """Discovery, pool and client in one: one kind, one informer, no network."""

    identity = ("here",)

    def __init__(self) -> None:
        self.informer: Informer[Obj] = Informer(self, RESOURCE)  # type: ignore[arg-type]
        self.reads: list[str] = []

    async def preferred(self, group: str, kind: str) -> Resource:
        return RESOURCE

    async def get(self, path: str, **_: Any) -> Obj:
        self.reads.append(path)
        return widget(9, "False")

    @asynccontextmanager
    async def use(self, resource: Resource, **_: Any) -> AsyncIterator[Informer[Obj]]:
        yield self.informer


async def judge(key: ObjectKey, obj: Obj | None, pods: Any) -> Verdict:
    return Verdict(Status.NOT_FOUND, "") if obj is None else assess(obj)


def waiting_on(cluster: Cluster, live: Obj) -> tuple[asyncio.Task[None], Tally]:
    tally = Tally([KEY])
    sight = Sight(cluster, cluster, cluster, "owner", pause=60.0)  # type: ignore[arg-type]
    wait = Wait(sight, {KEY: Target(KEY, live)}, tally, judge)
    return asyncio.ensure_future(wait.run()), tally


async def breathe() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_cached_state_from_before_the_apply_is_no_news() -> None:
    """A shared watch may lag behind the answer of the apply: it must not declare the old state healthy."""
    cluster = Cluster()
    await cluster.informer.take(Replaced([widget(3, "True")], "3"))
    task, tally = waiting_on(cluster, widget(5, "False"))
    await breathe()
    assert tally.outcome is Outcome.WAITING
    await cluster.informer.take(Changed("MODIFIED", widget(4, "True")))
    await breathe()
    assert tally.outcome is Outcome.WAITING
    await cluster.informer.take(Changed("MODIFIED", widget(6, "True")))
    await asyncio.wait_for(task, 5)
    assert tally.outcome is Outcome.HEALTHY
    assert cluster.reads == []


async def test_an_object_that_the_cache_does_not_have_yet_is_read_before_it_counts_as_gone() -> None:
    cluster = Cluster()
    await cluster.informer.take(Replaced([], "3"))
    task, tally = waiting_on(cluster, widget(5, "False"))
    await breathe()
    assert cluster.reads == ["/apis/example.com/v1/namespaces/ns/widgets/w"]
    assert (tally.verdict(KEY) or Verdict(Status.UNKNOWN, "")).status is Status.IN_PROGRESS
    await cluster.informer.take(Changed("ADDED", widget(10, "True")))
    await asyncio.wait_for(task, 5)


async def test_what_is_ready_on_arrival_is_neither_read_nor_watched() -> None:
    cluster = Cluster()
    task, tally = waiting_on(cluster, widget(5, "True"))
    await asyncio.wait_for(task, 5)
    assert (tally.outcome, cluster.reads) == (Outcome.HEALTHY, [])


def test_selectors_are_written_as_queries() -> None:
    assert selector_text({"matchLabels": {"b": "2", "a": "1"}}) == "a=1,b=2"
    expressions = [
        {"key": "a", "operator": "In", "values": ["x", "y"]},
        {"key": "b", "operator": "NotIn", "values": ["z"]},
        {"key": "c", "operator": "Exists"},
        {"key": "d", "operator": "DoesNotExist"},
    ]
    assert selector_text({"matchExpressions": expressions}) == "a in (x,y),b notin (z),c,!d"
    assert selector_text({}) == ""
