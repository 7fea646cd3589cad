"""From a Secret's data to credentials: what each kind of source may use, checked before anything is connected.

Knows the keys of spec/source.md 11.1 and their rules; refuses to know Kubernetes, networks and TLS libraries. Pure.
Invariants: credentials are never part of a `repr`; every error's text is free of them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from urllib.parse import quote, quote_plus

from gitopsd.api.meta import Reason
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.giturl import GitURL, parse
from gitopsd.fetch.http import TlsIdentity
from gitopsd.fetch.proxy import Proxy, proxy_from_secret

_SSH_USER = "git"
# Shorter than this a secret is part of so many words that masking it would only tell where it is.
_SHORTEST_MASKED = 4
# A shorter beginning of a secret tells little of it.
_SHORTEST_BEGINNING = 8
CHECKOUT_FAILED = "failed to checkout and determine revision: "
_AUTH_FAILED = "failed to configure authentication options: "
_PROXY_FAILED = "failed to configure proxy options: "


@dataclass(frozen=True)
class GitAuth:
    """Everything a Git transport needs to prove who it is and whom it trusts. Empty fields are not used."""

    username: str = ""
    password: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)
    client_cert: bytes = field(default=b"", repr=False)
    client_key: bytes = field(default=b"", repr=False)
    identity: bytes = field(default=b"", repr=False)
    passphrase: str = field(default="", repr=False)
    known_hosts: bytes = field(default=b"", repr=False)
    proxy: Proxy | None = None

    @property
    def authorization(self) -> str:
        """The value of an Authorization header; empty without credentials."""
        if self.bearer:
            return f"Bearer {self.bearer}"
        if not self.username and not self.password:
            return ""
        return basic(self.username, self.password)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message; for `mask`."""
        found = [self.password, self.bearer, self.passphrase, self.authorization.partition(" ")[2]]
        if self.username and not self.password and not self.identity:
            found.append(self.username)  # a token, written where a name would be
        if self.proxy is not None:
            found += [self.proxy.password, self.proxy.authorization.partition(" ")[2]]
        return tuple(secret for secret in found if secret)


def basic(username: str, password: str) -> str:
    """The value of an Authorization header for a user name and a password."""
    pair = f"{username}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + base64.b64encode(pair).decode()


def tls_identity(data: Mapping[str, bytes], *, secret: str = "") -> TlsIdentity:
    """Read a certSecretRef's data, keys of the older form included (spec/source.md 11.1).

    `secret` is its `namespace/name`. Raises ValueError with a text that is safe to show.
    """
    cert = data.get("tls.crt") or data.get("certFile", b"")
    key = data.get("tls.key") or data.get("keyFile", b"")
    ca = data.get("ca.crt") or data.get("caFile", b"")
    if bool(cert) != bool(key):
        raise ValueError(f"invalid TLS secret '{secret}': 'tls.crt' and 'tls.key' must be set together")
    if not cert and not ca:
        raise ValueError(f"invalid TLS secret '{secret}': it holds neither 'ca.crt' nor 'tls.crt' and 'tls.key'")
    return TlsIdentity(ca=ca, cert=cert, key=key)


@dataclass(frozen=True)
class SshRules:
    """What an operator may choose (`--ssh-kex-algos`, `--ssh-hostkey-algos`); empty means our own choice."""

    kex_algorithms: tuple[str, ...] = ()
    host_key_algorithms: tuple[str, ...] = ()
    # How much may come before a request's own bounds apply.
    hello_bytes: int = 1 << 20


def git_auth(
    url: str,
    data: Mapping[str, bytes] | None = None,
    *,
    secret: str = "",
    proxy: Mapping[str, bytes] | None = None,
) -> GitAuth:
    """Read the credentials for `url` from the data of its Secret (`secret` is its `namespace/name`) and proxy Secret.

    User info of the URL fills in for what the Secret leaves out. Raises FetchError with the texts of
    spec/source.md 5.7 and 11.1.
    """
    address = parse(url)
    via = _proxy(proxy)
    values = data or {}
    if address.scheme == "ssh":
        return _ssh_auth(address, values, secret, via)
    return _http_auth(address, values, via)


def _proxy(data: Mapping[str, bytes] | None) -> Proxy | None:
    if data is None:
        return None
    try:
        return proxy_from_secret(data)
    except ValueError as error:
        raise FetchError(Reason.AUTHENTICATION_FAILED, f"{_PROXY_FAILED}{error}") from None


def _http_auth(url: GitURL, data: Mapping[str, bytes], proxy: Proxy | None) -> GitAuth:
    bearer = _text(data, "bearerToken")
    username, password = ("", "") if "bearerToken" in data else (_text(data, "username"), _text(data, "password"))
    username = username or url.username
    password = password or url.password
    if password and not username:
        raise invalid_option(url.scheme, "'password' requires 'username' to be set")
    if bearer and (username or password):
        message = f"{CHECKOUT_FAILED}basic auth and bearer token cannot be set at the same time"
        raise FetchError(Reason.GIT_OPERATION_FAILED, message)
    if not bearer.isprintable() or not bearer.isascii():
        raise invalid_option(url.scheme, "'bearerToken' holds characters that no token has")
    cert, key = data.get("tls.crt", b""), data.get("tls.key", b"")
    if bool(cert) != bool(key):
        raise invalid_option(url.scheme, "'tls.crt' and 'tls.key' must be set together")
    return GitAuth(
        username=username,
        password=password,
        bearer=bearer,
        ca=data.get("ca.crt") or data.get("caFile", b""),
        client_cert=cert,
        client_key=key,
        proxy=proxy,
    )


def _ssh_auth(url: GitURL, data: Mapping[str, bytes], secret: str, proxy: Proxy | None) -> GitAuth:
    identity, known_hosts, passphrase = data.get("identity", b""), data.get("known_hosts", b""), _text(data, "password")
    if not identity:
        raise invalid_option(url.scheme, "'identity' is required")
    if not known_hosts:
        raise invalid_option(url.scheme, "'known_hosts' is required")
    if not passphrase and is_encrypted_key(identity):
        message = f"SSH identity key is encrypted but no 'password' field was provided in the secret '{secret}'"
        raise FetchError(Reason.AUTHENTICATION_FAILED, message)
    return GitAuth(
        username=url.username or _SSH_USER,
        identity=identity,
        passphrase=passphrase,
        known_hosts=known_hosts,
        proxy=proxy,
    )


def is_encrypted_key(pem: bytes) -> bool:
    """Tell whether a private key, in PEM or OpenSSH form, can be read only with a passphrase."""
    if b"BEGIN ENCRYPTED PRIVATE KEY" in pem or b"Proc-Type: 4,ENCRYPTED" in pem:
        return True
    if b"BEGIN OPENSSH PRIVATE KEY" not in pem:
        return False
    body = b"".join(line for line in pem.splitlines() if b"-----" not in line)
    try:
        raw = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False
    magic = b"openssh-key-v1\0"
    length = int.from_bytes(raw[len(magic) : len(magic) + 4], "big")
    cipher = raw[len(magic) + 4 : len(magic) + 4 + length]
    return raw.startswith(magic) and cipher != b"none"


def refuse_plain_http(url: GitURL, auth: GitAuth) -> None:
    """Raise FetchError when credentials would go over plain HTTP (for `--insecure-allow-http=false`)."""
    if url.scheme != "http":
        return
    if url.username or url.password:
        text = "URL cannot contain credentials when using HTTP"
    elif auth.username or auth.password:
        text = "basic auth cannot be sent over HTTP"
    elif auth.bearer:
        text = "bearer token cannot be sent over HTTP"
    else:
        return
    raise FetchError(Reason.GIT_OPERATION_FAILED, CHECKOUT_FAILED + text)


def mask(text: str, secrets: Iterable[str]) -> str:
    """Replace every form in which one of `secrets` may stand in `text` by `***`, also where `printable` cut it off."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) < _SHORTEST_MASKED:
            continue
        plain = secret.encode("utf-8", "surrogateescape")
        encoded = base64.b64encode(plain).decode().rstrip("=")
        for form in (secret, quote(plain, safe=""), quote(plain), quote_plus(plain), encoded):
            text = _without_beginning(text.replace(form, "***"), form)
    return text


def _without_beginning(text: str, secret: str) -> str:
    """The text without the beginnings of a secret at which a quote ends."""
    head = secret[:_SHORTEST_BEGINNING]
    at = text.find(head) if len(secret) > len(head) else -1
    while at >= 0:
        same = takewhile(lambda pair: pair[0] == pair[1], zip(text[at : at + len(secret)], secret, strict=False))
        end = at + sum(1 for _ in same)
        if text.startswith("...", end):
            text = f"{text[:at]}***{text[end:]}"
        at = text.find(head, at + 1)
    return text


def _text(data: Mapping[str, bytes], key: str) -> str:
    return data.get(key, b"").decode("utf-8", "surrogateescape")


def invalid_option(scheme: str, rule: str) -> FetchError:
    """The error for credentials of a Secret that cannot be used with a URL of `scheme`."""
    return FetchError(Reason.AUTHENTICATION_FAILED, f"{_AUTH_FAILED}invalid '{scheme}' auth option: {rule}")
