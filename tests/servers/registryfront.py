"""A front for the real registry that logs every request, and misbehaves where a test wants it to.

It answers on three ports, plain and with TLS, as every loopback server; requests go on to the registry behind it.
"""

from __future__ import annotations

import asyncio
import http.client

from aiohttp import web

from tests.certificates import Authority
from tests.servers.loopback import Answer, LoopbackServer
from tests.servers.registry import Registry

_PASSED_ON = ("Accept", "Authorization", "Content-Type", "Range")
_HOP_BY_HOP = frozenset(("connection", "transfer-encoding", "keep-alive", "date"))


class RegistryFront(LoopbackServer):
    """Stands before `registry`, which speaks plain HTTP."""

    def __init__(self, registry: Registry, *, authority: Authority | None = None) -> None:
        super().__init__(name="registry-front", authority=authority)
        self.registry = registry

    def host(self, kind: str = "http") -> str:
        """Host and port under which a client finds it: `http`, `https` or `mtls`."""
        return {"http": self.url, "https": self.https_url, "mtls": self.mtls_url}[kind].partition("//")[2]

    async def answer(self, request: web.Request, path: str) -> Answer:
        return await asyncio.to_thread(self._passed_on, request.method, request.path_qs, dict(request.headers))

    def _passed_on(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self.registry.host, timeout=10)
        try:
            kept = {name: value for name, value in headers.items() if name in _PASSED_ON}
            connection.request(method, path, headers=kept)
            answer = connection.getresponse()
            sent = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Answer(answer.status, sent, answer.read())
        finally:
            connection.close()
