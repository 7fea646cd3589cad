"""Connections that come to nothing are ended; the others never notice."""

from __future__ import annotations

import asyncio
from typing import Any

from gitopsd.web.guard import Guard
from tests.virtual import run


class Inner(asyncio.Protocol):
    """Notes what reaches it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


class Transport(asyncio.Transport):
    """Notes that it was aborted, and tells its protocol."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._to = protocol
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1
        self._to.connection_lost(None)


def connect(guard: Guard) -> tuple[asyncio.Protocol, Transport]:
    protocol = guard()
    transport = Transport(protocol)
    protocol.connection_made(transport)
    return protocol, transport


def test_E11_a_head_that_never_ends_is_given_up() -> None:
    async def scenario() -> None:
        inner = Inner()
        protocol, transport = connect(Guard(lambda: inner, patience=10))
        for _ in range(9):
            await asyncio.sleep(1)
            protocol.data_received(b"G")
        assert transport.aborts == 0
        await asyncio.sleep(1.1)
        assert transport.aborts == 1
        assert inner.calls == ["made", *[b"G"] * 9, "lost"]

    run(scenario())


def test_E11_a_second_request_has_its_own_time() -> None:
    async def scenario() -> None:
        inner = Inner()
        protocol, transport = connect(Guard(lambda: inner, patience=10))
        protocol.data_received(b"GET / HTTP/1.1\r\n")
        protocol.data_received(b"\r\n")
        await asyncio.sleep(60)
        assert transport.aborts == 0
        protocol.data_received(b"GET")
        await asyncio.sleep(10.1)
        assert transport.aborts == 1

    run(scenario())


def test_E11_beyond_the_cap_nobody_gets_in_until_somebody_leaves() -> None:
    async def scenario() -> None:
        made: list[Inner] = []

        def inner() -> Inner:
            made.append(Inner())
            return made[-1]

        guard = Guard(inner, most=2, patience=10)
        first, _ = connect(guard)
        connect(guard)
        assert connect(guard)[1].aborts == 1
        assert made[2].calls == []
        first.connection_lost(None)
        assert guard.connections == 1
        assert connect(guard)[1].aborts == 0

    run(scenario())
