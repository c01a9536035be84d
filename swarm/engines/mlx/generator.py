"""mlx-lm behind the contract of `hosted/generator.py`: answers in one batch, prompts in slices, and what was read kept.

A job's prompt is read once, slice by slice, into caches of its own (`kept_prompts.py`); then its `n` answers go into
mlx-lm's `BatchGenerator` with copies of those, each with a sampler and a key of its own (`sampling.py`), and their text
is parted by mlx-lm's state machine and parsers (`answer_text.py`). A step is a token of each answer, and a slice where
somebody waits for a prompt. mlx-lm works one token ahead: what an answer is told was computed a step before.

Nothing of a model's folder is run: one that brings code of its own is refused. What was run on which hardware says
docs/engines.md; nothing here is for one device alone.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from swarm.engines.hosted.generator import (
    Broke,
    Called,
    Ended,
    GeneratorEvent,
    GeneratorFacts,
    Job,
    LoadOrder,
    Logprobs,
    Piece,
    Read,
    TokenLogprob,
)
from swarm.engines.hosted.json_forms import Form, form_of
from swarm.engines.mlx.answer_text import ANSWER, THOUGHT, AnswerText, ReadText, UnreadableCall, transitions
from swarm.engines.mlx.kept_prompts import Caches, KeptPrompts, can_cut, nbytes_of
from swarm.engines.mlx.library import MlxLibrary, token_bytes
from swarm.engines.mlx.sampling import HeldToForm, RawLogprobs, penalties, sampler
from swarm.engines.openai_dialect import NO_TOKENS, TemplateRefused
from swarm.errors import BadRequest, EngineFailed, UnknownArchitecture
from swarm.generation import JsonObject

log = logging.getLogger(__name__)

SLICE_TOKENS: Final = 512  # of a prompt, in one step on a GPU
CPU_SLICE_TOKENS: Final = 64  # 0.2 s of a model of 0.1 B parameters: on the CPU this library is slow
LEAST_KEPT_BYTES: Final = 256 << 20  # of prompts that were read, however small the context
SPARE_BYTES: Final = 256 << 20  # that the library may keep for its next arrays
SHRINK_EVERY: Final = 64  # steps: what running answers take grows by a token each
MOST_SAID: Final = 300  # characters of what a library says of an error
NOT_KNOWN: Final = ("not supported", "Model type")  # in what mlx-lm says of an architecture that it does not know


@dataclass(slots=True)
class _Reading:
    """A prompt that is read. `read` of its tokens are in `caches`, the first `cached` of them from before."""

    job: Job
    caches: Caches
    read: int
    cached: int
    form: Form | None
    stops: list[int]  # where a copy is kept
    kept: bool = False  # a copy of nearly all of it
    unwanted: set[int] = field(default_factory=set[int])  # answers that were stopped before they began

    @property
    def unread(self) -> int:
        """Tokens to read before answers can begin: all but the last one, from which the first token comes."""
        return len(self.job.prompt) - 1 - self.read


@dataclass(slots=True)
class _BatchedAnswer:
    """An answer that is being made."""

    job: Job
    choice: int
    cached: int
    raw: RawLogprobs | None
    held: HeldToForm | None
    text: AnswerText | None
    tokens: int = 0
    calls: int = 0


@dataclass(slots=True)
class _Work:
    """What is in progress: prompts in the order in which they came, and answers by their number in the batch."""

    readings: deque[_Reading] = field(default_factory=deque["_Reading"])
    answers: dict[int, _BatchedAnswer] = field(default_factory=dict[int, "_BatchedAnswer"])
    aborted: set[int] = field(default_factory=set[int])
    steps: int = 0


class MlxGenerator:
    """One model. Build it with `load`."""

    def __init__(self, library: MlxLibrary, model: Any, tokenizer: Any, config: Mapping[str, Any], order: LoadOrder):
        self._library = library
        self._mx = library.mx
        self._model = model
        self._tokenizer = tokenizer
        self._order = order
        self._bytes = token_bytes(library.tokenizers, tokenizer)
        self._vocabulary = max(len(self._bytes), _vocabulary(config))
        self._hidden = _hidden_tokens(tokenizer)
        on_gpu = library.mx.default_device() == library.mx.gpu
        self._slice = SLICE_TOKENS if on_gpu else CPU_SLICE_TOKENS
        self._batch: Any = library.generate.BatchGenerator(
            model,
            stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
            completion_batch_size=order.slots,
            prefill_batch_size=order.slots,
            prefill_step_size=self._slice,
        )
        self._kept = KeptPrompts(LEAST_KEPT_BYTES)
        cuts = library.caches.KVCache
        self._cuts = all(isinstance(cache, cuts) for cache in library.caches.make_prompt_cache(model))
        self._token_bytes = 0  # that one token of context was seen to take
        self._work = _Work()
        self._form_tokens = self._tokens_for_forms()
        layers = len(model.layers)
        special = cast("dict[str, object]", tokenizer.special_tokens_map)
        self.facts = GeneratorFacts(
            version=library.version,
            slots=order.slots,
            context_tokens=order.context_tokens,
            step_tokens=self._slice,
            chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else "",
            bos_token=str(special.get("bos_token") or ""),
            eos_token=str(special.get("eos_token") or ""),
            longest_token_bytes=max(map(len, self._bytes), default=None),
            controls=tuple(sorted(_controls(tokenizer))),
            embeds=False,
            forms=self._form_tokens is not None,
            reads_calls=bool(tokenizer.has_tool_calling),
            parts_thoughts=bool(tokenizer.has_thinking),
            devices=(str(library.mx.device_info().get("device_name", "GPU")),) if on_gpu else (),
            gpu_layers=layers if on_gpu else 0,
            layers=layers,
        )

    # The tokenizer's thread

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [{**message, "content": message.get("content") or ""} for message in messages],
                tools=list(tools) or None,
                tokenize=False,
                **variables,
            )
        except Exception as error:  # whatever a template's own words raise
            raise TemplateRefused(
                f"this model's chat template does not take this conversation: {error}", param="messages"
            ) from error
        return str(text)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # tokenizers do not take half of a surrogate pair
        found = self._tokenizer.encode(text, add_special_tokens=add_special, split_special_tokens=not parse_special)
        return list(found)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        if any(not 0 <= token < len(self._bytes) for token in tokens):
            raise BadRequest(NO_TOKENS, param="tokens")
        return [self._bytes[token] for token in tokens]

    # The library's thread

    def begin(self, job: Job) -> None:
        if not job.prompt:
            raise BadRequest("the prompt is empty: mlx needs one token at least", param="prompt")
        if any(not 0 <= token < self._vocabulary for token in job.prompt):
            raise BadRequest(NO_TOKENS, param="prompt")
        if len(job.prompt) >= self._order.context_tokens:
            most = self._order.context_tokens
            raise BadRequest(f"the prompt has {len(job.prompt)} tokens, and the context {most}", param="prompt")
        form = None if job.schema is None else form_of(self._form_tokens, job.schema)
        cached, caches = self._kept.fork(job.prompt)
        if caches is None:
            caches = self._library.caches.make_prompt_cache(self._model)
        stops = [] if self._cuts else self._kept.stops(job.prompt, cached)
        self._work.readings.append(_Reading(job, caches, cached, cached, form, stops))

    def step(self) -> Sequence[GeneratorEvent]:
        work = self._work
        events = [event for response in self._decoded() for event in self._events(response)]
        if work.readings and work.readings[0].job.id not in work.aborted:
            events += self._read_on(work.readings[0])
        work.steps += 1
        if work.steps % SHRINK_EVERY == 0:
            self._make_room()
        return events

    def stop(self, job: int, choice: int | None = None) -> None:
        work = self._work
        for reading in [reading for reading in work.readings if reading.job.id == job]:
            reading.unwanted |= set(range(reading.job.n)) if choice is None else {choice}
            if len(reading.unwanted) == reading.job.n:
                work.readings.remove(reading)
                self._kept.keep(reading.job.prompt[: reading.read], reading.caches)
        uids = [uid for uid, answer in work.answers.items() if answer.job.id == job and choice in (None, answer.choice)]
        for uid in uids:
            del work.answers[uid]
        if uids:
            self._batch.remove(uids)
        if choice is None:
            work.aborted.discard(job)
        self._make_room()

    def embed(self, tokens: Sequence[int]) -> Sequence[float]:
        raise BadRequest("engine mlx makes no embeddings: use a GGUF embedding model", param="model")

    # Any other thread

    def abort(self, job: int) -> None:
        """No further slice of its prompt is begun: the one that is computed ends by itself."""
        self._work.aborted.add(job)

    # Reading prompts

    def _read_on(self, reading: _Reading) -> list[GeneratorEvent]:
        """Read a slice; where nothing is left, begin the answers."""
        until = reading.stops[0] - reading.read if reading.stops else reading.unread
        now = reading.job.prompt[reading.read : reading.read + min(self._slice, until)]
        if now:
            with self._mx.stream(self._batch.stream):
                self._model(self._mx.array([now]), cache=reading.caches)
                self._mx.eval([cache.state for cache in cast("list[Any]", reading.caches)])
            reading.read += len(now)
        if reading.stops[:1] == [reading.read]:
            reading.stops.pop(0)
            self._kept.keep(reading.job.prompt[: reading.read], self._kept.copy_of(reading.caches))
            reading.kept = True
        if reading.unread:
            return []
        self._work.readings.popleft()
        self._answer(reading)
        return [Read(reading.job.id, reading.cached)]

    def _answer(self, reading: _Reading) -> None:
        job, sampling = reading.job, reading.job.sampling
        known = job.prompt[:-1]
        most = min(job.max_tokens, self._order.context_tokens - len(job.prompt))
        bent = penalties(self._library.samples, sampling, self._vocabulary)
        for choice in sorted(set(range(job.n)) - reading.unwanted):
            raw = None if sampling.top_logprobs is None else RawLogprobs(self._mx)
            held = None
            if reading.form is not None:
                held = HeldToForm(self._mx, reading.form.copy(), self._tokenizer.eos_token_ids)
            (uid,) = self._batch.insert(
                [[job.prompt[-1]]],
                max_tokens=[most],
                caches=[reading.caches],  # copied as they are put into the batch
                all_tokens=[list(known)],
                samplers=[sampler(self._mx, self._library.samples, sampling, choice, self._vocabulary)],
                logits_processors=[[each for each in (raw, *bent, held) if each is not None]],
            )
            self._work.answers[uid] = _BatchedAnswer(job, choice, reading.cached, raw, held, self._text_of(job))
        if known:
            self._token_bytes = max(self._token_bytes, nbytes_of(reading.caches) // max(len(known), 256))
            if not reading.kept:
                self._kept.keep(known, reading.caches)
        self._make_room()

    def _make_room(self) -> None:
        """Forget prompts so that they, and what runs, take no more than one context more than was granted."""
        granted = self._token_bytes * self._order.context_tokens * (self._order.slots + 1)
        self._kept.most_bytes = max(LEAST_KEPT_BYTES, granted)
        self._kept.shrink(max(self._kept.most_bytes - self._batch.prompt_cache_nbytes, 0))

    # Making answers

    def _decoded(self) -> Sequence[Any]:
        if not self._work.answers:
            return ()
        _, responses = self._batch.next()
        return cast("Sequence[Any]", responses)

    def _events(self, response: Any) -> Iterator[GeneratorEvent]:
        answer = self._work.answers.get(response.uid)
        if answer is None:  # it broke in this very step
            return
        if answer.held is not None and answer.held.broken is not None:
            yield Broke(answer.job.id, "bad request", answer.held.broken)
            self.stop(answer.job.id)
            return
        answer.tokens += 1
        reason = response.finish_reason
        try:
            yield from self._pieces(answer, response.token, reason)
        except UnreadableCall as error:
            yield Broke(answer.job.id, "unreadable", str(error))
            self.stop(answer.job.id)
            return
        if reason is not None:
            del self._work.answers[response.uid]
            self._kept_from(answer, response)
            prompt_tokens = len(answer.job.prompt)
            yield Ended(answer.job.id, answer.choice, reason, prompt_tokens, answer.cached, answer.tokens)

    def _kept_from(self, answer: _BatchedAnswer, response: Any) -> None:
        """Keep what the conversation is now; of several answers the last, as they differ by their own tokens."""
        more = any(other.job.id == answer.job.id for other in self._work.answers.values())
        if not more or not can_cut(response.prompt_cache):
            self._kept.keep(response.all_tokens, response.prompt_cache)
            self._make_room()

    def _pieces(self, answer: _BatchedAnswer, token: int, reason: str | None) -> Iterator[GeneratorEvent]:
        job, choice = answer.job, answer.choice
        ends = reason == "stop"
        logprobs = self._logprobs(answer, token)
        shown = b"" if ends or token in self._hidden else self._bytes[token] if token < len(self._bytes) else b""
        if answer.text is None:
            if not ends:
                yield Piece(job.id, choice, token, shown, logprobs)
            return
        parts: list[ReadText] = [] if ends else [answer.text.read(shown)]
        if reason is not None:
            parts += answer.text.end(whole=ends)
        for number, part in enumerate(parts):
            told = logprobs if number == 0 and not ends else None
            yield Piece(job.id, choice, token, part.text.encode(), told, part.kind)
            for call in part.calls:
                yield Called(job.id, choice, answer.calls, call.name, call.arguments)
                answer.calls += 1

    def _logprobs(self, answer: _BatchedAnswer, token: int) -> Logprobs | None:
        if answer.raw is None:
            return None
        drawn, top = answer.raw.take(token, answer.job.sampling.top_logprobs or 0)
        return Logprobs(self._told(token, drawn), tuple(self._told(*pair) for pair in top))

    def _told(self, token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token, self._bytes[token] if token < len(self._bytes) else b"", logprob)

    def _text_of(self, job: Job) -> AnswerText | None:
        """What reads an answer's text; None where it is shown as it comes."""
        tokenizer = self._tokenizer
        if job.schema is not None or not (job.tools or (job.chat and tokenizer.has_thinking)):
            return None
        calls = (tokenizer.tool_call_start, tokenizer.tool_call_end) if job.tools else None
        thoughts = (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else None
        machine = self._library.generate.TextStateMachine(
            transitions(calls, thoughts, tokenizer.structural_markers, tokenizer.response_transitions)
        )
        return AnswerText(machine, self._begins_as(job.prompt), tokenizer.tool_parser, job.tools)

    def _begins_as(self, prompt: Sequence[int]) -> str:
        """Whether the template has begun a thought for the model, or something else."""
        tokenizer = self._tokenizer
        begun = tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt)
        return str(tokenizer.response_initial_state or (THOUGHT if begun else ANSWER))

    # Forms

    def _tokens_for_forms(self) -> Any:
        """The vocabulary as llguidance wants it; None where it is not there, or does not know this kind of one."""
        try:
            from_tokenizer: Any = importlib.import_module("llguidance.hf").from_tokenizer
            return from_tokenizer(
                self._tokenizer._tokenizer, n_vocab=self._vocabulary, eos_token=sorted(self._tokenizer.eos_token_ids)
            )
        except (ImportError, ValueError) as error:
            log.warning("answers cannot be held to a schema: %s", error)
            return None


def load(order: LoadOrder) -> MlxGenerator:
    """The model in the folder `order.path`, ready. Blocks. Raises EngineFailed with the reason and a remedy."""
    if order.cache_type != "f16":
        raise EngineFailed(
            f"engine mlx keeps keys and values as the model computes them, not as {order.cache_type}: "
            "leave kv_cache out for this model"
        )
    try:
        library = MlxLibrary()
    except ImportError as error:
        raise EngineFailed(f"engine mlx cannot be loaded ({error}): run swarm engines install mlx") from error
    if order.gpu_layers == 0:
        library.mx.set_default_device(library.mx.cpu)
    library.mx.set_cache_limit(SPARE_BYTES)
    try:
        model, tokenizer, config = library.utils.load(
            str(order.path), tokenizer_config={"trust_remote_code": False}, return_config=True, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raise no less than that
        said = " ".join(str(error).split())[:MOST_SAID] or type(error).__name__
        if all(words in said for words in NOT_KNOWN):
            raise UnknownArchitecture(f"{order.path} cannot be loaded by mlx-lm: {said}") from error
        raise EngineFailed(
            f"mlx-lm could not load {order.path}: {said} (a damaged folder, code of its own, or too little memory): "
            "download it again, or take the model's GGUF"
        ) from error
    return MlxGenerator(library, model, tokenizer, config, order)


def _vocabulary(config: Mapping[str, Any]) -> int:
    """How many logits the model has: often more than its tokenizer has tokens."""
    inner = config.get("text_config")
    size = config.get("vocab_size") or (cast("dict[str, Any]", inner).get("vocab_size") if inner else None)
    return size if isinstance(size, int) else 0


def _controls(tokenizer: Any) -> set[str]:
    """The texts of the tokens that end turns and answers, and of others that no text stands for."""
    special = {added.content for added in tokenizer.added_tokens_decoder.values() if added.special}
    ends = {tokenizer.convert_ids_to_tokens(token) for token in tokenizer.eos_token_ids}
    return {str(text) for text in special | ends | set(tokenizer.all_special_tokens) if text}


def _hidden_tokens(tokenizer: Any) -> frozenset[int]:
    """Control tokens that are no part of a mark by which calls or thoughts are found: they are not shown."""
    edges = [edge for state in tokenizer.response_transitions.values() for edge in state]
    marks = [
        tokenizer.tool_call_start,
        tokenizer.tool_call_end,
        tokenizer.think_start,
        tokenizer.think_end,
        *tokenizer.structural_markers,
        *(text for text, _ in edges),
    ]
    special = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return frozenset(token for token, text in special.items() if not any(text in (mark or "") for mark in marks))
