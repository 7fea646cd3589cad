"""Git over HTTP: credentials, certificates, redirects, proxies, and servers that misbehave (hostile-inputs.md A)."""

from __future__ import annotations

import asyncio
import time

import pytest

from gitopsd.fetch.auth import GitAuth, git_auth
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from tests.certificates import Authority
from tests.flows.git.conftest import refused_inputs
from tests.flows.git.proxies import proxy, silent
from tests.packs import BLOB, Item, pack
from tests.processes import free_port
from tests.servers import trouble
from tests.servers.git import FLUSH, GitServer, advertisement, pkt

MAIN = GitRef("main")
RESULT = "application/x-git-upload-pack-result"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"


def at(url: str, data: dict[str, bytes] | None = None, *, timeout: float = 20.0, **more) -> GitRequest:
    return GitRequest(url, MAIN, git_auth(url, data, **more), timeout=timeout)


@pytest.fixture
def sha(git_server: GitServer) -> str:
    return git_server.repository("app").commit({"a.yaml": "a: 1\n"}, tag="v1")


async def works(fetcher: GitFetcher, request: GitRequest, sha: str) -> None:
    assert await fetcher.resolve(request) == f"main@sha1:{sha}"
    found = await fetcher.fetch(request, f"main@sha1:{sha}")
    assert dict(found.tree) == {"a.yaml": b"a: 1\n"}


# Credentials


async def test_basic_and_bearer_credentials_are_used(git_server, fetcher, sha):
    await works(fetcher, at(f"{git_server.url}/private/app.git", {"username": b"user", "password": b"pass"}), sha)
    await works(fetcher, at(f"{git_server.url}/bearer/app.git", {"bearerToken": b"token"}), sha)
    await works(fetcher, at(f"{git_server.url.replace('://', '://user:pass@')}/private/app.git"), sha)


@pytest.mark.parametrize("place", ["private", "denied"])
async def test_A07_refused_credentials_are_an_operation_that_failed(git_server, refusal, sha, place):
    """goldens/source/git-auth-failure"""
    secret = {"username": b"user", "password": b"CNRY-A07-password-0123456789abcdef"}
    reason, message = await refusal(at(f"{git_server.url}/{place}/app.git", secret))
    assert reason == "GitOperationFailed"
    assert message == (
        f"failed to checkout and determine revision: unable to clone '{git_server.url}/{place}/app.git': "
        "authentication required: the server answered 401"
    )
    with git_server.behave("*", trouble.say(403)):
        assert "authorization failed: the server answered 403" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A11_a_password_in_the_address_is_used_and_never_shown(git_server, fetcher, refusal, sha):
    address = f"{git_server.url.replace('://', '://user:CNRY-A11-secret@')}/private/app.git"
    message = (await refusal(at(address)))[1]
    assert "CNRY" not in message
    assert "'http://user:***@127.0.0.1:" in message
    assert git_server.requests[-1].credentials == "user:CNRY-A11-secret"


async def test_A11_a_secret_that_the_server_echoes_is_masked(git_server, refusal, sha):
    token = "CNRY-A11-token-" + "0" * 32
    echo = pkt(f"ERR bad token {token}, \x1b[1mreally\x1b[0m " + "x" * 2000)
    with git_server.behave("*", trouble.say(200, echo, ADVERTISEMENT)):
        message = (await refusal(at(f"{git_server.url}/app.git", {"bearerToken": token.encode()})))[1]
    assert token not in message
    assert "bad token ***, [1mreally[0m xxx" in message
    assert len(message) < 1500


# Certificates


async def test_a_private_authority_and_a_client_certificate_are_used(git_server, fetcher, refusal, sha):
    authority = git_server.authority
    cert, key = (path.read_bytes() for path in authority.client("the daemon"))
    await works(fetcher, at(f"{git_server.https_url}/app.git", {"ca.crt": authority.pem}), sha)
    identity = {"caFile": authority.pem, "tls.crt": cert, "tls.key": key}
    await works(fetcher, at(f"{git_server.mtls_url}/app.git", identity), sha)
    assert git_server.requests[-1].client == "the daemon"
    reason, message = await refusal(at(f"{git_server.mtls_url}/app.git", {"ca.crt": authority.pem}))
    assert reason == "GitOperationFailed"
    assert "/proc" not in message


async def test_A19_a_certificate_that_cannot_be_verified_is_refused(git_server, refusal, sha, tmp_path):
    stranger = Authority(tmp_path / "stranger")
    for data in (None, {"ca.crt": stranger.pem}):
        reason, message = await refusal(at(f"{git_server.https_url}/app.git", data))
        assert reason == "GitOperationFailed"
        assert "bad certificate: " in message
        assert ".c:" not in message
    assert git_server.requests == []


async def test_A19_a_wrong_host_name_is_refused(refusal, tmp_path, fetcher):
    authority = Authority(tmp_path / "ca")
    cert, key = authority.server("elsewhere", ["elsewhere.example.com"])
    context = authority.server_context("unused")
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    reason, message = await refusal(at(f"https://127.0.0.1:{port}/a.git", {"ca.crt": authority.pem}))
    server.close()
    await server.wait_closed()
    assert reason == "GitOperationFailed"
    assert "bad certificate: " in message


async def test_A19_material_that_cannot_be_used_is_an_authentication_failure(git_server, refusal, sha):
    authority = git_server.authority
    cert = authority.client("one")[0].read_bytes()
    other = authority.client("two")[1].read_bytes()
    for data, text in (
        ({"ca.crt": b"not pem"}, "'ca.crt' holds no PEM certificate"),
        ({"ca.crt": authority.pem, "tls.crt": cert, "tls.key": other}, "'tls.key' does not belong to 'tls.crt'"),
    ):
        assert await refusal(at(f"{git_server.https_url}/app.git", data)) == (
            "AuthenticationFailed",
            f"failed to configure authentication options: invalid 'https' auth option: {text}",
        )


# Servers that are not there, slow, or gone in the middle


async def test_A01_a_server_that_is_not_there_is_named(refusal):
    port = free_port()
    reason, message = await refusal(at(f"http://127.0.0.1:{port}/a.git"))
    assert (reason, message[-18:]) == ("GitOperationFailed", "connection refused")
    assert (await refusal(at("http://gitopsd-does-not-exist.invalid/a.git")))[1].endswith("no such host")


async def test_A02_a_server_that_never_answers_is_given_up_at_the_timeout(refusal):
    async with silent() as port:
        reason, message = await refusal(at(f"http://127.0.0.1:{port}/a.git", timeout=0.3))
        assert (reason, message[-22:]) == ("GitOperationFailed", " no answer within 0.3s")
        assert "no answer within 0.3s" in (await refusal(at(f"https://127.0.0.1:{port}/a.git", timeout=0.3)))[1]


@pytest.mark.parametrize("path", ["*/info/refs", "*/git-upload-pack"])
async def test_A03_an_answer_in_drops_is_given_up_at_the_timeout(git_server, refusal, sha, path):
    """Each byte comes in time; the whole does not."""
    with git_server.behave(path, trouble.drip(0.05)):
        assert "no answer within 0.4s" in (await refusal(at(f"{git_server.url}/app.git", timeout=0.4)))[1]


async def test_A03_cancelling_the_caller_closes_the_socket_at_once(git_server, fetcher, sha):
    with git_server.behave("*", trouble.never()):
        task = asyncio.create_task(fetcher.fetch(at(f"{git_server.url}/app.git")))
        await asyncio.to_thread(git_server.wait_for, lambda requests: requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # nothing_left_behind finds a socket or a task that stays


@pytest.mark.parametrize("ending", ["fin", "rst", "half"])
@pytest.mark.parametrize(
    ("path", "after"), [("*/info/refs", 40), ("*/git-upload-pack", -1), ("*/git-upload-pack", -30)]
)
async def test_A04_A05_a_connection_that_ends_early_is_an_error_and_the_next_try_works(
    git_server, fetcher, refusal, sha, ending, path, after
):
    before = time.process_time()
    with git_server.behave(path, trouble.cut(after, ending)):
        reason, _ = await refusal(at(f"{git_server.url}/app.git", timeout=1.0))
    assert reason == "GitOperationFailed"
    assert time.process_time() - before < 1.0  # no busy loop
    await works(fetcher, at(f"{git_server.url}/app.git"), sha)


async def test_A06_a_page_for_people_is_not_taken_for_git(git_server, refusal, sha):
    with git_server.behave("*", trouble.login_page()):
        reason, message = await refusal(at(f"{git_server.url}/app.git"))
    assert reason == "GitOperationFailed"
    assert "the server answers with content type 'text/html'" in message
    assert "sign in" not in message
    with git_server.behave("*/git-upload-pack", trouble.retyped("text/plain")):
        assert "content type" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A20_an_answer_is_not_read_beyond_the_first_bad_packet(git_server, refusal, sha):
    for noise in (b"-001", b"zzzz" * 100, b"ffff", b"0003"):
        with git_server.behave("*/info/refs", trouble.say(200, noise, ADVERTISEMENT)):
            assert "protocol error" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A21_headers_and_answers_without_end_are_cut_off(git_server, refusal, sha):
    with git_server.behave("*", trouble.huge_headers(1 << 16)):
        assert "cannot talk to" in (await refusal(at(f"{git_server.url}/app.git")))[1]
    with git_server.behave("*", trouble.huge_headers(100, 1000)):
        assert "cannot talk to" in (await refusal(at(f"{git_server.url}/app.git")))[1]
    for chunk in (pkt("capability=x\n") * 1000, pkt("x" * 60000)):
        with git_server.behave("*/info/refs", trouble.endless(pkt("version 2\n") + chunk, ADVERTISEMENT)):
            assert "too many capabilities" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A22_a_million_references_are_not_needed_and_not_read(git_server, fetcher, refusal, sha):
    lines = b"".join(pkt(f"{sha} refs/heads/b{number}\n") for number in range(1000))

    def flood(start: bytes):
        return trouble.endless(start + lines, ADVERTISEMENT)

    before = refused_inputs("duplicate-reference")
    with git_server.behave("*/info/refs", flood(pkt("# service=git-upload-pack\n") + FLUSH)):
        await refusal(at(f"{git_server.url}/app.git"))
    assert refused_inputs("duplicate-reference") > before or refused_inputs("packet") > 0


async def test_A28_a_pack_without_the_wanted_commit_is_refused(git_server, refusal, sha):
    other = pack([Item(BLOB, b"something else")])
    answer = pkt("packfile\n", b"\x01" + other) + FLUSH

    def swap(content: bytes) -> bytes:
        return answer if b"packfile" in content else content

    with git_server.behave("*/git-upload-pack", trouble.altered(swap)):
        assert f"object {sha} is not in the pack" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A28_a_listing_that_lies_about_a_tag_is_refused(git_server, refusal, sha):
    repository = git_server.repository("app")
    repository.tag("v2", sha, annotated=True)
    older = repository.commit({"b": "1"}, branch="other")

    def lie(content: bytes) -> bytes:
        return content.replace(f"peeled:{sha}".encode(), f"peeled:{older}".encode())

    with git_server.behave("*/git-upload-pack", trouble.altered(lie)):
        message = (await refusal(GitRequest(f"{git_server.url}/app.git", GitRef(tag="v2"))))[1]
    assert f"the server listed commit {older} but sent {sha}" in message


async def test_A30_a_flood_of_progress_ends_at_the_timeout_or_the_bound(git_server, refusal, sha):
    flood = pkt("packfile\n") + pkt(b"\x02" + b"x" * 60000)

    async def rule(request, ask):
        answer = await ask()
        content = await answer.read()
        if b"packfile" not in content:
            return answer
        return await trouble.endless(flood[13:], RESULT)(request, ask)

    with git_server.behave("*/git-upload-pack", rule):
        reason, message = await refusal(at(f"{git_server.url}/app.git", timeout=5.0))
    assert reason == "GitOperationFailed"
    assert "protocol error" in message


async def test_A34_another_object_format_is_named(git_server, refusal, sha):
    lines = pkt("version 2\n", "ls-refs\n", "fetch=shallow\n", "object-format=sha256\n") + FLUSH
    with git_server.behave("*/info/refs", trouble.say(200, lines, ADVERTISEMENT)):
        assert "object format 'sha256', only sha1 is supported" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_a_compressed_answer_is_read_although_nobody_asked_for_it(git_server, fetcher, sha):
    with git_server.behave("*", trouble.compressed()):
        await works(fetcher, at(f"{git_server.url}/app.git"), sha)


async def test_a_compressed_answer_is_bounded_by_what_it_becomes(git_server, refusal, sha):
    with git_server.behave("*/info/refs", trouble.gzip_bomb(1 << 28, ADVERTISEMENT)):
        assert "protocol error" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_B01_a_pack_that_is_too_large_is_refused_while_it_comes(git_server, sha):
    small = GitFetcher(max_pack_size=64)
    with pytest.raises(FetchError, match="the pack is larger than 64 bytes"):
        await small.fetch(at(f"{git_server.url}/app.git"))
    await small.aclose()


# Redirects


async def test_A08_a_redirect_to_another_origin_carries_no_credentials(git_server, fetcher, sha):
    with GitServer(authority=git_server.authority) as other:
        there = other.repository("app").commit({"a.yaml": "a: 1\n"})
        cert, key = (path.read_bytes() for path in git_server.authority.client("the daemon"))
        secret = {"username": b"user", "password": b"pass", "ca.crt": git_server.authority.pem}
        identity = {**secret, "tls.crt": cert, "tls.key": key}
        target = f"{other.https_url}/app.git/info/refs?service=git-upload-pack"
        with git_server.behave("/private/*", trouble.redirect(target)):
            await works(fetcher, at(f"{git_server.mtls_url}/private/app.git", identity), there)
        assert next(seen.client for seen in git_server.requests if seen.path.startswith("/private/")) == "the daemon"
        assert other.requests
        for seen in other.requests:
            assert seen.client == ""
            assert not {"Authorization", "Cookie"} & set(seen.headers)


async def test_A08_a_redirect_at_the_same_origin_keeps_credentials_and_is_not_remembered(git_server, fetcher, sha):
    secret = {"username": b"user", "password": b"pass"}
    with git_server.behave(
        "/old/*", trouble.redirect(lambda request: f"/private/app.git/info/refs?{request.query_string}")
    ):
        await works(fetcher, at(f"{git_server.url}/old/app.git", secret), sha)
    assert {seen.path for seen in git_server.requests if seen.method == "POST"} == {"/private/app.git/git-upload-pack"}
    git_server.forget()
    with git_server.behave("/old/*", trouble.say(404)), pytest.raises(FetchError, match="repository not found"):
        await fetcher.resolve(at(f"{git_server.url}/old/app.git", secret))


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("file:///etc/passwd", "cannot be used"),
        ("ssh://git@example.com/a.git/info/refs", "redirects from http to ssh"),
        ("git://example.com/a.git/info/refs", "cannot be used"),
        ("/elsewhere", "something that is no repository|answered 404"),
        ("", "redirects more than 10 times|cannot be used"),
        ("http://[::1/x", "cannot be used"),
    ],
)
async def test_A09_redirects_that_lead_astray_are_refused(git_server, refusal, sha, target, part):
    with git_server.behave("*/info/refs", trouble.redirect(target)):
        message = (await refusal(at(f"{git_server.url}/app.git")))[1]
    assert any(text in message for text in part.split("|"))


async def test_A09_a_redirect_to_an_unprotected_connection_is_refused(git_server, refusal, sha):
    target = f"{git_server.url}/app.git/info/refs?service=git-upload-pack"
    before = refused_inputs("redirect")
    with git_server.behave("*/info/refs", trouble.redirect(target)):
        message = (await refusal(at(f"{git_server.https_url}/app.git", {"ca.crt": git_server.authority.pem})))[1]
    assert "the server redirects from https to http" in message
    assert refused_inputs("redirect") == before + 1
    assert {seen.scheme for seen in git_server.requests} == {"https"}


@pytest.mark.parametrize(("hops", "is_followed"), [(10, True), (11, False)])
async def test_A09_ten_hops_are_followed(git_server, fetcher, refusal, sha, hops, is_followed):
    left = [hops]

    async def rule(request, ask):
        if left[0] == 0:
            return await ask()
        left[0] -= 1
        return await trouble.redirect(f"{request.path}?{request.query_string}")(request, ask)

    with git_server.behave("*/info/refs", rule):
        if is_followed:
            assert await fetcher.resolve(at(f"{git_server.url}/app.git")) == f"main@sha1:{sha}"
        else:
            assert "redirects more than 10 times" in (await refusal(at(f"{git_server.url}/app.git")))[1]


async def test_A09_a_request_for_objects_is_not_redirected(git_server, refusal, sha):
    with git_server.behave("*/git-upload-pack", trouble.redirect("/other.git/git-upload-pack", 307)):
        assert "redirects a request that may not be" in (await refusal(at(f"{git_server.url}/app.git")))[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::ffff:127.0.0.1]", "[::1]"])
async def test_A10_redirects_into_private_networks_can_be_forbidden(git_server, sha, host):
    port = git_server.url.rpartition(":")[2]
    careful = GitFetcher(deny_private_redirects=True)
    target = f"http://{host}:{port}/app.git/info/refs?service=git-upload-pack"
    # The address in the spec is the operator's choice, wherever it leads.
    assert await careful.resolve(at(f"{git_server.url}/app.git")) == f"main@sha1:{sha}"
    with (
        git_server.behave("/moved.git/*", trouble.redirect(target)),
        pytest.raises(FetchError, match="leads into a private network"),
    ):
        await careful.resolve(at(f"{git_server.url}/moved.git"))
    await careful.aclose()


# Proxies


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("login", ["", "user:CNRY-proxy-pass"])
async def test_A35_a_proxy_carries_every_request(git_server, fetcher, sha, kind, login):
    authority = {"ca.crt": git_server.authority.pem}
    async with proxy(kind, login) as found:
        name, _, password = login.partition(":")
        data = {"address": found.address, "username": name.encode(), "password": password.encode()}
        await works(fetcher, at(f"{git_server.https_url}/app.git", authority, proxy=data), sha)
        await works(fetcher, at(f"{git_server.url}/app.git", proxy=data), sha)
        await fetcher.aclose()
    assert len(found.targets) >= 2
    assert any(git_server.https_url.rpartition(":")[2] in target for target in found.targets)


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_A35_a_proxy_that_refuses_the_login_is_named_without_it(git_server, fetcher, refusal, sha, kind):
    async with proxy(kind, "user:right") as found:
        data = {"address": found.address, "username": b"user", "password": b"CNRY-wrong-password"}
        for url, tls in ((git_server.url, None), (git_server.https_url, {"ca.crt": git_server.authority.pem})):
            reason, message = await refusal(at(f"{url}/app.git", tls, proxy=data))
            assert reason == "GitOperationFailed"
            assert "proxy" in message
            assert "CNRY" not in message
    assert git_server.requests == []


async def test_A35_a_proxy_that_is_not_there_is_an_error_and_nobody_goes_around_it(git_server, refusal, sha):
    for scheme in ("http", "socks5"):
        data = {"address": f"{scheme}://127.0.0.1:{free_port()}".encode()}
        assert (await refusal(at(f"{git_server.url}/app.git", proxy=data)))[0] == "GitOperationFailed"
    assert git_server.requests == []


async def test_A35_the_proxy_of_an_object_beats_that_of_the_environment(git_server, sha):
    authority = {"ca.crt": git_server.authority.pem}
    async with proxy("http") as own, proxy("http") as common:
        found = GitFetcher(proxies={"https": common.address.decode(), "no": "example.com"})
        data = {"address": own.address}
        await works(found, at(f"{git_server.https_url}/app.git", authority, proxy=data), sha)
        assert (len(own.targets), common.targets) == (1, [])
        # Go does not use a proxy for loopback; any other name goes through it.
        with pytest.raises(FetchError):
            await found.resolve(at("https://git.test:443/app.git", authority))
        assert set(common.targets) == {"CONNECT git.test:443"}
        await found.aclose()


async def test_many_hanging_servers_do_not_hold_up_the_others(git_server, fetcher, sha):
    """hostile-inputs.md T21: waiting takes neither threads nor a place in a pool."""
    async with silent() as port:
        hanging = [
            asyncio.create_task(fetcher.resolve(at(f"http://127.0.0.1:{port}/{number}.git", timeout=30)))
            for number in range(60)
        ]
        await asyncio.sleep(0)
        await works(fetcher, at(f"{git_server.url}/app.git"), sha)
        for task in hanging:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


def test_credentials_have_no_representation():
    assert "pass" not in repr(GitRequest("http://h/a", MAIN, GitAuth(username="user", password="pass")))


def test_the_old_advertisement_of_the_test_server_is_what_git_says():
    """The hand-made answers of these tests begin as real ones do."""
    assert advertisement([("refs/heads/main", "1" * 40)]).startswith(pkt("# service=git-upload-pack\n") + FLUSH)
