"""What one gateway process carries: a front node without a model, two hundred streams, a peer that generates for it.

    python benchmarks/front_node.py [--quick] [--only open|paired] [--rates N ...] [--json FILE]

The front is `swarm --no-model`, as a user starts it. Its peer (`token_peer.py`) is a real node whose tokens come at a
set pace and cost next to nothing, so that on two cores the front's event loop is full first. Each stream gets as many
tokens a second as `--rates` says, all at their own instants; a token's text is when it was written, so that whoever
reads it sees how long it took through the front. Clients and peer are processes of their own.

At the first rate the front keeps up: the figures are its share of a core and what it adds to a token. At the last one
its event loop is full, and what is carried is what one core can. For how long it had to leave the core to others of the
machine is said, too: tokens that wait come several at a time, which costs less.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from load import CHAT, Endpoint, Exchange, Json, Reply, RunError, body_of, opened
from measure import Figure, Target
from nodes import CommandLineNode, command_line_node, token_peer
from report import parser, progress, publish, read_environment

from tests.doubles.paired import paired_trusts

STREAMS = 200
TOKEN = re.compile(rb'"content":" (\d+\.\d+)"')
CARRIED_TARGET = Target("at least", 3000.0)
OPENED_TOGETHER = 25  # as many at once as is kind to a node that has to plan each
WARM_S = 2.0  # after the last stream has begun
KNOWN_S = 30.0  # until the front knows its peer
LAST_TOKEN_S = 600.0  # an answer is as long as it takes; it is left


@dataclass(frozen=True, slots=True)
class Carried:
    """One window of all streams through the front."""

    tokens_per_s: float
    core_share: float  # of the front's process, 1 is a core
    cpu_us_per_token: float
    waited_share: float  # of the time in which it could have run: others had the core
    added_ms: tuple[float, ...]  # from the peer's write to the client's read, each token, ascending
    gaps_ms: tuple[float, ...]  # between two tokens of a stream as its client reads them, ascending
    peer_share: float
    client_share: float


def asked(rate: float, model: str) -> Json:
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"{rate} tokens/s"}],
        "max_tokens": round(rate * LAST_TOKEN_S),
        "stream": True,
        "swarm": {"strategy": "single"},
    }


async def carried(front: CommandLineNode, peer: psutil.Process, rate: float, streams: int, window_s: float) -> Carried:
    """`streams` answers at `rate` tokens/s each, looked at for `window_s` after all have begun."""
    endpoint, body, own = Endpoint.at(front.url), asked(rate, "echo"), psutil.Process()
    watched = (front.process, peer, own)
    async with AsyncExitStack() as stack:
        running: list[Exchange] = []
        for start in range(0, streams, OPENED_TOGETHER):
            bodies = [body] * min(OPENED_TOGETHER, streams - start)
            running += await asyncio.gather(*(stack.enter_async_context(opened(endpoint, CHAT, one)) for one in bodies))
            for stream in running:
                await stream.begun.wait()
        await asyncio.sleep(WARM_S)
        begun, before, waited_s = time.monotonic(), [cpu_s(process) for process in watched], waiting_s(front.process)
        await asyncio.sleep(window_s)
        ended, after = time.monotonic(), [cpu_s(process) for process in watched]
        waited_s = waiting_s(front.process) - waited_s
        for stream in running:
            if stream.done.done():
                body_of(await stream.done)
                raise RunError("a stream ended before it was looked at")
        pieces = [list(stream.pieces) for stream in running]
    streams_seen = [
        [(came, written) for came, written in tokens_of(stream) if begun <= came < ended] for stream in pieces
    ]
    added_ms = [(came - written) * 1000 for stream in streams_seen for came, written in stream]
    gaps_ms = [(late - early) * 1000 for stream in streams_seen for (early, _), (late, _) in pairwise(stream)]
    took_s = ended - begun
    front_s, peer_s, client_s = (now - then for then, now in zip(before, after, strict=True))
    return Carried(
        tokens_per_s=len(added_ms) / took_s,
        core_share=front_s / took_s,
        cpu_us_per_token=front_s * 1e6 / len(added_ms),
        waited_share=waited_s / took_s,
        added_ms=tuple(sorted(added_ms)),
        gaps_ms=tuple(sorted(gaps_ms)),
        peer_share=peer_s / took_s,
        client_share=client_s / took_s,
    )


def cpu_s(process: psutil.Process) -> float:
    """Computed so far by all threads of `process`, in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def waiting_s(process: psutil.Process) -> float:
    """For how long its main thread could have run and had no core, in seconds; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def tokens_of(pieces: list[tuple[float, bytes]]) -> Generator[tuple[float, float]]:
    """When each token of a stream came, and when it had been written."""
    ends: list[tuple[int, float]] = []  # how many bytes had come by when
    length = 0
    for came, piece in pieces:
        length += len(piece)
        ends.append((length, came))
    place = iter(ends)
    end, came = next(place, (0, 0.0))
    for found in TOKEN.finditer(b"".join(piece for _, piece in pieces)):
        while end < found.end():
            end, came = next(place)
        yield came, float(found.group(1))


@contextmanager
def front_and_peer(paired: bool) -> Generator[tuple[CommandLineNode, psutil.Process]]:
    """The two, which know each other; members of one swarm over mutual TLS, where they are `paired`."""
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        if paired:
            paired_trusts(folder, "front", "peer")
        with token_peer(folder / "peer") as (address, peer):
            options = ("--no-model", "--host", "127.0.0.1", "--peer", address, "--data-dir", str(folder / "front"))
            with command_line_node(*options) as front:
                asyncio.run(known(front))
                yield front, peer


async def known(front: CommandLineNode) -> None:
    """Returns when the front answers through its peer."""
    body = asked(1000.0, "echo") | {"max_tokens": 1}
    deadline = time.monotonic() + KNOWN_S
    while True:
        async with opened(Endpoint.at(front.url), CHAT, body) as stream:
            reply: Reply = await stream.done
        if reply.raw.startswith(b"HTTP/1.1 200"):
            return
        if time.monotonic() > deadline:
            raise RunError(f"the front does not reach its peer: {reply.raw[-300:]!r}")
        await asyncio.sleep(0.1)


def percentile(ordered: tuple[float, ...], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measured(rounds: int, rates: list[float], streams: int, window_s: float, paired: bool) -> list[Figure]:
    got: dict[float, list[Carried]] = {rate: [] for rate in rates}
    way = "paired" if paired else "open"
    for number in range(rounds):
        with front_and_peer(paired) as (front, peer):
            for rate in rates:
                one = asyncio.run(carried(front, peer, rate, streams, window_s))
                got[rate].append(one)
                progress(
                    f"{way} {number + 1}: {streams} x {rate:g}/s: {one.tokens_per_s:.0f} tokens/s, front"
                    f" {one.core_share:.0%} of a core, {one.cpu_us_per_token:.0f} us a token, added"
                    f" {percentile(one.added_ms, 0.5):.1f} / {percentile(one.added_ms, 0.99):.1f} ms; it waited for a"
                    f" core {one.waited_share:.0%}, peer {one.peer_share:.0%}, clients {one.client_share:.0%} of one"
                )
    figures: list[Figure] = []
    for rate, windows in got.items():
        what = f"{way}, {streams} streams of {rate:g} tokens/s"
        target = CARRIED_TARGET if rate == max(rates) else None
        figures += [
            Figure(f"**{what}: carried**", "tokens/s", tuple(w.tokens_per_s for w in windows), target),
            Figure(f"{what}: the front", "% of a core", tuple(100 * w.core_share for w in windows)),
            Figure(f"{what}: it waited for a core", "% of the time", tuple(100 * w.waited_share for w in windows)),
            Figure(f"{what}: the front's CPU", "µs/token", tuple(w.cpu_us_per_token for w in windows)),
        ]
        for name, share in (("median", 0.5), ("p99", 0.99)):
            figures += [
                Figure(
                    f"{what}: added to a token, {name}", "ms", tuple(percentile(w.added_ms, share) for w in windows)
                ),
                Figure(
                    f"{what}: between two tokens, {name}", "ms", tuple(percentile(w.gaps_ms, share) for w in windows)
                ),
            ]
    return figures


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, metavar="N", help="default 3")
    made.add_argument("--streams", type=int, default=STREAMS, metavar="N", help=f"default {STREAMS}")
    made.add_argument("--rates", type=float, nargs="+", default=[15.0, 120.0], metavar="N", help="of each stream")
    made.add_argument("--seconds", type=float, metavar="S", help="of each window (default 10)")
    made.add_argument("--only", choices=("open", "paired"), help="one of the two")
    options = made.parse_args()
    rounds, window_s = (
        options.rounds or (1 if options.quick else 3),
        options.seconds or (2.0 if options.quick else 10.0),
    )
    environment = read_environment()
    figures: list[Figure] = []
    for way in ("open", "paired"):
        if options.only in (None, way):
            figures += measured(rounds, options.rates, options.streams, window_s, way == "paired")
    publish(environment, figures, options.json)


if __name__ == "__main__":
    main()
