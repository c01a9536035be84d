"""A vote of 5 against one answer, on one node: what the other four voters cost in time; and what is done unasked.

A prompt of 300 tokens that no cache has seen, 32 tokens out, both sides through the gateway and whole. The answers have
a fixed length and no vote ends early, so each run checks that all five were asked and counted. A vote whose first voter
is greedy has two samplings; one by confidence has log-probabilities besides, whose cost is measured with a prompt that
counts for less, too, and in one answer.

Unasked (no `swarm` in the request) prose is answered once: as many tokens and as much time as `strategy: single`. What
asks for a number is voted on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from load import PROMPT_DIGITS, Json, RunError, asking_for_a_number, exact_answer, special_tokens, whole
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
TARGET = Target("at most", 1.6)
ALL = {"votes": VOTES, "min_votes": VOTES}  # at once, and to the end: what never agrees would be asked in two waves
SIDES: dict[str, Json] = {  # what is added to a request; at temperature 0 the first voter alone is greedy
    "one answer": {"swarm": {"strategy": "single"}},
    f"vote of {VOTES}": {"swarm": ALL},
    f"vote of {VOTES}, greedy first": {"temperature": 0, "swarm": {**ALL, "strategy": "majority"}},
    f"vote of {VOTES}, greedy first, by confidence": {"temperature": 0, "swarm": {**ALL, "strategy": "confident"}},
}
WITHOUT_AND_WITH: dict[str, tuple[Json, Json]] = {  # log-probabilities
    "one answer": ({"swarm": {"strategy": "single"}}, {"swarm": {"strategy": "single"}, "logprobs": True}),
    f"{VOTES} voters": (
        {"swarm": {**ALL, "strategy": "majority"}},
        {"swarm": {**ALL, "strategy": "confident"}},
    ),
}
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
    tokens: int = TOKENS
    digits: int = DIGITS

    def asked_s(self, added: Json) -> float:
        """Seconds for a request with what is `added`, whose answer or answers are all of full length."""
        took_s, body = whole(self.node.gateway, self._body() | added)
        tokens = body["usage"]["prompt_tokens"]
        if self.digits == DIGITS and not PROMPT_TOKENS - PROMPT_MARGIN <= tokens <= PROMPT_TOKENS + PROMPT_MARGIN:
            raise RunError(f"the prompt has {tokens} tokens, not about {PROMPT_TOKENS}")
        swarm, voters = body["swarm"], added["swarm"].get("votes", 1)
        if (swarm["asked"], swarm["total_completion_tokens"]) != (voters, voters * self.tokens):
            raise RunError(f"not {voters} answers of {self.tokens} tokens: {swarm}")
        return took_s

    def cost(self, countable: bool, swarm: Json) -> Cost:
        """Of an answer to prose, or to a request for a number, with this `swarm` object."""
        body = self._body() if not countable else asking_for_a_number(self._body())
        took_s, reply = whole(self.node.gateway, body | swarm)
        told = reply["swarm"]
        return Cost(took_s, told["total_completion_tokens"] + (told["wasted_tokens"] or 0), told["asked"])

    def _body(self) -> Json:
        return exact_answer(self.node.model, self.dice, self.bias, self.tokens, self.digits)


def vote_against_one(name: str, model: Path, rounds: int, threads: int | None) -> list[Figure]:
    """The figures of the model in `model`, which the report calls `name`."""
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, threads) as node:
        asker = Asker(node, random.Random(SEED), special_tokens(node.engine))
        progress(f"{name}: votes of {VOTES} against one answer, {rounds} rounds")
        sides = {side: partial(asker.asked_s, added) for side, added in SIDES.items()}
        got = {side: tuple(took) for side, took in interleaved(sides, rounds).items()}
    one, *votes = SIDES
    return [
        *(Figure(f"{name}, {side}", "ms", tuple(1000 * s for s in took)) for side, took in got.items()),
        *(Figure(f"**{name}, {vote} / one answer**", "", ratios(got[vote], got[one]), TARGET) for vote in votes),
    ]


def with_log_probabilities(name: str, model: Path, rounds: int, threads: int | None, tokens: int) -> list[Figure]:
    """Tokens a second of one answer, and of all voters together, without log-probabilities and with them.

    The prompt is short, and its reading is among the time.
    """
    figures: list[Figure] = []
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, threads) as node:
        asker = Asker(node, random.Random(SEED), special_tokens(node.engine), tokens, PROMPT_DIGITS)
        for who, (without, added) in WITHOUT_AND_WITH.items():
            progress(f"{name}: {who} with log-probabilities and without, {rounds} rounds of {tokens} tokens")
            sides = {"without": partial(asker.asked_s, without), "with": partial(asker.asked_s, added)}
            got = interleaved(sides, rounds)
            voters = without["swarm"].get("votes", 1)
            speeds = {side: tuple(voters * tokens / seconds for seconds in took) for side, took in got.items()}
            figures += [
                Figure(f"{name}, {who}, without log-probabilities", "tokens/s", speeds["without"]),
                Figure(f"{name}, {who}, with", "tokens/s", speeds["with"]),
                Figure(f"**{name}, {who}, speed with / without**", "", ratios(speeds["with"], speeds["without"])),
            ]
    return figures


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
