"""What it costs to have many models and memory for one: swapping them, loading beside answers, and knowing of 200.

    python benchmarks/swaps.py [--quick] [--file MODEL.gguf]... [--rounds N] [--json FILE]

Real nodes, started as a user starts them, engines in processes of their own. A swap is a streamed request for a model
while another one is loaded and `--max-models 1` is all there may be: unload, load, first token. It is compared with the
same request while nothing is loaded; the files are in the system's cache both times. Then requests to a pinned model,
one after the other, while another one is loaded and unloaded all the time, against the same while nothing is. At last
the memory of a node that has loaded the embedded model and knows of 200 others, against one that knows of none.

The swapped models are the embedded ones, and `--file` (repeatable) names real ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from clients import arithmetic
from load import CHAT, Endpoint, Json, body_of, post
from measure import Figure, TailFigure, Target, differences, p95_ratios, ratios
from nodes import CommandLineNode, command_line_node
from report import parser, progress, publish, read_environment
from store import fill

SWAP_TARGET, BESIDE_TARGET, KNOWING_TARGET = Target("at most", 1.15), Target("at most", 1.3), Target("at most", 5.0)
ANSWER_TOKENS = 8
KNOWN = 200
PAUSE_S = 0.02  # between an answer and the next question, beside loads
WINDOW_S = 4.0  # of requests beside loads, and of as many beside none
SETTLE_S = 2.0  # after `ready`, or a list that is complete, before memory is read
MB = 1e6
MANAGE, SINGLE = "/v1/models", {"swarm": {"strategy": "single"}}


def asked(endpoint: Endpoint, path: str, body: Json) -> Json:
    """The answer to one request."""
    return json.loads(body_of(asyncio.run(post(endpoint, path, body))))


def listed(endpoint: Endpoint) -> list[str]:
    with urlopen(f"http://{endpoint.host}:{endpoint.port}/v1/models", timeout=30) as response:
        return [model["id"] for model in json.load(response)["data"]]


def first_token_s(endpoint: Endpoint, model: str, dice: random.Random) -> float:
    """Seconds to the first content of a streamed answer of `model`, whose load may be among them."""
    body = {"model": model, "messages": arithmetic(dice), "max_tokens": ANSWER_TOKENS, "stream": True, **SINGLE}
    reply = asyncio.run(post(endpoint, CHAT, body))
    body_of(reply)
    assert reply.first_content is not None
    return reply.first_content - reply.sent


def swaps(files: list[Path], rounds: int) -> list[Figure]:
    """Of each pair of models: a swap against a cold load."""
    dice = random.Random(1)
    folders = [option for folder in {file.parent for file in files} for option in ("--models-dir", str(folder))]
    figures: list[Figure] = []
    with command_line_node("--model", "demo", "--isolate", "--max-models", "1", *folders) as node:
        endpoint = Endpoint.at(node.url)
        asked(endpoint, f"{MANAGE}/pin", {"model": "demo", "pinned": False})
        wanted = ["demo:b", *(file.stem.lower() for file in files)]
        for name in wanted:
            while name not in ["demo:b", *listed(endpoint)]:
                time.sleep(0.1)
            swapped: list[float] = []
            cold: list[float] = []
            for number in range(-1, rounds):
                progress(f"demo to {name}, round {number + 1} of {rounds}")
                for is_swap in (True, False) if number % 2 else (False, True):
                    first_token_s(endpoint, "demo", dice)  # the other one is gone for it
                    if not is_swap:
                        asked(endpoint, f"{MANAGE}/unload", {"model": "demo"})
                    took_s = first_token_s(endpoint, name, dice)
                    if number >= 0:
                        (swapped if is_swap else cold).append(took_s)
            figures += [
                Figure(f"{name}: first token of a cold load", "s", tuple(cold)),
                Figure(f"{name}: first token of a swap", "s", tuple(swapped)),
                Figure(f"**{name}: swap / cold load**", "", ratios(swapped, cold), SWAP_TARGET),
            ]
    return figures


async def _beside(endpoint: Endpoint, other: str | None, dice: random.Random) -> list[float]:
    """Seconds of each answer of the pinned model within a window, while `other` comes and goes."""
    until = time.perf_counter() + WINDOW_S
    took: list[float] = []

    async def come_and_go() -> None:
        while other is not None and time.perf_counter() < until:
            for action in ("load", "unload"):
                body_of(await post(endpoint, f"{MANAGE}/{action}", {"model": other}))

    loading = asyncio.create_task(come_and_go())
    while time.perf_counter() < until:
        body = {"model": "demo", "messages": arithmetic(dice), "max_tokens": ANSWER_TOKENS, **SINGLE}
        reply = await post(endpoint, CHAT, body)
        body_of(reply)
        took.append(reply.last - reply.sent)
        await asyncio.sleep(PAUSE_S)
    await loading
    return took


def beside_loads(files: list[Path], rounds: int) -> list[Figure]:
    """Answers of a model that stays, while another is loaded."""
    dice = random.Random(2)
    other = files[0].stem.lower() if files else "demo:b"
    folders = ["--models-dir", str(files[0].parent)] if files else []
    alone: list[float] = []
    beside: list[float] = []
    with command_line_node("--model", "demo", "--isolate", "--threads", "1", *folders) as node:
        endpoint = Endpoint.at(node.url)
        while other not in ["demo:b", *listed(endpoint)]:
            time.sleep(0.1)
        for number in range(-1, rounds):
            progress(f"beside loads of {other}, round {number + 1} of {rounds}")
            for name in (other, None) if number % 2 else (None, other):
                took = asyncio.run(_beside(endpoint, name, dice))
                if number >= 0:
                    (alone if name is None else beside).extend(took)
    value, ends = p95_ratios(beside, alone)
    name = f"**p95 while {other} is loaded / while nothing is**"
    each = ratios(*(sorted(took)[: min(len(beside), len(alone))] for took in (beside, alone)))
    return [
        Figure("an answer, while nothing is loaded", "ms", tuple(1000 * s for s in alone)),
        Figure(f"an answer, while {other} is loaded and unloaded", "ms", tuple(1000 * s for s in beside)),
        TailFigure(name, "", each, BESIDE_TARGET, value, ends),
    ]


def resident_mb(node: CommandLineNode) -> float:
    time.sleep(SETTLE_S)
    return node.process.memory_info().rss / MB


def knowing(rounds: int) -> list[Figure]:
    """Memory of the node's own process, without its engine's: of a first start, and of one that finds its index."""
    took: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="swarm-swaps-") as folder:
        progress(f"writing {KNOWN} files")
        places, _ = fill(Path(folder) / "models", KNOWN)
        folders = [option for place in places.places for option in ("--models-dir", str(place.folder))]
        for number in range(rounds):
            progress(f"memory, round {number + 1} of {rounds}")
            for start in (1, 2):
                for count in (0, KNOWN) if number % 2 else (KNOWN, 0):
                    data = ["--data-dir", str(Path(folder) / f"data-{number}-{count}")]
                    with command_line_node("--model", "demo", "--isolate", *data, *(folders if count else [])) as node:
                        while len(listed(Endpoint.at(node.url))) < count:
                            time.sleep(0.2)
                        took.setdefault((start, count), []).append(resident_mb(node))
    more = {start: differences(took[start, KNOWN], took[start, 0]) for start in (1, 2)}
    return [
        Figure("resident, no model known beside the embedded ones", "MB", tuple(took[2, 0])),
        Figure(f"{KNOWN} models known, read for the first time: more", "MB", more[1], KNOWING_TARGET),
        Figure(f"**{KNOWN} models known: more**", "MB", more[2], KNOWING_TARGET),
    ]


def read_options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--file", type=Path, action="append", default=[], metavar="MODEL.gguf", help="swap this, too")
    made.add_argument("--rounds", type=int, metavar="N", help="default 7")
    made.add_argument("--only", choices=("swaps", "beside", "knowing"), help="default: all three")
    options = made.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 7)
    return options


def main() -> None:
    options = read_options()
    environment = read_environment()
    files = [file.resolve() for file in options.file]
    figures: list[Figure] = []
    if options.only in (None, "swaps"):
        figures += swaps(files, options.rounds)
    if options.only in (None, "beside"):
        figures += beside_loads(files, options.rounds)
    if options.only in (None, "knowing"):
        figures += knowing(options.rounds)
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
