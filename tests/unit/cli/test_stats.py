"""Counting objects (`spec/cli.md` 11)."""

from __future__ import annotations

from gitopsd.cli.kinds import GIT_REPOSITORY
from gitopsd.cli.stats import count


def obj(status="True", *, suspend=False, size=0):
    return {
        "spec": {"suspend": suspend},
        "status": {"conditions": [{"type": "Ready", "status": status}], "artifact": {"size": size}},
    }


def test_running_is_what_is_not_suspended():
    """spec/cli.md 11: RUNNING = total - suspended; FAILING = Ready is False; STORAGE is a sum."""
    objects = [obj(size=1000), obj("False", size=24), obj("Unknown", suspend=True), {}]
    assert count(GIT_REPOSITORY, objects) == ["GitRepository", "3", "1", "1", "1.0 KiB"]


def test_nothing_counts_as_nothing():
    """spec/cli.md 11."""
    assert count(GIT_REPOSITORY, []) == ["GitRepository", "0", "0", "0", "-"]


def test_a_size_that_is_no_number_is_passed_over():
    """Objects may be stranger than their CRD allows."""
    assert count(GIT_REPOSITORY, [{"status": {"artifact": {"size": "big"}}}])[4] == "-"
