"""Signatures without keys: a certificate says who signed, a log says when, a trusted root says whom to believe.

Bundles are judged by the sigstore library, which is loaded when the first of them comes (30 MiB that most daemons
never need). What cosign kept before version 3 has no proof of inclusion, and is judged here (`logentry`, `fulcio`).

Refuses to know where signatures are kept and where the root comes from. Pure, and blocking for some milliseconds.
Invariant: an authority or log counts only during the time for which the root vouches for it.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from gitopsd.fetch.errors import printable
from gitopsd.fetch.fulcio import CertificateError, Identities, check_certificate, read_certificate
from gitopsd.fetch.imagesignatures import (
    Artifact,
    SimpleSignature,
    VerifyError,
    check_payload,
    check_statement,
    is_signed,
    read_bundle,
)
from gitopsd.fetch.logentry import check_body, check_promise, read_entry
from gitopsd.fetch.trustroot import TrustRoot

if TYPE_CHECKING:
    from sigstore.verify import Verifier

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class KeylessCheck:
    """Accepts what one of some identities signed, with a certificate and a log of one Sigstore."""

    needs_content = False

    def __init__(self, root: TrustRoot, identities: Identities) -> None:
        self._root = root
        self._identities = identities

    # -- bundles

    def bundle(self, raw: bytes, artifact: Artifact) -> None:
        """Check a Sigstore bundle. Raises VerifyError."""
        read_bundle(raw)  # in bounded depth, and with a type that is a bundle's
        from sigstore.errors import Error

        try:
            self._judge(raw, artifact)
        except (InvalidSignature, UnsupportedAlgorithm):
            raise VerifyError("its signature does not match its certificate") from None
        except (Error, *CertificateError, struct.error, LookupError, OverflowError) as error:
            raise VerifyError(f"its bundle proves nothing: {printable(str(error), 256)}") from None

    def _judge(self, raw: bytes, artifact: Artifact) -> None:
        from sigstore.hashes import Hashed
        from sigstore.models import Bundle
        from sigstore_models.common.v1 import HashAlgorithm

        bundle = Bundle.from_json(raw)
        certificate = bundle.signing_certificate
        if not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
            raise VerifyError("its certificate's key is not of an elliptic curve")
        verifier = self._verifier(certificate, _logged(raw))
        if read_bundle(raw).dsse_envelope is not None:
            payload_type, payload = verifier.verify_dsse(bundle, self)
            check_statement(payload_type, payload, artifact)
        else:
            verifier.verify_artifact(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=artifact.hash), bundle, self)

    def _verifier(self, certificate: x509.Certificate, logged: datetime | None) -> Verifier:
        from sigstore.models import TrustedRoot
        from sigstore.verify import Verifier
        from sigstore_models.trustroot.v1 import TrustedRoot as Inner

        issued = certificate.not_valid_before_utc
        root = self._root.at(issued, logged or issued)
        return Verifier(trusted_root=TrustedRoot(Inner.from_json(msgspec.json.encode(root.plain))))

    def verify(self, cert: x509.Certificate) -> None:
        """What the library asks about a certificate that is otherwise good."""
        self._identities.check(cert)

    # -- before version 3

    def signature(self, found: SimpleSignature, artifact: Artifact) -> None:
        """Check a signature of cosign before version 3. Raises VerifyError."""
        if not found.certificate:
            raise VerifyError("it was made with a key")
        certificate = read_certificate(found.certificate)
        entry = read_entry(found.log_entry)
        root = self._root.at(certificate.not_valid_before_utc, entry.time)
        check_promise(entry, root.keys("tlogs"))
        check_body(entry, found, certificate)
        check_certificate(certificate, entry.time, root.authorities(), root.keys("ctlogs"))
        if not is_signed(certificate.public_key(), found.signature, found.payload):
            raise VerifyError("its signature does not match its certificate")
        check_payload(found.payload, artifact)
        self._identities.check(certificate)


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    integrated_time: str | int | None = None


class _Material(msgspec.Struct, frozen=True, rename="camel"):
    tlog_entries: list[_Entry] = []


class _Times(msgspec.Struct, frozen=True, rename="camel"):
    verification_material: _Material


def _logged(raw: bytes) -> datetime | None:
    """When the log says that it saw a bundle; newer logs leave that to timestamp authorities."""
    entries = msgspec.json.decode(raw, type=_Times).verification_material.tlog_entries
    seconds = int(entries[0].integrated_time or 0) if entries else 0
    return _EPOCH + timedelta(seconds=seconds) if seconds else None
