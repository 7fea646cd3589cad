"""Says at the end what was not played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.scenario import names
from tests.conftest import CRDS
from tests.controlplane import ControlPlane


@pytest.fixture(scope="package")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane on which only the daemon of the recordings works."""
    with ControlPlane() as control_plane:
        control_plane.install_crds(CRDS)
        yield control_plane


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden: plays a recorded scenario")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.conformance.test_goldens import LATER

    played = sum(
        "test_goldens.py" in report.nodeid and "[" in report.nodeid
        for key in ("passed", "failed")
        for report in terminalreporter.stats.get(key, ())
        if report.when == "call"
    )
    if played:
        terminalreporter.write_line(
            f"recordings: {len(names())} in all, {played} played, {len(LATER)} of things that come later (later.yaml)"
        )
