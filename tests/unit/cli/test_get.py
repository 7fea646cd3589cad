"""Selecting and listing without a cluster (`spec/cli.md` 4)."""

from __future__ import annotations

import sys

import pytest

from gitopsd.cli.flags import CommandError
from gitopsd.cli.get import Listing, Selector
from gitopsd.cli.kinds import BY_NAME

KUSTOMIZATION = BY_NAME["Kustomization"]


def obj(*conditions):
    return {
        "metadata": {"name": "x", "namespace": "ns"},
        "status": {"conditions": [{"type": kind, "status": status} for kind, status in conditions]},
    }


@pytest.mark.parametrize(
    ("text", "conditions", "is_selected"),
    [
        ("ready=true", [("Ready", "True")], True),
        ("READY=FALSE", [("Ready", "False")], True),
        ("ready=false", [], False),
        ("ready!=true", [], True),
        ("ready!=true", [("Ready", "Unknown")], True),
        ("ready!=true", [("Ready", "True")], False),
    ],
)
def test_selecting_by_a_condition(text, conditions, is_selected):
    """spec/cli.md 4: `!=` also matches what lacks the condition."""
    selector = Selector.parse(text)
    assert selector is not None
    assert is_selected is selector.selects(KUSTOMIZATION, obj(*conditions))


def test_an_empty_selector_selects_everything():
    """spec/cli.md 4, default."""
    assert Selector.parse("") is None


def test_a_malformed_selector_is_quoted():
    """spec/cli.md 4."""
    with pytest.raises(CommandError, match=r"^expected status selector in .* format, but found: ready$"):
        Selector.parse("ready")


def listing(**changes):
    defaults = {
        "name": "", "all_namespaces": False, "with_heading": True, "watch": False, "selector": None, "labels": "",
    }  # fmt: skip
    return Listing(**{**defaults, **changes})


def test_queries():
    """spec/cli.md 4: the name is a field selector, whatever letters it has."""
    assert listing().params() == {}
    assert listing(name="a,b=c", labels="x=y").params() == {
        "fieldSelector": "metadata.name=a\\,b\\=c",
        "labelSelector": "x=y",
    }


def test_only_a_terminal_sees_colour(monkeypatch):
    """READY False is red for a person; scripts get bytes."""
    objects = [obj(("Ready", "False"))]
    assert "\x1b" not in listing().table(KUSTOMIZATION, objects, with_heading=True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "\t\x1b[31mFalse\x1b[0m\t" in listing().table(KUSTOMIZATION, objects, with_heading=True)
