"""Secrets and ServiceAccounts as objects refer to them: read when a run needs them, never kept.

Knows where they are and how they are encoded; refuses to know what their keys mean. What goes wrong is told in the API
server's words, which name the object and never its content. A name that no object can have never becomes a path: it
could lead to another namespace's (spec/hostile-inputs.md P07).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import GVK, Obj, get_in
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Resource

_SECRETS: Final = Resource(GVK("", "v1", "Secret"), "secrets", namespaced=True)
_ACCOUNTS: Final = Resource(GVK("", "v1", "ServiceAccount"), "serviceaccounts", namespaced=True)


class SecretError(GitopsdError):
    """A Secret whose content cannot be read."""


@dataclass(frozen=True)
class Secret:
    """A Secret's `name` (with its namespace), type and decoded data."""

    name: str
    type: str
    data: Mapping[str, bytes] = field(repr=False)


class Secrets:
    """Reads Secrets and ServiceAccounts, and asks for ServiceAccounts' tokens."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def get(self, namespace: str, name: str) -> Secret:
        """Read a Secret. Raises GitopsdError, NotFoundError among others."""
        found = await self._client.get(_SECRETS.path(namespace, name))
        return Secret(f"{namespace}/{name}", str(found.get("type", "")), _decoded(found, f"{namespace}/{name}"))

    async def service_account(self, namespace: str, name: str) -> Obj:
        """Read a ServiceAccount. Raises GitopsdError, NotFoundError among others."""
        return await self._client.get(_ACCOUNTS.path(namespace, name))

    async def token(self, namespace: str, service_account: str, audience: str) -> str:
        """Have a short-lived token made for a ServiceAccount. Raises GitopsdError."""
        answer = await self._client.create(
            _ACCOUNTS.path(namespace, service_account, "token"),
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": [audience], "expirationSeconds": 3600},
            },
        )
        return str(get_in(answer, "status", "token", default=""))


def _decoded(secret: Obj, name: str) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
    except (binascii.Error, TypeError, ValueError):
        raise SecretError(f"Secret '{name}' holds data that is not base64") from None
