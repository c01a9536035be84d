"""A question behind somebody's votes: how long until its first token, against the same pair with one vote.

    python benchmarks/giving_way.py [--model FILE.gguf] [--quick] [--json FILE]

Chat applications send a request for a title, or the like, beside every question. Here a request is sent that a node
votes on of itself (a number, JSON), and a moment later a question, streamed. Sides, in turn: the first request as it
is, with `"votes": 1`, and with votes that were asked for, which are honoured. Before each pair the node rests, as
before a person's question: after a silence a vote takes all idle workers. There are as many of them as its first wave
asks, so that the question finds none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from load import CHAT, Json, body_of, exact_answer, post, special_tokens
from measure import Figure, Target, interleaved, ratios
from nodes import NodeUnderTest, node_under_test, random_model
from report import parser, progress, publish, read_environment

CONTEXT_TOKENS = 2048
PROMPTS_SEED = 20_261_129
AFTER_S = 0.3  # until the question: about what a browser leaves between two requests
SETTLE_S = 2.5  # before each pair: longer than a node remembers how many asked at once (DEMAND_WINDOW_S)
TARGET = Target("at most", 1.2)
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 24, "maxItems": 24}
KINDS: dict[str, Json] = {
    "a number": {},
    "JSON": {"response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}}},
}
SIDES: dict[str, Json] = {"as it is": {}, "votes: 1": {"votes": 1}, "votes asked for": {"votes": 4}}


@dataclass(frozen=True, slots=True)
class Pair:
    """`first_s` until the question's first token, `whole_s` until its last; `gave_way` of the votes beside it."""

    first_s: float
    whole_s: float
    gave_way: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of requests to one node."""

    node: NodeUnderTest
    dice: random.Random
    bias: dict[str, float]
    tokens: int

    def run(self, kind: str, side: str) -> Pair:
        return asyncio.run(self._together(self._voted(kind) | {"swarm": SIDES[side]}))

    async def _together(self, voted: Json) -> Pair:
        await asyncio.sleep(SETTLE_S)
        first = asyncio.create_task(post(self.node.gateway, CHAT, voted))
        await asyncio.sleep(AFTER_S)
        question = exact_answer(self.node.model, self.dice, self.bias, 20) | {"model": "swarm", "stream": True}
        reply = await post(self.node.gateway, CHAT, question)
        account = json.loads(body_of(await first))["swarm"]
        gave_way = sum(part.get("abstained") == "gave way" for part in account["candidates"])
        assert reply.first_content is not None
        return Pair(reply.first_content - reply.sent, reply.last - reply.sent, gave_way)

    def _voted(self, kind: str) -> Json:
        body = exact_answer(self.node.model, self.dice, self.bias, self.tokens)
        digits = body["messages"][0]["content"].split()[0]
        ask = f"{digits} Add up these digits. Reply with a number." if kind == "a number" else f"{digits} as numbers"
        return body | {"messages": [{"role": "user", "content": ask}], "model": "swarm"} | KINDS[kind]


def measure(node: NodeUnderTest, options: argparse.Namespace) -> list[Figure]:
    pairs = Pairs(node, random.Random(PROMPTS_SEED), special_tokens(node.engine), options.tokens)
    figures: list[Figure] = []
    for kind in KINDS:
        progress(f"{kind}, {options.rounds} rounds")
        sides: dict[str, Callable[[], Pair]] = {side: partial(pairs.run, kind, side) for side in SIDES}
        got = interleaved(sides, options.rounds)
        first = {side: [pair.first_s for pair in of_side] for side, of_side in got.items()}
        for side, of_side in got.items():
            figures.append(Figure(f"{kind}, {side}: first token", "s", tuple(first[side])))
            figures.append(Figure(f"{kind}, {side}: whole answer", "s", tuple(pair.whole_s for pair in of_side)))
        gave_way = tuple(float(pair.gave_way) for pair in got["as it is"])
        figures.append(Figure(f"{kind}, as it is: votes that gave way", "", gave_way))
        asked = ratios(first["votes asked for"], first["votes: 1"])
        figures.append(Figure(f"{kind}, first token: votes asked for / votes: 1", "", asked))
        ratio = ratios(first["as it is"], first["votes: 1"])
        figures.append(Figure(f"**{kind}, first token: as it is / votes: 1**", "", ratio, TARGET))
    return figures


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", type=Path, metavar="FILE.gguf", help="default: the random model")
    made.add_argument("--layers", type=int, metavar="N", help="of the random model (default 24)")
    made.add_argument("--workers", type=int, default=2, metavar="N", help="slots of the engine (default 2)")
    made.add_argument("--rounds", type=int, metavar="N", help="default 10")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer that is voted on (default 100)")
    options = made.parse_args()
    for name, small, full in (("rounds", 2, 10), ("tokens", 16, 100), ("layers", 2, 24)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.quick else full)
    environment = read_environment()
    began = time.perf_counter()
    with node_under_test(options.model or random_model(options.layers), options.workers, CONTEXT_TOKENS, None) as node:
        figures = measure(node, options)
    progress(f"took {time.perf_counter() - began:.0f} s")
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
