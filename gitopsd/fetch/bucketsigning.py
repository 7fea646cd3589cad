"""How requests to storages are signed: AWS Signature Version 4, and Azure's shared key.

Knows requests and keys; refuses to know clocks and networks: the time is given. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl, quote, urlsplit

from gitopsd.fetch.cloud.identity import AwsKeys

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_PORTS = {"http": 80, "https": 443}


def encoded_query(pairs: Iterable[tuple[str, str]]) -> str:
    """A query as AWS wants it signed: sorted, everything encoded but letters, digits and `-_.~`."""
    return "&".join(
        f"{name}={value}" for name, value in sorted((quote(n, safe=""), quote(v, safe="")) for n, v in pairs)
    )


def host_of(url: str) -> str:
    """The Host header for a URL: without userinfo, and without a port that goes without saying."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    return name if parts.port in {None, _PORTS.get(parts.scheme)} else f"{name}:{parts.port}"


@dataclass(frozen=True)
class SignatureV4:
    """Signs requests without a body for one region and service."""

    keys: AwsKeys
    region: str
    service: str = "s3"
    _derived: dict[str, bytes] = field(default_factory=dict, repr=False)

    def headers(self, method: str, url: str, now: datetime) -> dict[str, str]:
        """The headers that sign a request whose query is made by `encoded_query`; `now` is in UTC."""
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": host_of(url), "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": stamp}
        if self.keys.session_token:
            signed["x-amz-security-token"] = self.keys.session_token
        names = ";".join(sorted(signed))
        parts = urlsplit(url)
        lines = [method, parts.path or "/", parts.query]
        lines += [f"{name}:{signed[name]}" for name in sorted(signed)]
        canonical = "\n".join([*lines, "", names, EMPTY_SHA256])
        scope = f"{stamp[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._key(stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
        del signed["host"]
        credential = f"Credential={self.keys.access_key}/{scope}"
        signed["Authorization"] = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return signed

    def _key(self, day: str) -> bytes:
        if day not in self._derived:
            key = b"AWS4" + self.keys.secret_key.encode()
            for part in (day, self.region, self.service, "aws4_request"):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._derived.clear()
            self._derived[day] = key
        return self._derived[day]


@dataclass(frozen=True)
class SharedKey:
    """Signs requests to Azure's storage with an account's key."""

    account: str
    key: bytes = field(repr=False)

    @classmethod
    def read(cls, account: str, text: str) -> SharedKey:
        """Take the key as Azure shows it, in base64. Raises ValueError, safe to show."""
        try:
            return cls(account, base64.b64decode(text, validate=True))
        except ValueError:
            raise ValueError("'accountKey' is not base64") from None

    def authorization(self, method: str, url: str, headers: Mapping[str, str]) -> str:
        """The Authorization header for a request without a body."""
        given = {name.lower(): value for name, value in headers.items()}
        lines = [method, *(given.get(name, "") for name in _STANDARD)]
        lines += [f"{name}:{given[name]}" for name in sorted(given) if name.startswith("x-ms-")]
        parts = urlsplit(url)
        lines.append(f"/{self.account}{parts.path}")
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True):
            query.setdefault(name.lower(), []).append(value)
        lines += [f"{name}:{','.join(sorted(values))}" for name, values in sorted(query.items())]
        digest = hmac.new(self.key, "\n".join(lines).encode(), hashlib.sha256).digest()
        return f"SharedKey {self.account}:{base64.b64encode(digest).decode()}"


_STANDARD = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
