from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.artifact import ignore as ignore_module
from gitopsd.artifact.ignore import IgnoreError, apply_ignore, ignore_matcher
from gitopsd.artifact.tree import FileTree, TreeError

VECTOR = {
    "a.txt": b"a\n",
    "a.yaml": b"",
    "deploy/x.yaml": b"",
    "deploy/img.png": b"",
    "img.png": b"",
    ".git/HEAD": b"",
    ".gitignore": b"",
    ".github/w.yaml": b"",
    "sub/.sops.yaml": b"",
}


def kept(spec_ignore: str | None, files: dict[str, bytes] | None = None) -> set[str]:
    return set(apply_ignore(FileTree.build(VECTOR if files is None else files), spec_ignore))


def ignored(rules: str, path: str, *, is_directory: bool = False) -> bool:
    return ignore_matcher(rules, {}, defaults=False)(path, is_directory)


@pytest.mark.parametrize("spec_ignore", [None, "", "# c", "\n \n# c\n", "\r\n"])
def test_s17_3_without_any_pattern_the_default_list_counts(spec_ignore: str | None) -> None:
    """spec/source.md 17, vector 3"""
    assert kept(spec_ignore) == {"a.txt", "a.yaml", "deploy/x.yaml"}


def test_s17_4_one_pattern_switches_the_default_list_off_but_not_the_version_control_list() -> None:
    """spec/source.md 17, vector 4"""
    assert kept("*.txt") == {"a.yaml", "deploy/x.yaml", "deploy/img.png", "img.png", ".github/w.yaml", "sub/.sops.yaml"}


def test_s17_5_all_but_one_directory() -> None:
    """spec/source.md 17, vector 5"""
    tree = apply_ignore(FileTree.build(VECTOR), "/*\n!/deploy\n")
    assert set(tree) == {"deploy/x.yaml", "deploy/img.png"}
    assert tree.directories() == {"deploy"}


def test_s4_4_a_pattern_in_a_nested_file_switches_the_default_list_off_too() -> None:
    files = VECTOR | {"sub/.sourceignore": b"nothing\n"}
    assert kept("", files) == set(files) - {".git/HEAD", ".gitignore"}


def test_s4_4_rules_of_directories_are_scoped_and_the_spec_comes_last() -> None:
    files = {
        ".sourceignore": b"*.md\nsub/\n",
        "a.md": b"",
        "b.md": b"",
        "sub/c": b"",
        "x/.sourceignore": b"/y\n!z.md\n",
        "x/y": b"",
        "x/z.md": b"",
        "y": b"",
    }
    assert kept("!b.md\n", files) == {".sourceignore", "b.md", "x/.sourceignore", "x/z.md", "y"}


def test_s4_4_rules_below_a_git_directory_do_not_count() -> None:
    files = {".git/.sourceignore": b"*\n", "a/.git/.sourceignore": b"*\n", "x.png": b"", "x": b""}
    assert kept("!/a\n", files) == {"a/.git/.sourceignore", "x", "x.png"}
    assert kept(None, files) == {"x"}


def test_s4_4_the_version_control_list_can_be_overruled() -> None:
    assert ".gitignore" in kept("!.gitignore")


def test_s9_2_buckets_have_no_lists_of_their_own() -> None:
    """spec/source.md 9.2"""
    matcher = ignore_matcher(None, {}, defaults=False)
    assert not matcher(".git/HEAD", False)
    assert not matcher("x.png", False)


def test_s4_4_empty_directories_stay_and_excluded_ones_go() -> None:
    tree = FileTree.build({"a/x.txt": b"", "b/x.txt": b""}, directories=["c", "d"])
    left = apply_ignore(tree, "*.txt\nb/\n/d\n")
    assert (set(left), left.directories()) == (set(), {"a", "c"})


def test_nothing_ignored_is_the_same_tree() -> None:
    tree = FileTree.build({"a": b""}, ["a"])
    assert apply_ignore(tree, "b") is tree


def test_what_is_kept_keeps_its_executable_bit() -> None:
    tree = apply_ignore(FileTree.build({"a": b"1", "b": b"2", "c": b"3"}, ["b"]), "a")
    assert (tree.is_executable("b"), tree.is_executable("c")) == (True, False)


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("a", "x/a/y", True),
        ("a/", "a", False),
        ("a/", "a/b", True),
        ("a/", "x/a/b", True),
        ("/a", "x/a", False),
        ("/a", "a/x", True),
        ("a/b", "x/a/b", False),
        ("a/b", "a/b/c", True),
        ("**/b", "x/y/b", True),
        ("**/b", "b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b/z", True),
        ("a/**", "a/x", True),
        ("a**b/c", "axb/c", False),
        ("a**b", "axxb", True),
        ("**", "x/y", True),
        ("/**", "x", False),
        ("/", "x", False),
        ("!", "x", False),
        ("*.txt\n!b.txt", "b.txt", False),
        ("/x\n!/x/y", "x/y", False),
        ("!x\nx", "x", True),
        ("?.x", "é.x", True),
        ("?.x", "ab.x", False),
        ("[a-c]", "b", True),
        ("[^a-c]", "b", False),
        ("[b-a]", "a", False),
        ("[\\]]", "]", True),
        ("[", "[", False),
        ("[a", "a", False),
        ("[]a]", "a", False),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("\\#a", "#a", True),
        ("\\!a", "!a", True),
        ("#a", "#a", False),
        ("a ", "a", True),
        ("a\\ ", "a ", True),
        ("a\r", "a", True),
        ("a\\", "a", False),
    ],
)
def test_s4_4_patterns_match_as_go_git_matches_them(rules: str, path: str, expected: bool) -> None:
    """spec/source.md 4.4; each line was compared with the Go library."""
    assert ignored(rules, path) is expected


def test_s4_4_a_directory_pattern_needs_a_directory() -> None:
    assert ignored("a/", "a", is_directory=True)
    assert ignored("x/**/a/", "x/a", is_directory=True)
    assert not ignored("x/**/a/", "x/a")


def glob_by_definition(pattern: str, name: str) -> bool:
    """`*` and `?` by trying every split: slow, and plainly right."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob_by_definition(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in {"?", name[0]} and glob_by_definition(pattern[1:], name[1:])


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab*?", min_size=1, max_size=7), st.text(alphabet="ab", min_size=1, max_size=7))
def test_s4_4_wildcards_mean_what_they_always_mean(pattern: str, name: str) -> None:
    assert ignored(pattern, name) is glob_by_definition(pattern, name)


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="ab*?[]^\\-!#/ \n\udcff", max_size=30),
    st.lists(st.sampled_from(["a", "b", "ab", "]", "\udcff"]), min_size=1, max_size=3),
)
def test_any_rules_and_any_path_give_an_answer(rules: str, parts: list[str]) -> None:
    assert ignored(rules, "/".join(parts)) in {True, False}


def trials(rules: str, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many patterns are tried, found by the smallest bound that lets the rules pass."""
    low, high = 0, 1 << 24
    while low < high:
        middle = (low + high) // 2
        monkeypatch.setattr(ignore_module, "MAX_TRIALS", middle)
        matcher = ignore_matcher(rules, {}, defaults=False)
        try:
            for path in paths:
                matcher(path, False)
        except IgnoreError:
            low = middle + 1
        else:
            high = middle
    return low


def test_C09_a_hundred_thousand_names_are_looked_up_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (
        "\n".join(f"n{number}" for number in range(100_000))
        + "\n"
        + "\n".join(f"/r{number}/x" for number in range(1000))
    )
    matcher = ignore_matcher(rules, {})
    assert matcher("a/n99999", False)
    assert not matcher("a/b", False)
    few = "\n".join(f"n{number}\n/r{number}/x" for number in range(50))
    assert trials(few, ["a/b", "r1/y"], monkeypatch) <= 2


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        ("**/" * 200 + "x", "a/" * 100 + "y"),
        ("**/a/" * 100 + "x", "a/" * 100 + "y"),
        ("a*" * 4000 + "b", "a" * 255),
        ("*a?" * 60 + "b", "a" * 255),
        ("/" * 1_000_000, "a"),
    ],
)
def test_C09_no_pattern_takes_more_than_linear_time(rules: str, path: str) -> None:
    assert ignored(rules, path) is False  # an exponential matcher would not come back before the test's time limit


def test_C09_too_many_patterns_for_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignore_module, "MAX_TRIALS", 100)
    matcher = ignore_matcher("\n".join(f"a{number}*" for number in range(60)), {})
    assert not matcher("x", False)
    with pytest.raises(IgnoreError, match="too many"):
        matcher("y", False)
    monkeypatch.setattr(ignore_module, "MAX_EXPRESSIONS", 2)
    assert ignore_matcher("a*b*c\nd?\n", {})("axbxc", False)
    with pytest.raises(IgnoreError, match="more than 2"):
        ignore_matcher("a*b*c\nd?\ne?\n", {})


def test_C09_rules_are_bounded_at_a_mebibyte() -> None:
    at_bound = b"#" * (1 << 20)
    assert ignore_matcher("", {"": at_bound})
    with pytest.raises(IgnoreError):
        ignore_matcher("", {"": at_bound, "a": b"#"})
    with pytest.raises(TreeError, match=r"'a/\.sourceignore' is longer"):
        apply_ignore(FileTree.build({"a/.sourceignore": at_bound + b"#"}), None)


def test_C09_rules_that_are_not_utf_8_match_names_that_are_not() -> None:
    files = {".sourceignore": b"\xff*\n", "\udcffx": b"", "x": b""}
    assert kept(None, files) == {".sourceignore", "x"}


def test_C10_everything_may_be_ignored() -> None:
    tree = apply_ignore(FileTree.build(VECTOR), "*")
    assert (len(tree), tree.directories()) == (0, frozenset())
    assert tree.tar() == FileTree.build({}).tar()
