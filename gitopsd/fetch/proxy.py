"""Which proxy a request goes through, and tunnels through proxies for what is not HTTP.

Knows proxySecretRef's keys (spec/source.md 11.1), the environment's proxy rules as Go reads them, HTTP `CONNECT` and
SOCKS5; refuses to know what is said through the tunnel. The environment itself is read in `settings`.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.names import addresses

_SCHEMES = {"http": 80, "https": 443, "socks5": 1080}
_LONGEST = 2048
_ANSWER_LIMIT = 16 * 1024


@dataclass(frozen=True)
class Proxy:
    """One proxy. Credentials are plain text, not percent-encoded."""

    scheme: str
    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The address without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def url_with_credentials(self) -> str:
        """The address as a library wants it. Never to be shown."""
        if not self.username and not self.password:
            return self.url
        userinfo = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        return self.url.replace("://", f"://{userinfo}", 1)

    @property
    def authorization(self) -> str:
        """The value of a Proxy-Authorization header; empty without credentials."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def proxy_from_secret(data: Mapping[str, bytes]) -> Proxy:
    """Read a proxy from a Secret's data. Raises ValueError with a text that is safe to show."""
    address = data.get("address", b"").decode("utf-8", "replace").strip()
    if not address:
        raise ValueError("invalid proxy secret: key 'address' is missing")
    proxy = parse_proxy(address)
    username = data.get("username", b"").decode("utf-8", "replace")
    password = data.get("password", b"").decode("utf-8", "replace")
    if password and not username:
        raise ValueError("invalid proxy secret: 'password' requires 'username' to be set")
    if not username:
        return proxy
    return Proxy(proxy.scheme, proxy.host, proxy.port, username, password)


def parse_proxy(address: str) -> Proxy:
    """Take a proxy's address apart; without a scheme it is `http`. Raises ValueError, safe to show."""
    if len(address) > _LONGEST:
        raise ValueError(f"proxy URL is longer than {_LONGEST} characters")
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("proxy URL cannot be parsed") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"proxy URL has scheme '{printable(parts.scheme, 64)}', not http, https or socks5")
    if not host or not host.isprintable() or any(character.isspace() for character in host):
        raise ValueError("proxy URL has no valid host")
    return Proxy(
        parts.scheme, host, port or _SCHEMES[parts.scheme], unquote(parts.username or ""), unquote(parts.password or "")
    )


@dataclass(frozen=True)
class EnvironmentProxies:
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY as found at start; used where an object names no proxy of its own."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    no_proxy: str = ""

    def for_address(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a request, or None for a direct one. Raises RemoteError for an address that is none."""
        address = {"http": self.http, "https": self.https}.get(scheme, "")
        if not address or self._is_exempt(host.lower(), port):
            return None
        try:
            return parse_proxy(address)
        except ValueError as error:
            raise RemoteError(f"{scheme.upper()}_PROXY of the daemon's environment: {error}") from None

    def _is_exempt(self, host: str, port: int) -> bool:
        if host == "localhost" or _is_loopback(host):
            return True
        return any(_covers(entry.strip().lower(), host, port) for entry in self.no_proxy.split(",") if entry.strip())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers a host: `*`, IP, CIDR, domain with its subdomains; each may have a port."""
    if entry == "*":
        return True
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit() and ":" not in name:
        if int(wanted_port) != port:
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass
    if entry.startswith(("*.", ".")):
        return host.endswith(entry.removeprefix("*"))
    return host == entry or host.endswith(f".{entry}")


async def open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """Connect to `host:port` through `proxy` (http or socks5) and return the connected, non-blocking socket.

    Name resolution of `host` is left to the proxy. The caller sets the deadline, and closes the socket.
    Raises RemoteError or OSError.
    """
    if proxy.scheme == "https":
        raise RemoteError("a proxy with scheme https cannot carry this connection, use http or socks5")
    connection = await connect(proxy.host, proxy.port)
    try:
        if proxy.scheme == "http":
            await _ask_http(connection, proxy, host, port)
        else:
            await _ask_socks(connection, proxy, host, port)
    except BaseException:
        connection.close()
        raise
    return connection


async def connect(host: str, port: int) -> socket.socket:
    """Connect to one of a host's addresses, and return the non-blocking socket, which the caller closes.

    The caller sets the deadline. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await addresses(host, port):
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure or OSError("the name has no address")


async def _ask_http(connection: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    # Byte by byte, so that nothing of what follows the answer is taken from its reader.
    while not answer.endswith(b"\r\n\r\n"):
        answer += await _receive(connection, 1)
        if len(answer) > _ANSWER_LIMIT:
            raise RemoteError("the proxy's answer is too long")
    status = answer.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
        raise RemoteError(f"the proxy refused the connection: {printable(b' '.join(status[1:]), 128)}")


_SOCKS_REFUSALS = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


async def _ask_socks(connection: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """RFC 1928, with the user name and password of RFC 1929."""
    loop = asyncio.get_running_loop()
    with_password = bool(proxy.username)
    await loop.sock_sendall(connection, b"\x05\x02\x00\x02" if with_password else b"\x05\x01\x00")
    version, method = await _receive(connection, 2)
    if version != 5:
        raise RemoteError("the proxy does not speak SOCKS5")
    if method == 2 and with_password:
        await _log_in(connection, proxy)
    elif method != 0:
        raise RemoteError("the proxy wants a login that is not configured")
    await loop.sock_sendall(connection, b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
    _, result, _, kind = await _receive(connection, 4)
    if result:
        raise RemoteError(f"the proxy refused the connection: {_SOCKS_REFUSALS.get(result, 'unknown reason')}")
    sizes = {1: 4, 4: 16}
    size = sizes[kind] if kind in sizes else (await _receive(connection, 1))[0]
    await _receive(connection, size + 2)


async def _log_in(connection: socket.socket, proxy: Proxy) -> None:
    name, password = proxy.username.encode(), proxy.password.encode()
    if len(name) > 255 or len(password) > 255:
        raise RemoteError("the proxy's user name or password is too long for SOCKS5")
    request = b"\x01" + bytes([len(name)]) + name + bytes([len(password)]) + password
    await asyncio.get_running_loop().sock_sendall(connection, request)
    if (await _receive(connection, 2))[1]:
        raise RemoteError("the proxy refused the login")


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return b"\x03" + bytes([len(name)]) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


async def _receive(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            raise RemoteError("the proxy closed the connection")
        data += more
    return data
