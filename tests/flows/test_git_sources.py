"""GitRepositories against a real control plane: signatures that count, and files of others."""

from __future__ import annotations

import io
import tarfile
import urllib.request
from typing import Any

from tests.apiclient import Obj
from tests.flows.hostile import Hostile
from tests.flows.stage import SOURCE_API, Stage, condition, config_map, is_ready
from tests.signing import PgpSigner, SshSigner, sign_tag, sign_tip

PGP = PgpSigner("alice")
SSH = SshSigner("bob")


def put_keys(stage: Stage, *signers: PgpSigner | SshSigner, name: str = "keys") -> None:
    """The Secret with just these public keys."""
    data = {signer.entry: signer.public.decode() for signer in signers}
    stage.api.delete("v1", "Secret", name, stage.namespace)
    stage.api.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}, stage.namespace
    )


def change(stage: Stage, name: str = "app", **spec: Any) -> None:
    """Give fields of the spec other values; `None` removes one."""
    stage.api.merge(SOURCE_API, "GitRepository", name, {"spec": spec}, stage.namespace)


def artifact(obj: Obj | None) -> dict[str, Any]:
    """The artifact that an object's status tells of."""
    found: dict[str, Any] = ((obj or {}).get("status") or {}).get("artifact") or {}
    return found


def stored(obj: Obj | None) -> dict[str, bytes]:
    """The files of an object's artifact, as anybody downloads them."""
    with urllib.request.urlopen(artifact(obj)["url"], timeout=10) as answer:
        data = io.BytesIO(answer.read())
    with tarfile.open(fileobj=data) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def at(revision: str) -> Any:
    """Ready, and with an artifact of that revision."""
    return lambda obj: is_ready(obj) and artifact(obj).get("revision") == revision


def events(stage: Stage, reason: str) -> list[Obj]:
    """The events of a GitRepository with one reason."""
    return [event for event in stage.events("GitRepository") if event["reason"] == reason]


def test_s5_6_D01_only_signed_commits_become_artifacts(hostile: Hostile) -> None:
    stage = hostile
    put_keys(stage, PGP, SSH)
    stage.push({"cm.yaml": config_map("one")})
    signed = sign_tip(stage.repository, PGP)
    stage.source(verify={"mode": "HEAD", "secretRef": {"name": "keys"}})
    stage.kustomization()
    stage.until_applied(f"main@sha1:{signed}")
    seen = stage.until_ready("GitRepository")
    message = f"verified signature of\n\t- commit '{signed}' with key '{PGP.shown}'"
    assert condition(seen, "SourceVerified")["message"] == message
    assert seen["status"]["sourceVerificationMode"] == "HEAD"
    assert [event["type"] for event in events(stage, "Succeeded") if event["message"] == message] == ["Normal"]

    stage.push({"cm.yaml": config_map("two")})  # unsigned
    stage.handled("GitRepository", stage.request("GitRepository"))
    bad = stage.until_reason("GitRepository", "InvalidCommitSignature")
    sha = stage.repository.commits[-1]
    text = f"signature verification of commit '{sha}' failed: unsupported signature type: empty"
    assert condition(bad)["message"] == condition(bad, "SourceVerified")["message"] == text
    assert condition(bad, "SourceVerified")["status"] == "False"
    assert condition(bad, "Reconciling")["reason"] == "ProgressingWithRetry"
    assert artifact(bad) == artifact(seen)
    assert stored(bad)["cm.yaml"] == config_map("one").encode()
    assert [event["type"] for event in events(stage, "InvalidCommitSignature")] == ["Warning"]
    assert stage.get("ConfigMap", "one") is not None
    assert stage.get("ConfigMap", "two") is None

    stage.push({"cm.yaml": config_map("three")})
    healed = sign_tip(stage.repository, SSH)
    stage.handled("GitRepository", stage.request("GitRepository"))
    stage.until_applied(f"main@sha1:{healed}")
    assert stage.get("ConfigMap", "three") is not None


def test_s5_6_D02_tags_have_to_be_signed_where_that_is_asked(stage: Stage) -> None:
    put_keys(stage, PGP, SSH)
    stage.push({"cm.yaml": config_map("one")})
    commit = sign_tip(stage.repository, PGP)
    stage.repository.tag("v1.0.0", commit)
    stage.source(ref={"semver": ">=1.0.0"}, verify={"mode": "TagAndHEAD", "secretRef": {"name": "keys"}})
    bad = stage.until_reason("GitRepository", "InvalidGitObject")
    assert condition(bad)["message"] == "cannot verify signature of tag 'v1.0.0' since it is not signed"
    tag = sign_tag(stage.repository, "v1.1.0", SSH)
    stage.request("GitRepository")
    seen = stage.until("GitRepository", "app", at(f"v1.1.0@sha1:{commit}"))
    assert condition(seen, "SourceVerified")["message"] == (
        f"verified signature of\n\t- tag 'v1.1.0@{tag}' with key '{SSH.shown}'"
        f"\n\t- commit '{commit}' with key '{PGP.shown}'"
    )
    change(stage, ref={"semver": None, "branch": "main"})
    stalled = stage.until_reason("GitRepository", "InvalidVerificationMode")
    assert condition(stalled, "Stalled")["status"] == "True"


def test_s16_D05_D07_keys_come_change_and_go(stage: Stage) -> None:
    stage.push({"cm.yaml": config_map("one")})
    commit = sign_tip(stage.repository, PGP)
    stage.source(verify={"mode": "HEAD", "secretRef": {"name": "keys"}})
    missing = stage.until_reason("GitRepository", "VerificationError")
    assert condition(missing)["message"] == 'public keys secret error: secrets "keys" not found'
    put_keys(stage, PGP)
    stage.request("GitRepository")
    seen = stage.until("GitRepository", "app", at(f"main@sha1:{commit}"))
    put_keys(stage, SSH)
    stage.request("GitRepository")
    bad = stage.until_reason("GitRepository", "InvalidCommitSignature")
    assert artifact(bad) == artifact(seen)
    change(stage, verify=None)
    healed = stage.until_ready("GitRepository")
    assert condition(healed, "SourceVerified") == {}
    assert "sourceVerificationMode" not in healed["status"]
    assert artifact(healed)["digest"] == artifact(seen)["digest"]


def test_s5_5_s15_8_an_include_is_followed_without_asking(stage: Stage) -> None:
    lib = stage.git.repository(f"{stage.namespace}-lib")
    url = f"{stage.git.url}/{stage.namespace}-lib.git"
    revision = stage.push({"a.yaml": config_map("a")})
    stage.source(include=[{"repository": {"name": "lib"}, "fromPath": "base", "toPath": "vendor"}])
    missing = stage.until_reason("GitRepository", "NotFound")
    assert condition(missing, "IncludeUnavailable")["message"].startswith("could not get resource for include 'lib': ")
    first = lib.commit({"base/b.yaml": config_map("b", key="1")})
    stage.source("lib", url=url)
    # Neither the interval (ten minutes) nor --requeue-dependency (30 s) is what wakes it.
    seen = stage.until("GitRepository", "app", at(revision), timeout=15)
    assert set(stored(seen)) == {"a.yaml", "vendor/b.yaml"}
    assert [one["revision"] for one in seen["status"]["includedArtifacts"]] == [f"main@sha1:{first}"]
    second = lib.commit({"base/b.yaml": config_map("b", key="2")})
    stage.request("GitRepository", "lib")
    seen = stage.until(
        "GitRepository",
        "app",
        lambda obj: (
            is_ready(obj)
            and [one["revision"] for one in (obj or {})["status"]["includedArtifacts"]] == [f"main@sha1:{second}"]
        ),
        timeout=15,
    )
    assert stored(seen)["vendor/b.yaml"] == config_map("b", key="2").encode()
    assert [event["type"] for event in events(stage, "NotFound")] == ["Normal"]


def test_A40_includes_that_cannot_be_wait_or_are_refused_and_block_nobody(hostile: Hostile) -> None:
    stage = hostile
    revision = stage.push({"a.yaml": config_map("a")})
    stage.source()
    good = stage.until("GitRepository", "app", at(revision))
    for include, reason, text in (
        ([{"repository": {"name": "nope"}}], "NotFound", "could not get resource for include 'nope': "),
        ([{"repository": {"name": "app"}}], "NoArtifact", "no artifact available for include 'app', the includes have"),
        ([{"repository": {"name": "other"}}], "NoArtifact", "the includes have a cycle: app -> other -> app"),
        (
            [{"repository": {"name": "free"}, "toPath": "../../x"}],
            "IllegalPath",
            "path calculation for include 'free' failed: '../../x' leads out of the tree",
        ),
    ):
        if reason == "NoArtifact":
            stage.source("other", include=[{"repository": {"name": "app"}}])
        if reason == "IllegalPath":
            stage.source("free")
            stage.until_ready("GitRepository", "free")
        change(stage, include=include)
        seen = stage.until(
            "GitRepository",
            "app",
            lambda obj, text=text: text in condition(obj).get("message", ""),  # type: ignore[misc]
        )
        assert condition(seen)["reason"] == reason
        assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
        assert artifact(seen) == artifact(good)
    stage.assert_others_are_fine()
    change(stage, include=None)
    stage.until("GitRepository", "app", at(revision))


def test_s5_7_a_provider_without_its_secret_stalls(stage: Stage) -> None:
    stage.push({"a.yaml": config_map("a")})
    stage.source(provider="github")
    seen = stage.until_reason("GitRepository", "InvalidProviderConfiguration")
    text = "secretRef with github app data must be specified when provider is set to github"
    for kind in ("Stalled", "FetchFailed"):
        assert (condition(seen, kind)["status"], condition(seen, kind)["message"]) == ("True", text)
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    change(stage, provider=None)
    stage.until_ready("GitRepository")
