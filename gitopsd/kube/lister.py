"""The objects an informer holds: a read side for everybody, a write side for the informer, indexes kept in step.

Pure and synchronous; knows nothing of the API server. For each key the write with the highest resourceVersion wins,
in whatever order writes come (Q31): `is_outdated` knows, and the caller asks it of all but a whole new picture.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from gitopsd.krm.objects import Obj, ObjectKey

M = TypeVar("M")

# Deletions remembered, so that an older event cannot bring an object back; a replay comes soon or never.
_BURIED_BOUND = 1024


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An object that is there and not what its kind should be."""

    key: ObjectKey
    obj: Obj
    error: str


class Identity(NamedTuple):
    """What tells one state of an object from its others."""

    uid: str
    version: str


def is_older_version(one: str, other: str) -> bool:
    """Whether resourceVersion `one` is known to come before `other`; what is not a number is not comparable."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)


class Lister(Generic[M]):
    """The read side. What it returns belongs to everybody: never change it."""

    def __init__(self) -> None:
        self._models: dict[ObjectKey, M | Undecodable] = {}
        self._indexes: dict[str, _Index[M]] = {}

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, key: ObjectKey) -> bool:
        return key in self._models

    def get(self, key: ObjectKey) -> M | None:
        """The object; None when it is not there or cannot be decoded."""
        model = self._models.get(key)
        return None if isinstance(model, Undecodable) else model

    def list(self, namespace: str | None = None) -> Sequence[M]:
        """Every object that can be decoded, of one namespace or of all."""
        return self._those(key for key in self._models if namespace is None or key.namespace == namespace)

    def having(self, index: str, value: object) -> Sequence[M]:
        """Every object for which the index `index` names `value`."""
        return self._those(self._indexes[index].keys(value))

    def undecodable(self, key: ObjectKey) -> Undecodable | None:
        """What is known of an object that is there and cannot be decoded."""
        model = self._models.get(key)
        return model if isinstance(model, Undecodable) else None

    @property
    def keys(self) -> Collection[ObjectKey]:
        """The keys of everything there is, as of now."""
        return tuple(self._models)

    def _those(self, keys: Iterable[ObjectKey]) -> Sequence[M]:
        return [model for key in keys if (model := self.get(key)) is not None]


class Store(Lister[M]):
    """The write side, in the hands of one informer."""

    def __init__(self) -> None:
        super().__init__()
        self._identities: dict[ObjectKey, Identity] = {}
        self._buried: dict[ObjectKey, str] = {}

    def add_index(self, name: str, values_of: Callable[[M], Iterable[object]]) -> None:
        """Index what is there, and what will be."""
        index = self._indexes[name] = _Index(values_of)
        for key in self._models:
            model = self.get(key)
            if model is not None:
                index.put(key, model)

    def held(self, key: ObjectKey) -> Identity | None:
        """Which state of an object is held."""
        return self._identities.get(key)

    def is_outdated(self, key: ObjectKey, version: str) -> bool:
        """Whether something newer than `version` is already known of `key`, its end included."""
        held = self._identities.get(key)
        known = held.version if held is not None else self._buried.get(key, "")
        return is_older_version(version, known)

    def put(self, key: ObjectKey, identity: Identity, model: M | Undecodable) -> None:
        """Hold an object in place of its earlier self."""
        self._models[key] = model
        self._identities[key] = identity
        self._buried.pop(key, None)
        for index in self._indexes.values():
            index.drop(key)
            if not isinstance(model, Undecodable):
                index.put(key, model)

    def drop(self, key: ObjectKey) -> None:
        """Hold an object no longer."""
        self._models.pop(key, None)
        self._identities.pop(key, None)
        for index in self._indexes.values():
            index.drop(key)

    def bury(self, key: ObjectKey, version: str) -> None:
        """Remember when an object ended."""
        self._buried.pop(key, None)
        self._buried[key] = version
        if len(self._buried) > _BURIED_BOUND:
            del self._buried[next(iter(self._buried))]

    def forget_deletions(self) -> None:
        """A whole picture came: what was deleted before it says nothing any more."""
        self._buried.clear()


class _Index(Generic[M]):
    """Keys by value."""

    def __init__(self, values_of: Callable[[M], Iterable[object]]) -> None:
        self._values_of = values_of
        self._keys: dict[object, dict[ObjectKey, None]] = {}
        self._values: dict[ObjectKey, tuple[object, ...]] = {}

    def put(self, key: ObjectKey, model: M) -> None:
        values = tuple(self._values_of(model))
        if values:
            self._values[key] = values
        for value in values:
            self._keys.setdefault(value, {})[key] = None

    def drop(self, key: ObjectKey) -> None:
        for value in self._values.pop(key, ()):
            keys = self._keys.get(value, {})
            keys.pop(key, None)
            if not keys:
                self._keys.pop(value, None)

    def keys(self, value: object) -> Collection[ObjectKey]:
        return self._keys.get(value, {}).keys()
