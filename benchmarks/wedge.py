"""How long a model is away whose engine hangs, and how quick its node is meanwhile.

    python benchmarks/wedge.py [--rounds 5] [--layers 24] [--quick] [--json FILE]

In each round a node is started, and a schema that keeps llama.cpp busy for over ten minutes is sent to its engine's own
listener, past the checks that refuse it. From then on `/livez` and `/readyz` are asked each 20 ms and a chat is tried
again and again; the round is over when one is answered. The embedded model is measured where it runs by default, in the
node's process, and in an engine host; the random one in the shape of 0.5B (`random_model.py`) in a host.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from measure import Figure, Target
from nodes import NodeUnderTest, node_under_test, random_model
from report import parser, progress, publish, read_environment

from federation.tasks import cancel_and_wait
from swarm.registry.embedded import embedded_model_path

WORKERS, CONTEXT_TOKENS = 4, 2048
LOOK_S = 0.02
TRY_S = 30.0  # for one chat; what the wedge holds is ended by then
GIVE_UP_S = 300.0
MENDED, QUICK_MS = Target("at most", 30.0), Target("at most", 100.0)
WEDGE = {
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 4,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "string", "pattern": "^(((a{0,40}){0,40}){0,40}){0,40}$"}},
    },
}


@dataclass
class Round:
    """Seconds from the wedge to what happened, and how long each `/livez` took meanwhile."""

    unready_s: float = float("nan")
    answered_s: float = float("nan")
    live_s: list[float] = field(default_factory=list[float])

    def live_ms(self, share: float) -> float:
        """The time within which that share of `/livez` was answered."""
        ordered = sorted(self.live_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000


async def hang(session: aiohttp.ClientSession, node: NodeUnderTest) -> None:
    engine = f"http://{node.engine.host}:{node.engine.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {node.engine.key}"}
    try:
        async with session.post(engine, json=WEDGE, headers=headers) as response:
            await response.read()
    except aiohttp.ClientError:
        pass


async def look(session: aiohttp.ClientSession, url: str, begun: float, seen: Round) -> None:
    """Ask until cancelled."""
    while True:
        asked = time.perf_counter()
        async with session.get(f"{url}/livez") as response:
            await response.read()
        seen.live_s.append(time.perf_counter() - asked)
        async with session.get(f"{url}/readyz") as response:
            if response.status == 503 and seen.unready_s != seen.unready_s:
                seen.unready_s = time.perf_counter() - begun
        await asyncio.sleep(LOOK_S)


_number = itertools.count()


async def answered(session: aiohttp.ClientSession, url: str, model: str) -> bool:
    """Whether a chat is answered. Each asks something else: who asks when the engine ends is refused for a minute."""
    question = {"role": "user", "content": f"hello {next(_number)}"}
    body: dict[str, Any] = {"model": model, "messages": [question], "max_tokens": 2}
    try:
        async with asyncio.timeout(TRY_S), session.post(f"{url}/v1/chat/completions", json=body) as response:
            await response.read()
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def one_round(node: NodeUnderTest) -> Round:
    url, seen = f"http://{node.gateway.host}:{node.gateway.port}", Round()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.timeout(GIVE_UP_S):
        assert await answered(session, url, node.model)
        begun = time.perf_counter()
        hanging = asyncio.create_task(hang(session, node))
        await asyncio.sleep(0.1)  # it has arrived
        looking = asyncio.create_task(look(session, url, begun, seen))
        while not await answered(session, url, node.model):  # noqa: ASYNC110 - that is the measurement
            await asyncio.sleep(LOOK_S)
        seen.answered_s = time.perf_counter() - begun
        await cancel_and_wait(looking, hanging)  # an engine in the node's process is given up, and hangs on
    return seen


def measure(model: Path, isolation: str, threads: int | None) -> Round:
    with node_under_test(model, WORKERS, CONTEXT_TOKENS, threads, isolation=isolation) as node:
        seen = asyncio.run(one_round(node))
        node.child.kill()  # an engine that hangs in its process would hold up its end
    return seen


def figures_of(name: str, rounds: Sequence[Round]) -> list[Figure]:
    return [
        Figure(f"{name}: wedge to `/readyz` 503", "s", tuple(r.unready_s for r in rounds)),
        Figure(f"**{name}: wedge to an answer**", "s", tuple(r.answered_s for r in rounds), MENDED),
        Figure(f"{name}: `/livez` meanwhile, median", "ms", tuple(r.live_ms(0.5) for r in rounds)),
        Figure(f"**{name}: `/livez` meanwhile, p99**", "ms", tuple(r.live_ms(0.99) for r in rounds), QUICK_MS),
        Figure(f"{name}: `/livez` meanwhile, slowest", "ms", tuple(r.live_ms(1.0) for r in rounds)),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 5")
    made.add_argument("--threads", type=int, metavar="N", help="of the engine (default: the node's choice)")
    made.add_argument("--layers", type=int, metavar="N", help="of the random model (default 24; 0 leaves it out)")
    options = made.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    layers = (0 if options.quick else 24) if options.layers is None else options.layers
    environment = read_environment()
    sides = {"in the node's process": (embedded_model_path(), "auto"), "in a host": (embedded_model_path(), "always")}
    if layers:
        sides[f"{layers} layers of the 0.5B shape, in a host"] = (random_model(layers), "auto")
    figures: list[Figure] = []
    for name, (model, isolation) in sides.items():
        progress(f"{name}, {rounds} rounds of half a minute")
        figures += figures_of(name, [measure(model, isolation, options.threads) for _ in range(rounds)])
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
