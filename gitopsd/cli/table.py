"""Tables, to the byte as scripts know them (`spec/cli.md` 2.5 and 2.6).

Knows widths, separators and how hashes are shortened; knows no kind. A table is plain text: colour is added only
around a finished cell, for a terminal, so that it never changes a width.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from gitopsd.cli.console import printable

_HASH = re.compile(r"\b[a-f0-9]{40,128}\b", re.ASCII)

Paint = Callable[[str, str], str]
"""Given a heading and a padded cell, the cell as a terminal should show it."""


def shorten_hashes(text: str) -> str:
    """Cut every word of 40 to 128 lower-case hex digits to its first 8."""
    return _HASH.sub(lambda match: match.group()[:8], text)


def display_width(text: str) -> int:
    """How many terminal columns `text` takes: none for marks and controls, two for wide letters."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in {"Cc", "Cf", "Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in {"W", "F"} else 1


def heading(text: str) -> str:
    """A column's title as it is printed: upper case, `_` and `.` as spaces."""
    return text.replace("_", " ").replace(".", " ").upper()


def render(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, with_heading: bool = True, paint: Paint | None = None
) -> str:
    """The whole table, with its final newline.

    Without the heading, widths come from the rows alone.
    """
    titles = [heading(column) for column in columns]
    cells = [[printable(cell).split("\n") for cell in row] for row in rows]
    widths = [display_width(title) if with_heading else 0 for title in titles]
    for row in cells:
        for index, lines in enumerate(row):
            widths[index] = max(widths[index], *(display_width(line) for line in lines))
    printed = []
    if with_heading:
        printed.append("\t".join(_pad(title, width) for title, width in zip(titles, widths, strict=True)) + " \n")
    for row in cells:
        printed.extend(_row_lines(row, widths, titles, paint))
    return "".join(printed)


def _row_lines(
    row: Sequence[Sequence[str]], widths: Sequence[int], titles: Sequence[str], paint: Paint | None
) -> list[str]:
    height = max((len(lines) for lines in row), default=0)
    printed = []
    for at in range(height):
        padded = [_pad(lines[at] if at < len(lines) else "", width) for lines, width in zip(row, widths, strict=True)]
        if paint is not None:
            padded = [paint(title, cell) for title, cell in zip(titles, padded, strict=True)]
        printed.append("".join(cell + "\t" for cell in padded) + "\n")
    return printed


def _pad(text: str, width: int) -> str:
    return text + " " * (width - display_width(text))
