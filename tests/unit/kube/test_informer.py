from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.krm.objects import GVK, Obj, ObjectKey
from gitopsd.kube.client import KubeClient
from gitopsd.kube.discovery import Resource
from gitopsd.kube.errors import ForbiddenError, GoneError, NotFoundError, UnreachableError
from gitopsd.kube.informer import Change, Informer
from gitopsd.kube.watch import Bookmark, Changed, ChangeType, Failed, Replaced

CONFIG_MAPS = Resource(GVK("", "v1", "ConfigMap"), "configmaps", namespaced=True)
NOBODY = cast(KubeClient, None)  # `take` is fed by hand: no request is ever made


class Spec(msgspec.Struct):
    n: int


class Model(msgspec.Struct):
    spec: Spec


def informer(decode: Callable[[Obj], Any] | None = None) -> Informer[Any]:
    return Informer(NOBODY, CONFIG_MAPS, **({"decode": decode} if decode else {}))


def key(name: str) -> ObjectKey:
    return ObjectKey("", "ConfigMap", "default", name)


def obj(name: str, version: int, uid: str = "u", **fields: Any) -> Obj:
    metadata = {"namespace": "default", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**metadata, **fields.pop("metadata", {})}, **fields}


def listen(of: Informer[Any]) -> list[Change[Any]]:
    changes: list[Change[Any]] = []
    of.tell(changes.append)
    return changes


def brief(changes: list[Change[Any]]) -> list[tuple[str, str]]:
    return [(change.kind, change.key.name) for change in changes]


async def test_a_first_picture_is_told_as_additions_before_the_cache_counts_as_synced() -> None:
    one = informer()
    seen: list[bool] = []
    one.tell(lambda change: seen.append(one.has_synced))
    await one.take(Replaced([obj(f"n{number}", 1) for number in range(450)], "9"))
    assert seen == [False] * 450
    assert one.has_synced
    assert len(one.lister) == 450


async def test_a_second_picture_tells_only_what_differs() -> None:
    one = informer()
    await one.take(Replaced([obj("same", 1), obj("changed", 2), obj("gone", 3)], "5"))
    changes = listen(one)
    changes.clear()
    await one.take(Replaced([obj("same", 1), obj("changed", 6), obj("new", 7)], "8"))
    assert sorted(brief(changes)) == [("ADDED", "new"), ("DELETED", "gone"), ("MODIFIED", "changed")]
    assert sorted(found.name for found in one.lister.keys) == ["changed", "new", "same"]


async def test_Q12_a_picture_from_an_older_backup_is_the_truth() -> None:
    """spec/hostile-inputs.md Q12."""
    one = informer()
    await one.take(Replaced([obj("a", 50, data={"v": "new"})], "50"))
    await one.take(Replaced([obj("a", 10, data={"v": "old"})], "12"))
    assert one.lister.get(key("a"))["data"] == {"v": "old"}
    await one.take(Changed("MODIFIED", obj("a", 13, data={"v": "newer"})))
    assert one.lister.get(key("a"))["data"] == {"v": "newer"}


async def test_an_object_made_anew_under_its_old_name_is_told_as_two_objects() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1, uid="first")], "1"))
    changes = listen(one)
    changes.clear()
    await one.take(Changed("MODIFIED", obj("a", 5, uid="second")))
    await one.take(Replaced([obj("a", 9, uid="third")], "9"))
    assert brief(changes) == [("DELETED", "a"), ("ADDED", "a")] * 2


async def test_a_late_listener_first_hears_what_is_there() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1), obj("b", 1)], "1"))
    assert brief(listen(one)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_listener_that_left_hears_nothing_more() -> None:
    one = informer()
    changes: list[Change[Any]] = []
    leave = one.tell(changes.append)
    await one.take(Changed("ADDED", obj("a", 1)))
    leave()
    leave()
    await one.take(Changed("ADDED", obj("b", 2)))
    assert brief(changes) == [("ADDED", "a")]


async def test_listeners_hear_in_the_order_they_came_and_see_the_new_cache() -> None:
    one = informer()
    heard: list[str] = []
    one.tell(lambda change: heard.append(f"first {one.lister.get(change.key) is change.new}"))
    one.tell(lambda change: heard.append(f"second {one.lister.get(change.key) is change.new}"))
    await one.take(Changed("ADDED", obj("a", 1)))
    await one.take(Changed("DELETED", obj("a", 2)))
    assert heard == ["first True", "second True"] * 2


async def test_cached_objects_say_what_they_are_and_carry_no_ballast() -> None:
    one = informer()
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "1"}
    await one.take(Changed("ADDED", obj("a", 1, metadata={"managedFields": [{}], "annotations": annotations})))
    found = one.lister.get(key("a"))
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")
    assert "managedFields" not in found["metadata"]
    assert found["metadata"]["annotations"] == {"mine": "1"}


async def test_O01_an_object_that_cannot_be_decoded_harms_no_other_and_is_reported_once() -> None:
    """spec/hostile-inputs.md O01."""
    one = informer(lambda raw: msgspec.convert(raw, Model))
    changes = listen(one)
    with structlog.testing.capture_logs() as logs:
        await one.take(Replaced([obj("bad", 1, spec={"n": "x"}), obj("good", 1, spec={"n": 1})], "1"))
        await one.take(Changed("MODIFIED", obj("bad", 2, spec={"n": "y"})))
    assert one.lister.get(key("bad")) is None
    assert one.lister.get(key("good")).spec.n == 1
    assert [(change.kind, change.new) for change in changes if change.key.name == "bad"] == [
        ("ADDED", None),
        ("MODIFIED", None),
    ]
    found = one.lister.undecodable(key("bad"))
    assert found is not None
    assert "int" in found.error
    assert found.obj["metadata"]["resourceVersion"] == "2"
    assert [entry["object"] for entry in logs] == ["ConfigMap/default/bad"]
    await one.take(Changed("MODIFIED", obj("bad", 3, spec={"n": 3})))
    assert one.lister.get(key("bad")).spec.n == 3
    assert one.lister.undecodable(key("bad")) is None


async def test_Q17_a_kind_that_is_gone_empties_the_cache_and_nobody_hears_of_deletions() -> None:
    """spec/hostile-inputs.md Q17."""
    one = informer()
    await one.take(Replaced([obj("a", 1)], "1"))
    changes = listen(one)
    changes.clear()
    await one.take(Failed(NotFoundError(404, "NotFound", "no such resource")))
    assert len(one.lister) == 0
    assert not one.has_synced
    assert changes == []
    await one.take(Replaced([obj("a", 7, uid="new")], "7"))
    assert brief(changes) == [("ADDED", "a")]


@pytest.mark.parametrize(
    "error", [UnreachableError("gone"), GoneError(410, "Expired", "old"), ForbiddenError(403, "Forbidden", "no")]
)
async def test_other_failures_leave_the_cache_as_it_was(error: Any) -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1)], "1"))
    await one.take(Failed(error))
    assert one.problem is error
    assert one.has_synced
    assert len(one.lister) == 1
    await one.take(Bookmark("2"))
    assert one.problem is None


async def test_Q16_a_lasting_refusal_is_said_clearly_and_not_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """spec/hostile-inputs.md Q16."""
    one = informer()
    now = [1000.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for _ in range(13):
            await one.take(Failed(ForbiddenError(403, "Forbidden", 'configmaps is forbidden: User "x"')))
            now[0] += 10
        await one.take(Bookmark("3"))
    assert [entry["event"] for entry in logs] == ["cannot watch"] * 3 + ["watching again"]
    assert logs[0]["error"] == 'configmaps is forbidden: User "x"'


async def test_a_short_interruption_is_not_worth_a_line() -> None:
    one = informer()
    with structlog.testing.capture_logs() as logs:
        await one.take(Failed(UnreachableError("connection refused")))
        await one.take(Bookmark("3"))
    assert logs == []


async def test_synced_waits_for_the_first_picture() -> None:
    one = informer()
    waiting = asyncio.ensure_future(one.synced())
    await one.take(Failed(UnreachableError("not yet")))
    await asyncio.sleep(0)
    assert not waiting.done()
    await one.take(Replaced([], "1"))
    await waiting


async def test_an_impatient_reader_learns_what_stands_in_the_way() -> None:
    one = informer()
    waiting = asyncio.ensure_future(one.synced(patient=False))
    await asyncio.sleep(0)
    await one.take(Failed(ForbiddenError(403, "Forbidden", "not you")))
    with pytest.raises(ForbiddenError, match="not you"):
        await waiting
    await one.take(Replaced([], "1"))
    await one.synced(patient=False)


async def test_until_sees_states_that_pass_by_before_it_runs_again() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1)], "1"))
    waiting = asyncio.ensure_future(one.until(key("a"), lambda found: found is None))
    await asyncio.sleep(0)
    await one.take(Changed("DELETED", obj("a", 2)))
    await one.take(Changed("ADDED", obj("a", 3, uid="other")))
    assert await waiting is None


async def test_until_waits_for_the_first_picture_before_it_believes_in_absence() -> None:
    one = informer()
    waiting = asyncio.ensure_future(one.until(key("a"), lambda found: found is None))
    await asyncio.sleep(0)
    assert not waiting.done()
    await one.take(Replaced([obj("a", 1)], "1"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await one.take(Changed("DELETED", obj("a", 2)))
    assert await waiting is None


async def test_until_learns_that_an_object_went_with_its_kind_when_the_kind_is_back() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1)], "1"))
    waiting = asyncio.ensure_future(one.until(key("a"), lambda found: found is None))
    await asyncio.sleep(0)
    await one.take(Failed(NotFoundError(404, "NotFound", "no such resource")))
    await asyncio.sleep(0)
    assert not waiting.done()
    await one.take(Replaced([], "5"))
    assert await waiting is None


async def test_an_error_in_a_predicate_reaches_its_owner_and_not_the_informer() -> None:
    one = informer()
    await one.take(Replaced([], "1"))

    def refuse(found: Any) -> bool:
        if found is not None:
            raise LookupError("odd object")
        return False

    waiting = asyncio.ensure_future(one.until(key("a"), refuse))
    await asyncio.sleep(0)
    await one.take(Changed("ADDED", obj("a", 2)))
    with pytest.raises(LookupError, match="odd object"):
        await waiting
    await one.take(Changed("MODIFIED", obj("a", 3)))
    assert one.lister.get(key("a"))["metadata"]["resourceVersion"] == "3"


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    one = informer()
    await one.take(Replaced([], "1"))
    waiting = asyncio.ensure_future(one.until(key("a"), lambda found: found is not None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert one._waiting == {}


async def test_an_index_made_late_knows_what_was_there_before() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1, data={"x": "1"})], "1"))
    one.index("data", lambda found: found.get("data", {}).values())
    await one.take(Changed("ADDED", obj("b", 2, data={"x": "1", "y": "2"})))
    assert [found["metadata"]["name"] for found in one.lister.having("data", "1")] == ["a", "b"]
    await one.take(Changed("MODIFIED", obj("a", 3, data={"x": "2"})))
    assert [found["metadata"]["name"] for found in one.lister.having("data", "1")] == ["b"]
    await one.take(Changed("DELETED", obj("b", 4)))
    assert one.lister.having("data", "1") == []
    assert [found["metadata"]["name"] for found in one.lister.having("data", "2")] == ["a"]


async def test_lists_are_narrowed_to_a_namespace() -> None:
    one = informer()
    await one.take(Replaced([obj("a", 1), obj("b", 1, metadata={"namespace": "other"})], "1"))
    assert [found["metadata"]["name"] for found in one.lister.list("other")] == ["b"]
    assert len(one.lister.list()) == 2


Event = tuple[str, int, bool, str]  # name, version, deleted, value


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """A true history: versions rise by one with each event of any object; a deleted object may come again."""
    steps = draw(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from("xyz")), max_size=14))
    return [(name, version, deleted, value) for version, (name, deleted, value) in enumerate(steps, start=1)]


def play(events: list[Event]) -> tuple[Informer[Any], dict[str, str]]:
    """Feed `events`; what a listener who mirrors the changes ends up with is returned too."""
    one = informer()
    one.index("value", lambda found: [found["data"]["v"]])
    mirror: dict[str, str] = {}

    def reflect(change: Change[Any]) -> None:
        assert (change.kind == "ADDED") == (change.key.name not in mirror)
        if change.kind == "DELETED":
            del mirror[change.key.name]
        else:
            mirror[change.key.name] = change.new["data"]["v"]

    one.tell(reflect)

    async def feed() -> None:
        for name, version, deleted, value in events:
            kind: ChangeType = "DELETED" if deleted else "MODIFIED"
            await one.take(Changed(kind, obj(name, version, data={"v": value})))

    asyncio.run(feed())
    return one, mirror


def expected(history: list[Event]) -> dict[str, str]:
    last = {name: (deleted, value) for name, _, deleted, value in history}
    return {name: value for name, (deleted, value) in last.items() if not deleted}


@settings(max_examples=200, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_Q31_repeated_reordered_and_replayed_events_end_in_the_same_cache(history: list[Event], chance: Any) -> None:
    """spec/hostile-inputs.md Q31: also for the listeners and the indexes, not only for the lister."""
    shuffled = history + [chance.choice(history) for _ in range(len(history) // 2)]
    chance.shuffle(shuffled)
    for events in (history, shuffled):
        one, mirror = play(events)
        wanted = expected(history)
        assert {found["metadata"]["name"]: found["data"]["v"] for found in one.lister.list()} == wanted
        assert mirror == wanted
        for value in "xyz":
            names = {found["metadata"]["name"] for found in one.lister.having("value", value)}
            assert names == {name for name, held in wanted.items() if held == value}


@settings(max_examples=100, deadline=None)
@given(st.lists(histories(), min_size=1, max_size=4))
def test_pictures_and_changes_in_any_mixture_leave_lister_listener_and_truth_alike(rounds: list[list[Event]]) -> None:
    one = informer()
    mirror: dict[str, str] = {}

    def reflect(change: Change[Any]) -> None:
        if change.kind == "DELETED":
            del mirror[change.key.name]
        else:
            mirror[change.key.name] = change.new["data"]["v"]

    one.tell(reflect)
    truth: dict[str, tuple[int, str]] = {}
    versions = itertools.count(1)

    async def feed() -> None:
        for history in rounds:
            for name, _, deleted, value in history:
                version = next(versions)
                if deleted:
                    truth.pop(name, None)
                else:
                    truth[name] = (version, value)
                if value != "z":  # a third of the events is missed; the picture at the end of the round makes up
                    changed = obj(name, version, data={"v": value})
                    await one.take(Changed("DELETED" if deleted else "MODIFIED", changed))
            items = [obj(name, version, data={"v": value}) for name, (version, value) in truth.items()]
            await one.take(Replaced(items, str(next(versions))))
            assert mirror == {name: value for name, (_, value) in truth.items()}
            assert {found["metadata"]["name"]: found["data"]["v"] for found in one.lister.list()} == mirror

    asyncio.run(feed())
