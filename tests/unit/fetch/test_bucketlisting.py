"""The index of a bucket, and the revision that it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from gitopsd.artifact.ignore import IgnoreError
from gitopsd.artifact.tree import TreeError
from gitopsd.fetch.bucketclient import Entry, Page
from gitopsd.fetch.bucketlisting import BucketIndex, Seen, object_path, read_index
from gitopsd.fetch.errors import RemoteError


def index(**etags: str) -> BucketIndex:
    return BucketIndex({key: Entry(key, etag) for key, etag in etags.items()})


class Pages:
    """A bucket of these pages."""

    def __init__(self, *pages: Sequence[str]) -> None:
        self._pages = pages
        self.asked: list[tuple[str, str]] = []

    async def page(self, prefix: str, token: str) -> Page:
        self.asked.append((prefix, token))
        number = int(token or 0)
        more = str(number + 1) if number + 1 < len(self._pages) else ""
        return Page([Entry(key, f"e-{key}", 1) for key in self._pages[number]], more)

    async def exists(self) -> bool:
        return True

    def get(self, key: str, version: str = "", offset: int = 0) -> Any:
        raise NotImplementedError


def test_s17_6_the_revision_of_an_index() -> None:
    found = BucketIndex({"b/x": Entry("b/x", "e2"), "a": Entry("a", "e1")}).revision("sha256")
    assert found == "sha256:c2ddf57e744daef9c84b61d079e4a7a8ab37acfe31d51a300d9bc25beb8d08f5"


def test_s17_7_the_revision_of_an_empty_index() -> None:
    assert index().revision("sha256") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_s4_2_the_algorithm_is_chosen(algorithm: str) -> None:
    line = b"a e\n"
    assert index(a="e").revision(algorithm) == f"{algorithm}:{hashlib.new(algorithm, line).hexdigest()}"


def test_s9_3_lines_are_sorted_by_the_bytes_of_the_raw_keys() -> None:
    keys = ["Z", "a", "a-b", "a/b", "é", "/a"]
    made = BucketIndex({f"path of {key}": Entry(key, "e") for key in keys})
    lines = "".join(f"{key} e\n" for key in ["/a", "Z", "a", "a-b", "a/b", "é"])
    assert made.revision("sha256") == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


async def test_s9_2_pages_are_read_with_their_tokens_and_judged_by_the_rules() -> None:
    bucket = Pages(["a.txt", "b", "dir/"], [], [".sourceignore", "dir/c", "dir/.sourceignore"])
    found = await read_index(bucket, "pre", b"*.txt\n", "dir/c")
    assert set(found.entries) == {"b", "dir/.sourceignore"}
    assert bucket.asked == [("pre", ""), ("pre", "1"), ("pre", "2")]
    assert found.sourceignore == b"*.txt\n"


async def test_s9_2_rules_that_are_too_long_are_refused() -> None:
    with pytest.raises(IgnoreError):
        await read_index(Pages([]), "", b"x\n" * (1 << 20), None)


async def test_the_same_key_twice_is_one_object() -> None:
    assert len(await read_index(Pages(["a"], ["a", "b"]), "", None, None)) == 2


@pytest.mark.parametrize("key", ["..", "a/../b", "../a", "/", "//", ".", ""])
def test_I01_a_key_that_climbs_or_holds_nothing_has_no_path(key: str) -> None:
    with pytest.raises(TreeError, match=r"^object key '.*' leads out of the bucket$"):
        object_path(key)


def test_what_was_seen_is_known_by_key_and_etag() -> None:
    seen = Seen(index(a="1", b="2").fingerprints)
    assert Entry("a", "1") in seen
    assert Entry("a", "2") not in seen
    assert Entry("c", "1") not in seen
    assert Entry("a", "") not in Seen(BucketIndex({"a": Entry("a", "")}).fingerprints)
    assert Entry("a", "1") not in Seen()
    assert len(index(a="1", b="2").fingerprints) == 32


@pytest.mark.parametrize(("count", "fails"), [(200_000, False), (200_001, True)])
async def test_I03_two_hundred_thousand_objects_are_the_bound(count: int, fails: bool) -> None:
    keys = [f"{number // 1000}/{number}" for number in range(count)]
    bucket = Pages(*(keys[at : at + 50_000] for at in range(0, count, 50_000)))
    if fails:
        with pytest.raises(RemoteError, match=r"^the bucket holds more than 200000 objects$"):
            await read_index(bucket, "", None, None)
    else:
        assert len(await read_index(bucket, "", None, None)) == count


@pytest.mark.parametrize(("size", "fails"), [(1 << 30, False), ((1 << 30) + 1, True), (1 << 60, True)])
async def test_I03_a_gibibyte_is_the_bound(size: int, fails: bool) -> None:
    bucket = Pages()
    bucket.page = lambda *_: _page(Entry("a", "e", size - 7), Entry("b", "e", 7))  # type: ignore[method-assign]
    if fails:
        with pytest.raises(RemoteError, match=r"^the objects hold more than 1073741824 bytes$"):
            await read_index(bucket, "", None, None)
    else:
        assert len(await read_index(bucket, "", None, None)) == 2


async def _page(*entries: Entry) -> Page:
    return Page(list(entries))
