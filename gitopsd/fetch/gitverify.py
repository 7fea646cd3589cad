"""Signatures of commits and tags: from an object's raw bytes and the keys that are trusted to the key that signed it.

Theory of operation. OpenPGP is left to Sequoia's library with its current policy, which trusts no SHA-1; beyond that a
key has to be good today, not only on the day of the signature. SSH signatures are read here, in the one form that
OpenSSH writes, and their cryptography is left to asyncssh.

Knows OpenPGP and SSH signatures (spec/source.md 5.6); refuses to know Kubernetes, networks, and where keys come from.
Pure, and blocking: belongs into a thread.
Invariant: nothing of a stranger reaches a message but hex digits and the like (spec/hostile-inputs.md D).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gitopsd.fetch.gitkeys import TrustedKeys, listed
from gitopsd.fetch.gitsigned import SignatureError, Signed, split_commit, split_tag

if TYPE_CHECKING:
    from asyncssh import SSHKey
    from pysequoia import Cert, Sig

_PGP: Final = b"-----BEGIN PGP SIGNATURE-----"
_SSH: Final = b"-----BEGIN SSH SIGNATURE-----"
_X509: Final = b"-----BEGIN SIGNED MESSAGE-----"
_ENDS: Final = {_PGP: b"-----END PGP SIGNATURE-----", _SSH: b"-----END SSH SIGNATURE-----"}
_NAMESPACE: Final = b"git"
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
# All that verify today, and none by SHA-1.
_SSH_ALGORITHMS: Final = frozenset(
    (
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"rsa-sha2-256",
        b"rsa-sha2-512",
        b"sk-ssh-ed25519@openssh.com",
        b"sk-ecdsa-sha2-nistp256@openssh.com",
    )
)
_SHORTEST_RSA: Final = 2048
# Ten times what the largest of today's algorithms makes.
_LONGEST_SIGNATURE: Final = 1 << 20


def verify_commit(raw: bytes, keys: TrustedKeys, now: datetime | None = None) -> str:
    """Verify a commit; returns the key that signed it. Raises SignatureError."""
    return verify(split_commit(raw), keys, now)


def verify_tag(raw: bytes, keys: TrustedKeys, now: datetime | None = None) -> str:
    """Verify a tag; returns the key that signed it. Raises SignatureError."""
    return verify(split_tag(raw), keys, now)


def verify(signed: Signed, keys: TrustedKeys, now: datetime | None = None) -> str:
    """Verify what was taken apart: the primary key's id in 16 hex digits (OpenPGP), or `SHA256:...` (SSH).

    `now` is the time at which keys have to be good. Raises SignatureError.
    """
    text = signed.signature.strip()
    kind = next((begin for begin in _ENDS if text.startswith(begin)), b"")
    if not kind:
        name = "x509" if text.startswith(_X509) else "unknown" if text else "empty"
        raise SignatureError(f"unsupported signature type: {name}")
    if len(text) > _LONGEST_SIGNATURE:
        raise SignatureError(f"the signature is longer than {_LONGEST_SIGNATURE} bytes")
    if text.find(_ENDS[kind]) != len(text) - len(_ENDS[kind]):
        raise SignatureError("the signature does not end where it should")
    try:
        if kind == _SSH:
            return _verify_ssh(signed.payload, text, keys.ssh)
        return _verify_pgp(signed.payload, text, keys.pgp, now or datetime.now(UTC))
    except SignatureError as error:
        if keys.unreadable:
            raise SignatureError(f"{error}; there is no key in {listed(keys.unreadable)}") from None
        raise


def _verify_pgp(payload: bytes, text: bytes, certs: Sequence[Cert], now: datetime) -> str:
    try:
        return _verify_with(payload, text, certs, now)
    except RuntimeError:  # the library's only error, raised even by attributes of what it has read
        raise SignatureError("the OpenPGP signature or its key cannot be read") from None


def _verify_with(payload: bytes, text: bytes, certs: Sequence[Cert], now: datetime) -> str:
    import pysequoia

    signature = pysequoia.Sig.from_bytes(text + b"\n")
    try:
        found = pysequoia.verify(bytes=payload, store=lambda _: list(certs), signature=signature)
    except RuntimeError:
        raise SignatureError(_why_not(signature, certs, now)) from None
    flaw = ""
    for valid in found.valid_sigs:
        cert = next(cert for cert in certs if cert.fingerprint == valid.certificate)
        flaw = _flaw(cert, valid.signing_key, now)
        if not flaw:
            return _key_id(cert)
    raise SignatureError(flaw or "no key made it")


def _why_not(signature: Sig, certs: Sequence[Cert], now: datetime) -> str:
    """Why a signature did not verify, as far as can be told."""
    issuer = (signature.issuer_fingerprint or signature.issuer_key_id or "").lower()
    for cert in certs:
        key = next((key for key in _components(cert) if issuer and key.endswith(issuer)), "")
        if key:
            return _flaw(cert, key, now) or (
                f"it does not fit, or key {_key_id(cert)} or its algorithms cannot be trusted any more"
            )
    return f"it was made by key {issuer.upper()[-16:]}, which is not trusted" if issuer else "no key fits"


def _flaw(cert: Cert, key: str, now: datetime) -> str:
    """What makes a key unusable today, whenever the signature was made; empty when it is good."""
    shown = _key_id(cert)
    try:
        expires, is_revoked = cert.expiration, cert.is_revoked
    except RuntimeError:
        return f"key {shown} cannot be trusted any more: no self-signature of it counts"
    if is_revoked or (key != cert.fingerprint and _subkey_is_revoked(cert, key)):
        return f"key {shown} is revoked"
    if key != cert.fingerprint:
        ends = _subkey_expiration(cert, key)
        expires = min(expires, ends) if expires and ends else expires or ends
    return f"key {shown} has expired" if expires is not None and expires <= now else ""


def _key_id(cert: Cert) -> str:
    """The id of a certificate's primary key: the end of a fingerprint of version 4, the beginning of a later one."""
    whole = cert.fingerprint.upper()
    return whole[-16:] if len(whole) == 40 else whole[:16]


def _components(cert: Cert) -> dict[str, list[_Binding]]:
    """The keys of a certificate by fingerprint, each with the signatures behind it."""
    from pysequoia.packet import PacketPile, Tag

    found: dict[str, list[_Binding]] = {}
    current: list[_Binding] = []
    created: datetime | None = None
    for packet in PacketPile.from_bytes(bytes(cert)):
        if packet.tag in (Tag.PublicKey, Tag.PublicSubkey):
            current, created = [], packet.key_created
            found[(packet.fingerprint or "").lower()] = current
        elif packet.tag == Tag.Signature:
            validity = packet.key_validity_period
            ends = created + validity if created is not None and validity else None
            current.append(_Binding(str(packet.signature_type), packet.signature_created, ends))
    return found


@dataclass(frozen=True)
class _Binding:
    """One signature over a key: its type, when it was made, and when it lets the key expire."""

    kind: str
    made: datetime | None
    ends: datetime | None


def _subkey_is_revoked(cert: Cert, key: str) -> bool:
    return any(binding.kind.endswith("SubkeyRevocation") for binding in _components(cert).get(key, ()))


def _subkey_expiration(cert: Cert, key: str) -> datetime | None:
    """When a subkey expires by its newest binding."""
    bindings = [one for one in _components(cert).get(key, ()) if one.kind.endswith("SubkeyBinding")]
    newest = max(bindings, key=lambda one: one.made or datetime.min.replace(tzinfo=UTC), default=None)
    return newest.ends if newest is not None else None


def _verify_ssh(payload: bytes, text: bytes, keys: Sequence[SSHKey]) -> str:
    signature = _SshSignature.read(text)
    shown = "SHA256:" + base64.b64encode(hashlib.sha256(signature.key).digest()).rstrip(b"=").decode()
    key = next((key for key in keys if key.public_data == signature.key), None)
    if key is None:
        raise SignatureError(f"it was made by key {shown}, which is not trusted")
    if signature.namespace != _NAMESPACE:
        raise SignatureError("it was not made for git")
    made = _HASHES.get(signature.hash_name)
    algorithm, _ = _string(signature.signature)
    if made is None or algorithm not in _SSH_ALGORITHMS:
        raise SignatureError("it was made by an algorithm that is not trusted")
    if algorithm.startswith(b"rsa-") and getattr(key.pyca_key, "key_size", 0) < _SHORTEST_RSA:
        raise SignatureError(f"key {shown} is shorter than {_SHORTEST_RSA} bits")
    parts = (signature.namespace, b"", signature.hash_name, made(payload).digest())
    data = b"SSHSIG" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    if not _fits(key, data, signature.signature):
        raise SignatureError(f"it does not fit key {shown}")
    return shown


def _fits(key: SSHKey, data: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return key.verify(data, signature)
    except (ValueError, OverflowError, UnsupportedAlgorithm):
        # Numbers that no signature has, or a key that only looks like one.
        return False


@dataclass(frozen=True)
class _SshSignature:
    """The fields of an SSH signature, as OpenSSH's PROTOCOL.sshsig has them."""

    key: bytes
    namespace: bytes
    hash_name: bytes
    signature: bytes

    @classmethod
    def read(cls, text: bytes) -> _SshSignature:
        """Read the armored form. Raises SignatureError."""
        body = b"".join(text[len(_SSH) : -len(_ENDS[_SSH])].split())
        try:
            raw = base64.b64decode(body, validate=True)
        except binascii.Error:
            raw = b""
        if not raw.startswith(b"SSHSIG\0\0\0\x01"):
            raise SignatureError("the SSH signature cannot be read")
        rest = raw[10:]
        fields: list[bytes] = []
        for _ in range(5):
            value, rest = _string(rest)
            fields.append(value)
        if rest:
            raise SignatureError("the SSH signature cannot be read")
        key, namespace, _reserved, hash_name, signature = fields
        return cls(key, namespace, hash_name, signature)


def _string(raw: bytes) -> tuple[bytes, bytes]:
    """A string of SSH's wire form, and what follows it."""
    end = 4 + int.from_bytes(raw[:4], "big")
    if len(raw) < max(end, 4):
        raise SignatureError("the SSH signature cannot be read")
    return raw[4:end], raw[end:]
