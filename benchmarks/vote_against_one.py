"""A vote of 5 against one answer, on one node: what the other four voters cost in time; and what is done unasked.

A prompt of 300 tokens that no cache has seen, 32 tokens out, both sides through the gateway and whole. The answers have
a fixed length and never agree enough to end the vote early, so each run checks that all five were asked and counted.

Unasked (no `swarm` in the request) prose is answered once: as many tokens and as much time as `strategy: single`. What
asks for a number is voted on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from load import Json, RunError, asking_for_a_number, exact_answer, special_tokens, whole
from measure import Figure, Target, interleaved, ratios
from nodes import NodeUnderTest, node_under_test
from report import progress

VOTES = 5
TOKENS = 32
PROMPT_TOKENS = 300
PROMPT_MARGIN = 20  # chat templates differ; each digit is a token
DIGITS = 282
CONTEXT_TOKENS = 1024
WORKERS = 8
SEED = 20_240_603
TARGET = Target("at most", 2.0)
SAME_TOKENS, SAME_TIME = Target("at most", 1.0), Target("at most", 1.05)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer took: seconds, tokens of all voters, and how many these were."""

    took_s: float
    tokens: int
    asked: int


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one node for one answer, or for a vote."""

    node: NodeUnderTest
    dice: random.Random
    bias: dict[str, float]

    def one_s(self) -> float:
        took_s, body = whole(self.node.gateway, self._body() | {"swarm": {"strategy": "single"}})
        self._check_usage(body)
        return took_s

    def vote_s(self) -> float:
        took_s, body = whole(self.node.gateway, self._body() | {"swarm": {"votes": VOTES}})
        self._check_usage(body)
        swarm = body["swarm"]
        if (swarm["asked"], swarm["total_completion_tokens"]) != (VOTES, VOTES * TOKENS):
            raise RunError(f"not {VOTES} votes of {TOKENS} tokens: {swarm}")
        return took_s

    def cost(self, countable: bool, swarm: Json) -> Cost:
        """Of an answer to prose, or to a request for a number, with this `swarm` object."""
        body = self._body() if not countable else asking_for_a_number(self._body())
        took_s, reply = whole(self.node.gateway, body | swarm)
        told = reply["swarm"]
        return Cost(took_s, told["total_completion_tokens"] + (told["wasted_tokens"] or 0), told["asked"])

    def _check_usage(self, body: Json) -> None:
        tokens = body["usage"]["prompt_tokens"]
        if not PROMPT_TOKENS - PROMPT_MARGIN <= tokens <= PROMPT_TOKENS + PROMPT_MARGIN:
            raise RunError(f"the prompt has {tokens} tokens, not about {PROMPT_TOKENS}")

    def _body(self) -> Json:
        return exact_answer(self.node.model, self.dice, self.bias, TOKENS, DIGITS)


def vote_against_one(name: str, model: Path, rounds: int, threads: int | None) -> list[Figure]:
    """The figures of the model in `model`, which the report calls `name`."""
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, threads) as node:
        asker = Asker(node, random.Random(SEED), special_tokens(node.engine))
        progress(f"{name}: a vote of {VOTES} against one answer, {rounds} rounds")
        got = interleaved({"one": asker.one_s, "vote": asker.vote_s}, rounds)
    one, vote = tuple(got["one"]), tuple(got["vote"])
    return [
        Figure(f"{name}, one answer", "ms", tuple(1000 * s for s in one)),
        Figure(f"{name}, vote of {VOTES}", "ms", tuple(1000 * s for s in vote)),
        Figure(f"**{name}, vote of {VOTES} / one answer**", "", ratios(vote, one), TARGET),
    ]


def default_against_single(name: str, model: Path, rounds: int, threads: int | None) -> list[Figure]:
    """What a request without a `swarm` object costs, of prose and of what can be counted, against one answer."""
    figures: list[Figure] = []
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, threads) as node:
        asker = Asker(node, random.Random(SEED), special_tokens(node.engine))
        for countable, what in ((False, "prose"), (True, "a number asked for")):
            progress(f"{name}: {what}, unasked against single, {rounds} rounds")
            sides = {"single": {"swarm": {"strategy": "single"}}, "default": {}}
            got = interleaved({side: partial(asker.cost, countable, swarm) for side, swarm in sides.items()}, rounds)
            tokens = {side: tuple(float(cost.tokens) for cost in costs) for side, costs in got.items()}
            took = {side: tuple(1000 * cost.took_s for cost in costs) for side, costs in got.items()}
            figures += [
                Figure(f"{name}, {what}, single", "ms", took["single"]),
                Figure(f"{name}, {what}, default", "ms", took["default"]),
                Figure(f"{name}, {what}, default: voters", "", tuple(float(cost.asked) for cost in got["default"])),
                Figure(
                    f"**{name}, {what}, tokens, default / single**",
                    "",
                    ratios(tokens["default"], tokens["single"]),
                    None if countable else SAME_TOKENS,
                ),
                Figure(
                    f"**{name}, {what}, time, default / single**",
                    "",
                    ratios(took["default"], took["single"]),
                    None if countable else SAME_TIME,
                ),
            ]
    return figures
