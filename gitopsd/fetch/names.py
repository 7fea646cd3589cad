"""Names of hosts to addresses, in threads of their own.

The event loop's own way has room for two look-ups at a time (libuv lets that many wait), so that two names whose
servers never answer would hold up everybody's. A look-up ends by the system's own limits; cancelling does not stop it.
Knows the system's resolver; refuses to know what the addresses are for.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from aiohttp.resolver import ThreadedResolver

# They only wait; each takes a few KiB.
_THREADS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="names")


async def addresses(host: str, port: int, **more: Any) -> list[Any]:
    """As `socket.getaddrinfo`. Raises OSError."""
    return await asyncio.get_running_loop().run_in_executor(
        _THREADS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, **more)
    )


class _Lookups:
    """What aiohttp's resolver asks an event loop for."""

    async def getaddrinfo(self, host: str, port: int, *, type: int, **more: Any) -> list[Any]:  # noqa: A002 - its name
        return await addresses(host, port, **more)

    async def getnameinfo(self, address: Any, flags: int) -> tuple[str, str]:
        return await asyncio.get_running_loop().getnameinfo(address, flags)


def resolver() -> ThreadedResolver:
    """A resolver for aiohttp's connections."""
    return ThreadedResolver(cast("asyncio.AbstractEventLoop", _Lookups()))
