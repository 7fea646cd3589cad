"""One look at a repository serves everybody who follows it (spec/source.md 15.2, hostile-inputs.md A33, A42)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from gitopsd.fetch.auth import git_auth
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.fetch.gitremote import GitLimits
from gitopsd.fetch.gitwire import WireLimits
from tests.servers import trouble
from tests.servers.git import GitServer


def request(git_server: GitServer, place: str = "/app.git", **fields: str) -> GitRequest:
    return GitRequest(f"{git_server.url}{place}", GitRef(**(fields or {"branch": "main"})), timeout=20)


def looks(git_server: GitServer) -> list[bytes]:
    return [seen.body for seen in git_server.requests if b"command=ls-refs" in seen.body]


class Woken:
    """Whom the fetcher woke."""

    def __init__(self, fetcher: GitFetcher) -> None:
        self.all: list[Hashable] = []
        fetcher.on_moved = self.all.append

    def __call__(self) -> list[Hashable]:
        found, self.all[:] = list(self.all), []
        return found


async def test_s15_2_many_who_follow_one_repository_cost_one_look(git_server, fetcher):
    sha = git_server.repository("app").commit({"a": "1"})
    asked = request(git_server)
    found = {await fetcher.resolve(asked, max_age=60, follower=number) for number in range(50)}
    assert found == {f"main@sha1:{sha}"}
    assert len(looks(git_server)) == 1
    assert 0 <= fetcher.age(49) <= fetcher.age(0) + 1


async def test_s15_2_who_allows_no_age_always_asks(git_server, fetcher):
    repository = git_server.repository("app")
    asked = request(git_server)
    for _ in range(3):
        sha = repository.commit({"a": "1"})
        assert await fetcher.resolve(asked, follower="x") == f"main@sha1:{sha}"
    assert len(looks(git_server)) == 3


async def test_s15_2_different_references_of_one_repository_share_a_look(git_server, fetcher):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"}, tag="v1.0.0", annotated=True)
    repository.commit({"b": "1"}, branch="staging", parents=[sha])
    repository.set_ref("refs/pull/7/head", sha)
    wanted = [{"branch": "main"}, {"branch": "staging"}, {"tag": "v1.0.0"}, {"name": "refs/pull/7/head"}]
    for fields in wanted:
        await fetcher.resolve(request(git_server, **fields), max_age=60, follower=str(fields))
    git_server.forget()
    await fetcher.resolve(request(git_server), follower="requested")
    for fields in wanted:
        await fetcher.resolve(request(git_server, **fields), max_age=60, follower=str(fields))
    (look,) = looks(git_server)
    for prefix in (b"refs/heads/main", b"refs/heads/staging", b"refs/tags/v1.0.0", b"refs/pull/7/head"):
        assert b"ref-prefix " + prefix + b"\n" in look


async def test_s15_2_a_change_wakes_the_others_at_once_and_they_ask_nobody(git_server, fetcher):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    repository.commit({"s": "1"}, branch="staging", parents=[sha])
    woken = Woken(fetcher)
    for number in range(5):
        await fetcher.resolve(request(git_server), max_age=60, follower=number)
    await fetcher.resolve(request(git_server, branch="staging"), max_age=60, follower="s")
    new = repository.commit({"a": "2"})
    git_server.forget()
    assert await fetcher.resolve(request(git_server), follower=0) == f"main@sha1:{new}"
    assert woken() == [1, 2, 3, 4]
    for number in range(1, 5):
        assert await fetcher.resolve(request(git_server), max_age=60, follower=number) == f"main@sha1:{new}"
    assert len(looks(git_server)) == 1
    await fetcher.resolve(request(git_server), follower=1)
    assert woken() == []
    moved = repository.commit({"s": "2"}, branch="staging")
    await fetcher.resolve(request(git_server), follower=0)
    assert woken() == ["s"]
    answer = await fetcher.resolve(request(git_server, branch="staging"), max_age=60, follower="s")
    assert answer == f"staging@sha1:{moved}"
    await fetcher.forget("s")
    repository.commit({"s": "3"}, branch="staging")
    await fetcher.resolve(request(git_server), follower=0)
    assert woken() == []


async def test_s15_3_newer_tags_wake_those_who_follow_a_range(git_server, fetcher):
    repository = git_server.repository("app")
    repository.commit({"a": "1"}, tag="v1.0.0")
    woken = Woken(fetcher)
    for name, wanted in (("old", "1.0.x"), ("any", ">=1")):
        await fetcher.resolve(request(git_server, semver=wanted), max_age=60, follower=name)
    sha = repository.commit({"a": "2"}, tag="v2.0.0")
    await fetcher.resolve(request(git_server, semver="<2"), follower="asks")
    assert woken() == ["any"]
    git_server.forget()
    assert await fetcher.resolve(request(git_server, semver=">=1"), max_age=60) == f"v2.0.0@sha1:{sha}"
    assert git_server.requests == []


async def test_A42_nobody_hears_what_others_credentials_saw(git_server, fetcher):
    git_server.repository("app").commit({"a": "1"})
    url = f"{git_server.url}/private/app.git"
    right = git_auth(url, {"username": b"user", "password": b"pass"})
    wrong = git_auth(url, {"username": b"user", "password": b"wrong"})
    await fetcher.resolve(GitRequest(url, GitRef("main"), right), max_age=60)
    for auth in (wrong, git_auth(url)):
        with pytest.raises(FetchError, match="401"):
            await fetcher.resolve(GitRequest(url, GitRef("main"), auth), max_age=60)
    git_server.forget()
    await fetcher.resolve(GitRequest(url, GitRef("main"), right, is_foreign=True), max_age=60)
    await fetcher.resolve(request(git_server), max_age=60)
    assert len(looks(git_server)) == 2


async def test_A42_those_who_ask_in_one_moment_make_one_look(git_server, fetcher):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    repository.commit({"b": "1"}, branch="other", parents=[sha])
    asked = [request(git_server), request(git_server, branch="other")] * 5
    found = await asyncio.gather(*(fetcher.resolve(one) for one in asked))
    assert found == [f"main@sha1:{sha}", f"other@sha1:{repository.commits[-1]}"] * 5
    assert len(looks(git_server)) == 1


async def test_who_asks_after_a_push_never_gets_what_was_seen_before_it(git_server, fetcher):
    """A slow look that is under way may have read the references before the push that somebody tells us about."""
    repository = git_server.repository("app")
    repository.commit({"a": "1"})
    await fetcher.resolve(request(git_server))
    held, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(_, ask):
        answer = await ask()
        await answer.read()
        loop.call_soon_threadsafe(held.set)
        while not go.is_set():
            await asyncio.sleep(0.01)
        return answer

    git_server.behave("*/git-upload-pack", slow, times=1)
    early = asyncio.ensure_future(fetcher.resolve(request(git_server), follower="timer"))
    await held.wait()
    new = repository.commit({"a": "2"})
    woken = Woken(fetcher)
    assert await fetcher.resolve(request(git_server), follower="webhook") == f"main@sha1:{new}"
    go.set()
    assert await early != f"main@sha1:{new}"
    assert woken() == ["timer"]
    assert await fetcher.resolve(request(git_server), max_age=60) == f"main@sha1:{new}"


async def test_A24_a_reference_that_is_missing_fails_alone_and_is_asked_for_each_time(git_server, fetcher):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    repository.commit({"b": "1"}, branch="gone", parents=[sha])
    woken = Woken(fetcher)
    for branch in ("main", "gone"):
        await fetcher.resolve(request(git_server, branch=branch), max_age=60, follower=branch)
    repository.delete_branch("gone")
    assert await fetcher.resolve(request(git_server), follower="main") == f"main@sha1:{sha}"
    assert woken() == ["gone"]
    for _ in range(2):
        with pytest.raises(FetchError, match=r'couldn\'t find remote ref "refs/heads/gone"'):
            await fetcher.resolve(request(git_server, branch="gone"), max_age=60, follower="gone")
    asked = [request(git_server), request(git_server, branch="gone"), request(git_server, semver=">>1")]
    good, *bad = await asyncio.gather(*(fetcher.resolve(one) for one in asked), return_exceptions=True)
    assert good == f"main@sha1:{sha}"
    assert [str(error).partition("'http")[0] for error in bad] == [
        "failed to checkout and determine revision: unable to list remote for ",
        "failed to checkout and determine revision: semver parse error: improper constraint: '>>1'",
    ]
    revision = await asyncio.gather(
        fetcher.resolve(request(git_server)),
        fetcher.resolve(request(git_server, branch="a..b")),
        return_exceptions=True,
    )
    assert revision[0] == good
    assert "not a name" in str(revision[1])


async def test_A22_more_references_than_others_may_have_do_not_spoil_ours(git_server):
    fetcher = GitFetcher(limits=GitLimits(wire=WireLimits(references=50)))
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"}, tag="v1.0.0")
    for wanted, follower in (({"semver": "1.x"}, "range"), ({"branch": "main"}, "main")):
        await fetcher.resolve(request(git_server, **wanted), max_age=0.0, follower=follower)
    for number in range(60):
        repository.tag(f"v1.0.{number}", sha)
    assert await fetcher.resolve(request(git_server), follower="main") == f"main@sha1:{sha}"
    with pytest.raises(FetchError, match="more than 50 references"):
        await fetcher.resolve(request(git_server, semver="1.x"), follower="range")
    await fetcher.aclose()


async def test_T20_a_server_that_is_down_fails_for_each_as_if_alone(git_server, fetcher):
    git_server.repository("app").commit({"a": "1"})
    await fetcher.resolve(request(git_server), max_age=60, follower="x")
    with git_server.behave("*", trouble.say(503)):
        assert await fetcher.resolve(request(git_server), max_age=60, follower="y")
        outcomes = await asyncio.gather(
            *(fetcher.resolve(request(git_server)) for _ in range(3)), return_exceptions=True
        )
    assert all(isinstance(one, FetchError) and "503" in one.message for one in outcomes)
    assert await fetcher.resolve(request(git_server), follower="x")


async def test_T16_when_the_one_who_looks_is_cancelled_another_looks_for_all(git_server, fetcher):
    sha = git_server.repository("app").commit({"a": "1"})
    await fetcher.resolve(request(git_server))
    git_server.behave("*/git-upload-pack", trouble.never(), times=1)
    asking = [asyncio.ensure_future(fetcher.resolve(request(git_server), follower=number)) for number in range(3)]
    while not [task for task in asking if task.done()] and len(looks(git_server)) < 2:
        await asyncio.sleep(0.01)
    asking[0].cancel()
    assert await asyncio.gather(*asking[1:]) == [f"main@sha1:{sha}"] * 2
    assert len(looks(git_server)) == 3
    assert fetcher._boards.board(next(iter(fetcher._boards._boards)))._departures == []
