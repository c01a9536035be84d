"""A prompt is read in the slot that holds most of it, and a long one in slices.

llama.cpp looks at a closed connection only when a prefill is over. So before a long request goes out, its prompt is
brought into the prompt cache piece by piece, by requests of a growing prefix that keep nothing they generate; the
request itself then finds all but the last piece there. Closing between two pieces ends the work.

The first piece begins where an earlier prompt and its answer left off: a shorter one would make llama.cpp forget the
rest of a conversation that it still holds. A model whose cache cannot be continued is found out by its first pieces,
and is then left alone.

Requests for one prompt that are sampled apart share its reading: what was read in one slot is copied to the others
(`prompt_copies.py`).

Which slot that is, `prompt_slots.py` decides. Where prompts may be saved (`saved_prompts.py`), what gives way goes to
the disk first, what is idle follows after a while, and the rest when the engine ends; what comes back is restored. A
save or a restore is a step of llama.cpp's one loop, and other answers wait for it: what would take long to be written
beside others is not saved.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from federation.tasks import cancel_and_wait
from swarm.engines.llama_cpp.prompt_copies import Ask, PromptCopies
from swarm.engines.llama_cpp.prompt_slots import (
    CHARS_PER_TOKEN,
    DISK_SHARE,
    FEW_TOKENS,
    SHORT_TOKENS,
    PromptSlot,
    PromptSlots,
    SlotChoice,
    no_tokens,
)
from swarm.engines.llama_cpp.saved_prompts import NoDiskRoom, SavedPrompt, SavedPrompts
from swarm.errors import EngineDied, SwarmError, Unavailable
from swarm.generation import Delta, Finish, GenerationRequest, has_images
from swarm.moving_mean import moving_mean
from swarm.registry.model_memory import size_text

log = logging.getLogger(__name__)

LONG_TOKENS = SHORT_TOKENS  # a shorter prompt is one step of llama.cpp anyway
SLICE_S = 0.5  # between two looks at whether the client is still there: rule 10 asks for one second
FIRST_SLICE_TOKENS = 256  # while no speed is measured
MIN_SLICE_TOKENS = 64  # below it batches are slower, and the requests themselves begin to count
MAX_SLICE_TOKENS = 8192  # a prompt in the cache is given to llama.cpp as numbers: 50 KB a slice
MAX_MISSES = 3  # in a row, before a model is taken for one whose cache cannot be continued
IDLE_S = 10.0  # until what was read is saved: whoever talks goes on within it, mostly
UNSAVED_SHARE = 0.1  # of a conversation: it is written anew, as a whole, when so much of it is not on the disk
LONGEST_MOVE_S = 5.0  # of a save, in which llama.cpp makes no step; beside other answers:
LONGEST_MOVE_BESIDE_S = 1.0
CHECKED_BYTES_PER_S = 5e8  # of a file's sha256, on a slow machine
MOVE_BYTES_PER_S = 2e8  # while no speed is measured: a slow disk
SAVE_AT_END_S = 10.0  # for all that is not on the disk yet
PAUSE_S = 600.0  # without saves, when one has failed
NOT_SAVED = (SwarmError, OSError, KeyError, ValueError)  # what may go wrong with it, and is told


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


def slice_tokens(
    left: int,
    tokens_per_s: float | None,
    most: int = MAX_SLICE_TOKENS,
    before: int = MAX_SLICE_TOKENS,
    least: int = MIN_SLICE_TOKENS,
) -> int:
    """How many of the `left` tokens the next slice takes; 0 where the rest may go with the request itself.

    The further into a prompt, the slower it is read: so a slice has at most twice as many as the one `before` it.
    """
    wanted = FIRST_SLICE_TOKENS if tokens_per_s is None else int(tokens_per_s * SLICE_S)
    wanted = min(max(wanted, least), most, 2 * max(before, MIN_SLICE_TOKENS))
    return wanted if left > wanted else 0


def least_tokens(least: int, made: Slice, before: Slice | None) -> int:
    """How many tokens the next slice of a prompt has at least, by the last two: `least` were asked of the last one.

    On a busy machine a small slice takes about as long as one of several times as many tokens: to make slices ever
    smaller until they take half a second would stop the reading. So where a smaller one took about as long they stay as
    large as before, where a larger one took little longer they grow, and the smallest are tried at twice their size; up
    to what is one step of llama.cpp.
    """
    if made.evaluated < MIN_SLICE_TOKENS or not made.seconds:
        return least
    if before is None or before.evaluated < MIN_SLICE_TOKENS or not before.seconds:
        return 2 * MIN_SLICE_TOKENS if made.evaluated < 2 * MIN_SLICE_TOKENS else least
    rate, rate_before = made.evaluated / made.seconds, before.evaluated / before.seconds
    if made.evaluated > 1.2 * before.evaluated and rate > 1.3 * rate_before:
        least = 2 * made.evaluated
    elif made.evaluated < 0.8 * before.evaluated and rate < 0.75 * rate_before:
        least = before.evaluated
    elif made.evaluated > 1.2 * before.evaluated:
        least = MIN_SLICE_TOKENS
    return min(least, LONG_TOKENS)


@dataclass(frozen=True, slots=True)
class Slice:
    """What llama.cpp says of one: tokens it had in its cache, tokens it evaluated, and the milliseconds for these.

    It took `seconds` in all.
    """

    cached: int
    evaluated: int
    took_ms: float = 0.0
    seconds: float = 0.0

    def slower(self, tokens_per_s: float | None) -> float | None:
        """The speed to plan the next one with: this one's, where it was below that of all prompts of late."""
        if tokens_per_s is None or self.evaluated < MIN_SLICE_TOKENS:
            return tokens_per_s
        return min(tokens_per_s, self.evaluated / max(self.seconds, 1e-6))


@dataclass(slots=True, eq=False)
class PromptReading:
    """A prompt on its way: in which slot (-1: llama.cpp's choice), and how much of it was in the cache before.

    `cached` is None where that is for the request itself to say. `read_ms` is what the slices before it took.
    `anew`: nothing of it may come from a cache, and nothing was read yet.
    """

    id_slot: int = -1
    cached: int | None = None
    read_ms: float = 0.0
    anew: bool = False
    taken: list[PromptSlot] = field(default_factory=list[PromptSlot])
    over: list[PromptSlot] = field(default_factory=list[PromptSlot])  # of these, those whose answer is complete

    @property
    def slot(self) -> PromptSlot | None:
        return self.taken[0] if self.taken else None

    def finished(self, choice: int, answered: int, filled: int = 0) -> None:
        """An answer of so many tokens, as they stay in the cache, is complete: its slot is free, with the prompt in it.

        The other answers of the request may take long yet, and the next wave of a vote wants that prompt. `filled` are
        the tokens of both, also of an answer that is written otherwise when the conversation goes on.
        """
        slot = self.taken[choice] if choice < len(self.taken) else None
        if slot is None or slot in self.over:
            return
        self.over.append(slot)
        slot.answered = answered if slot.tokens else 0
        slot.filled = filled or slot.filled
        slot.busy = False

    def timed(self, event: Delta | Finish) -> Delta | Finish:
        """`event` with the whole time that the prompt took, of which the request's own is the last part."""
        if not self.read_ms or not isinstance(event, Finish) or event.timings is None:
            return event
        prompt_ms = event.timings.prompt_ms + self.read_ms
        return replace(event, timings=event.timings.model_copy(update={"prompt_ms": prompt_ms}))

    def end(self) -> None:
        """No answer is made any more. Idempotent: what was free meanwhile may be somebody else's by now."""
        for slot in self.taken:
            if slot not in self.over:
                slot.busy = False
                self.over.append(slot)


class SlicedPrefill:
    """Chooses the slots of one llama.cpp server, and warms its prompt cache.

    `context_tokens` is what one request may fill. Prompts of more than `long_tokens` are read in slices of at most
    `most_slice_tokens`. `saved` are those on the disk, where that is wanted.
    """

    def __init__(self, ask: Ask, context_tokens: int = 0, most_slice_tokens: int = MAX_SLICE_TOKENS) -> None:
        self._ask = ask
        self.context_tokens = context_tokens
        self.long_tokens = LONG_TOKENS
        self.most_slice_tokens = most_slice_tokens
        self.slots = PromptSlots()
        self.saved: SavedPrompts | None = None
        self.copies = PromptCopies(ask)
        self.idle_s = IDLE_S
        self._moving = asyncio.Lock()  # one prompt after the other finds its place
        self._idle: asyncio.Task[None] | None = None
        self._tokens_per_s: float | None = None
        self._bytes_per_s: float | None = None
        self._paused_until = 0.0
        self._closed = False
        self._misses = 0

    @asynccontextmanager
    async def reading(
        self, body: Mapping[str, Any], text: str = "", n: int = 1, is_long: bool = True
    ) -> AsyncGenerator[PromptReading]:
        """The prompt of `body`, a request for `n` answers, is read here but for its end; the block sends the rest.

        Cancelling it stops after the slice in progress. `text` is how the prompt begins, by which short ones are known.
        Raises EngineDied, and nothing else: what is wrong with a request is for the request itself to say.
        """
        prompt = await self._long_prompt(body) if is_long else None
        async with self._moving:
            reading, held = await self._placed(prompt, text, n)
        if body.get("cache_prompt") is False:
            reading.anew, held = True, 0
        try:
            if prompt is not None:
                await self._warm(prompt, reading, held)
            yield reading
        finally:
            reading.end()
            self._save_when_idle()

    @asynccontextmanager
    async def shared(
        self, body: Mapping[str, Any], counts: Sequence[int], text: str = ""
    ) -> AsyncGenerator[list[PromptReading] | None]:
        """The prompt of `body` is read once, for requests of so many answers each: the last alone may be of several.

        One reading for each, in which it goes on (`going_on`); None where each is to read the prompt by itself, because
        it is short, or cannot be copied here. Raises EngineDied and Unavailable.
        """
        prompt = await self._prompt(body, FEW_TOKENS) if self._may_copy else None
        readings: list[PromptReading] = []
        try:
            anew = body.get("cache_prompt") is False  # each reads it for itself
            if prompt is not None and not anew and self._copies_pay(len(prompt), len(counts) - 1):
                readings = await self._read_for_all(prompt, counts, text)
            yield readings or None
        finally:
            for reading in readings:
                reading.end()
            self._save_when_idle()

    @asynccontextmanager
    async def going_on(self, reading: PromptReading) -> AsyncGenerator[PromptReading]:
        """A request whose prompt was read already."""
        try:
            yield reading
        finally:
            reading.end()

    async def _long_prompt(self, body: Mapping[str, Any]) -> array[int] | None:
        return await self._prompt(body, self.long_tokens)

    async def _prompt(self, body: Mapping[str, Any], more_than: int) -> array[int] | None:
        """None for one that is short after all, does not fit, or is not to be had."""
        try:
            prompt = array("i", await self._tokens(body))
        except EngineDied:
            raise
        except (SwarmError, KeyError, TypeError, ValueError, OverflowError) as error:
            log.debug("the prompt's tokens are not to be had: %r", error)
            return None
        return prompt if more_than < len(prompt) < self.context_tokens else None

    async def _tokens(self, body: Mapping[str, Any]) -> list[int]:
        text = body.get("prompt")
        if isinstance(text, list):
            return cast("list[int]", text)
        if text is None:
            asked = {name: value for name, value in body.items() if name not in ("n", "stream", "stream_options")}
            text = (await self._ask("/apply-template", asked))["prompt"]
        answer = await self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return answer["tokens"]

    # Where a prompt is read

    async def _placed(self, prompt: array[int] | None, text: str, n: int) -> tuple[PromptReading, int]:
        """Where it is read, and how many of its tokens are there already, as far as is known."""
        if prompt is not None and self.slots.doubted:
            await self._look()
        choice = await self._choice(prompt, text)
        if choice is None:
            return PromptReading(), 0
        beside = not self.slots.is_idle
        for one in choice.clears:
            await self._empty(one, beside)
        taken, slot = self.slots.take(choice, n - 1, SHORT_TOKENS if prompt is None else len(prompt)), choice.slot
        reading = PromptReading(-1 if choice.swaps else slot.id, taken=taken)
        try:
            for one in taken:
                if one.unsaved and one.lost(0 if one is not slot else self._kept(choice)):
                    await self._save(one, beside)
            held = choice.held
            if isinstance(choice.restore, SavedPrompt):
                held = await self._restore(slot, choice.restore, prompt)
                slot.filled = max(slot.filled, len(prompt or ()))
        except BaseException:
            for one in taken:
                one.busy = False
            raise
        for one in taken[1:]:
            one.hold(no_tokens(), 0.0)  # llama.cpp keeps nothing there: the first answer's slot is enough
        if prompt is None:
            slot.hold(no_tokens(), time.time(), text)
        return reading, held

    async def _look(self) -> None:
        """Ask llama.cpp what its slots hold: it may have emptied some, for an answer that was long."""
        try:
            told = await self._ask("/slots", None)
            held = {int(slot["id"]): int(slot["n_prompt_tokens"]) for slot in told if "n_prompt_tokens" in slot}
            self.slots.found(held)  # one that was never used does not say
        except EngineDied:
            raise
        except (SwarmError, KeyError, TypeError, ValueError) as error:
            self.slots.doubted = False
            log.debug("what the slots hold is not to be had: %r", error)

    async def _empty(self, slot: PromptSlot, beside: bool) -> None:
        """An idle slot gives its cells back but for one, which any prompt takes; the disk gets what it held."""
        if slot.unsaved:
            await self._save(slot, beside)
        first = slot.tokens[:1].tolist() or [0]
        slot.hold(no_tokens(), 0.0)
        try:
            await self._ask("/completion", {"prompt": first, "n_predict": 0, "cache_prompt": True, "id_slot": slot.id})
        except EngineDied:
            raise
        except SwarmError as error:
            log.debug("a slot was not emptied: %r", error)

    @staticmethod
    def _kept(choice: SlotChoice) -> int:
        """How much of what its slot holds stays there."""
        return 0 if choice.restore is not None or choice.swaps else min(choice.held, len(choice.slot.tokens))

    async def _choice(self, prompt: array[int] | None, text: str) -> SlotChoice | None:
        if prompt is None:
            return self.slots.choose_short(text, self._saves)
        saved = self.saved
        choice = self.slots.choose(prompt, saved.entries if saved else (), self._saves, self._disk_share)
        if choice is None or not self._saves or choice.restore is not None:
            return choice
        slot = choice.slot
        if slot.unsaved and slot.lost(self._kept(choice)):
            # Two conversations begin alike. What is saved of one can be the beginning of both, in two slots.
            await self._save(slot, not self.slots.is_idle)
            choice = self.slots.choose(prompt, saved.entries if saved else (), self._saves, self._disk_share)
        return choice

    # One prompt in several slots

    @property
    def _may_copy(self) -> bool:
        return self._misses < MAX_MISSES and (self.saved is not None or self.copies.in_memory)

    def _copies_pay(self, tokens: int, copies: int) -> bool:
        most_s = LONGEST_MOVE_S if self.slots.is_idle else LONGEST_MOVE_BESIDE_S
        return self.copies.pay(tokens, copies, self._tokens_per_s, most_s)

    async def _read_for_all(self, prompt: array[int], counts: Sequence[int], text: str) -> list[PromptReading]:
        """A reading for each of the requests, whose slots have all of `prompt` but its last token; none: no copies.

        Of several answers llama.cpp gives all but the first the free slots of the lowest numbers. So the requests for
        one have those of the highest: none is taken from them, whichever comes first.
        """
        is_long = len(prompt) > self.long_tokens
        async with self._moving:
            whole, held = await self._placed(prompt if is_long else None, text, sum(counts))
        readings: list[PromptReading] = []
        try:
            if len(whole.taken) == sum(counts) and await self._warm(prompt, whole, held, to_its_end=True):
                if not is_long:
                    whole.taken[0].hold(no_tokens(), time.time(), text)
                readings = await self._copied(len(prompt) - 1, whole, counts)
            return readings
        finally:
            if not readings:
                whole.end()

    async def _copied(self, tokens: int, whole: PromptReading, counts: Sequence[int]) -> list[PromptReading]:
        first, *others = whole.taken  # llama.cpp may have chosen another one than was planned
        others.sort(key=lambda slot: slot.id)
        shared = len(others) - len(counts) + 1
        leads = others[shared:]
        async with self._moving:
            if not await self.copies.copy(first.id, [slot.id for slot in leads], tokens, self.saved):
                return []
        for slot in leads:
            slot.hold(first.tokens, first.read_at, first.text, saved=first.saved)
        read = whole.cached, whole.read_ms
        apart = [PromptReading(slot.id, *read, taken=[slot]) for slot in leads]
        return [*apart, PromptReading(first.id, *read, taken=[first, *others[:shared]])]

    async def _warm(self, prompt: array[int], reading: PromptReading, done: int, *, to_its_end: bool = False) -> bool:
        """Read the prompt's slices; its end goes with the request, or is read too, but for the last token.

        Whether `to_its_end` it is in the slot of the reading now, and nothing else.
        """
        slot = reading.slot
        saved = slot.saved if slot is not None and done >= len(slot.tokens) else 0
        expected: int | None = None
        read_at = time.time()  # when it begins: what is to be forgotten meanwhile is not saved either
        ended = False
        size_before, least, before = FIRST_SLICE_TOKENS, MIN_SLICE_TOKENS, None
        tokens_per_s = self._tokens_per_s
        try:
            while self._misses < MAX_MISSES and not ended:
                size = slice_tokens(len(prompt) - done, tokens_per_s, self.most_slice_tokens, size_before, least)
                if not size and not to_its_end:
                    break
                upto = done + size if size else len(prompt) - 1
                made = await self._evaluate(prompt[:upto], reading)
                reading.read_ms += made.took_ms
                if expected is None:
                    reading.cached = made.cached
                elif made.cached < expected - 1:  # the last token is evaluated anew where nothing else is
                    self._missed()
                    break
                else:
                    self._misses = 0
                done = expected = upto
                least, before = least_tokens(least, made, before), made
                size_before, tokens_per_s = made.evaluated, made.slower(self._tokens_per_s)
                ended = not size
            done = len(prompt)  # what is left goes with the request itself
        except EngineDied:
            raise
        except (SwarmError, KeyError, TypeError, ValueError) as error:
            log.debug("no prefill in slices: %r", error)
        finally:
            if (slot := reading.slot) is not None:
                slot.hold(prompt[:done], read_at, saved=min(saved, done))
        return ended and reading.id_slot >= 0

    async def _evaluate(self, tokens: array[int], reading: PromptReading) -> Slice:
        begun = time.perf_counter()
        asked: dict[str, Any] = {"prompt": tokens.tolist(), "n_predict": 0, "cache_prompt": not reading.anew}
        if reading.id_slot >= 0:
            asked["id_slot"] = reading.id_slot
        answer = await self._ask("/completion", asked)
        timings = answer["timings"]
        reading.anew = False
        took_ms, seconds = float(timings.get("prompt_ms", 0)), time.perf_counter() - begun
        made = Slice(int(timings["cache_n"]), int(timings["prompt_n"]), took_ms, seconds)
        if made.evaluated >= MIN_SLICE_TOKENS:
            speed = made.evaluated / max(made.seconds, 1e-6)
            self._tokens_per_s = moving_mean(self._tokens_per_s, speed)
        if reading.id_slot < 0 and reading.slot is not None:
            self._found_in(reading, answer.get("id_slot"))
        return made

    def _found_in(self, reading: PromptReading, id_slot: object) -> None:
        """llama.cpp has chosen a slot: the next slices go there, too."""
        chosen = next((slot for slot in self.slots.slots if slot.id == id_slot), None)
        if chosen is None or (chosen.busy and chosen not in reading.taken):
            return
        if chosen is not reading.slot:
            expected, *others = reading.taken
            chosen.filled, expected.filled = expected.filled, len(expected.tokens) + expected.answered
            if chosen in others:  # they change places
                others[others.index(chosen)] = expected
            else:
                expected.busy = False
            chosen.busy = True
            reading.taken = [chosen, *others]
        reading.id_slot = chosen.id

    def _missed(self) -> None:
        self._misses += 1
        if self._misses == MAX_MISSES:
            log.warning("this model's prompt cache cannot be continued: a client that leaves frees its slot late")

    # What is on the disk

    @property
    def _saves(self) -> bool:
        return self.saved is not None and time.monotonic() >= self._paused_until

    @property
    def _disk_share(self) -> float:
        """What it costs to restore a token, which is read from the disk and checked, of what it costs to read it."""
        if self._tokens_per_s is None or self.saved is None or not self.saved.token_bytes:
            return DISK_SHARE
        per_s = min(self._bytes_per_s or MOVE_BYTES_PER_S, CHECKED_BYTES_PER_S)
        return min(self._tokens_per_s * self.saved.token_bytes / per_s, 1.0)

    def _moves_soon(self, size: int, beside: bool) -> bool:
        """Whether so many bytes are written or read within what llama.cpp may stand still."""
        seconds = size / (self._bytes_per_s or MOVE_BYTES_PER_S)
        return seconds <= (LONGEST_MOVE_BESIDE_S if beside else LONGEST_MOVE_S)

    async def _save(self, slot: PromptSlot, beside: bool = False) -> None:
        """Put on the disk what a slot holds; where that fails, it is said, and not tried for a while."""
        saved = self.saved
        tokens, answered, read_at = slot.tokens, slot.answered, slot.read_at
        count = len(tokens) + answered
        if saved is None or not self._saves or self._misses >= MAX_MISSES:
            return
        if not self._moves_soon(count * saved.token_bytes, beside):
            log.debug("%d tokens are not saved: it would take long", count)
            return
        name: str | None = None
        try:
            if await asyncio.to_thread(saved.is_forgotten, read_at):
                slot.saved = count
                return
            name = await asyncio.to_thread(saved.begin, count)
            began = time.perf_counter()
            written = await self._ask(f"/slots/{slot.id}?action=save", {"filename": name})
            answered = int(written["n_saved"]) - len(tokens)
            if answered < 0:  # it holds something else than was believed
                saved.remove(name)
                slot.hold(no_tokens(), 0.0)
                return
            size = int(written["n_written"])
            self._bytes_per_s = moving_mean(self._bytes_per_s, size / max(time.perf_counter() - began, 1e-3))
            entry = await asyncio.to_thread(saved.commit, name, tokens, answered, read_at)
            slot.saved = count
            if entry is not None:
                log.info("saved a prompt of %d tokens: %s", count, size_text(size))
        except BaseException as error:
            if name is not None:  # at once, also where this is cancelled: an unfinished file is none
                saved.remove(name)
            if isinstance(error, EngineDied | Unavailable) or not isinstance(error, NOT_SAVED):
                raise
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_S
        remedy = "" if isinstance(error, NoDiskRoom) else ": the disk may be full, or not to be written"
        words = error.strerror if isinstance(error, OSError) else str(error)
        log.warning(
            "prompts are not saved for %d minutes, and are read again where they gave way: %s%s",
            PAUSE_S // 60,
            words,
            remedy,
        )

    async def _restore(self, slot: PromptSlot, entry: SavedPrompt, prompt: array[int] | None) -> int:
        """Bring a saved prompt into a slot; how many tokens of `prompt` are there then. 0 where it is not believed."""
        assert self.saved is not None
        slot.hold(no_tokens(), 0.0)
        if not await asyncio.to_thread(self.saved.is_whole, entry):
            log.warning("a saved prompt is not what was written, and is read again: its files are removed")
            return 0
        try:
            answer = await self._ask(f"/slots/{slot.id}?action=restore", {"filename": entry.name})
            restored = int(answer["n_restored"])
        except (EngineDied, Unavailable):
            raise
        except (SwarmError, KeyError, ValueError) as error:
            log.warning("llama.cpp does not take a saved prompt, which is read again: %s", error)
            await asyncio.to_thread(self.saved.remove, entry.name)
            return 0
        if restored < len(entry.tokens):
            return 0
        count = len(entry.tokens) + entry.answered
        slot.hold(entry.tokens, time.time(), answered=entry.answered, saved=count)
        return slot.continued_by(prompt or no_tokens())

    def _save_when_idle(self) -> None:
        if self._closed or self.saved is None or (self._idle is not None and not self._idle.done()):
            return
        if any(slot.unsaved for slot in self.slots.slots):
            self._idle = asyncio.create_task(self._save_idle(), name="saving what was read")

    async def _save_idle(self) -> None:
        """Once nothing was asked for a while, save what has grown enough to be worth it."""
        clock = -1
        while clock != self.slots.clock or not self.slots.is_idle:
            clock = self.slots.clock
            await asyncio.sleep(self.idle_s)
        with suppress(SwarmError):  # whoever asks next hears of it
            for slot in self.slots.slots:
                async with self._moving:
                    if self.slots.clock != clock:  # somebody asks
                        break
                    if slot.unsaved > UNSAVED_SHARE * len(slot.tokens):
                        await self._save(slot)

    async def save_all(self) -> None:
        """Save what is not on the disk yet: the engine is about to end."""
        await self.aclose()
        with suppress(SwarmError, TimeoutError):
            async with asyncio.timeout(SAVE_AT_END_S), self._moving:
                for slot in sorted(self.slots.free, key=lambda slot: -slot.used):
                    if slot.unsaved:
                        await self._save(slot)

    async def aclose(self) -> None:
        """From now on nothing is saved by itself."""
        self._closed = True
        self.copies.close()
        if self._idle is not None:
            await cancel_and_wait(self._idle)
