"""Chains of voted tool calls through the agent, beside the same asked of the node itself.

    python benchmarks/agent_chain.py [--chains 12] [--model demo] [--json FILE]

A step is one of the shipped questions on tools, drawn by chance; a chain of 10 is right where every step is. Each step
is asked twice of one real node, with the same sampling and the same seed: as `benchmarks/chain.py --live` asks, and
through `swarm.agent`, in a session of its own whose tools note what they are called with and do nothing. Steps that
stay undecided are wrong on both sides; an agent's call is judged as it would be executed, after its arguments are read
by their schema. Which of both is asked first turns with each step. Differences are paired, by step; intervals are 95 %
bootstrap intervals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from chain import LIVE_AHEAD, LIVE_STEPS, MOST, SEED, Call, ask

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.agent import Agent, ModelChoice
from swarm.agent.events import AgentEvent, RunEnded, StepVoted, ToolAsked
from swarm.commands.bench_endpoint import WHOLE_DISTRIBUTION, embedded_endpoints
from swarm.errors import SwarmError
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of
from swarm.evaluation.questions import Problem, shipped_questions
from swarm.generation import Candidate, ToolCall
from swarm.tools.tool import ToolDefinition, ToolResult
from tests.doubles.clients import Client, connect

CHAINS = 12  # as `chain.py --live` was published with
MOST_TOKENS = 256


class NotedTools:
    """The tools of a question as a host that only notes that it was called."""

    def __init__(self, problem: Problem) -> None:
        self._tools = tuple(
            ToolDefinition(each.function.name, each.function.description, each.function.parameters, reads_only=True)
            for each in problem.asked.tools
        )

    async def __aenter__(self) -> NotedTools:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def tools(self) -> tuple[ToolDefinition, ...]:
        return self._tools

    async def execute(self, tool: str, arguments: Mapping[str, Any], timeout_s: float | None = None) -> ToolResult:
        return ToolResult("done")


async def through_agent(url: str, problem: Problem, model: str, seed: int, most: int) -> Call:
    """One step by an agent that may take one. Raises SwarmError where it is refused."""
    from swarm.agent.swarm_model import make_swarm_model

    settings: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": WHOLE_DISTRIBUTION["top_p"],
        "max_tokens": MOST_TOKENS,
        "seed": seed,
        "extra_body": {
            "swarm": {"stop": {"ahead": LIVE_AHEAD, "max_votes": most}},
            **{name: value for name, value in WHOLE_DISTRIBUTION.items() if name != "top_p"},
        },
    }
    events: list[AgentEvent] = []
    choice = ModelChoice(make_swarm_model(url, model), model, settings=settings)
    agent = Agent(choice, hosts=[NotedTools(problem)], grants=["all"], max_turns=1)
    [prompt] = [message["content"] for message in problem.messages]
    ended = await agent.run(cast("str", prompt), events.append)
    return read(problem, ended, events)


def read(problem: Problem, ended: RunEnded, events: Sequence[AgentEvent]) -> Call:
    """What the agent did in its one step. Pure."""
    [vote] = [event for event in events if isinstance(event, StepVoted)]
    calls = tuple(
        ToolCall(
            id=event.call_id,
            name=event.tool,
            arguments=event.text if event.arguments is None else json.dumps(dict(event.arguments)),
        )
        for event in events
        if isinstance(event, ToolAsked)
    )
    undecided = vote.account["outcome"] == "undecided"
    answer = Candidate(
        voter="asked", text=ended.output, tool_calls=calls, finish_reason="tool_calls" if calls else "stop"
    )
    return Call(not undecided and problem.is_right(answer), undecided, cast("int", vote.account["asked"]))


@dataclass(frozen=True, slots=True)
class Side:
    """So many chains asked one way: how many are right, calls undecided, right ones and votes by call."""

    chains_right: int
    undecided: int
    right: Estimate
    asked: Estimate


@dataclass(frozen=True, slots=True)
class Beside:
    """Both sides, and by how much the agent's differ; `same` steps are as right, as decided and took as many votes."""

    chains: int
    node: Side
    agent: Side
    right_difference: Estimate
    asked_difference: Estimate
    same: int


def side_of(chains: Sequence[Sequence[Call]]) -> Side:
    flat = [call for chain in chains for call in chain]
    return Side(
        chains_right=sum(all(call.right for call in chain) for chain in chains),
        undecided=sum(call.undecided for call in flat),
        right=mean_of([float(call.right) for call in flat]),
        asked=mean_of([float(call.asked) for call in flat]),
    )


def beside(node: Sequence[Sequence[Call]], agent: Sequence[Sequence[Call]]) -> Beside:
    ones, others = ([call for chain in side for call in chain] for side in (agent, node))
    return Beside(
        chains=len(node),
        node=side_of(node),
        agent=side_of(agent),
        right_difference=mean_difference([float(call.right) for call in ones], [float(call.right) for call in others]),
        asked_difference=mean_difference([float(call.asked) for call in ones], [float(call.asked) for call in others]),
        same=sum(one == other for one, other in zip(ones, others, strict=True)),
    )


async def chains_both_ways(model: str, chains: int, most: int) -> Beside:
    """So many chains of each. Raises SwarmError."""
    dice = random.Random(SEED)
    problems = shipped_questions("tools").problems
    node: list[list[Call]] = []
    agent: list[list[Call]] = []
    async with embedded_endpoints([model]) as endpoints, connect(endpoints[model].base) as client:
        url = endpoints[model].base.removesuffix("/v1")
        for number in range(chains):
            asked: dict[str, list[Call]] = {"node": [], "agent": []}
            for at, problem in enumerate(dice.choices(problems, k=LIVE_STEPS)):
                seed = SEED + number * LIVE_STEPS + at
                for side in ("node", "agent") if at % 2 else ("agent", "node"):
                    call = await one_call(side, client, url, problem, model, seed, most)
                    asked[side].append(call)
            node.append(asked["node"])
            agent.append(asked["agent"])
            print(f"  chain {number + 1}: node {marks(asked['node'])}  agent {marks(asked['agent'])}", file=sys.stderr)
    return beside(node, agent)


async def one_call(side: str, client: Client, url: str, problem: Problem, model: str, seed: int, most: int) -> Call:
    if side == "node":
        return await ask(client, problem, model, seed, most)
    return await through_agent(url, problem, model, seed, most)


def marks(calls: Sequence[Call]) -> str:
    """A dot for each right call, u for one that stayed undecided, x for a wrong one."""
    return "".join("." if call.right else "u" if call.undecided else "x" for call in calls)


def lines(found: Beside) -> list[str]:
    def told(name: str, side: Side) -> str:
        right = f"{100 * side.right.value:.2f} % ({100 * side.right.low:.1f} to {100 * side.right.high:.1f})"
        asked = f"{side.asked.value:.2f} ({side.asked.low:.2f} to {side.asked.high:.2f})"
        return f"| {name} | {side.chains_right} of {found.chains} | {right} | {side.undecided} | {asked} |"

    right, asked = found.right_difference, found.asked_difference
    return [
        f"{found.chains} chains of {LIVE_STEPS}, ahead by {LIVE_AHEAD}, the same steps with the same seeds",
        "",
        "| asked | chains right | right a call | undecided | votes a call |",
        "|---|---|---|---|---|",
        told("of the node", found.node),
        told("through the agent", found.agent),
        "",
        f"The agent's less the node's: right {100 * right.value:+.2f} points ({100 * right.low:+.2f} to "
        f"{100 * right.high:+.2f}), votes a call {asked.value:+.2f} ({asked.low:+.2f} to {asked.high:+.2f}); "
        f"{found.same} of {found.chains * LIVE_STEPS} steps came out alike.",
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Print the figures; 1 where the agent's differ from the node's by more than chance has it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chains", type=int, default=CHAINS, metavar="N", help=f"of {LIVE_STEPS} (default {CHAINS})")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-votes", type=int, default=MOST, metavar="N", help=f"of a race (default {MOST})")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    try:
        found = asyncio.run(chains_both_ways(options.model, options.chains, options.max_votes))
    except SwarmError as error:
        parser.error(str(error))
    print(*lines(found), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    within = all(each.low <= 0 <= each.high for each in (found.right_difference, found.asked_difference))
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
