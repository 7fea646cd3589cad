"""What the flows of `gitopsd.apply` share: a client that counts its requests, an applier, a waiter, small manifests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from gitopsd.apply.control import Owner, with_owner
from gitopsd.apply.health import HealthWaiter
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.apply.ssa import Applier
from gitopsd.krm.objects import Obj
from gitopsd.kube.client import KubeClient, KubeSettings
from gitopsd.kube.discovery import Discovery
from gitopsd.kube.informer import InformerPool
from gitopsd.tasks import TaskScope
from tests.apiclient import ApiStatusError
from tests.controlplane import ControlPlane

PREFIX = "kustomize.toolkit.fluxcd.io"


class Workbench:
    """Everything an apply needs, for one owner in one namespace; `requests` holds each `METHOD path?query` sent."""

    def __init__(self, control_plane: ControlPlane, client: KubeClient, tasks: TaskScope, namespace: str) -> None:
        self.api = control_plane.api
        self.namespace = namespace
        self.client = client
        self.tasks = tasks
        self.discovery = Discovery(client)
        self.pool = InformerPool(client, tasks, linger=0.2)
        self.waiter = HealthWaiter(self.pool, self.discovery, client, pause=0.3)
        self.owner = Owner("app", namespace)
        self.requests: list[str] = []
        send = client._transport.send

        async def counted(request: Any, *args: Any, **kwargs: Any) -> Any:
            self.requests.append(f"{request.method} {request.target}")
            return await send(request, *args, **kwargs)

        client._transport.send = counted

    def applier(self, *, owner: Owner | None = None, **options: Any) -> Applier:
        """An applier with these options."""
        return Applier(self.client, self.discovery, owner or self.owner, self.waiter, **{"timeout": 30.0, **options})

    async def apply(self, *objects: Obj, known: Mapping[Any, Any] | None = None, **options: Any) -> Any:
        """Apply as the controller does: owner labels first."""
        applier = self.applier(**options)
        return await applier.apply([with_owner(obj, applier.owner) for obj in objects], known=known)

    async def prune(self, entries: Sequence[InventoryEntry], *, owner: Owner | None = None) -> Any:
        """Prune these entries."""
        return await self.applier(owner=owner).prune(entries)

    def live(self, kind: str, name: str, *, api_version: str = "v1", namespace: str | None = None) -> Obj | None:
        """The live object, read by somebody else than us."""
        return self.api.get(api_version, kind, name, namespace or self.namespace)

    def managers(self, kind: str, name: str, *, api_version: str = "v1") -> list[str]:
        """`manager operation` of every entry of managedFields, sorted."""
        live = self.live(kind, name, api_version=api_version) or {}
        return sorted(f"{entry['manager']} {entry['operation']}" for entry in live["metadata"].get("managedFields", []))

    def edit(self, name: str, data: Mapping[str, str], *, manager: str = "kubectl-edit") -> None:
        """Change a ConfigMap by hand."""
        self.api.merge("v1", "ConfigMap", name, {"data": dict(data)}, self.namespace, manager=manager)

    def config_map(self, name: str, data: Mapping[str, str] | None = None, **metadata: Any) -> Obj:
        """A ConfigMap in the namespace of the test."""
        obj: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": self.namespace}}
        obj["metadata"].update(metadata)
        return obj | ({"data": dict(data)} if data else {})

    def deployment(self, name: str, *, replicas: int = 0, **spec: Any) -> Obj:
        """A Deployment in the namespace of the test."""
        containers = [{"name": "web", "image": "example/web:1"}]
        pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod, **spec},
        }

    def job(self, name: str, *, image: str = "example/c:1", **spec: Any) -> Obj:
        """A Job in the namespace of the test, which nobody runs."""
        container = {"name": "c", "image": image}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"template": template, **spec},
        }

    def crd(self, group: str, **spec_properties: Any) -> Obj:
        """A definition of `Widget` in a group of the test's own."""
        properties = {"size": {"type": "integer"}, **spec_properties}
        schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}
        schema["properties"]["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        version["subresources"] = {"status": {}}
        names = {"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"widgets.{group}"},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        }

    def widget(self, group: str, name: str, **spec: Any) -> Obj:
        """An object of that kind."""
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": metadata, "spec": spec}

    def count(self, method: str, part: str = "") -> int:
        """How many requests with that method hold `part`."""
        return sum(1 for line in self.requests if line.startswith(f"{method} ") and part in line)

    def dry_runs(self) -> int:
        """How many requests were dry runs."""
        return sum(1 for line in self.requests if "dryRun=All" in urlsplit(line.split(" ", 1)[1]).query)


@asynccontextmanager
async def workbench(control_plane: ControlPlane, namespace: str, *, user: str = "admin") -> AsyncIterator[Workbench]:
    """Open a workbench; whatever it started ends with it."""
    settings = KubeSettings(kubeconfig=control_plane.kubeconfig_for(user))
    async with KubeClient.connect(settings) as client, TaskScope("workbench") as tasks:
        yield Workbench(control_plane, client, tasks, namespace)


_ADMISSION = "admissionregistration.k8s.io/v1"


def guard(bench: Workbench, operation: str, message: str) -> str:
    """Have the server refuse `operation` on ConfigMaps named `guarded…` in the namespace; returns the policy."""
    name = f"{operation.lower()}-{bench.namespace}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation], "resources": ["configmaps"]}
    here = {"matchLabels": {"kubernetes.io/metadata.name": bench.namespace}}
    validation = {"expression": "!request.name.startsWith('guarded')", "message": message}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": here}}
    for kind, content in (("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", binding)):
        bench.api.create({"apiVersion": _ADMISSION, "kind": kind, "metadata": {"name": name}, "spec": content})
    return name


async def enforced(bench: Workbench, policy: str) -> None:
    """Wait until the API server has taken a policy to heart; it does not say when."""
    path = f"/api/v1/namespaces/{bench.namespace}/configmaps"
    probe = bench.config_map("guarded-probe")
    if policy.startswith("delete"):
        bench.api.create(probe)
    for _ in range(200):
        try:
            if policy.startswith("delete"):
                bench.api.request("DELETE", f"{path}/guarded-probe", params={"dryRun": "All"})
            else:
                bench.api.request("POST", path, probe, params={"dryRun": "All"})
        except ApiStatusError:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{policy} is never enforced")


def unguard(bench: Workbench, policy: str) -> None:
    """Take a policy away."""
    for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
        bench.api.delete(_ADMISSION, kind, policy)
