"""A vote in simulated time: voters of given skill that err alike, lie, crash, stall and get cut, counted for real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from swarm.consensus.count import MIN_VOTES_FOR_POSTERIOR
from swarm.consensus.options import KINDS, Strategy
from swarm.consensus.question import Question
from swarm.consensus.tally import is_settled, posterior_stops, tally
from swarm.consensus.verdict import StoppedBy, Verdict, decide
from swarm.consensus.weights import VoterWeights, ballot_weights
from swarm.generation import Candidate, FunctionSpec, ResponseFormat, ToolCall, ToolSpec
from swarm.registry.weights_file import Measured, Measurements

STRATEGIES = (Strategy.AUTO, *(strategy for strategy in Strategy if strategy.compares))  # the usual one twice
FORMS = ("number", "number", "choice", "tool_calls", "json", "code", "text")
SHARED_ERRORS = 0.6  # two models that both err agree this often (arXiv 2506.07962)
DEADLINE_S = 10.0

RIGHT, COMMON_ERROR, LIE = 0, 1, 2  # answers by number; rarer errors come after them


@dataclass(frozen=True)
class Arrival:
    """What one seat sends, and when; `at_s` is infinite for a voter that never answers."""

    at_s: float
    candidate: Candidate


@dataclass(frozen=True)
class Scene:
    """One seeded vote before it is held: who is asked what, and what each is going to say."""

    question: Question
    arrivals: tuple[Arrival, ...]  # one for each seat, in the order in which seats are asked
    weights: VoterWeights


@dataclass(frozen=True)
class Held:
    """How it went. `heard` in order of arrival; `cancelled` had been asked; `unasked` were planned only."""

    verdict: Verdict
    heard: tuple[Candidate, ...]
    cancelled: int
    unasked: int


def scene(seed: int) -> Scene:
    """The vote number `seed`."""
    random = Random(seed)
    seats = random.choice((1, 2, 3, 3, 4, 5, 5, 5, 7, 9, 9, 16))
    models = [f"model {n}" for n in range(random.choice((1, 1, 2, 3)))]
    skill = {model: random.uniform(0.3, 0.95) for model in models}
    form = random.choice(FORMS)
    asked = [random.choice(models) for _ in range(seats)]
    question = _question(random.choice(STRATEGIES), form)
    liars = set(random.sample(range(seats), random.choice((0, 0, 0, seats // 5, 2 * seats // 5))))
    return Scene(
        question=question,
        arrivals=tuple(
            _arrival(random, form, f"v{seat}", model, LIE if seat in liars else _answer(random, skill[model]))
            for seat, model in enumerate(asked)
        ),
        weights=ballot_weights(question.strategy, _measurements(random, skill), asked),
    )


def hold(scene: Scene, *, posterior: bool = False) -> Held:
    """Ask in two waves, count on every arrival, stop as soon as the result stands, decide at the deadline at last."""
    seats = len(scene.arrivals)
    asked = seats // 2 + 1
    pending = list(scene.arrivals[:asked])
    planned = list(scene.arrivals[asked:])
    heard: list[Candidate] = []
    started_s = now_s = 0.0
    stopped_by: StoppedBy | None = None
    while stopped_by is None:
        if not pending and planned:
            pending, planned, started_s = planned, [], now_s
        if not pending:
            stopped_by = "all_in"
            continue
        soonest = min(pending, key=lambda arrival: arrival.at_s)
        if started_s + soonest.at_s > DEADLINE_S:
            stopped_by = "deadline"
            continue
        now_s = started_s + soonest.at_s
        pending.remove(soonest)
        heard.append(soonest.candidate)
        stopped_by = _stop(scene, heard, [arrival.candidate.model for arrival in (*pending, *planned)], posterior)
    verdict = decide(
        scene.question,
        heard,
        asked=len(heard) + len(pending),
        wanted=seats,
        stopped_by=stopped_by,
        weights=scene.weights,
        outstanding=[arrival.candidate.model for arrival in pending],
        saved=len(pending) + len(planned),
    )
    return Held(verdict, tuple(heard), len(pending), len(planned))


def _stop(scene: Scene, heard: Sequence[Candidate], out: Sequence[str], posterior: bool) -> StoppedBy | None:
    if not out:
        return "all_in"
    counted = tally(scene.question, heard, scene.weights)
    if is_settled(counted, out):
        return "unbeatable_lead"
    worth_it = posterior and len(scene.arrivals) >= MIN_VOTES_FOR_POSTERIOR
    return "posterior" if worth_it and posterior_stops(counted) else None


def _question(strategy: Strategy, form: str) -> Question:
    return Question(
        strategy,
        tools=(ToolSpec(function=FunctionSpec(name="book")), ToolSpec(function=FunctionSpec(name="cancel")))
        if form == "tool_calls"
        else (),
        response_format=ResponseFormat(type="json_object") if form == "json" else None,
        wants_final_answer=form in ("number", "choice"),
    )


def _answer(random: Random, skill: float) -> int:
    if random.random() < skill:
        return RIGHT
    return COMMON_ERROR if random.random() < SHARED_ERRORS else random.randint(3, 9)


def _measurements(random: Random, skill: dict[str, float]) -> Measurements:
    """Now and then nothing, or not everything, has been measured; a few of fifty questions are luck."""
    return {
        model: {
            kind: Measured(round(50 * min(1, max(0, share + random.gauss(0, 0.07)))), 50)
            for kind in KINDS
            if random.random() < 0.9
        }
        for model, share in skill.items()
        if random.random() < 0.8
    }


def _arrival(random: Random, form: str, voter: str, model: str, answer: int) -> Arrival:
    fate = random.random()
    at_s = random.lognormvariate(0.0, 0.8)
    if fate < 0.02:
        return Arrival(math.inf, _said(random, form, voter, model, answer))
    if fate < 0.10:
        return Arrival(at_s, Candidate(voter=voter, model=model, error="connection lost"))
    candidate = _said(random, form, voter, model, answer)
    if fate < 0.18:
        return Arrival(at_s, candidate.model_copy(update={"finish_reason": "length"}))
    return Arrival(at_s, candidate)


def _said(random: Random, form: str, voter: str, model: str, answer: int) -> Candidate:
    if form == "tool_calls" and answer != LIE:
        name = "cancel" if answer == COMMON_ERROR else "book"
        call = ToolCall(
            id=f"c{random.random()}", name=name, arguments=f'{{"seat": {answer}{random.choice(("", ".0"))}}}'
        )
        return Candidate(voter=voter, model=model, tool_calls=(call,), finish_reason="tool_calls")
    logprob = random.choice((None, -random.random()))
    return Candidate(
        voter=voter, model=model, text=_words(random, form, answer), finish_reason="stop", mean_logprob=logprob
    )


def _words(random: Random, form: str, answer: int) -> str:
    match form:
        case "number":
            return random.choice(
                (f"So\nAnswer: {answer}", f"\\boxed{{{answer}.0}}", f"#### {answer}", f"Answer: {answer} km")
            )
        case "choice":
            return f"Answer: ({'ABCDEFGHIJ'[answer]})"
        case "json":
            return random.choice((f'{{"id": {answer}, "tag": "x"}}', f'{{"tag":"x","id":{answer}.0}}'))
        case "code":
            return f"```python\nx = {answer}{random.choice(('', '  # so it is'))}\n```"
        case _:
            ending = random.choice(("", " I hope that this helps.", " That is all there is to it."))
            return f"It was number {answer} that won the day in the end, as everybody had expected of it.{ending}"
