"""What it costs a client to ask a node that passes the question on, against asking the peer that answers it.

One node serves another model and so passes on what is asked of the other two's: the embedded model, whose short and
even times show milliseconds, and one of 0.5B shape with random weights, whose tokens cost what a real one's do. Both
ways are asked in turn, for streams of exactly the same length to prompts that no cache has seen: first while the three
are an open swarm, then as a paired one, where mutual TLS is between the nodes (and never between client and node).
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from load import Endpoint, Json, Streamed, exact_answer, special_tokens, streams
from measure import Figure, Target, differences, interleaved, ratios
from namespaces import endpoint, stage
from nodes import random_model
from report import progress

FIRST_TOKENS = 4  # an answer long enough to stream, short enough to ask many
PROBES = 5  # times to first token in a trial, whose median is its sample
EMBEDDED_TOKENS = 1200  # about a second, and with the prompt within the embedded model's context
RANDOM_TOKENS = 16  # one or two seconds
PROMPTS_SEED = 20_240_607
FIRST_TARGET = Target("at most", 5.0)
SPEED_TARGET = Target("at least", 0.95)  # of the model whose tokens cost what a real one's do


@dataclass(frozen=True, slots=True)
class Ways:
    """The two ways to one model: straight to the node that serves it, or through one that does not."""

    name: str
    model: str
    direct: Endpoint
    through: Endpoint
    bias: dict[str, float]
    dice: random.Random

    def sides(self, sample: Callable[[Endpoint], float]) -> dict[str, Callable[[], float]]:
        return {"direct": partial(sample, self.direct), "through": partial(sample, self.through)}

    def first_token_ms(self, at: Endpoint) -> float:
        return statistics.median(self._first_token_ms(at) for _ in range(PROBES))

    def tokens_per_s(self, tokens: int, at: Endpoint) -> float:
        """From the first token to the last byte."""
        answer = self._stream(at, tokens)
        return (tokens - 1) / (answer.last - answer.first_content)

    def _first_token_ms(self, at: Endpoint) -> float:
        answer = self._stream(at, FIRST_TOKENS)
        return (answer.first_content - answer.sent) * 1000

    def _stream(self, at: Endpoint, tokens: int) -> Streamed:
        extra: Json = {
            "stream": True, "stream_options": {"include_usage": True}, "swarm": {"strategy": "single"},
        }  # fmt: skip
        return streams(at, [exact_answer(self.model, self.dice, self.bias, tokens) | extra])[0]


async def proxied(trials: int, layers: int) -> list[Figure]:
    """Both models, open and paired."""
    large = ("--federation", "--context", "1024", "--model", str(random_model(layers)))
    members = {"asked": ("--federation", "--model", "demo:b"), "small": ("--federation",), "large": large}
    dice, figures = random.Random(PROMPTS_SEED), list[Figure]()
    async with stage(members) as at:
        await at.whole()
        asked, small, large_node = at.nodes.values()
        bias = await asyncio.to_thread(special_tokens, endpoint(small))
        embedded = Ways("embedded model", await at.model_of(small), endpoint(small), endpoint(asked), bias, dice)
        shaped = Ways("0.5B shape", await at.model_of(large_node), endpoint(large_node), endpoint(asked), bias, dice)
        for mode in ("open", "paired"):
            if mode == "paired":
                await at.pair()
            figures += await asyncio.to_thread(first_tokens, embedded, trials, mode)
            figures += await asyncio.to_thread(speeds, embedded, EMBEDDED_TOKENS, trials, mode, None)
            figures += await asyncio.to_thread(speeds, shaped, RANDOM_TOKENS, trials, mode, SPEED_TARGET)
    return figures


def first_tokens(ways: Ways, trials: int, mode: str) -> list[Figure]:
    progress(f"proxied, {mode}, {ways.name}: first token, {trials} trials")
    got = {side: tuple(samples) for side, samples in interleaved(ways.sides(ways.first_token_ms), trials).items()}
    return [
        Figure(f"first token, {ways.name}, asked directly ({mode})", "ms", got["direct"]),
        Figure(
            f"added to the first token by passing on, {ways.name} ({mode})", "ms",
            differences(got["through"], got["direct"]), FIRST_TARGET,
        ),
    ]  # fmt: skip


def speeds(ways: Ways, tokens: int, trials: int, mode: str, target: Target | None) -> list[Figure]:
    progress(f"proxied, {mode}, {ways.name}: {trials} trials of {tokens} tokens")
    got = interleaved(ways.sides(partial(ways.tokens_per_s, tokens)), trials)
    return [
        Figure(f"{ways.name}, asked directly ({mode})", "tokens/s", tuple(got["direct"])),
        Figure(
            f"tokens/s passed on / directly, {ways.name} ({mode})", "",
            ratios(got["through"], got["direct"]), target,
        ),
    ]  # fmt: skip
