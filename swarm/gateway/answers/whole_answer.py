"""Answers that do not stream: one JSON body when everything is known."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import web

from swarm.consensus.verdict import Verdict
from swarm.engines.assembly import AnswerBuilder
from swarm.errors import EngineFailed
from swarm.gateway.answers.request_context import Answering, winner_of
from swarm.gateway.http.compact_json import compact
from swarm.generation import Candidate
from swarm.routing.ballot_box import Outcome


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
