"""Scenes for fault tests: a control plane with an audit log, a Git server, and checks after each test that passed.

`GITOPSD_CAMPAIGN=full` runs the campaigns in full; otherwise a few seeds of each. Seeds are in the names of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.faults.scene import Scene
from tests.servers.git import GitServer

HERE = Path(__file__).resolve().parent
CRDS = HERE.parent.parent / "config" / "crd"
FULL = os.environ.get("GITOPSD_CAMPAIGN") == "full"
_passed = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker for all of them: they stop the control plane that they share."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("faults"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself passed."""
    report = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    return report


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane that may be stopped, and that writes down who asked what."""
    with ControlPlane(audit=True) as control_plane:
        control_plane.install_crds(CRDS)
        yield control_plane


@pytest.fixture(scope="session")
def git_server() -> Iterator[GitServer]:
    with GitServer() as server:
        yield server


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, control_plane: ControlPlane, git_server: GitServer, namespace: str
) -> Iterator[Scene]:
    """A scene; when the test has passed, everything that holds after every scenario is checked."""
    row = request.node.name.split("_")[1]
    scene = Scene(control_plane, git_server, namespace, row)
    try:
        yield scene
        if request.node.stash.get(_passed, False):
            scene.verify()
        else:
            for daemon in scene.daemons:
                print(daemon.log_text()[-6000:])
        scene.tidy()
    finally:
        scene.close()
