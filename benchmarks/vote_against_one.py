"""A vote of 5 against one answer, on one node: what the other four voters cost in time.

A prompt of 300 tokens that no cache has seen, 32 tokens out, both sides through the gateway and whole. The answers have
a fixed length and never agree enough to end the vote early, so each run checks that all five were asked and counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from load import Json, RunError, exact_answer, special_tokens, whole
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
