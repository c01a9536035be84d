"""From a validated request to the client's answer: planned here, given whole or streamed.

Answers that do not stream: one JSON body when everything is known.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace

from aiohttp import web

from swarm.consensus.verdict import Verdict
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.registry import engine_of_replica
from swarm.errors import EngineFailed
from swarm.gateway.answers.request_context import Answering, Asked, may_leave, winner_of
from swarm.gateway.answers.streamed_answer import streamed_answer
from swarm.gateway.answers.streams import Pacing
from swarm.gateway.http.bodies import BODY_BYTES, SCHEMAS_ON_LOOP_BYTES, off_loop
from swarm.gateway.http.compact_json import compact
from swarm.gateway.http.condition import Condition
from swarm.gateway.observing.metrics import Metrics
from swarm.generation import Candidate, GenerationRequest
from swarm.routing.ballot_box import Outcome
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S, Dispatcher


async def whole_answer(answering: Answering) -> web.Response:
    """The response, voted on if so planned."""
    candidates, verdict = await whole_candidates(answering)
    body = answering.asked.form.whole(candidates, None if verdict is None else answering.extension(verdict))
    return web.Response(text=compact(body), content_type="application/json", headers=answering.headers(verdict))


async def whole_candidates(answering: Answering) -> tuple[list[Candidate], Verdict | None]:
    """The answers that the client gets, and how they were found; counted."""
    verdict: Verdict | None
    if answering.plan.mode == "vote":
        verdict = await _vote(answering)
        candidates = [winner_of(verdict)]
    else:
        candidates = await _choices(answering)
        verdict = answering.verdict_on(candidates)
    answering.count(candidates, verdict)
    return candidates, verdict


async def _vote(answering: Answering) -> Verdict:
    async with aclosing(answering.vote(stream=False)) as progress:
        async for item in progress:
            if isinstance(item, Outcome):
                return item.verdict
    raise EngineFailed("the ballot ended without a verdict")


async def _choices(answering: Answering) -> list[Candidate]:
    builders = [AnswerBuilder() for _ in range(answering.asked.choices)]
    async with answering.deadline(), aclosing(answering.events()) as events:
        async for event in events:
            builders[event.choice].add(event)
    return answering.candidates(builders)


async def refuse_impossible(request: GenerationRequest, engines: Iterable[str | None], body_bytes: int) -> None:
    """Raises BadRequest where one of `engines` (see `Plan`) could never answer `request`, whose body was so large."""

    def check() -> None:
        for entry in {engine_of_replica(name) for name in engines}:
            entry.check(request)

    has_schemas = request.tools or request.response_format is not None
    if has_schemas and body_bytes > SCHEMAS_ON_LOOP_BYTES:
        await off_loop(check)
    else:
        check()


class Answerer:
    """Turns requests into responses with a dispatcher's help."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, condition: Condition, pacing: Pacing) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._condition = condition
        self._pacing = pacing

    async def answer(self, http: web.Request, asked: Asked) -> web.StreamResponse:
        """The response to `asked`; failures before the first byte are raised for the error mapper."""
        answering = self.planned(http, asked)
        await refuse_impossible(asked.request, answering.plan.engines, http.get(BODY_BYTES, 0))
        if asked.stream:
            return await streamed_answer(http, answering, self._pacing)
        return await whole_answer(answering)

    def planned(self, http: web.Request, asked: Asked) -> Answering:
        """The work on `asked`, not begun. Raises what no plan can be made for."""
        options = replace(asked.options, upstream=may_leave(http, asked.options))
        asked = replace(asked, options=options)
        with self._condition.finding_a_model(self._dispatcher.node, asked.local_only):
            plan = self._dispatcher.plan(asked.request, asked.options, asked.choices, asked.local_only)
        return Answering(
            dispatcher=self._dispatcher,
            metrics=self._metrics,
            asked=asked,
            plan=plan,
            deadline=time.monotonic() + (asked.options.deadline_s or DEFAULT_DEADLINE_S),
        )


ANSWERER = web.AppKey("answerer", Answerer)
