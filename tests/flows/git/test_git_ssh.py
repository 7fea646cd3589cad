"""Git over SSH: identities, host keys, and servers that misbehave (hostile-inputs.md A15-A18)."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh
import pytest

from gitopsd.fetch.auth import git_auth
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from tests.flows.git.conftest import refused_inputs
from tests.flows.git.proxies import proxy, silent
from tests.processes import free_port
from tests.servers.ssh import SshServer

MAIN = GitRef("main")


def secret(server: SshServer, **changes: str) -> dict[str, bytes]:
    values = {"identity": server.identity(), "known_hosts": server.known_hosts} | changes
    return {key: value.encode() for key, value in values.items()}


def at(server: SshServer, data: dict[str, bytes] | None = None, *, timeout: float = 20.0, **more) -> GitRequest:
    url = f"{server.url}/app.git"
    return GitRequest(url, MAIN, git_auth(url, data or secret(server), **more), timeout=timeout)


@pytest.fixture(autouse=True)
def sha(git_server) -> str:
    return git_server.repository("app").commit({"a.yaml": "a: 1\n"})


async def works(fetcher: GitFetcher, request: GitRequest, sha: str) -> None:
    assert await fetcher.resolve(request) == f"main@sha1:{sha}"
    assert dict((await fetcher.fetch(request)).tree) == {"a.yaml": b"a: 1\n"}


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
async def test_identities_and_host_keys_of_every_kind_work(git_server, fetcher, sha, kind):
    with SshServer(git_server, host_key=kind, client_key=kind) as server:
        await works(fetcher, at(server), sha)
        assert server.logins[0] == "git"


async def test_an_identity_may_be_encrypted(ssh_server, fetcher, refusal, sha):
    locked = {"identity": ssh_server.identity("sesame")}
    await works(fetcher, at(ssh_server, secret(ssh_server, **locked, password="sesame")), sha)
    reason, message = await refusal(at(ssh_server, secret(ssh_server, **locked, password="CNRY-wrong")))
    assert reason == "AuthenticationFailed"
    assert message.endswith("invalid 'ssh' auth option: 'identity' cannot be decrypted with 'password'")


async def test_material_that_cannot_be_used_is_an_authentication_failure(ssh_server, refusal):
    for data in (
        secret(ssh_server, identity="-----BEGIN OPENSSH PRIVATE KEY-----\nxx\n-----END OPENSSH PRIVATE KEY-----\n"),
        secret(ssh_server, identity=ssh_server.identity_pub),
        secret(ssh_server, known_hosts="one-word"),
        secret(ssh_server, known_hosts="@nonsense host ssh-ed25519 AAAA"),
    ):
        assert (await refusal(at(ssh_server, data)))[0] == "AuthenticationFailed"


async def test_an_identity_that_the_server_does_not_know_is_refused(ssh_server, refusal):
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    reason, message = await refusal(at(ssh_server, secret(ssh_server, identity=stranger)))
    assert reason == "GitOperationFailed"
    assert "does not accept the identity of user 'git'" in message


async def test_no_other_way_to_log_in_is_tried(git_server, refusal):
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with SshServer(git_server, password="letmein") as server:
        data = secret(server, identity=stranger, password="letmein")
        assert "does not accept the identity" in (await refusal(at(server, data)))[1]
        assert server.commands == []


# Host keys


async def test_A16_a_host_key_that_differs_or_is_not_there_is_refused(ssh_server, refusal):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    place = ssh_server.known_hosts.split()[0]
    for known_hosts, text in (
        (f"{place} {other}", "the host key of '127.0.0.1:"),
        (f"elsewhere.example.com {other}", "known_hosts has no key for '127.0.0.1:"),
        ("# only a comment", "known_hosts has no key for '127.0.0.1:"),
        (f"@revoked {ssh_server.known_hosts}\n{ssh_server.known_hosts}", "the host key of '127.0.0.1:"),
    ):
        reason, message = await refusal(at(ssh_server, secret(ssh_server, known_hosts=known_hosts)))
        assert reason == "GitOperationFailed"
        assert text in message
    assert ssh_server.logins == []
    assert ssh_server.commands == []


async def test_A16_known_hosts_may_be_hashed_have_wildcards_and_other_lines(ssh_server, fetcher, sha):
    key = ssh_server.host_key.export_public_key().decode()
    lines = f"# comment\n\nunknown sk-future-key AAAAB3NzaC1\n*.example.com,[127.0.0.*]:* {key}"
    await works(fetcher, at(ssh_server, secret(ssh_server, known_hosts=lines)), sha)


async def test_A16_without_known_hosts_nothing_is_connected(ssh_server):
    with pytest.raises(FetchError, match="'known_hosts' is required") as caught:
        git_auth(f"{ssh_server.url}/app.git", {"identity": b"x"})
    assert caught.value.reason == "AuthenticationFailed"


def handshake(kex: str, ciphers: str) -> bytes:
    """What a server says first: its version, and what it offers."""
    names = [kex, "ssh-ed25519", ciphers, ciphers, *["hmac-sha2-256"] * 2, *["none"] * 2, "", ""]
    lists = b"".join(len(name).to_bytes(4, "big") + name.encode() for name in names)
    payload = b"\x14" + bytes(16) + lists + bytes(5)
    padding = 8 + -(5 + len(payload) + 8) % 8
    return (
        b"SSH-2.0-old\r\n"
        + (1 + len(payload) + padding).to_bytes(4, "big")
        + bytes([padding])
        + payload
        + bytes(padding)
    )


@pytest.mark.parametrize(
    ("kex", "ciphers", "name"),
    [
        ("diffie-hellman-group1-sha1", "aes128-ctr", "diffie-hellman-group1-sha1"),
        ("curve25519-sha256", "3des-cbc", "3des-cbc"),
    ],
)
async def test_A17_a_server_that_offers_only_what_is_broken_is_refused_by_name(ssh_server, refusal, kex, ciphers, name):
    async def offer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(handshake(kex, ciphers))
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(offer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"ssh://git@127.0.0.1:{port}/app.git"
    known_hosts = f"[127.0.0.1]:{port} {ssh_server.host_key.export_public_key().decode()}"
    reason, message = await refusal(GitRequest(url, MAIN, git_auth(url, secret(ssh_server, known_hosts=known_hosts))))
    server.close()
    await server.wait_closed()
    assert reason == "GitOperationFailed"
    assert message.endswith(f"in common with 127.0.0.1:{port}, which offers {name}")


async def test_A17_a_short_rsa_host_key_is_refused(git_server, refusal, monkeypatch):
    make = asyncssh.generate_private_key
    monkeypatch.setattr(
        asyncssh, "generate_private_key", lambda kind: make(kind, key_size=1024) if kind == "ssh-rsa" else make(kind)
    )
    with SshServer(git_server, host_key="ssh-rsa") as server:
        message = (await refusal(at(server)))[1]
        assert server.logins == []
    assert "known_hosts has only RSA keys below 2048 bits" in message


async def test_A17_a_host_that_can_only_sign_with_sha1_is_refused(git_server, refusal, monkeypatch):
    make = asyncssh.generate_private_key

    def old(kind: str) -> asyncssh.SSHKey:
        key = make(kind)
        if kind == "ssh-rsa":
            key.sig_algorithms = (b"ssh-rsa",)
        return key

    monkeypatch.setattr(asyncssh, "generate_private_key", old)
    with SshServer(git_server, host_key="ssh-rsa") as server:
        message = (await refusal(at(server)))[1]
        assert server.logins == []
    assert "(accepted host keys: rsa-sha2-256, " in message
    assert "ssh-rsa," not in message


async def test_an_operator_chooses_algorithms(git_server, sha):
    """--ssh-kex-algos and --ssh-hostkey-algos"""
    with SshServer(git_server, kex_algs=["ecdh-sha2-nistp256"]) as server:
        chosen = GitFetcher(ssh_kex_algorithms=("ecdh-sha2-nistp256",), ssh_host_key_algorithms=("ssh-ed25519",))
        await works(chosen, at(server), sha)
        for options in ({"ssh_kex_algorithms": ("curve25519-sha256",)}, {"ssh_host_key_algorithms": ("rsa-sha2-512",)}):
            with pytest.raises(FetchError) as caught:
                await GitFetcher(**options).resolve(at(server))
            assert caught.value.reason == "GitOperationFailed"


# Servers that misbehave


async def test_A01_a_server_that_is_not_there_is_named(ssh_server, refusal):
    url = f"ssh://git@127.0.0.1:{free_port()}/app.git"
    auth = git_auth(url, secret(ssh_server, known_hosts=f"[127.0.0.1]:* {ssh_server.identity_pub}"))
    assert (await refusal(GitRequest(url, MAIN, auth)))[1].endswith("connection refused")
    url = "ssh://gitopsd-does-not-exist.invalid/app.git"
    auth = git_auth(url, secret(ssh_server, known_hosts=f"* {ssh_server.identity_pub}"))
    assert (await refusal(GitRequest(url, MAIN, auth)))[1].endswith("no such host")


async def test_A02_a_server_that_never_answers_is_given_up_at_the_timeout(ssh_server, refusal):
    async with silent() as port:
        url = f"ssh://git@127.0.0.1:{port}/app.git"
        auth = git_auth(url, secret(ssh_server, known_hosts=f"[127.0.0.1]:{port} {ssh_server.identity_pub}"))
        assert "no answer within 0.3s" in (await refusal(GitRequest(url, MAIN, auth, timeout=0.3)))[1]


async def test_A15_a_path_is_sent_quoted_exactly_once(git_server, fetcher, ssh_server):
    git_server.repository("my team/the app").commit({"a": "1"})
    url = f"{ssh_server.url}/my%20team/the%20app.git"
    await fetcher.resolve(GitRequest(url, MAIN, git_auth(url, secret(ssh_server))))
    assert ssh_server.commands == ["git-upload-pack '/my team/the app.git'"]


async def test_the_words_of_a_server_that_refuses_are_shown(ssh_server, fetcher):
    url = f"{ssh_server.url}/nope.git"
    with pytest.raises(FetchError, match="the server reports: ERROR: Repository not found"):
        await fetcher.resolve(GitRequest(url, MAIN, git_auth(url, secret(ssh_server))))


async def test_a_banner_of_ordinary_size_is_ignored(git_server, fetcher, sha):
    with SshServer(git_server, banner="Authorized use only.\r\n" * 50) as server:
        await works(fetcher, at(server), sha)


class Flooding(SshServer):
    """Sends what nobody asked for instead of Git's data."""

    flood = "stderr"

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        channel: Any = process.channel
        while not channel.is_closing():
            if self.flood == "stderr":
                process.stderr.write(b"\x1b[31mnoise " * 1000)
                await process.stderr.drain()
            else:
                for _ in range(1000):
                    channel.send_packet(93, asyncssh.packet.UInt32(1))  # SSH_MSG_CHANNEL_WINDOW_ADJUST
            await asyncio.sleep(0)


@pytest.mark.parametrize("flood", ["stderr", "window"])
async def test_A18_a_flood_besides_the_data_is_cut_off(git_server, refusal, flood, monkeypatch):
    monkeypatch.setattr(Flooding, "flood", flood)
    before = refused_inputs("ssh-flood")
    with Flooding(git_server) as server:
        reason, message = await refusal(at(server))
    assert reason == "GitOperationFailed"
    assert "too much" in message
    assert refused_inputs("ssh-flood") == before + 1


@pytest.mark.parametrize("line", [b"x" * 1000 + b"\r\n", b"x" * 1000])
async def test_A18_a_banner_without_end_is_cut_off(ssh_server, refusal, line):
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(line * 100)
                await writer.drain()
        except OSError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"ssh://git@127.0.0.1:{port}/app.git"
    auth = git_auth(url, secret(ssh_server, known_hosts=f"[127.0.0.1]:{port} {ssh_server.identity_pub}"))
    reason, message = await refusal(GitRequest(url, MAIN, auth, timeout=10))
    server.close()
    await server.wait_closed()
    assert reason == "GitOperationFailed"
    assert "no answer" not in message


async def test_cancelling_the_caller_closes_the_connection(git_server, fetcher):
    class Mute(SshServer):
        async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
            self.commands.append(process.command or "")
            await asyncio.Event().wait()

    with Mute(git_server) as server:
        task = asyncio.create_task(fetcher.fetch(at(server)))
        while not server.commands:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # nothing_left_behind finds a socket or a task that stays


@pytest.mark.parametrize("kind", ["http", "socks5"])
async def test_A35_a_proxy_carries_ssh_too(ssh_server, fetcher, sha, kind):
    async with proxy(kind, "user:pass") as found:
        data = {"address": found.address, "username": b"user", "password": b"pass"}
        await works(fetcher, at(ssh_server, proxy=data), sha)
        assert len(found.targets) == 2
        wrong = {**data, "password": b"CNRY-wrong"}
        with pytest.raises(FetchError, match="proxy") as caught:
            await fetcher.resolve(at(ssh_server, proxy=wrong))
        assert "CNRY" not in caught.value.message
