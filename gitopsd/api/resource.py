"""What makes a model one of our kinds: its names on the API server, and the way in and out of a plain object.

Reading is strict about what the schema says and lenient about what it does not say: a field of a newer release is
passed over, a null counts as unset, and an object that cannot be read becomes a `Broken` one instead of an exception
in the middle of everybody else's watch.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self, TypeVar

import msgspec

from gitopsd.api.meta import Condition, Model, ObjectMeta
from gitopsd.errors import GitopsdError
from gitopsd.krm import objects


class DecodeError(GitopsdError):
    """An object of ours that does not follow its schema; the text names the object, the field and the rule."""


class Column(Model, frozen=True, kw_only=True):
    """One column that `kubectl get` prints."""

    name: str
    path: str
    type: str = "string"


AGE: Final = Column(name="Age", path=".metadata.creationTimestamp", type="date")
READY: Final = Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status')
STATUS: Final = Column(name="Status", path='.status.conditions[?(@.type=="Ready")].message')


class Names(Model, frozen=True, kw_only=True):
    """How a kind is called and shown on the API server."""

    plural: str
    categories: tuple[str, ...]
    columns: tuple[Column, ...]
    short: tuple[str, ...] = ()


class Rule(Model, frozen=True, kw_only=True):
    """A CEL rule that the API server checks on the model that carries it."""

    rule: str
    message: str


K = TypeVar("K", bound="Resource")


class Resource(Model, frozen=True, kw_only=True):
    """An object of one of our kinds. Subclasses add `spec` and `status` and say what they are."""

    GVK: ClassVar[objects.GVK]
    NAMES: ClassVar[Names]
    # Condition types the controller of the kind answers for; all others belong to somebody else and are kept.
    OWNED: ClassVar[frozenset[str]] = frozenset()
    # Condition types that Ready sums up, in the order that breaks ties (spec/source.md 3.3); empty: no summary.
    SUMMARISED: ClassVar[tuple[str, ...]] = ()

    metadata: ObjectMeta

    @classmethod
    def from_object(cls, obj: objects.Obj) -> Self:
        """Read a plain object. Raises DecodeError; fields nobody knows are passed over, nulls count as unset."""
        try:
            return msgspec.convert(obj, cls)
        except msgspec.ValidationError:
            pass  # Go reads null as "not there"; objects from files often carry some, those of a server hardly ever
        try:
            return msgspec.convert(_without_nulls(obj), cls)
        except msgspec.ValidationError as error:
            key = objects.ObjectKey(cls.GVK.group, cls.GVK.kind, *_identity(obj)[:2])
            raise DecodeError(f"{key.subject} is invalid: {error}") from error

    @property
    def key(self) -> objects.ObjectKey:
        """The object's identity."""
        return objects.ObjectKey(self.GVK.group, self.GVK.kind, self.metadata.namespace, self.metadata.name)

    def to_object(self) -> objects.Obj:
        """Give the object with apiVersion and kind, as it would be sent to a server."""
        return {"apiVersion": self.GVK.api_version, "kind": self.GVK.kind} | self.to_builtins()


class Broken(Model, frozen=True, kw_only=True):
    """An object of ours whose spec or status cannot be read: enough of it to say so, and to let it go."""

    kind: str
    group: str
    metadata: ObjectMeta
    error: str
    conditions: tuple[Condition, ...] = ()

    @property
    def key(self) -> objects.ObjectKey:
        """The object's identity."""
        return objects.ObjectKey(self.group, self.kind, self.metadata.namespace, self.metadata.name)


def read(kind: type[K], obj: objects.Obj) -> K | Broken:
    """Read an object of `kind`, or what is left of it when it breaks its schema.

    One object that is wrong must not stop the others of its kind, so a cache keeps the Broken one in its place.
    """
    try:
        return kind.from_object(obj)
    except DecodeError as error:
        namespace, name, uid = _identity(obj)
        least = ObjectMeta(name=name, namespace=namespace, uid=uid)
        return Broken(
            kind=kind.GVK.kind,
            group=kind.GVK.group,
            metadata=_lenient(ObjectMeta, obj.get("metadata"), least),
            error=str(error),
            conditions=_lenient(tuple[Condition, ...], objects.get_in(obj, "status", "conditions", default=[]), ()),
        )


T = TypeVar("T")


def _lenient(wanted: type[T], value: Any, instead: T) -> T:
    try:
        return msgspec.convert(_without_nulls(value), wanted)
    except msgspec.ValidationError:
        return instead


def _identity(obj: objects.Obj) -> tuple[str, str, str]:
    """Namespace, name and uid, of whatever is there."""
    namespace, name, uid = (
        str(objects.get_in(obj, "metadata", field, default="")) for field in ("namespace", "name", "uid")
    )
    return namespace, name, uid


def _without_nulls(value: Any) -> Any:
    """Drop null fields, but keep nulls inside lists and inside a release's values, where they mean something."""
    if not isinstance(value, dict):
        return [_without_nulls(item) for item in value] if isinstance(value, list) else value
    return {
        name: item if name == "values" else _without_nulls(item) for name, item in value.items() if item is not None
    }
