"""Fenced code blocks in Markdown, found line by line."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language tag in lower case ("" without one) and the dedented code."""

    language: str
    code: str


def fenced_blocks(text: str) -> tuple[Block, ...]:
    """The fenced blocks of `text` in order; one that never closes runs to the end."""
    return _split(text)[0]


def is_one_block(text: str) -> bool:
    """`text` is a single fenced block and nothing else."""
    blocks, outside = _split(text)
    return len(blocks) == 1 and not outside


def _split(text: str) -> tuple[tuple[Block, ...], bool]:
    """The blocks, and whether anything but white space stands outside of them."""
    blocks: list[Block] = []
    outside = False
    fence, language, inside = "", "", list[str]()
    for line in text.splitlines():
        stripped = line.strip()
        if not fence:
            fence = _opening(stripped)
            language = _language(stripped[len(fence) :]) if fence else ""
            outside = outside or (not fence and bool(stripped))
        elif stripped.startswith(fence) and not stripped.strip(fence[0]):
            blocks.append(_block(language, inside))
            fence, inside = "", []
        else:
            inside.append(line)
    if fence:
        blocks.append(_block(language, inside))
    return tuple(blocks), outside


def _opening(line: str) -> str:
    """The fence that `line` opens with, at its full length; empty if none (an info string holds no backtick)."""
    for fence in _FENCES:
        if line.startswith(fence):
            run = line[: len(line) - len(line.lstrip(fence[0]))]
            return "" if "`" in line[len(run) :] else run
    return ""


def _language(info: str) -> str:
    words = info.replace("{", " ").replace(",", " ").split()
    return words[0].lstrip(".").lower() if words else ""


def _block(language: str, lines: list[str]) -> Block:
    return Block(language, textwrap.dedent("\n".join(lines)))
