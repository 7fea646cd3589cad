"""Events: to the Kubernetes API and to a notification receiver, from queues that no reconcile waits for.

An identical event raises a count instead of making a new object; more than ten similar ones are folded; an object that
talks too much is cut short (`spec/runtime.md` 1.1). The queues are bounded: what does not fit is counted and lost,
because an event is worth less than a reconcile. Trace events reach the API as Normal and never the receiver.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

import aiohttp
import orjson
import structlog

from gitopsd import metrics
from gitopsd.errors import GitopsdError
from gitopsd.krm.objects import Obj, annotations_of, gvk_of
from gitopsd.kube.client import KubeClient, PatchType
from gitopsd.kube.errors import NotFoundError
from gitopsd.tasks import Backoff, TaskScope

log = structlog.get_logger()

EventType = Literal["Normal", "Warning", "Trace"]

_OBJECT_EVENTS = "event.toolkit.fluxcd.io/"
_LONGEST_MESSAGE = 39000
_LONGEST_API_MESSAGE = 1024 * 32
_CACHE = 4096
_SIMILAR_LIMIT = 10
_SIMILAR_WINDOW = 600.0
_COMBINED = "(combined from similar events): "
_BURST = 25.0
_REFILL_SECONDS = 300.0
_WRITERS = 4


@dataclass(frozen=True)
class Event:
    """One thing to tell about one object."""

    component: str
    reference: Mapping[str, str]
    type: EventType
    reason: str
    message: str
    annotations: Mapping[str, str]
    at: datetime


@dataclass
class _Recorded:
    """An event object that the API server has."""

    name: str
    count: int


@dataclass
class _Spam:
    """How much one object may still say."""

    tokens: float = _BURST
    at: float = field(default_factory=time.monotonic)

    def allows(self, now: float) -> bool:
        self.tokens = min(_BURST, self.tokens + (now - self.at) / _REFILL_SECONDS)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Lru(OrderedDict[Any, Any]):
    """A bounded mapping that forgets what was not used for longest."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def remember(self, key: Any, value: Any) -> None:
        """Store and mark as used."""
        self[key] = value
        self.move_to_end(key)
        while len(self) > self._limit:
            self.popitem(last=False)


class Recorder:
    """Takes events without waiting; `run` delivers them."""

    def __init__(
        self,
        client: KubeClient,
        *,
        receiver: str = "",
        hostname: str = "",
        capacity: int = 2000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`receiver` is the address of `--events-addr`, empty for none; `capacity` bounds each queue."""
        self._client = client
        self._receiver = receiver
        self._hostname = hostname
        self._capacity = capacity
        self._clock = clock
        self._lanes: list[deque[Event]] = [deque() for _ in range(_WRITERS)]
        self._posts: deque[Event] = deque()
        self._wake = [asyncio.Event() for _ in range(_WRITERS)]
        self._wake_posts = asyncio.Event()
        self._pending = 0
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._recorded = Lru(_CACHE)
        self._similar = Lru(_CACHE)
        self._spam = Lru(_CACHE)

    def event(
        self,
        component: str,
        obj: Obj,
        event_type: EventType,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Tell about `obj`; returns at once."""
        own = {key: text for key, text in annotations_of(obj).items() if key.startswith(_OBJECT_EVENTS)}
        event = Event(
            component=component,
            reference=_reference(obj),
            type=event_type,
            reason=reason,
            message=message,
            annotations={**own, **(annotations or {})},
            at=datetime.now(UTC),
        )
        if self._receiver and event_type != "Trace":
            self._offer(self._posts, event, self._wake_posts, "receiver")
        spam_key = (component, event.reference["uid"], event_type)
        spam = self._spam.get(spam_key) or _Spam(at=self._clock())
        self._spam.remember(spam_key, spam)
        if not spam.allows(self._clock()):
            metrics.events_dropped.labels("spam").inc()
            return
        lane = hash(event.reference["uid"]) % _WRITERS
        self._offer(self._lanes[lane], event, self._wake[lane], "api")

    def _offer(self, queue: deque[Event], event: Event, wake: asyncio.Event, sink: str) -> None:
        if len(queue) >= self._capacity:
            queue.popleft()
            self._done()
            metrics.events_dropped.labels(sink).inc()
        queue.append(event)
        self._pending += 1
        self._flushed.clear()
        wake.set()

    def _done(self) -> None:
        self._pending -= 1
        if self._pending == 0:
            self._flushed.set()

    async def run(self) -> None:
        """Deliver events until cancelled."""
        async with TaskScope("recorder") as tasks:
            for lane in range(_WRITERS):
                tasks.start(f"api {lane}", self._write(lane), essential=True)
            if self._receiver:
                tasks.start("receiver", self._post(), essential=True)
            await tasks.failure()

    async def flush(self, timeout: float) -> bool:
        """Wait until everything was delivered, at most `timeout` seconds; False if something is left."""
        try:
            async with asyncio.timeout(timeout):
                await self._flushed.wait()
        except TimeoutError:
            return False
        return True

    # -- the Kubernetes API ------------------------------------------------------------------------------------

    async def _write(self, lane: int) -> None:
        queue, wake = self._lanes[lane], self._wake[lane]
        while True:
            while not queue:
                wake.clear()
                await wake.wait()
            event = queue.popleft()
            try:
                await self._record(event)
                metrics.events_sent.labels("api", "success").inc()
            except GitopsdError as error:
                metrics.events_sent.labels("api", "error").inc()
                log.debug("unable to record event", error=str(error))
            finally:
                self._done()

    async def _record(self, event: Event) -> None:
        identity, message = self._identify(event)
        known: _Recorded | None = self._recorded.get(identity)
        namespace = event.reference.get("namespace") or "default"
        path = f"/api/v1/namespaces/{namespace}/events"
        if known is not None:
            body: Obj = {"count": known.count + 1, "lastTimestamp": _time(event.at), "message": message}
            try:
                await self._client.patch(f"{path}/{known.name}", body, kind=PatchType.MERGE)
            except NotFoundError:
                log.debug("an event expired, it is recorded anew")
            else:
                known.count += 1
                self._recorded.remember(identity, known)
                return
        body = _event_object(event, namespace, message)
        await self._client.create(path, body)
        self._recorded.remember(identity, _Recorded(body["metadata"]["name"], 1))

    def _identify(self, event: Event) -> tuple[tuple[str, ...], str]:
        """The identity under which an event is counted, and its message.

        The eleventh different message of one reason within ten minutes, and those that follow, share one identity.
        """
        key = (event.component, event.reference["uid"], event.type, event.reason)
        now = self._clock()
        since: float
        messages: set[str]
        since, messages = self._similar.get(key) or (now, set())
        if now - since > _SIMILAR_WINDOW:
            since, messages = now, set()
        if event.message not in messages and len(messages) >= _SIMILAR_LIMIT:
            return (*key, _COMBINED), _COMBINED + event.message
        messages.add(event.message)
        self._similar.remember(key, (since, messages))
        return (*key, event.message), event.message

    # -- the receiver ------------------------------------------------------------------------------------------

    async def _post(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                while not self._posts:
                    self._wake_posts.clear()
                    await self._wake_posts.wait()
                event = self._posts.popleft()
                try:
                    delivered = await self._deliver(session, event)
                    metrics.events_sent.labels("receiver", "success" if delivered else "error").inc()
                finally:
                    self._done()

    async def _deliver(self, session: aiohttp.ClientSession, event: Event) -> bool:
        """POST one event: up to five tries on lost connections and server errors (`spec/runtime.md` 1.5)."""
        body = orjson.dumps(self._payload(event))
        backoff = Backoff(1.0, 30.0)
        for attempt in range(5):
            if attempt:
                await asyncio.sleep(backoff.next())
            try:
                headers = {"Content-Type": "application/json"}
                async with session.post(self._receiver, data=body, headers=headers) as answer:
                    # 429 says "duplicate"; other 4xx cannot become better.
                    if answer.status < 500 or answer.status == 501:
                        return answer.status < 400 or answer.status == 429
            except (aiohttp.ClientError, TimeoutError):
                continue
        log.info("unable to post event", reason=event.reason)
        return False

    def _payload(self, event: Event) -> Obj:
        payload: Obj = {
            "involvedObject": {key: text for key, text in event.reference.items() if text},
            "severity": "error" if event.type == "Warning" else "info",
            "timestamp": _time(event.at),
            "message": event.message[:_LONGEST_MESSAGE],
            "reason": event.reason,
            "reportingController": event.component,
            "reportingInstance": self._hostname,
        }
        if event.annotations:
            payload["metadata"] = dict(event.annotations)
        return payload


def _reference(obj: Obj) -> dict[str, str]:
    metadata = obj.get("metadata") or {}
    gvk = gvk_of(obj)
    return {
        "kind": gvk.kind,
        "namespace": str(metadata.get("namespace") or ""),
        "name": str(metadata.get("name") or ""),
        "uid": str(metadata.get("uid") or ""),
        "apiVersion": gvk.api_version,
        "resourceVersion": str(metadata.get("resourceVersion") or ""),
    }


def _event_object(event: Event, namespace: str, message: str) -> Obj:
    at = _time(event.at)
    name = f"{event.reference['name']}.{time.time_ns():x}"
    if len(name) > 253:
        name = str(uuid4())
    metadata: Obj = {"name": name, "namespace": namespace}
    if event.annotations:
        metadata["annotations"] = dict(event.annotations)
    if len(message.encode()) > _LONGEST_API_MESSAGE:
        message = message.encode()[: _LONGEST_API_MESSAGE - 3].decode(errors="ignore") + "..."
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": metadata,
        "involvedObject": {key: text for key, text in event.reference.items() if text},
        "reason": event.reason,
        "message": message,
        "source": {"component": event.component},
        "reportingComponent": event.component,
        "reportingInstance": "",
        "type": "Warning" if event.type == "Warning" else "Normal",
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    }


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
