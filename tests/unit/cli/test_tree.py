"""Trees as text, and release records from a hostile cluster (`spec/cli.md` 9)."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from gitopsd.cli import tree
from gitopsd.cli.tree import Node, RecordError, manifest_objects
from gitopsd.krm.documents import DocumentError
from gitopsd.krm.objects import ObjectKey


def node(name, *children):
    return Node(ObjectKey("", "ConfigMap", "ns", name), list(children))


def test_branches_are_drawn_to_the_letter():
    """spec/cli.md 9, text."""
    root = node("root", node("a", node("b"), node("c")), node("d", node("e")))
    assert "\n".join(root.lines()) == (
        "ConfigMap/ns/root\n"
        "├── ConfigMap/ns/a\n"
        "│   ├── ConfigMap/ns/b\n"
        "│   └── ConfigMap/ns/c\n"
        "└── ConfigMap/ns/d\n"
        "    └── ConfigMap/ns/e"
    )


def test_S01_names_cannot_draw_branches_of_their_own():
    """spec/hostile-inputs.md S01: an inventory is only a text field of a status."""
    (line,) = node("x\n└── Secret/y\x1b[2J").lines()
    assert line == "ConfigMap/ns/x\\n└── Secret/y\\x1b[2J"


def record(content, *, pack=gzip.compress):
    inner = base64.b64encode(pack(content if isinstance(content, bytes) else json.dumps(content).encode()))
    return {"data": {"release": base64.b64encode(inner).decode()}}


MANIFEST = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n# nothing\n---\nkind: Secret\n"


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_helms_own_record_is_read(pack):
    """spec/cli.md 9: base64, gzip, JSON, field `manifest`; records of old Helm are not packed."""
    assert [obj["kind"] for obj in manifest_objects(record({"manifest": MANIFEST}, pack=pack))] == [
        "ConfigMap",
        "Secret",
    ]


@pytest.mark.parametrize("content", [{}, {"manifest": ""}, {"manifest": None}, []])
def test_a_record_without_a_manifest_holds_nothing(content):
    """A release may be empty."""
    assert manifest_objects(record(content)) == []


def test_a_record_that_unpacks_without_end_is_refused(monkeypatch):
    """spec/hostile-inputs.md: what is unpacked has a bound."""
    monkeypatch.setattr(tree, "RECORD_BOUND", 1000)
    with pytest.raises(RecordError, match="larger than 1000 bytes"):
        manifest_objects(record(b"x" * 5000))


@pytest.mark.parametrize(
    "secret",
    [
        {"data": {"release": "!!!"}},
        {"data": {"release": base64.b64encode(b"%").decode()}},
        {"data": {"release": base64.b64encode(base64.b64encode(b"\x1f\x8b\x08broken")).decode()}},
    ],
)
def test_a_damaged_record_is_an_error_not_a_crash(secret):
    """What a Secret holds is anybody's guess."""
    with pytest.raises((RecordError, DocumentError)):
        manifest_objects(secret)
