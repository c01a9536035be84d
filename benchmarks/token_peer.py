"""A node whose tokens cost it next to nothing: what a front node carries is measured with it, and not what makes it.

    python -m benchmarks.token_peer '{"name": "peer", ...}'     (fields of swarm.node.settings.Settings)

Everything is a real node's, its listener, TLS and membership included, but for the answer to
`POST /federation/v1/generate`: chunks as a node writes them, one write each, at the pace that the last message names
(`"25 tokens/s"`). Each is due at an instant of its own, counted from the answer's begin, and its text is the instant at
which it was written (`time.monotonic`, one clock for all processes of a machine). It says that it has SLOTS slots.

Prints the port that it listens on, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aiohttp import web

from federation.advertisement import NodeDescription
from swarm.commands.terminal import Terminal
from swarm.gateway.openai.shapes import DONE, CompletionShape
from swarm.gateway.peers import endpoints
from swarm.generation import Delta, Usage
from swarm.node.node import Node
from swarm.node.settings import make_settings

SLOTS = 1024
UNIT = "tokens/s"


class Boaster(Node):
    """As `Node`, and with room for everybody."""

    def describe(self) -> NodeDescription:
        honest = super().describe()
        models = tuple(model.model_copy(update={"slots": SLOTS, "slots_free": SLOTS}) for model in honest.models)
        return honest.model_copy(update={"models": models, "slots_free": SLOTS})


async def generate(request: web.Request) -> web.StreamResponse:
    """The chunks of one answer, each when it is due."""
    body = await request.json()
    asked, tokens = body["messages"][-1]["content"], int(body["max_tokens"])
    step_s = 1 / float(asked.split(UNIT)[0])
    shape = CompletionShape("chat", body["model"], include_usage=True)
    head, tail = shape.head(), shape.tail()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    await response.write(f"{head}{shape.opening(0, calls=False)}{tail}".encode())
    due = time.monotonic()
    for _ in range(tokens):
        due += step_s
        if (early_s := due - time.monotonic()) > 0:
            await asyncio.sleep(early_s)
        await response.write(f"{head}{shape.delta(Delta(0, f' {time.monotonic():.4f}'))}{tail}".encode())
    usage = shape.usage_chunk(Usage(prompt_tokens=8, completion_tokens=tokens))
    await response.write(f"{head}{shape.finish(0, 'length')}{tail}{usage}".encode())
    await response.write_eof(DONE)
    return response


async def run(fields: dict[str, object]) -> None:
    """A node from start to stop."""
    endpoints.generate = generate  # before its routes are made
    async with Boaster(make_settings(fields), Terminal()) as node:
        print(json.dumps({"port": node.setup.announced.port}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
