"""Regular expressions written by users: Go's dialect, in time that grows with the text and never explodes.

Python's `re` backtracks: `(a+)+b` against forty letters runs for hours and holds the whole interpreter, and any tenant
may write it into a selector. RE2 is the library from which Go has its expressions; it decides in one pass. What it
takes and Go does not is refused here, and what would be costly in any dialect is bounded: the largest expression needs
less than 100 ms for a text of two thousand characters (spec/hostile-inputs.md 0). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import re2

from gitopsd.errors import GitopsdError

__all__ = ["MAX_PATTERN", "PatternError", "anywhere", "whole"]

MAX_PATTERN: Final = 1024
"""Characters of one expression."""
MAX_PROGRAM: Final = 8000
"""Instructions of one expression; its time is in proportion to them and to the text."""
# Bytes that one expression may take up, with what matching keeps of it; and expressions that are kept.
_MEMORY: Final = 1 << 20
_KEPT: Final = 64
# `\C`, a single byte, which Go has not. Backslashes are counted in pairs, and `\Q...\E` quotes them.
_SINGLE_BYTE: Final = re.compile(r"(?:[^\\]|\\Q(?:[^\\]|\\(?!E))*(?:\\E|\Z)|\\[^QC])*+\\C", re.DOTALL)
_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True
_OPTIONS.max_mem = _MEMORY


class PatternError(GitopsdError):
    """A regular expression that Go would refuse, or that is too large to be one."""


@lru_cache(maxsize=_KEPT)
def whole(pattern: str) -> Callable[[str], bool]:
    """A predicate that is true for texts which `pattern` matches from end to end. Raises PatternError."""
    matches = _compiled(pattern).fullmatch
    return lambda text: matches(_encoded(text)) is not None


@lru_cache(maxsize=_KEPT)
def anywhere(pattern: str) -> Callable[[str], bool]:
    """A predicate that is true for texts in which `pattern` matches something. Raises PatternError."""
    finds = _compiled(pattern).search
    return lambda text: finds(_encoded(text)) is not None


def _compiled(pattern: str) -> re2._Regexp[bytes]:
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"regular expression of {len(pattern)} characters is longer than {MAX_PATTERN}")
    if _SINGLE_BYTE.match(pattern):
        raise _error(r"invalid escape sequence: \C", pattern)
    try:
        found = re2.compile(pattern.encode(), _OPTIONS)
    except UnicodeEncodeError:
        raise _error("invalid UTF-8", pattern) from None
    except re2.error as error:
        raise _error(_reason(error), pattern) from None
    if found.programsize > MAX_PROGRAM:
        raise _error("expression too large", pattern)
    return found


def _error(why: str, pattern: str) -> PatternError:
    return PatternError(f"error parsing regexp: {why}: `{pattern}`")


def _reason(error: Exception) -> str:
    """What is wrong, in Go's words where they differ."""
    told = error.args[0]
    words = (told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)).partition(":")[0]
    return _IN_GO.get(words, words)


_IN_GO: Final = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "invalid repeat count",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid named capture group": "invalid named capture",
    "trailing \\": "trailing backslash at end of expression",
    "pattern too large - compile failed": "expression too large",
}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
