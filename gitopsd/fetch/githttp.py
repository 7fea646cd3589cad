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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from gitopsd.fetch import giturl
from gitopsd.fetch.auth import GitAuth
from gitopsd.fetch.connections import is_private_literal
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gitpackets import Packets
from gitopsd.fetch.giturl import GitURL
from gitopsd.fetch.gitwire import AGENT
from gitopsd.fetch.http import MOST_HOPS, REDIRECTS, HttpRules, Pools, TlsIdentity, body_of, give_back, sent, through

_SERVICE = "git-upload-pack"
_ADVERTISEMENT = f"application/x-{_SERVICE}-advertisement"
_REQUEST = f"application/x-{_SERVICE}-request"
_RESULT = f"application/x-{_SERVICE}-result"
# What may still come after an answer that was read to its end; more is not worth waiting for.
_REMAINDER = 64 * 1024


class StatusError(RemoteError):
    """The server answered with a status that is no success."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HttpClient(Pools):
    """Connections to all Git servers over HTTP."""

    def __init__(self, rules: HttpRules) -> None:
        super().__init__()
        self._rules = rules

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
        source = body_of(response)
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
        if response.status in REDIRECTS:
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
            give_back(self._response)
            self._response = None

    async def _follow(self, address: GitURL, headers: dict[str, str]) -> tuple[aiohttp.ClientResponse, GitURL]:
        for _ in range(MOST_HOPS + 1):
            response = await self._send("GET", address, None, headers)
            if response.status not in REDIRECTS:
                return response, address
            address = self._redirected(address, response.headers.get("Location", ""))
        raise RemoteError(f"the server redirects more than {MOST_HOPS} times", rule="redirect")

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
        identity = TlsIdentity(auth.ca, auth.client_cert, auth.client_key)
        sending = {"User-Agent": AGENT, "Accept-Encoding": "identity", **headers}
        if is_trusted and auth.authorization:
            sending["Authorization"] = auth.authorization
        proxy = auth.proxy or self._rules.proxies.for_address(address.scheme, *address.address)
        options = through(proxy, address.scheme, sending)
        if address.scheme == "https":
            options["ssl"] = await self._client.context(identity if is_trusted else identity.without_certificate)
        session = self._client.session(proxy, guarded=self._guarded and proxy is None)
        send = partial(session.request, method, URL(address.below(""), encoded=True), data=body, headers=sending)
        self._response = await sent(
            partial(send, allow_redirects=False, **options), address.netloc, again=body is not None
        )
        _check_status(self._response)
        return self._response

    def _packets(self, response: aiohttp.ClientResponse, expected: str) -> Packets:
        found = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if found != expected:
            raise RemoteError(f"the server answers with content type '{printable(found, 128)}', not '{expected}'")
        return Packets(body_of(response), self._rules.hello_bytes)


def _service(query: str) -> str:
    return "&".join(part for part in (query, f"service={_SERVICE}") if part)


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200 or status in REDIRECTS:
        return
    meaning = {
        401: "authentication required",
        403: "authorization failed",
        404: "repository not found",
        407: "the proxy wants a login",
        429: "too many requests",
    }.get(status, "unexpected answer")
    raise StatusError(f"{meaning}: the server answered {status}", status)
