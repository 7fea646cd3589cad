"""What commits, tags and trees mean: from a verified pack to the files of one commit.

Knows the text of commits and tags, tree entries and which of them may become files; refuses to know packs' insides,
the network and ignore rules. Blocking where it walks trees: belongs into a thread.
Invariants: no path leaves the tree, none is or is in a `.git`, and none comes twice; symbolic links never become files;
walking needs no recursion and ends at its bounds (spec/hostile-inputs.md C).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import normpath

from gitopsd.artifact.ignore import IGNORE_FILE, IgnoreError, ignore_matcher
from gitopsd.artifact.tree import decode_path, shown
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gitobjects import BLOB, COMMIT, KINDS, TAG, TREE, Objects
from gitopsd.fetch.gitspool import Stop

_PEEL_LIMIT = 16
_SUBJECT_LIMIT = 256
_TREE_LINE = re.compile(rb"tree ([0-9a-f]{40})\n")
_PARENT_LINE = re.compile(rb"parent ([0-9a-f]{40})\n")
_TAG_LINES = re.compile(rb"object ([0-9a-f]{40})\ntype ([a-z]+)\ntag [^\n]*\n")
_COMMITTER = re.compile(rb"^committer [^\n]*> (\d{1,19}) [+-]\d{4}$", re.MULTILINE)
_ENTRY = re.compile(rb"([0-7]{1,7}) ([^\0]+)\0(.{20})", re.DOTALL)
_KIND_NAMES = {name.encode(): kind for kind, name in KINDS.items()}
_FORMAT, _FORMAT_FILE, _FORMAT_TREE, _FORMAT_LINK, _FORMAT_MODULE = 0o170000, 0o100000, 0o040000, 0o120000, 0o160000
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_DOT_GIT = frozenset((b".git", b"git~1"))
MODULES_FILE = b".gitmodules"


@dataclass(frozen=True)
class Commit:
    """A commit, as far as we need it. `raw` is the whole object, for verification."""

    hash: str
    tree: str
    parents: tuple[str, ...]
    time: int
    subject: str
    raw: bytes = field(repr=False)


def read_commit(pack: Objects, wanted: str) -> Commit:
    """Read a commit that came in `pack`; strict about exactly what Git itself is strict about."""
    kind, raw = pack.get(bytes.fromhex(wanted))
    if kind != COMMIT:
        raise RemoteError(f"object {wanted} is a {KINDS[kind]}, not a commit", rule="commit")
    found = _TREE_LINE.match(raw)
    if found is None:
        raise RemoteError(f"commit {wanted} names no tree", rule="commit")
    tree, parents, at = found[1].decode(), [], found.end()
    while raw.startswith(b"parent ", at):
        parent = _PARENT_LINE.match(raw, at)
        if parent is None:
            raise RemoteError(f"commit {wanted} names a parent that is no hash", rule="commit")
        parents.append(parent[1].decode())
        at = parent.end()
    header, _, message = raw[at:].partition(b"\n\n")
    committed = _COMMITTER.search(header)
    return Commit(
        wanted, tree, tuple(parents), int(committed[1]) if committed else 0, _subject(message.partition(b"\n")[0]), raw
    )


def _subject(line: bytes) -> str:
    return printable(line, _SUBJECT_LIMIT)


def peel(pack: Objects, wanted: str) -> tuple[str, bytes]:
    """Follow tags from `wanted` to what they name: its hash, and the outermost tag object (empty without one)."""
    outermost = b""
    promised: int | None = None
    for _ in range(_PEEL_LIMIT + 1):
        kind, raw = pack.get(bytes.fromhex(wanted))
        if promised is not None and kind != promised:
            raise RemoteError(f"a tag says that {wanted} is a {KINDS[promised]}, which it is not", rule="tag")
        if kind != TAG:
            return wanted, outermost
        found = _TAG_LINES.match(raw)
        if found is None or found[2] not in _KIND_NAMES:
            raise RemoteError(f"tag {wanted} cannot be read", rule="tag")
        outermost = outermost or raw
        wanted, promised = found[1].decode(), _KIND_NAMES[found[2]]
    raise RemoteError(f"a tag is more than {_PEEL_LIMIT} tags away from what it names", rule="tag")


@dataclass(frozen=True)
class TreeBounds:
    """How far one checkout may go (spec/hostile-inputs.md, bounds)."""

    depth: int = 128
    entries_per_tree: int = 100_000
    # All entries of all trees, counted each time they are met: what stops trees that contain each other's like a bomb.
    entries: int = 1_000_000
    files: int = 200_000
    path: int = 4096
    component: int = 255


@dataclass
class Checkout:
    """The files of a commit and of its submodules, still in their packs.

    `files` maps a path to the number of its pack (two bytes) and the hash: one value that no garbage collector visits.
    """

    packs: list[Objects] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    executables: set[str] = field(default_factory=set)
    directories: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    # Submodules by path: the commit that is wanted of them.
    modules: dict[str, str] = field(default_factory=dict)
    entries: int = 0

    def all_directories(self) -> set[str]:
        """The directories, those that only hold something included."""
        found = set(self.directories)
        for path in (*self.directories, *self.files):
            parent = path.rpartition("/")[0]
            while parent and parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return found

    def contents(self) -> Mapping[str, bytes]:
        """The files by path, each read when it is asked for."""
        return _Contents(self.packs, self.files)


class _Contents(Mapping[str, bytes]):
    def __init__(self, packs: Sequence[Objects], files: Mapping[str, bytes]) -> None:
        self._packs = packs
        self._files = files

    def __getitem__(self, path: str) -> bytes:
        place = self._files[path]
        kind, content = self._packs[int.from_bytes(place[:2], "big")].get(place[2:])
        if kind != BLOB:
            raise RemoteError(f"'{shown(path)}' is a {KINDS[kind]}, not a file", rule="tree")
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Sparse:
    """Which paths `spec.sparseCheckout` selects: raw string prefixes of file paths (spec/source.md 5.3)."""

    def __init__(self, entries: Sequence[str]) -> None:
        self._everything = not entries
        self._entries = entries
        trimmed = sorted({entry.removeprefix("./") for entry in entries})
        # Without those that another one covers, at most one prefix can match a path: its neighbour in the order.
        self._prefixes: list[str] = []
        for prefix in trimmed:
            if not self._prefixes or not prefix.startswith(self._prefixes[-1]):
                self._prefixes.append(prefix)
        self._wanted = {_plain(entry) for entry in entries}
        self._found: set[str] = set()

    def selects(self, path: str) -> bool:
        """Whether a file is selected."""
        if self._everything:
            return True
        at = bisect_right(self._prefixes, path)
        return at > 0 and path.startswith(self._prefixes[at - 1])

    def enters(self, directory: str) -> bool:
        """Whether anything below `directory` may be selected."""
        if self._everything:
            return True
        start = f"{directory}/"
        at = bisect_right(self._prefixes, start)
        if at > 0 and start.startswith(self._prefixes[at - 1]):
            return True
        return at < len(self._prefixes) and self._prefixes[at].startswith(start)

    def saw(self, path: str) -> None:
        """Note that `path` exists."""
        if path in self._wanted:
            self._found.add(path)

    def missing(self) -> str | None:
        """The first entry that names nothing that exists."""
        return next((entry for entry in self._entries if (name := _plain(entry)) and name not in self._found), None)


def _plain(entry: str) -> str:
    path = normpath(entry)
    return "" if path == "." else path


def modules_file(pack: Objects, tree: str, bounds: TreeBounds) -> bytes | None:
    """The content of `.gitmodules` at the root of a tree; None without one. Raises RemoteError when it is no file."""
    _, data = pack.get(bytes.fromhex(tree))
    for mode, name, child in _entries(data, bounds):
        if name == MODULES_FILE:
            kind, content = pack.get(child) if mode & _FORMAT == _FORMAT_FILE else (0, b"")
            if kind != BLOB:
                raise RemoteError(".gitmodules is not a file", rule="gitmodules")
            return content
    return None


def read_tree(
    pack: Objects, tree: str, bounds: TreeBounds, stop: Stop, sparse: Sparse, into: Checkout, prefix: str = ""
) -> None:
    """Add what is below `tree` to `into`, each path with `prefix` before it. Raises RemoteError for what may not be."""
    into.packs.append(pack)
    place = (len(into.packs) - 1).to_bytes(2, "big")
    walk: list[tuple[bytes, bytes, int]] = [(prefix.encode("utf-8", "surrogateescape"), bytes.fromhex(tree), 0)]
    while walk:
        stop.check()
        start, found, depth = walk.pop()
        kind, data = pack.get(found)
        if kind != TREE:
            raise RemoteError(f"object {found.hex()} is a {KINDS[kind]}, not a tree", rule="tree")
        for mode, name, child in _entries(data, bounds):
            into.entries += 1
            if into.entries > bounds.entries:
                raise RemoteError(f"the trees hold more than {bounds.entries} entries", rule="tree-entries")
            raw = start + name
            if len(raw) > bounds.path:
                raise RemoteError(f"a path is longer than {bounds.path} bytes", rule="path-length")
            path = decode_path(raw)
            sparse.saw(path)
            if mode & _FORMAT == _FORMAT_TREE:
                if depth >= bounds.depth:
                    raise RemoteError(f"the trees are deeper than {bounds.depth}", rule="tree-depth")
                if sparse.enters(path):
                    walk.append((raw + b"/", child, depth + 1))
            elif sparse.selects(path):
                _take(into, path, mode, place + child, bounds)


def _take(into: Checkout, path: str, mode: int, place: bytes, bounds: TreeBounds) -> None:
    if mode & _FORMAT == _FORMAT_FILE:
        into.files[path] = place
        if len(into.files) > bounds.files:
            raise RemoteError(f"there are more than {bounds.files} files", rule="tree-files")
        if mode & 0o100:
            into.executables.add(path)
    elif mode & _FORMAT == _FORMAT_MODULE:
        into.modules[path] = place[2:].hex()
        into.directories.add(path)
    else:
        into.links.add(path)
        parent = path.rpartition("/")[0]
        if parent:
            into.directories.add(parent)


def leave_out(checkout: Checkout, spec_ignore: str | None) -> bool:
    """Drop what the ignore rules exclude, before any of it is read; the outcome is that of `apply_ignore`.

    Returns whether that was done: rules that cannot be used are left to `apply_ignore`, which says why.
    """
    contents = checkout.contents()
    rules = {
        path.rpartition("/")[0]: contents[path]
        for path in checkout.files
        if path == IGNORE_FILE or path.endswith(f"/{IGNORE_FILE}")
    }
    try:
        ignored = ignore_matcher(spec_ignore, rules)
        folders = checkout.all_directories()
        kept = {path: place for path, place in checkout.files.items() if not ignored(path, False)}
        checkout.directories = {path for path in folders if not ignored(path, True)}
    except IgnoreError:
        return False
    checkout.files = kept
    checkout.executables &= kept.keys()
    return True


def _entries(data: bytes, bounds: TreeBounds) -> Iterator[tuple[int, bytes, bytes]]:
    """The entries of one tree, checked as `git fsck` would check them."""
    at, last = 0, b""
    names: set[bytes] = set()
    while at < len(data):
        found = _ENTRY.match(data, at)
        if found is None:
            raise RemoteError("a tree cannot be read", rule="tree")
        at = found.end()
        mode, name = int(found[1], 8), found[2]
        _check_entry(mode, name, bounds)
        # Git's own order: a directory sorts as if its name ended in a slash.
        order = name + (b"/" if mode == _FORMAT_TREE else b"\0")
        if order <= last or name in names:
            raise RemoteError("the entries of a tree are out of order or come twice", rule="tree-order")
        last = order
        names.add(name)
        if len(names) > bounds.entries_per_tree:
            raise RemoteError(f"a tree has more than {bounds.entries_per_tree} entries", rule="tree-entries")
        yield mode, name, found[3]


def _check_entry(mode: int, name: bytes, bounds: TreeBounds) -> None:
    if mode not in {_FORMAT_TREE, _FORMAT_LINK, _FORMAT_MODULE} and mode & ~0o7777 != _FORMAT_FILE:
        raise RemoteError(f"'{printable(name, 256)}' has the unknown mode {mode:o}", rule="tree-mode")
    if name in {b".", b".."} or b"/" in name:
        raise RemoteError(f"'{printable(name, 256)}' is not a name for a file", rule="tree-name")
    if is_dot_git(name):
        raise RemoteError(f"'{printable(name, 256)}' is a name that Git keeps for itself", rule="dot-git")
    if len(name) > bounds.component:
        raise RemoteError(f"a name is longer than {bounds.component} bytes", rule="path-length")


def is_dot_git(name: bytes) -> bool:
    """Whether some file system would take `name` for `.git`: other case, short form, trailing dots, invisible marks."""
    if not name.isascii():
        try:
            name = _HFS_IGNORED.sub("", name.decode()).encode()
        except UnicodeDecodeError:
            return False
    lowered = name.lower()
    if b"git" not in lowered:
        return False
    return any(part.partition(b":")[0].rstrip(b" .") in _DOT_GIT for part in lowered.split(b"\\"))
