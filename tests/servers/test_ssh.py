"""Git over SSH, as the OpenSSH and git clients see it."""

from __future__ import annotations

import shutil
from pathlib import Path

import asyncssh
import pytest

from tests.servers.conftest import Git
from tests.servers.git import GitServer
from tests.servers.ssh import SshServer


def _ssh_command(server: SshServer, folder: Path) -> str:
    identity, known = folder / "identity", folder / "known_hosts"
    identity.write_text(server.identity())
    identity.chmod(0o600)
    known.write_text(server.known_hosts)
    options = f"-o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={known} -o BatchMode=yes"
    return f"ssh -F /dev/null -i {identity} {options}"


async def test_upload_pack_answers_to_the_right_key_only(git_server: GitServer) -> None:
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    with SshServer(git_server) as server:
        host, port = server.url.removeprefix("ssh://git@").split(":")
        options = {"known_hosts": asyncssh.import_known_hosts(server.known_hosts), "username": "git", "config": None}
        key = asyncssh.import_private_key(server.identity())
        async with asyncssh.connect(host, int(port), client_keys=[key], **options) as connection:
            done = await connection.run("git-upload-pack '/app.git'", input="0000")
            assert f"{sha} HEAD" in str(done.stdout)
            unknown = await connection.run("git-upload-pack '/none.git'")
            assert unknown.exit_status == 128
        stranger = asyncssh.generate_private_key("ssh-ed25519")
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(host, int(port), client_keys=[stranger], **options)
        assert server.commands[0] == "git-upload-pack '/app.git'"
        assert server.logins[0] == "git"


async def test_another_host_key_is_noticed(git_server: GitServer) -> None:
    with SshServer(git_server) as server, SshServer(git_server) as other:
        host, port = server.url.removeprefix("ssh://git@").split(":")
        wrong = server.known_hosts.rpartition(" ")[0].partition(" ")[0] + " " + other.known_hosts.partition(" ")[2]
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            known = asyncssh.import_known_hosts(wrong)
            await asyncssh.connect(host, int(port), known_hosts=known, username="git", config=None)


def test_git_clones_over_ssh(git_server: GitServer, git: Git, tmp_path: Path) -> None:
    assert shutil.which("ssh"), "this test needs the OpenSSH client"
    git_server.repository("app").commit({"a": "one"})
    with SshServer(git_server) as server:
        command = _ssh_command(server, tmp_path)
        done = git("clone", "-q", f"{server.url}/app.git", "w", GIT_SSH_COMMAND=command)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "w/a").read_text() == "one"
