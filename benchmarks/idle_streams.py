"""What a stream costs a node while nothing flows through it: memory of a thousand that wait for the one worker.

    python benchmarks/idle_streams.py [--quick] [--json FILE]

A node with one worker, busy with a long answer of a model of 0.5B shape (its engine runs in a process of its own, which
is not counted), is asked for many more streams. All of them are queued; each has had its status and a heartbeat when
the node's own memory (USS) is read. The kernel's socket buffers are not in it: an idle connection has next to none.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
from load import CHAT, Endpoint, Json, RunError, fresh_prompt, opened, streams
from measure import Figure, Target
from nodes import command_line_node, random_model
from report import parser, progress, publish, read_environment

TARGET = Target("at most", 60.0)
CONTEXT_TOKENS = 4096
BUSY_TOKENS = 4000  # at some 40 tokens/s far longer than the streams are looked at
WARM_UPS = 20
DEADLINE_S = 3600  # or the node would refuse them: it knows how long they would wait
OPENED_TOGETHER = 50  # as many at once as a listener's backlog surely takes
HEARTBEATS_S = 60.0  # all heartbeats of the queued come within the first ten seconds or two


def asked(dice: random.Random, tokens: int) -> Json:
    return {
        "model": "swarm",
        "messages": fresh_prompt(dice),
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "swarm": {"strategy": "single", "deadline_s": DEADLINE_S},
    }


async def queued(url: str, process: psutil.Process, count: int) -> float:
    """KiB of the node's own memory for each of `count` queued streams."""
    dice, endpoint = random.Random(count), Endpoint.at(url)
    async with AsyncExitStack() as busy:
        running = await busy.enter_async_context(opened(endpoint, CHAT, asked(dice, BUSY_TOKENS)))
        await running.begun.wait()
        before = process.memory_full_info().uss
        async with AsyncExitStack() as waiting:
            idle = []
            for start in range(0, count, OPENED_TOGETHER):
                bodies = [asked(dice, 1) for _ in range(min(OPENED_TOGETHER, count - start))]
                idle += await asyncio.gather(
                    *(waiting.enter_async_context(opened(endpoint, CHAT, body)) for body in bodies)
                )
            async with asyncio.timeout(HEARTBEATS_S):
                for stream in idle:
                    await stream.spoken.wait()
            if running.done.done() or any(stream.done.done() for stream in idle):
                ended = next(stream for stream in (running, *idle) if stream.done.done())
                raise RunError(f"a stream ended before the memory was read: {(await ended.done).raw[-300:]!r}")
            during = process.memory_full_info().uss
        return (during - before) / count / 2**10


def one_round(model: Path, count: int) -> float:
    options = ("--model", str(model), "--workers", "1", "--queue", str(count), "--context", str(CONTEXT_TOKENS))
    with command_line_node(*options) as node:
        streams(Endpoint.at(node.url), [asked(random.Random(0), 1)] * WARM_UPS)  # pools and caches are no stream's cost
        return asyncio.run(queued(node.url, node.process, count))


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 3")
    made.add_argument("--count", type=int, default=1000, metavar="N", help="streams (default 1000)")
    options = made.parse_args()
    environment = read_environment()
    model = random_model(24)
    samples: list[float] = []
    for number in range(options.rounds or (1 if options.quick else 3)):
        progress(f"round {number + 1}: {options.count} streams")
        samples.append(one_round(model, options.count))
    figures = [Figure(f"**memory of one of {options.count} idle streams**", "KiB", tuple(samples), TARGET)]
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
