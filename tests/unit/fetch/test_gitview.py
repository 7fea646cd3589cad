from __future__ import annotations

import math

import pytest

from gitopsd.fetch.errors import RemoteError
from gitopsd.fetch.gitobjects import BLOB, COMMIT, TAG, TREE
from gitopsd.fetch.gitpack import Pack
from gitopsd.fetch.gitspool import PackLimits, Stop
from gitopsd.fetch.gitview import Layers, is_whole, laid_over, reachable
from tests.packs import Item, commit, object_hash, pack, tree

STOP = Stop(math.inf)
FILE, OTHER = b"content", b"other"


def read(*items: tuple[int, bytes]) -> Pack:
    return Pack(pack([Item(kind, content) for kind, content in items]), PackLimits(), STOP)


INNER = tree((b"100755", b"run", object_hash(BLOB, OTHER)))
TOP = tree(
    (b"100644", b"a", object_hash(BLOB, FILE)),
    (b"40000", b"dir", object_hash(TREE, INNER)),
    (b"160000", b"module", "1" * 40),
)
MADE = commit(object_hash(TREE, TOP), parents=["2" * 40])
MARK = b"object " + object_hash(COMMIT, MADE).encode() + b"\ntype commit\ntag v1\n\nx"
ALL = ((COMMIT, MADE), (TREE, TOP), (TREE, INNER), (BLOB, FILE), (BLOB, OTHER), (TAG, MARK))


def test_a_commit_is_whole_without_its_parents_and_submodules():
    found = read(*ALL)
    for want in (object_hash(COMMIT, MADE), object_hash(TAG, MARK)):
        assert is_whole(found, want, STOP)
    names = [name.hex() for name, is_there in reachable(found, [object_hash(TAG, MARK)], STOP) if is_there]
    assert sorted(names) == sorted(object_hash(kind, content) for kind, content in ALL)


@pytest.mark.parametrize("missing", range(5))
def test_B07_a_commit_of_which_anything_is_missing_is_not_whole(missing):
    left = [item for number, item in enumerate(ALL) if number != missing]
    assert not is_whole(read(*left), object_hash(COMMIT, MADE), STOP)
    both = laid_over(read(*left), read(*ALL), object_hash(COMMIT, MADE), STOP)
    assert is_whole(both, object_hash(COMMIT, MADE), STOP)


def test_layers_are_looked_through_in_their_order():
    layers = Layers((read(*ALL[:2]), read(*ALL[2:])))
    for kind, content in ALL:
        assert object_hash(kind, content) in layers
        assert layers.get(bytes.fromhex(object_hash(kind, content))) == (kind, content)
    assert not layers.has(bytes(20))
    with pytest.raises(RemoteError, match="in no pack"):
        layers.get(bytes(20))


def test_a_tree_that_contains_itself_by_way_of_many_is_walked_once():
    trees, name = [], object_hash(BLOB, FILE)
    mode = b"100644"
    for _ in range(40):
        content = tree((mode, b"a", name), (mode, b"b", name))
        trees.append((TREE, content))
        mode, name = b"40000", object_hash(TREE, content)
    made = commit(name)
    found = read((COMMIT, made), *trees, (BLOB, FILE))
    assert len(list(reachable(found, [object_hash(COMMIT, made)], STOP))) == 42


def test_what_is_no_commit_at_all_needs_only_itself():
    found = read((BLOB, FILE), (COMMIT, b"no tree"))
    assert is_whole(found, object_hash(BLOB, FILE), STOP)
    assert is_whole(found, object_hash(COMMIT, b"no tree"), STOP)
