"""`spec.verify` of GitRepositories: spec/source.md 5.6 and 16, spec/hostile-inputs.md D."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gitopsd.api.source import GitRef
from gitopsd.controllers.git_verification import tag_name
from gitopsd.errors import RetryError, StallError
from gitopsd.fetch.gitkeys import fingerprint
from gitopsd.fetch.gitsigned import tag_hash
from gitopsd.runtime.controller import Result
from tests.signing import PgpSigner, SshSigner, commit_object, signed_commit, signed_tag, tag_object
from tests.unit.controllers.gitbench import Bench

PGP = PgpSigner("alice")
SSH = SshSigner("bob")
OTHER = PgpSigner("mallory")
SIGNED = signed_commit(commit_object("first"), PGP)
TAG = {"tag": "v1.0.0"}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench.opened(tmp_path) as bench:
        bench.secret("keys", {PGP.entry: PGP.public, SSH.entry: SSH.public})
        bench.remote.commit = SIGNED
        yield bench


def demand(mode=None, name="keys"):
    verify = {"secretRef": {"name": name}}
    return verify if mode is None else verify | {"mode": mode}


def put_tag(bench, signer):
    raw = tag_object(bench.remote.sha, "v1.0.0")
    bench.remote.tag = raw if signer is None else signed_tag(raw, signer)
    return f"v1.0.0@{tag_hash(bench.remote.tag)}"


def verified(bench):
    return bench.condition("SourceVerified")


async def refused(bench, reason, kind=RetryError):
    """A run that ends with a verdict: told once, shown as Ready, and nothing of the artifact changes."""
    before = bench.status().get("artifact")
    outcome = await bench.run()
    assert type(outcome) is kind
    assert outcome.reason == reason
    status, shown, message = verified(bench)
    assert (status, shown) == ("False", reason)
    assert bench.condition("Ready") == ("False", reason, message)
    assert bench.events == [("Warning", reason, message)]
    assert bench.condition("FetchFailed") is None
    assert bench.condition("ArtifactOutdated") is None
    if kind is StallError:
        assert bench.condition("Stalled") == ("True", reason, message)
        assert bench.condition("Reconciling") is None
    else:
        assert bench.condition("Reconciling")[:2] == ("True", "ProgressingWithRetry")
        assert bench.condition("Stalled") is None
    assert bench.status().get("artifact") == before
    return message


# -- what is good ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "recorded"), [(None, "HEAD"), ("HEAD", "HEAD"), ("head", "HEAD")], ids=["default", "HEAD", "head"]
)
async def test_s5_6_a_signed_commit_is_verified_and_told(bench, mode, recorded):
    bench.apply(verify=demand(mode))
    await bench.good()
    message = f"verified signature of\n\t- commit '{bench.remote.sha}' with key '{PGP.shown}'"
    assert verified(bench) == ("True", "Succeeded", message)
    assert ("Trace", "Succeeded", message) in bench.events
    assert bench.status()["sourceVerificationMode"] == recorded
    assert bench.status()["sourceVerificationFingerprint"].startswith("sha256:")
    assert bench.condition("Ready")[2] == f"stored artifact for revision 'main@sha1:{bench.remote.sha}'"


async def test_s5_6_a_signed_tag_is_verified_whatever_its_commit(bench):
    bench.remote.commit = commit_object("unsigned")
    shown = put_tag(bench, SSH)
    bench.apply(ref=TAG, verify=demand("Tag"))
    await bench.good()
    assert verified(bench)[2] == f"verified signature of\n\t- tag '{shown}' with key '{SSH.shown}'"
    assert bench.status()["sourceVerificationMode"] == "Tag"


async def test_s5_6_both_are_verified_the_tag_first(bench):
    shown = put_tag(bench, SSH)
    bench.apply(ref=TAG, verify=demand("TagAndHEAD"))
    await bench.good()
    assert verified(bench)[2] == (
        f"verified signature of\n\t- tag '{shown}' with key '{SSH.shown}'"
        f"\n\t- commit '{bench.remote.sha}' with key '{PGP.shown}'"
    )
    assert bench.status()["sourceVerificationMode"] == "TagAndHEAD"


# -- what is not -------------------------------------------------------------------------------------------------------


async def test_s5_6_D05_a_secret_that_is_missing_is_a_failure_of_its_own(bench):
    bench.apply(verify=demand(name="nope"))
    assert await refused(bench, "VerificationError") == 'public keys secret error: secrets "nope" not found'


async def test_s5_6_a_tag_is_demanded_of_something_else(bench):
    text = "cannot verify tag object's signature if a tag reference is not specified"
    for ref in ({"branch": "main"}, None, {"commit": "a" * 40, "tag": "v1.0.0"}, {"name": "refs/heads/main"}):
        bench.apply(ref=ref, verify=demand("Tag"))
        assert await refused(bench, "InvalidVerificationMode", StallError) == text
        assert bench.status()["observedGeneration"] == bench.cache.list()[0]["metadata"]["generation"]


async def test_s5_6_D02_a_lightweight_tag_is_not_signed(bench):
    bench.apply(ref=TAG, verify=demand("Tag"))
    message = await refused(bench, "InvalidGitObject")
    assert message == "cannot verify signature of tag 'v1.0.0' since it is not signed"


async def test_s5_6_D02_an_annotated_tag_need_not_be_signed(bench):
    shown = put_tag(bench, None)
    bench.apply(ref=TAG, verify=demand("TagAndHEAD"))
    message = await refused(bench, "InvalidGitObject")
    assert message == f"cannot verify signature of tag '{shown}' since it is not signed"


async def test_s5_6_D02_a_tag_signed_by_somebody_else_is_refused(bench):
    shown = put_tag(bench, OTHER)
    bench.apply(ref=TAG, verify=demand("Tag"))
    message = await refused(bench, "InvalidTagSignature")
    assert message == (
        f"signature verification of tag '{shown}' failed: it was made by key {signing_key(OTHER)}, which is not trusted"
    )


async def test_D02_a_signature_of_another_tag_is_refused(bench):
    raw = tag_object(bench.remote.sha, "v1.0.0")
    bench.remote.tag = raw + PGP.sign(tag_object("b" * 40, "v0.9.0"))
    bench.apply(ref=TAG, verify=demand("Tag"))
    assert "failed: it does not fit" in await refused(bench, "InvalidTagSignature")


async def test_D03_a_tag_with_two_signature_headers_is_refused(bench):
    raw = tag_object(bench.remote.sha, "v1.0.0").replace(b"\n\n", b"\ngpgsig-sha256 a\ngpgsig-sha256 b\n\n", 1)
    bench.remote.tag = signed_tag(raw, PGP)
    bench.apply(ref=TAG, verify=demand("Tag"))
    assert (await refused(bench, "InvalidTagSignature")).endswith("failed: it has more than one signature header")


async def test_s5_6_D01_an_unsigned_commit_keeps_the_old_artifact(bench):
    bench.apply(verify=demand())
    await bench.good()
    bench.remote.commit = commit_object("second")
    message = await refused(bench, "InvalidCommitSignature")
    sha = bench.remote.sha
    assert message == f"signature verification of commit '{sha}' failed: unsupported signature type: empty"
    assert bench.condition("ArtifactInStorage")[0] == "True"
    bench.remote.commit = signed_commit(commit_object("third"), SSH)
    await bench.good()
    assert bench.status()["artifact"]["revision"] == f"main@sha1:{bench.remote.sha}"


async def test_D01_a_commit_signed_by_somebody_else_is_refused(bench):
    bench.remote.commit = signed_commit(commit_object(), OTHER)
    bench.apply(verify=demand())
    assert (await refused(bench, "InvalidCommitSignature")).endswith("which is not trusted")


async def test_D01_a_good_tag_does_not_excuse_its_commit(bench):
    bench.remote.commit = commit_object("unsigned")
    put_tag(bench, PGP)
    bench.apply(ref=TAG, verify=demand("TagAndHEAD"))
    assert "signature type: empty" in await refused(bench, "InvalidCommitSignature")


async def test_D03_a_signature_in_the_message_is_text(bench):
    bench.remote.commit = commit_object() + PGP.sign(commit_object())
    bench.apply(verify=demand())
    assert "signature type: empty" in await refused(bench, "InvalidCommitSignature")


async def test_D04_a_mode_that_came_past_the_schema_stalls_before_anything_is_asked(bench):
    bench.apply(verify=demand("foo\x1b[31m"))
    assert await refused(bench, "InvalidVerificationMode", StallError) == "unknown verification mode 'foo[31m'"
    assert bench.remote.asked == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "it is empty"),
        ({"a.asc": b"hello"}, "no public key in 'a.asc'"),
        ({"a.asc": OTHER.private}, "'a.asc' holds a private key"),
        ({"a.sshpub": SSH.private}, "'a.sshpub' holds a private key"),
        ({"a.sshpub": SSH.public * 10_000}, "there are more than 1000 keys"),
    ],
    ids=["empty", "no key", "private PGP", "private SSH", "10,000"],
)
async def test_D05_a_secret_that_is_no_ring_of_public_keys_is_refused(bench, data, text):
    bench.secret("bad", data)
    bench.apply(verify=demand(name="bad"))
    assert await refused(bench, "VerificationError") == f"public keys secret error: {text}"


async def test_D06_each_object_has_its_own_keys(bench):
    bench.secret("others", {OTHER.entry: OTHER.public})
    bench.apply("one", verify=demand())
    bench.apply("two", verify=demand(name="others"))
    await bench.good("one")
    assert isinstance(await bench.run("two"), RetryError)
    assert bench.condition("SourceVerified", "two")[1] == "InvalidCommitSignature"
    await bench.good("one")


# -- when it runs again ------------------------------------------------------------------------------------------------


async def test_s5_6_nothing_is_verified_while_nothing_moves(bench):
    bench.apply(verify=demand())
    await bench.good()
    before = verified(bench)
    await bench.good()
    assert bench.remote.asked == ["resolve"]
    assert verified(bench) == before


async def test_s16_other_keys_verify_the_same_commit_anew(bench):
    bench.apply(verify=demand())
    await bench.good()
    first = bench.status()
    bench.secret("keys", {PGP.entry: PGP.public, OTHER.entry: OTHER.public})
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]
    second = bench.status()
    assert second["sourceVerificationFingerprint"] != first["sourceVerificationFingerprint"]
    assert second["artifact"]["digest"] == first["artifact"]["digest"]
    assert not any(reason == "NewArtifact" for _, reason, _ in bench.events)
    bench.secret("keys", {OTHER.entry: OTHER.public})
    assert "not trusted" in await refused(bench, "InvalidCommitSignature")
    assert "not trusted" in await refused(bench, "InvalidCommitSignature")
    bench.secret("keys", {PGP.entry: PGP.public, OTHER.entry: OTHER.public})
    await bench.good()
    assert verified(bench)[0] == "True"


async def test_s16_a_status_of_another_controller_tells_of_no_keys_and_is_verified_once(bench):
    bench.apply(verify=demand())
    await bench.good()
    obj = bench.cache.list()[0]
    del obj["status"]["sourceVerificationFingerprint"]
    await bench.good()
    assert bench.remote.asked == ["resolve", "fetch"]
    assert bench.status()["sourceVerificationFingerprint"] == fingerprint(
        {PGP.entry: PGP.public, SSH.entry: SSH.public}
    )
    await bench.good()
    assert bench.remote.asked == ["resolve"]


async def test_s5_4_keys_that_cannot_be_read_now_take_nothing_back(bench):
    bench.apply(verify=demand())
    await bench.good()
    bench.forget_secret("keys")
    await bench.good()
    assert verified(bench)[0] == "True"
    bench.remote.commit = signed_commit(commit_object("second"), PGP)
    await refused(bench, "VerificationError")


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        (None, "HEAD", True),
        (None, "Tag", True),
        ("Tag", "HEAD", True),
        ("Tag", "TagAndHEAD", True),
        ("HEAD", "Tag", True),
        ("HEAD", "TagAndHEAD", True),
        ("HEAD", "head", False),
        ("TagAndHEAD", "HEAD", False),
        ("TagAndHEAD", "Tag", False),
        ("Tag", "Tag", False),
    ],
)
async def test_s5_4_another_mode_verifies_anew_where_the_old_one_proved_less(bench, before, after, again):
    put_tag(bench, PGP)
    bench.apply(ref=TAG, verify=None if before is None else demand(before))
    await bench.good()
    bench.apply(verify=demand(after))
    await bench.good()
    assert bench.remote.asked == (["resolve", "fetch"] if again else ["resolve"])
    assert verified(bench)[0] == "True"


async def test_s5_6_a_verdict_that_was_bad_is_not_carried_along(bench):
    """The remote goes back to what is stored: it is verified again, not merely left without a verdict."""
    bench.apply(verify=demand())
    await bench.good()
    bench.remote.commit = commit_object("unsigned")
    await refused(bench, "InvalidCommitSignature")
    bench.remote.commit = SIGNED
    await bench.good()
    assert verified(bench)[0] == "True"
    assert bench.condition("Ready")[0] == "True"


async def test_s3_1_a_bad_verdict_goes_when_the_source_cannot_even_be_reached(bench):
    from gitopsd.fetch.errors import FetchError

    bench.remote.commit = commit_object("unsigned")
    bench.apply(verify=demand())
    await refused(bench, "InvalidCommitSignature")
    bench.remote.failure = FetchError("GitOperationFailed", "failed to checkout and determine revision: gone")
    await bench.run()
    assert verified(bench) is None
    assert bench.condition("Ready")[1] == "GitOperationFailed"


async def test_D07_without_a_demand_the_verdict_goes_and_the_artifact_stays(bench):
    bench.apply(verify=demand())
    await bench.good()
    before = bench.status()["artifact"]
    bench.apply(verify=None)
    await bench.good()
    assert verified(bench) is None
    assert "sourceVerificationMode" not in bench.status()
    assert "sourceVerificationFingerprint" not in bench.status()
    assert bench.status()["artifact"] == before
    assert bench.remote.asked == ["resolve"]


async def test_D07_a_bad_verdict_goes_with_the_demand(bench):
    bench.remote.commit = commit_object("unsigned")
    bench.apply(verify=demand())
    await refused(bench, "InvalidCommitSignature")
    bench.apply(verify=None)
    assert isinstance(await bench.run(), Result)
    assert verified(bench) is None
    assert bench.condition("Ready")[0] == "True"


@pytest.mark.parametrize(
    ("ref", "revision", "name"),
    [
        (None, "master@sha1:x", ""),
        ({"branch": "main"}, "main@sha1:x", ""),
        ({"tag": "v1"}, "v1@sha1:x", "v1"),
        ({"tag": "a@b/c"}, "a@b/c@sha1:x", "a@b/c"),
        ({"semver": ">=1.0.0", "branch": "main"}, "v1.2.3@sha1:x", "v1.2.3"),
        ({"name": "refs/tags/v1"}, "refs/tags/v1@sha1:x", "v1"),
        ({"name": "refs/tags/v1^{}"}, "refs/tags/v1^{}@sha1:x", "v1"),
        ({"name": "refs/heads/v1", "tag": "v2"}, "refs/heads/v1@sha1:x", ""),
        ({"name": "refs/pull/1/head"}, "refs/pull/1/head@sha1:x", ""),
        ({"commit": "x", "tag": "v1"}, "sha1:x", ""),
    ],
)
def test_s5_3_s5_6_which_references_are_tags(ref, revision, name):
    assert tag_name(None if ref is None else GitRef(**ref), revision) == name


def signing_key(signer):
    """The id of the subkey that signs, which is what a signature names."""
    import pysequoia

    made = pysequoia.Sig.from_bytes(signer.sign(b"x"))
    return made.issuer_fingerprint.upper()[-16:]
