"""The one place where all parts meet: build, start, stop; which parts make up a controller says `wiring`.

Order of the start: HTTP alive → informers synced → controllers → ready. Order of the stop: not ready → no new work,
waits cut short, what runs may end within the grace → cancel → last statuses → events flushed → HTTP → connections.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from gitopsd import logs, wiring
from gitopsd.apply.health import HealthWaiter
from gitopsd.artifact.store import ArtifactStore
from gitopsd.engine import Engine, EngineSettings
from gitopsd.errors import GitopsdError
from gitopsd.fetch.git import GitFetcher
from gitopsd.fetch.http import HttpClient, HttpRules
from gitopsd.fetch.proxy import EnvironmentProxies
from gitopsd.fetch.remote import RemoteBases
from gitopsd.krm.objects import Obj
from gitopsd.kube.client import KubeClient, KubeSettings
from gitopsd.kube.discovery import Discovery
from gitopsd.kube.informer import Informer, InformerPool
from gitopsd.kube.transport import Effort
from gitopsd.runtime.controller import Controller
from gitopsd.runtime.recorder import Recorder
from gitopsd.settings import Settings
from gitopsd.settings import parse as settings_of
from gitopsd.tasks import TaskScope, first, watch_lag
from gitopsd.web.server import Health, WebServer

log = structlog.get_logger()

_FLUSH_SECONDS = 3.0
_SYNC_HINT_SECONDS = 10.0
_MOST_FILES = 65536
_COLLECT_AFTER = 20_000  # net new containers


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
    informers = wiring.informers(settings, client)
    shared = wiring.Shared(
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
    controllers = wiring.controllers(shared)
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


def _calm_the_collector() -> None:
    """Objects here live long or die by their reference count: look for cycles rarely, and not in the caches."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


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
