"""Submodules (spec/source.md 5.3, hostile-inputs.md A36-A38)."""

from __future__ import annotations

import pytest

from gitopsd.fetch.auth import git_auth
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from tests.servers.git import GitServer
from tests.servers.ssh import SshServer

MAIN = GitRef("main")


def modules(**places: tuple[str, str]) -> str:
    """A `.gitmodules` file: name = (path, url)."""
    return "".join(f'[submodule "{name}"]\n\tpath = {path}\n\turl = {url}\n' for name, (path, url) in places.items())


def asked(git_server: GitServer, place: str = "/app.git", **more) -> GitRequest:
    return GitRequest(f"{git_server.url}{place}", MAIN, recurse_submodules=True, timeout=20, **more)


async def files(fetcher: GitFetcher, request: GitRequest) -> dict[str, bytes]:
    return dict((await fetcher.fetch(request)).tree)


async def test_s5_3_submodules_and_theirs_are_filled_in(git_server, fetcher):
    inner = git_server.repository("team/inner").commit({"deep.yaml": "3"})
    lib = git_server.repository("team/lib").commit(
        {"lib.yaml": "2", ".gitmodules": modules(i=("inner", "../inner.git")), "inner": {"submodule": inner}}
    )
    git_server.repository("team/lib").commit({"lib.yaml": "newer"})
    git_server.repository("team/app").commit(
        {"a.yaml": "1", ".gitmodules": modules(l=("vendor/lib", "../lib.git")), "vendor/lib": {"submodule": lib}}
    )
    request = asked(git_server, "/team/app.git")
    found = await files(fetcher, request)
    assert {path: content for path, content in found.items() if ".gitmodules" not in path} == {
        "a.yaml": b"1",
        "vendor/lib/lib.yaml": b"2",
        "vendor/lib/inner/deep.yaml": b"3",
    }
    without = GitRequest(request.url, MAIN)
    assert set(await files(fetcher, without)) == {"a.yaml", ".gitmodules"}
    assert (await fetcher.fetch(without)).tree.directories() == {"vendor", "vendor/lib"}


async def test_a_submodule_that_nobody_knows_stays_an_empty_directory(git_server, fetcher):
    git_server.repository("app").commit({"a": "1", "sub": {"submodule": "1" * 40}})
    tree = (await fetcher.fetch(asked(git_server))).tree
    assert (set(tree), tree.directories()) == ({"a"}, {"sub"})


async def test_A36_credentials_go_to_the_same_origin_only(git_server, fetcher, refusal):
    with GitServer(authority=git_server.authority) as other:
        there = other.repository("lib").commit({"lib": "1"})
        here = git_server.repository("lib").commit({"lib": "2"})
        git_server.repository("app").commit(
            {
                ".gitmodules": modules(a=("a", "../lib.git"), b=("b", f"{other.url}/lib.git")),
                "a": {"submodule": here},
                "b": {"submodule": there},
            }
        )
        auth = git_auth(f"{git_server.url}/x", {"username": b"user", "password": b"pass"})
        found = await files(fetcher, asked(git_server, "/private/app.git", auth=auth))
        assert (found["a/lib"], found["b/lib"]) == (b"2", b"1")
        assert {seen.credentials for seen in git_server.requests} == {"user:pass"}
        assert all("Authorization" not in seen.headers for seen in other.requests)


async def test_A36_ssh_submodules_use_the_identity_at_the_same_server_only(git_server, ssh_server, fetcher, refusal):
    lib = git_server.repository("lib").commit({"lib": "2"})
    repository = git_server.repository("app")
    repository.commit({".gitmodules": modules(a=("a", "../lib.git")), "a": {"submodule": lib}})
    url = f"{ssh_server.url}/app.git"
    data = {"identity": ssh_server.identity().encode(), "known_hosts": ssh_server.known_hosts.encode()}
    request = GitRequest(url, MAIN, git_auth(url, data), recurse_submodules=True, timeout=20)
    assert (await files(fetcher, request))["a/lib"] == b"2"
    with SshServer(git_server) as other:
        repository.commit({".gitmodules": modules(a=("a", f"{other.url}/lib.git"))})
        assert "another SSH server, for which there is no identity" in (await refusal(request))[1]
        assert other.logins == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc", "-u./payload", "ext::sh -c id", "../../../x", "/srv/git/x", "git://127.0.0.1/x", "ssh://-oX=y/z"],
)
async def test_A36_other_addresses_are_refused(git_server, refusal, url):
    git_server.repository("app").commit({".gitmodules": modules(a=("a", url)), "a": {"submodule": "1" * 40}})
    reason, message = await refusal(asked(git_server))
    assert reason == "GitOperationFailed"
    assert "submodule 'a' has an unusable address" in message


async def test_A36_a_repository_that_contains_itself_is_refused(git_server, refusal):
    repository = git_server.repository("app")
    first = repository.commit({"a": "1"})
    # A commit cannot name its own hash; two commits can name each other's repository without end.
    repository.commit({".gitmodules": modules(s=("s", f"{git_server.url}/app.git")), "s": {"submodule": first}})
    found = repository.ref("refs/heads/main")
    assert found is not None
    for _ in range(12):
        found = repository.commit({"s": {"submodule": found}})
    assert "submodules are nested deeper than 10" in (await refusal(asked(git_server)))[1]


async def test_s5_3_A36_ten_levels_are_followed(git_server, fetcher):
    repository = git_server.repository("app")
    found = repository.commit({"bottom": "1"})
    for _ in range(10):
        found = repository.commit(
            {".gitmodules": modules(s=("s", f"{git_server.url}/app.git")), "s": {"submodule": found}}
        )
    assert "s/" * 10 + "bottom" in await files(fetcher, asked(git_server))


@pytest.mark.parametrize("path", [".git/hooks", "../x", "/abs", "a/../../b", "link"])
async def test_A37_paths_that_lead_elsewhere_refuse_the_whole_artifact(git_server, refusal, path):
    lib = git_server.repository("lib").commit({"lib": "1"})
    git_server.repository("app").commit(
        {
            ".gitmodules": modules(a=("a", "../lib.git"), evil=(path, "../lib.git")),
            "a": {"submodule": lib},
            "link": {"link": "/tmp"},
        }
    )
    reason, message = await refusal(asked(git_server))
    assert reason == "GitOperationFailed"
    assert "submodule path" in message


async def test_A38_gitmodules_that_is_a_link_or_too_large_is_refused(git_server, refusal):
    repository = git_server.repository("app")
    repository.commit(
        {".gitmodules": {"link": "elsewhere"}, "elsewhere": modules(a=("a", "../x")), "a": {"submodule": "1" * 40}}
    )
    assert ".gitmodules is not a file" in (await refusal(asked(git_server)))[1]
    repository.commit({".gitmodules": "#" * ((1 << 20) + 1)})
    assert ".gitmodules is larger than" in (await refusal(asked(git_server)))[1]


async def test_A38_includes_and_commands_are_not_interpreted(git_server, fetcher, tmp_path):
    lib = git_server.repository("lib").commit({"lib": "1"})
    text = f"[include]\n\tpath = /etc/passwd\n{modules(a=('a', '../lib.git'))}\tupdate = !touch {tmp_path}/pwned\n"
    git_server.repository("app").commit({".gitmodules": text, "a": {"submodule": lib}})
    assert (await files(fetcher, asked(git_server)))["a/lib"] == b"1"
    assert not list(tmp_path.iterdir())


async def test_a_submodule_that_cannot_be_fetched_is_named(git_server, refusal):
    git_server.repository("lib").commit({"lib": "1"})
    repository = git_server.repository("app")
    repository.commit({".gitmodules": modules(a=("a", "../gone.git")), "a": {"submodule": "1" * 40}})
    assert "submodule 'a': repository not found" in (await refusal(asked(git_server)))[1]
    repository.commit({".gitmodules": modules(a=("a", "../lib.git"))})
    assert f"submodule 'a': unable to resolve commit object for '{'1' * 40}'" in (await refusal(asked(git_server)))[1]


async def test_sparse_entries_select_within_submodules_too(git_server, fetcher):
    lib = git_server.repository("lib").commit({"keep/a": "1", "drop/b": "2"})
    git_server.repository("app").commit(
        {".gitmodules": modules(a=("a", "../lib.git")), "a": {"submodule": lib}, "other": "3"}
    )
    assert set(await files(fetcher, asked(git_server, sparse=("a",)))) == {"a/keep/a", "a/drop/b"}
