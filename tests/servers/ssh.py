"""Git over SSH on loopback, spoken by asyncssh in front of a `GitServer`'s repositories."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from typing import Any, Self

import asyncssh

from tests.processes import free_port
from tests.servers.git import GitServer, git_environment
from tests.servers.loopback import LoopThread


class SshServer:
    """Serves the repositories of `git` to whoever holds `identity` (or knows `password`, if one is set).

    `options` go to asyncssh, for instance `kex_algs` to offer only what nobody should accept.
    """

    def __init__(
        self,
        git: GitServer,
        *,
        host_key: str = "ssh-ed25519",
        client_key: str = "ssh-ed25519",
        password: str | None = None,
        banner: str = "",
        **options: Any,
    ) -> None:
        self._git = git
        self._password = password
        self._banner = banner
        self._options = options
        self._port = free_port()
        self.host_key = asyncssh.generate_private_key(host_key)
        self._client_key = asyncssh.generate_private_key(client_key)
        self.commands: list[str] = []
        self.logins: list[str] = []
        self._thread = LoopThread("ssh")
        self._listener: asyncssh.SSHAcceptor | None = self._thread.call(self._listen())

    @property
    def url(self) -> str:
        """Base address, without a slash at its end."""
        return f"ssh://git@127.0.0.1:{self._port}"

    @property
    def known_hosts(self) -> str:
        """The `known_hosts` line of this server."""
        return f"[127.0.0.1]:{self._port} {self.host_key.export_public_key().decode()}"

    @property
    def identity_pub(self) -> str:
        """The public half of `identity`."""
        return self._client_key.export_public_key().decode()

    def identity(self, passphrase: str | None = None, format_name: str = "openssh") -> str:
        """The private key that may log in, encrypted if wanted."""
        return self._client_key.export_private_key(format_name, passphrase).decode()

    def close(self) -> None:
        """Stop; doing it twice is harmless."""
        if self._listener is None:
            return
        self._thread.call(self._stop(self._listener))
        self._listener = None
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            self._port,
            server_factory=lambda: _Login(self),
            server_host_keys=[self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(self.identity_pub),
            process_factory=self._serve,
            encoding=None,
            **self._options,
        )

    @staticmethod
    async def _stop(listener: asyncssh.SSHAcceptor) -> None:
        listener.close()
        await listener.wait_closed()

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        arguments = shlex.split(command)
        repository = self._git.find(arguments[1]) if len(arguments) == 2 else None
        if repository is None or arguments[0] not in {"git-upload-pack", "git-receive-pack"}:
            process.stderr.write(b"ERROR: Repository not found.\n")
            process.exit(128)
            return
        version = process.env.get("GIT_PROTOCOL", "")
        child = await asyncio.create_subprocess_exec(
            "git",
            arguments[0].removeprefix("git-"),
            str(repository.path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=git_environment(repository.path, **({"GIT_PROTOCOL": version} if version else {})),
        )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            feeding = asyncio.ensure_future(_pump(process.stdin, child.stdin))
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            feeding.cancel()
            process.exit(await child.wait())
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
            # Output that a client left unread keeps the pipes open until the garbage collector complains.
            child._transport.close()  # type: ignore[attr-defined]


async def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, asyncssh.BreakReceived, asyncssh.ConnectionLost):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
    if isinstance(sink, asyncio.StreamWriter):
        sink.close()


class _Login(asyncssh.SSHServer):
    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        self._server.logins.append(username)
        if self._server._banner and self._connection is not None:
            self._connection.send_auth_banner(self._server._banner)
        return True

    def password_auth_supported(self) -> bool:
        return self._server._password is not None

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._server._password
