"""Which tag a range of versions means.

Knows how tags are read as versions (spec/source.md 6.3, 17); refuses to know where the tags come from. Pure, but for
the clock that bounds a user's regular expression.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final

from gitopsd.apply.patterns import PatternError, anywhere
from gitopsd.fetch.errors import RemoteError, printable
from gitopsd.versions import Range, Version, VersionError

# Seconds that a filter may take over all tags together.
_PATIENCE: Final = 3.0
_THREE_PARTS = re.compile(r"v?[0-9]+\.[0-9]+\.[0-9]+(?:[-+].*)?", re.DOTALL)


def newest_tag(tags: Iterable[str], wanted: str, pattern: str = "", *, underscores: bool = False) -> str:
    """The tag with the highest version in the range `wanted`, of those which the Go regexp `pattern` finds.

    Tags need three parts; with `underscores` a `_` stands for the `+` that no tag can hold. Blocking. Raises
    RemoteError, with `no match found for semver: …` when there is none.
    """
    try:
        allowed = Range(wanted)
        accept = anywhere(pattern) if pattern else None
    except (VersionError, PatternError) as error:
        raise RemoteError(printable(str(error), 512)) from None
    found = [(version, tag) for tag in tags if (version := _version(tag, underscores=underscores)) is not None]
    deadline = time.monotonic() + _PATIENCE
    # Tags that differ in build metadata only are of one version: the text decides, so that it is always the same one.
    for version, tag in sorted(found, reverse=True):
        if allowed.matches(version) and (accept is None or accept(tag)):
            return tag
        if time.monotonic() > deadline:
            raise RemoteError("the semverFilter takes too long on the repository's tags", rule="regexp")
    raise RemoteError(f"no match found for semver: {printable(wanted, 512)}")


def _version(tag: str, *, underscores: bool) -> Version | None:
    text = tag.replace("_", "+") if underscores else tag
    if _THREE_PARTS.fullmatch(text) is None:
        return None
    try:
        return Version(text)
    except VersionError:
        return None
