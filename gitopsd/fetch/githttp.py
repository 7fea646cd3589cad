"""Git over HTTP: the "smart" protocol's two requests, on pooled connections.

Theory of operation. Connections are pooled for the whole process, apart for each TLS identity and proxy. A
`HttpChannel` is one conversation: `hello` discovers the repository and may be redirected, `ask` posts to where that
led. Reading, waiting and connecting all happen in the event loop, so that cancelling the caller closes the socket.

Knows HTTP, TLS identities, proxies and redirects; refuses to know what the packets say.
Invariants: credentials (header and client certificate) go to the origin of the configured URL and nowhere else; no
cookie is kept; a redirect never leads from https to http; environment variables are not read
(spec/hostile-inputs.md A06-A10, A35).
"""

from __future__ import annotations

import contextlib
import os
import ssl
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from gitopsd.fetch import giturl
from gitopsd.fetch.auth import GitAuth
from gitopsd.fetch.connections import Connector, PublicResolver, is_private_literal
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gitpackets import Packets
from gitopsd.fetch.giturl import GitURL
from gitopsd.fetch.gitwire import AGENT
from gitopsd.fetch.proxy import EnvironmentProxies, Proxy
from gitopsd.fetch.tls import client_context
from gitopsd.tasks import offload

_SERVICE = "git-upload-pack"
_ADVERTISEMENT = f"application/x-{_SERVICE}-advertisement"
_REQUEST = f"application/x-{_SERVICE}-request"
_RESULT = f"application/x-{_SERVICE}-result"
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MOST_HOPS = 10
_KEPT_CONTEXTS = 64
# What may still come after an answer that was read to its end; more is not worth waiting for.
_REMAINDER = 64 * 1024
_PIECE = 64 * 1024


class StatusError(RemoteError):
    """The server answered with a status that is no success."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class HttpRules:
    """What an operator may forbid or redirect."""

    deny_private_redirects: bool = False
    proxies: EnvironmentProxies = field(default_factory=EnvironmentProxies)
    # How much may come before a request's own bounds apply.
    hello_bytes: int = 1 << 20


class HttpClient:
    """Connections to all Git servers over HTTP. Used within the event loop that closes it."""

    def __init__(self, rules: HttpRules) -> None:
        self._rules = rules
        self._sessions: dict[Proxy | bool, aiohttp.ClientSession] = {}
        self._contexts: OrderedDict[tuple[bytes, bytes, bytes], ssl.SSLContext] = OrderedDict()

    async def aclose(self) -> None:
        """Close every connection."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    @asynccontextmanager
    async def channel(self, url: GitURL, auth: GitAuth, *, is_foreign: bool = False) -> AsyncIterator[HttpChannel]:
        """Open a conversation; what it used is given back, or closed if it was left in the middle.

        `is_foreign` says that a repository named the address: rules for redirects apply to it from the start.
        """
        channel = HttpChannel(self, self._rules, url, auth, is_foreign=is_foreign)
        try:
            yield channel
            await channel.finish()
        finally:
            channel.abandon()

    async def context(self, ca: bytes, cert: bytes, key: bytes) -> ssl.SSLContext:
        """The TLS context for an identity, made once. Raises TLSMaterialError."""
        identity = (ca, cert, key)
        context = self._contexts.get(identity)
        if context is None:
            context = await offload(client_context, ca, cert, key)
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
        return session


class HttpChannel:
    """One conversation with one repository."""

    def __init__(
        self, client: HttpClient, rules: HttpRules, url: GitURL, auth: GitAuth, *, is_foreign: bool = False
    ) -> None:
        self._client = client
        self._rules = rules
        self._origin = url.origin
        self._auth = auth
        self._base = url
        self._response: aiohttp.ClientResponse | None = None
        self._guarded = is_foreign and rules.deny_private_redirects
        self.was_redirected = False

    async def hello(self) -> Packets:
        """Discover the repository, following redirects."""
        address = replace(self._base, path=f"{self._base.path.rstrip('/')}/info/refs", query=_service(self._base.query))
        response, address = await self._follow(address, {"Git-Protocol": "version=2"})
        self._rebase(address)
        return self._packets(response, _ADVERTISEMENT)

    async def read(self, limit: int) -> tuple[str, bytes]:
        """The file at the address itself, following redirects: its content type, and its at most `limit` bytes."""
        response, _ = await self._follow(self._base, {})
        source = _source(response)
        pieces: list[bytes] = []
        left = limit
        while piece := await source():
            left -= len(piece)
            if left < 0:
                raise RemoteError(f"the file is larger than {limit} bytes", rule="file-size")
            pieces.append(piece)
        return response.headers.get("Content-Type", "").partition(";")[0].strip().lower(), b"".join(pieces)

    async def ask(self, body: bytes) -> Packets:
        """Post a request to where the repository was found."""
        address = replace(self._base, path=f"{self._base.path.rstrip('/')}/{_SERVICE}")
        headers = {"Content-Type": _REQUEST, "Accept": _RESULT, "Git-Protocol": "version=2"}
        response = await self._send("POST", address, body, headers)
        if response.status in _REDIRECTS:
            raise RemoteError("the server redirects a request that may not be redirected", rule="redirect")
        return self._packets(response, _RESULT)

    async def finish(self) -> None:
        """Read what is left of the last answer, so that its connection can be used again."""
        response = self._response
        if response is None:
            return
        left = _REMAINDER
        with contextlib.suppress(aiohttp.ClientError, OSError):
            while left > 0 and (data := await response.content.readany()):
                left -= len(data)
        self.abandon()

    def abandon(self) -> None:
        """Give the connection of the last answer back if it was read to its end, else close it."""
        if self._response is not None:
            if self._response.content.at_eof():
                self._response.release()
            else:
                self._response.close()
            self._response = None

    async def _follow(self, address: GitURL, headers: dict[str, str]) -> tuple[aiohttp.ClientResponse, GitURL]:
        for _ in range(_MOST_HOPS + 1):
            response = await self._send("GET", address, None, headers)
            if response.status not in _REDIRECTS:
                return response, address
            address = self._redirected(address, response.headers.get("Location", ""))
        raise RemoteError(f"the server redirects more than {_MOST_HOPS} times", rule="redirect")

    def _rebase(self, address: GitURL) -> None:
        """Let further requests go to where the discovery ended."""
        tail = "/info/refs"
        if not address.path.endswith(tail):
            raise RemoteError("the server redirects to something that is no repository", rule="redirect")
        query = address.query.removesuffix(_service("")).removesuffix("&")
        self._base = replace(address, path=address.path.removesuffix(tail), query=query)

    def _redirected(self, current: GitURL, location: str) -> GitURL:
        try:
            target = giturl.read(urljoin(current.below(""), location))
        except ValueError:
            raise RemoteError("the server redirects to an address that cannot be used", rule="redirect") from None
        if target.scheme not in {"http", "https"} or (current.scheme == "https" and target.scheme == "http"):
            raise RemoteError(f"the server redirects from {current.scheme} to {target.scheme}", rule="redirect")
        self.was_redirected = True
        self._guarded = self._rules.deny_private_redirects
        return replace(target, username="", password="")

    async def _send(
        self, method: str, address: GitURL, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        await self.finish()
        if self._guarded and is_private_literal(address.host):
            raise RemoteError("the address leads into a private network", rule="private-redirect")
        is_trusted = address.origin == self._origin
        auth = self._auth
        identity = (auth.ca, auth.client_cert, auth.client_key) if is_trusted else (auth.ca, b"", b"")
        options: dict[str, Any] = {"headers": {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}}
        if address.scheme == "https":
            options["ssl"] = await self._client.context(*identity)
        if is_trusted and auth.authorization:
            options["headers"]["Authorization"] = auth.authorization
        proxy = auth.proxy or self._rules.proxies.for_address(address.scheme, *address.address)
        if proxy is not None and proxy.scheme != "socks5":
            options["proxy"] = proxy.url
            if proxy.authorization and address.scheme == "https":
                options["proxy_headers"] = {"Proxy-Authorization": proxy.authorization}
            elif proxy.authorization:
                options["headers"]["Proxy-Authorization"] = proxy.authorization
        session = self._client.session(proxy, guarded=self._guarded and proxy is None)
        send = partial(session.request, method, URL(address.below(""), encoded=True), data=body, **options)
        self._response = await _sent(partial(send, allow_redirects=False), address, again=body is not None)
        _check_status(self._response)
        return self._response

    def _packets(self, response: aiohttp.ClientResponse, expected: str) -> Packets:
        found = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if found != expected:
            raise RemoteError(f"the server answers with content type '{printable(found, 128)}', not '{expected}'")
        return Packets(_source(response), self._rules.hello_bytes)


def _source(response: aiohttp.ClientResponse) -> Callable[[], Awaitable[bytes]]:
    """Where the pieces of an answer come from; b"" is the end."""
    read = partial(_read, response)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "gzip":
        return _Gunzip(read).read
    if encoding != "identity":
        raise RemoteError(f"the server answers with content encoding '{printable(encoding, 64)}'")
    return read


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.content.readany()
    except aiohttp.ClientPayloadError:
        raise RemoteError("the server ended the conversation early") from None
    except (aiohttp.ClientError, OSError) as error:
        raise RemoteError(f"the connection broke: {_cause(error)}") from None


class _Gunzip:
    """Undoes a compression that nobody asked for, a bounded piece at a time, so that its reader can count."""

    def __init__(self, source: Callable[[], Awaitable[bytes]]) -> None:
        self._source = source
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._pending = b""

    async def read(self) -> bytes:
        """The next piece; b"" at the end."""
        while not self._inflater.eof:
            compressed = self._pending or await self._source()
            if not compressed:
                return b""
            try:
                piece = self._inflater.decompress(compressed, _PIECE)
            except zlib.error:
                raise RemoteError("the server's answer cannot be decompressed", rule="zlib") from None
            self._pending = self._inflater.unconsumed_tail
            if piece:
                return piece
        return b""


def _service(query: str) -> str:
    return "&".join(part for part in (query, f"service={_SERVICE}") if part)


async def _sent(
    send: Callable[[], Awaitable[aiohttp.ClientResponse]], address: GitURL, *, again: bool
) -> aiohttp.ClientResponse:
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
        raise RemoteError(f"cannot talk to {address.netloc}: {_cause(error)}") from error


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200 or status in _REDIRECTS:
        return
    meaning = {
        401: "authentication required",
        403: "authorization failed",
        404: "repository not found",
        407: "the proxy wants a login",
        429: "too many requests",
    }.get(status, "unexpected answer")
    raise StatusError(f"{meaning}: the server answered {status}", status)


def _cause(error: Exception) -> str:
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
        return f"the answer cannot be read: {printable(error.message, 128)}"
    return _system_cause(error)


def _system_cause(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {printable(error.reason or 'no details', 128)}"
    if isinstance(error, RemoteError):
        return error.message
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__
