"""Watches and informers against the real API server, through a proxy that breaks things, and over its death."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.client import KubeClient, KubeSettings, PatchType
from gitopsd.kube.discovery import Discovery, Resource
from gitopsd.kube.errors import ForbiddenError, NotFoundError
from gitopsd.kube.informer import Change, Informer, InformerPool
from gitopsd.kube.watch import Pace, Replaced, list_and_watch
from gitopsd.tasks import TaskScope
from tests.controlplane import ControlPlane
from tests.faults import proxy as faults
from tests.faults.proxy import FaultProxy, api_status

CONFIG_MAPS = Resource(GVK("", "v1", "ConfigMap"), "configmaps", namespaced=True)
SECRETS = Resource(GVK("", "v1", "Secret"), "secrets", namespaced=True)
QUICK = Pace(floor=0.05, ceiling=0.5)


@pytest.fixture(scope="module")
def mortal() -> Iterator[ControlPlane]:
    """A control plane whose API server may be killed."""
    with ControlPlane(controllers=False) as control_plane:
        yield control_plane


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient.connect(KubeSettings(kubeconfig=control_plane.kubeconfig)) as client:
        yield client


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
async def troubled(proxy: FaultProxy) -> AsyncIterator[KubeClient]:
    """A client behind the proxy."""
    async with KubeClient.connect(KubeSettings(kubeconfig=proxy.kubeconfig)) as client:
        yield client


class Ears:
    """Remembers what an informer told, and waits for more."""

    def __init__(self, informer: Informer[Any]) -> None:
        self.changes: list[Change[Any]] = []
        self._more = asyncio.Event()
        informer.tell(self._hear)

    def _hear(self, change: Change[Any]) -> None:
        self.changes.append(change)
        self._more.set()

    @property
    def brief(self) -> list[tuple[str, str]]:
        return [(change.kind, change.key.name) for change in self.changes if change.key.name != "kube-root-ca.crt"]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def running(informer: Informer[Any]) -> AsyncIterator[Ears]:
    async with TaskScope("test") as tasks:
        tasks.start("informer", informer.run(), essential=True)
        async with asyncio.timeout(30):
            await informer.synced()
        yield Ears(informer)


def informer_of(client: KubeClient, namespace: str | None, **options: Any) -> Informer[Obj]:
    options = {"pace": QUICK, **options}
    return Informer(client, CONFIG_MAPS, namespace=namespace, **options)


def key(namespace: str, name: str) -> ObjectKey:
    return ObjectKey("", "ConfigMap", namespace, name)


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Obj:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


async def create(client: KubeClient, namespace: str, name: str, **data: str) -> Obj:
    return await client.create(CONFIG_MAPS.path(namespace), config_map(name, **data))


async def change(client: KubeClient, namespace: str, name: str, **data: str) -> Obj:
    return await client.patch(CONFIG_MAPS.path(namespace, name), {"data": data}, kind=PatchType.MERGE)


async def delete(client: KubeClient, namespace: str, name: str) -> None:
    await client.delete(CONFIG_MAPS.path(namespace, name))


# -- in peace


@pytest.mark.parametrize("streams", [True, False])
async def test_a_stream_begins_with_everything_and_goes_on_with_each_change(
    client: KubeClient, namespace: str, streams: bool
) -> None:
    """The same news whether the server streams the initial objects or is listed in pages."""
    for number in range(7):
        await create(client, namespace, f"n{number}")
    stream = list_and_watch(
        client,
        CONFIG_MAPS.path(namespace),
        params={"fieldSelector": "metadata.name!=kube-root-ca.crt"},
        page_size=3,
        streams=streams,
        pace=QUICK,
    )
    async with aclosing(stream) as news, asyncio.timeout(20):
        first = await anext(news)
        assert isinstance(first, Replaced)
        assert sorted(obj["metadata"]["name"] for obj in first.items) == [f"n{number}" for number in range(7)]
        await change(client, namespace, "n0", a="1")
        await delete(client, namespace, "n1")
        told = []
        async for item in news:
            if hasattr(item, "obj"):
                told.append((item.type, item.obj["metadata"]["name"]))
            if len(told) == 2:
                break
    assert told == [("MODIFIED", "n0"), ("DELETED", "n1")]


async def test_changes_reach_lister_listeners_and_who_waits(client: KubeClient, namespace: str) -> None:
    informer = informer_of(client, namespace)
    informer.index("data", lambda found: found.get("data", {}).values())
    async with running(informer) as ears, asyncio.timeout(20):
        made = await create(client, namespace, "a", k="1")
        found = await informer.until(key(namespace, "a"), lambda obj: obj is not None)
        assert found is not None
        assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert (found["kind"], found["apiVersion"]) == ("ConfigMap", "v1")
        assert "managedFields" not in found["metadata"]
        await change(client, namespace, "a", k="2")
        await informer.until(key(namespace, "a"), lambda obj: obj is not None and obj["data"]["k"] == "2")
        assert informer.lister.having("data", "1") == []
        assert len(informer.lister.having("data", "2")) == 1
        await delete(client, namespace, "a")
        await informer.until(key(namespace, "a"), lambda obj: obj is None)
        assert ears.brief == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_an_object_that_leaves_the_selection_is_deleted_for_its_informer(
    client: KubeClient, namespace: str
) -> None:
    informer = informer_of(client, namespace, label_selector="mine=yes")
    async with running(informer) as ears, asyncio.timeout(20):
        await client.create(CONFIG_MAPS.path(namespace), config_map("a", {"mine": "yes"}))
        await client.create(CONFIG_MAPS.path(namespace), config_map("b", {"mine": "no"}))
        await ears.until(lambda: ears.brief == [("ADDED", "a")])
        no = {"metadata": {"labels": {"mine": "no"}}}
        await client.patch(CONFIG_MAPS.path(namespace, "a"), no, kind=PatchType.MERGE)
        await ears.until(lambda: ears.brief == [("ADDED", "a"), ("DELETED", "a")])


async def test_metadata_informers_hold_no_data(client: KubeClient, namespace: str) -> None:
    await client.create(SECRETS.path(namespace), {"metadata": {"name": "s"}, "stringData": {"x": "CNRY-secret"}})
    informer: Informer[Obj] = Informer(client, SECRETS, namespace=namespace, metadata_only=True)
    async with running(informer):
        assert set(informer.lister.list()[0]) == {"apiVersion", "kind", "metadata"}
        assert "CNRY" not in repr(informer.lister.list())


async def test_T73_strangers_cost_nothing(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md T73: the server is asked for what is selected, and nothing else crosses the wire."""
    big = "x" * 100_000
    await asyncio.gather(*(create(client, namespace, f"big{number}", x=big) for number in range(20)))
    await client.create(CONFIG_MAPS.path(namespace), config_map("mine", {"mine": "yes"}))
    async with running(informer_of(troubled, namespace, label_selector="mine=yes")) as ears:
        assert ears.brief == [("ADDED", "mine")]
    asked = [seen.query for seen in proxy.log]
    assert len(asked) == 1
    assert "labelSelector=mine" in asked[0]


# -- connections break


async def test_a_watch_that_is_cut_resumes_and_misses_nothing(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md Q07, T70: RST in mid-stream; the next watch goes on where the last ended."""
    informer = informer_of(troubled, namespace)
    async with running(informer) as ears:
        await create(client, namespace, "a")
        await ears.until(lambda: ears.brief == [("ADDED", "a")])
        for number in range(3):
            held = proxy.inject(api_status(503), verbs=["watch"])
            assert await asyncio.to_thread(proxy.break_connections, resource="configmaps") == 1
            await change(client, namespace, "a", n=str(number))
            held.remove()
            await ears.until(lambda wanted=number + 2: len(ears.brief) == wanted)
    assert ears.brief[1:] == [("MODIFIED", "a")] * 3
    streamed = [seen for seen in proxy.find(verb="watch", status=200) if "sendInitialEvents" in seen.query]
    assert len(streamed) == 1, "nothing was listed a second time"


async def test_T70_watches_that_are_closed_all_the_time_are_never_relisted(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md T70, Q09."""
    informer = informer_of(troubled, namespace)
    async with running(informer) as ears:
        proxy.inject(faults.cut_watch(after_seconds=0.05), verbs=["watch"])
        await asyncio.to_thread(proxy.break_connections)
        for number in range(5):
            await create(client, namespace, f"n{number}")
            await ears.until(lambda wanted=number + 1: len(ears.brief) == wanted)
    assert [name for _, name in ears.brief] == [f"n{number}" for number in range(5)]
    assert len([seen for seen in proxy.find(verb="watch") if "sendInitialEvents" in seen.query]) == 1


@pytest.mark.parametrize("where", ["start", "stream"])
async def test_Q03_a_410_is_met_by_a_new_list_that_tells_only_what_was_missed(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str, where: str
) -> None:
    """spec/hostile-inputs.md Q03: at the start and as an ERROR event; deletions missed meanwhile are told."""
    for name in ("same", "changed", "gone"):
        await create(client, namespace, name)
    informer = informer_of(troubled, namespace)
    async with running(informer) as ears:
        ears.changes.clear()
        away = proxy.inject(api_status(503), verbs=["watch"])
        await asyncio.to_thread(proxy.break_connections)
        await change(client, namespace, "changed", a="1")
        await delete(client, namespace, "gone")
        await create(client, namespace, "new")
        rule = api_status(410) if where == "start" else faults.watch_error(410)
        proxy.inject(rule, verbs=["watch"], times=1)
        away.remove()
        await ears.until(lambda: len(ears.brief) == 3)
    assert sorted(ears.brief) == [("ADDED", "new"), ("DELETED", "gone"), ("MODIFIED", "changed")]


async def test_T72_without_bookmarks_a_watch_resumes_after_the_last_event(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md T72: no missed delete."""
    await create(client, namespace, "a")
    informer = informer_of(troubled, namespace)
    async with running(informer) as ears:
        proxy.inject(faults.without_bookmarks(), verbs=["watch"])
        away = proxy.inject(api_status(503), verbs=["watch"])
        await asyncio.to_thread(proxy.break_connections)
        await delete(client, namespace, "a")
        away.remove()
        await ears.until(lambda: ears.brief[-1:] == [("DELETED", "a")])


async def test_Q31_events_that_come_twice_are_told_once(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md Q31."""
    proxy.inject(faults.doubled_events(), verbs=["watch"])
    informer = informer_of(troubled, namespace)
    async with running(informer) as ears:
        await create(client, namespace, "a")
        await change(client, namespace, "a", x="1")
        await delete(client, namespace, "a")
        await ears.until(lambda: ears.brief[-1:] == [("DELETED", "a")])
        await create(client, namespace, "b")
        await ears.until(lambda: ears.brief[-1:] == [("ADDED", "b")])
    assert ears.brief == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "b")]


async def test_Q13_an_object_of_more_than_a_megabyte_passes(client: KubeClient, namespace: str) -> None:
    """spec/hostile-inputs.md Q13."""
    informer = informer_of(client, namespace)
    async with running(informer), asyncio.timeout(20):
        await create(client, namespace, "big", x="y" * 1_000_000)
        found = await informer.until(key(namespace, "big"), lambda obj: obj is not None)
        assert found is not None
        assert len(found["data"]["x"]) == 1_000_000


async def test_T07_a_watch_that_hears_nothing_is_replaced_and_catches_up(
    client: KubeClient, proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md T07, Q10: the connection stays open and dead."""
    informer = informer_of(troubled, namespace, pace=Pace(round_min=1, round_max=1, margin=0.2))
    async with running(informer) as ears:
        frozen = proxy.inject(faults.frozen_watch(), verbs=["watch"])
        await asyncio.to_thread(proxy.break_connections)
        await create(client, namespace, "a")
        frozen.remove()
        await ears.until(lambda: ears.brief == [("ADDED", "a")])
    assert len([seen for seen in proxy.find(verb="watch") if "sendInitialEvents" in seen.query]) == 1


# -- servers die, rights and kinds come and go


async def test_T01_T02_an_informer_outlives_its_server(mortal: ControlPlane) -> None:
    """spec/hostile-inputs.md T01, T02: killed and started again; the deletion that nobody watched is told."""
    async with KubeClient.connect(KubeSettings(kubeconfig=mortal.kubeconfig)) as client:
        for name in ("stays", "goes"):
            await create(client, "default", name)
        informer = informer_of(client, "default")
        async with running(informer) as ears:
            ears.changes.clear()
            await asyncio.to_thread(mortal.kill_apiserver)
            await asyncio.to_thread(mortal.start_apiserver)
            await delete(client, "default", "goes")
            await create(client, "default", "comes")
            await ears.until(lambda: len(ears.brief) == 2)
        assert ears.brief == [("DELETED", "goes"), ("ADDED", "comes")]


async def test_T01_what_was_deleted_while_the_watch_was_dead_and_the_server_forgot_is_told(
    mortal: ControlPlane,
) -> None:
    """spec/hostile-inputs.md Q03, T07, T72: a real 410, because the new server remembers nothing older."""
    async with KubeClient.connect(KubeSettings(kubeconfig=mortal.kubeconfig)) as direct:
        for name in ("one", "two", "three"):
            await create(direct, "kube-public", name)
        with FaultProxy(mortal) as proxy:
            async with KubeClient.connect(KubeSettings(kubeconfig=proxy.kubeconfig)) as client:
                informer = informer_of(client, "kube-public")
                async with running(informer) as ears:
                    ears.changes.clear()
                    away = proxy.inject(api_status(503), verbs=["watch"])
                    await asyncio.to_thread(proxy.break_connections)
                    await delete(direct, "kube-public", "one")
                    await change(direct, "kube-public", "two", x="1")
                    await asyncio.to_thread(mortal.kill_apiserver)
                    await asyncio.to_thread(mortal.start_apiserver)
                    away.remove()
                    await ears.until(lambda: len(ears.brief) == 2)
                    assert sorted(ears.brief) == [("DELETED", "one"), ("MODIFIED", "two")]
                    assert {name for _, _, _, name in informer.lister.keys} == {"two", "three"}
                again = [seen for seen in proxy.find(verb="watch", status=200) if "sendInitialEvents" in seen.query]
                assert len(again) == 2


async def test_T03_a_server_without_its_store_changes_nothing_in_the_cache(mortal: ControlPlane) -> None:
    """spec/hostile-inputs.md T03: etcd stands still; nothing is told, and later everything goes on."""
    async with KubeClient.connect(KubeSettings(kubeconfig=mortal.kubeconfig)) as client:
        informer = informer_of(client, "kube-node-lease")
        async with running(informer) as ears:
            mortal.pause_etcd()
            try:
                writing = asyncio.ensure_future(create(client, "kube-node-lease", "late"))
                done, _ = await asyncio.wait([writing], timeout=1.0)
                assert not done
                assert ears.brief == []
            finally:
                mortal.resume_etcd()
            await writing
            await ears.until(lambda: ears.brief == [("ADDED", "late")])


async def test_Q16_rights_that_are_missing_are_a_problem_until_they_are_granted(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md Q16."""
    tenant = client.as_user(f"system:serviceaccount:{namespace}:tenant")
    informer = informer_of(tenant, namespace)
    async with TaskScope("test") as tasks:
        tasks.start("informer", informer.run())
        with pytest.raises(ForbiddenError, match=f'User "system:serviceaccount:{namespace}:tenant" cannot'):
            async with asyncio.timeout(20):
                await informer.synced(patient=False)
        assert isinstance(informer.problem, ForbiddenError)
        control_plane.kubectl(
            "create", "rolebinding", "t", "-n", namespace, "--clusterrole=view", f"--serviceaccount={namespace}:tenant"
        )
        async with asyncio.timeout(20):
            await informer.synced()
        assert informer.problem is None


async def test_Q17_a_kind_that_goes_takes_its_objects_along_without_a_word_and_may_come_back(
    client: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md Q17."""
    group = f"{namespace}.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    discovery = Discovery(client)
    await client.create(definitions, definition)
    widgets = await discovery.resource(GVK(group, "v1", "Widget"), patience=20)
    widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}}
    await client.create(widgets.path(namespace), widget)
    informer: Informer[Obj] = Informer(client, widgets, namespace=namespace, pace=QUICK)
    async with running(informer) as ears, asyncio.timeout(60):
        assert ears.brief == [("ADDED", "w")]
        await client.delete(f"{definitions}/widgets.{group}")
        while not isinstance(informer.problem, NotFoundError):
            await asyncio.sleep(0.02)
        assert not informer.has_synced
        assert len(informer.lister) == 0
        await _create_again(client, definitions, definition)
        await informer.synced()
        discovery.forget()
        await discovery.resource(GVK(group, "v1", "Widget"), patience=20)
        await client.create(widgets.path(namespace), widget)
        await ears.until(lambda: ears.brief[-1:] == [("ADDED", "w")] and len(ears.brief) > 1)


async def _create_again(client: KubeClient, collection: str, definition: Obj) -> None:
    """A definition goes only when its objects are gone."""
    while True:
        try:
            await client.create(collection, definition)
        except Exception as error:
            if getattr(error, "reason", "") not in {"AlreadyExists", "Conflict"}:
                raise
            await asyncio.sleep(0.05)
        else:
            return


# -- the pool


async def test_a_pool_shares_informers_and_ends_them_after_their_last_use(
    proxy: FaultProxy, troubled: KubeClient, namespace: str
) -> None:
    async with TaskScope("test") as tasks:
        pool = InformerPool(troubled, tasks, linger=0.05)
        async with pool.use(CONFIG_MAPS, namespace=namespace) as one, pool.use(CONFIG_MAPS, namespace=namespace) as two:
            assert one is two
            async with pool.use(CONFIG_MAPS, namespace=namespace, metadata_only=True) as other:
                assert other is not one
                await other.synced()
            async with pool.use(CONFIG_MAPS, namespace=namespace, client=troubled.as_user("x")) as foreign:
                assert foreign is not one
            await one.synced()
        async with pool.use(CONFIG_MAPS, namespace=namespace) as again:
            assert again is one, "it lingers"
        async with asyncio.timeout(10):
            while len(pool):
                await asyncio.sleep(0.01)
        async with pool.use(CONFIG_MAPS, namespace=namespace) as fresh:
            assert fresh is not one
            await fresh.synced()


async def test_a_pooled_informer_of_one_name_hears_of_that_object_only(client: KubeClient, namespace: str) -> None:
    async with TaskScope("test") as tasks:
        pool = InformerPool(client, tasks)
        async with pool.use(CONFIG_MAPS, namespace=namespace, name="mine") as informer, asyncio.timeout(20):
            await create(client, namespace, "other")
            await create(client, namespace, "mine")
            await informer.until(key(namespace, "mine"), lambda obj: obj is not None)
            assert [found.name for found in informer.lister.keys] == ["mine"]


async def test_a_pooled_informer_survives_the_end_of_the_client_it_was_started_with(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    """A tenant's client may be closed while its informer lingers; the daemon does not end of it."""
    async with TaskScope("test") as tasks:
        pool = InformerPool(client, tasks, linger=0.5, pace=QUICK)
        async with (
            KubeClient.connect(KubeSettings(kubeconfig=control_plane.kubeconfig)) as tenant,
            pool.use(CONFIG_MAPS, namespace=namespace, client=tenant) as informer,
        ):
            await informer.synced()
        async with asyncio.timeout(10):
            while len(pool):
                await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await tasks.failure()
