"""Entries of an index, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from gitopsd.fetch.helmindexentry import NEVER, EntryError, UnknownFieldError, read_entry

WHOLE: dict[str, Any] = {
    "version": "1.2.3",
    "name": "demo",
    "apiVersion": "v2",
    "appVersion": "1.0",
    "description": "A chart",
    "home": "https://h",
    "sources": ["https://s"],
    "keywords": ["k"],
    "maintainers": [{"name": "n", "email": "e", "url": "u"}],
    "icon": "i",
    "condition": "c",
    "tags": "t",
    "deprecated": True,
    "annotations": {"a": "line\nend"},
    "kubeVersion": ">=1.20",
    "dependencies": [
        {
            "name": "d",
            "version": "1.x",
            "repository": "https://r",
            "condition": "c",
            "tags": ["t"],
            "enabled": True,
            "import-values": ["data", {"child": "a", "parent": "b"}],
            "alias": "x-1",
        }
    ],
    "type": "library",
    "urls": ["demo-1.2.3.tgz"],
    "created": "2024-03-01T10:11:12.123456789+02:00",
    "removed": True,
    "digest": "abc",
    "checksum": "c",
    "engine": "e",
    "tillerVersion": "v",
    "url": "u",
}


def entry(**fields: Any) -> dict[str, Any]:
    """What is kept of an entry; the rest of it is fine."""
    return read_entry({"name": "demo", "version": "1.0.0"} | fields, is_strict=True)[0]


def test_s7_4_every_field_that_helm_knows_is_kept_in_its_order() -> None:
    found, version = read_entry(WHOLE, is_strict=True)
    assert found == WHOLE
    assert [*found][:4] == ["name", "home", "sources", "version"]
    assert str(version) == "1.2.3"


def test_s7_4_what_says_nothing_is_left_out_and_what_must_be_there_is_added() -> None:
    found = entry(home="", deprecated=False, keywords=[], annotations={}, icon=None, maintainers=None)
    assert found == {"name": "demo", "version": "1.0.0", "apiVersion": "v1", "urls": [], "created": NEVER}


def test_s7_4_unknown_fields_are_errors_where_the_reader_is_strict() -> None:
    for raw in ({"foo": 1}, {"maintainers": [{"foo": 1}]}, {"dependencies": [{"foo": 1}]}):
        whole = {"name": "demo", "version": "1.0.0", **raw}
        with pytest.raises(UnknownFieldError, match='unknown field "foo"'):
            read_entry(whole, is_strict=True)
        assert "foo" not in str(read_entry(whole, is_strict=False)[0])


def test_s7_4_fields_are_known_in_any_case() -> None:
    assert entry(appversion="1", KeyWords=["k"]) == entry(appVersion="1", keywords=["k"])


def test_what_is_not_text_becomes_text() -> None:
    assert entry(version=1, appVersion=1.1, description=True)["version"] == "1"
    assert entry(appVersion=1.1)["appVersion"] == "1.1"
    assert entry(annotations={"a": 1, "b": True, "c": None})["annotations"] == {"a": "1", "b": "true", "c": ""}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        ["a"],
        "text",
        {},
        {"version": "1.0.0"},
        {"name": None, "version": "1.0.0"},
        {"name": "demo"},
        {"name": "demo", "version": None},
        {"name": "demo", "version": ""},
        {"name": "demo", "version": ["1.0.0"]},
        {"name": "demo", "version": "1.0.0", "metadata": None},
        {"name": "a/b", "version": "1.0.0"},
        {"name": "..", "version": "1.0.0"},
        {"name": "demo", "version": "1.0.0", "type": "other"},
        {"name": "demo", "version": "1.0.0", "urls": "one"},
        {"name": "demo", "version": "1.0.0", "deprecated": "true"},
        {"name": "demo", "version": "1.0.0", "maintainers": [None]},
        {"name": "demo", "version": "1.0.0", "dependencies": [None]},
        {"name": "demo", "version": "1.0.0", "dependencies": [{"name": "a", "alias": "a b"}]},
        {"name": "demo", "version": "1.0.0", "annotations": ["a"]},
        {"name": "demo", "version": "1.0.0", "created": "yesterday"},
        {"name": "demo", "version": "1.0.0", "created": "2024-13-01T00:00:00Z"},
        {"name": "demo", "version": "1.0.0", "description": {"a": "b"}},
    ],
    ids=str,
)
def test_F03_an_entry_that_cannot_be_used_is_told(raw: Any) -> None:
    with pytest.raises(EntryError):
        read_entry(raw, is_strict=True)


@pytest.mark.parametrize(
    ("version", "is_kept"),
    [
        ("v1.2", True),  # kept, as Helm does, though no range finds it
        ("1.2.3+meta", True),
        ("1.2.3-rc.1", True),
        ("latest", False),
        ("1.0." + "1" * 10240, False),
        ("1.2.3_meta", False),
    ],
)
def test_F06_only_semantic_versions_are_kept(version: str, is_kept: bool) -> None:
    if is_kept:
        assert entry(version=version)["version"] == version
    else:
        with pytest.raises(EntryError, match="semantic version"):
            entry(version=version)


def test_F09_texts_lose_what_cannot_be_seen() -> None:
    found = entry(name="a\x1b[31mb", description="one\ntwo\x00 <script>", keywords=["a\u202eb"])
    assert (found["name"], found["description"]) == ("a[31mb", "one two <script>")
    assert found["keywords"] == ["ab"]


def test_s7_4_doubled_dependency_names_are_tolerated() -> None:
    assert len(entry(dependencies=[{"name": "a"}, {"name": "a"}])["dependencies"]) == 2
