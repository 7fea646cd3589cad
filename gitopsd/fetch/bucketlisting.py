"""What a bucket holds: all pages of its listing, as the index that a revision is made from.

Theory of operation. Each page is judged as it comes, so that only what is wanted is kept: keys that end in a slash and
the root's `.sourceignore` are no content, and what the rules ignore is left out (spec/source.md 9.2). A key becomes a
path the way upstream's file system would see it: slashes at its beginning and twice in a row count once. A key with a
part `..`, a NUL byte or a part that is too long has no path. The digest is taken over the raw keys (9.3).

Knows entries, rules and bounds; refuses to know protocols and what is downloaded. Invariant: a listing that cannot be
read to its end is an error, never a shorter listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from gitopsd.artifact.archive import hasher
from gitopsd.artifact.ignore import IGNORE_FILE, Matcher, ignore_matcher
from gitopsd.artifact.tree import DEFAULT_LIMITS, TreeError, TreeLimits, encode_path, shown
from gitopsd.fetch.bucketclient import BucketClient, Entry
from gitopsd.fetch.errors import RemoteError
from gitopsd.tasks import offload, sorted_in_parts

# Storages may give empty pages in between; one that gives nothing else has nothing to give.
_MOST_EMPTY_PAGES: Final = 1_000
_MOST_PAGES: Final = 10_000
_FINGERPRINT: Final = 16


@dataclass(frozen=True)
class BucketIndex:
    """The objects that make an artifact, by their paths; `sourceignore` is the rules' own file, if there is one."""

    entries: Mapping[str, Entry] = field(repr=False)
    sourceignore: bytes | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def revision(self, algorithm: str) -> str:
        """`<algorithm>:<hex>` of the lines `<key> <etag>`. Takes time: offload it. Raises ArchiveError."""
        found = hasher(algorithm)
        for line in self._lines:
            found.update(line)
        return f"{algorithm}:{found.hexdigest()}"

    @cached_property
    def _lines(self) -> list[bytes]:
        ordered = sorted_in_parts((entry.key.encode(), entry.etag.encode()) for entry in self.entries.values())
        return [b"%s %s\n" % pair for pair in ordered]

    @property
    def fingerprints(self) -> bytes:
        """What is known of every entry, in sixteen bytes each; for `Seen`."""
        return b"".join(fingerprint(entry) for entry in self.entries.values())


class Seen:
    """Which entries are known from an index before."""

    def __init__(self, fingerprints: bytes = b"") -> None:
        starts = range(0, len(fingerprints), _FINGERPRINT)
        self._known = frozenset(fingerprints[start : start + _FINGERPRINT] for start in starts)

    def __contains__(self, entry: Entry) -> bool:
        return bool(entry.etag) and bool(self._known) and fingerprint(entry) in self._known


def fingerprint(entry: Entry) -> bytes:
    """Key and etag in sixteen bytes, which nobody can make equal for two entries."""
    found = hasher("sha256")
    found.update(b"%s %s" % (entry.key.encode(), entry.etag.encode()))
    digest: bytes = found.digest()
    return digest[:_FINGERPRINT]


async def read_index(
    client: BucketClient,
    prefix: str,
    sourceignore: bytes | None,
    spec_ignore: str | None,
    limits: TreeLimits = DEFAULT_LIMITS,
) -> BucketIndex:
    """List everything below `prefix`. Raises RemoteError, and TreeError for rules or keys that cannot be used."""
    rules = {} if sourceignore is None else {"": sourceignore}
    sieve = _Sieve(await offload(ignore_matcher, spec_ignore, rules, defaults=False), limits)
    tokens: set[str] = set()
    token, empty = "", 0
    while True:
        page = await client.page(prefix, token)
        await offload(sieve.take, page.entries)
        empty = 0 if page.entries else empty + 1
        token = page.token
        if not token:
            return BucketIndex(sieve.entries, sourceignore)
        if token in tokens:
            raise RemoteError("the listing goes round in circles: a page comes twice", rule="listing")
        if empty >= _MOST_EMPTY_PAGES:
            raise RemoteError(f"the listing has {empty} pages in a row without an object", rule="listing")
        if len(tokens) >= _MOST_PAGES:
            raise RemoteError(f"the listing has more than {_MOST_PAGES} pages", rule="listing")
        tokens.add(token)


class _Sieve:
    """Keeps what is wanted of the pages."""

    def __init__(self, ignored: Matcher, limits: TreeLimits) -> None:
        self.entries: dict[str, Entry] = {}
        self._ignored = ignored
        self._limits = limits
        self._bytes = 0

    def take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.key.endswith("/") or entry.key == IGNORE_FILE:
                continue
            path = object_path(entry.key)
            if not self._ignored(path, False):
                self._add(path, entry)

    def _add(self, path: str, entry: Entry) -> None:
        encode_path(path, self._limits)
        before = self.entries.get(path)
        if before is not None and before.key != entry.key:
            raise TreeError(f"objects '{shown(before.key)}' and '{shown(entry.key)}' would be one file")
        self._bytes += max(entry.size, 0) - (max(before.size, 0) if before is not None else 0)
        self.entries[path] = entry
        if len(self.entries) > self._limits.files:
            raise RemoteError(f"the bucket holds more than {self._limits.files} objects", rule="objects")
        if self._bytes > self._limits.content:
            raise RemoteError(f"the objects hold more than {self._limits.content} bytes", rule="bytes")


def object_path(key: str) -> str:
    """The path of an object in the artifact. Raises TreeError for a key that climbs or holds nothing."""
    parts = [part for part in key.split("/") if part not in {"", "."}]
    if ".." in parts or not parts:
        raise TreeError(f"object key '{shown(key)}' leads out of the bucket")
    return "/".join(parts)
