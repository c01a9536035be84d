"""Answers that stream: one replica's events as they come, or a vote's leader, or its winner after the vote."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import web

from swarm.engines.assembly import AnswerBuilder
from swarm.gateway.answer_form import AnswerWriter
from swarm.gateway.answering import Answering, winner_of
from swarm.gateway.shapes import message_object
from swarm.gateway.streams import Pacing, open_stream
from swarm.generation import Candidate, Delta, Finish, JsonObject
from swarm.routing.ballot_box import Outcome
from swarm.routing.voters import finished_events


async def streamed_answer(http: web.Request, answering: Answering, pacing: Pacing) -> web.StreamResponse:
    """The response, with the vote's account in its last chunk."""
    beat_s = pacing.peer_beat_s if answering.asked.local_only else pacing.client_beat_s
    form = answering.asked.form
    async with open_stream(http, form.dialect, answering.headers(), beat_s, pacing.stalled_s) as out:
        writer = form.writer(out, answering.asked.choices)
        await (_vote(answering, writer) if answering.plan.mode == "vote" else _choices(answering, writer))
    return out.response


async def _choices(answering: Answering, writer: AnswerWriter) -> None:
    builders = [AnswerBuilder() for _ in range(answering.asked.choices)]
    finishes: list[Finish] = []
    async with answering.deadline(), aclosing(answering.events()) as events:
        async for event in events:
            builders[event.choice].add(event)
            if isinstance(event, Delta):
                await writer.delta(event)
                continue
            finishes.append(event)
            if len(finishes) < len(builders):
                await writer.finish(event)
    candidates = answering.candidates(builders)
    verdict = answering.verdict_on(candidates)
    answering.count(candidates, verdict)
    await writer.finish(finishes[-1], None if verdict is None else answering.extension(verdict))
    await writer.end([candidate.usage for candidate in candidates])


async def _vote(answering: Answering, writer: AnswerWriter) -> None:
    async with aclosing(answering.vote(stream=True)) as progress:
        async for item in progress:
            if isinstance(item, Delta):
                await writer.delta(item)
            else:
                await _outcome(answering, writer, item)


async def _outcome(answering: Answering, writer: AnswerWriter, outcome: Outcome) -> None:
    """Whatever of the answer is not out yet, then how the vote went."""
    winner = winner_of(outcome.verdict)
    extension = answering.extension(outcome.verdict)
    shown = winner
    if outcome.leader is not None:
        shown = outcome.leader
        extension.update(_confirmation(outcome, shown, winner))
    else:
        async for event in finished_events(winner, 0):
            if isinstance(event, Delta):
                await writer.delta(event)
    answering.count([shown], outcome.verdict)
    await writer.finish(Finish(0, shown.finish_reason or "stop", shown.usage), extension)
    await writer.end([shown.usage])


def _confirmation(outcome: Outcome, leader: Candidate, winner: Candidate) -> JsonObject:
    """What the vote says of the answer that the client has already seen."""
    confirmed = any(c.voter == leader.voter and c.group == 0 for c in outcome.verdict.candidates)
    if confirmed:  # its words are as good as the winner's, and they are what the client has
        return {"leader": leader.voter, "confirmed": True, "winner": leader.voter}
    return {"leader": leader.voter, "confirmed": False, "winner_message": message_object(winner)}
