"""Every Prometheus collector, in one list.

Names and labels that Flux has are kept exactly (`spec/runtime.md` 2), ours begin with `gitopsd_`.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

registry = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)

# Ten exponential steps from 0.01 to 1800 seconds, as Flux's dashboards expect them.
_RECONCILE_BUCKETS = tuple(0.01 * (1800 / 0.01) ** (step / 9) for step in range(10))
_RUNTIME_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
    *(1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
)
_QUEUE_BUCKETS = tuple(10.0**power for power in range(-8, 4))


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=registry)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=registry)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)


reconcile_duration = _histogram(
    "gotk_reconcile_duration_seconds", "Seconds one reconcile took.", _RECONCILE_BUCKETS, "kind", "name", "namespace"
)
reconcile_total = _counter(
    "controller_runtime_reconcile_total", "Reconciles by controller and result.", "controller", "result"
)
reconcile_errors = _counter(
    "controller_runtime_reconcile_errors_total", "Reconciles that ended in an error.", "controller"
)
reconcile_terminal_errors = _counter(
    "controller_runtime_terminal_reconcile_errors_total", "Reconciles that stalled.", "controller"
)
reconcile_panics = _counter(
    "controller_runtime_reconcile_panics_total", "Reconciles that ended in an unexpected exception.", "controller"
)
reconcile_timeouts = _counter(
    "controller_runtime_reconcile_timeouts_total", "Reconciles that passed their deadline.", "controller"
)
reconcile_time = _histogram(
    "controller_runtime_reconcile_time_seconds", "Seconds one reconcile took.", _RUNTIME_BUCKETS, "controller"
)
max_concurrent_reconciles = _gauge(
    "controller_runtime_max_concurrent_reconciles", "Workers a controller may use.", "controller"
)
active_workers = _gauge("controller_runtime_active_workers", "Workers that are busy.", "controller")

queue_depth = _gauge("workqueue_depth", "Keys that wait.", "name", "controller", "priority")
queue_adds = _counter("workqueue_adds_total", "Keys added.", "name", "controller")
queue_retries = _counter("workqueue_retries_total", "Keys added again after a failure.", "name", "controller")
queue_wait = _histogram(
    "workqueue_queue_duration_seconds", "Seconds a key waited.", _QUEUE_BUCKETS, "name", "controller"
)
queue_work = _histogram(
    "workqueue_work_duration_seconds", "Seconds a key was worked on.", _QUEUE_BUCKETS, "name", "controller"
)
queue_unfinished = _gauge(
    "workqueue_unfinished_work_seconds", "Seconds of work in progress, summed.", "name", "controller"
)
queue_longest = _gauge(
    "workqueue_longest_running_processor_seconds",
    "Seconds the longest running work takes by now.",
    "name",
    "controller",
)

rest_client_requests = _counter(
    "rest_client_requests_total", "Requests to the API server by code, method and host.", "code", "method", "host"
)

token_cache_events = _counter(
    "gotk_token_cache_events_total",
    "Look-ups in the token cache.",
    *("event_type", "kind", "name", "namespace", "operation"),
)
token_cache_requests = _counter("gotk_token_cache_requests_total", "Requests to the token cache.", "status")
token_cache_evictions = _counter("gotk_token_cache_evictions_total", "Tokens dropped for room.")
token_cached_items = _gauge("gotk_token_cached_items", "Tokens in the cache.")
index_cache_events = _counter(
    "gotk_cache_events_total", "Look-ups in the Helm index cache.", "event_type", "name", "namespace"
)

go_info = _gauge("go_info", "A count of daemons for dashboards that expect it.", "version")
go_info.labels("gitopsd").set(1)

events_dropped = _counter("gitopsd_events_dropped_total", "Events lost because the queue was full.", "sink")
events_sent = _counter("gitopsd_events_sent_total", "Events delivered.", "sink", "result")
refused_inputs = _counter(
    "gitopsd_refused_inputs_total", "Inputs refused before use, by component and rule.", "component", "rule"
)
watch_restarts = _counter("gitopsd_watch_restarts_total", "Watches opened again, by kind and reason.", "kind", "reason")
informer_objects = _gauge("gitopsd_informer_objects", "Objects held by an informer.", "kind")
loop_lag = _histogram(
    "gitopsd_event_loop_lag_seconds",
    "How late the event loop wakes a timer; more than 0.1 means that something blocks it.",
    (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
loop_lag_max = _gauge(
    "gitopsd_event_loop_lag_max_seconds", "The longest lag of the last minute, and of the minute before."
)
engine_requests = _counter("gitopsd_engine_requests_total", "Requests to the engine.", "method", "result")
engine_seconds = _histogram(
    "gitopsd_engine_request_seconds", "Seconds an engine request took.", _RUNTIME_BUCKETS, "method"
)
engine_restarts = _counter("gitopsd_engine_restarts_total", "Engine processes started again, by reason.", "reason")
engine_processes = _gauge("gitopsd_engine_processes", "Engine processes that run.")
artifact_memory = _gauge("gitopsd_artifact_memory_bytes", "Bytes of fetched files kept in memory.")
git_requests = _counter(
    "gitopsd_git_requests_total", "Requests to Git servers, by operation and result.", "operation", "result"
)
git_packs = _counter(
    "gitopsd_git_packs_total", "Commits that were fetched in full, as an update, or found among what is kept.", "kind"
)
git_pack_bytes = _counter("gitopsd_git_pack_bytes_total", "Bytes of packs received from Git servers.", "kind")
git_kept = _gauge("gitopsd_git_kept_bytes", "Bytes on disk that are kept of repositories.")
build_cache = _counter("gitopsd_build_cache_total", "Look-ups in the build cache.", "result")


def exposition() -> bytes:
    """The text that `/metrics` serves."""
    return generate_latest(registry)


def forget_object(kind: str, namespace: str, name: str) -> None:
    """Remove the series of an object that is gone."""
    _remove(reconcile_duration, kind, name, namespace)
    for event_type in ("cache_hit", "cache_miss"):
        _remove(token_cache_events, event_type, kind, name, namespace, "reconcile")
        if kind in {"HelmRepository", "HelmChart"}:
            _remove(index_cache_events, event_type, name, namespace)


def _remove(collector: Counter | Histogram, *labels: str) -> None:
    if labels in collector._metrics:  # noqa: SLF001 - `remove` raises KeyError in old releases
        collector.remove(*labels)
