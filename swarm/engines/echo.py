"""A weightless engine that answers with the last message: deterministic, instant, honest about being no model.

It passes the contract suite of the real engines, so that everything above an engine can be tried without weights
(`swarm --engine echo`). A token is a word with the white space before it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import struct
from collections.abc import Sequence

from swarm import program_version
from swarm.engines.assembly import timed
from swarm.engines.engine import (
    Capabilities,
    Computation,
    Embeddings,
    EngineBuild,
    EnginePlaces,
    EngineSpec,
    LoadedModel,
    Ranking,
    Tokens,
    refuse_unseen,
)
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible
from swarm.engines.registry import Isolation
from swarm.errors import BadRequest, ContextExceeded, Unavailable
from swarm.generation import Delta, EventStream, Finish, FinishReason, GenerationRequest, JsonObject, Prompt, Usage
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape

EMBEDDING_SIZE = 8  # numbers per vector: one SHA-256 cut into 4-byte pieces
MESSAGE_OVERHEAD_TOKENS = 1  # stands for the role that a real template would add
MAX_VOCABULARY = 2**16  # words that have a number: they come from clients


def message_text(message: JsonObject) -> str:
    """The text of one message, whichever of OpenAI's forms it has."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def tokens_of(text: str) -> list[str]:
    """Words with their leading white space; joined they give `text` again."""
    return re.findall(r"\s*\S+|\s+$", text)


class EchoEngine:
    """See the module. `tokens_generated` counts what was really produced, so that a test sees cancellation work."""

    name = "echo"

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.tokens_generated = 0
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stalled: str | None = None
        self.taken_bytes: int | None = None
        self._slots = asyncio.Semaphore(spec.slots)
        self._closed = False
        self._numbers: dict[str, int] = {}  # each word's token, given out in order of appearance

    @property
    def model_id(self) -> str:
        return self.spec.model_id

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(tools=False, embeddings=True, rerank=True, infill=True, first_temperature=True)

    @property
    def computation(self) -> Computation:
        return Computation(self.name, program_version())

    @property
    def loaded(self) -> LoadedModel:
        return LoadedModel(self.spec.slots, self.spec.context_tokens)

    def check(self, request: GenerationRequest) -> None:
        refuse_impossible(request)

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self.spec.slots:
            raise BadRequest(f"n is {n}; this model runs 1 to {self.spec.slots} answers at once", param="n")
        refuse_unseen(self, request)
        return timed(self._stream(request, n))

    async def _stream(self, request: GenerationRequest, n: int) -> EventStream:
        if self._closed:
            raise Unavailable("the engine is closed")
        prompt = await self.count_tokens(request)
        room = self.spec.context_tokens - prompt
        if room <= 0:
            raise ContextExceeded(prompt, self.spec.context_tokens, param=request.prompt_field)
        answer, reason, stop = self._answer(request, room)
        async with self._slots:
            for token in answer:
                for choice in range(n):
                    self.tokens_generated += 1
                    yield Delta(choice, token)
                await asyncio.sleep(0)
            for choice in range(n):
                yield Finish(choice, reason, Usage(prompt_tokens=prompt, completion_tokens=len(answer)), stop)

    def _answer(self, request: GenerationRequest, room: int) -> tuple[list[str], FinishReason, str | None]:
        text = self._text(request.prompt or "") if request.messages is None else message_text(request.messages[-1])
        cut, stop = min(((at, stop) for stop in request.stop if (at := text.find(stop)) >= 0), default=(None, None))
        tokens = tokens_of(text[:cut])
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        return (tokens[:limit], "length", None) if len(tokens) > limit else (tokens, "stop", stop)

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        plain = [self._text(text) for text in texts]
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in plain]
        rows = [[number / 2**31 - 1 for number in struct.unpack(f"<{EMBEDDING_SIZE}I", digest)] for digest in digests]
        norms = [sum(value * value for value in row) ** 0.5 for row in rows]
        vectors = tuple(tuple(value / norm for value in row) for row, norm in zip(rows, norms, strict=True))
        return Embeddings(vectors, sum(len(tokens_of(text)) for text in plain))

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        """The share of the query's words that a document has."""
        asked = set(query.split())
        scores = tuple(len(asked & set(document.split())) / max(len(asked), 1) for document in documents)
        return Ranking(scores, sum(len(tokens_of(query)) + len(tokens_of(document)) for document in documents))

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        words = tokens_of(text)
        if len(self._numbers.keys() | set(words)) > MAX_VOCABULARY:
            raise BadRequest(f"the echo engine numbers at most {MAX_VOCABULARY} words: start it anew", param="content")
        ids = tuple(self._numbers.setdefault(word, len(self._numbers)) for word in words)
        return Tokens(ids, tuple(words) if pieces else None)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return self._text(tuple(tokens))

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        words = list(self._numbers)
        if not all(0 <= token < len(words) for token in prompt):
            raise BadRequest("these numbers are not tokens of this model: send what its own /tokenize gives", "tokens")
        return "".join(words[token] for token in prompt)

    async def prompt_text(self, request: GenerationRequest) -> str:
        """There is no template: one message a line."""
        return "\n".join(message_text(message) for message in request.messages or ())

    async def count_tokens(self, request: GenerationRequest) -> int:
        if request.messages is None:
            return len(tokens_of(request.prompt)) if isinstance(request.prompt, str) else len(request.prompt or ())
        tools = len(tokens_of(json.dumps([tool.model_dump() for tool in request.tools]))) if request.tools else 0
        return tools + sum(len(tokens_of(message_text(m))) + MESSAGE_OVERHEAD_TOKENS for m in request.messages)

    async def aclose(self) -> None:
        self._closed = True


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    return None


def builds(places: EnginePlaces) -> tuple[EngineBuild, ...]:
    return (EngineBuild("echo", program_version(), source="part of this program"),)


def problems(places: EnginePlaces) -> tuple[str, ...]:
    return ()


def check(request: GenerationRequest) -> None:
    """As llama.cpp, so that whoever tries a client without weights is refused what it would be refused with them."""
    refuse_impossible(request)


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return MemoryNeed(0, 0, 0, 0, estimated=False)


async def load(spec: EngineSpec, isolation: Isolation = "auto") -> EchoEngine:
    return EchoEngine(spec)
