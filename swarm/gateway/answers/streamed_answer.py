"""Answers that stream: one replica's events as they come, or a vote's leader, or its winner after the vote."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import web

from swarm.consensus.standing import BallotStanding
from swarm.engines.assembly import AnswerBuilder
from swarm.gateway.answers.answer_form import AnswerWriter
from swarm.gateway.answers.ballot_progress import show_standing
from swarm.gateway.answers.leader_account import told
from swarm.gateway.answers.request_context import Answering
from swarm.gateway.answers.streams import Pacing, open_stream
from swarm.generation import Delta, Finish
from swarm.routing.ballot_box import Outcome
from swarm.routing.leading import Begun
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
