"""What applying one object would do: asked of the server by a dry run, decided by `spec/kustomize.md` 4.4 to 4.6.

Reads and dry-runs only; a `Plan` says what is to be written. An object that does not exist costs one request, one that
is as we left it too; only an object that exists and may differ is read as well. Control keys of the live object are
honoured before anything is planned, and when the dry run fails they are looked up before the failure counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from gitopsd.apply import control
from gitopsd.apply.changes import Action, Known
from gitopsd.apply.control import Owner
from gitopsd.apply.ignore import IgnoreRule, pointers_for, without, yielded
from gitopsd.apply.managed_fields import FieldManager, Patch, cleanup, migrated
from gitopsd.apply.undeclared import MAX_ROUNDS, is_lenient, undeclared_paths, without_fields
from gitopsd.errors import GitopsdError
from gitopsd.krm.diff import has_drifted
from gitopsd.krm.objects import Obj, ObjectKey, get_in, gvk_of, key_of, subject
from gitopsd.kube.client import KubeClient, PatchType
from gitopsd.kube.discovery import Discovery, NoMatchError, PathError, Resource, UnknownKindError
from gitopsd.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from gitopsd.tasks import Backoff

_Refusal = (ApiError, UnreachableError)

# How long a kind whose definition was applied a moment ago may still be unknown, or known by its old schema (seconds).
FRESH_KIND_PATIENCE: Final = 5.0
_UNKNOWN_RESOURCE: Final = "the server could not find the requested resource"
_VALUE: Final = re.compile(r"value\.valueUnstructured\{Value:.*?\}(?=\n|$)", re.DOTALL)


class ObjectError(GitopsdError):
    """One object cannot be applied; the text names it and is complete."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written for one object; nothing unless the action is created or configured."""

    key: ObjectKey
    version: str
    action: Action
    path: str = ""
    body: bytes = field(default=b"", repr=False)
    digest: str = ""
    live: Obj | None = field(default=None, repr=False)
    known: Known | None = None
    cleanup: Patch = field(default_factory=list, repr=False)
    is_recreated: bool = False


@dataclass(frozen=True)
class Rules:
    """How objects are compared and applied, the same for every object of one apply."""

    owner: Owner
    managers: Sequence[FieldManager]
    ignore: Sequence[IgnoreRule] = ()
    force: bool = False
    migrate_api_version: bool = False
    salt: bytes = b""  # what besides the manifest decides whether an object is as wanted

    @property
    def dry_run(self) -> dict[str, str | int | bool]:
        """Query parameters of a dry run."""
        return {"fieldManager": self.owner.field_manager, "force": True, "dryRun": "All"}


class _ForbiddenReadError(ObjectError):
    """We may write the object, and not read it."""


class _DryRunFailure(Exception):  # noqa: N818 - it carries the failure of a request, it is none of its own
    """A dry run that was refused, with the manifest as it was sent last."""

    def __init__(self, manifest: Obj, error: ApiError | UnreachableError) -> None:
        super().__init__(str(error))
        self.manifest = manifest
        self.error = error


class Checker:
    """Makes a plan for one object after the other; holds no state between them."""

    def __init__(self, client: KubeClient, discovery: Discovery, rules: Rules) -> None:
        self._client = client
        self._discovery = discovery
        self._rules = rules

    async def check(self, obj: Obj, known: Known | None, *, is_trusted: bool = False, is_fresh: bool = False) -> Plan:
        """Plan one normalised object. Raises ObjectError.

        `known` is what was true after we last looked; with `is_trusted` somebody watched and nothing moved since.
        `is_fresh` says that the object's kind was defined or changed a moment ago.
        """
        resource = await self._resource(obj, is_fresh)
        if resource is None:
            return Plan(key_of(obj), gvk_of(obj).version, Action.SKIPPED)
        obj = placed(obj, resource)
        key, version = key_of(obj), resource.gvk.version
        if control.is_left_alone(obj):
            return Plan(key, version, Action.SKIPPED)
        path = _path_of(obj, resource)
        body = orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(body + self._rules.salt, digest_size=16).hexdigest()
        if is_trusted and known is not None and known.digest == digest:
            return Plan(key, version, Action.UNCHANGED, digest=digest, known=known)
        plan = Plan(key, version, Action.CREATED, path, body, digest, known=known)
        return await self._look(obj, plan, FRESH_KIND_PATIENCE if is_fresh else 0.0)

    async def _resource(self, obj: Obj, is_fresh: bool) -> Resource | None:
        """The object's kind; None for an unknown kind whose object is to be left alone anyway."""
        try:
            return await self._discovery.resource(gvk_of(obj), patience=FRESH_KIND_PATIENCE if is_fresh else 0.0)
        except (NoMatchError, UnknownKindError, *_Refusal) as error:
            if control.is_left_alone(obj):
                return None
            raise ObjectError(f"{subject(obj)} dry-run failed: {error}") from error

    async def _look(self, obj: Obj, plan: Plan, patience: float) -> Plan:
        if control.is_only_created(obj) and (live := await self._live(plan)) is not None:
            return Plan(plan.key, plan.version, Action.SKIPPED, live=live)
        if self._rules.migrate_api_version:
            await self._migrate(obj, plan)
        try:
            manifest, result = await self._dry_run(obj, plan, patience)
        except _DryRunFailure as failure:
            return await self._after_failure(failure, plan)
        if manifest is not obj:
            plan = replace(plan, body=orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS))
        state = _state(result)
        if not state[1]:
            return plan  # the result has no resourceVersion: there is nothing of that name
        if plan.known is not None and plan.known == (plan.digest, *state):
            return replace(plan, action=Action.UNCHANGED, live=result)
        return await self._compare(manifest, result, plan)

    async def _dry_run(self, obj: Obj, plan: Plan, patience: float = 0.0) -> tuple[Obj, Obj]:
        """Send the dry run; what was sent in the end, and its result. Raises _DryRunFailure."""
        manifest, body, rounds = obj, plan.body, MAX_ROUNDS
        clock = asyncio.get_running_loop().time
        ends, backoff = clock() + patience, Backoff(0.05, 1.0)
        while True:
            try:
                return manifest, await self._client.patch(
                    plan.path, body, kind=PatchType.APPLY, params=self._rules.dry_run
                )
            except _Refusal as error:
                slimmer = _without_undeclared(manifest, error) if rounds else None
                if slimmer is not None:
                    rounds -= 1
                    manifest, body = slimmer, orjson.dumps(slimmer, option=orjson.OPT_SORT_KEYS)
                elif clock() >= ends:
                    raise _DryRunFailure(manifest, error) from error
                else:
                    # The server has the new definition, though not yet everywhere; it does not say when.
                    await asyncio.sleep(backoff.next())

    async def _compare(self, manifest: Obj, result: Obj, plan: Plan) -> Plan:
        """Decide by the live object whether what the dry run would make of it is a change (4.4 steps 2, 5, 6)."""
        try:
            live = await self._live(plan)
        except _ForbiddenReadError:
            # The result shows the live labels and annotations, so control keys count; what would change is not known.
            action = Action.SKIPPED if control.is_left_alone(result) else Action.CONFIGURED
            return replace(plan, action=action)
        if live is None:
            return plan
        if control.is_left_alone(live):
            return Plan(plan.key, plan.version, Action.SKIPPED, live=live)
        if _state(live) != _state(result):
            try:  # it moved between the two looks; what moved must not count as what we would change
                manifest, result = await self._dry_run(manifest, plan)
            except _DryRunFailure as failure:
                return await self._after_failure(failure, plan)
            if not _state(result)[1]:
                return plan  # gone meanwhile
        taken: Patch = []
        if not control.is_merged(manifest, live):
            taken = cleanup(live, self._rules.owner.field_manager, self._rules.managers)
        pointers = pointers_for(result, self._rules.ignore)
        one, other = (without(live, pointers), without(result, pointers)) if pointers else (live, result)
        if not taken and not has_drifted(one, other):
            return replace(plan, action=Action.UNCHANGED, live=live)
        if pointers:
            payload = yielded(manifest, live, result, pointers, self._rules.owner.field_manager)
            plan = replace(plan, body=orjson.dumps(payload, option=orjson.OPT_SORT_KEYS))
        return replace(plan, action=Action.CONFIGURED, live=live, cleanup=taken)

    async def _live(self, plan: Plan) -> Obj | None:
        """The live object, None when there is none. Raises ObjectError, _ForbiddenReadError."""
        try:
            return await self._read(plan.path)
        except _Refusal as error:
            kind = _ForbiddenReadError if isinstance(error, ForbiddenError) else ObjectError
            raise kind(f"{plan.key.subject} dry-run failed{_reason(error)}: {error}") from error

    async def _read(self, path: str) -> Obj | None:
        try:
            return await self._client.get(path)
        except NotFoundError:
            return None

    async def _after_failure(self, failure: _DryRunFailure, plan: Plan) -> Plan:
        """A failed dry run counts only if the live object does not forbid us to touch it, and force cannot help."""
        manifest, error = failure.manifest, failure.error
        live = None
        if not isinstance(error, NotFoundError):
            try:
                live = await self._read(plan.path)
            except _Refusal:
                live = None  # the dry run's own failure is the one to report
        if live is not None and control.is_left_alone(live):
            return Plan(plan.key, plan.version, Action.SKIPPED, live=live)
        is_forced = self._rules.force or control.is_forced(manifest, live)
        if live is not None and is_forced and _is_immutable(error) and await self._could_be_created(manifest, plan):
            body = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)
            return replace(plan, action=Action.CREATED, body=body, live=live, is_recreated=True)
        raise ObjectError(dry_run_failure(manifest, error, len(plan.body))) from error

    async def _could_be_created(self, manifest: Obj, plan: Plan) -> bool:
        """Whether the object would be accepted if its place were free, so that it is never deleted for nothing.

        The server validates a creation before it looks whether the name is taken. Upstream deletes first: a mere typo,
        which is a 422 too, then costs the running object (4.6).
        """
        collection = plan.path.rpartition("/")[0]
        params: Mapping[str, str | int | bool] = {"fieldManager": self._rules.owner.field_manager, "dryRun": "All"}
        try:
            await self._client.create(collection, manifest, params=params)
        except AlreadyExistsError:
            return True
        except ForbiddenError as error:
            return "exceeded quota" in error.message  # by the very object that makes room
        except _Refusal:
            return False
        return True

    async def _migrate(self, obj: Obj, plan: Plan) -> None:
        """Gate MigrateAPIVersion (4.4 step 3)."""
        try:
            live = await self._read(plan.path)
            patch = migrated(live, str(obj.get("apiVersion"))) if live is not None else []
            if live is not None and patch and not control.is_left_alone(live):
                params = {"fieldManager": self._rules.owner.field_manager}
                await self._client.patch(plan.path, patch, kind=PatchType.JSON, params=params)
        except ConflictError:
            return  # it moved; the next run sees to it
        except _Refusal as error:
            raise ObjectError(f"{plan.key.subject} metadata.managedFields migration failed: {error}") from error


def placed(obj: Obj, resource: Resource) -> Obj:
    """The object without the namespace that a cluster-scoped kind cannot have."""
    metadata = obj.get("metadata") or {}
    if resource.namespaced or "namespace" not in metadata:
        return obj
    return {**obj, "metadata": {name: value for name, value in metadata.items() if name != "namespace"}}


def dry_run_failure(obj: Obj, error: ApiError | UnreachableError, size: int) -> str:
    """The text of `spec/kustomize.md` 2.3 for an object of `size` bytes that the server refused."""
    said = server_text(gvk_of(obj).kind, error, size)
    if isinstance(error, NotFoundError):
        if not get_in(obj, "metadata", "namespace"):
            return f"{subject(obj)} namespace not specified: {said}"
        return f"{subject(obj)} not found: {said}"
    return f"{subject(obj)} dry-run failed{_reason(error)}: {said}"


def server_text(kind: str, error: Exception, size: int) -> str:
    """The server's words; for a Secret without the value that a schema error quotes, for a giant with its size."""
    text = str(error)
    if kind == "Secret":
        text = _VALUE.sub("***", text)
    if "too large" in text:
        text = f"{text} ({size} bytes)"
    return text


def _path_of(obj: Obj, resource: Resource) -> str:
    metadata: Mapping[str, Any] = obj.get("metadata") or {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if resource.namespaced and not namespace:
        # As the server answers a request for such a path, without asking it (4.8).
        raise ObjectError(f"{subject(obj)} namespace not specified: {_UNKNOWN_RESOURCE}")
    try:
        return resource.path(str(namespace or ""), str(name or ""))
    except PathError as error:
        raise ObjectError(f"{subject(obj)} dry-run failed: {error}") from error


def _without_undeclared(manifest: Obj, error: Exception) -> Obj | None:
    paths = undeclared_paths(str(error)) if is_lenient(manifest) else []
    return without_fields(manifest, paths) if paths else None


def _reason(error: ApiError | UnreachableError) -> str:
    if not isinstance(error, ApiError):
        return ""
    if isinstance(error, ConflictError) and error.is_field_conflict:
        return " (FieldManagerConflict)"
    return f" ({error.reason})" if error.reason else ""


def _is_immutable(error: ApiError | UnreachableError) -> bool:
    """A refusal that making the object anew may get around (4.6)."""
    return (
        isinstance(error, ConflictError)
        or (isinstance(error, ApiError) and error.status == 422)
        or "is immutable" in str(error)
        or "immutable field" in str(error)
    )


def _state(obj: Obj) -> tuple[str, str]:
    """uid and resourceVersion: which state of which object this is."""
    metadata = obj.get("metadata") or {}
    return str(metadata.get("uid") or ""), str(metadata.get("resourceVersion") or "")
