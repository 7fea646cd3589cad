"""A proxy in front of the real API server that breaks what it is told to break.

Clients speak HTTPS to it with the authority of the control plane; it forwards what they send, their credentials too,
and streams what comes back as it comes. Rules are those of `tests.servers.trouble` and the ones below, chosen by verb,
path and chance, and changed while requests run.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import random
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.controlplane import ControlPlane
from tests.servers.loopback import Answer, Ask, LoopbackServer, Rule, Trouble, break_connection
from tests.servers.trouble import without

# What belongs to one connection and must not be forwarded to the next.
_HOP_BY_HOP = ("Connection", "Keep-Alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Host")

_UPSTREAM = web.RequestKey("upstream", aiohttp.ClientResponse)

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>.+))?"
)


@dataclass(frozen=True)
class ApiRequest:
    """One request in Kubernetes' own words; `verb` tells `apply` from `patch` and `watch` from `list`."""

    verb: str
    path: str
    resource: str  # "deployments.apps", "configmaps", or "" for what is no resource
    namespace: str
    name: str
    subresource: str
    query: str
    user_agent: str
    status: int = 0
    at: float = 0.0
    body: bytes = b""

    @property
    def is_dry_run(self) -> bool:
        """Whether the server was asked to change nothing."""
        return "dryRun=All" in self.query

    @property
    def is_write(self) -> bool:
        """Whether the request could change something."""
        return self.verb not in {"get", "list", "watch", "other"} and not self.is_dry_run


def read_request(request: web.Request, body: bytes = b"") -> ApiRequest:
    """What a request asks of the API server."""
    match = _PATH.fullmatch(request.path)
    part = match.groupdict("") if match else {}
    resource = part.get("resource", "")
    if part.get("group"):
        resource = f"{resource}.{part['group']}"
    return ApiRequest(
        verb=_verb(request, part) if match else "other",
        path=request.path,
        resource=resource,
        namespace=part.get("namespace", ""),
        name=part.get("name", ""),
        subresource=part.get("subresource", ""),
        query=request.query_string,
        user_agent=request.headers.get("User-Agent", ""),
        at=time.monotonic(),
        body=body,
    )


def _verb(request: web.Request, part: dict[str, str]) -> str:
    match request.method:
        case "GET":
            if request.query.get("watch") in {"1", "true"}:
                return "watch"
            return "get" if part["name"] else "list"
        case "PATCH":
            return "apply" if "apply-patch" in request.headers.get("Content-Type", "") else "patch"
        case "DELETE":
            return "delete" if part["name"] else "deletecollection"
        case method:
            return {"POST": "create", "PUT": "update"}.get(method, method.lower())


class FaultProxy(LoopbackServer):
    """Forwards to the API server of `control_plane`; `url` of clients is `https_url`, or use `kubeconfig`."""

    def __init__(self, control_plane: ControlPlane, *, seed: int = 0) -> None:
        self._control_plane = control_plane
        self._context: ssl.SSLContext = control_plane.authority.client_context()
        self._session: aiohttp.ClientSession | None = None
        self._random = random.Random(seed)
        self.log: list[ApiRequest] = []
        super().__init__(name="proxy", authority=control_plane.authority)

    @property
    def kubeconfig(self) -> Path:
        """The admin's kubeconfig, through the proxy."""
        return self._control_plane.kubeconfig_for("admin", server=self.https_url)

    def inject(
        self,
        rule: Rule,
        *,
        verbs: Iterable[str] = (),
        path: str = "*",
        resource: str = "*",
        times: int | None = None,
        after: int = 0,
        chance: float = 1.0,
    ) -> Trouble:
        """Meet requests of these verbs (none: all) by `rule`, not before `after` of them passed, and by `chance`."""
        wanted = frozenset(verbs)
        passed = 0

        def meets(request: web.Request) -> bool:
            nonlocal passed
            seen = read_request(request)
            if wanted and seen.verb not in wanted:
                return False
            if not (fnmatch.fnmatch(seen.path, path) and fnmatch.fnmatch(seen.resource, resource)):
                return False
            passed += 1
            return passed > after and (chance >= 1 or self._random.random() < chance)

        return self.behave(meets, rule, times=times)

    def heal(self) -> None:
        """Forget every rule; what a rule holds at the moment stays held."""
        self.troubles.clear()

    def counts(self) -> Counter[tuple[str, str]]:
        """How many requests there were of each verb on each resource."""
        return Counter((seen.verb, seen.resource) for seen in self.log)

    def find(self, **wanted: Any) -> list[ApiRequest]:
        """The requests whose fields have these values."""
        return [seen for seen in self.log if all(getattr(seen, key) == value for key, value in wanted.items())]

    def forget(self) -> None:
        """Empty the request log."""
        super().forget()
        self.log.clear()

    def break_connections(self, *, resource: str = "*") -> int:
        """Break every open request on `resource` (watches, mostly) by RST; returns how many."""
        return self._thread.call(self._break(resource))

    async def _break(self, resource: str) -> int:
        broken = 0
        for request in list(self._open.values()):
            if fnmatch.fnmatch(read_request(request).resource, resource) and request.transport is not None:
                break_connection(request.transport)
                broken += 1
        return broken

    async def answer(self, request: web.Request, path: str) -> Answer:
        """Forward the request."""
        session = self._session or self._open_session()
        headers = without(request.headers, *_HOP_BY_HOP, "Content-Length")
        response = await session.request(
            request.method,
            f"{self._control_plane.server}{request.raw_path}",
            headers=headers,
            data=await request.read() or None,
            allow_redirects=False,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept-Encoding"),
        )
        request[_UPSTREAM] = response
        return Answer(response.status, without(response.headers, *_HOP_BY_HOP), self._relay(request, response))

    async def _relay(self, request: web.Request, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        self._open[id(request)] = request
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            self._open.pop(id(request), None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await super()._handle(request)
        finally:
            if _UPSTREAM in request:  # also when nobody read its body
                request[_UPSTREAM].close()

    def answered(self, request: web.Request, answer: Answer) -> None:
        """Keep the request and the status it got."""
        seen = read_request(request, request._read_bytes or b"")
        self.log.append(ApiRequest(**{**seen.__dict__, "status": answer.status}))

    def _open_session(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            # A request that was refused by a dead upstream must reach the client as such, not as our timeout.
            read_bufsize=1 << 20,
        )
        return self._session

    async def _set_up(self) -> None:
        self._open: dict[int, web.Request] = {}
        await super()._set_up()

    async def _tear_down(self) -> None:
        await super()._tear_down()
        if self._session is not None:
            await self._session.close()

    async def _admit(self, request: web.Request) -> Answer:
        try:
            return await super()._admit(request)
        except aiohttp.ClientError:
            # The server behind is away: so are we, in the same way as it would be.
            if request.transport is not None:
                break_connection(request.transport)
            return Answer(502)


# -- rules for API servers


def api_status(code: int, reason: str = "", message: str = "injected", retry_after: str | int | None = None) -> Rule:
    """Kubernetes' Status of an error, in place of the answer; the request does not reach the server."""
    reason = reason or _REASONS.get(code, "InternalError")

    async def rule(request: web.Request, ask: Ask) -> Answer:
        return _status_answer(code, reason, message, retry_after)

    return rule


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**head, "message": message, "reason": reason, "code": code}


def _status_answer(code: int, reason: str, message: str, retry_after: str | int | None) -> Answer:
    headers = {"Content-Type": "application/json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Answer(code, headers, json.dumps(_status(code, reason, message)).encode())


def lost_answer() -> Rule:
    """The server does what it was asked, and the client never hears of it."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        await (await ask()).read()
        if request.transport is not None:
            break_connection(request.transport)
        return Answer(502)

    return rule


Frames = AsyncGenerator[bytes, None]


def on_frames(change: Callable[[Frames], Frames], ending: str = "") -> Rule:
    """Watches whose frames (lines with their end) pass through `change`."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        if answer.status != 200:
            return answer
        return Answer(200, answer.headers, change(frames_of(answer)), ending)  # type: ignore[arg-type]

    return rule


async def frames_of(answer: Answer) -> Frames:
    """The lines of a streamed answer, each as soon as it is complete."""
    assert not isinstance(answer.body, bytes)
    rest = b""
    async with contextlib.aclosing(answer.body) as body:
        async for chunk in body:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
    if rest:
        yield rest


def cut_watch(
    *, after_events: int | None = None, after_seconds: float | None = None, ending: str = "", more: bytes = b""
) -> Rule:
    """End watches after so many events or seconds, cleanly, by `fin` or by `rst`, with `more` as the last bytes."""

    async def change(frames: Frames) -> Frames:
        deadline = time.monotonic() + after_seconds if after_seconds is not None else None
        count = 0
        async with contextlib.aclosing(frames):
            while after_events is None or count < after_events:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    frame = await asyncio.wait_for(anext(frames), left)
                except TimeoutError:
                    break
                except StopAsyncIteration:
                    return
                yield frame
                count += 1
        if more:
            yield more

    return on_frames(change, ending)


def watch_error(code: int = 410, *, after_events: int = 0, message: str = "too old resource version: 1 (2)") -> Rule:
    """An ERROR frame in a watch that began well, and then its end."""
    frame = {"type": "ERROR", "object": _status(code, _REASONS.get(code, "InternalError"), message)}
    return cut_watch(after_events=after_events, more=json.dumps(frame).encode() + b"\n")


def without_bookmarks() -> Rule:
    """Watches that never say how far they are."""

    async def change(frames: Frames) -> Frames:
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if json.loads(frame).get("type") != "BOOKMARK":
                    yield frame

    return on_frames(change)


def frozen_watch(after_events: int = 0) -> Rule:
    """Watches that stay open and say nothing more."""

    async def change(frames: Frames) -> Frames:
        left = after_events
        async with contextlib.aclosing(frames):
            async for frame in frames:
                if left == 0:
                    break
                left -= 1
                yield frame
            await asyncio.Event().wait()

    return on_frames(change)


def doubled_events() -> Rule:
    """Watches that say everything twice."""

    async def change(frames: Frames) -> Frames:
        async with contextlib.aclosing(frames):
            async for frame in frames:
                yield frame
                yield frame

    return on_frames(change)
