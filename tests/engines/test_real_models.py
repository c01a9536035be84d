"""Real models behind the real engine and a node: one that writes, and one that embeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load
from swarm.node.settings import Settings
from tests.commands.test_model_choice import Listener, machine
from tests.doubles.choosing import choose_model
from tests.doubles.clients import connect
from tests.doubles.running_node import NodeOptions, RunningNode, ready

SMOLLM2 = "smollm2:135m:q4_1"


async def test_the_small_model_that_packages_ship_answers_by_its_name(smollm2: Path) -> None:
    """What `--model` brings where there is a package index and no hub; the download is tried by the fixture."""
    chosen = choose_model(Settings(data_dir=smollm2.parents[2], model=(SMOLLM2,)), machine(), Listener())
    assert (chosen.model_id, chosen.path, chosen.params) == (SMOLLM2, smollm2, 134_515_008)
    engine = await load(EngineSpec(SMOLLM2, smollm2, 512, 1, threads=1))
    async with RunningNode("node", ready(engine), options=NodeOptions(params=chosen.params)) as node:
        question = {"role": "user", "content": "What is the capital of France? Answer with one word."}
        body = {"model": SMOLLM2, "messages": [question], "max_tokens": 12, "temperature": 0}
        async with connect(node.url) as client:
            answer = (await client.post("/v1/chat/completions", body)).json
    assert answer["model"] == SMOLLM2
    assert "Paris" in answer["choices"][0]["message"]["content"]


async def test_a_real_embedding_model_tells_near_from_far(minilm: Path) -> None:
    engine = await load(EngineSpec("minilm", minilm, 256, 1, threads=1))
    assert engine.capabilities.embeddings
    assert not engine.capabilities.generates
    words = ["a cat", "a kitten", "the stock market"]
    options = NodeOptions(params=22_000_000)
    async with RunningNode("node", ready(engine), options=options) as node, connect(node.url) as client:
        answer = (await client.post("/v1/embeddings", {"model": "minilm", "input": words})).json
    cat, kitten, stock = (row["embedding"] for row in answer["data"])
    assert len(cat) == 384
    assert likeness(cat, kitten) > 0.6 > 0.3 > likeness(cat, stock)


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))
