"""`python -m tests.bench.bucket`: a bucket of many objects, read for the first time, unchanged, and with one change.

One JSON line for each phase: requests (counted by the storage), seconds, CPU seconds and the peak memory of the reader,
which is a process of its own and does what the daemon does: look, fetch, pack and store. `floor` is what the same
number of downloads takes a bare client with as many at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from gitopsd.artifact.store import ArtifactStore
from gitopsd.fetch.bucket import BucketRequest, fetch, look
from gitopsd.fetch.bucketdownload import Before, DownloadBounds
from gitopsd.fetch.bucketlisting import Seen
from gitopsd.fetch.buckets3 import S3Bucket, S3Place
from gitopsd.fetch.cloud.identity import AwsKeys
from gitopsd.fetch.http import Access, HttpClient
from gitopsd.krm.objects import ObjectKey
from tests.servers.buckets import LoopbackS3

_SOURCE = ObjectKey("source.toolkit.fluxcd.io", "Bucket", "bench", "bench")
_KEYS = AwsKeys("AKIABENCH", "secret")


class Reader:
    """What the daemon does with one Bucket, run after run."""

    def __init__(self, host: str, folder: Path) -> None:
        self._web = HttpClient()
        self._store = ArtifactStore(folder, advertised="localhost", budget=256 << 20)
        self._request = BucketRequest("bucket", self._connect, timeout=600.0)
        self._host = host
        self._revision = ""
        self._known = b""

    async def _connect(self) -> S3Bucket:
        return S3Bucket(self._web, S3Place(self._host, "bucket", insecure=True), _KEYS, Access())

    async def run(self) -> None:
        """One run."""
        seen = await look(self._request)
        if seen.index.revision("sha256") == self._revision:
            return
        before = []
        latest = self._store.latest(_SOURCE)
        if latest is not None:
            before.append(Before(await self._store.files(latest), Seen(self._known)))
        index, tree = await fetch(self._request, seen, before)
        self._revision, self._known = index.revision("sha256"), index.fingerprints
        await self._store.put(_SOURCE, self._revision, f"{self._revision[7:]}.tar.gz", tree)

    async def floor(self) -> None:
        """Download everything, and keep nothing."""
        keys = iter([entry.key for entry in (await look(self._request)).index.entries.values()])

        async def worker(session: aiohttp.ClientSession) -> None:
            for key in keys:
                async with session.get(f"http://{self._host}/bucket/{key}") as answer:
                    await answer.read()

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(worker(session) for _ in range(DownloadBounds().parallel)))

    async def aclose(self) -> None:
        await self._web.aclose()


def _peak() -> int:
    """The most memory (bytes) that this program held; what getrusage tells includes the parent's before it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def _read(host: str) -> None:
    """The reader's process: one phase for each line of the standard input."""
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(host, Path(folder))
        for line in sys.stdin:
            began, cpu = time.monotonic(), time.process_time()
            await (reader.floor() if line.strip() == "floor" else reader.run())
            figures = {
                "seconds": round(time.monotonic() - began, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "peak_mib": _peak() >> 20,
            }
            print(json.dumps(figures), flush=True)
        await reader.aclose()


def main() -> None:
    """Play the storage, and have it read."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bucket", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=2_000, help="bytes of an object")
    parser.add_argument("--reader", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        asyncio.run(_read(options.reader))
        return
    with LoopbackS3() as server:
        contents = {f"{n % 100:02d}/{n:06d}": f"{n:010d}" * (options.size // 10) for n in range(options.count)}
        held = server.bucket("bucket", contents)
        command = [sys.executable, "-m", "tests.bench.bucket", "--reader", server.host]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:

            def phase(name: str) -> None:
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(f"{name}\n")
                child.stdin.flush()
                figures: dict[str, Any] = json.loads(child.stdout.readline())
                requests, downloads = server.counted()
                told = {"phase": name, "objects": options.count, "requests": requests, "downloads": len(downloads)}
                print(json.dumps(told | figures), flush=True)

            phase("first fetch")
            phase("unchanged")
            held["07/000007"] = b"changed"
            phase("one changed")
            phase("floor")


if __name__ == "__main__":
    main()
