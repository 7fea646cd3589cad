"""Semantic versions and ranges as Flux and Helm understand them: Masterminds' reading of semver (`spec/source.md` 17).

Knows text and order only. Lenient where that reading is: a `v` in front, missing parts, leading zeros. Build metadata
never counts in an order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import total_ordering

from gitopsd.errors import GitopsdError

_LONGEST = 256
_LARGEST = 2**64 - 1
_REST = r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
_VERSION = re.compile(rf"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?{_REST}", re.ASCII)
_PART = r"[0-9]+|[xX*]"
_PATTERN = rf"v?({_PART})(?:\.({_PART}))?(?:\.({_PART}))?{_REST}"
_CONDITION = re.compile(rf"(=<|=>|~>|!=|>=|<=|=|>|<|~|\^)?\s*{_PATTERN}(?=[\s,]|$)", re.ASCII)
_HYPHEN = re.compile(r"(?<!\S)(\S+)\s+-\s+(\S+)")
_SEPARATOR = re.compile(r"[\s,]*")


class VersionError(GitopsdError):
    """A text that is no version, or no range of versions."""


@total_ordering
class Version:
    """One version; `str` gives it without a leading `v`, `original` as it was written."""

    __slots__ = ("_order", "build", "major", "minor", "original", "patch", "prerelease")

    def __init__(self, text: str) -> None:
        """Read a version. Raises VersionError."""
        found = _VERSION.fullmatch(text) if len(text) <= _LONGEST else None
        if found is None:
            raise VersionError(f"'{text[:80]}' is not a semantic version")
        numbers = [int(part or 0) for part in found.group(1, 2, 3)]
        if max(numbers) > _LARGEST:
            raise VersionError(f"'{text[:80]}' is not a semantic version: a number is too large")
        self.original = text
        self.major, self.minor, self.patch = numbers
        self.prerelease: str = found.group(4) or ""
        self.build: str = found.group(5) or ""
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
    return (0, tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in prerelease.split(".")))


class _Condition:
    """One comparison. `open_minor` and `open_patch` say which parts were left out or are a wildcard."""

    def __init__(self, operator: str, parts: tuple[str | None, str | None, str | None], prerelease: str) -> None:
        is_open = [part is None or part in "xX*" for part in parts]
        self.any = is_open[0]
        self.open_minor = is_open[1] and not self.any
        self.open_patch = (is_open[1] or is_open[2]) and not self.any
        numbers = ["0" if self.any or open_ else str(part) for part, open_ in zip(parts, is_open, strict=True)]
        if is_open[1]:
            numbers[2] = "0"
        self.version = Version(".".join(numbers) + (f"-{prerelease}" if prerelease and not self.any else ""))
        self.has_prerelease = bool(self.version.prerelease)
        self._test = _TESTS[operator]

    def matches(self, version: Version) -> bool:
        return self._test(self, version)

    @property
    def is_open(self) -> bool:
        return self.any or self.open_minor or self.open_patch


def _equal(wanted: _Condition, found: Version) -> bool:
    return _tilde(wanted, found) if wanted.is_open else found == wanted.version


def _different(wanted: _Condition, found: Version) -> bool:
    if not wanted.is_open:
        return found != wanted.version
    if wanted.any:
        return False
    if found.major != wanted.version.major:
        return True
    return not wanted.open_minor and found.minor != wanted.version.minor


def _greater(wanted: _Condition, found: Version) -> bool:
    limit = wanted.version
    if not wanted.is_open:
        return found > limit
    if wanted.any:
        return False
    if found.major != limit.major:
        return found.major > limit.major
    return not wanted.open_minor and found.minor > limit.minor


def _at_most(wanted: _Condition, found: Version) -> bool:
    limit = wanted.version
    if not wanted.is_open:
        return found <= limit
    if wanted.any:
        return True
    if found.major != limit.major:
        return found.major < limit.major
    return wanted.open_minor or found.minor <= limit.minor


def _tilde(wanted: _Condition, found: Version) -> bool:
    limit = wanted.version
    if found < limit:
        return False
    # ~0.0.0, and every wildcard for the whole, accepts all.
    if (limit.major, limit.minor, limit.patch) == (0, 0, 0) and not (wanted.open_minor or wanted.open_patch):
        return True
    return found.major == limit.major and (wanted.open_minor or found.minor == limit.minor)


def _caret(wanted: _Condition, found: Version) -> bool:
    limit = wanted.version
    if found < limit:
        return False
    if wanted.any:
        return True
    if limit.major > 0 or wanted.open_minor:
        return found.major == limit.major
    if found.major > 0:
        return False
    if limit.minor > 0 or wanted.open_patch:
        return found.minor == limit.minor
    return found.minor == 0 and found.patch == limit.patch


_TESTS: dict[str, Callable[[_Condition, Version], bool]] = {
    "": _equal,
    "=": _equal,
    "!=": _different,
    ">": _greater,
    "<": lambda wanted, found: found < wanted.version,
    ">=": lambda wanted, found: found >= wanted.version,
    "=>": lambda wanted, found: found >= wanted.version,
    "<=": _at_most,
    "=<": _at_most,
    "~": _tilde,
    "~>": _tilde,
    "^": _caret,
}


class Range:
    """A range of versions: conditions joined by commas or blanks all hold, `||` separates alternatives."""

    def __init__(self, text: str) -> None:
        """Read a range. Raises VersionError."""
        if len(text) > _LONGEST:
            raise VersionError("improper constraint: too long")
        self.text = text
        self._alternatives = [_conditions(part, text) for part in text.split("||")]

    @classmethod
    def parse(cls, text: str) -> Range:
        """Read a range. Raises VersionError."""
        return cls(text)

    def matches(self, version: Version) -> bool:
        """Whether the version is in the range; a pre-release only where an alternative names one."""
        return any(
            all(condition.matches(version) for condition in conditions)
            for conditions in self._alternatives
            if not version.prerelease or any(condition.has_prerelease for condition in conditions)
        )

    def __repr__(self) -> str:
        return f"Range({self.text!r})"


def _conditions(part: str, whole: str) -> list[_Condition]:
    text = _HYPHEN.sub(r">=\1 <=\2", part).strip()
    found: list[_Condition] = []
    at = 0
    while at < len(text):
        match = _CONDITION.match(text, at)
        if match is None:
            break
        operator, major, minor, patch, prerelease, _ = match.groups()
        found.append(_Condition(operator or "", (major, minor, patch), prerelease or ""))
        separator = _SEPARATOR.match(text, match.end())
        at = separator.end() if separator is not None else match.end()
    if at < len(text) or not found:
        raise VersionError(f"improper constraint: {whole[:80]}")
    return found
