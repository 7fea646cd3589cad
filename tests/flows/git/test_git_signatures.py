"""What comes over the wire can be verified, byte for byte, whatever was kept before (spec/source.md 5.6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gitopsd.fetch.git import GitFetcher, GitRef, GitRequest
from gitopsd.fetch.gitkeys import TrustedKeys
from gitopsd.fetch.gitsigned import SignatureError, tag_hash
from gitopsd.fetch.gitverify import verify_commit, verify_tag
from gitopsd.tasks import offload
from tests.servers.git import GitServer
from tests.signing import PgpSigner, SshSigner, commit_object, sign_tag, sign_tip, signed_commit, tag_object

PGP = PgpSigner()
SSH = SshSigner()


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[GitFetcher]:
    """A fetcher that keeps what it fetched."""
    found = GitFetcher(cache=tmp_path / "kept")
    await found.open()
    yield found
    await found.aclose()


@pytest.fixture
async def keys() -> TrustedKeys:
    return await offload(TrustedKeys.read, {PGP.entry: PGP.public, SSH.entry: SSH.public})


def request(git_server: GitServer, **fields: str) -> GitRequest:
    return GitRequest(f"{git_server.url}/app.git", GitRef(**fields), timeout=20)


@pytest.mark.parametrize("signer", [PGP, SSH], ids=["pgp", "ssh"])
async def test_s5_6_a_signed_commit_and_tag_come_as_they_were_signed(git_server, keeper, keys, signer):
    repository = git_server.repository("app")
    repository.commit({"a": "1"}, message="zwölf\r\n\r\n gpgsig \n\n")
    sha = sign_tip(repository, signer)
    tag = sign_tag(repository, "v1.0.0", signer)
    for fields in (
        {"branch": "main"},
        {"commit": sha},
        {"tag": "v1.0.0"},
        {"semver": "1.x"},
        {"name": "refs/tags/v1.0.0"},
        {"name": "refs/tags/v1.0.0^{}"},
    ):
        found = await keeper.fetch(request(git_server, **fields))
        assert found.commit == sha
        assert await offload(verify_commit, found.commit_object, keys) == signer.shown
        if found.tag_object:
            assert tag_hash(found.tag_object) == tag
            assert await offload(verify_tag, found.tag_object, keys) == signer.shown
        assert bool(found.tag_object) == (not fields.keys() & {"branch", "commit"})


async def test_s5_6_a_tag_that_is_replaced_at_the_same_commit_comes_anew(git_server, keeper, keys):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"}, tag="v1.0.0")
    wanted = request(git_server, tag="v1.0.0")
    assert (await keeper.fetch(wanted, await keeper.resolve(wanted))).tag_object == b""
    for signer in (PGP, SSH, PGP):
        tag = sign_tag(repository, "v1.0.0", signer)
        found = await keeper.fetch(wanted, await keeper.resolve(wanted))
        assert (found.commit, tag_hash(found.tag_object)) == (sha, tag)
        assert await offload(verify_tag, found.tag_object, keys) == signer.shown
    repository.tag("v1.0.0", sha)
    assert (await keeper.fetch(wanted, await keeper.resolve(wanted))).tag_object == b""


async def test_s5_6_B10_of_nested_tags_the_outermost_counts(git_server, keeper, keys):
    repository = git_server.repository("app")
    sha = repository.commit({"a": "1"})
    inner = sign_tag(repository, "inner", SSH)
    text = tag_object(inner, "outer").replace(b"type commit", b"type tag")
    repository.set_ref("refs/tags/outer", repository.put("tag", text + PGP.sign(text)))
    found = await keeper.fetch(request(git_server, tag="outer"))
    assert found.commit == sha
    assert await offload(verify_tag, found.tag_object, keys) == PGP.shown


async def test_D03_a_commit_in_another_encoding_is_verified_as_it_is(git_server, keeper, keys):
    repository = git_server.repository("app")
    tree = repository.git("rev-parse", repository.commit({"a": "1"}) + "^{tree}")
    raw = commit_object("subject", tree).replace(b"\n\n", b"\nencoding ISO-8859-1\n\n").replace(b"subject", b"f\xfcnf")
    repository.reset("main", repository.put("commit", signed_commit(raw, PGP)))
    found = await keeper.fetch(request(git_server, branch="main"))
    assert await offload(verify_commit, found.commit_object, keys) == PGP.shown
    recoded = signed_commit(raw, PGP).replace(b"f\xfcnf", "fünf".encode())
    repository.reset("main", repository.put("commit", recoded))
    found = await keeper.fetch(request(git_server, branch="main"))
    with pytest.raises(SignatureError, match="does not fit"):
        await offload(verify_commit, found.commit_object, keys)
