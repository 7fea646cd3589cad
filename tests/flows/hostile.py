"""Hostile files on a stage: what they must be answered with, and what must hold around every one of them.

A trial gives each case a folder and a Kustomization of its own, lets all of them become ready, then pushes the hostile
files of all of them in one commit, and in the end takes them back. In the hostile commit each case also loses a good
object from its folder: a build that went on without the hostile file would prune it, and be found out.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.apiclient import NotYetError, Obj
from tests.daemon import Daemon
from tests.flows.stage import Stage, condition, config_map, is_ready
from tests.servers.git import File

GOOD = "keep.yaml"
LONGEST_MESSAGE = 4096
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]")
_OUR_PATHS = re.compile(r"/(?:proc/[0-9]|tmp/|var/|root/|dev/)|memfd")


@dataclass(frozen=True)
class Case:
    """Hostile files (below the case's folder), and the answer that is due: a reason and a part of the message."""

    files: Mapping[str, File]
    says: str
    reason: str = "BuildFailed"
    spec: Mapping[str, Any] = field(default_factory=dict)  # of the Kustomization, from the start
    keeps_good: bool = False  # the good file stays in the hostile commit, where its absence would be the answer
    stalls: bool = False


class Hostile(Stage):
    """A stage for trials, with a neighbour in another namespace who must not notice any of them."""

    daemon: Daemon
    neighbour: Stage
    secrets: tuple[str, ...] = ()

    def trial(self, cases: Mapping[str, Case], *, timeout: float = 30.0) -> None:
        """Good, hostile, repaired: every case, in three commits."""
        good = self.push({f"{name}/{GOOD}": config_map(f"{name}-keep") for name in cases})
        self.source()
        for name, case in cases.items():
            self.kustomization(name, **{"path": f"./{name}", **case.spec})
        before = {name: self.until_applied(good, name, timeout=timeout) for name in cases}
        bad = self.push(
            {f"{name}/{GOOD}": None for name, case in cases.items() if not case.keeps_good}
            | {f"{name}/{path}": file for name, case in cases.items() for path, file in case.files.items()}
        )
        self.refetch()
        for name, case in cases.items():
            self._refused(name, case, before[name], bad, timeout)
        self.assert_others_are_fine()
        fixed = self.push(
            {f"{name}/{path}": None for name, case in cases.items() for path in case.files}
            | {f"{name}/{GOOD}": config_map(f"{name}-keep", fixed="yes") for name in cases}
        )
        self.refetch()
        for name in cases:
            self.until_applied(fixed, name, timeout=timeout)
            assert (self.get("ConfigMap", f"{name}-keep") or {})["data"] == {"fixed": "yes"}

    def _refused(self, name: str, case: Case, before: Obj, revision: str, timeout: float) -> None:
        seen = self.until("Kustomization", name, lambda obj: _has_verdict(obj, revision), timeout=timeout)
        self.assert_answer(name, seen, case.reason, case.says, stalls=case.stalls)
        self.assert_kept(name, before, seen)
        assert self.get("ConfigMap", f"{name}-keep") is not None, name

    # -- the contract of spec/hostile-inputs.md 0 --------------------------------------------------------------

    def assert_answer(self, name: str, seen: Obj, reason: str, says: str, *, stalls: bool = False) -> None:
        """RETRY or STALL with a reason and a message, fit to be shown, and told once as a Warning."""
        ready = condition(seen)
        assert (ready["status"], ready["reason"]) == ("False", reason), f"{name}: {ready}"
        assert says in ready["message"], f"{name}: {ready['message']}"
        self.assert_fit(name, ready["message"])
        if stalls:
            assert condition(seen, "Stalled")["reason"] == reason, name
        else:
            assert condition(seen, "Reconciling")["reason"] == "ProgressingWithRetry", name
        told = self.warning(name, reason)
        assert told["message"] == ready["message"], name
        assert told["count"] == 1, name

    def assert_fit(self, name: str, message: str) -> None:
        """A message that may be shown to anybody; lines may end in it, as upstream's messages have them."""
        assert len(message.encode()) <= LONGEST_MESSAGE, f"{name}: {len(message)}"
        assert not _CONTROL.search(message), f"{name}: {message!r}"
        assert not _OUR_PATHS.search(message), f"{name}: {message}"
        assert not (shown := [text for text in self.hidden() if text in message]), f"{name}: {shown}"

    def hidden(self) -> list[str]:
        """The secrets, plain and encoded."""
        return [text for one in self.secrets for text in (one, base64.b64encode(one.encode()).decode())]

    def assert_kept(self, name: str, before: Obj, seen: Obj) -> None:
        """KEEP: what was applied stays recorded as it was."""
        for what in ("inventory", "lastAppliedRevision"):
            assert seen["status"].get(what) == before["status"].get(what), f"{name}: {what}"
        kept = [one["digest"] for one in before["status"]["history"]]
        assert set(kept) <= {one["digest"] for one in seen["status"]["history"]}, name

    def assert_others_are_fine(self) -> None:
        """The daemon answers, and the neighbour's object reconciles when it is asked to."""
        assert self.daemon.get("health", "/healthz") == "ok"
        token = self.neighbour.request("Kustomization")
        assert is_ready(self.neighbour.handled("Kustomization", token))

    def warning(self, name: str, reason: str, kind: str = "Kustomization") -> Obj:
        """The newest Warning of a reason about an object; events are written a little later than conditions."""
        deadline = time.monotonic() + 10
        while True:
            found = [one for one in self.events(kind, name) if (one["type"], one["reason"]) == ("Warning", reason)]
            if found:
                return found[-1]
            if time.monotonic() > deadline:
                raise NotYetError(f"no Warning {reason} about {kind}/{name}")
            time.sleep(0.05)


def _has_verdict(obj: Obj | None, revision: str) -> bool:
    status = (obj or {}).get("status") or {}
    if status.get("lastAttemptedRevision") != revision and condition(obj).get("reason") != "ArtifactFailed":
        return False
    return condition(obj).get("status") in ("True", "False")
