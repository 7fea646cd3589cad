"""What a signature of an OCI artifact says, whoever made it: the formats of cosign, and keys that check them.

Knows three statements that somebody may sign about an artifact: the payload of "simple signing" (cosign before
version 3), an in-toto statement in a DSSE envelope, and the bare digest (both in Sigstore bundles). Knows public keys;
refuses to know where signatures are kept, certificates and logs.
Pure, and blocking for a millisecond per key. Invariants: a statement counts only if it names the digest that was asked
about; no message holds a key, or more than a few words of what a stranger wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gitopsd.fetch.errors import RemoteError, printable

COSIGN_TYPE: Final = "cosign container image signature"
IN_TOTO: Final = "application/vnd.in-toto+json"
STATEMENTS: Final = frozenset(("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"))
MOST_ENVELOPE_SIGNATURES: Final = 16
MOST_KEYS: Final = 100
"""Public keys that one artifact may be checked with: each is tried on each signature."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class VerifyError(RemoteError):
    """An artifact is not proven to come from whom it should. Safe to show; callers say by which provider."""


@dataclass(frozen=True)
class Artifact:
    """What is to be verified: a digest, and the manifest itself where a signature algorithm needs it."""

    digest: str
    content: bytes = field(default=b"", repr=False)

    @property
    def hash(self) -> bytes:
        """The SHA-256 of the manifest. Raises VerifyError for another algorithm."""
        algorithm, _, digits = self.digest.partition(":")
        if algorithm != "sha256":
            raise VerifyError(f"signatures of a {algorithm} digest cannot be verified")
        return bytes.fromhex(digits)


@dataclass(frozen=True)
class SimpleSignature:
    """A signature as cosign kept them before version 3.

    One made without a key comes with a certificate (PEM) and an entry of a log (JSON).
    """

    payload: bytes
    signature: bytes
    certificate: bytes = b""
    log_entry: bytes = b""


# -- keys --------------------------------------------------------------------------------------------------------------


def read_keys(keys: Mapping[str, bytes] | Sequence[bytes]) -> dict[str, PublicKey]:
    """Read PEM public keys by the names of their Secret's keys. Raises VerifyError, which names the one it is about."""
    if len(keys) > MOST_KEYS:
        raise VerifyError(f"there are more than {MOST_KEYS} keys", rule="keys")
    named = keys if isinstance(keys, Mapping) else {f"key {number}": pem for number, pem in enumerate(keys, 1)}
    return {name: _read_key(name, pem) for name, pem in named.items()}


def _read_key(name: str, pem: bytes) -> PublicKey:
    shown = printable(name, 256)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise VerifyError(f"'{shown}' does not hold a public key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise VerifyError(f"'{shown}' holds a public key of a kind that cosign does not use")
    return key


def is_signed(key: object, signature: bytes, data: bytes) -> bool:
    """Tell whether `signature` is by `key` over `data`, hashed by SHA-256 or as is usual for the key's curve."""
    return any(_verifies(key, signature, data, algorithm) for algorithm in _algorithms(key))


def is_signed_digest(key: object, signature: bytes, artifact: Artifact) -> bool:
    """Tell whether `signature` is by `key` over the manifest itself."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return bool(artifact.content) and _verifies(key, signature, artifact.content, None)
    return _verifies(key, signature, artifact.hash, Prehashed(hashes.SHA256()))


def _algorithms(key: object) -> Iterator[hashes.HashAlgorithm]:
    yield hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size > 256:
        yield hashes.SHA384() if key.curve.key_size <= 384 else hashes.SHA512()


def _verifies(key: object, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm | Prehashed | None) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


class KeyCheck:
    """Accepts what one of some public keys signed; no log, no certificate and no clock is asked."""

    def __init__(self, keys: Mapping[str, PublicKey]) -> None:
        self._keys = tuple(keys.values())

    @property
    def needs_content(self) -> bool:
        """Ed25519 cannot check a digest: it needs the manifest."""
        return any(isinstance(key, ed25519.Ed25519PublicKey) for key in self._keys)

    def bundle(self, raw: bytes, artifact: Artifact) -> None:
        """Check a Sigstore bundle. Raises VerifyError."""
        found = read_bundle(raw)
        if found.dsse_envelope is not None:
            envelope = found.dsse_envelope
            signed = pae(envelope.payload_type, envelope.payload)
            if len(envelope.signatures) > MOST_ENVELOPE_SIGNATURES:
                raise VerifyError(f"its envelope holds more than {MOST_ENVELOPE_SIGNATURES} signatures")
            if not any(is_signed(key, one.sig, signed) for key in self._keys for one in envelope.signatures):
                raise VerifyError("it was made by another key")
            check_statement(envelope.payload_type, envelope.payload, artifact)
        elif found.message_signature is not None:
            signature = found.message_signature.signature
            if not any(is_signed_digest(key, signature, artifact) for key in self._keys):
                raise VerifyError("it was made by another key, or for another artifact")
        else:
            raise VerifyError("its bundle holds no signature")

    def signature(self, found: SimpleSignature, artifact: Artifact) -> None:
        """Check a signature of cosign before version 3. Raises VerifyError."""
        if not any(is_signed(key, found.signature, found.payload) for key in self._keys):
            raise VerifyError("it was made by another key")
        check_payload(found.payload, artifact)


# -- statements --------------------------------------------------------------------------------------------------------


class _Image(msgspec.Struct, frozen=True):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _Critical(msgspec.Struct, frozen=True):
    image: _Image
    type: str


class _Payload(msgspec.Struct, frozen=True):
    critical: _Critical


def check_payload(payload: bytes, artifact: Artifact) -> None:
    """Raise VerifyError unless a simple signing payload names the artifact."""
    try:
        critical = msgspec.json.decode(payload, type=_Payload).critical
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise VerifyError("what it signs is no statement about an artifact") from None
    if critical.type != COSIGN_TYPE:
        raise VerifyError(f"what it signs is of type '{printable(critical.type, 64)}', not '{COSIGN_TYPE}'")
    if critical.image.digest != artifact.digest:
        raise VerifyError(f"it is for another artifact, {printable(critical.image.digest, 80)}")


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str] = msgspec.field(default_factory=dict)


class _Statement(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="_type")
    subject: list[_Subject]


def check_statement(payload_type: str, payload: bytes, artifact: Artifact) -> None:
    """Raise VerifyError unless an in-toto statement has the artifact among its subjects; its predicate may be any."""
    if payload_type != IN_TOTO:
        raise VerifyError(f"its envelope holds '{printable(payload_type, 64)}', not {IN_TOTO}")
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise VerifyError("what it signs is no statement about an artifact") from None
    if statement.type not in STATEMENTS:
        raise VerifyError(f"what it signs is of type '{printable(statement.type, 64)}'")
    algorithm, _, digits = artifact.digest.partition(":")
    if not any(subject.digest.get(algorithm) == digits for subject in statement.subject):
        raise VerifyError("it is for another artifact")


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE envelope's signature is made over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


# -- bundles -----------------------------------------------------------------------------------------------------------


class EnvelopeSignature(msgspec.Struct, frozen=True):
    """A signature in an envelope."""

    sig: bytes


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A DSSE envelope."""

    payload: bytes
    payload_type: str
    signatures: list[EnvelopeSignature]


class MessageSignature(msgspec.Struct, frozen=True, rename="camel"):
    """A signature over the artifact itself."""

    signature: bytes


class Bundle(msgspec.Struct, frozen=True, rename="camel"):
    """The parts of a Sigstore bundle that say who signed what."""

    media_type: str
    dsse_envelope: Envelope | None = None
    message_signature: MessageSignature | None = None


def read_bundle(raw: bytes) -> Bundle:
    """Read a bundle. Raises VerifyError."""
    try:
        found = msgspec.json.decode(raw, type=Bundle)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise VerifyError(f"its bundle cannot be read: {printable(str(error), 128)}") from None
    if not found.media_type.startswith("application/vnd.dev.sigstore.bundle"):
        raise VerifyError(f"its bundle is of type '{printable(found.media_type, 64)}'")
    return found


def sha256(data: bytes) -> str:
    """The SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()
