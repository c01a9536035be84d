"""What models and peers write, as a terminal may see it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.commands.printable_text import clean_line, clean_text, columns_of, cut, fitted


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        (" two\n lines\t here ", "two lines here"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;c3Rlal", ""),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1bcreset", "reset"),
        ("cut off \x1b[", "cut off"),
        ("back\x08space\x00", "back\ufffdspace\ufffd"),
        ("right \u202eleft\u202c", "right left"),
        ("fam\u200dily", "family"),
        ("half \ud83d", "half \ufffd"),
        ("a\u00a0b\u2028c", "a b c"),
        ("over\rwritten", "over written"),
        ("日本語", "日本語"),
    ],
)
def test_a_line_has_nothing_that_a_terminal_acts_on(text: str, clean: str) -> None:
    assert clean_line(text) == clean


def test_an_answer_keeps_its_lines_and_tabs() -> None:
    assert clean_text("a\r\nb\n\n\tc\x1b[5m\rd") == "a\nb\n\n\tc\nd"


@given(st.text(st.characters(codec=None), max_size=80), st.integers(0, 30))
def test_no_text_has_controls_or_exceeds_its_columns(text: str, columns: int) -> None:
    line = clean_line(text)
    assert all(char.isprintable() for char in line)
    assert columns_of(cut(line, columns)) <= columns
    assert columns_of(fitted(line, columns)) == columns
    assert all(char.isprintable() or char in "\n\t" for char in clean_text(text))


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("e\u0301tude", 5, "e\u0301tude"),
        ("any", 1, "…"),
        ("any", 0, ""),
    ],
)
def test_a_cut_line_ends_with_an_ellipsis(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown


def test_columns_are_filled_on_the_side_that_is_asked_for() -> None:
    assert fitted("日", 4) == "日  "
    assert fitted("7", 4, right=True) == "   7"
