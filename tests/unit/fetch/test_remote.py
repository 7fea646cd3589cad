from __future__ import annotations

from dataclasses import dataclass

import pytest

from gitopsd import metrics
from gitopsd.artifact.tree import FileTree
from gitopsd.fetch.errors import FetchError
from gitopsd.fetch.gitref import GitRef, UnresolvedError, known_target
from gitopsd.fetch.giturl import read
from gitopsd.fetch.remote import Kept, RemoteBases, is_manifest, is_repository_form, read_address, read_ref

C = "c" * 40
YAML = b"apiVersion: v1\nkind: ConfigMap\n"


@dataclass(frozen=True)
class Git:
    url: str
    ref: str = ""
    submodules: bool = True


@dataclass(frozen=True)
class Wanted:
    url: str = ""
    git: Git | None = None


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was connected to")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("", ("HEAD",)),
        ("HEAD", ("HEAD",)),
        ("v1", ("refs/v1", "refs/tags/v1", "refs/heads/v1")),
        ("feature/x", ("refs/feature/x", "refs/tags/feature/x", "refs/heads/feature/x")),
        ("refs/pull/1/head", ("refs/pull/1/head",)),
        ("c" * 7, ("refs/ccccccc", "refs/tags/ccccccc", "refs/heads/ccccccc")),
    ],
)
def test_a_ref_is_read_in_the_order_of_gits_own_rules(text, candidates):
    assert read_ref(text).candidates == candidates


def test_a_ref_that_is_a_full_hash_is_that_commit():
    assert read_ref(C) == GitRef(commit=C)
    assert read_ref(C.upper()) == GitRef(commit=C)


@pytest.mark.parametrize(
    "text",
    [
        *("-x", "--upload-pack=touch /tmp/x", "-", "a b", "a\nb", "a\0b", "a\x7fb", "a..b", "a:b", "a~1", "a^{}", "/a"),
        *("a/", "a//b", "a.lock", "@{1}", "refs/../x", "refs/", "\udcff", "x" * 5000),
    ],
)
def test_J04_a_ref_that_is_no_name_is_refused(text):
    before = metrics.refused_inputs.labels("remote-base", "reference")._value.get()
    with pytest.raises(FetchError, match="it is refused: its ref is not a legal name"):
        read_ref(text)
    assert metrics.refused_inputs.labels("remote-base", "reference")._value.get() == before + 1


def test_a_short_name_counts_only_when_nothing_else_is_asked_for():
    assert GitRef(tag="v2", short="v1").candidates == ("refs/tags/v2",)
    assert GitRef("main").candidates == ("refs/heads/main",)
    assert not GitRef(short="main").is_branch
    assert known_target(GitRef(short="v1"), f"v1@sha1:{C}") is None
    with pytest.raises(UnresolvedError):
        assert GitRef(short="a..b").candidates


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ssh://git@h/o/r", "only http and https are supported: over ssh nobody is let in without credentials"),
        ("file:///etc/passwd", "its|scheme 'file' is not supported"),
        ("git://h/o/r", "scheme 'git' is not supported"),
        ("ext::sh -c id", "it holds whitespace or a control character"),
        ("https://h/a\nb", "it holds whitespace or a control character"),
        ("https:///x.yaml", "it has no host"),
        ("https://-oProxyCommand=x/r", "invalid host"),
        ("https://h/x.yaml#top", "it has a fragment"),
        ("https://h:0/x.yaml", "invalid port"),
    ],
)
def test_J04_an_address_that_may_not_be_used_is_refused(text, why):
    with pytest.raises(FetchError, match=why):
        read_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("https://user:pa/ss@h/x", "https://user:secret@:x/", "ftp://user:secret@h/", "https://u:secret@h/a b"),
        *("https://h/%zz?token=secret", "https://h:port/x?token=secret", "https://-/?token=secret"),
    ],
)
def test_the_refusal_of_an_address_shows_neither_userinfo_nor_query(text):
    with pytest.raises(FetchError) as caught:
        read_address(text)
    assert "secret" not in caught.value.message
    assert "pa" not in caught.value.message.removeprefix("it is refused: its address cannot be taken apart")


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("https://h/o/r.git//deploy?ref=v1", True),
        ("https://h/o/r.git", True),
        ("https://h/o/r.git/deploy", True),
        ("https://h/o/r//deploy", True),
        ("https://h/o/p/_git/r", True),
        ("https://h/o/r", False),
        ("https://h/o/r/x.yaml", False),
        ("https://h//x.yaml", False),
        ("https://h/o/site.github.io/x.yaml", False),
    ],
)
def test_the_form_of_an_address_tells_which_is_tried_first(text, is_one):
    assert is_repository_form(read(text)) is is_one


@pytest.mark.parametrize(
    ("kind", "content", "is_one"),
    [
        ("text/yaml", YAML, True),
        ("text/plain", YAML, True),
        ("", b'{"kind": "List"}', True),
        ("text/html", YAML, False),
        ("text/plain", b"\n <!DOCTYPE html>", False),
        ("application/octet-stream", b"\x1f\x8b\x08", False),
        ("text/plain", b"a\0b", False),
    ],
)
def test_a_page_for_people_is_no_manifest(kind, content, is_one):
    assert is_manifest(kind, content) is is_one


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(), "it names neither a file nor a repository"),
        (Wanted("ftp://h/x.yaml"), "scheme 'ftp' is not supported"),
        (Wanted(git=Git("ssh://git@h/o/r")), "only http and https are supported"),
        (Wanted("https://h/o/r?ref=-x", Git("https://h/o/r", "-x")), "its ref is not a legal name"),
    ],
)
@pytest.mark.usefixtures("no_network")
async def test_J04_what_is_refused_is_refused_before_anything_is_connected(wanted, why):
    async with RemoteBases() as bases:
        with pytest.raises(FetchError, match=why):
            await bases.fetch(wanted)


@pytest.mark.parametrize("wanted", [Wanted("http://u:secret@h/x"), Wanted(git=Git("http://u:secret@h/o/r"))])
@pytest.mark.usefixtures("no_network")
async def test_A12_userinfo_stays_off_plain_http_where_that_is_forbidden(wanted):
    async with RemoteBases(allow_http=False) as bases:
        with pytest.raises(FetchError, match="URL cannot contain credentials when using HTTP"):
            await bases.fetch(wanted)


# -- what is kept ------------------------------------------------------------------------------------------------------


def tree(size: int = 1) -> FileTree:
    return FileTree.build({"a": b"x" * size})


def test_a_tree_is_kept_for_its_address_commit_and_submodules_only():
    kept, found = Kept(), tree()
    kept.put(("https://u:p@h/r", C, True), found)
    assert kept.get(("https://u:p@h/r", C, True)) is found
    assert kept.get(("https://h/r", C, True)) is None
    assert kept.get(("https://u:p@h/r", C, False)) is None
    assert kept.get(("https://u:p@h/r", "d" * 40, True)) is None


def test_a_tree_is_kept_for_a_while_however_often_it_is_used():
    now = 0.0
    kept = Kept(seconds=10, clock=lambda: now)
    kept.put(("r", C, True), tree())
    now = 9.0
    assert kept.get(("r", C, True)) is not None
    now = 10.0
    assert kept.get(("r", C, True)) is None


def test_the_oldest_trees_go_when_there_is_no_room_and_one_too_large_is_not_kept():
    one = tree(1000)
    kept = Kept(budget=2 * one.size)
    for name in ("a", "b", "a", "c"):
        kept.put((name, C, True), tree(1000))
    assert [kept.get((name, C, True)) is not None for name in "abc"] == [True, False, True]
    kept.put(("d", C, True), tree(5 * one.size))
    assert [kept.get((name, C, True)) is not None for name in "acd"] == [True, True, False]
