"""Tokens of Google Cloud for registries and storage."""

from __future__ import annotations

from gitopsd.fetch.http import ANYBODY, Access, HttpClient

PLATFORM_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


async def service_account_token(
    web: HttpClient, key: bytes, *, scope: str = PLATFORM_SCOPE, access: Access = ANYBODY
) -> str:
    """Exchange a service account's key (its JSON file) for a bearer token. Raises RemoteError, ValueError."""
    raise NotImplementedError
