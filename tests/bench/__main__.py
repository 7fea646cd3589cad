"""`make bench N=200`: install, upgrade, idle and delete of many small applications, as JSON lines.

Every phase reports wall seconds, CPU seconds of daemon and engine, peak memory of both, and requests by verb (all that
the API server served, and the daemon's own). The *floor* is what the API server needs for the same objects from a bare
client with twenty requests in flight, plus one status patch each, measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.bench.workload import (
    GROUP,
    NAMESPACE,
    BareClient,
    Obj,
    all_of,
    api_requests,
    daemon_requests,
    difference,
    kustomization,
    manifests,
    objects,
    paths,
    until_all,
)
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.servers.git import GitServer

CRDS = Path(__file__).resolve().parents[2] / "config" / "crd"
OTHERS = ("gitrepo", "gitpolls", "helmindex", "helmcharts", "bucket")
_MIB = 1 << 20


def tell(**figures: Any) -> None:
    """One line of results."""
    print(json.dumps(figures), flush=True)


class Bench:
    """One run over one control plane."""

    def __init__(self, control_plane: ControlPlane, daemon: Daemon, client: BareClient, count: int) -> None:
        self._control_plane = control_plane
        self._daemon = daemon
        self._client = client
        self._count = count
        self._apps = [f"app-{number:04d}" for number in range(count)]
        self._kustomizations = f"{GROUP}/namespaces/{NAMESPACE}/kustomizations"

    async def floor(self) -> float:
        """The API server's own time for four applies and one status patch of each application."""
        await all_of(self._client.send("POST", self._kustomizations, kustomization(app)) for app in self._apps)
        before = api_requests(self._control_plane)
        began = time.monotonic()
        await all_of(self._bare(app) for app in self._apps)
        wall = time.monotonic() - began
        requests = difference(api_requests(self._control_plane), before)
        tell(phase="floor", count=self._count, wall_seconds=round(wall, 2), api_requests=requests)
        await all_of(self._client.send("DELETE", f"{self._kustomizations}/{app}") for app in self._apps)
        await all_of(self._client.send("DELETE", path) for app in self._apps for path in paths(app))
        return wall

    async def _bare(self, app: str) -> None:
        for path, obj in zip(paths(app), objects(app, 80), strict=True):
            await self._client.apply(path, obj)
        ready = {"type": "Ready", "status": "True", "reason": "ReconciliationSucceeded", "message": "Applied revision"}
        ready |= {"lastTransitionTime": "2026-01-01T00:00:00Z"}
        await self._client.send(
            "PATCH",
            f"{self._kustomizations}/{app}/status",
            {"status": {"conditions": [ready]}},
            content_type="application/merge-patch+json",
        )

    async def phase(self, name: str, work: Callable[[], Awaitable[float]], **more: Any) -> float:
        """Run one phase and report it; `work` returns the moment at which it was done."""
        daemon = self._daemon
        api_before = api_requests(self._control_plane)
        own_before = daemon_requests(daemon.get("metrics", "/metrics"))
        cpu_before = daemon.cpu_seconds()
        began = time.monotonic()
        wall = await work() - began
        cpu = daemon.cpu_seconds() - cpu_before
        tell(
            phase=name,
            count=self._count,
            wall_seconds=round(wall, 2),
            cpu_seconds=round(cpu, 2),
            cpu_ms_each=round(cpu / self._count * 1000, 1),
            peak_mib=round(daemon.memory("VmHWM") / _MIB),
            now_mib=round(daemon.memory("VmRSS") / _MIB),
            api_requests=difference(api_requests(self._control_plane), api_before),
            daemon_requests=difference(daemon_requests(daemon.get("metrics", "/metrics")), own_before),
            **more,
        )
        return wall

    async def install(self) -> float:
        """From the first create to the last Ready."""
        waiting = asyncio.ensure_future(until_all(self._client, self._count, _is_ready))
        await all_of(self._client.send("POST", self._kustomizations, kustomization(app)) for app in self._apps)
        return await waiting

    async def upgrade(self, git: GitServer, source: str) -> float:
        """From the request to fetch to the last application at the new revision."""
        sha = git.repository("bench").commit(manifests(8080), message="another port")
        revision = f"main@sha1:{sha}"
        waiting = asyncio.ensure_future(
            until_all(self._client, self._count, lambda obj: obj["status"].get("lastAppliedRevision") == revision)
        )
        await _request(self._client, source, "upgrade")
        return await waiting

    async def idle(self, seconds: float) -> float:
        """Nothing happens outside; intervals run."""
        await asyncio.sleep(seconds)
        return time.monotonic()

    async def delete(self) -> float:
        """From the first delete to the last object gone."""
        waiting = asyncio.ensure_future(until_all(self._client, 0, lambda _: False, gone=True))
        await asyncio.sleep(0.2)  # lets the watcher list what is there before it goes
        await all_of(self._client.send("DELETE", f"{self._kustomizations}/{app}") for app in self._apps)
        return await waiting


def _is_ready(obj: Obj) -> bool:
    conditions = obj.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


async def _request(client: BareClient, path: str, token: str) -> None:
    body = {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": token}}}
    await client.send("PATCH", path, body, content_type="application/merge-patch+json")


async def run(control_plane: ControlPlane, daemon: Daemon, git: GitServer, count: int, idle: float) -> None:
    """All phases."""
    async with BareClient.connect(control_plane) as client:
        bench = Bench(control_plane, daemon, client, count)
        floor = await bench.floor()
        daemon.start()
        sources = f"/apis/source.toolkit.fluxcd.io/v1/namespaces/{NAMESPACE}/gitrepositories"
        git.repository("bench").commit(manifests(80), message="first")
        source = {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": "bench", "namespace": NAMESPACE},
            "spec": {"interval": "1m", "url": f"{git.url}/bench.git", "ref": {"branch": "main"}},
        }
        await client.send("POST", sources, source)
        control_plane.api.until(
            "source.toolkit.fluxcd.io/v1", "GitRepository", "bench", NAMESPACE, lambda obj: bool(obj and _is_ready(obj))
        )
        wall = await bench.phase("install", bench.install, floor_seconds=round(floor, 2))
        tell(phase="install", times_floor=round(wall / floor, 2))
        await bench.phase("upgrade", lambda: bench.upgrade(git, f"{sources}/bench"))
        if idle:
            await bench.phase("idle", lambda: bench.idle(idle))
        await bench.phase("delete", bench.delete)


def main() -> None:
    """Read the arguments, start what is needed, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of Kustomizations")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of idleness that are measured")
    parser.add_argument("--also", nargs="*", choices=OTHERS, default=[], help="further benchmarks, with their defaults")
    options = parser.parse_args()
    _applications(options.count, options.idle)
    for name in options.also:
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)


def _applications(count: int, idle: float) -> None:
    with ControlPlane() as control_plane, GitServer() as git:
        control_plane.install_crds(CRDS)
        for name in (NAMESPACE, "flux-system"):
            control_plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        daemon = Daemon(control_plane.kubeconfig)
        try:
            asyncio.run(run(control_plane, daemon, git, count, idle))
        finally:
            daemon.close()


if __name__ == "__main__":
    main()
