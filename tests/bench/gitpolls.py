"""`python -m tests.bench.gitpolls`: many GitRepositories of one URL at a short interval, while nothing changes.

Reports what the Git server is asked for and what the daemon's processor does meanwhile, then how long one push takes to
reach all of them when a single one is asked to look. JSON lines, like the other benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

from tests.bench.__main__ import CRDS, tell
from tests.bench.workload import NAMESPACE, BareClient, Obj, all_of, api_requests, daemon_requests, difference
from tests.controlplane import ControlPlane
from tests.daemon import Daemon
from tests.servers.git import GitServer

_API = "source.toolkit.fluxcd.io/v1"
_PATH = f"/apis/{_API}/namespaces/{NAMESPACE}/gitrepositories"
_MIB = 1 << 20


def repository(name: str, url: str, interval: str) -> Obj:
    """A GitRepository of the one URL."""
    spec = {"interval": interval, "url": url, "ref": {"branch": "main"}}
    return {
        "apiVersion": _API,
        "kind": "GitRepository",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


async def until_all(client: BareClient, count: int, accept: Callable[[Obj], bool]) -> float:
    """Wait until all are accepted; returns the moment."""
    async with asyncio.timeout(300):
        while True:
            listed = await client.send("GET", _PATH)
            if sum(accept(item) for item in listed["items"]) >= count:
                return time.monotonic()
            await asyncio.sleep(0.1)


def _is_ready(obj: Obj) -> bool:
    conditions = obj.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def asked(git: GitServer) -> dict[str, int]:
    """What the Git server was asked for since it last forgot."""
    bodies = [seen.body for seen in git.requests]
    return {
        "requests": len(bodies),
        "ref_requests": sum(b"command=ls-refs" in body for body in bodies),
        "packs": sum(b"command=fetch" in body for body in bodies),
    }


class Polls:
    """One run."""

    def __init__(self, control_plane: ControlPlane, daemon: Daemon, git: GitServer, client: BareClient) -> None:
        self._control_plane = control_plane
        self._daemon = daemon
        self._git = git
        self._client = client
        self._repository = git.repository("bench")
        self._url = f"{git.url}/bench.git"

    async def install(self, count: int, interval: str) -> None:
        """All at once."""
        began, cpu = time.monotonic(), self._daemon.cpu_seconds()
        names = [f"source-{number:04d}" for number in range(count)]
        await all_of(self._client.send("POST", _PATH, repository(name, self._url, interval)) for name in names)
        wall = await until_all(self._client, count, _is_ready) - began
        self._tell("install", count, wall, cpu)

    async def idle(self, count: int, seconds: float, interval: float) -> None:
        """Nothing happens; intervals run."""
        self._git.forget()
        api = api_requests(self._control_plane)
        own = daemon_requests(self._daemon.get("metrics", "/metrics"))
        cpu = self._daemon.cpu_seconds()
        await asyncio.sleep(seconds)
        self._tell(
            "idle",
            count,
            seconds,
            cpu,
            ref_requests_per_interval=round(asked(self._git)["ref_requests"] * interval / seconds, 2),
            api_requests=difference(api_requests(self._control_plane), api),
            daemon_requests=difference(daemon_requests(self._daemon.get("metrics", "/metrics")), own),
        )

    async def push(self, count: int) -> None:
        """One is asked to look; all have the new revision."""
        self._git.forget()
        sha = self._repository.commit({"a.yaml": "a: 2\n"})
        began, cpu = time.monotonic(), self._daemon.cpu_seconds()
        body = {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": sha}}}
        patch = "application/merge-patch+json"
        await self._client.send("PATCH", f"{_PATH}/source-0000", body, content_type=patch)
        revision = f"main@sha1:{sha}"
        moved = await until_all(
            self._client, count, lambda obj: obj.get("status", {}).get("artifact", {}).get("revision") == revision
        )
        self._tell("push", count, moved - began, cpu)

    def _tell(self, phase: str, count: int, wall: float, cpu_before: float, **more: object) -> None:
        cpu = self._daemon.cpu_seconds() - cpu_before
        figures = {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), **asked(self._git), **more}
        lag = self._daemon.get("metrics", "/metrics").partition("\ngitopsd_event_loop_lag_max_seconds ")[2]
        figures |= {"lag_max_ms": round(float(lag.split("\n")[0] or 0) * 1000, 1)}
        figures |= {"peak_mib": round(self._daemon.memory("VmHWM") / _MIB)}
        tell(bench="gitpolls", phase=phase, count=count, **figures)


async def run(control_plane: ControlPlane, daemon: Daemon, git: GitServer, options: argparse.Namespace) -> None:
    """All phases."""
    async with BareClient.connect(control_plane) as client:
        polls = Polls(control_plane, daemon, git, client)
        git.repository("bench").commit({"a.yaml": "a: 1\n"})
        daemon.start()
        await polls.install(options.count, f"{options.interval}s")
        await polls.idle(options.count, options.minutes * 60, options.interval)
        await polls.push(options.count)


def main() -> None:
    """Read the arguments, start what is needed, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of GitRepositories")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes of idleness that are measured")
    parser.add_argument("--interval", type=int, default=60, help="their interval in seconds")
    options = parser.parse_args()
    with ControlPlane() as control_plane, GitServer() as git:
        control_plane.install_crds(CRDS)
        for name in (NAMESPACE, "flux-system"):
            control_plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        daemon = Daemon(control_plane.kubeconfig)
        try:
            asyncio.run(run(control_plane, daemon, git, options))
        finally:
            daemon.close()


if __name__ == "__main__":
    main()
