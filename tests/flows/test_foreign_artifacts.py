"""Artifacts of other controllers' servers: fetched, checked, and never waited for in vain."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gitopsd.api.meta import Artifact
from gitopsd.artifact.archive import Packed, pack
from gitopsd.artifact.tree import FileTree
from gitopsd.fetch.foreign import DownloadError, Downloads, NotThereError, Retrying
from gitopsd.fetch.http import HttpClient, HttpRules
from tests.servers.http import HttpServer
from tests.servers.trouble import endless, never, redirect, reset, say

TREE = FileTree.build({"app/cm.yaml": b"kind: ConfigMap\n"})


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def packed(server: HttpServer) -> Packed:
    packed = pack(TREE)
    server.files["x/ns/app/1.tar.gz"] = packed.data
    return packed


class Client:
    """Downloads with a folder to spool into."""

    def __init__(self, web: HttpClient, folder: Path) -> None:
        self._web, self.folder, self._count = web, folder, 0

    def _spool(self) -> Path:
        self._count += 1
        return self.folder / f"spool-{self._count}"

    def having(self, *, retries: int = 0, timeout: float = 5.0, largest: int = 1 << 20) -> Downloads:
        return Downloads(self._web, self._spool, Retrying(retries, timeout), largest=largest)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    web = HttpClient(HttpRules())
    yield Client(web, tmp_path)
    await web.aclose()
    assert list(tmp_path.iterdir()) == []


def artifact(server: HttpServer, digest: str, path: str = "x/ns/app/1.tar.gz") -> Artifact:
    return Artifact(
        digest=digest, path=path, url=f"{server.url}/{path}", revision="r1", last_update_time="2026-01-01T00:00:00Z"
    )


async def test_s10_the_files_of_another_controllers_artifact(
    server: HttpServer, packed: Packed, client: Client
) -> None:
    assert await client.having().files(artifact(server, packed.digest)) == TREE
    assert await client.having().files(artifact(server, packed.digest.removeprefix("sha256:"))) == TREE


async def test_s10_who_asks_at_the_same_time_shares_a_download(
    server: HttpServer, packed: Packed, client: Client
) -> None:
    downloads = client.having()
    wanted = artifact(server, packed.digest)
    found = await asyncio.gather(*(downloads.files(wanted) for _ in range(20)))
    assert {id(tree) for tree in found} == {id(found[0])}
    assert len(server.requests) == 1


async def test_E08_a_file_that_was_just_collected_is_awaited_not_retried(
    server: HttpServer, packed: Packed, client: Client
) -> None:
    with pytest.raises(NotThereError):
        await client.having(retries=9).files(artifact(server, packed.digest, "x/ns/app/gone.tar.gz"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("digest", "text"),
    [
        ("sha256:" + "0" * 64, "failed to verify archive: computed digest doesn't match provided 'sha256:000"),
        ("", "failed to verify archive: empty digest"),
        ("md5:abc", "failed to verify archive: unknown digest algorithm 'md5'"),
    ],
)
async def test_E07_bytes_without_their_digest_are_not_unpacked(
    server: HttpServer, packed: Packed, client: Client, digest: str, text: str
) -> None:
    with pytest.raises(DownloadError, match=text.replace("(", r"\(")):
        await client.having().files(artifact(server, digest))


async def test_E09_a_server_that_hangs_is_given_up(server: HttpServer, packed: Packed, client: Client) -> None:
    with (
        server.behave("*", never()),
        pytest.raises(DownloadError, match=r"giving up after 1 attempt\(s\): no answer within 0.2s"),
    ):
        await client.having(timeout=0.2).files(artifact(server, packed.digest))


async def test_E09_what_may_pass_is_tried_again(
    server: HttpServer, packed: Packed, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gitopsd.fetch.foreign._FIRST_PAUSE", 0.01)
    with server.behave("*", say(503), times=1), server.behave("*", reset(), times=1):
        assert await client.having(retries=2).files(artifact(server, packed.digest)) == TREE


async def test_E09_an_archive_beyond_the_bound_is_refused(server: HttpServer, packed: Packed, client: Client) -> None:
    with server.behave("*", endless()), pytest.raises(DownloadError, match="larger than 1048576 bytes"):
        await client.having(retries=9).files(artifact(server, packed.digest))
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "file:///etc/passwd", "//elsewhere.example/x"])
async def test_E09_a_redirect_to_another_host_is_not_followed(
    server: HttpServer, packed: Packed, client: Client, location: str
) -> None:
    with server.behave("*", redirect(location)), pytest.raises(DownloadError, match="redirects to another host"):
        await client.having(retries=9).files(artifact(server, packed.digest))
    assert len(server.requests) == 1


async def test_E09_a_refusal_is_told_with_its_status(server: HttpServer, packed: Packed, client: Client) -> None:
    with server.behave("*", say(403)), pytest.raises(DownloadError, match=r"\(status: 403"):
        await client.having(retries=9).files(artifact(server, packed.digest))


async def test_E04_what_is_no_archive_is_refused(server: HttpServer, client: Client) -> None:
    server.files["junk"] = b"not an archive"
    digest = f"sha256:{hashlib.sha256(b'not an archive').hexdigest()}"
    with pytest.raises(DownloadError, match="failed to extract archive"):
        await client.having().files(artifact(server, digest, "junk"))
