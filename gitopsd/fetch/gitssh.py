"""Git over SSH, spoken in this process: no ssh binary, no shell, no file of the user's is read.

Theory of operation. asyncssh speaks the protocol; underneath it `_Gate` counts what comes in, so that a peer that sends
banners, window adjustments or anything else instead of Git's data is cut off. A conversation is one session of one
connection; `hello` connects, `ask` writes to the session, and both read the same stream.

Knows identities and the session's streams; refuses to know what the packets say.
Invariants: a host key that known_hosts does not name is refused, always, and so are SHA-1 signatures and RSA keys
below 2048 bits of hosts; the only way to log in is the Secret's identity (spec/hostile-inputs.md A15-A18).
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncssh

from gitopsd.fetch.auth import GitAuth, SshRules, invalid_option
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gitpackets import Packets
from gitopsd.fetch.giturl import GitURL
from gitopsd.fetch.knownhosts import TrustedHosts
from gitopsd.fetch.proxy import Proxy, connect, open_tunnel
from gitopsd.tasks import offload

_KEPT_IDENTITIES = 64
_QUEUE_HIGH = 1 << 20
_STDERR_KEPT = 4096
_STDERR_LIMIT = 1 << 20
# What the server may send ahead of what was read.
_WINDOW = 1 << 20
# What a connection may receive besides data that was read: handshake, banners, window adjustments, and one window.
_OVERHEAD = 2 << 20
_GOODBYE = 1.0
_NO_MATCH = re.compile(r"No matching (.+?) found, sent .* and received (.*)", re.DOTALL)


class SshClient:
    """Opens conversations over SSH, and remembers identities that were hard to unlock."""

    def __init__(self, rules: SshRules) -> None:
        self._rules = rules
        self._identities: OrderedDict[tuple[bytes, str], asyncssh.SSHKey] = OrderedDict()

    @asynccontextmanager
    async def channel(self, url: GitURL, auth: GitAuth) -> AsyncIterator[SshChannel]:
        """Open a conversation; its connection is closed when it ends."""
        identity = await self._identity(auth)
        hosts = TrustedHosts(url, auth.known_hosts)
        channel = SshChannel(self._rules, url, auth, identity, hosts)
        try:
            yield channel
            await channel.finish()
        finally:
            channel.abort()

    async def _identity(self, auth: GitAuth) -> asyncssh.SSHKey:
        wanted = (auth.identity, auth.passphrase)
        identity = self._identities.get(wanted)
        if identity is None:
            identity = await offload(_import_identity, *wanted)
        self._identities[wanted] = identity
        self._identities.move_to_end(wanted)
        while len(self._identities) > _KEPT_IDENTITIES:
            self._identities.popitem(last=False)
        return identity


def _import_identity(identity: bytes, passphrase: str) -> asyncssh.SSHKey:
    """Read a private key. Slow on purpose when it is encrypted."""
    try:
        return asyncssh.import_private_key(identity, passphrase or None)
    except asyncssh.KeyEncryptionError:
        raise invalid_option("ssh", "'identity' cannot be decrypted with 'password'") from None
    except (asyncssh.KeyImportError, ValueError):
        raise invalid_option("ssh", "'identity' is not a private key that can be used") from None


class SshChannel:
    """One conversation with one repository."""

    was_redirected = False

    def __init__(
        self, rules: SshRules, url: GitURL, auth: GitAuth, identity: asyncssh.SSHKey, hosts: TrustedHosts
    ) -> None:
        self._rules = rules
        self._url = url
        self._auth = auth
        self._identity = identity
        self._hosts = hosts
        self._gate = _Gate(url, auth.proxy)
        self._session = _Session(self._gate)
        self._login = _Login()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._packets = Packets(self._session.read, rules.hello_bytes)

    async def hello(self) -> Packets:
        """Connect, log in and start the server's upload-pack."""
        try:
            self._connection = await self._connect()
            self._channel, _ = await self._connection.create_session(
                lambda: self._session,
                f"git-upload-pack {quoted(self._url.ssh_path)}",
                env={"GIT_PROTOCOL": "version=2"},
                encoding=None,
                window=_WINDOW,
            )
        except (asyncssh.Error, OSError, ValueError) as error:
            raise RemoteError(self._cause(error), rule=self._gate.rule) from error
        return self._packets

    async def _connect(self) -> asyncssh.SSHClientConnection:
        host, port = self._url.address
        return await asyncssh.connect(
            host,
            port,
            tunnel=self._gate,
            client_factory=lambda: self._login,
            config=None,
            username=self._auth.username,
            client_keys=[self._identity],
            known_hosts=self._hosts.match,
            server_host_key_algs=self._hosts.algorithms(self._rules.host_key_algorithms),
            x509_trusted_certs=None,
            x509_trusted_cert_paths=[],
            agent_path=None,
            preferred_auth="publickey",
            gss_host=None,
            kbdint_auth=False,
            password_auth=False,
            host_based_auth=False,
            compression_algs=None,
            **({"kex_algs": list(self._rules.kex_algorithms)} if self._rules.kex_algorithms else {}),
        )

    async def ask(self, body: bytes) -> Packets:
        """Write a request; the answer follows on the stream that `hello` returned."""
        if self._channel is None or self._channel.is_closing():
            raise RemoteError("the server ended the conversation early")
        self._channel.write(body)
        return self._packets

    async def finish(self) -> None:
        """Say goodbye, so that the server need not complain about a vanished client."""
        if self._channel is None or self._connection is None:
            return
        if not self._channel.is_closing():
            self._channel.write(b"0000")
            self._channel.write_eof()
        self._connection.close()
        try:
            async with asyncio.timeout(_GOODBYE):
                await self._connection.wait_closed()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Drop the connection, whatever state it is in."""
        if self._connection is not None:
            self._connection.abort()
        self._gate.abort()

    def _cause(self, error: Exception) -> str:
        """What went wrong with a connection, in our words."""
        if self._gate.failure:
            return self._gate.failure
        where = self._url.netloc
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return f"the host key of '{where}' is not the one in known_hosts"
        if isinstance(error, asyncssh.PermissionDenied):
            return f"'{where}' does not accept the identity of user '{printable(self._auth.username, 64)}'"
        if isinstance(error, asyncssh.KeyExchangeFailed) and (found := _NO_MATCH.search(error.reason)):
            return f"no {found[1]} in common with {where}, which offers {printable(found[2], 512)}"
        if isinstance(error, asyncssh.DisconnectError) and not self._login.has_begun:
            # Servers that have no acceptable key hang up, some with a word about it and some without.
            accepted = ", ".join(self._hosts.algorithms(self._rules.host_key_algorithms))
            return f"cannot talk to {where}: {printable(error.reason, 256)} (accepted host keys: {accepted})"
        if isinstance(error, (asyncssh.DisconnectError, asyncssh.ChannelOpenError)):
            return f"cannot talk to {where}: {printable(error.reason, 512)}"
        if isinstance(error, socket.gaierror):
            return f"cannot talk to {where}: no such host"
        if isinstance(error, OSError) and error.errno:
            return f"cannot talk to {where}: {os.strerror(error.errno).lower()}"
        return f"cannot talk to {where}: {printable(str(error), 256)}"


def quoted(path: str) -> str:
    """A path as one word of a shell's command line, in the form that Git itself uses."""
    return "'" + path.replace("'", "'\\''") + "'"


class _Gate(asyncio.Protocol):
    """Stands between the socket and asyncssh, and counts. It is asyncssh's `tunnel`, too: it makes the connection."""

    def __init__(self, url: GitURL, proxy: Proxy | None) -> None:
        self._url = url
        self._proxy = proxy
        self._inner: Any = None
        self._transport: asyncio.Transport | None = None
        self._left = _OVERHEAD
        self.failure = ""
        self.rule = ""

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        """Connect for asyncssh, through the proxy if there is one."""
        loop = asyncio.get_running_loop()
        self._inner = factory()
        try:
            way = connect(host, port) if self._proxy is None else open_tunnel(self._proxy, host, port)
            connection = await way
        except RemoteError as error:
            self.failure = error.message
            raise OSError(error.message) from error
        try:
            await loop.create_connection(lambda: self, sock=connection)
        except BaseException:
            connection.close()
            raise
        return self._transport, self._inner

    def credit(self, size: int) -> None:
        """Data of the session arrived: its bytes and their framing are not overhead."""
        self._left += size + size // 8

    def refuse(self, failure: str, rule: str) -> None:
        """End the connection because of what came through it."""
        self.failure, self.rule = failure, rule
        self.abort()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort")
        self._transport = transport  # type: ignore[assignment]
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.refuse("the SSH server sends too much besides Git's data", "ssh-flood")
            return
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return bool(self._inner.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class _Login(asyncssh.SSHClient):
    """Notes how far a connection came."""

    has_begun = False

    def begin_auth(self, username: str) -> None:
        del username
        self.has_begun = True


class _Session(asyncssh.SSHClientSession[bytes]):
    """The server's output as a stream with a bounded queue, and the first words of its complaints."""

    def __init__(self, gate: _Gate) -> None:
        self._gate = gate
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._complaints = bytearray()
        self._complained = 0
        self._ended = False
        self._closed = asyncio.Event()
        self._news = asyncio.Event()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self._complained += len(data)
            self._complaints += data[: _STDERR_KEPT - len(self._complaints)]
            if self._complained > _STDERR_LIMIT:
                self._gate.refuse("the SSH server writes too much to its error stream", "ssh-flood")
            return
        self._gate.credit(len(data))
        self._chunks.append(data)
        self._queued += len(data)
        if self._queued > _QUEUE_HIGH and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        self._ended = True
        self._news.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._closed.set()
        self._news.set()

    async def read(self) -> bytes:
        """What came since; b"" at the end. Raises RemoteError with the server's own words if it left any."""
        while not self._chunks:
            if self._ended:
                return await self._end()
            self._news.clear()
            await self._news.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._queued = 0
        if self._paused and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()
        return data

    async def _end(self) -> bytes:
        try:
            # The error stream may be a moment behind the end of the output.
            async with asyncio.timeout(_GOODBYE):
                await self._closed.wait()
        except TimeoutError:
            pass
        if self._gate.failure:
            raise RemoteError(self._gate.failure, rule=self._gate.rule)
        if self._complaints:
            raise RemoteError(f"the server reports: {printable(bytes(self._complaints))}")
        return b""
