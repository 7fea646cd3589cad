from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from gitopsd import metrics
from gitopsd.api.kustomization import Kustomization
from gitopsd.artifact.tree import FileTree
from gitopsd.engine import Engine, EngineSettings, RemoteReference
from gitopsd.kustomize.build import Renderer
from gitopsd.tasks import offload
from tools import build_engine

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {}\n"
OBJECT: Mapping[str, Any] = {
    "metadata": {"name": "app", "namespace": "default"},
    "spec": {"interval": "1m", "prune": True, "sourceRef": {"kind": "GitRepository", "name": "app"}},
}


class Elsewhere:
    """A file behind a URL, whose content changes."""

    def __init__(self) -> None:
        self.name = "first"
        self.asked = 0

    async def __call__(self, reference: RemoteReference) -> bytes:
        self.asked += 1
        return CONFIG_MAP.format(self.name).encode()


async def no_configs(*_: object) -> None:
    raise AssertionError("no ConfigMap is referred to")


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
async def renderer(elsewhere: Elsewhere) -> AsyncIterator[Renderer]:
    async with Engine(EngineSettings(build_engine.cached()), fetch_remote=elsewhere) as engine:
        yield Renderer(engine, timeout=20, remote_bases=True, strict=True)


async def names(renderer: Renderer, files: Mapping[str, str]) -> list[str]:
    tree = await offload(FileTree.build, {path: text.encode() for path, text in files.items()})
    rendered = await renderer.render(Kustomization.from_object(dict(OBJECT)), tree, no_configs)  # type: ignore[arg-type]
    return [obj["metadata"]["name"] for obj in rendered.objects]


def hits() -> float:
    return float(metrics.build_cache.labels("hit")._value.get())


async def test_a_build_of_the_same_inputs_is_done_once(renderer: Renderer) -> None:
    files = {"a.yaml": CONFIG_MAP.format("a")}
    before = hits()
    assert await names(renderer, files) == ["a"]
    assert await names(renderer, files) == ["a"]
    assert hits() == before + 1


async def test_what_came_from_elsewhere_is_looked_up_again_by_every_build(
    renderer: Renderer, elsewhere: Elsewhere
) -> None:
    files = {"kustomization.yaml": "resources: ['https://example.com/f.yaml']\n"}
    before = hits()
    assert await names(renderer, files) == ["first"]
    elsewhere.name = "second"
    assert await names(renderer, files) == ["second"]
    assert elsewhere.asked == 2
    assert hits() == before


async def test_a_result_from_elsewhere_does_not_bring_back_an_older_one(
    renderer: Renderer, elsewhere: Elsewhere
) -> None:
    inside = {"a.yaml": CONFIG_MAP.format("a")}
    assert await names(renderer, inside) == ["a"]
    assert await names(renderer, {"kustomization.yaml": "resources: ['https://example.com/f.yaml']\n"}) == ["first"]
    assert await names(renderer, inside) == ["a"]
