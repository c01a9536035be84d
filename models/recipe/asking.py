"""Put documents to the real engine, many at once, and collect what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from models.recipe.document import Document
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.generation import Candidate, GenerationRequest

SLOTS = 32
CONTEXT_TOKENS = 1024
WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}  # OpenAI's defaults; llama.cpp's would cut its tail off
MAX_ANSWER_TOKENS = 160  # the longest held-out answer has about 130


@asynccontextmanager
async def engine_of(path: Path, threads: int) -> AsyncGenerator[LlamaServerEngine]:
    """The model in `path`, loaded as the product loads it."""
    engine = await load_xllamacpp(EngineSpec("demo", path, CONTEXT_TOKENS, SLOTS, threads))
    try:
        yield engine
    finally:
        await engine.aclose()


def request_of(document: Document, temperature: float, seed: int) -> GenerationRequest:
    """All of the document but its last answer, as a request."""
    messages = [dict(message) for message in document.messages[:-1]]
    for message in messages:
        message["tool_calls"] = [
            {**call, "id": f"call_{at}"} for at, call in enumerate(message.get("tool_calls", ()))
        ] or None
    return GenerationRequest.model_validate(
        {
            "model": "demo",
            "messages": [{k: v for k, v in message.items() if v is not None} for message in messages],
            "tools": list(document.tools),
            "temperature": temperature,
            **WHOLE_DISTRIBUTION,
            "max_tokens": MAX_ANSWER_TOKENS,
            "seed": seed,
        }
    )


async def answers(
    engine: LlamaServerEngine, documents: Sequence[Document], temperature: float = 0.0, samples: int = 1, seed: int = 1
) -> list[list[Candidate]]:
    """`samples` answers to each document, in its order."""
    places = asyncio.Semaphore(max(1, SLOTS // samples))

    async def one(at: int, document: Document) -> list[Candidate]:
        builders = [AnswerBuilder() for _ in range(samples)]
        request = request_of(document, temperature, seed + at * samples)
        async with places, aclosing(engine.candidates(request, samples)) as events:
            async for event in events:
                builders[event.choice].add(event)
        return [builder.candidate("", "", engine.model_id, 0) for builder in builders]

    return await asyncio.gather(*(one(at, document) for at, document in enumerate(documents)))
