"""Cascades held again over samples: small models vote, and the strong one's greedy answer stands where they disagree.

The share of agreement from which theirs stands is chosen as a node would: the fewest calls of the strong model at which
at most so much is lost to its own answers. That choice is tried on questions that it was not made on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from swarm.consensus.cascade import LEAST, UNANIMOUS, Threshold, next_step, share_agreeing
from swarm.consensus.options import Kind, Strategy
from swarm.consensus.tally import tally
from swarm.evaluation.intervals import Estimate, mean_difference, mean_of
from swarm.evaluation.replay import SUBSETS, dice_for
from swarm.evaluation.samples import Answered, GradedAnswer
from swarm.registry.weights_file import MeasuredCascade

MOST_EACH = 3  # votes of each small model; of a single one up to MOST_OF_ONE
MOST_OF_ONE = 5
STRONG_VOTES = 5  # of the strong model alone, a node's usual number: the other thing that a cascade is compared with
LEAST_LOST = -0.01  # on the questions that a threshold is chosen on: half of what may be lost, since chance chooses too
LEAST_SHARE = Fraction(1, 2)  # more than this agree in any case: a plurality was the luck of the half it was chosen on
HALVINGS = 20  # of the problems, at random: of a single one the result is luck
FEW_PROBLEMS = 20  # of a kind: less says nothing of a threshold

NOTHING = Fraction(2)  # a share that nobody reaches


@dataclass(frozen=True, slots=True)
class Small:
    """What one vote of the small models came to: the share from which its answer stands, and whether that is right.

    `unmeasured`: it stands where nothing was measured, too. `tokens` are those of all its answers.
    """

    share: Fraction
    right: bool
    unmeasured: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """One problem: the small models' votes by their number, and what the strong one says, alone and by its own vote."""

    small: Mapping[int, tuple[Small, ...]]
    strong: bool
    strong_tokens: int
    voted: float


@dataclass(frozen=True, slots=True)
class CascadePoint:
    """With so many small `votes`, an answer standing from this share of `agreement` on; None: as if none was measured.

    `asked` is the share of the questions that reach the strong model; `over_greedy` and `over_vote` what is gained over
    its own greedy answer and its own vote; `tokens` what a question costs, of all models.
    """

    votes: int
    agreement: float | None
    asked: Estimate
    right: Estimate
    over_greedy: Estimate
    over_vote: Estimate
    tokens: float


@dataclass(frozen=True, slots=True)
class CascadeFindings:
    """Answers of one kind: the whole curve, and what a choice is worth that was made on other problems.

    `chosen` is what was chosen on all of them; None where no share is good enough.
    """

    kind: Kind
    small: tuple[str, ...]
    strong: str
    problems: int
    greedy: Estimate
    vote: Estimate
    strong_tokens: float
    curve: tuple[CascadePoint, ...]
    unmeasured: CascadePoint
    held_out: CascadePoint | None
    chosen: MeasuredCascade | None


def measure_cascades(answered: Sequence[Answered], models: Sequence[str], seed: int) -> tuple[CascadeFindings, ...]:
    """For each kind: all models but the strongest before that one, and each of them alone before it.

    The strongest is the one whose greedy answer is right most often on these very problems, which flatters it.
    """
    found: list[CascadeFindings] = []
    for kind in dict.fromkeys(one.problem.kind for one in answered):
        of_kind = [one for one in answered if one.problem.kind == kind]
        if len(models) < 2 or len(of_kind) < FEW_PROBLEMS:
            continue
        strong = max(models, key=lambda model: sum(one.greedy[model].right for one in of_kind))
        others = tuple(model for model in models if model != strong)
        groups = [others, *((model,) for model in others if len(others) > 1)]
        found += [measure_cascade(of_kind, small, strong, seed) for small in groups]
    return tuple(found)


def measure_cascade(answered: Sequence[Answered], small: Sequence[str], strong: str, seed: int) -> CascadeFindings:
    """One cascade over problems of one kind."""
    numbers = vote_numbers(len(small), min(len(one.samples[model]) for one in answered for model in small))
    rows = [replayed(one, small, strong, numbers, seed) for one in answered]
    kind = answered[0].problem.kind
    best = choose(rows)
    return CascadeFindings(
        kind=kind,
        small=tuple(small),
        strong=strong,
        problems=len(rows),
        greedy=mean_of([float(row.strong) for row in rows]),
        vote=mean_of([row.voted for row in rows]),
        strong_tokens=sum(row.strong_tokens for row in rows) / len(rows),
        curve=tuple(point(rows, votes, share) for votes in numbers for share in shares_of(rows, votes)),
        unmeasured=point(rows, _usual(numbers, len(small)), None),
        held_out=held_out(rows, seed),
        chosen=None if best is None else MeasuredCascade(tuple(small), strong, best[0], float(best[1]), len(rows)),
    )


def vote_numbers(models: int, samples: int) -> tuple[int, ...]:
    """The numbers of small votes that are tried: the same of each model, its greedy answer first."""
    most = min(MOST_OF_ONE if models == 1 else MOST_EACH, samples + 1)
    return tuple(models * each for each in range(1, most + 1) if models * each >= LEAST)


def _usual(numbers: Sequence[int], models: int) -> int:
    """How many a node asks where nothing was measured: one of each, three of a single one."""
    return numbers[min(1, len(numbers) - 1)] if models == 1 else numbers[0]


def replayed(one: Answered, small: Sequence[str], strong: str, numbers: Sequence[int], seed: int) -> Replayed:
    """Every vote of `one` that is looked at, counted by the tally that serves requests."""
    question = one.under(Strategy.CASCADE)
    alone = min(STRONG_VOTES, len(one.samples[strong]) + 1)

    def counted(answers: Sequence[GradedAnswer]) -> Small:
        places = {answer.candidate.voter: (seat, "") for seat, answer in enumerate(answers)}
        came_to = tally(question, [answer.candidate for answer in answers], places=places)
        winner = None if came_to.winner is None else came_to.winner.voter
        share = share_agreeing(came_to)
        own = Threshold(share, measured=True)
        return Small(
            share=share if share and next_step(came_to, (), own, {}) == "agreed" else Fraction(0),
            right=any(answer.right for answer in answers if answer.candidate.voter == winner),
            unmeasured=next_step(came_to, (), UNANIMOUS, {}) == "agreed",
            tokens=sum(answer.tokens for answer in answers),
        )

    votes = [counted(answers) for answers in _votes(one, (strong,), alone, seed)]
    return Replayed(
        small={k: tuple(counted(answers) for answers in _votes(one, small, k, seed)) for k in numbers},
        strong=one.greedy[strong].right,
        strong_tokens=one.greedy[strong].tokens,
        voted=sum(vote.right for vote in votes) / len(votes),
    )


def _votes(one: Answered, models: Sequence[str], votes: int, seed: int) -> Iterator[list[GradedAnswer]]:
    """Some of the votes that there are: the greedy answer of each model, then samples of each."""
    dice, each = dice_for(seed, one.problem.key, "cascade", *models, votes), votes // len(models) - 1
    for _ in range(SUBSETS if each else 1):
        drawn = [answer for model in models for answer in dice.sample(one.samples[model], each)]
        yield [*(one.greedy[model] for model in models), *drawn]


def shares_of(rows: Sequence[Replayed], votes: int) -> list[Fraction]:
    """The shares of agreement that occur, of those that may be chosen."""
    return sorted({small.share for row in rows for small in row.small[votes] if small.share > LEAST_SHARE})


def _stands(share: Fraction | None) -> Callable[[Small], bool]:
    return (lambda small: small.unmeasured) if share is None else (lambda small: small.share >= share)


def outcome(row: Replayed, votes: int, share: Fraction | None) -> tuple[float, float, float]:
    """Of one problem the share that is right, that reaches the strong model, and the tokens."""
    stands, smalls = _stands(share), row.small[votes]
    standing = [small for small in smalls if stands(small)]
    asked = 1 - len(standing) / len(smalls)
    right = sum(small.right for small in standing) / len(smalls) + asked * row.strong
    return right, asked, sum(small.tokens for small in smalls) / len(smalls) + asked * row.strong_tokens


def point(rows: Sequence[Replayed], votes: int, share: Fraction | None) -> CascadePoint:
    return _point(rows, [outcome(row, votes, share) for row in rows], votes, share)


def _point(
    rows: Sequence[Replayed], found: Sequence[tuple[float, float, float]], votes: int, share: Fraction | None
) -> CascadePoint:
    rights = [right for right, _, _ in found]
    return CascadePoint(
        votes=votes,
        agreement=None if share is None else float(share),
        asked=mean_of([asked for _, asked, _ in found]),
        right=mean_of(rights),
        over_greedy=mean_difference(rights, [float(row.strong) for row in rows]),
        over_vote=mean_difference(rights, [row.voted for row in rows]),
        tokens=sum(tokens for _, _, tokens in found) / len(found),
    )


def choose(rows: Sequence[Replayed]) -> tuple[int, Fraction] | None:
    """The number of small votes and the share with the fewest calls of the strong model that lose little enough.

    Of equal ones the fewest votes. None where every share loses more.
    """
    greedy = sum(row.strong for row in rows)
    good: list[tuple[float, int, Fraction]] = []
    for votes in rows[0].small:
        for share in shares_of(rows, votes):
            found = [outcome(row, votes, share) for row in rows]
            if sum(right for right, _, _ in found) - greedy >= LEAST_LOST * len(rows):
                good.append((sum(asked for _, asked, _ in found), votes, share))
    return min(good)[1:] if good else None


def held_out(rows: Sequence[Replayed], seed: int) -> CascadePoint | None:
    """What a choice is worth: made on one half of the problems, measured on the other, over many halvings.

    Where nothing is good enough the strong model is always asked. None with too few problems to halve.
    """
    if len(rows) < 2 * FEW_PROBLEMS:
        return None
    nothing = next(iter(rows[0].small)), NOTHING
    dice, middle = dice_for(seed, "halves", len(rows)), len(rows) // 2
    found: list[list[tuple[float, float, float]]] = [[] for _ in rows]
    for _ in range(HALVINGS):
        order = dice.sample(range(len(rows)), len(rows))
        for half, other in ((order[:middle], order[middle:]), (order[middle:], order[:middle])):
            setting = choose([rows[at] for at in half]) or nothing
            for at in other:
                found[at].append(outcome(rows[at], *setting))
    return _point(rows, [_mean(several) for several in found], 0, None)


def _mean(several: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    right, asked, tokens = (sum(figures) / len(several) for figures in zip(*several, strict=True))
    return right, asked, tokens


def kept(found: Sequence[CascadeFindings]) -> dict[str, MeasuredCascade]:
    """What a node is to keep, by kind: of the cascade in which every other model goes before the strongest."""
    whole: dict[str, CascadeFindings] = {}
    for one in found:
        if one.kind not in whole or len(one.small) > len(whole[one.kind].small):
            whole[one.kind] = one
    return {kind: one.chosen for kind, one in whole.items() if one.chosen is not None}
