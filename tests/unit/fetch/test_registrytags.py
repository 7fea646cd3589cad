"""Which tag a range means."""

from __future__ import annotations

import pytest

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.registrytags import newest_tag

TAGS = ["latest", "1", "1.0", "1.0.0", "v1.2.0", "1.3.0-rc.1", "2.0.0", "1.9.9-arm64", "sha256-" + "a" * 64]


@pytest.mark.parametrize(
    ("wanted", "pattern", "tag"),
    [
        ("^1.0.0", "", "v1.2.0"),
        ("*", "", "2.0.0"),
        ("1.x", "", "v1.2.0"),
        (">=1.0.0-0 <2.0.0-0", "", "1.9.9-arm64"),
        (">=1.0.0-0", "rc", "1.3.0-rc.1"),
        (">=0.0.0-0", "^1.*-rc", "1.3.0-rc.1"),
        (">=0.0.0-0", "-(rc|arm64)", "1.9.9-arm64"),
        ("1.0", "", "1.0.0"),
        ("1.0.0 - 1.2", "", "v1.2.0"),
        ("=2.0.0", "0$", "2.0.0"),
    ],
)
def test_s6_3_the_highest_tag_in_the_range_that_the_filter_finds(wanted: str, pattern: str, tag: str) -> None:
    assert newest_tag(TAGS, wanted, pattern) == tag
    assert newest_tag(reversed(TAGS), wanted, pattern) == tag


@pytest.mark.parametrize(
    ("wanted", "pattern", "text"),
    [
        ("^3.0.0", "", "no match found for semver: ^3.0.0"),
        ("^1.0.0", "nothing", "no match found for semver: ^1.0.0"),
        ("", "", "improper constraint"),
        ("one", "", "improper constraint"),
        ("1.x", "(", "error parsing regexp: missing closing )"),
        ("1.x", "a)|(b", ""),
        ("1.x", r"(a)\1", ""),
    ],
)
def test_s6_3_no_tag_is_told_why(wanted: str, pattern: str, text: str) -> None:
    with pytest.raises(RemoteError) as caught:
        newest_tag(TAGS, wanted, pattern)
    assert text in caught.value.message


@pytest.mark.parametrize("tag", ["v1.2.3", "1.2.3_b", "01.2.3", "v2025.02.03-rc.1"])
def test_s17_8_three_parts_are_a_version(tag: str) -> None:
    assert newest_tag([tag], ">=0.0.0-0", underscores=True) == tag


@pytest.mark.parametrize("tag", ["1.0", "1", "latest"])
def test_s17_8_less_is_none(tag: str) -> None:
    with pytest.raises(RemoteError, match="no match found"):
        newest_tag([tag], ">=0.0.0-0")


def test_s6_3_in_tags_of_charts_an_underscore_is_a_plus() -> None:
    tags = ["1.0.0_b1", "1.1.0_b2", "1.2.0-rc.1_b3"]
    assert newest_tag(tags, "1.x", underscores=True) == "1.1.0_b2"
    with pytest.raises(RemoteError, match="no match found"):
        newest_tag(tags, "1.x")


def test_tags_of_one_version_are_chosen_the_same_way_every_time() -> None:
    tags = ["1.0.0", "v1.0.0", "1.0.0_a", "1.0.0_b"]
    found = {newest_tag(order, "1.x", underscores=True) for order in (tags, tags[::-1], sorted(tags))}
    assert found == {"v1.0.0"}


def test_a_hostile_filter_ends_in_time() -> None:
    tags = [f"1.0.{n}" for n in range(2000)]
    with pytest.raises(RemoteError):
        newest_tag(tags, "1.x", "(((a|1)+)+)+x" + "(.{0,30}){0,30}")


def test_P15_a_filter_that_explodes_elsewhere_is_decided_at_once() -> None:
    tags = ["1.0.0-" + "a" * 120] * 100
    for pattern in ("(a+)+$x", "(.?){300}y", "(a|a)*b"):
        with pytest.raises(RemoteError, match="no match found"):
            newest_tag(tags, ">=0.0.0-0", pattern)


def test_s6_1_a_filter_may_quote_to_its_end() -> None:
    assert newest_tag(TAGS, ">=0.0.0-0", r"\Q3.0-rc.") == "1.3.0-rc.1"
