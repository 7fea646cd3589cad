"""Puts a set of objects onto a cluster by server-side apply, stage by stage.

Theory of operation (`spec/kustomize.md` 4). Objects are normalised and split into stages. Of each stage every object is
checked first, by dry runs side by side; if one is refused, nothing of the stage is written. Then the changed ones are
written: kinds one after the other, objects of a kind side by side. Definitions and classes must be Current before the
next stage begins. Whatever was written, or may have been when an answer was lost, is in `touched` from that moment on,
so that neither an error nor a cancellation loses track of an object that now exists.

Refuses to know what is to be pruned, what belongs into a status, and whether the result ever becomes healthy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from gitopsd.api.meta import format_duration
from gitopsd.apply import control
from gitopsd.apply.changes import Action, ApplyError, ChangeSet, Entry, Known
from gitopsd.apply.check import Checker, ObjectError, Plan, Rules, server_text
from gitopsd.apply.control import Owner
from gitopsd.apply.health import HealthError, HealthWaiter, Target
from gitopsd.apply.ignore import IgnoreError, parse_rules
from gitopsd.apply.inventory import InventoryEntry
from gitopsd.apply.managed_fields import cleanup, taken_over
from gitopsd.apply.parallel import side_by_side
from gitopsd.apply.prune import PruneResult, prune
from gitopsd.apply.stages import GroupKind, Stage, by_kind, staged
from gitopsd.krm.diff import normalise
from gitopsd.krm.objects import Obj, ObjectKey, get_in, gvk_of, key_of
from gitopsd.kube.client import KubeClient, Params, PatchType
from gitopsd.kube.discovery import Discovery
from gitopsd.kube.errors import ApiError, ConflictError, NotFoundError, ServerError, UnreachableError
from gitopsd.tasks import offload

# Definitions and classes that are not Current after this long fail the apply (4.2), seconds.
STAGE_PATIENCE: Final = 60.0
_CONFLICT_TRIES: Final = 5
# Normalising so many objects takes no noticeable time.
_FEW: Final = 50

Claim = Callable[[Sequence[InventoryEntry]], Awaitable[None]]
"""Writes down what is about to be written, so that a crash loses track of nothing."""


class Applier:
    """Applies sets of objects for one owner with the rights of one client; one `apply` at a time.

    `force` recreates what cannot be changed, `override_managers` are more managers whose fields are taken over,
    `ignore` is `spec.ignore` as it was written, `timeout` (seconds) bounds each stage and each wait for a deletion.
    """

    def __init__(
        self,
        client: KubeClient,
        discovery: Discovery,
        owner: Owner,
        health: HealthWaiter,
        *,
        concurrency: int = 4,
        force: bool = False,
        override_managers: Sequence[str] = (),
        custom_stage_kinds: frozenset[GroupKind] = frozenset(),
        ignore: Sequence[Mapping[str, Any]] = (),
        migrate_api_version: bool = False,
        timeout: float | None = None,
        stage_patience: float = STAGE_PATIENCE,
    ) -> None:
        self._client = client
        self._discovery = discovery
        self._owner = owner
        self._health = health
        self._concurrency = concurrency
        self._force = force
        self._managers = taken_over(owner.field_manager, override_managers)
        self._custom_stage_kinds = custom_stage_kinds
        self._ignore = ignore
        self._migrate_api_version = migrate_api_version
        self._timeout = timeout
        self._stage_patience = stage_patience
        # Force is always on: conflicts never surface, the fields become ours (4.1).
        self._write_params: Params = {"fieldManager": owner.field_manager, "force": True}
        self._touched: dict[ObjectKey, Entry | None] = {}

    @property
    def owner(self) -> Owner:
        """For whom this applies."""
        return self._owner

    @property
    def touched(self) -> ChangeSet:
        """What the current or last `apply` has dealt with so far, in apply order; a lost answer counts as unknown."""
        return ChangeSet(tuple(entry for entry in self._touched.values() if entry is not None))

    async def apply(
        self,
        objects: Sequence[Obj],
        *,
        known: Mapping[ObjectKey, Known] | None = None,
        unmoved: Container[ObjectKey] = (),
        claim: Claim | None = None,
    ) -> ChangeSet:
        """Apply all objects; they carry their owner labels and common metadata already.

        `claim` is awaited before each stage's first write and told what the stage is about to write; what it raises
        ends the apply. `known` is `ChangeSet.known()` of an earlier apply and saves reading what is as it was; objects
        that are also in `unmoved` (somebody watched them since) are not even asked about. Raises ApplyError. When
        cancelled, what was written is in `touched`.
        """
        self._touched = {}
        checker = Checker(self._client, self._discovery, self._rules())
        fresh: set[GroupKind] = set()
        for stage in staged(await _normalised(objects), self._custom_stage_kinds):
            try:
                async with asyncio.timeout(self._timeout):
                    plans = await self._check(checker, stage, known or {}, unmoved, fresh)
                    if claim is not None:
                        await claim([InventoryEntry.of(plan.key, plan.version) for plan in plans if _is_write(plan)])
                    entries = await self._write(plans)
            except ObjectError as error:
                raise ApplyError(str(error), self.touched) from error
            except TimeoutError as error:
                after = format_duration(self._timeout or 0.0)
                raise ApplyError(f"applying did not end within {after}", self.touched) from error
            if stage.awaited:
                await self._settle(entries)
                fresh |= self._refresh_kinds(stage, entries)
        return self.touched

    async def prune(self, stale: Iterable[InventoryEntry]) -> PruneResult:
        """Delete what left the inventory (`apply.prune`)."""
        return await prune(self._client, self._discovery, self._owner, stale, concurrency=self._concurrency)

    def _rules(self) -> Rules:
        try:
            ignore = parse_rules(self._ignore)
        except IgnoreError as error:
            raise ApplyError(str(error)) from error
        return Rules(
            owner=self._owner,
            managers=self._managers,
            ignore=ignore,
            force=self._force,
            migrate_api_version=self._migrate_api_version,
            salt=orjson.dumps(list(self._ignore)) if self._ignore else b"",
        )

    async def _check(
        self,
        checker: Checker,
        stage: Stage,
        known: Mapping[ObjectKey, Known],
        unmoved: Container[ObjectKey],
        fresh: set[GroupKind],
    ) -> list[Plan]:
        async def check(obj: Obj) -> Plan:
            key = key_of(obj)
            return await checker.check(
                obj, known.get(key), is_trusted=key in unmoved, is_fresh=(key.group, key.kind) in fresh
            )

        return await side_by_side(stage.objects, check, limit=self._concurrency, catch=ObjectError)

    async def _write(self, plans: Sequence[Plan]) -> list[Entry]:
        """Write what is planned, and record everything of the stage in apply order."""
        for plan in plans:
            self._touched[plan.key] = None if _is_write(plan) else _entry(plan)
        for run in by_kind(plans, [plan.key for plan in plans]):
            writes = [plan for plan in run if _is_write(plan)]
            if writes:
                await side_by_side(writes, self._put, limit=self._concurrency, catch=ObjectError)
        entries = (self._touched[plan.key] for plan in plans)
        return [entry for entry in entries if entry is not None]

    async def _put(self, plan: Plan) -> None:
        """Bring one object onto the cluster. Raises ObjectError."""
        if plan.is_recreated:
            await self._make_room(plan)
        if plan.cleanup:
            await self._clean(plan)
        # From here on the object may exist, whatever becomes of the answer.
        self._touched[plan.key] = Entry(plan.key, plan.version, Action.UNKNOWN)
        try:
            live = await self._client.patch(plan.path, plan.body, kind=PatchType.APPLY, params=self._write_params)
        except (ApiError, UnreachableError) as error:
            if not isinstance(error, (ServerError, UnreachableError)):
                self._touched[plan.key] = None  # the server says it did nothing
            said = server_text(plan.key.kind, error, len(plan.body))
            raise ObjectError(f"{plan.key.subject} apply failed: {said}") from error
        uid, version = (str(get_in(live, "metadata", name, default="")) for name in ("uid", "resourceVersion"))
        known = Known(plan.digest, uid, version)
        self._touched[plan.key] = Entry(plan.key, plan.version, plan.action, live, known)

    async def _make_room(self, plan: Plan) -> None:
        """Delete the object that stands where its successor is to go, and wait until it is gone."""
        uid = str(get_in(plan.live, "metadata", "uid", default=""))
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._client.delete(plan.path, options=options)
            await self._health.wait_gone([plan.key], uids={plan.key: uid}, timeout=self._timeout or STAGE_PATIENCE)
        except NotFoundError:
            return
        except (ApiError, UnreachableError, HealthError) as error:
            text = f"{plan.key.subject} immutable field detected, failed to delete object: {error}"
            raise ObjectError(text) from error

    async def _clean(self, plan: Plan) -> None:
        """Take fields over; when the object moved meanwhile, decide anew from what it is now."""
        patch, params = plan.cleanup, {"fieldManager": self._owner.field_manager}
        try:
            for _ in range(_CONFLICT_TRIES):
                try:
                    await self._client.patch(plan.path, patch, kind=PatchType.JSON, params=params)
                except ConflictError:
                    live = await self._client.get(plan.path)
                    patch = cleanup(live, self._owner.field_manager, self._managers)
                    if not patch or control.is_merged({}, live):
                        return
                else:
                    return
        except NotFoundError:
            return  # gone: the apply makes it anew
        except (ApiError, UnreachableError) as error:
            text = f"{plan.key.subject} metadata.managedFields cleanup failed: {error}"
            raise ObjectError(text) from error
        raise ObjectError(f"{plan.key.subject} metadata.managedFields cleanup failed: it changes all the time")

    async def _settle(self, entries: Sequence[Entry]) -> None:
        """Wait until what the next stage may need is Current; what nobody moved since it was so still is."""
        targets = [
            Target(entry.key, entry.live)
            for entry in entries
            if entry.has_changed or (entry.action == Action.UNCHANGED and entry.live is not None)
        ]
        try:
            await self._health.wait(targets, timeout=self._stage_patience, fail_fast=False)
        except HealthError as error:
            raise ApplyError(str(error), self.touched) from error

    def _refresh_kinds(self, stage: Stage, entries: Sequence[Entry]) -> set[GroupKind]:
        """The kinds that definitions of this stage brought or changed; discovery is to look again."""
        changed = {entry.key.name for entry in entries if entry.has_changed}
        kinds = {
            (str(get_in(obj, "spec", "group")), str(get_in(obj, "spec", "names", "kind")))
            for obj in stage.objects
            if gvk_of(obj).kind == "CustomResourceDefinition" and key_of(obj).name in changed
        }
        if kinds:
            self._discovery.forget()
        return kinds


async def _normalised(objects: Sequence[Obj]) -> list[Obj]:
    """Normalise all objects, many of them beside the event loop."""
    if len(objects) <= _FEW:
        return [normalise(obj) for obj in objects]
    return await offload(lambda: [normalise(obj) for obj in objects])


def _is_write(plan: Plan) -> bool:
    return plan.action in {Action.CREATED, Action.CONFIGURED}


def _entry(plan: Plan) -> Entry:
    """The entry of an object that needs no write."""
    known = plan.known
    if plan.live is not None and plan.action == Action.UNCHANGED:
        uid, version = (str(get_in(plan.live, "metadata", name, default="")) for name in ("uid", "resourceVersion"))
        known = Known(plan.digest, uid, version)
    return Entry(plan.key, plan.version, plan.action, plan.live, known if plan.action == Action.UNCHANGED else None)
