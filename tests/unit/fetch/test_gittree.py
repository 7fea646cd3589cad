from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitopsd.artifact.tree import decode_path
from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import PackLimits, Stop
from gitopsd.fetch.gittree import Checkout, Sparse, TreeBounds, is_dot_git, modules_file, peel, read_commit, read_tree
from tests.packs import BLOB, COMMIT, TAG, TREE, WHO, Item, commit, object_hash, pack, tree

FILE, RUN, FOLDER, LINK, MODULE = b"100644", b"100755", b"40000", b"120000", b"160000"
X = object_hash(BLOB, b"x")
Entry = tuple[bytes, bytes, str]


def packed(*items: Item) -> Pack:
    return Pack(pack([Item(BLOB, b"x"), *items]), PackLimits(), Stop(time.monotonic() + 20))


def checked_out(*entries: Entry, more: tuple[Item, ...] = (), sparse: tuple[str, ...] = (), **bounds: int) -> Checkout:
    root = tree(*entries)
    checkout, wanted = Checkout(), Sparse(sparse)
    found = packed(Item(TREE, root), *more)
    stop = Stop(time.monotonic() + 20)
    read_tree(found, object_hash(TREE, root), TreeBounds(**bounds), stop, wanted, checkout)
    return checkout


def refused(*entries: Entry, more: tuple[Item, ...] = (), **bounds: int) -> str:
    with pytest.raises(RemoteError) as caught:
        checked_out(*entries, more=more, **bounds)
    return caught.value.message


def folder(*entries: Entry) -> tuple[str, Item]:
    content = tree(*entries)
    return object_hash(TREE, content), Item(TREE, content)


def test_files_are_read_with_their_folders_and_modes():
    found, item = folder((RUN, b"run.sh", X))
    checkout = checked_out((FILE, b"a.txt", X), (FOLDER, b"bin", found), more=(item,))
    assert dict(checkout.contents()) == {"a.txt": b"x", "bin/run.sh": b"x"}
    assert checkout.executables == {"bin/run.sh"}


@pytest.mark.parametrize(
    "name",
    [
        b".git",
        b".GIT",
        b".Git",
        b".git ",
        b".git.",
        b".git . .",
        b"git~1",
        b"GIT~1",
        ".g\u200cit".encode(),
        "\ufeff.git".encode(),
        ".gi\u200dt".encode(),
        b".git::$INDEX_ALLOCATION",
        b".git:x",
        b".git\\config",
        b"a\\.git",
    ],
)
def test_C01_what_any_file_system_takes_for_dot_git_is_refused_at_any_depth(name):
    assert is_dot_git(name)
    assert "Git keeps for itself" in refused((FILE, name, X))
    found, item = folder((FILE, name, X))
    assert "Git keeps for itself" in refused((FOLDER, b"deep", found), more=(item,))
    assert refused((FOLDER, name, found), more=(item,))


@pytest.mark.parametrize(
    "name", [b".gitignore", b".github", b"x.git", b"git", b".gitx", b".git~1", b"git~12", b"\xff.git"]
)
def test_C01_names_that_only_look_similar_are_kept(name):
    assert not is_dot_git(name)
    assert len(checked_out((FILE, name, X)).files) == 1


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/", b"../x"])
def test_C02_names_that_are_paths_are_refused(name):
    assert "not a name for a file" in refused((FILE, name, X))
    found, item = folder((FILE, b"x", X))
    assert refused((FOLDER, name, found), more=(item,))


@pytest.mark.parametrize(
    "data",
    [
        b"100644 \0" + bytes(20),
        b"100644 a\0" + bytes(19),
        b"100644 a",
        b"a\0" + bytes(20),
        b"10064x a\0" + bytes(20),
        b"+100644 a\0" + bytes(20),
        b"\xff" * 40,
    ],
)
def test_C02_a_tree_that_cannot_be_read_is_refused(data):
    found = packed(Item(TREE, data))
    with pytest.raises(RemoteError):
        name = object_hash(TREE, data)
        read_tree(found, name, TreeBounds(), Stop(time.monotonic() + 9), Sparse(()), Checkout())


def test_C03_names_of_other_systems_are_plain_bytes():
    names = [b"C:", b"CON", b"a\\b", b"aux.txt", b"x:y"]
    assert set(checked_out(*((FILE, name, X) for name in sorted(names))).files) == {name.decode() for name in names}


def test_C04_entries_out_of_order_or_twice_are_refused():
    found, item = folder((FILE, b"x", X))
    for entries in (
        [(FILE, b"b", X), (FILE, b"a", X)],
        [(FILE, b"a", X), (FILE, b"a", X)],
        [(FILE, b"a", X), (FOLDER, b"a", found)],
        [(FILE, b"a", X), (FILE, b"a.b", X), (FOLDER, b"a", found)],
        [(LINK, b"x", X), (FOLDER, b"x", found)],
        [(FOLDER, b"a", found), (FILE, b"a.b", X)],
    ):
        assert "out of order or come twice" in refused(*entries, more=(item,))


def test_C04_a_folder_sorts_as_git_sorts_it():
    found, item = folder((FILE, b"x", X))
    checkout = checked_out((FILE, b"a.b", X), (FOLDER, b"a", found), (FILE, b"a0", X), more=(item,))
    assert set(checkout.files) == {"a.b", "a/x", "a0"}


def test_C05_links_never_become_files_but_their_folders_stay():
    found, item = folder((LINK, b"out", X))
    checkout = checked_out((LINK, b".sourceignore", X), (FOLDER, b"f", found), (FILE, b"real", X), more=(item,))
    assert set(checkout.files) == {"real"}
    assert checkout.directories == {"f"}
    assert checkout.links == {".sourceignore", "f/out"}


@pytest.mark.parametrize(
    ("mode", "is_executable"),
    [
        (b"100644", False),
        (b"100755", True),
        (b"104755", True),
        (b"100664", False),
        (b"100600", False),
        (b"100111", True),
    ],
)
def test_C06_modes_become_plain_or_executable(mode, is_executable):
    assert checked_out((mode, b"f", X)).executables == ({"f"} if is_executable else set())


@pytest.mark.parametrize("mode", [b"0", b"7777777", b"40755", b"60000", b"10000", b"140000", b"1100644"])
def test_C06_other_modes_are_refused(mode):
    assert "unknown mode" in refused((mode, b"f", X))


def test_C06_a_submodule_is_an_empty_directory():
    checkout = checked_out((MODULE, b"sub", "1" * 40))
    assert (checkout.modules, checkout.directories, checkout.files) == ({"sub": "1" * 40}, {"sub"}, {})


@pytest.mark.parametrize("depth", [10, 11, 200])
def test_C07_the_depth_of_trees_is_bounded(depth):
    items, found = [], X
    entry: Entry = (FILE, b"f", X)
    for _ in range(depth):
        found, item = folder(entry)
        items.append(item)
        entry = (FOLDER, b"d", found)
    if depth <= 10:
        assert set(checked_out(entry, more=tuple(items), depth=10).files) == {"d/" * depth + "f"}
    else:
        assert "deeper than 10" in refused(entry, more=tuple(items), depth=10)


def test_C07_entries_files_paths_and_names_are_bounded():
    entries = [(FILE, b"f%04d" % number, X) for number in range(100)]
    assert len(checked_out(*entries, entries_per_tree=100, files=100, entries=100).files) == 100
    assert "a tree has more than 99" in refused(*entries, entries_per_tree=99)
    assert "more than 99 files" in refused(*entries, files=99)
    assert "hold more than 99 entries" in refused(*entries, entries=99)
    assert len(checked_out((FILE, b"n" * 255, X)).files) == 1
    assert "longer than 255" in refused((FILE, b"n" * 256, X))
    found, item = folder((FILE, b"n" * 200, X))
    assert "longer than 300" in refused((FOLDER, b"d" * 150, found), more=(item,), path=300)


def test_C07_trees_that_repeat_each_other_are_stopped():
    found, item = folder((FILE, b"f", X))
    items = [item]
    for _ in range(60):
        found, item = folder((FOLDER, b"a", found), (FOLDER, b"b", found))
        items.append(item)
    assert "hold more than 5000 entries" in refused((FOLDER, b"bomb", found), more=tuple(items), entries=5000)


def test_C08_names_are_kept_byte_for_byte():
    names = sorted([b"\xff\xfe", b"A", b"a", "\u00e9".encode(), "e\u0301".encode(), b"a b\tc"])
    checkout = checked_out(*((FILE, name, X) for name in names))
    assert set(checkout.files) == {decode_path(name) for name in names}


def test_what_is_not_in_the_pack_or_not_what_it_should_be_is_refused():
    other = packed()
    assert other
    assert "not in the pack" in refused((FOLDER, b"d", "2" * 40))
    assert "is a blob, not a tree" in refused((FOLDER, b"d", X))
    missing = checked_out((FILE, b"f", "2" * 40))
    with pytest.raises(RemoteError, match="not in the pack"):
        missing.contents()["f"]
    found, item = folder((FILE, b"x", X))
    wrong = checked_out((FILE, b"f", found), more=(item,))
    with pytest.raises(RemoteError, match="'f' is a tree, not a file"):
        wrong.contents()["f"]


# Sparse checkouts (spec/source.md 5.3, 17 row 22)


def sparse_of(*wanted: str) -> tuple[set[str], str | None]:
    charts, one = folder((FILE, b"a", X))
    deep, two = folder((FOLDER, b"charts", charts), (FILE, b"z", X))
    root = tree(
        (FOLDER, b"charts-old", charts), (FOLDER, b"charts", charts), (FOLDER, b"deep", deep), (FILE, b"root", X)
    )
    checkout, sparse = Checkout(), Sparse(wanted)
    found = packed(Item(TREE, root), one, two)
    stop = Stop(time.monotonic() + 9)
    read_tree(found, object_hash(TREE, root), TreeBounds(), stop, sparse, checkout)
    return set(checkout.files), sparse.missing()


def test_sparse_entries_are_plain_prefixes_of_paths():
    everything = {"charts/a", "charts-old/a", "deep/charts/a", "deep/z", "root"}
    assert sparse_of() == (everything, None)
    assert sparse_of("./") == (everything, None)
    assert sparse_of("charts") == ({"charts/a", "charts-old/a"}, None)
    assert sparse_of("./charts/") == ({"charts/a"}, None)
    assert sparse_of("deep/charts", "charts-old") == ({"deep/charts/a", "charts-old/a"}, None)
    assert sparse_of("root") == ({"root"}, None)
    assert sparse_of("deep/charts/a") == ({"deep/charts/a"}, None)


@pytest.mark.parametrize("entry", ["nope", "char", "deep/nope", "charts/a/b", "../x", "/charts", "charts*", "[c]harts"])
def test_A41_sparse_entries_are_taken_literally_and_must_exist(entry):
    assert sparse_of("root", entry)[1] == entry


def test_A41_ten_thousand_entries_take_linear_time():
    """Each path is looked up among the entries, not compared with all of them."""
    entries = [f"d{number:05d}/" for number in range(10_000)]

    class Counted(str):
        __slots__ = ()
        compared = 0

        def startswith(self, *arguments: object) -> bool:
            Counted.compared += 1
            return super().startswith(*arguments)  # type: ignore[arg-type]

    sparse = Sparse(entries)
    assert sum(sparse.selects(Counted(f"d{number:05d}/x")) for number in range(0, 20_000, 10)) == 1000
    assert Counted.compared <= 2000


@given(st.lists(st.text("ab/", max_size=4), min_size=1, max_size=6), st.text("ab/", min_size=1, max_size=8))
def test_sparse_selects_what_any_prefix_matches(entries, path):
    trimmed = [entry.removeprefix("./") for entry in entries]
    assert Sparse(entries).selects(path) == any(path.startswith(entry) for entry in trimmed)
    below = [f"{path}/{rest}" for rest in ("a", "b", "ab/a", "/")]
    if any(Sparse(entries).selects(one) for one in below):
        assert Sparse(entries).enters(path)


# Commits and tags

ROOT = object_hash(TREE, b"")


def commit_with(raw: bytes) -> object:
    return read_commit(packed(Item(COMMIT, raw)), object_hash(COMMIT, raw))


def test_a_commit_is_read():
    raw = commit(ROOT, parents=["1" * 40, "2" * 40], message=b"subject\n\nbody\n")
    found = read_commit(packed(Item(COMMIT, raw)), object_hash(COMMIT, raw))
    assert (found.tree, found.parents, found.time) == (ROOT, ("1" * 40, "2" * 40), 1767225600)
    assert (found.subject, found.raw) == ("subject", raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"author " + WHO + b"\n\nx",
        b"author " + WHO + b"\ntree " + ROOT.encode() + b"\n\nx",
        b"tree xyz\nauthor " + WHO + b"\n\nx",
        b"tree " + ROOT.encode() + b"\nparent xyz\nauthor " + WHO + b"\n\nx",
        b"tree " + ROOT.upper().encode() + b"\n\nx",
        b"tree " + ROOT.encode(),
    ],
)
def test_B09_commits_that_git_does_not_read_are_refused(raw):
    with pytest.raises(RemoteError):
        commit_with(raw)


def test_B09_commits_that_git_reads_are_read():
    second = b"tree " + ROOT.encode() + b"\ntree " + b"1" * 40 + b"\nauthor " + WHO + b"\n\nx"
    assert commit_with(second).tree == ROOT
    assert commit_with(b"tree " + ROOT.encode() + b"\n\nno author").time == 0
    assert commit_with(b"tree " + ROOT.encode() + b"\nx " + b"y" * (10 << 20) + b"\n\nlong").subject == "long"


@pytest.mark.parametrize(
    ("message", "subject"),
    [
        (b"\x1b[31mred\x1b[0m\x00\r\n\nbody", "[31mred[0m"),
        ("a\u202eb".encode(), "ab"),
        (b"caf\xe9", "caf\ufffd"),
        (b"", ""),
    ],
)
def test_B11_a_subject_is_shown_without_control_characters(message, subject):
    assert commit_with(commit(ROOT, message=message)).subject == subject


def test_B11_a_subject_is_cut():
    assert len(commit_with(commit(ROOT, message=b"x" * (10 << 20))).subject) == 256


def tag(target: str, kind: bytes = b"commit") -> bytes:
    return b"object %s\ntype %s\ntag v1\ntagger %s\n\nx\n" % (target.encode(), kind, WHO)


def chain(length: int, kind: bytes = b"commit") -> tuple[Pack, str, str, bytes]:
    raw = commit(ROOT)
    items, found = [Item(COMMIT, raw)], object_hash(COMMIT, raw)
    first, content = found, b""
    for number in range(length):
        content = tag(found, kind if number == 0 else b"tag")
        items.append(Item(TAG, content))
        found = object_hash(TAG, content)
    return packed(*items), found, first, content


@pytest.mark.parametrize("length", [0, 1, 2, 16])
def test_B10_tags_are_peeled(length):
    found, outermost, first, raw = chain(length)
    assert peel(found, outermost) == (first, raw)


@pytest.mark.parametrize("length", [17, 1000])
def test_B10_tags_of_tags_are_bounded(length):
    found, outermost, _, _ = chain(length)
    with pytest.raises(RemoteError, match="more than 16 tags away"):
        peel(found, outermost)


def test_B10_a_tag_that_lies_about_its_target_is_refused():
    for kind, text in ((b"tree", "says that"), (b"nonsense", "cannot be read")):
        found, outermost, _, _ = chain(1, kind)
        with pytest.raises(RemoteError, match=text):
            peel(found, outermost)
    broken = packed(Item(TAG, b"object nothing\n"))
    with pytest.raises(RemoteError, match="cannot be read"):
        peel(broken, object_hash(TAG, b"object nothing\n"))


def test_A26_a_blob_or_tree_is_no_commit():
    found = packed(Item(TREE, b""))
    for wanted, kind in ((X, "blob"), (ROOT, "tree")):
        with pytest.raises(RemoteError, match=f"is a {kind}, not a commit"):
            read_commit(found, wanted)


def test_A38_gitmodules_must_be_a_file():
    for entry, text in (((FILE, b".gitmodules", X), b"x"), ((FILE, b"other", X), None)):
        root = tree(entry)
        assert modules_file(packed(Item(TREE, root)), object_hash(TREE, root), TreeBounds()) == text
    for mode in (LINK, MODULE):
        root = tree((mode, b".gitmodules", X))
        with pytest.raises(RemoteError, match="not a file"):
            modules_file(packed(Item(TREE, root)), object_hash(TREE, root), TreeBounds())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_tree_is_read_or_refused(noise):
    found = packed(Item(TREE, noise))
    checkout = Checkout()
    try:
        name = object_hash(TREE, noise)
        read_tree(found, name, TreeBounds(), Stop(time.monotonic() + 9), Sparse(()), checkout)
    except RemoteError as error:
        assert error.message.isprintable()  # noqa: PT017 - either end is fine, this one has a rule
    for path in checkout.files:
        assert not {"", ".", ".."} & set(path.split("/"))
