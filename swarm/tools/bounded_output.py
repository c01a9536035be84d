"""What a command said, in bounded memory: its beginning and its end, as text that a terminal only shows. Pure."""

from __future__ import annotations

from typing import Final

from federation.printable_text import clean_text
from swarm.tools.tool import MAX_OUTPUT_CHARS

_KEPT_BYTES: Final = 16_384  # at each end: 1,500 characters with room for escape sequences that are taken out
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))  # every other byte begins a character of UTF-8


class OutputEnds:
    """Takes a stream of bytes of any length and keeps both ends of it; what lies between is only counted."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._head = bytearray()
        self._tail = bytearray()
        self._between_chars = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        room = self._kept_bytes - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        over = len(self._tail) - self._kept_bytes
        if over > self._kept_bytes:  # in steps as long as what is kept, not with every piece
            self._cut(over)

    def _cut(self, over: int) -> None:
        self._between_chars += _characters(self._tail[:over])
        del self._tail[:over]

    def text(self, most_chars: int = MAX_OUTPUT_CHARS) -> tuple[str, bool]:
        """The text, and whether something was cut out of it: then a line says how much."""
        if not self._between_chars and len(self._tail) <= self._kept_bytes:
            return cut_in_the_middle(_decoded(self._head + self._tail), most_chars)
        if (over := len(self._tail) - self._kept_bytes) > 0:
            self._cut(over)
        # A character that lies across the first cut counts as one of the head's.
        part = len(self._tail[:3]) - len(self._tail[:3].lstrip(_CONTINUATIONS)) if len(self._tail) > 3 else 0
        head, tail = _decoded(self._head), _decoded(self._tail[part:])
        half = most_chars // 2
        cut = self._between_chars + max(0, len(head) - half) + max(0, len(tail) - half)
        return _joined(head[:half], cut, tail[-half:]), True


def cut_in_the_middle(text: str, most_chars: int = MAX_OUTPUT_CHARS) -> tuple[str, bool]:
    """A clean text of at most so many characters, and a line that says how many were cut where it was longer."""
    if len(text) <= most_chars:
        return text, False
    half = most_chars // 2
    return _joined(text[:half], len(text) - 2 * half, text[-half:]), True


def _joined(head: str, cut_chars: int, tail: str) -> str:
    return f"{head}\n[… {cut_chars} characters cut …]\n{tail}"


def _decoded(data: bytes | bytearray) -> str:
    return clean_text(data.decode("utf-8", errors="replace"))


def _characters(data: bytes | bytearray) -> int:
    return len(data.translate(None, _CONTINUATIONS))
