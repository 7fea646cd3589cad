"""One wait for a set of objects: look at each once, then follow what is not ready yet by watches until it is over.

Theory of operation. Objects that an apply returned are judged as they are; the others are read once. Only what is not
settled by that is followed. A few objects of a kind are watched by name; when more of a kind are waited for in the
whole process, one watch of that kind, narrowed to objects with owner labels, serves them all (informers come from a
pool and are shared between waits). Who may not watch at all is asked again every few seconds. News only mark an object
to be looked at; a cached object that is older than what the apply returned is no news.

Knows nothing of deadlines and texts (`health`) and nothing of what a state means: that is the `judge` it is given.
Cancelling the wait leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gitopsd.apply.parallel import side_by_side
from gitopsd.apply.tally import Outcome, Tally
from gitopsd.errors import GitopsdError
from gitopsd.krm.kstatus import Status, Verdict, recheck_after
from gitopsd.krm.objects import GVK, Obj, ObjectKey, get_in
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Discovery, NoMatchError, PathError, Resource, UnknownKindError
from gitopsd.kube.errors import ApiError, ForbiddenError, NotFoundError, UnreachableError
from gitopsd.kube.informer import Change, Informer, InformerPool
from gitopsd.kube.lister import is_older_version

# Up to so many objects of a kind are watched one by one, more by a watch of the whole kind.
FEW: Final = 8
# A StatefulSet that is ready sooner than this (seconds) never has its Pods listed.
_PODS_AFTER: Final = 1.0
_READS_AT_ONCE: Final = 8
_POD: Final = GVK("", "v1", "Pod")

Judge = Callable[[ObjectKey, Obj | None, Sequence[Obj] | None], Awaitable[Verdict]]
"""What one object's state means; None when it is not there. The third argument are its Pods, where they are known."""


class UnplacedError(GitopsdError):
    """An object of a namespaced kind was named without a namespace: no wait can help."""


@dataclass(frozen=True, slots=True)
class Target:
    """One object to wait for, with the state that an apply returned, if it did.

    `is_managed` says that it carries our owner labels, so that a watch narrowed to those shows it.
    """

    key: ObjectKey
    live: Obj | None = None
    is_managed: bool = True


@dataclass(frozen=True)
class Sight:
    """How one identity sees its cluster.

    `crowd` counts the watches by name that are open, by kind. What no watch shows is read again after `pause` seconds.
    """

    client: KubeClient
    discovery: Discovery
    pool: InformerPool
    owner_label: str
    pause: float = 5.0
    crowd: Counter[tuple[str, ...]] = field(default_factory=Counter)


class Wait:
    """A wait in progress; `run` returns when the tally says that it is over."""

    def __init__(
        self,
        sight: Sight,
        targets: Mapping[ObjectKey, Target],
        tally: Tally,
        judge: Judge,
        *,
        metadata_only: bool = False,
    ) -> None:
        self._sight = sight
        self._targets = targets
        self._tally = tally
        self._judge = judge
        self._metadata_only = metadata_only
        self._news: dict[ObjectKey, Obj | None] = {}
        self._seen: dict[ObjectKey, Obj] = {}
        self._pods: dict[ObjectKey, Informer[Obj]] = {}
        self._timers: dict[ObjectKey, asyncio.TimerHandle] = {}
        self._unwatched: set[ObjectKey] = set()
        self._crowded: Counter[tuple[str, ...]] = Counter()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Look, then follow, until the outcome stands. Raises UnplacedError."""
        unread: list[ObjectKey] = []
        for key, target in self._targets.items():
            if target.live is None:
                unread.append(key)
            else:
                await self._take(key, target.live)
        await side_by_side(unread, self._look, limit=_READS_AT_ONCE, catch=UnplacedError)
        if self._tally.outcome is not Outcome.WAITING:
            return
        resources = await self._resources()
        followers: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            try:
                followers += [tasks.create_task(work) for work in self._followers(resources)]
                await self._until_over()
            finally:
                for task in followers:
                    task.cancel()
                for timer in self._timers.values():
                    timer.cancel()
                self._sight.crowd.subtract(self._crowded)

    async def _until_over(self) -> None:
        while self._tally.outcome is Outcome.WAITING:
            await self._wake.wait()
            self._wake.clear()
            news, self._news = self._news, {}
            for key, obj in news.items():
                if obj is not None and not self._is_missing(key):
                    await self._take(key, obj)
                    continue
                # Deleted, without the label that the watch is narrowed by, not to be watched; or told by a cache that
                # may not have heard yet of the deletion that we saw: look.
                await self._look(key)
                if key in self._tally.waiting and (key in self._unwatched or not self._is_missing(key)):
                    self._later(key, self._sight.pause, None)

    def _is_missing(self, key: ObjectKey) -> bool:
        verdict = self._tally.verdict(key)
        return verdict is not None and verdict.status == Status.NOT_FOUND

    # -- looking

    async def _look(self, key: ObjectKey) -> None:
        """Read one object and judge it; a failed look is a verdict too. Raises UnplacedError."""
        try:
            resource = await self._resource(key)
            path = resource.path(key.namespace, key.name)
            await self._take(key, await self._sight.client.get(path, metadata_only=self._metadata_only))
        except (NotFoundError, NoMatchError) as error:
            is_gone = isinstance(error, NotFoundError) or self._metadata_only
            verdict = await self._judge(key, None, None) if is_gone else Verdict(Status.UNKNOWN, str(error))
            self._tally.see(key, verdict)
        except (ApiError, UnreachableError, UnknownKindError, PathError) as error:
            self._tally.see(key, Verdict(Status.UNKNOWN, str(error)))

    async def _resource(self, key: ObjectKey) -> Resource:
        resource = await self._sight.discovery.preferred(key.group, key.kind)
        if resource.namespaced and not key.namespace:
            kind = f"{key.kind}.{key.group}" if key.group else key.kind
            raise UnplacedError(f"resource {kind} {key.name} is namespace scoped, but namespace is not set")
        return resource

    async def _take(self, key: ObjectKey, obj: Obj) -> None:
        """Judge one state of an object, unless a newer one was seen."""
        before = self._seen.get(key) or self._targets[key].live
        if before is not None and is_older_version(_version(obj), _version(before)):
            return
        self._seen[key] = obj
        pods = self._pods.get(key)
        verdict = await self._judge(key, obj, pods.lister.list(key.namespace) if pods is not None else None)
        self._tally.see(key, verdict)
        seconds = recheck_after(obj, datetime.now(UTC)) if verdict.status == Status.IN_PROGRESS else None
        if seconds is not None:
            self._later(key, seconds + 0.1, obj)

    def _later(self, key: ObjectKey, seconds: float, obj: Obj | None) -> None:
        """Come back to an object; what is heard of it meanwhile counts more than `obj`."""
        if (earlier := self._timers.pop(key, None)) is not None:
            earlier.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._note, key, obj)

    def _note(self, key: ObjectKey, obj: Obj | None) -> None:
        self._news.setdefault(key, obj)
        self._wake.set()

    def _hear(self, change: Change[Obj]) -> None:
        """An informer's listener; judging is left to the wait itself."""
        if change.key in self._targets:
            self._news[change.key] = change.new
            self._wake.set()

    # -- following

    async def _resources(self) -> dict[ObjectKey, Resource | None]:
        """The kinds of what is not settled; None where the server cannot say, or not yet."""
        resources: dict[ObjectKey, Resource | None] = {}
        for key in self._targets:
            if key in self._tally.waiting:
                try:
                    resources[key] = await self._resource(key)
                except (ApiError, UnreachableError, NoMatchError, UnknownKindError):
                    resources[key] = None
        return resources

    def _followers(self, resources: Mapping[ObjectKey, Resource | None]) -> Iterator[Coroutine[None, None, None]]:
        """The work that brings news of everything that is not settled."""
        by_resource: dict[Resource, list[ObjectKey]] = {}
        for key, resource in resources.items():
            if resource is None:
                self._unwatched.add(key)
                self._later(key, self._sight.pause, None)
                continue
            by_resource.setdefault(resource, []).append(key)
            if key.kind in {"StatefulSet", "ReplicaSet"} and not self._metadata_only:
                yield self._follow_pods(key)
        for resource, keys in by_resource.items():
            crowd = (*self._sight.client.identity, *resource.gvk)
            managed = {key for key in keys if self._targets[key].is_managed}
            if managed and len(managed) + self._sight.crowd[crowd] > FEW:
                yield self._follow_kind(resource, sorted(managed))
            else:
                managed = set()
            alone = [key for key in keys if key not in managed]
            self._crowded[crowd] += len(alone)
            self._sight.crowd[crowd] += len(alone)
            for key in alone:
                yield self._follow_one(resource, key)

    async def _follow_one(self, resource: Resource, key: ObjectKey) -> None:
        try:
            await self._follow(resource, [key], key.namespace or None, name=key.name)
        except ForbiddenError:
            self._unwatched.add(key)
            self._note(key, None)

    async def _follow_kind(self, resource: Resource, keys: Sequence[ObjectKey]) -> None:
        """Watch every object of the kind with owner labels; a tenant may be allowed to in its namespaces only."""
        try:
            await self._follow(resource, keys, None, label_selector=self._sight.owner_label)
        except ForbiddenError:
            async with asyncio.TaskGroup() as tasks:
                for namespace in {key.namespace for key in keys}:
                    here = [key for key in keys if key.namespace == namespace]
                    tasks.create_task(self._follow_namespace(resource, here, namespace))

    async def _follow_namespace(self, resource: Resource, keys: Sequence[ObjectKey], namespace: str) -> None:
        try:
            await self._follow(resource, keys, namespace or None, label_selector=self._sight.owner_label)
        except ForbiddenError:
            async with asyncio.TaskGroup() as tasks:
                for key in keys:
                    tasks.create_task(self._follow_one(resource, key))

    async def _follow(
        self,
        resource: Resource,
        keys: Iterable[ObjectKey],
        namespace: str | None,
        *,
        name: str = "",
        label_selector: str = "",
    ) -> None:
        """Bring news from one informer, for ever. Raises ForbiddenError when it may not be watched."""
        async with self._sight.pool.use(
            resource,
            namespace=namespace,
            name=name,
            label_selector=label_selector,
            metadata_only=self._metadata_only,
            client=self._sight.client,
        ) as informer:
            stop = informer.tell(self._hear)
            try:
                await self._synced(informer)
                for key in keys:
                    if informer.lister.get(key) is None:
                        self._note(key, None)
                await asyncio.Event().wait()
            finally:
                stop()

    async def _synced(self, informer: Informer[Obj]) -> None:
        """Wait for an informer's first whole picture. Raises ForbiddenError; other trouble passes."""
        try:
            await informer.synced(patient=False)
        except ForbiddenError:
            raise
        except (ApiError, UnreachableError):
            await informer.synced()

    async def _follow_pods(self, key: ObjectKey) -> None:
        """Have a workload judged with its Pods in view, if it takes a while."""
        await asyncio.sleep(_PODS_AFTER)
        selector = selector_text(get_in(self._seen.get(key), "spec", "selector", default={}))
        if not selector:
            return
        resource = await self._pod_resource()
        if resource is None:
            return
        async with self._sight.pool.use(
            resource, namespace=key.namespace, label_selector=selector, client=self._sight.client
        ) as informer:
            stop = informer.tell(lambda _: self._note(key, self._seen[key]))
            try:
                await self._synced(informer)
                self._pods[key] = informer
                self._note(key, self._seen[key])
                await asyncio.Event().wait()
            except ForbiddenError:
                return  # judged without them
            finally:
                self._pods.pop(key, None)
                stop()

    async def _pod_resource(self) -> Resource | None:
        try:
            return await self._sight.discovery.resource(_POD)
        except (ApiError, UnreachableError, NoMatchError, UnknownKindError):
            return None


def selector_text(selector: Mapping[str, object]) -> str:
    """A LabelSelector of an object's spec in the words of a query; empty when it selects nothing by labels."""
    labels = get_in(selector, "matchLabels", default={})
    terms = [f"{key}={value}" for key, value in sorted(labels.items())]
    for term in get_in(selector, "matchExpressions", default=[]):
        key, operator = str(term.get("key")), str(term.get("operator"))
        values = ",".join(str(value) for value in term.get("values") or ())
        words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        terms.append(words.get(operator, f"!{key}"))
    return ",".join(terms)


def _version(obj: Obj) -> str:
    return str(get_in(obj, "metadata", "resourceVersion", default=""))
