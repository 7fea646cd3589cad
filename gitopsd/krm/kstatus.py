"""What state an object is in, told from the object alone: Current, InProgress, Failed, Terminating, and why.

Theory of operation. A verdict takes three steps: what is true of every kind (being deleted, not yet observed, says of
itself that it is reconciling or stalled), then a rule for the kinds that Kubernetes brings along, then the `Ready`
condition. Jobs stand outside: their own rule comes first. Each rule is a table of spec/kustomize.md 6.2 and 6.3, with
its surprises: a Failed Pod is Current, `Ready=False` is never Failed.

Pure: knows no API server, no clock but the one it is given, and changes nothing. A verdict changes only when the object
does, except for Pods that wait to be scheduled: `recheck_after` tells when to look at one again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from gitopsd.krm.objects import Obj, get_in, gvk_of, labels_of

SCHEDULE_WINDOW: Final = 15.0
"""How long (seconds) a Pod may wait to be scheduled before it counts as failed."""
_NO_DEADLINE: Final = 2**31 - 1


class Status(StrEnum):
    """The states of kstatus, as messages name them."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"
    NOT_FOUND = "NotFound"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Verdict:
    """A state and the reason for it, for people."""

    status: Status
    message: str


def assess(obj: Obj, *, now: datetime | None = None) -> Verdict:
    """Tell the state of a live object (spec/kustomize.md 6.2, 6.3); `now` is the system's time unless given."""
    gvk = gvk_of(obj)
    kind = (gvk.group, gvk.kind)
    if kind == ("batch", "Job"):
        return _job(obj)
    if kind == ("", "Pod"):
        return _assess_pod(obj, now)
    verdict = _generic(obj)
    if verdict is not None:
        return verdict
    rule = _RULES.get(kind)
    return rule(obj) if rule is not None else _ready(obj)


def assess_with_pods(obj: Obj, pods: Sequence[Obj], now: datetime | None = None) -> Verdict:
    """Tell the state of a StatefulSet or ReplicaSet with its Pods in view: one that has failed fails it early.

    Pods that the selector does not mean, that are being deleted or that cannot be scheduled do not count.
    """
    verdict = assess(obj, now=now)
    if verdict.status is not Status.IN_PROGRESS or gvk_of(obj).kind not in {"StatefulSet", "ReplicaSet"}:
        return verdict
    selector = get_in(obj, "spec", "selector")
    failed = sum(1 for pod in pods if _selects(selector, labels_of(pod)) and _has_failed_for_good(pod, now))
    return Verdict(Status.FAILED, f"{failed} pods have failed") if failed else verdict


def recheck_after(obj: Obj, now: datetime) -> float | None:
    """Seconds until the verdict on this very object may change by itself; None when only a change can change it."""
    if gvk_of(obj)[::2] != ("", "Pod") or assess(obj, now=now).status is not Status.IN_PROGRESS:
        return None
    return _left_to_schedule(obj, now) if _is_unschedulable(obj) and _phase(obj) == "Pending" else None


# -- every kind --------------------------------------------------------------------------------------------------------


def _current(message: str) -> Verdict:
    return Verdict(Status.CURRENT, message)


def _in_progress(message: str) -> Verdict:
    return Verdict(Status.IN_PROGRESS, message)


def _failed(message: str) -> Verdict:
    return Verdict(Status.FAILED, message)


def _generic(obj: Obj) -> Verdict | None:
    if get_in(obj, "metadata", "deletionTimestamp"):
        return Verdict(Status.TERMINATING, "the object is being deleted")
    generation = _int(obj, "metadata", "generation", default=None)
    observed = _int(obj, "status", "observedGeneration", default=None)
    if generation is not None and observed is not None and observed != generation:
        return _in_progress(f"generation is {generation}, but generation {observed} was observed last")
    for condition in _conditions(obj):
        if condition.get("status") == "True":
            if condition.get("type") == "Reconciling":
                return _in_progress(str(condition.get("message") or "Reconciling"))
            if condition.get("type") == "Stalled":
                return _failed(str(condition.get("message") or "Stalled"))
    return None


def _ready(obj: Obj) -> Verdict:
    for condition in _conditions(obj):
        if condition.get("type") == "Ready":
            if condition.get("status") == "True":
                return _current("Ready")
            if condition.get("status") in {"False", "Unknown"}:
                return _in_progress(str(condition.get("message") or "not Ready"))
    return _current("nothing speaks against it")


def _conditions(obj: Obj) -> Iterator[Mapping[str, Any]]:
    found = get_in(obj, "status", "conditions", default=())
    if isinstance(found, list):
        yield from (condition for condition in found if isinstance(condition, dict))


def _int(obj: Obj, *path: str, default: Any = 0) -> Any:
    value = get_in(obj, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


# -- workloads ---------------------------------------------------------------------------------------------------------


def _fewer(obj: Obj, wanted: int, *fields: str) -> Verdict | None:
    """InProgress when one of the `status` counts is below `wanted`; the first one says so."""
    for name in fields:
        count = _int(obj, "status", name)
        if wanted > count:
            return _in_progress(f"{name}: {count}/{wanted}")
    return None


def _surplus(obj: Obj, wanted: int) -> Verdict | None:
    surplus = _int(obj, "status", "replicas") - wanted
    return _in_progress(f"{surplus} replicas are to end") if surplus > 0 else None


def _deployment(obj: Obj) -> Verdict:
    is_progressing = _int(obj, "spec", "progressDeadlineSeconds", default=_NO_DEADLINE) == _NO_DEADLINE
    is_available = False
    for condition in _conditions(obj):
        is_true = condition.get("status") == "True"
        if condition.get("type") == "Progressing":
            if condition.get("reason") == "ProgressDeadlineExceeded":
                return _failed("the progress deadline is exceeded")
            is_progressing |= is_true and condition.get("reason") == "NewReplicaSetAvailable"
        is_available |= is_true and condition.get("type") == "Available"
    wanted = _int(obj, "spec", "replicas", default=1)
    verdict = (
        _fewer(obj, wanted, "replicas", "updatedReplicas")
        or _surplus(obj, wanted)
        or _fewer(obj, _int(obj, "status", "updatedReplicas"), "availableReplicas")
        or _fewer(obj, wanted, "readyReplicas")
    )
    if verdict is not None:
        return verdict
    if not is_progressing:
        return _in_progress("the new ReplicaSet is not available")
    return _current("available") if is_available else _in_progress("not available")


def _stateful_set(obj: Obj) -> Verdict:
    strategy = get_in(obj, "spec", "updateStrategy", default={})
    if get_in(strategy, "type") == "OnDelete":
        return _current("Pods are updated when somebody deletes them")
    wanted = _int(obj, "spec", "replicas", default=1)
    verdict = _fewer(obj, wanted, "replicas", "readyReplicas") or _surplus(obj, wanted)
    if verdict is not None:
        return verdict
    partition = _int(obj, "spec", "updateStrategy", "rollingUpdate", "partition", default=-1)
    if partition != -1:
        return _fewer(obj, wanted - partition, "updatedReplicas") or _current("the partition is updated")
    verdict = _fewer(obj, wanted, "currentReplicas")
    if verdict is not None:
        return verdict
    if get_in(obj, "status", "currentRevision", default="") != get_in(obj, "status", "updateRevision", default=""):
        return _in_progress("the update is not complete")
    return _current("all replicas are ready")


def _daemon_set(obj: Obj) -> Verdict:
    if _int(obj, "metadata", "generation", default=None) is None:
        return _in_progress("metadata.generation is missing")
    if _int(obj, "status", "observedGeneration", default=None) is None:
        return _in_progress("status.observedGeneration is missing")
    wanted = _int(obj, "status", "desiredNumberScheduled", default=-1)
    if wanted == -1:
        return _in_progress("status.desiredNumberScheduled is missing")
    counts = ("currentNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady")
    return _fewer(obj, wanted, *counts) or _current("all Pods are ready")


def _replica_set(obj: Obj) -> Verdict:
    for condition in _conditions(obj):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return _in_progress("Pods cannot be created")
    wanted = _int(obj, "spec", "replicas", default=1)
    counts = ("fullyLabeledReplicas", "availableReplicas", "readyReplicas")
    return _fewer(obj, wanted, *counts) or _surplus(obj, wanted) or _current("available")


def _job(obj: Obj) -> Verdict:
    """A Job is judged by its own words alone, and one that runs is not there yet (spec/kustomize.md 6.2)."""
    if get_in(obj, "spec", "suspend") is True:
        return _current("suspended")
    for condition in _conditions(obj):
        if condition.get("status") == "True":
            if condition.get("type") == "Complete":
                return _current("complete")
            if condition.get("type") == "Failed":
                return _failed(str(condition.get("message") or "failed"))
    return _in_progress("running")


# -- Pods --------------------------------------------------------------------------------------------------------------


def _assess_pod(pod: Obj, now: datetime | None) -> Verdict:
    return _generic(pod) or _pod(pod, now)


def _pod(pod: Obj, now: datetime | None) -> Verdict:
    phase = _phase(pod)
    match phase:
        case "Succeeded" | "Failed":
            return _current(f"the Pod has {phase.lower()}")
        case "Running":
            return _running(pod)
        case "Pending":
            if not _is_unschedulable(pod):
                return _in_progress("the Pod is pending")
            left = _left_to_schedule(pod, now or datetime.now(UTC))
            return _in_progress("not scheduled yet") if left is not None else _failed("the Pod cannot be scheduled")
        case "":
            return _in_progress("the Pod has no phase yet")
    return Verdict(Status.UNKNOWN, f"unknown phase {phase}")


def _phase(pod: Obj) -> str:
    phase = get_in(pod, "status", "phase", default="")
    return phase if isinstance(phase, str) else ""


def _running(pod: Obj) -> Verdict:
    if any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in _conditions(pod)):
        return _current("Ready")
    containers = get_in(pod, "status", "containerStatuses", default=())
    crashing = [
        str(get_in(container, "name", default=""))
        for container in containers
        if get_in(container, "state", "waiting", "reason") == "CrashLoopBackOff"
    ]
    return _failed(f"containers crash: {', '.join(crashing)}") if crashing else _in_progress("running, not Ready")


def _is_unschedulable(pod: Obj) -> bool:
    return any(
        condition.get("type") == "PodScheduled"
        and condition.get("status") == "False"
        and condition.get("reason") == "Unschedulable"
        for condition in _conditions(pod)
    )


def _left_to_schedule(pod: Obj, now: datetime) -> float | None:
    """Seconds until an unschedulable Pod counts as failed; None when it already does."""
    created = get_in(pod, "metadata", "creationTimestamp", default="")
    try:
        age = (now - datetime.fromisoformat(created)).total_seconds()
    except (TypeError, ValueError):
        return None
    return SCHEDULE_WINDOW - age if age < SCHEDULE_WINDOW else None


def _has_failed_for_good(pod: Obj, now: datetime | None) -> bool:
    return (
        not get_in(pod, "metadata", "deletionTimestamp")
        and not _is_unschedulable(pod)
        and _assess_pod(pod, now).status is Status.FAILED
    )


def _selects(selector: Any, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means an object with `labels`; a missing or empty one means nothing here."""
    wanted = get_in(selector, "matchLabels", default={})
    expressions = get_in(selector, "matchExpressions", default=())
    if not wanted and not expressions:
        return False
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        _satisfies(expression, labels) for expression in expressions
    )


def _satisfies(expression: Any, labels: Mapping[str, str]) -> bool:
    name = str(get_in(expression, "key", default=""))
    values = get_in(expression, "values", default=())
    match get_in(expression, "operator"):
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case "DoesNotExist":
            return name not in labels
    return False


# -- other kinds -------------------------------------------------------------------------------------------------------


def _claim(obj: Obj) -> Verdict:
    phase = get_in(obj, "status", "phase", default="unknown")
    return _current("Bound") if phase == "Bound" else _in_progress(f"not Bound, but {phase}")


def _service(obj: Obj) -> Verdict:
    if get_in(obj, "spec", "type") == "LoadBalancer" and not get_in(obj, "spec", "clusterIP"):
        return _in_progress("no address yet")
    return _current("nothing to wait for")


def _definition(obj: Obj) -> Verdict:
    for condition in _conditions(obj):
        message = str(condition.get("message") or condition.get("reason") or "")
        match condition.get("type"), condition.get("status"):
            case "NamesAccepted", "False":
                return _failed(message)
            case "Established", "False" if condition.get("reason") != "Installing":
                return _failed(message)
            case "Established", "True":
                return _current("established")
    return _in_progress("being installed")


def _always_current(_: Obj) -> Verdict:
    return _current("nothing to wait for")


_RULES: dict[tuple[str, str], Callable[[Obj], Verdict]] = {
    ("apps", "Deployment"): _deployment,
    ("extensions", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("extensions", "DaemonSet"): _daemon_set,
    ("apps", "ReplicaSet"): _replica_set,
    ("extensions", "ReplicaSet"): _replica_set,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Service"): _service,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
    ("policy", "PodDisruptionBudget"): _always_current,
    ("", "Secret"): _always_current,
    ("", "ConfigMap"): _always_current,
    ("batch", "CronJob"): _always_current,
}
