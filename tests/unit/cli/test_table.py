"""Table bytes, as scripts that read flux's output know them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitopsd.cli.table import display_width, render, shorten_hashes


def test_the_golden_sample_is_met_to_the_byte():
    """spec/cli.md 4: the sample of `get sources git`."""
    expected = (
        "NAME\tREVISION           \tSUSPENDED\tREADY\tMESSAGE                               \n"
        "tkfg\t6.3.5@sha1:67e2c98a\tFalse    \tTrue \tApplied revision: 6.3.5@sha1:67e2c98a\t\n"
    )
    row = ["tkfg", "6.3.5@sha1:67e2c98a", "False", "True", "Applied revision: 6.3.5@sha1:67e2c98a"]
    assert expected == render(["Name", "Revision", "Suspended", "Ready", "Message"], [row])


def test_headings_are_upper_case_with_spaces_for_separators():
    """spec/cli.md 2.5, heading text."""
    assert render(["Last seen", "a_b.c"], []) == "LAST SEEN\tA B C \n"


def test_no_rows_leave_the_heading_alone():
    """spec/cli.md 2.5, no rows."""
    assert render(["Name"], []) == "NAME \n"


def test_without_heading_widths_come_from_the_rows_alone():
    """spec/cli.md 2.5, --no-header."""
    assert render(["Name", "Ready"], [["a", "b"], ["cc", "d"]], with_heading=False) == "a \tb\t\ncc\td\t\n"


def test_a_cell_with_newlines_becomes_further_rows():
    """spec/cli.md 2.5: blank padded cells below."""
    assert render(["A", "B"], [["x", "one\nthree"]]) == "A\tB     \nx\tone  \t\n \tthree\t\n"


def test_wide_letters_count_twice_and_marks_not_at_all():
    """spec/cli.md 2.5, cell width: what a terminal shows, not how many code points."""
    assert display_width("漢字") == 4
    assert display_width("e\u0301") == 1
    assert render(["N"], [["漢"], ["abc"]]) == "N   \n漢 \t\nabc\t\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("main@sha1:" + "0123456789" * 4, "main@sha1:01234567"),
        ("sha256:" + "abcdef01" * 8, "sha256:abcdef01"),
        ("a" * 39, "a" * 39),
        ("a" * 128, "a" * 8),
        ("a" * 129, "a" * 129),
        ("A" * 40, "A" * 40),
        ("x" + "a" * 40, "x" + "a" * 40),
        ("_" + "a" * 40, "_" + "a" * 40),
        ("stored artifact for revision 'main/" + "b" * 40 + "'", "stored artifact for revision 'main/bbbbbbbb'"),
        ("a" * 40 + " and " + "c" * 64, "aaaaaaaa and cccccccc"),
    ],
)
def test_hashes_are_cut_to_eight_digits(text, expected):
    """spec/cli.md 2.6: word-bounded runs of 40 to 128 lower-case hex digits."""
    assert expected == shorten_hashes(text)


def test_S01_cells_cannot_steer_a_terminal():
    """spec/hostile-inputs.md S01: escapes, bidi and carriage returns are shown, not obeyed."""
    printed = render(["Name"], [["\x1b[2J\u202eevil\r\x9b"]])
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "\\x1b[2J\\u202eevil\\r\\x9b\t\n" in printed


def test_S01_a_newline_in_a_cell_cannot_forge_a_row():
    """spec/hostile-inputs.md S01: what follows a newline stays in its own column."""
    printed = render(["Name", "Message"], [["a", "x\nforged\tTrue"]])
    assert printed.splitlines()[2].startswith(" ")


def test_paint_sees_padded_cells_and_changes_no_width():
    """Colours are put around finished cells."""
    plain = render(["Name", "Ready"], [["a", "False"]])
    painted = render(["Name", "Ready"], [["a", "False"]], paint=lambda title, cell: f"<{title}:{cell}>")
    assert painted == "NAME\tREADY \n<NAME:a   >\t<READY:False>\t\n"
    assert plain == "NAME\tREADY \na   \tFalse\t\n"


_CELLS = st.text().map(lambda text: text.replace("\t", " "))


@given(st.lists(st.tuples(_CELLS, _CELLS), max_size=5))
def test_every_line_of_a_table_is_equally_wide(rows):
    """Whatever the cells hold, columns stay aligned."""
    lines = [line[:-1] for line in render(["One", "Two"], rows).split("\n")[:-1]]
    assert len({display_width(line.split("\t")[0]) for line in lines}) == 1
