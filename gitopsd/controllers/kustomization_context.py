"""What the runs of the Kustomization controller share: its parts, its memory, and small answers about an object.

A part of the Kustomization controller. Nothing here reconciles; nothing here is kept anywhere but in this process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgspec

from gitopsd.api.kustomization import Kustomization
from gitopsd.api.meta import (
    KUSTOMIZE_APPLY_MANAGER,
    KUSTOMIZE_COMPONENT,
    KUSTOMIZE_GROUP,
    SOURCE_GROUP,
    Artifact,
    ConditionType,
)
from gitopsd.apply.changes import ChangeSet, Known
from gitopsd.apply.control import Owner
from gitopsd.apply.health import HealthWaiter
from gitopsd.apply.ssa import Applier
from gitopsd.artifact.store import ArtifactStore
from gitopsd.errors import RetryError, WaitError
from gitopsd.fetch.foreign import Downloads
from gitopsd.krm.objects import Obj, ObjectKey, get_in, labels_of
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery
from gitopsd.kube.informer import Informer
from gitopsd.kustomize.build import Renderer
from gitopsd.runtime.recorder import EventType, Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.runtime.triggers import Selector
from gitopsd.settings import Settings
from gitopsd.tasks import TaskScope

NOT_SUPPORTED = "NotSupported"
OWNED = frozenset({"Ready", "Reconciling", "Stalled", "Healthy"})
_REVISION = f"{KUSTOMIZE_GROUP}/revision"
_ORIGIN_REVISION = f"{KUSTOMIZE_GROUP}/originRevision"


@dataclass(frozen=True)
class Parts:
    """What the controller works with."""

    client: KubeClient
    discovery: Discovery
    kustomizations: Informer[Obj]
    sources: Mapping[str, Informer[Obj]]  # by kind
    store: ArtifactStore
    downloads: Downloads
    renderer: Renderer
    waiter: HealthWaiter
    recorder: Recorder
    status: StatusOwner
    tasks: TaskScope
    settings: Settings

    def applier(self, kustomization: Kustomization) -> Applier:
        """The applier for one Kustomization."""
        settings, metadata = self.settings, kustomization.metadata
        return Applier(
            self.client,
            self.discovery,
            Owner(metadata.name, metadata.namespace, KUSTOMIZE_GROUP, KUSTOMIZE_APPLY_MANAGER),
            self.waiter,
            concurrency=settings.concurrent_ssa,
            force=kustomization.spec.force,
            override_managers=settings.override_manager,
            custom_stage_kinds=_stage_kinds(settings.custom_apply_stage_kinds),
            ignore=[rule.to_builtins() for rule in kustomization.spec.ignore],
            migrate_api_version=settings.feature_gates["MigrateAPIVersion"],
        )

    def is_foreign(self, source: Obj | None) -> bool:
        """Whether another controller fetches that source: what it stores comes from its own server."""
        if source is None:
            return False
        return source.get("kind") == "ExternalArtifact" or not self._own.matches(labels_of(source))

    @cached_property
    def _own(self) -> Selector:
        """The labels of objects that this process works on."""
        return Selector(self.settings.watch_label_selector)

    def tell(
        self,
        obj: Obj,
        event_type: EventType,
        reason: str,
        message: str,
        revision: str = "",
        origin: str = "",
        **more: str,
    ) -> None:
        """Tell about a Kustomization (`spec/kustomize.md` 7.3)."""
        annotations = {_REVISION: revision} if revision else {}
        if origin:
            annotations[_ORIGIN_REVISION] = origin
        self.recorder.event(KUSTOMIZE_COMPONENT, obj, event_type, reason, message, annotations | more)


class Memory:
    """What is remembered of each Kustomization between its runs. Losing it costs requests, never correctness."""

    def __init__(self) -> None:
        self._attempted: dict[ObjectKey, str] = {}
        self._waiting: set[ObjectKey] = set()
        self._artifact_awaited_since: dict[ObjectKey, float] = {}
        self._looking: set[ObjectKey] = set()
        # What each object was when we last saw or made it as wanted: spares reading it while nobody touches it.
        self._known: dict[ObjectKey, Mapping[ObjectKey, Known]] = {}

    def attempts(self, key: ObjectKey, revision: str) -> None:
        """A run of `key` works on `revision` from now on."""
        self._attempted[key] = revision

    def attempted(self, key: ObjectKey) -> str | None:
        """The revision that the newest run worked on, None when there was none in this process."""
        return self._attempted.get(key)

    def looks(self, key: ObjectKey, *, is_looking: bool) -> None:
        """Whether a run of `key` has begun and has not looked at its source yet: it will see what is new by then."""
        if is_looking:
            self._looking.add(key)
        else:
            self._looking.discard(key)

    def is_looking(self, key: ObjectKey) -> bool:
        """What `looks` was last told."""
        return key in self._looking

    def waits(self, key: ObjectKey, *, is_waiting: bool) -> None:
        """Whether the last run of `key` ended because a source or a dependency was not ready."""
        if is_waiting:
            self._waiting.add(key)
        else:
            self._waiting.discard(key)

    def is_waiting(self, key: ObjectKey) -> bool:
        """What `waits` was last told."""
        return key in self._waiting

    def awaits_artifact(self, key: ObjectKey) -> float:
        """No artifact again; seconds since the first of these runs in a row."""
        now = time.monotonic()
        return now - self._artifact_awaited_since.setdefault(key, now)

    def has_artifact(self, key: ObjectKey) -> None:
        """A run had its artifact, or needed none."""
        self._artifact_awaited_since.pop(key, None)

    def applied(self, key: ObjectKey, changes: ChangeSet) -> None:
        """Remember the objects as they are after an apply."""
        self._known[key] = changes.known()

    def known(self, key: ObjectKey) -> Mapping[ObjectKey, Known] | None:
        """The objects as they were after the last apply."""
        return self._known.get(key)

    def forget(self, key: ObjectKey) -> None:
        """The object is gone."""
        self._attempted.pop(key, None)
        self._waiting.discard(key)
        self._artifact_awaited_since.pop(key, None)
        self._known.pop(key, None)


class QuietError(RetryError):
    """A failure that is told by the condition alone, without an event."""


class ArtifactAwaitedError(WaitError):
    """The source has no artifact now. If it had one before, it is most likely fetching it again (after a restart)."""


def unsupported(kustomization: Kustomization, settings: Settings) -> str:
    """The first thing the object asks for that this version cannot do, empty when there is none."""
    spec = kustomization.spec
    asked = {
        "spec.decryption": spec.decryption is not None,
        "spec.kubeConfig": spec.kube_config is not None,
        "spec.serviceAccountName": bool(spec.service_account_name),
        "--default-service-account": bool(settings.default_service_account),
        "spec.healthCheckExprs": bool(spec.health_check_exprs),
        "spec.dependsOn[].readyExpr": any(reference.ready_expr for reference in spec.depends_on),
    }
    return next((name for name, is_asked in asked.items() if is_asked), "")


def _stage_kinds(text: str) -> frozenset[tuple[str, str]]:
    pairs = (item.strip().rpartition("/") for item in text.split(",") if item.strip())
    return frozenset((group, kind) for group, _, kind in pairs)


def ready_reason(kustomization: Kustomization, fallback: str) -> str:
    ready = next((item for item in kustomization.status.conditions if item.type == ConditionType.READY), None)
    return ready.reason if ready is not None else fallback


def source_key(kustomization: Kustomization) -> ObjectKey:
    reference = kustomization.spec.source_ref
    namespace = reference.namespace or kustomization.metadata.namespace
    return ObjectKey(SOURCE_GROUP, reference.kind, namespace, reference.name)


def artifact_of(source: Obj) -> Artifact | None:
    """The artifact that a source's status tells of; one that cannot be read is none."""
    found = get_in(source, "status", "artifact")
    try:
        return None if found is None else msgspec.convert(found, Artifact)
    except msgspec.ValidationError:
        return None
