from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.artifact.archive import ArchiveError, digest_of, pack, unpack
from gitopsd.artifact.tarform import header
from gitopsd.artifact.tree import FileTree, TreeError, TreeLimits

TREE = FileTree.build(
    {"a.txt": b"a\n", "run.sh": b"#!/bin/sh\n", "deploy/x.yaml": b"kind: List\n"}, ["run.sh"], ["empty"]
)


def archive(
    *members: tuple[str, bytes | None],
    change: Callable[[tarfile.TarInfo], None] = lambda _: None,
    form: int = tarfile.PAX_FORMAT,
) -> bytes:
    """A gzipped tar of files, and directories where the content is None, as Python's own library writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            change(member)
            file.addfile(member, io.BytesIO(content or b""))
    return out.getvalue()


def raw(*parts: bytes) -> bytes:
    return gzip.compress(b"".join(parts) + bytes(1024))


def entry(name: bytes, content: bytes = b"", kind: bytes = b"0") -> bytes:
    return header(name, len(content), 0o600, kind) + content + bytes(-len(content) % 512)


def changed(block: bytes, at: int, value: bytes) -> bytes:
    """A header with some bytes replaced and its checksum made right again."""
    block = block[:at] + value + block[at + len(value) :]
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


def refusal(data: bytes, **options: object) -> str:
    with pytest.raises(ArchiveError) as refused:
        unpack(data, **options)  # type: ignore[arg-type]
    text = str(refused.value)
    assert text.isprintable()
    assert len(text) < 4096
    return text


def test_s17_2_the_gzip_header_holds_nothing_but_its_format() -> None:
    """spec/source.md 17, vector 2"""
    assert pack(TREE).data[:10].hex() == "1f8b08000000000000ff"


def test_C11_packing_twice_gives_the_same_bytes() -> None:
    other = FileTree.build(dict(reversed(list(TREE.items()))), ["run.sh"], ["empty"])
    packed = pack(TREE)
    assert pack(other) == packed
    assert packed.digest == digest_of(packed.data)
    assert packed.size == len(packed.data)


def test_s4_3_other_programs_read_what_we_pack() -> None:
    packed = pack(TREE)
    assert gzip.decompress(packed.data) == TREE.tar()
    with tarfile.open(fileobj=io.BytesIO(packed.data), mode="r:gz") as file:
        assert file.getnames() == [".", "a.txt", "deploy", "deploy/x.yaml", "empty", "run.sh"]


def test_s4_3_what_was_packed_is_unpacked_alike() -> None:
    found = unpack(pack(TREE).data)
    assert found == TREE
    assert found.tar() == TREE.tar()
    assert (found.is_executable("run.sh"), found.is_executable("a.txt")) == (True, False)
    assert found.directories() == {"deploy", "empty"}


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0\\"), min_size=1, max_size=60).filter(
    lambda part: part not in {".", ".."}
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.lists(NAME, min_size=1, max_size=4).map("/".join), st.binary(max_size=1500), max_size=6))
def test_archives_of_any_program_and_order_are_read(files: dict[str, bytes]) -> None:
    try:
        tree = FileTree.build(files)
    except TreeError:  # one name is a file and a directory
        return
    assert unpack(pack(tree).data) == tree
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert unpack(archive(*reversed(files.items()), form=form)) == tree


def test_leading_dots_and_slashes_at_the_end_are_no_part_of_a_name() -> None:
    data = archive(("./", None), ("./a/", None), ("././a/b", b"1"), (".", None))
    assert dict(unpack(data)) == {"a/b": b"1"}
    assert unpack(data) == FileTree.build({"a/b": b"1"})


def test_of_two_files_of_one_name_the_later_counts() -> None:
    assert dict(unpack(archive(("a", b"1"), ("b", b"2"), ("a", b"3")))) == {"a": b"3", "b": b"2"}


def test_global_records_of_git_archive_are_skipped() -> None:
    assert dict(
        unpack(raw(entry(b"pax_global_header", b"52 comment=" + b"x" * 40 + b"\n", b"g"), entry(b"a", b"1")))
    ) == {"a": b"1"}


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a/..", "..", "a//b", "C:\\x", "a\\..\\x", "//x", "./../x", "x" * 256, "a/./b"]
)
def test_E01_names_that_leave_the_tree_are_refused(name: str, tmp_path: Path) -> None:
    before = list(tmp_path.parent.iterdir())
    for data in (archive((name, b"x")), archive((name, None)), raw(entry(name.encode(), b"x"))):
        assert "'" in refusal(data)
    assert list(tmp_path.parent.iterdir()) == before


def test_E01_empty_names_and_nul_are_refused() -> None:
    assert refusal(raw(entry(b"", b"x")))
    assert refusal(raw(entry(b".", b"x")))
    assert "NUL" in refusal(raw(entry(b"p", b"12 path=a\0b\n", b"x"), entry(b"a", b"x")))


def test_our_own_archives_may_hold_backslashes() -> None:
    tree = FileTree.build({"a\\b": b"1"})
    assert unpack(pack(tree).data, backslashes=True) == tree
    assert "backslash" in refusal(pack(tree).data)


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S", b"M", b"V", b"Z", b"s"]
)
def test_E02_special_entries_are_refused(kind: bytes) -> None:
    assert "neither a file nor a directory" in refusal(raw(entry(b"a", b"", kind)))


def test_E02_sparse_files_are_refused() -> None:
    assert "neither" in refusal(raw(entry(b"p", b"22 GNU.sparse.major=1\n", b"x"), entry(b"a", b"x")))


def test_E02_symbolic_links_are_skipped_or_refused() -> None:
    data = raw(changed(header(b"link", 0, 0o777, b"2"), 157, b"/etc/passwd"), entry(b"a", b"1"))
    assert dict(unpack(data)) == {"a": b"1"}
    assert "symbolic link" in refusal(data, strict=True)


@pytest.mark.parametrize(
    "members",
    [[("a", b""), ("a", None)], [("a", None), ("a", b"")], [("a", b""), ("a/b", b"")], [("a/b", b""), ("a", b"")]],
)
def test_E03_one_name_is_not_a_file_and_a_directory(members: list[tuple[str, bytes | None]]) -> None:
    assert "both a file and a directory" in refusal(archive(*members))


def test_E04_a_bomb_stops_at_the_bound() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(header(b"a", 64 << 20, 0o600, b"0"))
    bomb += b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    zeros = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        assert "more than 1048576 bytes" in refusal(bomb, limits=TreeLimits(content=1 << 20))
        assert "after its end" in refusal(zeros)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_E04_bounds_are_exact() -> None:
    two = archive(("a", b"12"), ("b/c", b"3"))
    assert len(unpack(two, limits=TreeLimits(content=3, files=2, directories=1, names=5))) == 2
    for limits in (TreeLimits(content=2), TreeLimits(files=1), TreeLimits(directories=0), TreeLimits(names=4)):
        assert "more than" in refusal(two, limits=limits)


def test_E04_several_streams_are_one_archive() -> None:
    tar = TREE.tar()
    assert unpack(b"".join(gzip.compress(tar[at : at + 100]) for at in range(0, len(tar), 100))) == TREE
    assert unpack(gzip.compress(b"") * 1000 + gzip.compress(tar)) == TREE
    assert "compressed parts" in refusal(gzip.compress(b"") * 100_001)


@pytest.mark.parametrize("garbage", [b"x", b"\0" * 20, b"garbage" * 9999])
def test_E04_garbage_after_the_end_is_refused(garbage: bytes) -> None:
    assert refusal(pack(TREE).data + garbage)


@pytest.mark.parametrize("cut", [0, 5, 10, 30, -1, -8, -9])
def test_an_archive_that_ends_too_early_is_refused(cut: int) -> None:
    assert refusal(pack(TREE).data[:cut])


def test_a_tar_that_ends_within_an_entry_is_refused() -> None:
    for end in (100, 512 + 1):
        assert "too early" in refusal(gzip.compress(entry(b"a", b"x" * 600)[:end]))


def test_a_broken_checksum_is_refused() -> None:
    data = bytearray(pack(TREE).data)
    data[-5] ^= 1
    assert refusal(bytes(data))
    block = bytearray(header(b"a", 0, 0o600, b"0"))
    block[0] = ord("b")
    assert "broken header" in refusal(raw(bytes(block)))


def test_signed_checksums_of_old_programs_are_read() -> None:
    block = header(b"\xc3\xa9" * 4, 0, 0o600, b"0")[-512:]
    block = changed(block, 0, b"\xc3\xa9")
    total = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
    assert list(unpack(raw(block[:148] + b"%06o\0 " % total + block[156:]))) == ["é"]


@pytest.mark.parametrize(
    "size",
    [b"-0000000001\0", b"99999999999\0", b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\xc0" + bytes(11), b"0x000000001\0"],
)
def test_E05_impossible_sizes_are_refused(size: bytes) -> None:
    assert refusal(raw(changed(header(b"a", 0, 0o600, b"0"), 124, size)))


def test_E05_binary_sizes_are_read() -> None:
    block = changed(header(b"a", 0, 0o600, b"0"), 124, b"\x80" + bytes(10) + b"\x03")
    assert dict(unpack(raw(block, b"xyz", bytes(509)))) == {"a": b"xyz"}


def test_E05_a_record_cannot_bring_in_what_a_header_may_not() -> None:
    assert refusal(raw(entry(b"p", b"16 path=../../x\n", b"x"), entry(b"a", b"x")))
    assert refusal(raw(entry(b"p", b"../../x\0", b"L"), entry(b"a", b"x")))
    for record in (
        b"9 size=-1\n",
        b"29 size=1234567890123456789\n",
        b"x",
        b"12 path=a\n",
        b"9 path=a",
        b"1 a=b\n",
        b"999999999 a=b\n",
        b"7 path\n",
    ):
        assert refusal(raw(entry(b"p", record, b"x"), entry(b"a", b"x"))), record


def test_E05_large_records_are_refused_before_they_are_read() -> None:
    tracemalloc.start()
    try:
        for kind in (b"x", b"g", b"L", b"K"):
            assert "record" in refusal(raw(header(b"p", 100 << 20, 0o600, kind), b"1" * 600))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_E05_endless_records_are_refused() -> None:
    assert "more than 20 entries" in refusal(
        raw(*[header(b"p", 0, 0o600, b"x")] * 30), limits=TreeLimits(files=1, directories=1)
    )


def test_E06_modes_and_times_of_the_archive_do_not_count() -> None:
    def odd(member: tarfile.TarInfo) -> None:
        member.mode, member.mtime, member.uid, member.uname = (
            0o6777 if member.name == "b" else 0o7622,
            -1,
            12345678,
            "root",
        )

    found = unpack(archive(("a", b""), ("b", b""), change=odd, form=tarfile.GNU_FORMAT))
    assert found == FileTree.build({"a": b"", "b": b""}, ["b"])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_read_but_never_anything_else(data: st.DataObject) -> None:
    tar = bytearray(TREE.tar())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tar) - 1))
        tar[at] = data.draw(st.integers(0, 255))
    for start in range(0, len(tar), 512):  # half of the time the sum is right, so that the damage goes deeper
        block = bytes(tar[start : start + 512])
        if block[257:262] == b"ustar" and data.draw(st.booleans()):
            tar[start : start + 512] = changed(block, 0, b"")
    try:
        tree = unpack(gzip.compress(bytes(tar), 1), limits=TreeLimits(content=1 << 20))
    except ArchiveError:
        return
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in tree)


@pytest.mark.parametrize("data", [b"", b"not gzip", b"\x1f\x8b", b"PK\x03\x04", TREE.tar()])
def test_what_is_no_gzip_is_refused(data: bytes) -> None:
    assert refusal(data)


def test_an_empty_archive_is_an_empty_tree() -> None:
    empty = FileTree.build({})
    for data in (raw(), gzip.compress(b""), pack(empty).data):
        assert unpack(data) == empty


@pytest.mark.parametrize(("algorithm", "length"), [("sha1", 40), ("sha256", 64), ("sha384", 96), ("sha512", 128)])
def test_s4_2_digests_name_their_algorithm(algorithm: str, length: int) -> None:
    name, _, value = pack(TREE, algorithm).digest.partition(":")
    assert (name, len(value)) == (algorithm, length)


@pytest.mark.parametrize("algorithm", ["", "md5", "SHA256", "crc32", "sha256 "])
def test_E07_unknown_algorithms_are_refused(algorithm: str) -> None:
    with pytest.raises(ArchiveError, match="unknown digest algorithm"):
        digest_of(b"", algorithm)
