"""A token server for registries, as the distribution project defines it: basic authentication in, signed tokens out.

It gives a token for a scope by GET, with a password or to nobody in particular, and by POST for an identity token
(OAuth 2.0). Whether a token is enough is the registry's business, which trusts this server's certificate.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.certificates import Authority
from tests.servers.loopback import Answer, LoopbackServer


class TokenServer(LoopbackServer):
    """Knows `accounts` (user to password) and `identity_tokens` (token to user). Nobody may pull what is private.

    Repositories below `public/` may be pulled by everybody, all others by those with an account.
    """

    service = "registry.tests"
    issuer = "tokens.tests"
    lifetime = 300

    def __init__(self, accounts: Mapping[str, str] | None = None, *, authority: Authority | None = None) -> None:
        super().__init__(name="tokens", authority=authority)
        self.accounts = dict(accounts or {})
        self.identity_tokens: dict[str, str] = {}
        certificate, key = self.authority.server("token-signer")
        self._certificate = x509.load_pem_x509_certificate(certificate.read_bytes())
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self._key = loaded

    async def answer(self, request: web.Request, path: str) -> Answer:
        if path != "/token":
            return Answer(404)
        if request.method == "POST":
            return self._oauth(await request.text())
        user = self._user(request.headers.get("Authorization", ""))
        if user is None:
            return _json(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
        return self._given(user, request.query.getall("scope", []))

    def _oauth(self, body: str) -> Answer:
        form = {name: values[0] for name, values in parse_qs(body).items()}
        user = self.identity_tokens.get(form.get("refresh_token", ""))
        if form.get("grant_type") != "refresh_token" or user is None:
            return _json(400, {"error": "invalid_grant", "error_description": "unknown identity token"})
        return self._given(user, form.get("scope", "").split())

    def _user(self, authorization: str) -> str | None:
        """Who asks, empty for nobody in particular, None for somebody with a wrong password."""
        if not authorization:
            return ""
        user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
        return user if self.accounts.get(user) == password else None

    def _given(self, user: str, scopes: list[str]) -> Answer:
        token = self.issue(user, *scopes)
        return _json(200, {"token": token, "expires_in": self.lifetime})

    def issue(self, user: str, *scopes: str) -> str:
        """A token for what a user may do of `scopes`."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [access for scope in scopes if (access := _access(user, scope))],
        }
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_encoded(header)}.{_encoded(claims)}"
        one, two = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_base64url(one.to_bytes(32, 'big') + two.to_bytes(32, 'big'))}"


def _access(user: str, scope: str) -> dict[str, Any] | None:
    kind, name, actions = scope.split(":", 2)
    allowed = {"pull", "push"} if user else {"pull"} if name.startswith("public/") else set()
    granted = sorted(allowed.intersection(actions.split(",")))
    return {"type": kind, "name": name, "actions": granted} if granted else None


def _json(status: int, value: Any) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _encoded(value: Any) -> str:
    return _base64url(json.dumps(value).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
