"""Selectors of ignore rules."""

from __future__ import annotations

import pytest

from gitopsd.apply.selectors import SelectorError, parse_label_selector, parse_selector
from gitopsd.krm.objects import Obj

WEB: Obj = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "web",
        "namespace": "ns",
        "labels": {"app": "web", "tier": "front"},
        "annotations": {"x": "y"},
    },
}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, True),
        ({}, True),
        ({"kind": "Deployment"}, True),
        ({"kind": "Deploy"}, False),
        ({"kind": "Deploy.*", "name": "web|api"}, True),
        ({"group": "apps", "version": "v1", "namespace": "n."}, True),
        ({"group": "batch"}, False),
        ({"kind": "Deployment", "name": "api"}, False),
        ({"labelSelector": "app=web,tier in (front, back)"}, True),
        ({"labelSelector": "app!=web"}, False),
        ({"annotationSelector": "x==y,!z"}, True),
        ({"annotationSelector": "!x"}, False),
    ],
)
def test_every_given_field_must_hold_for_the_whole_text(spec, expected) -> None:
    """spec/kustomize.md 1.2, Selector."""
    assert parse_selector(spec).matches(WEB) is expected


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("a=", {"a": ""}, True),
        ("a=b , c", {"a": "b", "c": ""}, True),
        ("a notin (b,c)", {}, True),
        ("a notin (b,c)", {"a": "c"}, False),
        ("a in ()", {"a": ""}, True),
        ("example.com/a.b-c_d=e", {"example.com/a.b-c_d": "e"}, True),
        ("a!=b", {}, True),
    ],
)
def test_label_selectors_have_kubernetes_syntax(text, labels, expected) -> None:
    assert all(test(labels) for test in parse_label_selector(text)) is expected


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "("},
        {"labelSelector": "a in b"},
        {"labelSelector": "a,,b"},
        {"annotationSelector": "=b"},
        {"labelSelector": "x" * 5000},
    ],
)
def test_a_selector_that_cannot_be_read_is_an_error(spec) -> None:
    """spec/kustomize.md 4.5: a bad regex or selector fails the apply."""
    with pytest.raises(SelectorError):
        parse_selector(spec)
