"""Asking a registry, answer by answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gitopsd.fetch import registry as registry_module
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.registry import MOST_TAGS, Descriptor, Registry, RegistryAccess, RegistryError, Repository
from gitopsd.fetch.registrymanifest import ACCEPT, DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, digest_of
from gitopsd.fetch.tls import TLSMaterialError
from tests.answering import AnsweringWeb, Asked, Reply, instant_threads
from tests.virtual import run

T = TypeVar("T")

HOST = "https://registry.example"
REPOSITORY = Repository("registry.example", "team/app")
ACCESS = RegistryAccess()
PING = f"GET {HOST}/v2/"
BASE = f"{HOST}/v2/team/app"
BLOB = b"content"
LAYER = Descriptor("text/plain", digest_of(BLOB), len(BLOB))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let threads take no time on a virtual clock."""
    with instant_threads(monkeypatch, "gitopsd.fetch.registry"):
        yield


def manifest(**more: Any) -> bytes:
    return json.dumps({"mediaType": OCI_MANIFEST, "layers": []} | more).encode()


def index(*entries: dict[str, Any], media_type: str = OCI_INDEX) -> bytes:
    return json.dumps({"mediaType": media_type, "manifests": list(entries)}).encode()


def entry(raw: bytes, platform: str = "", **more: Any) -> dict[str, Any]:
    os, _, architecture = platform.partition("/")
    found: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": digest_of(raw), "size": len(raw), **more}
    return found | ({"platform": {"os": os, "architecture": architecture}} if platform else {})


class Fake(AnsweringWeb):
    """A registry that everybody may enter; what is not in `replies` is not there."""

    def __init__(self, **replies: Reply | Callable[[Asked], Any]) -> None:
        super().__init__(self._reply)
        self.replies: dict[str, Any] = {PING: Reply()}
        self.add(replies)

    def add(self, replies: dict[str, Any]) -> None:
        """Replies by `METHOD path below the repository`, or whole lines."""
        for line, reply in replies.items():
            method, _, path = line.partition(" ")
            self.replies[line if "://" in path else f"{method} {BASE}/{path}"] = reply

    def have(self, raw: bytes, tag: str = "", media_type: str = OCI_MANIFEST) -> str:
        """Keep a manifest under its digest and a tag."""
        digest = digest_of(raw)
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest, "Content-Length": str(len(raw))}
        for name in filter(None, (digest, tag)):
            self.add({f"GET manifests/{name}": Reply(200, raw, headers)})
            self.add({f"HEAD manifests/{name}": Reply(200, b"", headers)})
        return digest

    def _reply(self, asked: Asked) -> Any:
        reply = self.replies.get(asked.line, Reply(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}'))
        return reply(asked) if callable(reply) else reply

    def ask(self, work: Callable[[Registry], Awaitable[T]]) -> T:
        """Do some work with a registry."""

        async def scenario() -> T:
            return await work(Registry(self))

        return run(scenario())

    @property
    def paths(self) -> list[str]:
        return [line.replace(f"{BASE}/", "") for line in self.lines if line != PING]


def fails(web: Fake, work: Callable[[Registry], Awaitable[object]]) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        web.ask(work)
    assert caught.value.message.isprintable()
    assert str(caught.value) == caught.value.message
    return caught.value


# -- resolving


def test_s6_3_a_tag_is_resolved_by_a_HEAD() -> None:
    web = Fake()
    digest = web.have(manifest(), "1.0")
    assert web.ask(lambda registry: registry.resolve(REPOSITORY, "1.0", ACCESS)) == Descriptor(
        OCI_MANIFEST, digest, len(manifest())
    )
    assert web.paths == ["HEAD manifests/1.0"]
    assert web.asked[-1].headers["Accept"] == ACCEPT


@pytest.mark.parametrize(
    "head",
    [
        Reply(405),
        Reply(404),
        Reply(500),
        Reply(200),
        Reply(200, b"", {"Docker-Content-Digest": "sha256:nonsense", "Content-Length": "3"}),
        Reply(200, b"", {"Docker-Content-Digest": LAYER.digest, "Content-Type": OCI_MANIFEST}),
        Reply(200, b"", {"Docker-Content-Digest": LAYER.digest, "Content-Length": "3", "Content-Type": "text/html"}),
        Reply(200, b"", {"Docker-Content-Digest": LAYER.digest, "Content-Length": "-3", "Content-Type": OCI_MANIFEST}),
    ],
)
def test_s6_3_without_a_good_answer_to_HEAD_it_asks_by_GET(head: Reply) -> None:
    web = Fake()
    digest = web.have(manifest(), "1.0")
    web.add({"HEAD manifests/1.0": head})
    assert web.ask(lambda registry: registry.resolve(REPOSITORY, "1.0", ACCESS)).digest == digest
    assert web.paths == ["HEAD manifests/1.0", "GET manifests/1.0"]


@pytest.mark.parametrize("status", [401, 403, 429])
def test_who_may_not_ask_does_not_ask_twice(status: int) -> None:
    web = Fake()
    web.add({"HEAD manifests/1.0": Reply(status)})
    error = fails(web, lambda registry: registry.resolve(REPOSITORY, "1.0", ACCESS))
    assert f"unexpected status code {status}" in error.message
    assert isinstance(error, RegistryError)
    assert error.status == status
    assert web.paths == ["HEAD manifests/1.0"]


def test_a_tag_that_is_not_there_is_told_in_the_registrys_words() -> None:
    web = Fake()
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown\\u001b[31m","detail":{"a":1}}]}'
    web.add({"GET manifests/9": Reply(404, body)})
    error = fails(web, lambda registry: registry.resolve(REPOSITORY, "9", ACCESS))
    assert error.message == ("GET registry.example/v2/team/app/manifests/9: MANIFEST_UNKNOWN: manifest unknown[31m")


@pytest.mark.parametrize("reference", ["a/b", "../x", "", "a b", "sha256:x"])
def test_a_reference_that_is_none_is_not_asked_for(reference: str) -> None:
    web = Fake()
    fails(web, lambda registry: registry.manifest(REPOSITORY, reference, ACCESS))
    assert not web.asked


# -- manifests


def test_F14_a_manifest_is_read_within_its_bound() -> None:
    web = Fake()
    padding = " " * ((4 << 20) - len(manifest(x="")))
    fitting, larger = manifest(x=padding), manifest(x=padding + " ")
    assert web.ask(lambda r: r.manifest(REPOSITORY, web.have(fitting), ACCESS)).raw == fitting
    error = fails(web, lambda r: r.manifest(REPOSITORY, web.have(larger), ACCESS))
    assert error.message == "the manifest is larger than 4194304 bytes"
    assert error.rule == "size"


@pytest.mark.parametrize("by", ["digest", "tag"])
def test_F14_a_manifest_that_is_not_what_its_digest_says_is_refused(by: str) -> None:
    web = Fake()
    digest = web.have(manifest(), "1.0")
    name = digest if by == "digest" else "1.0"
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest}
    web.add({f"GET manifests/{name}": Reply(200, manifest(x=1), headers)})
    error = fails(web, lambda registry: registry.manifest(REPOSITORY, name, ACCESS))
    assert error.message == f"the manifest does not have the digest {digest}"


def test_a_registry_need_not_tell_the_digest() -> None:
    web = Fake()
    web.add({"GET manifests/1.0": Reply(200, manifest(), {"Content-Type": OCI_MANIFEST})})
    found = web.ask(lambda registry: registry.manifest(REPOSITORY, "1.0", ACCESS))
    assert found.descriptor.digest == digest_of(manifest())


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_s6_3_an_index_resolves_to_linux_amd64(media_type: str) -> None:
    web = Fake()
    wanted, other = manifest(x=1), manifest(x=2)
    web.have(wanted)
    top = index(entry(other, "linux/arm64"), entry(wanted, "linux/amd64"), media_type=media_type)
    web.have(top, "1.0", media_type)
    found = web.ask(lambda registry: registry.image(REPOSITORY, "1.0", ACCESS))
    assert found.raw == wanted


def test_an_entry_without_platform_and_an_index_in_an_index_will_do() -> None:
    web = Fake()
    web.have(manifest())
    inner = index(entry(manifest()))
    web.have(inner, media_type=OCI_INDEX)
    web.have(index(entry(inner, "linux/amd64", mediaType=OCI_INDEX)), "1.0", OCI_INDEX)
    assert web.ask(lambda registry: registry.image(REPOSITORY, "1.0", ACCESS)).raw == manifest()


def test_s6_3_an_index_without_linux_amd64_is_told() -> None:
    web = Fake()
    digest = web.have(index(entry(manifest(), "linux/arm64")), "1.0", OCI_INDEX)
    error = fails(web, lambda registry: registry.image(REPOSITORY, "1.0", ACCESS))
    assert error.message == f"no child with platform linux/amd64 in index registry.example/team/app@{digest}"


def test_indexes_do_not_lead_on_for_ever() -> None:
    web = Fake()
    raw = manifest()
    web.have(raw)
    for _ in range(5):
        raw = index(entry(raw))
        web.have(raw, media_type=OCI_INDEX)
    error = fails(web, lambda registry: registry.image(REPOSITORY, digest_of(raw), ACCESS))
    assert error.rule == "index-depth"


# -- blobs


def test_a_blob_is_what_its_digest_says() -> None:
    web = Fake()
    web.add({f"GET blobs/{LAYER.digest}": Reply(200, BLOB)})
    assert web.ask(lambda registry: registry.blob(REPOSITORY, LAYER, ACCESS, limit=7)) == BLOB


@pytest.mark.parametrize(
    ("content", "size", "text"),
    [
        (b"CONTENT", 7, f"the blob does not have the digest {LAYER.digest}"),
        (b"content", 8, f"the blob does not have the digest {LAYER.digest}"),
        (b"content", 6, "the blob is larger than 6 bytes"),
        (b"", 7, f"the blob does not have the digest {LAYER.digest}"),
        (b"content", 11, "the blob is larger than 10 bytes"),
    ],
)
@pytest.mark.parametrize("to_file", [False, True])
def test_F14_a_blob_that_is_not_is_refused(content: bytes, size: int, text: str, to_file: bool, tmp_path: Path) -> None:
    web = Fake()
    web.add({f"GET blobs/{LAYER.digest}": Reply(200, content)})
    claimed = Descriptor("", LAYER.digest, size)

    async def work(registry: Registry) -> None:
        if to_file:
            await registry.blob_to_file(REPOSITORY, claimed, ACCESS, tmp_path / "blob", limit=10)
        else:
            await registry.blob(REPOSITORY, claimed, ACCESS, limit=10)

    assert fails(web, work).message == text
    assert list(tmp_path.iterdir()) == []


def test_a_digest_that_is_none_is_not_asked_for() -> None:
    web = Fake()
    for digest in ("sha256:../../../x", "md5:" + "0" * 32, ""):
        error = fails(web, lambda r, digest=digest: r.blob(REPOSITORY, Descriptor("", digest, 1), ACCESS, limit=9))
        assert error.message == f"'{digest}' is not a digest"
    assert not web.asked


def test_what_a_registry_repeats_of_our_secrets_is_masked() -> None:
    web = Fake()
    web.add({"GET tags/list?n=1000": Reply(400, b'{"errors":[{"code":"X","message":"bad secret-word, bad"}]}')})
    error = fails(web, lambda registry: registry.tags(REPOSITORY, RegistryAccess("user", "secret-word")))
    assert error.message == "GET registry.example/v2/team/app/tags/list: X: bad ***, bad"


def test_a_blob_goes_into_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    descriptor = Descriptor("", digest_of(content), len(content))
    web = Fake()
    web.add({f"GET blobs/{descriptor.digest}": Reply(200, content)})
    path = tmp_path / "blob"
    web.ask(lambda registry: registry.blob_to_file(REPOSITORY, descriptor, ACCESS, path, limit=len(content)))
    assert path.read_bytes() == content


def test_a_blob_that_is_not_there_is_told(tmp_path: Path) -> None:
    text = f"GET registry.example/v2/team/app/blobs/{LAYER.digest}: NAME_UNKNOWN: unknown"
    assert fails(Fake(), lambda registry: registry.blob(REPOSITORY, LAYER, ACCESS, limit=10)).message == text
    path = tmp_path / "blob"
    error = fails(Fake(), lambda registry: registry.blob_to_file(REPOSITORY, LAYER, ACCESS, path, limit=10))
    assert error.message == text
    assert not path.exists()


# -- tags


def tags(*names: str, link: str = "") -> Reply:
    headers = {"Link": link} if link else {}
    return Reply(200, json.dumps({"name": "team/app", "tags": names}).encode(), headers)


def test_tags_come_page_by_page() -> None:
    web = Fake()
    web.add(
        {
            "GET tags/list?n=1000": tags("a", "b", link='</v2/team/app/tags/list?last=b&n=2>; rel="next"'),
            "GET tags/list?last=b&n=2": tags("b", "c", link=f"<{HOST}/v2/team/app/tags/list?last=c>;rel=next"),
            "GET tags/list?last=c": tags(
                "d", "x y", link='<?last=e,f>; rel="prev", </v2/team/app/tags/list?last=g,h>; rel = next'
            ),
            "GET tags/list?last=g,h": tags("e", link='<?last=e>; rel="prev"'),
        }
    )
    assert web.ask(lambda registry: registry.tags(REPOSITORY, ACCESS)) == ["a", "b", "c", "d", "e"]


def test_a_repository_may_have_no_tags() -> None:
    web = Fake()
    web.add({"GET tags/list?n=1000": Reply(200, b'{"name":"x","tags":null}')})
    assert web.ask(lambda registry: registry.tags(REPOSITORY, ACCESS)) == []


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (tags("a", link='</v2/team/app/tags/list?n=1000>; rel="next"'), "the registry's list does not end"),
        (tags("a", link='<https://evil.example/x>; rel="next"'), "the registry's list goes on at another server"),
        (tags("a", link='<http://registry.example/x>; rel="next"'), "the registry's list goes on at another server"),
        (tags("a", link='<ftp://x/>; rel="next"'), "the registry's list goes on at an address that cannot be used"),
        (tags(*(str(n) for n in range(MOST_TAGS + 1))), "the repository has more than 100000 tags"),
        (Reply(200, b"<html>"), "the registry's list cannot be read"),
        (Reply(200, b'{"tags": [1]}'), "the registry's list cannot be read"),
        (Reply(404), "GET registry.example/v2/team/app/tags/list: unexpected status code 404 Not Found"),
        (Reply(200, b" " * ((8 << 20) + 1)), "the list is larger than 8388608 bytes"),
    ],
)
def test_F14_lists_are_bounded_and_stay_with_their_server(reply: Reply, text: str) -> None:
    web = Fake()
    web.add({"GET tags/list?n=1000": reply})
    assert text in fails(web, lambda registry: registry.tags(REPOSITORY, ACCESS)).message


def test_a_list_that_goes_on_and_on_is_given_up() -> None:
    web = Fake()

    def reply(asked: Asked) -> Reply:
        number = int(asked.url.rpartition("=")[2])
        return tags(f"t{number}", link=f'</v2/team/app/tags/list?n={number + 1}>; rel="next"')

    web.add({f"GET tags/list?n={number}": reply for number in range(1000, 3000)})
    error = fails(web, lambda registry: registry.tags(REPOSITORY, ACCESS))
    assert error.message == "the registry's list does not end"
    assert len(web.asked) == 1001


# -- referrers


def test_referrers_are_asked_of_the_api() -> None:
    web = Fake()
    one = entry(b"1", artifactType="application/x", annotations={"k": "v"})
    two = entry(b"2", artifactType="application/y")
    page = "referrers/" + LAYER.digest
    link = {"Content-Type": OCI_INDEX, "Link": f'</v2/team/app/{page}?page=2>; rel="next"'}
    web.add(
        {
            f"GET {page}": Reply(200, index(one), link),
            f"GET {page}?artifactType=application%2Fx": Reply(200, index(one, two), {"Content-Type": OCI_INDEX}),
            f"GET {page}?page=2": Reply(200, index(two), {"Content-Type": OCI_INDEX}),
        }
    )
    found = web.ask(lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS))
    assert [one.artifact_type for one in found] == ["application/x", "application/y"]
    assert found[0].annotations == {"k": "v"}
    found = web.ask(lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS, "application/x"))
    assert [one.artifact_type for one in found] == ["application/x"]


@pytest.mark.parametrize("reply", [Reply(404), Reply(400), Reply(405), Reply(200, b"<html>")])
def test_referrers_without_the_api_are_under_a_tag(reply: Reply) -> None:
    web = Fake()
    web.add({f"GET referrers/{LAYER.digest}": reply})
    assert web.ask(lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS)) == []
    web.have(index(entry(b"1", artifactType="t")), LAYER.digest.replace(":", "-"), OCI_INDEX)
    found = web.ask(lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS))
    assert [one.artifact_type for one in found] == ["t"]
    assert web.paths[-1] == f"GET manifests/{LAYER.digest.replace(':', '-')}"


def test_referrers_that_cannot_be_asked_for_are_not_taken_for_none() -> None:
    web = Fake()
    web.add({f"GET referrers/{LAYER.digest}": Reply(503)})
    assert "503" in fails(web, lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS)).message
    web.add({f"GET referrers/{LAYER.digest}": Reply(404)})
    web.add({f"GET manifests/{LAYER.digest.replace(':', '-')}": Reply(500)})
    assert "500" in fails(web, lambda registry: registry.referrers(REPOSITORY, LAYER.digest, ACCESS)).message


def test_a_digest_of_another_algorithm_fits_into_its_tag() -> None:
    digest = "sha512:" + "a" * 128
    web = Fake()
    assert web.ask(lambda registry: registry.referrers(REPOSITORY, digest, ACCESS)) == []
    assert web.paths[-1] == f"GET manifests/{('sha512-' + 'a' * 128)[:128]}"


# -- getting in


def test_the_door_is_asked_once_for_each_way() -> None:
    web = Fake()
    web.have(manifest(), "1.0")

    async def work(registry: Registry) -> None:
        for access in (ACCESS, RegistryAccess("user", "pass"), RegistryAccess(timeout=5), ACCESS):
            await registry.resolve(REPOSITORY, "1.0", access)
        await registry.resolve(REPOSITORY, "1.0", RegistryAccess(tls=TlsIdentity(ca=b"x")))

    web.ask(work)
    assert web.lines.count(PING) == 2


def test_a_challenge_is_met_from_the_first_request_on_and_a_stale_token_is_replaced() -> None:
    web = Fake()
    realm = "https://tokens.example/token"
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="svc"'}
    count = iter(range(10))
    good = {"Bearer t0"}

    def resolved(asked: Asked) -> Reply:
        headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": LAYER.digest, "Content-Length": "3"}
        return Reply(200, b"", headers) if asked.authorization in good else Reply(401, b"", challenge)

    web.add(
        {
            PING: Reply(401, b"", challenge),
            "HEAD manifests/1.0": resolved,
            f"GET {realm}?service=svc&scope=repository%3Ateam%2Fapp%3Apull": lambda asked: Reply(
                200, json.dumps({"token": f"t{next(count)}"}).encode()
            ),
        }
    )

    async def work(registry: Registry) -> None:
        await registry.resolve(REPOSITORY, "1.0", ACCESS)
        await registry.resolve(REPOSITORY, "1.0", ACCESS)
        good.clear()
        good.add("Bearer t1")
        await registry.resolve(REPOSITORY, "1.0", ACCESS)
        good.clear()
        with pytest.raises(RegistryError, match="401"):
            await registry.resolve(REPOSITORY, "1.0", ACCESS)

    web.ask(work)
    kinds = [line.split(" ", 1)[0] if "tokens" not in line else "token" for line in web.lines]
    assert kinds == ["GET", "token", "HEAD", "HEAD", "HEAD", "token", "HEAD", "HEAD", "token", "HEAD"]


def test_a_wrong_password_is_not_tried_again() -> None:
    web = Fake()
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    web.add({PING: Reply(401, b"", challenge), "HEAD manifests/1.0": Reply(401, b"", challenge)})
    error = fails(web, lambda registry: registry.resolve(REPOSITORY, "1.0", RegistryAccess("u", "p")))
    assert "401" in error.message
    assert web.paths == ["HEAD manifests/1.0"]


def test_s6_1_insecure_tries_tls_first_and_then_speaks_plain_http() -> None:
    def refused(asked: Asked) -> Reply:
        raise RemoteError("cannot talk to registry.example: TLS failed: WRONG_VERSION_NUMBER")

    web = Fake()
    raw = manifest()
    headers = {"Content-Type": OCI_MANIFEST}
    plain = BASE.replace("https:", "http:")
    web.replies |= {
        PING: refused,
        PING.replace("https:", "http:"): Reply(),
        f"GET {plain}/manifests/1.0": Reply(200, raw, headers),
    }
    access = RegistryAccess(plain_http=True)

    async def work(registry: Registry) -> None:
        await registry.manifest(REPOSITORY, "1.0", access)
        await registry.manifest(REPOSITORY, "1.0", access)

    web.ask(work)
    assert web.lines == [PING, PING.replace("https:", "http:"), *[f"GET {plain}/manifests/1.0"] * 2]
    assert "TLS failed" in fails(web, lambda r: r.manifest(REPOSITORY, "1.0", ACCESS)).message
    assert web.lines[-1] == PING


def test_s6_1_insecure_does_not_wait_for_a_port_that_swallows_tls() -> None:
    async def never(asked: Asked) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    web = Fake()
    plain = BASE.replace("https:", "http:")
    web.replies |= {PING: never, PING.replace("https:", "http:"): Reply()}
    web.replies[f"GET {plain}/manifests/1.0"] = Reply(200, manifest(), {"Content-Type": OCI_MANIFEST})
    access = RegistryAccess(plain_http=True)
    assert web.ask(lambda registry: registry.manifest(REPOSITORY, "1.0", access)).raw == manifest()


def test_a_registry_that_went_away_is_asked_anew_what_it_speaks() -> None:
    web = Fake()
    web.have(manifest(), "1.0")

    def gone(asked: Asked) -> Reply:
        raise RemoteError("cannot talk to registry.example: connection refused")

    async def work(registry: Registry) -> None:
        await registry.manifest(REPOSITORY, "1.0", ACCESS)
        web.add({"GET manifests/2.0": gone})
        with pytest.raises(RemoteError):
            await registry.manifest(REPOSITORY, "2.0", ACCESS)
        await registry.manifest(REPOSITORY, "1.0", ACCESS)

    web.ask(work)
    assert web.lines.count(PING) == 2


PLAIN = HOST.replace("https:", "http:")
INSECURE = RegistryAccess("user", "a-long-password", plain_http=True)


def no_tls(asked: Asked) -> Reply:
    raise RemoteError("cannot talk to registry.example: TLS failed: WRONG_VERSION_NUMBER")


def test_s6_1_insecure_does_not_take_a_trouble_with_tls_for_plain_http() -> None:
    """Servers answer like this over plain HTTP on a port on which they speak TLS."""
    web = Fake()
    web.replies |= {PING: no_tls, f"GET {PLAIN}/v2/": Reply(400, b"Client sent an HTTP request to an HTTPS server.")}
    assert "TLS failed" in fails(web, lambda r: r.manifest(REPOSITORY, "1.0", INSECURE)).message
    assert [asked.authorization for asked in web.asked] == ["", ""]


@pytest.mark.parametrize("status", [400, 401, 426])
def test_s6_1_a_plain_registry_that_comes_to_speak_tls_is_found_again(status: int) -> None:
    web = Fake()
    web.have(manifest(), "1.0")
    plain = f"GET {PLAIN}/v2/team/app/manifests/1.0"
    web.replies |= {PING: no_tls, f"GET {PLAIN}/v2/": Reply(), plain: Reply(200, manifest(), {})}
    web.replies[plain] = Reply(200, manifest(), {"Content-Type": OCI_MANIFEST})

    async def work(registry: Registry) -> None:
        await registry.manifest(REPOSITORY, "1.0", INSECURE)
        web.replies |= {PING: Reply(), plain: Reply(status)}
        with pytest.raises(RegistryError):
            await registry.manifest(REPOSITORY, "1.0", INSECURE)
        await registry.manifest(REPOSITORY, "1.0", INSECURE)

    web.ask(work)
    assert web.lines[-1] == f"GET {BASE}/manifests/1.0"


# -- what is told


BEARER = "opaque-" + "t0ken" * 80


@pytest.mark.parametrize("status", [401, 403, 500])
def test_A29_a_token_that_the_registry_repeats_is_not_told(status: int) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="https://tokens.example/t",service="s"'}
    web = Fake()

    def repeat(asked: Asked) -> Reply:
        text = f"no good: {asked.authorization}"
        return Reply(status, json.dumps({"errors": [{"code": "DENIED", "message": text}]}).encode())

    web.replies |= {PING: Reply(401, b"", challenge)}
    web.replies["GET https://tokens.example/t?service=s&scope=repository%3Ateam%2Fapp%3Apull"] = Reply(
        200, json.dumps({"token": BEARER}).encode()
    )
    web.add({"GET manifests/1.0": repeat})
    message = fails(web, lambda r: r.manifest(REPOSITORY, "1.0", RegistryAccess("u", "p"))).message
    assert "DENIED: no good: Bearer ***" in message
    assert "t0ken" not in message


@pytest.mark.parametrize("length", [20, 250, 1000])
def test_A29_a_password_that_the_registry_repeats_is_not_told_in_part_either(length: int) -> None:
    password = "".join(chr(ord("a") + at * 7 % 26) for at in range(length))
    access = RegistryAccess("u", password)
    body = json.dumps({"errors": [{"code": "DENIED", "message": f"{access.authorization} and {password}"}]}).encode()
    web = Fake()
    web.add({"GET manifests/1.0": Reply(403, body)})
    message = fails(web, lambda r: r.manifest(REPOSITORY, "1.0", access)).message
    assert "DENIED" in message
    assert password[:8] not in message
    assert access.authorization[6:20] not in message


def test_A29_what_a_manifest_repeats_of_a_password_is_not_told() -> None:
    web = Fake()
    web.add({"GET manifests/1.0": Reply(200, b"{}", {"Content-Type": "text/a-long-password"})})
    message = fails(web, lambda r: r.manifest(REPOSITORY, "1.0", RegistryAccess("u", "a-long-password"))).message
    assert "unsupported media type of the manifest: 'text/***'" in message


def test_A10_a_token_server_elsewhere_is_named_by_the_registry() -> None:
    web = Fake()
    for realm in ("https://tokens.example/t", f"{HOST}/t"):
        web.replies[f"GET {realm}?scope=repository%3Ateam%2Fapp%3Apull"] = Reply(200, b'{"token": "t"}')
        web.add({PING: Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="{realm}"'})})
        web.have(manifest(), "1.0")
        web.ask(lambda registry: registry.manifest(REPOSITORY, "1.0", ACCESS))
    assert [asked.url.partition("?")[0] for asked in web.asked if asked.is_foreign] == ["https://tokens.example/t"]


# -- lists


def test_large_lists_are_read_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def noting(read: Callable[[bytes], T], name: str) -> Callable[[bytes], T]:
        def work(body: bytes) -> T:
            used.append(f"{name} {threading.current_thread() is threading.main_thread()}")
            return read(body)

        return work

    for name in ("read_tags", "read_index"):
        monkeypatch.setattr(registry_module, name, noting(getattr(registry_module, name), name))
    web = Fake()
    digest = digest_of(b"x")
    for amount in (1, 5000):
        tags = json.dumps({"tags": [f"tag-{number:0100}" for number in range(amount)]}).encode()
        web.add({"GET tags/list?n=1000": Reply(200, tags)})
        web.add({f"GET referrers/{digest}": Reply(200, index(*[entry(b"x", platform="a" * 100)] * amount))})
        assert len(web.ask(lambda registry: registry.tags(REPOSITORY, ACCESS))) == amount
        assert len(web.ask(lambda registry: registry.referrers(REPOSITORY, digest, ACCESS))) == amount
    assert used == ["read_tags True", "read_index True", "read_tags False", "read_index False"]


# -- all together


def test_equal_questions_at_one_time_are_asked_once_by_equal_askers() -> None:
    async def slowly(asked: Asked) -> Reply:
        await asyncio.sleep(1)
        return Reply(200, manifest(), {"Content-Type": OCI_MANIFEST})

    web = Fake()
    web.add({"GET manifests/1.0": slowly})

    async def work(registry: Registry) -> None:
        same = [registry.manifest(REPOSITORY, "1.0", ACCESS) for _ in range(4)]
        other = registry.manifest(REPOSITORY, "1.0", RegistryAccess("user", "pass"))
        await asyncio.gather(*same, other)

    web.ask(work)
    assert web.paths == ["GET manifests/1.0"] * 2


def test_one_who_leaves_early_does_not_end_the_others_wait() -> None:
    async def slowly(asked: Asked) -> Reply:
        await asyncio.sleep(10)
        return Reply(200, manifest(), {"Content-Type": OCI_MANIFEST})

    web = Fake()
    web.add({"GET manifests/1.0": slowly})

    async def impatient(registry: Registry) -> None:
        async with asyncio.timeout(1):
            await registry.manifest(REPOSITORY, "1.0", ACCESS)

    async def work(registry: Registry) -> list[object]:
        patient = registry.manifest(REPOSITORY, "1.0", ACCESS)
        return await asyncio.gather(impatient(registry), patient, return_exceptions=True)

    first, second = web.ask(work)
    assert isinstance(first, TimeoutError)
    assert not isinstance(second, BaseException)


@pytest.mark.parametrize("call", ["tags", "resolve", "manifest", "blob", "blob_to_file", "referrers"])
def test_s15_pain_13_every_call_ends_within_its_time(call: str, tmp_path: Path) -> None:
    async def never(asked: Asked) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    web = Fake()
    access = RegistryAccess(timeout=7)

    async def work(registry: Registry) -> None:
        await registry.resolve(REPOSITORY, "there", access)
        web._script = never
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "tags": lambda: registry.tags(REPOSITORY, access),
            "resolve": lambda: registry.resolve(REPOSITORY, "1.0", access),
            "manifest": lambda: registry.manifest(REPOSITORY, "1.0", access),
            "blob": lambda: registry.blob(REPOSITORY, LAYER, access, limit=10),
            "blob_to_file": lambda: registry.blob_to_file(REPOSITORY, LAYER, access, tmp_path / "x", limit=10),
            "referrers": lambda: registry.referrers(REPOSITORY, LAYER.digest, access),
        }
        started = asyncio.get_running_loop().time()
        try:
            await calls[call]()
        finally:
            assert asyncio.get_running_loop().time() - started == pytest.approx(7, abs=0.5)

    web.have(manifest(), "there")
    assert fails(web, work).message == "no complete answer from registry.example within 7s"
    assert list(tmp_path.iterdir()) == []


def test_certificates_that_cannot_be_used_are_a_remote_error() -> None:
    def broken(asked: Asked) -> Reply:
        raise TLSMaterialError("'ca.crt' holds no PEM certificate")

    web = Fake()
    web.add({PING: broken})
    error = fails(web, lambda registry: registry.tags(REPOSITORY, ACCESS))
    assert error.message == "'ca.crt' holds no PEM certificate"
