"""A batched generator on llama.cpp's own functions: what `hosted/host.py` runs for engine llama-cpp-python.

Each step is one `llama_decode`: a token of every answer that runs, and as much of the prompts that are being read as
fits. Several answers to a prompt share its cache, which is one for all sequences (`kv_unified`), and so do prompts that
begin alike (`sequences.py`). A prompt's reading can be ended in the middle of a step: llama.cpp asks now and then
whether it should go on, of C's own `strlen` here, on a byte that `abort` sets. A function in Python would be asked some
hundred times for each token, and wait each time for whoever makes texts meanwhile.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swarm.engines.engine import longest_token_bytes
from swarm.engines.hosted.chat_template import ChatTemplate
from swarm.engines.hosted.generator import (
    Broke,
    Ended,
    GeneratorEvent,
    GeneratorFacts,
    Job,
    LoadOrder,
    Piece,
    Read,
)
from swarm.engines.hosted.json_forms import Form, form_of
from swarm.engines.llama_cpp.server_host import EMBEDDING_TEXT_TOKENS, ENCODER_TEXT_TOKENS
from swarm.engines.llama_cpp_python.library import (
    VERSION,
    Vocabulary,
    devices,
    keep_the_log,
    library,
    load_model,
    offloaded_layers,
    reason_in_log,
)
from swarm.engines.llama_cpp_python.sampler import TokenSampler, logits_of, logprobs_of
from swarm.engines.llama_cpp_python.sequences import CacheSequence, SequenceTable
from swarm.errors import BadRequest, EngineFailed, SetupError, UnknownArchitecture
from swarm.generation import JsonObject
from swarm.moving_mean import moving_mean
from swarm.registry.gguf_header import GgufModel, read_model

NO_ROOM, ABORTED = 1, 2  # what llama_decode returns
BESIDE_ANSWERS_S = 0.25  # of a step that reads a prompt while answers run: they wait for it
LEAST_READ_TOKENS = 32  # in such a step
UNKNOWN_ARCHITECTURE = "unknown model architecture"  # in llama.cpp's words
MOST_SEQUENCES = 256  # llama.cpp's own limit

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _PromptReading:
    """A job whose prompt is being read into `sequence`."""

    job: Job
    sequence: CacheSequence
    prompt: array[int]
    cached: int
    form: Form | None


@dataclass(eq=False, slots=True)
class _SequenceAnswer:
    """One answer; `token` is its last, which the model has not seen yet."""

    job: Job
    choice: int
    sequence: CacheSequence
    sampler: TokenSampler
    cached: int
    token: int = 0
    made: int = 0


@dataclass(slots=True)
class _Step:
    """What one batch is made of: the places of the tokens whose logits are wanted, and how much of each prompt."""

    answers: list[tuple[int, _SequenceAnswer]] = field(default_factory=list[tuple[int, _SequenceAnswer]])
    readings: list[tuple[int, _PromptReading, int]] = field(default_factory=list[tuple[int, _PromptReading, int]])
    tokens: int = 0
    read_tokens: int = 0


class LlamaGenerator:
    """See `Generator`. Everything that llama.cpp allocated goes with the process."""

    def __init__(self, llama: Any, model: Any, context: Any, facts: GeneratorFacts, template: ChatTemplate) -> None:
        self.facts = facts
        self._llama = llama
        self._model = model
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._vocabulary = Vocabulary(llama, model, facts.chat_template)
        self._template = template
        self._window = int(llama.llama_model_n_swa(model))
        rewinds = not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model))
        self._rewinds = rewinds
        count = int(llama.llama_n_seq_max(context)) - 1
        self._table = SequenceTable(count, rewinds)
        self._embedding_sequence = count
        self._batch = llama.llama_batch_init(facts.step_tokens, 0, 1)
        self._readings: list[_PromptReading] = []
        self._answers: list[_SequenceAnswer] = []
        self._empty: list[Job] = []
        self._read_per_s: float | None = None
        self._tokenizer: Any = None  # llguidance's
        # For `abort`: a text of one byte or of none, the jobs in the step that is made, and those nobody waits for.
        self._going_on = ctypes.create_string_buffer(2)
        self._in_step: frozenset[int] = frozenset()
        self._unwanted: set[int] = set()
        _ask_whether_to_abort(llama, context, self._going_on)

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        return self._template.render(messages, tools, variables)

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return self._vocabulary.tokenize(text, add_special, parse_special)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        self._vocabulary.refuse_unknown(tokens)
        return [self._vocabulary.piece(token) for token in tokens]

    def begin(self, job: Job) -> None:
        self._vocabulary.refuse_unknown(job.prompt)
        form = None if job.schema is None else form_of(self._schema_tokenizer(), job.schema)
        if not job.prompt:
            self._empty.append(job)
            return
        placed = self._table.place(job.prompt)
        sequence, kept = placed.sequence, placed.kept
        if placed.copied_from is None:
            kept = self._rewound(sequence, kept)
        else:
            self._clear(sequence)
            self._llama.llama_memory_seq_cp(self._memory, placed.copied_from.id, sequence.id, 0, kept)
            sequence.tokens = placed.copied_from.tokens[:kept]
            kept = self._rewound(sequence, kept)
        self._readings.append(_PromptReading(job, sequence, array("i", job.prompt), kept, form))

    def step(self) -> list[GeneratorEvent]:
        events: list[GeneratorEvent] = []
        for job in self._empty:
            events += [Read(job.id, 0), *(Ended(job.id, choice, "stop", 0, 0, 0) for choice in range(job.n))]
        self._empty.clear()
        step = self._planned()
        if not step.tokens:
            return events
        begun = time.perf_counter()
        while (result := self._decode(step)) == NO_ROOM:
            oldest = self._table.to_forget()
            if oldest is None:
                return [*events, self._give_up(step)]
            self._clear(oldest)
        if result == ABORTED:
            self._rewind(step)
            return events
        if result != 0:
            raise EngineFailed(f"llama.cpp could not compute a step ({result}): {reason_in_log()}")
        if step.read_tokens >= LEAST_READ_TOKENS:
            speed = step.read_tokens / max(time.perf_counter() - begun, 1e-6)
            self._read_per_s = moving_mean(self._read_per_s, speed)
        return [*events, *self._made(step)]

    def stop(self, job: int, choice: int | None = None) -> None:
        for answer in [each for each in self._answers if each.job.id == job and choice in (None, each.choice)]:
            self._end(answer)
        if choice is None:
            for reading in [each for each in self._readings if each.job.id == job]:
                self._readings.remove(reading)
                self._leave(reading.sequence)
            self._empty = [each for each in self._empty if each.id != job]
            self._unwanted.discard(job)

    def embed(self, tokens: Sequence[int]) -> list[float]:
        self._vocabulary.refuse_unknown(tokens)
        most = self.facts.step_tokens
        if len(tokens) > most:
            raise BadRequest(
                f"a text has {len(tokens)} tokens, and this model takes {most} at once here: split it", param="input"
            )
        if not tokens:
            raise BadRequest("a text has no tokens: there is nothing to embed", param="input")
        llama, sequence = self._llama, self._embedding_sequence
        self._batch.n_tokens = 0
        for position, token in enumerate(tokens):
            self._add(token, position, sequence, wanted=True)
        llama.llama_set_embeddings(self._context, True)
        try:
            while True:
                self._going_on[0] = b"\0"  # what ended the step before may still stand there
                result = llama.llama_decode(self._context, self._batch)
                if result == ABORTED:  # it came a moment late, and was meant for that step
                    continue
                oldest = self._table.to_forget() if result == NO_ROOM else None
                if oldest is None:
                    break
                self._clear(oldest)
            if result != 0:
                raise EngineFailed(f"llama.cpp could not embed a text ({result}): {reason_in_log()}")
            found = llama.llama_get_embeddings_seq(self._context, sequence)
            size = int(llama.llama_model_n_embd_out(self._model))
            values: list[float] = found[:size]
        finally:
            llama.llama_set_embeddings(self._context, not self.facts.generates)
            if self._memory:
                llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        length = sum(value * value for value in values) ** 0.5
        return [value / length for value in values] if length else values

    def abort(self, job: int) -> None:
        self._unwanted.add(job)
        if job in self._in_step:
            self._going_on[0] = b"\1"

    def _planned(self) -> _Step:
        """The next batch: a token of each answer, then prompts in order of arrival."""
        step = _Step()
        self._batch.n_tokens = 0
        for answer in self._answers:
            step.answers.append((step.tokens, answer))
            self._add(answer.token, len(answer.sequence.tokens), answer.sequence.id, wanted=True)
            step.tokens += 1
        room = self._room(step.tokens)
        for reading in self._readings:
            begin = len(reading.sequence.tokens)
            size = min(room - step.read_tokens, len(reading.prompt) - begin)
            if size <= 0:
                continue
            end = begin + size
            for position in range(begin, end):
                self._add(
                    reading.prompt[position], position, reading.sequence.id, wanted=position + 1 == len(reading.prompt)
                )
            step.tokens += size
            step.read_tokens += size
            step.readings.append((step.tokens - 1, reading, size))
        return step

    def _room(self, answering: int) -> int:
        """How many tokens of prompts may be read in a step with so many answers."""
        room = self.facts.step_tokens - answering
        if not answering or self._read_per_s is None:
            return room
        return min(room, max(LEAST_READ_TOKENS, int(self._read_per_s * BESIDE_ANSWERS_S)))

    def _add(self, token: int, position: int, sequence: int, wanted: bool) -> None:
        batch = self._batch
        at = batch.n_tokens
        batch.token[at], batch.pos[at] = token, position
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        batch.logits[at] = wanted
        batch.n_tokens = at + 1

    def _decode(self, step: _Step) -> int:
        self._going_on[0] = b"\0"
        if self._rewinds and step.read_tokens:
            self._in_step = frozenset(reading.job.id for _, reading, _ in step.readings)
            if self._in_step & self._unwanted:
                self._going_on[0] = b"\1"
        try:
            return int(self._llama.llama_decode(self._context, self._batch))
        finally:
            self._in_step = frozenset()

    def _rewind(self, step: _Step) -> None:
        """The step counts for nothing, whatever of it was computed."""
        sequences = [answer.sequence for _, answer in step.answers] + [each.sequence for _, each, _ in step.readings]
        for sequence in sequences:
            self._llama.llama_memory_seq_rm(self._memory, sequence.id, len(sequence.tokens), -1)

    def _give_up(self, step: _Step) -> Broke:
        """Nothing idle is left in the cache, and there is still no room: the youngest job ends."""
        job = step.readings[-1][1].job if step.readings else step.answers[-1][1].job
        self.stop(job.id)
        return Broke(job.id, "failed", "the cache of this model is full: ask again, or for fewer answers at once")

    def _made(self, step: _Step) -> list[GeneratorEvent]:
        """What the logits of a step come to. Of all answers before anything else is computed."""
        events: list[GeneratorEvent] = []
        for row, answer in step.answers:
            answer.sequence.tokens.append(answer.token)
            events += self._drawn(answer, row)
        for row, reading, size in step.readings:
            done = len(reading.sequence.tokens)
            reading.sequence.tokens += reading.prompt[done : done + size]
            if done + size == len(reading.prompt):
                events += self._answered(reading, row)
        return events

    def _answered(self, reading: _PromptReading, row: int) -> list[GeneratorEvent]:
        """The first token of each answer to a prompt that has been read."""
        self._readings.remove(reading)
        job, first = reading.job, reading.sequence
        sequences = [first]
        for _ in range(job.n - 1):
            other = self._table.another()
            self._clear(other)
            self._llama.llama_memory_seq_cp(self._memory, first.id, other.id, -1, -1)
            other.tokens = first.tokens[:]
            sequences.append(other)
        form = reading.form
        begun: list[_SequenceAnswer] = []
        for choice, sequence in enumerate(sequences):
            own = None if form is None else form.copy()
            sampler = TokenSampler(self._llama, self._vocabulary, job.sampling, choice, own, job.prompt)
            begun.append(_SequenceAnswer(job, choice, sequence, sampler, reading.cached))
        self._answers += begun
        return [Read(job.id, reading.cached), *(event for answer in begun for event in self._drawn(answer, row))]

    def _drawn(self, answer: _SequenceAnswer, row: int) -> list[GeneratorEvent]:
        """One more token of an answer, and its end if that is one."""
        job, vocabulary = answer.job, self._vocabulary
        if answer not in self._answers:  # its job broke in this very step
            return []
        try:
            token = answer.sampler.sample(self._context, row)
        except BadRequest as error:
            self.stop(job.id)
            return [Broke(job.id, "bad request", str(error))]
        answer.token, answer.made = token, answer.made + 1
        ended = vocabulary.ends(token)
        events: list[GeneratorEvent] = []
        if not ended:
            top, logprobs = job.sampling.top_logprobs, None
            if top is not None:
                logits = logits_of(self._llama, self._context, row, vocabulary.size)
                logprobs = logprobs_of(logits, token, top, vocabulary)
            events.append(Piece(job.id, answer.choice, token, vocabulary.shown(token), logprobs))
        if ended or answer.made >= job.max_tokens:
            reason = "stop" if ended else "length"
            events.append(Ended(job.id, answer.choice, reason, len(job.prompt), answer.cached, answer.made))
            self._end(answer)
        return events

    def _end(self, answer: _SequenceAnswer) -> None:
        self._answers.remove(answer)
        answer.sampler.free()
        self._leave(answer.sequence)

    def _leave(self, sequence: CacheSequence) -> None:
        for other in self._table.leave(sequence):
            self._clear(other)

    def _clear(self, sequence: CacheSequence) -> None:
        self._llama.llama_memory_seq_rm(self._memory, sequence.id, -1, -1)
        sequence.tokens = array("i")

    def _rewound(self, sequence: CacheSequence, kept: int) -> int:
        """Have `sequence` end after `kept` tokens, as far as its cache can be continued there; returns where it does.

        What slid out of a window of attention is gone, and a recurrent state has only its end.
        """
        if kept:
            whole = kept == len(sequence.tokens)
            can = whole or self._llama.llama_memory_seq_rm(self._memory, sequence.id, kept, -1)
            first = self._llama.llama_memory_seq_pos_min(self._memory, sequence.id)
            if can and (not self._window or first <= max(0, kept - self._window)):
                sequence.tokens = sequence.tokens[:kept]
                return kept
        self._clear(sequence)
        return 0

    def _schema_tokenizer(self) -> Any:
        if self._tokenizer is None:
            try:
                llguidance = importlib.import_module("llguidance.llamacpp")
            except ImportError as error:
                raise BadRequest(
                    f"this engine cannot hold an answer to a schema: {error}; install llguidance"
                ) from error
            vocabulary = self._vocabulary
            ends = [token for token in range(vocabulary.size) if vocabulary.ends(token)]
            self._tokenizer = llguidance.lltokenizer_from_vocab(vocabulary.handle, eos_token=ends or None)
        return self._tokenizer


def _ask_whether_to_abort(llama: Any, context: Any, going_on: Any) -> None:
    """Have llama.cpp look at the first byte of `going_on` from time to time: anything but 0 ends the step."""
    c = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    callback = ctypes.cast(c.strlen, llama.ggml_abort_callback)
    llama.llama_set_abort_callback(context, callback, ctypes.cast(going_on, ctypes.c_void_p))


def load(order: LoadOrder) -> LlamaGenerator:
    """See `GeneratorModule`."""
    llama = library()
    keep_the_log(llama)
    llama.llama_backend_init()
    gpus = devices()
    header = _read(order)
    facts = header.facts
    if facts.reranks:
        raise EngineFailed(
            f"{order.path} is a reranking model, which engine llama-cpp-python does not run: take another"
        )
    model = load_model(llama, order, on_gpu=bool(gpus))
    if model is None:
        reason = reason_in_log()
        kind = UnknownArchitecture if UNKNOWN_ARCHITECTURE in reason else EngineFailed
        raise kind(f"llama.cpp could not load {order.path}: {reason or 'it does not say why'}")
    sequences = 1 if facts.embeds_only else _sequences(llama, model, order.slots)
    encodes = "bert" in facts.architecture
    at_once = min(ENCODER_TEXT_TOKENS, order.context_tokens) if encodes else EMBEDDING_TEXT_TOKENS
    # llama.cpp aborts where a micro-batch that is pooled cannot be divided among the sequences.
    step_tokens = -(-at_once // sequences) * sequences
    params = _context_params(llama, order, sequences, step_tokens, facts.pooling_type)
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise EngineFailed(
            f"llama.cpp has no memory for {order.slots} slots of {order.context_tokens} tokens of {order.path}: "
            f"{reason_in_log()}; try --context 2048 --workers 1"
        )
    vocabulary = Vocabulary(llama, model)
    bos, eos = (vocabulary.text(end(vocabulary.handle)) for end in (llama.llama_vocab_bos, llama.llama_vocab_eos))
    source, with_tools = (_template(llama, model, name) for name in (None, b"tool_use"))
    layers = offloaded_layers()
    granted = GeneratorFacts(
        version=f"{VERSION} (llama.cpp {llama.llama_version().decode()})",
        slots=min(order.slots, max(sequences - 1, 1)),
        context_tokens=min(order.context_tokens, int(llama.llama_n_ctx(context)) // order.slots),
        step_tokens=step_tokens,
        chat_template=source,
        bos_token=bos,
        eos_token=eos,
        longest_token_bytes=longest_token_bytes(facts.tokenizer, facts.longest_token_bytes),
        controls=tuple(sorted(header.control_texts)),
        embeds=True,
        generates=not facts.embeds_only,
        devices=tuple(gpu.description for gpu in gpus) if layers and layers[0] else (),
        gpu_layers=layers and layers[0],
        layers=layers and layers[1],
    )
    return LlamaGenerator(llama, model, context, granted, ChatTemplate(source, bos, eos, with_tools or None))


def _read(order: LoadOrder) -> GgufModel:
    try:
        return read_model(order.path)
    except SetupError as error:
        raise EngineFailed(str(error)) from error


def _sequences(llama: Any, model: Any, slots: int) -> int:
    """How many a context has: idle ones keep conversations, and one is for embeddings.

    A recurrent one has its whole state in each.
    """
    recurrent = llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
    return min(MOST_SEQUENCES, (1 if recurrent else 2) * slots + 2)


def _context_params(llama: Any, order: LoadOrder, sequences: int, step_tokens: int, pooling: int | None) -> Any:
    params = llama.llama_context_default_params()
    params.n_seq_max = sequences
    params.n_ctx = order.context_tokens * order.slots
    params.n_batch = params.n_ubatch = step_tokens
    params.n_threads, params.n_threads_batch = order.threads, order.reading_threads
    params.kv_unified = True  # answers to one prompt share its cells, and long conversations those of short ones
    params.swa_full = False
    params.type_k = params.type_v = getattr(llama, f"GGML_TYPE_{order.cache_type.upper()}")
    params.pooling_type = pooling or llama.LLAMA_POOLING_TYPE_MEAN
    params.embeddings = bool(pooling)
    return params


def _template(llama: Any, model: Any, name: bytes | None) -> str:
    found = llama.llama_model_chat_template(model, name)
    return found.decode("utf-8", "replace") if found else ""
