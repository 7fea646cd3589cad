"""Who is ready, who failed, whom we still wait for, and in which words that is told.

Pure; the rules are `spec/kustomize.md` 6.4. Texts name objects in sorted order (upstream's order is random).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from gitopsd.krm.kstatus import Status, Verdict
from gitopsd.krm.objects import ObjectKey


class Outcome(Enum):
    """How a wait stands."""

    WAITING = auto()
    HEALTHY = auto()
    FAILED = auto()


class Tally:
    """The newest verdict on each of a fixed set of objects.

    `ttl_jobs` are Jobs that the cluster removes when they end: one that is gone has ended.
    """

    def __init__(
        self, keys: Iterable[ObjectKey], *, fail_fast: bool = True, ttl_jobs: frozenset[ObjectKey] = frozenset()
    ) -> None:
        self._verdicts: dict[ObjectKey, Verdict | None] = dict.fromkeys(sorted(keys, key=lambda key: key.subject))
        self._waiting = set(self._verdicts)
        self._failed: set[ObjectKey] = set()
        self._fail_fast = fail_fast
        self._ttl_jobs = ttl_jobs

    @property
    def waiting(self) -> frozenset[ObjectKey]:
        """The objects that are not Current, in any order."""
        return frozenset(self._waiting)

    @property
    def outcome(self) -> Outcome:
        """Whether the wait is over, and how."""
        if not self._waiting:
            return Outcome.HEALTHY
        if self._failed and (self._fail_fast or self._failed == self._waiting):
            return Outcome.FAILED
        return Outcome.WAITING

    def see(self, key: ObjectKey, verdict: Verdict) -> None:
        """Take in what one object looks like now."""
        if verdict.status == Status.NOT_FOUND and key in self._ttl_jobs:
            verdict = Verdict(Status.CURRENT, "the Job ended and was removed")
        self._verdicts[key] = verdict
        (self._waiting.discard if verdict.status == Status.CURRENT else self._waiting.add)(key)
        (self._failed.add if verdict.status == Status.FAILED else self._failed.discard)(key)

    def verdict(self, key: ObjectKey) -> Verdict | None:
        """The newest verdict on one object."""
        return self._verdicts.get(key)

    def failure(self) -> str:
        """What to say when the wait ended early: only those that failed."""
        items = [self._item(key) for key in self._verdicts if key in self._failed]
        return f"failed early due to stalled resources: [{', '.join(items)}]"

    def expiry(self) -> str:
        """What to say when the time was up: everything that is not Current."""
        items = [self._item(key) for key in self._verdicts if key in self._waiting]
        return f"timeout waiting for: [{', '.join(items)}]"

    def _item(self, key: ObjectKey) -> str:
        verdict = self._verdicts[key]
        if verdict is None:
            return f"can't determine status for {key.subject}"
        # What kstatus has to say in detail is left out, as upstream does; why a look failed is not.
        detail = f": {verdict.message}" if verdict.status == Status.UNKNOWN and verdict.message else ""
        return f"{key.subject} status: '{verdict.status}'{detail}"
