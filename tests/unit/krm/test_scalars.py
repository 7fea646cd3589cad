from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.krm.scalars import Dialect, ScalarError, key_text, read_plain, read_tagged, reads_as_itself

YAML = "tag:yaml.org,2002:"

# spec/hostile-inputs.md K17; a float is expected where JSON would carry one.
K17: list[tuple[str, Any]] = [
    *((text, text) for text in ("yes", "no", "on", "off", "y", "n", "Yes", "NO", "On", "OFF", "Y", "N")),
    *((text, True) for text in ("true", "True", "TRUE")),
    *((text, False) for text in ("false", "False", "FALSE")),
    *((text, None) for text in ("~", "null", "Null", "NULL", "")),
    ("1e3", 1000),
    ("1.0", 1),
    ("1.10", 1.1),
    (".5", 0.5),
    ("9007199254740993", 9007199254740993),
    ("18446744073709551615", 1.8446744073709552e19),
    ("0777", 511),
    ("0o777", 511),
    ("0899", 899),
    ("0x1F", 31),
    ("0b101", 5),
    ("+12", 12),
    ("-0", 0),
    ("00", 0),
    ("1.5e400", "1.5e400"),
    ("9007199254740993.0", 9007199254740992),
    ("1" * 30, 1.111111111111111e29),
    ("1:30", "1:30"),
    ("190:20:30", "190:20:30"),
    ("1_000", 1000),
    ("1,000", "1,000"),
    ("=", "="),
    ("<<", "<<"),
    ("2001-01-01", "2001-01-01T00:00:00Z"),
    ("2001-12-14t21:59:43.10-05:00", "2001-12-14T21:59:43.1-05:00"),
]


@pytest.mark.parametrize(("text", "expected"), K17)
def test_K17_plain_text_is_read_as_in_resource_files(text: str, expected: Any) -> None:
    value = read_plain(text, Dialect.RESOURCE)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        ("str", "1", "1"),
        ("int", "3", 3),
        ("float", "3", 3),
        ("bool", "true", True),
        ("null", "", None),
        ("binary", "aGVs\n  bG8=", "hello"),
        ("python/object/apply:os.system", "1", "1"),
    ],
)
def test_K11_tags_name_types_and_nothing_runs(tag: str, text: str, expected: Any) -> None:
    assert read_tagged(YAML + tag, text, Dialect.RESOURCE) == expected
    assert read_tagged("!foo", "12", Dialect.RESOURCE) == "12"


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("set", "x"),
        ("omap", "x"),
        ("pairs", "x"),
        ("int", "foo"),
        ("int", "1.0"),
        ("int", "true"),
        ("float", "x"),
        ("bool", "1"),
        ("null", "x"),
        ("timestamp", "foo"),
        ("binary", "/w=="),
        ("binary", "%"),
    ],
)
def test_K11_a_tag_that_the_text_does_not_keep_is_refused(tag: str, text: str) -> None:
    with pytest.raises(ScalarError) as refused:
        read_tagged(YAML + tag, text, Dialect.RESOURCE)
    assert refused.value.rule == "tag"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", True),
        ("off", False),
        ("y", True),
        ("N", False),
        ("tRue", "tRue"),
        ("2001-01-01", "2001-01-01"),
        ("010", 8),
        ("1.0", 1),
        ("1__0", 10),
        ("0x_1f", 31),
        ("-0b11", -3),
        ("0xfffffffffffffffffffff", "0xfffffffffffffffffffff"),
        ("5.", 5),
        (".1e5", 10000),
        ("+.5", 0.5),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", -9.223372036854775808e18),
        ("100000000000000016.0", 100000000000000020),
    ],
)
def test_values_and_substituted_text_are_read_as_yaml_1_1(text: str, expected: Any) -> None:
    """spec/kustomize.md 3.7"""
    value = read_plain(text, Dialect.YAML11)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001-12-14 21:59:43", "2001-12-14T21:59:43Z"),
        ("2001-1-2", "2001-01-02T00:00:00Z"),
        ("2001-12-14T21:59:43+00:00", "2001-12-14T21:59:43Z"),
        ("2001-12-14T1:2:3Z", "2001-12-14T01:02:03Z"),
        ("2001-12-14 1:2:3.1234567891", "2001-12-14T01:02:03.123456789Z"),
        ("0999-01-01", "0999-01-01T00:00:00Z"),
        ("2001-13-14", "2001-13-14"),
        ("2001-12-14T21:59:43", "2001-12-14T21:59:43"),
        ("2001-12-14-x", "2001-12-14-x"),
    ],
)
def test_times_in_resource_files_are_written_out(text: str, expected: str) -> None:
    assert read_plain(text, Dialect.RESOURCE) == expected


def test_K14_numbers_without_end_are_refused() -> None:
    for text in ("1" * 401, "-" + "1" * 5000, "1_" * 201):
        with pytest.raises(ScalarError) as refused:
            read_plain(text, Dialect.RESOURCE)
        assert refused.value.rule == "digits"
    assert read_plain("1" * 400, Dialect.RESOURCE) == "1" * 400  # too large for a float, so it stays text
    assert read_plain("1e400", Dialect.RESOURCE) == "1e400"


@pytest.mark.parametrize("text", [".inf", "-.Inf", "+.INF", ".nan", ".NaN"])
def test_K14_infinity_and_nan_are_refused(text: str) -> None:
    for dialect in Dialect:
        with pytest.raises(ScalarError) as refused:
            read_plain(text, dialect)
        assert refused.value.rule == "non-finite"


def test_K13_keys_of_other_types_are_text_only_where_go_makes_them_text() -> None:
    assert [key_text(key, Dialect.YAML11) for key in ("a", 1, True, 1.5, -3)] == ["a", "1", "true", "1.5", "-3"]
    for key in (None, [], {}, 1.8446744073709552e19):
        with pytest.raises(ScalarError, match="keys must be strings"):
            key_text(key, Dialect.YAML11)
    for key in (None, 1, True, 1.5, []):
        with pytest.raises(ScalarError, match="keys must be strings"):
            key_text(key, Dialect.RESOURCE)


@given(st.text(alphabet="0123456789+-._xobeE:naif", max_size=12))
def test_whatever_looks_like_a_number_is_read_or_left_alone(text: str) -> None:
    for dialect in Dialect:
        try:
            value = read_plain(text, dialect)
        except ScalarError:
            assert text.strip("+-.").lower() in {"inf", "nan"}
            continue
        assert value is None or isinstance(value, (str, int, float))
        assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    "text", ["", "yes", "1", "1e3", "0x1", "1:30", "2001-01-01", "~", "- a", "a: b", "a #b", "...", "a ", " a"]
)
def test_text_that_could_be_something_else_needs_quotes(text: str) -> None:
    assert not reads_as_itself(text)


@pytest.mark.parametrize(
    "text", ["a", "app/v1", "a b", "http://x:80/y", "1.2.3", "registry/app:1.0", "yesterday", "a=b", "0.0.0.0/0"]
)
def test_ordinary_text_needs_no_quotes(text: str) -> None:
    assert reads_as_itself(text)
