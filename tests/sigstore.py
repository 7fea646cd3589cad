"""A Sigstore of a test's own: an authority, a certificate log, a transparency log, and signatures made with them.

Nothing here listens; it makes what signers leave beside an artifact, in both of cosign's forms, and each way in which
that can be wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
"""When everything was signed: long enough ago that no certificate is valid any more."""
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO = "application/vnd.in-toto+json"
SUBJECT = "ci@example.org"
ISSUER = "https://issuer.example"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_der(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def log_id(key: Private) -> bytes:
    return hashlib.sha256(public_der(key)).digest()


def sign(key: Private, data: bytes, algorithm: hashes.HashAlgorithm | Prehashed | None = None) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), algorithm or hashes.SHA256())
    return key.sign(data, ec.ECDSA(algorithm or hashes.SHA256()))


def simple_payload(digest: str, *, kind: str = "cosign container image signature") -> bytes:
    """The payload of simple signing."""
    identity = {"docker-reference": "registry.example/app"}
    return compact({"critical": {"identity": identity, "image": {"docker-manifest-digest": digest}, "type": kind}})


def statement(digest: str, predicate: str = "https://sigstore.dev/cosign/sign/v1") -> bytes:
    """An in-toto statement."""
    subject = {"name": "", "digest": {"sha256": digest.removeprefix("sha256:")}}
    return compact({"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate})


def pae(payload: bytes, kind: str = IN_TOTO) -> bytes:
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)


def envelope(key: Private, payload: bytes, kind: str = IN_TOTO, algorithm: Any = None) -> dict[str, Any]:
    signature = sign(key, pae(payload, kind), algorithm)
    return {"payload": b64(payload), "payloadType": kind, "signatures": [{"sig": b64(signature)}]}


def key_bundle(key: Private, digest: str, **changes: Any) -> dict[str, Any]:
    """A bundle as cosign 3 makes it with a key."""
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": envelope(key, statement(digest)),
        **changes,
    }


def message_signature(key: Private, digest: str, content: bytes = b"") -> dict[str, Any]:
    hashed = bytes.fromhex(digest.removeprefix("sha256:"))
    is_ed25519 = isinstance(key, ed25519.Ed25519PrivateKey)
    signature = sign(key, content) if is_ed25519 else sign(key, hashed, Prehashed(hashes.SHA256()))
    return {"messageDigest": {"algorithm": "SHA2_256", "digest": b64(hashed)}, "signature": b64(signature)}


@dataclass
class Flaws:
    """How a signature differs from a good one."""

    subject: x509.GeneralName = field(default_factory=lambda: x509.RFC822Name(SUBJECT))
    issuer: str = ISSUER
    logged: timedelta = timedelta(minutes=1)
    timestamps: int = 1
    log_key: ec.EllipticCurvePrivateKey | None = None
    certificate_log_key: ec.EllipticCurvePrivateKey | None = None
    code_signing: bool = True
    old_issuer_extension: bool = False
    other_certificate: bool = False


class Sigstore:
    """Issues certificates and keeps a log."""

    def __init__(self) -> None:
        self.root_key, self.authority_key = ec.generate_private_key(ec.SECP384R1()), new_key()
        self.log_key, self.certificate_log_key = new_key(), new_key()
        self.root = self._authority("root", self.root_key, "root", self.root_key)
        self.authority = self._authority("authority", self.authority_key, "root", self.root_key)

    def _authority(self, name: str, key: Private, issuer: str, issuer_key: Private) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if name != issuer:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        return builder.sign(issuer_key, hashes.SHA384())

    def trusted_root(self, *, until: datetime | None = None, **changes: Any) -> bytes:
        """`trusted_root.json`; everything in it was good until `until`."""
        period = {"start": _time(NOW - timedelta(days=1))}
        if until is not None:
            period["end"] = _time(until)
        chain = [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in (self.authority, self.root)]
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "certificateAuthorities": [
                {
                    "subject": {"organization": "tests", "commonName": "authority"},
                    "uri": "https://fulcio.example",
                    "certChain": {"certificates": chain},
                    "validFor": period,
                }
            ],
            "tlogs": [_log(self.log_key, period)],
            "ctlogs": [_log(self.certificate_log_key, period)],
            "timestampAuthorities": [],
        }
        return json.dumps(root | changes).encode()

    def certificate(self, key: ec.EllipticCurvePrivateKey, flaws: Flaws | None = None) -> x509.Certificate:
        """A certificate that is valid for ten minutes, with the timestamp of the certificate log."""
        flaws = flaws or Flaws()
        purpose = ExtendedKeyUsageOID.CODE_SIGNING if flaws.code_signing else ExtendedKeyUsageOID.CLIENT_AUTH
        authority_key = self.authority_key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(minutes=10))
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
            .add_extension(x509.SubjectAlternativeName([flaws.subject]), critical=True)
            .add_extension(_issuer(flaws), critical=False)
        )
        bare = builder.sign(self.authority_key, hashes.SHA256())
        if not flaws.timestamps:
            return bare
        stamp = self._timestamp(bare, flaws.certificate_log_key or self.certificate_log_key)
        stamps = (struct.pack("!H", len(stamp)) + stamp) * flaws.timestamps
        listed = struct.pack("!H", len(stamps)) + stamps
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), _der(0x04, listed))
        return builder.add_extension(extension, critical=False).sign(self.authority_key, hashes.SHA256())

    def _timestamp(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bytes:
        milliseconds = int(NOW.timestamp() * 1000) + 123
        body = certificate.tbs_certificate_bytes
        entry = hashlib.sha256(public_der(self.authority_key)).digest() + len(body).to_bytes(3, "big") + body
        signature = sign(key, struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0")
        head = b"\0" + log_id(key) + struct.pack("!Q", milliseconds) + b"\0\0"
        return head + b"\4\3" + struct.pack("!H", len(signature)) + signature

    def signed(self, flaws: Flaws | None = None) -> Signed:
        """Somebody with a certificate, about to sign."""
        return Signed(self, flaws or Flaws())


class Signed:
    """What one signer, known by a certificate, makes."""

    def __init__(self, sigstore: Sigstore, flaws: Flaws) -> None:
        self.sigstore = sigstore
        self.flaws = flaws
        self.key = new_key()
        self.certificate = sigstore.certificate(self.key, flaws)
        logged = sigstore.certificate(self.key) if flaws.other_certificate else self.certificate
        self._logged_certificate = b64(logged.public_bytes(Encoding.PEM))
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def bundle(self, digest: str, *, payload: bytes = b"", kind: str = IN_TOTO) -> dict[str, Any]:
        """A bundle with a statement, as cosign 3 makes it."""
        made = envelope(self.key, payload or statement(digest), kind)
        return self._bundle(self.statement_body(made)) | {"dsseEnvelope": made}

    def message_bundle(self, digest: str) -> dict[str, Any]:
        """A bundle with a signature over the manifest itself."""
        made = message_signature(self.key, digest)
        body = self._body(digest.removeprefix("sha256:"), made["signature"])
        return self._bundle(body) | {"messageSignature": made}

    def simple(self, payload: bytes, *, logged_payload: bytes = b"") -> tuple[bytes, dict[str, Any]]:
        """A signature over a payload of simple signing, and its log entry."""
        signature = sign(self.key, payload)
        body = self._body(hashlib.sha256(logged_payload or payload).hexdigest(), b64(signature))
        return signature, self.promised(body)

    def statement_body(self, made: dict[str, Any]) -> bytes:
        payload = base64.b64decode(made["payload"])
        signature = {"signature": made["signatures"][0]["sig"], "verifier": self._logged_certificate}
        spec = {
            "envelopeHash": _hash(compact(made)),
            "payloadHash": _hash(payload),
            "signatures": [signature],
        }
        return compact({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})

    def _body(self, hashed: str, signature: str) -> bytes:
        spec = {
            "data": {"hash": {"algorithm": "sha256", "value": hashed}},
            "signature": {"content": signature, "publicKey": {"content": self._logged_certificate}},
        }
        return compact({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec})

    def promised(self, body: bytes) -> dict[str, Any]:
        """An entry with the log's promise, as an annotation has it."""
        key = self.flaws.log_key or self.sigstore.log_key
        payload = {
            "body": b64(body),
            "integratedTime": int((NOW + self.flaws.logged).timestamp()),
            "logIndex": 4711,
            "logID": log_id(key).hex(),
        }
        return {"SignedEntryTimestamp": b64(sign(key, compact(payload))), "Payload": payload}

    def _bundle(self, body: bytes) -> dict[str, Any]:
        key = self.flaws.log_key or self.sigstore.log_key
        promise = self.promised(body)
        leaf = hashlib.sha256(b"\0" + body).digest()
        sibling = hashlib.sha256(b"\0before").digest()
        root = hashlib.sha256(b"\1" + sibling + leaf).digest()
        note = f"log.example - 1\n2\n{b64(root)}\n"
        checkpoint = f"{note}\n— log.example {b64(log_id(key)[:4] + sign(key, note.encode()))}\n"
        kind = json.loads(body)
        proof = {
            "logIndex": "1",
            "treeSize": "2",
            "rootHash": b64(root),
            "hashes": [b64(sibling)],
            "checkpoint": {"envelope": checkpoint},
        }
        entry = {
            "logIndex": str(promise["Payload"]["logIndex"]),
            "logId": {"keyId": b64(log_id(key))},
            "kindVersion": {"kind": kind["kind"], "version": kind["apiVersion"]},
            "integratedTime": str(promise["Payload"]["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": promise["SignedEntryTimestamp"]},
            "inclusionProof": proof,
            "canonicalizedBody": b64(body),
        }
        certificate = {"rawBytes": b64(self.certificate.public_bytes(Encoding.DER))}
        return {"mediaType": BUNDLE, "verificationMaterial": {"certificate": certificate, "tlogEntries": [entry]}}


def _name(name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer(flaws: Flaws) -> x509.UnrecognizedExtension:
    raw = flaws.issuer.encode()
    if flaws.old_issuer_extension:
        return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), raw)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), _der(0x0C, raw))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + struct.pack("!H", size)
    return bytes([tag]) + length + content


def _log(key: Private, period: dict[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": "https://log.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(public_der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": period},
        "logId": {"keyId": b64(log_id(key))},
    }


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
