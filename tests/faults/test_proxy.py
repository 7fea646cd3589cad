"""The proxy is believed because through it, unless told otherwise, nothing changes."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.apiclient import ApiClient, ApiStatusError
from tests.controlplane import ControlPlane
from tests.faults import proxy as faults
from tests.faults.proxy import FaultProxy
from tests.servers import trouble


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane) as proxy:
        yield proxy


@pytest.fixture
def api(control_plane: ControlPlane, proxy: FaultProxy) -> Iterator[ApiClient]:
    client = ApiClient(proxy.https_url, control_plane.authority.client_context(), control_plane.admin_token)
    yield client
    client.close()


def _config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


class Watch:
    """A raw watch of ConfigMaps through the proxy."""

    def __init__(self, proxy: FaultProxy, control_plane: ControlPlane, namespace: str, **params: str) -> None:
        address = urlsplit(proxy.https_url)
        context: ssl.SSLContext = control_plane.authority.client_context()
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=10, context=context
        )
        query = "&".join(f"{key}={value}" for key, value in {"watch": "true", **params}.items())
        path = f"/api/v1/namespaces/{namespace}/configmaps?{query}&fieldSelector=metadata.name!=kube-root-ca.crt"
        headers = {"Authorization": f"Bearer {control_plane.admin_token}"}
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()

    def next(self) -> dict[str, Any] | None:
        line = self.response.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@pytest.fixture
def watch(proxy: FaultProxy, control_plane: ControlPlane, namespace: str) -> Iterator[Any]:
    open_watches: list[Watch] = []

    def start(**params: str) -> Watch:
        open_watches.append(Watch(proxy, control_plane, namespace, **params))
        return open_watches[-1]

    yield start
    for one in open_watches:
        one.close()


def test_requests_pass_and_are_told_apart(api: ApiClient, proxy: FaultProxy, namespace: str) -> None:
    api.create(_config_map("a", x="1"), namespace)
    api.apply(_config_map("a", y="2"), namespace)
    api.merge("v1", "ConfigMap", "a", {"data": {"x": None}}, namespace)
    found = api.get("v1", "ConfigMap", "a", namespace)
    assert found is not None
    assert found["data"] == {"y": "2"}
    assert api.get("v1", "ConfigMap", "none", namespace) is None
    assert "a" in [item["metadata"]["name"] for item in api.list("v1", "ConfigMap", namespace)]
    api.request("PATCH", api.object_path(_config_map("a"), namespace), {}, params={"dryRun": "All"},
                content_type="application/merge-patch+json")  # fmt: skip
    api.delete("v1", "ConfigMap", "a", namespace)
    verbs = [seen.verb for seen in proxy.log if seen.resource == "configmaps"]
    assert verbs == ["create", "apply", "patch", "get", "get", "list", "patch", "delete"]
    assert sum(seen.is_write for seen in proxy.log) == 4
    assert proxy.find(verb="get", name="none")[0].status == 404
    assert proxy.counts()["get", "configmaps"] == 2


def test_credentials_are_the_clients_own(proxy: FaultProxy, control_plane: ControlPlane) -> None:
    stranger = ApiClient(proxy.https_url, control_plane.authority.client_context(), "wrong")
    with pytest.raises(ApiStatusError, match="Unauthorized"):
        stranger.request("GET", "/api")
    stranger.close()


def test_kubectl_works_through_it(proxy: FaultProxy, control_plane: ControlPlane, namespace: str) -> None:
    out = control_plane.kubectl("get", "namespace", namespace, "-o", "name", kubeconfig=proxy.kubeconfig)
    assert out.strip() == f"namespace/{namespace}"
    assert proxy.find(verb="get", name=namespace)


@pytest.mark.parametrize("code", [409, 410, 429, 500, 503])
def test_errors_look_like_the_servers_own(api: ApiClient, proxy: FaultProxy, namespace: str, code: int) -> None:
    proxy.inject(faults.api_status(code, retry_after=7), verbs=["apply"], resource="configmaps", times=1)
    with pytest.raises(ApiStatusError) as caught:
        api.apply(_config_map("a"), namespace)
    assert caught.value.status == caught.value.body["code"] == code
    api.apply(_config_map("a"), namespace)
    assert [seen.status for seen in proxy.find(verb="apply")] == [code, 201]


def test_chance_is_repeatable_and_after_lets_some_pass(api: ApiClient, proxy: FaultProxy, namespace: str) -> None:
    proxy.inject(faults.api_status(500), verbs=["get"], chance=0.5)
    statuses = []
    for _ in range(20):
        try:
            api.get("v1", "Namespace", namespace)
            statuses.append(200)
        except ApiStatusError as error:
            statuses.append(error.status)
    assert 3 < statuses.count(500) < 17
    proxy.heal()
    proxy.inject(faults.api_status(500), verbs=["get"], after=2)
    assert api.get("v1", "Namespace", namespace)
    assert api.get("v1", "Namespace", namespace)
    with pytest.raises(ApiStatusError):
        api.get("v1", "Namespace", namespace)


def test_connections_are_reset_before_and_after_the_server_acted(
    api: ApiClient, proxy: FaultProxy, control_plane: ControlPlane, namespace: str
) -> None:
    proxy.inject(trouble.reset(), verbs=["create"])
    with pytest.raises(ConnectionError):
        api.create(_config_map("before"), namespace)
    proxy.heal()
    proxy.inject(faults.lost_answer(), verbs=["create"], times=1)
    api.close()
    with pytest.raises(ConnectionError):
        api.create(_config_map("after"), namespace)
    assert control_plane.api.get("v1", "ConfigMap", "before", namespace) is None
    assert control_plane.api.get("v1", "ConfigMap", "after", namespace)


def test_lists_are_cut_short_of_their_length(api: ApiClient, proxy: FaultProxy, namespace: str) -> None:
    proxy.inject(trouble.cut(50, "fin"), verbs=["list"])
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        api.list("v1", "ConfigMap", namespace)


def test_watches_are_streamed_as_they_come(api: ApiClient, proxy: FaultProxy, namespace: str, watch: Any) -> None:
    one = watch()
    for number in range(3):
        api.create(_config_map(f"c{number}"), namespace)
        event = one.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", f"c{number}")
    assert proxy.find(verb="watch")[0].resource == "configmaps"


def test_watches_end_after_events_or_seconds(api: ApiClient, proxy: FaultProxy, namespace: str, watch: Any) -> None:
    for number in range(3):
        api.create(_config_map(f"c{number}"), namespace)
    proxy.inject(faults.cut_watch(after_events=2), verbs=["watch"], times=1)
    one = watch()
    assert [one.next() is not None for _ in range(3)] == [True, True, False]
    proxy.inject(faults.cut_watch(after_seconds=0.2), verbs=["watch"], times=1)
    two = watch()
    assert [two.next() is not None for _ in range(4)] == [True, True, True, False]
    proxy.inject(faults.cut_watch(after_events=0, ending="rst"), verbs=["watch"], times=1)
    with pytest.raises((OSError, http.client.HTTPException, AssertionError)):
        three = watch()
        assert three.next() is not None


def test_an_error_frame_ends_a_watch(api: ApiClient, proxy: FaultProxy, namespace: str, watch: Any) -> None:
    api.create(_config_map("a"), namespace)
    proxy.inject(faults.watch_error(410, after_events=1), verbs=["watch"])
    one = watch()
    assert one.next()["type"] == "ADDED"
    error = one.next()
    assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert one.next() is None


def test_bookmarks_vanish_and_events_double(api: ApiClient, proxy: FaultProxy, namespace: str, watch: Any) -> None:
    api.create(_config_map("a"), namespace)
    bookmarks = {"allowWatchBookmarks": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    plain = watch(**bookmarks)
    assert [plain.next()["type"], plain.next()["type"]] == ["ADDED", "BOOKMARK"]
    proxy.inject(faults.without_bookmarks(), verbs=["watch"], times=1)
    bare = watch(**bookmarks)
    assert bare.next()["type"] == "ADDED"
    api.create(_config_map("b"), namespace)
    assert bare.next()["object"]["metadata"]["name"] == "b"
    proxy.inject(faults.doubled_events(), verbs=["watch"], times=1)
    twice = watch()
    assert [twice.next()["object"]["metadata"]["name"] for _ in range(4)] == ["a", "a", "b", "b"]


def test_a_frozen_watch_says_nothing_more_until_it_is_broken(
    api: ApiClient, proxy: FaultProxy, namespace: str, watch: Any
) -> None:
    proxy.inject(faults.frozen_watch(after_events=1), verbs=["watch"])
    api.create(_config_map("a"), namespace)
    one = watch()
    assert one.next()["type"] == "ADDED"
    api.create(_config_map("b"), namespace)
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.append(one.next())
        except OSError as error:
            seen.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(0.3)
    assert reader.is_alive()
    assert proxy.break_connections(resource="configmaps") == 1
    reader.join(5)
    assert seen[0] is None or isinstance(seen[0], ConnectionError)  # Python reads an RST below TLS as either


def test_requests_are_late(api: ApiClient, proxy: FaultProxy, namespace: str) -> None:
    proxy.inject(trouble.late(0.2), verbs=["get"])
    started = time.monotonic()
    api.get("v1", "Namespace", namespace)
    assert time.monotonic() - started >= 0.2


def test_it_is_away_when_the_server_is_away() -> None:
    with ControlPlane(controllers=False) as own, FaultProxy(own) as proxy:
        client = ApiClient(proxy.https_url, own.authority.client_context(), own.admin_token)
        assert client.request("GET", "/readyz") == "ok"
        own.kill_apiserver()
        with pytest.raises(ConnectionError):
            client.request("GET", "/readyz")
        own.start_apiserver()
        assert client.request("GET", "/readyz") == "ok"
        client.close()
