"""Answers that stream: one replica's events as they come, or a vote's leader, or its winner after the vote.

What a streamed vote tells of its leader, and which answer it has given in the end.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web

from swarm.consensus.options import StreamMode
from swarm.consensus.swarm_object import BallotStanding
from swarm.engines.assembly import AnswerBuilder
from swarm.gateway.answers.answer_form import AnswerWriter, message_object, show_standing
from swarm.gateway.answers.request_context import Answering, winner_of
from swarm.gateway.answers.streams import Pacing, open_stream
from swarm.generation import Candidate, Delta, Finish, JsonObject
from swarm.routing.ballot_box import Outcome
from swarm.routing.leading import Begun
from swarm.routing.voters import finished_events


@dataclass(frozen=True, slots=True)
class Told:
    """The answer that the client has in the end, what of it is still to be sent, and what to say of how it came."""

    answer: Candidate
    unsent: Candidate | None
    fields: JsonObject


def told(outcome: Outcome) -> Told:
    """What follows from a streamed ballot. `fields` belong into the `swarm` object, over what the verdict says."""
    winner, leader = winner_of(outcome.verdict), outcome.leader
    fields: JsonObject = {"stream": outcome.shown.value}
    if outcome.shown == StreamMode.BUFFER:
        return Told(winner, winner, fields)
    confirmed = _confirmed(outcome)
    fields.update(leader=None if leader is None else leader.voter, confirmed=confirmed)
    if confirmed and leader is not None:  # its words are as good as the winner's, and go with what the client has
        winner = leader
        fields["winner"] = leader.voter
    if outcome.shown == StreamMode.REASONING:
        return Told(winner, winner.model_copy(update={"reasoning": ""}), fields)
    if leader is None or leader.voter == winner.voter:
        return Told(leader or winner, None, fields)
    return Told(leader, None, {**fields, "winner_message": message_object(winner)})


def _confirmed(outcome: Outcome) -> bool | None:
    """Whether the vote came out for what the leader said; None without its answer, and without a quorum."""
    leader, verdict = outcome.leader, outcome.verdict
    if leader is None or verdict.degraded:
        return None
    return any(part.voter == leader.voter and part.group == 0 for part in verdict.candidates)


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
            match item:
                case Delta():
                    await writer.delta(item)
                case Begun():
                    await writer.begin()
                case BallotStanding():
                    await show_standing(writer, answering.standing(item))
                case Outcome():
                    await _outcome(answering, writer, item)


async def _outcome(answering: Answering, writer: AnswerWriter, outcome: Outcome) -> None:
    """Whatever of the answer is not out yet, then how the vote went."""
    end = told(outcome)
    extension = {**answering.extension(outcome.verdict), **end.fields}
    if end.unsent is not None:
        async for event in finished_events(end.unsent, 0):
            if isinstance(event, Delta):
                await writer.delta(event)
    answering.count([end.answer], outcome.verdict)
    await writer.finish(Finish(0, end.answer.finish_reason or "stop", end.answer.usage), extension)
    await writer.end([end.answer.usage])
