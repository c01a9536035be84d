"""Who is asked first, and in one word why. Pure: everything that decides stands in the replicas.

The order, first difference decides: the rank (an upstream that is the only engine, or only a fallback); who can be
trusted to answer (no suspicion, no open circuit); pins; a weight of 0 goes last; a model with a free slot; the stronger
model; where the conversation's last answer was made, if a slot is free there; the expected time; here; the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from swarm.errors import BadRequest
from swarm.routing.expected_time import EXPECTED_TOKENS, cost_s, expected_s, speed_to_assume
from swarm.routing.replicas import Replica

Reason = Literal[
    "only one", "upstream", "pinned", "others failing", "free slot", "strongest model", "warm prefix", "fastest",
    "here", "weight", "next best",
]  # fmt: skip
REASONS: tuple[str, ...] = get_args(Reason)


def by_preference(replicas: Iterable[Replica], choices: int = 1, tokens: int = EXPECTED_TOKENS) -> tuple[Replica, ...]:
    """Best first for `choices` answers at once, of about `tokens`; the rest are the order of failover."""
    everything = tuple(replicas)
    assumed = speed_to_assume(everything)
    strength = strength_in(everything)
    roomy = {
        strength(replica)
        for replica in everything
        if replica.slots_free >= choices and not replica.troubled and replica.weight > 0
    }
    held = held_models(everything)

    def key(replica: Replica) -> tuple[int, int, bool, bool, bool, int, bool, float, bool, str, str]:
        strong = strength(replica)
        return (
            replica.rank,
            _trouble(replica),
            replica.pinned is False and replica.model in held,
            replica.weight <= 0,
            strong not in roomy,
            -strong,
            not is_warm(replica, choices),
            cost_s(replica, tokens, assumed, choices),
            not replica.local,
            replica.node_id,
            replica.model,
        )

    return tuple(sorted(everything, key=key))


def strength_in(replicas: Iterable[Replica]) -> Callable[[Replica], int]:
    """How strong a replica is: its parameters, or where they are not known, those of the same model here; else 0."""
    known: dict[str, int] = {}
    for replica in replicas:
        known[replica.model] = max(known.get(replica.model, 0), replica.params or 0)
    return lambda replica: replica.params or known[replica.model]


def models_known_here(replicas: Iterable[Replica]) -> frozenset[str]:
    """The models that this node runs itself, or whose size it knows from elsewhere than the peer that serves them."""
    return frozenset(r.model for r in replicas if not r.upstream and (r.local or r.params is not None))


def by_our_measure(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """Best first for seats in a ballot: as `by_preference`, but for the speeds that peers tell of themselves."""
    places = {replica.place: replica for replica in replicas}
    silent = [replica if replica.local else replace(replica, tokens_per_s=None) for replica in replicas]
    return tuple(places[replica.place] for replica in by_preference(silent))


def held_models(replicas: Iterable[Replica]) -> frozenset[str]:
    """The models that are pinned to a node which can be asked: nobody else is, before it."""
    return frozenset(replica.model for replica in replicas if replica.pinned and not replica.troubled)


def is_warm(replica: Replica, choices: int = 1) -> bool:
    """The conversation's prompt is in a cache there, and nobody would wait for it."""
    return replica.warm and replica.slots_free >= choices


def _trouble(replica: Replica) -> int:
    """0 for one that may be expected to answer."""
    return 2 if replica.circuit == "open" else int(replica.suspect)


def with_slots_for(choices: int, replicas: Sequence[Replica], tokens: int = EXPECTED_TOKENS) -> tuple[Replica, ...]:
    """Those that can give `choices` answers at once, best first. Raises BadRequest if that is more than any has."""
    found = by_preference((replica for replica in replicas if replica.slots >= choices), choices, tokens)
    if not found:
        most = max(replicas, key=lambda replica: replica.slots)
        raise BadRequest(
            f"n is {choices}; {most.model!r} gives at most {most.slots} answers at once (--workers on {most.node})",
            param="n",
        )
    return found


def fit_to_vote(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """Those whom a ballot asks: not the troubled while others can, only the pinned where there are, no weight of 0.

    Of several models (the alias), one whose size this node cannot check has no seat while others can vote.
    """
    fit = [replica for replica in replicas if not replica.troubled] or list(replicas)
    checked = models_known_here(fit)
    fit = [replica for replica in fit if replica.upstream or replica.model in checked] if checked else fit
    held = held_models(fit)
    fit = [replica for replica in fit if replica.pinned is not False or replica.model not in held]
    return tuple([replica for replica in fit if replica.weight > 0] or fit)


def reason_for(ranked: Sequence[Replica], choices: int = 1, tokens: int = EXPECTED_TOKENS) -> Reason:
    """Why the first of `ranked`, the order that `by_preference` gave, comes before the others."""
    first, *others = ranked
    if first.upstream:
        return "upstream"
    others = [replica for replica in others if not replica.upstream]
    if not others:
        return "only one"
    if not first.troubled and all(other.troubled for other in others):
        return "others failing"
    others = [other for other in others if other.troubled == first.troubled]
    if first.pinned and any(other.pinned is False and other.model == first.model for other in others):
        return "pinned"
    if first.weight > 0 and all(other.weight <= 0 for other in others):
        return "weight"
    return _reason_among_equals(first, others, choices, tokens)


def _reason_among_equals(first: Replica, others: Sequence[Replica], choices: int, tokens: int) -> Reason:
    strength = strength_in((first, *others))
    if first.slots_free >= choices and all(other.slots_free < choices for other in others):
        return "free slot"
    if all(strength(other) < strength(first) for other in others):
        return "strongest model"
    if is_warm(first, choices):
        return "warm prefix"
    everybody = (first, *others)
    if any(replica.weight != 1 for replica in everybody):
        unweighed = [replace(replica, weight=1.0) for replica in everybody]
        if by_preference(unweighed, choices, tokens)[0].place != first.place:
            return "weight"
    assumed = speed_to_assume(everybody)
    takes_s, *rivals = (expected_s(replica, tokens, assumed, choices) for replica in everybody)
    return "here" if first.local and takes_s >= min(rivals) else "fastest"
