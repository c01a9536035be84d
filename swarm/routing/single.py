"""One answer of one replica: before its first event the next best may take over, within the budget for retries.

After it only one that says the same, from where the client is (`resumption.py`). A request that waits for this
node's own workers leaves them as soon as a peer would be done with it sooner (`waiting_room.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from swarm.errors import (
    ContextExceeded,
    EngineDied,
    EngineFailed,
    PeerFailed,
    PeerVanished,
    SwarmError,
    Unavailable,
    UpstreamFailed,
)
from swarm.generation import Delta, EventStream, Finish, GenerationRequest
from swarm.routing.continuation import Continued, continued, is_cut_alike
from swarm.routing.observations import Demand
from swarm.routing.poison_pills import RequestContent
from swarm.routing.policy import Plan
from swarm.routing.preference import RoutingReason, by_preference, expected_tokens, is_warm, queued_behind, reason_for
from swarm.routing.replica_client import OnServed, ReplicaClient, Served, held_back
from swarm.routing.replicas import Replica, ReplicaKey
from swarm.routing.resumption import (
    AnswersDiffer,
    Continuity,
    ReplayFailed,
    ReplayTooSlow,
    Resumption,
    says_the_same_again,
)
from swarm.routing.router import Router
from swarm.routing.utilities import cut_into_tokens
from swarm.routing.waiting_room import SoonerElsewhere

log = logging.getLogger(__name__)

# Another may do better; but for EngineDied, an EngineFailed: whoever catches these lets that one pass first.
FAILING_OVER = (PeerFailed, EngineFailed, Unavailable, ContextExceeded, UpstreamFailed)
FAILED_THERE = (PeerFailed, EngineFailed, UpstreamFailed)  # the others are answers: it is full, or its context small
MAX_NAMED = 8  # of those that were tried before; more names explain nothing
FRESH_S = 3.0  # a slot that was idle longer ago may be taken by another node since
CUT_S = 3.0  # for a text to be cut into tokens: a few thousand take milliseconds
MAX_HELD_SHARE = 0.2  # of an answer's time that its reader may hold it up without spoiling what is measured


class SingleAnswer:
    """The work on one request: those planned are asked in order for `choices` answers until `deadline`.

    That is a monotonic instant. They are ranked again after a failure, and, unless the request `stays`, while it waits
    for this node's own workers.
    One that is given while it is made goes on elsewhere when its node is lost, if it `resumes` and can be told to be
    the same there.
    Of a `whole` answer nothing is handed out before it is complete, so that the next best may take over until then.
    A request over which an engine ended, or two nodes vanished, is asked of nobody else.
    """

    def __init__(
        self,
        client: ReplicaClient,
        router: Router,
        request: GenerationRequest,
        plan: Plan,
        rank_again: Callable[[], Sequence[Replica]],
        choices: int,
        deadline: float,
        on_served: OnServed,
        whole: bool = False,
        stays: bool = False,
        resumes: bool = True,
    ) -> None:
        self._client = client
        self._router = router
        self._request = request
        self._plan = plan
        self._rank_again = rank_again
        self._choices = choices
        self._deadline = deadline
        self._on_served = on_served
        self._whole = whole
        self._stays = stays
        self._elsewhere = None if stays else self._sooner
        self._tried: list[str] = []
        self._failed: set[ReplicaKey] = set()
        self._vanished = False  # one of those tried, with the request
        self._reason: RoutingReason = "only one"
        self._asked: Served | None = None
        lasts = resumes and choices == 1 and not (whole or stays) and says_the_same_again(request)
        self._story = router.continuity() if lasts else None

    async def events(self, demand: Demand) -> AsyncGenerator[Delta | Finish, None]:
        """The events of whoever answers. Raises the last failure, or what says that no more are tried."""
        with demand.request():
            self._router.attempt()
            left: list[Replica] = list(self._plan.seats)
            self._reason = reason_for(left, self._choices, expected_tokens(self._request))
            self._report_followed(left[0])
            begun = False
            while left:
                replica, *left = left
                try:
                    async with aclosing(self._from(replica)) as events:
                        async for event in events:
                            begun = True
                            yield event
                    return
                except SoonerElsewhere as sooner:
                    self._report_moved()
                    if self._story is not None:
                        self._story.asks_anew()
                    if not self._tried:
                        self._reason = "free slot"
                    chosen = (sooner.peer.key, replica.key)
                    others = [other for other in self._ranked_again(left) if other.key not in chosen]
                    left = [sooner.peer, replica, *others]
                except ReplayFailed as failed:
                    if self._story is not None and self._story.has_another_way(self._request, replica):
                        log.info("%s %s, and is asked in another way", replica.node, failed)
                        left = [replica, *left]
                    else:
                        left = self._next_after(replica, failed, left)
                except EngineDied:
                    self._report_failed(replica)
                    raise
                except FAILING_OVER as error:
                    if self._story is not None and self._story.finished:
                        log.info("%s broke off after the end of its answer: %s", replica.node, error)
                        return
                    if isinstance(error, FAILED_THERE):
                        self._report_failed(replica)
                    self._count_vanishing(replica, error)
                    if begun:
                        left = self._next_after(replica, error, left)
                        continue
                    if not left:
                        raise
                    self._fail_over(replica, error)
                    left = self._ranked_again(left)

    def _next_after(self, replica: Replica, failure: SwarmError | ReplayFailed, left: list[Replica]) -> list[Replica]:
        """Who may go on with what the client has a part of, now that `replica` cannot. Raises where nobody may."""
        story = self._story
        if isinstance(failure, ReplayFailed):
            assert story is not None
            self._router.replayed(replica, differs=isinstance(failure, AnswersDiffer))
            story.cannot(replica, failure.why)
        elif story is None:
            raise failure
        else:
            story.lost(replica, failure)
        self._failed.add(replica.key)
        left = self._ranked_again(left)
        if not left:
            for listener in self._router.listeners:
                listener.not_resumed()
            raise story.ended from failure
        self._fail_over(replica, story.ended)
        return left

    def _count_vanishing(self, replica: Replica, error: SwarmError) -> None:
        """Raises EngineDied for the second node: whatever others answered to the same words meanwhile."""
        if not isinstance(error, PeerVanished):
            return
        if self._vanished:
            raise self._router.pills.second_vanishing(RequestContent.of(self._request), replica.node, error) from error
        self._vanished = True

    def _ranked(self) -> list[Replica]:
        """Who may be asked, best first; none that has failed this request."""
        return self._able_of(self._rank_again())

    def _able_of(self, replicas: Iterable[Replica]) -> list[Replica]:
        story = self._story
        return [
            replica
            for replica in replicas
            if replica.key not in self._failed and (story is None or story.may_take_over(replica))
        ]

    def _ranked_again(self, left: list[Replica]) -> list[Replica]:
        """As things stand by now; as they stood, where nobody could be asked otherwise."""
        try:
            return self._ranked() or self._able_of(left)
        except SwarmError:  # whoever served the model is gone
            return self._able_of(left)

    def _sooner(self, ahead: int) -> Replica | None:
        """The peer that would be asked if the request, with `ahead` others before it in this node's queue, came now."""
        try:
            ranked = self._ranked()
        except SwarmError:  # whoever served the model is gone
            return None
        standing = [queued_behind(ahead, replica) if replica.local else replica for replica in ranked]
        best = next(iter(by_preference(standing, self._choices, expected_tokens(self._request))), None)
        if best is None or best.local or best.upstream or best.troubled or best.slots_free < self._choices:
            return None
        return best if time.monotonic() - best.reported_at <= FRESH_S else None

    def _from(self, replica: Replica) -> AsyncGenerator[Delta | Finish, None]:
        if self._story is not None:
            return self._unseen(self._story, replica)
        events = self._measured(replica, self._request)
        return held_back(events) if self._whole else events

    async def _continued(self, story: Continuity, replica: Replica) -> Continued | None:
        """The request by which `replica` goes on with what the client has; None where it is to make that anew."""
        found = story.seam(self._request, replica)
        if found is None:
            return None
        seam, before = found
        call, deadline = cut_into_tokens(seam.text), min(self._deadline, time.monotonic() + CUT_S)
        try:
            tokens = await self._client.utility(replica, call, deadline)
        except EngineDied:
            raise
        except SwarmError as error:
            log.info("%s is not asked to continue an answer: %s", replica.node, error)
            return None
        return continued(self._request, seam, tokens) if is_cut_alike(before, tokens) else None

    async def _unseen(self, story: Continuity, replica: Replica) -> EventStream:
        """What of the events the client has not: all of them, until a node was lost. Raises ReplayFailed."""
        begun = await self._continued(story, replica)
        story.begins(begun)
        async with aclosing(self._measured(replica, self._request if begun is None else begun.request)) as events:
            while True:
                left_s = story.left_s(time.monotonic())
                event = await (anext(events, None) if left_s is None else self._within(left_s, story, events))
                if event is None:
                    return
                before = story.resumption
                new = story.new_in(event, replica, time.monotonic())
                if story.resumption is not before:
                    self._report_resumed(replica, story.resumption)
                if new is not None:
                    yield new

    async def _within(self, left_s: float, story: Continuity, events: EventStream) -> Delta | Finish | None:
        limit = asyncio.timeout(left_s)
        try:
            async with limit:
                return await anext(events, None)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ReplayTooSlow(story.limit_s) from None

    def _report_resumed(self, replica: Replica, resumption: Resumption | None) -> None:
        if resumption is None:
            return
        self._router.replayed(replica, differs=False)
        if self._asked is not None:
            self._on_served(replace(self._asked, resumed=resumption))
        gap_ms = round(resumption.gap_s * 1000)
        log.info(
            "%s goes on with what %s had begun, from character %d (%s): a gap of %d ms",
            resumption.to,
            resumption.lost,
            resumption.at_chars,
            resumption.how,
            gap_ms,
        )
        for listener in self._router.listeners:
            listener.resumed()

    def _report_followed(self, first: Replica) -> None:
        if is_warm(first, self._choices):
            for listener in self._router.listeners:
                listener.prefix_followed()

    def _report_moved(self) -> None:
        for listener in self._router.listeners:
            listener.moved()

    def _fail_over(self, replica: Replica, error: SwarmError) -> None:
        """Raises Unavailable where no more retries are to be had."""
        self._router.fail_over(replica, error)
        self._tried.append(replica.node)
        self._failed.add(replica.key)
        self._reason = "next best"

    def _served(self, served: Served) -> None:
        self._asked = replace(served, reason=self._reason, tried=tuple(self._tried[:MAX_NAMED]))
        self._on_served(self._asked)

    async def _measured(self, replica: Replica, request: GenerationRequest) -> AsyncGenerator[Delta | Finish, None]:
        """The events of `replica` to `request`, whose speed is noted, and that it has answered this conversation."""
        asked = time.monotonic()
        first = asked
        held_s, sent_bytes, left, tokens = 0.0, 0, self._choices, 0
        begun = False
        events = self._client.events(
            replica, request, self._choices, self._deadline, self._served, self._elsewhere, self._stays
        )
        async with aclosing(events):
            async for event in events:
                came = time.monotonic()
                if not begun:
                    begun, first = True, came
                    self._report_choice(replica)
                if isinstance(event, Finish):
                    usage = self._router.believed(replica, event.usage, sent_bytes)
                    event = event if usage is event.usage else replace(event, usage=usage)
                    left -= 1
                    tokens += event.usage.completion_tokens
                    if not left:  # before it is given: whoever has it may ask for no more
                        self._router.affinity.answered(self._plan.prefixes, replica.key)
                        self._report_answered(replica, first - asked, came - asked - held_s, tokens)
                        if self._choices == 1 and held_s <= MAX_HELD_SHARE * (came - asked):
                            self._router.note_pace(replica, first - asked, came - first, usage)
                elif not replica.local:
                    sent_bytes += event.size_bytes
                yield event
                held_s += time.monotonic() - came

    def _report_answered(self, replica: Replica, first_s: float, took_s: float, tokens: int) -> None:
        for listener in () if self._stays else self._router.answer_listeners:
            listener.answered(replica, first_s, took_s, tokens)

    def _report_failed(self, replica: Replica) -> None:
        for listener in () if self._stays else self._router.answer_listeners:
            listener.failed(replica)

    def _report_choice(self, replica: Replica) -> None:
        after = f", after {', '.join(self._tried[:MAX_NAMED])}" if self._tried else ""
        log.info("%s answers with %s: %s%s", replica.node, replica.model, self._reason, after)
