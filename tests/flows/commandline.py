"""Runs the command line tool inside the test process and keeps what it said.

Its fixtures are for test modules to import. Objects are made with a client that is not the tool's, and their status
is written by hand: the tool is to be tested without a daemon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from gitopsd.cli.main import main
from tests.controlplane import ControlPlane

SOURCE = "source.toolkit.fluxcd.io/v1"
KUSTOMIZE = "kustomize.toolkit.fluxcd.io/v1"
HELM = "helm.toolkit.fluxcd.io/v2"
SHA = "0123456789abcdef0123456789abcdef01234567"
SPECS: dict[tuple[str, str], dict[str, Any]] = {
    (SOURCE, "GitRepository"): {"url": "https://example.com/x.git", "interval": "1h"},
    (SOURCE, "OCIRepository"): {"url": "oci://example.com/x", "interval": "1h"},
    (SOURCE, "Bucket"): {"bucketName": "b", "endpoint": "example.com", "interval": "1h"},
    (SOURCE, "HelmRepository"): {"url": "https://example.com/charts", "interval": "1h"},
    (SOURCE, "HelmChart"): {"chart": "c", "sourceRef": {"kind": "HelmRepository", "name": "h"}, "interval": "1h"},
    (SOURCE, "ExternalArtifact"): {
        "sourceRef": {"apiVersion": "example.com/v1", "kind": "Maker", "name": "m"},
    },
    (KUSTOMIZE, "Kustomization"): {
        "sourceRef": {"kind": "GitRepository", "name": "git"},
        "interval": "1h",
        "prune": True,
        "path": "./",
    },
    (HELM, "HelmRelease"): {
        "chart": {"spec": {"chart": "c", "sourceRef": {"kind": "HelmRepository", "name": "h"}}},
        "interval": "1h",
    },
}


@dataclass(frozen=True)
class Said:
    """How a run ended and what it wrote."""

    status: int
    out: str
    err: str


class Cli:
    """The tool, against one namespace of a control plane."""

    def __init__(self, control_plane: ControlPlane, namespace: str, capture: pytest.CaptureFixture[str]) -> None:
        self.control_plane = control_plane
        self.api = control_plane.api
        self.namespace = namespace
        self._capture = capture

    def __call__(self, *arguments: str, in_namespace: bool = True) -> Said:
        """Run one command line to its end."""
        self._capture.readouterr()
        within = ["-n", self.namespace] if in_namespace else []
        status = main([*arguments, "--kubeconfig", str(self.control_plane.kubeconfig), *within])
        out, err = self._capture.readouterr()
        return Said(status, out, err)

    def create(self, api_version: str, kind: str, name: str, status: Any = None, **spec: Any) -> dict[str, Any]:
        """Create an object of one of our kinds, and write its status."""
        obj = {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**SPECS[api_version, kind], **spec},
        }
        made = self.api.create(obj)
        return made if status is None else self.write_status(api_version, kind, name, status)

    def write_status(self, api_version: str, kind: str, name: str, status: Any) -> dict[str, Any]:
        """Merge `status` into an object's status, as a daemon would."""
        patch = {"status": status}
        return self.api.merge(api_version, kind, name, patch, self.namespace, subresource="status")


def ready(status: str = "True", message: str = "all is well", *, generation: int = 1, **more: Any) -> dict[str, Any]:
    """A status with a Ready condition."""
    return {"observedGeneration": generation, "conditions": [condition("Ready", status, message)], **more}


def condition(kind: str, status: str, message: str = "", reason: str = "Tested") -> dict[str, Any]:
    """One condition as the API server takes it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-08-07T12:00:00Z",
    }


def artifact(revision: str, size: int = 10) -> dict[str, Any]:
    """An artifact as a source's status holds it."""
    return {
        "revision": revision,
        "digest": "sha256:" + "0" * 64,
        "path": "a/b/c.tar.gz",
        "url": "http://localhost/a/b/c.tar.gz",
        "lastUpdateTime": "2026-08-07T12:00:00Z",
        "size": size,
    }


@pytest.fixture(name="cli")
def cli_fixture(control_plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The tool in the test's own namespace."""
    return Cli(control_plane, namespace, capsys)


@pytest.fixture(name="meanwhile")
def meanwhile_fixture(control_plane: ControlPlane) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Let something happen while the tool runs; its errors fail the test."""
    started: list[Any] = []
    pool = ThreadPoolExecutor(max_workers=8)

    def run(work: Callable[[], Any]) -> None:
        try:
            work()
        finally:
            control_plane.api.close()  # this thread's connection

    yield lambda work: started.append(pool.submit(run, work))
    pool.shutdown(wait=True)
    for each in started:
        each.result()


def until(accept: Callable[[], Any], *, timeout: float = 20.0) -> Any:
    """Look until `accept` gives something true, and return it."""
    deadline = time.monotonic() + timeout
    while not (found := accept()):
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.02)
    return found
