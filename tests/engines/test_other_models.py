"""Models that rank or fill in the middle, written for these tests: tiny and random, behind the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.errors import BadRequest, ContextExceeded
from swarm.generation import Delta, ExtraText, Finish, GenerationRequest
from tests.doubles.tiny_models import write_infill_model, write_reranker


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_reranker(folder / "rank.gguf")
    write_infill_model(folder / "infill.gguf")
    return folder


@pytest.fixture
async def reranker(written: Path) -> AsyncIterator[LlamaServerEngine]:
    engine = await load_xllamacpp(EngineSpec("rank", written / "rank.gguf", 1024, 2, threads=1))
    yield engine
    await engine.aclose()


@pytest.fixture
async def infiller(written: Path) -> AsyncIterator[LlamaServerEngine]:
    engine = await load_xllamacpp(EngineSpec("infill", written / "infill.gguf", 1024, 2, threads=1))
    yield engine
    await engine.aclose()


async def test_documents_are_scored_in_their_order_whatever_their_number(reranker: LlamaServerEngine) -> None:
    assert reranker.capabilities.rerank
    documents = [f"text number {number}" for number in range(20)]
    ranking = await reranker.rerank("what is a cat", documents)
    assert len(ranking.scores) == 20
    assert ranking.prompt_tokens > 20
    alone = await reranker.rerank("what is a cat", documents[7:8])
    assert alone.scores[0] == pytest.approx(ranking.scores[7], abs=1e-4)


async def test_a_reranker_neither_writes_nor_embeds(reranker: LlamaServerEngine) -> None:
    capabilities = reranker.capabilities
    assert not capabilities.generates
    assert not capabilities.embeddings
    with pytest.raises(BadRequest, match="writes no text"):
        await anext(reranker.candidates(GenerationRequest(model="rank", prompt="a", max_tokens=2), 1))
    with pytest.raises(BadRequest, match="use /v1/rerank"):
        await reranker.embed(["a"])


async def test_a_document_too_long_to_rank_is_the_callers_mistake(reranker: LlamaServerEngine) -> None:
    with pytest.raises(ContextExceeded):
        await reranker.rerank("a", ["word " * 3000])


async def test_the_middle_is_written_between_its_two_sides(infiller: LlamaServerEngine) -> None:
    assert infiller.capabilities.infill
    request = GenerationRequest(
        model="infill",
        prompt="def f(x):\n    return ",
        suffix="\n",
        input_extra=(ExtraText(filename="other.py", text="import math"),),
        max_tokens=4,
        temperature=0.0,
        logit_bias={"1": -100.0, "0": -100.0},
    )
    async with aclosing(infiller.candidates(request, 2)) as events:
        found = [event async for event in events]
    finishes = [event for event in found if isinstance(event, Finish)]
    assert sorted(finish.choice for finish in finishes) == [0, 1]
    assert all(finish.usage.completion_tokens <= 4 and finish.usage.prompt_tokens > 5 for finish in finishes)
    assert any(isinstance(event, Delta) and event.text for event in found)
    plain = request.model_copy(update={"suffix": None})
    assert await infiller.count_tokens(plain) < finishes[0].usage.prompt_tokens
