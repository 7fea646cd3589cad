from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from pathlib import Path

import pytest

from gitopsd import metrics
from gitopsd.fetch import gitcache
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitcache import Kept, ObjectCache, SpoiledError
from gitopsd.fetch.gitobjects import BLOB, COMMIT, TREE
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import PackLimits, Stop
from gitopsd.fetch.gitview import is_whole, laid_over
from tests.packs import HASH_DELTA, Item, commit, copy, delta, insert, object_hash, pack, tree

STOP = Stop(math.inf)
LIMITS = PackLimits(cached_bytes=1 << 16)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class History:
    """Commits of a repository with many files, of which each changes one; packs as a server would send them."""

    def __init__(self, files: int = 20, size: int = 400) -> None:
        self.contents = [hashlib.sha256(b"%d" % number).hexdigest().encode() * (size // 64) for number in range(files)]
        self.commits: list[str] = []
        self._number = 0

    def _top(self) -> list[Item]:
        entries = [(b"100644", b"f%04d" % at, object_hash(BLOB, one)) for at, one in enumerate(self.contents)]
        listed = tree(*entries)
        made = commit(object_hash(TREE, listed), message=b"%d\n" % self._number)
        self._number += 1
        self.commits.append(object_hash(COMMIT, made))
        return [Item(COMMIT, made), Item(TREE, listed)]

    def full(self) -> bytes:
        return pack([*self._top(), *(Item(BLOB, content) for content in dict.fromkeys(self.contents))])

    def update(self, at: int = 0) -> bytes:
        """One file grows by a word; its new content is a delta against the old one, which is not in the pack."""
        old = self.contents[at]
        new = old + b" and more"
        self.contents[at] = new
        change = delta(len(old), len(new), copy(0, len(old)), insert(b" and more"))
        thin = Item(HASH_DELTA, change, base=bytes.fromhex(object_hash(BLOB, old)))
        return pack([*self._top(), thin])


def read(data: bytes, outside: Kept | None = None) -> Pack:
    return Pack(data, LIMITS, STOP, outside=outside)


def keep(cache: ObjectCache, data: bytes, name: str, key: str = "a") -> None:
    kept = cache.open(key, STOP)
    found = read(data, kept)
    cache.keep(key, found, (name, name), STOP, base=kept)
    if kept is not None:
        kept.close()


def check(cache: ObjectCache, history: History, key: str = "a") -> None:
    """Everything of the latest commit is there and right."""
    kept = cache.open(key, STOP)
    assert kept is not None
    assert kept.holds(history.commits[-1])
    assert is_whole(kept, history.commits[-1], STOP)
    for content in history.contents:
        assert kept.get(bytes.fromhex(object_hash(BLOB, content))) == (BLOB, content)
    kept.close()


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "kept", limits=LIMITS)


def files(cache: ObjectCache) -> list[Path]:
    return list(cache._folder.iterdir()) if cache._folder.is_dir() else []


def test_s15_4_what_was_kept_is_what_came(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    check(cache, history)
    assert cache.open("b", STOP) is None


def test_s15_4_updates_are_laid_on_each_other_and_nothing_is_read_from_the_wire_again(cache):
    history, before = History(), descriptors()
    keep(cache, history.full(), history.commits[-1])
    for number in range(5):
        keep(cache, history.update(number % 2), history.commits[-1])
        check(cache, history)
    kept = cache.open("a", STOP)
    assert kept.haves == tuple(reversed(history.commits))
    kept.close()
    assert descriptors() == before


def test_s15_4_a_pile_that_has_grown_high_is_written_anew_and_stays_small(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    first = cache.size
    for number in range(60):
        keep(cache, history.update(number % 20), history.commits[-1])
        assert len(files(cache)) <= gitcache._MOST_PACKS
    check(cache, history)
    assert cache.size < 6 * first
    assert sum(path.stat().st_size for path in files(cache)) == cache.size
    kept = cache.open("a", STOP)
    assert kept.haves[0] == history.commits[-1]
    assert len(kept.haves) == gitcache._MOST_TIPS
    for one in kept.haves:
        assert is_whole(kept, one, STOP)
    kept.close()


def test_s15_4_memory_holds_names_and_numbers_only(cache):
    history = History(files=500, size=2000)
    keep(cache, history.full(), history.commits[-1])
    assert not [value for value in vars(cache._piles["a"]).values() if isinstance(value, bytes | bytearray | Pack)]
    assert len(repr(cache._piles["a"])) < 1000


def test_the_oldest_makes_room_and_a_budget_is_kept(tmp_path):
    history = History()
    whole = history.full()
    cache = ObjectCache(tmp_path / "kept", budget=3 * (len(whole) + 2000), limits=LIMITS)
    for key in "abcdefgh":
        keep(cache, whole, history.commits[0], key)
        assert sum(path.stat().st_size for path in files(cache)) == cache.size <= cache._budget
        check(cache, history, key)
    assert cache.open("a", STOP) is None
    used = cache.open("g", STOP)
    used.close()
    keep(cache, whole, history.commits[0], "i")
    keep(cache, whole, history.commits[0], "j")
    check(cache, history, "g")


def test_what_is_larger_than_the_budget_is_not_kept(tmp_path):
    history = History()
    cache = ObjectCache(tmp_path / "kept", budget=1000, limits=LIMITS)
    keep(cache, history.full(), history.commits[0])
    assert cache.open("a", STOP) is None
    assert files(cache) == []


def test_T50_most_of_the_disk_is_left_to_others(cache, monkeypatch):
    history = History()
    whole = history.full()

    class Full:
        f_bavail, f_frsize = 10 * len(whole) // 4096, 4096

    monkeypatch.setattr(gitcache.os, "statvfs", lambda _: Full)
    keep(cache, whole, history.commits[0], "a")
    check(cache, history, "a")
    keep(cache, whole, history.commits[0], "b")
    keep(cache, whole, history.commits[0], "c")
    assert cache.size <= cache._allowance()
    Full.f_bavail = 0
    keep(cache, whole, history.commits[0], "d")
    assert cache.open("d", STOP) is None


def test_T50_a_disk_that_fails_costs_the_copy_and_nothing_else(cache, monkeypatch):
    history = History()
    keep(cache, history.full(), history.commits[0])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gitcache, "write_pack", full)
    keep(cache, history.update(), history.commits[-1])
    assert cache.open("a", STOP) is None
    assert files(cache) == []


@pytest.mark.parametrize("at", range(20))
def test_T82_a_flipped_bit_on_disk_is_found_and_everything_of_the_repository_forgotten(cache, at):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    keep(cache, history.update(), history.commits[-1])
    for path in files(cache):
        data = bytearray(path.read_bytes())
        data[len(data) * at // 20] ^= 1 << at % 8
        path.write_bytes(data)
    kept = cache.open("a", STOP)
    right = {bytes.fromhex(object_hash(BLOB, content)): content for content in history.contents}
    for name, content in right.items():
        if kept is None:
            break
        try:
            assert kept.get(name) == (BLOB, content)
        except SpoiledError:
            assert cache.open("a", STOP) is None
            assert files(cache) == []
            break
    if kept is not None:
        kept.close()


def test_T82_files_that_went_away_or_shrank_are_as_good_as_nothing_kept(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    (path,) = files(cache)
    os.truncate(path, path.stat().st_size - 1)
    assert cache.open("a", STOP) is None
    keep(cache, history.full(), history.commits[-1])
    (path,) = files(cache)
    path.unlink()
    assert cache.open("a", STOP) is None
    keep(cache, history.full(), history.commits[-1])
    check(cache, history)


def test_T10_what_a_dead_process_left_is_swept_before_anything_is_kept(tmp_path):
    old = History()
    keep(ObjectCache(tmp_path / "kept", limits=LIMITS), old.full(), old.commits[0])
    cache = ObjectCache(tmp_path / "kept", limits=LIMITS)
    cache.sweep()
    assert files(cache) == []
    keep(cache, old.full(), old.commits[-1])
    cache.sweep()
    check(cache, old)


def test_what_nobody_uses_any_more_leaves_no_file(cache):
    history, before = History(), metrics.git_kept._value.get
    keep(cache, history.full(), history.commits[-1])
    keep(cache, history.full(), history.commits[-1], "b")
    assert before() == cache.size > 0
    cache.forget("a")
    check(cache, history, "b")
    cache.clear()
    assert not cache._folder.exists()
    assert before() == 0


def test_names_of_files_tell_nothing_and_are_not_served(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1], "https://user:secret@example.com")
    assert all(path.name.startswith(".") and "secret" not in path.name for path in files(cache))
    assert cache._folder.stat().st_mode & 0o077 == 0


def test_an_update_of_a_pile_that_was_replaced_meanwhile_is_dropped(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    kept = cache.open("a", STOP)
    update = read(history.update(), kept)
    cache.forget("a")
    cache.keep("a", update, (history.commits[-1],) * 2, STOP, base=kept)
    kept.close()
    found = cache.open("a", STOP)
    assert found is None or not found.holds(history.commits[-1])


def test_threads_at_once_do_not_disturb_each_other(cache):
    history = History()
    whole = history.full()
    failures: list[Exception] = []

    def work(key: str) -> None:
        try:
            for _ in range(15):
                keep(cache, whole, history.commits[0], key)
                kept = cache.open(key, STOP)
                if kept is not None:
                    kept.get(bytes.fromhex(history.commits[0]))
                    kept.close()
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check(cache, history)
    assert sum(path.stat().st_size for path in files(cache)) == cache.size


# -- updates as they come


def opened(cache: ObjectCache, history: History) -> Kept:
    keep(cache, history.full(), history.commits[-1])
    kept = cache.open("a", STOP)
    assert kept is not None
    return kept


def test_B02_a_thin_pack_with_a_flipped_bit_never_passes(cache):
    history = History(files=3)
    kept = opened(cache, history)
    whole = history.update()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(RemoteError):
            read(bytes(flipped), kept)
    kept.close()


def test_B07_a_delta_against_an_object_that_nobody_has_is_refused(cache):
    history, other = History(), History(files=2, size=64)
    kept = opened(cache, history)
    other.contents[0] += b"?"
    with pytest.raises(RemoteError, match="1 deltas have no base in the pack"):
        read(other.update(), kept)
    kept.close()


def test_B07_an_update_that_lacks_what_we_do_not_have_is_refused(cache):
    history = History()
    kept = opened(cache, history)
    history.contents[5] = b"changed, and not sent"
    update = read(history.update(), kept)
    with pytest.raises(RemoteError, match="did not send all of"):
        laid_over(update, kept, history.commits[-1], STOP)
    kept.close()


def test_B05_a_delta_that_does_not_fit_its_base_outside_is_refused(cache):
    history = History()
    kept = opened(cache, history)
    base = bytes.fromhex(object_hash(BLOB, history.contents[0]))
    for change in (delta(3, 1, insert(b"x")), delta(len(history.contents[0]), 1 << 60, insert(b"x"))):
        with pytest.raises(RemoteError):
            read(pack([Item(HASH_DELTA, change, base=base)]), kept)
    kept.close()


def test_B06_chains_end_at_their_bound_beyond_the_edge_of_a_pack(cache):
    history = History()
    kept = opened(cache, history)
    content, items = history.contents[0], []
    for number in range(60):
        new = content + b"%02d" % number
        change = delta(len(content), len(new), copy(0, len(content)), insert(b"%02d" % number))
        items.append(Item(HASH_DELTA, change, base=bytes.fromhex(object_hash(BLOB, content))))
        content = new
    assert read(pack(items[:50]), kept)
    with pytest.raises(RemoteError, match="longer than 50"):
        read(pack(items), kept)
    kept.close()


def test_B12_an_update_may_repeat_what_is_kept_but_not_with_other_content(cache, monkeypatch):
    history = History()
    kept = opened(cache, history)
    name = object_hash(BLOB, history.contents[3])
    update = pack([*history._top(), Item(BLOB, history.contents[3])])
    assert laid_over(read(update, kept), kept, history.commits[-1], STOP)
    found = read(update, kept)
    real = Pack.get
    forged = (BLOB, b"forged")
    monkeypatch.setattr(
        found, "get", lambda wanted: forged if wanted.hex() == name else real(found, wanted), raising=False
    )
    with pytest.raises(RemoteError, match="two different objects"):
        laid_over(found, kept, history.commits[-1], STOP)
    kept.close()


def test_A27_a_pack_that_stands_alone_needs_nothing_that_was_kept(cache):
    history, other = History(), History(files=4, size=128)
    kept = opened(cache, history)
    found = read(other.full(), kept)
    assert laid_over(found, kept, other.commits[-1], STOP) is found
    kept.close()


def test_a_reader_of_what_is_kept_ends_when_its_caller_is_gone(cache):
    history = History()
    keep(cache, history.full(), history.commits[-1])
    stop = Stop(time.monotonic() + 60)
    kept = cache.open("a", stop)
    stop.cancel()
    with pytest.raises(TimeoutError):
        kept.get(bytes.fromhex(object_hash(BLOB, history.contents[0])))
    kept.close()
    check(cache, history)
