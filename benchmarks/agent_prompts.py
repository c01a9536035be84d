"""What agents' long prompts cost: alone, and two agents and a chat at once; a node beside llama.cpp's own server.

    python -m benchmarks.agent_prompts                 # about twenty minutes on two quiet cores
    python -m benchmarks.agent_prompts --quick

Both have the same model (random weights, a cache larger than what a node's llama.cpp keeps of prompts that left their
slot), the same cells and threads, and are asked the same through `/v1/chat/completions`, streamed. Llama.cpp's server
has its own defaults: four slots, all of which answer at once, and 8 GiB of memory for prompts that left theirs; the
node has two that answer. In each round and on each side an agent asks twice, with the question for a title in between;
then two agents, a chat and a title ask at the same time, three times. The agents' prompts have the size of Claude
Code's. Tokens are counted where they are computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp
from measure import Figure, Target, ratios
from platformdirs import user_cache_path
from random_model import Shape, write_model
from report import parser, progress, publish, read_environment

from swarm.consensus.options import Strategy
from swarm.engines.engine import EngineSpec
from swarm.engines.llama_cpp.xllamacpp import load as load_xllamacpp
from tests.doubles.agent_prompts import TOOLS, AgentTalk
from tests.doubles.running_node import NodeOptions, RunningNode, ready

SHAPE, LAYERS, CACHE = Shape(hidden=768, heads=3, kv_heads=3, feed_forward=256, vocabulary=2048), 1, "f32"
CONTEXT_TOKENS, WORKERS, THREADS = 32_768, 2, 2
SECTIONS = 44  # of instructions, with which a prompt has 23,000 tokens
QUICK_TOOLS = 3  # alone: 2,000
TURNS = 3
REREAD_TARGET = Target("at most", 0.02)
SECOND_TARGET = Target("at most", 0.1)


@dataclass(frozen=True, slots=True)
class Taken:
    """What an answer cost: seconds to its first token, tokens of its prompt, and those that were in the cache."""

    first_s: float
    prompt: int
    cached: int
    text: str


@dataclass(slots=True)
class Side:
    """One that is asked: a node, or a server."""

    name: str
    url: str
    key: str
    session: aiohttp.ClientSession

    async def ask(self, body: dict[str, Any]) -> Taken:
        sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
        began, first_s, text, usage = time.perf_counter(), None, "", dict[str, Any]()
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=sent, headers=headers) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line.removeprefix(b"data: "))
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", ()):
                    piece = choice["delta"].get("content") or ""
                    if piece and first_s is None:
                        first_s = time.perf_counter() - began
                    text += piece
        details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or 0
        return Taken(first_s or time.perf_counter() - began, int(usage["prompt_tokens"]), int(cached), text)


async def turn(side: Side, talk: AgentTalk) -> Taken:
    talk.says()
    taken = await side.ask(talk.to_chat())
    talk.answered(taken.text)
    return taken


@dataclass(slots=True)
class Measured:
    """One side's samples, one a round."""

    first_s: list[float] = field(default_factory=list[float])
    second_s: list[float] = field(default_factory=list[float])
    second_again: list[float] = field(default_factory=list[float])
    later_s: list[float] = field(default_factory=list[float])  # two agents at once, after their first turns
    later_again: list[float] = field(default_factory=list[float])
    chat_s: list[float] = field(default_factory=list[float])  # the slowest chat beside them


def again(taken: Taken, known: int) -> float:
    """How much of what was read before was read again: a share of it."""
    return max(0, known - taken.cached) / known


async def scenario(side: Side, number: int, sections: int, shows: int, found: Measured) -> None:
    def chat(words: str) -> dict[str, Any]:
        return {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": f"{words}: what is new?"}]}

    ann = AgentTalk(f"Ann {number}", sections, shows, "m")
    first = await turn(side, ann)
    await side.ask(ann.title())
    second = await turn(side, ann)
    found.first_s.append(first.first_s)
    found.second_s.append(second.first_s)
    found.second_again.append(again(second, first.prompt))
    agents = [AgentTalk(f"{name} {number}", sections, shows, "m") for name in ("Bob", "Cat")]
    known = dict[str, int]()
    shares, seconds, chats = list[float](), list[float](), list[float]()
    for at in range(TURNS):
        beside = (side.ask(chat(f"{number} {at}")), side.ask(ann.title()))
        *agents_taken, chatted, _ = await asyncio.gather(*(turn(side, talk) for talk in agents), *beside)
        for talk, taken in zip(agents, agents_taken, strict=True):
            if at:
                shares.append(again(taken, known[talk.name]))
                seconds.append(taken.first_s)
            known[talk.name] = taken.prompt
        chats.append(chatted.first_s)
    found.later_again.append(sum(shares) / len(shares))
    found.later_s.append(max(seconds))
    found.chat_s.append(max(chats))
    progress(
        f"{side.name}: {first.prompt} tokens in {first.first_s:.1f} s, then {second.first_s:.2f} s; two at once: read "
        f"again {shares}, first tokens {[f'{each:.1f}' for each in seconds]}, chats {[f'{each:.1f}' for each in chats]}"
    )


@asynccontextmanager
async def node(model: Path, session: aiohttp.ClientSession) -> AsyncGenerator[Side]:
    spec = EngineSpec("m", model, CONTEXT_TOKENS, WORKERS, threads=THREADS, cache_type=CACHE)
    options = NodeOptions(strategy=Strategy.SINGLE)
    async with (
        aclosing(await load_xllamacpp(spec, "always")) as engine,
        RunningNode("kitchen", ready(engine), options=options) as running,
    ):
        yield Side("node", running.url, "none", session)


@asynccontextmanager
async def own_server(model: Path, session: aiohttp.ClientSession) -> AsyncGenerator[Side]:
    """Llama.cpp's, in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", str(model), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        yield Side("llama.cpp's own server", address, "none", session)
    finally:
        process.kill()
        await process.wait()


def serve(model: str) -> None:
    """Llama.cpp's server with its defaults, until standard input ends."""
    from swarm.engines.llama_cpp.xllamacpp_host import library

    xllamacpp = library()
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel, params.kv_unified = 4, True  # what its `auto` takes
    params.n_ctx = CONTEXT_TOKENS * WORKERS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32.value
    params.port, params.hostnames = 0, ["127.0.0.1"]
    params.api_keys = ["none"]
    params.timeout_read = params.timeout_write = 3600
    params.ui, params.verbosity = False, -1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


def cached_model() -> Path:
    """The model in the user's cache folder, made on first use."""
    folder = user_cache_path("local-swarm-bench", appauthor=False, ensure_exists=True)
    target = folder / f"agents-{LAYERS}-{SHAPE.hidden}-{SHAPE.feed_forward}.gguf"
    if not target.is_file():
        unfinished = target.with_suffix(".partial")
        write_model(unfinished, LAYERS, shape=SHAPE)
        unfinished.replace(target)
    return target


async def measure(rounds: int, sections: int, shows: int) -> dict[str, Measured]:
    found = {"node": Measured(), "llama.cpp's own server": Measured()}
    model = cached_model()
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        sides = [await stack.enter_async_context(side(model, session)) for side in (node, own_server)]
        for number in range(rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                await scenario(side, number, sections, shows, found[side.name])
    return found


def figures(found: dict[str, Measured]) -> list[Figure]:
    made: list[Figure] = []
    for name, side in found.items():
        targets = (SECOND_TARGET, REREAD_TARGET) if name == "node" else (None, None)
        made += [
            Figure(f"{name}: first token of an agent's first turn", "s", tuple(side.first_s)),
            Figure(f"{name}: of its second", "s", tuple(side.second_s)),
            Figure(f"**{name}: second / first**", "", ratios(side.second_s, side.first_s), targets[0]),
            Figure(f"{name}: of the first prompt, read again in the second turn", "", tuple(side.second_again)),
            Figure(
                f"**{name}: two agents and a chat: of what was read, read again**",
                "",
                tuple(side.later_again),
                targets[1],
            ),
            Figure(f"{name}: the slowest first token of an agent in a later turn", "s", tuple(side.later_s)),
            Figure(f"{name}: the slowest first token of a chat beside them", "s", tuple(side.chat_s)),
            Figure(f"{name}: that / an agent's first turn alone", "", ratios(side.chat_s, side.first_s)),
        ]
    return made


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--sections", type=int, default=SECTIONS, help="of instructions, some 300 tokens each")
    made.add_argument("--serve", metavar="MODEL", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.serve:
        serve(args.serve)
        return
    environment = read_environment()
    size = (1, 0, QUICK_TOOLS) if args.quick else (args.rounds, args.sections, len(TOOLS))
    publish(environment, figures(asyncio.run(measure(*size))), args.json)


if __name__ == "__main__":
    main()
