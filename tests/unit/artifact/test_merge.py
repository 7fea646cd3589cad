from __future__ import annotations

import pytest

from gitopsd.artifact.merge import Overlay, OverlayError, PlaceError, merge, place
from gitopsd.artifact.tree import FileTree, TreeError, TreeLimits

BASE = FileTree.build({"a.yaml": b"a", "dir/b.yaml": b"b"}, directories=["empty"])
LIB = FileTree.build({"base/l.yaml": b"l", "base/run.sh": b"run", "o.yaml": b"o"}, ["base/run.sh"], ["base/none"])


def merged(*overlays, base=BASE, **more):
    return merge(base, [Overlay(LIB, source, target) for source, target in overlays], **more)


def refused(*overlays, base=BASE):
    with pytest.raises(OverlayError) as caught:
        merged(*overlays, base=base)
    return caught.value


def test_s5_5_a_tree_is_laid_under_its_place():
    found = merged(("", "lib"))
    assert dict(found) == {
        "a.yaml": b"a",
        "dir/b.yaml": b"b",
        "lib/base/l.yaml": b"l",
        "lib/base/run.sh": b"run",
        "lib/o.yaml": b"o",
    }
    assert found.directories() == {"dir", "empty", "lib", "lib/base", "lib/base/none"}
    assert [path for path in found if found.is_executable(path)] == ["lib/base/run.sh"]


def test_s5_5_a_part_is_laid_and_its_parents_are_made():
    found = merged(("base", "vendor/x"), base=FileTree.build({}))
    assert list(found) == ["vendor/x/l.yaml", "vendor/x/run.sh"]
    assert found.directories() == {"vendor", "vendor/x", "vendor/x/none"}


def test_s5_5_a_prefix_of_a_name_is_not_a_directory():
    assert "there is no 'bas'" in str(refused(("bas", "x")))
    other = FileTree.build({"base-old/x": b"", "base/y": b""})
    assert list(merge(FileTree.build({}), [Overlay(other, "base", "z")])) == ["z/y"]


def test_s5_5_a_file_may_be_laid_alone():
    assert merged(("o.yaml", "vendor/p.yaml"))["vendor/p.yaml"] == b"o"


@pytest.mark.parametrize("target", [".", "/", "./", "x/.."])
def test_s5_5_the_root_may_be_the_place(target):
    assert list(merged(("base", target))) == ["a.yaml", "dir/b.yaml", "l.yaml", "run.sh"]


def test_s5_5_later_ones_win_over_earlier_ones_file_by_file():
    other = FileTree.build({"base/l.yaml": b"other", "new": b"n"})
    overlays = [Overlay(LIB, "", "lib"), Overlay(other, "", "lib"), Overlay(LIB, "base", "dir")]
    found = merge(BASE, overlays)
    assert found["lib/base/l.yaml"] == b"other"
    assert found["lib/base/run.sh"] == b"run"
    assert found["lib/new"] == b"n"
    assert found["dir/b.yaml"] == b"b"
    assert merge(BASE, [overlays[1], overlays[0]])["lib/base/l.yaml"] == b"l"


def test_s5_5_what_goes_in_stays_as_it_is():
    before = BASE.digest, LIB.digest
    merged(("base", "dir"), ("", "."))
    assert (BASE.digest, LIB.digest) == before
    assert merge(BASE, []) is BASE


def test_s5_5_the_outcome_is_that_of_a_tree_built_at_once():
    whole = FileTree.build({"a.yaml": b"a", "dir/b.yaml": b"b", "x/o.yaml": b"o"}, directories=["empty"])
    assert merged(("o.yaml", "x/o.yaml")).digest == whole.digest


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b", "a/b"), ("/a//b/", "a/b"), ("./a/./b", "a/b"), ("a/../b", "b"), ("a/b/../..", ""), ("", ""), ("/", "")],
)
def test_s5_5_paths_are_joined_safely(path, expected):
    assert place(path) == expected


@pytest.mark.parametrize("path", ["..", "../x", "../../x", "/..", "a/../../x", "./../x"])
def test_A40_paths_that_lead_out_are_refused(path):
    with pytest.raises(PlaceError, match="leads out of the tree"):
        place(path)
    for overlay in ((path, "x"), ("", path)):
        error = refused(("", "fine"), overlay)
        assert (error.number, error.is_misplaced) == (1, True)


def test_s13_names_with_other_signs_are_plain_names():
    assert next(iter(merged(("o.yaml", "..\\x")))) == "..\\x"
    assert next(iter(merged(("o.yaml", "...")))) == "..."


@pytest.mark.parametrize(
    ("overlay", "text"),
    [
        (("base", "a.yaml"), "a directory cannot take the place of file 'a.yaml'"),
        (("base", "a.yaml/x"), "a directory cannot take the place of file 'a.yaml'"),
        (("o.yaml", "dir"), "a file cannot take the place of directory 'dir'"),
        (("o.yaml", "."), "a file cannot take the place of directory '.'"),
        (("o.yaml", "a.yaml/x"), "a directory cannot take the place of file 'a.yaml'"),
        (("nope", "x"), "there is no 'nope' in it"),
        (("o.yaml/x", "x"), "there is no 'o.yaml/x' in it"),
    ],
)
def test_s5_5_what_does_not_fit_is_named(overlay, text):
    error = refused(overlay)
    assert (str(error), error.number, error.is_misplaced) == (text, 0, False)


def test_s13_the_whole_is_bounded():
    with pytest.raises(TreeError, match="more than 3 files"):
        merged(("", "lib"), limits=TreeLimits(files=3))
    with pytest.raises(TreeError, match="more than 6 files"):
        merged(*[("", "lib")] * 9, limits=TreeLimits(files=6))
    assert len(merged(*[("", "lib")] * 8, limits=TreeLimits(files=6))) == 5
    with pytest.raises(TreeError, match="longer than"):
        merged(("", "x/" * 3000))
