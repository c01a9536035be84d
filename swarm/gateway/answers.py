"""From a validated request to the client's answer: whole or streamed, by one voter or by vote."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web

from swarm.consensus.verdict import Verdict, decide, swarm_object
from swarm.engines.assembly import AnswerBuilder
from swarm.errors import EngineFailed, SwarmError, Unavailable
from swarm.gateway.condition import Condition
from swarm.gateway.errors import REQUEST_ID_HEADER, sse_error
from swarm.gateway.metrics import Metrics
from swarm.gateway.shapes import DONE, Shape, add_usage, compact, message_object
from swarm.gateway.sse import CLIENT_HEARTBEAT_S, PEER_HEARTBEAT_S, EventStreamResponse, event_stream
from swarm.generation import Candidate, Delta, Finish, GenerationRequest, JsonObject, Usage
from swarm.routing.ballot import Outcome
from swarm.routing.dispatcher import Dispatcher, Served
from swarm.routing.policy import Plan, VoteOptions
from swarm.routing.voters import finished_events
from swarm.tracing import current_request_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One client request, validated: what to generate, how to vote, how to answer."""

    request: GenerationRequest
    options: VoteOptions
    choices: int
    stream: bool
    include_usage: bool
    local_only: bool = False  # asked by a peer: this node answers itself, so that nothing loops


class Answerer:
    """Turns requests into responses with a dispatcher's help."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, condition: Condition) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._condition = condition

    async def answer(self, http: web.Request, asked: Asked) -> web.StreamResponse:
        """The response to `asked`; failures before the first byte are raised for the error mapper."""
        if self._condition.draining:
            raise Unavailable(f"node {self._dispatcher.node!r} is shutting down: ask another node")
        plan = self._dispatcher.plan(asked.request, asked.options, asked.choices, asked.local_only)
        kind = "text" if asked.request.messages is None else "chat"
        shape = Shape(kind, asked.request.model, asked.include_usage)
        answer = _Answer(self._dispatcher, self._metrics, asked, plan, shape)
        return await (answer.streamed(http) if asked.stream else answer.whole())


class _Answer:
    """The work on one request."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, asked: Asked, plan: Plan, shape: Shape) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._asked = asked
        self._plan = plan
        self._shape = shape
        self._started = time.perf_counter()
        self._served: Served | None = None

    def _on_served(self, served: Served) -> None:
        self._served = served

    @property
    def _elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def _headers(self, verdict: Verdict | None = None) -> dict[str, str]:
        headers = {"X-Swarm-Node": self._dispatcher.node.encode("ascii", "replace").decode()}
        headers[REQUEST_ID_HEADER] = current_request_id.get()
        if verdict is not None:
            headers["X-Swarm-Votes"] = str(verdict.votes)
            if verdict.agreement is not None:
                headers["X-Swarm-Agreement"] = f"{verdict.agreement:.4f}"
        return headers

    def _extension(self, verdict: Verdict) -> JsonObject:
        return swarm_object(verdict, coordinator=self._dispatcher.node, elapsed_ms=self._elapsed_ms)

    def _single_verdict(self, candidate: Candidate) -> Verdict:
        question = self._dispatcher.question(self._asked.request, VoteOptions("single"))
        return decide(question, [candidate], asked=1, wanted=self._plan.wanted, stopped_by="single")

    def _events(self) -> AsyncGenerator[Delta | Finish, None]:
        asked = self._asked
        return self._dispatcher.single(asked.request, asked.choices, self._on_served, asked.local_only)

    def _candidate(self, builder: AnswerBuilder) -> Candidate:
        if self._served is None:
            raise EngineFailed("no event came from any replica")
        replica = self._served.replica
        return builder.candidate(self._served.voter, replica.node, replica.model, self._elapsed_ms)

    # Whole answers

    async def whole(self) -> web.Response:
        verdict: Verdict | None = None
        if self._plan.mode == "vote":
            verdict = await self._verdict()
            candidates = [winner_of(verdict)]
        else:
            candidates = await self._choices()
            if len(candidates) == 1:
                verdict = self._single_verdict(candidates[0])
        extension = None if verdict is None else self._extension(verdict)
        self._metrics.answered(candidates, verdict)
        body = self._shape.whole(candidates, extension)
        return web.Response(text=compact(body), content_type="application/json", headers=self._headers(verdict))

    async def _verdict(self) -> Verdict:
        asked = self._asked
        async with aclosing(self._dispatcher.vote(asked.request, self._plan, asked.options, stream=False)) as progress:
            async for item in progress:
                if isinstance(item, Outcome):
                    return item.verdict
        raise EngineFailed("the ballot ended without a verdict")

    async def _choices(self) -> list[Candidate]:
        builders = [AnswerBuilder() for _ in range(self._asked.choices)]
        async with aclosing(self._events()) as events:
            async for event in events:
                builders[event.choice].add(event)
        return [self._candidate(builder) for builder in builders]

    # Streams

    async def streamed(self, http: web.Request) -> web.StreamResponse:
        beat_s = PEER_HEARTBEAT_S if self._asked.local_only else CLIENT_HEARTBEAT_S
        async with event_stream(http, self._headers(), beat_s) as out:
            writer = StreamWriter(out, self._shape, self._asked.choices)
            try:
                await (self._stream_vote(writer) if self._plan.mode == "vote" else self._stream_single(writer))
                await out.write(DONE)
            except SwarmError as error:
                if not out.begun:
                    raise
                log.warning("stream broken off: %s", error)
                await out.write(sse_error(error))
            except ConnectionResetError:
                log.info("the client left")
        return out.response

    async def _stream_single(self, writer: StreamWriter) -> None:
        builders = [AnswerBuilder() for _ in range(self._asked.choices)]
        finishes: list[Finish] = []
        async with aclosing(self._events()) as events:
            async for event in events:
                builders[event.choice].add(event)
                if isinstance(event, Delta):
                    await writer.delta(event)
                    continue
                finishes.append(event)
                if len(finishes) < len(builders):
                    await writer.finish(event)
        candidates = [self._candidate(builder) for builder in builders]
        verdict = self._single_verdict(candidates[0]) if len(candidates) == 1 else None
        self._metrics.answered(candidates, verdict)
        await writer.finish(finishes[-1], None if verdict is None else self._extension(verdict))
        await writer.usage([candidate.usage for candidate in candidates])

    async def _stream_vote(self, writer: StreamWriter) -> None:
        asked = self._asked
        async with aclosing(self._dispatcher.vote(asked.request, self._plan, asked.options, stream=True)) as progress:
            async for item in progress:
                if isinstance(item, Delta):
                    await writer.delta(item)
                else:
                    await self._stream_outcome(writer, item)

    async def _stream_outcome(self, writer: StreamWriter, outcome: Outcome) -> None:
        winner = winner_of(outcome.verdict)
        shown = outcome.leader or winner
        extension = self._extension(outcome.verdict)
        if outcome.leader is None:
            async for event in finished_events(winner, 0):
                if isinstance(event, Delta):
                    await writer.delta(event)
        else:
            leader = outcome.leader.voter
            confirmed = any(c.voter == leader and c.group == 0 for c in outcome.verdict.candidates)
            extension["leader"] = leader
            extension["confirmed"] = confirmed
            if confirmed:  # its words are as good as the winner's, and they are what the client has
                extension["winner"] = leader
            else:
                extension["winner_message"] = message_object(winner)
        self._metrics.answered([shown], outcome.verdict)
        await writer.finish(Finish(0, shown.finish_reason or "stop", shown.usage), extension)
        await writer.usage([shown.usage])


def winner_of(verdict: Verdict) -> Candidate:
    """The winning answer; when no voter gave one, the first voter's own words for why."""
    if verdict.winner is None:
        reasons = "; ".join(f"{c.voter}: {c.abstained}" for c in verdict.candidates) or "none answered in time"
        raise EngineFailed(f"no voter gave an answer: {reasons}")
    return verdict.winner


class StreamWriter:
    """Encodes events as OpenAI's chunks. Each choice opens once, with its role."""

    def __init__(self, out: EventStreamResponse, shape: Shape, choices: int) -> None:
        self._out = out
        self._shape = shape
        self._head = shape.head()
        self._tail = shape.tail()
        self._unopened = set(range(choices))

    async def _chunk(self, choice: int, body: str) -> None:
        text = f"{self._head}{body}{self._tail}"
        if choice in self._unopened:
            self._unopened.discard(choice)
            opening = self._shape.opening(choice)
            if opening is not None:
                text = f"{self._head}{opening}{self._tail}{text}"
        await self._out.write(text.encode())

    async def delta(self, event: Delta) -> None:
        await self._chunk(event.choice, self._shape.delta(event))

    async def finish(self, event: Finish, extension: JsonObject | None = None) -> None:
        """The choice's last chunk; with `extension` it carries the `swarm` object."""
        self._tail = self._shape.tail(extension)
        await self._chunk(event.choice, self._shape.finish(event.choice, event.reason))

    async def usage(self, usages: list[Usage]) -> None:
        """The usage chunk, where the client asked for one."""
        if self._shape.include_usage:
            await self._out.write(self._shape.usage_chunk(add_usage(usages)).encode())
