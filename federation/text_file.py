"""Small text files that a person wrote and gave by an option: read whole, within a bound."""

from __future__ import annotations

from pathlib import Path

from federation.errors import FederationError


class TextFileError(FederationError):
    """A file that cannot be read, or is too large to be what it should be."""


def read_text_file(path: Path, option: str, max_bytes: int) -> str:
    """The text, what is no UTF-8 replaced. Blocks. Raises TextFileError naming the `option` and the file."""
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise TextFileError(f"cannot read {option} {path}: {error.strerror}") from error
    if len(raw) > max_bytes:
        raise TextFileError(f"{option} {path} is larger than {max_bytes} bytes")
    return raw.decode("utf-8-sig", errors="replace")
