"""Read the small text files through which the Linux kernel reports (/proc, /sys): missing ones are normal."""

from pathlib import Path

MAX_FILE_BYTES = 4 * 1024 * 1024  # /proc/cpuinfo of a 1024-core machine is about 1.5 MiB


def read_text(path: Path) -> str | None:
    """The file's text, cut at MAX_FILE_BYTES; None if it is not there or may not be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
    except (OSError, ValueError):  # ValueError: a NUL in a path that a broken file named
        return None


def read_int(path: Path) -> int | None:
    """A file that holds one number; None if it holds something else, such as "max"."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return None
