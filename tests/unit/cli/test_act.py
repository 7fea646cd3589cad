"""Tokens and readiness (`spec/cli.md` 5.2 and 6.2)."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest

from gitopsd.cli.act import is_ready, timestamp
from gitopsd.cli.flags import CommandError
from gitopsd.cli.kinds import ALERT, KUSTOMIZATION

AT = 1786110615 * 10**9  # 2026-08-07T13:50:15Z


@pytest.mark.parametrize(
    ("nanoseconds", "zone", "text"),
    [
        (AT, UTC, "2026-08-07T13:50:15Z"),
        (AT + 123456789, UTC, "2026-08-07T13:50:15.123456789Z"),
        (AT + 120000000, UTC, "2026-08-07T13:50:15.12Z"),
        (AT + 1, timezone(timedelta(hours=3)), "2026-08-07T16:50:15.000000001+03:00"),
        (AT, timezone(-timedelta(hours=3, minutes=30)), "2026-08-07T10:20:15-03:30"),
    ],
)
def test_a_token_is_a_local_time_with_trimmed_nanoseconds(nanoseconds, zone, text):
    """spec/cli.md 5.2, <ts>."""
    assert text == timestamp(nanoseconds, zone)


def obj(status="True", *, observed=2, condition_observed=None, generation=2, stalled=False):
    ready = {"type": "Ready", "status": status, "message": "m"}
    if condition_observed is not None:
        ready["observedGeneration"] = condition_observed
    conditions = [ready] if status else []
    if stalled:
        conditions.append({"type": "Stalled", "status": "True", "message": "stuck"})
    return {
        "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
        "kind": "Kustomization",
        "metadata": {"name": "x", "namespace": "ns", "generation": generation},
        "status": {"observedGeneration": observed, "conditions": conditions},
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"condition_observed": 2}, True),
        ({"condition_observed": 1}, False),
        ({"condition_observed": 0}, True),
        ({"observed": 1}, False),
        ({"observed": 0, "generation": 0}, False),
        ({"observed": -1}, False),
        ({"status": ""}, False),
        ({"status": "False"}, False),
        ({"status": "Unknown"}, False),
    ],
)
def test_ready_means_the_newest_generation_was_worked_on_well(changes, expected):
    """spec/cli.md 6.2, ready test."""
    assert expected is is_ready(KUSTOMIZATION, obj(**changes))


def test_a_stalled_object_will_not_become_ready():
    """spec/cli.md 5.3: any other kstatus ends with its message."""
    with pytest.raises(CommandError, match=r"^stuck$"):
        is_ready(KUSTOMIZATION, obj("False", stalled=True))


def test_a_static_object_is_ready_by_being_there():
    """spec/cli.md 6.2, static kinds: kstatus only."""
    assert is_ready(ALERT, {"apiVersion": "notification.toolkit.fluxcd.io/v1beta3", "kind": "Alert", "metadata": {}})
