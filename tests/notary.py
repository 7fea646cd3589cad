"""Signatures of the Notary Project, made by a test's own authority."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from tests.sigstore import compact, new_key

JWS = "application/jose+json"
ARTIFACT_TYPE = "application/vnd.cncf.notary.signature"
_SCHEME = "io.cncf.notary.signingScheme"


def trust_policy(level: str = "strict", **changes: Any) -> bytes:
    """`trustpolicy.json` for every repository, and for whoever has a certificate."""
    statement = {
        "name": "all",
        "registryScopes": ["*"],
        "signatureVerification": {"level": level},
        "trustStores": ["ca:any"],
        "trustedIdentities": ["*"],
    }
    return json.dumps({"version": "1.0", "trustPolicies": [statement | changes]}).encode()


class Notary:
    """An authority and a signer whom it vouches for."""

    def __init__(self, *, ocsp_url: str = "", ends: timedelta = timedelta(days=1)) -> None:
        self._authority_key, self._key = new_key(), new_key()
        now = datetime.now(UTC).replace(microsecond=0)
        self.root = _certificate("authority", self._authority_key, None, now + timedelta(days=2))
        issuer = (self.root, self._authority_key)
        self.certificate = _certificate("signer", self._key, issuer, now + ends, ocsp_url)
        self._signing_time = now + min(ends, timedelta()) - timedelta(hours=1)

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self.root.public_bytes(Encoding.PEM)

    def sign(self, descriptor: dict[str, Any]) -> bytes:
        """A JWS envelope for an artifact."""
        protected = {
            "alg": "ES256",
            "crit": [_SCHEME],
            "cty": "application/vnd.cncf.notary.payload.v1+json",
            _SCHEME: "notary.x509",
            "io.cncf.notary.signingTime": f"{self._signing_time:%Y-%m-%dT%H:%M:%SZ}",
        }
        payload, head = _url64(compact({"targetArtifact": descriptor})), _url64(compact(protected))
        r, s = decode_dss_signature(self._key.sign(f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256())))
        chain = [one.public_bytes(Encoding.DER) for one in (self.certificate, self.root)]
        return compact(
            {
                "payload": payload,
                "protected": head,
                "header": {"x5c": [base64.b64encode(one).decode() for one in chain]},
                "signature": _url64(r.to_bytes(32, "big") + s.to_bytes(32, "big")),
            }
        )

    def status(self, *, revoked: bool) -> bytes:
        """What an OCSP server says of the signer's certificate."""
        now = datetime.now(UTC)
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=self.certificate,
            issuer=self.root,
            algorithm=hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
            this_update=now - timedelta(minutes=5),
            next_update=now + timedelta(hours=1),
            revocation_time=now - timedelta(hours=2) if revoked else None,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, self.root)
        return builder.sign(self._authority_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    ends: datetime,
    ocsp_url: str = "",
) -> x509.Certificate:
    kinds = (NameOID.COUNTRY_NAME, NameOID.STATE_OR_PROVINCE_NAME, NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    values = ("XX", "Tests", "tests", name)
    subject = x509.Name([x509.NameAttribute(kind, value) for kind, value in zip(kinds, values, strict=True)])
    is_root = issuer is None
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=30))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=1 if is_root else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_root, key_cert_sign=is_root, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
    )
    if ocsp_url:
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    return builder.sign(key if issuer is None else issuer[1], hashes.SHA256())


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
