"""What keys used, kept in the data directory, so that a limit per day outlives a restart: counts and names, no keys.

Written at most once a minute, where something has changed, and when the node stops. A file that is damaged is said to
be, and begun anew: nobody is shut out for it, and nobody's limit is lifted without a word.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from federation.small_files import TextFileError, read_text_file, write_atomically
from swarm.gateway.observing.usage import MAX_DAYS, DayUsage, UsageBook

USAGE_FILE: Final = "usage.json"
MAX_FILE_BYTES: Final = 16 * 2**20  # 1,000 keys with 31 days each are 4 MB
EVERY_S: Final = 60.0
MAX_COUNT: Final = 2**53
_DAY: Final = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")

log = logging.getLogger(__name__)


def _is_day(text: str) -> str:
    if not _DAY.fullmatch(text):
        raise ValueError("is no day")
    return text


KeptCount = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]


class KeptDay(BaseModel):
    """One key's day."""

    model_config = ConfigDict(extra="forbid")

    day: Annotated[str, AfterValidator(_is_day)]
    requests: KeptCount
    refused: KeptCount
    prompt_tokens: KeptCount
    completion_tokens: KeptCount


class KeptUsage(BaseModel):
    """The file."""

    version: Literal[1]
    keys: dict[str, Annotated[list[KeptDay], Field(max_length=MAX_DAYS)]]


def read_usage(path: Path) -> dict[str, list[DayUsage]]:
    """What an earlier start kept; nothing, with a warning, for a file that is damaged. Blocks."""
    try:
        if not path.exists():
            return {}
        kept = KeptUsage.model_validate_json(read_text_file(path, "the usage of keys in", MAX_FILE_BYTES))
    except (TextFileError, ValidationError, OSError) as error:
        why = str(error) if isinstance(error, TextFileError | OSError) else "it is damaged"
        log.warning("what keys used is counted anew, their limits of today included: %s: %s", path, why)
        return {}
    return {name: [DayUsage(**day.model_dump()) for day in days] for name, days in kept.keys.items()}


def write_usage(path: Path, days: Mapping[str, list[DayUsage]]) -> None:
    """Replace the file, mode 0600. Blocks. Raises OSError."""
    keys = {name: [KeptDay.model_validate(day, from_attributes=True) for day in of] for name, of in days.items() if of}
    write_atomically(path, KeptUsage(version=1, keys=keys).model_dump_json().encode())


def keeping_usage(
    book: UsageBook, path: Path, every_s: float = EVERY_S
) -> Callable[[web.Application], AsyncGenerator[None]]:
    """For an application's `cleanup_ctx`: `book` goes on from the file, which is kept as new as `every_s`."""
    written, failing = 0, False

    async def write() -> None:
        nonlocal written, failing
        seen = book.changes
        if seen == written:
            return
        try:
            await asyncio.to_thread(write_usage, path, book.known_days())
        except OSError as error:
            if not failing:  # each minute the same would say nothing new
                log.warning("what keys used cannot be kept, and a restart forgets it: %s: %s", path, error.strerror)
            failing = True
            return
        written, failing = seen, False

    async def write_now_and_then(stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s)
            await write()

    async def running(_: web.Application) -> AsyncGenerator[None]:
        left_out = book.take_days(await asyncio.to_thread(read_usage, path))
        if left_out:
            log.info("%d keys of %s are keys of this node no longer: what they used is left out", len(left_out), path)
        stop = asyncio.Event()
        task = asyncio.create_task(write_now_and_then(stop), name="keeps what keys used")
        yield
        stop.set()
        await task
        await write()  # what came while the last one was on its way

    return running
