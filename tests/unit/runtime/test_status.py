"""Merge patches of a status, as pure data, and when which of them is sent."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gitopsd.kube.errors import ConflictError
from gitopsd.runtime.status import StatusOwner, merge_patch
from gitopsd.tasks import TaskScope

_VALUES = st.recursive(
    st.integers(0, 3) | st.text("ab", max_size=2) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _VALUES, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(_OBJECTS, _OBJECTS)
def test_a_patch_turns_the_old_status_into_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, merge_patch(old, new)) == new


@given(_OBJECTS)
def test_nothing_changed_is_no_patch(status: dict[str, Any]) -> None:
    assert merge_patch(status, status) == {}


def test_what_went_away_is_removed() -> None:
    assert merge_patch({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2}}) == {"a": None, "b": {"c": None}}


class Server:
    """An API server with one object, which answers conflicts as long as the resourceVersion is not its own."""

    def __init__(self, live: dict[str, Any]) -> None:
        self.live = live
        self.patches: list[dict[str, Any]] = []

    async def get(self, path: str) -> dict[str, Any]:
        return copy.deepcopy(self.live)

    async def patch(self, path: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        if body["metadata"]["resourceVersion"] != self.live["metadata"]["resourceVersion"]:
            raise ConflictError(409, "Conflict", "the object has been modified")
        self.patches.append(body["status"])
        self.live["status"] = merged(self.live.get("status") or {}, body["status"])
        self.live["metadata"]["resourceVersion"] = str(int(self.live["metadata"]["resourceVersion"]) + 1)
        return copy.deepcopy(self.live)


def thing(version: int, uid: str = "u") -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "ns", "uid": uid, "resourceVersion": str(version), "generation": 1}
    return {"apiVersion": "g/v1", "kind": "Thing", "metadata": metadata}


async def written(server: Server, obj: dict[str, Any]) -> None:
    owner = StatusOwner(server, "manager", frozenset({"Ready"}), lambda _: "/thing")  # type: ignore[arg-type]
    async with TaskScope("test") as tasks, owner.session(obj, tasks) as session:
        session.mark("Ready", "True", "Done", "done")
        await session.finish()


async def test_Q01_a_status_is_written_over_a_newer_version_of_the_same_object() -> None:
    server = Server(thing(7))
    await written(server, thing(5))
    assert len(server.patches) == 1


async def test_O04_a_successor_of_the_same_name_inherits_no_status() -> None:
    """spec/hostile-inputs.md O04"""
    server = Server(thing(7, uid="another"))
    await written(server, thing(5))
    assert server.patches == []


async def test_a_checkpoint_is_a_write_of_its_own_and_the_end_adds_the_rest() -> None:
    server = Server(thing(5))
    owner = StatusOwner(server, "manager", frozenset({"Ready"}), lambda _: "/thing")  # type: ignore[arg-type]
    async with TaskScope("test") as tasks, owner.session(thing(5), tasks) as session:
        assert not session.has_written
        session.fields["inventory"] = {"entries": ["a"]}
        session.progress()
        await session.checkpoint()
        assert session.has_written
        session.fields["lastAppliedRevision"] = "r"
        await session.finish()
    assert server.patches == [{"inventory": {"entries": ["a"]}}, {"lastAppliedRevision": "r"}]
