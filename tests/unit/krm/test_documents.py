from __future__ import annotations

import copy
import io
import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gitopsd.krm.documents import (
    Dialect,
    DocumentError,
    Limits,
    dump,
    dump_all,
    dump_json,
    load_all,
    load_json,
    load_large,
    load_objects,
)

VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-(2.0**53), 2.0**53)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.sampled_from(["yes", "0x1f", "1e3", "null", "~", "a: b", "a\nb", "a\n", " a\n", "---", "- x", "a #b", "1:30"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def load(text: bytes | str, dialect: Dialect = Dialect.RESOURCE, **limits: int) -> list[Any]:
    return load_all(text, source="test.yaml", dialect=dialect, limits=Limits(**limits))


def refusal(text: bytes | str, dialect: Dialect = Dialect.RESOURCE, **limits: int) -> DocumentError:
    with pytest.raises(DocumentError) as refused:
        load(text, dialect, **limits)
    error = refused.value
    assert str(error).startswith("test.yaml: ")
    assert len(str(error).encode()) <= 4096
    assert str(error).isprintable()
    return error


def test_a_stream_of_documents_is_read() -> None:
    text = b"a: 1\nb: [x, 'y', \"z\\n\"]\n---\nc: |\n  one\n  two\nd: >-\n  three\n  four\n"
    assert load(text) == [{"a": 1, "b": ["x", "y", "z\n"]}, {"c": "one\ntwo\n", "d": "three four"}]
    assert load(text.decode()) == load(text)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{a: " * 9_000, b"- " * 100_000, b"[" * 101 + b"]" * 101])
def test_K01_deep_nesting_is_refused_before_it_is_built(text: bytes) -> None:
    assert refusal(text).rule == "depth"


def test_K01_block_nesting_is_refused_too_and_the_bound_is_exact() -> None:
    assert refusal(b"\n".join(b" " * level + b"a:" for level in range(8_00))).rule == "depth"
    assert load(b"[" * 100 + b"]" * 100)
    assert load(b"[" * 3 + b"]" * 3, depth=3) == [[[[]]]]
    assert refusal(b"[" * 4 + b"]" * 4, depth=3).rule == "depth"


def test_K01_nesting_counts_what_an_alias_brings_along() -> None:
    chain = b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (n, n, n - 1) for n in range(1, 200))
    assert refusal(chain).rule == "depth"
    assert load(b"a: &a [[1]]\nb: [*a]", depth=4) == [{"a": [[1]], "b": [[[1]]]}]
    assert refusal(b"a: &a [[1]]\nb: [*a]", depth=3).rule == "depth"


def test_K02_an_alias_bomb_is_refused_without_being_built() -> None:
    bomb = b"a0: &a0 x\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)
    )
    tracemalloc.start()
    try:
        assert refusal(bomb).rule == "nodes"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_K02_values_are_counted_with_their_copies() -> None:
    text = b"a: &a [1, 2]\nb: *a\n"  # the mapping, two keys, twice a list of two
    assert load(text, nodes=9)
    assert refusal(text, nodes=8).rule == "nodes"


def test_K03_an_alias_of_what_contains_it_is_refused() -> None:
    error = refusal(b"spec: &s {a: *s}")
    assert (error.rule, error.line) == ("alias", 1)
    assert "recursive alias" in str(error)
    assert "recursive alias" in str(refusal(b"&r [*r]"))


def test_K04_merge_keys_are_counted_as_naive_merging_would_copy() -> None:
    doubling = b"p0: &p0 {a: 1, b: 2}\n" + b"".join(
        b"p%d: &p%d\n  <<: [*p%d, *p%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 25)
    )
    assert refusal(doubling).rule == "merge"
    assert load(b"p: &p {a: 1, b: 2}\nq: {<<: *p}\n", merged=2)
    assert refusal(b"p: &p {a: 1, b: 2}\nq: {<<: *p}\n", merged=1).rule == "merge"


def test_K04_merging_keeps_own_keys_and_prefers_what_is_named_first() -> None:
    text = b"x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  c: 3\n  <<: [*x, *y]\n"
    assert load(text)[0]["z"] == {"a": 1, "b": 1, "c": 3}
    assert load(b"<<: {a: 1}\na: 2\n") == [{"a": 2}]
    assert load(b"'<<': {a: 1}") == [{"<<": {"a": 1}}]


@pytest.mark.parametrize("text", [b"<<: 3", b"<<: [3]", b"<<:", b"<<: [[]]"])
def test_K04_only_mappings_can_be_merged(text: bytes) -> None:
    assert "merge requires" in str(refusal(text))


def test_K05_anchors_are_expanded_within_their_document_only() -> None:
    value = load(b"a: &x {k: [1]}\nb: *x\nc: &x 3\nd: *x\n")[0]
    assert value == {"a": {"k": [1]}, "b": {"k": [1]}, "c": 3, "d": 3}
    assert "unknown anchor 'x'" in str(refusal(b"a: &x 1\n---\nb: *x\n"))


def test_K05_what_is_done_to_one_copy_is_not_done_to_the_others() -> None:
    value = load(b"a: &x {k: [1], n: &n {m: 1}}\nb: *x\nc: [*x, *n, *n]\nd: {<<: *x}\n")[0]
    before = copy.deepcopy(value)
    value["b"]["k"].append(2)
    value["c"][0]["n"]["m"] = 2
    assert value["a"] == before["a"]
    assert value["d"] == before["d"]
    assert value["c"][1:] == before["c"][1:]


@pytest.mark.parametrize(
    "text", [b"a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", b'{"a": 1,\n "b": 2,\n"a":\n3}', b"<<: {a: 1}\n<<: {b: 1}\n"]
)
def test_K06_a_key_written_twice_is_refused(text: bytes) -> None:
    error = refusal(text)
    assert error.rule == "duplicate-key"
    assert "already defined at line" in str(error)


def test_K06_the_message_names_key_and_lines() -> None:
    assert str(refusal(b"a: 1\nb:\n  c: 1\n  c: 3\n")) == 'test.yaml: line 4: mapping key "c" already defined at line 3'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a:\n\tb: c\n", 2),
        (b"a: 1\nb: \x01\n", 2),
        (b"a: 1\nb: c\0d\n", 2),
        (b"a: 1\n\nb: \xff\n", 3),
        (b'a: 1\nb: "\\ud800"\n', 2),
        ("a: é\nb: \x7f\n".encode(), 2),
        (b"a: 'x\n", 2),
        (b"a: b: c", 1),
    ],
)
def test_K07_broken_text_is_refused_with_its_line(text: bytes, line: int) -> None:
    assert refusal(text).line == line


def test_K08_byte_order_marks_are_dropped_and_carriage_returns_are_line_ends() -> None:
    assert load(b"\xef\xbb\xbfa: 1\r\n---\r\n\xef\xbb\xbfb: |\r\n  x\r\n") == [{"a": 1}, {"b": "x\n"}]


def test_K08_unicode_line_separators_are_ordinary_characters() -> None:
    text = 'a: "x\x85y"\nb: x\u2028y\nc: |\n  x\u2029y\n"\u2028": \ue000\n'
    assert load(text) == [{"a": "x\x85y", "b": "x\u2028y", "c": "x\u2029y\n", "\u2028": "\ue000"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_K08_only_utf_8_is_read(encoding: str) -> None:
    assert refusal("a: b".encode(encoding))
    assert refusal("\ud800").rule == "encoding"


def test_K09_empty_documents_are_left_out_and_separators_may_carry_comments() -> None:
    text = b"---\n# nothing\n---\na: 1\n--- # c\nb: |\n  ---\n  x\n---   \n...\n---\nnull\n---\n~\n---\n"
    assert load(text) == [{"a": 1}, {"b": "---\nx\n"}]
    for nothing in (b"", b"# c\n", b"---", b"---\n---\n", b"\n\n"):
        assert load(nothing) == []


@pytest.mark.parametrize("text", [b"a: 1\n--- {b: 2}\n", b"a: 1\n--- |\n x\n", b"a: 1\n--- x\n", b"# c\n--- [1]\n"])
def test_K09_content_on_the_line_of_a_separator_is_refused(text: bytes) -> None:
    assert "invalid document separator" in str(refusal(text))


@pytest.mark.parametrize(
    "text",
    [b"%YAML 1.1\n---\na: 1\n", b"%YAML 1.3\n---\na: 1\n", b"%TAG ! tag:x,2000:\n---\na: 1\n", b"%FOO x\n---\na: 1\n"],
)
def test_K10_directives_are_refused(text: bytes) -> None:
    assert refusal(text)


def test_K11_no_tag_constructs_anything() -> None:
    assert load(b"!!python/object/apply:os.system ['echo hi']") == [["echo hi"]]
    assert load(b"a: !!python/name:os.system x\nb: !foo {c: 1}\nc: !foo 12\nd: !!binary aGVsbG8=") == [
        {"a": "x", "b": {"c": 1}, "c": "12", "d": "hello"}
    ]
    for tag in (b"!!set {x}", b"!!omap [x: 1]", b"!!pairs [x: 1]", b"!!set x", b"!!int x"):
        assert refusal(b"a: " + tag).rule == "tag"


@pytest.mark.parametrize("text", [b'{"a": 1}\n{"b": 2}\n', b'{"a": 1}{"b": 2}', b"[1][2]"])
def test_K12_two_json_objects_without_a_separator_are_refused(text: bytes) -> None:
    assert refusal(text)
    with pytest.raises(DocumentError):
        load_json(text, source="x.json")


@pytest.mark.parametrize(
    "text", [b"? [a, b]\n: 1", b"? {a: 1}\n: 1", b"[a]: 1", b"1: a", b"true: a", b"~: a", b"1.5: a", b"? \n: 1"]
)
def test_K13_keys_of_resource_files_must_be_strings(text: bytes) -> None:
    assert refusal(text).rule == "key"


def test_K13_number_keys_of_values_become_text() -> None:
    assert load(b"80: a\ntrue: b\nyes2: c", Dialect.YAML11) == [{"80": "a", "true": "b", "yes2": "c"}]
    assert refusal(b"1: a\n'1': b", Dialect.YAML11).rule == "duplicate-key"
    assert refusal(b"a: &x [1]\n*x : b", Dialect.YAML11).rule == "key"


@pytest.mark.parametrize(
    ("text", "rule"), [(b"a: " + b"1" * 5000, "digits"), (b"a: .inf", "non-finite"), (b"a: [.nan]", "non-finite")]
)
def test_K14_numbers_that_json_cannot_carry_are_refused(text: bytes, rule: str) -> None:
    assert refusal(text).rule == rule


def test_K15_long_lines_and_many_documents_within_the_bounds_work() -> None:
    assert load(b"a: '" + b"x" * 3_000_000 + b"'")[0]["a"] == "x" * 3_000_000
    assert len(load(b"---\na: 1\n" * 12_000)) == 12_000


def test_K15_a_file_of_ten_mebibytes_works_and_one_byte_more_does_not() -> None:
    line = b"  0123456789012345678901234567890123456789\n"
    text = b"a: |\n" + line * ((10 << 20) // len(line))
    text += b" " * ((10 << 20) - len(text))
    assert len(load_all(text, source="x")[0]["a"]) > 9 << 20
    with pytest.raises(DocumentError, match="longer than 10485760 bytes"):
        load_all(text + b" ", source="x")


def test_K15_the_bounds_are_exact() -> None:
    assert load(b"a: 1", size=4)
    assert refusal(b"a: 12", size=4).rule == "size"
    assert len(load(b"---\na: 1\n" * 3, documents=3)) == 3
    assert refusal(b"---\na: 1\n" * 4, documents=3).rule == "documents"
    assert len(load(b"[1, 2]", nodes=3)[0]) == 2
    assert refusal(b"[1, 2, 3]", nodes=3).rule == "nodes"


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{},&*!|>'\"%@#?<~ \n\t019\x00é", max_size=40), st.sampled_from(Dialect))
def test_K16_any_text_is_read_or_refused_with_our_own_error(text: str, dialect: Dialect) -> None:
    try:
        value = load_all(text, source="x", dialect=dialect)
    except DocumentError:
        return
    json.dumps(value, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(VALUE, st.sampled_from(Dialect))
def test_what_was_written_is_read_back_alike(value: Any, dialect: Dialect) -> None:
    found = load_all(dump(value), source="x", dialect=dialect)
    assert found == ([] if value is None else [value])


@settings(max_examples=60, deadline=None)
@given(VALUE)
def test_json_is_yaml_and_reads_alike(value: Any) -> None:
    assume(not re.search(r"[\x7f-\x9f\ufeff\ufffe\uffff]", json.dumps(value, ensure_ascii=False)))
    found = load_all(json.dumps(value, ensure_ascii=False), source="x")
    assert found == ([] if value is None else [value])


def test_the_written_text_is_stable_and_sorted() -> None:
    value = {
        "kind": "ConfigMap",
        "data": {"b": "yes", "a": "x\ny\n", "c": "", "d": "1"},
        "list": [{"z": 1, "a": [1, []]}, {}, "x"],
    }
    expected = """\
data:
  a: |
    x
    y
  b: "yes"
  c: ""
  d: "1"
kind: ConfigMap
list:
- a:
  - 1
  - []
  z: 1
- {}
- x
"""
    assert dump(value) == expected
    assert dump(dict(reversed(value.items()))) == expected
    assert dump_all([{"a": 1}, {"b": None}]) == "a: 1\n---\nb: null\n"


def test_what_json_has_no_form_for_is_not_written() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    for value in ({1: "a"}, {"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, deep):
        with pytest.raises(DocumentError):
            dump(value)
    for value in ({1: "a"}, {"a": object()}, {"a": 2**70}):
        with pytest.raises(DocumentError):
            dump_json(value)
    assert dump_json({"b": 1, "a": [None, "é"]}) == '{"a":[null,"é"],"b":1}'.encode()


def test_json_is_bounded_and_its_errors_are_ours() -> None:
    assert load_json(b'{"a": [1, 2.5, null]}', source="x") == {"a": [1, 2.5, None]}
    assert load_json(b"[" * 3 + b"]" * 3, source="x", limits=Limits(depth=3)) == [[[]]]
    for text in (b"[" * 4 + b"]" * 4, b"[" * 100_000, b'{"a":' * 4 + b"1" + b"}" * 4):
        with pytest.raises(DocumentError):
            load_json(text, source="x", limits=Limits(depth=3))
    with pytest.raises(DocumentError, match="longer than 2 bytes"):
        load_json(b"123", source="x", limits=Limits(size=2))
    with pytest.raises(DocumentError, match=r"x: line 2: "):
        load_json(b'{"a":\n}', source="x")


def test_objects_are_mappings_and_lists_are_opened() -> None:
    """spec/hostile-inputs.md J28, J29"""
    text = b"kind: List\nitems: [{kind: A}, {kind: B}]\n---\nkind: C\n---\nkind: ConfigMapList\nitems: [{kind: D}]\n"
    assert [obj["kind"] for obj in load_objects(text, source="x")] == ["A", "B", "C", "D"]
    for bad in (b"x", b"[1]", b"kind: List\nitems: [1]"):
        with pytest.raises(DocumentError, match="not an object"):
            load_objects(bad, source="x")


def _large(text: str | bytes) -> tuple[list[tuple[str, object]], object]:
    taken: list[tuple[str, object]] = []
    raw = text.encode() if isinstance(text, str) else text
    rest = load_large(io.BytesIO(raw), lambda name, value: taken.append((name, value)), at="entries", source="index")
    return taken, rest


def test_a_large_document_hands_its_listed_parts_over_as_they_are_read() -> None:
    taken, rest = _large("a: 1\nentries:\n  one:\n  - {x: 1}\n  - x: 2\n    y: [3]\n  - null\n  two: []\nb: [{c: 2}]\n")
    assert taken == [("one", {"x": 1}), ("one", {"x": 2, "y": [3]})]
    assert rest == {"a": 1, "entries": {"one": [None], "two": []}, "b": [{"c": 2}]}


def test_a_large_document_keeps_what_somebody_may_refer_to() -> None:
    taken, rest = _large(
        "entries:\n  one: &list\n  - &v {x: {y: 1}}\n  two: *list\n  three:\n  - *v\n  - {x: &x {}, z: *x}\n"
    )
    assert taken == [("three", {"x": {"y": 1}}), ("three", {"x": {}, "z": {}})]
    assert rest == {"entries": {"one": [{"x": {"y": 1}}], "two": [{"x": {"y": 1}}], "three": []}}


def test_a_large_document_ends_with_the_first_of_a_stream() -> None:
    assert _large("entries: {a: [{b: 1}]}\n---\nentries: {a: [{b: 2}]}\n") == (
        [("a", {"b": 1})],
        {"entries": {"a": []}},
    )
    assert _large("") == ([], None)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"entries: \xff\n", "encoding"),
        (b"entries: {a: [{b: 1, b: 2}]}\n", "duplicate-key"),
        (b"entries: {a: [{b: 1\n", "syntax"),
        ("a: \x85\nb: \ue001\n".encode(), "encoding"),
        (b"entries: " + b"[" * 200, "depth"),
    ],
)
def test_a_large_document_is_refused_by_the_same_rules(text: bytes, rule: str) -> None:
    with pytest.raises(DocumentError) as caught:
        _large(text)
    assert caught.value.rule == rule


def test_a_large_document_keeps_its_separators_and_private_characters() -> None:
    assert _large("entries: {a: [{b: 'x\u2028y'}]}\n")[0] == [("a", {"b": "x\u2028y"})]
    assert _large("entries: {a: [{b: 'x\ue000y'}]}\n")[0] == [("a", {"b": "x\ue000y"})]


def test_a_large_document_is_measured_as_it_comes() -> None:
    with pytest.raises(DocumentError) as caught:
        load_large(io.BytesIO(b"a: 1\n" * 100), lambda *_: None, at="entries", source="i", limits=Limits(size=100))
    assert caught.value.rule == "size"
