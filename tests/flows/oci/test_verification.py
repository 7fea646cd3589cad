"""Artifacts in a real registry, signed in every way, and whether they are believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gitopsd.engine import Engine, EngineSettings
from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.imageverify import ImageVerifier, VerifyError
from gitopsd.fetch.registry import Descriptor, Registry, RegistryAccess, Repository
from gitopsd.fetch.trustroot import PublicRoot
from tests.notary import Notary, trust_policy
from tests.processes import free_port
from tests.servers.loopback import Answer, LoopbackServer
from tests.servers.registry import Blob
from tests.servers.registry import Registry as RegistryServer
from tests.signers import Signatures, simple_layer
from tests.sigstore import (
    BUNDLE,
    Flaws,
    Sigstore,
    key_bundle,
    new_key,
    public_pem,
    sign,
    simple_payload,
    statement,
)
from tools import build_engine

KEY = new_key()
PUBLIC = {"cosign.pub": public_pem(KEY)}
SIGSTORE = Sigstore()
ROOT = SIGSTORE.trusted_root()
IDENTITY = [("^https://issuer[.]example$", "^ci@example[.]org$")]
ACCESS = RegistryAccess(plain_http=True)


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture(scope="session")
def program() -> Path:
    return build_engine.cached()


@dataclass
class Scene:
    """An artifact, its signatures, and somebody who wants to know."""

    server: RegistryServer
    verifier: ImageVerifier
    registry: Registry
    repository: Repository
    artifact: Descriptor
    signatures: Signatures

    async def cosign(self, *, access: RegistryAccess = ACCESS, **given: Any) -> None:
        await self.verifier.cosign(self.repository, self.artifact, access, **given)

    async def keyless(self, identities: Any = IDENTITY, root: bytes = ROOT) -> None:
        await self.cosign(identities=identities, trusted_root=root)

    async def refused(self, **given: Any) -> str:
        with pytest.raises(VerifyError) as caught:
            await self.cosign(**given)
        assert caught.value.message.isprintable()
        assert len(caught.value.message.encode()) < 4096
        return caught.value.message

    async def notation(self, notary: Notary, policy: bytes = b"", **certificates: bytes) -> bool:
        return await self.verifier.notation(
            self.repository,
            self.artifact,
            ACCESS,
            policy=policy or trust_policy(),
            certificates=certificates or {"ca.crt": notary.pem},
        )

    @property
    def shown(self) -> str:
        return f"{self.repository.shown}@{self.artifact.digest}"


@pytest.fixture
async def scene(server: RegistryServer, program: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    path = f"apps/a{abs(hash(request.node.name))}"
    digest = server.push(path, "1.0.0", {"app.yaml": request.node.name})
    web_client = HttpClient()
    registry = Registry(web_client)
    repository = Repository(server.host, path)

    def no_network() -> bytes:
        raise VerifyError("there is no public Sigstore here")

    try:
        async with Engine(EngineSettings(program)) as engine:
            verifier = ImageVerifier(registry, web_client, engine, public_root=PublicRoot(no_network))
            artifact = await registry.resolve(repository, digest, ACCESS)
            yield Scene(server, verifier, registry, repository, artifact, Signatures(server, path, digest))
    finally:
        await web_client.aclose()


# -- cosign with keys --------------------------------------------------------------------------------------------------


async def test_s6_3_a_key_verifies_a_bundle(scene: Scene) -> None:
    scene.signatures.with_key(KEY)
    await scene.cosign(keys=PUBLIC)
    await scene.cosign(keys={"other.pub": public_pem(new_key()), **PUBLIC})
    await scene.cosign(keys=list(PUBLIC.values()))


async def test_s6_3_a_key_verifies_a_signature_before_version_3(scene: Scene) -> None:
    scene.signatures.with_key_before_3(KEY)
    await scene.cosign(keys=PUBLIC)


async def test_s6_3_an_index_is_verified_as_such(scene: Scene, server: RegistryServer) -> None:
    entry = {"mediaType": scene.artifact.media_type, "digest": scene.artifact.digest, "size": scene.artifact.size}
    index = server.push_index(
        scene.repository.path, "multi", [entry | {"platform": {"os": "linux", "architecture": "x"}}]
    )
    signatures = Signatures(server, scene.repository.path, index)
    scene.artifact = await scene.registry.resolve(scene.repository, "multi", ACCESS)
    await scene.refused(keys=PUBLIC)
    signatures.with_key(KEY)
    await scene.cosign(keys=PUBLIC)


async def test_s6_3_ed25519_signs_the_manifest_itself(scene: Scene) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tests.sigstore import message_signature

    key = Ed25519PrivateKey.generate()
    _, content = scene.server.get(f"{scene.repository.path}/manifests/{scene.artifact.digest}")
    made = message_signature(key, scene.artifact.digest, content)
    scene.signatures.bundle(key_bundle(key, scene.artifact.digest, dsseEnvelope=None, messageSignature=made))
    await scene.cosign(keys={"ed.pub": public_pem(key)})


async def test_G12_without_any_signature_nothing_is_verified(scene: Scene) -> None:
    assert await scene.refused(keys=PUBLIC) == f"no matching signatures were found for '{scene.shown}'"
    assert await scene.refused(identities=IDENTITY, trusted_root=ROOT) == "no signatures found"


@pytest.mark.parametrize("form", ["bundle", "before version 3"])
async def test_G12_a_signature_by_another_key_is_refused(scene: Scene, form: str) -> None:
    (scene.signatures.with_key if form == "bundle" else scene.signatures.with_key_before_3)(new_key())
    message = await scene.refused(keys=PUBLIC)
    assert message == f"no matching signatures were found for '{scene.shown}': it was made by another key"


async def test_G12_signatures_of_another_artifact_that_were_pasted_are_refused(scene: Scene) -> None:
    other = "sha256:" + "ab" * 32
    scene.signatures.bundle(key_bundle(KEY, other))
    scene.signatures.with_key_before_3(KEY, payload=simple_payload(other))
    message = await scene.refused(keys=PUBLIC)
    assert message.endswith(f"it is for another artifact; it is for another artifact, {other}")


async def test_G12_a_tampered_payload_is_refused(scene: Scene) -> None:
    signature = sign(KEY, simple_payload("sha256:" + "ab" * 32))
    scene.signatures.simple([simple_layer(simple_payload(scene.artifact.digest), signature)])
    assert "it was made by another key" in await scene.refused(keys=PUBLIC)


@pytest.mark.parametrize("good", ["bundle", "before version 3"])
async def test_s6_3_one_good_signature_is_enough_whatever_stands_beside_it(scene: Scene, good: str) -> None:
    signatures, digest = scene.signatures, scene.artifact.digest
    signatures.bundle(b"topsecret")
    signatures.bundle(b"[" * 100_000)
    signatures.bundle(key_bundle(new_key(), digest))
    signatures.attach(BUNDLE, Blob(BUNDLE, b"{}"), Blob(BUNDLE, b"[]"))
    signatures.attach(BUNDLE, Blob("text/plain", b"{}"))
    signatures.attach("application/spdx+json", Blob("text/plain", b"{}"))
    bad = [simple_layer(simple_payload(digest), sign(new_key(), simple_payload(digest))), simple_layer(b"{", b"x")]
    bad.append((Blob("text/plain", b"no signature"), {}))
    if good == "bundle":
        signatures.simple(bad)
        signatures.with_key(KEY)
    else:
        payload = simple_payload(digest)
        signatures.simple([bad[0], simple_layer(payload, sign(KEY, payload)), *bad[1:]])
    await scene.cosign(keys=PUBLIC)
    message = await scene.refused(keys={"other.pub": public_pem(new_key())})
    assert "topsecret" not in message


async def test_s6_3_a_bundle_may_be_an_attestation(scene: Scene) -> None:
    from tests.sigstore import envelope

    made = envelope(KEY, statement(scene.artifact.digest, "https://slsa.dev/provenance/v1"))
    scene.signatures.bundle(key_bundle(KEY, scene.artifact.digest, dsseEnvelope=made))
    await scene.cosign(keys=PUBLIC)


async def test_s11_1_no_keys_at_all_are_not_the_same_as_no_wish_for_keys(scene: Scene) -> None:
    """A Secret without a key must not open the door to whoever has an identity."""
    scene.signatures.keyless(SIGSTORE.signed())
    await scene.cosign(trusted_root=ROOT)
    assert "no matching signatures were found" in await scene.refused(keys={}, trusted_root=ROOT)
    assert "no matching signatures were found" in await scene.refused(keys=[], trusted_root=ROOT)


async def test_s11_1_a_key_that_cannot_be_read_fails_before_anything_is_asked(scene: Scene) -> None:
    scene.repository = Repository(f"127.0.0.1:{free_port()}", "nowhere")
    message = await scene.refused(keys={**PUBLIC, "bad.pub": b"topsecret"})
    assert message == "'bad.pub' does not hold a public key in PEM form"


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_G12_of_a_thousand_signatures_the_newest_hundred_are_looked_at(scene: Scene) -> None:
    payload = simple_payload(scene.artifact.digest)
    bad = simple_layer(payload, sign(new_key(), payload))
    good = simple_layer(payload, sign(KEY, payload))
    scene.signatures.simple([*[bad] * 900, good, *[bad] * 99])
    await scene.cosign(keys=PUBLIC)
    scene.signatures.simple([*[bad] * 899, good, *[bad] * 100])
    message = await scene.refused(keys=PUBLIC)
    assert message.endswith("it was made by another key; 900 more were not looked at")


async def test_G12_of_many_bundles_a_hundred_are_looked_at(scene: Scene) -> None:
    for _ in range(103):
        scene.signatures.with_key(new_key())
    message = await scene.refused(keys=PUBLIC)
    assert message.endswith("it was made by another key; 3 more were not looked at")
    scene.signatures.with_key(KEY)
    await scene.cosign(keys=PUBLIC)


async def test_G12_a_bundle_of_10_mib_is_not_read(scene: Scene) -> None:
    made = json.dumps(key_bundle(KEY, scene.artifact.digest) | {"padding": "x" * (10 << 20)}).encode()
    scene.signatures.bundle(made)
    message = await scene.refused(keys=PUBLIC)
    assert message.endswith("its bundle is larger than 4194304 bytes")
    scene.signatures.with_key(KEY)
    await scene.cosign(keys=PUBLIC)


async def test_G12_a_large_payload_is_not_read(scene: Scene) -> None:
    payload = simple_payload(scene.artifact.digest) + b" " * (128 << 10)
    scene.signatures.simple([simple_layer(payload, sign(KEY, payload))])
    assert (await scene.refused(keys=PUBLIC)).endswith("its payload is larger than 131072 bytes")


# -- without keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bundle", "before version 3"])
async def test_s6_3_an_identity_verifies(scene: Scene, form: str) -> None:
    sign_it = scene.signatures.keyless if form == "bundle" else scene.signatures.keyless_before_3
    sign_it(SIGSTORE.signed())
    await scene.keyless()
    await scene.keyless(identities=[])
    await scene.keyless(identities=[("no", "no"), ("issuer", "@example")])
    message = await scene.refused(identities=[("issuer", "^cd@")], trusted_root=ROOT)
    assert message == "no matching signatures: it was made by 'ci@example.org' of 'https://issuer.example'"


@pytest.mark.parametrize("form", ["bundle", "before version 3"])
@pytest.mark.parametrize(
    "flaws",
    [
        Flaws(logged=timedelta(hours=1)),
        Flaws(timestamps=0),
        Flaws(certificate_log_key=new_key()),
        Flaws(log_key=new_key()),
        Flaws(code_signing=False),
        Flaws(other_certificate=True),
    ],
    ids=["expired", "no timestamp", "another certificate log", "another log", "another purpose", "another entry"],
)
async def test_G12_a_flawed_signature_without_a_key_is_refused(scene: Scene, form: str, flaws: Flaws) -> None:
    sign_it = scene.signatures.keyless if form == "bundle" else scene.signatures.keyless_before_3
    sign_it(SIGSTORE.signed(flaws))
    message = await scene.refused(identities=IDENTITY, trusted_root=ROOT)
    assert message.startswith("no matching signatures: its ")


async def test_s11_1_another_sigstore_is_not_believed(scene: Scene) -> None:
    scene.signatures.keyless(SIGSTORE.signed())
    scene.signatures.keyless_before_3(SIGSTORE.signed())
    await scene.refused(identities=IDENTITY, trusted_root=Sigstore().trusted_root())


async def test_s6_3_a_signature_with_a_key_is_none_without(scene: Scene) -> None:
    scene.signatures.with_key(KEY)
    scene.signatures.with_key_before_3(KEY)
    message = await scene.refused(identities=[], trusted_root=ROOT)
    assert "it was made with a key" in message


async def test_s11_1_a_trusted_root_that_cannot_be_used_is_told(scene: Scene) -> None:
    assert (await scene.refused(trusted_root=b"topsecret")).startswith("trusted_root.json cannot be read: ")
    assert (await scene.refused(trusted_root=ROOT, identities=[("(", "")])).startswith("the issuer '(' of an identity")


async def test_G12_without_the_public_root_nothing_is_verified_without_keys(scene: Scene) -> None:
    scene.signatures.keyless(SIGSTORE.signed())
    assert await scene.refused(identities=IDENTITY) == "there is no public Sigstore here"
    scene.signatures.with_key(KEY)
    await scene.cosign(keys=PUBLIC)


# -- registries that fail ----------------------------------------------------------------------------------------------


async def test_G12_a_registry_that_cannot_be_reached_is_told(scene: Scene) -> None:
    scene.repository = Repository(f"127.0.0.1:{free_port()}", "nowhere")
    message = await scene.refused(keys=PUBLIC)
    assert "no matching signatures" not in message
    assert "127.0.0.1" in message
    with pytest.raises(VerifyError):
        await scene.notation(Notary())


class Silent(LoopbackServer):
    """A registry that takes requests and answers none."""

    async def answer(self, request: web.Request, path: str) -> Answer:
        await asyncio.sleep(3600)
        return Answer(500)


async def test_G12_a_registry_that_does_not_answer_ends_with_the_time_limit(scene: Scene) -> None:
    with Silent() as silent:
        scene.repository = Repository(silent.url.removeprefix("http://"), "nowhere")
        await scene.refused(keys=PUBLIC, access=RegistryAccess(plain_http=True, timeout=0.2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await scene.cosign(keys=PUBLIC)


# -- notation ----------------------------------------------------------------------------------------------------------


async def test_s6_3_notation_verifies(scene: Scene) -> None:
    notary = Notary()
    scene.signatures.notation(notary.sign(scene.signatures.descriptor))
    for level in ("strict", "permissive", "audit"):
        assert await scene.notation(notary, trust_policy(level)) is True
    assert await scene.notation(notary, **{"other.crt": Notary().pem, "ca.pem": notary.pem}) is True


async def test_s6_3_notation_passes_unverified_where_the_policy_says_so(scene: Scene) -> None:
    notary = Notary()
    assert await scene.notation(notary, trust_policy("skip")) is False
    scene.signatures.notation(Notary().sign(scene.signatures.descriptor))
    assert await scene.notation(notary, trust_policy("skip")) is False
    assert await scene.notation(notary, trust_policy("audit")) is False


async def test_s6_3_a_policy_that_skips_asks_no_registry(scene: Scene) -> None:
    scene.repository = Repository(f"127.0.0.1:{free_port()}", "nowhere")
    assert await scene.notation(Notary(), trust_policy("skip")) is False


async def test_G12_notation_refuses_what_proves_nothing(scene: Scene) -> None:
    notary = Notary()
    with pytest.raises(VerifyError) as caught:
        await scene.notation(notary)
    assert caught.value.message == (
        f'no signature is associated with "{scene.shown}", make sure the artifact was signed successfully'
    )
    scene.signatures.notation(Notary().sign(scene.signatures.descriptor))
    with pytest.raises(VerifyError, match="does not contain any trusted certificate"):
        await scene.notation(notary)
    scene.signatures.notation(notary.sign(scene.signatures.descriptor | {"digest": "sha256:" + "ab" * 32}))
    with pytest.raises(VerifyError, match="content descriptor mismatch"):
        await scene.notation(notary)
    scene.signatures.notation(notary.sign(scene.signatures.descriptor))
    assert await scene.notation(notary) is True


async def test_G12_an_expired_notation_certificate_is_refused(scene: Scene) -> None:
    notary = Notary(ends=-timedelta(hours=1))
    scene.signatures.notation(notary.sign(scene.signatures.descriptor))
    with pytest.raises(VerifyError, match="verification time is after certificate"):
        await scene.notation(notary)


async def test_s11_1_notation_looks_at_three_signatures(scene: Scene) -> None:
    notary = Notary()
    for _ in range(3):
        scene.signatures.notation(Notary().sign(scene.signatures.descriptor))
    scene.signatures.notation(notary.sign(scene.signatures.descriptor))
    with pytest.raises(VerifyError, match="The configured limit of 3 signatures to verify per artifact exceeded"):
        await scene.notation(notary)


async def test_G12_a_large_notation_signature_is_not_read(scene: Scene) -> None:
    digest = scene.signatures.notation(b"x" * (10 << 20))
    with pytest.raises(VerifyError) as caught:
        await scene.notation(Notary())
    assert caught.value.message == (
        f"the signature with digest {digest} cannot be read: its envelope is larger than 1048576 bytes"
    )
    assert caught.value.rule == "size"


async def test_s11_1_what_is_wrong_with_the_secret_of_notation_is_named(scene: Scene) -> None:
    notary = Notary()
    scene.signatures.notation(notary.sign(scene.signatures.descriptor))
    with pytest.raises(VerifyError, match=r"^trustpolicy.json cannot be read: "):
        await scene.notation(notary, b"topsecret")
    with pytest.raises(VerifyError, match=r"^trustpolicy.json is not valid: .*verification level"):
        await scene.notation(notary, trust_policy("lax"))
    with pytest.raises(VerifyError, match=r"failed to parse certificate 'bad.crt'") as caught:
        await scene.notation(notary, **{"bad.crt": b"topsecret"})
    assert "topsecret" not in caught.value.message


class OcspServer(LoopbackServer):
    """Says of every certificate what it is told to say."""

    body = b""

    async def answer(self, request: web.Request, path: str) -> Answer:
        return Answer(200, {"Content-Type": "application/ocsp-response"}, self.body)


async def test_s11_1_whether_a_notation_certificate_was_revoked_is_asked(scene: Scene) -> None:
    with OcspServer() as server:
        notary = Notary(ocsp_url=server.url)
        scene.signatures.notation(notary.sign(scene.signatures.descriptor))
        server.body = notary.status(revoked=False)
        assert await scene.notation(notary) is True
        assert len(server.requests) == 1
        server.body = notary.status(revoked=True)
        with pytest.raises(VerifyError, match="is revoked"):
            await scene.notation(notary)
        assert await scene.notation(notary, trust_policy("permissive")) is True
        server.body = b"nothing"
        with pytest.raises(VerifyError, match="revocation status is unknown"):
            await scene.notation(notary)
    with pytest.raises(VerifyError, match="revocation status is unknown"):
        await scene.notation(notary)
    assert await scene.notation(notary, trust_policy("audit")) is True
