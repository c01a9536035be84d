"""What an inference library must do for us in a process of its own: the contract between `host.py` and a generator.

A generator makes tokens, and nothing else: it has no text, no stop strings, no turns, no JSON over a pipe. Those are
the parent's (`hosted_engine.py`). In return it may be written against a library's lowest level, in one thread.

Threads. All of `begin`, `stop`, `step` and `embed`, and the loading before, are called from one thread, the library's;
whatever belongs to the model that computes is touched there alone. `render`, `tokenize` and `pieces` are called from a
second one, at any time, so that a prompt is made while others compute: they may use the tokenizer, and only that.
`abort` is called from a third.

A generator's module is run by `python -m swarm.engines.hosted.host MODULE`, and has one function more:
`load(order: LoadOrder) -> Generator`, which raises EngineFailed with the reason and a remedy.

Jobs. A job is one prompt and its `n` answers. The parent begins no more answers at once than there are `slots`, so that
none waits inside a generator. Answer number `choice` is sampled with the seed `sampling.seed + choice`, by a source of
chance of its own: the same seed gives the same answer, alone or among others, as far as the library's arithmetic does.

Errors. `begin` and `embed` raise `swarm.errors.BadRequest` for what can never work. A job that breaks later is told by
`Broke`; whatever else `step` raises ends the process, and with it every job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from swarm.generation import JsonObject


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What to load: `EngineSpec` as a generator needs it. One request may fill `context_tokens`, prompt and answer.

    The `context_tokens` are promised to each of the `slots`, or to all of them together where the library shares one
    cache among them and says so in its facts.
    """

    path: Path
    context_tokens: int
    slots: int
    threads: int
    reading_threads: int
    gpu_layers: int | None = None
    cache_type: str = "f16"


@dataclass(frozen=True, slots=True)
class GeneratorFacts:
    """The model as it was loaded.

    `slots` and `context_tokens` are what was granted. `controls` are the texts of the tokens that clients must not be
    able to write (those that end a turn), and `longest_token_bytes` the most bytes of text that one token stands for;
    None where that is not known. `devices` beside the processor have `gpu_layers` of the `layers`. `version` is that of
    the library. `step_tokens` of prompts are read in one step at most.

    `reads_calls`: calls of the tools that a job offers come as `Called`, and none of their text as a piece. Without it
    the parent finds them in the text. `parts_thoughts`: so with the thoughts of a `chat`, also with one that its prompt
    has begun. `forms`: answers can be held to a JSON schema. `embeds`: `embed` makes vectors.
    """

    version: str
    slots: int
    context_tokens: int
    step_tokens: int
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    longest_token_bytes: int | None = None
    controls: tuple[str, ...] = ()
    embeds: bool = False
    forms: bool = True
    logprobs: bool = True
    reads_calls: bool = False
    parts_thoughts: bool = False
    generates: bool = True
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None
    layers: int | None = None


@dataclass(frozen=True, slots=True)
class JobSampling:
    """How tokens are drawn: nothing is left open. `temperature` 0 takes the likeliest.

    `top_k` 0, `top_p` 1, `min_p` 0, penalties of 1 (repeat) and 0 (presence, frequency) change nothing. Penalties look
    at the answer and the end of the prompt, `logit_bias` is added to a token's logit. `top_logprobs` is how many of the
    likeliest tokens are told with each; None: no log-probability is. The first answer has the `first_temperature`.
    """

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    first_temperature: float | None = None

    def temperature_of(self, choice: int) -> float:
        """That of answer number `choice`."""
        return self.temperature if choice or self.first_temperature is None else self.first_temperature


@dataclass(frozen=True, slots=True)
class Job:
    """`n` answers to `prompt`, of `max_tokens` at most each (1 or more); the prompt and an answer fit the context.

    `schema`: the whole answer is JSON that keeps it. `tools`, in OpenAI's form, are those whose calls may be in an
    answer; only where the generator `reads_calls`. `chat`: the prompt is a conversation, its answer may have thoughts.
    """

    id: int
    prompt: tuple[int, ...]
    n: int
    sampling: JobSampling
    max_tokens: int
    schema: JsonObject | None = None
    tools: tuple[JsonObject, ...] = ()
    chat: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token's bytes and the natural logarithm of its probability, before any sampler bent it."""

    token: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Those of a token that was drawn, and of the likeliest that might have been, best first."""

    drawn: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


PieceKind = Literal["answer", "thought", "call"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an answer. `text` may be part of a character, or empty where the token shows nothing.

    Exactly one piece comes for each token but the one that ends an answer. `kind`: "thought" where the library parts
    thoughts by itself, "call" for a token of a call that comes as `Called`: it is counted and not shown.
    """

    job: int
    choice: int
    token: int
    text: bytes
    logprobs: Logprobs | None = None
    kind: PieceKind = "answer"


@dataclass(frozen=True, slots=True)
class Read:
    """A job's prompt is read, of which `cached_tokens` were in a cache already. Comes before its first piece."""

    job: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Called:
    """A whole call of a tool. `arguments` is JSON text. The `index` counts the calls of one answer from 0."""

    job: int
    choice: int
    index: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer is complete: the model ended it ("stop"), or `max_tokens` did ("length"). Nothing of it follows.

    Of the `prompt_tokens` so many were `cached_tokens`: not read again. `completion_tokens` are all that were made.
    """

    job: int
    choice: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Broke:
    """A job ended without its answers. "unreadable": the model wrote something that is no call; another sample may be.

    "bad request" can never work, and "failed" is the library's own doing. Nothing of the job follows.
    """

    job: int
    kind: Literal["bad request", "unreadable", "failed"]
    message: str


GeneratorEvent = Read | Piece | Called | Ended | Broke


class Generator(Protocol):
    """A library with one model loaded. See the module for which thread calls what."""

    @property
    def facts(self) -> GeneratorFacts:
        """The model as it was loaded; does not change."""
        ...

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        """A conversation by the model's chat template; `variables` (`add_generation_prompt`, ...) go to it as they are.

        Raises `swarm.engines.openai_dialect.TemplateRefused` for turns that the template does not take.
        """
        ...

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """See `Engine.tokenize`. Special tokens are added only where the model wants them around every prompt."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes that each of `tokens` stands for, control tokens as they are spelled. BadRequest for no tokens."""
        ...

    def begin(self, job: Job) -> None:
        """Take a job on; its first events come with later steps. Does not compute."""
        ...

    def step(self) -> Sequence[GeneratorEvent]:
        """Make one step, of a fraction of a second: a slice of a prompt, or one token of each answer, or both.

        Called only while jobs are in progress. Empty where nothing came of it that can be told yet.
        """
        ...

    def stop(self, job: int, choice: int | None = None) -> None:
        """Forget one answer of a job, or all of it: nothing of that follows, and nothing more is computed for it.

        What was read of its prompt may be kept. A job, or an answer, that has ended is no error.
        """
        ...

    def embed(self, tokens: Sequence[int]) -> Sequence[float]:
        """The unit vector of one text. BadRequest where the model makes none, or the text is too long."""
        ...

    def abort(self, job: int) -> None:
        """From another thread: nobody waits for `job` any more, `stop` follows. Ends its prompt's reading if it can."""
        ...
