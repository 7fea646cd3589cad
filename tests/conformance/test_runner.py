"""The runner's own words: what is normalised, what counts as a difference, what a wait waits for."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from typing import Any

import pytest

from tests.conformance.capture import merge_events, tar_entries
from tests.conformance.compare import Difference, difference_text, expected
from tests.conformance.normalise import Normaliser, comparable
from tests.conformance.runner import Run, is_there
from tests.conformance.scenario import Places, Scenario, names
from tests.conformance.test_goldens import PLAYED

SHA = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


@pytest.fixture
def places() -> Places:
    return Places(
        "golden-1a2b3c",
        git="http://127.0.0.1:18001",
        http="http://127.0.0.1:18002",
        storage="127.0.0.1:18003",
        shas={"app": ["f" * 40, SHA]},
    )


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        ("main@sha1:" + SHA, "main@sha1:<sha:app:2>"),
        ("main@sha1:" + "e" * 40, "main@sha1:<hex40>"),
        (f"0.1.0+{SHA[:12]}", "0.1.0+<sha12:app:2>"),
        (f"sha256:{DIGEST}", f"sha256:<hex:{DIGEST}>"),
        ("http://127.0.0.1:18001/app.git", "<git>/app.git"),
        ("dial 127.0.0.1:18001: refused", "dial <git-host>: refused"),
        ("http://127.0.0.1:18003/gitrepository/golden-1a2b3c/app", "http://<storage>/gitrepository/<ns>/app"),
        ("ConfigMap/golden-1a2b3c-b/x created", "ConfigMap/<ns>-b/x created"),
        ("at 2026-11-22T19:59:32Z", "at <time>"),
        ("at 2026-11-22T19:59:32.123456Z", "at <time>"),
        ("Reconciliation finished in 1m2.5s, next run in 10m0s", "Reconciliation finished in <dur>, next run in 10m0s"),
        ("Reconciliation finished in 30.036592ms, next", "Reconciliation finished in <dur>, next"),
        ("Health check passed in 71.03µs", "Health check passed in <dur>"),
        ("uid 7f9c24e8-3b12-4fef-91e0-1a2b3c4d5e6f", "uid <uid>"),
        ("stat /tmp/kustomization-2938471/app: no", "stat <tmp>: no"),
        ("file:///tmp/app.git", "file:///tmp/app.git"),
    ],
)
def test_what_varies_gets_a_name(places: Places, seen: str, wanted: str) -> None:
    assert Normaliser(places).text(seen) == wanted


def test_values_vary_by_their_key_and_keys_are_normalised_too(places: Places) -> None:
    seen = {
        "golden-1a2b3c": {"size": 123, "lastReconciledDuration": "1s", "totalReconciliations": 2},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "failures": 3},
        "headless": {"clusterIP": "None", "clusterIPs": ["None"]},
    }
    assert Normaliser(places, hide=["failures"]).value(seen) == {
        "<ns>": {"size": "<size>", "lastReconciledDuration": "<dur>", "totalReconciliations": 2},
        "spec": {"clusterIP": "<clusterIP>", "clusterIPs": ["<clusterIP>"], "failures": "<varies>"},
        "headless": {"clusterIP": "None", "clusterIPs": ["None"]},
    }


def test_a_mask_hides_what_follows_its_group_to_the_end(places: Places) -> None:
    mask = [re.compile(r"(build failed: ).*", re.DOTALL)]
    assert Normaliser(places, mask).text("kustomize build failed: one\ntwo") == "kustomize build failed: …"


def test_placeholders_are_filled_everywhere_and_unknown_ones_stay(places: Places) -> None:
    value = {"<ns>": ["<git>/app.git", "<sha:app:1>", "<a b>", "<dur>"], "n": 1}
    assert places.fill(value) == {
        "golden-1a2b3c": ["http://127.0.0.1:18001/app.git", "f" * 40, "<a b>", "<dur>"],
        "n": 1,
    }


def _observed(*digests: str, events: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    history = [{"digest": f"sha256:<hex:{digest}>"} for digest in digests]
    return [{"step": 1, "objects": {"Kustomization/app": {"status": {"history": history}, "events": events or []}}}]


def test_digests_are_compared_by_who_equals_whom() -> None:
    assert comparable(_observed("a" * 64, "b" * 64, "a" * 64)) == comparable(_observed("7", "3", "7"))
    assert comparable(_observed("a" * 64, "b" * 64)) != comparable(_observed("1", "1"))


def test_events_are_a_set() -> None:
    one, two = {"message": "one <hex:9>"}, {"message": "two <hex:8>"}
    assert comparable(_observed("9", events=[one, two])) == comparable(_observed("9", events=[two, one, one]))
    assert comparable(_observed("9", events=[one])) != comparable(_observed("9", events=[one, two]))


def test_a_difference_is_shown_by_step_and_object() -> None:
    ours = _observed("1")
    ours[0]["objects"]["Kustomization/app"]["status"]["observedGeneration"] = 2
    assert difference_text(_observed("5"), _observed("1")) == ""
    text = difference_text(_observed("5"), ours)
    assert "step 1, Kustomization/app:" in text
    assert "+  observedGeneration: 2" in text
    assert "<not looked at>" in difference_text(_observed("5"), [{"step": 1, "objects": {}}])
    assert "rejected" in difference_text([{"step": 1, "rejected": "422 no"}], [])


def _difference(path: str, **ours: Any) -> Difference:
    loaded: dict[str, Any] = {
        "scenario": "x",
        "step": 1,
        "object": "Kustomization/app",
        "path": path,
        "reason": "r",
        "row": "D01",
    }
    return Difference(**loaded, **ours)


def test_deliberate_differences_are_laid_over_the_recording() -> None:
    golden = _observed("1", events=[{"message": "kept"}, {"message": "gone away"}])
    from tests.conformance import compare

    rows = [
        _difference("status/history/0/digest", ours="none"),
        _difference("status/more", ours={"a": 1}),
        _difference("events/[message=gone]", ours=compare._MISSING),
        _difference("events/-", ours={"message": "new"}),
    ]
    entry = expected(golden, rows)[0]["objects"]["Kustomization/app"]
    assert entry == {
        "status": {"history": [{"digest": "none"}], "more": {"a": 1}},
        "events": [{"message": "kept"}, {"message": "new"}],
    }
    assert golden == _observed("1", events=[{"message": "kept"}, {"message": "gone away"}])


@pytest.mark.parametrize(
    ("path", "ours"), [("status/history/0/digest", "sha256:<hex:1>"), ("status/none/x", 1), ("events/[message=x]", 1)]
)
def test_a_difference_that_is_none_or_nowhere_is_refused(path: str, ours: Any) -> None:
    with pytest.raises(AssertionError, match=r"not needed|no such place"):
        expected(_observed("1"), [_difference(path, ours=ours)])


def _ready(status: str, *, generation: int = 2, observed: int = 2, overall: int = 2, **more: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "observedGeneration": observed, **more}
    return {
        "metadata": {"generation": generation},
        "status": {"observedGeneration": overall, "conditions": [condition]},
    }


@pytest.mark.parametrize(
    ("obj", "wish", "there"),
    [
        (_ready("True"), {"condition": "Ready=True"}, True),
        (_ready("True", observed=1), {"condition": "Ready=True"}, False),
        (_ready("True", overall=1), {"condition": "Ready=True"}, False),
        (_ready("False", overall=-1), {"condition": "Ready=False"}, True),
        (_ready("True"), {"condition": "Ready"}, True),
        (_ready("False", message="it is not found"), {"condition": "Ready=False", "message": "not found"}, True),
        (_ready("False", message="it is not found"), {"condition": "Ready=False", "message": "else"}, False),
        (_ready("False", reason="BuildFailed"), {"condition": "Ready=False", "reason": "Build"}, True),
        (_ready("True"), {"where": {"status.conditions.0.type": "Read"}}, True),
        ({"metadata": {"annotations": {"a.b/c": "x"}}}, {"where": {"metadata|annotations|a.b/c": "x"}}, True),
        ({"metadata": {}}, {"where": {"status.artifact.revision": "x"}}, False),
        ({"metadata": {}}, {}, True),
        (None, {}, False),
        (None, {"gone": True}, True),
        ({"metadata": {}}, {"gone": True}, False),
    ],
)
def test_a_wait_is_over_when_its_wish_is_true(obj: Any, wish: dict[str, Any], there: bool) -> None:
    assert is_there(obj, wish) is there


def _event(message: str, *, reason: str = "NewArtifact", component: str = "source-controller", **more: Any) -> Any:
    head = {"metadata": {"annotations": {"a": "b"}}, "type": "Normal", "source": {"component": component}}
    return {**head, "reason": reason, "message": message, **more}


def test_events_of_others_and_untold_ones_are_left_out() -> None:
    events = [
        _event("stored", count=2),
        _event("(combined from similar events): stored"),
        _event("same", reason="ArtifactUpToDate"),
        _event("pulled", component="kubelet"),
        _event("done", reason="ReconciliationSucceeded", count=7),
    ]
    assert merge_events(events) == [
        {"from": "source-controller", "message": "stored", "reason": "NewArtifact", "type": "Normal", "count": 3}
        | {"annotations": {"a": "b"}},
        {"from": "source-controller", "message": "done", "reason": "ReconciliationSucceeded", "type": "Normal"}
        | {"annotations": {"a": "b"}},
    ]


def test_entries_of_an_archive_show_mode_and_kind() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, mode in (
            (".", tarfile.DIRTYPE, 0o750),
            ("d", tarfile.DIRTYPE, 0o750),
            ("d/f", tarfile.REGTYPE, 0o600),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            archive.addfile(member)
    assert tar_entries(gzip.compress(buffer.getvalue())) == ["0750 .", "0750 d/", "0600 d/f"]


@pytest.mark.parametrize("name", names())
def test_every_scenario_can_be_read_and_its_recording_equals_itself(name: str) -> None:
    scenario = Scenario.load(name)
    assert difference_text(scenario.golden, scenario.golden) == ""
    looked = [step for step, action in enumerate(scenario.steps, 1) if "expect" in action or "rejected" in action]
    assert [item["step"] for item in scenario.golden] == looked
    if name in PLAYED:
        assert all(any(hasattr(Run, f"_step_{verb}") for verb in step) for step in scenario.steps)
