"""From a validated request to the client's answer: planned once, then given whole or streamed.

A whole answer is one JSON body when everything is known. A stream shows one replica's events as they come, or while a
vote runs its leader's; what the vote found is in its last chunk (`stream_result`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from aiohttp import web

from federation.tasks import cancel_and_wait
from swarm.consensus.options import StreamMode
from swarm.consensus.swarm_object import BallotStanding
from swarm.consensus.verdict import Verdict
from swarm.engines.assembly import AnswerBuilder
from swarm.engines.registry import engine_of_replica
from swarm.errors import ContextExceeded, EngineFailed, SwarmError
from swarm.gateway.answers.answer_form import (
    AnswerWriter,
    OpenStream,
    Pacing,
    in_one_piece,
    message_object,
    open_stream,
    show_standing,
)
from swarm.gateway.answers.model_names import RequestedNames
from swarm.gateway.answers.request_context import (
    AnswerRequest,
    RequestContext,
    confirmed,
    may_leave,
    resumed_object,
    winner_of,
)
from swarm.gateway.answers.request_images import RequestImages
from swarm.gateway.answers.tool_instructions import ToolInstructions
from swarm.gateway.http.bodies import BODY_BYTES, SCHEMAS_ON_LOOP_BYTES, compact, off_loop
from swarm.gateway.http.in_progress import Condition, work_of
from swarm.gateway.observing.metrics import Metrics
from swarm.gateway.observing.performance import Performance
from swarm.gateway.observing.usage import ACCOUNT
from swarm.gateway.observing.vote_history import VoteHistory
from swarm.generation import Candidate, Delta, Finish, GenerationRequest, JsonObject, has_images
from swarm.images import in_words, refuse_too_many
from swarm.routing.ballot_box import BallotResult, Begun
from swarm.routing.dispatcher import DEFAULT_DEADLINE_S, Dispatcher, NotLoaded
from swarm.routing.policy import VoteOptions
from swarm.routing.replica_client import finished_events

log = logging.getLogger(__name__)


class AnswerService:
    """Turns requests into responses with a dispatcher's help."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        votes: VoteHistory,
        performance: Performance,
        condition: Condition,
        pacing: Pacing,
        names: RequestedNames,
        images: RequestImages,
        instructions: ToolInstructions | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._votes = votes
        self._performance = performance
        self._condition = condition
        self._pacing = pacing
        self._names = names
        self._images = images
        self._instructions = instructions

    async def answer(self, http: web.Request, asked: AnswerRequest) -> web.StreamResponse:
        """The response to `asked`; failures before the first byte are raised for the error mapper.

        A prompt that does not fit with the instructions that the node's owner adds is answered without them.
        """
        request = asked.request if asked.local_only else await self.with_instructions(asked.request)
        if request is asked.request:
            return await self._answered(http, asked)
        try:
            return await self._answered(http, replace(asked, request=request))
        except ContextExceeded as error:
            log.info("the instructions for tools are left out: %s", error)
            return await self._answered(http, asked)

    async def with_instructions(self, request: GenerationRequest) -> GenerationRequest:
        """`request` with what the node's owner tells models that are given tools; itself, where that is nothing."""
        return request if self._instructions is None else await self._instructions.added_to(request)

    async def _answered(self, http: web.Request, asked: AnswerRequest) -> web.StreamResponse:
        context = await self.planned(http, asked)
        await refuse_impossible(context.asked.request, context.plan.engines, http.get(BODY_BYTES, 0))
        if asked.stream:
            return await streamed_answer(http, context, self._pacing)
        return await self.in_one_piece(http, context, whole_answer(context))

    async def in_one_piece(
        self, http: web.Request, context: RequestContext, answer: Awaitable[web.Response]
    ) -> web.StreamResponse:
        """The response that `answer` gives to the request of `context`, however long it takes."""
        return await in_one_piece(http, context.headers(), self._pacing, answer)

    async def planned(self, http: web.Request, asked: AnswerRequest) -> RequestContext:
        """The work on `asked`, not begun. Raises what no plan can be made for."""
        if has_images(asked.request):
            request = await self.with_images(http, asked.request, asked.options, asked.local_only)
            asked = replace(asked, request=request)
        try:
            return self._planned(http, asked)
        except NotLoaded as error:
            if not error.replica.local:
                await self._dispatcher.begin_there(error.replica)
            raise

    async def with_images(
        self,
        http: web.Request,
        request: GenerationRequest,
        options: VoteOptions | None = None,
        local_only: bool = False,
    ) -> GenerationRequest:
        """`request` with its images as whoever answers is given them, or with notes where nobody sees.

        An upstream gets them as they came. Raises BadRequest for what is asked about and cannot be seen, and for
        more than may be sent.
        """
        if not has_images(request):
            return request
        refuse_too_many(request)
        with self._condition.finding_a_model(self._dispatcher.node, local_only):
            sees = self._dispatcher.sees(request, local_only, may_leave(http, options), options and options.node)
        if sees is None:
            return request
        return await self._images.looked_at(request, may_fetch=not local_only) if sees else in_words(request)

    def _planned(self, http: web.Request, asked: AnswerRequest) -> RequestContext:
        options = replace(asked.options, upstream=may_leave(http, asked.options))
        request = asked.request if asked.local_only else self._names.sampled(asked.request)
        if options.repair is not None:
            request = request.model_copy(update={"repair": options.repair})
        asked = replace(asked, request=request, options=options)
        with self._condition.finding_a_model(self._dispatcher.node, asked.local_only):
            plan = self._dispatcher.plan(asked.request, asked.options, asked.choices, asked.local_only)
        return RequestContext(
            dispatcher=self._dispatcher,
            metrics=self._metrics,
            votes=self._votes,
            performance=self._performance,
            asked=asked,
            plan=plan,
            deadline=time.monotonic() + (asked.options.deadline_s or DEFAULT_DEADLINE_S),
            work=work_of(http),
            account=http.get(ACCOUNT),
        )


ANSWER_SERVICE = web.AppKey("answer_service", AnswerService)


async def refuse_impossible(request: GenerationRequest, engines: Iterable[str | None], body_bytes: int) -> None:
    """Raises BadRequest where one of `engines` (see `Plan`) could never answer `request`; its body had `body_bytes`."""

    def check() -> None:
        for entry in {engine_of_replica(name) for name in engines}:
            entry.check(request)

    has_schemas = request.tools or request.response_format is not None
    if has_images(request) or (has_schemas and body_bytes > SCHEMAS_ON_LOOP_BYTES):  # images may have been fetched
        await off_loop(check)
    else:
        check()


# Whole answers


async def whole_answer(context: RequestContext) -> web.Response:
    """The response, voted on if so planned."""
    candidates, verdict = await whole_candidates(context)
    body = context.asked.form.whole(candidates, context.extension(verdict, candidates))
    return web.Response(text=compact(body), content_type="application/json", headers=context.headers(verdict))


async def whole_candidates(context: RequestContext) -> tuple[list[Candidate], Verdict | None]:
    """The answers that the client gets, and how they were found; counted."""
    verdict: Verdict | None
    with context.counted_if_cut():
        if context.plan.mode == "vote":
            verdict = await _voted(context)
            candidates = [winner_of(verdict)]
        else:
            candidates = await _single(context)
            verdict = context.verdict_on(candidates)
        context.count(candidates, verdict)
    return candidates, verdict


async def _voted(context: RequestContext) -> Verdict:
    """What the planned ballot found."""
    async with aclosing(context.vote(stream=False)) as progress:
        async for item in progress:
            if isinstance(item, BallotResult):
                return item.verdict
    raise EngineFailed("the ballot ended without a verdict")


async def _single(context: RequestContext) -> list[Candidate]:
    """The choices of the one replica that answers, whole; an answer that breaks a schema is made anew, once."""
    candidates = await _choices(context)
    if not context.may_be_made_anew(candidates):
        return candidates
    served = context.served
    try:
        (second,) = await _choices(context, anew=True)
    except SwarmError as error:
        log.info("an answer that breaks its schema stands, since there is no other: %s", error)
        return candidates
    return [context.better_of(candidates[0], served, second)]


async def _choices(context: RequestContext, anew: bool = False) -> list[Candidate]:
    builders = [AnswerBuilder() for _ in range(context.asked.choices)]
    async with context.deadline(), aclosing(context.events(anew)) as events:
        async for event in events:
            context.note(event)
            builders[event.choice].add(event)
    return context.candidates(builders)


# Streamed answers


async def streamed_answer(http: web.Request, context: RequestContext, pacing: Pacing) -> web.StreamResponse:
    """The response, with the vote's account in its last chunk."""
    beat_s = pacing.peer_beat_s if context.asked.local_only else pacing.client_beat_s
    form = context.asked.form
    pace = (beat_s, pacing.stalled_s, pacing.patience_s)
    async with open_stream(http, form.dialect, context.headers(), *pace) as out:
        writer = form.writer(out, context.asked.choices)
        telling = Telling(out, context, pacing.told_s)
        try:
            stream = _stream_vote if context.plan.mode == "vote" else _stream_single
            with context.counted_if_cut():
                await stream(context, writer, telling)
        finally:
            await telling.aclose()
    return out.response


class Telling:
    """Tells a client, in comments of its stream, how far the load is for which its answer waits.

    Nothing is told where the model ran already. `over` ends it: the answer has begun.
    """

    def __init__(self, out: OpenStream, context: RequestContext, every_s: float) -> None:
        self._task: asyncio.Task[None] | None = None
        if context.waits_for_load and not context.asked.local_only:
            self._task = asyncio.create_task(out.tell(context.load_words, every_s), name="telling of a load")

    def over(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        await cancel_and_wait(self._task)


async def _stream_single(context: RequestContext, writer: AnswerWriter, telling: Telling) -> None:
    """The one replica's choices as they come; the last choice to end carries the `swarm` object."""
    builders = [AnswerBuilder() for _ in range(context.asked.choices)]
    finishes: list[Finish] = []
    async with context.deadline(), aclosing(context.events()) as events:
        async for event in events:
            telling.over()
            context.note(event)
            builders[event.choice].add(event)
            if isinstance(event, Delta):
                await writer.delta(event)
                continue
            finishes.append(event)
            if len(finishes) < len(builders):
                await writer.finish(event)
    candidates = context.candidates(builders)
    verdict = context.verdict_on(candidates)
    context.count(candidates, verdict)
    await writer.finish(finishes[-1], context.extension(verdict, candidates))
    await writer.end([candidate.usage for candidate in candidates])


async def _stream_vote(context: RequestContext, writer: AnswerWriter, telling: Telling) -> None:
    """What may be shown while the ballot runs, and how it came out."""
    async with aclosing(context.vote(stream=True)) as progress:
        async for item in progress:
            match item:
                case Delta():
                    telling.over()
                    context.note(item)
                    await writer.delta(item)
                case Begun():
                    await writer.begin()
                case BallotStanding():
                    await show_standing(writer, context.standing(item))
                case BallotResult():
                    telling.over()
                    await _stream_outcome(context, writer, item)


async def _stream_outcome(context: RequestContext, writer: AnswerWriter, outcome: BallotResult) -> None:
    """Whatever of the answer is not out yet, then how the vote went."""
    end = stream_result(outcome)
    extension = {**(context.extension(outcome.verdict, [end.answer]) or {}), **end.fields}
    if end.unsent is not None:
        async for event in finished_events(end.unsent, 0):
            if isinstance(event, Delta):
                await writer.delta(event)
    context.count([end.answer], outcome.verdict)
    answer = end.answer
    ended = Finish(0, answer.finish_reason or "stop", answer.usage, answer.stop_sequence, timings=answer.timings)
    await writer.finish(ended, extension)
    await writer.end([answer.usage])


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The answer that the client has in the end, what of it is still to be sent, and what to say of how it came."""

    answer: Candidate
    unsent: Candidate | None
    fields: JsonObject


def stream_result(outcome: BallotResult) -> StreamResult:
    """What follows from a streamed ballot. `fields` belong into the `swarm` object, over what the verdict says."""
    winner, leader = winner_of(outcome.verdict), outcome.leader
    fields: JsonObject = {"stream": outcome.shown.value}
    if outcome.resumed is not None:
        fields["resumed"] = resumed_object(outcome.resumed)
    if outcome.shown == StreamMode.BUFFER:
        return StreamResult(winner, winner, fields)
    agreed = confirmed(outcome)
    fields.update(leader=None if leader is None else leader.voter, confirmed=agreed)
    if agreed and leader is not None:  # its words are as good as the winner's, and go with what the client has
        winner = leader
        fields["winner"] = leader.voter
    if outcome.shown == StreamMode.REASONING:
        return StreamResult(winner, winner.model_copy(update={"reasoning": ""}), fields)
    if leader is not None and outcome.shown == StreamMode.WORDS:
        return _after_words(leader, winner, fields)
    if leader is None or leader.voter == winner.voter:
        return StreamResult(leader or winner, None, fields)
    return StreamResult(leader, None, {**fields, "winner_message": message_object(winner)})


def _after_words(leader: Candidate, winner: Candidate, fields: JsonObject) -> StreamResult:
    """The leader's words are out: the calls of tools that follow them are the winner's, as is the reason of the end.

    Where the leader would have called and nothing is called its words only announce what does not come: the winner's
    follow, as a paragraph of their own.
    """
    text = leader.text
    unsent = winner.model_copy(update={"text": "", "reasoning": "", "logprobs": None}) if winner.tool_calls else None
    if leader.voter != winner.voter:
        fields = {**fields, "winner_message": message_object(winner)}
        if leader.tool_calls and not winner.tool_calls and winner.text:
            paragraph = f"\n\n{winner.text}" if leader.text else winner.text
            text += paragraph
            unsent = winner.model_copy(update={"text": paragraph, "reasoning": "", "logprobs": None})
    ends = {"text": text, "tool_calls": winner.tool_calls, "finish_reason": winner.finish_reason}
    return StreamResult(leader.model_copy(update=ends), unsent, fields)
