"""A Kustomization of an ExternalArtifact, whose file another program serves; by a daemon of one namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gitopsd.artifact.archive import pack
from gitopsd.artifact.tree import FileTree
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import KUSTOMIZE_API, SOURCE_API, condition, config_map, is_ready
from tests.servers.http import HttpServer


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


class Writer:
    """A third-party controller with an artifact server of its own."""

    def __init__(self, control_plane: ControlPlane, server: HttpServer, namespace: str) -> None:
        self.api, self.server, self.namespace = control_plane.api, server, namespace

    def publish(self, revision: str, **data: str) -> None:
        """Store files and tell of them in the status."""
        packed = pack(FileTree.build({"cm.yaml": config_map("made", **data).encode()}))
        path = f"externalartifact/{self.namespace}/app/{packed.digest}.tar.gz"
        self.server.files[path] = packed.data
        artifact = {
            "digest": packed.digest,
            "path": path,
            "url": f"{self.server.url}/{path}",
            "revision": revision,
            "lastUpdateTime": "2026-01-01T00:00:00Z",
        }
        patch = {"status": {"artifact": artifact}}
        self.api.merge(SOURCE_API, "ExternalArtifact", "app", patch, self.namespace, subresource="status")


@pytest.fixture
def writer(control_plane: ControlPlane, server: HttpServer, namespace: str) -> Writer:
    writer = Writer(control_plane, server, namespace)
    obj = {"apiVersion": SOURCE_API, "kind": "ExternalArtifact", "metadata": {"name": "app"}, "spec": {}}
    writer.api.apply(obj, namespace)
    spec = {
        "interval": "10m",
        "prune": True,
        "targetNamespace": namespace,
        "sourceRef": {"kind": "ExternalArtifact", "name": "app"},
    }
    obj = {"apiVersion": KUSTOMIZE_API, "kind": "Kustomization", "metadata": {"name": "app"}, "spec": spec}
    writer.api.apply(obj, namespace)
    return writer


def daemon_of(control_plane: ControlPlane, namespace: str, *arguments: str) -> Daemon:
    own = ("--watch-all-namespaces=false", *arguments)
    return Daemon(control_plane.kubeconfig, arguments=own, runtime_namespace=namespace)


def test_s10_an_external_artifact_is_built_and_followed(
    control_plane: ControlPlane, writer: Writer, namespace: str
) -> None:
    api = control_plane.api
    daemon = daemon_of(control_plane, namespace, "--feature-gates=ExternalArtifact=true")
    try:
        daemon.start()
        writer.publish("v1@sha256:1", key="one")
        api.until(KUSTOMIZE_API, "Kustomization", "app", namespace, is_ready)
        for revision, value in (("v2@sha256:2", "two"), ("v3@sha256:3", "three")):
            writer.publish(revision, key=value)
            api.until(
                KUSTOMIZE_API,
                "Kustomization",
                "app",
                namespace,
                lambda obj, wanted=revision: (obj or {}).get("status", {}).get("lastAppliedRevision") == wanted,
            )
            made = api.get("v1", "ConfigMap", "made", namespace)
            assert made is not None
            assert made["data"] == {"key": value}
    finally:
        daemon.close()


def test_s10_without_its_gate_an_external_artifact_is_refused(
    control_plane: ControlPlane, writer: Writer, namespace: str
) -> None:
    daemon = daemon_of(control_plane, namespace)
    try:
        daemon.start()
        seen = control_plane.api.until(
            KUSTOMIZE_API, "Kustomization", "app", namespace, lambda obj: condition(obj, "Stalled") != {}
        )
        shown = f"ExternalArtifact/{namespace}/app"
        text = f"can't access '{shown}', ExternalArtifact feature gate is disabled"
        assert condition(seen)["reason"] == "AccessDenied"
        assert condition(seen)["message"] == text
    finally:
        daemon.close()
