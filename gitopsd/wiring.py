"""Which parts make up each controller, and what wakes it: the wiring that `daemon` starts and stops.

Nothing is decided here and nothing is awaited; each controller gets its informers, its queue and its reconciler, and
listeners are put where one controller's news concern another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gitopsd.api.helmrelease import HelmRelease
from gitopsd.api.kustomization import Kustomization
from gitopsd.api.meta import (
    HELM_MANAGER,
    KUSTOMIZE_STATUS_MANAGER,
    SOURCE_MANAGER,
)
from gitopsd.api.resource import Resource as Model
from gitopsd.api.source import Bucket, ExternalArtifact, GitRepository, HelmChart, HelmRepository, OCIRepository
from gitopsd.apply.health import HealthWaiter
from gitopsd.artifact.store import ArtifactStore
from gitopsd.controllers import helmrelease, kustomization, kustomization_references, source
from gitopsd.controllers.bucket import BucketSource
from gitopsd.controllers.git import GitSource
from gitopsd.controllers.helmchart import HelmChartSource
from gitopsd.controllers.helmrepository import HelmRepositorySource
from gitopsd.controllers.oci import OCISource
from gitopsd.controllers.secrets import Secrets
from gitopsd.controllers.source_references import chart_source_of, has_included, has_seen_source, includes_of
from gitopsd.engine import Engine
from gitopsd.fetch.cloud.tokens import CloudTokens
from gitopsd.fetch.foreign import Downloads, Retrying
from gitopsd.fetch.git import GitFetcher
from gitopsd.fetch.helmindex import Indexes
from gitopsd.fetch.http import HttpClient
from gitopsd.fetch.imageverify import ImageVerifier
from gitopsd.fetch.registry import Registry
from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery, Resource
from gitopsd.kube.informer import Change, Informer
from gitopsd.kustomize.build import Renderer
from gitopsd.runtime import triggers
from gitopsd.runtime.controller import Controller, ControllerSpec, Reconciler
from gitopsd.runtime.queue import WorkQueue
from gitopsd.runtime.recorder import Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.settings import Settings
from gitopsd.tasks import TaskScope

_KINDS: tuple[type[Model], ...] = (
    GitRepository,
    OCIRepository,
    HelmRepository,
    HelmChart,
    Bucket,
    ExternalArtifact,
    Kustomization,
    HelmRelease,
)
_SOURCE_KINDS = ("GitRepository", "OCIRepository", "Bucket", "ExternalArtifact")
_CHART_SOURCES = ("GitRepository", "HelmRepository", "Bucket")
_RETRY_JITTER = 0.1


@dataclass(frozen=True)
class Dependents:
    """Objects of one kind that refer to sources, and who works on them."""

    informer: Informer[Obj]
    queue: WorkQueue[ObjectKey]
    follower: triggers.Follower


@dataclass(frozen=True)
class Shared:
    """What every controller uses."""

    settings: Settings
    client: KubeClient
    discovery: Discovery
    tasks: TaskScope
    recorder: Recorder
    store: ArtifactStore
    engine: Engine
    waiter: HealthWaiter
    informers: dict[str, Informer[Obj]]
    web: HttpClient
    git: GitFetcher
    dependents: list[Dependents]

    def status(self, model: type[Model], manager: str) -> StatusOwner:
        """How one kind's status is written."""
        resource = _resource(model)

        def path_of(obj: Obj) -> str:
            return resource.path(obj["metadata"]["namespace"], obj["metadata"]["name"])

        return StatusOwner(self.client, manager, model.OWNED | {"Ready", "Reconciling", "Stalled"}, path_of)


def _resource(model: type[Model]) -> Resource:
    return Resource(gvk=model.GVK, plural=model.NAMES.plural, namespaced=True)


def informers(settings: Settings, client: KubeClient) -> dict[str, Informer[Obj]]:
    """One informer for each of our kinds, by kind."""
    return {
        model.GVK.kind: Informer(client, _resource(model), namespace=settings.watched_namespace) for model in _KINDS
    }


def controllers(shared: Shared) -> list[Controller]:
    """All three controllers, as one queue with workers for each kind."""
    found = [*_source_controllers(shared), _kustomization_controller(shared), _release_controller(shared)]
    shared.tasks.start("announcements", _announcements(shared.store, shared.dependents), essential=True)
    _watch_definitions(shared)
    return found


def _queue(shared: Shared, name: str) -> WorkQueue[ObjectKey]:
    settings = shared.settings
    return WorkQueue(name, floor=settings.min_retry_delay, ceiling=settings.max_retry_delay, jitter=_RETRY_JITTER)


def _controller(shared: Shared, model: type[Model], workers: int, reconciler: Reconciler) -> Controller:
    """A controller whose queue is fed by the objects of its own kind."""
    name = model.GVK.kind.lower()
    queue = _queue(shared, name)
    selector = triggers.Selector(shared.settings.watch_label_selector)
    triggers.own_objects(shared.informers[model.GVK.kind], queue, selector)
    return Controller(ControllerSpec(name, model.GVK.kind, model.GVK.group, workers), queue, reconciler)


def _source_controllers(shared: Shared) -> list[Controller]:
    services = _source_services(shared)
    git = _source_controller(shared, GitSource(services, shared.git))
    charts = _source_controller(shared, HelmChartSource(services))
    _share_looks(shared, git.controller.queue)
    _follow_sources(shared, git, ("GitRepository",), includes_of, has_included)
    _follow_sources(shared, charts, _CHART_SOURCES, chart_source_of, has_seen_source)
    others = (OCISource(services), HelmRepositorySource(services), BucketSource(services))
    return [git.controller, charts.controller, *(_source_controller(shared, kind).controller for kind in others)]


def _share_looks(shared: Shared, queue: WorkQueue[ObjectKey]) -> None:
    """Wake GitRepositories when another one's look at the remote has news for them."""
    shared.git.on_moved = lambda key: queue.add(key, cause=key.subject)

    def listen(change: Change[Obj]) -> None:
        if change.kind == "DELETED":
            shared.tasks.start(f"forget {change.key.subject}", shared.git.forget(change.key))

    shared.informers["GitRepository"].tell(listen)


def _follow_sources(
    shared: Shared,
    dependents: _SourceController,
    kinds: Sequence[str],
    sources_of: Callable[[Obj], Iterable[ObjectKey]],
    has_seen: Callable[[Obj, str], bool],
) -> None:
    """Wake sources that are made of other sources."""
    informer, queue = dependents.parts.informer, dependents.controller.queue
    follower = source.SourceFollower(dependents.parts, has_seen)
    informer.index(triggers.SOURCE_INDEX, sources_of)
    for kind in kinds:
        triggers.source_changes(shared.informers[kind], informer, queue, follower)
    shared.dependents.append(Dependents(informer, queue, follower))


def _source_services(shared: Shared) -> source.Services:
    settings, web = shared.settings, shared.web
    registry = Registry(web)
    return source.Services(
        client=shared.client,
        settings=settings,
        store=shared.store,
        engine=shared.engine,
        recorder=shared.recorder,
        web=web,
        secrets=Secrets(shared.client),
        registry=registry,
        indexes=Indexes(most=settings.helm_cache_max_size, ttl=settings.helm_cache_ttl),
        cloud=CloudTokens(
            web,
            cache_size=settings.token_cache_max_size,
            cache_max_duration=settings.token_cache_max_duration,
            environment=settings.cloud_environment,
        ),
        verifier=ImageVerifier(registry, web, shared.engine),
        listers={kind: informer.lister for kind, informer in shared.informers.items()},
    )


@dataclass(frozen=True)
class _SourceController:
    """The controller of one kind of source, and what it needs to be woken by other sources."""

    controller: Controller
    parts: source.Parts


def _source_controller(shared: Shared, kind: source.SourceKind[Any]) -> _SourceController:
    model = kind.model
    parts = source.Parts(
        informer=shared.informers[model.GVK.kind],
        store=shared.store,
        recorder=shared.recorder,
        status=shared.status(model, SOURCE_MANAGER),
        tasks=shared.tasks,
        settings=shared.settings,
    )
    reconciler: source.SourceReconciler[Any] = source.SourceReconciler(kind, parts)
    controller = _controller(shared, model, shared.settings.concurrent_sources, reconciler)
    let_go(parts, controller.queue)
    return _SourceController(controller, parts)


def let_go(parts: source.Parts, queue: WorkQueue[ObjectKey]) -> None:
    """Keep nothing of a source that is gone, also when it went without its finalizer, or never had one."""

    def listen(change: Change[Obj]) -> None:
        if change.kind != "DELETED":
            return
        if change.old is not None:
            parts.status.forget(change.old)
        if parts.store.withdraw(change.key):
            queue.add(change.key, cause=change.key.subject)

    parts.informer.tell(listen)


def _release_controller(shared: Shared) -> Controller:
    status = shared.status(HelmRelease, HELM_MANAGER)
    informer = shared.informers["HelmRelease"]
    reconciler = helmrelease.reconciler(informer, status, shared.recorder, shared.tasks)
    return _controller(shared, HelmRelease, 2, reconciler)


def _kustomization_controller(shared: Shared) -> Controller:
    settings = shared.settings
    informer = shared.informers["Kustomization"]
    sources = {kind: shared.informers[kind] for kind in _SOURCE_KINDS}
    reconciler = kustomization.KustomizationReconciler(
        kustomization.Parts(
            client=shared.client,
            discovery=shared.discovery,
            kustomizations=informer,
            sources=sources,
            store=shared.store,
            downloads=Downloads(shared.web, shared.store.spool, Retrying(settings.http_retry, settings.http_timeout)),
            renderer=Renderer(
                shared.engine,
                timeout=settings.build_timeout,
                remote_bases=not settings.no_remote_bases,
                strict=settings.feature_gates["StrictPostBuildSubstitutions"],
            ),
            waiter=shared.waiter,
            recorder=shared.recorder,
            status=shared.status(Kustomization, KUSTOMIZE_STATUS_MANAGER),
            tasks=shared.tasks,
            settings=settings,
        )
    )
    controller = _controller(shared, Kustomization, settings.concurrent, reconciler)
    _follow(shared, controller.queue, informer, sources, reconciler)
    return controller


def _follow(
    shared: Shared,
    queue: WorkQueue[ObjectKey],
    informer: Informer[Obj],
    sources: dict[str, Informer[Obj]],
    reconciler: kustomization.KustomizationReconciler,
) -> None:
    """Wake Kustomizations by what they refer to."""
    informer.index(triggers.SOURCE_INDEX, kustomization_references.source_of)
    informer.index(triggers.CONFIG_INDEX, kustomization_references.configs_of)
    informer.index(triggers.DEPENDENCY_INDEX, kustomization_references.dependencies_of)
    for one in sources.values():
        triggers.source_changes(one, informer, queue, reconciler)
    triggers.dependency_changes(informer, queue, reconciler)
    shared.dependents.append(Dependents(informer, queue, reconciler))
    settings = shared.settings
    if settings.feature_gates["DisableConfigWatchers"]:
        return
    for kind, plural in (("ConfigMap", "configmaps"), ("Secret", "secrets")):
        configs: Informer[Obj] = Informer(
            shared.client,
            Resource(gvk=GVK("", "v1", kind), plural=plural, namespaced=True),
            namespace=settings.watched_namespace,
            label_selector=settings.watch_configs_label_selector,
            metadata_only=True,
        )
        triggers.config_changes(configs, informer, queue)
        shared.informers[kind] = configs


async def _announcements(store: ArtifactStore, dependents: Sequence[Dependents]) -> None:
    """Hand the news of a stored artifact to its consumers, without the way over the API server."""
    while True:
        key = await store.announcements.get()
        artifact = store.announced(key)
        if artifact is not None:
            for one in dependents:
                triggers.wake_dependents(key, artifact.revision, one.informer, one.queue, one.follower)


def _watch_definitions(shared: Shared) -> None:
    """Look the served kinds up again when a definition comes, changes or goes."""
    definitions: Informer[Obj] = Informer(
        shared.client,
        Resource(
            gvk=GVK("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
            plural="customresourcedefinitions",
            namespaced=False,
        ),
        metadata_only=True,
    )

    def listen(change: Change[Obj]) -> None:
        if definitions.has_synced:
            shared.discovery.forget()

    definitions.tell(listen)
    shared.informers["CustomResourceDefinition"] = definitions
