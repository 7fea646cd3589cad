"""What repositories of strangers hold: trees, links, modes, packs (hostile-inputs.md B and C), sparse checkouts."""

from __future__ import annotations

import asyncio
import random
import resource
import zlib

import pytest

from gitopsd.artifact.ignore import apply_ignore
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.git import Fetched, GitFetcher, GitLimits, GitRef, GitRequest
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gittree import TreeBounds
from gitopsd.tasks import offload
from tests.flows.git.conftest import refused_inputs
from tests.packs import BLOB, COMMIT, OFFSET_DELTA, TREE, Item, commit, delta, distance, insert, object_hash, pack, tree
from tests.servers import trouble
from tests.servers.git import FLUSH, GitServer, Repository, pkt

FILE, FOLDER, LINK, MODULE = "100644", "40000", "120000", "160000"
MAIN = GitRef("main")


@pytest.fixture
def repository(git_server: GitServer) -> Repository:
    return git_server.repository("app")


def request_for(git_server: GitServer, **more) -> GitRequest:
    return GitRequest(f"{git_server.url}/app.git", MAIN, timeout=20, **more)


async def fetched(git_server: GitServer, fetcher: GitFetcher, **more) -> Fetched:
    return await fetcher.fetch(request_for(git_server, **more))


async def test_files_modes_and_folders_arrive(git_server, fetcher, repository):
    """goldens/source/git-branch"""
    repository.commit(
        {"a.yaml": "a: 1\n", "deploy/run.sh": {"exec": "#!/bin/sh\n"}, "deploy/x.yaml": "", "ü/ä": b"\xff"}
    )
    tree_ = (await fetched(git_server, fetcher)).tree
    assert dict(tree_) == {"a.yaml": b"a: 1\n", "deploy/run.sh": b"#!/bin/sh\n", "deploy/x.yaml": b"", "ü/ä": b"\xff"}
    assert [path for path in tree_ if tree_.is_executable(path)] == ["deploy/run.sh"]
    assert tree_.directories() == {"deploy", "ü"}


async def test_many_files_with_deltas_arrive(git_server, fetcher, repository):
    text = [random.Random(1).randbytes(40).hex() for _ in range(200)]
    files = {f"d{number % 50}/f{number}.yaml": "\n".join([*text, str(number)]) for number in range(2000)}
    repository.commit(files)
    repository.git("repack", "-adfq", "--depth=50")
    assert dict((await fetched(git_server, fetcher)).tree) == {path: text.encode() for path, text in files.items()}


@pytest.mark.parametrize(
    "name", [b".git", b".GIT", b".git ", b"git~1", ".g\u200cit".encode(), b".git::$INDEX_ALLOCATION"]
)
@pytest.mark.parametrize("is_deep", [False, True])
async def test_C01_a_revision_with_dot_git_is_refused(git_server, refusal, repository, name, is_deep):
    blob = repository.put("blob", b"x")
    found = repository.put_tree([(FILE, name, blob)])
    repository.put_commit(repository.put_tree([(FOLDER, b"deep", found)]) if is_deep else found)
    before = refused_inputs("dot-git")
    reason, message = await refusal(request_for(git_server))
    assert reason == "GitOperationFailed"
    assert "a name that Git keeps for itself" in message
    assert refused_inputs("dot-git") == before + 1


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc"])
async def test_C02_names_that_are_paths_are_refused(git_server, refusal, repository, name):
    repository.put_commit(repository.put_tree([(FILE, name, repository.put("blob", b"x"))]))
    assert "is not a name for a file" in (await refusal(request_for(git_server)))[1]


async def test_C03_C08_other_names_are_kept(git_server, fetcher, repository):
    blob = repository.put("blob", b"x")
    names = sorted([b"a\\b", b"CON", b"c:d", b"A", b"a", b"\xff\xfe", "e\u0301".encode(), "\u00e9".encode()])
    repository.put_commit(repository.put_tree([(FILE, name, blob) for name in names]))
    tree_ = (await fetched(git_server, fetcher)).tree
    assert {path.encode("utf-8", "surrogateescape") for path in tree_} == set(names)


async def test_C04_entries_out_of_order_or_twice_are_refused(git_server, refusal, repository):
    blob = repository.put("blob", b"x")
    folder = repository.put_tree([(FILE, b"x", blob)])
    for entries in (
        [(FILE, b"b", blob), (FILE, b"a", blob)],
        [(FILE, b"a", blob), (FOLDER, b"a", folder)],
        [(LINK, b"x", blob), (FOLDER, b"x", folder)],
    ):
        repository.put_commit(repository.put_tree(entries))
        assert "out of order or come twice" in (await refusal(request_for(git_server)))[1]


async def test_C05_links_are_left_out_and_never_followed(git_server, fetcher, repository):
    repository.commit(
        {
            "real": "x",
            "in": {"link": "real"},
            "abs": {"link": "/etc/passwd"},
            "out": {"link": "../../etc/passwd"},
            "loop": {"link": "loop"},
            "long": {"link": "x" * (1 << 20)},
            "d/only-a-link": {"link": "../real"},
            ".sourceignore": {"link": "/etc/hostname"},
        }
    )
    tree_ = (await fetched(git_server, fetcher)).tree
    assert dict(tree_) == {"real": b"x"}
    assert tree_.directories() == {"d"}


async def test_C06_odd_modes(git_server, fetcher, refusal, repository):
    blob = repository.put("blob", b"x")
    repository.put_commit(
        repository.put_tree([("100664", b"a", blob), ("104755", b"b", blob), (MODULE, b"module", "1" * 40)])
    )
    tree_ = (await fetched(git_server, fetcher)).tree
    assert dict(tree_) == {"a": b"x", "b": b"x"}
    assert tree_.is_executable("b")
    assert not tree_.is_executable("a")
    assert tree_.directories() == {"module"}
    for mode in ("0", "7777777"):
        repository.put_commit(repository.put_tree([(mode, b"a", blob)]))
        assert (await refusal(request_for(git_server)))[0] == "GitOperationFailed"


async def test_C07_a_deep_tree_is_refused_without_recursion(git_server, refusal, repository):
    found = repository.put_tree([(FILE, b"f", repository.put("blob", b"x"))])
    for _ in range(600):
        found = repository.put_tree([(FOLDER, b"d", found)])
    repository.put_commit(found)
    assert "the trees are deeper than 128" in (await refusal(request_for(git_server)))[1]


async def test_C07_trees_that_repeat_each_other_are_refused(git_server, repository):
    found = repository.put_tree([(FILE, b"f", repository.put("blob", b"x"))])
    for _ in range(40):
        found = repository.put_tree([(FOLDER, b"a", found), (FOLDER, b"b", found)])
    repository.put_commit(found)
    bounded = GitFetcher(limits=GitLimits(tree=TreeBounds(entries=20_000)))
    with pytest.raises(FetchError, match="hold more than 20000 entries"):
        await bounded.fetch(request_for(git_server))
    await bounded.aclose()


async def test_C07_long_names_and_paths_are_refused(git_server, refusal, repository):
    blob = repository.put("blob", b"x")
    repository.put_commit(repository.put_tree([(FILE, b"n" * 300, blob)]))
    assert "a name is longer than 255 bytes" in (await refusal(request_for(git_server)))[1]
    found = repository.put_tree([(FILE, b"f", blob)])
    for _ in range(20):
        found = repository.put_tree([(FOLDER, b"d" * 250, found)])
    repository.put_commit(found)
    assert "a path is longer than 4096 bytes" in (await refusal(request_for(git_server)))[1]


async def test_s5_3_A39_pointers_of_large_files_and_attributes_are_plain_text(git_server, fetcher, repository):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
    files = {
        "big.bin": pointer,
        ".gitattributes": "*.bin filter=lfs\n*.yaml text eol=crlf export-ignore\n",
        "a.yaml": "a\n",
    }
    repository.commit(files)
    assert dict((await fetched(git_server, fetcher)).tree) == {path: text.encode() for path, text in files.items()}


async def test_B11_a_message_of_a_stranger_is_shown_safely(git_server, fetcher, repository):
    repository.put_commit(repository.put_tree([]), message="\x1b[31mred\x1b[0m\u202e" + "x" * 1000 + "\n\nbody")
    subject = (await fetched(git_server, fetcher)).message_subject
    assert subject.startswith("[31mred[0mxxx")
    assert len(subject.encode()) == 256


async def test_an_empty_tree_is_a_valid_tree(git_server, fetcher, repository):
    repository.put_commit(repository.put_tree([]))
    assert len((await fetched(git_server, fetcher)).tree) == 0


@pytest.mark.parametrize("spec_ignore", [None, "", "*.txt\n!keep.txt", "/*\n!/deploy"])
async def test_what_is_left_out_early_is_what_the_ignore_rules_exclude(git_server, fetcher, repository, spec_ignore):
    repository.commit(
        {
            "a.yaml": "1",
            "img.png": "2",
            "x.txt": "3",
            "keep.txt": "4",
            ".github/w.yaml": "5",
            ".gitmodules": "",
            "deploy/run.sh": {"exec": "6"},
            "deploy/img.png": "7",
            "only-links/l": {"link": "x"},
            "secret/a/b": "8",
            "sub/.sourceignore": "*.log\n",
            "sub/x.log": "9",
        }
    )
    whole = await fetched(git_server, fetcher)
    early = await fetched(git_server, fetcher, leave_out=True, ignore=spec_ignore)
    assert (whole.is_filtered, early.is_filtered) == (False, True)
    assert early.tree == await offload(apply_ignore, whole.tree, spec_ignore)
    assert early.tree != whole.tree


async def test_B14_a_large_file_that_is_left_out_is_never_unpacked(git_server, fetcher, repository, monkeypatch):
    repository.commit({"big.bin": bytes(9 << 20), "a.yaml": "a", ".sourceignore": "*.bin\n"})
    read: list[int] = []
    real = Pack.get

    def counted(self: Pack, wanted: bytes) -> tuple[int, bytes]:
        kind, content = real(self, wanted)
        read.append(len(content))
        return kind, content

    monkeypatch.setattr(Pack, "get", counted)
    found = await fetched(git_server, fetcher, leave_out=True)
    assert set(found.tree) == {"a.yaml", ".sourceignore"}
    assert max(read) < 1000


async def test_C09_rules_that_cannot_be_used_are_left_to_who_says_why(git_server, fetcher, repository):
    repository.commit({".sourceignore": "x\n" * (1 << 20), "a.yaml": "a"})
    found = await fetched(git_server, fetcher, leave_out=True)
    assert not found.is_filtered
    assert set(found.tree) == {".sourceignore", "a.yaml"}


# Packs that no Git server would make, sent by one that does.


def made(files: dict[str, bytes]) -> tuple[str, list[Item]]:
    """A commit of `files` and all its objects."""
    blobs = [Item(BLOB, content) for content in files.values()]
    names = sorted(files)
    root = tree(*((b"100644", name.encode(), object_hash(BLOB, files[name])) for name in names))
    raw = commit(object_hash(TREE, root))
    return object_hash(COMMIT, raw), [*blobs, Item(TREE, root), Item(COMMIT, raw)]


class Sent:
    """Lets the server list a commit that exists only in a pack made by hand, and sends that pack."""

    def __init__(self, git_server: GitServer, sha: str) -> None:
        self._server = git_server
        self._sha = sha
        git_server.repository("app").commit({"a": "1"})

    def pack(self, data: bytes):
        listing = pkt(f"{self._sha} refs/heads/main\n") + FLUSH
        bands = b"".join(pkt(b"\x01" + data[start : start + 60000]) for start in range(0, len(data), 60000))

        def swap(content: bytes) -> bytes:
            return listing if b"refs/heads" in content else pkt("packfile\n") + bands + FLUSH

        return self._server.behave("*/git-upload-pack", trouble.altered(swap))


async def test_a_pack_made_by_hand_is_read_like_any_other(git_server, fetcher):
    """The frame of the next tests works."""
    sha, items = made({"a": b"1", "b": b"2"})
    with Sent(git_server, sha).pack(pack(items)):
        assert dict((await fetched(git_server, fetcher)).tree) == {"a": b"1", "b": b"2"}


async def test_A28_an_object_that_did_not_come_is_missed(git_server, refusal):
    sha, items = made({"a": b"1", "b": b"2"})
    for missing in range(len(items)):
        rest = [item for number, item in enumerate(items) if number != missing]
        with Sent(git_server, sha).pack(pack(rest)):
            assert "is not in the pack" in (await refusal(request_for(git_server)))[1]


async def test_A28_B02_altered_content_is_never_accepted_for_the_commit(git_server, refusal):
    """Its hash is another one, so that the tree does not find it."""
    sha, items = made({"a": b"genuine"})
    forged = [Item(BLOB, b"altered"), *items[1:]]
    with Sent(git_server, sha).pack(pack(forged)):
        assert "is not in the pack" in (await refusal(request_for(git_server)))[1]


async def test_B02_a_flipped_bit_anywhere_is_an_error_and_the_next_try_works(git_server, fetcher, refusal):
    sha, items = made({f"f{number}": b"content %d" % number for number in range(10)})
    whole, draw = pack(items), random.Random(2)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        with Sent(git_server, sha).pack(bytes(damaged)):
            assert (await refusal(request_for(git_server)))[0] == "GitOperationFailed"
    with Sent(git_server, sha).pack(whole):
        assert len((await fetched(git_server, fetcher)).tree) == 10


async def test_B03_a_bomb_stops_at_its_declared_size_and_takes_little_memory(git_server, refusal):
    sha, items = made({"a": b"1"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packer = zlib.compressobj(1)
    bomb = b"".join([packer.compress(bytes(1 << 20)) for _ in range(200)]) + packer.flush()
    for declared in (1000, 100 << 20):
        with Sent(git_server, sha).pack(pack([*items, Item(BLOB, b"", size=declared, raw=bomb)])):
            assert "an object is larger than it declares" in (await refusal(request_for(git_server)))[1]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 128 << 10  # KiB


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        (Item(OFFSET_DELTA, delta(1, 1, insert(b"x")), base=distance(0)), "no object before it"),
        (Item(5, b"x"), "unknown type 5"),
        (Item(BLOB, b"", size=1 << 60), "larger than"),
        (Item(BLOB, b"x", size=2), "smaller than it declares"),
    ],
)
async def test_B04_to_B08_a_bad_object_spoils_the_pack(git_server, refusal, extra, part):
    sha, items = made({"a": b"1"})
    with Sent(git_server, sha).pack(pack([*items, extra])):
        reason, message = await refusal(request_for(git_server))
    assert reason == "GitOperationFailed"
    assert part in message


async def test_B09_a_commit_that_git_does_not_read_is_refused(git_server, refusal):
    raw = b"author nobody\n\nx"
    with Sent(git_server, object_hash(COMMIT, raw)).pack(pack([Item(COMMIT, raw)])):
        assert "names no tree" in (await refusal(request_for(git_server)))[1]


async def test_the_work_on_a_pack_ends_with_its_caller(git_server, fetcher, repository):
    """A large pack is read in a thread, which a cancelled caller does not leave behind."""
    content = random.Random(3).randbytes(1 << 20)
    repository.commit({f"f{number}": content[number * 1000 :] for number in range(10)})
    task = asyncio.create_task(fetcher.fetch(request_for(git_server)))
    await asyncio.to_thread(git_server.wait_for, lambda seen: [one for one in seen if b"command=fetch" in one.body])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await fetched(git_server, fetcher)).tree) == 10


async def test_a_pack_too_large_for_memory_goes_through_a_file(git_server, repository, tmp_path, monkeypatch):
    monkeypatch.setattr("gitopsd.fetch.gitspool._SPILL_AT", 100_000)
    content = random.Random(4).randbytes(1 << 20)
    repository.commit({"big": content, "small": "x"})
    spooling = GitFetcher(spool=tmp_path)
    assert (await spooling.fetch(request_for(git_server))).tree["big"] == content
    assert not list(tmp_path.iterdir())
    full = GitFetcher(spool=tmp_path / "missing")
    with pytest.raises(FetchError, match="no such file or directory") as caught:
        await full.fetch(request_for(git_server))
    assert str(tmp_path) not in caught.value.message
    await spooling.aclose()
    await full.aclose()


# Sparse checkouts (spec/source.md 5.3, goldens/source/git-sparse)


async def test_s5_3_sparse_entries_select_by_prefix(git_server, fetcher, repository):
    repository.commit({"charts/a.yaml": "a", "charts-old/b.yaml": "b", "other/c.yaml": "c", "root.yaml": "d"})
    tree_ = (await fetched(git_server, fetcher, sparse=("./charts",))).tree
    assert set(tree_) == {"charts/a.yaml", "charts-old/b.yaml"}
    assert tree_.directories() == {"charts", "charts-old"}
    assert set((await fetched(git_server, fetcher, sparse=("other", "root.yaml"))).tree) == {
        "other/c.yaml",
        "root.yaml",
    }


@pytest.mark.parametrize("entry", ["nope", "../charts", "/charts", "chart*", "charts/../charts2"])
async def test_s5_3_A41_a_sparse_entry_that_does_not_exist_is_named(git_server, refusal, repository, entry):
    repository.commit({"charts/a.yaml": "a"})
    assert await refusal(request_for(git_server, sparse=("charts", entry))) == (
        "GitOperationFailed",
        f"failed to sparse checkout directories : sparse checkout dir '{entry}' does not exist in repository:"
        " no such file or directory",
    )
