"""The workload: many small applications from one repository, and a bare client that applies the same objects.

Each application is a ServiceAccount, a Service, a Deployment without replicas and an Ingress, varied by `postBuild`.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.controlplane import ControlPlane

NAMESPACE = "bench"
GROUP = "/apis/kustomize.toolkit.fluxcd.io/v1"
_IN_FLIGHT = 20
_SAMPLE = re.compile(r"^(\w+)\{([^}]*)\} ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Obj = dict[str, Any]


def manifests(port: int) -> dict[str, str]:
    """The files of the repository; `port` is what a push changes in one of the four objects."""
    return {
        "app/kustomization.yaml": "resources: [sa.yaml, service.yaml, deployment.yaml, ingress.yaml]\n",
        "app/sa.yaml": "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: '${app}-sa', namespace: bench}\n",
        "app/service.yaml": (
            "apiVersion: v1\nkind: Service\nmetadata: {name: '${app}-svc', namespace: bench}\n"
            f"spec: {{selector: {{app: '${{app}}-web'}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}\n"
        ),
        "app/deployment.yaml": (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: '${app}-web', namespace: bench}\n"
            "spec:\n  replicas: 0\n  selector: {matchLabels: {app: '${app}-web'}}\n"
            "  template:\n    metadata: {labels: {app: '${app}-web'}}\n"
            "    spec: {serviceAccountName: '${app}-sa', containers: [{name: web, image: 'example/web:1',"
            " ports: [{containerPort: 8080}], env: [{name: APP, value: 'x${app}'}]}]}\n"
        ),
        "app/ingress.yaml": (
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: '${app}-in', namespace: bench}\n"
            "spec: {rules: [{host: '${app}.example.com', http: {paths: [{path: /, pathType: Prefix,"
            " backend: {service: {name: '${app}-svc', port: {name: http}}}}]}}]}\n"
        ),
    }


def objects(app: str, port: int) -> list[Obj]:
    """The four objects of one application, as the bare client sends them."""
    import yaml

    loaded = [yaml.safe_load(text) for path, text in manifests(port).items() if "kustomization" not in path]
    return [json.loads(json.dumps(obj).replace("${app}", app)) for obj in loaded]


def kustomization(app: str) -> Obj:
    """The Kustomization of one application."""
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": app, "namespace": NAMESPACE},
        "spec": {
            "interval": "1m",
            "path": "./app",
            "prune": True,
            "sourceRef": {"kind": "GitRepository", "name": "bench"},
            "postBuild": {"substitute": {"app": app}},
        },
    }


class BareClient:
    """Requests to the API server with nothing around them, at most twenty in flight."""

    def __init__(self, session: aiohttp.ClientSession, server: str, token: str) -> None:
        self._session = session
        self._server = server
        self._headers = {"Authorization": f"Bearer {token}"}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)

    @classmethod
    @asynccontextmanager
    async def connect(cls, control_plane: ControlPlane) -> AsyncIterator[BareClient]:
        """A client with the admin's rights."""
        connector = aiohttp.TCPConnector(ssl=control_plane.authority.client_context(), limit=_IN_FLIGHT + 4)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 20) as session:
            yield cls(session, control_plane.server, control_plane.admin_token)

    async def send(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Obj:
        """One request; an error status is an error."""
        async with self._slots:
            data = None if body is None else json.dumps(body).encode()
            headers = self._headers | {"Content-Type": content_type}
            async with self._session.request(method, self._server + path, data=data, headers=headers) as answer:
                text = await answer.read()
                if answer.status >= 300 and answer.status != 404:
                    raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
                return json.loads(text) if text else {}

    async def apply(self, path: str, body: Obj) -> Obj:
        """Server-side apply."""
        return await self.send(
            "PATCH", f"{path}?fieldManager=bare&force=true", body, content_type="application/apply-patch+yaml"
        )

    async def watch(self, path: str, version: str) -> AsyncIterator[Obj]:
        """Watch events from `version` on."""
        url = f"{self._server}{path}?watch=true&resourceVersion={version}"
        async with self._session.get(url, headers=self._headers) as answer:
            buffer = b""
            async for chunk in answer.content.iter_any():
                buffer += chunk
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    yield json.loads(line)


def paths(app: str) -> list[str]:
    """Where the four objects live, in the order of `objects`."""
    core, apps, net = "/api/v1", "/apis/apps/v1", "/apis/networking.k8s.io/v1"
    return [
        f"{core}/namespaces/{NAMESPACE}/serviceaccounts/{app}-sa",
        f"{core}/namespaces/{NAMESPACE}/services/{app}-svc",
        f"{apps}/namespaces/{NAMESPACE}/deployments/{app}-web",
        f"{net}/namespaces/{NAMESPACE}/ingresses/{app}-in",
    ]


async def all_of(work: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Run everything; the first error ends it."""
    async with asyncio.TaskGroup() as group:
        for one in work:
            group.create_task(one)


async def until_all(
    client: BareClient, count: int, accept: Callable[[Obj], bool], *, gone: bool = False, timeout: float = 600
) -> float:
    """Wait by a watch until `count` Kustomizations are accepted (or gone); returns the moment."""
    path = f"{GROUP}/namespaces/{NAMESPACE}/kustomizations"
    async with asyncio.timeout(timeout):
        listed = await client.send("GET", path)
        done = {item["metadata"]["name"] for item in listed["items"] if accept(item)}
        left = len(listed["items"])
        if (gone and left == 0) or (not gone and len(done) >= count):
            return time.monotonic()
        async for event in client.watch(path, listed["metadata"]["resourceVersion"]):
            obj = event["object"]
            if event["type"] == "DELETED":
                left -= 1
            elif event["type"] in ("ADDED", "MODIFIED") and accept(obj):
                done.add(obj["metadata"]["name"])
            if (gone and left == 0) or (not gone and len(done) >= count):
                return time.monotonic()
    raise RuntimeError("the watch ended early")


def api_requests(control_plane: ControlPlane) -> dict[str, float]:
    """Requests that the API server has served by now, by verb; watches are counted when they end."""
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(control_plane.metrics()):
        if name == "apiserver_request_total":
            verb = dict(_LABEL.findall(labels))["verb"]
            found[verb] = found.get(verb, 0) + float(value)
    return found


def daemon_requests(metrics: str) -> dict[str, float]:
    """Requests that the daemon has sent by now, by method."""
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        if name == "rest_client_requests_total":
            method = dict(_LABEL.findall(labels))["method"]
            found[method] = found.get(method, 0) + float(value)
    return found


def difference(after: dict[str, float], before: dict[str, float]) -> dict[str, int]:
    """What was added, without zeros."""
    return {key: int(after[key] - before.get(key, 0)) for key in sorted(after) if after[key] != before.get(key, 0)}
