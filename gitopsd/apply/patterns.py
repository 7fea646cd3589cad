"""Regular expressions written by users, matched in time that grows with the text and never explodes.

Pure. Python's `re` backtracks: `(a+)+b` against forty letters runs for hours and holds the whole interpreter, and any
tenant may write it into a selector. These patterns are Go's (`pattern_syntax`), and a simulation that keeps a set of
states decides them in one pass. Only whether something matches is offered; greedy or lazy makes no difference to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from gitopsd.apply.pattern_syntax import CharTest, Node, PatternError, is_word, parse

__all__ = ["MAX_PATTERN", "PatternError", "anywhere", "whole"]

MAX_PATTERN: Final = 1024
MAX_PROGRAM: Final = 2000
MAX_STEPS: Final = 200_000
"""What deciding about one text may take with `anywhere`: less than 100 ms (spec/hostile-inputs.md 0)."""


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
    program = _compiled(_parsed(pattern))
    return lambda text: _matches(program, text)


@lru_cache(maxsize=512)
def anywhere(pattern: str) -> Callable[[str], bool]:
    """A predicate that is true for texts in which `pattern` matches something, as Go's MatchString.

    Raises PatternError, and so does the predicate for a text on which the pattern takes too long.
    """
    program = _compiled(Node("join", (_ANYTHING, _parsed(pattern), _ANYTHING)))
    return lambda text: _matches(program, text, MAX_STEPS)


_ANYTHING: Final = Node("repeat", (Node("char", test=lambda char: True),), low=0, high=-1)


def _parsed(pattern: str) -> Node:
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"regular expression of {len(pattern)} characters is longer than {MAX_PATTERN}")
    return parse(pattern)


def _compiled(node: Node) -> tuple[_Step, ...]:
    program: list[_Step] = []
    _emit(node, program)
    program.append(_Step("match"))
    return tuple(program)


def _emit(node: Node, program: list[_Step]) -> None:
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


def _emit_any_of(branches: tuple[Node, ...], program: list[_Step]) -> None:
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


def _emit_repeat(node: Node, program: list[_Step]) -> None:
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


def _matches(program: tuple[_Step, ...], text: str, most_steps: float = math.inf) -> bool:
    states = _reachable(program, [0], text, 0)
    steps = 0
    for at, char in enumerate(text):
        steps += len(states)
        if steps > most_steps:
            raise PatternError("regular expression takes too long")
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
        before, after = at > 0 and is_word(text[at - 1]), at < len(text) and is_word(text[at])
        return (before != after) == (where == "b")
    if where == "^" or (where == "line-start" and at == 0):
        return at == 0
    if where == "$" or (where == "line-end" and at == len(text)):
        return at == len(text)
    return text[at - 1 if where == "line-start" else at] == "\n"
