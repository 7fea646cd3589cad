"""Tokens of Microsoft Entra ID for registries, Azure DevOps and storage."""

from __future__ import annotations

from gitopsd.fetch.http import ANYBODY, Access, HttpClient

STORAGE_SCOPE = "https://storage.azure.com/.default"


async def client_secret_token(
    web: HttpClient,
    *,
    tenant: str,
    client: str,
    secret: str,
    authority: str = "",
    scope: str = STORAGE_SCOPE,
    access: Access = ANYBODY,
) -> str:
    """Exchange a client's secret for a bearer token. `authority` is `authorityHost`. Raises RemoteError, ValueError."""
    raise NotImplementedError


async def client_certificate_token(
    web: HttpClient,
    *,
    tenant: str,
    client: str,
    certificate: bytes,
    password: str = "",
    send_chain: bool = False,
    authority: str = "",
    scope: str = STORAGE_SCOPE,
    access: Access = ANYBODY,
) -> str:
    """Exchange a client's certificate (PEM or PKCS#12 with its key) for a bearer token. Raises RemoteError, ValueError."""
    raise NotImplementedError
