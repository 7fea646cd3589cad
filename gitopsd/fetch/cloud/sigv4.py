"""AWS Signature Version 4, as far as requests with a body need it, and CodeCommit's form of it.

Pure: knows keys, text and hashes; refuses to know what is asked and to send anything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

from gitopsd.fetch.cloud.identity import AwsKeys

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Scope:
    """What a signature is good for: one service of one region, at a time (seconds since 1970)."""

    region: str
    service: str
    when: float

    @property
    def timestamp(self) -> str:
        """The time as `20150830T123600Z`."""
        return datetime.fromtimestamp(self.when, UTC).strftime("%Y%m%dT%H%M%SZ")

    @property
    def text(self) -> str:
        """The credential scope."""
        return f"{self.timestamp[:8]}/{self.region}/{self.service}/aws4_request"


def sign(
    keys: AwsKeys, scope: Scope, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
) -> dict[str, str]:
    """`headers` with what proves the request: date, session token and Authorization. All of them are signed."""
    parts = urlsplit(url)
    signed = {**headers, "X-Amz-Date": scope.timestamp}
    if keys.session_token:
        signed["X-Amz-Security-Token"] = keys.session_token
    lines = {"host": parts.netloc.rpartition("@")[2]}
    lines |= {name.lower(): " ".join(value.split()) for name, value in signed.items()}
    names = ";".join(sorted(lines))
    request = "\n".join(
        (
            method,
            quote(parts.path or "/", safe="/-_.~%"),
            _canonical_query(parts.query),
            "".join(f"{name}:{lines[name]}\n" for name in sorted(lines)),
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    signature = _signature(keys, scope, scope.timestamp, request)
    credential = f"{keys.access_key}/{scope.text}"
    signed["Authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return signed


def codecommit_password(keys: AwsKeys, region: str, host: str, path: str, when: float) -> str:
    """The password for a CodeCommit repository: a signature over its address, of which the body is no part."""
    scope = Scope(region, "codecommit", when)
    timestamp = scope.timestamp.removesuffix("Z")
    request = f"GIT\n{path}\n\nhost:{host}\n\nhost\n"
    return f"{timestamp}Z{_signature(keys, scope, timestamp, request)}"


def _canonical_query(query: str) -> str:
    pairs = ((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(query, True))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _signature(keys: AwsKeys, scope: Scope, timestamp: str, request: str) -> str:
    text = "\n".join((_ALGORITHM, timestamp, scope.text, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.text.split("/"):
        key = _hmac(key, part)
    return _hmac(key, text).hex()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
