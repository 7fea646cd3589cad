"""Events: counted when repeated, folded when many, cut short when endless, and posted without holding anybody up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web

from gitopsd import metrics
from gitopsd.krm.objects import Obj
from gitopsd.kube.client import KubeClient
from gitopsd.kube.errors import NotFoundError, UnreachableError
from gitopsd.runtime import recorder as module
from gitopsd.runtime.recorder import Recorder
from gitopsd.tasks import Backoff, TaskScope
from tests.servers.loopback import Answer, Ask
from tests.servers.webhook import WebhookServer

COMPONENT = "kustomize-controller"


def thing(name: str = "app", **annotations: str) -> Obj:
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}", "resourceVersion": "7"}
    api = "kustomize.toolkit.fluxcd.io/v1"
    return {"apiVersion": api, "kind": "Kustomization", "metadata": metadata | {"annotations": annotations}}


class Api:
    """What the recorder asks of the API server, and what became of it."""

    def __init__(self) -> None:
        self.events: dict[str, Obj] = {}
        self.writes: list[str] = []
        self.failure: Exception | None = None

    async def create(self, path: str, obj: Obj, **_: Any) -> Obj:
        self._fail()
        self.writes.append("create")
        self.events[f"{path}/{obj['metadata']['name']}"] = obj
        return obj

    async def patch(self, path: str, body: Obj, **_: Any) -> Obj:
        self._fail()
        if path not in self.events:
            raise NotFoundError(404, "NotFound", "gone")
        self.writes.append("patch")
        self.events[path] |= body
        return self.events[path]

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def told(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.events.values()]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def recording(api: Api, **options: Any) -> AsyncIterator[Recorder]:
    recorder = Recorder(cast(KubeClient, api), **options)
    async with TaskScope("test") as tasks:
        tasks.start("recorder", recorder.run())
        yield recorder


def say(recorder: Recorder, message: str, obj: Obj | None = None, *, reason: str = "BuildFailed") -> None:
    recorder.event(COMPONENT, obj or thing(), "Warning", reason, message)


def dropped(sink: str) -> float:
    return float(metrics.events_dropped.labels(sink)._value.get())


async def flushed(recorder: Recorder) -> None:
    assert await recorder.flush(5)


async def test_the_same_again_raises_the_count() -> None:
    api = Api()
    async with recording(api) as recorder:
        for message in ("one", "two", "one", "one"):
            say(recorder, message)
        await flushed(recorder)
    assert api.told() == [("one", 3), ("two", 1)]
    assert api.writes == ["create", "create", "patch", "patch"]
    first = next(iter(api.events.values()))
    assert first["type"] == "Warning"
    assert first["source"] == {"component": COMPONENT}
    assert first["involvedObject"] | {"name": "app", "uid": "uid-app"} == first["involvedObject"]


async def test_an_event_that_expired_on_the_server_is_made_anew() -> None:
    api = Api()
    async with recording(api) as recorder:
        say(recorder, "one")
        await flushed(recorder)
        api.events.clear()
        say(recorder, "one")
        await flushed(recorder)
    assert api.told() == [("one", 1)]


async def test_the_eleventh_message_of_a_reason_is_folded_and_ten_minutes_later_it_is_not() -> None:
    api, clock = Api(), Clock()
    async with recording(api, clock=clock) as recorder:
        for number in range(13):
            say(recorder, f"message {number}")
        say(recorder, "of another reason", reason="PruneFailed")
        await flushed(recorder)
        assert len(api.events) == 12
        assert ("(combined from similar events): message 12", 3) in api.told()
        assert ("of another reason", 1) in api.told()
        clock.now = 601
        say(recorder, "message 99")
        await flushed(recorder)
    assert ("message 99", 1) in api.told()


async def test_an_object_that_talks_without_end_is_cut_short_and_others_are_heard() -> None:
    api, clock, before = Api(), Clock(), dropped("spam")
    async with recording(api, clock=clock) as recorder:
        for _ in range(40):
            say(recorder, "again")
        say(recorder, "hello", thing("other"))
        await flushed(recorder)
        assert sorted(api.told()) == [("again", 25), ("hello", 1)]
        assert dropped("spam") - before == 15
        clock.now = 300  # one more each five minutes
        say(recorder, "again")
        say(recorder, "again")
        await flushed(recorder)
    assert ("again", 26) in api.told()


async def test_what_does_not_fit_is_counted_and_the_newest_is_kept() -> None:
    api, before = Api(), dropped("api")
    recorder = Recorder(cast(KubeClient, api), capacity=3)
    for number in range(5):
        say(recorder, f"message {number}")
    assert dropped("api") - before == 2
    async with TaskScope("test") as tasks:
        tasks.start("recorder", recorder.run())
        await flushed(recorder)
    assert api.told() == [("message 2", 1), ("message 3", 1), ("message 4", 1)]


async def test_a_server_that_is_away_loses_events_and_nothing_else() -> None:
    api = Api()
    api.failure = UnreachableError("the API server is away")
    async with recording(api) as recorder:
        say(recorder, "lost")
        await flushed(recorder)
        api.failure = None
        say(recorder, "kept")
        await flushed(recorder)
    assert api.told() == [("kept", 1)]


async def test_nothing_is_delivered_without_a_deliverer_and_flush_says_so() -> None:
    recorder = Recorder(cast(KubeClient, Api()))
    assert await recorder.flush(0)
    say(recorder, "one")
    assert not await recorder.flush(0)


async def test_a_name_too_long_for_an_event_and_a_message_too_long_for_the_server() -> None:
    api = Api()
    async with recording(api) as recorder:
        say(recorder, "ä" * 30_000, thing("n" * 253))
        await flushed(recorder)
    (event,) = api.events.values()
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["message"].encode()) <= 32 * 1024
    assert event["message"].endswith("...")


# -- the receiver ---------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    """A receiver, and a recorder that tries again at once."""
    monkeypatch.setattr(module, "Backoff", lambda *_: Backoff(0.001, 0.001))
    with WebhookServer() as server:
        yield server


async def test_a_receiver_is_told_all_about_it_but_no_traces(receiver: WebhookServer) -> None:
    obj = thing(**{"event.toolkit.fluxcd.io/image": "app:1", "other": "x"})
    async with recording(Api(), receiver=receiver.url, hostname="pod-1") as recorder:
        recorder.event(COMPONENT, obj, "Trace", "Progressing", "not for you")
        revision = {"kustomize.toolkit.fluxcd.io/revision": "main@sha1:abc"}
        recorder.event(COMPONENT, obj, "Warning", "BuildFailed", "it broke", revision)
        recorder.event(COMPONENT, obj, "Normal", "Progressing", "it works")
        await flushed(recorder)
    first, second = receiver.posts
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "involvedObject": {
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "name": "app", "namespace": "ns",
            "uid": "uid-app", "resourceVersion": "7",
        },
        "severity": "error", "message": "it broke", "reason": "BuildFailed",
        "reportingController": COMPONENT, "reportingInstance": "pod-1",
        "metadata": {"event.toolkit.fluxcd.io/image": "app:1"} | revision,
    }  # fmt: skip
    assert (second["severity"], second["message"]) == ("info", "it works")


@pytest.mark.parametrize(("status", "tries"), [(500, 5), (503, 5), (501, 1), (400, 1), (404, 1), (429, 1), (202, 1)])
async def test_only_what_may_pass_next_time_is_posted_again(receiver: WebhookServer, status: int, tries: int) -> None:
    receiver.status = status
    async with recording(Api(), receiver=receiver.url) as recorder:
        say(recorder, "one")
        await flushed(recorder)
        assert len(receiver.posts) == tries
        receiver.status = 202
        say(recorder, "two")
        await flushed(recorder)
    assert [post["message"] for post in receiver.posts] == ["one"] * tries + ["two"]


async def test_a_receiver_that_drops_the_connection_gets_the_event_at_the_next_try(receiver: WebhookServer) -> None:
    async def reset(request: web.Request, ask: Ask) -> Answer:
        answer = await ask()
        answer.ending = "rst"
        return answer

    receiver.behave("*", reset, times=2)
    async with recording(Api(), receiver=receiver.url) as recorder:
        say(recorder, "one")
        await flushed(recorder)
    assert 1 <= len(receiver.posts) <= 3
    assert {post["message"] for post in receiver.posts} == {"one"}


async def test_a_receiver_that_is_away_holds_up_no_api_event(receiver: WebhookServer) -> None:
    url = receiver.url
    receiver.refuse()
    api = Api()
    async with recording(api, receiver=url) as recorder:
        say(recorder, "one")
        await flushed(recorder)
        assert api.told() == [("one", 1)]
        await asyncio.to_thread(receiver.accept)
        say(recorder, "two")
        await flushed(recorder)
    assert [post["message"] for post in receiver.posts] == ["two"]
