"""Which commit of a repository is wanted, and how the revision that names it is written.

Knows `spec.ref`, its precedence (spec/source.md 5.3) and revisions (4.2); refuses to know how references are listed.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.fetch.gitwire import Ref, is_usable_name
from gitopsd.versions import Range, Version, VersionError

_FULL_HASH = re.compile(r"[0-9a-f]{40}")
_PEELED = "^{}"
_LONGEST_RANGE = 4096


class UnresolvedError(RemoteError):
    """What `spec.ref` asks for is not there, or cannot be; the message stands for itself."""


@dataclass(frozen=True)
class GitRef:
    """`spec.ref`. The first of commit, name, tag, semver and branch that is set counts; with none it is `master`.

    `short` is no field of it but a name as people give it to `git fetch`; it counts when nothing else is set.
    """

    branch: str = ""
    tag: str = ""
    semver: str = ""
    name: str = ""
    commit: str = ""
    short: str = ""

    @property
    def wanted_commit(self) -> str:
        """The commit that is pinned, empty without one. Raises UnresolvedError for what is no full hash."""
        commit = self.commit.lower()
        if commit and _FULL_HASH.fullmatch(commit) is None:
            shown = printable(self.commit, 80)
            raise UnresolvedError(f"unable to resolve commit object for '{shown}': it is not a full SHA-1 hash")
        return commit

    @property
    def pinned_revision(self) -> str | None:
        """The revision of a pinned commit, which is known without asking anybody; None for everything that moves."""
        commit = self.wanted_commit
        return revision(self.name or self.branch, commit) if commit else None

    @property
    def reference(self) -> str:
        """The full name of the one reference that is wanted. Raises UnresolvedError for a name that cannot be one."""
        if self.name:
            full = self.name.removesuffix(_PEELED)
        elif self.tag:
            full = f"refs/tags/{self.tag}"
        else:
            full = f"refs/heads/{self.branch or 'master'}"
        if not is_usable_name(full.encode("utf-8", "surrogateescape")):
            if self.name:
                raise UnresolvedError(f"unable to resolve ref '{printable(self.name, 256)}' to a specific commit")
            raise UnresolvedError(f"'{printable(full, 256)}' is not a name that a reference can have")
        return full

    @property
    def candidates(self) -> tuple[str, ...]:
        """The full names that may be meant; the first that exists counts. Raises UnresolvedError as `reference` does.

        A short name is read in the order of Git's own rules: a tag comes before a branch.
        """
        short = self.short
        if not short or self.name or self.tag or self.branch:
            return (self.reference,)
        if short == "HEAD" or short.startswith("refs/"):
            names: tuple[str, ...] = (short,)
        else:
            names = (f"refs/{short}", f"refs/tags/{short}", f"refs/heads/{short}")
        if not all(is_usable_name(name.encode("utf-8", "surrogateescape")) for name in names):
            raise UnresolvedError(f"'{printable(short, 256)}' is not a name that a reference can have")
        return names

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What to list in order to find it. Raises UnresolvedError as `reference` does."""
        return ("refs/tags/",) if self.is_range else self.candidates

    @property
    def label(self) -> str:
        """What stands before the `@` of a revision."""
        return self.name or self.tag or self.branch or self.short or "master"

    @property
    def is_branch(self) -> bool:
        """Whether a branch is wanted by its short name."""
        return not (self.commit or self.name or self.tag or self.semver or self.short)

    @property
    def is_range(self) -> bool:
        """Whether the newest tag of a range is wanted."""
        return bool(self.semver) and not (self.commit or self.name or self.tag)


@dataclass(frozen=True)
class Target:
    """One commit, and the object to ask for to get it: the commit itself or the tag that names it."""

    revision: str
    commit: str
    want: str


def revision(label: str, commit: str) -> str:
    """Write a revision: `<label>@sha1:<commit>`, or `sha1:<commit>` without a label."""
    return f"{label}@sha1:{commit}" if label else f"sha1:{commit}"


def commit_of(text: str) -> str:
    """The commit that a revision names; empty when it names none."""
    _, _, commit = text.rpartition("sha1:")
    return commit if _FULL_HASH.fullmatch(commit) else ""


def target_of(label: str, ref: Ref) -> Target:
    """The commit behind a reference."""
    return Target(revision(label, ref.target), ref.target, ref.hash)


def known_target(ref: GitRef, known: str) -> Target | None:
    """The target of a revision that a listing gave a moment ago; None where only a listing says what to ask for."""
    is_tag = bool(
        ref.tag or ref.is_range or ref.short or ref.name.startswith("refs/tags/") or ref.name.endswith(_PEELED)
    )
    commit = commit_of(known)
    if is_tag or not commit or known != revision(ref.label, commit):
        return None
    return Target(known, commit, commit)


def newest_tags(wanted: str, refs: Mapping[str, Ref]) -> Sequence[str]:
    """The tags of the highest version that the range `wanted` allows: more than one if they differ in build metadata.

    Tags are read leniently, but need three parts (spec/source.md 5.3). Raises UnresolvedError.
    """
    if len(wanted) > _LONGEST_RANGE:
        raise UnresolvedError(f"semver parse error: the range is longer than {_LONGEST_RANGE} characters")
    try:
        allowed = Range(wanted)
    except VersionError as error:
        raise UnresolvedError(f"semver parse error: {printable(str(error), 256)}") from None
    best: Version | None = None
    names: list[str] = []
    for name in refs:
        version = _version(name.removeprefix("refs/tags/"))
        if version is None or not allowed.matches(version):
            continue
        if best is None or best < version:
            best, names = version, [name]
        elif not version < best:
            names.append(name)
    if not names:
        raise UnresolvedError(f"no match found for semver: {printable(wanted, 256)}")
    return sorted(names)


def _version(tag: str) -> Version | None:
    if len(tag.split("+", 1)[0].split("-", 1)[0].split(".")) != 3:
        return None
    try:
        return Version(tag)
    except VersionError:
        return None
