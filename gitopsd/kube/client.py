"""Requests to one API server: plain JSON objects in, plain JSON objects out, nothing generated in between.

Knows verbs, headers and identities; refuses to know connections and retries (`transport`), kinds (`discovery`), caches
(`informer`) and what anybody wants to write. Errors are those of `kube.errors`. Nothing is logged here.

The hot path builds no headers and creates no TLS context: both are prepared once for each identity and dropped when
the credentials change.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import orjson
from multidict import CIMultiDict

from gitopsd import __version__
from gitopsd.krm.objects import Obj
from gitopsd.kube.credentials import (
    Access,
    Credentials,
    CredentialsError,
    InCluster,
    Kubeconfig,
    impersonation_headers,
)
from gitopsd.kube.errors import BrokenAnswerError
from gitopsd.kube.frames import FrameSplitter, event_of
from gitopsd.kube.transport import Effort, Request, Sleep, Transport, open_session

T = TypeVar("T")
Params = Mapping[str, str | int | bool]

# spec/hostile-inputs.md 1, bounds table.
FRAME_BOUND = 4 << 20
# A larger page would hold up the event loop while it is decoded, so the next one asks for fewer objects.
_PAGE_AIM = 2 << 20

_JSON = "application/json"
# The plain type stands last for servers that cannot cut objects down to their metadata.
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class PatchType(StrEnum):
    """How a patch is meant. JSON is YAML, so an apply patch may be JSON bytes."""

    APPLY = "application/apply-patch+yaml"
    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"


@dataclass(frozen=True)
class KubeSettings:
    """Which API server, and as whom.

    Without a kubeconfig the account of the pod is used; `service_host` and `service_port` are what kubelet puts into
    the environment, `proxies` is scheme to URL (and `no` to exceptions). `kubeconfig` may be a list, joined like
    KUBECONFIG.
    """

    kubeconfig: Path | None = None
    context: str = ""
    service_host: str = ""
    service_port: str = "443"
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    proxies: Mapping[str, str] = field(default_factory=dict)
    user_agent: str = f"gitopsd/{__version__}"
    effort: Effort = field(default_factory=Effort)

    def credentials(self) -> Credentials:
        """Where our identity comes from. Raises CredentialsError when nothing says."""
        if self.kubeconfig is not None:
            paths = [Path(part) for part in str(self.kubeconfig).split(os.pathsep) if part]
            return Kubeconfig(paths, context=self.context, proxies=self.proxies)
        if self.service_host:
            return InCluster(self.service_host, self.service_port, self.service_account, proxies=self.proxies)
        raise CredentialsError("there is no kubeconfig, and this is not a pod of a cluster")


class KubeClient:
    """One identity at one API server."""

    def __init__(
        self,
        transport: Transport,
        user_agent: str,
        *,
        user: str = "",
        groups: Sequence[str] = (),
        patience: float | None = None,
    ) -> None:
        self._transport = transport
        self._user_agent = user_agent
        self._user = user
        self._groups = tuple(groups)
        self._patience = patience
        self._impersonation = impersonation_headers(user, groups) if user else ()
        self._access: Access | None = None
        self._prepared: dict[tuple[str, str, bool], CIMultiDict[str]] = {}

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        settings: KubeSettings,
        credentials: Credentials | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
        rand: Callable[[], float] = random.random,
    ) -> AsyncIterator[KubeClient]:
        """Open a client for as long as the context lasts; it connects when the first request is sent.

        `credentials` stand in for those of the settings (the kubeconfig of a tenant). Raises CredentialsError.
        """
        credentials = credentials or settings.credentials()
        access = await credentials.access()
        async with open_session() as session:
            transport = Transport(session, credentials, access, settings.effort, sleep=sleep, rand=rand)
            yield cls(transport, settings.user_agent)

    def as_user(self, user: str, groups: Sequence[str] = ()) -> KubeClient:
        """The same connections with the rights of `user`. Raises CredentialsError for a name no header can carry."""
        return KubeClient(self._transport, self._user_agent, user=user, groups=groups, patience=self._patience)

    def with_patience(self, patience: float) -> KubeClient:
        """The same identity, repeating failed requests for `patience` seconds; 0 for who has a better plan."""
        return KubeClient(self._transport, self._user_agent, user=self._user, groups=self._groups, patience=patience)

    def urgent(self) -> KubeClient:
        """The same identity past the connection limit and without patience: for the lease, which must not queue."""
        return KubeClient(
            self._transport.urgent(), self._user_agent, user=self._user, groups=self._groups, patience=0.0
        )

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for clients that see the same server with the same eyes, for as long as they live."""
        return (str(id(self._transport.session)), self._user, *self._groups)

    @property
    def host(self) -> str:
        """`host:port` of the API server."""
        return self._transport.access.host

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context or of the pod; empty when neither says."""
        return self._transport.access.namespace

    async def get(
        self, path: str, *, params: Params | None = None, metadata_only: bool = False, timeout: float | None = None
    ) -> Obj:
        """Read one object; `metadata_only` objects come as PartialObjectMetadata from servers that know it."""
        request = self._request("GET", path, params, accept=_METADATA if metadata_only else _JSON)
        return await self._send(request, _object_of, timeout)

    async def list_pages(
        self,
        path: str,
        *,
        params: Params | None = None,
        metadata_only: bool = False,
        page_size: int = 500,
        timeout: float | None = None,
    ) -> AsyncIterator[Obj]:
        """Read a collection page by page, each a List object; `page_size` 0 asks for everything at once.

        Raises GoneError when the list grew too old between two pages: a whole is no longer to be had from them.
        """
        query: dict[str, str | int | bool] = dict(params or {})
        accept = _METADATA_LIST if metadata_only else _JSON
        limit = page_size
        while True:
            if limit:
                query["limit"] = limit
            request = self._request("GET", path, query, accept=accept, compressed=True)
            page, size = await self._send(request, lambda body: (_object_of(body), len(body)), timeout)
            yield page
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            query["continue"] = str(token)
            if size > _PAGE_AIM:
                limit = max(1, limit * _PAGE_AIM // size)

    async def create(self, path: str, obj: Obj, *, params: Params | None = None, timeout: float | None = None) -> Obj:
        """Create an object in the collection `path`. Never repeated once it may have arrived."""
        request = self._request("POST", path, params, orjson.dumps(obj), _JSON)
        return await self._send(request, _object_of, timeout)

    async def replace(self, path: str, obj: Obj, *, params: Params | None = None, timeout: float | None = None) -> Obj:
        """Put an object in the place of the one at `path`; its resourceVersion decides who wins."""
        request = self._request("PUT", path, params, orjson.dumps(obj), _JSON)
        return await self._send(request, _object_of, timeout)

    async def patch(
        self,
        path: str,
        body: Obj | list[Any] | bytes,
        *,
        kind: PatchType,
        params: Params | None = None,
        timeout: float | None = None,
    ) -> Obj:
        """Patch one object. Parameters of an apply: `fieldManager`, `force`, `dryRun` (`All`)."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        request = self._request("PATCH", path, params, data, kind.value)
        return await self._send(request, _object_of, timeout)

    async def delete(
        self, path: str, *, options: Obj | None = None, params: Params | None = None, timeout: float | None = None
    ) -> Obj:
        """Delete one object; `options` are fields of DeleteOptions (propagationPolicy, preconditions, dryRun)."""
        body = orjson.dumps({"apiVersion": "v1", "kind": "DeleteOptions", **options}) if options else None
        request = self._request("DELETE", path, params, body, _JSON)
        return await self._send(request, _object_of, timeout)

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        timeout: float | None = None,
    ) -> bytes:
        """Send one request and return the body of its answer. A POST is never repeated once it may have arrived."""
        request = self._request(method, path, params, body, content_type, accept=accept, compressed=method == "GET")
        return await self._send(request, bytes, timeout)

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Params | None = None, metadata_only: bool = False, lifetime: float = 630.0
    ) -> AsyncIterator[AsyncIterator[Obj]]:
        """Open one watch; inside, iterate its frames, each `{"type", "object"}`, until it ends. Never retried here.

        `lifetime` (seconds) ends by our own clock what the server forgot to end. Raises GoneError on a 410, be it at
        the start or in an ERROR frame, and BrokenAnswerError on a frame that is cut, malformed or too large.
        """
        accept = _METADATA if metadata_only else _JSON
        request = self._request("GET", path, {**(params or {}), "watch": True}, accept=accept)
        ends = asyncio.get_running_loop().time() + lifetime
        async with (
            await self._transport.start(request) as response,
            _cut_at_the_end(response),
            aclosing(self._frames(response, ends)) as frames,
        ):
            yield frames

    async def _frames(self, response: aiohttp.ClientResponse, ends: float) -> AsyncGenerator[Obj, None]:
        frames = FrameSplitter(FRAME_BOUND)
        while chunk := await self._transport.next_chunk(response, ends):
            for frame in frames.feed(chunk):
                yield event_of(frame)
        frames.end()

    async def stream(self, path: str, *, params: Params | None = None, lifetime: float) -> AsyncIterator[bytes]:
        """Read a body of unknown length as it comes: the log of a pod. Never retried here.

        `lifetime` (seconds) ends it by our own clock, also while the server has nothing to say yet.
        """
        ends = asyncio.get_running_loop().time() + lifetime
        request = self._request("GET", path, params, accept="*/*")
        async with await self._transport.start(request, timeout=lifetime) as response, _cut_at_the_end(response):
            while chunk := await self._transport.next_chunk(response, ends):
                yield chunk

    async def _send(self, request: Request, parse: Callable[[bytes], T], timeout: float | None) -> T:
        return await self._transport.send(request, parse, timeout=timeout, patience=self._patience)

    def _request(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        body: bytes | None = None,
        content_type: str = "",
        *,
        accept: str = _JSON,
        compressed: bool = False,
    ) -> Request:
        target = f"{path}?{_query(params)}" if params else path
        # A JSON patch may add to a list: twice is not once.
        may_repeat = method != "POST" and content_type != PatchType.JSON
        key = (accept, content_type if body is not None else "", compressed)
        return Request(method, target, lambda: self._headers(key), body, may_repeat)

    def _headers(self, key: tuple[str, str, bool]) -> CIMultiDict[str]:
        access = self._transport.access
        if access is not self._access:
            self._access = access
            self._prepared.clear()
        found = self._prepared.get(key)
        if found is None:
            found = self._prepared[key] = self._prepare(access, *key)
        return found

    def _prepare(self, access: Access, accept: str, content_type: str, compressed: bool) -> CIMultiDict[str]:
        headers = CIMultiDict({"User-Agent": self._user_agent, "Accept": accept})
        if content_type:
            headers["Content-Type"] = content_type
        # Packing costs the server more than a loopback gains.
        if compressed and urlsplit(access.server).hostname not in {"127.0.0.1", "::1", "localhost"}:
            headers["Accept-Encoding"] = "gzip"
        for name, value in (*access.headers, *self._impersonation):
            headers.add(name, value)
        return headers


@asynccontextmanager
async def _cut_at_the_end(response: aiohttp.ClientResponse) -> AsyncIterator[None]:
    """Leave an unfinished stream without a farewell: TLS would wait for the server's, longer than a short run lasts."""
    try:
        yield
    finally:
        connection = response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()


def _query(params: Params) -> str:
    return _encoded(
        tuple((name, value if isinstance(value, str) else str(value).lower()) for name, value in params.items())
    )


@lru_cache(maxsize=1024)
def _encoded(params: tuple[tuple[str, str], ...]) -> str:
    """The same few parameters go with every apply: encoded once."""
    return urlencode(params)


def _object_of(body: bytes) -> Obj:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BrokenAnswerError("an answer of the API server is not JSON") from error
    if not isinstance(found, dict):
        raise BrokenAnswerError("an answer of the API server is not an object")
    return found
