"""What no real API server can be brought to answer on demand: a scripted one plays it line by line.

spec/hostile-inputs.md Q, the rows without a star, and those starred ones whose exact bytes matter. What an API server
means by its answers is tested against the real one (`test_kube_watch`, `test_kube_client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gitopsd import metrics
from gitopsd.krm.objects import GVK
from gitopsd.kube import transport
from gitopsd.kube.client import KubeClient, KubeSettings, PatchType
from gitopsd.kube.credentials import Kubeconfig
from gitopsd.kube.discovery import Discovery, NoMatchError, Resource, UnknownKindError
from gitopsd.kube.errors import (
    ApiError,
    BrokenAnswerError,
    ConflictError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreachableError,
)
from gitopsd.kube.informer import Informer
from gitopsd.kube.transport import Effort
from gitopsd.kube.watch import Bookmark, Changed, Failed, News, Pace, Replaced, list_and_watch

CANARY = "CNRY-kube-token-00112233445566778899aabbccddeeff"
PATH = "/api/v1/namespaces/default/configmaps"


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"


class Line:
    """The server's end of one connection, while it answers one request."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.is_open = True

    async def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def answer(self, code: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
        await self.send(_head(code, head), data)

    async def begin_watch(self) -> None:
        await self.send(_head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))

    async def frames(self, *frames: Any) -> None:
        for frame in frames:
            data = frame if isinstance(frame, bytes) else json.dumps(frame).encode() + b"\n"
            await self.send(f"{len(data):x}\r\n".encode(), data, b"\r\n")

    async def end(self) -> None:
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Leave without a word (RST)."""
        self.is_open = False
        self._writer.transport.abort()

    def leave(self) -> None:
        """Close once everything is sent (FIN)."""
        self.is_open = False


def _head(code: int, headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code} X\r\n{lines}\r\n".encode()


Script = Callable[[Asked, Line], Awaitable[None]]


class Server:
    """Answers the n-th request with the n-th script, the last one for ever."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.scripts: list[Script] = []
        self.url = ""
        self.connections = 0
        self._serving: set[asyncio.Task[Any]] = set()

    def play(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.connections += 1
        connection = self.connections
        line = Line(writer)
        try:
            while line.is_open:
                asked = await _read_request(reader, connection)
                self.asked.append(asked)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(asked, line)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def watches(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.is_watch]


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *rest = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    return Asked(method, url.path, dict(parse_qsl(url.query)), headers, body, connection)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    listening = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield one
    listening.close()
    await one.close()


class Clock:
    """Sleeps in no time and remembers for how long it should have been."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def connect(server: Server, clock: Clock | None = None, **effort: Any) -> AsyncIterator[KubeClient]:
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server.url}}],
        "users": [{"name": "x", "user": {"token": CANARY}}],
    }
    credentials = Kubeconfig(json.dumps(document).encode())
    settings = KubeSettings(effort=Effort(**effort))
    sleep = clock.sleep if clock else asyncio.sleep
    async with KubeClient.connect(settings, credentials, sleep=sleep, rand=lambda: 0.5) as client:
        yield client


def pace(clock: Clock, **times: Any) -> Pace:
    return replace(Pace(rand=lambda: 0.5, sleep=clock.sleep), **times)


def obj(name: str, version: int, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": str(version)}, **fields}


def event(kind: str, name: str, version: int, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "object": obj(name, version, **fields)}


def bookmark(version: int, *, initial: bool = False) -> dict[str, Any]:
    annotations = {"k8s.io/initial-events-end": "true"} if initial else {}
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version), "annotations": annotations}}}


def status(code: int, message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "message": message, **fields}


def page(version: int, *items: dict[str, Any], token: str = "") -> dict[str, Any]:
    return {"kind": "List", "metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def saying(code: int, body: Any, **headers: str) -> Script:
    async def script(asked: Asked, line: Line) -> None:
        await line.answer(code, body, **headers)

    return script


def watching(*frames: Any, then: str = "end") -> Script:
    """A watch that sends `frames` and then ends properly, is cut, or hangs."""

    async def script(asked: Asked, line: Line) -> None:
        await line.begin_watch()
        await line.frames(*frames)
        if then == "end":
            await line.end()
        elif then == "cut":
            line.cut()
        else:
            await asyncio.Event().wait()

    return script


async def cutting(asked: Asked, line: Line) -> None:
    line.cut()


def bytes_of(data: bytes) -> Script:
    async def script(asked: Asked, line: Line) -> None:
        await line.send(data)
        line.leave()

    return script


HANGING = watching(then="hang")


async def first_news(client: KubeClient, count: int, timing: Pace, **options: Any) -> list[News]:
    found: list[News] = []
    async with aclosing(list_and_watch(client, PATH, pace=timing, **options)) as news:
        async for item in news:
            found.append(item)
            if len(found) == count:
                break
    return found


def kinds(news: list[News]) -> list[str]:
    return [type(item).__name__ for item in news]


# -- watches


@pytest.mark.parametrize(
    "bad",
    [
        b'{"type":"ADDED","object":{"metadata":{"na\n',
        b"garbage\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"FOO","object":{"metadata":{"resourceVersion":"9"}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"x","resourceVersion":"7"}}}'
        b'{"type":"ADDED","object":{"metadata":{"name":"y","resourceVersion":"8"}}}\n',
        b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n',
        b'{"type":"BOOKMARK","object":{"metadata":{}}}\n',
        b'{"type":"ADDED","object":{"metadata":[]}}\n',
    ],
)
async def test_Q08_Q11_a_bad_frame_drops_the_stream_and_the_next_resumes_after_the_last_good_one(
    server: Server, bad: bytes
) -> None:
    """spec/hostile-inputs.md Q08, Q11: nothing of the bad line is used, and nothing is listed again."""
    server.play(
        watching(event("ADDED", "a", 4), bookmark(5, initial=True), event("MODIFIED", "a", 6), bad, then="hang"),
        saying(200, page(8)),
        watching(event("MODIFIED", "a", 9), then="hang"),
    )
    clock = Clock()
    async with connect(server) as client:
        news = await first_news(client, 5, pace(clock))
    assert kinds(news) == ["Replaced", "Changed", "Failed", "Bookmark", "Changed"]
    assert isinstance(news[2], Failed)
    assert isinstance(news[2].error, BrokenAnswerError)
    assert server.watches[1].query["resourceVersion"] == "6"
    assert "sendInitialEvents" not in server.watches[1].query


@pytest.mark.parametrize("then", ["cut", "half"])
async def test_Q07_Q08_a_line_that_is_cut_is_no_event(server: Server, then: str) -> None:
    """spec/hostile-inputs.md Q07, Q08: RST and FIN in mid-line."""
    half = json.dumps(event("DELETED", "a", 7)).encode()[:-20]
    server.play(
        watching(event("ADDED", "a", 4), bookmark(5, initial=True), half, then="cut" if then == "cut" else "end"),
        saying(200, page(8)),
        HANGING,
    )
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock()))
    assert kinds(news) == ["Replaced", "Failed", "Bookmark"]
    assert server.watches[1].query["resourceVersion"] == "5"


async def test_Q09_watches_that_close_at_once_are_opened_less_and_less(server: Server) -> None:
    """spec/hostile-inputs.md Q09: at least 0.8 s apart, doubling, at most 10 in a minute; nothing is listed again."""

    async def close_at_once(asked: Asked, line: Line) -> None:
        if asked.is_watch:
            await watching()(asked, line)
        else:
            await line.answer(200, page(9))

    server.play(watching(bookmark(5, initial=True)), close_at_once)
    clock = Clock()
    async with connect(server) as client:
        await first_news(client, 12, pace(clock))
    assert all(pause >= 0.8 for pause in clock.pauses)
    assert clock.pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert sum(clock.pauses[:10]) > 60
    assert [asked.query["resourceVersion"] for asked in server.watches[1:]] == ["5"] * 11


async def test_Q10_a_hung_watch_is_ended_by_our_own_clock_and_resumed_without_a_list(server: Server) -> None:
    """spec/hostile-inputs.md Q10."""
    server.play(watching(event("ADDED", "a", 4), bookmark(5, initial=True), then="hang"), HANGING)
    clock = Clock()
    async with connect(server) as client:
        news = await first_news(client, 3, pace(clock, round_min=1, round_max=1, margin=0.1))
    assert kinds(news) == ["Replaced", "Bookmark", "Bookmark"]
    assert clock.pauses == []
    assert all(asked.is_watch for asked in server.asked)
    assert [asked.query.get("resourceVersion") for asked in server.asked] == [None, "5", "5"]


def test_Q10_a_round_takes_five_to_ten_minutes() -> None:
    """spec/hostile-inputs.md Q10: the server is told, and we look at the clock half a minute later."""
    assert (Pace().round_min, Pace().round_max, Pace().margin) == (300, 600, 30)


async def test_Q11_bookmarks_move_the_place_where_the_next_watch_resumes(server: Server) -> None:
    """spec/hostile-inputs.md Q11."""
    server.play(
        watching(bookmark(5, initial=True), *(bookmark(version) for version in range(6, 60))),
        saying(200, page(60)),
        HANGING,
    )
    async with connect(server) as client:
        news = await first_news(client, 56, pace(Clock()))
    assert {type(item) for item in news[1:]} == {Bookmark}
    assert server.watches[1].query["resourceVersion"] == "59"


async def test_Q12_a_server_that_is_older_than_what_we_saw_is_listed_again(server: Server) -> None:
    """spec/hostile-inputs.md Q12: it would be silent for ever if asked to resume in its own future."""
    server.play(
        watching(event("ADDED", "a", 900), bookmark(1000, initial=True), then="cut"),
        saying(200, page(40)),
        watching(event("ADDED", "b", 30), bookmark(41, initial=True), then="hang"),
    )
    async with connect(server) as client:
        news = await first_news(client, 4, pace(Clock()))
    assert kinds(news) == ["Replaced", "Failed", "Failed", "Replaced"]
    assert isinstance(news[3], Replaced)
    assert [item["metadata"]["name"] for item in news[3].items] == ["b"]
    assert server.watches[1].query["sendInitialEvents"] == "true"


async def test_Q12_a_bookmark_from_the_past_is_a_reason_to_list_again(server: Server) -> None:
    """spec/hostile-inputs.md Q12."""
    server.play(
        watching(bookmark(1000, initial=True), bookmark(7), then="hang"),
        watching(bookmark(8, initial=True), then="hang"),
    )
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock()))
    assert kinds(news) == ["Replaced", "Failed", "Replaced"]


async def test_Q13_an_event_too_large_is_met_by_a_list_and_the_watch_goes_on(server: Server) -> None:
    """spec/hostile-inputs.md Q13: never a dead informer."""
    large = json.dumps(event("MODIFIED", "a", 6, data={"x": "y" * (4 << 20)})).encode() + b"\n"
    server.play(
        watching(event("ADDED", "a", 4), bookmark(5, initial=True), large, then="hang"),
        saying(200, page(7, obj("a", 6))),
        watching(event("MODIFIED", "a", 8), then="hang"),
    )
    async with connect(server) as client:
        news = await first_news(client, 5, pace(Clock()))
    assert kinds(news) == ["Replaced", "Failed", "Replaced", "Bookmark", "Changed"]
    assert server.watches[1].query["resourceVersion"] == "7"


async def test_Q04_a_list_that_expires_between_pages_is_read_once_more_in_one_piece(server: Server) -> None:
    """spec/hostile-inputs.md Q04."""
    server.play(
        saying(200, page(5, obj("a", 1), token="more")),
        saying(410, status(410, "too old")),
        saying(200, page(6, obj("a", 1), obj("b", 2))),
        HANGING,
    )
    async with connect(server) as client:
        news = await first_news(client, 2, pace(Clock()), streams=False)
    assert kinds(news) == ["Replaced", "Bookmark"]
    assert isinstance(news[0], Replaced)
    assert len(news[0].items) == 2
    assert [asked.query.get("limit") for asked in server.asked[:3]] == ["500", "500", None]
    assert server.watches[0].query["resourceVersion"] == "6"


async def test_Q07_half_a_list_never_becomes_the_cache(server: Server) -> None:
    """spec/hostile-inputs.md Q07: the second page breaks each time; what is gone is told only by a whole list."""
    whole = json.dumps(page(9, obj("c", 3))).encode()
    server.play(
        saying(200, page(5, obj("a", 1), token="more")),
        bytes_of(_head(200, {"Content-Length": str(len(whole))}) + whole[:-10]),
        saying(200, page(5, obj("a", 1), token="more")),
        saying(200, whole[:-10]),
        saying(200, page(8, obj("a", 1), token="more")),
        saying(200, page(8, obj("b", 2))),
        HANGING,
    )
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock()), streams=False)
    assert kinds(news) == ["Failed", "Failed", "Replaced"]
    assert isinstance(news[2], Replaced)
    assert [item["metadata"]["name"] for item in news[2].items] == ["a", "b"]


async def test_Q07_initial_events_that_break_off_never_become_the_cache(server: Server) -> None:
    """spec/hostile-inputs.md Q07, for the list that comes as a stream."""
    server.play(
        watching(event("ADDED", "a", 1), then="end"),
        watching(event("ADDED", "a", 1), then="cut"),
        watching(event("ADDED", "a", 1), event("ADDED", "b", 2), bookmark(3, initial=True), then="hang"),
    )
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock()))
    assert kinds(news) == ["Failed", "Failed", "Replaced"]


async def test_servers_that_cannot_stream_initial_objects_are_listed_without_delay(server: Server) -> None:
    refusal = status(422, "sendInitialEvents: Forbidden", reason="Invalid")
    server.play(saying(422, refusal), saying(200, page(5, obj("a", 1))), HANGING)
    clock = Clock()
    async with connect(server) as client:
        news = await first_news(client, 2, pace(clock))
    assert kinds(news) == ["Replaced", "Bookmark"]
    assert clock.pauses == []


async def test_servers_that_ignore_the_wish_for_initial_objects_are_listed(server: Server) -> None:
    server.play(watching(event("ADDED", "a", 1), then="hang"), saying(200, page(5, obj("a", 1))), HANGING)
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock(), initial=0.2))
    assert kinds(news) == ["Failed", "Replaced", "Bookmark"]


async def test_servers_that_send_whole_objects_are_cut_to_the_metadata_we_asked_for(server: Server) -> None:
    server.play(
        watching(
            event("ADDED", "a", 1, data={"x": CANARY}), bookmark(2, initial=True), event("MODIFIED", "a", 3, data={})
        )
    )
    async with connect(server) as client:
        news = await first_news(client, 2, pace(Clock()), metadata_only=True)
    assert isinstance(news[0], Replaced)
    assert isinstance(news[1], Changed)
    assert list(news[0].items[0]) == list(news[1].obj) == ["metadata"]
    assert "PartialObjectMetadata" in server.asked[0].headers["accept"]


async def test_an_error_in_the_stream_that_is_no_410_resumes_where_it_was(server: Server) -> None:
    server.play(
        watching(bookmark(5, initial=True), {"type": "ERROR", "object": status(500, "etcd is tired")}),
        saying(200, page(5)),
        HANGING,
    )
    async with connect(server) as client:
        news = await first_news(client, 3, pace(Clock()))
    assert kinds(news) == ["Replaced", "Failed", "Bookmark"]
    assert isinstance(news[1], Failed)
    assert str(news[1].error) == "etcd is tired"
    assert server.watches[1].query["resourceVersion"] == "5"


async def test_a_server_that_asks_for_a_pause_gets_it(server: Server) -> None:
    server.play(saying(503, status(503), **{"Retry-After": "17"}), watching(bookmark(5, initial=True), then="hang"))
    clock = Clock()
    async with connect(server) as client:
        await first_news(client, 2, pace(clock))
    assert clock.pauses == [17]


async def test_an_informer_lives_through_all_of_it(server: Server) -> None:
    """Q03, Q07, Q08, Q13 in a row; the cache holds the last truth."""
    server.play(
        watching(event("ADDED", "a", 4), event("ADDED", "b", 4), bookmark(5, initial=True), b"junk\n"),
        saying(500, b"<html>"),
        saying(200, page(5)),
        watching({"type": "ERROR", "object": status(410, "too old")}),
        cutting,
        bytes_of(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        watching(event("ADDED", "b", 4), event("ADDED", "c", 9), bookmark(10, initial=True), then="hang"),
    )
    clock = Clock()
    resource = Resource(GVK("", "v1", "ConfigMap"), "configmaps", namespaced=True)
    async with connect(server) as client:
        informer: Informer[Any] = Informer(client, resource, namespace="default", pace=pace(clock))
        heard: list[tuple[str, str]] = []
        informer.tell(lambda change: heard.append((change.kind, change.key.name)))
        running = asyncio.ensure_future(informer.run())
        try:
            async with asyncio.timeout(20):
                while ("ADDED", "c") not in heard:
                    await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert heard == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("ADDED", "c")]
    assert informer.problem is None


# -- requests


async def test_Q05_a_request_waits_as_it_is_told_and_others_go_on(server: Server) -> None:
    """spec/hostile-inputs.md Q05: a number, a day (cut to a minute), junk."""
    told = asyncio.Event()

    class Told(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            await told.wait()

    clock = Told()
    server.play(
        saying(429, status(429), **{"Retry-After": "30"}),
        saying(200, {"kind": "Other"}),
        saying(429, status(429), **{"Retry-After": "soon"}),
        saying(200, {"kind": "Asked"}),
    )
    async with connect(server, clock) as client:
        patient = asyncio.ensure_future(client.get("/api/v1/asked"))
        while not clock.pauses:
            await asyncio.sleep(0.01)
        assert (await client.get("/api/v1/other"))["kind"] == "Other"
        told.set()
        assert (await patient)["kind"] == "Asked"
    assert clock.pauses[0] == 30
    assert 0 < clock.pauses[1] < 1


async def test_Q05_who_is_told_to_wait_past_the_deadline_is_refused_at_once(server: Server) -> None:
    """spec/hostile-inputs.md Q05: and learns how long the server wanted, a day being a minute."""
    server.play(saying(429, status(429), **{"Retry-After": "86400"}))
    async with connect(server, Clock()) as client:
        with pytest.raises(TooManyRequestsError) as caught:
            await client.get("/api/v1/x", timeout=30)
    assert caught.value.retry_after == 60
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_Q06_a_server_that_fails_is_asked_again_with_growing_pauses(server: Server, code: int) -> None:
    """spec/hostile-inputs.md Q06."""
    server.play(*[saying(code, status(code))] * 3, saying(200, {"kind": "Done"}))
    clock = Clock()
    async with connect(server, clock) as client:
        patched = await client.patch("/api/v1/x", {}, kind=PatchType.APPLY, params={"fieldManager": "m"})
    assert patched["kind"] == "Done"
    assert len(clock.pauses) == 3
    assert clock.pauses == sorted(clock.pauses)


async def test_Q06_patience_ends_and_the_servers_own_words_remain(server: Server) -> None:
    """spec/hostile-inputs.md Q06."""
    server.play(saying(503, status(503, "etcd has no leader")))
    async with connect(server, patience=0.3) as client:
        with pytest.raises(ServerError, match="etcd has no leader"):
            await client.get("/api/v1/x")
    assert len(server.asked) > 1


@pytest.mark.parametrize(
    "message",
    ['Internal error occurred: failed calling webhook "x.example.com": timeout', "etcdserver: request is too large"],
)
async def test_Q14_Q21_what_a_second_try_cannot_change_is_not_tried_twice(server: Server, message: str) -> None:
    """spec/hostile-inputs.md Q14, Q21."""
    server.play(saying(500, status(500, message)))
    async with connect(server, Clock()) as client:
        with pytest.raises(ServerError):
            await client.patch("/api/v1/x", {}, kind=PatchType.APPLY)
    assert len(server.asked) == 1


async def test_Q27_a_create_whose_answer_was_lost_is_not_sent_twice(server: Server) -> None:
    """spec/hostile-inputs.md Q27."""
    server.play(cutting)
    async with connect(server, Clock()) as client:
        with pytest.raises(UnreachableError, match="cannot be reached"):
            await client.create("/api/v1/x", {"metadata": {"name": "a"}})
        assert len(server.asked) == 1
        with pytest.raises(UnreachableError):
            await client.patch("/api/v1/x", [], kind=PatchType.JSON)
        assert len(server.asked) == 2


async def test_an_apply_whose_answer_was_lost_is_sent_again(server: Server) -> None:
    server.play(cutting, saying(200, {"kind": "Done"}))
    async with connect(server, Clock()) as client:
        assert (await client.patch("/api/v1/x", {"a": 1}, kind=PatchType.APPLY))["kind"] == "Done"
    assert [asked.body for asked in server.asked] == [b'{"a":1}'] * 2


async def test_a_create_that_never_left_is_sent_when_the_server_is_back(server: Server) -> None:
    server.play(saying(201, {"kind": "Created"}))
    real = server.url
    server.url = "http://127.0.0.1:1"
    async with connect(server) as client:

        async def come_back(seconds: float) -> None:
            client._transport.access = replace(client._transport.access, server=real)

        client._transport._sleep = come_back
        assert (await client.create("/api/v1/x", {}))["kind"] == "Created"


async def test_Q15_a_refused_token_is_read_again_once_for_all_who_used_it(server: Server, tmp_path: Path) -> None:
    """spec/hostile-inputs.md Q15."""
    (tmp_path / "token").write_text("old")
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server.url}}],
        "users": [{"name": "x", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "config").write_text(json.dumps(document))

    async def guard(asked: Asked, line: Line) -> None:
        known = asked.headers["authorization"] == "Bearer new"
        await line.answer(200 if known else 401, {"kind": "Secret"} if known else status(401, "Unauthorized"))

    server.play(guard)
    clock = Clock()
    async with KubeClient.connect(KubeSettings(kubeconfig=tmp_path / "config"), sleep=clock.sleep) as client:
        with pytest.raises(UnauthorizedError):
            await client.get("/api/v1/x")
        assert len(server.asked) == 2, "one immediate retry, and no more"
        (tmp_path / "token").write_text("new")
        asked = len(server.asked)
        found = await asyncio.gather(*(client.get("/api/v1/x") for _ in range(5)))
        assert {answer["kind"] for answer in found} == {"Secret"}
        assert len(server.asked) - asked <= 10
        (tmp_path / "token").unlink()
        assert (await client.get("/api/v1/x"))["kind"] == "Secret", "a file that is missing for a moment costs nothing"
    assert clock.pauses == []


async def test_an_old_token_file_is_read_again_before_anybody_refuses_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    (tmp_path / "ca.crt").write_bytes(b"")
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server.url}}],
        "users": [{"name": "x", "user": {"tokenFile": "token"}}],
    }
    (tmp_path / "config").write_text(json.dumps(document))
    server.play(saying(200, {}))
    async with KubeClient.connect(KubeSettings(kubeconfig=tmp_path / "config")) as client:
        await client.get("/api/v1/x")
        (tmp_path / "token").write_text("new")
        client._transport.access = replace(client._transport.access, stale_at=0.0)
        await client.get("/api/v1/x")
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: junk\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(10_000)) + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + b"x" * 38,
        b"SSH-2.0-OpenSSH_9\r\n",
        b"",
    ],
)
async def test_Q30_what_is_not_proper_http_fails_the_request(server: Server, answer: bytes) -> None:
    """spec/hostile-inputs.md Q30."""
    server.play(bytes_of(answer))
    async with connect(server, patience=0.0) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.get("/api/v1/x", timeout=5)
    assert CANARY not in str(caught.value)


async def test_Q30_a_second_answer_that_nobody_asked_for_is_never_used(server: Server) -> None:
    """spec/hostile-inputs.md Q30: response smuggling."""
    first = _head(200, {"Content-Length": "2"}) + b"{}"
    smuggled = _head(200, {"Content-Length": "18"}) + b'{"kind":"Smuggled"}'[:18]

    async def smuggle(asked: Asked, line: Line) -> None:
        await line.send(first, smuggled)

    server.play(smuggle, saying(200, {"kind": "Right"}))
    async with connect(server, Clock()) as client:
        await client.get("/api/v1/one")
        assert (await client.get("/api/v1/two"))["kind"] == "Right"


async def test_Q30_packed_answers_are_bounded_by_what_they_unpack_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec/hostile-inputs.md Q30."""
    monkeypatch.setattr(transport, "ANSWER_BOUND", 1 << 20)
    bomb = gzip.compress(b"[" + b" " * (32 << 20) + b"]")
    server.play(saying(200, bomb, **{"Content-Encoding": "gzip"}))
    async with connect(server, Clock()) as client:
        with pytest.raises(UnreachableError, match="larger than"):
            await client.get("/api/v1/x")
    assert len(server.asked) == 1


@pytest.mark.parametrize("over", [0, 1])
async def test_an_answer_at_its_bound_passes_and_one_byte_more_does_not(
    server: Server, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    monkeypatch.setattr(transport, "ANSWER_BOUND", 10_000)
    body = b"{" + b" " * (9_998 + over) + b"}"
    server.play(saying(200, body))
    async with connect(server, Clock()) as client:
        if over:
            with pytest.raises(BrokenAnswerError, match="larger than"):
                await client.get("/api/v1/x")
        else:
            assert await client.get("/api/v1/x") == {}


async def test_an_answer_that_lies_about_its_length_is_bounded_all_the_same(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "ANSWER_BOUND", 10_000)

    async def endless(asked: Asked, line: Line) -> None:
        await line.begin_watch()
        for _ in range(1000):
            await line.frames(b" " * 1000)

    server.play(endless)
    async with connect(server, Clock()) as client:
        with pytest.raises(BrokenAnswerError, match="larger than"):
            await client.get("/api/v1/x")


async def test_a_redirect_is_refused_and_the_token_stays_here(server: Server) -> None:
    server.play(saying(302, b"", Location=f"{server.url}/elsewhere"))
    async with connect(server, Clock()) as client:
        with pytest.raises(ApiError, match="302"):
            await client.get("/api/v1/x")
    assert [asked.path for asked in server.asked] == ["/api/v1/x"]


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b'{"a":', b"\xff"])
async def test_an_answer_that_is_no_object_is_broken(server: Server, body: bytes) -> None:
    server.play(saying(200, body))
    async with connect(server, Clock(), patience=0.0) as client:
        with pytest.raises(BrokenAnswerError):
            await client.get("/api/v1/x")


async def test_a_server_that_never_answers_is_given_up_at_the_deadline(server: Server) -> None:
    async def silence(asked: Asked, line: Line) -> None:
        await asyncio.Event().wait()

    server.play(silence)
    async with connect(server) as client:
        with pytest.raises(UnreachableError, match="did not answer in time") as caught:
            await client.get(f"/api/v1/x?token={CANARY}", timeout=0.2)
    assert CANARY not in str(caught.value)


async def test_nobody_there_is_said_with_the_address_and_nothing_else() -> None:
    server = Server()
    server.url = "http://127.0.0.1:1/prefix"
    async with connect(server, patience=0.0) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.get("/api/v1/x?secret=1")
    assert str(caught.value) == "the API server at 127.0.0.1:1 cannot be reached: connection refused"


async def test_a_closed_client_says_so_instead_of_breaking_its_users(server: Server) -> None:
    async with connect(server) as client:
        pass
    with pytest.raises(UnreachableError, match="closed"):
        await client.get("/api/v1/x")


async def test_requests_are_spread_only_where_the_server_does_not_do_it_itself(server: Server) -> None:
    """spec/runtime.md 5.1: `--kube-api-qps` counts without Priority and Fairness."""
    fair = {"X-Kubernetes-PF-FlowSchema-UID": "x"}
    for headers, spread in ((fair, False), ({}, True)):
        clock = Clock()
        server.play(saying(200, {}, **headers))
        async with connect(server, clock, qps=1.0, burst=3) as client:
            for _ in range(8):
                await client.get("/api/v1/x")
        assert (len(clock.pauses) > 0) is spread
        if spread:
            assert len(clock.pauses) == 4, "the first one finds out, three are the burst"
            assert clock.pauses == sorted(clock.pauses)


async def test_connections_are_kept_counted_and_never_more_than_allowed(server: Server) -> None:
    busy = 0
    peak = 0

    async def slow(asked: Asked, line: Line) -> None:
        nonlocal busy, peak
        busy += 1
        peak = max(peak, busy)
        await asyncio.sleep(0.02)
        busy -= 1
        await line.answer(200, {})

    server.play(slow)
    async with connect(server, connections=3) as client:
        await asyncio.gather(*(client.get("/api/v1/x") for _ in range(20)))
        assert peak == 3
        assert server.connections == 3


async def test_urgent_requests_do_not_queue_behind_others(server: Server) -> None:
    """spec/hostile-inputs.md Q05: the lease goes first."""

    async def answer(asked: Asked, line: Line) -> None:
        if "lease" not in asked.path:
            await asyncio.Event().wait()
        await line.answer(200, {"kind": "Lease"})

    server.play(answer)
    async with connect(server, connections=2) as client:
        stuck = [asyncio.ensure_future(client.get("/api/v1/x")) for _ in range(5)]
        while len(server.asked) < 2:
            await asyncio.sleep(0.01)
        assert (await client.urgent().get("/apis/lease", timeout=5))["kind"] == "Lease"
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_requests_are_counted_by_code_method_and_host(server: Server) -> None:
    server.play(saying(200, {}), saying(409, status(409, "Conflict")))
    host = server.url.removeprefix("http://")
    counters = [metrics.rest_client_requests.labels(*labels, host) for labels in (("200", "GET"), ("409", "PATCH"))]
    already = [counter._value.get() for counter in counters]
    async with connect(server, Clock()) as client:
        await client.get("/api/v1/x")
        with pytest.raises(ConflictError):
            await client.patch("/api/v1/x", {}, kind=PatchType.MERGE)
    assert [counter._value.get() - before for counter, before in zip(counters, already, strict=True)] == [1, 1]


async def test_headers_are_as_agreed(server: Server) -> None:
    server.play(saying(200, {}))
    async with connect(server) as client:
        user = client.as_user("system:serviceaccount:a:b", ["g1", "g2"])
        await user.patch("/api/v1/x", b"{}", kind=PatchType.APPLY, params={"fieldManager": "m", "force": True})
        await client.get("/api/v1/x", metadata_only=True)
    first, second = server.asked
    assert first.headers["content-type"] == "application/apply-patch+yaml"
    assert first.headers["impersonate-user"] == "system:serviceaccount:a:b"
    assert first.headers["user-agent"].startswith("gitopsd/")
    assert first.headers["authorization"] == f"Bearer {CANARY}"
    assert first.query == {"fieldManager": "m", "force": "true"}
    assert "impersonate-user" not in second.headers
    assert "content-type" not in second.headers
    assert second.headers["accept"].startswith("application/json;as=PartialObjectMetadata;")


async def test_a_large_object_is_sent_without_complaint_and_can_be_sent_again(server: Server) -> None:
    server.play(saying(503, status(503)), saying(200, {}))
    async with connect(server, Clock()) as client:
        await client.patch("/api/v1/x", {"data": "x" * (3 << 20)}, kind=PatchType.APPLY)
    assert [len(asked.body) for asked in server.asked] == [(3 << 20) + 11] * 2


async def test_pages_shrink_when_objects_are_large(server: Server) -> None:
    server.play(saying(200, page(1, obj("a", 1, data="x" * (8 << 20)), token="more")), saying(200, page(1)))
    async with connect(server) as client:
        pages = [found async for found in client.list_pages(PATH)]
    assert len(pages) == 2
    assert server.asked[0].query == {"limit": "500"}
    assert server.asked[1].query["continue"] == "more"
    assert 50 < int(server.asked[1].query["limit"]) < 150


# -- discovery


def group(name: str, *kinds: str, stale: bool = False) -> dict[str, Any]:
    resources = [
        {"resource": f"{kind.lower()}s", "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["get"]}
        for kind in kinds
    ]
    version = {"version": "v1", "resources": resources, "freshness": "Stale" if stale else "Current"}
    return {"metadata": {"name": name}, "versions": [version]}


def discovery(*groups: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "APIGroupDiscoveryList", "items": list(groups)}


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_Q23_kinds_of_a_group_that_does_not_answer_are_unknown_and_others_usable(server: Server) -> None:
    """spec/hostile-inputs.md Q23: unknown is not gone, or pruning would believe the objects gone with the kind."""
    up = discovery(group("apps", "Deployment"), group("metrics.k8s.io", "PodMetrics"))
    down = discovery(group("apps", "Deployment"), group("metrics.k8s.io", stale=True))
    core = discovery(group("", "Pod"))
    server.play(
        saying(200, core), saying(200, up), saying(200, core), saying(200, down), saying(200, core), saying(200, down)
    )
    clock = Time()
    async with connect(server) as client:
        found = Discovery(client, clock=clock)
        assert (await found.resource(GVK("metrics.k8s.io", "v1", "PodMetrics"))).plural == "podmetricss"
        found.forget()
        assert (await found.resource(GVK("apps", "v1", "Deployment"))).plural == "deployments"
        assert (await found.resource(GVK("metrics.k8s.io", "v1", "PodMetrics"))).plural == "podmetricss"
        with pytest.raises(UnknownKindError):
            await found.resource(GVK("metrics.k8s.io", "v1", "NodeMetrics"))
        with pytest.raises(UnknownKindError):
            await found.preferred("metrics.k8s.io", "NodeMetrics")
        with pytest.raises(NoMatchError, match='no matches for kind "Foo" in version "apps/v1"'):
            await found.resource(GVK("apps", "v1", "Foo"))


@pytest.mark.parametrize("body", [b"junk", b"[]", b" " * 20_000, None])
async def test_Q24_a_discovery_document_that_cannot_be_used_leaves_the_old_one(
    server: Server, body: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec/hostile-inputs.md Q24."""
    monkeypatch.setattr(transport, "ANSWER_BOUND", 10_000)
    bad = cutting if body is None else saying(200, body)
    server.play(saying(200, discovery(group("", "Pod"))), saying(200, discovery(group("apps", "Deployment"))), bad)
    async with connect(server, Clock(), patience=0.0) as client:
        found = Discovery(client)
        await found.resource(GVK("", "v1", "Pod"))
        found.forget()
        assert (await found.resource(GVK("apps", "v1", "Deployment"))).plural == "deployments"
        with pytest.raises(UnreachableError):
            await found.resource(GVK("apps", "v1", "Other"))


async def test_many_who_miss_a_kind_cause_one_refresh_and_the_next_second_another(server: Server) -> None:
    server.play(saying(200, discovery()))
    clock = Time()
    async with connect(server) as client:
        found = Discovery(client, clock=clock)

        async def ask() -> None:
            with pytest.raises(NoMatchError):
                await found.resource(GVK("g", "v1", "X"))

        await asyncio.gather(*(ask() for _ in range(10)))
        assert len(server.asked) == 2
        await ask()
        assert len(server.asked) == 2
        clock.now += 2
        await asyncio.gather(*(ask() for _ in range(10)))
        assert len(server.asked) == 4


async def test_servers_without_aggregated_discovery_are_asked_group_by_group(server: Server) -> None:
    groups = {
        "kind": "APIGroupList",
        "groups": [
            {
                "name": "apps",
                "versions": [{"version": "v1beta1"}, {"version": "v1"}],
                "preferredVersion": {"version": "v1"},
            },
            {"name": "broken", "versions": [{"version": "v1"}], "preferredVersion": {"version": "v1"}},
        ],
    }
    rows = [
        {"name": "deployments", "kind": "Deployment", "namespaced": True, "verbs": ["get", "watch"]},
        {"name": "deployments/status", "kind": "Deployment", "namespaced": True, "verbs": ["get"]},
    ]
    answers = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"resources": [{"name": "nodes", "kind": "Node", "namespaced": False, "verbs": ["get"]}]},
        "/apis": groups,
        "/apis/apps/v1": {"resources": rows},
        "/apis/apps/v1beta1": {"resources": rows},
    }

    async def answer(asked: Asked, line: Line) -> None:
        found = answers.get(asked.path)
        await line.answer(200 if found else 503, found or status(503))

    server.play(answer)
    async with connect(server, Clock(), patience=0.0) as client:
        found = Discovery(client)
        assert await found.resource(GVK("", "v1", "Node")) == Resource(GVK("", "v1", "Node"), "nodes", namespaced=False)
        preferred = await found.preferred("apps", "Deployment")
        assert preferred.gvk.version == "v1"
        assert preferred.subresources == {"status"}
        assert preferred.verbs == {"get", "watch"}
        with pytest.raises(UnknownKindError):
            await found.resource(GVK("broken", "v1", "X"))
