"""What a fetch can fail with, and how text of a stranger becomes text that may be shown.

`FetchError` is what leaves this package. `RemoteError` stays inside it: the other side sent something that cannot be
used, or nothing at all; the module that knows the operation turns it into a `FetchError`.
Invariant: no message holds a credential, a control character, or more than a bounded number of bytes.
"""

from __future__ import annotations

import unicodedata

from gitopsd.errors import GitopsdError

# What one answer of a server may take up in a message (spec/hostile-inputs.md A29).
LONGEST_QUOTE = 1024
# Marks that reorder text on a screen; the rest of what is invisible is found by its category.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class FetchError(GitopsdError):
    """A source could not be resolved or fetched. `reason` and `message` go into its conditions as they are.

    `stalls` is true when no retry can help until somebody changes the object.
    """

    def __init__(self, reason: str, message: str, *, stalls: bool = False) -> None:
        super().__init__(message)
        self.reason = str(reason)
        self.message = message
        self.stalls = stalls


class RemoteError(GitopsdError):
    """The cause of a failed fetch, safe to show.

    `rule` names the check that refused the input, for `gitopsd_refused_inputs_total`; empty for plain failures.
    """

    def __init__(self, message: str, *, rule: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule


class AskedInVainError(RemoteError):
    """The server understood a request for objects and refused it, most often because it does not give them out."""


def printable(text: str | bytes, limit: int = LONGEST_QUOTE) -> str:
    """Make foreign text fit for a message: valid, one line, without control and bidi characters, at most `limit` bytes.

    ANSI escape sequences lose their ESC, which makes them harmless; whitespace is folded.
    """
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "replace")
    text = text[: 4 * limit]
    kept = "".join(_shown_character(character) for character in text)
    folded = " ".join(kept.split())
    raw = folded.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "..."


def _shown_character(character: str) -> str:
    if character.isprintable():
        return character
    if character in _BIDI or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}:
        return " " if character in "\t\n\r\v\f" else ""
    return " "
