"""Cutting a byte stream into lines without ever holding more than one bounded line."""


class LineTooLong(ValueError):
    """A line exceeded the limit; the stream cannot be read further."""


class LineSplitter:
    """Feed chunks, get complete lines. Blank ones (heartbeats) vanish; where chunks were cut does not matter."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []  # of the unfinished line; joined once, so a slow long line stays linear
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines this chunk completes, without their line ends. Raises LineTooLong."""
        lines: list[bytes] = []
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self._hold(piece)
            line = self._take()
            if line:
                lines.append(line)
        self._hold(rest)
        return lines

    def finish(self) -> bytes | None:
        """The last line when the stream ended without a line end, else None."""
        return self._take() or None

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes > self._max_line_bytes:
            raise LineTooLong(f"a line is longer than {self._max_line_bytes} bytes")
        if piece:
            self._parts.append(piece)

    def _take(self) -> bytes:
        line = b"".join(self._parts).strip()
        self._parts.clear()
        self._held_bytes = 0
        return line
