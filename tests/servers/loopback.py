"""The ground that test servers stand on: an aiohttp server in a thread of its own, with a log and programmable trouble.

Tests, synchronous or not, call a server like any object; its event loop runs in a thread, so a test that blocks its own
loop does not block the server. Every server answers over HTTP, over HTTPS with a private authority's certificate, and
over HTTPS asking for a client certificate: three ports, one content.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fnmatch
import shutil
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from aiohttp import web

from tests.certificates import Authority
from tests.processes import free_port, temporary_folder

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        """Run `work` on the loop and wait for what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        """Cancel what is left, stop the loop and join the thread."""
        self.call(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Answer:
    """What a server says: `body` in one piece or in chunks, and how the connection ends after it."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | AsyncGenerator[bytes, None] = b""
    ending: Literal["", "fin", "rst", "half"] = ""

    async def read(self) -> bytes:
        """The whole body; afterwards it is in one piece."""
        if not isinstance(self.body, bytes):
            self.body = b"".join([chunk async for chunk in self.body])
        return self.body


Ask = Callable[[], Awaitable[Answer]]
Rule = Callable[[web.Request, Ask], Awaitable[Answer]]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    scheme: str
    client: str  # common name of the client certificate, if one was shown
    body: bytes

    @property
    def credentials(self) -> str:
        """The `Authorization` header, basic ones decoded to `user:password`."""
        value = self.headers.get("Authorization", "")
        kind, _, rest = value.partition(" ")
        return base64.b64decode(rest).decode() if kind == "Basic" else value


@dataclass(eq=False)
class Trouble:
    """A rule that is in force until it is removed, or used up after `times` requests."""

    server: LoopbackServer
    pattern: str | Callable[[web.Request], bool]
    rule: Rule
    times: int | None
    used: int = 0

    def meets(self, request: web.Request) -> bool:
        """Whether this request is to be met by the rule."""
        if self.used == self.times:
            return False
        if isinstance(self.pattern, str):
            return fnmatch.fnmatch(request.path, self.pattern)
        return self.pattern(request)

    def remove(self) -> None:
        """Let requests be answered as before."""
        if self in self.server.troubles:
            self.server.troubles.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class LoopbackServer:
    """Base of the servers: a subclass says what it answers in `answer`."""

    def __init__(self, *, name: str = "server", authority: Authority | None = None) -> None:
        self.folder = temporary_folder(name)
        self.authority = authority or Authority(self.folder / "certificates")
        self.requests: list[Seen] = []
        self.troubles: list[Trouble] = []
        self._arrived = threading.Condition()
        self._protected: dict[str, Callable[[str], bool]] = {}
        self._ports = {kind: free_port() for kind in ("http", "https", "mtls")}
        self._thread = LoopThread(name)
        self._runner: web.AppRunner | None = None
        self._sites: list[web.TCPSite] = []
        self._contexts = {
            "http": None,
            "https": self.authority.server_context(f"{name}-https"),
            "mtls": self.authority.server_context(f"{name}-mtls", client_certificates=True),
        }
        self._thread.call(self._set_up())

    # -- for tests

    @property
    def url(self) -> str:
        """Base address over HTTP, without a slash at its end."""
        return f"http://127.0.0.1:{self._ports['http']}"

    @property
    def https_url(self) -> str:
        """Base address over HTTPS; `authority` signed the certificate."""
        return f"https://127.0.0.1:{self._ports['https']}"

    @property
    def mtls_url(self) -> str:
        """Base address over HTTPS for clients with a certificate of `authority`."""
        return f"https://127.0.0.1:{self._ports['mtls']}"

    def behave(self, pattern: str | Callable[[web.Request], bool], rule: Rule, *, times: int | None = None) -> Trouble:
        """Answer requests whose path matches `pattern` (or that it is true of) by `rule`; the newest comes first."""
        trouble = Trouble(self, pattern, rule, times)
        self.troubles.insert(0, trouble)
        return trouble

    def protect(self, prefix: str, *, basic: tuple[str, str] | None = None, bearer: str | None = None) -> None:
        """Ask for credentials below `prefix`. Neither basic nor bearer: nobody may."""
        wanted = []
        if basic is not None:
            wanted.append("Basic " + base64.b64encode(":".join(basic).encode()).decode())
        if bearer is not None:
            wanted.append(f"Bearer {bearer}")
        self._protected[prefix] = lambda given: given in wanted

    def refuse(self) -> None:
        """Listen no more and break every connection: clients see connection refused."""
        self._thread.call(self._stop_listening())

    def accept(self) -> None:
        """Listen again, on the same ports."""
        self._thread.call(self._listen())

    def forget(self) -> None:
        """Empty the request log."""
        with self._arrived:
            self.requests.clear()

    def wait_for(self, accept: Callable[[list[Seen]], Any], *, timeout: float = 10.0) -> Any:
        """Wait until `accept` finds what it wants in the request log, and return that."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: accept(self.requests), timeout):
                paths = [f"{seen.method} {seen.path}" for seen in self.requests[-20:]]
                raise AssertionError(f"not seen within {timeout:g}s; last requests: {paths}")
            return accept(self.requests)

    def close(self) -> None:
        """Stop and remove every trace; doing it twice is harmless."""
        if self._runner is None:
            return
        self._thread.call(self._tear_down())
        self._runner = None
        self._thread.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- for subclasses

    async def answer(self, request: web.Request, path: str) -> Answer:
        """What the server says to a request that met no trouble and may come in."""
        raise NotImplementedError

    def answered(self, request: web.Request, answer: Answer) -> None:
        """Called with every answer that is about to be sent, troubled or not."""

    # -- in the thread

    async def _set_up(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Handlers that never answer must end when their client leaves, and must not hold up the end of a test.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        if self._sites:
            return
        for kind, port in self._ports.items():
            site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._contexts[kind])
            await site.start()
            self._sites.append(site)

    async def _stop_listening(self) -> None:
        assert self._runner is not None
        for site in self._sites:
            await site.stop()
        self._sites.clear()
        server = self._runner.server
        for connection in list(server.connections if server is not None else ()):
            if connection.transport is not None:
                connection.transport.abort()

    async def _tear_down(self) -> None:
        assert self._runner is not None
        await self._stop_listening()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        with self._arrived:
            self.requests.append(
                Seen(
                    request.method,
                    request.path,
                    request.query_string,
                    request.headers.copy(),
                    request.scheme,
                    _client_name(request),
                    body,
                )
            )
            self._arrived.notify_all()

        async def ask() -> Answer:
            return await self._admit(request)

        for trouble in list(self.troubles):
            if trouble.meets(request):
                trouble.used += 1
                answer = await trouble.rule(request, ask)
                break
        else:
            answer = await ask()
        self.answered(request, answer)
        return await _send(request, answer)

    async def _admit(self, request: web.Request) -> Answer:
        for prefix, accepts in self._protected.items():
            if request.path.startswith(prefix) and not accepts(request.headers.get("Authorization", "")):
                return Answer(401, {"WWW-Authenticate": 'Basic realm="tests"'}, b"credentials wanted\n")
        return await self.answer(request, request.path)


def _client_name(request: web.Request) -> str:
    certificate = (request.get_extra_info("peercert") or {}) if request.secure else {}
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


async def _send(request: web.Request, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if isinstance(answer.body, bytes) and not answer.ending and "Content-Length" not in answer.headers:
        response.content_length = len(answer.body)
    if answer.ending:
        response.force_close()
    await response.prepare(request)
    if request.method == "HEAD":
        await response.write_eof()
        return response
    async with contextlib.aclosing(_chunks(answer.body)) as chunks:
        async for chunk in chunks:
            await response.write(chunk)
    await _end(request, response, answer)
    return response


async def _chunks(body: bytes | AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async with contextlib.aclosing(body):  # what stands behind the body is let go with it
        async for chunk in body:
            yield chunk


async def _end(request: web.Request, response: web.StreamResponse, answer: Answer) -> None:
    transport = request.transport
    if not answer.ending or transport is None:
        await response.write_eof()
        return
    match answer.ending:
        case "rst":
            break_connection(transport)
        case "fin":
            transport.close()
        case "half":
            transport.write_eof()
            await asyncio.Event().wait()


def break_connection(transport: asyncio.BaseTransport) -> None:
    """End a connection by RST instead of FIN."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()  # type: ignore[attr-defined]
