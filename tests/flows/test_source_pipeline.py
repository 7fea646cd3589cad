"""What all kinds of sources have in common (spec/source.md 2 to 4), seen at GitRepositories."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.apiclient import Obj
from tests.flows.stage import SOURCE_API, Stage, condition, config_map, is_ready
from tests.servers.trouble import late, say

FILES = {"cm.yaml": config_map("one")}
FINALIZER = "finalizers.fluxcd.io"


def asked(stage: Stage) -> int:
    """How often the Git server was asked for the stage's repository."""
    return sum(1 for seen in stage.git.requests if f"/{stage.namespace}.git" in seen.path)


def told(stage: Stage, reason: str) -> list[Obj]:
    """The events of a reason, seen within a moment."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        found = [event for event in stage.events("GitRepository") if event["reason"] == reason]
        if found:
            return found
        time.sleep(0.05)
    return []


def settled(stage: Stage) -> Obj:
    """A source that was fetched, as it is when nothing is left to do."""
    stage.push(FILES)
    stage.source()
    stage.until_ready("GitRepository")
    return stage.refetch()


def patched(stage: Stage, **spec: Any) -> Obj:
    return stage.api.merge(SOURCE_API, "GitRepository", "app", {"spec": spec}, stage.namespace)


# -- 2.1 what enqueues an object


@pytest.mark.parametrize(
    ("patch", "is_work"),
    [
        ({"metadata": {"labels": {"any": "label"}}}, False),
        ({"metadata": {"annotations": {"any": "annotation"}}}, False),
        ({"spec": {"timeout": "50s"}}, True),
        ({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}}, True),
        ({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": ""}}}, True),
    ],
    ids=["label", "annotation", "generation", "requested", "requested with an empty value"],
)
def test_s2_1_only_a_new_spec_or_a_request_is_work(stage: Stage, patch: dict[str, Any], is_work: bool) -> None:
    settled(stage)
    before = asked(stage)
    stage.api.merge(SOURCE_API, "GitRepository", "app", patch, stage.namespace)
    if is_work:
        stage.git.wait_for(lambda _: asked(stage) > before)
    else:
        time.sleep(1.0)
        assert asked(stage) == before


def test_s2_1_deletion_removes_the_files_and_then_the_finalizer(stage: Stage) -> None:
    seen = settled(stage)
    assert seen["metadata"]["finalizers"] == [FINALIZER]
    url = seen["status"]["artifact"]["url"]
    assert fetch(url)
    stage.api.delete(SOURCE_API, "GitRepository", "app", stage.namespace)
    stage.until("GitRepository", "app", lambda obj: obj is None)
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(url)
    assert caught.value.code == 404


def test_O05_a_source_whose_finalizer_was_taken_away_leaves_no_files_either(stage: Stage) -> None:
    url = settled(stage)["status"]["artifact"]["url"]
    bare = {"metadata": {"finalizers": None}}
    stage.api.merge(SOURCE_API, "GitRepository", "app", bare, stage.namespace)
    stage.api.delete(SOURCE_API, "GitRepository", "app", stage.namespace)
    stage.until("GitRepository", "app", lambda obj: obj is None)
    ends = time.monotonic() + 10
    while is_served(url):
        assert time.monotonic() < ends
        time.sleep(0.05)
    stage.source()
    stage.until_ready("GitRepository")


def is_served(url: str) -> bool:
    try:
        fetch(url)
    except urllib.error.HTTPError as error:
        return error.code != 404
    return True


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


# -- 2.2 steps


def test_s2_2_a_suspended_source_may_go(stage: Stage) -> None:
    settled(stage)
    patched(stage, suspend=True)
    stage.api.delete(SOURCE_API, "GitRepository", "app", stage.namespace)
    stage.until("GitRepository", "app", lambda obj: obj is None)


def test_s2_2_s17_20_a_suspended_source_answers_requests_and_fetches_nothing(stage: Stage) -> None:
    settled(stage)
    before = asked(stage)
    patched(stage, suspend=True, timeout="40s")
    token = stage.request("GitRepository")
    seen = stage.handled("GitRepository", token)
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    assert condition(seen)["observedGeneration"] == seen["metadata"]["generation"]
    assert condition(seen, "ArtifactInStorage")["observedGeneration"] == 1
    assert asked(stage) == before


def test_s2_2_progress_is_shown_while_it_takes_long(stage: Stage) -> None:
    stage.push(FILES)
    with stage.git.behave(f"/{stage.namespace}.git/*", late(2.0)):
        stage.source()
        seen = stage.until("GitRepository", "app", lambda obj: condition(obj, "Reconciling") != {})
        assert condition(seen)["status"] == "Unknown"
        assert condition(seen)["reason"] == condition(seen, "Reconciling")["reason"] == "Progressing"
        assert condition(seen, "Reconciling")["message"].startswith(("building artifact", "processing object"))
    stage.until_ready("GitRepository")


# -- 2.3 results


def test_s2_3_success_leaves_no_sign_of_work(stage: Stage) -> None:
    seen = settled(stage)
    assert {one["type"] for one in seen["status"]["conditions"]} == {"Ready", "ArtifactInStorage"}
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]


def test_s2_3_s17_21_a_failure_keeps_what_there_was_and_is_tried_again(stage: Stage) -> None:
    before = settled(stage)
    patched(stage, ref={"branch": "nope"})
    seen = stage.until_reason("GitRepository", "GitOperationFailed")
    assert condition(seen)["status"] == "False"
    assert condition(seen, "FetchFailed")["message"] == condition(seen)["message"]
    assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry"
    assert condition(seen, "Stalled") == {}
    assert seen["status"]["observedGeneration"] == before["status"]["observedGeneration"]
    assert seen["status"]["artifact"] == before["status"]["artifact"]
    assert condition(seen, "ArtifactInStorage")["status"] == "True"
    again = asked(stage)
    stage.git.wait_for(lambda _: asked(stage) > again)
    assert told(stage, "GitOperationFailed")[0]["type"] == "Warning"


def test_s2_3_what_no_retry_can_help_stalls(stage: Stage) -> None:
    settled(stage)
    patched(stage, provider="github")
    seen = stage.until("GitRepository", "app", lambda obj: condition(obj, "Stalled") != {})
    assert condition(seen, "Stalled")["status"] == "True"
    assert condition(seen, "Reconciling") == {}
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    before = asked(stage)
    time.sleep(2.0)
    assert asked(stage) == before
    patched(stage, provider="generic")
    stage.until_ready("GitRepository")


def test_s2_3_a_request_is_answered_by_a_failing_run_too(stage: Stage) -> None:
    settled(stage)
    with stage.git.behave(f"/{stage.namespace}.git/*", say(503)):
        seen = stage.handled("GitRepository", stage.request("GitRepository"))
        assert condition(seen)["reason"] == "GitOperationFailed"
    stage.until_ready("GitRepository")


# -- 2.4 intervals


def test_s2_4_a_source_is_looked_at_again_after_its_interval(stage: Stage) -> None:
    stage.push(FILES)
    stage.source(interval="1s")
    stage.until_ready("GitRepository")
    before = asked(stage)
    stage.git.wait_for(lambda _: asked(stage) >= before + 2)


def test_s2_4_an_interval_of_zero_is_never(stage: Stage) -> None:
    stage.push(FILES)
    stage.source(interval="0s")
    stage.until_ready("GitRepository")
    before = asked(stage)
    time.sleep(2.0)
    assert asked(stage) == before


# -- 2.5 writes


def test_s2_5_s18_the_writers_are_named_as_upstream(stage: Stage) -> None:
    seen = settled(stage)
    writers = {(one["manager"], one.get("subresource", "")) for one in seen["metadata"]["managedFields"]}
    assert {("source-controller", ""), ("source-controller", "status")} <= writers


def test_s2_5_an_unchanged_status_is_not_written(stage: Stage) -> None:
    stage.push(FILES)
    stage.source(interval="1s")
    seen = stage.until_ready("GitRepository")
    before = asked(stage)
    stage.git.wait_for(lambda _: asked(stage) >= before + 3)
    after = stage.get("GitRepository")
    assert after is not None
    assert after["metadata"]["resourceVersion"] == seen["metadata"]["resourceVersion"]


def test_s2_5_conditions_of_others_are_kept(stage: Stage) -> None:
    settled(stage)
    obj = stage.get("GitRepository")
    assert obj is not None
    foreign = {
        "type": "Reviewed",
        "status": "True",
        "reason": "Somebody",
        "message": "by hand",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    patch = {"status": {"conditions": [*obj["status"]["conditions"], foreign]}}
    stage.api.merge(SOURCE_API, "GitRepository", "app", patch, stage.namespace, subresource="status")
    stage.push({"cm.yaml": config_map("two")})
    seen = stage.refetch()
    assert condition(seen, "Reviewed") == foreign
    assert is_ready(seen)


# -- 2.6 events


def test_s2_6_a_new_artifact_is_told_with_its_revision_and_digest(stage: Stage) -> None:
    stage.push(FILES, message="A subject that is longer than fifty characters, so it is cut")
    stage.source()
    artifact = stage.until_ready("GitRepository")["status"]["artifact"]
    event = told(stage, "NewArtifact")[0]
    assert event["message"] == "stored artifact for commit 'A subject that is longer than fifty characters, so...'"
    assert event["metadata"]["annotations"] == {
        "source.toolkit.fluxcd.io/revision": artifact["revision"],
        "source.toolkit.fluxcd.io/digest": artifact["digest"],
    }
    assert event["type"] == "Normal"
    assert event["source"]["component"] == event["reportingComponent"] == "source-controller"


def test_s2_6_annotations_for_events_go_with_them(stage: Stage) -> None:
    stage.push(FILES)
    obj = {
        "apiVersion": SOURCE_API,
        "kind": "GitRepository",
        "metadata": {"name": "app", "annotations": {"event.toolkit.fluxcd.io/team": "web", "other": "x"}},
        "spec": {"url": stage.url, "interval": "10m", "ref": {"branch": "main"}},
    }
    stage.api.apply(obj, stage.namespace)
    stage.until_ready("GitRepository")
    annotations = told(stage, "NewArtifact")[0]["metadata"]["annotations"]
    assert annotations["event.toolkit.fluxcd.io/team"] == "web"
    assert "other" not in annotations


def test_s2_6_the_end_of_a_failure_is_told(stage: Stage) -> None:
    seen = settled(stage)
    with stage.git.behave(f"/{stage.namespace}.git/*", say(503)):
        stage.request("GitRepository")
        stage.until_reason("GitRepository", "GitOperationFailed")
    stage.until_ready("GitRepository")
    event = told(stage, "Succeeded")[0]
    assert event["message"] == f"stored artifact for commit '{seen['status']['artifact']['revision']}'"
    assert "source.toolkit.fluxcd.io/digest" in event["metadata"]["annotations"]


def test_s2_6_who_asked_is_told_that_nothing_moved(stage: Stage) -> None:
    seen = settled(stage)
    revision = seen["status"]["artifact"]["revision"]
    event = told(stage, "GitOperationSucceeded")[0]
    assert event["message"] == f"no changes since last reconciliation: observed revision '{revision}'"
    assert (event["type"], event["metadata"].get("annotations")) == ("Normal", None)


def test_s2_6_a_deleted_source_tells_that_its_files_went(stage: Stage) -> None:
    settled(stage)
    stage.api.delete(SOURCE_API, "GitRepository", "app", stage.namespace)
    event = told(stage, "GarbageCollectionSucceeded")[0]
    assert event["message"] == "garbage collected artifacts for deleted resource"


# -- 3 conditions


def test_s3_1_the_order_of_conditions_is_upstreams(stage: Stage) -> None:
    settled(stage)
    patched(stage, ref={"branch": "nope"})
    seen = stage.until_reason("GitRepository", "GitOperationFailed")
    assert [one["type"] for one in seen["status"]["conditions"]] == [
        "Reconciling",
        "Ready",
        "FetchFailed",
        "ArtifactInStorage",
    ]


def test_s3_1_a_condition_that_says_the_same_keeps_its_time(stage: Stage) -> None:
    first = condition(settled(stage))
    time.sleep(1.1)
    assert condition(stage.refetch())["lastTransitionTime"] == first["lastTransitionTime"]


def test_s3_2_ready_says_which_revision_is_stored(stage: Stage) -> None:
    seen = settled(stage)
    expected = ("True", "Succeeded", f"stored artifact for revision '{seen['status']['artifact']['revision']}'")
    for kind in ("Ready", "ArtifactInStorage"):
        found = condition(seen, kind)
        assert (found["status"], found["reason"], found["message"]) == expected


def test_s3_4_a_new_revision_is_announced_while_it_is_fetched(stage: Stage) -> None:
    settled(stage)
    revision = stage.push({"cm.yaml": config_map("two")})
    with stage.git.behave(f"/{stage.namespace}.git/*", late(1.5)):
        stage.request("GitRepository")
        expected = f"building artifact: new upstream revision '{revision}'"
        stage.until("GitRepository", "app", lambda obj: condition(obj, "Reconciling").get("message") == expected)
    assert condition(stage.until_ready("GitRepository"), "ArtifactOutdated") == {}


# -- 4 artifacts


def test_s4_2_s4_5_a_foreign_consumer_gets_what_the_status_says(stage: Stage) -> None:
    revision = stage.push(FILES | {"dir/run.sh": "#!/bin/sh\n"})
    stage.source()
    artifact = stage.until_ready("GitRepository")["status"]["artifact"]
    assert artifact["revision"] == revision
    commit = revision.rpartition(":")[2]
    assert artifact["path"] == f"gitrepository/{stage.namespace}/app/{commit}.tar.gz"
    assert artifact["url"].endswith(f"/{artifact['path']}")
    content = fetch(artifact["url"])
    assert len(content) == artifact["size"]
    assert artifact["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == [".", "cm.yaml", "dir", "dir/run.sh"]
        assert {(one.uid, one.gid, one.mtime) for one in archive} == {(0, 0, 0)}


def test_s4_6_a_superseded_file_stays_until_the_next_run(stage: Stage) -> None:
    first = settled(stage)["status"]["artifact"]
    stage.push({"cm.yaml": config_map("two")})
    second = stage.refetch()["status"]["artifact"]
    assert second["digest"] != first["digest"]
    assert fetch(first["url"])
    assert fetch(second["url"])
