"""Fixtures that every test may use, and the rules that hold for all of them.

One control plane per test session (with xdist: per worker, they start in seconds), one namespace per test. Blocking
calls made by gitopsd's own code on an event loop are errors. A test that uses the control plane is marked
`control_plane` by itself; what it needs is built before the first test runs, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests.controlplane import ControlPlane
from tools.controlplane import build

ROOT = Path(__file__).resolve().parent.parent
CRDS = ROOT / "config" / "crd"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the control plane, so that `-m "not control_plane"` means what it says."""
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.control_plane)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane's programs now, where no test's time limit runs and progress can be seen."""
    wanted = any(item.get_closest_marker("control_plane") for item in session.items)
    if not wanted or session.config.option.collectonly or all(path.is_file() for path in build.paths().values()):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print("\nthe control plane's programs are not built yet; this happens once (`make controlplane` does the same)")
        build.binaries()


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Make a blocking call by gitopsd's code on an event loop an error."""
    with blockbuster_ctx("gitopsd"):
        yield


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """The session's control plane, without nodes, our CRDs installed."""
    with ControlPlane() as control_plane:
        if CRDS.is_dir():
            control_plane.install_crds(CRDS)
        yield control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own; its removal is asked for and not waited for."""
    name = control_plane.create_namespace()
    yield name
    control_plane.api.delete("v1", "Namespace", name)
