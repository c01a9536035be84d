"""`swarm bench votes --node`: nodes are measured one by one, and a liar that was measured has no seat any more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import main
from swarm.generation import GenerationRequest
from swarm.registry.weights_file import NO_WEIGHTS, WEIGHTS_FILE, Measured, Weights, read_weights
from tests.doubles.clients import connect
from tests.doubles.lying_member import Claims, liar, lie
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

QUESTIONS = 12
SUM = "Calculate 12 + 7 - 3. End with Answer: N"
CLAIMS = Claims(params=2_000_000, slots=4, tokens_per_s=None)


def truth(request: GenerationRequest) -> str:
    """The sum that the liar has one above."""
    return re.sub(r"-?\d+", lambda found: str(int(found.group()) - 1), lie(request))


def honest(name: str, options: NodeOptions) -> RunningNode:
    engine = ScriptedEngine(lambda request, _: [truth(request)], model_id="m", slots=4)
    return RunningNode(name, ready(engine), options=options)


@asynccontextmanager
async def swarm_of(weights: Weights = NO_WEIGHTS) -> AsyncIterator[RunningNode]:
    """`kitchen`, which knows two honest nodes and two that lie and give the honest ones' model for theirs."""
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        for name in ("attic", "cellar", "study", "hall", "kitchen"):
            options = NodeOptions(peers=[node.address for node in nodes])
            if name in ("attic", "cellar"):
                node: RunningNode = liar(name, options, model="m", claims=CLAIMS)
            elif name == "kitchen":
                own = replace(options, measurements=weights.models, nodes_measured=weights.nodes)
                node = honest(name, own)
            else:
                node = honest(name, options)
            nodes.append(await stack.enter_async_context(node))
        await nodes[-1].until(lambda: len(nodes[-1].membership.alive()) == 4)
        yield nodes[-1]


async def bench(kitchen: RunningNode, *words: object) -> int:
    asked = ("--url", kitchen.url, "--questions", "arithmetic", "--limit", QUESTIONS, "--samples", 3, "--no-plot")
    return await asyncio.to_thread(main, ["bench", "votes", *map(str, (*asked, *words))])


async def voters(kitchen: RunningNode) -> tuple[list[str], Any]:
    async with connect(kitchen.url) as client:
        reply = await client.chat(SUM, model="m", swarm={"votes": 5, "min_votes": 5})
    told = reply.json["swarm"]
    return sorted({candidate["voter"].split("@")[1] for candidate in told["candidates"]}), told


async def test_liars_that_were_measured_have_no_seat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.md"
    names = ("attic", "cellar", "id-study")
    nodes = [word for name in names for word in ("--node", name)]
    async with swarm_of() as kitchen:
        assert "attic" in (await voters(kitchen))[0], "before, they vote"
        assert await bench(kitchen, *nodes, "--save-weights", "--data-dir", tmp_path, "--report", report) == 0
    kept = read_weights(tmp_path / WEIGHTS_FILE)
    assert not kept.models, "what one node is worth says nothing of its model elsewhere"
    found = {node: of["name:m"]["number"] for node, of in kept.nodes.items()}
    assert found == {
        "id-attic": Measured(0, QUESTIONS),
        "id-cellar": Measured(0, QUESTIONS),
        "id-study": Measured(QUESTIONS, QUESTIONS),
    }
    assert "m@attic" in report.read_text()
    assert f"m@attic: number 0 of {QUESTIONS}" in capsys.readouterr().err
    async with swarm_of(kept) as kitchen:
        seated, told = await voters(kitchen)
        assert (seated, told["outcome"], told["agreement"]) == (["hall", "kitchen", "study"], "consensus", 1.0)
        assert told["asked"] == 5, "the others keep their seats, and have those of the liars"
        assert told["left_out"][0]["nodes"] == ["attic", "cellar"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("--node", "nobody"),
            1,
            "--node nobody: no node is called so; there are: attic, cellar, hall, kitchen, study",
        ),
        (("--node", "attic", "--models", "gpt-9"), 1, "gpt-9@attic"),
        (("--node", "attic", "--embedded"), 2, "--embedded starts its own: leave one of them out"),
    ],
)
async def test_what_cannot_be_measured_is_said(
    words: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with swarm_of() as kitchen:
        assert await bench(kitchen, *words) == code
    assert said in capsys.readouterr().err
