"""Single values from tools."""

import pytest

from hardware.tool_text import MAX_LINE_CHARS, known_text, one_line, whole_number


def test_one_line_disarms_and_shortens() -> None:
    assert one_line("a\x1b[31mb\r\n\tc\x07") == "a [31mb c"
    assert one_line("word " * 200, 20) == "word word word word…"
    assert len(one_line("x" * 10_000)) == MAX_LINE_CHARS


@pytest.mark.parametrize(
    "value", ["", "  ", "N/A", "n/a", "[N/A]", "[Not Supported]", "[Insufficient Permissions]", "\x00", None, 3, ["x"]]
)
def test_words_that_say_nothing(value: object) -> None:
    assert known_text(value) is None


def test_words_that_say_something() -> None:
    assert known_text(" Navi 22 [Radeon RX 6700] \n") == "Navi 22 [Radeon RX 6700]"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("24564", 24564),
        (" 7 ", 7),
        (7, 7),
        (0, 0),
        *((unknown, None) for unknown in (-1, "-1", 1.5, "1.5", "²", True, "", None, "9" * 21, "0x10")),
    ],
)
def test_whole_numbers(value: object, number: int | None) -> None:
    assert whole_number(value) == number
