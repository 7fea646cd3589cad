"""An index that is cut into its entries is the index that is read at once, or it is not cut."""

from __future__ import annotations

import io
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gitopsd.fetch.helmindexsplit import UnevenError, split
from gitopsd.krm.documents import Dialect, DocumentError, load_large

PLAIN = """\
apiVersion: v1
entries:
  demo:
  - description: A demo
    annotations:
      notes: |
        - one
      more: "x"
    name: demo
    version: 1.0.0
  - name: demo
    version: 1.1.0
  other:
  - name: other
    urls:
    - u
generated: "now"
"""
_PIECES = st.sampled_from(
    [
        *(
            '"',
            "'",
            "\n",
            "\n\n",
            "- ",
            "- - ",
            "-\n",
            "  ",
            "    ",
            "#",
            " # c",
            ": ",
            ":",
            "|",
            "|\n",
            ">",
            "\\",
            "? ",
        ),
        *("\n  - name: evil\n", "\n  x:\n", "  demo:\n", "  other2: []\n", '  "q": \n', "\nentries:\n", "\nfoo: bar\n"),
        *(
            "---\n",
            "...\n",
            "%",
            "\t",
            "\r",
            "&a ",
            "*a",
            "[]",
            "{}",
            "null",
            "!!str ",
            'x: "y\n',
            "\u2028",
            "\x85",
            "\ufeff",
        ),
    ]
)


def whole(raw: bytes) -> Any:
    """The index as it is read at once."""
    charts: dict[str, list[Any]] = {}
    rest = load_large(
        io.BytesIO(raw),
        lambda name, value: charts.setdefault(name, []).append(value),
        at="entries",
        source="i",
        dialect=Dialect.YAML11,
    )
    if isinstance(rest, dict) and isinstance(rest.get("entries"), dict):
        own = rest["entries"]
        own.update({name: items + charts.get(name, []) for name, items in own.items() if isinstance(items, list)})
    return rest


def cut(raw: bytes) -> Any:
    """The index as it is cut."""
    charts: dict[str, list[Any]] = {}
    rest = split(io.BytesIO(raw), lambda name, value: charts.setdefault(name, []).append(value), source="i")
    if isinstance(rest.get("entries"), dict):
        rest["entries"] = {name: items or charts.get(name, []) for name, items in rest["entries"].items()}
    return rest


def usable(index: Any) -> Any:
    """Without what counts for nothing: a chart without a list, entries that are no mappings. None is no entries."""
    if isinstance(index, dict) and "entries" in index and index["entries"] is None:
        return index | {"entries": {}}
    entries = index.get("entries") if isinstance(index, dict) else None
    if isinstance(entries, dict):
        kept = {name: items if isinstance(items, list) else [] for name, items in entries.items()}
        index = index | {"entries": {name: [one for one in own if isinstance(one, dict)] for name, own in kept.items()}}
    return index


def test_the_usual_form_is_cut() -> None:
    assert cut(PLAIN.encode()) == whole(PLAIN.encode())
    assert list(cut(PLAIN.encode())["entries"]) == ["demo", "other"]


@pytest.mark.parametrize(
    "text",
    [
        "entries:\n- a: 1\n",
        "entries:\n  a:\n   - b: 1\n  - c: 1\n",
        "entries:\n  a:\n  - b: 1\n c:\n  - d: 1\n",
        "entries:\n  a: []\n  - b: 1\n",
        "entries:\n  a:[]\n  - b: 1\n",
        "entries:\n  a: {b: 1}\n",
        'entries:\n  a:\n  - b: "1\n  - c: 2\n',
        "entries:\n  a:\n  - b: &x 1\n  - c: *x\n",
        "  apiVersion: v1\nentries:\n  a:\n  - b: 1\n",
        "entries:\n  a:\n  - b: 1\n---\nc: 1\n",
        "entries:\n  a:\n  - b: 1\nentries:\n  c: []\n",
        "[]\n",
    ],
)
def test_what_cannot_be_cut_is_left_to_the_other_reader(text: str) -> None:
    with pytest.raises(UnevenError):
        cut(text.encode())


@given(st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 6), _PIECES), min_size=1, max_size=2))
@example([(245, 0, "\nentries:\n"), (16, 0, '"')])
@settings(max_examples=1500, deadline=None, derandomize=True)
def test_what_can_be_cut_is_what_the_whole_says(changes: list[tuple[int, int, str]]) -> None:
    text = PLAIN
    for at, gone, piece in changes:
        text = text[:at] + piece + text[at + gone :]
    raw = text.encode()
    try:
        found = cut(raw)
    except UnevenError:
        return
    except DocumentError:
        with pytest.raises(DocumentError):
            whole(raw)
        return
    assert usable(found) == usable(whole(raw))


def test_a_huge_head_is_not_kept_in_memory() -> None:
    with mock.patch("gitopsd.fetch.helmindexsplit._LARGEST_REST", 100), pytest.raises(UnevenError):
        cut(b"a: 1\n" * 100 + b"entries: {}\n")
