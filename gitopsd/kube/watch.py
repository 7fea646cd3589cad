"""List, then watch, as one stream of news that never ends.

Knows resourceVersions, bookmarks and what to do when a connection, a server or a history is lost; refuses to know what
is done with the objects (`informer`).

Theory of operation. One round is one watch. While nothing is known, the watch is asked for the initial objects too
(one request, no pages, small pieces of work); servers that cannot do that are listed page by page first. Objects of an
unfinished list are never told. A later round resumes at the last resourceVersion that was told. Everything is told
anew (`Replaced`) when the server no longer has the history (410), refuses the kind, or turns out to be older than what
was seen: a watch that asks for a future resourceVersion is silent for ever, so after every unexpected end the server
is asked where it is.

Rounds that end in their own time or after a while follow at once (spread a little); rounds that fail or end young wait
longer and longer (`spec/hostile-inputs.md` Q09). A round ends after 5 to 10 minutes by the server's clock, 30 seconds
later by ours (Q10).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, cast

from gitopsd import metrics
from gitopsd.krm.objects import Obj, annotations_of, get_in
from gitopsd.kube.client import KubeClient, Params
from gitopsd.kube.errors import (
    ApiError,
    BrokenAnswerError,
    FrameTooLargeError,
    GoneError,
    InvalidError,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreachableError,
)
from gitopsd.kube.lister import is_older_version
from gitopsd.tasks import Backoff

_INITIAL_END = "k8s.io/initial-events-end"
# Moving a timer costs as much as taking in an object: once for so many of them is enough.
_PATIENCE_STEP = 50
# A round that lived this long (seconds) worked; its end says nothing against the next one.
_SETTLED = 5.0
# No server there, or no such kind: asking costs little, and somebody waits for it to come.
_SOON_AGAIN = 5.0

ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True)
class Replaced:
    """All objects as of now; what is not among them is gone."""

    items: list[Obj]
    resource_version: str


@dataclass(frozen=True)
class Changed:
    """One object changed."""

    type: ChangeType
    obj: Obj


@dataclass(frozen=True)
class Bookmark:
    """The watch stands, and everything up to here has been told."""

    resource_version: str


@dataclass(frozen=True)
class Failed:
    """A round ended in an error; what was told before may be old until the next news. More rounds follow."""

    error: ApiError | UnreachableError


News = Replaced | Changed | Bookmark | Failed


@dataclass(frozen=True)
class Pace:
    """The times of a stream, in seconds, and where its chance and its sleep come from.

    `margin` is how much later than the server's clock ours ends a round. `initial` is how long initial events may
    pause: an API that ignores the wish for them never ends them, and is listed instead.
    """

    round_min: float = 300.0
    round_max: float = 600.0
    margin: float = 30.0
    initial: float = 15.0
    floor: float = 1.0
    ceiling: float = 30.0
    jitter: float = 0.2
    rand: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def list_and_watch(
    client: KubeClient,
    path: str,
    *,
    params: Params | None = None,
    metadata_only: bool = False,
    page_size: int = 500,
    streams: bool = True,
    pace: Pace | None = None,
) -> AsyncGenerator[News, None]:
    """Tell all objects of the collection `path`, then every change, for ever; close the generator to end it.

    `params` are selectors. With `metadata_only` objects hold nothing but their metadata. `streams` False lists in
    pages even where the server could stream the initial objects.
    """
    stream = _Stream(client, path, params or {}, metadata_only, page_size, streams, pace or Pace())
    return stream.run()


class _Stream:
    """The memory between rounds: where we are, and how patient to be."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        params: Params,
        metadata_only: bool,
        page_size: int,
        streams: bool,
        pace: Pace,
    ) -> None:
        self._client = client.with_patience(0.0)  # the rounds are the retries
        self._path = path
        self._plural = path.rpartition("/")[2]
        self._params = dict(params)
        self._metadata_only = metadata_only
        self._page_size = page_size
        self._streams = streams
        self._pace = pace
        self._backoff = Backoff(pace.floor, pace.ceiling, jitter=pace.jitter, rand=pace.rand)
        self._absence = Backoff(pace.floor, _SOON_AGAIN, jitter=pace.jitter, rand=pace.rand)
        self._version: str | None = None
        self._must_list = False  # this once, although the server could stream
        self._is_doubtful = False  # the last round ended unexpectedly

    async def run(self) -> AsyncGenerator[News, None]:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            seconds = int(self._pace.round_min + (self._pace.round_max - self._pace.round_min) * self._pace.rand())
            failure: ApiError | UnreachableError | None = None
            try:
                async with aclosing(self._round(seconds)) as news:
                    async for item in news:
                        yield item
            except (ApiError, UnreachableError) as error:
                failure = error
            lived = clock() - began
            reason = self._reason(failure, is_due=lived >= max(seconds - _SETTLED, 0.9 * seconds))
            metrics.watch_restarts.labels(self._plural, reason).inc()
            self._is_doubtful = reason != "due"
            if reason in {"due", "no_streaming"}:
                self._backoff.reset()
                continue
            if failure is not None:
                yield Failed(failure)
            await self._pace.sleep(self._pause(failure, lived))

    async def _round(self, seconds: int) -> AsyncGenerator[News, None]:
        if self._version is not None and self._is_doubtful:
            await self._require_same_history(self._version)
        if self._version is None and (self._must_list or not self._streams):
            listed = await self._list()
            self._version = listed.resource_version
            self._must_list = False
            yield listed
        params: dict[str, str | int | bool] = {
            **self._params,
            "allowWatchBookmarks": True,
            "timeoutSeconds": seconds,
        }
        if self._version is None:
            params |= {"sendInitialEvents": True, "resourceVersionMatch": "NotOlderThan"}
        else:
            params["resourceVersion"] = self._version
        lifetime = seconds + self._pace.margin
        async with self._client.watch(
            self._path, params=params, metadata_only=self._metadata_only, lifetime=lifetime
        ) as frames:
            if self._version is None:
                yield await self._initial(frames)
            else:
                yield Bookmark(self._version)
            async for frame in frames:
                yield self._take(frame)

    async def _initial(self, frames: AsyncIterator[Obj]) -> Replaced:
        """Collect the initial objects of a watch, up to the bookmark that ends them."""
        items: dict[tuple[Any, Any], Obj] = {}
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._pace.initial) as patience:
                async for frame in frames:
                    obj = frame["object"]
                    if len(items) % _PATIENCE_STEP == 0:
                        patience.reschedule(now() + self._pace.initial)
                    if frame["type"] == "BOOKMARK":
                        if annotations_of(obj).get(_INITIAL_END) == "true":
                            self._version = _version_of(obj)
                            return Replaced(list(items.values()), self._version)
                        continue
                    place = (get_in(obj, "metadata", "namespace"), get_in(obj, "metadata", "name"))
                    if frame["type"] == "DELETED":
                        items.pop(place, None)
                    else:
                        items[place] = self._cut(obj)
        except TimeoutError as error:
            self._streams = False
            raise BrokenAnswerError("the initial objects of a watch never ended") from error
        raise BrokenAnswerError("a watch ended before its initial objects did")

    def _take(self, frame: Obj) -> News:
        """Turn one frame into news, and remember how far we are."""
        version = _version_of(frame["object"])
        is_older = is_older_version(version, self._version or "")
        if frame["type"] == "BOOKMARK":
            if is_older:
                self._version = None
                raise BrokenAnswerError("the API server's history went back")
            self._version = version
            return Bookmark(version)
        if not is_older:
            self._version = version
        return Changed(cast(ChangeType, frame["type"]), self._cut(frame["object"]))

    async def _list(self) -> Replaced:
        """Everything, page by page; once more in one piece when the pages grew too old on the way (Q04)."""
        try:
            return await self._list_in(self._page_size)
        except GoneError:
            return await self._list_in(0)

    async def _list_in(self, page_size: int) -> Replaced:
        items: list[Obj] = []
        version = ""
        pages = self._client.list_pages(
            self._path, params=self._params, metadata_only=self._metadata_only, page_size=page_size
        )
        async for page in pages:
            rows = page.get("items") or []
            items.extend(self._cut(row) for row in rows)
            version = version or _version_of(page)
        return Replaced(items, version)

    async def _require_same_history(self, version: str) -> None:
        """Raise GoneError when the server is older than what we saw: etcd was restored (Q12)."""
        pages = self._client.list_pages(self._path, params=self._params, metadata_only=True, page_size=1)
        async with aclosing(cast(AsyncGenerator[Obj, None], pages)):
            page = await anext(pages)
        if is_older_version(_version_of(page), version):
            raise GoneError(410, "Expired", "the API server's history went back")

    def _cut(self, obj: Any) -> Obj:
        """Only the metadata, if that is what was asked for, also of servers that send all of it."""
        if not isinstance(obj, dict) or not isinstance(obj.get("metadata"), dict):
            raise BrokenAnswerError("an answer of the API server holds something that is not an object")
        return {"metadata": obj["metadata"]} if self._metadata_only else obj

    def _reason(self, failure: ApiError | UnreachableError | None, *, is_due: bool) -> str:
        """Why a round ended, in the metric's word; decides what the next round may build on."""
        match failure:
            case None:
                return "due" if is_due else "closed"
            case FrameTooLargeError():
                # Resuming or streaming would meet the same frame again.
                self._version = None
                self._must_list = True
                return "too_large"
            case UnreachableError():
                return "unreachable"
            case InvalidError() if self._version is None and self._streams and not self._must_list:
                self._streams = False
                return "no_streaming"
            case TooManyRequestsError() | UnauthorizedError():
                return "refused"
            case _ if failure.status < 500:
                self._version = None
                return "gone" if isinstance(failure, GoneError) else "refused"
        return "server_error"

    def _pause(self, failure: ApiError | UnreachableError | None, lived: float) -> float:
        if lived >= _SETTLED:
            self._backoff.reset()
            self._absence.reset()
            if failure is None or isinstance(failure, UnreachableError):
                return 0.2 * self._pace.rand()
        if isinstance(failure, (UnreachableError, NotFoundError)) and not isinstance(failure, BrokenAnswerError):
            # How long a server was away says nothing of how it likes our requests: one that has just come back
            # refuses a few of them while it warms up, and must not be left alone for long because of that.
            return self._absence.next()
        self._absence.reset()
        pause = self._backoff.next()
        if isinstance(failure, ApiError) and failure.retry_after:
            return max(pause, failure.retry_after)
        return pause


def _version_of(obj: Mapping[str, object]) -> str:
    version = get_in(obj, "metadata", "resourceVersion")
    if not isinstance(version, str) or not version:
        raise BrokenAnswerError("an answer of the API server has no resourceVersion")
    return version
