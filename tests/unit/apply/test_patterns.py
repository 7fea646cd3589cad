"""Regular expressions of users: Go's dialect, linear time, bounded size."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.apply.patterns import MAX_PATTERN, PatternError, anywhere, whole


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("", [""], ["a"]),
        ("web", ["web"], ["web2", "aweb"]),
        ("web.*", ["web", "web-1"], ["my-web", "web\n"]),
        ("(?s)a.b", ["a\nb"], ["ab"]),
        ("a|bc|", ["a", "bc", ""], ["ab", "c"]),
        ("(a|b)+", ["a", "abba"], ["", "c"]),
        ("(?:ab)?c", ["c", "abc"], ["bc"]),
        ("(?P<x>a)(?<y>b)", ["ab"], ["a"]),
        ("[a-c]{2,3}", ["ab", "abc"], ["a", "abca"]),
        ("x{2}", ["xx"], ["x", "xxx"]),
        ("x{2,}", ["xx", "xxxx"], ["x"]),
        ("a{,2}", ["a{,2}"], ["aa"]),
        ("[^a-z]", ["A"], ["b", ""]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[[:alpha:]_]+", ["a_B"], ["a1"]),
        ("[[:^digit:]]", ["x"], ["1"]),
        (r"\d+\.\d+", ["1.2"], ["1x2"]),
        (r"\D\W\S", ["a-a"], ["1aa"]),
        (r"[\d\-]+", ["1-2"], ["a"]),
        (r"\x41\x{42}\t", ["AB\t"], ["ab\t"]),
        (r"\Qa.b\E+", ["a.b", "a.bb"], ["aab"]),
        (r"\Qa.b", ["a.b"], ["axb"]),
        ("(?i)Web", ["wEB"], ["wex"]),
        ("(?i:a)b", ["Ab", "ab"], ["AB"]),
        ("(?i)a(?-i)b", ["Ab"], ["AB"]),
        ("(a(?i)b)c", ["aBc"], ["aBC"]),
        ("^web$", ["web"], ["web\n"]),
        (r"\Aweb\z", ["web"], [""]),
        (r"a\b-\Bb?", ["a-"], ["ab", "a-b"]),
        (r"(?m)a$\n^b", ["a\nb"], ["ab"]),
        (r"\pL+\p{Nd}", ["é1"], ["1é"]),
        (r"\PL", ["1"], ["a"]),
        ("a*?b+?", ["aab", "bb"], ["a"]),
        ("(a*)*", ["", "aaa"], ["b"]),
    ],
)
def test_patterns_match_whole_texts_as_go_matches_them(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not whole(pattern)(text)] == []
    assert [text for text in no if whole(pattern)(text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "a)",
        "[",
        "[z-a]",
        "*",
        "a**",
        "a{2}{3}",
        "a{3,2}",
        "a{1001}",
        "(?=a)",
        r"\1",
        r"\k",
        "(?P<>a)",
        "(?P<x",
        "[[:nope:]]",
        r"\p{Martian}",
        r"\xZZ",
        r"\x{110000}",
        "\\",
        "(?z)",
        r"\p{L",
    ],
)
def test_what_go_refuses_or_backtracking_needs_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError):
        whole(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["a" * (MAX_PATTERN + 1), "((a{1000}){1000}){1000}", "(a?){1000}" * 5, "(.?){1000}", "((((){1000}){1000}){1000})"],
)
def test_large_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        whole(pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("(a+)+b", "a" * 5000), ("(a|a)*c", "a" * 5000), ("(.*)*x", "y" * 2000), ("(" * 500 + ")" * 500, "")],
)
def test_patterns_that_explode_elsewhere_are_decided_in_one_pass(pattern: str, text: str) -> None:
    """spec/hostile-inputs.md 1, bound `user regex time`: a backtracking matcher would not return."""
    assert whole(pattern)(text) is (text == "")


@given(
    st.from_regex(r"([ab]|[ab]\*|\([ab]{1,2}(\|[ab])?\)[*+?]?|\[[ab^][ab]\]|\.){0,6}", fullmatch=True),
    st.text("ab", max_size=8),
)
def test_small_patterns_agree_with_the_standard_library(pattern: str, text: str) -> None:
    assert whole(pattern)(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("b", "abc", True),
        ("", "", True),
        ("", "x", True),
        ("^b", "abc", False),
        ("^a|c$", "abc", True),
        ("^$", "x\n", False),
        (".", "\n", False),
        ("b", "a\nb\n", True),
        (r"\Qa.b", "xa.bx", True),
        (r"\Qa.b", "xaXbx", False),
        ("(?i)B", "abc", True),
        ("(?i)x)|(b", "abc", None),
    ],
)
def test_anywhere_finds_what_go_finds(pattern: str, text: str, found: bool | None) -> None:
    if found is None:
        with pytest.raises(PatternError):
            anywhere(pattern)
    else:
        assert anywhere(pattern)(text) is found


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("(?i)^[^k]$", "k", False),
        ("(?i)^[^k]$", "K", False),
        ("(?i)^[^k]$", "\u212a", False),
        ("(?i)^k$", "\u212a", True),
        (r"(?i)^\W$", "s", False),
        (r"(?i)^\w$", "\u00df", False),
        (r"(?i)^\PL$", "\u00df", False),
        (r"(?i)^\p{Greek}$", "\u03a9", True),
        (r"^\101\07?$", "A", True),
        ("^a(?i){0}$", "", True),
        (r"^\\C$", "\\C", True),
        (r"^\Q\C\E$", "\\C", True),
        (r"^\Qa\E\\\Q\C", "a\\\\C", True),
        ("^\ud800?$", "", None),
        ("", "\ud800", True),
        ("^.$", "\ud800", True),
        ("{2}", "{2}", None),
        (r"\1", "", None),
        (r"\C", "a", None),
        (r"a\\\C", "", None),
        (r"\Qa\E\C", "", None),
    ],
)
def test_s6_1_corners_of_the_dialect_are_gos(pattern: str, text: str, found: bool | None) -> None:
    """What Go itself said about them."""
    test_anywhere_finds_what_go_finds(pattern, text, found)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "missing closing )"),
        ("[a", "missing closing ]"),
        ("*", "missing argument to repetition operator"),
        ("a**", "invalid nested repetition operator"),
        ("a{1001}", "invalid repeat count"),
        ("(?=a)", "invalid or unsupported Perl syntax"),
        ("[z-a]", "invalid character class range"),
        (r"\k", "invalid escape sequence"),
        ("a)", "unexpected )"),
    ],
)
def test_what_is_wrong_is_told_in_gos_words(pattern: str, why: str) -> None:
    with pytest.raises(PatternError) as caught:
        whole(pattern)
    assert str(caught.value) == f"error parsing regexp: {why}: `{pattern}`"


def test_s6_1_what_people_write_is_never_too_slow_for_names() -> None:
    pattern = r"^https://github\.com/(acme|other-org)/[\w.-]+/\.github/workflows/.*@refs/(heads/main|tags/v.*)$"
    assert not anywhere(pattern)("https://github.com/acme/" + "x" * 2000)
