"""How connections of HTTP clients are made: through SOCKS5, or to public addresses only.

Knows aiohttp's connector and resolver; refuses to know what is requested.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.names import resolver
from gitopsd.fetch.proxy import Proxy, open_tunnel

_KEPT_ALIVE = 60.0
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0:0/96")))


def is_private_literal(host: str) -> bool:
    """Whether `host` is an IP address, and not a public one."""
    try:
        return _is_private(host)
    except ValueError:
        return False


def _is_private(address: str) -> bool:
    """Whether an IP address is anything but public: private, loopback, link-local, shared, reserved, multicast."""
    ip = ipaddress.ip_address(address)
    inner = _embedded(ip) if isinstance(ip, ipaddress.IPv6Address) else None
    ip = inner or ip
    return not ip.is_global or ip.is_multicast


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address of the older form that a network may make of one: mapped, 6to4, or translated (NAT64, SIIT)."""
    if any(ip in network for network in _TRANSLATED):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only; asked at every connection, so that a name cannot change in between."""

    def __init__(self) -> None:
        self._inner = resolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve `host`. Raises RemoteError when any of its addresses is not public."""
        found = await self._inner.resolve(host, port, family)
        if any(_is_private(result["host"]) for result in found):
            raise RemoteError("the address leads into a private network", rule="private-redirect")
        return found

    async def close(self) -> None:
        """Nothing to close."""


class Connector(aiohttp.TCPConnector):
    """Connections of one pool, made through a SOCKS5 proxy if there is one."""

    def __init__(self, socks: Proxy | None, names: AbstractResolver | None) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEPT_ALIVE, ttl_dns_cache=30, resolver=names or resolver())
        self._socks = socks

    @property
    def is_used(self) -> bool:
        """Whether a request has one of the connections, or is making one."""
        return bool(self._acquired)

    def close_now(self) -> None:
        """Close every connection, without waiting for their goodbyes."""
        self._close(abort_ssl=True)

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[ResolveResult]:
        if self._socks is None:
            return await super()._resolve_host(host, port, traces)
        # Names are the proxy's business; this only carries the host through.
        return [ResolveResult(hostname=host, host="0.0.0.0", port=port, family=socket.AF_INET, proto=0, flags=0)]  # noqa: S104

    async def _wrap_create_connection(self, *args: Any, addr_infos: Any, req: Any, **options: Any) -> Any:
        if self._socks is None:
            return await super()._wrap_create_connection(*args, addr_infos=addr_infos, req=req, **options)
        tunnel = await open_tunnel(self._socks, req.url.raw_host, req.port)
        try:
            loop = asyncio.get_running_loop()
            return await loop.create_connection(
                *args, sock=tunnel, ssl=options.get("ssl"), server_hostname=options.get("server_hostname")
            )
        except ssl.SSLCertVerificationError as error:
            tunnel.close()
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except BaseException:
            tunnel.close()
            raise
