"""Whether a paced node takes as long as a real one: the same load on both, in turn, and what differs.

    python benchmarks/paced_validation.py --pace FILE [--model FILE.gguf | --layers 4] [--rounds 3] [--quick]

`--pace` is what `pace_of.py` has measured of that model on this machine, with as many threads. 1 to 8 clients ask one
question after the other, of 64 to 2048 tokens, for 16 to 64; tokens/s over the whole of it, and the first token, of the
real node and of the paced one. Both are nodes as a user starts them, asked over HTTP.

On a machine where something else runs, start both this and `pace_of.py` with `chrt -r 5` (Linux, root): a real-time
process is not kept waiting for others.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from load import CHAT, Endpoint, Json, Streamed, exact_answer, post, read_stream, special_tokens, streams
from measure import Figure, Target, interleaved, ratios
from nodes import CommandLineNode, command_line_node, random_model
from paced_swarm import PROGRAM, SINGLE, question
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))

from benchmarks.paced_counts import Lengths, percentile

CLIENTS = (1, 2, 4, 8)
QUESTIONS = 6  # of each client in a round
SEED = 20_261_203
WITHIN = (Target("at least", 0.9), Target("at most", 1.1))
STREAMED: Json = {"stream": True, "stream_options": {"include_usage": True}, "swarm": SINGLE}


@dataclass(frozen=True, slots=True)
class Came:
    """What a round came to."""

    tokens_per_s: float
    first_s: tuple[float, ...]


def load(at: Endpoint, bodies: Sequence[Sequence[Json]]) -> Came:
    """Each row of bodies is one client's, asked one after the other."""

    async def client(mine: Sequence[Json]) -> list[Streamed]:
        return [read_stream(await post(at, CHAT, body), body["max_tokens"]) for body in mine]

    async def together() -> list[list[Streamed]]:
        return await asyncio.gather(*map(client, bodies))

    answers = [answer for of_client in asyncio.run(together()) for answer in of_client]
    took_s = max(answer.last for answer in answers) - min(answer.sent for answer in answers)
    tokens = sum(answer.completion_tokens for answer in answers)
    return Came(tokens / took_s, tuple(answer.first_content - answer.sent for answer in answers))


class Side:
    """One of the two nodes, and how it is asked for a prompt of so many tokens and an answer of so many."""

    def __init__(self, node: CommandLineNode, model: str, bias: dict[str, float] | None) -> None:
        self.at, self.model, self.bias = Endpoint.at(node.url), model, bias
        self.dice = random.Random(SEED)
        around = self.body(64, 2)
        self.around = streams(self.at, [around])[0].prompt_tokens - 64  # what a template adds

    def body(self, prompt: int, answer: int) -> Json:
        if self.bias is None:
            return question(self.dice, prompt, answer) | STREAMED | {"model": self.model}
        return exact_answer(self.model, self.dice, self.bias, answer, prompt) | STREAMED

    def run(self, clients: int, questions: int, most: int) -> Came:
        lengths = Lengths((64, most), (16, 64))
        taken = [[lengths.take() for _ in range(questions)] for _ in range(clients)]
        return load(self.at, [[self.body(prompt - self.around, answer) for prompt, answer in row] for row in taken])


def compare(sides: dict[str, Side], options: argparse.Namespace) -> list[Figure]:
    figures: list[Figure] = []
    for clients in CLIENTS:
        runs = {
            name: lambda side=side, clients=clients: side.run(clients, options.questions, options.most)
            for name, side in sides.items()
        }
        got = interleaved(runs, options.rounds, warm_ups=0)
        pairs = {
            "tokens/s": {name: [came.tokens_per_s for came in of] for name, of in got.items()},
            "first token p50": {name: [percentile(came.first_s, 0.5) for came in of] for name, of in got.items()},
            "first token p90": {name: [percentile(came.first_s, 0.9) for came in of] for name, of in got.items()},
        }
        for what, by in pairs.items():
            name, unit = f"{clients} client{'s' * (clients > 1)}, {what}", "tokens/s" if what == "tokens/s" else "s"
            ratio = ratios(by["paced"], by["real"])
            bound = WITHIN[0] if sum(ratio) < len(ratio) else WITHIN[1]
            figures += [Figure(f"{name}: {side}", unit, tuple(samples)) for side, samples in by.items()]
            figures.append(Figure(f"**{name}: paced / real**", "", ratio, bound))
            progress(f"{name}: {by}")
    return figures


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--pace", type=Path, required=True, metavar="FILE")
    made.add_argument("--model", type=Path, metavar="FILE.gguf")
    made.add_argument("--layers", type=int, default=4, metavar="N", help="of a random model (default 4)")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="as of pace_of.py (default 1)")
    made.add_argument("--most", type=int, default=2048, metavar="N", help="tokens of the longest prompt (default 2048)")
    made.add_argument("--questions", type=int, metavar="N", help=f"of each client in a round (default {QUESTIONS})")
    made.add_argument("--rounds", type=int, metavar="N", help="default 3")
    options = made.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.questions = options.questions or (2 if options.quick else QUESTIONS)
    environment = read_environment()
    model: Path = options.model or random_model(options.layers)
    common = ("--threads", str(options.threads), "--workers", "8", "--context", "4096")
    paced = (str(PROGRAM), "--pace", str(options.pace.resolve()), "--")
    with ExitStack() as stack:
        real_node = stack.enter_context(command_line_node("--model", str(model), *common))
        paced_node = stack.enter_context(command_line_node("--model", "paced", *common, program=paced))
        bias = special_tokens(Endpoint.at(real_node.url))
        sides = {"real": Side(real_node, "swarm", bias), "paced": Side(paced_node, "swarm", None)}
        figures = compare(sides, options)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
