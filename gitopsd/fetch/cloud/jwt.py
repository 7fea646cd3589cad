"""Signed statements (JWT): made with a private key, or read without judging them.

Knows RS256 and PS256 and the claims' form; refuses to know who wants them. Blocking: signing takes milliseconds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key


def rsa_key(pem: bytes) -> rsa.RSAPrivateKey:
    """An unencrypted RSA key from PEM. Raises ValueError, safe to show."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("the private key is no unencrypted PEM key") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("the private key is no RSA key")  # noqa: TRY004 - it is the value that is wrong
    return key


def signed(key: rsa.RSAPrivateKey, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
    """A JWT over `claims`. `alg` of `header` may ask for PS256; else it is RS256."""
    head = {"alg": "RS256", "typ": "JWT", **(header or {})}
    text = f"{encoded(orjson.dumps(head))}.{encoded(orjson.dumps(dict(claims)))}"
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if head["alg"] == "PS256":
        pad = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    return f"{text}.{encoded(key.sign(text.encode(), pad, hashes.SHA256()))}"


def expiry(token: str) -> float | None:
    """The time (seconds since 1970) that a token says it ends at, whoever signed it; None when it does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    found = claims.get("exp") if isinstance(claims, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def encoded(data: bytes) -> str:
    """Base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
