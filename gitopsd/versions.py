"""Semantic versions and ranges as Flux and Helm understand them: Masterminds' reading of semver (spec/source.md 17).

Versions are read leniently: a `v` in front, missing parts and leading zeros are fine. Build metadata never counts in an
order. Ranges have that library's surprises: a wildcard for the whole of a version means 0.0.0 to every operator but the
plain one, and a pre-release only matches where some condition of the same alternative names one.

Knows text and order only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import total_ordering
from typing import Final

from gitopsd.errors import GitopsdError

_LONGEST_VERSION: Final = 256
_LONGEST_RANGE: Final = 512
_MOST_ALTERNATIVES: Final = 32
_LARGEST: Final = 2**64 - 1

_REST: Final = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_VERSION = re.compile(rf"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?{_REST}")
# A part of a pattern is read more widely than it may be, so that `1x` is one wrong part and not two right ones.
_PATTERN: Final = rf"v?([0-9xX*|]+)(?:\.([0-9xX*|]+))?(?:\.([0-9xX*|]+))?{_REST}"
_BLANK: Final = r"[\t\n\f\r ]"
_CONDITION = re.compile(rf"(!=|>=|=>|<=|=<|~>|=|>|<|~|\^|){_BLANK}*{_PATTERN}")
_SEPARATOR = re.compile(rf"{_BLANK}*,{_BLANK}*|{_BLANK}+|\Z")
_HYPHEN = re.compile(rf"{_BLANK}*({_PATTERN}){_BLANK}+-{_BLANK}+({_PATTERN}){_BLANK}*")
_WILDCARDS: Final = frozenset(("x", "X", "*"))


class VersionError(GitopsdError):
    """A text that is no version, or no range of versions."""


@total_ordering
class Version:
    """One version; `str` gives it without a leading `v` and with all parts, `original` as it was written."""

    __slots__ = ("_order", "build", "major", "minor", "original", "patch", "prerelease")

    def __init__(self, text: str) -> None:
        """Read a version. Raises VersionError."""
        found = _VERSION.fullmatch(text) if len(text) <= _LONGEST_VERSION else None
        if found is None:
            raise VersionError(f"'{text[:80]}' is not a semantic version")
        numbers = [int(part or 0) for part in found.group(1, 2, 3)]
        if max(numbers) > _LARGEST:
            raise VersionError(f"'{text[:80]}' is not a semantic version: a number is too large")
        self.original = text
        self.major, self.minor, self.patch = numbers
        self.prerelease: str = found.group(4) or ""
        self.build: str = found.group(5) or ""
        if any(part.isdigit() and part != "0" and part[0] == "0" for part in self.prerelease.split(".")):
            raise VersionError(f"'{text[:80]}' is not a semantic version: a number of its pre-release begins with 0")
        self._order = (*numbers, _precedence(self.prerelease))

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read a version. Raises VersionError."""
        return cls(text)

    def with_build(self, build: str) -> Version:
        """The same version with other build metadata."""
        bare = str(self).partition("+")[0]
        return Version(f"{bare}+{build}" if build else bare)

    def __eq__(self, other: object) -> bool:
        return self._order == other._order if isinstance(other, Version) else NotImplemented

    def __lt__(self, other: Version) -> bool:
        return self._order < other._order

    def __hash__(self) -> int:
        return hash(self._order)

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{self.prerelease}" if self.prerelease else ""
        return f"{text}+{self.build}" if self.build else text

    def __repr__(self) -> str:
        return f"Version({self.original!r})"


def _precedence(prerelease: str) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """Rule 11 of semver: none is highest; numbers compare as numbers and stand before words; more parts win."""
    if not prerelease:
        return (1, ())
    return (0, tuple(map(_part_precedence, prerelease.split("."))))


def _part_precedence(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdigit() and int(part) <= _LARGEST else (1, 0, part)


class Range:
    """A range of versions: conditions joined by commas or blanks all hold, `||` separates alternatives."""

    def __init__(self, text: str) -> None:
        """Read a range. Raises VersionError."""
        if len(text) > _LONGEST_RANGE:
            raise VersionError(f"improper constraint: longer than {_LONGEST_RANGE} characters")
        alternatives = _HYPHEN.sub(_as_conditions, text).split("||")
        if len(alternatives) > _MOST_ALTERNATIVES:
            raise VersionError(f"improper constraint: more than {_MOST_ALTERNATIVES} alternatives")
        self.text = text
        self._alternatives = [_conditions(part, text) for part in alternatives]

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read a range. Raises VersionError."""
        return cls(text)

    def matches(self, version: Version) -> bool:
        """Whether the version is in the range; a pre-release only where an alternative names one."""
        return any(
            all(condition.matches(version) for condition in conditions)
            for conditions in self._alternatives
            if not version.prerelease or any(condition.limit.prerelease for condition in conditions)
        )

    def __repr__(self) -> str:
        return f"Range({self.text!r})"


def _as_conditions(hyphenated: re.Match[str]) -> str:
    lowest, highest = hyphenated.group(1, 7)
    return f">= {lowest}, <= {highest} "


def _conditions(part: str, whole: str) -> list[_Condition]:
    """The conditions of one alternative; there is at least one."""
    found: list[_Condition] = []
    text = part.strip("\t\n\f\r ")
    at = 0
    while True:
        match = _CONDITION.match(text, at)
        separator = _SEPARATOR.match(text, match.end()) if match is not None else None
        if match is None or separator is None:
            raise VersionError(f"improper constraint: '{whole[:80]}'")
        operator, major, minor, patch, prerelease, _ = match.groups()
        found.append(_Condition(operator, major, minor, patch, prerelease))
        at = separator.end()
        if separator.end() == len(text) and "," not in separator[0]:
            return found


class _Condition:
    """One comparison with `limit`. What is open was left out or is a wildcard: all of it, from the minor, the patch."""

    __slots__ = ("_test", "is_open", "limit", "minor_is_open", "patch_is_open")

    def __init__(self, operator: str, major: str, minor: str | None, patch: str | None, prerelease: str | None) -> None:
        is_any = major in _WILDCARDS
        self.minor_is_open = not is_any and (minor is None or minor in _WILDCARDS)
        self.patch_is_open = not is_any and not self.minor_is_open and (patch is None or patch in _WILDCARDS)
        self.is_open = is_any or self.minor_is_open or self.patch_is_open
        if is_any:
            numbers = "0.0.0"
        elif self.minor_is_open:
            numbers = f"{major}.0.0"
        else:
            numbers = f"{major}.{minor}.{0 if self.patch_is_open else patch}"
        self.limit = Version(f"{numbers}-{prerelease}" if prerelease else numbers)
        self._test = _TESTS[operator]

    def matches(self, version: Version) -> bool:
        """Whether the comparison holds; whether a pre-release is welcome at all is the range's business."""
        return self._test(self, version)


def _equal(wanted: _Condition, found: Version) -> bool:
    return _tilde(wanted, found) if wanted.is_open else found == wanted.limit


def _different(wanted: _Condition, found: Version) -> bool:
    limit = wanted.limit
    if wanted.minor_is_open:
        return found.major != limit.major
    if wanted.patch_is_open:
        return (found.major, found.minor, found.prerelease) != (limit.major, limit.minor, limit.prerelease)
    return found != limit


def _greater(wanted: _Condition, found: Version) -> bool:
    limit = wanted.limit
    if wanted.minor_is_open:
        return found.major > limit.major
    if wanted.patch_is_open:
        return (found.major, found.minor) > (limit.major, limit.minor)
    return found > limit


def _at_most(wanted: _Condition, found: Version) -> bool:
    limit = wanted.limit
    if wanted.minor_is_open:
        return found.major <= limit.major
    if wanted.is_open:
        return (found.major, found.minor) <= (limit.major, limit.minor)
    return found <= limit


def _tilde(wanted: _Condition, found: Version) -> bool:
    limit = wanted.limit
    if found < limit:
        return False
    # ~0.0.0, and with it a wildcard for the whole, accepts everything.
    if (limit.major, limit.minor, limit.patch) == (0, 0, 0) and not (wanted.minor_is_open or wanted.patch_is_open):
        return True
    return found.major == limit.major and (wanted.minor_is_open or found.minor == limit.minor)


def _caret(wanted: _Condition, found: Version) -> bool:
    """What may change without breaking anybody: all right of the first number that is not 0."""
    limit = wanted.limit
    if found < limit or found.major != limit.major:
        return False
    if limit.major > 0 or wanted.minor_is_open:
        return True
    if limit.minor > 0 or wanted.patch_is_open:
        return found.minor == limit.minor
    return (found.minor, found.patch) == (0, limit.patch)


_TESTS: Final[dict[str, Callable[[_Condition, Version], bool]]] = {
    "": _equal,
    "=": _equal,
    "!=": _different,
    ">": _greater,
    "<": lambda wanted, found: found < wanted.limit,
    ">=": lambda wanted, found: found >= wanted.limit,
    "=>": lambda wanted, found: found >= wanted.limit,
    "<=": _at_most,
    "=<": _at_most,
    "~": _tilde,
    "~>": _tilde,
    "^": _caret,
}
