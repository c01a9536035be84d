"""What models and peers write, as a terminal may see it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.printable_text import TextCleaner, clean_line, clean_text, one_line, printable


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


texts = st.text(st.characters(codec=None), max_size=80)
PARTS = [
    *("\x1b", "\x1b[", "\x1b]", "\x9b", "\x9d", "\x1b]0;", "\x1b]52;c;", "\x1b]8;;http://x", "\x07"),
    *("\x1b\\", "\x9c", "\u200b", "\u200d", "\ufe0f"),
    *(
        "\x1bP",
        "31",
        ";",
        "m",
        "[2J",
        "\r",
        "\n",
        "\r\n",
        "\x08",
        "\x7f",
        "\u202e",
        "\u2066",
        "\u200b",
        "\u200d",
        "\ufe0f",
    ),
]
hostile = st.lists(st.one_of(texts, st.sampled_from(PARTS)), max_size=20).map("".join)


def is_only_shown(text: str) -> bool:
    """Whether a terminal does nothing with it but show it, and start lines."""
    return all(char.isprintable() or char in "\n\t\u200c\u200d" for char in text)


@given(hostile)
def test_nothing_is_left_that_a_terminal_acts_on(text: str) -> None:
    assert is_only_shown(clean_text(text))
    assert is_only_shown(one_line(text))
    assert "\n" not in one_line(text)
    assert all(char.isprintable() for char in clean_line(text))
    name = printable(text)
    assert len(name) == len(text)
    assert all(char.isprintable() for char in name)


@given(hostile)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    for clean in (clean_text, clean_line, one_line, printable):
        assert clean(clean(text)) == clean(text)


@given(hostile, st.lists(st.integers(0, 200), max_size=10))
def test_pieces_cut_anywhere_read_as_the_whole(text: str, cuts: list[int]) -> None:
    cleaner, at = TextCleaner(), [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert "".join(cleaner.feed(text[a:b]) for a, b in pairwise(at)) == clean_text(text)


def test_every_character_alone_is_shown_or_gone() -> None:
    everything = "\n".join(map(chr, range(0x110000)))
    assert is_only_shown(clean_text(everything))
    assert printable(everything).isprintable()


@pytest.mark.parametrize(
    "prose",
    [
        "plain\n\ttabs and lines\n",
        "👩\u200d👩\u200d👧\u200d👦 and 🏳\ufe0f\u200d🌈 and ❤\ufe0f and 1\ufe0f\u20e3",
        "e\u0301tude, नमस्ते, می\u200cخواهم, क्\u200dष",
        "日本語\n한국어\nעברית\nالعربية",
        "x = {'a': [1]}  # ünïcode €",
    ],
)
def test_prose_is_what_it_was(prose: str) -> None:
    assert clean_text(prose) == prose


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\x1b]0;never ended\nnext line", "\nnext line"),
        ("\x1b]52;c;c3Rl\x1b[31mred", "red"),
        ("\x1b]8;;file:///etc/passwd\x07click\x1b]8;;\x07", "click"),
        ("\x1bP+q544e\x1b\\after", "after"),
        ("\x9d0;title\x9cafter", "after"),
        ("a\x1b[31", "a"),
        ("pass\x08\x08\x08\x08fail", "pass\ufffd\ufffd\ufffd\ufffdfail"),
        ("100 %\r\x1b[K0 %", "100 %\n0 %"),
        ("\u2066user\u2069 \u202dadmin", "user admin"),
        ("\x1b\x1b[31mtwice", "twice"),
        ("\x1b\nline", "\nline"),
    ],
)
def test_a_sequence_goes_whole_and_hides_no_more_than_its_line(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("kitchen", "kitchen"),
        ("kit\u200bchen", "kit?chen"),
        ("kitchen\u3164", "kitchen?"),
        ("kitchen\ufe0f", "kitchen?"),
        ("kitchen\u2800", "kitchen?"),
        ("\u202ekitchen", "?kitchen"),
        ("küche", "küche"),
        ("a\u00a0b", "a?b"),
    ],
)
def test_two_names_that_look_alike_are_alike(name: str, shown: str) -> None:
    assert printable(name) == shown
