"""The upstream as an engine: any OpenAI-compatible server, a cloud's or a neighbour's, asked over HTTP.

Unlike other engines it loads nothing and serves every model of its server: a request's own `model` says which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarm.engines.assembly import numbered, together
from swarm.engines.engine import (
    Capabilities,
    Computation,
    Embeddings,
    Engine,
    EngineBuild,
    EnginePlaces,
    EngineSpec,
    LoadedModel,
    Ranking,
    Tokens,
)
from swarm.engines.llama_cpp.schema_refusal import refuse_impossible_schemas
from swarm.engines.registry import Isolation
from swarm.engines.upstream.upstream_http import UpstreamHttp
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import EventStream, GenerationRequest, Prompt
from swarm.registry.model_memory import Load, MemoryNeed, ModelShape


class UpstreamEngine:
    """`slots` bounds how many requests run at once. `model_id` is the server's host."""

    name = "upstream"

    def __init__(self, http: UpstreamHttp, slots: int) -> None:
        self.http = http
        self._slots = slots
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stalled: str | None = None
        self.taken_bytes: int | None = None

    @property
    def model_id(self) -> str:
        return self.http.host

    @property
    def capabilities(self) -> Capabilities:
        """What the server may be able to do; it says no on its own where it cannot."""
        return Capabilities(tools=True, grammar=True, logprobs=True, embeddings=True, reasoning=True, infill=True)

    @property
    def loaded(self) -> LoadedModel:
        """Of its models nothing is known, their contexts included."""
        return LoadedModel(self._slots, 0)

    @property
    def computation(self) -> Computation:
        return Computation(self.name, f"at {self.http.host}")

    def check(self, request: GenerationRequest) -> None:
        check(request)

    def candidates(self, request: GenerationRequest, n: int) -> EventStream:
        if not 1 <= n <= self._slots:
            raise BadRequest(
                f"n is {n}; upstream {self.http.host} is asked 1 to {self._slots} times at once", param="n"
            )
        if n == 1:
            return self.http.stream(request)
        return together([self.http.stream(numbered(request, choice)) for choice in range(n)])

    async def embed(self, texts: Sequence[Prompt]) -> Embeddings:
        raise BadRequest(f"name a model of upstream {self.http.host} that embeds", param="model")

    async def rerank(self, query: str, documents: Sequence[str]) -> Ranking:
        raise self._without("rank")

    async def tokenize(self, text: str, *, add_special: bool, parse_special: bool, pieces: bool = False) -> Tokens:
        raise self._without("tokenize")

    async def detokenize(self, tokens: Sequence[int]) -> str:
        raise self._without("detokenize")

    async def prompt_text(self, request: GenerationRequest) -> str:
        raise self._without("show its template")

    async def count_tokens(self, request: GenerationRequest) -> int:
        raise self._without("count tokens")

    def _without(self, verb: str) -> BadRequest:
        return BadRequest(f"upstream {self.http.host} is not asked to {verb}", param="model")

    async def aclose(self) -> None:
        await self.http.aclose()


def why_not_available() -> str | None:
    """See `EngineModule`, and so for the others."""
    return None


def builds(places: EnginePlaces) -> tuple[EngineBuild, ...]:
    """None: what computes there is not this machine's."""
    return ()


def problems(places: EnginePlaces) -> tuple[str, ...]:
    return ()


def check(request: GenerationRequest) -> None:
    """Schemas only, so that a request is refused alike whoever serves it: a begun turn it continues as it likes."""
    refuse_impossible_schemas(request, every_keyword=False)  # a strict one is up to whoever answers


def estimate(shape: ModelShape, load: Load) -> MemoryNeed:
    return MemoryNeed(0, 0, 0, 0, estimated=False)


async def load(spec: EngineSpec, isolation: Isolation = "auto") -> Engine:
    raise EngineFailed("an upstream has its models loaded already: name it with --upstream")
