"""QR codes, as rows of modules for a page and as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import segno

QUIET: Final = 2  # modules of light around it on a terminal: cameras of phones read that, and it saves columns

# Two rows of modules are one line: which halves of its characters are light.
HALVES: Final = {("0", "0"): "█", ("0", "1"): "▀", ("1", "0"): "▄", ("1", "1"): " "}
BLACK_AND_WHITE: Final = "\x1b[38;5;231;48;5;16m"  # whatever the terminal's own colours are
AS_BEFORE: Final = "\x1b[0m"


def qr_rows(text: str) -> list[str]:
    """The modules of the QR code of `text`, a row for each line: 1 is dark, and there is no margin.

    Capitals, digits and `:/.-` alone take the fewest modules.
    """
    return ["".join("1" if module else "0" for module in row) for row in segno.make_qr(text, error="l").matrix]


def qr_text(rows: Sequence[str], colours: bool) -> str:
    """The code for a terminal: a module is a column wide and half a line high.

    With `colours` it is black on white whatever the terminal's colours are; without it is right on a dark one.
    """
    wide = len(rows[0]) + 2 * QUIET
    light = ["0" * wide] * QUIET
    framed = [*light, *(f"{'0' * QUIET}{row}{'0' * QUIET}" for row in rows), *light]
    if len(framed) % 2:
        framed.append("0" * wide)
    lines = [
        "".join(HALVES[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(framed[::2], framed[1::2], strict=True)
    ]
    return "\n".join(f"{BLACK_AND_WHITE}{line}{AS_BEFORE}" if colours else line for line in lines)
