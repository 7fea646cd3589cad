"""A dependency that leads back to where it started is found and named; everything else is not."""

from __future__ import annotations

from typing import Any

import pytest

from gitopsd.controllers.dependency_cycle import cycle
from gitopsd.krm.objects import ObjectKey


def key(name: str, namespace: str = "ns") -> ObjectKey:
    return ObjectKey("kustomize.toolkit.fluxcd.io", "Kustomization", namespace, name)


def lookup(graph: dict[str, Any]) -> Any:
    def find(wanted: ObjectKey) -> Any:
        if wanted.name not in graph:
            return None
        references = graph[wanted.name]
        if isinstance(references, str):
            references = [{"name": name} for name in references.split()]
        return {"spec": {"dependsOn": references}}

    return find


@pytest.mark.parametrize(
    ("graph", "through", "way"),
    [
        ({"a": "a"}, "a", "a a"),
        ({"a": "b", "b": "a"}, "b", "a b a"),
        ({"a": "b", "b": "c d", "c": "c", "d": "e a", "e": "a"}, "b", "a b d a"),
        ({"a": "b c", "b": "c", "c": "d", "d": ""}, "b", ""),
        ({"a": "b", "b": "c", "c": "b"}, "b", ""),
        ({"a": "gone"}, "gone", ""),
        ({"a": "b", "b": "not-a-list-of-references gone"}, "b", ""),
    ],
)
def test_J37_the_shortest_way_back_is_named(graph: dict[str, Any], through: str, way: str) -> None:
    assert [one.name for one in cycle(key("a"), key(through), lookup(graph))] == way.split()


@pytest.mark.parametrize("junk", [None, 7, "text", {"name": "a"}, [None, 7, {"name": 7}, {}]])
def test_J37_what_is_no_reference_is_passed_over(junk: Any) -> None:
    assert not cycle(key("a"), key("b"), lookup({"a": "b", "b": junk}))


def test_J37_a_namesake_in_another_namespace_is_somebody_else() -> None:
    graph = {"a": "b", "b": [{"name": "a", "namespace": "other"}]}

    def find(wanted: ObjectKey) -> Any:
        return lookup(graph)(wanted) if wanted.namespace == "ns" else None

    assert not cycle(key("a"), key("b"), find)


def test_J37_hundreds_of_objects_are_each_looked_at_once() -> None:
    looks: list[ObjectKey] = []
    graph = {str(number): " ".join(str(other) for other in range(number + 1, 400)) for number in range(400)}

    def find(wanted: ObjectKey) -> Any:
        looks.append(wanted)
        return lookup(graph)(wanted)

    assert not cycle(key("0"), key("1"), find)
    assert len(looks) == len(set(looks)) == 399
