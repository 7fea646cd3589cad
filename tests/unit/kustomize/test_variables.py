"""The variables of postBuild (spec/kustomize.md 3.7)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from gitopsd.api.kustomization import PostBuild, SubstituteReference
from gitopsd.krm.objects import Obj
from gitopsd.kustomize.variables import VariablesError, gather

OBJECTS: dict[tuple[str, str], Obj] = {
    ("ConfigMap", "one"): {"data": {"a": "1", "b": "1\n2\n"}, "binaryData": {"z": "AA=="}},
    ("ConfigMap", "dash"): {"data": {"with-dash": "x"}},
    ("Secret", "two"): {"data": {"a": base64.b64encode(b"secret").decode()}},
    ("Secret", "binary"): {"data": {"a": base64.b64encode(b"\xff\xfe").decode()}},
}


async def read(kind: str, name: str) -> Obj | None:
    return OBJECTS.get((kind, name))


def post_build(*references: tuple[str, str, bool], **substitute: str) -> PostBuild:
    found = tuple(SubstituteReference(kind=kind, name=name, optional=optional) for kind, name, optional in references)  # type: ignore[arg-type]
    return PostBuild(substitute=substitute, substitute_from=found)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (post_build(a="x"), {"a": "x"}),
        (post_build(("ConfigMap", "one", False)), {"a": "1", "b": "12"}),
        (post_build(("ConfigMap", "one", False), ("Secret", "two", False)), {"a": "secret", "b": "12"}),
        (post_build(("Secret", "two", False), ("ConfigMap", "one", False)), {"a": "1", "b": "12"}),
        (post_build(("ConfigMap", "one", False), a="mine"), {"a": "mine", "b": "12"}),
        (post_build(("ConfigMap", "none", True)), {}),
    ],
)
async def test_later_wins_and_newlines_vanish(given: PostBuild, expected: dict[str, Any]) -> None:
    assert await gather(given, read) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            post_build(("ConfigMap", "none", False)),
            "substitute from 'ConfigMap/none' error: configmaps \"none\" not found",
        ),
        (post_build(("Secret", "none", False)), "substitute from 'Secret/none' error: secrets \"none\" not found"),
        (
            post_build(("ConfigMap", "dash", False)),
            "envsubst error: 'with-dash' var name is invalid, must match '^[_[:alpha:]][_[:alpha:][:digit:]]*$'",
        ),
    ],
)
async def test_what_is_missing_or_illegal_is_named(given: PostBuild, text: str) -> None:
    with pytest.raises(VariablesError) as caught:
        await gather(given, read)
    assert str(caught.value) == text


async def test_a_secret_that_is_no_text_is_named_without_its_value() -> None:
    with pytest.raises(VariablesError) as caught:
        await gather(post_build(("Secret", "binary", False)), read)
    assert str(caught.value) == "substitute from 'Secret/binary' error: key 'a' is not text"
