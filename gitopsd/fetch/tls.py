"""TLS for clients: what a Secret's certificates mean, as an `ssl.SSLContext`.

Verification is never switched off. A CA is added to the system's pool, as Flux does; any certificate of the pool may
end a chain. Building a context reads files and takes tens of milliseconds: call `client_context` through `offload`.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class TLSMaterialError(ValueError):
    """Certificates or a key that cannot be used; the text names the Secret's key and is safe to show."""


def client_context(ca: bytes = b"", cert: bytes = b"", key: bytes = b"") -> ssl.SSLContext:
    """Build a verifying context from PEM bytes, each of which may be empty. Blocking. Raises TLSMaterialError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Go accepts a pinned leaf or intermediate as the end of a chain, and old CAs without every extension.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca:
        _add_authorities(context, ca)
    if cert or key:
        if not (cert and key):
            raise TLSMaterialError("'tls.crt' and 'tls.key' must be set together")
        _add_identity(context, cert, key)
    return context


def _add_authorities(context: ssl.SSLContext, ca: bytes) -> None:
    before = context.cert_store_stats()["x509"]
    try:
        context.load_verify_locations(cadata=ca.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise TLSMaterialError("'ca.crt' holds no PEM certificate") from None
    if context.cert_store_stats()["x509"] == before and b"-----BEGIN CERTIFICATE-----" not in ca:
        raise TLSMaterialError("'ca.crt' holds no PEM certificate")


def _add_identity(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    try:
        with _readable(cert) as cert_path, _readable(key) as key_path:
            # Without a password callback OpenSSL would ask on the terminal for that of an encrypted key.
            context.load_cert_chain(cert_path, key_path, password=lambda: b"")
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise TLSMaterialError("'tls.key' does not belong to 'tls.crt'") from None
        raise TLSMaterialError("'tls.crt' or 'tls.key' is not a usable PEM certificate and key") from None


@contextmanager
def _readable(data: bytes) -> Iterator[str]:
    """A path under which `data` can be read meanwhile: memory where the system has it, else a private file."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("gitopsd-pem", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name
