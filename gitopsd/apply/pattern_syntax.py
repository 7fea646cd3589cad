"""Go's regular expression syntax (RE2), read into a tree.

Pure. What Go refuses is refused, and so is what only a backtracking matcher could decide (backreferences, lookaround).
Sizes and nesting are bounded; how a tree is matched is `patterns`' business.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gitopsd.errors import GitopsdError

CharTest = Callable[[str], bool]

MAX_REPEAT: Final = 1000
MAX_NESTING: Final = 100

_DIGIT: Final[CharTest] = lambda char: "0" <= char <= "9"  # noqa: E731 - a table of predicates reads best flat
_SPACE: Final[CharTest] = lambda char: char in "\t\n\f\r "  # noqa: E731
is_word: Final[CharTest] = lambda char: char == "_" or (char.isascii() and char.isalnum())  # noqa: E731
_PERL: Final = {"d": _DIGIT, "s": _SPACE, "w": is_word}
_POSIX: Final[dict[str, CharTest]] = {
    "alnum": lambda char: char.isascii() and char.isalnum(),
    "alpha": lambda char: char.isascii() and char.isalpha(),
    "ascii": str.isascii,
    "blank": lambda char: char in "\t ",
    "cntrl": lambda char: char < " " or char == "\x7f",
    "digit": _DIGIT,
    "graph": lambda char: "!" <= char <= "~",
    "lower": lambda char: "a" <= char <= "z",
    "print": lambda char: " " <= char <= "~",
    "punct": lambda char: "!" <= char <= "~" and not char.isalnum(),
    "space": lambda char: char in "\t\n\v\f\r ",
    "upper": lambda char: "A" <= char <= "Z",
    "word": is_word,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}
_CONTROL: Final = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}


class PatternError(GitopsdError):
    """A regular expression that Go would refuse, or that is too large to be one."""


class Node(NamedTuple):
    """`op` is one of char, assert, join, any_of, repeat; `low`/`high` belong to repeat (high -1: no end)."""

    op: str
    parts: tuple[Node, ...] = ()
    test: CharTest | None = None
    where: str = ""
    low: int = 0
    high: int = 0


def parse(pattern: str) -> Node:
    """Read a pattern. Raises PatternError."""
    return _Parser(pattern).parse()


class _Parser:
    """Reads Go's syntax; flags are tracked while reading, because they change what follows in their group."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._flags: frozenset[str] = frozenset()

    def parse(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._text):
            raise self._error("unexpected )")
        return node

    def _error(self, why: str) -> PatternError:
        return PatternError(f"error parsing regexp: {why}: `{self._text}`")

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._text[at] if at < len(self._text) else ""

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise self._error("unexpected end")
        self._at += 1
        return self._text[self._at - 1]

    def _alternatives(self) -> Node:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Node("any_of", tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            parts.append(self._repeated(self._atom()))
        return Node("join", tuple(parts))

    def _repeated(self, node: Node) -> Node:
        repeats = 0
        while bounds := self._bounds():
            repeats += 1
            if repeats > 1:
                raise self._error("invalid nested repetition operator")
            node = Node("repeat", (node,), low=bounds[0], high=bounds[1])
            if self._peek() == "?":
                self._at += 1
        return node

    def _bounds(self) -> tuple[int, int] | None:
        known = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}.get(self._peek())
        if known is not None:
            self._at += 1
            return known
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not _is_number(low) or (high and not _is_number(high)):
            return None  # as Go reads it: a brace that counts nothing is a brace
        self._at = end + 1
        first, last = int(low), int(low) if not comma else int(high) if high else -1
        if first > MAX_REPEAT or last > MAX_REPEAT or (last != -1 and last < first):
            raise self._error("invalid repeat count")
        return first, last

    def _atom(self) -> Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._char(self._class())
        if char == ".":
            newline_too = "s" in self._flags
            return Node("char", test=lambda seen: newline_too or seen != "\n")
        if char in "^$":
            return Node("assert", where={"^": "line-start", "$": "line-end"}[char] if "m" in self._flags else char)
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise self._error(f"missing argument to repetition operator: {char}")
        return self._char(_is_char(char))

    def _char(self, test: CharTest) -> Node:
        if "i" not in self._flags:
            return Node("char", test=test)
        return Node("char", test=lambda seen: test(seen) or test(seen.lower()) or test(seen.upper()))

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error("expression nests too deeply")
        outer = self._flags
        if self._peek() == "?" and self._group_head():
            self._depth -= 1
            return Node("join")
        node = self._alternatives()
        if self._peek() != ")":
            raise self._error("missing closing )")
        self._at += 1
        self._flags = outer
        self._depth -= 1
        return node

    def _group_head(self) -> bool:
        """Read `?:`, `?P<name>`, `?<name>`, `?flags:` or `?flags)`; true for the last, which has no body."""
        self._at += 1
        if self._peek() == "<" or self._text.startswith("P<", self._at):
            end = self._text.find(">", self._at)
            name = self._text[self._at : end].lstrip("P<")
            if end < 0 or not name or not all(is_word(char) for char in name):
                raise self._error("invalid named capture")
            self._at = end + 1
            return False
        flags, value = set(self._flags), True
        while (char := self._take()) not in {":", ")"}:
            if char == "-" and value:
                value = False
            elif char in "imsU":
                (flags.add if value else flags.discard)(char)
            else:
                raise self._error("invalid or unsupported Perl syntax")
        self._flags = frozenset(flags)
        return char == ")"

    def _escape(self) -> Node:
        char = self._take()
        if char in "AzbB":
            return Node("assert", where={"A": "^", "z": "$"}.get(char, char))
        if char == "Q":
            return self._quoted()
        return self._char(self._escaped(char))

    def _quoted(self) -> Node:
        r"""Read `\Qliteral\E`, in which only the last character is what a following `*` repeats."""
        literal, _, rest = self._text[self._at :].partition("\\E")
        plain = "".join(f"\\{char}" if char.isascii() and not char.isalnum() else char for char in literal)
        self._text, self._at = plain + rest, 0
        return self._atom() if plain else Node("join")

    def _escaped(self, char: str) -> CharTest:
        if char.lower() in _PERL:
            return _negated(_PERL[char.lower()], char.isupper())
        if char in "pP":
            return _negated(self._category(), char == "P")
        return _is_char(self._escaped_literal(char))

    def _escaped_literal(self, char: str) -> str:
        if char in _CONTROL:
            return _CONTROL[char]
        if char == "x":
            return self._hex()
        if char.isascii() and not char.isalnum():
            return char
        raise self._error(f"invalid escape sequence: \\{char}")

    def _hex(self) -> str:
        digits = self._braced() if self._peek() == "{" else self._take() + self._take()
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise self._error("invalid escape sequence: \\x") from None

    def _category(self) -> CharTest:
        name = self._braced() if self._peek() == "{" else self._take()
        inverted, name = name.startswith("^"), name.lstrip("^")
        if len(name) not in {1, 2} or name[:1] not in "CLMNPSZ":
            raise self._error(f"invalid character class range: \\p{{{name}}}")
        return _negated(lambda char: unicodedata.category(char).startswith(name), inverted)

    def _braced(self) -> str:
        end = self._text.find("}", self._at)
        if end < 0:
            raise self._error("missing closing }")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _class(self) -> CharTest:
        inverted = self._peek() == "^"
        self._at += inverted
        tests: list[CharTest] = []
        while self._peek() != "]" or not tests:
            tests.append(self._class_item())
        self._at += 1
        return _negated(_one_of(tests), inverted)

    def _class_item(self) -> CharTest:
        if self._text.startswith("[:", self._at):
            end = self._text.find(":]", self._at)
            name = self._text[self._at + 2 : end] if end > 0 else ""
            if name.lstrip("^") not in _POSIX:
                raise self._error(f"invalid character class range: [:{name}:]")
            self._at = end + 2
            return _negated(_POSIX[name.lstrip("^")], name.startswith("^"))
        if self._peek() == "\\" and self._peek(1).lower() in {*_PERL, "p"}:
            self._at += 1
            return self._escaped(self._take())
        low = self._class_char()
        if self._peek() != "-" or self._peek(1) == "]":
            return _is_char(low)
        self._at += 1
        high = self._class_char()
        if high < low:
            raise self._error(f"invalid character class range: {low}-{high}")
        return lambda char: low <= char <= high

    def _class_char(self) -> str:
        char = self._take()
        return self._escaped_literal(self._take()) if char == "\\" else char


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


def _is_char(wanted: str) -> CharTest:
    return lambda char: char == wanted


def _negated(test: CharTest, inverted: bool) -> CharTest:
    return (lambda char: not test(char)) if inverted else test


def _one_of(tests: Iterable[CharTest]) -> CharTest:
    fixed = tuple(tests)
    return lambda char: any(test(char) for test in fixed)
