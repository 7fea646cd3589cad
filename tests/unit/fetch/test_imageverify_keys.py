"""What keys accept: statements in both of cosign's forms, for the very artifact, by one of the keys."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gitopsd.fetch import imageverify
from gitopsd.fetch.cosignstore import LOG_ENTRY, SIGNATURE, read_signature
from gitopsd.fetch.imagesignatures import Artifact, KeyCheck, SimpleSignature, VerifyError, read_keys
from gitopsd.fetch.registry import Descriptor
from tests.sigstore import (
    Private,
    envelope,
    key_bundle,
    message_signature,
    new_key,
    public_pem,
    sign,
    simple_payload,
    statement,
)

CONTENT = b'{"schemaVersion": 2}'
DIGEST = "sha256:d0a0df15da0c28db2d2cb1e4bb4d09fcbb5a9d1b2bb9f53d7bf8f0a4b5d8b6a1"
OTHER = "sha256:" + "ab" * 32
ARTIFACT = Artifact(DIGEST, CONTENT)

KINDS: dict[str, Private] = {
    "ecdsa-p256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": ec.generate_private_key(ec.SECP384R1()),
    "ecdsa-p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa-2048": rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
}
KEY = new_key()


def check(*keys: Private) -> KeyCheck:
    return KeyCheck(read_keys({f"{index}.pub": public_pem(key) for index, key in enumerate(keys)}))


def bundle(made: dict[str, Any], *keys: Private) -> None:
    check(*(keys or (KEY,))).bundle(json.dumps(made).encode(), ARTIFACT)


def simple(payload: bytes, signer: Private = KEY, *keys: Private) -> None:
    check(*(keys or (KEY,))).signature(SimpleSignature(payload, sign(signer, payload)), ARTIFACT)


@pytest.mark.parametrize("kind", KINDS)
def test_s11_1_keys_of_every_kind_verify_all_forms(kind: str) -> None:
    key = KINDS[kind]
    simple(simple_payload(DIGEST), key, key)
    bundle(key_bundle(key, DIGEST), key)
    made = key_bundle(key, DIGEST, dsseEnvelope=None, messageSignature=message_signature(key, DIGEST, CONTENT))
    bundle(made, key)
    assert check(key).needs_content == (kind == "ed25519")


@pytest.mark.parametrize("kind", ["ecdsa-p384", "ecdsa-p521"])
def test_s11_1_larger_curves_may_use_their_own_hash(kind: str) -> None:
    key = KINDS[kind]
    algorithm = hashes.SHA384() if kind == "ecdsa-p384" else hashes.SHA512()
    bundle(key_bundle(key, DIGEST, dsseEnvelope=envelope(key, statement(DIGEST), algorithm=algorithm)), key)


@pytest.mark.parametrize("place", [0, 1, 4])
def test_s11_1_every_key_is_tried_in_turn(place: int) -> None:
    keys: list[Private] = [*KINDS.values()]
    keys.insert(place, KEY)
    simple(simple_payload(DIGEST), KEY, *keys)
    bundle(key_bundle(KEY, DIGEST), *keys)


def test_s11_1_no_log_is_asked_with_keys() -> None:
    made = key_bundle(KEY, DIGEST)
    assert made["verificationMaterial"]["tlogEntries"] == []
    bundle(made)
    bundle(made | {"verificationMaterial": {"certificate": {"rawBytes": "AAAA"}}})


SIMPLE_FLAWS = {
    "another key": (simple_payload(DIGEST), new_key(), "it was made by another key"),
    "another artifact": (simple_payload(OTHER), KEY, f"it is for another artifact, {OTHER}"),
    "another type": (simple_payload(DIGEST, kind="atomic"), KEY, "what it signs is of type 'atomic', not 'cosign "),
    "no statement": (b"{}", KEY, "what it signs is no statement about an artifact"),
    "no JSON": (b"\xff\xfe", KEY, "what it signs is no statement about an artifact"),
    "a deep one": (b"[" * 100_000, KEY, "what it signs is no statement about an artifact"),
    "a list": (b'{"critical": [1]}', KEY, "what it signs is no statement about an artifact"),
}


@pytest.mark.parametrize("flaw", SIMPLE_FLAWS)
def test_s6_3_G12_signatures_before_version_3_that_prove_nothing(flaw: str) -> None:
    payload, signer, message = SIMPLE_FLAWS[flaw]
    with pytest.raises(VerifyError) as caught:
        simple(payload, signer)
    assert caught.value.message.startswith(message)


def test_s6_3_G12_a_tampered_payload_is_refused() -> None:
    signature = sign(KEY, simple_payload(OTHER))
    with pytest.raises(VerifyError, match="another key"):
        check(KEY).signature(SimpleSignature(simple_payload(DIGEST), signature), ARTIFACT)


def dsse(payload: bytes, /, **changes: Any) -> dict[str, Any]:
    return key_bundle(KEY, DIGEST, dsseEnvelope=envelope(KEY, payload) | changes)


def changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(statement(DIGEST)) | changes).encode()


BUNDLE_FLAWS: dict[str, tuple[dict[str, Any], str]] = {
    "another key": (key_bundle(new_key(), DIGEST), "it was made by another key"),
    "another artifact": (key_bundle(KEY, OTHER), "it is for another artifact"),
    "a payload that was exchanged": (
        dsse(statement(OTHER), payload=base64.b64encode(statement(DIGEST)).decode()),
        "it was made by another key",
    ),
    "a type that was exchanged": (dsse(statement(DIGEST), payloadType="text/plain"), "it was made by another key"),
    "a payload of another type": (
        key_bundle(KEY, DIGEST, dsseEnvelope=envelope(KEY, statement(DIGEST), "text/plain")),
        "its envelope holds 'text/plain', not application/vnd.in-toto+json",
    ),
    "no signature": (dsse(statement(DIGEST), signatures=[]), "it was made by another key"),
    "too many signatures": (
        dsse(statement(DIGEST), signatures=[{"sig": ""}] * 17),
        "its envelope holds more than 16 signatures",
    ),
    "a statement of another type": (dsse(changed(_type="https://x")), "what it signs is of type 'https://x'"),
    "no subject": (dsse(changed(subject=[])), "it is for another artifact"),
    "a subject without digest": (dsse(changed(subject=[{"name": DIGEST}])), "it is for another artifact"),
    "a subject with another hash": (
        dsse(changed(subject=[{"digest": {"sha512": DIGEST[7:]}}])),
        "it is for another artifact",
    ),
    "no statement": (dsse(b"[]"), "what it signs is no statement about an artifact"),
    "neither form": (key_bundle(KEY, DIGEST, dsseEnvelope=None), "its bundle holds no signature"),
    "a bare signature by another key": (
        key_bundle(KEY, DIGEST, dsseEnvelope=None, messageSignature=message_signature(new_key(), DIGEST)),
        "it was made by another key, or for another artifact",
    ),
    "a bare signature of another artifact": (
        key_bundle(KEY, DIGEST, dsseEnvelope=None, messageSignature=message_signature(KEY, OTHER)),
        "it was made by another key, or for another artifact",
    ),
    "another media type": (key_bundle(KEY, DIGEST, mediaType="text/plain"), "its bundle is of type 'text/plain'"),
    "no media type": ({}, "its bundle cannot be read: "),
    "no base64": (dsse(statement(DIGEST), payload="*"), "its bundle cannot be read: "),
}


@pytest.mark.parametrize("flaw", BUNDLE_FLAWS)
def test_s6_3_G12_bundles_that_prove_nothing(flaw: str) -> None:
    made, message = BUNDLE_FLAWS[flaw]
    with pytest.raises(VerifyError) as caught:
        bundle(made)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("raw", [b"", b"{", b"[" * 200_000, b"\xff", b"null"])
def test_s6_3_G12_what_is_no_bundle_is_refused(raw: bytes) -> None:
    with pytest.raises(VerifyError, match="its bundle cannot be read"):
        check(KEY).bundle(raw, ARTIFACT)


def test_s6_3_an_attestation_with_any_predicate_counts() -> None:
    bundle(dsse(statement(DIGEST, "https://slsa.dev/provenance/v1")))
    bundle(dsse(changed(_type="https://in-toto.io/Statement/v0.1")))


def test_s6_3_a_digest_of_another_algorithm_is_told() -> None:
    made = key_bundle(KEY, DIGEST, dsseEnvelope=None, messageSignature=message_signature(KEY, DIGEST))
    with pytest.raises(VerifyError, match="signatures of a sha512 digest cannot be verified"):
        check(KEY).bundle(json.dumps(made).encode(), Artifact("sha512:" + "00" * 64))


BAD_KEYS = {
    "empty": b"",
    "text": b"topsecret",
    "a private key": b"-----BEGIN PRIVATE KEY-----\ntopsecret\n-----END PRIVATE KEY-----\n",
    "a certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "a broken one": public_pem(KEY)[:-40],
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_s11_1_a_key_that_cannot_be_read_is_named_and_not_shown(kind: str) -> None:
    with pytest.raises(VerifyError) as caught:
        read_keys({"good.pub": public_pem(KEY), "bad.pub": BAD_KEYS[kind]})
    assert caught.value.message == "'bad.pub' does not hold a public key in PEM form"


def test_s11_1_a_key_of_an_unused_kind_is_named() -> None:
    key = dsa.generate_private_key(1024).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(VerifyError, match=r"^'old.pub' holds a public key of a kind that cosign does not use$"):
        read_keys({"old.pub": key})


def test_keys_without_names_are_counted() -> None:
    with pytest.raises(VerifyError, match=r"^'key 2' does not hold"):
        read_keys([public_pem(KEY), b""])


def layer(**annotations: str) -> Descriptor:
    return Descriptor("x", DIGEST, 1, annotations)


def test_the_annotations_of_a_layer_make_a_signature() -> None:
    found = read_signature(layer(**{SIGNATURE: "c2ln", LOG_ENTRY: "{}"}), b"payload")
    assert found == SimpleSignature(b"payload", b"sig", b"", b"{}")


@pytest.mark.parametrize(("text", "message"), [("", "it lacks its annotation"), ("ü*", "its annotation is no sig")])
def test_a_layer_without_a_signature_is_told(text: str, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        read_signature(layer(**{SIGNATURE: text} if text else {}), b"payload")


def test_s11_1_the_number_of_keys_is_bounded() -> None:
    with pytest.raises(VerifyError, match="there are more than 100 keys") as caught:
        read_keys([b""] * 101)
    assert caught.value.rule == "keys"


@pytest.mark.parametrize("how", ["keys", "identities"])
async def test_what_a_tenant_wrote_is_read_in_threads(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred keys or expressions take the time of many others' work."""
    threads: list[threading.Thread] = []

    def noted(*_: object) -> Any:
        threads.append(threading.current_thread())
        raise VerifyError("enough")

    monkeypatch.setattr(imageverify, "read_keys", noted)
    monkeypatch.setattr(imageverify, "Identities", noted)
    verifier = imageverify.ImageVerifier(cast("Any", None), cast("Any", None), cast("Any", None))
    artifact = Descriptor("", "sha256:" + "0" * 64, 1)
    given = {"keys": [b"x"]} if how == "keys" else {"identities": [("a", "b")]}
    with pytest.raises(VerifyError, match="enough"):
        await verifier.cosign(cast("Any", None), artifact, cast("Any", None), **cast("Any", given))
    assert threads
    assert threading.main_thread() not in threads
