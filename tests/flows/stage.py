"""What most flows need: a namespace, a repository in it, and short words for objects and for waiting.

Everything goes through the API server and the Git server as a user's would; the daemon is a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.apiclient import Obj
from tests.controlplane import ControlPlane
from tests.servers.git import File, GitServer

SOURCE_API = "source.toolkit.fluxcd.io/v1"
KUSTOMIZE_API = "kustomize.toolkit.fluxcd.io/v1"
SOURCES = ("GitRepository", "OCIRepository", "HelmRepository", "HelmChart", "Bucket")
KINDS = {"Kustomization": KUSTOMIZE_API, "ConfigMap": "v1", "Secret": "v1", **dict.fromkeys(SOURCES, SOURCE_API)}
REQUESTED_AT = "reconcile.fluxcd.io/requestedAt"


def condition(obj: Obj | None, kind: str = "Ready") -> dict[str, Any]:
    """A condition of the object, empty when it has none."""
    conditions = ((obj or {}).get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {})


def is_ready(obj: Obj | None) -> bool:
    """Ready=True for the object's current generation."""
    found = condition(obj)
    if obj is None or found.get("status") != "True":
        return False
    generation = obj["metadata"]["generation"]
    return bool(found.get("observedGeneration") == generation == obj["status"].get("observedGeneration"))


def config_map(name: str, **data: str) -> str:
    """The text of a ConfigMap."""
    pairs = "".join(f"  {key}: '{value}'\n" for key, value in data.items())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n" + (f"data:\n{pairs}" if pairs else "")


class Stage:
    """One namespace with one repository of the same name."""

    def __init__(self, control_plane: ControlPlane, git: GitServer, namespace: str) -> None:
        self.control_plane = control_plane
        self.api = control_plane.api
        self.git = git
        self.namespace = namespace
        self.repository = git.repository(namespace)
        self.url = f"{git.url}/{namespace}.git"
        self._requests = 0

    def push(self, files: Mapping[str, File], message: str = "change") -> str:
        """Commit and return the revision on main."""
        return f"main@sha1:{self.repository.commit(files, message=message)}"

    def source(self, name: str = "app", **spec: Any) -> Obj:
        """Apply a GitRepository of the stage's repository."""
        return self.apply("GitRepository", name, {"url": self.url, "interval": "10m", "ref": {"branch": "main"}} | spec)

    def kustomization(self, name: str = "app", **spec: Any) -> Obj:
        """Apply a Kustomization that puts everything into the stage's namespace."""
        wanted = {
            "interval": "10m",
            "prune": True,
            "targetNamespace": self.namespace,
            "sourceRef": {"kind": "GitRepository", "name": "app"},
        }
        return self.apply("Kustomization", name, wanted | spec)

    def apply(self, kind: str, name: str, spec: Mapping[str, Any]) -> Obj:
        """Apply one of our objects."""
        obj = {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
        return self.api.apply(obj, self.namespace)

    def get(self, kind: str, name: str = "app", api: str = "") -> Obj | None:
        """An object of the namespace, or None."""
        return self.api.get(api or KINDS[kind], kind, name, self.namespace)

    def until(
        self, kind: str, name: str, accept: Callable[[Obj | None], bool], *, timeout: float = 25.0, api: str = ""
    ) -> Obj:
        """Wait until an object is accepted; for one that is gone an empty object is returned."""
        return self.api.until(api or KINDS[kind], kind, name, self.namespace, accept, timeout=timeout) or {}

    def until_ready(self, kind: str, name: str = "app", *, timeout: float = 25.0) -> Obj:
        """Wait for Ready=True of the current generation."""
        return self.until(kind, name, is_ready, timeout=timeout)

    def until_applied(self, revision: str, name: str = "app", *, timeout: float = 25.0) -> Obj:
        """Wait until a Kustomization is Ready at a revision."""
        return self.until(
            "Kustomization",
            name,
            lambda obj: is_ready(obj) and (obj or {})["status"].get("lastAppliedRevision") == revision,
            timeout=timeout,
        )

    def until_reason(self, kind: str, reason: str, name: str = "app", *, timeout: float = 25.0) -> Obj:
        """Wait until Ready carries a reason."""
        return self.until(kind, name, lambda obj: condition(obj).get("reason") == reason, timeout=timeout)

    def request(self, kind: str, name: str = "app") -> str:
        """Ask for a reconcile as `flux reconcile` does; returns the token."""
        self._requests += 1
        token = f"request-{self._requests}"
        patch = {"metadata": {"annotations": {REQUESTED_AT: token}}}
        self.api.merge(KINDS[kind], kind, name, patch, self.namespace)
        return token

    def handled(self, kind: str, token: str, name: str = "app") -> Obj:
        """Wait until a request has been answered."""
        return self.until(
            kind, name, lambda obj: ((obj or {}).get("status") or {}).get("lastHandledReconcileAt") == token
        )

    def refetch(self) -> Obj:
        """Ask the source to look at the remote, and wait for the answer."""
        return self.handled("GitRepository", self.request("GitRepository"))

    def events(self, kind: str, name: str = "app") -> list[Obj]:
        """The events of an object, oldest first."""
        found = self.api.list("v1", "Event", self.namespace)
        own = [one for one in found if (one["involvedObject"]["kind"], one["involvedObject"]["name"]) == (kind, name)]
        return sorted(own, key=lambda one: one["metadata"]["creationTimestamp"])
