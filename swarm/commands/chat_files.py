"""Files that `swarm chat` reads and writes: pictures, and conversations. Each fault is one line that names the file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from swarm.commands.conversation import MOST_FILE_BYTES, NoConversation
from swarm.errors import SwarmError


def path_of(name: str) -> Path:
    """The file that somebody has typed, whose name may begin with `~`."""
    with suppress(RuntimeError):  # "~nobody"
        return Path(name).expanduser()
    return Path(name)


def read_image(path: Path, beside: Sequence[str] = ()) -> tuple[str, str]:
    """A picture as a data URL, and its kind and size in words. Raises SwarmError for what a node would not take.

    `beside`: those that go with the same question.
    """
    from swarm.images import MAX_IMAGE_BYTES_TOGETHER, ImageBudget, data_of, data_url, header_of

    budget = ImageBudget()
    try:
        for url in beside:
            known = data_of(url)
            budget.take(header_of(known), len(known))
        with path.open("rb") as file:
            raw = file.read(MAX_IMAGE_BYTES_TOGETHER + 1)
        header = header_of(raw)
        budget.take(header, len(raw) if len(raw) <= MAX_IMAGE_BYTES_TOGETHER else path.stat().st_size)
    except OSError as error:
        raise SwarmError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SwarmError(f"{path} {error}") from error
    return data_url(raw, header), f"{header.kind}, {header.width} x {header.height} pixels"


def read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise SwarmError(f"{path} has more than {MOST_FILE_BYTES >> 20} MiB, which no conversation has")
        return path.read_text("utf-8")
    except OSError as error:
        raise SwarmError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise NoConversation(f"it is no text ({error.reason})") from error


def save_text(path: Path, text: str, may_replace: bool) -> None:
    """Write all of it, or leave what was there. Raises SwarmError, also for a file that is there already."""
    if path.exists() and not may_replace:
        raise SwarmError(f"{path} is there already: `/save! {path}` replaces it")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(text.encode("utf-8", "replace"))
        part.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise SwarmError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
