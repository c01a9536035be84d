"""What the unbeatable-lead stop and the first wave save, replayed: every vote once in full, and once as it would stop.

A vote of k asks floor(k/2)+1 seats first, the greedy one among them: the fewest that can decide it. The rest are asked
as soon as those can no longer decide it alone. (A node also asks the rest when one is late; that is a matter of
seconds, and not replayed here.) Two clocks: by `chance` any seat may be the first, as over a network; in `steps` each
seat takes its own answer's tokens, as in one engine that runs all of them together, which tells what is saved in tokens
and in time. The same without a first wave, everybody asked at once, shows what the waves themselves save and cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from swarm.consensus.question import Question
from swarm.consensus.tally import is_settled, tally
from swarm.consensus.waves import first_wave, may_decide_alone
from swarm.consensus.weights import EQUAL
from swarm.evaluation.intervals import Estimate, mean_of, ratio_of_sums
from swarm.evaluation.replay import dice_for, held, places_of
from swarm.evaluation.samples import Answered, GradedAnswer

REPLAYS = 5  # of each problem on each clock


@dataclass(frozen=True, slots=True)
class StoppedVote:
    """How one vote ended: who had answered, who was asked and cancelled, who never asked; and what it took."""

    arrived: tuple[GradedAnswer, ...]
    cancelled: int
    never_asked: int
    tokens: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Over all replays of votes of `k`. Shares are of the seats, tokens and steps that the full vote takes."""

    k: int
    waves: bool
    votes: int
    changed: int
    saved: Estimate
    never_asked: Estimate
    saved_in_one_engine: Estimate
    tokens_saved: Estimate
    time_saved: Estimate


def stop_vote(
    question: Question, answers: Sequence[GradedAnswer], takes: Sequence[float], waves: bool = True
) -> StoppedVote:
    """The vote over `answers`, seats in this order, each answering after it has run for what it `takes`.

    Without `waves` all are asked at once.
    """
    models = [answer.candidate.model for answer in answers]
    places = places_of(answers)
    started = dict.fromkeys(range(first_wave(models, EQUAL) if waves else len(models)), 0.0)
    waiting = list(range(len(started), len(answers)))
    arrived: list[int] = []
    now = 0.0
    while len(arrived) < len(started):
        running = [seat for seat in started if seat not in arrived]
        seat = min(running, key=lambda seat: (started[seat] + takes[seat], seat))
        now = started[seat] + takes[seat]
        arrived.append(seat)
        counted = tally(question, [answers[seat].candidate for seat in arrived], places=places)
        out, held = [models[other] for other in running if other != seat], [models[other] for other in waiting]
        if is_settled(counted, out + held):
            break
        if waiting and not may_decide_alone(counted, out, held, EQUAL):
            started |= dict.fromkeys(waiting, now)
            waiting = []
    cut = [seat for seat in started if seat not in arrived]
    spent = sum(min(now - started[seat], takes[seat]) for seat in cut)
    return StoppedVote(
        arrived=tuple(answers[seat] for seat in arrived),
        cancelled=len(cut),
        never_asked=len(waiting),
        tokens=sum(takes[seat] for seat in arrived) + spent,
        ended_at=now,
    )


def same_answer(question: Question, some: Sequence[GradedAnswer], everybody: Sequence[GradedAnswer]) -> bool:
    """Whether the vote of `some` and the vote of `everybody` chose answers that the product takes for the same."""
    places = places_of(everybody)
    early = tally(question, [answer.candidate for answer in some], places=places)
    full = tally(question, [answer.candidate for answer in everybody], places=places)
    if early.winner is None or full.winner is None:
        return early.winner is full.winner
    agreeing = {ballot.candidate.voter for ballot in full.groups[0].ballots}
    return early.kind == full.kind and early.winner.voter in agreeing


def in_any_order(one: Answered, model: str, k: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """Votes of `k`, the seats behind the first in any order: where few subsets are all taken, these are sorted."""
    dice = dice_for(seed, one.problem.key, "seats", k)
    for first, *others in held(one, [model], k, seed):
        yield [first, *dice.sample(others, k - 1)]


def measure_stop(answered: Sequence[Answered], model: str, k: int, waves: bool, seed: int) -> EarlyStop:
    """Votes of `k` of `model` on every problem, stopped on either clock."""
    changed = replayed = 0
    chance, steps = _Totals(), _Totals()
    for one in answered:
        dice = dice_for(seed, one.problem.key, "arrivals", k)
        orders = list(islice(in_any_order(one, model, k, seed), REPLAYS))
        by_chance = [stop_vote(one.question, votes, [dice.expovariate(1) for _ in votes], waves) for votes in orders]
        by_steps = [stop_vote(one.question, votes, [float(a.tokens) for a in votes], waves) for votes in orders]
        replayed += 2 * len(orders)
        changed += sum(
            not same_answer(one.question, stopped.arrived, answers)
            for stops in (by_chance, by_steps)
            for stopped, answers in zip(stops, orders, strict=True)
        )
        chance.add(by_chance, orders)
        steps.add(by_steps, orders)
    return EarlyStop(
        k=k,
        waves=waves,
        votes=replayed,
        changed=changed,
        saved=mean_of(chance.saved),
        never_asked=mean_of(chance.never_asked),
        saved_in_one_engine=mean_of(steps.saved),
        tokens_saved=_complement(ratio_of_sums(steps.tokens, steps.full_tokens)),
        time_saved=_complement(ratio_of_sums(steps.ended_at, steps.full_end)),
    )


class _Totals:
    """One entry a problem, the mean over its replays."""

    def __init__(self) -> None:
        self.saved: list[float] = []
        self.never_asked: list[float] = []
        self.tokens: list[float] = []
        self.full_tokens: list[float] = []
        self.ended_at: list[float] = []
        self.full_end: list[float] = []

    def add(self, stops: Sequence[StoppedVote], votes: Sequence[Sequence[GradedAnswer]]) -> None:
        k, pairs = len(votes[0]), list(zip(stops, votes, strict=True))

        def mean(of: Callable[[StoppedVote, Sequence[GradedAnswer]], float]) -> float:
            return sum(of(stopped, answers) for stopped, answers in pairs) / len(pairs)

        self.saved.append(mean(lambda stopped, _: 1 - len(stopped.arrived) / k))
        self.never_asked.append(mean(lambda stopped, _: stopped.never_asked / k))
        self.tokens.append(mean(lambda stopped, _: stopped.tokens))
        self.full_tokens.append(mean(lambda _, answers: sum(answer.tokens for answer in answers)))
        self.ended_at.append(mean(lambda stopped, _: stopped.ended_at))
        self.full_end.append(mean(lambda _, answers: max(answer.tokens for answer in answers)))


def _complement(share: Estimate) -> Estimate:
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)
