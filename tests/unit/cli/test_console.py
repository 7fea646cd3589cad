"""Progress lines: their symbols, their stream, and that no text can misuse them."""

from __future__ import annotations

import pytest

from gitopsd.cli import console


@pytest.mark.parametrize(
    ("say", "symbol"),
    [
        (console.action, "►"),
        (console.generating, "✚"),
        (console.waiting, "◎"),
        (console.success, "✔"),
        (console.warning, "⚠️"),
        (console.failure, "✗"),
    ],
)
def test_progress_goes_to_standard_error_behind_its_symbol(say, symbol, capsys):
    """spec/cli.md 2.1."""
    say("some text")
    assert ("", f"{symbol} some text\n") == tuple(capsys.readouterr())


def test_the_warning_sign_is_two_code_points():
    """spec/cli.md 2.1: U+26A0 U+FE0F, as scripts match it."""
    assert "\u26a0\ufe0f" in console.__loader__.get_source("gitopsd.cli.console")


def test_S01_progress_text_cannot_steer_a_terminal(capsys):
    """spec/hostile-inputs.md S01: messages of objects end up in progress lines."""
    console.failure("\x1b]0;title\x07\u2066x")
    assert capsys.readouterr().err == "✗ \\x1b]0;title\\x07\\u2066x\n"


def test_newlines_and_tabs_are_left_alone():
    """They are part of many honest messages."""
    assert console.printable("a\n\tb") == "a\n\tb"


def test_text_that_no_encoding_can_carry_is_escaped():
    """A lone surrogate would make the stream fail."""
    assert console.printable("\ud800") == "\\ud800"
