"""From an index as it is served to the one that is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gitopsd.fetch import helmindexbuild, helmindexjson
from gitopsd.fetch.helmindexbuild import Built, IndexFormatError, build, rebuild

LIMIT = 50 << 20
Read = Callable[[str | bytes], tuple[dict[str, Any], Built]]

PLAIN = """\
apiVersion: v1
entries:
  demo:
  - apiVersion: v2
    created: "2024-03-01T10:11:12.123456789Z"
    description: A demo
    digest: abc
    name: demo
    urls:
    - demo-1.0.0.tgz
    version: 1.0.0
  - apiVersion: v2
    name: demo
    urls:
    - demo-1.1.0.tgz
    version: 1.1.0
  other:
  - name: other
    version: 0.1.0
generated: "2024-05-05T10:11:12Z"
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Build, and look at what was written; the table must be that of the file, whoever made it."""

    def run(text: str | bytes) -> tuple[dict[str, Any], Built]:
        source, target = tmp_path / "index.yaml", tmp_path / "index.json"
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        built = build(source, target, LIMIT)
        stored = target.read_bytes()
        again = rebuild(target)
        assert len(again.table) == len(built.table)
        for name, entries in json.loads(stored)["entries"].items():
            assert name in again.table
            assert built.table.versions(name) == again.table.versions(name) == [one["version"] for one in entries]
            for index, entry in enumerate(entries):
                place = built.table.place(name, index)
                assert place == again.table.place(name, index)
                assert json.loads(stored[place.offset : place.offset + place.length]) == entry
        return json.loads(stored), built

    return run


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[str | bytes], IndexFormatError]:
    def run(text: str | bytes) -> IndexFormatError:
        source = tmp_path / "index.yaml"
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(IndexFormatError) as caught:
            build(source, tmp_path / "index.json", LIMIT)
        return caught.value

    return run


def versions(found: dict[str, Any], name: str = "demo") -> list[str]:
    return [entry["version"] for entry in found["entries"][name]]


def test_s7_4_an_index_is_stored_as_indented_json_the_newest_versions_first(read: Read, tmp_path: Path) -> None:
    found, built = read(PLAIN)
    assert found["apiVersion"] == "v1"
    assert found["generated"] == "2024-05-05T10:11:12Z"
    assert versions(found) == ["1.1.0", "1.0.0"]
    assert found["entries"]["demo"][1] == {
        "name": "demo",
        "version": "1.0.0",
        "description": "A demo",
        "apiVersion": "v2",
        "urls": ["demo-1.0.0.tgz"],
        "created": "2024-03-01T10:11:12.123456789Z",
        "digest": "abc",
    }
    text = (tmp_path / "index.json").read_text()
    assert text == json.dumps(found, indent=2) + "\n"
    assert built.dropped == 0


FORMS = {
    "flow": lambda text: yaml.safe_dump(yaml.safe_load(text), default_flow_style=True),
    "json": lambda text: json.dumps(yaml.safe_load(text)),
    "indented json": lambda text: json.dumps(yaml.safe_load(text), indent=3),
    "our own json": lambda text: json.dumps(yaml.safe_load(text), indent=2),
    "indented lists": lambda text: re.sub(r"(?m)^(  - |    )", r"  \1", text),
    "windows": lambda text: text.replace("\n", "\r\n"),
    "a separator": lambda text: f"---\n{text}",
    "a byte order mark": lambda text: f"\ufeff{text}",
    "another document": lambda text: f"{text}---\nfoo: bar\n",
    "comments": lambda text: f"# one\n\n{text}# two\n".replace("  other:", "# three\n  # four\n\n  other: # five"),
    "quoted names": lambda text: text.replace("  demo:\n", '  "demo":\n').replace("  other:\n", "  'other':\n"),
    "entries last": lambda text: "generated: '2024-05-05T10:11:12Z'\n" + text[: text.index("generated")],
    "entries first": lambda text: text.removeprefix("apiVersion: v1\n") + "apiVersion: v1\n",
    "anchors": lambda text: text.replace("  other:\n", "  other: &o\n"),
    "no end of line": lambda text: text.rstrip("\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_s7_4_the_same_index_in_every_form(read: Read, form: str) -> None:
    text = FORMS[form](PLAIN)
    found, _ = read(text)
    wanted, _ = read(PLAIN)
    assert found == wanted


def test_a_quoted_text_that_looks_like_an_entry_is_text(read: Read) -> None:
    """What only looks like the beginning of an entry does not cut one."""
    text = PLAIN.replace("description: A demo", 'description: "A\n  - name: evil\n  other:\n  demo"')
    found, _ = read(text)
    assert found["entries"]["demo"][1]["description"] == "A - name: evil other: demo"
    assert versions(found, "other") == ["0.1.0"]


@pytest.mark.parametrize(
    "bad",
    [
        "  - null\n",
        "  - [a, b]\n",
        "  - text\n",
        "  - name: demo\n    version:\n",
        "  - version: 1.0.0\n",
        "  - metadata:\n",
        "  - {}\n",
    ],
)
def test_F03_a_bad_entry_is_dropped_and_the_rest_is_usable(read: Read, bad: str) -> None:
    for text in (PLAIN.replace("  demo:\n", f"  demo:\n{bad}"), PLAIN.replace("  other:\n", f"{bad}  other:\n")):
        found, _ = read(text)
        assert versions(found) == ["1.1.0", "1.0.0"]
        flow = yaml.safe_dump(yaml.safe_load(text), default_flow_style=True)
        assert read(flow)[0] == found
        assert read(json.dumps(yaml.safe_load(text)))[0] == found


def test_F03_dropped_entries_are_counted_and_the_first_are_told(read: Read) -> None:
    _, built = read(PLAIN.replace("  demo:\n", "  demo:\n" + "  - name: demo\n    version: latest\n" * 30))
    assert built.dropped == 30
    assert len(built.notes) == 10
    assert built.notes[0] == "demo: its version is missing or is not a semantic version"


def test_F03_a_chart_that_has_no_list_is_empty(read: Read) -> None:
    for value in ("[]", "null", "text", "{a: b}"):
        found, _ = read(f"apiVersion: v1\nentries:\n  demo: {value}\n  other:\n  - name: other\n    version: 0.1.0\n")
        assert found["entries"]["demo"] == []
        assert versions(found, "other") == ["0.1.0"]


@pytest.mark.parametrize(
    "text",
    ["[]", "text", "- a\n- b\n", "<html>\n<body>not here</body>\n</html>\n", '"text"', "entries: []\napiVersion: v1\n"],
)
def test_F03_a_file_that_is_no_mapping_is_refused(refusal: Callable[[str], IndexFormatError], text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty index.yaml file"),
        ("# nothing\n", "no API version specified"),
        ("entries: {}\n", "no API version specified"),
        ("apiVersion:\nentries: {}\n", "no API version specified"),
        ("{}", "no API version specified"),
        ("apiVersion: v1\nfoo: bar\n", 'unknown field "foo"'),
        ("apiVersion: v1\nentries:\n  a:\n  - name: a\n    version: 1.0.0\n    foo: 1\n", 'unknown field "foo"'),
        ("apiVersion: v1\nentries: {a: [{name: a, version: 1.0.0, foo: 1}]}\n", 'unknown field "foo"'),
    ],
)
def test_F04_an_index_without_its_version_is_refused(
    refusal: Callable[[str], IndexFormatError], text: str, message: str
) -> None:
    assert refusal(text).message == message


@pytest.mark.parametrize("text", ["apiVersion: v1\nentries: {}\n", "apiVersion: v9\nentries:\n", '{"apiVersion":"v1"}'])
def test_F04_an_index_without_entries_is_valid(read: Read, text: str) -> None:
    assert read(text)[0]["entries"] == {}


def test_s7_4_json_may_have_fields_that_nobody_knows(read: Read) -> None:
    found, _ = read('{"apiVersion":"v1","foo":1,"entries":{"a":[{"name":"a","version":"1.0.0","foo":{"b":[1]}}]}}')
    assert "foo" not in str(found)
    assert versions(found, "a") == ["1.0.0"]


def test_s7_4_what_else_stands_in_an_index_is_kept(read: Read) -> None:
    found, _ = read("apiVersion: v1\npublicKeys: [a]\nannotations: {b: c}\nserverInfo: {contextPath: /x}\n")
    assert (found["publicKeys"], found["annotations"], found["serverInfo"]) == (
        ["a"],
        {"b": "c"},
        {"contextPath": "/x"},
    )


def test_F05_of_doubled_versions_the_first_as_written_wins(read: Read) -> None:
    double = "  - name: demo\n    version: 1.0.0\n    digest: other\n    created: '2030-01-01T00:00:00Z'\n"
    found, _ = read(PLAIN.replace("  other:\n", f"{double}  other:\n"))
    assert [entry.get("digest") for entry in found["entries"]["demo"]] == [None, "abc"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("    name: demo\n", "    name: demo\n    name: demo\n", 9),
        ("  other:\n", "  demo:\n  - name: x\n    version: 1.0.0\n  other:\n", 17),
        ("generated:", "apiVersion: v1\ngenerated:", 20),
    ],
    ids=["in an entry", "of a chart", "of the index"],
)
def test_F05_a_doubled_key_is_refused(
    refusal: Callable[[str], IndexFormatError], old: str, new: str, line: int
) -> None:
    error = refusal(PLAIN.replace(old, new, 1))
    assert error.rule == "duplicate-key"
    assert "already defined" in error.message
    assert error.message.startswith(f"line {line}: ")


@pytest.mark.parametrize(
    "text",
    [
        b"apiVersion: \xff\n",
        b"apiVersion: v1\nentries:\n  a:\n  - name: \xff\n",
        "apiVersion: v1\nentries:\n  a:\n  - name: [\n",
        "apiVersion: v1\nentries:\n  a: " + "[" * 200,
        '{"apiVersion": "v1", "entries": {"a": [' + "[" * 3000,
        "apiVersion: v1\nentries:\n  a: &a [*a]\n",
        "%YAML 1.1\n---\napiVersion: v1\n",
        "apiVersion: !!python/object:os.system v1\nfoo: *x\n",
    ],
    ids=["bytes", "bytes in an entry", "flow", "depth", "depth in JSON", "a loop", "a directive", "an alias"],
)
def test_broken_syntax_is_refused_and_told(
    refusal: Callable[[str | bytes], IndexFormatError], text: str | bytes
) -> None:
    message = refusal(text).message
    assert message.isprintable()
    assert len(message) < 600


def test_aliases_cost_what_they_expand_to(refusal: Callable[[str], IndexFormatError]) -> None:
    rows = ["apiVersion: v1\nannotations:\n  a0: &a0 [x, x, x, x, x, x, x, x, x]\n"]
    rows += [f"  a{row}: &a{row} [{', '.join([f'*a{row - 1}'] * 9)}]\n" for row in range(1, 9)]
    assert refusal("".join(rows)).rule == "nodes"


def test_F09_what_strangers_wrote_is_stored_escaped(read: Read, tmp_path: Path) -> None:
    text = PLAIN.replace("A demo", '"\\e[31m <script>alert(1)</script>\\nnext & \\x07"').replace("  other:", "  '<b>':")
    found, _ = read(text)
    raw = (tmp_path / "index.json").read_text()
    assert not set("<>&\x1b\x07") & set(raw)
    assert found["entries"]["demo"][1]["description"] == "[31m <script>alert(1)</script> next & "
    assert "<b>" in found["entries"]


def test_versions_out_of_order_are_put_in_order_and_keep_their_places(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helmindexbuild, "_IN_MEMORY", 1000)
    order = [(number * 37) % 101 for number in range(101)]
    rows = "".join(f"  - name: demo\n    version: 1.{minor}.0\n    description: {'x' * minor}\n" for minor in order)
    found, _ = read(f"apiVersion: v1\nentries:\n  demo:\n{rows}  last:\n  - name: last\n    version: 1.0.0\n")
    assert versions(found) == [f"1.{minor}.0" for minor in reversed(range(101))]
    assert versions(found, "last") == ["1.0.0"]


@pytest.mark.parametrize("indent", [None, 1, 2, 4])
@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_window_may_end_anywhere(
    read: Read, monkeypatch: pytest.MonkeyPatch, indent: int | None, window: int
) -> None:
    monkeypatch.setattr(helmindexjson, "_WINDOW", window)
    index = yaml.safe_load(PLAIN)
    index["entries"]["demo"][0]["description"] = 'a "quoted" \\ } ] { [ text \\" ü'
    index["annotations"] = {"n": "1"}
    found, _ = read(json.dumps(index, indent=indent))
    assert versions(found) == ["1.1.0", "1.0.0"]
    assert found["entries"]["demo"][1]["description"] == index["entries"]["demo"][0]["description"]


@pytest.mark.parametrize(
    "text",
    [
        '{"apiVersion":"v1"',
        '{"apiVersion" "v1"}',
        '{"a":1}}',
        '{"entries":{"a":[{"b":1}',
        "{1:2}",
    ],
)
def test_what_is_not_quite_json_is_left_to_the_other_readers(
    refusal: Callable[[str], IndexFormatError], text: str
) -> None:
    refusal(text)


def test_F01_a_file_beyond_the_bound_is_refused_unread(tmp_path: Path) -> None:
    source = tmp_path / "index.yaml"
    source.write_bytes(PLAIN.encode())
    build(source, tmp_path / "out", len(PLAIN))
    with pytest.raises(IndexFormatError) as caught:
        build(source, tmp_path / "out", len(PLAIN) - 1)
    assert caught.value.rule == "size"


def test_a_stored_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text("apiVersion: v1\n")
    with pytest.raises(IndexFormatError, match="cannot be read"):
        rebuild(path)
