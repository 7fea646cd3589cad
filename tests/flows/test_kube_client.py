"""Requests and discovery against the real API server."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gitopsd.krm.objects import GVK, Obj
from gitopsd.kube.client import KubeClient, KubeSettings, PatchType
from gitopsd.kube.credentials import TENANT, InCluster, Kubeconfig
from gitopsd.kube.discovery import Discovery, NoMatchError, PathError, Resource
from gitopsd.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
    UntrustedServerError,
)
from tests.certificates import Authority
from tests.controlplane import ControlPlane
from tests.faults.proxy import FaultProxy, api_status, lost_answer
from tests.servers import trouble

CONFIG_MAPS = Resource(GVK("", "v1", "ConfigMap"), "configmaps", namespaced=True)


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


def config_map(name: str, **data: str) -> Obj:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def apply_as(manager: str, **more: Any) -> dict[str, Any]:
    return {"fieldManager": manager, **more}


# -- verbs


async def test_an_object_lives_through_all_verbs(client: KubeClient, namespace: str) -> None:
    collection, one = CONFIG_MAPS.path(namespace), CONFIG_MAPS.path(namespace, "a")
    created = await client.create(collection, config_map("a", k="1"))
    assert created["metadata"]["uid"]
    assert (await client.get(one))["data"] == {"k": "1"}
    merged = await client.patch(one, {"data": {"k": "2"}}, kind=PatchType.MERGE)
    patched = await client.patch(one, [{"op": "add", "path": "/data/l", "value": "3"}], kind=PatchType.JSON)
    assert merged["data"] == {"k": "2"}
    assert patched["data"] == {"k": "2", "l": "3"}
    replaced = await client.replace(one, {**patched, "data": {}})
    assert "data" not in replaced
    await client.delete(one, options={"preconditions": {"uid": created["metadata"]["uid"]}})
    with pytest.raises(NotFoundError, match='configmaps "a" not found') as caught:
        await client.get(one)
    assert not caught.value.is_kind_missing


async def test_what_exists_cannot_be_created_and_a_wrong_uid_deletes_nothing(
    client: KubeClient, namespace: str
) -> None:
    await client.create(CONFIG_MAPS.path(namespace), config_map("a"))
    with pytest.raises(AlreadyExistsError, match='configmaps "a" already exists'):
        await client.create(CONFIG_MAPS.path(namespace), config_map("a"))
    with pytest.raises(ConflictError):
        await client.delete(CONFIG_MAPS.path(namespace, "a"), options={"preconditions": {"uid": "other"}})
    assert await client.get(CONFIG_MAPS.path(namespace, "a"))


async def test_an_old_version_replaces_nothing(client: KubeClient, namespace: str) -> None:
    old = await client.create(CONFIG_MAPS.path(namespace), config_map("a", k="1"))
    path = CONFIG_MAPS.path(namespace, "a")
    await client.patch(path, {"data": {"k": "2"}}, kind=PatchType.MERGE)
    with pytest.raises(ConflictError) as caught:
        await client.replace(path, old)
    assert not caught.value.is_field_conflict


async def test_metadata_can_be_read_alone(client: KubeClient, namespace: str) -> None:
    await client.create(CONFIG_MAPS.path(namespace), config_map("a", k="1"))
    found = await client.get(CONFIG_MAPS.path(namespace, "a"), metadata_only=True)
    assert found["kind"] == "PartialObjectMetadata"
    assert "data" not in found


async def test_pages_add_up_to_the_collection(client: KubeClient, namespace: str) -> None:
    """1,200 ConfigMaps in pages of 500, consistent by their common resourceVersion."""
    await asyncio.gather(*(client.create(CONFIG_MAPS.path(namespace), config_map(f"n{n:04}")) for n in range(1200)))
    names: list[str] = []
    sizes: list[int] = []
    versions: set[str] = set()
    async for page in client.list_pages(
        CONFIG_MAPS.path(namespace), params={"fieldSelector": "metadata.name!=kube-root-ca.crt"}
    ):
        names += [item["metadata"]["name"] for item in page["items"]]
        sizes.append(len(page["items"]))
        versions.add(page["metadata"]["resourceVersion"])
    assert sizes == [500, 500, 200]
    assert names == [f"n{n:04}" for n in range(1200)]
    assert len(versions) == 1


async def test_Q03_a_page_asked_for_after_compaction_is_gone(mortal: ControlPlane) -> None:
    """spec/hostile-inputs.md Q03, Q04: 410 in the middle of a paged list; the server has forgotten its snapshots."""
    async with KubeClient.connect(KubeSettings(kubeconfig=mortal.kubeconfig)) as client:
        for name in ("a", "b", "c"):
            await client.create(CONFIG_MAPS.path("kube-public"), config_map(name))
        pages = client.list_pages(CONFIG_MAPS.path("kube-public"), page_size=1)
        await anext(pages)
        last = await client.patch(CONFIG_MAPS.path("kube-public", "a"), {"data": {"x": "1"}}, kind=PatchType.MERGE)
        await asyncio.to_thread(_compact, mortal, int(last["metadata"]["resourceVersion"]))
        await asyncio.to_thread(mortal.kill_apiserver)
        await asyncio.to_thread(mortal.start_apiserver)
        with pytest.raises(GoneError):
            async for _ in pages:
                pass


def _compact(control_plane: ControlPlane, revision: int) -> None:
    body = json.dumps({"revision": str(revision), "physical": True}).encode()
    url = f"http://127.0.0.1:{control_plane._ports['etcd']}/v3/kv/compaction"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as response:
        assert response.status == 200


# -- server-side apply


async def test_a_field_of_another_manager_is_refused_until_forced(client: KubeClient, namespace: str) -> None:
    """spec/hostile-inputs.md Q02."""
    path = CONFIG_MAPS.path(namespace, "a")
    await client.patch(path, config_map("a", k="1"), kind=PatchType.APPLY, params=apply_as("one"))
    with pytest.raises(ConflictError) as caught:
        await client.patch(path, config_map("a", k="2"), kind=PatchType.APPLY, params=apply_as("two"))
    assert caught.value.is_field_conflict
    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "one": .data.k'
    assert caught.value.causes[0].field == ".data.k"
    forced = await client.patch(path, config_map("a", k="2"), kind=PatchType.APPLY, params=apply_as("two", force=True))
    assert forced["data"] == {"k": "2"}


async def test_a_dry_run_answers_as_the_real_thing_and_changes_nothing(client: KubeClient, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "a")
    params = apply_as("one", force=True, dryRun="All")
    answered = await client.patch(path, config_map("a", k="1"), kind=PatchType.APPLY, params=params)
    assert answered["data"] == {"k": "1"}
    with pytest.raises(NotFoundError):
        await client.get(path)


async def test_what_the_schema_refuses_is_invalid_and_says_why(client: KubeClient, namespace: str) -> None:
    services = Resource(GVK("", "v1", "Service"), "services", namespaced=True)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 70000}]}}
    with pytest.raises(InvalidError, match=r"spec.ports\[0\].port: Invalid value: 70000") as caught:
        await client.create(services.path(namespace), service)
    assert caught.value.causes


async def test_Q14_an_object_that_is_too_large_is_refused_once(client: KubeClient, namespace: str) -> None:
    """spec/hostile-inputs.md Q14: 413 of the server, and the limit of etcd behind it."""
    with pytest.raises(ApiError, match=r"(?i)too large|exceeds|limit"):
        await client.create(CONFIG_MAPS.path(namespace), config_map("a", k="x" * (4 << 20)))
    with pytest.raises(ApiError, match=r"(?i)too long|too large"):
        await client.create(CONFIG_MAPS.path(namespace), config_map("a", k="x" * (3 << 19)))


# -- identities


async def test_an_impersonated_account_has_its_own_rights_and_no_more(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    user = client.as_user(f"system:serviceaccount:{namespace}:tenant")
    with pytest.raises(ForbiddenError, match=f'User "system:serviceaccount:{namespace}:tenant" cannot get'):
        await user.get(CONFIG_MAPS.path(namespace, "a"))
    control_plane.kubectl(
        "create", "rolebinding", "tenant", "-n", namespace, "--clusterrole=edit", f"--serviceaccount={namespace}:tenant"
    )
    made = await _once_allowed(user, namespace)
    assert made["metadata"]["name"] == "a"
    with pytest.raises(ForbiddenError):
        await user.get(CONFIG_MAPS.path("kube-system", "a"))
    assert client.identity != user.identity == client.as_user(f"system:serviceaccount:{namespace}:tenant").identity


async def _once_allowed(user: KubeClient, namespace: str) -> Obj:
    """The server's own cache of bindings follows a moment later."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await user.create(CONFIG_MAPS.path(namespace), config_map("a"))
            except ForbiddenError:
                await asyncio.sleep(0.05)


async def test_an_impersonated_group_counts(client: KubeClient) -> None:
    nobody = client.as_user("nobody")
    with pytest.raises(ForbiddenError):
        await nobody.get("/api/v1/nodes")
    assert (await client.as_user("nobody", ["system:masters"]).get("/api/v1/nodes"))["kind"] == "NodeList"


async def test_a_client_certificate_is_an_identity(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for("cert-admin", ["system:masters"])
    async with KubeClient.connect(KubeSettings(kubeconfig=kubeconfig)) as client:
        review = await client.create(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
        )
    assert review["status"]["userInfo"]["username"] == "cert-admin"


async def test_a_pods_account_works_and_a_rotated_token_is_taken_up(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """spec/hostile-inputs.md Q15, T55: kubelet replaces the file, and no request fails."""
    (tmp_path / "token").write_text("expired")
    (tmp_path / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
    host, _, port = control_plane.server.removeprefix("https://").partition(":")
    async with KubeClient.connect(KubeSettings(), InCluster(host, port, tmp_path)) as client:
        with pytest.raises(UnauthorizedError):
            await client.get("/api/v1/namespaces/default")
        (tmp_path / "token").write_text(control_plane.admin_token)
        assert (await client.get("/api/v1/namespaces/default"))["metadata"]["name"] == "default"


async def test_a_tenants_kubeconfig_from_a_secret_connects(control_plane: ControlPlane) -> None:
    """Inline data only: neither files nor plugins."""
    document = yaml.safe_load(control_plane.kubeconfig.read_text())
    for cluster in document["clusters"]:
        path = cluster["cluster"].pop("certificate-authority", None)
        if path:
            cluster["cluster"]["certificate-authority-data"] = base64.b64encode(Path(path).read_bytes()).decode()
    credentials = Kubeconfig(json.dumps(document).encode(), trust=TENANT)
    async with KubeClient.connect(KubeSettings(), credentials) as client:
        assert await client.get("/api/v1/namespaces/default")


async def test_T55_a_server_signed_by_a_stranger_is_not_trusted_until_the_ca_file_says_so(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """spec/hostile-inputs.md T55: a rotated CA is taken up without a restart, by requests and by watches."""
    document = yaml.safe_load(control_plane.kubeconfig.read_text())
    stranger = Authority(tmp_path / "other").file.read_bytes()
    (tmp_path / "ca.crt").write_bytes(stranger)
    for cluster in document["clusters"]:
        cluster["cluster"].pop("certificate-authority-data", None)
        cluster["cluster"]["certificate-authority"] = "ca.crt"
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    async with (
        KubeClient.connect(KubeSettings(kubeconfig=tmp_path / "config")) as client,
        KubeClient.connect(KubeSettings(kubeconfig=tmp_path / "config")) as watcher,
    ):
        with pytest.raises(UntrustedServerError, match="is not trusted: ") as caught:
            await client.get("/api/v1/namespaces/default")
        assert control_plane.admin_token not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        (tmp_path / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
        assert await client.get("/api/v1/namespaces/default")
        async with watcher.watch("/api/v1/namespaces") as frames:
            assert (await anext(frames))["type"] == "ADDED"


# -- trouble on the way


async def test_Q27_a_create_whose_answer_is_lost_happens_once(proxy: FaultProxy, namespace: str) -> None:
    """spec/hostile-inputs.md Q27."""
    async with KubeClient.connect(KubeSettings(kubeconfig=proxy.kubeconfig)) as client:
        proxy.inject(lost_answer(), verbs=["create"], times=1)
        with pytest.raises(UnreachableError):
            await client.create(CONFIG_MAPS.path(namespace), config_map("a"))
        assert len(proxy.find(verb="create")) == 1
        assert (await client.get(CONFIG_MAPS.path(namespace, "a")))["metadata"]["name"] == "a"


async def test_an_apply_whose_answer_is_lost_is_repeated_and_ends_the_same(proxy: FaultProxy, namespace: str) -> None:
    async with KubeClient.connect(KubeSettings(kubeconfig=proxy.kubeconfig)) as client:
        proxy.inject(lost_answer(), verbs=["apply"], times=2)
        path = CONFIG_MAPS.path(namespace, "a")
        applied = await client.patch(path, config_map("a", k="1"), kind=PatchType.APPLY, params=apply_as("one"))
    assert applied["data"] == {"k": "1"}
    assert len(proxy.find(verb="apply")) == 3


async def test_T06_a_mix_of_errors_passes_unseen_by_who_asks_patiently(proxy: FaultProxy, namespace: str) -> None:
    """spec/hostile-inputs.md Q05, Q06, Q07, T06: every fifth request fails in one of five ways."""
    async with KubeClient.connect(KubeSettings(kubeconfig=proxy.kubeconfig)) as client:
        for rule in (
            api_status(500),
            api_status(429, retry_after=0),
            api_status(503),
            trouble.reset(),
            trouble.cut(10),
        ):
            proxy.inject(rule, verbs=["get", "apply", "delete"], chance=0.05)
        for number in range(30):
            path = CONFIG_MAPS.path(namespace, f"n{number}")
            wanted = config_map(f"n{number}", k=str(number))
            await client.patch(path, wanted, kind=PatchType.APPLY, params=apply_as("one", force=True))
            assert (await client.get(path))["data"] == {"k": str(number)}
    assert {seen.status for seen in proxy.log} > {200, 201}


async def test_T01_requests_ride_out_a_restart_of_the_server(mortal: ControlPlane) -> None:
    """spec/hostile-inputs.md T01: what may be repeated is, until the server is back."""
    async with KubeClient.connect(KubeSettings(kubeconfig=mortal.kubeconfig)) as client:
        await client.get("/api/v1/namespaces/default")
        await asyncio.to_thread(mortal.kill_apiserver)
        patient = client.with_patience(60)
        path = CONFIG_MAPS.path("default", "a")
        reading = asyncio.ensure_future(patient.get("/api/v1/namespaces/default"))
        writing = asyncio.ensure_future(
            patient.patch(path, config_map("a"), kind=PatchType.APPLY, params=apply_as("one"))
        )
        creating = asyncio.ensure_future(patient.create(CONFIG_MAPS.path("default"), config_map("b")))
        await asyncio.to_thread(mortal.start_apiserver)
        answers = await asyncio.gather(reading, writing, creating)
    assert [answer["metadata"]["name"] for answer in answers] == ["default", "a", "b"]


# -- discovery


async def test_kinds_are_found_with_path_scope_and_preferred_version(client: KubeClient) -> None:
    discovery = Discovery(client)
    deployment = await discovery.resource(GVK("apps", "v1", "Deployment"))
    assert deployment.path("a", "b", "status") == "/apis/apps/v1/namespaces/a/deployments/b/status"
    assert deployment.path("a") == "/apis/apps/v1/namespaces/a/deployments"
    assert deployment.path() == "/apis/apps/v1/deployments"
    assert "watch" in deployment.verbs
    assert "scale" in deployment.subresources
    node = await discovery.resource(GVK("", "v1", "Node"))
    assert node.path("ignored", "n") == "/api/v1/nodes/n"
    assert (await discovery.preferred("autoscaling", "HorizontalPodAutoscaler")).gvk.version == "v2"
    assert (await discovery.preferred("", "Secret")).plural == "secrets"


async def test_a_kind_that_does_not_exist_is_named_as_kubectl_names_it(client: KubeClient) -> None:
    discovery = Discovery(client)
    with pytest.raises(NoMatchError) as caught:
        await discovery.resource(GVK("nope.example.com", "v1", "Nope"))
    assert str(caught.value) == 'no matches for kind "Nope" in version "nope.example.com/v1"'
    with pytest.raises(NoMatchError, match='no matches for kind "Nope" in group "apps"'):
        await discovery.preferred("apps", "Nope")


def definition(group: str) -> Obj:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


async def test_Q18_a_new_kind_is_waited_for_and_a_deleted_one_is_gone(
    control_plane: ControlPlane, client: KubeClient, namespace: str
) -> None:
    """spec/hostile-inputs.md Q18."""
    group = f"{namespace}.example.com"
    discovery = Discovery(client)
    gvk = GVK(group, "v1", "Widget")
    with pytest.raises(NoMatchError):
        await discovery.resource(gvk)
    definitions = (await discovery.preferred("apiextensions.k8s.io", "CustomResourceDefinition")).path()
    await client.create(definitions, definition(group))
    widgets = await discovery.resource(gvk, patience=20)
    assert widgets.path(namespace, "w") == f"/apis/{group}/v1/namespaces/{namespace}/widgets/w"
    await client.delete(f"{definitions}/widgets.{group}")
    async with asyncio.timeout(20):
        while True:
            discovery.forget()
            try:
                await discovery.resource(gvk)
            except NoMatchError:
                break
            await asyncio.sleep(0.1)
    with pytest.raises(NotFoundError) as caught:
        await client.get(widgets.path(namespace, "w"))
    assert caught.value.is_kind_missing


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../secrets/x", "a%2fb"])
def test_a_crafted_name_reaches_no_other_path(name: str) -> None:
    with pytest.raises(PathError):
        CONFIG_MAPS.path("default", name)
    if name:
        with pytest.raises(PathError):
            CONFIG_MAPS.path(name)


def test_a_namespaced_object_without_a_namespace_is_refused() -> None:
    with pytest.raises(PathError):
        CONFIG_MAPS.path(None, "a")
    with pytest.raises(PathError):
        CONFIG_MAPS.path("", "a")


async def test_odd_but_legal_names_arrive_as_they_are(client: KubeClient) -> None:
    roles = Resource(GVK("rbac.authorization.k8s.io", "v1", "ClusterRole"), "clusterroles", namespaced=False)
    name = "test:odd?name=x&y#z ü+"
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [],
    }
    try:
        await client.create(roles.path(), role)
        assert (await client.get(roles.path(None, name)))["metadata"]["name"] == name
    finally:
        await client.delete(roles.path(None, name))
