"""Which objects count as applied for an owner, and how rarely anybody has to look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gitopsd.apply.control import Owner
from gitopsd.apply.strays import Strays
from gitopsd.krm.objects import GVK, Obj
from gitopsd.kube.discovery import Resource
from gitopsd.kube.errors import ForbiddenError, UnreachableError

OWNER = Owner("app", "ns")
GROUP = OWNER.group
VERBS = frozenset({"list", "patch", "delete", "get"})
CONFIG_MAPS = Resource(GVK("", "v1", "ConfigMap"), "configmaps", True, VERBS)
WIDGETS = Resource(GVK("example.com", "v1", "Widget"), "widgets", True, VERBS)
OLD_WIDGETS = Resource(GVK("example.com", "v1beta1", "Widget"), "widgets", True, VERBS)
REVIEWS = Resource(GVK("authorization.k8s.io", "v1", "SubjectAccessReview"), "subjectaccessreviews", False, frozenset())


def applied(
    name: str, *, at: str = "2026-01-01T00:00:10Z", manager: str = "kustomize-controller", **changed: Any
) -> Obj:
    """An object with owner labels that some manager applied."""
    entry = {"manager": manager, "operation": "Apply", "time": at, **changed}
    return {"metadata": {"name": name, "namespace": "ns", "labels": dict(OWNER.labels), "managedFields": [entry]}}


class Cluster:
    """Discovery and client in one."""

    def __init__(self, **items: list[Obj] | Exception) -> None:
        self.items = items
        self.lists: list[str] = []
        self.selectors: set[str] = set()

    async def served(self) -> list[Resource]:
        return [CONFIG_MAPS, WIDGETS, OLD_WIDGETS, REVIEWS]

    async def list_pages(self, path: str, *, params: Any, metadata_only: bool) -> AsyncIterator[Obj]:
        assert metadata_only
        self.lists.append(path)
        self.selectors.add(params["labelSelector"])
        found = self.items.get(path.rpartition("/")[2], [])
        if isinstance(found, Exception):
            raise found
        for item in found:
            yield {"items": [item]}


def strays_of(cluster: Cluster, since: str = "2026-01-01T00:00:10Z", *, is_wanted: bool = True) -> list[str]:
    """The ids that are found."""
    strays = Strays(cluster, cluster, GROUP, lambda name, namespace: is_wanted)  # type: ignore[arg-type]
    return sorted(entry.id for entry in asyncio.run(strays.of(OWNER, since)))


def test_T13_what_our_manager_applied_for_the_owner_is_found_in_every_kind() -> None:
    cluster = Cluster(configmaps=[applied("one")], widgets=[applied("two")])
    assert strays_of(cluster) == ["ns_one__ConfigMap", "ns_two_example.com_Widget"]
    assert cluster.lists == ["/api/v1/configmaps", "/apis/example.com/v1/widgets"]
    assert cluster.selectors == {f"{GROUP}/name,{GROUP}/namespace"}


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param(applied("x", manager="kubectl"), id="somebody else set the labels"),
        pytest.param(applied("x", operation="Update"), id="the manager's name alone"),
        pytest.param(applied("x", subresource="status"), id="a subresource"),
        pytest.param(applied("x", at="2026-01-01T00:00:09Z"), id="before the owner was there"),
        pytest.param(applied("x", at=None), id="nobody knows when"),
        pytest.param({"metadata": {"name": "x", "labels": dict(OWNER.labels)}}, id="nobody's"),
    ],
)
def test_P12_labels_alone_make_nobodys_object_ours(obj: Obj) -> None:
    assert strays_of(Cluster(configmaps=[obj])) == []


def test_what_another_owner_has_is_not_given_to_this_one() -> None:
    other = applied("one")
    other["metadata"]["labels"] = Owner("app", "other").labels
    assert strays_of(Cluster(configmaps=[other])) == []


def test_nothing_is_kept_for_owners_who_may_not_ask() -> None:
    assert strays_of(Cluster(configmaps=[applied("one")]), is_wanted=False) == []


def test_a_kind_that_may_not_be_listed_hides_no_other() -> None:
    refused = ForbiddenError(403, "Forbidden", "no")
    assert strays_of(Cluster(configmaps=refused, widgets=[applied("two")])) == ["ns_two_example.com_Widget"]


def test_without_an_answer_there_is_no_verdict_and_the_next_question_asks_again() -> None:
    cluster = Cluster(configmaps=UnreachableError("gone"))

    async def scenario() -> tuple[object, ...]:
        strays = Strays(cluster, cluster, GROUP, lambda name, namespace: True)  # type: ignore[arg-type]
        with pytest.raises(UnreachableError):
            await strays.of(OWNER, "")
        cluster.items = {"configmaps": [applied("one")]}
        return await strays.of(OWNER, "")

    assert len(asyncio.run(scenario())) == 1


def test_all_who_ask_share_one_survey() -> None:
    cluster = Cluster(configmaps=[applied("one")])

    async def scenario() -> list[int]:
        strays = Strays(cluster, cluster, GROUP, lambda name, namespace: True)  # type: ignore[arg-type]
        found = await asyncio.gather(*(strays.of(owner, "") for owner in (OWNER, Owner("b", "ns"), OWNER)))
        return [len(entries) for entries in found]

    assert asyncio.run(scenario()) == [1, 0, 0]
    assert len(cluster.lists) == 2
