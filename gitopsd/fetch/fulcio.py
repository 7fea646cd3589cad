"""Short-lived certificates that say who signed: chains, certificate logs, and the identity they are for.

Knows the X.509 profile of Fulcio, embedded certificate timestamps (RFC 6962) and Go's regular expressions; refuses to
know signatures and transparency logs. Pure; everything here blocks for a few milliseconds.
Invariants: a certificate is judged at the time of signing, never at the present; identities are alternatives, and none
at all means anybody (spec/source.md 6.1, 11.1).
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from gitopsd.apply.patterns import PatternError, anywhere
from gitopsd.fetch.errors import printable
from gitopsd.fetch.imagesignatures import VerifyError, is_signed

_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_PLAIN: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_OTHER_NAME: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
_UTF8_STRING: Final = 0x0C
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_TIMESTAMPS: Final = 16
# Matching takes time in proportion to pattern times text; what identifies somebody is far shorter.
_LONGEST_NAME: Final = 2048
# An authority for signers gives a certificate one name.
_MOST_NAMES: Final = 16
MOST_IDENTITIES: Final = 100
# Seconds that all identities together may take on one certificate.
_PATIENCE: Final = 1.0

CertificateError = (
    ValueError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates of strangers."""


@dataclass(frozen=True)
class Signer:
    """Whom a certificate is for: the OIDC issuer that vouched, and the subject's names."""

    issuer: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Signer:
        """Read it from a certificate. Raises CertificateError."""
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
        found = [str(name.value) for name in names if isinstance(name, kinds)]
        others = [name for name in names if isinstance(name, x509.OtherName) and name.type_id == _OTHER_NAME]
        return cls(_issuer(certificate), tuple(found + [_der_text(name.value) for name in others]))


def _issuer(certificate: x509.Certificate) -> str:
    for identifier, read in ((_ISSUER, _der_text), (_ISSUER_PLAIN, partial(str, encoding="utf-8", errors="replace"))):
        for extension in certificate.extensions:
            if extension.oid == identifier and isinstance(extension.value, x509.UnrecognizedExtension):
                return read(extension.value.value)
    return ""


def _der_text(raw: bytes) -> str:
    """A UTF8String of DER, of at most 64 KiB."""
    if len(raw) < 2 or raw[0] != _UTF8_STRING:
        raise ValueError("not a UTF8String")
    start, length = 2, raw[1]
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(raw[2:start], "big")
    if start > 4 or len(raw) != start + length:
        raise ValueError("a UTF8String of a wrong length")
    return raw[start:].decode()


class Identities:
    """Who may sign: pairs of regular expressions for issuer and subject, any of which may match."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        """An empty expression matches anything. Raises VerifyError for one that is not Go's, and for too many.

        Blocking: milliseconds for each.
        """
        if len(pairs) > MOST_IDENTITIES:
            raise VerifyError(f"there are more than {MOST_IDENTITIES} identities", rule="identities")
        self._pairs = [(_expression("issuer", issuer), _expression("subject", subject)) for issuer, subject in pairs]

    def check(self, certificate: x509.Certificate) -> None:
        """Raise VerifyError unless the certificate is for one of them."""
        if not self._pairs:
            return
        try:
            signer = Signer.of(certificate)
        except CertificateError:
            raise VerifyError("its certificate's identity cannot be read") from None
        if self._is_among_them(signer):
            return
        names = ", ".join(f"'{printable(name, 128)}'" for name in signer.names[:3])
        raise VerifyError(f"it was made by {names or 'nobody'} of '{printable(signer.issuer, 128)}'")

    def _is_among_them(self, signer: Signer) -> bool:
        deadline = time.monotonic() + _PATIENCE
        for issuer, subject in self._pairs:
            if time.monotonic() > deadline:
                raise VerifyError("the expressions of the identities take too long", rule="regexp")
            if issuer is not None and not issuer(signer.issuer):
                continue
            if subject is None or any(map(subject, signer.names[:_MOST_NAMES])):
                return True
        return False


def _expression(what: str, pattern: str) -> Callable[[str], bool] | None:
    """A predicate for texts in which an expression matches somewhere; None for an empty one."""
    if not pattern:
        return None
    try:
        matches = anywhere(pattern)
    except PatternError as error:
        shown = printable(pattern, 128)
        raise VerifyError(f"the {what} '{shown}' of an identity is no regular expression: {error}") from None
    return lambda text: len(text) <= _LONGEST_NAME and matches(text)


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate of PEM text. Raises VerifyError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except CertificateError:
        raise VerifyError("its certificate cannot be read") from None


def check_certificate(
    certificate: x509.Certificate, at: datetime, authorities: Sequence[x509.Certificate], logs: Mapping[bytes, object]
) -> None:
    """Raise VerifyError unless an authority issued a certificate that was good for signing `at`, and a log saw it."""
    try:
        chain = _chain(certificate, at, authorities)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
            raise VerifyError("its certificate is not one for signing")
        check_timestamps(certificate, chain[1], logs)
    except CertificateError as error:
        raise VerifyError(f"its certificate is not one for signing: {printable(str(error), 256)}") from None


def _chain(
    certificate: x509.Certificate, at: datetime, authorities: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    if not authorities:
        raise VerifyError("no certificate authority was trusted when its certificate was issued")
    anything = ExtensionPolicy.webpki_defaults_ca().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    leaf = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    builder = (
        PolicyBuilder().store(Store(list(authorities))).time(at).extension_policies(ca_policy=anything, ee_policy=leaf)
    )
    try:
        chain = builder.build_client_verifier().verify(certificate, []).chain
    except VerificationError as error:
        reason = printable(str(error), 256)
        raise VerifyError(f"its certificate was not valid at {at:%Y-%m-%dT%H:%M:%SZ}: {reason}") from None
    if len(chain) < 2:
        raise VerifyError("its certificate is an authority's own")
    return chain


def check_timestamps(certificate: x509.Certificate, issuer: x509.Certificate, logs: Mapping[bytes, object]) -> None:
    """Raise VerifyError (or CertificateError) unless one of `logs` signed one of the timestamps in a certificate."""
    try:
        kind = x509.PrecertificateSignedCertificateTimestamps
        stamps = list(certificate.extensions.get_extension_for_class(kind).value)
    except x509.ExtensionNotFound:
        raise VerifyError("its certificate has no timestamp of a certificate log") from None
    for stamp in stamps[:_MOST_TIMESTAMPS]:
        key = logs.get(stamp.log_id)
        if key is not None and is_signed(key, stamp.signature, _stamped(stamp, certificate, issuer)):
            return
    raise VerifyError("its certificate's timestamp is by no trusted certificate log")


def _stamped(stamp: SignedCertificateTimestamp, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """What a certificate log signs, for a certificate that holds the timestamp itself (RFC 6962, 3.2)."""
    milliseconds = (stamp.timestamp.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body, extensions = certificate.tbs_precertificate_bytes, stamp.extension_bytes
    head = struct.pack("!BBQH", stamp.version.value, 0, milliseconds, LogEntryType.PRE_CERTIFICATE.value)
    entry = hashlib.sha256(spki).digest() + len(body).to_bytes(3, "big") + body
    return head + entry + struct.pack("!H", len(extensions)) + extensions
