"""Long prompts are prefilled in slices, so that a request whose client left frees its slot within about one of them.

llama.cpp looks at a closed connection only when a prefill is over. So before a long request goes out, its prompt is
brought into the prompt cache piece by piece, by requests of a growing prefix that keep nothing they generate; the
request itself then finds all but the last piece there. Closing between two pieces ends the work.

The first piece begins where an earlier prompt left off: a shorter one would make llama.cpp forget the rest of a
conversation that it still holds. A model whose cache cannot be continued is found out by its first pieces, and is then
left alone.
"""

from __future__ import annotations

import itertools
import logging
import time
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from swarm.errors import EngineDied, SwarmError
from swarm.generation import GenerationRequest, has_images
from swarm.moving_mean import moving_mean

log = logging.getLogger(__name__)

LONG_TOKENS = 512  # a shorter prompt is one step of llama.cpp anyway
CHARS_PER_TOKEN = 4  # of prose; only to guess whether a prompt is worth counting
SLICE_S = 0.5  # between two looks at whether the client is still there: rule 10 asks for one second
FIRST_SLICE_TOKENS = 256  # while no speed is measured
MIN_SLICE_TOKENS = 64  # below it batches are slower, and the requests themselves begin to count
MAX_SLICE_TOKENS = 8192  # a prompt in the cache is given to llama.cpp as numbers: 50 KB a slice
REMEMBERED_PROMPTS = 16  # whose beginnings the cache may still hold; 4 bytes a token
MAX_MISSES = 3  # in a row, before a model is taken for one whose cache cannot be continued

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Any]]  # the parsed answer to a POST; raises SwarmError


def is_long(request: GenerationRequest) -> bool:
    """Whether a prompt is so long that its tokens are worth counting: a guess by its characters."""
    if request.suffix is not None or has_images(request):  # llama.cpp makes its prompt itself
        return False
    texts = itertools.chain(
        [request.prompt or ""],
        (str(message.get(part) or "") for message in request.messages or () for part in ("content", "tool_calls")),
        (tool.model_dump_json() for tool in request.tools),
    )
    limit = LONG_TOKENS * CHARS_PER_TOKEN
    chars = 0
    return any((chars := chars + len(text)) > limit for text in texts)


def slice_tokens(left: int, tokens_per_s: float | None, most: int = MAX_SLICE_TOKENS) -> int:
    """How many of the `left` tokens the next slice takes; 0 where the rest may go with the request itself."""
    wanted = FIRST_SLICE_TOKENS if tokens_per_s is None else int(tokens_per_s * SLICE_S)
    wanted = min(max(wanted, MIN_SLICE_TOKENS), most)
    return wanted if left > wanted else 0


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


@dataclass(frozen=True, slots=True)
class Slice:
    """What llama.cpp says of one: tokens it had in its cache, and tokens it evaluated."""

    cached: int
    evaluated: int


class SlicedPrefill:
    """Warms the prompt cache of one llama.cpp server. `context_tokens` is what one request may fill.

    Prompts of more than `long_tokens` are read in slices of at most `most_slice_tokens`.
    """

    def __init__(self, ask: Ask, context_tokens: int = 0, most_slice_tokens: int = MAX_SLICE_TOKENS) -> None:
        self._ask = ask
        self.context_tokens = context_tokens
        self.long_tokens = LONG_TOKENS
        self.most_slice_tokens = most_slice_tokens
        self._prompts: deque[array[int]] = deque(maxlen=REMEMBERED_PROMPTS)
        self._tokens_per_s: float | None = None
        self._misses = 0

    async def warm(self, body: Mapping[str, Any]) -> int | None:
        """Prefill all but the end of the prompt of `body`, a request; cancelling it stops after the slice in progress.

        Returns how much of the prompt was in the cache before; None where nothing was done. Raises EngineDied, and
        nothing else: what is wrong with a request is for the request itself to say.
        """
        if self._misses >= MAX_MISSES:
            return None
        try:
            prompt = array("i", await self._tokens(body))
            if not self.long_tokens < len(prompt) < self.context_tokens:
                return None
            return await self._warm(prompt)
        except EngineDied:
            raise
        except (SwarmError, KeyError, TypeError, ValueError, OverflowError) as error:
            log.debug("no prefill in slices: %r", error)
            return None

    async def _tokens(self, body: Mapping[str, Any]) -> list[int]:
        text = body.get("prompt")
        if isinstance(text, list):
            return cast("list[int]", text)
        if text is None:
            asked = {name: value for name, value in body.items() if name not in ("n", "stream", "stream_options")}
            text = (await self._ask("/apply-template", asked))["prompt"]
        answer = await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return answer["tokens"]

    async def _warm(self, prompt: array[int]) -> int | None:
        done = max((common_prefix(prompt, other) for other in self._prompts), default=0)
        before: int | None = None
        try:
            while size := slice_tokens(len(prompt) - done, self._tokens_per_s, self.most_slice_tokens):
                made = await self._evaluate(prompt[: done + size])
                if before is None:
                    before = made.cached
                elif made.cached < done - 1:  # the last token is evaluated anew where nothing else is
                    self._missed()
                    break
                else:
                    self._misses = 0
                done += size
            done = len(prompt)  # what is left goes with the request itself
        finally:
            self._remember(prompt[:done])
        return before

    def _remember(self, prompt: array[int]) -> None:
        """Keep what the cache may hold from now on, in place of what it continues."""
        for other in list(self._prompts):
            if common_prefix(prompt, other) == len(other):
                self._prompts.remove(other)
        self._prompts.append(prompt)

    async def _evaluate(self, tokens: array[int]) -> Slice:
        begun = time.perf_counter()
        asked = {"prompt": tokens.tolist(), "n_predict": 0, "cache_prompt": True}
        timings = (await self._ask("/completion", asked))["timings"]
        made = Slice(int(timings["cache_n"]), int(timings["prompt_n"]))
        if made.evaluated >= MIN_SLICE_TOKENS:
            speed = made.evaluated / max(time.perf_counter() - begun, 1e-6)
            self._tokens_per_s = moving_mean(self._tokens_per_s, speed)
        return made

    def _missed(self) -> None:
        self._misses += 1
        if self._misses == MAX_MISSES:
            log.warning("this model's prompt cache cannot be continued: a client that leaves frees its slot late")
