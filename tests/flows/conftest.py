"""One daemon and one Git server for all flows of a session; a stage for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.hostile import Hostile
from tests.flows.stage import Stage, config_map
from tests.servers.git import GitServer


@pytest.fixture(scope="session")
def git_server() -> Iterator[GitServer]:
    with GitServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_daemon(control_plane: ControlPlane) -> Iterator[Daemon]:
    """The session's daemon; tests that stop or kill one start their own."""
    daemon = Daemon(control_plane.kubeconfig)
    try:
        yield daemon.start()
    finally:
        daemon.close()


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Daemon:
    """The session's daemon, seen to be alive before each test."""
    assert shared_daemon.get("health", "/healthz") == "ok", shared_daemon.log_text()[-2000:]
    return shared_daemon


@pytest.fixture
def stage(control_plane: ControlPlane, git_server: GitServer, namespace: str, daemon: Daemon) -> Stage:
    """A namespace with a repository, and a daemon that works on it."""
    return Stage(control_plane, git_server, namespace)


@pytest.fixture(scope="module")
def neighbour(control_plane: ControlPlane, git_server: GitServer, shared_daemon: Daemon) -> Iterator[Stage]:
    """A healthy Kustomization in a namespace of its own, as long as the module's tests run."""
    namespace = control_plane.create_namespace()
    stage = Stage(control_plane, git_server, namespace)
    revision = stage.push({"cm.yaml": config_map("one")})
    stage.source()
    stage.kustomization()
    stage.until_applied(revision)
    yield stage
    revision = stage.push({"cm.yaml": config_map("one", after="all")})
    stage.refetch()
    stage.until_applied(revision)
    control_plane.api.delete("v1", "Namespace", namespace)


@pytest.fixture
def hostile(
    control_plane: ControlPlane, git_server: GitServer, namespace: str, daemon: Daemon, neighbour: Stage
) -> Iterator[Hostile]:
    """A stage for trials; whatever a test did, the daemon and the neighbour are fine after it."""
    stage = Hostile(control_plane, git_server, namespace)
    stage.daemon, stage.neighbour = daemon, neighbour
    yield stage
    stage.assert_others_are_fine()
    assert "Reconciler ended unexpectedly" not in daemon.log_text()
