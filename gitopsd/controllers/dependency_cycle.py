"""Finds out whether an object waits, in the end, for itself.

A part of the controllers whose objects can need each other; pure. Objects that cannot be read are passed over: they
are somebody else's problem, and are reported by their own reconcile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gitopsd.krm.objects import Obj, ObjectKey, get_in

Lookup = Callable[[ObjectKey], Obj | None]
References = Callable[[ObjectKey, Obj], Iterable[ObjectKey]]


def depends_on(key: ObjectKey, obj: Obj) -> Iterator[ObjectKey]:
    """What `spec.dependsOn` names."""
    references = get_in(obj, "spec", "dependsOn")
    for reference in references if isinstance(references, list) else ():
        if isinstance(reference, dict) and isinstance(reference.get("name"), str):
            namespace = reference.get("namespace") or key.namespace
            yield key._replace(namespace=str(namespace), name=reference["name"])


def cycle(
    start: ObjectKey, through: ObjectKey, lookup: Lookup, references: References = depends_on
) -> Sequence[ObjectKey]:
    """The shortest way from `start` over its dependency `through` back to `start`; empty when there is none."""
    came_from: dict[ObjectKey, ObjectKey] = {through: start}
    queue = [through]
    for key in queue:  # grows while it is walked: breadth first, each object once
        if key == start:
            return _way_back(start, came_from)
        for other in _dependencies(key, lookup, references):
            if other not in came_from:
                came_from[other] = key
                queue.append(other)
    return ()


def _way_back(start: ObjectKey, came_from: dict[ObjectKey, ObjectKey]) -> Sequence[ObjectKey]:
    way = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def _dependencies(key: ObjectKey, lookup: Lookup, references: References) -> Iterable[ObjectKey]:
    obj = lookup(key)
    return references(key, obj) if obj is not None else ()
