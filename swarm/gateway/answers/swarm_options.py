"""The `swarm` object of a request: how to vote, and what to show of it. Contradictions are refused by their field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Literal, cast

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from swarm.consensus.cascade import LEAST_VOTES
from swarm.consensus.options import MAX_AHEAD, MAX_VOTES, Ahead, NoQuorum, OnLoading, StopRule, Strategy, StreamMode
from swarm.errors import BadRequest
from swarm.gateway.http.bodies import Part
from swarm.generation import RepairRule
from swarm.routing.policy import VoteOptions

MAX_NODE_CHARS = 128  # names have up to 64, and as much again where two nodes share one; ids 52
MAX_DEADLINE_S = 3600.0
LEAST_MAX_VOTES = 9  # of a race that says no other: on tool calls two in a hundred are undecided there, ahead by 3
MAX_NAME_CHARS = 80  # of a field that there is not, to be told and likened to those that there are
LEAST_FOR_POSTERIOR = 8  # below it the posterior stop hardly ever ends a vote before the unbeatable lead does


def _within(words: str) -> WrapValidator:
    """Says both bounds at once, whatever is wrong with a number: `words` are what is taken."""

    def check(value: object, valid: Callable[[object], object]) -> object:
        try:
            return valid(value)
        except ValidationError:
            raise ValueError(f"use {words}") from None

    return WrapValidator(check)


def _words(kind: type[StrEnum]) -> WithJsonSchema:
    """Documented where they are used, each word in its place."""
    return WithJsonSchema({"enum": [member.value for member in kind], "type": "string"})


Votes = Annotated[int, Field(ge=1, le=MAX_VOTES), _within(f"a whole number from 1 to {MAX_VOTES}")]
Seconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE_S), _within(f"seconds above 0 and up to {MAX_DEADLINE_S:.0f}")]
OneNode = Annotated[str, Field(min_length=1, max_length=MAX_NODE_CHARS), _within("the name or the id of one node")]
Share = Annotated[float, Field(ge=0, le=1), _within("a share from 0 to 1")]


class KnownFields(Part):
    """A part of which every field is obeyed: one that there is not is refused by its name.

    A misspelt `min_votes` would else be a vote without them, which nothing in the answer tells.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        """Before the fields are looked at, so that of a thousand unknown ones the first alone is told."""
        if isinstance(given, dict):
            fields = cast("dict[str, object]", given)
            if (name := next((name for name in fields if name not in cls.model_fields), None)) is not None:
                problem = _no_such_field(name, fields[name], cls.model_fields)
                raise ValidationError.from_exception_data(cls.__name__, [problem])
        return cast("object", given)


def _no_such_field(name: str, value: object, known: Iterable[str]) -> InitErrorDetails:
    short = name[:MAX_NAME_CHARS]
    near = get_close_matches(short, known, n=1)
    told = f"there is no field {short!r}: " + (f"did you mean {near[0]}?" if near else f"use {', '.join(known)}")
    place = (name,) if name == short and name.isprintable() else ()
    return InitErrorDetails(type=PydanticCustomError("no_such_field", "{told}", {"told": told}), loc=place, input=value)


class AheadStop(KnownFields):
    """The vote ends when one answer is so many votes ahead of every other."""

    ahead: Annotated[
        int,
        Field(ge=1, le=MAX_AHEAD, description="Votes that the first answer leads by when the vote ends"),
        _within(f"a whole number from 1 to {MAX_AHEAD}"),
    ]
    max_votes: Annotated[
        Votes | None,
        Field(description=f"The most that are asked for (default: votes, else three times ahead, 9 to {MAX_VOTES})"),
    ] = None

    def most(self, votes: int | None) -> int:
        """How many votes there are at most, where a request asks for `votes`."""
        return self.max_votes or votes or min(max(3 * self.ahead, LEAST_MAX_VOTES), MAX_VOTES)


class SwarmOptions(KnownFields):
    """How to vote on this request. What is left out is the node's own setting.

    Each field is checked against those before it, so that a contradiction is blamed on one field.
    """

    strategy: Annotated[Strategy, _words(Strategy), Field(description="How the answer is chosen")] = Strategy.AUTO
    votes: Annotated[
        Votes | None, Field(description="How many answers to ask for; a number queues, none takes idle slots only")
    ] = None
    min_votes: Annotated[
        Votes | None, Field(description="With fewer valid ballots than this the answer is degraded")
    ] = None
    deadline_s: Annotated[
        Seconds | None, Field(description="When this many seconds are over, what has come in decides; nothing is a 504")
    ] = None
    stop: Annotated[
        Annotated[StopRule, _words(StopRule)] | AheadStop,
        Field(
            description="lead: the vote ends when no outstanding voter can change it. posterior: when that is less "
            f"than 5 % likely; needs {LEAST_FOR_POSTERIOR} votes of one model. An object with ahead: when one answer "
            "is so many votes ahead of every other; voters are asked a few at a time"
        ),
    ] = StopRule.LEAD
    on_no_quorum: Annotated[
        NoQuorum, _words(NoQuorum), Field(description="best_effort: the best there is, marked degraded. error: a 503")
    ] = NoQuorum.BEST_EFFORT
    min_agreement: Annotated[
        Share | None, Field(description="Tool calls on which fewer agree than this have no quorum")
    ] = None
    stream: Annotated[
        Annotated[StreamMode, _words(StreamMode)] | None,
        Field(
            description="What a stream shows while the vote runs. leader: the strongest voter's answer, live. buffer: "
            "nothing. reasoning: the strongest voter's thoughts. Left out: leader for prose, else buffer"
        ),
    ] = None
    progress: Annotated[
        bool,
        Field(description="Tell in chunks without choices how the vote stands; streamed completions only"),
    ] = False
    upstream: Annotated[bool, Field(description="false: this request never leaves the swarm for an upstream")] = True
    node: Annotated[
        OneNode | None,
        Field(
            description="Ask this node only, by its name or id: nobody else answers, and no upstream. One that there "
            "is not is a 400 with those that there are, a model that it does not have a 404"
        ),
    ] = None
    on_loading: Annotated[
        OnLoading,
        _words(OnLoading),
        Field(
            description="Where the model is not loaded. wait: until it is, within the deadline. reject: a 503 that "
            "says when to come back; the load begins all the same"
        ),
    ] = OnLoading.WAIT
    repair: Annotated[
        RepairRule | None,
        Field(
            description="safe: tool calls that are not quite JSON are put right where nothing can be lost or guessed. "
            "off: they are given as they come. Left out: safe for what upstreams answer, else off"
        ),
    ] = None
    resume: Annotated[
        bool,
        Field(
            description="false: a stream whose node is lost ends by an error. Else it goes on from what was sent, "
            "where temperature is 0 or there is a seed, and another node has the same model and computes alike"
        ),
    ] = True

    @field_validator("votes")
    @classmethod
    def _enough_to_choose(cls, votes: int | None, info: ValidationInfo) -> int | None:
        strategy = info.data.get("strategy")
        if votes is not None and strategy == Strategy.SINGLE and votes > 1:
            raise ValueError("strategy single asks one voter: leave votes out, or the strategy")
        if votes == 1 and strategy == Strategy.JUDGE:
            raise ValueError(f"a judge needs answers to choose from: use 2 to {MAX_VOTES} votes")
        if votes is not None and votes < LEAST_VOTES and strategy == Strategy.CASCADE:
            raise ValueError(
                f"a cascade asks the strongest model where others do not agree: use {LEAST_VOTES} to {MAX_VOTES} votes"
            )
        return votes

    @field_validator("min_votes")
    @classmethod
    def _reachable(cls, least: int | None, info: ValidationInfo) -> int | None:
        strategy, votes = info.data.get("strategy"), info.data.get("votes")
        if least is None:
            return None
        if strategy == Strategy.FIRST:
            raise ValueError("strategy first takes the first answer and waits for no others: leave min_votes out")
        if strategy == Strategy.SINGLE and least > 1:
            raise ValueError("strategy single asks one voter: leave min_votes out, or the strategy")
        if strategy == Strategy.CASCADE and votes is not None and least >= votes:
            raise ValueError(
                f"of {votes} votes in a cascade the strongest has one, if it is asked: use 1 to {votes - 1}"
            )
        if votes is not None and least > votes:
            raise ValueError(f"min_votes is more than votes: use 1 to {votes}")
        return least

    @field_validator("stop")
    @classmethod
    def _long_enough(cls, stop: StopRule | AheadStop, info: ValidationInfo) -> StopRule | AheadStop:
        votes = info.data.get("votes")
        if stop != StopRule.LEAD and info.data.get("strategy") == Strategy.CASCADE:
            raise ValueError(
                "a cascade ends when the small models agree, or the strongest has answered: leave stop out"
            )
        if isinstance(stop, AheadStop):
            return _a_race(stop, votes, info)
        if stop == StopRule.POSTERIOR and votes is not None and votes < LEAST_FOR_POSTERIOR:
            raise ValueError(
                f"the posterior stop needs {LEAST_FOR_POSTERIOR} to {MAX_VOTES} votes, and votes is {votes}"
            )
        if stop == StopRule.POSTERIOR:
            _needs_a_count(info, "the posterior stop")
        return stop

    @field_validator("min_agreement")
    @classmethod
    def _compared(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None:
            _needs_a_count(info, "min_agreement")
        return share

    @field_validator("stream")
    @classmethod
    def _has_a_leader(cls, mode: StreamMode | None, info: ValidationInfo) -> StreamMode | None:
        strategy = info.data.get("strategy")
        if mode is not None and strategy == Strategy.SINGLE:
            raise ValueError("strategy single streams its one answer as it comes: leave stream out")
        if mode not in (None, StreamMode.BUFFER) and strategy == Strategy.FIRST:
            raise ValueError("strategy first has no leader before it has its answer: use buffer")
        if mode not in (None, StreamMode.BUFFER) and strategy == Strategy.CASCADE:
            raise ValueError("strategy cascade has no leader before it is decided who answers: use buffer")
        return mode

    def options(self) -> VoteOptions:
        """What routing takes: `None` stands for the node's own setting."""
        return VoteOptions(
            strategy=self.strategy,
            votes=self.stop.most(self.votes) if isinstance(self.stop, AheadStop) else self.votes,
            min_votes=self.min_votes,
            deadline_s=self.deadline_s,
            upstream=self.upstream,
            stop=Ahead(self.stop.ahead) if isinstance(self.stop, AheadStop) else self.stop,
            on_no_quorum=self.on_no_quorum,
            min_agreement=self.min_agreement,
            stream=self.stream,
            progress=self.progress,
            on_loading=self.on_loading,
            node=self.node,
            repair=self.repair,
            resume=self.resume,
        )


def _a_race(stop: AheadStop, votes: int | None, info: ValidationInfo) -> AheadStop:
    """A race that can be won. Raises ValueError where it cannot, or is said twice."""
    _needs_a_count(info, "ahead")
    if info.data.get("strategy") == Strategy.JUDGE:
        raise ValueError("a judge rules where votes are split, and a race goes on there: leave out one of them")
    if votes is not None and stop.max_votes is not None:
        raise ValueError("votes and max_votes are both the most that are asked for: leave one of them out")
    if stop.most(votes) < stop.ahead:
        raise ValueError(f"of {stop.most(votes)} votes none can be {stop.ahead} ahead: use {stop.ahead} to {MAX_VOTES}")
    least = info.data.get("min_votes")
    if least is not None and least > stop.most(votes):
        raise ValueError(f"min_votes is {least}, and max_votes {stop.most(votes)}: use {least} to {MAX_VOTES}")
    return stop


def _needs_a_count(info: ValidationInfo, what: str) -> None:
    strategy = info.data.get("strategy")
    if strategy in (Strategy.FIRST, Strategy.SINGLE):
        raise ValueError(f"strategy {strategy} compares no answers, so that {what} means nothing")


def options_of(swarm: SwarmOptions | None, *, stream: bool | None, choices: int = 1) -> VoteOptions:
    """The options of a body with `swarm`. Raises BadRequest where the rest of the body contradicts them."""
    if swarm is None:
        return VoteOptions()
    if not stream and swarm.stream is not None:
        raise BadRequest(f"swarm.stream is {swarm.stream.value!r}, and stream is not true", param="swarm.stream")
    if not stream and swarm.progress:
        raise BadRequest("swarm.progress needs stream: true", param="swarm.progress")
    if choices > 1 and (field := _asks_for_a_vote(swarm)) is not None:
        raise BadRequest(
            f"n is {choices}, answers to compare, and {field} asks for a vote that leaves one: leave one of them out",
            param=field,
        )
    return swarm.options()


def _asks_for_a_vote(
    swarm: SwarmOptions,
) -> Literal["swarm.strategy", "swarm.votes", "swarm.min_votes", "swarm.stop", "swarm.min_agreement"] | None:
    """The field that asks for more than a lone answer, if one does."""
    if swarm.strategy not in (Strategy.AUTO, Strategy.SINGLE):
        return "swarm.strategy"
    if (swarm.votes or 1) > 1:
        return "swarm.votes"
    if (swarm.min_votes or 1) > 1:
        return "swarm.min_votes"
    if swarm.stop != StopRule.LEAD:
        return "swarm.stop"
    return "swarm.min_agreement" if swarm.min_agreement is not None else None
