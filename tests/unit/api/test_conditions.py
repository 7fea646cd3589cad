"""Promises of the condition functions."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.api import conditions
from gitopsd.api.meta import Condition

EARLY = datetime(2026, 8, 1, 10, 0, 7, 500_000, tzinfo=UTC)
LATER = datetime(2026, 8, 1, 11, 0, 0, tzinfo=UTC)
GIT = (
    "StorageOperationFailed",
    "FetchFailed",
    "IncludeUnavailable",
    "ArtifactOutdated",
    "ArtifactInStorage",
    "SourceVerified",
    "Stalled",
    "Reconciling",
)


def condition(
    type_: str, status: str = "True", *, generation: int = 1, reason: str = "", message: str = ""
) -> Condition:
    return Condition(
        type=type_,
        status=status,
        reason=reason or f"{type_}Reason",
        message=message or f"{type_} message",
        observed_generation=generation,
        last_transition_time="2026-08-01T10:00:07Z",
    )


def verdict(found: tuple[Condition, ...]) -> tuple[str, str, str] | None:
    ready = conditions.get(found, "Ready")
    return (ready.status, ready.reason, ready.message) if ready else None


# --- setting one (spec/kustomize.md 2.1, spec/source.md 3.1) --------------------------------------------------------


def test_s3_1_a_new_condition_carries_generation_and_whole_seconds() -> None:
    found = conditions.mark((), "Ready", "True", "Succeeded", "done", 3, EARLY)
    assert conditions.encode(found) == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Succeeded",
            "message": "done",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-08-01T10:00:07Z",
        }
    ]


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [("False", "Succeeded", "done"), ("True", "Other", "done"), ("True", "Succeeded", "other")],
)
def test_s3_1_the_transition_time_moves_when_status_reason_or_message_changes(
    status: str, reason: str, message: str
) -> None:
    before = conditions.mark((), "Ready", "True", "Succeeded", "done", 3, EARLY)
    after = conditions.mark(before, "Ready", status, reason, message, 3, LATER)
    assert after[0].last_transition_time == "2026-08-01T11:00:00Z"


def test_s3_1_the_transition_time_stays_when_only_the_generation_moves() -> None:
    before = conditions.mark((), "Ready", "True", "Succeeded", "done", 3, EARLY)
    after = conditions.mark(before, "Ready", "True", "Succeeded", "done", 4, LATER)
    assert (after[0].observed_generation, after[0].last_transition_time) == (4, "2026-08-01T10:00:07Z")


def test_s3_1_a_long_message_is_cut_at_its_byte_limit() -> None:
    found = conditions.mark((), "Ready", "False", "Failed", "ä" * 20_000, 1, EARLY)
    data = found[0].message.encode()
    assert len(data) <= 32768
    assert len(data) > 32760
    assert found[0].message.endswith("ä...")


def test_a_message_of_exactly_the_limit_is_kept() -> None:
    text = "x" * 32768
    assert conditions.mark((), "Ready", "False", "Failed", text, 1, EARLY)[0].message == text


def test_a_cut_message_that_did_not_change_keeps_its_transition_time() -> None:
    before = conditions.mark((), "Ready", "False", "Failed", "x" * 40_000, 1, EARLY)
    after = conditions.mark(before, "Ready", "False", "Failed", "x" * 40_000, 1, LATER)
    assert after == before


def test_a_message_is_always_fit_to_be_sent() -> None:
    """Half surrogates and control characters out of a repository must not break the status write."""
    found = conditions.mark((), "Ready", "False", "Failed", "file \udcff\x00\x1b[31m\r red\n\ttab", 1, EARLY)
    assert orjson.loads(orjson.dumps(conditions.encode(found)))[0]["message"] == "file ???[31m? red\n\ttab"


@given(st.text(alphabet=st.characters(), max_size=200), st.sampled_from(["True", "False", "Unknown"]))
def test_marking_twice_is_marking_once(text: str, status: str) -> None:
    once = conditions.mark((), "Ready", status, "Any", text, 1, EARLY)
    assert conditions.mark(once, "Ready", status, "Any", text, 1, LATER) == once


def test_reconciling_and_stalled_exclude_each_other() -> None:
    reconciling = conditions.mark_reconciling((), "Progressing", "working", 1, EARLY)
    stalled = conditions.mark_stalled(reconciling, "URLInvalid", "no", 1, EARLY)
    assert [each.type for each in stalled] == ["Stalled"]
    assert [each.type for each in conditions.mark_reconciling(stalled, "Progressing", "again", 1, EARLY)] == [
        "Reconciling"
    ]


@pytest.mark.parametrize("type_", ["Reconciling", "Stalled"])
@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_s3_1_reconciling_and_stalled_exist_only_while_true(type_: str, status: str) -> None:
    before = (condition(type_), condition("Ready"))
    assert [each.type for each in conditions.mark(before, type_, status, "Any", "", 1, EARLY)] == ["Ready"]


def test_retrying_keeps_the_last_progress_text() -> None:
    """spec/kustomize.md 2.2: reason becomes ProgressingWithRetry, message stays."""
    before = conditions.mark_reconciling((), "Progressing", "Building manifests", 1, EARLY)
    after = conditions.mark_retrying(before, 2, LATER)
    assert (after[0].reason, after[0].message, after[0].observed_generation) == (
        "ProgressingWithRetry",
        "Building manifests",
        2,
    )
    assert conditions.mark_retrying((condition("Ready"),), 2, LATER) == (condition("Ready"),)


def test_s3_1_the_list_begins_with_stalled_reconciling_ready_then_generation_then_type() -> None:
    found = conditions.ordered(
        [
            condition("Aaa", generation=1),
            condition("Healthy", generation=2),
            condition("Drifted", generation=2),
            condition("Ready", generation=1),
            condition("Reconciling"),
            condition("Stalled"),
        ]
    )
    assert [each.type for each in found] == ["Stalled", "Reconciling", "Ready", "Drifted", "Healthy", "Aaa"]


def test_s2_2_observing_moves_only_the_generation_of_one_condition() -> None:
    """spec/source.md 2.2 step 4: a suspended object's Ready follows the generation, the others keep theirs."""
    before = (condition("Ready"), condition("ArtifactInStorage"))
    after = conditions.observe(before, "Ready", 5)
    assert [(each.type, each.observed_generation) for each in after] == [("Ready", 5), ("ArtifactInStorage", 1)]
    assert after[0].last_transition_time == before[0].last_transition_time


def test_deleting_removes_every_named_type() -> None:
    assert conditions.delete((condition("A"), condition("B"), condition("C")), "A", "C", "Z") == (condition("B"),)


def test_predicates_ask_for_presence_and_status() -> None:
    found = (condition("Ready", "False"), condition("Stalled"))
    assert not conditions.is_ready(found)
    assert conditions.is_false(found, "Ready")
    assert conditions.is_stalled(found)
    assert not conditions.is_reconciling(found)
    assert not conditions.is_true(found, "Healthy")
    assert conditions.has_any(found, {"Stalled", "FetchFailed"})
    assert not conditions.has_any(found, {"Ready"})


# --- foreign conditions (spec/hostile-inputs.md O10) ----------------------------------------------------------------


def test_O10_foreign_conditions_are_kept_and_own_duplicates_replaced() -> None:
    before = (
        condition("example.com/Foreign", "False"),
        condition("example.com/Foreign", "True"),
        condition("Ready", "False"),
        condition("Ready", "True"),
    )
    after = conditions.mark(before, "Ready", "Unknown", "Progressing", "working", 2, LATER)
    assert [(each.type, each.status) for each in after] == [
        ("Ready", "Unknown"),
        ("example.com/Foreign", "False"),
        ("example.com/Foreign", "True"),
    ]


def test_O10_on_a_conflict_ours_decide_our_types_and_theirs_all_others() -> None:
    latest = (condition("Ready", "True"), condition("FetchFailed"), condition("Foreign", "False"))
    ours = (condition("Ready", "False"), condition("Foreign", "True"))
    after = conditions.merged(latest, ours, {"Ready", "FetchFailed"})
    assert [(each.type, each.status) for each in after] == [("Ready", "False"), ("Foreign", "False")]


def test_O10_entries_that_are_no_conditions_are_passed_over() -> None:
    good = conditions.encode([condition("Ready")])[0]
    assert conditions.decode([None, 7, {"type": "Half"}, good | {"surplus": 1}]) == (condition("Ready"),)
    assert conditions.decode(None) == ()
    assert conditions.decode("Ready") == ()


# --- Ready as a summary (spec/source.md 3.3 and 17) -----------------------------------------------------------------


def test_s17_16_a_failure_wins_over_a_stored_artifact() -> None:
    """spec/source.md 17, row 16."""
    found = (condition("Reconciling"), condition("FetchFailed"), condition("ArtifactInStorage"))
    after = conditions.summarise(found, GIT, 4, LATER)
    assert verdict(after) == ("False", "FetchFailedReason", "FetchFailed message")
    ready = conditions.get(after, "Ready")
    assert ready is not None
    assert ready.observed_generation == 4


def test_s17_17_only_good_news_is_ready() -> None:
    """spec/source.md 17, row 17."""
    found = (condition("SourceVerified"), condition("ArtifactInStorage"))
    assert verdict(conditions.summarise(found, GIT, 1, LATER)) == (
        "True",
        "ArtifactInStorageReason",
        "ArtifactInStorage message",
    )


def test_s17_18_a_bad_signature_wins_over_everything() -> None:
    """spec/source.md 17, row 18."""
    found = (condition("SourceVerified", "False"), condition("FetchFailed"), condition("Reconciling"))
    assert verdict(conditions.summarise(found, GIT, 1, LATER)) == (
        "False",
        "SourceVerifiedReason",
        "SourceVerified message",
    )


def test_s3_3_the_order_of_the_list_breaks_ties() -> None:
    found = (condition("FetchFailed"), condition("StorageOperationFailed"), condition("Stalled"))
    after = conditions.summarise(found, GIT, 1, LATER)
    assert verdict(after) == ("False", "StorageOperationFailedReason", "StorageOperationFailed message")


def test_s3_3_reconciling_alone_is_not_ready() -> None:
    """spec/source.md 3.3: an error without its own condition shows as ProgressingWithRetry."""
    found = (condition("Reconciling", reason="ProgressingWithRetry", message="x"), condition("ArtifactInStorage"))
    assert verdict(conditions.summarise(found, GIT, 1, LATER)) == ("False", "ProgressingWithRetry", "x")


def test_s3_3_stalled_without_another_failure_is_copied() -> None:
    found = (condition("Stalled"), condition("ArtifactInStorage"))
    assert verdict(conditions.summarise(found, GIT, 1, LATER)) == ("False", "StalledReason", "Stalled message")


def test_s3_3_bad_news_denied_is_ready_only_when_nothing_better_says_so() -> None:
    denied = condition("FetchFailed", "False")
    assert verdict(conditions.summarise((denied,), GIT, 1, LATER)) == (
        "True",
        "FetchFailedReason",
        "FetchFailed message",
    )
    both = (denied, condition("ArtifactInStorage"))
    assert verdict(conditions.summarise(both, GIT, 1, LATER)) == (
        "True",
        "ArtifactInStorageReason",
        "ArtifactInStorage message",
    )


def test_s3_3_only_unknown_news_is_unknown() -> None:
    found = (condition("ArtifactInStorage", "Unknown"),)
    assert verdict(conditions.summarise(found, GIT, 1, LATER)) == (
        "Unknown",
        "ArtifactInStorageReason",
        "ArtifactInStorage message",
    )


def test_s3_3_without_any_summarised_condition_ready_is_not_touched() -> None:
    found = (condition("Ready", "False"), condition("Foreign"))
    assert conditions.summarise(found, GIT, 9, LATER) == found


# --- Ready of a release (spec/helm.md 3.3) --------------------------------------------------------------------------


def test_what_was_done_to_the_newest_generation_decides_a_release() -> None:
    found = (condition("Remediated", generation=1), condition("Released", generation=2))
    after = conditions.summarise_release(found, 2, LATER, tests_enabled=False, tests_ignored=False)
    assert verdict(after) == ("True", "ReleasedReason", "Released message")


def test_a_remediated_release_is_not_ready_however_well_it_went() -> None:
    found = (condition("Remediated"), condition("Released", "False"), condition("Stalled"))
    after = conditions.summarise_release(found, 1, LATER, tests_enabled=False, tests_ignored=False)
    assert verdict(after) == ("False", "RemediatedReason", "Remediated message")
    assert conditions.is_stalled(after)


@pytest.mark.parametrize(("ignored", "expected"), [(False, "TestSuccess"), (True, "Released")])
def test_a_test_counts_before_the_release_unless_its_failures_are_ignored(*, ignored: bool, expected: str) -> None:
    found = (condition("TestSuccess", "False"), condition("Released"))
    after = conditions.summarise_release(found, 1, LATER, tests_enabled=True, tests_ignored=ignored)
    ready = verdict(after)
    assert ready is not None
    assert ready[1] == f"{expected}Reason"
    assert conditions.get(after, "TestSuccess") is not None


def test_the_result_of_a_test_goes_when_tests_are_switched_off() -> None:
    found = (condition("TestSuccess", "False"), condition("Released"))
    after = conditions.summarise_release(found, 1, LATER, tests_enabled=False, tests_ignored=False)
    assert conditions.get(after, "TestSuccess") is None
    assert conditions.is_ready(after)


def test_a_release_that_is_ready_again_is_no_longer_stalled() -> None:
    found = (condition("Stalled"), condition("Released"))
    after = conditions.summarise_release(found, 1, LATER, tests_enabled=False, tests_ignored=False)
    assert not conditions.is_stalled(after)


def test_a_release_nothing_was_done_to_keeps_its_ready() -> None:
    found = (condition("Ready", "Unknown"),)
    assert conditions.summarise_release(found, 1, LATER, tests_enabled=False, tests_ignored=False) == found
