"""The one place where all parts meet: build, wire, start, stop.

Order of the start: HTTP alive → informers synced → controllers → ready. Order of the stop: not ready → no new work,
waits cut short, what runs may end within the grace → cancel → last statuses → events flushed → HTTP → connections.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from gitopsd import logs
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
from gitopsd.engine import Engine, EngineSettings
from gitopsd.errors import GitopsdError
from gitopsd.fetch.cloud.tokens import CloudTokens
from gitopsd.fetch.foreign import Downloads, Retrying
from gitopsd.fetch.git import GitFetcher
from gitopsd.fetch.helmindex import Indexes
from gitopsd.fetch.http import HttpClient, HttpRules
from gitopsd.fetch.imageverify import ImageVerifier
from gitopsd.fetch.proxy import EnvironmentProxies
from gitopsd.fetch.registry import Registry
from gitopsd.fetch.remote import RemoteBases
from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.client import KubeClient, KubeSettings
from gitopsd.kube.discovery import Discovery, Resource
from gitopsd.kube.informer import Change, Informer, InformerPool
from gitopsd.kube.transport import Effort
from gitopsd.kustomize.build import Renderer
from gitopsd.runtime import triggers
from gitopsd.runtime.controller import Controller, ControllerSpec, Reconciler
from gitopsd.runtime.queue import WorkQueue
from gitopsd.runtime.recorder import Recorder
from gitopsd.runtime.status import StatusOwner
from gitopsd.settings import Settings
from gitopsd.settings import parse as settings_of
from gitopsd.tasks import TaskScope, first, watch_lag
from gitopsd.web.server import Health, WebServer

log = structlog.get_logger()

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
_FLUSH_SECONDS = 3.0
_RETRY_JITTER = 0.1
_SYNC_HINT_SECONDS = 10.0
_MOST_FILES = 65536
_COLLECT_AFTER = 20_000  # net new containers


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


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. A part that fails ends the daemon with its error."""
    logs.configure(settings.log_level, settings.log_encoding)
    for flag in settings.unused:
        log.info(f"{flag} has no effect in this version")
    stop = _stop_on_signals()
    host, port = settings.kube_service
    kube = KubeSettings(
        kubeconfig=settings.kubeconfig,
        context=settings.context,
        service_host=host,
        service_port=port,
        proxies=settings.proxies,
        effort=Effort(qps=settings.kube_api_qps, burst=settings.kube_api_burst),
    )
    async with KubeClient.connect(kube) as client, TaskScope("gitopsd") as tasks:
        await _serve(settings, client, tasks, stop)
    log.info("stopped")
    return 0


def _stop_on_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            sys.exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _serve(settings: Settings, client: KubeClient, tasks: TaskScope, stop: asyncio.Event) -> None:
    health = Health()
    store = ArtifactStore(
        settings.storage_path,
        advertised=settings.advertised_prefix,
        budget=settings.artifact_memory,
        retention_ttl=settings.artifact_retention_ttl,
        retention_records=settings.artifact_retention_records,
        digest_algorithm=settings.artifact_digest_algo,
    )
    await store.open()
    web = WebServer(health, store.resolve)
    health.wait_for("informers", "controllers")
    await web.start(
        metrics_addr=settings.metrics_addr, health_addr=settings.health_addr, storage_addr=settings.storage_addr
    )
    engine = EngineSettings(
        path=settings.engine_path, processes=settings.engine_processes, memory=settings.engine_memory
    )
    remote_bases = RemoteBases(
        proxies=settings.proxies,
        max_pack_size=settings.git_max_pack_size,
        deny_private_redirects=settings.git_deny_private_redirects,
        allow_http=settings.insecure_allow_http,
        # Less than a build may take, so that a host that hangs is named as the reason.
        timeout=settings.build_timeout * 3 / 4,
    )
    fetch_remote = None if settings.no_remote_bases else remote_bases.fetch
    try:
        async with remote_bases, Engine(engine, fetch_remote=fetch_remote) as running, _outside(settings) as outside:
            tasks.start("engine", running.failure())
            await _control(settings, client, tasks, stop, health, store, running, outside)
    finally:
        await web.stop()


@asynccontextmanager
async def _outside(settings: Settings) -> AsyncIterator[tuple[HttpClient, GitFetcher]]:
    """The clients for everything that is not the API server, with connections that end with the daemon."""
    proxies = EnvironmentProxies(*(settings.proxies.get(name, "") for name in ("http", "https", "no")))
    web = HttpClient(HttpRules(deny_private_redirects=settings.git_deny_private_redirects, proxies=proxies))
    git = GitFetcher(
        proxies=settings.proxies,
        max_pack_size=settings.git_max_pack_size,
        deny_private_redirects=settings.git_deny_private_redirects,
        ssh_kex_algorithms=settings.ssh_kex_algos,
        ssh_host_key_algorithms=settings.ssh_hostkey_algos,
        spool=settings.storage_path,
        # What is below it is never served: its name begins with a dot.
        cache=settings.storage_path / ".git-objects",
    )
    try:
        await git.open()
        yield web, git
    finally:
        await git.aclose()
        await web.aclose()


async def _control(
    settings: Settings,
    client: KubeClient,
    tasks: TaskScope,
    stop: asyncio.Event,
    health: Health,
    store: ArtifactStore,
    engine: Engine,
    outside: tuple[HttpClient, GitFetcher],
) -> None:
    recorder = Recorder(client, receiver=settings.events_addr, hostname=settings.hostname)
    tasks.start("recorder", recorder.run(), essential=True)
    tasks.start("lag", watch_lag(), essential=True)
    discovery = Discovery(client)
    pool = InformerPool(client, tasks)
    informers: dict[str, Informer[Obj]] = {
        model.GVK.kind: Informer(client, _resource(model), namespace=settings.watched_namespace) for model in _KINDS
    }
    shared = Shared(
        settings=settings,
        client=client,
        discovery=discovery,
        tasks=tasks,
        recorder=recorder,
        store=store,
        engine=engine,
        waiter=HealthWaiter(pool, discovery, client),
        informers=informers,
        web=outside[0],
        git=outside[1],
        dependents=[],
    )
    controllers = [*_source_controllers(shared), _kustomization_controller(shared), _release_controller(shared)]
    tasks.start("announcements", _announcements(store, shared.dependents), essential=True)
    _watch_definitions(shared)
    for kind, informer in informers.items():
        tasks.start(f"informer {kind}", informer.run(), essential=True)
    if await first(_synced(informers), stop.wait(), tasks.failure()) == 1:
        return
    health.reached("informers")
    _calm_the_collector()
    async with TaskScope("controllers", grace=8.0) as work:
        for controller in controllers:
            work.start(controller.spec.name, controller.run(), essential=True)
        health.reached("controllers")
        log.info("controllers started", controllers=[controller.spec.name for controller in controllers])
        await first(stop.wait(), tasks.failure(), work.failure())
        log.info("stopping")
        health.stop()
        await _drain(controllers, settings.graceful_shutdown_timeout)
    await recorder.flush(_FLUSH_SECONDS)


async def _synced(informers: dict[str, Informer[Obj]]) -> None:
    """Wait for every informer; say which ones are awaited when it takes long."""
    try:
        async with asyncio.timeout(_SYNC_HINT_SECONDS):
            for informer in informers.values():
                await informer.synced()
    except TimeoutError:
        missing = [kind for kind, informer in informers.items() if not informer.has_synced]
        log.info("waiting for the API server to list our kinds; are the definitions installed?", kinds=missing)
        for informer in informers.values():
            await informer.synced()


async def _drain(controllers: Sequence[Controller], grace: float) -> None:
    try:
        async with asyncio.timeout(grace):
            await asyncio.gather(*(controller.drain() for controller in controllers))
    except TimeoutError:
        log.info("work in progress is cancelled", running=sum(controller.queue.held for controller in controllers))


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
    return _SourceController(controller, parts)


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


def _calm_the_collector() -> None:
    """Objects here live long or die by their reference count: look for cycles rarely, and not in the caches."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


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


def main(arguments: Sequence[str]) -> int:
    """Run the daemon to its end; what stops it from starting is one line and exit code 1."""
    logs.configure()
    try:
        settings = settings_of(arguments)
        _allow_many_files()
        return _run_loop(run(settings))
    except (GitopsdError, OSError) as problem:
        log.error("the daemon cannot run", error=str(problem))  # noqa: TRY400 - a line for people, not a traceback
        return 1


def _allow_many_files() -> None:
    """Each tree in memory and each connection is a file descriptor: use what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run_loop(work: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
