"""Fetching remote bases from real servers on loopback, without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from aiohttp import web

from gitopsd.artifact.tree import FileTree
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.remote import RemoteBases
from tests.servers.git import GitServer, Repository
from tests.servers.http import HttpServer
from tests.servers.loopback import Answer, Ask, Rule

YAML = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"


@dataclass(frozen=True)
class Git:
    url: str
    ref: str = ""
    submodules: bool = True


@dataclass(frozen=True)
class Wanted:
    url: str = ""
    git: Git | None = None


@pytest.fixture
def files() -> Iterator[HttpServer]:
    with HttpServer() as server:
        server.serve({"base.yaml": YAML})
        yield server


@pytest.fixture
async def bases() -> AsyncIterator[RemoteBases]:
    async with RemoteBases(timeout=10) as found:
        yield found


@pytest.fixture
def repository(git_server: GitServer) -> Repository:
    """Branch `main` says one; branch and tag `both` differ; `v1` is an annotated tag."""
    found = git_server.repository("base")
    found.commit({"a": "tag"}, branch="aside", tag="both")
    found.commit({"a": "branch"}, branch="both")
    found.commit({"a": "one"}, tag="v1", annotated=True)
    return found


async def content(bases: RemoteBases, wanted: Wanted) -> bytes:
    found = await bases.fetch(wanted)
    return found["a"] if isinstance(found, FileTree) else found


async def refusal(bases: RemoteBases, wanted: Wanted) -> str:
    with pytest.raises(FetchError) as caught:
        await bases.fetch(wanted)
    assert caught.value.message.isprintable()
    return caught.value.message


def redirect(location: str, status: int = 302) -> Rule:
    async def rule(_: web.Request, __: Ask) -> Answer:
        return Answer(status, {"Location": location})

    return rule


def fetches(server: GitServer) -> int:
    return sum(b"command=fetch" in seen.body for seen in server.requests)


# -- files


async def test_a_file_is_read_and_nothing_is_sent_along(bases: RemoteBases, files: HttpServer) -> None:
    assert await content(bases, Wanted(f"{files.url}/base.yaml?x=1")) == YAML
    (seen,) = files.requests
    assert (seen.method, seen.path, seen.query) == ("GET", "/base.yaml", "x=1")
    assert not {"Authorization", "Cookie", "Git-Protocol"} & set(seen.headers)


async def test_userinfo_is_used_and_not_told(bases: RemoteBases, files: HttpServer) -> None:
    url = files.url.replace("http://", "http://user:pass@")
    assert await content(bases, Wanted(f"{url}/private/base.yaml")) == YAML
    wrong = files.url.replace("http://", "http://user:secret@")
    assert await refusal(bases, Wanted(f"{wrong}/private/base.yaml?token=hidden")) == "the server answered 401"


async def test_A08_userinfo_does_not_follow_a_redirect_to_another_place(
    bases: RemoteBases, files: HttpServer, git_server: GitServer
) -> None:
    git_server.behave("/x.yaml", redirect(f"{files.url}/base.yaml"))
    url = git_server.url.replace("http://", "http://user:secret@")
    assert await content(bases, Wanted(f"{url}/x.yaml")) == YAML
    assert git_server.requests[-1].credentials == "user:secret"
    assert files.requests[-1].credentials == ""


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ssh://h/x", "ftp://h/x", "gopher://h"])
async def test_A09_a_redirect_to_another_scheme_is_refused(
    bases: RemoteBases, files: HttpServer, location: str
) -> None:
    files.behave("/x.yaml", redirect(location))
    assert "the server redirects" in await refusal(bases, Wanted(f"{files.url}/x.yaml"))


async def test_A09_redirects_come_to_an_end(bases: RemoteBases, files: HttpServer) -> None:
    files.behave("/x.yaml", redirect("/x.yaml"))
    assert await refusal(bases, Wanted(f"{files.url}/x.yaml")) == "the server redirects more than 10 times"
    assert len(files.requests) == 11


async def test_J04_addresses_in_private_networks_are_refused_where_that_is_asked_for(
    files: HttpServer, git_server: GitServer, repository: Repository
) -> None:
    """The address of a remote base is not the operator's own choice."""
    async with RemoteBases(deny_private_redirects=True) as bases:
        for wanted in (Wanted(f"{files.url}/base.yaml"), Wanted(git=Git(f"{git_server.url}/base.git", "v1"))):
            assert "the address leads into a private network" in await refusal(bases, wanted)
    assert files.requests == []
    assert git_server.requests == []


async def test_J04_a_file_that_is_too_large_is_not_read_to_its_end(bases: RemoteBases, files: HttpServer) -> None:
    async def endless(_: web.Request, __: Ask) -> Answer:
        async def pieces():
            while True:
                yield b" " * 65536

        return Answer(200, {}, pieces())

    files.behave("/x.yaml", endless)
    message = await refusal(bases, Wanted(f"{files.url}/x.yaml"))
    assert message == f"the file is larger than {10 << 20} bytes"


async def test_J04_a_host_that_hangs_is_given_up(files: HttpServer) -> None:
    async def never(_: web.Request, __: Ask) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    files.behave("/x.yaml", never)
    async with RemoteBases(timeout=0.2) as bases:
        assert await refusal(bases, Wanted(f"{files.url}/x.yaml")) == "no answer within 0.2s"


async def test_a_file_that_many_want_at_once_is_read_once(bases: RemoteBases, files: HttpServer) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def held(_: web.Request, ask: Ask) -> Answer:
        loop.call_soon_threadsafe(ready.set)
        return await ask()

    files.behave("/base.yaml", held)
    wanted = Wanted(f"{files.url}/base.yaml")
    assert await asyncio.gather(*(content(bases, wanted) for _ in range(5))) == [YAML] * 5
    assert ready.is_set()
    assert len(files.requests) == 1


# -- repositories


@pytest.mark.parametrize(("ref", "expected"), [("", b"one"), ("main", b"one"), ("v1", b"one"), ("aside", b"tag")])
async def test_a_ref_is_a_branch_or_a_tag_or_the_default_branch(
    bases: RemoteBases, git_server: GitServer, repository: Repository, ref: str, expected: bytes
) -> None:
    assert await content(bases, Wanted(git=Git(f"{git_server.url}/base.git", ref))) == expected


async def test_a_tag_comes_before_a_branch_of_its_name(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    assert await content(bases, Wanted(git=Git(f"{git_server.url}/base.git", "both"))) == b"tag"
    assert await content(bases, Wanted(git=Git(f"{git_server.url}/base.git", "refs/heads/both"))) == b"branch"


async def test_a_full_commit_is_fetched_once_and_then_kept(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    wanted = Wanted(git=Git(f"{git_server.url}/base.git", repository.commits[1]))
    assert await content(bases, wanted) == b"branch"
    git_server.forget()
    assert await content(bases, wanted) == b"branch"
    assert git_server.requests == []


async def test_a_branch_is_looked_up_each_time_and_fetched_when_it_moved(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    wanted = Wanted(git=Git(f"{git_server.url}/base.git", "main"))
    await content(bases, wanted)
    git_server.forget()
    assert await content(bases, wanted) == b"one"
    assert len(git_server.requests) == 1
    assert fetches(git_server) == 0
    repository.commit({"a": "two"})
    assert await content(bases, wanted) == b"two"
    assert fetches(git_server) == 1


async def test_another_address_of_the_same_commit_is_fetched_anew(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    """Who may not read a repository must not get what somebody else's password fetched."""
    url, commit = f"{git_server.url}/private/base.git", repository.commits[-1]
    assert await content(bases, Wanted(git=Git(url.replace("http://", "http://user:pass@"), commit))) == b"one"
    message = await refusal(bases, Wanted(git=Git(url, commit)))
    assert message.startswith("unable to clone 'http://127.0.0.1:")
    assert "the server answered 401" in message


async def test_submodules_come_along_unless_they_are_not_wanted(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    outer = git_server.repository("outer")
    modules = f'[submodule "in"]\n\tpath = in\n\turl = {git_server.url}/base.git\n'
    outer.commit({".gitmodules": modules, "in": {"submodule": repository.commits[-1]}})
    whole = await bases.fetch(Wanted(git=Git(f"{git_server.url}/outer.git")))
    bare = await bases.fetch(Wanted(git=Git(f"{git_server.url}/outer.git", submodules=False)))
    assert isinstance(whole, FileTree)
    assert isinstance(bare, FileTree)
    assert "in/a" in whole
    assert "in/a" not in bare


async def test_a_ref_that_is_not_there_is_named(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    url = f"{git_server.url}/base.git"
    message = await refusal(bases, Wanted(git=Git(url.replace("http://", "http://u:secret@"), "v9")))
    assert message.endswith('couldn\'t find remote ref "v9"')
    assert "secret" not in message


# -- either


async def test_an_address_in_the_form_of_a_repository_is_not_tried_as_a_file(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    url = f"{git_server.url}/base.git"
    assert await content(bases, Wanted(f"{url}//deploy?ref=v1", Git(url, "v1"))) == b"one"
    assert {seen.path.rpartition("base.git")[2] for seen in git_server.requests} == {"/info/refs", "/git-upload-pack"}


async def test_a_manifest_is_read_although_its_address_could_be_that_of_a_repository(
    bases: RemoteBases, files: HttpServer
) -> None:
    files.serve({"org/repo/main/x.yaml": YAML, "org/repo.git/x.yaml": YAML})
    assert await content(bases, Wanted(f"{files.url}/org/repo/main/x.yaml", Git(f"{files.url}/org/repo"))) == YAML
    assert await content(bases, Wanted(f"{files.url}/org/repo.git/x.yaml", Git(f"{files.url}/org/repo.git"))) == YAML


async def test_an_address_that_turned_out_to_be_a_repository_is_not_tried_as_a_file_again(
    bases: RemoteBases, git_server: GitServer, repository: Repository
) -> None:
    page = b"<!DOCTYPE html><title>A repository</title>"

    async def browse(_: web.Request, __: Ask) -> Answer:
        return Answer(200, {"Content-Type": "text/html"}, page)

    git_server.behave("/base", browse)
    wanted = Wanted(f"{git_server.url}/base", Git(f"{git_server.url}/base"))
    assert await content(bases, wanted) == b"one"
    assert git_server.requests[0].path == "/base"
    git_server.forget()
    assert await content(bases, wanted) == b"one"
    assert "/base" not in {seen.path for seen in git_server.requests}


async def test_an_address_that_is_neither_is_told_as_both(bases: RemoteBases, files: HttpServer) -> None:
    message = await refusal(bases, Wanted(f"{files.url}/o/r?token=hidden", Git(f"{files.url}/o/r")))
    assert message.startswith("the server answered 404, and as a repository: unable to list remote for")
    assert "hidden" not in message


async def test_a_server_that_is_down_is_asked_once(bases: RemoteBases, files: HttpServer) -> None:
    files.refuse()
    message = await refusal(bases, Wanted(f"{files.url}/o/r", Git(f"{files.url}/o/r")))
    host = files.url.removeprefix("http://")
    assert message == f"cannot talk to {host}: connection refused"
