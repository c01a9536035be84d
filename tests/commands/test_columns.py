"""How many columns a clean line takes, and cutting it to so many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.printable_text import aligned, clean_line, columns_of, cut, fitted


@given(st.text(st.characters(codec=None), max_size=80), st.integers(0, 30))
def test_no_line_exceeds_its_columns(text: str, columns: int) -> None:
    line = clean_line(text)
    assert columns_of(cut(line, columns)) <= columns
    assert columns_of(fitted(line, columns)) == columns


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


def test_a_table_is_aligned_whatever_its_names_are() -> None:
    rows = [("NAME", "SIZE", "PATH"), ("日本", "5", "/a\nforged: b"), ("[red]x[/red]", "1234567", "")]
    assert aligned(rows, {1}) == [
        "NAME             SIZE  PATH",
        "日本                5  /a forged: b",
        "[red]x[/red]  1234567",
    ]
    assert aligned([]) == []
