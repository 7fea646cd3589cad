from __future__ import annotations

import pytest

from gitopsd.fetch.gitref import GitRef, UnresolvedError, commit_of, known_target, newest_tags, revision
from gitopsd.fetch.gitwire import Ref

C = "c" * 40


def tags(*names: str) -> dict[str, Ref]:
    return {f"refs/tags/{name}": Ref(C) for name in names}


@pytest.mark.parametrize(
    ("fields", "pinned"),
    [
        ({"commit": C}, f"sha1:{C}"),
        ({"commit": C.upper()}, f"sha1:{C}"),
        ({"commit": C, "branch": "main"}, f"main@sha1:{C}"),
        ({"commit": C, "branch": "main", "name": "refs/heads/x"}, f"refs/heads/x@sha1:{C}"),
        ({"branch": "main"}, None),
        ({"name": "refs/heads/main", "tag": "v1"}, None),
    ],
)
def test_s4_2_only_a_commit_is_pinned(fields, pinned):
    """spec/source.md 4.2, 5.3"""
    assert GitRef(**fields).pinned_revision == pinned


@pytest.mark.parametrize("commit", ["main", "c" * 39, "c" * 41, "c" * 64, "../x", "-" * 40])
def test_a_commit_must_be_a_full_hash(commit):
    with pytest.raises(UnresolvedError, match="not a full SHA-1 hash"):
        assert GitRef(commit=commit).pinned_revision


def test_a_revision_is_written_and_read():
    assert revision("main", C) == f"main@sha1:{C}"
    assert commit_of(f"feature/x@sha1:{C}") == C
    assert commit_of(f"sha1:{C}") == C
    assert commit_of("main@sha1:abc") == ""
    assert commit_of("") == ""


def test_what_a_listing_said_can_be_fetched_unless_a_tag_may_be_annotated():
    main = GitRef("main")
    target = known_target(main, f"main@sha1:{C}")
    assert target is not None
    assert (target.commit, target.want) == (C, C)
    assert known_target(main, f"other@sha1:{C}") is None
    assert known_target(main, "nonsense") is None
    assert known_target(GitRef(tag="v1"), f"v1@sha1:{C}") is None
    assert known_target(GitRef(semver="1.x"), f"v1@sha1:{C}") is None
    assert known_target(GitRef(name="refs/tags/v1"), f"refs/tags/v1@sha1:{C}") is None
    assert known_target(GitRef(name="refs/pull/1/head"), f"refs/pull/1/head@sha1:{C}") is not None


@pytest.mark.parametrize(
    ("wanted", "found", "names"),
    [
        ("1.x", ["v1.2.0", "1.10.0", "v2.0.0", "v1.9.9"], ["1.10.0"]),
        (">=1.0.0", ["v1.0.0", "v1.1.0-rc.1"], ["v1.0.0"]),
        (">=1.0.0-0", ["v1.0.0", "v1.1.0-rc.1"], ["v1.1.0-rc.1"]),
        (">=1.0.0", ["1.0", "1", "latest", "01.2.3"], ["01.2.3"]),
        (">=1.0.0", ["v1.0.0+b", "v1.0.0+a", "v0.9.0"], ["v1.0.0+a", "v1.0.0+b"]),
        (">=1.0.0", ["1.0.0", "v1.0.0"], ["1.0.0", "v1.0.0"]),
    ],
)
def test_s5_3_the_newest_tags_of_a_range_are_found(wanted, found, names):
    """spec/source.md 5.3, 17 rows 8-10"""
    assert list(newest_tags(wanted, tags(*found))) == [f"refs/tags/{name}" for name in names]


@pytest.mark.parametrize("wanted", [">>1", ">=1 <", "", "~>~1", "1.x " * 2600])
def test_A25_a_range_that_cannot_be_read_is_refused(wanted):
    with pytest.raises(UnresolvedError, match="semver parse error"):
        newest_tags(wanted, tags("v1.0.0"))


def test_A24_a_range_that_nothing_matches_is_named():
    with pytest.raises(UnresolvedError, match=r"no match found for semver: >=9\.0\.0"):
        newest_tags(">=9.0.0", tags("v1.0.0", "latest"))
