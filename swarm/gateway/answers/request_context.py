"""One request between its plan and its answer: what whole and streamed answers, and every API, have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote

from aiohttp import web
from pydantic import JsonValue

from swarm.consensus.json_answer import schema_violations
from swarm.consensus.options import Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.swarm_object import BallotStanding, standing_object, swarm_object
from swarm.consensus.verdict import Verdict, decide
from swarm.engines.assembly import AnswerBuilder, sampled_anew
from swarm.engines.schema_check import Violation
from swarm.engines.upstream.upstream_http import VIA_HEADER
from swarm.errors import DeadlineExceeded, EngineFailed
from swarm.gateway.answers.answer_form import AnswerForm, TimedForm
from swarm.gateway.http.bodies import compact
from swarm.gateway.http.errors import REQUEST_ID_HEADER
from swarm.gateway.http.in_progress import Work
from swarm.gateway.observing.metrics import Metrics
from swarm.gateway.observing.performance import Performance
from swarm.gateway.observing.usage import Account
from swarm.gateway.observing.vote_history import VoteHistory, spoken_turns
from swarm.generation import Candidate, Delta, Finish, GenerationRequest, JsonObject
from swarm.logs import current_request_id
from swarm.registry.weights_file import content_keys
from swarm.routing.ballot_box import BallotResult, Begun
from swarm.routing.dispatcher import Dispatcher
from swarm.routing.policy import Plan, VoteOptions
from swarm.routing.replica_client import Served
from swarm.routing.resumption import Resumption


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One client request, validated: what to generate, how to vote, how to answer."""

    request: GenerationRequest
    options: VoteOptions
    choices: int
    stream: bool
    form: AnswerForm
    local_only: bool = False  # asked by a peer: this node answers itself, so that nothing loops


BYTES_A_TOKEN = 4  # of most texts; what a cut answer's prompt is counted by, which no engine has counted


class RequestContext:
    """One request between its plan and its answer. `deadline` is a `time.monotonic()` instant.

    `account` counts what its key uses; None where that is counted elsewhere, or by nobody.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        votes: VoteHistory,
        performance: Performance,
        asked: AnswerRequest,
        plan: Plan,
        deadline: float,
        work: Work,
        account: Account | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._votes = votes
        self._performance = performance
        self.asked = asked
        self.plan = plan
        self._deadline = deadline
        self._work = work
        self._account = account
        self._made: dict[int, MadeSoFar] = {}  # by choice
        self._counted = False
        work.model = asked.request.model
        work.waits = plan.mode != "vote"
        self._started = time.perf_counter()
        self._served: Served | None = None
        self._spent_anew: int | None = None  # tokens of the answer that was made and not given
        self._judged: list[tuple[Candidate, tuple[Violation, ...]]] = []  # once each: a large schema takes 0.1 s

    @property
    def _elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def headers(self, verdict: Verdict | None = None) -> dict[str, str]:
        """What the response says of itself; the vote's figures are known only where it does not stream."""
        headers = {"X-Swarm-Node": quote(self._dispatcher.node, safe="")}
        headers[REQUEST_ID_HEADER] = current_request_id.get()
        if verdict is not None:
            headers["X-Swarm-Votes"] = str(verdict.votes)
            if verdict.agreement is not None:
                headers["X-Swarm-Agreement"] = f"{verdict.agreement:.4f}"
        return headers

    async def vote(self, stream: bool) -> AsyncGenerator[Delta | Begun | BallotStanding | BallotResult, None]:
        """The planned ballot. It keeps the deadline itself: what has come in by then may be enough."""
        asked = self.asked
        record = self._votes.begin(asked.request, str(self.plan.strategy), self.plan.wanted)
        ballot = self._dispatcher.vote(asked.request, self.plan, asked.options, self._deadline, stream, record)
        began, first_s = time.perf_counter(), None
        try:
            async with aclosing(ballot) as progress:
                async for item in progress:
                    if first_s is None and isinstance(item, Delta | Begun):
                        first_s = time.perf_counter() - began
                    if isinstance(item, BallotResult):
                        record.done(confirmed(item))
                        self._performance.voted(item.candidates)
                        if first_s is not None and item.leader is not None:
                            self._performance.began(item.leader.node, item.leader.model, first_s)
                    yield item
        except BaseException as error:
            record.failed(error)
            raise

    def events(self, anew: bool = False) -> AsyncGenerator[Delta | Finish, None]:
        """The choices of the one replica that answers; `anew`: other ones. Consume it within `deadline()`."""
        asked = self.asked
        return self._dispatcher.single(
            sampled_anew(asked.request) if anew else asked.request,
            self.plan,
            asked.choices,
            self._deadline,
            self._on_served,
            asked.local_only,
            asked.options.upstream,
            whole=not asked.stream,
            resume=asked.options.resume,
        )

    def _on_served(self, served: Served) -> None:
        self._served = served
        self._work.waits = False

    def note(self, event: Delta | Finish) -> None:
        """An event of an answer that a client is given."""
        made = self._made.get(event.choice)
        if made is None:
            if not self._made and isinstance(self.asked.form, TimedForm):
                self.asked.form.first()
            made = self._made[event.choice] = MadeSoFar()
        if isinstance(event, Finish):
            made.tokens = event.usage.completion_tokens
            made.prompt_tokens = event.usage.prompt_tokens
        else:
            made.steps += 1
            made.size_bytes += event.size_bytes
        one = len(self._made) == 1
        self._work.tokens = made.about() if one else sum(each.about() for each in self._made.values())

    @contextmanager
    def counted_if_cut(self) -> Generator[None]:
        """An answer that does not come to its end in the block, but began, is counted as far as it came."""
        try:
            yield
        finally:
            if not self._counted and self._made and self._account is not None:
                self._counted = True
                known = next((made.prompt_tokens for made in self._made.values() if made.prompt_tokens), None)
                prompt = about_prompt_tokens(self.asked.request) if known is None else known
                self._account.spend(prompt, sum(made.about() for made in self._made.values()))

    @asynccontextmanager
    async def deadline(self) -> AsyncGenerator[None]:
        """Ends the block by DeadlineExceeded when the request's time is up."""
        limit = asyncio.timeout(self._deadline - time.monotonic())
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            if self._served is None:
                raise DeadlineExceeded("the request's deadline passed while it waited for a worker") from None
            raise DeadlineExceeded("the answer was not complete by the request's deadline") from None

    @property
    def waits_for_load(self) -> bool:
        """Whether the model had to be loaded for this request, as it was planned."""
        return bool(self.plan.seats) and self.plan.seats[0].state != "ready"

    def load_words(self) -> str | None:
        """How far the load is that the answer waits for, in a line; None once it is over."""
        return self._dispatcher.load_words(self.plan.seats[0], time.perf_counter() - self._started)

    def _loaded(self) -> JsonObject:
        """What was loaded for this request, where something was."""
        if not self.waits_for_load or self.asked.local_only:
            return {}
        replica, seconds = self.plan.seats[0], None
        if self._served is not None:
            replica, seconds = self._served.replica, self._served.loaded_s
        if replica.state == "ready":  # another one answered
            return {}
        if seconds is None:
            seconds = self._dispatcher.load_took_s(replica)
        ms = None if seconds is None else round(seconds * 1000)
        return {"loaded": {"model": replica.model, "node": replica.node, "ms": ms}}

    def candidates(self, builders: Sequence[AnswerBuilder]) -> list[Candidate]:
        """The choices as finished answers of whoever served them."""
        if self._served is None:
            raise EngineFailed("no event came from any replica")
        voter, replica = self._served.voter, self._served.replica
        return [builder.candidate(voter, replica.node, replica.model, self._elapsed_ms) for builder in builders]

    def verdict_on(self, candidates: Sequence[Candidate]) -> Verdict | None:
        """How a single answer is reported, as a vote of one; None for several choices, which nobody judged.

        Its strategy is the one that was asked for: `auto` answers prose once.
        """
        if len(candidates) != 1:
            return None
        question = Question.of(self.asked.request, Strategy.SINGLE)
        verdict = decide(question, candidates, asked=1, wanted=self.plan.wanted, stopped_by="single")
        return replace(verdict, strategy=self.plan.requested)

    def broken(self, candidates: Sequence[Candidate]) -> list[JsonObject]:
        """What in the answers breaks the request's schemas; of several choices each says which it is."""
        made: list[JsonObject] = []
        for choice, candidate in enumerate(candidates):
            of: JsonObject = {"choice": choice} if len(candidates) > 1 else {}
            made += [
                {**of, "path": found.path, "keyword": found.keyword, "message": found.message}
                for found in self._violations(candidate)
            ]
        return made

    def _violations(self, candidate: Candidate) -> tuple[Violation, ...]:
        known = next((found for judged, found in self._judged if judged is candidate), None)
        if known is None:
            known = schema_violations(self.asked.request, candidate)
            self._judged.append((candidate, known))
        return known

    def may_be_made_anew(self, candidates: Sequence[Candidate]) -> bool:
        """Whether one answer breaks a schema, and another sample may keep it: at temperature 0 it is the same again.

        An upstream is asked once: its answers are somebody's money.
        """
        if len(candidates) != 1 or self.asked.local_only or self.asked.request.temperature == 0:
            return False
        asked_upstream = self._served is not None and self._served.replica.upstream
        return not asked_upstream and bool(self.broken(candidates))

    def better_of(self, first: Candidate, first_served: Served | None, second: Candidate) -> Candidate:
        """Which of two answers breaks less: the first, where they are alike. What both cost is told."""
        better = len(self.broken([second])) < len(self.broken([first]))
        self._spent_anew = (first if better else second).usage.completion_tokens
        if not better:
            self._served = first_served
        return second if better else first

    @property
    def served(self) -> Served | None:
        """Who answers the single request, once that is known."""
        return self._served

    def extension(self, verdict: Verdict | None, shown: Sequence[Candidate]) -> JsonObject | None:
        """The `swarm` object of the response; of a single answer it has why it is one, who was asked, and why.

        And of the answers `shown` what they break of the request's schemas. None where there is nothing to tell.
        """
        broken = [] if self.asked.local_only else self.broken(shown)
        breaks: JsonObject = {"schema_violations": list[JsonValue](broken)} if broken else {}
        if verdict is None:
            return breaks or None
        told = swarm_object(verdict, coordinator=self._dispatcher.node, elapsed_ms=self._elapsed_ms)
        if self._spent_anew is not None:
            told |= {"made_anew": True, "total_completion_tokens": verdict.total_completion_tokens + self._spent_anew}
        if self.plan.why is not None:
            told["why"] = self.plan.why
        if self.plan.left_out:
            told["left_out"] = [
                {"model": model.model, "nodes": list(model.nodes), "why": model.why} for model in self.plan.left_out
            ]
        served = self._served
        if served is not None and not self.asked.local_only:
            routed: JsonObject = {"node": served.replica.node, "reason": served.reason, "tried": list(served.tried)}
            if self.plan.node is not None:  # for whoever measures that node: who it is, and what it says it runs
                asked = served.replica
                routed["node_id"] = asked.node_id
                routed["content"] = content_keys(asked.sha256, asked.fingerprint, asked.model_there)[0]
            told["routed"] = routed
            if served.resumed is not None:
                told["resumed"] = resumed_object(served.resumed)
        return told | self._loaded() | breaks

    def standing(self, standing: BallotStanding) -> JsonObject:
        """How the ballot stands, in the shape of the `swarm` object."""
        return standing_object(standing, coordinator=self._dispatcher.node, elapsed_ms=self._elapsed_ms)

    def count(self, shown: Sequence[Candidate], verdict: Verdict | None) -> None:
        """Count the answer, where it is for a client and not for a peer, which counts it itself."""
        self._counted = True
        if self._account is not None:
            completion = sum(candidate.usage.completion_tokens for candidate in shown)
            self._account.spend(shown[0].usage.prompt_tokens if shown else 0, completion)
        if not self.asked.local_only:
            self._metrics.answered(shown, verdict)
            if verdict is not None and self.plan.mode != "vote" and self.asked.options.wants_a_vote:
                self._votes.single(self.asked.request, verdict, shown)


@dataclass(slots=True)
class MadeSoFar:
    """What there is of one answer. `tokens` and `prompt_tokens` once it is whole."""

    steps: int = 0
    size_bytes: int = 0
    tokens: int | None = None
    prompt_tokens: int | None = None

    def about(self) -> int:
        """Its tokens, or what they must be about: engines make one in a step, upstreams send several at once."""
        return max(self.steps, self.size_bytes // BYTES_A_TOKEN) if self.tokens is None else self.tokens


def about_prompt_tokens(request: GenerationRequest) -> int:
    """What a prompt must be about, where no engine has said: images are not counted."""
    if request.messages is None and not isinstance(request.prompt, str):
        return len(request.prompt or ())
    words = sum(len(text.encode(errors="replace")) for _, text in spoken_turns(request))
    tools = len(compact([tool.model_dump(mode="json") for tool in request.tools])) if request.tools else 0
    return max(1, (words + tools) // BYTES_A_TOKEN)


def resumed_object(resumption: Resumption) -> JsonObject:
    """How an answer came to go on elsewhere, as the `swarm` object tells it."""
    return {
        "from": resumption.lost,
        "to": resumption.to,
        "at_chars": resumption.at_chars,
        "gap_ms": round(resumption.gap_s * 1000),
        "how": resumption.how,
    }


def confirmed(outcome: BallotResult) -> bool | None:
    """Whether the vote came out for what the client was shown of its leader; None where that was nothing.

    And without the leader's answer, and without a quorum.
    """
    leader, verdict = outcome.leader, outcome.verdict
    if outcome.shown == StreamMode.BUFFER or leader is None or verdict.degraded:
        return None
    return any(part.voter == leader.voter and part.group == 0 for part in verdict.candidates)


def winner_of(verdict: Verdict) -> Candidate:
    """The winning answer; when no voter gave one, the voters' own words for why."""
    if verdict.winner is None:
        reasons = "; ".join(f"{c.voter}: {c.abstained}" for c in verdict.candidates)
        raise EngineFailed(f"no voter gave an answer: {reasons}")
    return verdict.winner


def may_leave(http: web.Request, options: VoteOptions | None = None) -> bool:
    """Whether a request may go to this node's upstream.

    Not where its sender says so, or names the node that is to answer, nor where this node is itself another's upstream:
    it could go round for ever.
    """
    return VIA_HEADER not in http.headers and (options is None or (options.upstream and options.node is None))
