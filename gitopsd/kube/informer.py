"""One stream of news about one kind becomes a cache that everybody may read and only the stream writes.

Knows how news change a set of objects; refuses to know where news come from (`watch`) and what a change means
(`runtime.triggers`, `apply.health`).

Theory of operation. `run` is the only writer. Each piece of news becomes zero or more `Change`s; for each, the cache
and its indexes are updated first, then the listeners are called in the order they came, then those who wait for the
key in `until` hear of it. All of it is synchronous, so a reader never sees half a change, and a listener may read the
lister but must be quick. A new picture is compared in parts, so that the loop stays awake, and then taken in one go;
only the first is taken in parts too, because nobody relies on the cache before it has synced.

Invariants, in whatever order news are repeated or replayed (Q31):
- an object's resourceVersion never goes back, except in a `Replaced`, which is the truth by definition;
- an object that did not change is told to nobody; one that was deleted while nobody watched is told as DELETED; one
  that was made anew under its old name (another uid) is told as DELETED, then ADDED;
- when the kind itself is gone (404, Q17) the cache empties without a single DELETED: nobody deleted those objects.

An object that cannot be decoded harms nobody else (O01): it is told with `new=None` and found in
`Lister.undecodable`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
import structlog

from gitopsd import metrics
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Resource
from gitopsd.kube.errors import ApiError, NotFoundError, UnreachableError
from gitopsd.kube.lister import Identity, Lister, Store, Undecodable
from gitopsd.kube.watch import Bookmark, Changed, Failed, News, Pace, Replaced, list_and_watch
from gitopsd.tasks import TaskScope

log = structlog.get_logger()

M = TypeVar("M")
T = TypeVar("T")

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# So many objects of a picture are looked at in one go.
_PART = 200
# A lost connection is ordinary for so long (seconds); a problem that lasts is said again this often.
_ORDINARY = 10.0
_REMINDER = 60.0


@dataclass(frozen=True, slots=True)
class Change(Generic[M]):
    """What happened to one object. `old` and `new` are as decoded; None where there is none or none that decodes."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    key: ObjectKey
    old: M | None
    new: M | None


Listener = Callable[[Change[M]], None]


def as_it_is(obj: Obj) -> Any:
    """The decoder of those who want plain objects."""
    return obj


class Informer(Generic[M]):
    """One list-and-watch of one kind, shared by all who read it."""

    lister: Lister[M]

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        decode: Callable[[Obj], M] = as_it_is,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.resource = resource
        self._client = client
        self._decode = decode
        self._path = resource.path(namespace)
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._selectors = {name: text for name, text in selectors.items() if text}
        self._metadata_only = metadata_only
        self._pace = pace
        self._store: Store[M] = Store()
        self.lister = self._store
        self._listeners: list[Listener[M]] = []
        self._waiting: defaultdict[ObjectKey, list[asyncio.Queue[M | None]]] = defaultdict(list)
        self._synced = asyncio.Event()
        self._health = _Health(resource.gvk.kind)
        self._gauge = metrics.informer_objects.labels(resource.gvk.kind)

    @property
    def has_synced(self) -> bool:
        """Whether the cache holds a whole picture of some moment."""
        return self._synced.is_set()

    @property
    def problem(self) -> ApiError | UnreachableError | None:
        """Why nothing new can be heard at present; None while the watch stands."""
        return self._health.problem

    def index(self, name: str, values_of: Callable[[M], Iterable[object]]) -> None:
        """Find objects by value from now on: `lister.having(name, value)`."""
        self._store.add_index(name, values_of)

    def tell(self, listener: Listener[M]) -> Callable[[], None]:
        """Call `listener` for everything there is, as ADDED, and then for each change, in order; returns the way out.

        Called on the event loop while the cache stands still: it must be quick and may not await. An error in it ends
        the informer.
        """
        for key in self.lister.keys:
            listener(Change("ADDED", key, None, self.lister.get(key)))
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    async def synced(self, *, patient: bool = True) -> None:
        """Wait until the cache holds a whole picture.

        Not `patient`: raise the ApiError or UnreachableError that stands in the way instead of waiting for its end.
        """
        if patient:
            await self._synced.wait()
        while not self.has_synced:
            if self._health.problem is not None:
                raise self._health.problem
            await self._health.changed()

    async def until(self, key: ObjectKey, predicate: Callable[[M | None], bool]) -> M | None:
        """Wait until the object (None: it is not there) satisfies `predicate`, and return it.

        Looks at once, and then at each state of that object, however short. Waits for the first whole picture.
        """
        await self.synced()
        states: asyncio.Queue[M | None] = asyncio.Queue()
        self._waiting[key].append(states)
        try:
            model = self.lister.get(key)
            while not predicate(model):
                model = await states.get()
            return model
        finally:
            self._waiting[key].remove(states)
            if not self._waiting[key]:
                del self._waiting[key]

    async def run(self) -> None:
        """Keep the cache up to date, for ever."""
        stream = list_and_watch(
            self._client, self._path, params=self._selectors, metadata_only=self._metadata_only, pace=self._pace
        )
        counted = 0
        try:
            async with aclosing(stream) as news:
                async for item in news:
                    await self.take(item)
                    self._gauge.inc(len(self._store) - counted)
                    counted = len(self._store)
        finally:
            self._gauge.dec(counted)

    async def take(self, news: News) -> None:
        """Let one piece of news change the cache; only `run` calls this, and tests in its place."""
        match news:
            case Replaced(items):
                await self._replace(items)
            case Changed("DELETED", obj):
                self._delete(obj)
            case Changed(_, obj):
                self._change(obj)
            case Failed(error):
                if isinstance(error, NotFoundError):
                    self._forget_all()
                self._health.failed(error)
                return
            case Bookmark():
                pass
        self._health.recovered()

    # -- the cache

    async def _replace(self, items: Sequence[Obj]) -> None:
        """Find out in parts what differs, then change the cache in one go; the first time in parts as well."""
        present: set[ObjectKey] = set()
        changed: list[tuple[ObjectKey, Obj]] = []
        async for obj in _in_parts(items):
            key = self._key(obj)
            present.add(key)
            if self._store.held(key) != _identity(obj):
                changed.append((key, obj))
        for key in self._store.keys:
            if key not in present:
                self._remove(key)
        self._store.forget_deletions()
        if self.has_synced:
            for key, obj in changed:
                self._put(key, obj)
            return
        async for key, obj in _in_parts(changed):
            self._put(key, obj)
        self._synced.set()
        # Who waits for an object to go has waited while nothing was known; nobody will tell them otherwise.
        for key, waiting in self._waiting.items():
            _offer(waiting, self.lister.get(key))

    def _change(self, obj: Obj) -> None:
        key = self._key(obj)
        identity = _identity(obj)
        if self._store.held(key) != identity and not self._store.is_outdated(key, identity.version):
            self._put(key, obj)

    def _put(self, key: ObjectKey, obj: Obj) -> None:
        identity = _identity(obj)
        held = self._store.held(key)
        if held is not None and held.uid != identity.uid:
            self._remove(key)
            held = None
        model = self._model(key, obj)
        old = self.lister.get(key)
        self._store.put(key, identity, model)
        self._publish(Change("ADDED" if held is None else "MODIFIED", key, old, self.lister.get(key)))

    def _delete(self, obj: Obj) -> None:
        key = self._key(obj)
        version = str(obj["metadata"].get("resourceVersion", ""))
        if not self._store.is_outdated(key, version):
            self._remove(key)
            self._store.bury(key, version)

    def _remove(self, key: ObjectKey) -> None:
        if key in self._store:
            old = self.lister.get(key)
            self._store.drop(key)
            self._publish(Change("DELETED", key, old, None))

    def _forget_all(self) -> None:
        """The kind is not served any more: forget its objects, and tell nobody that they were deleted."""
        self._synced.clear()
        for key in self._store.keys:
            self._store.drop(key)

    def _publish(self, change: Change[M]) -> None:
        for listener in tuple(self._listeners):
            listener(change)
        _offer(self._waiting.get(change.key, ()), change.new)

    def _key(self, obj: Obj) -> ObjectKey:
        metadata = obj["metadata"]
        gvk = self.resource.gvk
        return ObjectKey(gvk.group, gvk.kind, str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))

    def _model(self, key: ObjectKey, obj: Obj) -> M | Undecodable:
        # Items of a list and metadata-only objects do not say what they are.
        obj["apiVersion"] = self.resource.gvk.api_version
        obj["kind"] = self.resource.gvk.kind
        metadata = obj["metadata"]
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict):
            annotations.pop(_LAST_APPLIED, None)
        try:
            return self._decode(obj)
        except (msgspec.ValidationError, GitopsdError, ValueError, TypeError, KeyError, AttributeError) as error:
            if self.lister.undecodable(key) is None:
                log.warning("an object cannot be read", object=key.subject, error=str(error))
            return Undecodable(key, obj, str(error))


def _identity(obj: Obj) -> Identity:
    metadata = obj["metadata"]
    return Identity(metadata.get("uid", ""), metadata.get("resourceVersion", ""))


async def _in_parts(items: Iterable[T]) -> AsyncIterator[T]:
    """Go through `items` and let others run now and then."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _PART == 0:
            await asyncio.sleep(0)


def _offer(waiting: Iterable[asyncio.Queue[M | None]], model: M | None) -> None:
    for states in waiting:
        states.put_nowait(model)


class _Health:
    """Whether the watch stands; says so in the log when it lasts, and not each time."""

    def __init__(self, kind: str) -> None:
        self.problem: ApiError | UnreachableError | None = None
        self._kind = kind
        self._since = 0.0
        self._said_at: float | None = None
        self._news = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next news, good or bad."""
        self._news.clear()
        await self._news.wait()

    def failed(self, error: ApiError | UnreachableError) -> None:
        """A round ended in an error."""
        now = asyncio.get_running_loop().time()
        if self.problem is None:
            self._since = now
        self.problem = error
        self._news.set()
        is_ordinary = isinstance(error, UnreachableError) or error.status in {410, 429} or error.status >= 500
        if is_ordinary and now - self._since < _ORDINARY:
            return
        if self._said_at is None or now - self._said_at >= _REMINDER:
            self._said_at = now
            log.warning("cannot watch", watched=self._kind, error=str(error))

    def recovered(self) -> None:
        """Something was heard."""
        self.problem = None
        self._news.set()
        if self._said_at is not None:
            self._said_at = None
            log.info("watching again", watched=self._kind)


class _Wish(NamedTuple):
    """Equal for those who can share an informer."""

    identity: tuple[str, ...]
    resource: Resource
    namespace: str | None
    label_selector: str
    field_selector: str
    metadata_only: bool


@dataclass
class _Lent:
    """A pooled informer and its users."""

    informer: Informer[Obj]
    task: asyncio.Task[None]
    users: int = 0
    end: asyncio.TimerHandle | None = None


class InformerPool:
    """Informers of plain objects, started when first used, shared, and ended a while after the last use."""

    def __init__(self, client: KubeClient, tasks: TaskScope, *, linger: float = 10.0, pace: Pace | None = None) -> None:
        self._client = client
        self._tasks = tasks
        self._linger = linger
        self._pace = pace
        self._lent: dict[_Wish, _Lent] = {}

    def __len__(self) -> int:
        return len(self._lent)

    @asynccontextmanager
    async def use(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        name: str = "",
        label_selector: str = "",
        metadata_only: bool = False,
        client: KubeClient | None = None,
    ) -> AsyncIterator[Informer[Obj]]:
        """Use an informer for as long as the context lasts; it may not have synced yet.

        `client` replaces the pool's: the identity whose rights count. Raises PathError for an impossible namespace.
        """
        client = client or self._client
        field_selector = f"metadata.name={name}" if name else ""
        wish = _Wish(client.identity, resource, namespace, label_selector, field_selector, metadata_only)
        lent = self._lent.get(wish) or self._start(client, wish)
        if lent.end is not None:
            lent.end.cancel()
            lent.end = None
        lent.users += 1
        try:
            yield lent.informer
        finally:
            lent.users -= 1
            if lent.users == 0:
                lent.end = asyncio.get_running_loop().call_later(self._linger, self._end, wish)

    def _start(self, client: KubeClient, wish: _Wish) -> _Lent:
        informer: Informer[Obj] = Informer(
            client,
            wish.resource,
            namespace=wish.namespace,
            label_selector=wish.label_selector,
            field_selector=wish.field_selector,
            metadata_only=wish.metadata_only,
            pace=self._pace,
        )
        task = self._tasks.start(f"informer {wish.resource.plural}", informer.run(), essential=True)
        self._lent[wish] = lent = _Lent(informer, task)
        return lent

    def _end(self, wish: _Wish) -> None:
        self._lent.pop(wish).task.cancel()
