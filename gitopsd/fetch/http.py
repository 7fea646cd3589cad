"""Requests over HTTP to servers that nobody vouches for: registries, Helm repositories, buckets, token endpoints.

Theory of operation. Connections are pooled for the whole process, apart for each SOCKS proxy; TLS contexts are made
once for each identity. `HttpClient.request` sends one request, follows redirects, and hands out the answer while its
body is still on the wire; whoever leaves early closes the connection. Everything happens in the event loop, so that
cancelling the caller closes the socket.

Knows HTTP, TLS identities, proxies and redirects; refuses to know what the answers mean: a status is never an error
here. Invariants: credentials (header and client certificate) go to one origin and nowhere else; no cookie is kept; a
redirect never leads from https to http; environment variables are not read; a body is read within the caller's bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gitopsd import __version__
from gitopsd.fetch.connections import Connector, PublicResolver, is_private_literal
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.proxy import EnvironmentProxies, Proxy
from gitopsd.fetch.tls import client_context
from gitopsd.tasks import offload

AGENT = f"gitopsd/{__version__}"
REDIRECTS = frozenset((301, 302, 303, 307, 308))
MOST_HOPS = 10
SENSITIVE = frozenset(("authorization", "cookie", "x-amz-security-token", "private-token", "proxy-authorization"))
"""Headers that a redirect to another origin does not take along, in lower case."""
_PORTS = {"http": 80, "https": 443}
_KEPT_CONTEXTS = 64
_KEPT_SESSIONS = 64
# What may still come after an answer that was read to its end; more is not worth waiting for.
_REMAINDER = 64 * 1024
_PIECE = 64 * 1024
_GZIP = zlib.MAX_WBITS | 16
# Compressed files in a row that are one answer.
_MOST_FILES = 1000
_ENCODING = re.compile(r"[a-z0-9-]{1,16}")
# Where the words of the library end and those of the server begin.
_QUOTE = re.compile(r"[:'\"\n]")


@dataclass(frozen=True)
class HttpRules:
    """What an operator may forbid or redirect."""

    deny_private_redirects: bool = False
    proxies: EnvironmentProxies = field(default_factory=EnvironmentProxies)
    # How much may come before a request's own bounds apply.
    hello_bytes: int = 1 << 20


@dataclass(frozen=True)
class TlsIdentity:
    """Whom we trust besides the system's authorities, and who we are, as PEM; each may be empty.

    `insecure` switches the verification of the server off: only where the API has a field for just that.
    """

    ca: bytes = field(default=b"", repr=False)
    cert: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)
    insecure: bool = False

    @property
    def without_certificate(self) -> TlsIdentity:
        """The same trust, without saying who we are."""
        return TlsIdentity(ca=self.ca, insecure=self.insecure)


@dataclass(frozen=True)
class Access:
    """Who we are towards one origin, and the way there. `authorization` is a header's value."""

    authorization: str = field(default="", repr=False)
    tls: TlsIdentity = field(default_factory=TlsIdentity)
    proxy: Proxy | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be in any message; for `fetch.auth.mask`."""
        found = [self.authorization.partition(" ")[2]]
        if self.proxy is not None:
            found += [self.proxy.password, self.proxy.authorization.partition(" ")[2]]
        return tuple(secret for secret in found if secret)


ANYBODY = Access()


class Pools:
    """Connections and TLS contexts that requests share. Used within the event loop that closes them."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[Proxy | bool, aiohttp.ClientSession] = OrderedDict()
        self._contexts: OrderedDict[TlsIdentity, ssl.SSLContext] = OrderedDict()

    async def aclose(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def context(self, identity: TlsIdentity) -> ssl.SSLContext:
        """The TLS context for an identity, made once. Raises TLSMaterialError."""
        context = self._contexts.get(identity)
        if context is None:
            context = await offload(client_context, identity.ca, identity.cert, identity.key)
            if identity.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        self._contexts[identity] = context
        self._contexts.move_to_end(identity)
        while len(self._contexts) > _KEPT_CONTEXTS:
            self._contexts.popitem(last=False)
        return context

    def session(self, proxy: Proxy | None, *, guarded: bool) -> aiohttp.ClientSession:
        """The pool for requests through `proxy`, or direct ones; `guarded` connects to public addresses only."""
        socks = proxy if proxy is not None and proxy.scheme == "socks5" else None
        kind: Proxy | bool = socks or guarded
        session = self._sessions.get(kind)
        if session is None:
            resolver = PublicResolver() if guarded else None
            session = aiohttp.ClientSession(
                connector=Connector(socks, resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                auto_decompress=False,
                trust_env=False,
            )
            self._sessions[kind] = session
            self._forget_idle()
        self._sessions.move_to_end(kind)
        return session

    def _forget_idle(self) -> None:
        """Proxies come and go with their Secrets: give up pools that were not used for longest, and are not now."""
        surplus = len(self._sessions) - _KEPT_SESSIONS
        for kind, session in list(self._sessions.items())[: max(surplus, 0)]:
            connector = session.connector
            if isinstance(connector, Connector) and not connector.is_used:
                del self._sessions[kind]
                session.detach()
                connector.close_now()


def through(proxy: Proxy | None, scheme: str, headers: dict[str, str]) -> dict[str, Any]:
    """The options that send a request through an HTTP proxy; SOCKS is the pool's business (`Pools.session`)."""
    if proxy is None or proxy.scheme == "socks5":
        return {}
    options: dict[str, Any] = {"proxy": proxy.url}
    if proxy.authorization and scheme == "https":
        options["proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
    elif proxy.authorization:
        headers["Proxy-Authorization"] = proxy.authorization
    return options


class Answer:
    """A status, headers, and a body that is read as it comes. `url` is where it came from, after redirects."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self.url = url

    @property
    def status(self) -> int:
        """The status code."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, by names of any case."""
        return self._response.headers

    async def read(self, limit: int, what: str = "answer") -> bytes:
        """The whole body. Raises RemoteError when it is longer than `limit` bytes."""
        return b"".join([piece async for piece in self.pieces(limit, what)])

    async def pieces(self, limit: int, what: str = "answer", *, as_sent: bool = False) -> AsyncIterator[bytes]:
        """The body, piece by piece. Raises RemoteError when it is longer than `limit` bytes.

        `as_sent` leaves a Content-Encoding alone: of an object in a bucket it is part of what was put there.
        """
        announced = self._response.content_length
        if announced is not None and announced > limit and (as_sent or "Content-Encoding" not in self.headers):
            raise _too_large(what, limit)
        source = partial(_read, self._response) if as_sent else body_of(self._response)
        left = limit
        while piece := await source():
            left -= len(piece)
            if left < 0:
                raise _too_large(what, limit)
            yield piece


def _too_large(what: str, limit: int) -> RemoteError:
    return RemoteError(f"the {what} is larger than {limit} bytes", rule="size")


class HttpClient:
    """Sends requests. One for the whole daemon; `aclose` ends it."""

    def __init__(self, rules: HttpRules | None = None, pools: Pools | None = None) -> None:
        self._rules = rules or HttpRules()
        self._pools = pools or Pools()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pools.aclose()

    def direct(self) -> HttpClient:
        """The same connections, past the environment's proxies: for what the machine itself answers."""
        return HttpClient(replace(self._rules, proxies=EnvironmentProxies()), self._pools)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        access: Access = ANYBODY,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        follow: bool = True,
        origin: str = "",
        is_foreign: bool = False,
    ) -> AsyncIterator[Answer]:
        """Send a request, and hand out the answer, whatever its status.

        Credentials go to the origin of `origin` only (default: of `url`). `is_foreign` says that not an operator but
        a server or an artifact named the address: rules for redirects apply to it from the start. Raises RemoteError,
        and TLSMaterialError for certificates that cannot be used. The caller sets the time limit.
        """
        sending = _Sending(self._rules, self._pools, access, CIMultiDict(headers or {}), origin or url)
        sending.guarded = is_foreign and self._rules.deny_private_redirects
        response, came_from = await sending.run(method, url, body, follow=follow)
        try:
            yield Answer(response, came_from)
            await _drain(response)
        finally:
            give_back(response)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read what is left of an answer if it is little, so that its connection can be used again."""
    left = _REMAINDER
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while left > 0 and (data := await response.content.readany()):
            left -= len(data)


def give_back(response: aiohttp.ClientResponse) -> None:
    """Give the connection of an answer back if it was read to its end, else close it."""
    if response.content.at_eof():
        response.release()
    else:
        response.close()


class _Sending:
    """One request with its redirects."""

    def __init__(self, rules: HttpRules, pools: Pools, access: Access, headers: CIMultiDict[str], origin: str) -> None:
        self._rules = rules
        self._pools = pools
        self._access = access
        self._headers = headers
        self._origin = origin_of(origin)
        self.guarded = False

    async def run(
        self, method: str, url: str, body: bytes | None, *, follow: bool
    ) -> tuple[aiohttp.ClientResponse, str]:
        for _ in range(MOST_HOPS + 1):
            response = await self._send(method, url, body)
            if not follow or response.status not in REDIRECTS or "Location" not in response.headers:
                return response, url
            await _drain(response)
            give_back(response)
            if response.status == 303 or (response.status in {301, 302} and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
            url = self._redirected(url, response.headers["Location"])
        raise RemoteError(f"the server redirects more than {MOST_HOPS} times", rule="redirect")

    def _redirected(self, current: str, location: str) -> str:
        try:
            target = urljoin(current, location)
            scheme = origin_of(target)[0]
        except ValueError:
            raise RemoteError("the server redirects to an address that cannot be used", rule="redirect") from None
        if scheme == "http" and origin_of(current)[0] == "https":
            raise RemoteError("the server redirects from https to http", rule="redirect")
        self.guarded = self._rules.deny_private_redirects
        return target

    async def _send(self, method: str, url: str, body: bytes | None) -> aiohttp.ClientResponse:
        try:
            scheme, host, port = origin_of(url)
        except ValueError as error:
            raise RemoteError(str(error)) from None
        if self.guarded and is_private_literal(host):
            raise RemoteError("the address leads into a private network", rule="private-redirect")
        is_trusted = (scheme, host, port) == self._origin
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        headers.update((name, value) for name, value in self._headers.items() if is_trusted or _is_harmless(name))
        if is_trusted and self._access.authorization:
            headers["Authorization"] = self._access.authorization
        proxy = self._access.proxy or self._rules.proxies.for_address(scheme, host, port)
        options = through(proxy, scheme, headers)
        if scheme == "https":
            tls = self._access.tls if is_trusted else self._access.tls.without_certificate
            options["ssl"] = await self._pools.context(tls)
        session = self._pools.session(proxy, guarded=self.guarded and proxy is None)
        address = URL(url.partition("#")[0], encoded=True)
        if address.user is not None or address.password is not None:
            address = address.with_user(None)
        send = partial(session.request, method, address, data=body, headers=headers, allow_redirects=False, **options)
        return await sent(send, _shown(host, port, scheme), again=body is not None)


def _is_harmless(name: str) -> bool:
    return name.lower() not in SENSITIVE


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http or https URL. Raises ValueError, safe to show."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the URL cannot be parsed") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"the URL has scheme '{printable(parts.scheme, 64)}', not http or https")
    if not host or any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("the URL has no valid host")
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _shown(host: str, port: int, scheme: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == _PORTS[scheme] else f"{name}:{port}"


def body_of(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[bytes]]:
    """Where the pieces of an answer come from; b"" is the end. Raises RemoteError for an encoding we do not know."""
    read = partial(_read, response)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "gzip":
        return _Gunzip(read).read
    if encoding not in {"identity", ""}:
        # What looks otherwise may be anything that the server wants to be shown.
        shown = f" '{encoding}'" if _ENCODING.fullmatch(encoding) else ""
        raise RemoteError(f"the server answers with a content encoding{shown} that nobody asked for")
    return read


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readany()
    except aiohttp.ClientPayloadError:
        raise RemoteError("the server ended the conversation early") from None
    except (aiohttp.ClientError, OSError) as error:
        raise RemoteError(f"the connection broke: {cause(error)}") from None


class _Gunzip:
    """Undoes a compression that nobody asked for, a bounded piece at a time, so that its reader can count.

    Several compressed files in a row are one, as everywhere; an end within one of them is an error.
    """

    def __init__(self, source: Callable[[], Awaitable[bytes]]) -> None:
        self._source = source
        self._inflater = zlib.decompressobj(_GZIP)
        self._files = 1
        self._is_inside = False
        self._pending = b""

    async def read(self) -> bytes:
        """The next piece; b"" at the end."""
        while compressed := self._pending or await self._source():
            if self._inflater.eof:
                self._next_file()
            try:
                piece = self._inflater.decompress(compressed, _PIECE)
            except zlib.error:
                raise RemoteError("the server's answer cannot be decompressed", rule="zlib") from None
            self._is_inside = not self._inflater.eof
            self._pending = self._inflater.unconsumed_tail or self._inflater.unused_data
            # A little of what was sent may become a lot: others want their turn before it is used up.
            await asyncio.sleep(0)
            if piece:
                return piece
        if self._is_inside:
            raise RemoteError("the server ended the conversation early")
        return b""

    def _next_file(self) -> None:
        self._files += 1
        if self._files > _MOST_FILES:
            raise RemoteError("the server's answer cannot be decompressed", rule="zlib")
        self._inflater = zlib.decompressobj(_GZIP)


async def sent(
    send: Callable[[], Awaitable[aiohttp.ClientResponse]], shown: str, *, again: bool
) -> aiohttp.ClientResponse:
    """Send, and put what can go wrong into words; `shown` is the server's name in them."""
    try:
        try:
            return await send()
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            # A kept connection that the server closed meanwhile. aiohttp itself asks again only for a GET; asking
            # again is as harmless for the rest, which only reads.
            if not again:
                raise
            return await send()
    except aiohttp.ClientHttpProxyError as error:
        raise RemoteError(f"the proxy refuses the connection: {error.status}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise RemoteError(f"cannot talk to {shown}: {cause(error)}") from error


def cause(error: Exception) -> str:
    """What went wrong with a connection, without our addresses and file names."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
        return f"bad certificate: {printable(why, 256)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _system_cause(error.os_error)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer cannot be read: {printable(_QUOTE.split(error.message, 1)[0], 128)}"
    return _system_cause(error)


def _system_cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
        return f"TLS failed: the server speaks no TLS, maybe plain http ({error.reason})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {printable(error.reason or 'no details', 128)}"
    if isinstance(error, RemoteError):
        return error.message
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__
