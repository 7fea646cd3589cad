"""Many charts of one HelmRepository: its index is downloaded once and read once."""

from __future__ import annotations

import re

from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.flows.stage import SOURCE_API, is_ready
from tests.servers.helmrepo import HelmRepo

COUNT = 40


def look_ups(daemon: Daemon, namespace: str) -> dict[str, float]:
    """Look-ups in the index cache for the namespace's HelmRepository, by outcome."""
    line = rf'^gotk_cache_events_total{{event_type="(\w+)",name="charts",namespace="{namespace}"}} (\S+)$'
    return {event: float(count) for event, count in re.findall(line, daemon.get("metrics", "/metrics"), re.MULTILINE)}


def test_s7_4_all_charts_of_a_repository_share_its_index(
    control_plane: ControlPlane, namespace: str, daemon: Daemon, charts: HelmRepo
) -> None:
    api = control_plane.api
    for number in range(COUNT):
        charts.package(f"chart-{number}", "1.0.0")
    for number in range(COUNT):
        spec = {
            "chart": f"chart-{number}",
            "version": "1.x",
            "interval": "10m",
            "sourceRef": {"kind": "HelmRepository", "name": "charts"},
        }
        api.apply(
            {"apiVersion": SOURCE_API, "kind": "HelmChart", "metadata": {"name": f"chart-{number}"}, "spec": spec},
            namespace,
        )
    spec = {"url": charts.repository, "interval": "10m"}
    api.apply(
        {"apiVersion": SOURCE_API, "kind": "HelmRepository", "metadata": {"name": "charts"}, "spec": spec}, namespace
    )
    for number in range(COUNT):
        api.until(SOURCE_API, "HelmChart", f"chart-{number}", namespace, is_ready, timeout=60)
    assert charts.asked_for_index() == 1
    found = look_ups(daemon, namespace)
    assert found["cache_hit"] >= COUNT
    assert "cache_miss" not in found
