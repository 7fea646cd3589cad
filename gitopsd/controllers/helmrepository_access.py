"""Who we are towards a Helm repository with an index: from the Secrets that it names to an `Access`.

A part of the source controller. Knows the row of `spec/source.md` 11.1 and the texts of 7.4; refuses to know requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import structlog

from gitopsd.api.meta import ConditionType, Reason
from gitopsd.api.source import HelmRepository
from gitopsd.controllers.secrets import Secret, Secrets
from gitopsd.controllers.source import SourceError
from gitopsd.errors import GitopsdError
from gitopsd.fetch.auth import basic, tls_identity
from gitopsd.fetch.http import Access, TlsIdentity

log = structlog.get_logger()

_TLS_KEYS: Final = frozenset(("tls.crt", "tls.key", "ca.crt", "certFile", "keyFile", "caFile"))


class BasicAuth(NamedTuple):
    """A user name and a password; empty without one."""

    username: str = ""
    password: str = ""


async def repository_access(source: HelmRepository, secrets: Secrets) -> Access:
    """Read the Secrets of a repository of the default type. Raises SourceError `AuthenticationFailed`."""
    spec, namespace = source.spec, source.metadata.namespace
    pair, tls = _from_url(spec.url), TlsIdentity()
    if spec.secret_ref is not None:
        secret = await _secret(secrets, namespace, spec.secret_ref.name, "authentication secret")
        try:
            pair = basic_auth(secret) or pair
            if spec.cert_secret_ref is None and not _TLS_KEYS.isdisjoint(secret.data):
                log.info("TLS data in spec.secretRef is deprecated, use spec.certSecretRef")
                tls = tls_identity(secret.data, secret=secret.name)
        except ValueError as error:
            raise _refusal(f"failed to detect authentication methods: {error}") from error
    if spec.cert_secret_ref is not None:
        secret = await _secret(secrets, namespace, spec.cert_secret_ref.name, "TLS authentication secret")
        try:
            tls = tls_identity(secret.data, secret=secret.name)
        except ValueError as error:
            raise _refusal(f"failed to construct Helm client's TLS config: {error}") from error
    return Access(authorization=basic(*pair) if pair else "", tls=tls)


def basic_auth(secret: Secret) -> BasicAuth | None:
    """User name and password of a Secret, None when it has neither. Raises ValueError for one without the other."""
    username, password = _text(secret.data, "username"), _text(secret.data, "password")
    if not username and not password:
        return None
    if not username or not password:
        missing = "username" if not username else "password"
        raise ValueError(f"secret '{secret.name}': malformed basic auth: '{missing}' is missing")
    return BasicAuth(username, password)


def _text(data: Mapping[str, bytes], key: str) -> str:
    return data.get(key, b"").decode("utf-8", "surrogateescape")


def _from_url(url: str) -> BasicAuth | None:
    """What stands before the host; a Secret's wins over it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if not parts.username and not parts.password:
        return None
    return BasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))


async def _secret(secrets: Secrets, namespace: str, name: str, what: str) -> Secret:
    try:
        return await secrets.get(namespace, name)
    except GitopsdError as error:
        raise _refusal(f"failed to get {what} '{namespace}/{name}': {error}") from error


def _refusal(message: str) -> SourceError:
    return SourceError(ConditionType.FETCH_FAILED, Reason.AUTHENTICATION_FAILED, message)
