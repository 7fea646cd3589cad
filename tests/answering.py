"""Stand-ins for what a virtual clock cannot have: a web that answers from a script, and threads that take no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from multidict import CIMultiDict

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.http import ANYBODY, Access, HttpClient


@dataclass
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] | list[tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    url: str
    authorization: str
    headers: Mapping[str, str]
    body: bytes | None
    access: Access = field(repr=False)
    follow: bool = True
    is_foreign: bool = False

    @property
    def line(self) -> str:
        return f"{self.method} {self.url}"


class _Answer:
    def __init__(self, reply: Reply, url: str) -> None:
        self.status = reply.status
        self.headers = CIMultiDict(reply.headers)
        self.url = url
        self._body = reply.body

    async def read(self, limit: int, what: str = "answer") -> bytes:
        return b"".join([piece async for piece in self.pieces(limit, what)])

    async def pieces(self, limit: int, what: str = "answer") -> AsyncIterator[bytes]:
        if len(self._body) > limit:
            raise RemoteError(f"the {what} is larger than {limit} bytes", rule="size")
        for at in range(0, len(self._body), 1000):
            yield self._body[at : at + 1000]


Script = Callable[[Asked], Reply | Awaitable[Reply]]


class AnsweringWeb(HttpClient):
    """Answers by `script`, which may raise RemoteError, or take its time."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        self.asked: list[Asked] = []

    @property
    def lines(self) -> list[str]:
        """What was asked for, in order."""
        return [asked.line for asked in self.asked]

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
        **_: Any,
    ) -> AsyncIterator[Any]:
        asked = Asked(method, url, access.authorization, dict(headers or {}), body, access, follow, is_foreign)
        self.asked.append(asked)
        reply = self._script(asked)
        yield _Answer(reply if isinstance(reply, Reply) else await reply, url)


@contextmanager
def instant_threads(monkeypatch: pytest.MonkeyPatch, *modules: str) -> Iterator[None]:
    """Let what `modules` offload take no time on a virtual clock."""
    with ThreadPoolExecutor(1) as pool:

        async def offload(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            running = pool.submit(work, *args, **kwargs)
            while not running.done():
                await asyncio.sleep(0)
            return running.result()

        for module in modules:
            monkeypatch.setattr(f"{module}.offload", offload)
        yield
