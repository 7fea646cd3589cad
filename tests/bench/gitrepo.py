"""`python -m tests.bench.gitrepo`: what one large repository costs, beside `git fetch --depth 1` from the same server.

The repository is made in the run. The first fetch and the fetch of one more commit happen in a process of their own,
as the daemon does them; the longest lag of its event loop is the daemon's own metric. One JSON line for each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from aiohttp import web

from gitopsd import metrics
from gitopsd.artifact.store import ArtifactStore
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.krm.objects import ObjectKey
from gitopsd.tasks import watch_lag
from tests.servers.git import GitServer, Repository, git_environment
from tests.servers.loopback import Answer

_WORDS = [f"{first}{second}" for first in ("app", "net", "log", "auth", "node") for second in range(400)]
_KEY = ObjectKey("GitRepository", "source.toolkit.fluxcd.io", "bench", "bench")


class CountingServer(GitServer):
    """Counts what it sends."""

    sent = 0

    async def answer(self, request: web.Request, path: str) -> Answer:
        """The answer, counted as it goes."""
        found = await super().answer(request, path)
        body = found.body
        if not isinstance(body, bytes):
            found.body = self._counted(body)
        return found

    async def _counted(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(body):
            async for chunk in body:
                self.sent += len(chunk)
                yield chunk


def manifest(noise: random.Random) -> str:
    """About two kilobytes of something like YAML."""
    lines = [f"  {noise.choice(_WORDS)}: {noise.choice(_WORDS)}-{noise.randrange(10**6)}" for _ in range(80)]
    return "apiVersion: v1\nkind: ConfigMap\ndata:\n" + "\n".join(lines) + "\n"


def fill(repository: Repository, commits: int, files: int) -> None:
    """A history in which every commit changes a few files, in one go."""
    noise = random.Random(1)
    parts: list[str] = []
    for number in range(commits):
        who = f"A U Thor <author@example.com> {1767225600 + number} +0000"
        parts.append(f"commit refs/heads/main\nauthor {who}\ncommitter {who}\ndata 6\nchange\n")
        first, last = files * number // commits, files * (number + 1) // commits
        changed = [*range(first, last), *(noise.randrange(max(first, 1)) for _ in range(3))]
        for file in changed:
            text = manifest(noise)
            parts.append(f"M 100644 inline apps/{file % 100:02d}/app-{file:05d}.yaml\ndata {len(text)}\n{text}\n")
    repository.git("fast-import", "--quiet", "--done", stdin=("".join(parts) + "done\n").encode())
    repository.git("repack", "-adq")
    tip = repository.ref("refs/heads/main")
    assert tip is not None
    repository.commits.append(tip)


# -- the process that fetches


class _Client:
    """Fetches when it is told to, and reports."""

    def __init__(self, url: str, folder: Path) -> None:
        self._request = GitRequest(url, GitRef(branch="main"), timeout=300)
        self._fetcher = GitFetcher(spool=folder, cache=folder / ".git-objects")
        self._store = ArtifactStore(folder, advertised="localhost", budget=256 << 20)

    async def run(self) -> None:
        """A line on standard input is a fetch; the end of it is the end."""
        watching = asyncio.ensure_future(watch_lag(period=0.01))
        await self._fetcher.open()
        await self._store.open()
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            await asyncio.sleep(0.3)
            print(json.dumps(await self._fetch()), flush=True)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._fetcher.aclose()

    async def _fetch(self) -> dict[str, Any]:
        metrics.loop_lag.clear()
        watching = asyncio.ensure_future(watch_lag(period=0.005))
        began, cpu, memory = time.monotonic(), time.process_time(), _status("VmRSS")
        found = await self._fetcher.fetch(self._request, await self._fetcher.resolve(self._request))
        fetched, used = time.monotonic(), time.process_time() - cpu
        lag = metrics.loop_lag_max._value.get()
        await self._store.put(_KEY, found.revision, f"{found.commit}.tar.gz", found.tree)
        stored = time.monotonic()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        return {
            "wall_seconds": round(fetched - began, 2),
            "cpu_seconds": round(used, 2),
            "store_seconds": round(stored - fetched, 2),
            "lag_ms": round(lag * 1000, 1),
            "lag_ms_with_store": round(metrics.loop_lag_max._value.get() * 1000, 1),
            "before_mib": memory >> 10,
            "peak_mib": _status("VmHWM") >> 10,
            "files": len(found.tree),
            "content_mib": round(found.tree.size / 2**20, 1),
        }


def _status(field: str, pid: int | str = "self") -> int:
    """A line of a process's status, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _client(url: str) -> None:
    import uvloop

    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(_Client(url, Path(folder)).run())


def _git(url: str, folder: Path) -> dict[str, Any]:
    """The git client: fetch without history, then write the files out."""
    environment = git_environment(folder)
    if not (folder / "clone").exists():
        subprocess.run(["git", "init", "-q", "clone"], cwd=folder, env=environment, check=True)
        subprocess.run(["git", "remote", "add", "origin", url], cwd=folder / "clone", env=environment, check=True)
    fetched, peak = _measured(["git", "fetch", "-q", "--depth", "1", "origin", "main"], folder / "clone", environment)
    checked_out, _ = _measured(["git", "checkout", "-q", "--detach", "origin/main"], folder / "clone", environment)
    return {"wall_seconds": fetched, "checkout_seconds": checked_out, "peak_mib": peak}


def _measured(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Run a command; returns its seconds, and the peak memory (MiB) of the largest process of it."""
    began, peak = time.monotonic(), 0
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        while process.poll() is None:
            peak = max(peak, *(_peak(pid) for pid in _family(process.pid)))
            time.sleep(0.003)
    assert process.returncode == 0, command
    return round(time.monotonic() - began, 2), peak >> 10


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _peak(pid: int) -> int:
    """Peak memory of a process (KiB); 0 when it is gone."""
    try:
        return _status("VmHWM", pid)
    except (OSError, StopIteration):
        return 0


# -- the process that measures


def tell(server: CountingServer, **figures: Any) -> None:
    """One line of results, with what the server has sent since the last one."""
    print(json.dumps({"bench": "gitrepo", **figures, "received_kib": round(server.sent / 1024, 1)}), flush=True)
    server.sent = 0


def run(server: CountingServer, commits: int, files: int, updates: int) -> None:
    """First fetches and updates, ours and git's in turn."""
    repository = server.repository("bench")
    began = time.monotonic()
    fill(repository, commits, files)
    tell(server, phase="make", commits=commits, files=files, wall_seconds=round(time.monotonic() - began, 2))
    url = f"{server.url}/bench.git"
    command = [sys.executable, "-m", "tests.bench.gitrepo", "--client", url]
    noise = random.Random(2)
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        for number in range(updates + 1):
            phase = "update" if number else "first"
            if number:
                repository.commit({f"apps/07/app-{7 + 100 * number:05d}.yaml": manifest(noise)})
            client.stdin.write("fetch\n")
            client.stdin.flush()
            tell(server, phase=phase, by="gitopsd", **json.loads(client.stdout.readline()))
            tell(server, phase=phase, by="git", **_git(url, Path(folder)))


def main() -> None:
    """Read the arguments, start what is needed, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=2000)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        _client(options.client)
        return
    with CountingServer() as server:
        run(server, options.commits, options.files, options.updates)


if __name__ == "__main__":
    main()
