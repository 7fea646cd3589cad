"""How a registry is told who asks: basic authentication, and the token servers of the distribution project.

Knows challenges, tokens and where credentials may go; refuses to know what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy

IDENTITY_TOKEN_USER = "<token>"  # noqa: S105 - the user name that says what the password is


@dataclass(frozen=True)
class RegistryAccess:
    """Who we are towards a registry, and the way there.

    `token` is sent as it is as a bearer token. A `password` of the user `<token>` is an identity token, exchanged at
    the registry's token server. With `plain_http` a registry that does not speak TLS is asked over plain HTTP.
    `timeout` bounds each call (seconds).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    tls: TlsIdentity = field(default_factory=TlsIdentity)
    proxy: Proxy | None = None
    plain_http: bool = False
    timeout: float = 60.0
