"""A swarm that grows: requests/s, latency and fairness of 1 to 16 nodes whose speed does not depend on this machine.

    sudo python benchmarks/scaling.py [--only PART ...] [--pace FILE] [--rounds N] [--quick] [--json FILE]

All nodes are real ones in network namespaces; only their engines are paced (`paced_engine.py`), so slowly that the
machine is not the bottleneck: each part tells how busy it was, and how late tokens were. `--pace` is that of a real
engine as `pace_of.py` has measured it; without it one answer is written at 10 tokens/s, and four at once at 30. All
clients ask one node. Parts:

growth        1, 2, 4, 8, 16 nodes against one, twice as many clients as slots, and as many
unlike        nodes with speeds as 1 to 4 to 16, asked at the slowest and at the fastest, against the sum of them
first-token   of a peer's answer through a node that is full, against that peer asked itself
sticky        conversations of many turns: how many stay where they were, and the time that saves
kill          `kill -9` of one node of four under load: requests lost, dip, recovery
votes         votes of 5 under load, four nodes against one

Needs root and `ip`; everything is removed at the end.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from load import CHAT, Endpoint, Json, RunError, body_of, opened, post
from measure import Figure, Target, ratios
from paced_swarm import (
    MODEL,
    SINGLE,
    SLOTS,
    Measured,
    PacedSwarm,
    paced_swarm,
    question,
    under_load,
    words,
)
from report import ROOT, parser, progress, publish, read_environment

sys.path.insert(0, str(ROOT))

from benchmarks.paced_counts import Lengths, around, late_ms, percentile
from benchmarks.paced_time import Pace

SEED = 20_261_201
PACE = Pace(  # four answers at once have three times the speed of one
    (0.1, 0.11, 0.12, 0.13), ((64, 0.2), (512, 1.5)), 0.0, 0.005, 256
)
SIZES = (1, 2, 4, 8, 16)
GROWTH = {2: 1.95, 4: 3.9, 8: 7.6, 16: 14.5}
UNLIKE = {"slow": 4.0, "middle": 1.0, "fast": 0.25}
UNLIKE_TARGET = Target("at least", 0.93)
ADDED_P50_MS, ADDED_P99_MS = Target("at most", 4.0), Target("at most", 15.0)
BUSY_TARGET = Target("at most", 60.0)


@dataclass(frozen=True, slots=True)
class Options:
    """`pace` is that of the fastest node of a part; times are in seconds."""

    pace: Path
    rounds: int
    quick: bool
    sizes: tuple[int, ...]

    def window_s(self, usual: float) -> float:
        return usual / 6 if self.quick else usual


def told_by(name: str, runs: Sequence[Measured]) -> list[Figure]:
    """What says whether this machine was the bottleneck."""
    return [
        Figure(
            f"{name}: the run's own share of the machine", "%", tuple(100 * m.busy.own_share for m in runs), BUSY_TARGET
        ),
        Figure(
            f"{name}: the machine's share that was busy, others included", "%", tuple(100 * m.busy.share for m in runs)
        ),
        Figure(f"{name}: tokens later than due, p99 (bound)", "ms", tuple(late_ms(m.told.values()) for m in runs)),
    ]


def lost(runs: Sequence[Measured]) -> int:
    return sum(len(m.window.failures) for m in runs)


async def growth(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    per_s: dict[tuple[int, int], list[float]] = {}
    for size in options.sizes:
        runs: dict[int, list[Measured]] = {1: [], 2: []}
        async with paced_swarm(options.pace, {f"n{number}": 3.0 for number in range(size)}) as swarm:
            for _ in range(options.rounds):
                for crowd, made in runs.items():
                    dice, lengths = random.Random(SEED), Lengths((64, 320), (12, 36))

                    def body(_: int, dice: random.Random = dice, lengths: Lengths = lengths) -> Json:
                        return question(dice, *lengths.take())

                    window_s = options.window_s(120.0 if size == 1 else 60.0)
                    made.append(await under_load(swarm, body, crowd * size * SLOTS, 12.0, window_s))
                    progress(f"{size} nodes, {crowd} clients a slot: {said(made[-1])}")
        for crowd, made in runs.items():
            clients = "as many clients as slots" if crowd == 1 else "twice as many clients"
            name = f"{size} node{'s' * (size > 1)}, {clients}"
            per_s[size, crowd] = [m.window.per_s for m in made]
            figures.append(Figure(name, "answers/s", tuple(per_s[size, crowd])))
            if size > 1 and (1, crowd) in per_s:
                target = Target("at least", GROWTH[size])
                figures.append(
                    Figure(f"**{name}, against one**", "", ratios(per_s[size, crowd], per_s[1, crowd]), target)
                )
                figures.append(
                    Figure(f"{name}: fairness (Jain's index of tokens)", "", tuple(m.fairness for m in made))
                )
            took = [m.window.took_s for m in made]
            for share in (0.5, 0.99):
                shown = tuple(percentile(each, share) for each in took)
                figures.append(Figure(f"{name}: an answer takes, p{100 * share:.0f}", "s", shown))
            if lost(made):
                figures.append(Figure(f"{name}: requests lost", "", (float(lost(made)),)))
        figures += told_by(f"{size} node{'s' * (size > 1)}", [m for made in runs.values() for m in made])
    return figures


def said(m: Measured) -> str:
    per_node = ", ".join(f"{name} {count}" for name, count in sorted(m.window.nodes.items()))
    return (
        f"{m.window.per_s:.3g} answers/s ({per_node}), {100 * m.busy.own_share:.0f} % of the machine "
        f"({100 * m.busy.share:.0f} % with others), late p99 {late_ms(m.told.values()):g} ms, lost {lost([m])}"
    )


async def unlike(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    names = list(UNLIKE)
    window_s = options.window_s(60.0)
    for front in ("slow", "fast"):
        order = [front, *(name for name in names if name != front)]
        together: list[Measured] = []
        apart: list[Measured] = []
        async with paced_swarm(options.pace, {name: UNLIKE[name] for name in order}) as swarm:
            for _ in range(options.rounds):
                lengths, own = Lengths((64, 320), (12, 36)), {name: Lengths((64, 320), (12, 36)) for name in names}
                dice = random.Random(SEED)

                def spread(_: int, dice: random.Random = dice, lengths: Lengths = lengths) -> Json:
                    return question(dice, *lengths.take())

                def by_hand(
                    number: int,
                    dice: random.Random = dice,
                    own: dict[str, Lengths] = own,
                    order: Sequence[str] = order,
                ) -> Json:
                    name = order[number % len(order)]
                    return question(dice, *own[name].take(), {**SINGLE, "node": name})

                clients = 2 * SLOTS * len(order)
                warm_s = options.window_s(25.0)
                places = [swarm.endpoint(name) for name in order]
                apart.append(await under_load(swarm, by_hand, clients, warm_s, window_s, places))
                progress(f"each of 1:4:16 by itself: {said(apart[-1])}")
                together.append(await under_load(swarm, spread, clients, warm_s, window_s))
                progress(f"all at the {front} one: {said(together[-1])}")
        rates = [m.window.per_s for m in together]
        sums = [m.window.per_s for m in apart]
        figures += [
            Figure(f"1:4:16, each by itself, the sum ({front} one's swarm)", "answers/s", tuple(sums)),
            Figure(f"1:4:16, all at the {front} one", "answers/s", tuple(rates)),
            Figure(f"**1:4:16, all at the {front} one, against the sum**", "", ratios(rates, sums), UNLIKE_TARGET),
            *told_by(f"1:4:16, {front} one asked", [*together, *apart]),
        ]
        if lost([*together, *apart]):
            figures.append(Figure(f"1:4:16, {front} one asked: requests lost", "", (float(lost([*together, *apart])),)))
    return figures


async def first_token_s(at: Endpoint, body: Json) -> tuple[float, str]:
    """Seconds until the first content of a stream, and the node that gave it."""
    async with asyncio.timeout(20):
        reply = await post(at, CHAT, {**body, "stream": True})
    lines = [line[6:] for line in body_of(reply).split(b"\n") if line.startswith(b"data: {")]
    routed = next((said["swarm"]["routed"]["node"] for line in lines if "swarm" in (said := json.loads(line))), "?")
    if reply.first_content is None:
        raise RunError("a stream without any content")
    return reply.first_content - reply.sent, routed


async def first_token(options: Options) -> list[Figure]:
    """The front is kept full by answers of its own, ten times as slow as the others; a peer answers whoever comes then.

    Prompts are read at once, so that what is left of the time is what the nodes take for it.
    """
    figures: list[Figure] = []
    pairs = 20 if options.quick else 150
    for size in [size for size in options.sizes if 1 < size <= 8]:
        dice = random.Random(SEED)
        sides: dict[bool, list[float]] = {False: [], True: []}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pace.json")
            Pace((0.02,), ((1024, 0.02),)).write(file)
            times = {f"n{number}": 1.0 if number else 10.0 for number in range(size)}
            async with paced_swarm(file, times) as swarm, AsyncExitStack() as stack:
                for _ in range(SLOTS):
                    body = {**question(dice, 4001, 4000, {**SINGLE, "node": swarm.names[0]}), "stream": True}
                    exchange = await stack.enter_async_context(opened(swarm.front, CHAT, body))
                    await exchange.begun.wait()
                clock = swarm.clock()
                for _ in range(pairs):
                    body = question(dice, 20, 16)
                    seconds, peer = await first_token_s(swarm.front, {**body, "max_tokens": 256})
                    if peer == swarm.names[0]:
                        raise RunError("the full node answered itself")
                    sides[False].append(seconds)
                    await asyncio.sleep(dice.uniform(0, 0.05))
                    body = question(dice, 20, 16)
                    seconds, _ = await first_token_s(swarm.endpoint(peer), {**body, "max_tokens": 256})
                    sides[True].append(seconds)
                    await asyncio.sleep(dice.uniform(0, 0.05))
                busy = clock.read()
        added = [1000 * (through - itself) for through, itself in zip(sides[False], sides[True], strict=True)]
        p99 = 1000 * (percentile(sides[False], 0.99) - percentile(sides[True], 0.99))
        progress(f"first token over {size} nodes: {percentile(added, 0.5):.2f} ms more, p99 {p99:.2f} ms more")
        promised, name = size <= 4, f"first token of a peer's answer, {size} nodes"
        figures += [
            Figure(f"{name}: through the full node", "ms", tuple(1000 * s for s in sides[False])),
            Figure(f"{name}: asked itself", "ms", tuple(1000 * s for s in sides[True])),
            Figure(f"**{name}: added, p50**", "ms", tuple(added), ADDED_P50_MS if promised else None),
            Figure(
                f"**{name}: p99 through the full node - p99 itself**", "ms", (p99,), ADDED_P99_MS if promised else None
            ),
            Figure(f"{name}: the machine's share that was busy", "%", (100 * busy.share,)),
        ]
    return figures


@dataclass(slots=True)
class Turns:
    """What conversations came to."""

    turns: int = 0
    stayed: int = 0
    followed: int = 0
    cached: int = 0
    prompt: int = 0
    took_s: float = 0.0


async def converse(swarm: PacedSwarm, number: int, turns: int, known: bool, counts: Turns) -> None:
    """One conversation; where it is not `known` again, each turn begins with other words, and is as long."""
    dice = random.Random(SEED + number)
    messages: list[Json] = []
    last = None
    for _ in range(turns):
        messages.append({"role": "user", "content": words(dice, 40)})
        start = words(random.Random(number if known else time.perf_counter_ns()), 300)
        body = {"model": MODEL, "max_tokens": 24, "swarm": SINGLE}
        body |= {"messages": [{"role": "system", "content": start}, *messages]}
        reply = await post(swarm.front, CHAT, body)
        answer = json.loads(body_of(reply))
        node = answer["swarm"]["routed"]["node"]
        counts.turns += 1
        counts.took_s += reply.last - reply.sent
        if last is not None:
            counts.followed += 1
            counts.stayed += node == last
        last = node
        usage = answer["usage"]
        counts.prompt += usage["prompt_tokens"]
        counts.cached += usage["prompt_tokens_details"]["cached_tokens"]
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        await asyncio.sleep(dice.uniform(0.5, 3))  # the person reads


async def sticky(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    turns = 3 if options.quick else 10
    async with paced_swarm(options.pace, {f"n{number}": 1.0 for number in range(4)}) as swarm:
        for share, conversations in (("three quarters", 12), ("one and a half times", 24)):
            came: dict[bool, list[Turns]] = {True: [], False: []}
            for round_number in range(options.rounds):
                for known in (True, False) if round_number % 2 else (False, True):
                    counts = Turns()
                    talks = [converse(swarm, n, turns, known, counts) for n in range(conversations)]
                    await asyncio.gather(*talks)
                    came[known].append(counts)
                    progress(f"{conversations} conversations, known again: {known}: {counts}")
            of = f"{conversations} conversations over 16 slots ({share})"
            seconds = {known: [c.took_s / c.turns for c in counted] for known, counted in came.items()}
            figures += [
                Figure(
                    f"{of}: turns that stay with their node",
                    "%",
                    tuple(100 * c.stayed / c.followed for c in came[True]),
                ),
                Figure(
                    f"{of}: the same of turns that nothing is known of",
                    "%",
                    tuple(100 * c.stayed / c.followed for c in came[False]),
                ),
                Figure(
                    f"{of}: prompt tokens that were not read again",
                    "%",
                    tuple(100 * c.cached / c.prompt for c in came[True]),
                ),
                Figure(f"{of}: a turn takes, known again / not", "", ratios(seconds[True], seconds[False])),
            ]
    return figures


async def kill(options: Options) -> list[Figure]:
    found: dict[str, list[float]] = {"lost": [], "answered": [], "dip": [], "recovery": []}
    window_s = 60.0 if not options.quick else 20.0
    runs: list[Measured] = []
    async with paced_swarm(options.pace, {f"n{number}": 1.0 for number in range(4)}) as swarm:
        for number in range(options.rounds):
            dice, lengths = random.Random(SEED + number), Lengths((64, 320), (12, 36))
            killed_at = 0.0

            async def assassin() -> None:
                nonlocal killed_at
                await asyncio.sleep(8.0 + window_s / 3)
                killed_at = time.perf_counter()
                swarm.at.nodes["n3"].kill()

            killer = asyncio.create_task(assassin())
            body: Callable[[int], Json] = lambda _, d=dice, lengths=lengths: question(d, *lengths.take())  # noqa: E731
            run = await under_load(swarm, body, 2 * 4 * SLOTS, 8.0, window_s)
            await killer
            runs.append(run)
            before, dip, recovery = around(run.window.ends, run.window.begin, killed_at, run.window.end)
            found["lost"].append(float(len(run.window.failures)))
            found["answered"].append(float(len(run.window.took_s)))
            found["dip"].append(dip / (0.75 * before))
            found["recovery"].append(recovery)
            shown = f"dip {found['dip'][-1]:.2f}, recovery {recovery:.1f} s, {run.window.failures[:3]}"
            progress(f"kill {number + 1}: {said(run)}; {shown}")
            swarm.at.nodes["n3"].start()
            await swarm.at.whole(60)
    return [
        Figure(
            "**`kill -9` of one of four under load: requests lost**", "", tuple(found["lost"]), Target("at most", 0)
        ),
        Figure("of so many answered in the window", "", tuple(found["answered"])),
        Figure("answers/s in the worst 4 s after it / three quarters of before", "", tuple(found["dip"])),
        Figure("until 4 s together have nine tenths of that again", "s", tuple(found["recovery"])),
        *told_by("kill", runs),
    ]


async def votes(options: Options) -> list[Figure]:
    asked: Json = {"strategy": "majority", "votes": 5}
    runs: dict[int, list[Measured]] = {1: [], 4: []}
    for size, made in runs.items():
        async with paced_swarm(options.pace, {f"n{number}": 2.0 for number in range(size)}) as swarm:
            for _ in range(options.rounds):
                dice, lengths = random.Random(SEED), Lengths((32, 96), (8, 16))
                body: Callable[[int], Json] = lambda _, d=dice, lengths=lengths: question(d, *lengths.take(), asked)  # noqa: E731
                made.append(await under_load(swarm, body, 2 * size, 10.0, options.window_s(90.0)))
                progress(f"votes of 5 over {size}: {said(made[-1])}")
    rates = {size: [m.window.per_s for m in made] for size, made in runs.items()}
    return [
        Figure("votes of 5, one node", "votes/s", tuple(rates[1])),
        Figure("votes of 5, four nodes", "votes/s", tuple(rates[4])),
        Figure("votes of 5, four nodes against one", "", ratios(rates[4], rates[1])),
        Figure(
            "votes of 5, four nodes: a vote takes, p50", "s", tuple(percentile(m.window.took_s, 0.5) for m in runs[4])
        ),
        Figure(
            "votes of 5, four nodes: a vote takes, p99", "s", tuple(percentile(m.window.took_s, 0.99) for m in runs[4])
        ),
        Figure("votes lost", "", (float(lost([*runs[1], *runs[4]])),), Target("at most", 0)),
        *told_by("votes", [*runs[1], *runs[4]]),
    ]


PARTS = {
    "growth": growth,
    "unlike": unlike,
    "first-token": first_token,
    "sticky": sticky,
    "kill": kill,
    "votes": votes,
}


def _as_ctrl_c(_: int, __: FrameType | None) -> None:
    """What was set up is taken down on the way out."""
    signal.raise_signal(signal.SIGINT)


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    made.add_argument(
        "--pace", type=Path, metavar="FILE", help="of `pace_of.py` (default: 10 tokens/s of a lone answer)"
    )
    made.add_argument("--rounds", type=int, metavar="N", help="of each part (default 3)")
    made.add_argument(
        "--nodes", type=int, nargs="+", metavar="N", help="of growth and first-token (default 1 2 4 8 16)"
    )
    args = made.parse_args()
    environment = read_environment()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs come without it
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    figures: list[Figure] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        pace = args.pace.resolve() if args.pace else Path(folder, "pace.json")
        if args.pace is None:
            PACE.write(pace)
        sizes = tuple(args.nodes or ((1, 2) if args.quick else SIZES))
        options = Options(pace, args.rounds or (1 if args.quick else 3), args.quick, sizes)
        for name in args.only:
            try:
                figures += asyncio.run(PARTS[name](options))
            except (RunError, AssertionError, OSError) as error:
                failed.append(name)
                progress(f"{name}: {error}\n" + "\n".join(getattr(error, "__notes__", ())))
    publish(environment, figures, args.json)
    if failed:
        print(f"\nnot measured, see above: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
