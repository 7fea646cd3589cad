"""`python -m tests.bench.helmcharts`: many HelmCharts of one repository whose index is very large.

The index has 100 MB and 20,000 versions of 500 charts; each HelmChart wants one of them. Reports how often the index
was downloaded, what the daemon's memory and processor did, and how late its event loop was. JSON lines.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from pathlib import Path

from tests.bench.__main__ import CRDS, tell
from tests.bench.helmindex import SHAPES
from tests.bench.workload import NAMESPACE, BareClient, Obj, all_of
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.servers.charts import chart_archive
from tests.servers.http import HttpServer

_API = "source.toolkit.fluxcd.io/v1"
_MIB = 1 << 20


def _path(plural: str) -> str:
    return f"/apis/{_API}/namespaces/{NAMESPACE}/{plural}"


def _source(kind: str, name: str, **spec: object) -> Obj:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": {"interval": "10m", **spec}}


async def until_ready(client: BareClient, plural: str, count: int) -> float:
    """Wait until so many are ready; returns the moment."""
    async with asyncio.timeout(600):
        while True:
            listed = await client.send("GET", _path(plural))
            conditions = [item.get("status", {}).get("conditions", []) for item in listed["items"]]
            ready = [{one["type"]: one["status"] for one in some}.get("Ready") for some in conditions]
            if ready.count("True") >= count:
                return time.monotonic()
            await asyncio.sleep(0.2)


class Charts:
    """One run."""

    def __init__(self, daemon: Daemon, server: HttpServer, client: BareClient) -> None:
        self._daemon = daemon
        self._server = server
        self._client = client

    async def repository(self) -> None:
        """The index is fetched and read once."""
        began, cpu = time.monotonic(), self._daemon.cpu_seconds()
        obj = _source("HelmRepository", "large", url=self._server.url, timeout="120s")
        await self._client.send("POST", _path("helmrepositories"), obj)
        self._tell("repository", 1, await until_ready(self._client, "helmrepositories", 1) - began, cpu)

    async def charts(self, count: int) -> None:
        """All charts at once."""
        began, cpu = time.monotonic(), self._daemon.cpu_seconds()
        reference = {"kind": "HelmRepository", "name": "large"}
        objs = [
            _source("HelmChart", f"chart-{number:05}", chart=f"chart-{number:05}", sourceRef=reference)
            for number in range(count)
        ]
        await all_of(self._client.send("POST", _path("helmcharts"), obj) for obj in objs)
        self._tell("charts", count, await until_ready(self._client, "helmcharts", count) - began, cpu)

    def _tell(self, phase: str, count: int, wall: float, cpu_before: float) -> None:
        asked = [seen.path for seen in self._server.requests]
        lag = self._daemon.get("metrics", "/metrics").partition("\ngitopsd_event_loop_lag_max_seconds ")[2]
        tell(
            bench="helmcharts",
            phase=phase,
            count=count,
            wall_seconds=round(wall, 2),
            cpu_seconds=round(self._daemon.cpu_seconds() - cpu_before, 2),
            index_downloads=asked.count("/index.yaml"),
            chart_downloads=sum(path.endswith(".tgz") for path in asked),
            lag_max_ms=round(float(lag.split("\n")[0] or 0) * 1000, 1),
            before_mib=round(self._daemon.memory("VmRSS") / _MIB),
            peak_mib=round(self._daemon.memory("VmHWM") / _MIB),
        )


def serve(server: HttpServer, count: int) -> None:
    """The index, without the digests that its charts do not have, and each chart's newest archive."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.yaml"
        SHAPES[0].write(path)
        server.files["index.yaml"] = re.sub(rb"\n    digest: \S+", b"", path.read_bytes())
    version = f"1.{SHAPES[0].versions - 1}.0"
    for number in range(count):
        name = f"chart-{number:05}"
        server.files[f"{name}-{version}.tgz"] = chart_archive(name, version)


async def run(control_plane: ControlPlane, daemon: Daemon, server: HttpServer, count: int) -> None:
    """All phases."""
    async with BareClient.connect(control_plane) as client:
        charts = Charts(daemon, server, client)
        daemon.start()
        await charts.repository()
        await charts.charts(count)


def main() -> None:
    """Read the arguments, start what is needed, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="number of HelmCharts, at most 500")
    count = min(parser.parse_args().count, SHAPES[0].charts)
    with ControlPlane() as control_plane, HttpServer() as server:
        control_plane.install_crds(CRDS)
        for name in (NAMESPACE, "flux-system"):
            control_plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        serve(server, count)
        daemon = Daemon(control_plane.kubeconfig, arguments=("--helm-index-max-size=200000000",))
        try:
            asyncio.run(run(control_plane, daemon, server, count))
        finally:
            daemon.close()


if __name__ == "__main__":
    main()
