"""Rules that make a server misbehave, one function for each kind of trouble.

A rule gets the request and a function that asks the healthy server; most do without it.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping

from aiohttp import web

from tests.servers.loopback import Answer, Ask, Rule, break_connection

LOGIN_PAGE = b"<!DOCTYPE html><html><body><h1>Please sign in</h1><form><input name=password></form></body></html>\n"


def without(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    """The headers but those called so, in whatever case."""
    dropped = {name.lower() for name in names}
    return {name: value for name, value in headers.items() if name.lower() not in dropped}


def say(
    status: int = 200, body: bytes | str = b"", content_type: str = "text/plain", **headers: str
) -> Rule:  # fmt: skip
    """A fixed answer; underscores in names of `headers` are dashes."""
    content = body.encode() if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def rule(request: web.Request, ask: Ask) -> Answer:
        return Answer(status, {"Content-Type": content_type, **named}, content)

    return rule


def login_page() -> Rule:
    """200 and a page for people, as proxies and expired sessions give."""
    return say(200, LOGIN_PAGE, "text/html; charset=utf-8")


def redirect(location: str | Callable[[web.Request], str], status: int = 302) -> Rule:
    """Send the client elsewhere."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        target = location if isinstance(location, str) else location(request)
        return Answer(status, {"Location": target})

    return rule


def never() -> Rule:
    """Take the request and say nothing, until the client leaves."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    return rule


def late(seconds: float) -> Rule:
    """The right answer, but not now."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        await asyncio.sleep(seconds)
        return await ask()

    return rule


def reset() -> Rule:
    """Break the connection instead of answering."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        if request.transport is not None:
            break_connection(request.transport)
        await asyncio.Event().wait()
        raise AssertionError("the connection is gone")

    return rule


def drip(pause: float, size: int = 1) -> Rule:
    """The right answer, `size` bytes every `pause` seconds."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        content = await answer.read()

        async def drops() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(content), size):
                yield content[start : start + size]
                await asyncio.sleep(pause)

        return Answer(answer.status, answer.headers, drops())

    return rule


def cut(after: int, ending: str = "fin") -> Rule:
    """The first `after` bytes of the right answer (negative: all but that many), then `fin`, `rst` or `half`."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        content = (await answer.read())[:after]
        return Answer(answer.status, answer.headers, content, ending)  # type: ignore[arg-type]

    return rule


def altered(change: Callable[[bytes], bytes]) -> Rule:
    """The right answer after `change`."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        content = change(await answer.read())
        return Answer(answer.status, without(answer.headers, "Content-Length"), content)

    return rule


def flipped(offset: int, mask: int = 0x01) -> Rule:
    """The right answer with bits of one byte turned over."""

    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[offset] ^= mask
        return bytes(damaged)

    return altered(flip)


def retyped(content_type: str) -> Rule:
    """The right bytes under a wrong content type."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        return Answer(answer.status, {**answer.headers, "Content-Type": content_type}, answer.body)

    return rule


def huge_headers(size: int = 1 << 20, count: int = 1) -> Rule:
    """The right answer behind `count` headers of `size` bytes each."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        padding = {f"X-Padding-{number}": "x" * size for number in range(count)}
        return Answer(answer.status, {**answer.headers, **padding}, answer.body)

    return rule


def gzip_bomb(size: int = 1 << 30, content_type: str = "text/plain") -> Rule:
    """A small answer that decompresses to `size` bytes of zeroes."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        block = bytes(1 << 20)
        parts = [packer.compress(block) for _ in range(size >> 20)]
        body = b"".join([*parts, packer.flush()])
        return Answer(200, {"Content-Encoding": "gzip", "Content-Type": content_type}, body)

    return rule


def compressed() -> Rule:
    """The right answer, gzipped; harmless, and clients must cope."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        headers = {**without(answer.headers, "Content-Length"), "Content-Encoding": "gzip"}
        return Answer(answer.status, headers, gzip.compress(await answer.read()))

    return rule


def endless(chunk: bytes = b"\x00" * 65536, content_type: str = "application/octet-stream") -> Rule:
    """Bytes for ever, as fast as the client takes them."""

    async def rule(request: web.Request, ask: Ask) -> Answer:
        async def flood() -> AsyncGenerator[bytes, None]:
            while True:
                yield chunk

        return Answer(200, {"Content-Type": content_type}, flood())

    return rule
