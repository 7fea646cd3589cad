from __future__ import annotations

import gc
import hashlib
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import PackLimits, Stop
from tests.packs import (
    BLOB,
    COMMIT,
    HASH_DELTA,
    OFFSET_DELTA,
    TREE,
    Item,
    copy,
    delta,
    distance,
    insert,
    object_hash,
    object_header,
    pack,
)

SMALL = PackLimits(objects=1000, object_bytes=1 << 20, cached_bytes=1 << 16)


def read(data: bytes, limits: PackLimits = SMALL) -> Pack:
    return Pack(data, limits, Stop(time.monotonic() + 20))


def refused(data: bytes, limits: PackLimits = SMALL) -> str:
    with pytest.raises(RemoteError) as caught:
        read(data, limits)
    return caught.value.message


def content(found: Pack, kind: int, wanted: bytes) -> tuple[int, bytes]:
    return found.get(bytes.fromhex(object_hash(kind, wanted)))


def on(base: Item, result: bytes, instructions: bytes, *, size: int | None = None) -> Item:
    """A delta that follows its base at once in the pack; `size` is what the base makes if it is a delta itself."""
    change = delta(len(base.content) if size is None else size, len(result), instructions)
    return Item(OFFSET_DELTA, change, base=distance(len(base.encode())))


def test_objects_are_found_under_the_hash_of_their_content():
    found = read(pack([Item(BLOB, b"hello"), Item(COMMIT, b"c"), Item(BLOB, b"")]))
    assert content(found, BLOB, b"hello") == (BLOB, b"hello")
    assert content(found, COMMIT, b"c") == (COMMIT, b"c")
    assert content(found, BLOB, b"") == (BLOB, b"")
    assert len(found) == 3
    assert object_hash(BLOB, b"hello") in found
    with pytest.raises(RemoteError, match="not in the pack"):
        found.get(bytes(20))


def test_deltas_are_resolved_by_offset_and_by_hash_whatever_the_order():
    base = Item(BLOB, b"the base of all")
    by_offset = on(base, b"the offset", copy(0, 4) + insert(b"offset"))
    by_hash = Item(
        HASH_DELTA,
        delta(10, 8, copy(0, 4), insert(b"hash")),
        base=bytes.fromhex(object_hash(BLOB, b"the offset")),
    )
    for items in ([base, by_offset, by_hash], [by_hash, base, by_offset]):
        found = read(pack(items))
        assert content(found, BLOB, b"the offset") == (BLOB, b"the offset")
        assert content(found, BLOB, b"the hash") == (BLOB, b"the hash")


def test_contents_that_fell_out_of_the_cache_are_made_again():
    blocks = [bytes([number]) * 900 for number in range(60)]
    items = [Item(BLOB, blocks[0])]
    for block in blocks[1:40]:
        items.append(on(items[-1], block, insert(block), size=900))
    items[-1:] = [Item(BLOB, block) for block in blocks[39:]]
    found = read(pack(items), PackLimits(cached_bytes=4000))
    for block in blocks:
        assert content(found, BLOB, block) == (BLOB, block)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("cached", [1 << 10, 64 << 20])
def test_what_follows_a_large_object_is_found(size, cached):
    """zlib gives its remainder twice when an object ends right after a full piece of output."""
    large = b"#" * size
    found = read(pack([Item(BLOB, large), Item(BLOB, b"next")]), PackLimits(cached_bytes=cached))
    assert content(found, BLOB, b"next") == (BLOB, b"next")
    assert content(found, BLOB, large) == (BLOB, large)


def test_a_large_object_is_hashed_in_pieces_and_read_when_it_is_wanted():
    large = hashlib.sha256(b"x").digest() * 100_000
    found = read(pack([Item(BLOB, large)]), PackLimits(cached_bytes=1 << 20))
    assert content(found, BLOB, large) == (BLOB, large)


@pytest.mark.parametrize("claimed", [1001, 4_294_967_295])
def test_B01_a_pack_that_claims_too_many_objects_is_refused(claimed):
    assert "more than 1000" in refused(pack([Item(BLOB, b"x")], count=claimed))


def test_B01_a_pack_that_holds_fewer_or_more_than_it_claims_is_refused():
    assert refused(pack([Item(BLOB, b"x")], count=2))
    assert "more than the objects it announces" in refused(pack([Item(BLOB, b"x"), Item(BLOB, b"y")], count=1))
    many = [Item(BLOB, b"%d" % number) for number in range(1000)]
    assert len(read(pack(many))) == 1000


def test_B02_a_wrong_checksum_is_refused():
    assert "checksum" in refused(pack([Item(BLOB, b"x")], trailer=bytes(20)))
    assert refused(b"")
    assert refused(b"PACK")
    assert refused(b"<html>" * 20)


def flip_sample() -> bytes:
    base = Item(BLOB, b"base " * 30)
    items = [base, on(base, b"base x", copy(0, 5) + insert(b"x"))]
    return pack([*items, *(Item(BLOB, b"object %d" % number) for number in range(18))])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_B02_a_flipped_bit_never_passes(data):
    whole = bytearray(flip_sample())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(whole))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_B02_an_altered_pack_with_a_right_checksum_holds_no_altered_object(data):
    """Whoever alters a pack can repair its checksum, but not the hashes of the objects in it."""
    sample = flip_sample()
    whole = bytearray(sample[:-20])
    at = data.draw(st.integers(12, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    original = read(sample)
    try:
        found = read(bytes(whole) + hashlib.sha1(whole).digest())
    except RemoteError:
        return
    for name in original._numbers.keys() & found._numbers.keys():
        assert found.get(name) == original.get(name)


@pytest.mark.parametrize("declared", [10, 1 << 20])
def test_B03_an_object_that_inflates_beyond_what_it_declares_is_refused(declared):
    bomb = zlib.compress(bytes(64 << 20), 9)
    assert "larger than it declares" in refused(pack([Item(BLOB, b"", size=declared, raw=bomb)]))


@pytest.mark.parametrize(("size", "is_allowed"), [(4096, True), (4097, False), (1 << 40, False)])
def test_B03_the_size_of_an_object_is_bounded(size, is_allowed):
    limits = PackLimits(object_bytes=4096)
    if is_allowed:
        assert len(read(pack([Item(BLOB, bytes(size))]), limits)) == 1
    else:
        assert "larger than 4096 bytes" in refused(pack([Item(BLOB, b"", size=size)]), limits)


def test_B03_many_small_bombs_are_stopped_together():
    items = [Item(BLOB, bytes([number]) * 100_000) for number in range(50)]
    assert "inflates to more than" in refused(pack(items), PackLimits(inflated_bytes=1 << 20))


def test_B04_an_object_must_have_exactly_its_declared_size():
    assert "smaller than it declares" in refused(pack([Item(BLOB, b"abc", size=4)]))
    assert "larger than it declares" in refused(pack([Item(BLOB, b"abc", size=2)]))
    assert "larger than it declares" in refused(pack([Item(BLOB, b"abc", size=0)]))
    assert "cannot be inflated" in refused(pack([Item(BLOB, b"abc", raw=b"not zlib at all")]))
    assert refused(pack([Item(BLOB, b"abc" * 100, raw=zlib.compress(b"abc" * 100)[:-6])]))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (delta(4, 1 << 60, insert(b"x")), "larger than"),
        (delta(4, 10, copy(0, 10)), "cannot be applied"),
        (delta(4, 4, copy(1 << 20, 4)), "cannot be applied"),
        (delta(4, 1, b"\x00"), "cannot be applied"),
        (delta(4, 3, insert(b"ab")), "cannot be applied|does not make"),
        (delta(4, 1, insert(b"ab")), "cannot be applied"),
        (delta(5, 1, insert(b"a")), "another base"),
        (delta(4, 9, b"\x09ab"), "cannot be applied"),
        (b"", "out of range"),
        (b"\x04", "out of range"),
        (b"\xff" * 100, "out of range"),
    ],
)
def test_B05_a_delta_that_does_not_fit_is_refused(change, part):
    base = Item(BLOB, b"base")
    message = refused(pack([base, Item(OFFSET_DELTA, change, base=distance(len(base.encode())))]))
    assert any(word in message for word in part.split("|"))


def test_B06_a_base_that_is_not_before_its_delta_is_refused():
    base, change = Item(BLOB, b"base"), delta(4, 1, insert(b"x"))
    for back in (0, 1, 5, 1 << 40):
        assert "no object before it" in refused(pack([base, Item(OFFSET_DELTA, change, base=distance(back))]))
    assert "offset is out of range" in refused(pack([base, Item(OFFSET_DELTA, change, base=b"\xff" * 40)]))


def test_B06_a_cycle_of_deltas_is_refused():
    one, other = b"1" * 40, b"2" * 40
    items = [
        Item(HASH_DELTA, delta(40, 40, insert(one)), base=bytes.fromhex(object_hash(BLOB, other))),
        Item(HASH_DELTA, delta(40, 40, insert(other)), base=bytes.fromhex(object_hash(BLOB, one))),
    ]
    assert "2 deltas have no base" in refused(pack(items))


@pytest.mark.parametrize(("length", "is_allowed"), [(50, True), (51, False), (900, False)])
def test_B06_a_chain_of_deltas_is_bounded(length, is_allowed):
    items = [Item(BLOB, b"v00000")]
    for number in range(1, length + 1):
        items.append(on(items[-1], b"v%05d" % number, insert(b"v%05d" % number), size=6))
    if is_allowed:
        assert content(read(pack(items)), BLOB, b"v00050") == (BLOB, b"v00050")
    else:
        assert "longer than 50" in refused(pack(items))


def test_B07_a_delta_whose_base_is_elsewhere_is_refused():
    item = Item(HASH_DELTA, delta(4, 1, insert(b"x")), base=b"\x11" * 20)
    assert "1 deltas have no base in the pack" in refused(pack([item]))


@pytest.mark.parametrize("kind", [0, 5])
def test_B08_unknown_types_are_refused(kind):
    assert f"unknown type {kind}" in refused(pack([Item(kind, b"x")]))


def test_B08_sizes_without_end_are_refused():
    for raw in (object_header(BLOB, 1)[:0] + b"\xb0", b"\xb0" + b"\xff" * 100):
        body = b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + raw
        assert refused(body + hashlib.sha1(body).digest())


def test_B12_equal_objects_may_come_twice_but_equal_hashes_of_different_ones_may_not(monkeypatch):
    twice = pack([Item(BLOB, b"same"), Item(BLOB, b"same"), Item(BLOB, b"other")])
    assert len(read(twice)) == 2

    class Weak:
        """A hash for which a collision is easy to make."""

        def __init__(self, _: bytes = b"", **__: object) -> None:
            self.all = b""

        def update(self, data: bytes) -> None:
            self.all += data

        def digest(self) -> bytes:
            return bytes(20)

    monkeypatch.setattr("gitopsd.fetch.gitpack._hash_of", lambda kind, size: Weak())
    assert read(pack([Item(BLOB, b"same"), Item(BLOB, b"same")]))
    assert "two different objects" in refused(pack([Item(BLOB, b"one"), Item(BLOB, b"two")]))
    assert "two different objects" in refused(pack([Item(BLOB, b"one"), Item(TREE, b"one")]))


def test_B12_a_base_that_came_twice_serves_the_deltas_of_both():
    base = Item(BLOB, b"base")
    near = Item(OFFSET_DELTA, delta(4, 4, insert(b"near")), base=distance(len(base.encode())))
    found = read(pack([base, base, near]))
    assert content(found, BLOB, b"near") == (BLOB, b"near")


def test_B13_many_small_objects_leave_the_garbage_collector_nothing_to_visit():
    """What half a second of collection would cost, the event loop would have to wait for."""
    data = pack([Item(BLOB, b"%d" % number) for number in range(20_000)])
    before = len(gc.get_objects())
    found = read(data, PackLimits())
    assert len(found) == 20_000
    assert len(gc.get_objects()) - before < 500


def test_a_reader_ends_at_its_deadline_and_when_its_caller_is_gone():
    data = pack([Item(BLOB, b"x")])
    with pytest.raises(TimeoutError):
        Pack(data, SMALL, Stop(time.monotonic() - 1))
    stop = Stop(time.monotonic() + 60)
    stop.cancel()
    with pytest.raises(TimeoutError):
        Pack(data, SMALL, stop)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(noise):
    body = b"PACK" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + noise
    refused(body + hashlib.sha1(body).digest())
