"""The Git server is believed because the real git client believes it."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.servers import trouble
from tests.servers.conftest import Git
from tests.servers.git import GitServer, advertisement
from tests.servers.loopback import Rule

_KIND = "application/x-git-upload-pack-advertisement"


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_a_clone_has_the_files_in_every_protocol_version(
    git_server: GitServer, git: Git, tmp_path: Path, version: str
) -> None:
    repository = git_server.repository("team/app")
    repository.commit({"a.txt": "one\n", "bin/run": {"exec": "#!/bin/sh\n"}, "link": {"link": "a.txt"}})
    sha = repository.commit({"a.txt": "two\n", 'ünï "q"': "x"}, tag="v1", annotated=True)
    done = git("-c", f"protocol.version={version}", "clone", "-q", f"{git_server.url}/team/app.git", "w")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w/a.txt").read_text() == "two\n"
    assert (tmp_path / 'w/ünï "q"').read_text() == "x"
    assert (tmp_path / "w/bin/run").stat().st_mode & 0o111
    assert (tmp_path / "w/link").is_symlink()
    assert git("-C", "w", "rev-parse", "HEAD").stdout.strip() == sha
    assert git("-C", "w", "cat-file", "-t", "v1").stdout.strip() == "tag"
    assert git("-C", "w", "fsck", "--strict").returncode == 0


def test_a_shallow_clone_gets_one_commit(git_server: GitServer, git: Git) -> None:
    repository = git_server.repository("app")
    for number in range(3):
        repository.commit({"n": str(number)})
    assert git("clone", "-q", "--depth=1", f"{git_server.url}/app.git", "w").returncode == 0
    assert git("-C", "w", "rev-list", "--count", "HEAD").stdout.strip() == "1"


def test_the_same_calls_give_the_same_hashes(git_server: GitServer) -> None:
    one, two = (git_server.repository(name).commit({"a": "b"}) for name in ("one", "two"))
    assert one == two


def test_files_are_deleted_branches_rewritten_and_deleted(git_server: GitServer, git: Git) -> None:
    repository = git_server.repository("app")
    first = repository.commit({"a": "1", "b": "1"})
    second = repository.commit({"b": None})
    assert repository.git("ls-tree", "--name-only", second) == "a"
    third = repository.commit({"c": "1"}, parents=[first])
    assert repository.git("rev-list", "main").split() == [third, first]
    orphan = repository.commit({"d": "1"}, parents=[])
    assert repository.git("rev-list", "main").split() == [orphan]
    repository.commit({"e": "1"}, branch="topic")
    repository.reset("main", second)
    refs = git("ls-remote", f"{git_server.url}/app.git").stdout
    assert f"{second}\trefs/heads/main" in refs
    assert "refs/heads/topic" in refs
    repository.delete_branch("topic")
    assert "topic" not in git("ls-remote", f"{git_server.url}/app.git").stdout


def test_a_push_arrives(git_server: GitServer, git: Git, tmp_path: Path) -> None:
    repository = git_server.repository("app")
    repository.commit({"a": "1"})
    git("clone", "-q", f"{git_server.url}/app.git", "w")
    (tmp_path / "w/b").write_text("new")
    git("-C", "w", "add", "b")
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    assert git("-C", "w", *who, "commit", "-q", "-m", "b").returncode == 0
    repository.configure("http.receivepack", "true")
    done = git("-C", "w", "push", "-q", "origin", "main")
    assert done.returncode == 0, done.stderr
    assert repository.git("show", "main:b") == "new"


def test_raw_objects_may_be_what_git_would_never_write(git_server: GitServer) -> None:
    repository = git_server.repository("bad")
    blob = repository.put("blob", b"x")
    tree = repository.put_tree([("100644", b"..", blob), ("100644", b"a", blob), ("100644", b"a", blob)])
    sha = repository.put_commit(tree)
    assert repository.git("rev-parse", "main") == sha
    with pytest.raises(AssertionError, match=r"contains '\.\.'|duplicate"):
        repository.git("fsck", "--strict")


def test_https_with_our_authority(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    url = f"{git_server.https_url}/app.git"
    assert git("ls-remote", url).returncode != 0
    assert git("ls-remote", url, GIT_SSL_CAINFO=str(git_server.authority.file)).returncode == 0
    assert git_server.requests[-1].scheme == "https"


def test_client_certificates_are_asked_for_and_seen(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    url, ca = f"{git_server.mtls_url}/app.git", str(git_server.authority.file)
    assert git("ls-remote", url, GIT_SSL_CAINFO=ca).returncode != 0
    certificate, key = git_server.authority.client("alice")
    done = git("ls-remote", url, GIT_SSL_CAINFO=ca, GIT_SSL_CERT=str(certificate), GIT_SSL_KEY=str(key))
    assert done.returncode == 0, done.stderr
    assert git_server.requests[-1].client == "alice"


def test_credentials_are_wanted_per_path(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    base = git_server.url.removeprefix("http://")
    assert git("ls-remote", f"http://{base}/private/app.git").returncode != 0
    assert git("ls-remote", f"http://user:wrong@{base}/private/app.git").returncode != 0
    assert git("ls-remote", f"http://user:pass@{base}/private/app.git").returncode == 0
    assert git_server.requests[-1].credentials == "user:pass"
    assert git("ls-remote", f"http://user:pass@{base}/denied/app.git").returncode != 0
    bearer = ("-c", "http.extraHeader=Authorization: Bearer token")
    assert git(*bearer, "ls-remote", f"http://{base}/bearer/app.git").returncode == 0
    assert git("ls-remote", f"http://{base}/bearer/app.git").returncode != 0


def test_refused_then_accepted_on_the_same_port(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    url = f"{git_server.url}/app.git"
    git_server.refuse()
    assert "Failed to connect" in git("ls-remote", url).stderr
    git_server.accept()
    assert git("ls-remote", url).returncode == 0


def test_redirects_are_followed_by_clients(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    rule = trouble.redirect(lambda request: str(request.rel_url).replace("/old/", "/"))
    git_server.behave("/old/*", rule)
    assert git("ls-remote", f"{git_server.url}/old/app.git").returncode == 0


@pytest.mark.parametrize(
    ("pattern", "rule", "words"),
    [
        ("*/info/refs", trouble.login_page(), "not valid"),
        ("*/info/refs", trouble.say(500, "boom"), "500"),
        ("*/info/refs", trouble.retyped("text/plain"), "not valid"),
        ("*/info/refs", trouble.say(200, b"001e# service=git-upload-pack\n0000zzzz", _KIND), "bad line length"),
        ("*/info/refs", trouble.reset(), "reset"),
        ("*/info/refs", trouble.cut(20), "transfer closed|unexpected|not valid|hung up"),
        ("*/git-upload-pack", trouble.cut(-100, "rst"), "reset|early EOF|hung up|unexpected"),
        ("*/git-upload-pack", trouble.flipped(-60), "pack|inflate|corrupt|sideband|bad line"),
    ],
)  # fmt: skip
def test_git_notices_each_trouble(git_server: GitServer, git: Git, pattern: str, rule: Rule, words: str) -> None:
    git_server.repository("app").commit({f"file-{number}": str(number) * 100 for number in range(50)})
    with git_server.behave(pattern, rule):
        done = git("clone", "-q", f"{git_server.url}/app.git", "w", GIT_PROTOCOL="", GIT_TRACE="0")
        assert done.returncode != 0
        assert re.search(words, done.stderr), done.stderr
    assert git("clone", "-q", f"{git_server.url}/app.git", "again").returncode == 0


def test_many_references_made_by_hand_are_listed(git_server: GitServer, git: Git) -> None:
    refs = [(f"refs/heads/b{number}", f"{number:040x}") for number in range(1, 5000)]
    git_server.behave("/many.git/info/refs", trouble.say(200, advertisement(refs), _KIND))
    assert len(git("-c", "protocol.version=0", "ls-remote", f"{git_server.url}/many.git").stdout.splitlines()) == 4999


def test_a_silent_server_holds_its_client_until_it_gives_up(git_server: GitServer) -> None:
    git_server.behave("*", trouble.never())
    with pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{git_server.url}/app.git/info/refs", timeout=0.3)
    git_server.wait_for(lambda requests: requests)


def test_a_dripping_server_gives_a_little_at_a_time(git_server: GitServer) -> None:
    git_server.behave("*", trouble.drip(0.01, size=5), times=1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{git_server.url}/x", timeout=5)
    with caught.value as error:
        assert error.read() == b"Repository not found.\n"
    git_server.behave("*", trouble.huge_headers(100_000))
    with pytest.raises(Exception, match="line"):
        urllib.request.urlopen(f"{git_server.url}/x", timeout=5)


def test_a_half_closed_connection_still_takes_bytes(git_server: GitServer) -> None:
    git_server.behave("*", trouble.cut(3, "half"))
    host, port = git_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
        assert b"Rep" in received
        connection.sendall(b"still here")


def test_trouble_may_pass_after_some_requests(git_server: GitServer, git: Git) -> None:
    git_server.repository("app").commit({"a": "1"})
    git_server.behave("/app.git/*", trouble.say(503), times=2)
    results = [git("ls-remote", f"{git_server.url}/app.git").returncode for _ in range(3)]
    assert [code == 0 for code in results] == [False, False, True]


def test_nothing_is_left_after_close() -> None:
    server = GitServer()
    server.repository("app").commit({"a": "1"})
    folder = server.folder
    server.close()
    server.close()
    assert not folder.exists()
