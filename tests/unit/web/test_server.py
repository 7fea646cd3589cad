"""Probes, metrics and artifact files as their readers see them, and requests for what is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from gitopsd.artifact.store import ArtifactStore
from gitopsd.web.server import Health, WebServer, split_address

CONTENT = bytes(range(256)) * 40
ARCHIVE = "gitrepository/ns/app/abc.tar.gz"


class Site:
    """A running server, its storage, and a client."""

    def __init__(self, server: WebServer, health: Health, root: Path, session: aiohttp.ClientSession) -> None:
        self.server, self.health, self.root, self._session = server, health, root, session

    async def get(self, name: str, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body."""
        url = f"http://127.0.0.1:{self.server.ports[name]}{path}"
        async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()

    async def raw(self, target: str) -> tuple[int, bytes]:
        """An answer to a request line that no client would tidy up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.ports["storage"])
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split(b" ", 2)[1]), answer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    root = tmp_path / "storage"
    (root / ARCHIVE).parent.mkdir(parents=True)
    (root / ARCHIVE).write_bytes(CONTENT)
    (tmp_path / "secret").write_text("outside")
    (root / "link").symlink_to(tmp_path / "secret")
    store = ArtifactStore(root, advertised="storage:9090", budget=1 << 20)
    health = Health()
    server = WebServer(health, store.resolve)
    address = "127.0.0.1:0"
    await server.start(metrics_addr=address, health_addr=address, storage_addr=address)
    async with aiohttp.ClientSession() as session:
        yield Site(server, health, root, session)
    await server.stop()


async def test_alive_from_the_start_and_ready_when_every_part_is(site: Site) -> None:
    site.health.wait_for("cache", "artifacts")
    for path in ("/healthz", "/healthz/ping"):
        assert (await site.get("health", path))[::2] == (200, b"ok")
    assert (await site.get("health", "/readyz"))[::2] == (503, b"not ready: artifacts, cache")
    site.health.reached("cache")
    site.health.reached("artifacts")
    assert (await site.get("health", "/readyz"))[::2] == (200, b"ok")
    assert (await site.get("health", "/readyz?verbose"))[2] == b"[+]ping ok\nreadyz check passed\n"
    site.health.stop()
    assert (await site.get("health", "/readyz"))[0] == 503
    assert (await site.get("health", "/healthz"))[0] == 200
    assert (await site.get("health", "/metrics"))[0] == 404


async def test_a_verbose_answer_has_the_status_of_a_short_one(site: Site) -> None:
    site.health.wait_for("cache")
    status, _, body = await site.get("health", "/readyz?verbose")
    assert status == 503
    assert body == b"[-]cache failed\nreadyz check failed\n"


async def test_metrics_are_text_that_prometheus_reads(site: Site) -> None:
    status, headers, body = await site.get("metrics", "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE controller_runtime_reconcile_total counter" in body


async def test_an_artifact_is_served_whole_in_part_and_not_twice(site: Site) -> None:
    status, headers, body = await site.get("storage", f"/{ARCHIVE}")
    assert (status, body) == (200, CONTENT)
    assert headers["Accept-Ranges"] == "bytes"
    status, found, body = await site.get("storage", f"/{ARCHIVE}", Range="bytes=100-199")
    assert (status, body) == (206, CONTENT[100:200])
    assert found["Content-Range"] == f"bytes 100-199/{len(CONTENT)}"
    assert (await site.get("storage", f"/{ARCHIVE}", Range="bytes=-10"))[2] == CONTENT[-10:]
    assert (await site.get("storage", f"/{ARCHIVE}", Range=f"bytes={len(CONTENT)}-"))[0] == 416
    since = {"If-Modified-Since": headers["Last-Modified"]}
    assert (await site.get("storage", f"/{ARCHIVE}", **since))[::2] == (304, b"")
    assert (await site.get("storage", f"/{ARCHIVE}", **{"If-None-Match": headers["ETag"]}))[::2] == (304, b"")


async def test_E10_folders_are_not_listed(site: Site) -> None:
    for path in ("/gitrepository", "/gitrepository/", "/gitrepository/ns/", "/gitrepository/ns/app"):
        assert (await site.get("storage", path))[0] == 404


async def test_s12_2_the_root_answers_a_probe(site: Site) -> None:
    assert (await site.get("storage", "/"))[::2] == (200, b"ok")


@pytest.mark.parametrize(
    "target",
    [
        "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/gitrepository/../../secret", "//../secret", "/link",
        "/gitrepository/ns/..%5c..%5c..%5csecret", "/%00", "/gone", "/" + "a" * 5000, "/.hidden",
        "/.own/file", "/etc/passwd",
    ],
)  # fmt: skip
async def test_E10_nothing_outside_of_the_storage_is_served(site: Site, target: str) -> None:
    (site.root / ".hidden").write_text("outside")
    (site.root / ".own").mkdir()
    (site.root / ".own/file").write_text("outside")
    status, answer = await site.raw(target)
    assert status in (400, 404)
    assert b"outside" not in answer
    assert str(site.root).encode() not in answer


async def test_E11_only_reading_is_allowed(site: Site) -> None:
    url = f"http://127.0.0.1:{site.server.ports['storage']}/{ARCHIVE}"
    async with aiohttp.ClientSession() as session:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with session.request(method, url, data=b"x") as answer:
                assert answer.status == 405
    assert (site.root / ARCHIVE).read_bytes() == CONTENT


async def test_E11_connections_beyond_the_cap_are_refused_and_the_others_served(site: Site) -> None:
    port = site.server.ports["storage"]
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1024)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert (await site.get("health", "/healthz"))[0] == 200
    for _, other in idle:
        other.close()
        await other.wait_closed()
    assert (await site.get("storage", f"/{ARCHIVE}"))[0] == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [(":9090", (None, 9090)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80)), ("host:1", ("host", 1))],
)
def test_addresses_are_read_as_go_writes_them(text: str, expected: tuple[str | None, int]) -> None:
    assert split_address(text) == expected
