"""What is kept of a repository makes the next fetch small, and never wrong (spec/source.md 15.4, hostile inputs B)."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gitopsd import metrics
from gitopsd.fetch.auth import git_auth
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import Fetched, GitFetcher, GitRef, GitRequest
from tests.flows.git.test_git_submodules import modules
from tests.packs import COMMIT, Item, pack
from tests.servers import git as server_module
from tests.servers import trouble
from tests.servers.git import FLUSH, GitServer, Repository, pkt
from tests.servers.ssh import SshServer

Asking = Callable[..., GitRequest]
_HAVE = re.compile(rb"0032have [0-9a-f]{40}\n|0035shallow [0-9a-f]{40}\n")


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[GitFetcher]:
    """A fetcher that keeps what it fetched."""
    found = GitFetcher(cache=tmp_path / "kept")
    await found.open()
    yield found
    await found.aclose()
    assert not (tmp_path / "kept").exists()


@pytest.fixture(params=["http", "http-v0", "ssh", "ssh-v0"])
def asking(request, git_server: GitServer, ssh_server: SshServer, monkeypatch) -> Asking:
    """Makes requests for the repository `app` over one transport and version of the protocol."""
    transport, _, version = request.param.partition("-")
    data = {"identity": ssh_server.identity().encode(), "known_hosts": ssh_server.known_hosts.encode()}
    if version:
        real = server_module._run
        monkeypatch.setattr(server_module, "_run", lambda repo, service, _, *rest: real(repo, service, "", *rest))
        if transport == "ssh":
            environment = server_module.git_environment
            monkeypatch.setattr("tests.servers.ssh.git_environment", lambda home, **_: environment(home))
    url = f"{git_server.url if transport == 'http' else ssh_server.url}/app.git"
    auth = git_auth(url, data if transport == "ssh" else None)
    return lambda **fields: GitRequest(url, GitRef(**fields), auth, timeout=20)


def request(git_server: GitServer, place: str = "/app.git", **fields: str) -> GitRequest:
    return GitRequest(f"{git_server.url}{place}", GitRef(**(fields or {"branch": "main"})), timeout=20)


def fill(repository: Repository, files: int = 60) -> dict[str, str]:
    """A first commit of files that do not compress."""
    noise = random.Random(files)
    contents = {f"dir{number % 5}/f{number}.yaml": noise.randbytes(1500).hex() for number in range(files)}
    repository.commit(contents)
    return contents


def seen(kind: str) -> tuple[int, int]:
    """How many packs of a kind came so far, and how large they were together."""
    return int(metrics.git_packs.labels(kind)._value.get()), int(metrics.git_pack_bytes.labels(kind)._value.get())


class Tally:
    """What came since it was made."""

    def __init__(self) -> None:
        self._before = {kind: seen(kind) for kind in ("full", "update", "kept")}

    def __call__(self, kind: str) -> tuple[int, int]:
        packs, size = seen(kind)
        return packs - self._before[kind][0], size - self._before[kind][1]


def packs_asked(git_server: GitServer) -> int:
    return sum(b"want " in one.body for one in git_server.requests)


def check(found: Fetched, contents: dict[str, str]) -> None:
    assert {path: content.decode() for path, content in found.tree.items()} == contents


async def test_s15_4_an_update_moves_only_the_new_objects(git_server, keeper, asking):
    repository = git_server.repository("app")
    contents = fill(repository)
    tally = Tally()
    check(await keeper.fetch(asking(branch="main")), contents)
    for number in range(12):
        change = {f"dir{number % 5}/f{number}.yaml": f"changed {number}\n", f"new{number}": str(number)}
        contents |= change
        repository.commit(change)
        check(await keeper.fetch(asking(branch="main")), contents)
    assert tally("full")[0] == 1
    assert tally("full")[1] > 100_000
    assert tally("update")[0] == 12
    assert tally("update")[1] < 12 * 3000


async def test_s15_4_a_change_within_a_large_file_moves_the_change(git_server, keeper, asking):
    """The pack is thin: its deltas are against objects that only we have."""
    repository = git_server.repository("app")
    text = "".join(f"line {number} {random.Random(number).random()}\n" for number in range(4000))
    repository.commit({"large": text})
    await keeper.fetch(asking(branch="main"))
    tally = Tally()
    repository.commit({"large": text.replace("line 7 ", "line seven ")})
    found = await keeper.fetch(asking(branch="main"))
    assert found.tree["large"] == text.replace("line 7 ", "line seven ").encode()
    assert tally("update")[0] == 1
    assert tally("update")[1] < 1500


async def test_A27_a_forced_push_brings_what_it_says_and_no_more(git_server, keeper, asking):
    repository = git_server.repository("app")
    contents = fill(repository)
    (first,) = repository.commits
    await keeper.fetch(asking(branch="main"))
    repository.commit({"later": "1"})
    await keeper.fetch(asking(branch="main"))
    tally = Tally()
    repository.reset("main", first)
    found = await keeper.fetch(asking(branch="main"))
    check(found, contents)
    assert found.commit == first
    assert tally("full")[0] == tally("update")[0] == 0
    unrelated = repository.commit({"other": "tree"}, parents=[])
    found = await keeper.fetch(asking(branch="main"))
    check(found, {"other": "tree"})
    assert found.revision == f"main@sha1:{unrelated}"
    repository.commit(contents | {"again": "1"}, parents=[])
    check(await keeper.fetch(asking(branch="main")), contents | {"again": "1"})


async def test_A27_a_server_that_collected_what_we_have_sends_everything(git_server, keeper, asking):
    repository = git_server.repository("app")
    contents = fill(repository)
    await keeper.fetch(asking(branch="main"))
    repository.commit(contents | {"again": "1"}, parents=[])
    repository.git("-c", "gc.reflogExpire=now", "gc", "--prune=now", "--quiet")
    check(await keeper.fetch(asking(branch="main")), contents | {"again": "1"})


@pytest.mark.parametrize(
    "fields", [{"semver": ">=1"}, {"name": "refs/pull/7/head"}, {"tag": "v9"}, {"name": "refs/tags/v9"}, {"commit": ""}]
)
async def test_s15_3_every_kind_of_reference_profits(git_server, keeper, fields):
    repository = git_server.repository("app")
    contents = fill(repository)
    repository.tag("v1.0.0", annotated=True)
    repository.tag("v9", annotated=True)
    repository.set_ref("refs/pull/7/head", repository.commits[-1])

    def asked() -> GitRequest:
        return request(git_server, **{key: value or repository.commits[-1] for key, value in fields.items()})

    check(await keeper.fetch(asked()), contents)
    repository.commit({"new": "1"})
    repository.tag("v1.1.0", annotated=True)
    repository.tag("v9", annotated=True)
    repository.set_ref("refs/pull/7/head", repository.commits[-1])
    tally = Tally()
    found = await keeper.fetch(asked(), await keeper.resolve(asked()))
    check(found, contents | {"new": "1"})
    assert bool(found.tag_object) == ("refs/pull/7/head" not in fields.values() and "commit" not in fields)
    assert tally("full")[0] == 0
    assert tally("update")[1] < 2000
    tally = Tally()
    git_server.forget()
    check(await keeper.fetch(asked(), found.revision), contents | {"new": "1"})
    assert tally("kept")[0] == 1
    assert packs_asked(git_server) == 0


async def test_a_tag_that_was_resolved_is_fetched_without_another_listing(git_server, keeper):
    repository = git_server.repository("app")
    repository.commit({"a": "1"}, tag="v1.0.0", annotated=True)
    asked = request(git_server, semver="1.x")
    revision = await keeper.resolve(asked)
    git_server.forget()
    assert (await keeper.fetch(asked, revision)).tag_object
    assert [b"command=fetch" in one.body for one in git_server.requests] == [True]


async def test_s15_4_other_settings_of_the_same_commit_ask_for_no_pack(git_server, keeper):
    contents = fill(git_server.repository("app"))
    asked = request(git_server)
    await keeper.fetch(asked)
    git_server.forget()
    tally = Tally()
    found = await keeper.fetch(replace(asked, sparse=("dir1",)), await keeper.resolve(asked))
    check(found, {path: content for path, content in contents.items() if path.startswith("dir1/")})
    found = await keeper.fetch(replace(asked, leave_out=True, ignore="/dir1/\n"), found.revision)
    check(found, {path: content for path, content in contents.items() if not path.startswith("dir1/")})
    assert tally("kept")[0] == 2
    assert packs_asked(git_server) == 0


async def test_s15_4_branches_of_one_repository_share_what_is_kept(git_server, keeper):
    repository = git_server.repository("app")
    contents = fill(repository)
    await keeper.fetch(request(git_server))
    repository.commit({"stage": "1"}, branch="staging", parents=[repository.commits[0]])
    tally = Tally()
    check(await keeper.fetch(request(git_server, branch="staging")), contents | {"stage": "1"})
    assert tally("full")[0] == 0
    repository.commit({"main": "1"})
    check(await keeper.fetch(request(git_server)), contents | {"main": "1"})
    assert tally("full")[0] == 0


async def test_s15_4_submodules_that_stayed_are_not_fetched_again(git_server, keeper):
    library = git_server.repository("lib").commit({"lib": "1" * 1000})
    repository = git_server.repository("app")
    repository.commit({".gitmodules": modules(l=("lib", "../lib.git")), "lib": {"submodule": library}})
    asked = replace(request(git_server), recurse_submodules=True)
    await keeper.fetch(asked)
    repository.commit({"a": "2"})
    git_server.forget()
    found = await keeper.fetch(asked)
    assert {"a", "lib/lib"} <= set(found.tree)
    assert not [one for one in git_server.requests if "lib" in one.path]


async def test_A33_an_unchanged_repository_is_asked_for_no_pack(git_server, keeper):
    fill(git_server.repository("app"))
    asked = request(git_server)
    first = await keeper.fetch(asked)
    git_server.forget()
    again = await keeper.fetch(asked, await keeper.resolve(asked))
    assert again.tree == first.tree
    assert packs_asked(git_server) == 0


async def test_A42_what_was_fetched_with_one_set_of_credentials_is_kept_for_it_alone(git_server, keeper):
    repository = git_server.repository("app")
    repository.commit({"a": "1"})
    url = f"{git_server.url}/private/app.git"
    right = git_auth(url, {"username": b"user", "password": b"pass"})
    wrong = git_auth(url, {"username": b"user", "password": b"wrong"})
    pinned = GitRef(commit=repository.commits[-1])
    await keeper.fetch(GitRequest(url, pinned, right))
    git_server.forget()
    await keeper.fetch(GitRequest(url, pinned, right))
    assert git_server.requests == []
    with pytest.raises(FetchError, match="401"):
        await keeper.fetch(GitRequest(url, pinned, wrong))
    with pytest.raises(FetchError, match="401"):
        await keeper.fetch(GitRequest(url, pinned, wrong, account="somebody"))
    await keeper.fetch(GitRequest(url.replace("/private", ""), pinned))
    await keeper.fetch(GitRequest(url, pinned, right, is_foreign=True))
    assert packs_asked(git_server) == 2


async def test_A42_tokens_that_change_by_themselves_share_what_their_account_fetched(git_server, keeper):
    repository = git_server.repository("app")
    contents = fill(repository)
    url = f"{git_server.url}/private/app.git"
    git_server.protect("/private/", basic=("user", "first"))
    one, other = (git_auth(url, {"username": b"user", "password": word}) for word in (b"first", b"second"))
    await keeper.fetch(GitRequest(url, GitRef("main"), one, account="app of org"))
    git_server.protect("/private/", basic=("user", "second"))
    repository.commit({"new": "1"})
    tally = Tally()
    check(await keeper.fetch(GitRequest(url, GitRef("main"), other, account="app of org")), contents | {"new": "1"})
    assert (tally("full")[0], tally("update")[0]) == (0, 1)


async def test_s15_4_many_who_begin_at_once_with_one_repository_bring_it_once(git_server, keeper):
    repository = git_server.repository("app")
    contents = fill(repository)
    first = repository.commits[0]
    for name in "bcde":
        repository.commit({name: name}, branch=name, parents=[first])
    tally = Tally()
    asked = [request(git_server, branch=name) for name in ("main", *"bcde")]
    asked += [replace(one, sparse=("dir1",)) for one in asked]
    found = await asyncio.gather(*(keeper.fetch(one) for one in asked))
    check(found[0], contents)
    check(found[1], contents | {"b": "b"})
    assert len(found[9].tree) == 12
    assert tally("full")[0] == 1
    assert tally("update")[0] == 4
    assert tally("kept")[0] == 5


async def test_what_is_too_large_to_be_kept_is_fetched_by_each_for_himself(git_server, tmp_path):
    contents = fill(git_server.repository("app"))
    fetcher = GitFetcher(cache=tmp_path / "kept", cache_bytes=1000)
    asked = [replace(request(git_server), ignore=f"/{number}\n") for number in range(4)]
    for found in await asyncio.gather(*(fetcher.fetch(one) for one in asked)):
        check(found, contents)
    assert packs_asked(git_server) == 4
    await fetcher.aclose()


async def test_T16_who_waits_for_a_fetch_that_ends_badly_fetches_on_his_own(git_server, keeper):
    contents = fill(git_server.repository("app"))
    revision = await keeper.resolve(request(git_server))
    git_server.behave("*/git-upload-pack", trouble.never(), times=1)
    git_server.forget()
    leading = asyncio.ensure_future(keeper.fetch(request(git_server), revision))
    while not packs_asked(git_server):
        await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(keeper.fetch(replace(request(git_server), sparse=("dir1",)), revision))
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert packs_asked(git_server) == 1
    leading.cancel()
    found = await waiting
    check(found, {path: content for path, content in contents.items() if path.startswith("dir1/")})
    assert packs_asked(git_server) == 2


# -- servers that do not play along


def without_haves(sent: bytes) -> bytes:
    return _HAVE.sub(b"", sent)


async def test_B07_a_server_that_ignores_what_we_have_is_understood(git_server, keeper, monkeypatch):
    repository = git_server.repository("app")
    contents = fill(repository)
    real = server_module._run
    monkeypatch.setattr(
        server_module, "_run", lambda repo, service, v, sent, *rest: real(repo, service, v, without_haves(sent), *rest)
    )
    await keeper.fetch(request(git_server))
    for number in range(3):
        contents[f"new{number}"] = "1"
        repository.commit({f"new{number}": "1"})
        check(await keeper.fetch(request(git_server)), contents)
    git_server.forget()
    await keeper.fetch(request(git_server))
    assert packs_asked(git_server) == 0


def answer(data: bytes) -> bytes:
    return pkt("packfile\n", b"\x01" + data) + FLUSH


def only_the_commit(repository: Repository) -> bytes:
    raw = repository.git("cat-file", "commit", repository.commits[-1])
    return answer(pack([Item(COMMIT, raw.encode() + b"\n")]))


CHOKED = {
    "an error of the server": trouble.say(500, "boom"),
    "an error in the protocol": trouble.say(200, pkt("ERR shallow what?"), "application/x-git-upload-pack-result"),
    "no pack at all": trouble.say(200, b"", "application/x-git-upload-pack-result"),
    "an empty pack": trouble.say(200, answer(pack([])), "application/x-git-upload-pack-result"),
    "half of the pack": trouble.cut(-30),
    "a broken connection": trouble.cut(150, "rst"),
    "an altered pack": trouble.altered(lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]),
    "a login page": trouble.login_page(),
}


@pytest.mark.parametrize("rule", CHOKED.values(), ids=CHOKED)
async def test_B07_an_update_that_cannot_be_used_ends_in_one_clean_fetch(git_server, keeper, rule):
    repository = git_server.repository("app")
    contents = fill(repository)
    await keeper.fetch(request(git_server))
    repository.commit({"new": "1"})
    revision = await keeper.resolve(request(git_server))
    # Requests that say what we have are met by trouble, others are not.
    trap = git_server.behave("*/git-upload-pack", choked(git_server, rule))
    git_server.forget()
    check(await keeper.fetch(request(git_server), revision), contents | {"new": "1"})
    trap.remove()
    posts = [b"0032have " in one.body for one in git_server.requests if b"want " in one.body]
    assert posts == [True, False]
    git_server.forget()
    repository.commit({"newer": "1"})
    tally = Tally()
    check(await keeper.fetch(request(git_server)), contents | {"new": "1", "newer": "1"})
    assert (tally("full")[0], tally("update")[0]) == (0, 1)


def choked(git_server: GitServer, rule):
    async def meet(incoming, ask):
        return await (rule(incoming, ask) if b"have " in git_server.requests[-1].body else ask())

    return meet


async def test_B07_an_update_without_the_files_it_needs_is_never_taken_for_the_commit(git_server, keeper):
    repository = git_server.repository("app")
    contents = fill(repository)
    await keeper.fetch(request(git_server))
    repository.commit({"new": "1"})
    short = trouble.say(200, only_the_commit(repository), "application/x-git-upload-pack-result")
    with git_server.behave("*/git-upload-pack", choked(git_server, short)):
        check(await keeper.fetch(request(git_server)), contents | {"new": "1"})


async def test_A05_a_server_that_breaks_every_pack_fails_once_and_leaves_what_is_kept(git_server, keeper, tmp_path):
    repository = git_server.repository("app")
    contents = fill(repository)
    await keeper.fetch(request(git_server))
    before = {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    repository.commit({"new": "1"})
    with git_server.behave("*/git-upload-pack", trouble.cut(60, "rst")), pytest.raises(FetchError):
        await keeper.fetch(request(git_server), f"main@sha1:{repository.commits[-1]}")
    assert {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before
    tally = Tally()
    check(await keeper.fetch(request(git_server)), contents | {"new": "1"})
    assert (tally("full")[0], tally("update")[0]) == (0, 1)


@pytest.mark.parametrize("at", range(10))
async def test_T82_what_is_damaged_on_disk_is_fetched_again_within_the_same_run(git_server, keeper, tmp_path, at):
    repository = git_server.repository("app")
    contents = fill(repository, files=12)
    await keeper.fetch(request(git_server))
    (path,) = (tmp_path / "kept").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) * at // 10 + 3] ^= 0x10
    path.write_bytes(data)
    check(await keeper.fetch(request(git_server)), contents)
    repository.commit({"new": "1"})
    check(await keeper.fetch(request(git_server)), contents | {"new": "1"})


async def test_what_only_one_followed_goes_with_him(git_server, keeper, tmp_path):
    fill(git_server.repository("app"))
    asked = request(git_server)
    for follower in ("one", "other"):
        await keeper.fetch(asked, await keeper.resolve(asked, follower=follower))
    await keeper.forget("one")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    git_server.repository("elsewhere").commit({"a": "1"})
    await keeper.resolve(request(git_server, "/elsewhere.git"), follower="other")
    assert list((tmp_path / "kept").iterdir()) == []
    await keeper.forget("other")
    await keeper.forget("other")


async def test_what_a_pinned_commit_needs_goes_with_the_last_who_wants_it(git_server, keeper, tmp_path):
    repository = git_server.repository("app")
    fill(repository, files=3)
    for follower in ("one", "other"):
        asked = request(git_server, commit=repository.commits[-1])
        await keeper.fetch(asked, await keeper.resolve(asked, max_age=60, follower=follower))
        assert keeper.age(follower) == 0
    await keeper.forget("one")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    await keeper.forget("other")
    assert list((tmp_path / "kept").iterdir()) == []
