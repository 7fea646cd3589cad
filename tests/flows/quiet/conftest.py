"""Flows without a daemon: their objects are worked on by nobody but the test, on a control plane of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import CRDS
from tests.controlplane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane on which no daemon runs."""
    with ControlPlane() as control_plane:
        control_plane.install_crds(CRDS)
        yield control_plane
