"""An object that cannot be read stops nobody else, is told what is wrong, and heals by being repaired (O01)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.apiclient import ApiStatusError, Obj
from tests.faults.scene import KUSTOMIZATIONS, Scene, condition, config_map, config_maps, until
from tests.flows.stage import KUSTOMIZE_API, SOURCE_API

# Fits the pattern of the schema; Go's durations end after 292 years.
ENDLESS = "999999999999m"
DEFINITIONS = "apiextensions.k8s.io/v1"


def test_O01_durations_that_overflow(scene: Scene) -> None:
    fields = ("interval", "timeout", "retryInterval")
    revision = scene.push({f"{name}/cm.yaml": config_map(name.lower()) for name in ("app", "follower", *fields)})
    scene.source()
    scene.source("bad", timeout=ENDLESS)
    for field in fields:
        scene.kustomization(field.lower(), path=f"./{field}", **{field: ENDLESS})
    scene.kustomization("follower", path="./follower", dependsOn=[{"name": "timeout"}])
    scene.kustomization(path="./app")
    scene.start()
    scene.until_applied(revision)
    for kind, name in (("GitRepository", "bad"), *(("Kustomization", field.lower()) for field in fields)):
        seen = scene.until_reason(kind, "InvalidSpec", name)
        assert condition(seen)["message"].startswith(f"{kind}/{scene.namespace}/{name} is invalid: ")
        assert ENDLESS in condition(seen)["message"]
        assert condition(seen, "Stalled")["status"] == "True"
        assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
        until(lambda: scene.events(kind, name), what="the event")  # noqa: B023 - it is over before the next round
        assert [event["reason"] for event in scene.events(kind, name)] == ["InvalidSpec"]
    scene.until_reason("Kustomization", "DependencyNotReady", "follower")
    scene.source("bad", timeout="1m")
    scene.kustomization("timeout", path="./timeout", timeout="1m")
    scene.until_ready("GitRepository", "bad")
    for name in ("timeout", "follower"):
        scene.until_applied(revision, name)


MISFITS = {
    "text-for-list": {"dependsOn": "app"},
    "text-for-object": {"sourceRef": "app"},
    "text-in-list": {"postBuild": {"substituteFrom": ["x", 3]}},
    "text-for-truth": {"prune": "perhaps"},
}


def test_O01_what_no_schema_kept_out(scene: Scene) -> None:
    """Stored while the definition was looser; the indexes read it too."""
    revision = scene.push(config_maps(2, key="1"))
    scene.source()
    scene.kustomization()
    with without_schema(scene):
        for name, spec in MISFITS.items():
            until(lambda: _is_stored(scene, name, spec), what="the looser schema")  # noqa: B023
        scene.start()
        for name in MISFITS:
            scene.until_reason("Kustomization", "InvalidSpec", name)
    scene.until_applied(revision)
    newer = scene.push({"more.yaml": config_map("more")})
    scene.refetch()
    scene.until_applied(newer)
    for name in MISFITS:
        scene.api.delete(KUSTOMIZE_API, "Kustomization", name, scene.namespace)
        scene.until("Kustomization", name, lambda obj: obj is None)


def test_O01_a_kustomization_that_became_unreadable_keeps_what_it_owns(scene: Scene) -> None:
    """Deleted, it stays and deletes nothing; repaired, it goes and takes its objects along."""
    revision = scene.push(config_maps(2, key="1"))
    scene.source()
    scene.kustomization()
    scene.start()
    scene.until_applied(revision)
    scene.kustomization(timeout=ENDLESS)
    scene.until_reason("Kustomization", "InvalidSpec")
    scene.api.delete(KUSTOMIZE_API, "Kustomization", "app", scene.namespace)
    scene.until("Kustomization", "app", lambda obj: "nothing is deleted" in condition(obj).get("message", ""))
    assert len(scene.owned_objects()) == 2
    scene.api.merge(KUSTOMIZE_API, "Kustomization", "app", {"spec": {"timeout": "1m"}}, scene.namespace)
    scene.until("Kustomization", "app", lambda obj: obj is None)
    assert scene.owned_objects() == []
    scene.pushed.clear()  # no commit asked for these deletions, the user did


def test_O01_a_source_that_cannot_be_read_may_go(scene: Scene) -> None:
    scene.push(config_maps(1, key="1"))
    scene.source()
    scene.start()
    scene.until_ready("GitRepository")
    scene.source(timeout=ENDLESS)
    scene.until_reason("GitRepository", "InvalidSpec")
    scene.api.delete(SOURCE_API, "GitRepository", "app", scene.namespace)
    scene.until("GitRepository", "app", lambda obj: obj is None)


@contextmanager
def without_schema(scene: Scene) -> Iterator[None]:
    """Let the definition of Kustomizations accept anything for a while."""
    before = scene.api.get(DEFINITIONS, "CustomResourceDefinition", KUSTOMIZATIONS)
    assert before is not None
    loose = copy.deepcopy(before["spec"]["versions"])
    for version in loose:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version["schema"]["openAPIV3Schema"] = anything
    _define(scene, loose)
    try:
        yield
    finally:
        _define(scene, before["spec"]["versions"])
        until(lambda: not _is_stored(scene, "probe", {"prune": "perhaps"}), what="the schema")
        scene.until_served()
        scene.api.delete(KUSTOMIZE_API, "Kustomization", "probe", scene.namespace)


def _is_stored(scene: Scene, name: str, spec: dict[str, Any]) -> bool:
    """Whether the API server takes a Kustomization with these fields."""
    try:
        scene.kustomization(name, **spec)
    except ApiStatusError:
        return False
    return True


def _define(scene: Scene, versions: list[Obj]) -> None:
    scene.api.merge(DEFINITIONS, "CustomResourceDefinition", KUSTOMIZATIONS, {"spec": {"versions": versions}})
