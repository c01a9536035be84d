"""Waves on the real engine: the prompt of a vote is read once, and a vote that is settled stops generating."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.llama_cpp import prompt_copies
from swarm.engines.llama_cpp.server_engine import LlamaServerEngine
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from swarm.generation import GenerationRequest
from tests.doubles.clients import Client, connect
from tests.doubles.inside_llama import busy_slots, prompt_tokens_evaluated
from tests.doubles.running_node import NodeOptions, RunningNode

PROMPT = "Tell me a story about the sea, a ship and a storm. " * 12  # far more tokens than the answers have
VOTES = {"votes": 5, "strategy": "majority"}


class Kitchen:
    """A node with the embedded model and five workers."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self.node = RunningNode("kitchen", self._load, options=NodeOptions())
        self.engine: LlamaServerEngine

    async def _load(self) -> Engine:
        self.engine = await load_xllamacpp(EngineSpec("demo", self._model, 1024, 5, threads=1))
        return self.engine


async def prompt_tokens(kitchen: Kitchen) -> int:
    message = {"role": "user", "content": PROMPT}
    return await kitchen.engine.count_tokens(GenerationRequest.model_validate({"model": "demo", "messages": [message]}))


async def ask(client: Client, **fields: object) -> dict[str, object]:
    reply = await client.chat(messages=[{"role": "user", "content": PROMPT}], max_tokens=8, **fields)
    assert reply.status == 200
    return dict(reply.json["swarm"])


async def test_a_second_wave_does_not_read_the_prompt_again(demo_model: Path) -> None:
    """Eight tokens at temperature 2 never agree word for word: three are asked, and then the other two."""
    kitchen = Kitchen(demo_model)
    async with kitchen.node, connect(kitchen.node.url) as client:
        account = await ask(client, temperature=2, seed=1, swarm=VOTES)
        assert (account["asked"], account["votes"]) == (5, 5)
        evaluated = await prompt_tokens_evaluated(kitchen.engine.http)
        assert evaluated < 1.2 * await prompt_tokens(kitchen)
        assert await busy_slots(kitchen.engine.http) == 0


@pytest.mark.parametrize("temperature", [0, 0.7])
async def test_the_same_seed_gives_the_same_vote(demo_model: Path, temperature: float) -> None:
    kitchen = Kitchen(demo_model)
    async with kitchen.node, connect(kitchen.node.url) as client:
        question = [{"role": "user", "content": "What is 3 + 4 + 5?"}]
        first, second = [
            (await client.chat(messages=question, temperature=temperature, seed=5, swarm={"votes": 5})).json
            for _ in range(2)
        ]
        said = [each["choices"][0]["message"]["content"].rsplit("Answer:", 1)[-1] for each in (first, second)]
        assert said[0] == said[1]


async def test_a_greedy_first_voter_costs_no_reading(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to llama.cpp has one temperature, and shares its prompt with no other: the prompt is copied."""
    monkeypatch.setattr(prompt_copies, "copies_pay", lambda *_: True)  # else a matter of what else runs here
    kitchen = Kitchen(demo_model)
    async with kitchen.node, connect(kitchen.node.url) as client:
        await ask(client, temperature=0, seed=1, swarm=VOTES)
        assert await prompt_tokens_evaluated(kitchen.engine.http) < 1.2 * await prompt_tokens(kitchen)
        assert await busy_slots(kitchen.engine.http) == 0


async def test_no_client_says_how_the_first_answer_is_drawn(demo_model: Path) -> None:
    kitchen = Kitchen(demo_model)
    async with kitchen.node, connect(kitchen.node.url) as client:
        fields = {"temperature": 0, "first_temperature": 2, "n": 2, "seed": 3, "swarm": {"strategy": "single"}}
        reply = await client.chat(messages=[{"role": "user", "content": PROMPT}], max_tokens=8, **fields)
        said = [choice["message"]["content"] for choice in reply.json["choices"]]
        assert said[0] == said[1]
