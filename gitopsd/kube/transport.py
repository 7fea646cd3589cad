"""The connections to one API server: deadlines, retries, flow control, bounds, and the word for each failure.

Knows HTTP and nothing of Kubernetes objects. Shared by all identities that use the same credentials
(`KubeClient.as_user`).

Every request has a deadline. Within it, what is safe to repeat is repeated with jittered pauses: 429 and connections
that never came about for every request, 5xx and lost connections only for those that may run twice. Nothing here
sleeps while it holds one of the connection slots.
"""

from __future__ import annotations

import asyncio
import io
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import aiohttp
from multidict import CIMultiDict
from prometheus_client import Counter
from yarl import URL

from gitopsd import metrics
from gitopsd.errors import GitopsdError
from gitopsd.kube.credentials import Access, Credentials, CredentialsError
from gitopsd.kube.errors import (
    ApiError,
    BrokenAnswerError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreachableError,
    UntrustedServerError,
    error_of,
)
from gitopsd.tasks import Backoff

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

# spec/hostile-inputs.md 1, bounds table.
ANSWER_BOUND = 64 << 20
# From here on aiohttp wants a file object, which it writes in pieces instead of blocking the loop.
_LARGE_BODY = 1 << 20
_READ_BUFFER = 256 << 10
_CONNECT_TIMEOUT = 10.0
# Below the API server's own 90 s, so that we do not send into a connection it is about to close.
_KEEP_ALIVE = 60.0
# Seconds until credentials that could not be read again are tried once more; the old ones serve meanwhile.
_REFRESH_PAUSE = 10.0
_URGENT_SLOTS = 4
_FLOW_SCHEMA = "X-Kubernetes-PF-FlowSchema-UID"
# 500s that are a verdict on the request, its own or that of somebody behind the API server: the same request ends the
# same way, only later. The two "failed to" are what a server-side apply says of an object that its schema refuses.
_FINAL_TEXTS = (
    "webhook",
    "request is too large",
    "failed to create typed patch object",
    "failed to convert new object",
)


_TLS_ERRORS = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError)
# What credentials and CAs that were replaced meanwhile look like: they are read again, once.
_OUTDATED = (UnauthorizedError, UntrustedServerError)


@dataclass(frozen=True)
class Effort:
    """How hard to try. Seconds.

    `timeout` bounds one call, `patience` how long failures are repeated within it. `qps` (0: any number) and `burst`
    count only on servers without Priority and Fairness.
    """

    timeout: float = 60.0
    patience: float = 15.0
    connections: int = 64
    qps: float = 50.0
    burst: int = 300


class Request(NamedTuple):
    """One request, as it may be sent more than once."""

    method: str
    target: str  # path and query, encoded
    headers: Callable[[], CIMultiDict[str]]  # asked before each attempt: a refresh changes them
    body: bytes | None = None
    may_repeat: bool = True


class TokenBucket:
    """Spreads requests: `burst` at once, then `qps` each second."""

    def __init__(self, qps: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._step = 1 / qps
        self._depth = burst / qps
        self._clock = clock
        self._next = 0.0

    def reserve(self) -> float:
        """Take a place in the line; the seconds until it is our turn."""
        now = self._clock()
        self._next = max(self._next, now - self._depth + self._step)
        turn = self._next
        self._next += self._step
        return max(turn - now, 0.0)


class Transport:
    """The connections to one API server."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        credentials: Credentials,
        access: Access,
        effort: Effort,
        *,
        sleep: Sleep = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.access = access
        self.effort = effort
        self.session = session
        self._credentials = credentials
        self._sleep = sleep
        self._rand = rand
        self._slots = asyncio.Semaphore(effort.connections)
        # Single flight: all who find the credentials stale wait for one refresh. Nothing else is done under it.
        self._refreshing = asyncio.Lock()
        self._bucket: TokenBucket | None = None
        self._knows_flow_control = False
        self._counters: dict[tuple[int | str, str], Counter] = {}

    def urgent(self) -> Transport:
        """The same connections, with slots of their own."""
        effort = replace(self.effort, connections=_URGENT_SLOTS)
        return Transport(self.session, self._credentials, self.access, effort, sleep=self._sleep, rand=self._rand)

    async def send(
        self,
        request: Request,
        parse: Callable[[bytes], T],
        *,
        timeout: float | None = None,
        patience: float | None = None,
    ) -> T:
        """Send until an answer parses, an error is final or the deadline passes. Raises ApiError, UnreachableError.

        `timeout` and `patience` (seconds) replace those of the effort.
        """
        began = time.monotonic()
        deadline = began + (self.effort.timeout if timeout is None else timeout)
        tired_at = began + (self.effort.patience if patience is None else patience)
        backoff = Backoff(0.2, 5.0, jitter=0.3, rand=self._rand)
        failure: GitopsdError | None = None
        was_refreshed = False
        try:
            async with asyncio.timeout(deadline - began):
                while True:
                    await self.refresh_if_stale()
                    seen = self.access
                    try:
                        return parse(await self._attempt(request))
                    except _OUTDATED:
                        if was_refreshed or not await self.refresh(seen):
                            raise
                        was_refreshed = True
                        continue
                    except (ApiError, UnreachableError) as error:
                        failure = error
                        pause = _pause_before_repeat(error, request.may_repeat, backoff, tired_at)
                        if pause is None or time.monotonic() + pause >= deadline:
                            raise
                    await self._sleep(pause)
        except TimeoutError as error:
            raise (failure or self.unreachable(error)) from error

    async def _attempt(self, request: Request) -> bytes:
        if self._bucket is not None and (pause := self._bucket.reserve()):
            await self._sleep(pause)
        async with self._slots:
            try:
                async with await self.open(request) as response:
                    body = await _read(response)
            except (aiohttp.ClientError, OSError) as error:
                self._count("<error>", request.method)
                raise self.unreachable(error) from error
        if response.status >= 300:
            raise error_of(response.status, body, retry_after=response.headers.get("Retry-After"))
        return body

    async def open(self, request: Request) -> aiohttp.ClientResponse:
        """Send one request once and return when its headers are here; the caller reads and closes the answer."""
        if self.session.closed:
            raise UnreachableError("this client of the API server is closed", is_final=True)
        access = self.access
        is_large = request.body is not None and len(request.body) >= _LARGE_BODY
        response = await self.session.request(
            request.method,
            URL(access.server + request.target, encoded=True),
            headers=request.headers(),
            data=io.BytesIO(request.body or b"") if is_large else request.body,
            allow_redirects=False,
            ssl=access.tls or True,
            server_hostname=access.tls_server_name,
            proxy=access.proxy,
        )
        self._count(response.status, request.method)
        if response.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
            response.close()
            raise BrokenAnswerError(f"the API server at {access.host} gave an answer that is not HTTP")
        if not self._knows_flow_control and response.status < 300:
            # Servers with Priority and Fairness queue for themselves and say so in every answer.
            self._knows_flow_control = True
            if _FLOW_SCHEMA not in response.headers and self.effort.qps > 0:
                self._bucket = TokenBucket(self.effort.qps, self.effort.burst)
        return response

    async def start(self, request: Request, *, timeout: float | None = None) -> aiohttp.ClientResponse:
        """Open a request whose answer has no end in sight; it takes no slot and is not repeated. Raises as `send`.

        `timeout` (seconds) is for the headers alone.
        """
        await self.refresh_if_stale()
        seen = self.access
        limit = self.effort.timeout if timeout is None else timeout
        try:
            return await self._start(request, limit)
        except _OUTDATED:
            if not await self.refresh(seen):
                raise
        return await self._start(request, limit)

    async def _start(self, request: Request, timeout: float) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(timeout):
                response = await self.open(request)
                if response.status < 300:
                    return response
                async with response:
                    body = await _read(response)
        except (aiohttp.ClientError, OSError) as error:
            raise self.unreachable(error) from error
        raise error_of(response.status, body, retry_after=response.headers.get("Retry-After"))

    async def next_chunk(self, response: aiohttp.ClientResponse, ends: float) -> bytes:
        """The next bytes of a started answer; nothing when it is over or, by the loop's clock, its time is."""
        try:
            async with asyncio.timeout_at(ends) as clock:
                return await response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            if clock.expired():
                return b""
            raise self.unreachable(error) from error

    async def refresh_if_stale(self) -> None:
        """Read credentials again that are known to age (token files, plugins)."""
        stale_at = self.access.stale_at
        if stale_at is not None and time.monotonic() >= stale_at:
            await self.refresh(self.access)

    async def refresh(self, seen: Access) -> bool:
        """Replace the credentials in `seen`, once for all who saw them; whether there are others now."""
        async with self._refreshing:
            if self.access is not seen:
                return True
            try:
                self.access = await self._credentials.access()
            except CredentialsError:
                # A file that is being rotated may be missing for a moment.
                self.access = replace(seen, stale_at=time.monotonic() + _REFRESH_PAUSE)
                return False
            return True

    def unreachable(self, error: Exception) -> UnreachableError:
        """Our error for what aiohttp, the TLS library or the kernel say."""
        kind: type[UnreachableError] = UnreachableError
        if isinstance(error, _TLS_ERRORS):
            kind = UntrustedServerError
        elif isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientResponseError)):
            kind = BrokenAnswerError
        is_unsent = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
        text = f"the API server at {self.access.host} {_in_words(error)}"
        return kind(text, is_unsent=is_unsent, is_final=kind is UntrustedServerError)

    def _count(self, code: int | str, method: str) -> None:
        counter = self._counters.get((code, method))
        if counter is None:
            counter = metrics.rest_client_requests.labels(str(code), method, self.access.host)
            self._counters[code, method] = counter
        counter.inc()


def open_session() -> aiohttp.ClientSession:
    """A session for API servers: no cookies, no redirects, no automatic headers, no limit but our own."""
    connector = aiohttp.TCPConnector(
        limit=0,  # watches hold their connections for minutes; ordinary requests are counted by slots
        keepalive_timeout=_KEEP_ALIVE,
        socket_factory=_open_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=_READ_BUFFER,
    )


def _open_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices a peer that vanished without a word (spec/hostile-inputs.md Q10)."""
    opened = socket.socket(address[0], address[1], address[2])
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux has them all; elsewhere the defaults of the system must do.
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 30_000),
    ):
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, never more than the bound, whatever the headers promise."""
    length = response.content_length
    if length is not None and length <= ANSWER_BOUND and "Content-Encoding" not in response.headers:
        return await response.read()
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        size += len(part)
        if size > ANSWER_BOUND:
            raise BrokenAnswerError(f"an answer of the API server is larger than {ANSWER_BOUND} bytes", is_final=True)
        parts.append(part)
    return b"".join(parts)


def _pause_before_repeat(
    error: ApiError | UnreachableError, may_repeat: bool, backoff: Backoff, tired_at: float
) -> float | None:
    """Seconds until the request may be sent again; None when it must not be."""
    pause = backoff.next()
    if isinstance(error, TooManyRequestsError):
        # The server did not run it and says when to come back.
        return pause if error.retry_after is None else max(pause, error.retry_after)
    if isinstance(error, UnreachableError):
        is_worth_it = not error.is_final and (may_repeat or error.is_unsent)
    else:
        is_worth_it = isinstance(error, ServerError) and may_repeat and not _is_verdict(error)
        pause = max(pause, error.retry_after or 0.0)
    return pause if is_worth_it and time.monotonic() + pause < tired_at else None


def _is_verdict(error: ServerError) -> bool:
    return error.status in {500, 501} and any(text in error.message for text in _FINAL_TEXTS)


def _in_words(error: Exception) -> str:
    """What happened, in words that are safe to show."""
    match error:
        case _ if isinstance(error, _TLS_ERRORS):
            return f"is not trusted: {_tls_reason(error)}"
        case aiohttp.ClientProxyConnectionError():
            return "cannot be reached: its proxy does not answer"
        case aiohttp.ClientHttpProxyError():
            return f"cannot be reached: its proxy answered {error.status}"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: its name is not known"
        case TimeoutError():
            return "did not answer in time"
        case aiohttp.ClientPayloadError():
            return "cut its answer short"
        case aiohttp.ClientResponseError():
            return "gave an answer that is not HTTP"
        case OSError() if isinstance(error.__cause__ or error, ConnectionRefusedError):
            return "cannot be reached: connection refused"
        case OSError() if error.strerror:
            return f"cannot be reached: {error.strerror.lower()}"
    return "cannot be reached: connection lost"


def _tls_reason(error: Exception) -> str:
    cause = getattr(error, "certificate_error", None) or error
    return str(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or "TLS handshake failed")
