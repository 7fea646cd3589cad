"""What a person sees: progress lines on standard error, results on standard output.

Knows the symbols of `spec/cli.md` 2.1 and how to make foreign text harmless; knows no verb and no API server.
Everything that came from a cluster passes `printable` before it reaches a terminal: an object must not be able to
move the cursor, change colours, reverse the reading direction or forge a line (`spec/hostile-inputs.md` S01, S06).
"""

from __future__ import annotations

import re
import sys

# C0 and C1 controls except newline and tab, DEL, bidirectional and invisible formatting marks, line separators,
# and lone surrogates (which no stream could encode).
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == 0x0D:
        return "\\r"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str) -> str:
    """Replace what a terminal would obey by its escape sequence in letters; newlines and tabs stay."""
    return _UNSAFE.sub(_escape, text)


def out(text: str) -> None:
    """Write a result to standard output as it is; the caller made it printable."""
    sys.stdout.write(text)


def flush() -> None:
    """Let a reader at the other end of a pipe see what was written so far."""
    sys.stdout.flush()


def _say(symbol: str, text: str) -> None:
    sys.stderr.write(f"{symbol} {printable(text)}\n")
    sys.stderr.flush()


def action(text: str) -> None:
    """`►` something started."""
    _say("►", text)


def generating(text: str) -> None:
    """`✚` something is being generated."""
    _say("✚", text)


def waiting(text: str) -> None:
    """`◎` waiting for something."""
    _say("◎", text)


def success(text: str) -> None:
    """`✔` it went well."""
    _say("✔", text)


def warning(text: str) -> None:
    """`⚠️` it is worth a look."""
    _say("⚠️", text)


def failure(text: str) -> None:
    """`✗` it failed."""
    _say("✗", text)


def plain_error(text: str) -> None:
    """Write `text` to standard error without a symbol and without adding a newline."""
    sys.stderr.write(printable(text))
    sys.stderr.flush()
