"""Everything that is computed of one set of questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.consensus.options import Kind
from swarm.evaluation.agreement import AgreementSignal, Liars, measure_agreement, measure_liars
from swarm.evaluation.cascade import CascadeFindings, measure_cascades
from swarm.evaluation.curves import USUAL_VOTES, Member, Pool, measure_member, measure_pool, vote_counts
from swarm.evaluation.early_stop import EarlyStop, measure_stop
from swarm.evaluation.questions import QuestionSet
from swarm.evaluation.race import MOST_VOTES, Races, measure_races
from swarm.evaluation.replay import measured
from swarm.evaluation.samples import Answered
from swarm.evaluation.signals import Signals, measure_signals
from swarm.registry.weights_file import Measurements

STOPPED_VOTES = (5, 9)
LIARS = (1, 2)


@dataclass(frozen=True, slots=True)
class Findings:
    """One set of questions. What concerns a single model is about the first of `members`.

    `problems` are those of which every sample is there, of `wanted`.
    """

    name: str
    problems: int
    wanted: int
    samples: int
    temperature: float
    kinds: Mapping[Kind, int]
    members: tuple[Member, ...]
    pool: Pool | None
    signals: tuple[Signals, ...]
    races: Races
    stops: tuple[EarlyStop, ...]
    liars: Liars | None
    trust: AgreementSignal
    measured: Measurements
    cascades: tuple[CascadeFindings, ...] = ()

    @property
    def main(self) -> Member:
        return self.members[0]


def measure(questions: QuestionSet, answered: Sequence[Answered], models: Sequence[str], seed: int) -> Findings:
    """The findings on `answered` (at least one problem), with as many samples of each of `models` as were drawn."""
    samples = len(answered[0].samples[models[0]])
    ks, main = vote_counts(samples), models[0]
    members = tuple(measure_member(answered, model, ks, seed) for model in models)
    usual = min(USUAL_VOTES, samples)
    return Findings(
        name=questions.name,
        problems=len(answered),
        wanted=len(questions.problems),
        samples=samples,
        temperature=questions.temperature,
        kinds=dict(Counter(one.problem.kind for one in answered)),
        members=members,
        pool=measure_pool(answered, members, seed) if len(members) > 1 else None,
        signals=tuple(measure_signals(answered, model, usual, samples, seed) for model in models),
        races=measure_races(answered, main, min(MOST_VOTES, samples), seed),
        stops=tuple(
            measure_stop(answered, main, k, waves, seed)
            for k in STOPPED_VOTES
            if k <= samples
            for waves in (True, False)
        ),
        liars=measure_liars(answered, main, USUAL_VOTES, LIARS, seed) if samples >= USUAL_VOTES else None,
        trust=measure_agreement(answered, main, usual, seed),
        measured=measured(answered, models),
        cascades=measure_cascades(answered, models, seed),
    )
