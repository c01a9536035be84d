"""What the agent adds to its model's own time, step by step, and what loading it takes.

    python benchmarks/agent.py [--quick] [--only PART ...] [--json FILE]

Part `steps`: the agent works through a chain of steps, each a call that five voters of a played model agree on, by a
tool that answers at once; the node is a process of its own. Then the very bodies that it sent are sent again in their
order by a plain HTTP client, which reads the streams to their ends: the model's own time, the node's included. The
difference of the two by the number of steps is what the agent adds: pydantic-ai, the schema checks, the events, the
messages that grow. Of the processor it is told as well, which says more where other programs run beside. Once with the
call alone, and once with words and thoughts in each answer: all at once, where a model takes its time for each.

Part `imports`: seconds that processes take, as ratios to a bare interpreter of the same run.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp
import httpx2
from measure import Figure, Target, interleaved, ratios
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))

from swarm.agent import Agent, ModelChoice, Tool
from swarm.agent.events import StepVoted
from swarm.agent.step_vote import StepVotes
from swarm.agent.swarm_model import SwarmModel, make_swarm_model, swarm_settings
from swarm.engines.engine import EngineSpec
from swarm.errors import SwarmError
from tests.doubles.played_engine import Call, Conversation, PlayedEngine, Say, calls
from tests.doubles.running_node import RunningNode, ready

VOTES = 5
STEPS = 20
TARGET = Target("at most", 30.0)  # ms a step
WORDS = "I look at the next of the files, since the last one said where to go on. " * 8  # of an answer: 128 tokens
TASKS = {"call alone": Say(), "128 words, 128 of thought": Say(WORDS, thinking=WORDS)}
SERVE = "--serve"  # run as the node's own process
PARTS = ("steps", "imports")
BUILT = "import swarm.agent.turns, swarm.agent.swarm_model as m; m.make_swarm_model('http://127.0.0.1:9', 'swarm')"


def look(number: int) -> str:
    """Look at a file, and say which is next."""
    return f"file {number}: go on with {number + 1}"


def played(said: Say, steps: int) -> Callable[[Conversation], Say]:
    """So many calls that follow from each other, and then words."""

    def part(so_far: Conversation) -> Say:
        if so_far.turn == steps:
            return Say("done")
        return calls(Call("look", {"number": so_far.turn}), text=said.text, thinking=said.thinking)

    return part


async def serve(steps: int) -> None:
    """A node with a played model, until standard input ends; says its address."""
    engine = PlayedEngine(EngineSpec("played", None, 2**20, VOTES, threads=1))
    engine.parts.update({task: played(said, steps) for task, said in TASKS.items()})
    async with RunningNode("kitchen", ready(engine)) as node:
        print(node.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def played_node(steps: int) -> Generator[str]:
    """The address of a node in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.agent", SERVE, str(steps)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.communicate()


@dataclass(frozen=True, slots=True)
class Round:
    """One chain: milliseconds a step through the agent, and as a plain client asks; and of the processor here."""

    agent_ms: float
    plain_ms: float
    agent_cpu_ms: float
    plain_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Bench:
    """An agent, whose requests are noted, and a plain client of the same node."""

    url: str
    model: SwarmModel
    http: aiohttp.ClientSession

    async def round(self, task: str, steps: int) -> Round:
        """Work through the chain, and ask the same again. Raises SwarmError where it went another way."""
        noted: list[bytes] = []
        votes: list[StepVoted] = []
        choice = ModelChoice(self.model, "swarm", settings=dict(swarm_settings(StepVotes(VOTES))))
        agent = Agent(choice, tools=[Tool(look, reads_only=True)], max_turns=steps + 1)

        async def note(request: httpx2.Request) -> None:
            noted.append(request.content)

        async with agent.session() as session:
            self.model.client._client.event_hooks["request"].append(note)
            session.subscribe(lambda event: votes.append(event) if isinstance(event, StepVoted) else None)
            began, cpu_began = time.perf_counter(), time.process_time()
            ended = await session.run(task)
            agent_s, agent_cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        if ended.reason != "done" or not len(votes) == len(noted) == steps + 1:
            raise SwarmError(f"{ended.reason} after {len(votes)} votes and {len(noted)} requests, not {steps + 1}")
        began, cpu_began = time.perf_counter(), time.process_time()
        for body in noted:
            await self._ask(body)
        plain_s, plain_cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        scale = 1000 / (steps + 1)
        return Round(agent_s * scale, plain_s * scale, agent_cpu_s * scale, plain_cpu_s * scale)

    async def _ask(self, body: bytes) -> None:
        sent = {"Content-Type": "application/json"}
        async with self.http.post(f"{self.url}/v1/chat/completions", data=body, headers=sent) as answer:
            if answer.status != 200 or b"[DONE]" not in await answer.read():
                raise SwarmError(f"what the agent had sent was answered {answer.status}")


@asynccontextmanager
async def benched(url: str) -> AsyncGenerator[Bench]:
    async with aiohttp.ClientSession() as http:
        yield Bench(url, make_swarm_model(url, "swarm"), http)


async def step_rounds(task: str, steps: int, rounds: int, warm_ups: int = 1) -> list[Round]:
    """So many chains, a session each: what has been said before is no part of the next."""
    with played_node(steps) as url:
        async with benched(url) as bench:
            return [await bench.round(task, steps) for _ in range(-warm_ups, rounds)][warm_ups:]


def step_figures(steps: int, rounds: int) -> list[Figure]:
    figures: list[Figure] = []
    for task in TASKS:
        progress(f"{rounds} chains of {steps} steps: {task}")
        found = asyncio.run(step_rounds(task, steps, rounds))
        figures += [
            Figure(f"{task}: a step through the agent", "ms", tuple(each.agent_ms for each in found)),
            Figure(f"{task}: the same requests, a plain client", "ms", tuple(each.plain_ms for each in found)),
            Figure(
                f"**{task}: added a step**", "ms", tuple(each.agent_ms - each.plain_ms for each in found), TARGET
            ),
            Figure(
                f"{task}: added to a step, of the processor",
                "ms",
                tuple(each.agent_cpu_ms - each.plain_cpu_ms for each in found),
            ),
        ]  # fmt: skip
    return figures


def command_s(*arguments: str) -> float:
    """Seconds that `python ARGUMENTS` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def import_figures(rounds: int) -> list[Figure]:
    programs = {
        "python -c pass": "pass",
        "import swarm": "import swarm",
        "import swarm.node.node": "import swarm.node.node",
        "from swarm.agent import Agent, Tool": "from swarm.agent import Agent, Tool",
        "the agent with its model, ready to ask": BUILT,
    }
    progress(f"imports, {rounds} rounds")
    sides: dict[str, Callable[[], float]] = {name: partial(command_s, "-c", text) for name, text in programs.items()}
    took = {name: tuple(samples) for name, samples in interleaved(sides, rounds).items()}
    bare = took["python -c pass"]
    figures = [Figure(f"`{name}`", "ms", tuple(s * 1000 for s in samples)) for name, samples in took.items()]
    figures += [
        Figure(f"`{name}` / `python -c pass`", "", ratios(samples, bare))
        for name, samples in took.items()
        if samples is not bare
    ]
    return figures


def main(words: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    made.add_argument("--rounds", type=int, metavar="N", help="default 15")
    made.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"of a chain (default {STEPS})")
    options = made.parse_args(words)
    rounds = options.rounds or (3 if options.quick else 15)
    environment = read_environment()
    figures: list[Figure] = []
    if "steps" in options.only:
        figures += step_figures(options.steps, rounds)
    if "imports" in options.only:
        figures += import_figures(rounds)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        asyncio.run(serve(int(sys.argv[2])))
    else:
        main()
