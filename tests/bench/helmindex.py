"""`python -m tests.bench.helmindex`: a large Helm index, from the download to the look-ups, as JSON lines.

Two indexes are made in the run: 100 MB with 20,000 versions of 500 charts, and that of spec/hostile-inputs.md F02. Each
is served by another process, downloaded and read as the daemon does it, in a process of its own and, for comparison, in
a thread. Peaks of memory are those of the kernel, over what the process had before; lag is how late a timer of 5 ms
wakes in the event loop meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitopsd.fetch.helmindex import Indexes
from gitopsd.fetch.helmindexdownload import download
from gitopsd.fetch.helmindexworker import IndexReader
from gitopsd.fetch.http import Access, HttpClient
from tests.processes import free_port

MIB = 1 << 20
_LIMIT = 1 << 30


@dataclass(frozen=True)
class Shape:
    """How many charts and versions, and how many bytes each version takes."""

    name: str
    charts: int
    versions: int
    size: int

    def write(self, path: Path) -> None:
        """Write such an index as Helm does."""
        with path.open("w") as out:
            out.write("apiVersion: v1\nentries:\n")
            for chart in range(self.charts):
                out.write(f"  chart-{chart:05}:\n")
                for minor in reversed(range(self.versions)):
                    out.write(self._entry(chart, minor))
            out.write('generated: "2024-05-05T10:11:12.1234Z"\n')

    def _entry(self, chart: int, minor: int) -> str:
        head = f'  - apiVersion: v2\n    created: "2024-03-{minor % 28 + 1:02}T10:11:12.{minor:09}Z"\n'
        tail = (
            f"    digest: {chart:032x}{minor:032x}\n    name: chart-{chart:05}\n    urls:\n"
            f"    - chart-{chart:05}-1.{minor}.0.tgz\n    version: 1.{minor}.0\n"
        )
        left = self.size - len(head) - len(tail)
        if left < 100:
            return head + tail
        line = "        - a line of the chart's notes about what has changed since the last one\n"
        return f"{head}    annotations:\n      changes: |\n{line * (left // len(line))}{tail}"


SHAPES = (Shape("100 MB, 20,000 versions", 500, 40, 5200), Shape("F02: 10,000 x 20", 10_000, 20, 200))


def memory(pid: int | str = "self", field: str = "VmHWM") -> int:
    """A line of a process's status, in bytes; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    with contextlib.suppress(OSError):
        return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return set()


class Watch:
    """Peak memory of this process and of those that it starts, and the event loop's lag, while it is entered."""

    def __init__(self) -> None:
        self.lag = 0.0
        self.own = 0
        self.child = 0
        self.wall = 0.0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        others = children(os.getpid())
        Path("/proc/self/clear_refs").write_text("5")
        before, began = memory(field="VmRSS"), time.perf_counter()
        ticking = asyncio.ensure_future(self._tick(others))
        try:
            yield
        finally:
            self.wall = time.perf_counter() - began
            ticking.cancel()
            self.own = memory() - before

    async def _tick(self, others: set[int]) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.lag = max(self.lag, time.perf_counter() - began - 0.005)
            self.child = max(self.child, *(memory(pid) for pid in children(os.getpid()) - others), 0)

    @property
    def row(self) -> dict[str, Any]:
        return {
            "seconds": round(self.wall, 2),
            "own_peak_mib": round(self.own / MIB, 1),
            "child_peak_mib": round(self.child / MIB, 1),
            "worst_lag_ms": round(self.lag * 1000, 1),
        }


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server over a folder, in another process."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        time.sleep(1)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def fetched(url: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Download the index, and then only ask whether it has changed."""
    web, path, watch = HttpClient(), folder / "spool", Watch()
    try:
        async with watch.watching():
            found = await download(web, f"{url}/index.yaml", path, access=Access(), limit=_LIMIT)
        assert found is not None
        began = time.perf_counter()
        again = await download(
            web, f"{url}/index.yaml", folder / "again", access=Access(), limit=_LIMIT, known=found.validators
        )
        assert again is None
        row = watch.row | {
            "mb": round(found.size / 1e6, 1),
            "unchanged_ms": round((time.perf_counter() - began) * 1000, 1),
        }
    finally:
        await web.aclose()
    return path, row


async def looked_up(indexes: Indexes, path: Path, shape: Shape) -> dict[str, Any]:
    """One look-up for each of 500 charts, all at once and then one by one."""
    names = [f"chart-{number * shape.charts // 500:05}" for number in range(500)]

    async def one(name: str) -> float:
        began = time.perf_counter()
        index = await indexes.open(path, "bench")
        assert (await index.find(name, "1.x")).name == name
        return time.perf_counter() - began

    watch = Watch()
    async with watch.watching():
        await asyncio.gather(*map(one, names))
    single = sorted([await one(name) for name in names])
    return {
        "all_at_once_seconds": round(watch.wall, 3),
        "median_ms": round(single[250] * 1000, 2),
        "worst_ms": round(single[-1] * 1000, 2),
        "table_mib": round(indexes.weight / MIB, 2),
    }


async def measure(shape: Shape, url: str, folder: Path, *, with_thread: bool) -> None:
    """Print one line for each step."""
    spool, row = await fetched(url, folder)
    say(shape, "download", row)
    target = folder / "stored"
    for where in ("process", "thread")[: 1 + with_thread]:
        reader, watch = IndexReader(small=0 if where == "process" else _LIMIT), Watch()
        async with watch.watching():
            built = await reader.build(spool, target, _LIMIT)
        assert len(built.table) == shape.charts * shape.versions
        say(shape, f"read in a {where}", watch.row)
    indexes = Indexes()
    indexes.adopt("bench", built.table)
    say(shape, "look-ups", await looked_up(indexes, target, shape))
    watch, indexes = Watch(), Indexes()
    async with watch.watching():
        await indexes.open(target, "bench")
    say(shape, "table after a restart", watch.row)


def say(shape: Shape, step: str, row: dict[str, Any]) -> None:
    print(json.dumps({"index": shape.name, "step": step, **row}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-thread", action="store_true", help="leave the comparison with a thread out")
    arguments = parser.parse_args()
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(prefix="gitopsd-bench-") as name:
            folder = Path(name)
            (folder / "served").mkdir()
            shape.write(folder / "served" / "index.yaml")
            with served(folder / "served") as url:
                asyncio.run(measure(shape, url, folder, with_thread=not arguments.no_thread))


if __name__ == "__main__":
    main()
