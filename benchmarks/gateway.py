"""What the gateway costs a stream: `/v1` of a node against the native HTTP server of the very same loaded engine.

    python benchmarks/gateway.py [--quick] [--json FILE]

One node in its own process serves a model of 0.5B shape with random weights; this process asks it through its gateway
and past it, in turn, at 1, 8 and 32 streams. Both ways use one engine, one set of weights, the same threads and slots,
the same parameters, prompts of the same length that no cache has seen, and answers of exactly the same length.

Throughput is all tokens over the time from the first request to the last byte. Time to first token is measured on both
sides of an idle node. Beside other streams that difference drowns in the engine's own steps (arriving a millisecond
later can mean waiting for one more), so there a relay between node and engine tells what the gateway adds on the way
there and on the way back (`relay.py`).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from load import Endpoint, Json, Streamed, beside, exact_answer, special_tokens, streams
from measure import Figure, Target, differences, interleaved, ratios
from nodes import NodeUnderTest, Relay, node_under_test, random_model, relayed
from report import ROOT, parser, progress, publish, read_environment

T = TypeVar("T")

WORKERS = 32
MOST_BESIDE = 8  # streams at which time to first token is measured: with more, nothing but the engine's queue is seen
CONTEXT_TOKENS = 1024
FIRST_TOKENS = 4  # an answer long enough to stream, short enough to ask many
PROBES = 3  # times to first token in a round, whose median is its sample: one step more or less is no outlier
MAX_PAUSE_S = 0.1  # before a probe: about a step of the engine, so that probes arrive anywhere within one
BACKGROUND_TOKENS = 900  # more than are generated while the probes run; with the prompt less than the context
EMBEDDED = ROOT / "models" / "demo" / "demo.gguf"
EMBEDDED_ROUNDS = 5  # times --first-token-rounds: each takes some 20 ms
PROMPTS_SEED = 20_240_601
SPEED_TARGET = Target("at least", 0.97)
FIRST_TOKEN_TARGET = Target("at most", 2.0)
SINGLE = {"swarm": {"strategy": "single"}}


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement of one side. `cpu_us_per_token` is what the node's process (not its engine's) computed."""

    tokens_per_s: float
    cpu_us_per_token: float


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one node for answers of a fixed length, through either endpoint."""

    node: NodeUnderTest
    dice: random.Random
    bias: dict[str, float]

    def speed(self, count: int, tokens: int, endpoint: Endpoint, extra: Json) -> Speed:
        """`count` streams at once, from the first request to the last byte."""
        bodies = [self._body(tokens) | extra for _ in range(count)]
        cpu_before = self._cpu_s()
        answers = streams(endpoint, bodies)
        cpu_s = self._cpu_s() - cpu_before
        total = sum(answer.completion_tokens for answer in answers)
        return Speed(
            tokens_per_s=total / (max(a.last for a in answers) - min(a.sent for a in answers)),
            cpu_us_per_token=cpu_s * 1e6 / total,
        )

    def first_token_ms(self, endpoint: Endpoint, extra: Json) -> float:
        """Time to the first token of one stream on an idle node."""
        [answer] = streams(endpoint, [self._body(FIRST_TOKENS) | extra])
        return first_token_ms(answer)

    def added_together_ms(self, relay: Relay, count: int) -> float:
        """What the gateway adds to the time to first token of `count` streams asked at the same instant; the median."""
        bodies = [self._body(FIRST_TOKENS) | SINGLE for _ in range(count)]
        return statistics.median(added_ms(relay, bodies, streams(self.node.gateway, bodies)))

    def added_beside_ms(self, relay: Relay, others: int) -> float:
        """What it adds for a stream that starts while `others` run through it; the median of a few."""
        background = [self._body(BACKGROUND_TOKENS) | SINGLE for _ in range(others)]
        probes = [self._body(FIRST_TOKENS) | SINGLE for _ in range(PROBES)]
        pauses_s = [self.dice.uniform(0, MAX_PAUSE_S) for _ in probes]
        return statistics.median(added_ms(relay, probes, beside(self.node.gateway, background, probes, pauses_s)))

    def sides(self, measure: Callable[[Endpoint, Json], T]) -> dict[str, Callable[[], T]]:
        """The same measurement past the gateway and through it."""
        return {
            "native": partial(measure, self.node.engine, {}),
            "gateway": partial(measure, self.node.gateway, SINGLE),
        }

    def _cpu_s(self) -> float:
        times = self.node.process.cpu_times()
        return times.user + times.system

    def _body(self, tokens: int) -> Json:
        return exact_answer(self.node.model, self.dice, self.bias, tokens) | {
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def first_token_ms(answer: Streamed) -> float:
    return (answer.first_content - answer.sent) * 1000


def added_ms(relay: Relay, bodies: Sequence[Json], answers: Sequence[Streamed]) -> list[float]:
    """The time from client to first token less the part that the engine had the request, for each answer."""
    passages = relay.passages({body["seed"] for body in bodies})
    engine_ms = [(p.answered - p.asked) * 1000 for p in (passages[body["seed"]] for body in bodies)]
    return [first_token_ms(answer) - ms for answer, ms in zip(answers, engine_ms, strict=True)]


def throughput(asker: Asker, count: int, tokens: int, rounds: int) -> list[Figure]:
    """Tokens per second on both sides, their ratio, and what a token costs the node's process."""
    progress(f"throughput, {count} at once, {rounds} rounds of {tokens} tokens")
    got = interleaved(asker.sides(partial(asker.speed, count, tokens)), rounds)
    speed = {side: tuple(sample.tokens_per_s for sample in samples) for side, samples in got.items()}
    where = "1 stream" if count == 1 else f"{count} streams"
    return [
        Figure(f"{where}, native", "tokens/s", speed["native"]),
        Figure(f"{where}, gateway", "tokens/s", speed["gateway"]),
        Figure(f"**{where}, gateway / native**", "", ratios(speed["gateway"], speed["native"]), SPEED_TARGET),
        Figure(f"{where}, the node's own CPU", "µs/token", tuple(sample.cpu_us_per_token for sample in got["gateway"])),
    ]


def first_token(asker: Asker, rounds: int) -> list[Figure]:
    """Time to the first token of an idle node both ways, and of its default and of a vote for information."""
    progress(f"time to first token, {rounds} rounds")
    sides = asker.sides(asker.first_token_ms)
    sides["default"] = partial(asker.first_token_ms, asker.node.gateway, {})
    sides["vote"] = partial(asker.first_token_ms, asker.node.gateway, {"swarm": {"votes": 5}})
    got = {side: tuple(samples) for side, samples in interleaved(sides, rounds).items()}
    added = differences(got["gateway"], got["native"])
    return [
        Figure("first token, native", "ms", got["native"]),
        Figure("first token, gateway", "ms", got["gateway"]),
        Figure("**first token, gateway - native**", "ms", added, FIRST_TOKEN_TARGET),
        Figure("first token, gateway by default (prose, answered once)", "ms", got["default"]),
        Figure("first token, gateway, a vote of 5, its leader streamed", "ms", got["vote"]),
    ]


def embedded_first_token(threads: int | None, rounds: int) -> list[Figure]:
    """The same of the embedded model, whose own time is so short and even that both ways can be compared directly."""
    with node_under_test(EMBEDDED, WORKERS, CONTEXT_TOKENS, threads) as node:
        asker = Asker(node, random.Random(PROMPTS_SEED), special_tokens(node.engine))
        progress(f"time to first token of the embedded model, {rounds} rounds")
        got = {side: tuple(s) for side, s in interleaved(asker.sides(asker.first_token_ms), rounds).items()}
    added = differences(got["gateway"], got["native"])
    return [
        Figure("first token, embedded model, native", "ms", got["native"]),
        Figure("**first token, embedded model, gateway - native**", "ms", added, FIRST_TOKEN_TARGET),
    ]


def added_first_token(asker: Asker, counts: Sequence[int], rounds: int) -> list[Figure]:
    """What the gateway adds to the time to first token, told apart from the engine's by a relay."""
    figures: list[Figure] = []
    with relayed(asker.node) as relay:
        for count in counts:
            progress(f"added to the first token, {count} at once, {rounds} rounds")
            sides = {"beside": partial(asker.added_beside_ms, relay, count - 1)}
            if count > 1:
                sides["together"] = partial(asker.added_together_ms, relay, count)
            got = {side: tuple(samples) for side, samples in interleaved(sides, rounds).items()}
            where = f"beside {count - 1} running streams" if count > 1 else "idle node"
            name = f"**added to the first token, {where}** (relay)"
            figures.append(Figure(name, "ms", got["beside"], FIRST_TOKEN_TARGET))
            if count > 1:
                name = f"added to the first token, {count} asked at the same instant (relay)"
                figures.append(Figure(name, "ms", got["together"]))
    return figures


def measure(node: NodeUnderTest, options: argparse.Namespace) -> list[Figure]:
    asker = Asker(node, random.Random(PROMPTS_SEED), special_tokens(node.engine))
    figures: list[Figure] = []
    for count in options.streams:
        figures += throughput(asker, count, options.tokens, options.rounds)
    figures += first_token(asker, options.first_token_rounds)
    return figures + added_first_token(asker, [n for n in options.streams if n <= MOST_BESIDE], options.rounds)


def read_options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="of everything else (default 11)")
    made.add_argument("--first-token-rounds", type=int, metavar="N", help="of the time to first token (default 60)")
    made.add_argument("--tokens", type=int, metavar="N", help="per answer (default 128)")
    made.add_argument("--layers", type=int, metavar="N", help="of the model (default 24: the whole 0.5B shape)")
    made.add_argument("--threads", type=int, metavar="N", help="the engine's (default: as the node chooses)")
    made.add_argument("--streams", type=int, nargs="+", default=[1, 8, WORKERS], metavar="N", help="default 1 8 32")
    made.add_argument("--profile", type=Path, metavar="FILE", help="cProfile of the node's loop; slows it, no figures")
    options = made.parse_args()
    small, full = (2, 6, 24, 2), (11, 60, 128, 24)
    names = ("rounds", "first_token_rounds", "tokens", "layers")
    for name, value in zip(names, small if options.quick else full, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not all(1 <= count <= WORKERS for count in options.streams):
        made.error(f"--streams {options.streams}: the engine has {WORKERS} slots")
    return options


def main() -> None:
    options = read_options()
    environment = read_environment()
    model = random_model(options.layers)
    began = time.monotonic()
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, options.threads, options.profile) as node:
        figures = measure(node, options)
    figures += embedded_first_token(options.threads, EMBEDDED_ROUNDS * options.first_token_rounds)
    progress(f"{time.monotonic() - began:.0f} s")
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
