"""What a vote costs beside its answers: a vote of 5 on one node against its engine's own `n=5`.

    python benchmarks/votes.py [--quick] [--json FILE]

Both ask the same loaded engine for five whole answers of exactly the same length to one prompt, which share a prefill;
the vote also reads, compares and counts them. Random weights never agree, so no vote ends early: each run checks that
five were asked and five counted, and that both sides generated the same number of tokens.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from load import Json, RunError, fresh_prompt, special_tokens, whole
from measure import Figure, Target, differences, interleaved, ratios
from nodes import NodeUnderTest, node_under_test, random_model
from report import parser, progress, publish, read_environment

VOTES = 5
CONTEXT_TOKENS = 1024
TEMPERATURE = 0.8
PROMPTS_SEED = 20_240_602
TARGET = Target("at most", 1.05)


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
        return {
            "model": self.node.model,
            "messages": fresh_prompt(self.dice),
            "max_tokens": self.tokens,
            "temperature": TEMPERATURE,
            "seed": self.dice.getrandbits(30),
            "logit_bias": self.bias,
        }


def measure(node: NodeUnderTest, options: argparse.Namespace) -> list[Figure]:
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


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 15")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer (default 96)")
    made.add_argument("--layers", type=int, metavar="N", help="of the model (default 24: the whole 0.5B shape)")
    made.add_argument("--workers", type=int, default=8, metavar="N", help="slots of the engine (default 8)")
    made.add_argument("--threads", type=int, metavar="N", help="the engine's (default: as the node chooses)")
    options = made.parse_args()
    for name, small, full in (("rounds", 3, 15), ("tokens", 24, 96), ("layers", 2, 24)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    if options.workers < VOTES:
        made.error(f"--workers {options.workers}: a vote of {VOTES} at once needs as many")
    environment = read_environment()
    model = random_model(options.layers)
    with node_under_test(model, options.workers, CONTEXT_TOKENS, options.threads) as node:
        figures = measure(node, options)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
