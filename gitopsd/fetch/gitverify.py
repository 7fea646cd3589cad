"""Signatures of commits and tags: from an object's raw bytes and the keys that are trusted to the key that signed it.

Theory of operation. A signature covers the bytes of its object without the signature itself: a commit carries it in a
header, a tag at the end of its message. The bytes are split once and never written anew, so nothing that a parser
overlooks can slip in between what is verified and what is used. Anything ambiguous is refused: two signature headers,
text after the signature. OpenPGP is left to Sequoia's library with its current policy, which trusts no SHA-1; a key
has to be good today, not only on the day of the signature.

Knows Git's signed objects, OpenPGP and SSH signatures (spec/source.md 5.6); refuses to know Kubernetes, networks, and
where keys come from. Pure, and blocking: belongs into a thread.
Invariants: no key material and nothing of a stranger reaches a message but hex digits; keys live in one `TrustedKeys`
and nowhere else (spec/hostile-inputs.md D).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from gitopsd.errors import GitopsdError
from gitopsd.fetch.errors import printable

if TYPE_CHECKING:
    from asyncssh import SSHKey
    from pysequoia import Cert, Sig

MOST_KEYS: Final = 1000
"""How many keys one Secret may hold."""

_PGP: Final = b"-----BEGIN PGP SIGNATURE-----"
_SSH: Final = b"-----BEGIN SSH SIGNATURE-----"
_X509: Final = b"-----BEGIN SIGNED MESSAGE-----"
_ENDS: Final = {_PGP: b"-----END PGP SIGNATURE-----", _SSH: b"-----END SSH SIGNATURE-----"}
_SIGNATURE_LINE: Final = re.compile(
    rb"^-----BEGIN (?:PGP SIGNATURE|PGP MESSAGE|SSH SIGNATURE|SIGNED MESSAGE)-----", re.MULTILINE
)
_HEADERS: Final = (b"gpgsig", b"gpgsig-sha256")
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
_PRIVATE: Final = re.compile(rb"-----BEGIN (?:[A-Z0-9 ]{1,40} )?PRIVATE KEY(?: BLOCK)?-----")
_PGP_KEY: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_PGP_KEY_END: Final = b"-----END PGP PUBLIC KEY BLOCK-----"
# The options before a key in the style of authorized_keys: they end at the first space outside of quotes.
_SSH_OPTIONS: Final = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+[ \t]+(?=\S)')


class SignatureError(GitopsdError):
    """A commit or tag is not signed, or not by a key that is trusted; the text says which."""


class KeysError(GitopsdError):
    """The data of a Secret cannot serve as public keys."""


@dataclass(frozen=True)
class Signed:
    """An object taken apart: the bytes that its signature covers, and the signature (empty without one)."""

    payload: bytes
    signature: bytes


# -- keys --------------------------------------------------------------------------------------------------------------


def fingerprint(data: Mapping[str, bytes]) -> str:
    """`sha256:<hex>` of the keys of a Secret: another value when any of them changes, in whatever order they come."""
    hashed = hashlib.sha256()
    for name in sorted(data):
        for part in (name.encode(), data[name]):
            hashed.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{hashed.hexdigest()}"


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys of one Secret. `unreadable` names entries that hold no key."""

    pgp: tuple[Cert, ...] = field(repr=False)
    ssh: tuple[SSHKey, ...] = field(repr=False)
    unreadable: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: Mapping[str, bytes]) -> TrustedKeys:
        """Take keys by the names of their entries: `*.sshpub` are SSH keys, all else armored OpenPGP.

        An entry that holds no key adds no trust and is passed over while others do. Raises KeysError for no key at
        all, for too many, and for private keys.
        """
        pgp: list[Cert] = []
        ssh: list[SSHKey] = []
        unreadable: list[str] = []
        for name, value in sorted(data.items()):
            if _PRIVATE.search(value):
                raise KeysError(f"'{_shown(name)}' holds a private key")
            before = len(pgp) + len(ssh)
            if name.endswith(".sshpub"):
                ssh += _ssh_keys(value)
            else:
                pgp += _pgp_keys(name, value)
            _check_amount(len(pgp) + len(ssh))
            if len(pgp) + len(ssh) == before:
                unreadable.append(_shown(name))
        if not pgp and not ssh:
            raise KeysError(f"no public key in {_listed(unreadable)}" if unreadable else "it is empty")
        return cls(tuple(pgp), tuple(ssh), tuple(unreadable))


def _pgp_keys(name: str, value: bytes) -> list[Cert]:
    from pysequoia import Cert
    from pysequoia.packet import PacketPile, Tag

    found: list[Cert] = []
    blocks = value.split(_PGP_KEY)[1:]
    _check_amount(len(blocks))
    for block in (_PGP_KEY + part.partition(_PGP_KEY_END)[0] + _PGP_KEY_END for part in blocks):
        try:
            if any(packet.tag in (Tag.SecretKey, Tag.SecretSubkey) for packet in PacketPile.from_bytes(block)):
                raise KeysError(f"'{_shown(name)}' holds a private key")
            found += Cert.split_bytes(block)
        except RuntimeError:  # the library's only error; its text holds a stack
            continue
        _check_amount(len(found))
    return found


def _ssh_keys(value: bytes) -> list[SSHKey]:
    lines = [line.strip() for line in value.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    _check_amount(len(lines))
    return [key for line in lines if (key := _ssh_key(line)) is not None]


def _check_amount(keys: int) -> None:
    if keys > MOST_KEYS:
        raise KeysError(f"there are more than {MOST_KEYS} keys")


def _ssh_key(line: str) -> SSHKey | None:
    """The key of one line of authorized_keys; None without one."""
    from asyncssh import KeyImportError, import_public_key

    options = _SSH_OPTIONS.match(line)
    for text in (line, line[options.end() :] if options else ""):
        try:
            return import_public_key(text)
        except (KeyImportError, ValueError):
            continue
    return None


# -- objects -----------------------------------------------------------------------------------------------------------


def split_commit(raw: bytes) -> Signed:
    """Take the signature out of a commit's header. Raises SignatureError when there is more than one."""
    payload, found = _without_headers(raw)
    return Signed(payload, found.get(b"gpgsig", b""))


def split_tag(raw: bytes) -> Signed:
    """Take the signature off the end of a tag's message. Raises SignatureError as `split_commit` does."""
    body = raw.find(b"\n\n")
    found = list(_SIGNATURE_LINE.finditer(raw, body + 1)) if body >= 0 else []
    if not found:
        return Signed(raw, b"")
    start = found[-1].start()
    payload, _ = _without_headers(raw[:start])
    return Signed(payload, raw[start:])


def _without_headers(raw: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The object without its signature headers, byte for byte, and their values."""
    kept: list[bytes] = []
    found: dict[bytes, bytes] = {}
    current = b""
    end = raw.find(b"\n\n") + 1
    for line in (line + b"\n" for line in raw[:end].split(b"\n")[:-1]):
        if not line.startswith(b" "):
            name, _, value = line.partition(b" ")
            current = name if name in _HEADERS else b""
            if current in found:
                raise SignatureError("it has more than one signature header")
            if current:
                found[current] = value
                continue
        elif current:
            found[current] += line[1:]
            continue
        kept.append(line)
    return b"".join(kept) + raw[end:], found


def is_signed_tag(raw: bytes) -> bool:
    """Whether a tag object (empty for a lightweight tag) carries a signature of any kind."""
    return bool(raw) and bool(split_tag(raw).signature)


def tag_hash(raw: bytes) -> str:
    """The hash of a tag object."""
    return hashlib.sha1(b"tag %d\0" % len(raw) + raw, usedforsecurity=False).hexdigest()


# -- verification ------------------------------------------------------------------------------------------------------


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
    if text.find(_ENDS[kind]) != len(text) - len(_ENDS[kind]):
        raise SignatureError("the signature does not end where it should")
    try:
        if kind == _SSH:
            return _verify_ssh(signed.payload, text, keys.ssh)
        return _verify_pgp(signed.payload, text, keys.pgp, now or datetime.now(UTC))
    except SignatureError as error:
        if keys.unreadable:
            raise SignatureError(f"{error}; there is no key in {_listed(keys.unreadable)}") from None
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
    if not key.verify(data, signature.signature):
        raise SignatureError(f"it does not fit key {shown}")
    return shown


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


def _shown(name: str) -> str:
    return printable(name, 128)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
