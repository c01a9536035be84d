"""Who is small, who is strong, and how a planned vote becomes a cascade: pure, beside `policy.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from swarm.consensus.cascade import LEAST, LEAST_OF_ONE_MODEL, Cascade, known_thresholds
from swarm.consensus.options import MAX_VOTES, Kind
from swarm.registry.weights_file import MeasuredCascade
from swarm.routing.policy import Batch, Plan, parties_of, spread
from swarm.routing.preference import by_preference, fit_to_vote, known_speed, strength_in
from swarm.routing.replicas import Replica

SLOWER = 1.5  # a model that nothing else tells from others is asked last where it is so much slower; less is noise


def from_weakest(replicas: Sequence[Replica]) -> tuple[str, ...] | None:
    """The models of `replicas`, the strongest last; None where nothing says that one of them is.

    What was measured of all of them decides, else their parameters, as this node knows them, else their speed as it was
    measured here: of models of one size the quick ones are asked first.
    """
    strength = strength_in(replicas)
    of_model = {replica.model: strength(replica) for replica in replicas}
    speed: dict[str, float] = {}
    for replica in replicas:
        measured = known_speed(replica) if replica.local else replica.own_tokens_per_s
        speed[replica.model] = max(speed.get(replica.model, 0.0), measured or 0.0)
    order = sorted(of_model, key=lambda model: (of_model[model], -speed[model], model))
    if len(order) > 1 and of_model[order[0]] == of_model[order[-1]]:
        slowest, next_one = speed[order[-1]], speed[order[-2]]
        if not slowest or next_one < SLOWER * slowest:
            return None
    return tuple(order)


def as_cascade(
    plan: Plan,
    voters: Sequence[Replica],
    votes: int | None,
    measured: Mapping[str, MeasuredCascade],
    kind: Kind,
    *,
    queues: bool,
) -> Plan:
    """The vote that was planned, as a cascade of those `voters` that are fit: the last seat is the strongest's.

    The small ones have all but one of the `votes` that a request asks for; else as many as were measured for `kind`, or
    one for each model, which are three of a single one. They take idle slots as long as these are enough, and others
    only where the vote `queues`. Where no cascade is possible the plain vote stays, with the reason.
    """
    able = [replica for replica in unranked(voters) if not replica.upstream]
    fit = fit_to_vote(able, asked_for=True) if able else ()
    models = from_weakest(fit)
    if models is None or len(models) < 2:
        return _plain(plan, "one model" if models and len(models) == 1 else "no model is known to be stronger")
    *weaker, strong = models
    small = [replica for replica in fit if replica.model != strong]
    of_this = measured.get(kind)
    known = of_this is not None and bool(known_thresholds({kind: of_this}, weaker, strong, of_this.votes))
    wanted = votes - 1 if votes else (of_this.votes if of_this and known else _enough(len(weaker), plan.wanted))
    seats = spread(small, wanted, idle_only=True, by_model=True)
    thresholds = known_thresholds(measured, weaker, strong, len(seats))
    if queues and (len(seats) < wanted if votes else not _could_agree(seats, kind in thresholds)):
        seats = spread(small, wanted, idle_only=False, by_model=True)
        thresholds = known_thresholds(measured, weaker, strong, len(seats))
    if not _could_agree(seats, kind in thresholds):
        return _plain(plan, "too few workers of smaller models")
    if _of_one_stranger(seats):
        return _plain(plan, "the smaller models are one peer's, which agrees with nobody")
    last = by_preference([replica for replica in fit if replica.model == strong])[0]
    cascade = Cascade(strong, thresholds)
    return replace(
        plan, wanted=min(wanted + 1, MAX_VOTES), seats=(*seats, last), parties=parties_of(fit), cascade=cascade
    )


def unranked(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """The replicas, nobody of them too weak: in a cascade the weak ask the strong, and do not outvote them."""
    return tuple(replace(replica, weak=False) for replica in replicas)


def soonest_now(held: Sequence[Batch], now: Iterable[Replica]) -> tuple[Batch, ...]:
    """The strongest's batch, where it can be answered soonest by now; where it was planned if its model is gone."""
    places = tuple(now)

    def place(batch: Batch) -> Replica:
        same = by_preference(r for r in places if r.model == batch.replica.model and not r.troubled)
        return same[0] if same else batch.replica

    return tuple(replace(batch, replica=place(batch)) for batch in held)


def _plain(plan: Plan, why_not: str) -> Plan:
    return replace(plan, cascade=Cascade(None, why_not=why_not))


def _enough(models: int, votes: int) -> int:
    """How many small votes are asked for where nobody says: each further one makes it rarer that all agree."""
    return LEAST_OF_ONE_MODEL if models == 1 else max(LEAST, min(models, votes - 1))


def _could_agree(seats: Sequence[Replica], measured: bool) -> bool:
    one_model = len({seat.model for seat in seats}) == 1
    return len(seats) >= (LEAST_OF_ONE_MODEL if one_model and not measured else LEAST)


def _of_one_stranger(seats: Sequence[Replica]) -> bool:
    return len({seat.party for seat in seats}) == 1 and not (seats[0].local or seats[0].member)
