from __future__ import annotations

import gc
import io
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.artifact import shared
from gitopsd.artifact.tree import FileTree, TreeError, TreeLimits, clamp_path, decode_path, encode_path, shown

COMPONENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda part: part not in {".", ".."}
)
PATH = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)


def open_descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def vector_tree() -> FileTree:
    return FileTree.build(
        {"run.sh": b"#!/bin/sh\n", "deploy/x.yaml": b"kind: List\n", "a.txt": b"a\n"}, ["run.sh"], ["empty"]
    )


def entries(data: bytes) -> list[tuple[str, int, bool]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(member.name, member.mode, member.isdir()) for member in archive]


def test_s17_1_the_tar_of_the_reference_tree_has_the_reference_bytes() -> None:
    """spec/source.md 17, vector 1"""
    tree = vector_tree()
    assert entries(tree.tar()) == [
        (".", 0o750, True),
        ("a.txt", 0o600, False),
        ("deploy", 0o750, True),
        ("deploy/x.yaml", 0o600, False),
        ("empty", 0o750, True),
        ("run.sh", 0o700, False),
    ]
    assert tree.size == len(tree.tar()) == 5632
    assert tree.digest == "sha256:51a9fbb889a36e3c5b5834d3f812eef7298aa6559bc59993acf32a9bb5dc81de"


def test_a_tree_reads_like_a_mapping() -> None:
    tree = vector_tree()
    assert dict(tree) == {"a.txt": b"a\n", "deploy/x.yaml": b"kind: List\n", "run.sh": b"#!/bin/sh\n"}
    assert list(tree) == ["a.txt", "deploy/x.yaml", "run.sh"]
    assert ("a.txt" in tree, "deploy" in tree, len(tree)) == (True, False, 3)
    assert (tree.is_executable("run.sh"), tree.is_executable("a.txt")) == (True, False)
    assert tree.length("deploy/x.yaml") == 11
    assert tree.directories() == {"deploy", "empty"}
    with pytest.raises(KeyError):
        tree["deploy"]


def test_s4_3_a_directory_s_entries_follow_it_before_its_next_sibling() -> None:
    tree = FileTree.build({"a-b": b"", "a/z": b"", "a/b/c": b"", "a.txt": b""})
    assert [name for name, _, _ in entries(tree.tar())] == [".", "a", "a/b", "a/b/c", "a/z", "a-b", "a.txt"]


def test_C11_the_same_files_give_the_same_bytes_in_any_order_and_any_process() -> None:
    tree = vector_tree()
    other = FileTree.build(
        {"a.txt": b"a\n", "deploy/x.yaml": b"kind: List\n", "run.sh": b"#!/bin/sh\n"}, ["run.sh"], ["empty", "deploy"]
    )
    assert tree == other
    assert hash(tree) == hash(other)
    program = (
        "from gitopsd.artifact.tree import FileTree;"
        "print(FileTree.build({'run.sh': b'#!/bin/sh\\n', 'deploy/x.yaml': b'kind: List\\n', 'a.txt': b'a\\n'},"
        " ['run.sh'], ['empty']).digest)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == tree.digest


def test_s4_3_another_mode_is_another_tree() -> None:
    assert FileTree.build({"a": b""}) != FileTree.build({"a": b""}, ["a"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(PATH, st.binary(max_size=1100), max_size=8), st.lists(PATH, max_size=3))
def test_s4_3_every_tree_is_a_tar_that_others_read_alike(files: dict[str, bytes], directories: list[str]) -> None:
    parents = {"/".join(path.split("/")[:end]) for path in files for end in range(1, path.count("/") + 1)}
    parents |= {"/".join(path.split("/")[:end]) for path in directories for end in range(1, path.count("/") + 2)}
    if parents & files.keys():
        with pytest.raises(TreeError, match="both a file and a directory"):
            FileTree.build(files, directories=directories)
        return
    tree = FileTree.build(files, list(files)[:1], directories)
    assert dict(tree) == files
    with tarfile.open(fileobj=io.BytesIO(tree.tar()), encoding="utf-8", errors="surrogateescape") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
        folders = {member.name for member in archive if member.isdir()}
    assert found == files
    assert folders == tree.directories() | {"."}


@pytest.mark.parametrize(
    "path",
    [
        "x" * 100,
        "d" * 90 + "/" + "x" * 90,
        "d" * 150 + "/" + "x" * 150,
        "ü/" + "x" * 200,
        "/".join(["d" * 99] * 20),
        "\udcff",
    ],
)
def test_s4_3_long_and_foreign_names_are_kept(path: str) -> None:
    tree = FileTree.build({path: b"1"})
    assert dict(tree) == {path: b"1"}
    with tarfile.open(fileobj=io.BytesIO(tree.tar()), encoding="utf-8", errors="surrogateescape") as archive:
        assert archive.getnames()[-1] == path


@pytest.mark.parametrize(
    "path",
    ["", "/x", "../x", "a/../x", "a/..", ".", "a/./b", "a//b", "a/", "a\0b", "\ud800", "x" * 256, "a/" * 130 + "b"],
)
def test_C02_paths_that_leave_the_tree_or_its_bounds_are_refused(path: str) -> None:
    with pytest.raises(TreeError, match="path '"):
        FileTree.build({path: b""})
    with pytest.raises(TreeError, match="path '"):
        FileTree.build({}, directories=[path])


def test_C03_backslashes_colons_and_device_names_are_plain_bytes() -> None:
    names = {"a\\b": b"1", "C:": b"2", "con": b"3", "..\\x": b"4"}
    assert dict(FileTree.build(names)) == names


def test_C04_one_name_is_not_both_a_file_and_a_directory() -> None:
    with pytest.raises(TreeError, match="'a' is both a file and a directory"):
        FileTree.build({"a": b"", "a/b": b""})
    with pytest.raises(TreeError, match="both"):
        FileTree.build({"a": b""}, directories=["a"])


def test_C07_paths_and_parts_are_bounded_at_exactly_their_bounds() -> None:
    longest = "/".join(["p" * 255] * 16)[:4096].rstrip("/")
    assert encode_path(longest) == longest.encode()
    assert encode_path("p" * 255)
    assert encode_path("/".join("p" * 128))
    for beyond in (longest + "/" + "q" * (4096 - len(longest)), "p" * 256, "/".join("p" * 129), "/".join("p" * 10_000)):
        with pytest.raises(TreeError, match=r"longer|deeper"):
            encode_path(beyond)


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (TreeLimits(files=2), "more than 2 files"),
        (TreeLimits(content=2), "more than 2 bytes"),
        (TreeLimits(directories=2), "more than 2 directories"),
        (TreeLimits(names=5), "names of the files take more than 5 bytes"),
    ],
)
def test_C07_amounts_are_bounded(limits: TreeLimits, rule: str) -> None:
    at_bound = {"a/b": b"1", "c": b"2"}
    assert len(FileTree.build(at_bound, limits=limits)) == 2
    with pytest.raises(TreeError, match=rule):
        FileTree.build({"a/b": b"1", "c/e": b"2", "d/f": b"3"}, limits=limits)


def test_C08_names_that_differ_by_case_or_form_only_are_two_files() -> None:
    names = {"A": b"1", "a": b"2", "\u00e9": b"3", "e\u0301": b"4", "\udce9": b"5"}
    assert dict(FileTree.build(names)) == names


@given(st.binary(min_size=1, max_size=30))
def test_C08_paths_keep_their_bytes(raw: bytes) -> None:
    assert decode_path(raw).encode("utf-8", "surrogateescape") == raw


def test_C08_messages_show_strange_names_escaped() -> None:
    assert shown("a\x1b[31m\n\udcff\u202e") == "a\\x1b[31m\\n\\udcff\\u202e"
    assert len(shown("x" * 9999)) == 256


def test_a_lazy_mapping_is_read_once_per_file_and_in_order() -> None:
    read: list[str] = []

    class Lazy(dict[str, bytes]):
        def __getitem__(self, key: str) -> bytes:
            read.append(key)
            return super().__getitem__(key)

    FileTree.build(Lazy({"b": b"", "a/x": b"", "a-": b""}))
    assert read == ["a/x", "a-", "b"]


def test_an_error_while_reading_leaves_no_descriptor_behind() -> None:
    class Failing(dict[str, bytes]):
        def __getitem__(self, key: str) -> bytes:
            raise RuntimeError("gone")

    before = open_descriptors()
    with pytest.raises(RuntimeError, match="gone"):
        FileTree.build(Failing({"a": b""}))
    assert open_descriptors() == before


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_another_process_reads_the_very_tar_and_nobody_can_change_it() -> None:
    tree = vector_tree()
    done = subprocess.run(["cat", tree.shared_path()], check=True, capture_output=True)
    assert done.stdout == tree.tar()
    with Path(tree.shared_path()).open("r+b", buffering=0) as writable, pytest.raises(PermissionError):
        writable.write(b"x")


@pytest.mark.skipif(sys.platform != "linux", reason="memfd")
def test_the_memory_is_given_back_with_the_last_reference() -> None:
    tree = vector_tree()
    path = Path(tree.shared_path())
    assert path.exists()
    del tree
    gc.collect()
    assert not path.exists()


def test_without_memfd_a_private_file_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(shared, "_SPILL", [])
    shared.spill_into(tmp_path)
    tree = vector_tree()
    stored = Path(tree.shared_path())
    assert stored.parent == tmp_path
    assert stored.read_bytes() == tree.tar()
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert tree["a.txt"] == b"a\n"
    del tree
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_subtree_is_a_tree_of_its_own() -> None:
    tree = FileTree.build({"a/b/c": b"1", "a/b/run": b"2", "a/bc": b"3"}, ["a/b/run"], ["a/b/empty"])
    below = tree.subtree("./a/b/")
    assert dict(below) == {"c": b"1", "run": b"2"}
    assert below.is_executable("run")
    assert below.directories() == {"empty"}
    assert tree.subtree("..") is tree
    for missing in ("a/bc", "b", "a/b/c"):
        with pytest.raises(TreeError, match="no directory"):
            tree.subtree(missing)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("../../x", "x"),
        ("/a//b/", "a/b"),
        ("./a/../../b", "b"),
        ("", ""),
        (".", ""),
        ("..", ""),
        ("a/..", ""),
        ("a/.../b", "a/.../b"),
    ],
)
def test_a_clamped_path_never_leaves_the_root(path: str, expected: str) -> None:
    """spec/kustomize.md 8.1"""
    assert clamp_path(path) == expected
