"""One liar of four members: how many answers of the three honest ones' swarm it decides.

Four real paired nodes in one process, over mutual TLS; three run the embedded model, and the fourth is a member with a
certificate that lies about its size, its slots and its speed, and adds one to every sum. The questions are shipped sums
that the embedded model answers rightly alone (greedy), and four honest nodes rightly and with one voice; so what is
wrong then is the liar's doing. They are asked of one honest node, as a vote of five.

    python benchmarks/liars.py                # about ten minutes on two cores
    python benchmarks/liars.py --questions 20
    python benchmarks/liars.py --measured     # each liar was measured before, by `swarm.node`, on the sums after those
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.engines.engine import EngineSpec
from swarm.engines.registry import load_engine
from swarm.evaluation.questions import Problem, shipped_questions
from swarm.generation import Candidate
from swarm.registry.embedded import embedded_model_path
from swarm.registry.known_sizes import EMBEDDED_PARAMS
from swarm.registry.weights_file import Measured, Measurements
from tests.doubles.clients import Client, connect
from tests.doubles.lying_member import LARGE, Claims, liar
from tests.doubles.paired import paired_trusts
from tests.doubles.running_node import NodeOptions, RunningNode, ready

NAMES = ("attic", "cellar", "study", "kitchen")  # the last is asked; the first is the liar, where there is one
SLOTS = 2
VOTES = 5
SEED = 20_261_129
TEMPERATURE = 0.05  # at 0 all voters but the first sample at 0.7, where this small model errs often by itself
MEASURED_ON = 20  # sums, the last of the set
MAX_TOKENS = 160  # the longest right answer has about 130
CONTEXT_TOKENS = 512
LIARS = {
    "that calls its model demo, and a quadrillion parameters large": ("demo", Claims()),
    "that calls its model by the largest name of the catalogue": (LARGE, Claims(params=70_600_000_000)),
    "that claims nothing": ("demo", Claims(EMBEDDED_PARAMS, SLOTS, None)),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one question: whether it was right, whose answer won, how the vote is called, and who agreed."""

    right: bool
    winner: str
    outcome: str
    agreement: float | None


@asynccontextmanager
async def swarm_of(
    folder: Path, liar_as: tuple[str, Claims] | None, measured: Measurements = MappingProxyType({})
) -> AsyncIterator[tuple[Client, RunningNode]]:
    """A client of the kitchen in a paired swarm of four, and the kitchen; it knows what of the liar was `measured`."""
    async with AsyncExitStack() as stack:
        nodes: list[RunningNode] = []
        spec = EngineSpec("demo", embedded_model_path(), CONTEXT_TOKENS, SLOTS, threads=1)
        trusts = paired_trusts(folder, *NAMES)
        for name, trust in zip(NAMES, trusts, strict=True):
            options = NodeOptions(
                peers=[node.address for node in nodes],
                trust=trust,
                params=EMBEDDED_PARAMS,
                nodes_measured={trusts[0].node_id: measured},
            )
            if name == NAMES[0] and liar_as is not None:
                node: RunningNode = liar(name, options, model=liar_as[0], claims=liar_as[1])
            else:
                node = RunningNode(name, ready(await load_engine("auto", spec)), options=options)
            nodes.append(await stack.enter_async_context(node))
        await nodes[-1].until(lambda: len(nodes[-1].membership.alive()) == len(NAMES) - 1)
        yield await stack.enter_async_context(connect(nodes[-1].url)), nodes[-1]


async def ask(client: Client, problem: Problem, number: int, temperature: float, **swarm: Any) -> Asked:
    """One question, the same each time it is asked so."""
    fields = {
        "temperature": temperature,
        "seed": SEED + number,
        "max_tokens": MAX_TOKENS,
        "model": "swarm",
        "swarm": swarm,
    }
    reply = await client.post("/v1/chat/completions", {"messages": problem.messages, **fields})
    if reply.status != 200:
        raise RuntimeError(reply.text)
    text, account = reply.json["choices"][0]["message"]["content"] or "", reply.json["swarm"]
    right = problem.is_right(Candidate(voter="asked", text=text, finish_reason="stop"))
    winner = str(account["winner"])
    return Asked(right, winner.partition("@")[2] or winner, account["outcome"], account["agreement"])


async def agreed_on(folder: Path, wanted: int, temperature: float) -> list[tuple[int, Problem]]:
    """The first `wanted` shipped sums that the embedded model answers rightly alone and four honest nodes as one."""
    found: list[tuple[int, Problem]] = []
    tried = alone = right = 0
    async with swarm_of(folder, None) as (client, _):
        for number, problem in enumerate(shipped_questions("arithmetic").problems):
            if len(found) >= wanted:
                break
            tried += 1
            if not (await ask(client, problem, number, 0.0, strategy="single")).right:
                continue
            alone += 1
            vote = await ask(client, problem, number, temperature, votes=VOTES, min_votes=VOTES)
            right += vote.right
            if vote.right and vote.agreement == 1.0:
                found.append((number, problem))
    print(f"of the first {tried} sums the embedded model alone has {alone} right, four honest nodes {right} of these,")
    print(f"and {len(found)} of these with one voice; temperature {temperature:g}")
    return found


async def measure(folder: Path, liar_as: tuple[str, Claims]) -> Measurements:
    """What the liar is right at, as `swarm bench votes --node` would find it, on sums that are not asked later."""
    problems = shipped_questions("arithmetic").problems[-MEASURED_ON:]
    async with swarm_of(folder, liar_as) as (client, _):
        right, content = 0, ""
        for problem in problems:
            body = {"model": liar_as[0], "messages": problem.messages, "max_tokens": MAX_TOKENS}
            asked = {"swarm": {"strategy": "single", "node": NAMES[0]}}
            reply = await client.post("/v1/chat/completions", {**body, **asked})
            text = reply.json["choices"][0]["message"]["content"] or ""
            right += problem.is_right(Candidate(voter="asked", text=text, finish_reason="stop"))
            content = reply.json["swarm"]["routed"]["content"]
    return {content: {"number": Measured(right, len(problems))}}


async def votes(
    folder: Path,
    problems: Sequence[tuple[int, Problem]],
    temperature: float,
    liar_as: tuple[str, Claims],
    measured: Measurements,
) -> tuple[list[Asked], list[str]]:
    """Each question as a vote, and what the asked node says of its peers afterwards."""
    async with swarm_of(folder, liar_as, measured) as (client, _):
        wanted = {"votes": VOTES, "min_votes": VOTES}
        answers = [await ask(client, problem, number, temperature, **wanted) for number, problem in problems]
        health = (await client.get("/v1/federation/health")).json
    return answers, [f"{peer['name']}: {problem}" for peer in health["peers"] for problem in peer["problems"]]


async def main(questions: int, temperature: float, as_json: bool, was_measured: bool) -> int:
    """Print the figures; 1 where an answer was the liar's."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = await agreed_on(folder, questions, temperature)
        for words, claims in LIARS.items():
            measured = await measure(folder, claims) if was_measured else {}
            answers, named = await votes(folder, problems, temperature, claims, measured)
            figure = {
                "liar": words,
                "measured": [f"{of['number'].correct} of {of['number'].asked}" for of in measured.values()],
                "asked": len(answers),
                "won_by_the_liar": sum(answer.winner == NAMES[0] for answer in answers),
                "wrong": sum(not answer.right for answer in answers),
                "outcomes": dict(Counter(answer.outcome for answer in answers)),
                "named": named,
            }
            figures.append(figure)
            print(f"one liar of four, {words}:", *(f"  {key}: {value}" for key, value in figure.items()), sep="\n")
    if as_json:
        print(json.dumps(figures, indent=2))
    return int(any(figure["won_by_the_liar"] for figure in figures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--measured", action="store_true", help="the asked node has measured the liar")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(options.questions, options.temperature, options.json, options.measured)))
