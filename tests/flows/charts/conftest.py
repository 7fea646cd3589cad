"""HelmCharts of a running daemon, from servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.charts.chartstage import ChartStage
from tests.servers.git import GitServer
from tests.servers.helmrepo import HelmRepo
from tests.servers.registry import Registry


@pytest.fixture
def charts() -> Iterator[HelmRepo]:
    with HelmRepo() as server:
        yield server


@pytest.fixture(scope="session")
def registry_server() -> Iterator[Registry]:
    with Registry() as server:
        yield server


@pytest.fixture
def stage(control_plane: ControlPlane, git_server: GitServer, namespace: str, daemon: Daemon) -> Iterator[ChartStage]:
    """A namespace for charts; whatever a test did, the daemon works, and nothing half-written is left."""
    yield ChartStage(control_plane, git_server, namespace, daemon)
    assert daemon.get("health", "/healthz") == "ok"
    assert "Reconciler ended unexpectedly" not in daemon.log_text()
    assert [path.name for path in daemon.storage.rglob(".tmp-*")] == []
