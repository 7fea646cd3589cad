"""Asking real registries: who is let in, which way it goes, and what a registry that lies is answered."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web as aioweb

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import HttpClient, TlsIdentity
from gitopsd.fetch.proxy import Proxy
from gitopsd.fetch.registry import Descriptor, RegistryAccess, RegistryError, Repository
from gitopsd.fetch.registry import Registry as Client
from gitopsd.fetch.registrymanifest import OCI_INDEX
from tests.certificates import Authority
from tests.flows.git import proxies
from tests.servers import trouble
from tests.servers.http import HttpServer
from tests.servers.loopback import Answer, Ask
from tests.servers.registry import FLUX_CONTENT, HELM_CONTENT, Blob, Registry
from tests.servers.registryfront import RegistryFront
from tests.servers.tokens import TokenServer

PLAIN = RegistryAccess(plain_http=True, timeout=10.0)
USER = RegistryAccess("user", "pass-word", plain_http=True, timeout=10.0)
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server() -> Iterator[Registry]:
    with Registry() as server:
        yield server


@pytest.fixture(scope="module")
def private() -> Iterator[Registry]:
    with Registry(accounts={"user": "pass-word"}) as server:
        server.push("team/app", "v1", {"a": "b"})
        yield server


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[Registry]:
    with Registry(tls=True, authority=authority) as server:
        server.push("team/app", "v1", {"a": "b"})
        yield server


@pytest.fixture
def front(server: Registry, authority: Authority) -> Iterator[RegistryFront]:
    server.push("team/app", "v1", {"a": "b"})
    with RegistryFront(server, authority=authority) as front:
        yield front


@pytest.fixture(scope="module")
def warm() -> None:
    """The first loopback server opens files that stay: a claim of ports, and who cleans up after a crash."""
    HttpServer().close()


@pytest.fixture
async def client(warm: None) -> AsyncIterator[Client]:
    """A client that leaves neither tasks nor connections behind."""
    gc.collect()
    tasks, files = len(asyncio.all_tasks()), _open_files()
    web = HttpClient()
    yield Client(web)
    await web.aclose()
    for _ in range(200):
        if len(asyncio.all_tasks()) <= tasks and _open_files() <= files:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(asyncio.all_tasks()) - tasks} tasks, {_open_files() - files} files are left")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def at(host: str, path: str = "team/app") -> Repository:
    return Repository(host, path)


async def pulled(client: Client, repository: Repository, tag: str, access: RegistryAccess) -> bytes:
    """The first layer of an artifact, asked for as a source does."""
    descriptor = await client.resolve(repository, tag, access)
    manifest = await client.image(repository, descriptor.digest, access)
    return await client.blob(repository, manifest.layers[0], access, limit=LIMIT)


async def refusal(client: Client, repository: Repository, access: RegistryAccess) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        await pulled(client, repository, "v1", access)
    message = caught.value.message
    assert message.isprintable()
    assert "pass-word" not in message
    assert str(caught.value) == message
    return caught.value


# -- content


async def test_what_flux_pushes_is_pulled(client: Client, server: Registry) -> None:
    digest = server.push("team/x", "v1", {"a.yaml": "a: 1\n"}, annotations={"k": "v"})
    repository = at(server.host, "team/x")
    descriptor = await client.resolve(repository, "v1", PLAIN)
    assert descriptor.digest == digest
    manifest = await client.image(repository, digest, PLAIN)
    assert manifest.annotations == {"k": "v"}
    (layer,) = manifest.layers
    assert layer.media_type == FLUX_CONTENT
    assert gzip.decompress(await client.blob(repository, layer, PLAIN, limit=LIMIT))


async def test_what_helm_pushes_is_pulled(client: Client, server: Registry) -> None:
    server.push_chart("charts/demo", "demo", "1.0.0+b1")
    repository = at(server.host, "charts/demo")
    assert await client.tags(repository, PLAIN) == ["1.0.0_b1"]
    manifest = await client.image(repository, "1.0.0_b1", PLAIN)
    assert [layer.media_type for layer in manifest.layers] == [HELM_CONTENT]
    assert manifest.config is not None
    config = json.loads(await client.blob(repository, manifest.config, PLAIN, limit=LIMIT))
    assert (config["name"], config["version"]) == ("demo", "1.0.0+b1")


async def test_a_blob_goes_into_a_file(client: Client, server: Registry, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    server.push("team/big", "v1", layers=[Blob("x/y", content)])
    repository = at(server.host, "team/big")
    layer = (await client.image(repository, "v1", PLAIN)).layers[0]
    await client.blob_to_file(repository, layer, PLAIN, tmp_path / "blob", limit=len(content))
    assert (tmp_path / "blob").read_bytes() == content


async def test_s6_3_an_index_leads_to_linux_amd64(client: Client, server: Registry) -> None:
    entries = []
    for architecture in ("arm64", "amd64"):
        digest = server.push("team/index", architecture, {"architecture": architecture})
        size = len(server.get(f"team/index/manifests/{digest}")[1])
        platform = {"os": "linux", "architecture": architecture}
        kind = "application/vnd.oci.image.manifest.v1+json"
        entries.append({"mediaType": kind, "digest": digest, "size": size, "platform": platform})
    digest = server.push_index("team/index", "v1", entries)
    repository = at(server.host, "team/index")
    assert (await client.resolve(repository, "v1", PLAIN)).digest == digest
    assert (await client.image(repository, digest, PLAIN)).descriptor.digest == entries[1]["digest"]


async def test_more_tags_than_a_page_holds_are_all_found(client: Client, server: Registry) -> None:
    server.push("team/many", "t0", {"a": "b"})
    manifest = Blob("application/vnd.oci.image.manifest.v1+json", server.get("team/many/manifests/t0")[1])
    wanted = ["t0"]
    for number in range(1, 6):
        server.put_manifest("team/many", f"t{number}", manifest)
        wanted.append(f"t{number}")
    with RegistryFront(server) as front:
        # A registry that gives two at a time, whatever is asked for; its links are the real one's.
        async def small_pages(request: aioweb.Request, ask: Ask) -> Answer:
            last = request.query.get("last", "")
            path = f"/v2/team/many/tags/list?n=2&last={last}"
            return await asyncio.to_thread(front._passed_on, "GET", path, {})

        front.behave("*/tags/list", small_pages)
        assert await client.tags(at(front.host(), "team/many"), PLAIN) == wanted
        assert sum("tags/list" in seen.path for seen in front.requests) >= 3


async def test_referrers_are_found_by_the_api_or_by_their_tag(client: Client, server: Registry) -> None:
    digest = server.push("team/signed", "v1", {"a": "b"})
    repository = at(server.host, "team/signed")
    assert await client.referrers(repository, digest, PLAIN) == []
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest,
        "size": len(server.get(f"team/signed/manifests/{digest}")[1]),
        "artifactType": "application/x",
    }
    server.push_index("team/signed", digest.replace(":", "-"), [entry])
    found = await client.referrers(repository, digest, PLAIN, "application/x")
    assert [one.digest for one in found] == [digest]
    assert await client.referrers(repository, digest, PLAIN, "application/y") == []
    assert (await client.manifest(repository, digest.replace(":", "-"), PLAIN)).descriptor.media_type == OCI_INDEX


# -- who is let in


async def test_basic_authentication(client: Client, private: Registry) -> None:
    repository = at(private.host)
    assert await pulled(client, repository, "v1", USER)
    assert await client.tags(repository, USER) == ["v1"]
    for access in (PLAIN, RegistryAccess("user", "wrong", plain_http=True), RegistryAccess("x", "y", plain_http=True)):
        error = await refusal(client, repository, access)
        assert isinstance(error, RegistryError)
        assert error.status == 401
    with pytest.raises(RegistryError, match="UNAUTHORIZED: authentication required"):
        await client.tags(repository, PLAIN)


@pytest.fixture(scope="module")
def tokens(authority: Authority) -> Iterator[TokenServer]:
    with TokenServer({"user": "pass-word"}, authority=authority) as tokens:
        tokens.identity_tokens["identity-token"] = "user"
        yield tokens


@pytest.fixture(scope="module")
def guarded(tokens: TokenServer) -> Iterator[Registry]:
    with Registry(tokens=tokens) as server:
        server.push("team/app", "v1", {"a": "b"})
        server.push("public/app", "v1", {"a": "b"})
        yield server


async def test_a_token_server_gives_tokens_for_passwords_and_to_nobody_in_particular(
    client: Client, guarded: Registry, tokens: TokenServer
) -> None:
    tokens.forget()
    private, public = at(guarded.host), at(guarded.host, "public/app")
    assert await pulled(client, private, "v1", USER)
    assert await pulled(client, public, "v1", PLAIN)
    assert await pulled(client, private, "v1", USER)
    asked = [(seen.method, seen.query, seen.credentials) for seen in tokens.requests]
    assert asked == [
        ("GET", f"service={tokens.service}&scope=repository:team/app:pull", "user:pass-word"),
        ("GET", f"service={tokens.service}&scope=repository:public/app:pull", ""),
    ]
    error = await refusal(client, private, PLAIN)
    assert isinstance(error, RegistryError)
    assert error.status == 401
    error = await refusal(client, private, RegistryAccess("user", "wrong", plain_http=True))
    assert error.message.endswith("UNAUTHORIZED: incorrect username or password")


async def test_an_identity_token_is_exchanged(client: Client, guarded: Registry, tokens: TokenServer) -> None:
    tokens.forget()
    access = RegistryAccess("<token>", "identity-token", plain_http=True)
    assert await pulled(client, at(guarded.host), "v1", access)
    assert [seen.method for seen in tokens.requests] == ["POST"]
    wrong = RegistryAccess("<token>", "another-token", plain_http=True)
    error = await refusal(client, at(guarded.host), wrong)
    assert "invalid_grant: unknown identity token" in error.message
    assert "another-token" not in error.message


async def test_a_registry_token_is_sent_as_it_is(client: Client, guarded: Registry, tokens: TokenServer) -> None:
    token = tokens.issue("user", "repository:team/app:pull")
    tokens.forget()
    assert await pulled(client, at(guarded.host), "v1", RegistryAccess(token=token, plain_http=True))
    assert not tokens.requests


# -- the way there


def trusting(authority: Authority, **more: bytes) -> RegistryAccess:
    return RegistryAccess(tls=TlsIdentity(ca=authority.pem, **more), timeout=10.0)


async def test_s11_1_a_ca_is_trusted_and_nothing_else(client: Client, secure: Registry, authority: Authority) -> None:
    assert await pulled(client, at(secure.host), "v1", trusting(authority))
    error = await refusal(client, at(secure.host), RegistryAccess(timeout=10.0))
    assert "bad certificate" in error.message


async def test_s13_tls_is_not_verified_only_when_insecure(client: Client, secure: Registry, tmp_path: Path) -> None:
    blind = RegistryAccess(tls=TlsIdentity(insecure=True), plain_http=True, timeout=10.0)
    assert await pulled(client, at(secure.host), "v1", blind)
    stranger = Authority(tmp_path / "stranger", name="stranger")
    wrong = RegistryAccess(tls=TlsIdentity(ca=stranger.pem), plain_http=True, timeout=10.0)
    error = await refusal(client, at(secure.host), wrong)
    assert "bad certificate" in error.message


async def test_s13_plain_http_is_spoken_only_when_insecure(client: Client, server: Registry) -> None:
    server.push("team/app", "v1", {"a": "b"})
    assert await pulled(client, at(server.host), "v1", PLAIN)
    error = await refusal(client, at(server.host), RegistryAccess(timeout=10.0))
    assert "TLS failed" in error.message


async def test_s11_1_a_client_certificate_is_shown(client: Client, front: RegistryFront, authority: Authority) -> None:
    cert, key = (path.read_bytes() for path in authority.client("puller"))
    assert await pulled(client, at(front.host("mtls")), "v1", trusting(authority, cert=cert, key=key))
    assert {seen.client for seen in front.requests} == {"puller"}
    await refusal(client, at(front.host("mtls")), trusting(authority))


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("login", ["", "me:proxy-word"])
async def test_s11_1_registry_and_token_server_are_asked_through_the_proxy(
    client: Client, guarded: Registry, tokens: TokenServer, kind: str, login: str
) -> None:
    async with proxies.proxy(kind, login) as proxy:
        user, _, password = login.partition(":")
        way = Proxy(kind, "127.0.0.1", proxy.port, user, password)
        access = RegistryAccess("user", "pass-word", plain_http=True, proxy=way, timeout=10.0)
        assert await pulled(client, at(guarded.host), "v1", access)
        asked = " ".join(proxy.targets)
        assert guarded.host in asked
        assert tokens.url.partition("//")[2] in asked


async def test_a_proxy_that_refuses_is_told(client: Client, guarded: Registry) -> None:
    async with proxies.proxy("http", "me:proxy-word") as proxy:
        access = RegistryAccess(plain_http=True, proxy=Proxy("http", "127.0.0.1", proxy.port, "me", "wrong-word"))
        error = await refusal(client, at(guarded.host), access)
        assert "wrong-word" not in error.message


# -- F14: registries that lie


async def test_F14_a_blob_elsewhere_is_fetched_without_credentials(
    client: Client, front: RegistryFront, authority: Authority
) -> None:
    layer = (await client.image(at(front.host()), "v1", PLAIN)).layers[0]
    front.protect("/v2/", basic=("user", "pass-word"))
    cert, key = (path.read_bytes() for path in authority.client("puller"))
    with HttpServer(authority=authority) as elsewhere:
        content = front.registry.get(f"team/app/blobs/{layer.digest}")[1]
        elsewhere.serve({"store/blob": content})
        front.behave("*/blobs/*", trouble.redirect(f"{elsewhere.https_url}/store/blob?signature=x", 307))
        tls = TlsIdentity(ca=authority.pem, cert=cert, key=key)
        access = RegistryAccess("user", "pass-word", tls=tls, timeout=10.0)
        assert await client.blob(at(front.host("mtls")), layer, access, limit=LIMIT) == content
        (seen,) = elsewhere.requests
        assert (seen.path, seen.credentials, seen.client) == ("/store/blob", "", "")


async def test_F14_a_blob_is_not_fetched_over_http_when_the_registry_speaks_https(
    client: Client, front: RegistryFront, authority: Authority
) -> None:
    with HttpServer() as elsewhere:
        front.behave("*/blobs/*", trouble.redirect(f"{elsewhere.url}/blob"))
        error = await refusal(client, at(front.host("https")), trusting(authority))
        assert error.rule == "redirect"
        assert not elsewhere.requests


async def test_F14_a_token_goes_to_the_realm_and_to_the_registry_only(
    client: Client, front: RegistryFront, tokens: TokenServer, authority: Authority
) -> None:
    """The realm is on another host; the registry then sends to a third for its blobs."""
    challenge = f'Bearer realm="{tokens.https_url}/token",service="{tokens.service}"'

    async def wants_token(request: aioweb.Request, ask: Ask) -> Answer:
        if request.headers.get("Authorization", "").startswith("Bearer "):
            return await ask()
        return Answer(401, {"WWW-Authenticate": challenge})

    tokens.forget()
    with HttpServer(authority=authority) as third:
        front.behave("/v2/*", wants_token)
        front.behave("*/blobs/*", trouble.redirect(f"{third.https_url}/x"))
        access = RegistryAccess("user", "pass-word", tls=TlsIdentity(ca=authority.pem), timeout=10.0)
        await refusal(client, at(front.host("https")), access)
        assert [seen.credentials for seen in tokens.requests] == ["user:pass-word"]
        assert not [seen for seen in front.requests if "pass-word" in seen.credentials]
        assert [seen.credentials for seen in third.requests] == [""]


async def test_F14_a_password_does_not_follow_a_redirect_of_the_realm(
    client: Client, front: RegistryFront, tokens: TokenServer, authority: Authority
) -> None:
    tokens.forget()
    challenge = {"WWW-Authenticate": f'Bearer realm="{tokens.https_url}/token"'}
    front.behave("/v2/*", trouble.say(401, WWW_Authenticate=challenge["WWW-Authenticate"]))
    with HttpServer(authority=authority) as evil:
        moved = tokens.behave("/token", trouble.redirect(f"{evil.https_url}/token", 307))
        try:
            tls = TlsIdentity(ca=authority.pem)
            await refusal(client, at(front.host("https")), RegistryAccess("user", "pass-word", tls=tls))
            await refusal(client, at(front.host("https")), RegistryAccess("<token>", "pass-word-2", tls=tls))
        finally:
            moved.remove()
        assert [(seen.method, seen.credentials, seen.body) for seen in evil.requests] == [("GET", "", b"")]


@pytest.mark.parametrize("pattern", ["/v2/", "*/manifests/*", "*/blobs/*"])
async def test_F14_where_a_registry_redirects_to_nobody_may_ask_for_a_password(
    client: Client, front: RegistryFront, tokens: TokenServer, authority: Authority, pattern: str
) -> None:
    tokens.forget()
    with HttpServer(authority=authority) as evil:
        for challenge in (f'Bearer realm="{tokens.https_url}/token"', 'Basic realm="x"'):
            evil.behave("*", trouble.say(401, WWW_Authenticate=challenge))
            moved = front.behave(pattern, trouble.redirect(f"{evil.https_url}/x", 307))
            tls = TlsIdentity(ca=authority.pem)
            access = RegistryAccess("user", "pass-word", tls=tls, timeout=10.0)
            if pattern == "/v2/":
                assert await pulled(client, at(front.host("https")), "v1", access)
            else:
                await refusal(client, at(front.host("https")), access)
            moved.remove()
        assert evil.requests
        assert {seen.credentials for seen in evil.requests} == {""}
        assert not tokens.requests


async def test_F14_a_realm_over_http_gets_no_password_of_a_registry_with_tls(
    client: Client, front: RegistryFront, tokens: TokenServer, authority: Authority
) -> None:
    tokens.forget()
    front.behave("/v2/*", trouble.say(401, WWW_Authenticate=f'Bearer realm="{tokens.url}/token"'))
    access = RegistryAccess("user", "pass-word", tls=TlsIdentity(ca=authority.pem), timeout=10.0)
    error = await refusal(client, at(front.host("https")), access)
    assert error.message == "the registry speaks https, but sends to a token server over http"
    assert not tokens.requests


async def test_F14_a_manifest_of_100_mib_is_not_read(client: Client, front: RegistryFront) -> None:
    sent = 0

    async def endless(request: aioweb.Request, ask: Ask) -> Answer:
        async def body():  # type: ignore[no-untyped-def]
            nonlocal sent
            for _ in range(1600):
                sent += 1 << 16
                yield b" " * (1 << 16)

        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        return Answer(200, headers, body())

    front.behave("*/manifests/*", endless)
    error = await refusal(client, at(front.host()), PLAIN)
    assert error.message == "the manifest is larger than 4194304 bytes"
    assert sent < 64 << 20


async def test_F14_a_manifest_of_10000_layers_is_refused(client: Client, server: Registry) -> None:
    blob = Blob("text/plain", b"x")
    server.put_blob("team/layers", blob)
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob.descriptor,
        "layers": [blob.descriptor] * 10_000,
    }
    server.put_manifest("team/layers", "v1", Blob(str(document["mediaType"]), json.dumps(document).encode()))
    error = await refusal(client, at(server.host, "team/layers"), PLAIN)
    assert error.message == "the manifest lists more than 1000 layers"


@pytest.mark.parametrize("what", ["manifests", "blobs"])
async def test_F14_content_with_another_digest_is_refused(client: Client, front: RegistryFront, what: str) -> None:
    async def changed(request: aioweb.Request, ask: Ask) -> Answer:
        answer = await ask()
        body = await answer.read()
        answer.body = body[:-1] + bytes([body[-1] ^ 1])
        return answer

    front.behave(f"*/{what}/sha256*", changed)
    error = await refusal(client, at(front.host()), PLAIN)
    assert error.rule == "digest"


async def test_F14_a_config_with_another_digest_is_refused(client: Client, front: RegistryFront) -> None:
    manifest = await client.image(at(front.host()), "v1", PLAIN)
    assert manifest.config is not None
    front.behave(f"*/blobs/{manifest.config.digest}", trouble.say(200, b"{}" + b" "))
    with pytest.raises(RemoteError, match="larger than 2 bytes"):
        await client.blob(at(front.host()), manifest.config, PLAIN, limit=LIMIT)
    front.behave(f"*/blobs/{manifest.config.digest}", trouble.say(200, b"[]"))
    with pytest.raises(RemoteError, match="does not have the digest"):
        await client.blob(at(front.host()), manifest.config, PLAIN, limit=LIMIT)


async def test_F14_a_tag_that_moves_while_it_is_pulled_mixes_nothing(client: Client, front: RegistryFront) -> None:
    repository = at(front.host(), "team/moving")
    front.registry.push("team/moving", "v1", {"which": "old"})
    old = await client.resolve(repository, "v1", PLAIN)
    front.registry.push("team/moving", "v1", {"which": "new"})
    manifest = await client.image(repository, old.digest, PLAIN)
    content = gzip.decompress(await client.blob(repository, manifest.layers[0], PLAIN, limit=LIMIT))
    assert b"old" in content
    assert (await client.resolve(repository, "v1", PLAIN)).digest != old.digest


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (trouble.login_page(), "unsupported media type of the manifest: 'text/html'"),
        (trouble.say(500, "<html>"), "unexpected status code 500 Internal Server Error"),
        (trouble.say(429, '{"errors":[{"code":"TOOMANYREQUESTS"}]}'), "429 Too Many Requests"),
        (trouble.reset(), "cannot talk to"),
        (trouble.redirect(lambda request: str(request.url)), "redirects more than 10 times"),
    ],
    ids=["login page", "500", "429", "reset", "redirects"],
)
async def test_a_registry_in_trouble_is_told(client: Client, front: RegistryFront, rule: object, text: str) -> None:
    front.behave("*/manifests/*", rule)  # type: ignore[arg-type]
    assert text in (await refusal(client, at(front.host()), PLAIN)).message


async def test_s15_pain_13_a_registry_that_hangs_is_given_up(
    client: Client, front: RegistryFront, tmp_path: Path
) -> None:
    layer = Descriptor("", "sha256:" + "0" * 64, 10)
    front.behave("*/blobs/*", trouble.never())
    access = RegistryAccess(plain_http=True, timeout=0.3)
    with pytest.raises(RemoteError, match="no complete answer from"):
        await client.blob_to_file(at(front.host()), layer, access, tmp_path / "x", limit=10)
    assert not list(tmp_path.iterdir())


async def test_s15_pain_2_few_connections_and_requests_are_made(client: Client, front: RegistryFront) -> None:
    for _ in range(3):
        await asyncio.gather(*(client.resolve(at(front.host()), "v1", PLAIN) for _ in range(10)))
    lines = [f"{seen.method} {seen.path}" for seen in front.requests]
    assert lines == ["GET /v2/", *["HEAD /v2/team/app/manifests/v1"] * 3]
