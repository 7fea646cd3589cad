"""Versions and ranges as Masterminds reads them (spec/source.md 17, rows 8 to 11)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.versions import Range, Version, VersionError

_NUMBERS = st.integers(0, 30)
_VERSIONS = st.builds(
    lambda numbers, pre: ".".join(map(str, numbers)) + (f"-{pre}" if pre else ""),
    st.tuples(_NUMBERS, _NUMBERS, _NUMBERS),
    st.sampled_from(["", "", "rc.1", "alpha", "0"]),
)


@pytest.mark.parametrize("text", ["v1.2.3", "1.2.3+b", "01.2.3", "v2025.02.03-rc.1", "1.0", "1"])
def test_s17_8_what_is_a_version(text: str) -> None:
    """spec/source.md 17.8; that a Git tag needs three parts is the fetcher's rule"""
    Version(text)


@pytest.mark.parametrize(
    "text",
    [
        *("latest", "", "v", "1.2.3.4", "1.2.3-", "1.2.3-a..b", "1." + "9" * 300, "١.2.3", "1.2.3\n"),
        *("1.2.3-rc.01", "1.2.3-00", "1.2.3+", "18446744073709551616", "1.2.3-" + "a" * 251),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(VersionError):
        Version(text)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (">=1.0.0-0", "1.2.3-rc.1"),
        ("1.x", "1.9.0"),
        ("~1.2", "1.2.9"),
        ("1.2", "1.2.7"),
        ("1", "1.9.9"),
        (">=1.0.0 <2.0.0", "1.5.0"),
        (">=1.0.0, <2.0.0", "1.5.0"),
        ("1.2.3 - 1.4.0", "1.4.0"),
        ("1.0.0 || 2.0.0", "2.0.0"),
        ("=1.2.3", "1.2.3+build"),
        ("*", "1.2.3"),
        ("x", "0.0.1"),
        (">= 1.2", "1.2.0"),
        ("^1.2.3", "1.9.0"),
        ("^0.2.3", "0.2.9"),
        ("^0.0.3", "0.0.3"),
        ("^0", "0.9.0"),
        ("!=1.2.3", "1.2.4"),
        ("!=1.2.x", "1.3.0"),
        (">1", "2.0.0"),
        ("<=1.2", "1.2.9"),
        ("~>1.2.3", "1.2.4"),
        (">=1.0.0-0 <2.0.0", "1.2.3-rc.1"),
        ("v1.2.3", "1.2.3"),
        # What no manual says; each was asked of the Go library.
        ("*-0", "1.2.3-rc.1"),
        ("!=*", "1.2.3"),
        ("!=1.2.x-rc.1", "1.2.3"),
        (">*", "0.0.1"),
        ("<=x", "0.0.9"),
        ("~0.0.0", "9.9.9"),
        ("x.1x", "4.5.6"),
        ("1.2.3 - 1.4", "1.4.9"),
        (">=1.0.0 , <2.0.0", "1.5.0"),
        ("=>1", "1.0.0"),
        ("1.2.3-rc.1 || 2", "1.2.3-rc.1"),
    ],
)
def test_s17_9_a_range_matches(wanted: str, found: str) -> None:
    """spec/source.md 17.9"""
    assert Range(wanted).matches(Version(found))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("*", "1.2.3-rc.1"),
        (">=1.0.0", "1.2.3-rc.1"),
        ("~1.2", "1.3.0"),
        ("^0.2.3", "0.3.0"),
        ("^0.0.3", "0.0.4"),
        ("^1.2.3", "2.0.0"),
        (">1", "1.9.0"),
        ("<=1.2", "1.3.0"),
        ("!=1.2.x", "1.2.9"),
        ("1.2.3 - 1.4.0", "1.4.1"),
        (">=1.0.0 <2.0.0", "2.0.0"),
        ("<=*", "0.2.3"),
        ("^*", "1.0.0"),
        ("!=*", "0.0.0"),
        ("1.2.3-rc.1 || 2", "2.0.0-rc.1"),
        ("^0.0", "0.1.0"),
    ],
)
def test_s17_10_a_range_does_not_match(wanted: str, found: str) -> None:
    """spec/source.md 17.10"""
    assert not Range(wanted).matches(Version(found))


@pytest.mark.parametrize("text", ["", "  ", "latest", "1.2.3 ||", ">=", "1.2.3 foo", ">==1", "1.2.3;2", "1" * 300])
def test_s17_10_what_is_no_range(text: str) -> None:
    """spec/source.md 17.10: the empty string is an error"""
    with pytest.raises(VersionError):
        Range(text)


def test_s17_11_build_metadata_can_be_set_and_never_counts() -> None:
    """spec/source.md 17.11"""
    changed = Version("v6.0.3+old").with_build("4e5cbb7b97d0.2")
    assert str(changed) == "6.0.3+4e5cbb7b97d0.2"
    assert changed == Version("6.0.3")


def test_the_order_is_that_of_semver_rule_11() -> None:
    texts = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    versions = [Version(text) for text in texts]
    assert all(one < other for one, other in pairwise(versions))
    assert len(set(versions)) == len(versions)


@given(_VERSIONS, _VERSIONS)
def test_comparisons_agree_with_ranges(one: str, other: str) -> None:
    """`a <op> b` in a range says what the order says, for versions without pre-release."""
    left, right = Version(one), Version(other)
    if left.prerelease:
        return
    assert Range(f">={other}").matches(left) == (left >= right)
    assert Range(f"<{other}").matches(left) == (left < right)
    assert Range(f"={other}").matches(left) == (left == right)
    assert Range(f"!={other}").matches(left) == (left != right)


@given(st.text("0123456789.xX*<>=!~^|, -+v", max_size=24))
def test_any_text_is_a_range_or_an_error(text: str) -> None:
    try:
        wanted = Range(text)
    except VersionError:
        return
    wanted.matches(Version("1.2.3"))
