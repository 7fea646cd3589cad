"""Label selectors and the rules of who is woken."""

from __future__ import annotations

from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.krm.objects import Obj, ObjectKey
from gitopsd.kube.informer import Change
from gitopsd.runtime.queue import WorkQueue
from gitopsd.runtime.triggers import Selector, own_objects


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!sharding.fluxcd.io/key", {"sharding.fluxcd.io/key": "one"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x, y)", {"a": "z"}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a in (x,y),b=c", {"a": "x", "b": "c"}, True),
        ("a in (x,y),b=c", {"a": "x"}, False),
    ],
)
def test_a_selector_means_what_kubernetes_says(text: str, labels: dict[str, str], expected: bool) -> None:
    """spec/runtime.md 6.2"""
    assert Selector(text).matches(labels) is expected


KEY = ObjectKey("g", "Thing", "ns", "a")


class News:
    """An informer that tells what the test says."""

    def __init__(self) -> None:
        self.listener: Any = None

    def tell(self, listener: Any) -> None:
        self.listener = listener

    def say(self, kind: Any, old: Obj | None, new: Obj | None) -> None:
        self.listener(Change(kind, KEY, old, new))


def labelled(shard: str) -> Obj:
    return {"metadata": {"name": "a", "generation": 1, "labels": {"sharding.fluxcd.io/key": shard}}}


async def test_s12_1_what_moves_to_another_shard_is_not_looked_at_again_here() -> None:
    news, queue = News(), WorkQueue[ObjectKey]("shards")
    own_objects(news, queue, Selector("sharding.fluxcd.io/key=one"))  # type: ignore[arg-type]
    news.say("ADDED", None, labelled("one"))
    held = queue.take_nowait()
    assert held is not None
    queue.add(KEY, after=60)
    metrics.reconcile_duration.labels("Thing", "a", "ns").observe(1)
    news.say("MODIFIED", labelled("one"), labelled("two"))
    assert held.is_gone
    queue.release(held)
    assert queue.due(KEY) is None
    assert ("Thing", "a", "ns") not in metrics.reconcile_duration._metrics
    news.say("MODIFIED", labelled("two"), labelled("one"))
    assert queue.due(KEY) == 0
