"""What a vote costs in time: against its engine's own `n=5`, against one answer, and with a frozen voter.

    python benchmarks/votes.py [--quick] [--only PART ...] [--json FILE]

Part `engine`: a vote of 5 on one node and `n=5` ask the same loaded engine for five whole answers of exactly the same
length to one prompt, which share a prefill; the vote also reads, compares and counts them. Random weights never agree,
so no vote ends early: each run checks that five were asked and five counted, and that both sides generated the same
number of tokens. Parts `one`, `logprobs` and `default`: `vote_against_one.py`. Part `frozen`: `frozen_voter.py`. What
votes buy is measured by `swarm bench votes`.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from frozen_voter import frozen_voter
from load import Json, RunError, exact_answer, special_tokens, whole
from measure import Figure, Target, differences, interleaved, ratios
from nodes import NodeUnderTest, node_under_test, random_model
from report import ROOT, parser, progress, publish, read_environment
from vote_against_one import default_against_single, vote_against_one, with_log_probabilities

VOTES = 5
CONTEXT_TOKENS = 1024
PROMPTS_SEED = 20_240_602
TARGET = Target("at most", 1.05)
PARTS = ("default", "engine", "one", "logprobs", "frozen")


@dataclass(frozen=True, slots=True)
class Voters:
    """Asks one node for a vote, or its engine for as many answers."""

    node: NodeUnderTest
    dice: random.Random
    bias: dict[str, float]
    tokens: int

    def native_s(self) -> float:
        """Seconds for the engine's own five answers."""
        took_s, body = whole(self.node.engine, self._body() | {"n": VOTES})
        # The engine's usage counts one choice; "length" says of each that it has all the tokens asked for.
        whole_ones = [choice for choice in body["choices"] if choice["finish_reason"] == "length"]
        if len(whole_ones) != VOTES or body["usage"]["completion_tokens"] != self.tokens:
            raise RunError(f"n={VOTES} gave {len(whole_ones)} answers of full length, usage {body['usage']}")
        return took_s

    def vote_s(self) -> float:
        """Seconds for a vote of five through the gateway."""
        took_s, body = whole(self.node.gateway, self._body() | {"swarm": {"votes": VOTES}})
        swarm = body["swarm"]
        if (swarm["asked"], swarm["votes"], swarm["total_completion_tokens"]) != (VOTES, VOTES, VOTES * self.tokens):
            raise RunError(f"not {VOTES} votes of {self.tokens} tokens: {swarm}")
        return took_s

    def _body(self) -> Json:
        return exact_answer(self.node.model, self.dice, self.bias, self.tokens)


def against_engine(model: Path, options: argparse.Namespace) -> list[Figure]:
    with node_under_test(model, options.workers, CONTEXT_TOKENS, options.threads) as node:
        voters = Voters(node, random.Random(PROMPTS_SEED), special_tokens(node.engine), options.tokens)
        progress(f"a vote of {VOTES} against n={VOTES}, {options.rounds} rounds of {options.tokens} tokens each")
        got = interleaved({"native": voters.native_s, "vote": voters.vote_s}, options.rounds)
    native, vote = tuple(got["native"]), tuple(got["vote"])
    added_ms = tuple(seconds * 1000 for seconds in differences(vote, native))
    return [
        Figure(f"n={VOTES}, native", "s", native),
        Figure(f"vote of {VOTES}, gateway", "s", vote),
        Figure(f"**vote of {VOTES} / n={VOTES}**", "", ratios(vote, native), TARGET),
        Figure("added by the vote", "ms", added_ms),
    ]


def against_one(model: Path, options: argparse.Namespace) -> list[Figure]:
    embedded = vote_against_one(
        "embedded model", ROOT / "models" / "demo" / "demo.gguf", 2 * options.rounds, options.threads
    )
    return embedded + vote_against_one("random 0.5B model", model, options.rounds, options.threads)


def main() -> None:
    made = parser(__doc__)
    made.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="default, engine, one, logprobs, frozen"
    )
    made.add_argument("--rounds", type=int, metavar="N", help="default 15; twice as many with the embedded model")
    made.add_argument("--frozen-rounds", type=int, metavar="N", help="votes on each side (default 40)")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer against n=5 (default 96)")
    made.add_argument("--layers", type=int, metavar="N", help="of the model (default 24: the whole 0.5B shape)")
    made.add_argument("--workers", type=int, default=8, metavar="N", help="slots of the engine (default 8)")
    made.add_argument("--threads", type=int, metavar="N", help="the engine's (default: as the node chooses)")
    options = made.parse_args()
    defaults = (("rounds", 3, 15), ("frozen_rounds", 5, 40), ("tokens", 24, 96), ("layers", 2, 24))
    for name, small, full in defaults:
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    if options.workers < VOTES:
        made.error(f"--workers {options.workers}: a vote of {VOTES} at once needs as many")
    environment = read_environment()
    figures: list[Figure] = []
    if "default" in options.only:
        embedded = ROOT / "models" / "demo" / "demo.gguf"
        figures += default_against_single("embedded model", embedded, 2 * options.rounds, options.threads)
        figures += default_against_single(
            "random 0.5B model", random_model(options.layers), options.rounds, options.threads
        )
    if "engine" in options.only:
        figures += against_engine(random_model(options.layers), options)
    if "one" in options.only:
        figures += against_one(random_model(options.layers), options)
    if "logprobs" in options.only:
        embedded = ROOT / "models" / "demo" / "demo.gguf"
        for name, model in (("embedded model", embedded), ("random 0.5B model", random_model(options.layers))):
            figures += with_log_probabilities(name, model, options.rounds, options.threads, options.tokens)
    if "frozen" in options.only:
        figures += frozen_voter(options.frozen_rounds)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
