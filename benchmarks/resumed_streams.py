"""Streamed answers whose node is killed in the middle: the pause, and whether a token is lost, doubled or another's.

    python benchmarks/resumed_streams.py [--kills 200] [--tokens 1500] [--beside N] [--freeze] [--quick] [--json FILE]
    python benchmarks/resumed_streams.py --natural --model smollm2:135m --tokens 300

Four real nodes on loopback: the one that is asked does not have the model, three others have it. Each round asks for a
random text of its own (a seed and a high temperature, or every other round temperature 0), kills the node that answers
with `kill -9` at a random token, reads the stream to its end, and starts the node again. The same question is then
answered without a kill: every token of the stream, as its log-probabilities name them, is held against that. A kill
that came after the last token is told, and made again. With `--beside` so many other streams run on the three nodes all
the while, so that answers are computed in batches of changing sizes.
`--freeze` stops the node (SIGSTOP) in place of killing it: then it is silence that has to be noticed.

The embedded models say the same on every node. Models that people use do not quite: numbers are rounded otherwise
where a prompt is read in other batches. `--natural` asks those natural questions (temperature 0, or 0.7 and a seed),
tells how often that ends an answer, and holds the tokens that the client got against those that the last node counts:
one that was lost or doubled where the two parts meet would show.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import random
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from load import Endpoint, RunError, fresh_prompt, special_tokens
from measure import Figure, Target
from report import parser, progress, publish, read_environment

from federation.tasks import cancel_and_wait
from tests.e2e.asking import federation_view
from tests.e2e.node_process import NodeProcess

CHAT = "/v1/chat/completions"
LOST_MODEL_S = 60.0  # three processes that start on one machine
SILENCE_S = 60.0
HOT = 1.5  # random words: a token that is lost or doubled shows
WARM = 0.7  # as people ask
SEED_BITS = 31
ABOUT = ("a lighthouse", "two brothers", "an old clock", "a river", "the last train", "a garden", "a lost letter")
POLL_S = 0.02
ALONE = ("--peer", "127.0.0.1:9")  # federated, and no multicast: whatever else runs on this machine stays out
KINDS: dict[str, Callable[[Round], bool]] = {
    "temperature 0": lambda each: each.greedy,
    "a seed": lambda each: not each.greedy,
}
GAP_MS = Target("at most", 7000)
NONE = Target("at most", 0)


@dataclass(slots=True)
class Heard:
    """A stream as its client has it: each token with the instant at which it came."""

    tokens: list[str] = field(default_factory=list[str])
    at_s: list[float] = field(default_factory=list[float])
    text: str = ""
    account: Mapping[str, Any] = field(default_factory=dict[str, Any])
    usage: int | None = None
    ended_itself: bool = False  # by a token that is counted and has no text
    error: str | None = None
    done: bool = False

    def take(self, chunk: Mapping[str, Any]) -> None:
        if "error" in chunk:
            self.error = str(chunk["error"]["message"])
        for choice in chunk.get("choices", ()):
            self.ended_itself = self.ended_itself or choice["finish_reason"] == "stop"
            self.text += choice["delta"].get("content") or ""
            logprobs: Mapping[str, Any] = choice.get("logprobs") or {}
            for token in logprobs.get("content", ()):
                self.tokens.append(token["token"])
                self.at_s.append(time.perf_counter())
        self.account = chunk.get("swarm", self.account)
        if chunk.get("usage"):
            self.usage = chunk["usage"]["completion_tokens"]


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one stream. `gap_ms` is the longest pause between two tokens from the kill on."""

    greedy: bool
    came_too_late: bool
    went_on: bool
    continued: bool
    diverged: bool
    error: str | None
    gap_ms: float
    shown_tokens: int
    lost: int
    doubled: int
    miscounted: int


class Client:
    """Who asks the front node."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    @asynccontextmanager
    async def open(self, body: Mapping[str, Any]) -> AsyncGenerator[aiohttp.ClientResponse]:
        async with self._session.post(self._url + CHAT, json=body) as response:
            if response.status != 200:
                raise RunError(f"answered {response.status}: {await response.text()}")
            yield response

    async def stream(self, body: Mapping[str, Any], heard: Heard) -> AsyncGenerator[None]:
        """A turn for whoever watches, each time that `heard` has more."""
        async with self.open(body) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    heard.take(json.loads(line.removeprefix(b"data: ")))
                    yield
                heard.done = heard.done or line == b"data: [DONE]\n"

    async def whole(self, body: Mapping[str, Any]) -> Heard:
        heard = Heard()
        async with aclosing(self.stream(body, heard)) as events:
            async for _ in events:
                pass
        return heard


def question(
    model: str, dice: random.Random, bias: Mapping[str, Any] | None, tokens: int, greedy: bool
) -> dict[str, Any]:
    """One that no cache has seen, and that is answered in so many tokens; a natural one, where there is no `bias`."""
    heat = WARM if bias is None else HOT
    sampling: dict[str, Any] = {"temperature": 0}
    if not greedy:
        sampling = {"temperature": heat, "seed": dice.getrandbits(SEED_BITS)}
    if bias is None:
        words = f"Tell me a long story about {dice.choice(ABOUT)} and the number {dice.randrange(10**6)}."
        asked = {"messages": [{"role": "user", "content": words}]}
    else:
        asked = {"messages": fresh_prompt(dice), "logit_bias": bias}
    return {
        "model": model,
        **asked,
        "max_tokens": tokens,
        "logprobs": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "swarm": {"strategy": "single"},
        **sampling,
    }


def compared(got: Sequence[str], wanted: Sequence[str]) -> tuple[int, int]:
    """Tokens of `wanted` that are missing in `got`, and tokens of `got` that are too many."""
    lost = doubled = 0
    for kind, begin, end, other_begin, other_end in difflib.SequenceMatcher(None, wanted, got, False).get_opcodes():
        if kind in ("delete", "replace"):
            lost += end - begin
        if kind in ("insert", "replace"):
            doubled += other_end - other_begin
    return lost, doubled


def judged(heard: Heard, reference: Heard | None, killed_at_s: float, greedy: bool) -> Round:
    """What the client got, against what the same question is answered without a kill, where that is known.

    Where the stream ended by an error, what it has must be the beginning of that.
    """
    lost = doubled = 0
    whole = heard.error is None
    if reference is not None:
        lost, doubled = compared(heard.tokens, reference.tokens if whole else reference.tokens[: len(heard.tokens)])
        if whole and not (heard.done and heard.text == reference.text):
            lost = max(lost, 1)
    before = max((at for at in heard.at_s if at <= killed_at_s), default=killed_at_s)
    instants = [before, *(at for at in heard.at_s if at > killed_at_s)]
    gaps = [after - at for at, after in pairwise(instants)]
    shown = sum(at <= killed_at_s for at in heard.at_s)
    return Round(
        greedy=greedy,
        came_too_late=whole and "resumed" not in heard.account,
        went_on="resumed" in heard.account,
        continued=heard.account.get("resumed", {}).get("how") == "continued",
        diverged=heard.error is not None and "answers otherwise" in heard.error,
        error=heard.error,
        gap_ms=max(gaps, default=0.0) * 1000,
        shown_tokens=shown,
        lost=lost,
        doubled=doubled,
        miscounted=abs((heard.usage or 0) - heard.ended_itself - len(heard.tokens)) if whole else 0,
    )


async def until_known(front: NodeProcess, names: set[str]) -> str:
    """The model for which the front would ask all of `names`, as soon as it would."""
    async with asyncio.timeout(LOST_MODEL_S):
        while True:
            view = await federation_view(front) or {"models": {}}
            found = next((model for model, nodes in view["models"].items() if set(nodes) >= names), None)
            if found is not None:
                return found
            await asyncio.sleep(POLL_S)


async def answering(front: NodeProcess, asked_before: Mapping[str, int], nodes: Mapping[str, NodeProcess]) -> str:
    """The node that has been asked since."""
    async with asyncio.timeout(SILENCE_S):
        while True:
            for name, count in asked(front, nodes).items():
                if count > asked_before[name]:
                    return name
            await asyncio.sleep(POLL_S)


def asked(front: NodeProcess, nodes: Mapping[str, NodeProcess]) -> dict[str, int]:
    """How often the front's log says that each node answers."""
    log = front.output + front.errors
    return {name: log.count(f"{name} answers with ") for name in nodes}


async def one_round(
    client: Client,
    front: NodeProcess,
    nodes: Mapping[str, NodeProcess],
    body: dict[str, Any],
    at: int,
    freeze: bool,
    natural: bool,
) -> tuple[Round, str]:
    """One answer, whose node is lost after `at` tokens; and which that was."""
    before = asked(front, nodes)
    lost, killed_at_s, heard = "", 0.0, Heard()
    async with aclosing(client.stream(body, heard)) as events:
        async for _ in events:
            if not lost and len(heard.tokens) >= at:
                lost = await answering(front, before, nodes)
                killed_at_s = time.perf_counter()
                nodes[lost].send(signal.SIGSTOP if freeze else signal.SIGKILL)
    if not lost:
        if natural and heard.error is None:  # a short story
            return judged(heard, None, time.perf_counter(), body["temperature"] == 0), ""
        raise RunError(f"the answer had {len(heard.tokens)} tokens, and {at} were waited for: {heard.error}")
    nodes[lost].kill()
    reference = None if natural else await client.whole(body)
    if reference is not None and reference.error is not None:
        raise RunError(f"the same question could not be answered again: {reference.error}")
    return judged(heard, reference, killed_at_s, body["temperature"] == 0), lost


async def talking(client: Client, body: dict[str, Any], dice: random.Random) -> None:
    """One other stream after the other, whatever becomes of them."""
    while True:
        try:
            await client.whole({**body, "messages": fresh_prompt(dice), "seed": dice.getrandbits(SEED_BITS)})
        except (RunError, aiohttp.ClientError):
            await asyncio.sleep(POLL_S)


async def run(
    kills: int, tokens: int, beside: int, freeze: bool, natural: bool, front: NodeProcess, nodes: dict[str, NodeProcess]
) -> list[Round]:
    """As many rounds; each begins with all nodes there."""
    dice, rounds = random.Random(kills), list[Round]()
    for node in (front, *nodes.values()):
        await node.ready()
    model = await until_known(front, set(nodes))
    first = Endpoint.at(next(iter(nodes.values())).url)
    bias = None if natural else await asyncio.to_thread(special_tokens, first)
    timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_S)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        client = Client(session, front.url)
        others = question(model, dice, bias, tokens, greedy=False)
        tasks = [asyncio.create_task(talking(client, others, random.Random(number))) for number in range(beside)]
        try:
            while (number := sum(not each.came_too_late for each in rounds)) < kills:
                body = question(model, dice, bias, tokens, greedy=number % 2 == 1)
                at = dice.randrange(1, tokens // 2)
                each, lost = await one_round(client, front, nodes, body, at, freeze, natural)
                rounds.append(each)
                progress(f"{number + 1}/{kills}: {lost or 'nobody'} lost: {each}")
                if not lost:
                    continue
                nodes[lost].start()
                await nodes[lost].ready()
                await until_known(front, set(nodes))
        finally:
            await cancel_and_wait(*tasks)
    return rounds


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def went_on(rounds: Sequence[Round]) -> float | None:
    """Their share; None of none."""
    return sum(each.went_on for each in rounds) / len(rounds) if rounds else None


def figures_of(rounds: Sequence[Round]) -> list[Figure]:
    late = sum(each.came_too_late for each in rounds)
    rounds = [each for each in rounds if not each.came_too_late]
    on = [each for each in rounds if each.went_on]
    gaps = tuple(each.gap_ms for each in on) or (0.0,)
    figures = [
        Figure("nodes lost in mid-answer", "", (len(rounds),)),
        Figure("nodes lost too late, after the last token", "", (late,)),
        *(
            Figure(f"share of the streams that went on, {words}", "", (share,))
            for words, kind in KINDS.items()
            if (share := went_on(list(filter(kind, rounds)))) is not None
        ),
        Figure("streams ended by an error: the words differed", "", (sum(each.diverged for each in rounds),)),
        Figure("streams ended by an error: all", "", (sum(each.error is not None for each in rounds),)),
        Figure("pause as its client has it", "ms", gaps, GAP_MS),
        Figure("pause, p99", "ms", (percentile(gaps, 0.99),), GAP_MS),
    ]
    if continued := tuple(each.gap_ms for each in on if each.continued):
        figures.append(Figure("pause of those that were continued", "ms", continued, GAP_MS))
    return [
        *figures,
        Figure("tokens that the client had", "", tuple(each.shown_tokens for each in on) or (0,)),
        Figure("tokens lost, in all", "", (sum(each.lost for each in rounds),), NONE),
        Figure("tokens doubled, in all", "", (sum(each.doubled for each in rounds),), NONE),
        Figure("tokens that usage counts wrongly, in all", "", (sum(each.miscounted for each in rounds),), NONE),
    ]


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--kills", type=int, metavar="N", help="default 200")
    made.add_argument("--tokens", type=int, default=1500, metavar="N", help="of each answer (default 1500)")
    made.add_argument("--beside", type=int, default=0, metavar="N", help="other streams all the while (default none)")
    made.add_argument("--freeze", action="store_true", help="stop the node (SIGSTOP) in place of killing it")
    made.add_argument("--natural", action="store_true", help="natural questions, as far as their answers go")
    made.add_argument("--model", default="demo:b", metavar="MODEL", help="of the three nodes (default demo:b)")
    options = made.parse_args()
    environment = read_environment()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = ("--host", "127.0.0.1")
        front = NodeProcess("front", Path(folder) / "front", arguments=(*place, *ALONE, "--log-level", "info"))
        stack.enter_context(front)
        asyncio.run(front.ready())
        join = ("--peer", front.url.removeprefix("http://"), "--model", options.model)
        nodes = {name: NodeProcess(name, Path(folder) / name, arguments=(*place, *join)) for name in "abc"}
        for node in nodes.values():
            stack.enter_context(node)
        kills = options.kills or (4 if options.quick else 200)
        work = run(kills, options.tokens, options.beside, options.freeze, options.natural, front, nodes)
        rounds = asyncio.run(work)
    publish(environment, figures_of(rounds), options.json)


if __name__ == "__main__":
    main()
