"""Every kind of reference, over every transport and protocol version (spec/source.md 4.2, 5.3, 17 row 22)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gitopsd import metrics
from gitopsd.fetch.auth import git_auth
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from tests.servers import git as server_module
from tests.servers import trouble
from tests.servers.git import GitServer, Repository
from tests.servers.ssh import SshServer

Asking = Callable[..., GitRequest]


def fill(repository: Repository) -> tuple[str, str]:
    """The repository of vector 22: an older commit, and the tip C."""
    old = repository.commit({"old.yaml": "a: 0\n"}, message="old")
    tip = repository.commit(
        {"charts/a.yaml": "a: 1\n", "charts-old/b.yaml": "b: 1\n", "root.yaml": "c: 1\n", "run.sh": {"exec": "#!\n"}},
        message="tip\n\nwith a body",
        tag="v1.0.0",
    )
    repository.tag("v1.1.0", tip, annotated=True)
    repository.commit({"x": "1"}, branch="feature/x", parents=[old])
    repository.set_ref("refs/pull/420/head", repository.ref("refs/heads/feature/x") or "")
    return old, tip


@pytest.fixture(params=["http", "http-v0", "ssh", "ssh-v0"])
def asking(request, git_server: GitServer, ssh_server: SshServer, monkeypatch) -> Asking:
    """Makes requests for the repository `app` over one transport."""
    transport, _, version = request.param.partition("-")
    data = {"identity": ssh_server.identity().encode(), "known_hosts": ssh_server.known_hosts.encode()}
    if version:
        real = server_module._run
        monkeypatch.setattr(server_module, "_run", lambda repo, service, _, *rest: real(repo, service, "", *rest))
        if transport == "ssh":
            environment = server_module.git_environment
            monkeypatch.setattr("tests.servers.ssh.git_environment", lambda home, **_: environment(home))
    base = git_server.url if transport == "http" else ssh_server.url

    def make(**fields: str) -> GitRequest:
        url = f"{base}/app.git"
        return GitRequest(url, GitRef(**fields), git_auth(url, data if transport == "ssh" else None), timeout=20)

    return make


async def test_s17_22_s5_3_each_reference_has_its_revision_and_files(git_server, fetcher: GitFetcher, asking: Asking):
    old, tip = fill(git_server.repository("app"))
    side = git_server.repository("app").ref("refs/heads/feature/x")
    for fields, revision in [
        ({"branch": "main"}, f"main@sha1:{tip}"),
        ({"branch": "feature/x"}, f"feature/x@sha1:{side}"),
        ({"tag": "v1.0.0"}, f"v1.0.0@sha1:{tip}"),
        ({"tag": "v1.1.0"}, f"v1.1.0@sha1:{tip}"),
        ({"semver": ">=1.0.0"}, f"v1.1.0@sha1:{tip}"),
        ({"name": "refs/heads/main"}, f"refs/heads/main@sha1:{tip}"),
        ({"name": "refs/tags/v1.1.0"}, f"refs/tags/v1.1.0@sha1:{tip}"),
        ({"name": "refs/tags/v1.1.0^{}"}, f"refs/tags/v1.1.0^{{}}@sha1:{tip}"),
        ({"name": "refs/pull/420/head"}, f"refs/pull/420/head@sha1:{side}"),
        ({"commit": tip}, f"sha1:{tip}"),
        ({"commit": old}, f"sha1:{old}"),
        ({"commit": old, "branch": "main"}, f"main@sha1:{old}"),
        ({"commit": tip, "branch": "main"}, f"main@sha1:{tip}"),
        ({"commit": tip, "name": "refs/heads/main"}, f"refs/heads/main@sha1:{tip}"),
        ({"commit": tip.upper()}, f"sha1:{tip}"),
    ]:
        request = asking(**fields)
        assert await fetcher.resolve(request) == revision, fields
        found = await fetcher.fetch(request, revision)
        assert (found.revision, found.commit) == (revision, revision[-40:]), fields
        expected = {"old.yaml", "charts/a.yaml", "charts-old/b.yaml", "root.yaml", "run.sh"}
        files = {old: {"old.yaml"}, side: {"old.yaml", "x"}, tip: expected}[found.commit]
        assert set(found.tree) == files, fields
        assert (await fetcher.fetch(request)).tree == found.tree


async def test_s5_3_precedence_is_commit_name_tag_range_branch(git_server, fetcher, asking):
    """goldens/source/git-precedence"""
    repository = git_server.repository("app")
    one = repository.commit({"a": "1"}, tag="v1.0.0")
    two = repository.commit({"a": "2"}, tag="v1.1.0")
    three = repository.commit({"a": "3"})
    both = {"branch": "main", "semver": ">=1.0.0"}
    assert await fetcher.resolve(asking(**both)) == f"v1.1.0@sha1:{two}"
    assert await fetcher.resolve(asking(**both, tag="v1.0.0")) == f"v1.0.0@sha1:{one}"
    named = asking(**both, tag="v1.0.0", name="refs/heads/main")
    assert await fetcher.resolve(named) == f"refs/heads/main@sha1:{three}"
    assert await fetcher.resolve(asking(**both, tag="v1.0.0", commit=one)) == f"main@sha1:{one}"


async def test_s5_3_without_a_reference_it_is_master(git_server, fetcher, asking):
    sha = git_server.repository("app").commit({"a": "1"}, branch="master")
    assert await fetcher.resolve(asking()) == f"master@sha1:{sha}"


async def test_s5_3_s5_6_a_commit_and_its_tag_come_whole_for_verification(git_server, fetcher, asking):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"}, message="subject\n\nbody", tag="v1.0.0", annotated="signed?\n")
    found = await fetcher.fetch(asking(tag="v1.0.0"))
    assert found.commit == sha
    assert found.message_subject == "subject"
    assert found.commit_object.endswith(b"\n\nsubject\n\nbody")
    assert found.commit_object.startswith(b"tree ")
    assert found.tag_object.startswith(f"object {sha}\ntype commit\ntag v1.0.0\n".encode())
    assert (await fetcher.fetch(asking(branch="main"))).tag_object == b""


async def test_s5_3_equal_versions_are_decided_by_the_time_of_their_commits(git_server, fetcher, asking):
    """spec/source.md 5.3: ties (build metadata) by later commit time."""
    repository = git_server.repository("app")
    repository.commit({"a": "1"}, tag="v1.0.0+z")
    later = repository.commit({"a": "2"}, tag="v1.0.0+b", annotated=True)
    repository.tag("v1.0.0+a", later)
    repository.commit({"a": "3"}, tag="v0.9.0")
    assert await fetcher.resolve(asking(semver=">=0.1.0")) == f"v1.0.0+b@sha1:{later}"


@pytest.mark.parametrize(
    ("fields", "reason", "text"),
    [
        ({"branch": "nope"}, "GitOperationFailed", 'couldn\'t find remote ref "refs/heads/nope"'),
        ({"tag": "nope"}, "GitOperationFailed", 'couldn\'t find remote ref "refs/tags/nope"'),
        ({"name": "refs/pull/1/head"}, "GitOperationFailed", "unable to resolve ref 'refs/pull/1/head' to a specific"),
        ({"name": "/refs/heads/main"}, "GitOperationFailed", "unable to resolve ref '/refs/heads/main' to a specific"),
        ({"name": "refs/heads/main/"}, "GitOperationFailed", "unable to resolve ref 'refs/heads/main/' to a specific"),
        ({"name": "main"}, "GitOperationFailed", "unable to resolve ref 'main' to a specific commit"),
        ({"semver": ">=9.0.0"}, "GitOperationFailed", "no match found for semver: >=9.0.0"),
        ({"semver": ">>1"}, "GitOperationFailed", "semver parse error: "),
        ({"semver": ">=1 " * 2600}, "GitOperationFailed", "semver parse error: "),
        ({"semver": ">=1 <"}, "GitOperationFailed", "semver parse error: "),
        ({"commit": "1" * 40}, "GitOperationFailed", f"unable to resolve commit object for '{'1' * 40}': object not"),
        ({"commit": "1" * 40, "branch": "main"}, "GitOperationFailed", "object not found on 'main'"),
        ({"commit": "v1.0.0"}, "GitOperationFailed", "not a full SHA-1 hash"),
        ({"branch": "a..b"}, "GitOperationFailed", "not a name that a reference can have"),
        ({"branch": "../../x"}, "GitOperationFailed", "not a name that a reference can have"),
        ({"tag": "a\x1b[31m\nb"}, "GitOperationFailed", "not a name that a reference can have"),
        ({"branch": "x" * 5000}, "GitOperationFailed", "not a name that a reference can have"),
    ],
)
async def test_s5_3_A24_A25_A26_what_is_not_there_is_named(git_server, asking, refusal, fields, reason, text):
    fill(git_server.repository("app"))
    found, message = await refusal(asking(**fields))
    assert found == reason
    assert message.startswith("failed to checkout and determine revision: ")
    assert text in message


async def test_A24_a_commit_must_be_on_the_branch_that_is_named(git_server, asking, refusal):
    old, _ = fill(git_server.repository("app"))
    side = git_server.repository("app").ref("refs/heads/feature/x")
    assert f"'{side}': object not found on 'main'" in (await refusal(asking(commit=side, branch="main")))[1]
    assert 'find remote ref "refs/heads/gone"' in (await refusal(asking(commit=old, branch="gone")))[1]


async def test_A26_a_name_of_something_else_than_a_commit_is_refused(git_server, asking, refusal):
    repository = git_server.repository("app")
    repository.commit({"a": "1"})
    blob = repository.put("blob", b"just a file")
    repository.set_ref("refs/other/blob", blob)
    assert f"object {blob} is a blob, not a commit" in (await refusal(asking(name="refs/other/blob")))[1]


async def test_A27_a_rewritten_branch_is_followed(git_server, fetcher, asking):
    repository = git_server.repository("app")
    old, tip = fill(repository)
    assert await fetcher.resolve(asking(branch="main")) == f"main@sha1:{tip}"
    repository.reset("main", old)
    found = await fetcher.fetch(asking(branch="main"), f"main@sha1:{tip}")
    assert found.commit in {tip, old}  # the old commit is still there, and is what was asked for
    assert await fetcher.resolve(asking(branch="main")) == f"main@sha1:{old}"
    orphan = repository.commit({"new": "1"}, parents=[])
    assert (await fetcher.fetch(asking(branch="main"))).commit == orphan


async def test_A27_a_branch_that_moved_since_it_was_listed_is_fetched_as_it_is_now(git_server, fetcher, asking):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    found = await fetcher.fetch(asking(branch="main"), f"main@sha1:{'1' * 40}")
    assert (found.revision, set(found.tree)) == (f"main@sha1:{sha}", {"a"})


async def test_s5_3_A32_an_empty_repository_is_told_apart(git_server, asking, refusal):
    """goldens/source/git-empty"""
    git_server.repository("app")
    assert await refusal(asking(branch="main")) == ("EmptyGitRepository", "git repository is empty")
    assert await refusal(asking()) == ("EmptyGitRepository", "git repository is empty")
    reason, message = await refusal(asking(tag="v1"))
    assert (reason, message[-26:]) == ("GitOperationFailed", "remote repository is empty")


async def test_a_repository_that_does_not_exist_is_named(asking, refusal):
    reason, message = await refusal(asking(branch="main"))
    assert reason == "GitOperationFailed"
    assert "not found" in message.lower()


async def test_s5_3_A33_looking_for_changes_asks_for_no_pack(git_server, fetcher):
    git_server.repository("app").commit({"a": "1"}, tag="v1.0.0")
    request = GitRequest(f"{git_server.url}/app.git", GitRef("main"))
    await fetcher.resolve(request)
    git_server.forget()
    await fetcher.resolve(request)
    assert [(seen.method, b"command=ls-refs" in seen.body) for seen in git_server.requests] == [("POST", True)]
    assert b"ref-prefix refs/heads/main\n" in git_server.requests[0].body


async def test_s5_3_A33_a_pinned_commit_is_known_without_asking(git_server, fetcher):
    request = GitRequest(f"{git_server.url}/app.git", GitRef(commit="1" * 40))
    assert await fetcher.resolve(request) == f"sha1:{'1' * 40}"
    assert git_server.requests == []


async def test_a_pack_holds_one_commit_and_no_history(git_server, fetcher, asking):
    repository = git_server.repository("app")
    for number in range(20):
        repository.commit({f"f{number}": "x" * 1000})
    repository.commit({f"f{number}": None for number in range(20)} | {"a": "1"})
    git_server.forget()
    found = await fetcher.fetch(asking(branch="main"))
    assert set(found.tree) == {"a"}
    posts = [seen for seen in git_server.requests if b"want " in seen.body]
    assert all(b"deepen 1\n" in seen.body for seen in posts)


async def test_a_server_that_forgot_version_2_is_greeted_again(git_server, fetcher, monkeypatch):
    sha = git_server.repository("app").commit({"a": "1"})
    request = GitRequest(f"{git_server.url}/app.git", GitRef("main"))
    assert await fetcher.resolve(request) == f"main@sha1:{sha}"
    real = server_module._run
    monkeypatch.setattr(server_module, "_run", lambda repo, service, _, *rest: real(repo, service, "", *rest))
    assert await fetcher.resolve(request) == f"main@sha1:{sha}"
    assert set((await fetcher.fetch(request)).tree) == {"a"}


async def test_A42_equal_requests_at_once_make_one_and_different_credentials_their_own(git_server, fetcher):
    git_server.repository("app").commit({"a": "1"})
    url = f"{git_server.url}/private/app.git"
    right = git_auth(url, {"username": b"user", "password": b"pass"})
    wrong = git_auth(url, {"username": b"user", "password": b"wrong"})
    asked = [GitRequest(url, GitRef("main"), auth) for auth in (right, right, right, wrong)]
    outcomes = await asyncio.gather(*(fetcher.fetch(request) for request in asked), return_exceptions=True)
    assert outcomes[0] is outcomes[1] is outcomes[2]
    assert isinstance(outcomes[3], FetchError)
    packs = [seen.credentials for seen in git_server.requests if b"command=fetch" in seen.body]
    assert packs == ["user:pass"]


async def test_requests_are_counted(git_server, fetcher, refusal):
    git_server.repository("app").commit({"a": "1"})
    request = GitRequest(f"{git_server.url}/app.git", GitRef("main"))
    counter = metrics.git_requests.labels

    def seen() -> list[float]:
        return [counter(*pair)._value.get() for pair in (("fetch", "success"), ("fetch", "failure"))]

    before = seen()
    await fetcher.fetch(request)
    with git_server.behave("*", trouble.say(503)):
        await refusal(GitRequest(request.url, GitRef("other")))
    assert seen() == [before[0] + 1, before[1] + 1]
