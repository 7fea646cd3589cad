"""Downloading an index over HTTP and HTTPS."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gitopsd.fetch.auth import basic
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.helmindexdownload import BusyError, Downloaded, download
from gitopsd.fetch.http import Access, HttpClient, TlsIdentity
from gitopsd.tasks import offload
from tests.servers.helmrepo import HelmRepo
from tests.servers.trouble import compressed, cut, drip, endless, gzip_bomb, redirect, reset, say

LIMIT = 1 << 20
USER = Access(authorization=basic("user", "pass"))
Get = Callable[..., Awaitable[Downloaded | None]]


@pytest.fixture
def get(charts: HelmRepo, web: HttpClient, tmp_path: Path) -> Get:
    async def run(url: str = "", **options: object) -> Downloaded | None:
        wanted = {"access": Access(), "limit": LIMIT} | options
        (tmp_path / "spool").unlink(missing_ok=True)
        async with asyncio.timeout(20):
            return await download(
                web,
                f"{url or charts.repository}/index.yaml",
                tmp_path / "spool",
                **wanted,  # type: ignore[arg-type]
            )

    return run


async def content(downloaded: Downloaded | None) -> bytes:
    assert downloaded is not None
    return await offload(downloaded.path.read_bytes)


async def test_s7_4_the_bytes_are_hashed_as_they_come(charts: HelmRepo, get: Get) -> None:
    found = await get(algorithms=("sha256", "sha512"))
    assert found is not None
    assert await content(found) == charts.index
    assert found.size == len(charts.index)
    assert found.digests["sha256"] == f"sha256:{hashlib.sha256(charts.index).hexdigest()}"
    assert found.digests["sha512"] == f"sha512:{hashlib.sha512(charts.index).hexdigest()}"


async def test_s7_4_compression_is_not_asked_for(charts: HelmRepo, get: Get) -> None:
    await get()
    assert charts.requests[0].headers["Accept-Encoding"] == "identity"
    charts.behave("/charts/*", compressed())
    assert await content(await get()) == charts.index


async def test_F12_an_index_that_has_not_changed_is_not_sent(charts: HelmRepo, get: Get) -> None:
    found = await get()
    assert found is not None
    assert await get(known=found.validators) is None
    charts.package("demo", "1.2.0")
    assert await content(await get(known=found.validators)) == charts.index


async def test_F12_last_modified_will_do(charts: HelmRepo, get: Get) -> None:
    date = "Tue, 02 Jan 2024 03:04:05 GMT"
    charts.behave("/charts/*", say(200, charts.index, Last_Modified=date), times=1)
    found = await get()
    assert found is not None
    charts.behave(lambda request: request.headers.get("If-Modified-Since") == date, say(304))
    assert await get(known=found.validators) is None


async def test_F12_a_server_that_says_unchanged_unasked_is_wrong(charts: HelmRepo, get: Get) -> None:
    charts.behave("/charts/*", say(304))
    with pytest.raises(RemoteError, match="304"):
        await get()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_s7_4_redirects_are_followed_with_credentials_on_the_same_host_only(
    charts: HelmRepo, get: Get, status: int
) -> None:
    with HelmRepo() as other:
        other.package("moved")
        charts.behave("/charts/*", redirect(f"{other.repository}/index.yaml", status), times=1)
        assert await content(await get(access=USER)) == other.index
        assert charts.requests[-1].credentials == "user:pass"
        assert other.requests[-1].credentials == ""
    charts.behave("/old/*", redirect("/charts/index.yaml", status))
    assert await content(await get(f"{charts.url}/old", access=USER)) == charts.index
    assert charts.requests[-1].credentials == "user:pass"


async def test_redirects_end(charts: HelmRepo, get: Get) -> None:
    charts.behave("/charts/*", redirect("/charts/index.yaml"))
    with pytest.raises(RemoteError, match="more than 10 times"):
        await get()


async def test_s11_1_basic_auth_opens_a_private_repository(get: Get) -> None:
    with HelmRepo(private=True) as private:
        private.package()
        with pytest.raises(RemoteError, match="authentication required: the server answered 401"):
            await get(private.repository)
        assert await content(await get(private.repository, access=USER)) == private.index


async def test_s11_1_a_private_authority_and_a_client_certificate(charts: HelmRepo, get: Get) -> None:
    authority = charts.authority
    ca = authority.pem
    assert await content(await get(f"{charts.https_url}/charts", access=Access(tls=TlsIdentity(ca=ca)))) == charts.index
    with pytest.raises(RemoteError, match="certificate"):
        await get(f"{charts.https_url}/charts")
    cert, key = (path.read_bytes() for path in authority.client("somebody"))
    identity = TlsIdentity(ca=ca, cert=cert, key=key)
    assert await content(await get(f"{charts.mtls_url}/charts", access=Access(tls=identity))) == charts.index
    assert charts.requests[-1].client == "somebody"


@pytest.mark.parametrize("form", ["announced", "chunked", "bomb"])
async def test_F01_a_download_ends_at_the_bound(charts: HelmRepo, get: Get, tmp_path: Path, form: str) -> None:
    if form == "announced":
        charts.publish("#" * (LIMIT + 1))
    else:
        charts.behave("/charts/*", endless() if form == "chunked" else gzip_bomb(64 << 20))
    with pytest.raises(RemoteError, match=f"larger than {LIMIT} bytes") as caught:
        await get()
    assert caught.value.rule == "size"
    assert not (tmp_path / "spool").exists()
    charts.troubles.clear()
    charts.publish("#" * LIMIT)
    found = await get()
    assert found is not None
    assert found.size == LIMIT


@pytest.mark.parametrize("trouble", [cut(100), cut(100, "rst"), reset()], ids=["cut", "cut hard", "reset"])
async def test_a_download_that_breaks_leaves_no_file(
    charts: HelmRepo, get: Get, tmp_path: Path, trouble: Callable[..., Awaitable[object]]
) -> None:
    charts.behave("/charts/*", trouble)  # type: ignore[arg-type]
    with pytest.raises(RemoteError):
        await get()
    assert not (tmp_path / "spool").exists()


async def test_a_download_that_is_given_up_leaves_no_file(charts: HelmRepo, get: Get, tmp_path: Path) -> None:
    charts.behave("/charts/*", drip(0.05))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await get()
    assert not (tmp_path / "spool").exists()


async def test_F10_a_busy_server_says_when_to_come_back(charts: HelmRepo, get: Get) -> None:
    charts.behave("/charts/*", say(429, Retry_After="3600"))
    with pytest.raises(BusyError) as caught:
        await get()
    assert caught.value.again_in == 3600
