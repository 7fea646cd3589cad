"""Regular expressions written by users, matched in time that grows with the text and never explodes.

Pure. Python's `re` backtracks: `(a+)+b` against forty letters runs for hours and holds the whole interpreter, and any
tenant may write it into a selector. These patterns are Go's (RE2), which have no backreferences and no lookaround, so a
simulation that keeps a set of states decides them in one pass. Only whole-string matches are offered; greedy or lazy
makes no difference for those.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from gitopsd.errors import GitopsdError

CharTest = Callable[[str], bool]

MAX_PATTERN: Final = 1024
MAX_PROGRAM: Final = 2000
MAX_REPEAT: Final = 1000
MAX_NESTING: Final = 100

_DIGIT: Final[CharTest] = lambda char: "0" <= char <= "9"  # noqa: E731 - a table of predicates reads best flat
_SPACE: Final[CharTest] = lambda char: char in "\t\n\f\r "  # noqa: E731
_WORD: Final[CharTest] = lambda char: char == "_" or (char.isascii() and char.isalnum())  # noqa: E731
_PERL: Final = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
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
    "word": _WORD,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}
_CONTROL: Final = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}


class PatternError(GitopsdError):
    """A regular expression that Go would refuse, or that is too large to be one."""


class _Node(NamedTuple):
    """`op` is one of char, assert, join, any_of, repeat; `low`/`high` belong to repeat (high -1: no end)."""

    op: str
    parts: tuple[_Node, ...] = ()
    test: CharTest | None = None
    where: str = ""
    low: int = 0
    high: int = 0


class _Step(NamedTuple):
    """One instruction: char (with `test`), assert (with `where`), split (to `to` and `other`), jump, match."""

    op: str
    to: int = 0
    other: int = 0
    test: CharTest | None = None
    where: str = ""


@lru_cache(maxsize=512)
def whole(pattern: str) -> Callable[[str], bool]:
    """A predicate that is true for texts which `pattern` matches from end to end. Raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"regular expression of {len(pattern)} characters is longer than {MAX_PATTERN}")
    program: list[_Step] = []
    _emit(_Parser(pattern).parse(), program)
    program.append(_Step("match"))
    steps = tuple(program)
    return lambda text: _matches(steps, text)


class _Parser:
    """Reads Go's syntax; flags are tracked while reading, because they change what follows in their group."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._flags: frozenset[str] = frozenset()

    def parse(self) -> _Node:
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

    def _alternatives(self) -> _Node:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else _Node("any_of", tuple(branches))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in {"", "|", ")"}:
            parts.append(self._repeated(self._atom()))
        return _Node("join", tuple(parts))

    def _repeated(self, node: _Node) -> _Node:
        repeats = 0
        while bounds := self._bounds():
            repeats += 1
            if repeats > 1:
                raise self._error("invalid nested repetition operator")
            node = _Node("repeat", (node,), low=bounds[0], high=bounds[1])
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

    def _atom(self) -> _Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._char(self._class())
        if char == ".":
            newline_too = "s" in self._flags
            return _Node("char", test=lambda seen: newline_too or seen != "\n")
        if char in "^$":
            return _Node("assert", where={"^": "line-start", "$": "line-end"}[char] if "m" in self._flags else char)
        if char == "\\":
            return self._escape()
        if char in "*+?":
            raise self._error(f"missing argument to repetition operator: {char}")
        return self._char(_is_char(char))

    def _char(self, test: CharTest) -> _Node:
        if "i" not in self._flags:
            return _Node("char", test=test)
        return _Node("char", test=lambda seen: test(seen) or test(seen.lower()) or test(seen.upper()))

    def _group(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error("expression nests too deeply")
        outer = self._flags
        if self._peek() == "?" and self._group_head():
            self._depth -= 1
            return _Node("join")
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
            if end < 0 or not name or not all(_WORD(char) for char in name):
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

    def _escape(self) -> _Node:
        char = self._take()
        if char in "AzbB":
            return _Node("assert", where={"A": "^", "z": "$"}.get(char, char))
        if char == "Q":
            return self._quoted()
        return self._char(self._escaped(char))

    def _quoted(self) -> _Node:
        r"""Read `\Qliteral\E`, in which only the last character is what a following `*` repeats."""
        literal, _, rest = self._text[self._at :].partition("\\E")
        plain = "".join(f"\\{char}" if char.isascii() and not char.isalnum() else char for char in literal)
        self._text, self._at = plain + rest, 0
        return self._atom() if plain else _Node("join")

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


def _emit(node: _Node, program: list[_Step]) -> None:
    """Append the instructions of `node`; what they match next is whatever is appended after them."""
    if len(program) > MAX_PROGRAM:
        raise PatternError("regular expression is too large")
    if node.op == "char":
        program.append(_Step("char", test=node.test))
    elif node.op == "assert":
        program.append(_Step("assert", where=node.where))
    elif node.op == "join":
        for part in node.parts:
            _emit(part, program)
    elif node.op == "any_of":
        _emit_any_of(node.parts, program)
    else:
        _emit_repeat(node, program)


def _emit_any_of(branches: tuple[_Node, ...], program: list[_Step]) -> None:
    ends: list[int] = []
    for branch in branches[:-1]:
        split = len(program)
        program.append(_Step("split"))
        _emit(branch, program)
        ends.append(len(program))
        program.append(_Step("jump"))
        program[split] = _Step("split", split + 1, len(program))
    _emit(branches[-1], program)
    for end in ends:
        program[end] = _Step("jump", len(program))


def _emit_repeat(node: _Node, program: list[_Step]) -> None:
    (body,) = node.parts
    for _ in range(node.low):
        before = len(program)
        _emit(body, program)
        if len(program) == before:
            return  # nothing, however often, is nothing: `((){1000}){1000}` must not be counted out
    if node.high == -1:
        split = len(program)
        program.append(_Step("split"))
        _emit(body, program)
        program.append(_Step("jump", split))
        program[split] = _Step("split", split + 1, len(program))
        return
    splits: list[int] = []
    for _ in range(node.high - node.low):
        splits.append(len(program))
        program.append(_Step("split"))
        _emit(body, program)
    for split in splits:
        program[split] = _Step("split", split + 1, len(program))


def _matches(program: tuple[_Step, ...], text: str) -> bool:
    states = _reachable(program, [0], text, 0)
    for at, char in enumerate(text):
        ahead = [state + 1 for state in states if (test := program[state].test) is not None and test(char)]
        if not ahead:
            return False
        states = _reachable(program, ahead, text, at + 1)
    return any(program[state].op == "match" for state in states)


def _reachable(program: tuple[_Step, ...], starts: list[int], text: str, at: int) -> set[int]:
    """The states that wait for a character or are the end, from `starts` without reading any."""
    seen: set[int] = set()
    waiting: set[int] = set()
    todo = list(starts)
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        step = program[state]
        if step.op in {"char", "match"}:
            waiting.add(state)
        elif step.op == "assert":
            if _holds(step.where, text, at):
                todo.append(state + 1)
        else:
            todo.append(step.to)
            if step.op == "split":
                todo.append(step.other)
    return waiting


def _holds(where: str, text: str, at: int) -> bool:
    if where in {"b", "B"}:
        before, after = at > 0 and _WORD(text[at - 1]), at < len(text) and _WORD(text[at])
        return (before != after) == (where == "b")
    if where == "^" or (where == "line-start" and at == 0):
        return at == 0
    if where == "$" or (where == "line-end" and at == len(text)):
        return at == len(text)
    return text[at - 1 if where == "line-start" else at] == "\n"
