"""Packets: the lines that Git's protocol is made of.

Knows lengths and markers; refuses to know what the lines say. Strict: a length outside the rules is an error.
Invariant: no more is read than was allowed.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Awaitable, Callable
from enum import Enum

from gitopsd.fetch.errors import AskedInVainError, RemoteError, printable

_LONGEST_PACKET = 65520


class Mark(Enum):
    """Packets without content."""

    FLUSH = 0
    DELIMITER = 1
    RESPONSE_END = 2


class Packets:
    """A stream of packets, read from `read`, which returns b"" at the end and is never asked for more than `limit`."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], limit: int) -> None:
        self._read = read
        self._left = limit
        self._buffer = b""
        self._position = 0

    def allow(self, limit: int) -> None:
        """Let `limit` more bytes come."""
        self._left = limit

    async def next(self) -> bytes | Mark:
        """The next packet. Raises RemoteError when the stream ends or breaks a rule."""
        while True:
            packet = self._take()
            if packet is not None:
                return packet
            await self._fill()

    def _take(self) -> bytes | Mark | None:
        """The next packet, if it has come in full."""
        start = self._position + 4
        if len(self._buffer) < start:
            return None
        prefix = self._buffer[self._position : start]
        try:
            length = int.from_bytes(unhexlify(prefix), "big")
        except HexError:
            raise RemoteError("protocol error: bad packet length", rule="packet") from None
        if length < 4:
            if length == 3:
                raise RemoteError("protocol error: bad packet length", rule="packet")
            self._position = start
            return Mark(length)
        if length > _LONGEST_PACKET:
            raise RemoteError("protocol error: packet is too long", rule="packet")
        end = self._position + length
        if len(self._buffer) < end:
            return None
        self._position = end
        return self._buffer[start:end]

    async def _fill(self) -> None:
        more = await self._read()
        if not more:
            raise RemoteError("the server ended the conversation early")
        self._left -= len(more)
        if self._left < 0:
            raise RemoteError("the server's answer is longer than allowed", rule="answer-size")
        self._buffer = self._buffer[self._position :] + more
        self._position = 0

    async def line(self) -> bytes | Mark:
        """The next packet as a line without its end. An error that the server reports is raised as RemoteError."""
        packet = await self.next()
        if isinstance(packet, Mark):
            return packet
        if packet.startswith(b"ERR "):
            raise AskedInVainError(f"the server reports: {printable(packet[4:])}")
        return packet[:-1] if packet.endswith(b"\n") else packet


def packet(line: str) -> bytes:
    """A line as a packet."""
    data = line.encode() + b"\n"
    return b"%04x%s" % (len(data) + 4, data)
