"""Until ready, or gone: waits for objects by watches, with a deadline and an early end.

Knows deadlines, readers and the words of a failure (`spec/kustomize.md` 6); what a state means is `krm.kstatus`, how
objects are looked at and followed is `apply.wait`. A wait occupies nobody: it is events all the way, and cancelling it
is always safe. Objects that an apply returned as Current cost no request at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from gitopsd.api import meta
from gitopsd.apply.changes import Action, Entry
from gitopsd.apply.tally import Outcome, Tally
from gitopsd.apply.wait import Judge, Sight, Target, UnplacedError, Wait
from gitopsd.errors import GitopsdError
from gitopsd.krm.kstatus import Status, Verdict, assess, assess_with_pods
from gitopsd.krm.objects import Obj, ObjectKey, get_in, gvk_of, key_of
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery
from gitopsd.kube.informer import InformerPool

__all__ = ["HealthError", "HealthReader", "HealthWaiter", "Target", "targets_of", "ttl_jobs"]


class HealthError(GitopsdError):
    """Something failed, or did not become ready (or go away) in time. The text lists what and how."""


class HealthReader(Protocol):
    """Judges objects of some kinds by rules of its own (`spec.healthCheckExprs`)."""

    def reads(self, group: str, kind: str) -> bool:
        """Whether it has rules for the kind."""
        ...

    async def read(self, obj: Obj) -> Verdict:
        """Judge one live object; a rule that cannot be evaluated is Status.UNKNOWN with the reason."""
        ...


class HealthWaiter:
    """Waits with the rights of one client.

    `reads_jobs_first` tells whether the rule for Jobs goes before the readers given to `wait`
    (`spec/kustomize.md` 6.2: it does, except under impersonation). What may not be watched, or is not served yet, is
    read again every `pause` seconds.
    """

    def __init__(
        self,
        pool: InformerPool,
        discovery: Discovery,
        client: KubeClient,
        *,
        owner_label: str = f"{meta.KUSTOMIZE_GROUP}/name",
        reads_jobs_first: bool = True,
        pause: float = 5.0,
    ) -> None:
        self._sight = Sight(client, discovery, pool, owner_label, pause)
        self._reads_jobs_first = reads_jobs_first

    async def wait(
        self,
        targets: Sequence[Target],
        *,
        timeout: float,
        fail_fast: bool = True,
        ttl_jobs: frozenset[ObjectKey] = frozenset(),
        readers: Sequence[HealthReader] = (),
    ) -> None:
        """Return when every target is Current. Raises HealthError with the text of `spec/kustomize.md` 6.4.

        `timeout` in seconds. Unless `fail_fast` is off, the first failed object ends the wait. Jobs in `ttl_jobs`
        that are gone have ended well.
        """
        wanted = {target.key: target for target in targets}
        tally = Tally(wanted, fail_fast=fail_fast, ttl_jobs=ttl_jobs)
        await self._run(Wait(self._sight, wanted, tally, self._judge(readers)), tally, timeout)

    async def wait_gone(
        self, keys: Iterable[ObjectKey | Entry], *, timeout: float, uids: Mapping[ObjectKey, str] | None = None
    ) -> None:
        """Return when none of the objects exists any more. Raises HealthError naming those that do.

        Entries, and keys in `uids`, mean one incarnation: a successor under the same name does not count.
        """
        wanted: dict[ObjectKey, str] = {}
        targets: dict[ObjectKey, Target] = {}
        for item in keys:
            key, uid = (item.key, item.uid) if isinstance(item, Entry) else (item, "")
            wanted[key] = uid or (uids or {}).get(key, "")
            targets[key] = Target(key, is_managed=isinstance(item, Entry))
        tally = Tally(wanted, fail_fast=False)
        await self._run(Wait(self._sight, targets, tally, _gone(wanted), metadata_only=True), tally, timeout)

    async def _run(self, wait: Wait, tally: Tally, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await wait.run()
        except TimeoutError as error:
            raise HealthError(tally.expiry()) from error
        except UnplacedError as error:
            raise HealthError(str(error)) from error
        if tally.outcome is Outcome.FAILED:
            raise HealthError(tally.failure())

    def _judge(self, readers: Sequence[HealthReader]) -> Judge:
        async def judge(key: ObjectKey, obj: Obj | None, pods: Sequence[Obj] | None) -> Verdict:
            if obj is None:
                return Verdict(Status.NOT_FOUND, "")
            is_job = (key.group, key.kind) == ("batch", "Job")
            if not (is_job and self._reads_jobs_first):
                for reader in readers:
                    if reader.reads(key.group, key.kind):
                        return await reader.read(obj)
            return assess(obj) if pods is None else assess_with_pods(obj, pods)

        return judge


def targets_of(entries: Iterable[Entry]) -> list[Target]:
    """What `wait: true` waits for: every entry of a change set but the skipped ones (6.1)."""
    return [Target(entry.key, entry.live) for entry in entries if entry.action != Action.SKIPPED]


def ttl_jobs(objects: Iterable[Obj]) -> frozenset[ObjectKey]:
    """The Jobs of a build that the cluster removes by itself when they end (6.1)."""
    return frozenset(
        key_of(obj)
        for obj in objects
        if (gvk_of(obj).group, gvk_of(obj).kind) == ("batch", "Job")
        and get_in(obj, "spec", "ttlSecondsAfterFinished") is not None
    )


def _gone(wanted: Mapping[ObjectKey, str]) -> Judge:
    """Gone counts as Current, whoever stands in its place."""

    async def judge(key: ObjectKey, obj: Obj | None, pods: Sequence[Obj] | None) -> Verdict:
        uid = str(get_in(obj, "metadata", "uid", default=""))
        if obj is None or (wanted[key] and uid != wanted[key]):
            return Verdict(Status.CURRENT, "")
        return Verdict(Status.TERMINATING, "")

    return judge
