"""The one seam to inference: what an engine promises, whatever library is behind it.

States: an engine is usable from the moment its loader returns it until `aclose()` begins or `failed` completes.

Rules that hold for every implementation, and that `tests/engines/test_contract.py` checks on each of them:
* No method blocks the event loop: native work runs in the library's own threads or in another process.
* Closing an event stream *is* cancellation: when `aclose()` of the iterator returns, the engine has been told to
  stop, and decoding ends within a token. (A long prefill ends within a slice; see `prefill.py`.)
* Errors come before the first event or instead of the next one, as the types of `swarm.errors`: `BadRequest` and
  `ContextExceeded` for input that can never work, `Unavailable` while closing, `EngineFailed` for everything else.
* An engine watches itself: one that makes no progress says so (`stalled`), and breaks (`failed`) if that goes on.
* Concurrency above `loaded.slots` is queued by the engine in order of arrival; the worker pool avoids it.

`refuse_too_long` tells prompts that cannot fit by their bytes: no token stands for more of them than the longest of the
vocabulary. llama.cpp counts a prompt's tokens before it refuses it, and copies it several times on the way: 7 MB of
text took 1.5 GB for a context of 2,048 tokens. So what is certain to be too long is refused before it waits, is written
as JSON or is sent. What only `may_be_too_long` the engine counts, which takes no slot. Pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from federation.advertisement import Capabilities
from swarm.errors import BadRequest, ContextExceeded, LenderLost
from swarm.generation import EventStream, GenerationRequest, JsonObject, Prompt, has_images, texts_of
from swarm.registry.model_memory import CacheType

UNKNOWN_TOKEN_BYTES = 1024  # where the vocabulary is not known, or leaves text out: four times the longest seen (256)
MIN_TOKEN_BYTES = 16  # a vocabulary of single bytes has special tokens, too
# Filling in the middle cuts what is far from the caret: editors send whole files, which are read and not kept.
INFILL_BYTES = 2**20
TEMPLATE_TOKENS, TURN_TOKENS = 512, 16  # of a chat template: its own system turn and words on tools; around each turn


@dataclass(frozen=True, slots=True)
class Device:
    """Something besides the processor that a build computes on, under the build's own `name` for it ("CUDA0")."""

    name: str
    description: str
    total_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """One way in which an engine can run on this machine.

    `version` in its own words; `devices` that it sees besides the processor; `native`: made for this very processor.
    `program` is what is run, where that is a program of its own; `packages` a folder of Python packages that an engine
    host looks into first. `source` says in words where it was found.
    """

    engine: str
    version: str
    devices: tuple[Device, ...] = ()
    native: bool = False
    program: Path | None = None
    packages: Path | None = None
    source: str = ""

    @property
    def words(self) -> str:
        """Its engine and version."""
        return f"{self.engine} {self.version}"


@dataclass(frozen=True, slots=True)
class EnginePlaces:
    """Where builds of engines are looked for: beside what is installed in this environment and found on the PATH.

    `engines_dir` has what `swarm engines install` made; `llama_server` is the one program that the user named. What is
    in this environment is asked for its devices only with `ask_devices`: where the hardware probe saw a GPU.

    What programs and libraries said of themselves is kept in the file `answers` (None: nowhere) for as long as they,
    and this `machine` (its GPUs and their drivers, in words), stay the same: see `kept_answers.py`.
    """

    engines_dir: Path | None = None
    llama_server: Path | None = None
    ask_devices: bool = False
    answers: Path | None = None
    machine: str = ""


@dataclass(frozen=True, slots=True)
class Computation:
    """With what a loaded model is computed: the engine, its version, and the names of the devices beside the processor.

    `gpu_layers` of its `layers` are on those; None where the library does not tell. Where several machines compute it
    together, `nodes` are their names, this one's first, and `devices` those of the others.
    """

    engine: str
    version: str
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None
    layers: int | None = None
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = self.devices and self.gpu_layers is not None and self.layers is not None
        if self.nodes:
            own = f" ({(self.layers or 0) - (self.gpu_layers or 0)} of {self.layers} layers on {self.nodes[0]})"
            return f"{self.engine} {self.version} over {' + '.join(self.nodes)}{own if known else ''}"
        where = " and ".join(self.devices) or "the CPU"
        layers = f" ({self.gpu_layers} of {self.layers} layers)" if known else ""
        return f"{self.engine} {self.version} on {where}{layers}"


@dataclass(frozen=True, slots=True)
class EnginePart:
    """So many `layers` of a model that the machine called `node` computes, by the RPC server of its llama.cpp.

    `address` is where that is reached from here ("127.0.0.1:50052").
    """

    node: str
    address: str
    layers: int


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to load, and how much of the machine it may use.

    `context_tokens` is what one request may fill, prompt and answer together; `slots` how many requests run at once.
    `threads` compute one token of one answer; `reading_threads` (None: as many) prompts, and tokens of several answers
    at once. `gpu_layers` None lets the library decide by free memory. Keys and values are kept as `cache_type`.

    `build` loads it; None: the engine's own in this environment. `projector` lets it see, `draft` is a small model that
    guesses its next tokens, `ngram` guesses them from what was written before. What is read of prompts may be kept in
    the folder `saves`, in `saves_bytes` of all models together; through the open file of the number `copies`, which
    lies in memory, it may come from one slot into another.

    `parts` are on other machines, in the order of the model's layers; `gpu_layers` are then those of all parts and of
    this machine's own devices together, None: of the parts. `node` is what this machine is called among them.
    """

    model_id: str
    path: Path | None
    context_tokens: int
    slots: int
    threads: int
    gpu_layers: int | None = None
    reading_threads: int | None = None
    cache_type: CacheType = "f16"
    build: EngineBuild | None = None
    projector: Path | None = None
    draft: Path | None = None
    ngram: bool = False
    saves: Path | None = None
    saves_bytes: int = 0
    copies: int | None = None
    parts: tuple[EnginePart, ...] = ()
    node: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all machines that compute it, this one first; none where it is this one alone."""
        return (self.node, *(part.node for part in self.parts)) if self.parts else ()


@dataclass(frozen=True)
class LoadedModel:
    """The model as the engine loaded it: what was granted, not what was asked, and what its file says.

    `context_tokens` is what one request may fill, 0 where that is not known. No token stands for more bytes of text
    than `longest_token_bytes`; None where nothing is known of the tokens.
    """

    slots: int
    context_tokens: int
    chat_template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    longest_token_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input text, in order: `len(texts)` of them, all of one length, as the model's pooling gives them.

    `prompt_tokens` are those of all texts together.
    """

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """One score per document, in order: a number without a scale, higher is better.

    `prompt_tokens` are those read: the query's, once for each document, and the documents' own.
    """

    scores: tuple[float, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens. `pieces`, where asked for: what each stands for, as bytes where it is no whole characters."""

    ids: tuple[int, ...]
    pieces: tuple[str | tuple[int, ...], ...] | None = None


@runtime_checkable
class TellsSlots(Protocol):
    """An engine that tells what its slots do."""

    async def slot_states(self) -> Sequence[JsonObject]:
        """One object for each slot under llama.cpp's names, in order: numbers and switches, and never a text."""
        ...


@runtime_checkable
class OverLenders(Protocol):
    """An engine of whose model other machines compute parts."""

    @property
    def lost(self) -> LenderLost | None:
        """Which of them is gone, and how: the engine has broken because of it, or is about to. None while all work."""
        ...


class Engine(Protocol):
    """An adapter over an inference library that has one model loaded."""

    @property
    def name(self) -> str:
        """The library, in the words of `--engine`."""
        ...

    @property
    def model_id(self) -> str:
        """The id under which clients ask for this model."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked of this engine with this model."""
        ...

    @property
    def loaded(self) -> LoadedModel:
        """The model's sizes as granted, and what its file says of it."""
        ...

    @property
    def failed(self) -> asyncio.Future[str]:
        """Completes with the reason when the engine broke for good and must be loaded anew; never on `aclose()`.

        By then every request in progress has ended by an error, or is about to.
        """
        ...

    @property
    def stalled(self) -> str | None:
        """Why it is doubted that the engine still computes: nobody is sent there meanwhile. None while all is well."""
        ...

    @property
    def taken_bytes(self) -> int | None:
        """RAM that the model was measured to take, the most so far; None where that is not known, as of a GPU's."""
        ...

    @property
    def computation(self) -> Computation:
        """With what its model is computed."""
        ...

    def check(self, request: GenerationRequest) -> None:
        """Raises BadRequest for what this engine can answer with no model: see `EngineModule.check`."""
        ...

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        """`n` independent answers to one prompt, interleaved, with seeds `request.seed + choice`.

        They share one prefill where the library can. Of each choice 0..n-1 any number of `Delta`, then one `Finish`,
        with how long it took where the engine computes here.
        The first has the request's `first_temperature`, where it says one and `capabilities` say that it is heeded.
        Raises `BadRequest` if `n` exceeds `loaded.slots`, and for images that the model cannot see.
        """
        ...

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        """Vectors of `texts`. Raises `BadRequest` where the model cannot embed."""
        ...

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """Scores of `documents`. Raises `BadRequest` where the model cannot rank."""
        ...

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        """The tokens of `text`; `add_special`: with those around every prompt; `parse_special`: `<|im_end|>` is one."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`. Raises `BadRequest` for numbers that are none."""
        ...

    async def prompt_text(self, request: GenerationRequest) -> str:
        """A chat as the text that the model sees, by its own template."""
        ...

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt as the model sees it, chat template included."""
        ...

    async def aclose(self) -> None:
        """Stop all generation and free the model's memory. Idempotent."""
        ...


def longest_token_bytes(tokenizer: str | None, longest: int | None) -> int:
    """The most bytes of text that a token of a vocabulary may stand for, from what its file says.

    Only the two kinds that GGUF calls gpt2 and llama write every byte; others have a token for whatever they do not
    know, however long.
    """
    if longest is None or tokenizer not in ("gpt2", "llama"):
        return UNKNOWN_TOKEN_BYTES
    return max(longest, MIN_TOKEN_BYTES)


def refuse_unable(engine: Engine) -> None:
    """Raises BadRequest where the model of `engine` writes no text at all."""
    if not engine.capabilities.generates:
        raise BadRequest(f"model {engine.model_id!r} writes no text: it is for embeddings or reranking", "model")


def refuse_unseen(engine: Engine, request: GenerationRequest) -> None:
    """Raises BadRequest for images that the model of `engine` cannot see: it is to be asked in words (`images.py`)."""
    if has_images(request) and not engine.capabilities.vision:
        raise BadRequest(f"model {engine.model_id!r} cannot see images", "messages")


def refuse_too_long(request: GenerationRequest, model: LoadedModel) -> None:
    """Raises ContextExceeded for a prompt that cannot fit an engine's context, whatever its tokens are."""
    room = most_bytes(model)
    if room is None:
        return
    if isinstance(request.prompt, tuple) and len(request.prompt) >= model.context_tokens:  # an answer has one at least
        raise ContextExceeded(len(request.prompt), model.context_tokens, param=request.prompt_field)
    if request.suffix is not None:
        room = max(room, INFILL_BYTES)
    _refuse_bytes(texts_of(request), room, model.context_tokens, request.prompt_field)


def may_be_too_long(request: GenerationRequest, model: LoadedModel) -> bool:
    """Whether the prompt's tokens must be counted to know that it fits: none of them stands for less than a byte.

    What a chat template writes around the turns is taken for no more than so many tokens. What is filled in the middle
    is cut, and prompts given as tokens are counted already.
    """
    if most_bytes(model) is None or request.suffix is not None or isinstance(request.prompt, tuple):
        return False
    if has_images(request):  # one may take thousands
        return True
    around = 0 if request.messages is None else TEMPLATE_TOKENS + TURN_TOKENS * len(request.messages)
    return prompt_bytes(request) + around >= model.context_tokens


def prompt_bytes(request: GenerationRequest) -> int:
    """The bytes of every text that goes into the prompt."""
    return sum(
        len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts_of(request)
    )


def refuse_too_long_texts(texts: Sequence[Prompt], model: LoadedModel, field: str) -> None:
    """The same for texts of which each is a prompt: what `field` has."""
    room = most_bytes(model)
    for text in texts if room is not None else ():
        if isinstance(text, str):
            _refuse_bytes([text], room or 0, model.context_tokens, field)
        else:
            _refuse_tokens(text, model.context_tokens, field)


def most_bytes(model: LoadedModel) -> int | None:
    """What fits at the very most; None where nothing is known of the tokens."""
    return None if model.longest_token_bytes is None else model.context_tokens * model.longest_token_bytes


def _refuse_bytes(texts: Iterable[str], room: int, context_tokens: int, field: str) -> None:
    size = 0
    for text in texts:
        # Characters first: what has too many of them needs no copy for its bytes to be counted.
        size += len(text) if text.isascii() or size + len(text) > room else len(text.encode("utf-8", "surrogatepass"))
        if size > room:
            per_token = max(room // context_tokens, 1)
            raise ContextExceeded(-(-size // per_token), context_tokens, at_least=True, param=field)


def _refuse_tokens(tokens: Sequence[int], context_tokens: int, field: str) -> None:
    if len(tokens) > context_tokens:
        raise ContextExceeded(len(tokens), context_tokens, param=field)
