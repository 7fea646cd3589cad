"""Looking up names when some of them take for ever."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest

from gitopsd.fetch.connections import Connector
from gitopsd.fetch.names import addresses, resolver
from gitopsd.fetch.proxy import Proxy, open_tunnel


async def test_A01_names_that_are_never_answered_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    release, real = threading.Event(), socket.getaddrinfo

    def lookup(host: str, *given: Any, **more: Any) -> Any:
        if host.startswith("slow"):
            release.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real("127.0.0.1", *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    slow = [asyncio.ensure_future(resolver().resolve(f"slow-{number}.example", 1)) for number in range(40)]
    try:
        found = await resolver().resolve("quick.example", 80)
        assert [(one["hostname"], one["host"], one["port"]) for one in found] == [("quick.example", "127.0.0.1", 80)]
        assert await addresses("quick.example", 80)
        assert not any(one.done() for one in slow)
    finally:
        release.set()
        assert all(isinstance(one, OSError) for one in await asyncio.gather(*slow, return_exceptions=True))


async def test_every_connection_asks_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def lookup(host: str, *given: Any, **more: Any) -> Any:
        asked.append((host, threading.current_thread().name.startswith("names")))
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with aiohttp.ClientSession(connector=Connector(None, None)) as session:
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await session.get("http://one.example/")
    with pytest.raises(OSError, match="no such host"):
        await open_tunnel(Proxy("socks5", "two.example", 1), "three.example", 1)
    assert asked == [("one.example", True), ("two.example", True)]
