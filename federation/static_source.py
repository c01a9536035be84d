"""A file that lists peers, one HOST:PORT a line, read again whenever it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from federation.errors import AddressError
from federation.hostport import Address, parse_address
from federation.text_file import TextFileError, read_text_file
from federation.timing import MAX_STATIC

LOOK_EVERY_S: Final = 5.0  # one stat; whoever edits the list does not wait for a restart
MAX_FILE_BYTES: Final = 64 * 1024  # MAX_STATIC of the longest legal names, and comments

_log = logging.getLogger(__name__)


def parse_list(text: str) -> tuple[Address, ...]:
    """The addresses, `#` begins a comment. Raises AddressError naming the line."""
    found: list[Address] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", maxsplit=1)[0].strip()
        try:
            found += [parse_address(words)] if words else []
        except AddressError as error:
            raise AddressError(f"line {number}: {error}") from error
    if len(found) > MAX_STATIC:
        raise AddressError(f"{len(found)} peers, more than {MAX_STATIC}: one of a swarm is enough, it knows the rest")
    return tuple(dict.fromkeys(found))


def read_list(path: Path) -> tuple[Address, ...]:
    """The addresses in the file. Blocks. Raises AddressError with the remedy."""
    try:
        return parse_list(read_text_file(path, "--peer-file", MAX_FILE_BYTES))
    except TextFileError as error:
        raise AddressError(str(error)) from error
    except AddressError as error:
        raise AddressError(f"--peer-file {path}, {error}") from error


class StaticList:
    """Tells `listed` of the file's addresses, and again after each change, as long as `run` runs.

    While the file cannot be used, what it listed before stands.
    """

    def __init__(
        self, path: Path, listed: Callable[[tuple[Address, ...]], None], every_s: float = LOOK_EVERY_S
    ) -> None:
        self._path = path
        self._listed = listed
        self._every_s = every_s
        self._last: tuple[Address, ...] | None = None
        self._complaint: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Read the file now. A few lines: cheaper than to trust that every system dates a change."""
        try:
            addresses = await asyncio.to_thread(read_list, self._path)
        except AddressError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning("%s; the peers that it listed before stay", error)
            return
        self._complaint = None
        if addresses != self._last:
            self._last = addresses
            self._listed(addresses)
