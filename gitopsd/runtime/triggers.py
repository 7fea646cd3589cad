"""Which changes matter, and whom they concern.

Theory of operation. Every function here takes an informer and puts a listener on it; a listener looks at one change,
decides with the object's own fields whether anybody has to act, finds them through a reverse index, and adds their
keys to a queue. Nothing is fetched, nothing awaited. The rules are those of `spec/kustomize.md` 7.1 and
`spec/source.md` 2.1, with three wake-ups that upstream lacks: a dependency that became ready, a source that appeared,
and a referenced ConfigMap or Secret that a failing object waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from gitopsd import metrics
from gitopsd.api.meta import REQUESTED_AT
from gitopsd.krm.objects import Obj, ObjectKey, annotations_of, get_in, key_of, labels_of
from gitopsd.kube.informer import Change, Informer
from gitopsd.runtime.queue import WorkQueue

Queue = WorkQueue[ObjectKey]

SOURCE_INDEX = "source"
CONFIG_INDEX = "config"
DEPENDENCY_INDEX = "dependency"


class Selector:
    """A label selector as Kubernetes writes it: `a=b`, `a!=b`, `a`, `!a`, `a in (b,c)`, joined by commas."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tests = [_requirement(part.strip()) for part in _split(text)]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether every requirement holds."""
        return all(test(labels) for test in self._tests)


def _split(text: str) -> list[str]:
    parts: list[str] = []
    depth, start = 0, 0
    for index, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part for part in parts if part.strip()]


def _requirement(text: str) -> Callable[[Mapping[str, str]], bool]:
    for word, wanted in ((" notin ", False), (" in ", True)):
        if word in text:
            key, _, values = text.partition(word)
            allowed = {value.strip() for value in values.strip().strip("()").split(",")}
            return lambda labels: (labels.get(key.strip()) in allowed) is wanted
    if "!=" in text:
        key, _, value = text.partition("!=")
        return lambda labels: labels.get(key.strip()) != value.strip()
    if "=" in text:
        key, _, value = text.replace("==", "=").partition("=")
        return lambda labels: labels.get(key.strip()) == value.strip()
    if text.startswith("!"):
        return lambda labels: text[1:].strip() not in labels
    return lambda labels: text in labels


def own_objects(informer: Informer[Obj], queue: Queue, selector: Selector) -> None:
    """Reconcile an object when it appears, when its spec changes, when it is asked for, and when it is to go."""

    def listen(change: Change[Obj]) -> None:
        was_ours = change.old is not None and selector.matches(labels_of(change.old))
        if change.new is None or not selector.matches(labels_of(change.new)):
            if change.new is None or was_ours:
                # Gone, or somebody else's from now on.
                queue.discard(change.key)
                metrics.forget_object(change.key.kind, change.key.namespace, change.key.name)
            return
        if change.old is None or not was_ours or _asks(change.old, change.new):
            queue.add(change.key, cause=change.key.subject)

    informer.tell(listen)


def _asks(old: Obj, new: Obj) -> bool:
    if get_in(old, "metadata", "generation") != get_in(new, "metadata", "generation"):
        return True
    if get_in(new, "metadata", "deletionTimestamp") != get_in(old, "metadata", "deletionTimestamp"):
        return True
    requested = annotations_of(new).get(REQUESTED_AT)
    return requested is not None and requested != annotations_of(old).get(REQUESTED_AT)


class Follower(Protocol):
    """What a controller knows of its own runs, so that news it already has wakes nobody."""

    def has_attempted(self, key: ObjectKey, revision: str) -> bool:
        """Whether the newest run of `key` works on `revision`, or did and was content with it."""

    def waits_for_dependency(self, key: ObjectKey) -> bool:
        """Whether the last run of `key` ended because something it depends on was not ready."""


def source_changes(source: Informer[Obj], dependents: Informer[Obj], queue: Queue, follower: Follower) -> None:
    """Reconcile those who refer to a source when its artifact appears or gets another revision."""

    def listen(change: Change[Obj]) -> None:
        revision = revision_of(change.new)
        if change.new is None or revision == revision_of(change.old):
            if change.old is None and change.new is not None:
                _wake_waiting(change.key)
            return
        if revision:
            wake_dependents(change.key, revision, dependents, queue, follower)

    def _wake_waiting(source_key: ObjectKey) -> None:
        """A source that was missing has appeared: those who reported it missing look again."""
        for obj in dependents.lister.having(SOURCE_INDEX, source_key):
            if follower.waits_for_dependency(key_of(obj)):
                queue.add(key_of(obj), cause=source_key.subject)

    source.tell(listen)


def wake_dependents(
    source: ObjectKey, revision: str, dependents: Informer[Obj], queue: Queue, follower: Follower
) -> None:
    """Reconcile everybody who refers to `source` and has not taken up `revision` yet."""
    for obj in dependents.lister.having(SOURCE_INDEX, source):
        key = key_of(obj)
        if not follower.has_attempted(key, revision):
            queue.add(key, cause=source.subject)


def config_changes(configs: Informer[Obj], dependents: Informer[Obj], queue: Queue) -> None:
    """Reconcile those who refer to a watched ConfigMap or Secret when it is created, changed or deleted."""

    def listen(change: Change[Obj]) -> None:
        if not configs.has_synced:
            return  # what was there at the start is no change
        for obj in dependents.lister.having(CONFIG_INDEX, change.key):
            queue.add(key_of(obj), cause=change.key.subject)

    configs.tell(listen)


def dependency_changes(informer: Informer[Obj], queue: Queue, follower: Follower) -> None:
    """Reconcile those who wait for an object when its readiness or its applied revision moves."""

    def listen(change: Change[Obj]) -> None:
        if change.new is None or _readiness(change.old) == _readiness(change.new):
            return
        for obj in informer.lister.having(DEPENDENCY_INDEX, change.key):
            key = key_of(obj)
            if follower.waits_for_dependency(key):
                queue.add(key, cause=change.key.subject)

    informer.tell(listen)


def _readiness(obj: Obj | None) -> tuple[object, ...]:
    """All that can make a waiting dependent's answer differ."""
    if obj is None:
        return ()
    conditions = get_in(obj, "status", "conditions")
    rows = conditions if isinstance(conditions, list) else []
    ready = next((row for row in rows if get_in(row, "type") == "Ready"), None)
    return (
        get_in(ready, "status"),
        get_in(obj, "status", "observedGeneration") == get_in(obj, "metadata", "generation"),
        get_in(obj, "status", "lastAppliedRevision"),
    )


def revision_of(obj: Obj | None) -> str:
    """The revision of a source's artifact, empty when there is none."""
    return str(get_in(obj, "status", "artifact", "revision", default="")) if obj is not None else ""
