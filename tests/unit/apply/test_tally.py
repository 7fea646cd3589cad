"""When a wait is over, and in which words."""

from __future__ import annotations

import pytest

from gitopsd.apply.tally import Outcome, Tally
from gitopsd.krm.kstatus import Status, Verdict
from gitopsd.krm.objects import ObjectKey

A, B, C = (ObjectKey("apps", "Deployment", "ns", name) for name in "abc")
JOB = ObjectKey("batch", "Job", "ns", "job")


def tally(*verdicts: tuple[ObjectKey, Status], fail_fast: bool = True, **options: object) -> Tally:
    found = Tally([key for key, _ in verdicts], fail_fast=fail_fast, **options)
    for key, status in verdicts:
        found.see(key, Verdict(status, "some detail"))
    return found


def test_nothing_to_wait_for_is_healthy() -> None:
    assert Tally([]).outcome is Outcome.HEALTHY


def test_all_current_is_healthy() -> None:
    assert tally((A, Status.CURRENT), (B, Status.CURRENT)).outcome is Outcome.HEALTHY


@pytest.mark.parametrize("status", [Status.IN_PROGRESS, Status.TERMINATING, Status.NOT_FOUND, Status.UNKNOWN])
def test_everything_short_of_failed_is_waited_for(status: Status) -> None:
    """spec/kustomize.md 6.4."""
    assert tally((A, Status.CURRENT), (B, status)).outcome is Outcome.WAITING


def test_one_failure_ends_the_wait_and_only_it_is_named() -> None:
    """spec/kustomize.md 6.4, golden health-failed-early: the detail is not included."""
    found = tally((B, Status.FAILED), (A, Status.IN_PROGRESS), (C, Status.FAILED))
    assert found.outcome is Outcome.FAILED
    assert found.failure() == (
        "failed early due to stalled resources: [Deployment/ns/b status: 'Failed', Deployment/ns/c status: 'Failed']"
    )


def test_without_fail_fast_a_failure_counts_when_all_have_a_verdict() -> None:
    """spec/kustomize.md 6.4."""
    found = tally((A, Status.FAILED), (B, Status.IN_PROGRESS), fail_fast=False)
    assert found.outcome is Outcome.WAITING
    found.see(B, Verdict(Status.CURRENT, ""))
    assert found.outcome is Outcome.FAILED


def test_a_failure_may_heal_when_nobody_looks() -> None:
    found = tally((A, Status.FAILED), (B, Status.IN_PROGRESS), fail_fast=False)
    found.see(A, Verdict(Status.CURRENT, ""))
    found.see(B, Verdict(Status.CURRENT, ""))
    assert found.outcome is Outcome.HEALTHY


def test_a_ready_object_may_fall_back() -> None:
    found = tally((A, Status.CURRENT), (B, Status.IN_PROGRESS))
    found.see(A, Verdict(Status.IN_PROGRESS, ""))
    found.see(B, Verdict(Status.CURRENT, ""))
    assert found.outcome is Outcome.WAITING


def test_the_end_of_time_lists_everything_that_is_not_current() -> None:
    """spec/kustomize.md 6.4, golden wait-timeout."""
    found = tally((C, Status.CURRENT), (B, Status.IN_PROGRESS), (A, Status.UNKNOWN), (JOB, Status.NOT_FOUND))
    assert found.expiry() == (
        "timeout waiting for: [Deployment/ns/a status: 'Unknown': some detail, "
        "Deployment/ns/b status: 'InProgress', Job/ns/job status: 'NotFound']"
    )


def test_what_was_never_seen_is_said_to_be_so() -> None:
    """spec/kustomize.md 6.4."""
    assert Tally([A]).expiry() == "timeout waiting for: [can't determine status for Deployment/ns/a]"


def test_a_job_that_removes_itself_has_ended_well() -> None:
    """spec/kustomize.md 6.4."""
    assert tally((JOB, Status.NOT_FOUND), ttl_jobs=frozenset({JOB})).outcome is Outcome.HEALTHY
    assert tally((JOB, Status.NOT_FOUND)).outcome is Outcome.WAITING
