"""Connections to our servers that come to nothing: too many at a time, or requests that never get complete.

Stands between a listening socket and aiohttp's protocol, for which it has no setting (spec/hostile-inputs.md E11).
Knows connections and where a request's head ends; refuses to know what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_END_OF_HEAD = b"\r\n\r\n"


class Guard:
    """A factory of protocols that admits `most` connections, each of which has `patience` seconds to say what it wants.

    `patience` counts from the connection, and for later requests from their first byte.
    """

    def __init__(self, inner: Callable[[], Any], *, most: int = 1024, patience: float = 10.0) -> None:
        self._inner = inner
        self.most = most
        self.patience = patience
        self.connections = 0

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Guarded(self, self._inner())


class _Guarded(asyncio.Protocol):
    """Passes everything on to another protocol, and ends the connection when it overstays."""

    def __init__(self, guard: Guard, inner: Any) -> None:
        self._guard = guard
        self._inner = inner
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._tail = b""
        self._is_admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # not always an asyncio.Transport: uvloop has its own
        if self._guard.connections >= self._guard.most:
            self._transport.abort()
            return
        self._guard.connections += 1
        self._is_admitted = True
        self._wait_for_head()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_admitted:
            return
        if _END_OF_HEAD in self._tail + data:
            self._cancel()
            self._tail = b""
        else:
            self._tail = (self._tail + data)[-len(_END_OF_HEAD) + 1 :]
            if self._timer is None:
                self._wait_for_head()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._is_admitted else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        if self._is_admitted:
            self._guard.connections -= 1
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _wait_for_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._guard.patience, self._transport.abort)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
