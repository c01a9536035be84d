"""A prompt that was read in one slot of a llama.cpp server, in other slots as well: for answers drawn otherwise.

Answers to one request share its prompt, and all of its sampling. Between two requests llama.cpp shares nothing; but it
writes what a slot holds to a file, and reads it into another slot, in a fraction of what reading the prompt takes. A
slot is only written before it decodes. The file lies in memory: an anonymous one of this process, which its children
have under the same number, and which is empty again as soon as it was read. What is in a prompt reaches no disk thereby
that was not to be kept on one (`saved_prompts.py`): then the file is there, and is removed at once.

Where there are no such files (only Linux has them), or one cannot be written, each request reads the prompt itself.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.saved_prompts import SavedPrompts
from swarm.engines.llama_cpp.server_host import OPEN_FILES
from swarm.errors import EngineDied, SwarmError, Unavailable
from swarm.moving_mean import moving_mean
from swarm.registry.gguf_header import GgufModel

MOST_BYTES = 2**29  # of a copy, beside all that the model takes
MEMORY_BYTES_PER_S = 4e8  # while no speed is measured: slow memory
ROUND_TRIPS_S = 0.01  # of the requests that a copy takes, besides the bytes
MOST_FAILURES = 3  # in a row, before nothing is copied any more

log = logging.getLogger(__name__)

Ask = Callable[[str, Mapping[str, Any] | None], Awaitable[Any]]  # the parsed answer; None: a GET; raises SwarmError


def copy_seconds(size: int, copies: int, bytes_per_s: float | None) -> float:
    """How long it takes to write `size` bytes, and to read them `copies` times."""
    return (1 + copies) * size / (bytes_per_s or MEMORY_BYTES_PER_S) + ROUND_TRIPS_S


def copies_pay(tokens: int, copies: int, seconds: float, tokens_per_s: float | None) -> bool:
    """Whether copying takes less time than reading `tokens` again as often; True while it is not known how long."""
    return tokens_per_s is None or seconds < copies * tokens / tokens_per_s


class PromptCopies:
    """Copies between the slots of one server. `token_bytes`: what a token of its cache takes, 0 where not known.

    `number` is that of the file in memory; None: there is none. `close()` closes it.
    """

    def __init__(self, ask: Ask, number: int | None = None, token_bytes: int = 0) -> None:
        self._ask = ask
        self._number = number
        self._token_bytes = token_bytes
        self._bytes_per_s: float | None = None
        self._failures = 0

    @property
    def in_memory(self) -> bool:
        return self._number is not None

    def pay(self, tokens: int, copies: int, tokens_per_s: float | None, most_s: float) -> bool:
        """Whether `copies` of so many tokens are worth it, and can be made within `most_s` and the memory for them."""
        size = tokens * self._token_bytes
        seconds = copy_seconds(size, copies, self._bytes_per_s)
        able = self._failures < MOST_FAILURES and size <= MOST_BYTES and seconds <= most_s
        return able and copies_pay(tokens, copies, seconds, tokens_per_s)

    async def copy(self, source: int, targets: Sequence[int], tokens: int, saved: SavedPrompts | None) -> bool:
        """What slot `source` holds is in all `targets` now: so many `tokens`; False where it may be in none.

        `saved` has the folder that the server writes to; None: its file is in memory. Raises EngineDied.
        """
        if saved is None and self._number is None:
            return False
        try:
            with self._file(saved, tokens * self._token_bytes) as name:
                began = time.perf_counter()
                written = await self._ask(f"/slots/{source}?action=save", {"filename": name})
                size = int(written["n_written"])
                held = [int(written["n_saved"])]
                for target in targets:
                    restored = await self._ask(f"/slots/{target}?action=restore", {"filename": name})
                    held.append(int(restored["n_restored"]))
                took_s = max(time.perf_counter() - began, 1e-4)
        except (EngineDied, Unavailable):
            raise
        except (SwarmError, OSError, KeyError, TypeError, ValueError) as error:
            self._failed(error)
            return False
        self._token_bytes = max(-(-size // max(tokens, 1)), 1)
        self._bytes_per_s = moving_mean(self._bytes_per_s, (1 + len(targets)) * size / took_s)
        if any(count != tokens for count in held):
            self._failed(ValueError(f"slots hold {held} tokens, and {tokens} were read"))
            return False
        self._failures = 0
        return True

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == MOST_FAILURES:
            log.info("prompts are read once for each sampling of a vote: what was read cannot be copied: %s", error)

    @contextmanager
    def _file(self, saved: SavedPrompts | None, size: int) -> Generator[str]:
        """The name of a file that nobody else uses now. Blocks for as long as a small file's beginning takes."""
        if saved is not None:
            name = saved.scratch(size)
            try:
                yield name
            finally:
                saved.remove(name)
            return
        assert self._number is not None
        try:
            yield str(self._number)
        finally:
            os.ftruncate(self._number, 0)

    def close(self) -> None:
        if self._number is not None:
            os.close(self._number)
            self._number = None


@contextmanager
def with_copies(spec: EngineSpec, model: GgufModel | None) -> Generator[EngineSpec]:
    """`spec` with an open file for copies, where there are such and they serve; closed where the block fails.

    Of a draft model llama.cpp writes no state; of an unknown one nobody knows how large it would be.
    """
    elsewhere = spec.saves is not None or spec.parts  # on a disk; or what is read would come over the network first
    if elsewhere or spec.draft is not None or spec.slots < 2 or model is None or not Path(OPEN_FILES).is_dir():
        yield spec
        return
    try:
        number = os.memfd_create("prompt")
    except (OSError, AttributeError) as error:
        log.debug("no file in memory: %s", error)
        yield spec
        return
    try:
        yield replace(spec, copies=number)
    except BaseException:
        os.close(number)
        raise
