"""Who is asked first, and in one word why. Pure: everything that decides stands in the replicas.

The order, first difference decides: the rank (an upstream that is the only engine, or only a fallback); who can be
trusted to answer (no suspicion, no open circuit); pins; a weight of 0 goes last; a model with a free slot; the stronger
model; where the conversation's last answer was made, if a slot is free there; the expected time; here; the names.

The expected time is waiting, then writing, in seconds, as far as either can be known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from swarm.routing.replicas import Replica

EXPECTED_TOKENS = 256  # of an answer that is not bounded to less: two or three paragraphs
ASSUMED_TOKENS_PER_S = 20.0  # where nobody's speed is known: a small model on a plain machine
CURIOSITY = 1.5  # an unmeasured replica is taken for this much faster than the fastest, so that it is measured soon
CROWDING_COST = 1.0  # a node whose slots are all at work writes each answer in 1 + this times the time of a lone one
PEER_HANDICAP = 0.15  # of a lone answer's time: so much sooner must a peer be than this node; near-equals do not flap


def expected_tokens(request: GenerationRequest) -> int:
    """How long an answer to plan for."""
    return EXPECTED_TOKENS if request.max_tokens is None else max(1, min(request.max_tokens, EXPECTED_TOKENS))


def crowding(busy: int, slots: int) -> float:
    """How much longer an answer takes while `busy` other slots of `slots` are at work: they share one machine."""
    return 1 + CROWDING_COST * max(0, min(busy, slots - 1)) / max(slots, 1)


def known_speed(replica: Replica) -> float | None:
    """Tokens per second of a lone answer: as measured from here, else as reported."""
    return replica.own_tokens_per_s or replica.tokens_per_s or None


def within_reason(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """The replicas, what peers report of their speed cut to what an unmeasured one is taken for.

    So whoever overclaims is asked no sooner than one that reports nothing: once, and then what was measured counts. One
    that has answered, and whose speed could not be measured all the same, is not taken for faster than anybody who was.
    """
    measured = [r.own_tokens_per_s or (r.tokens_per_s if r.local else None) for r in replicas]
    speeds = [speed for speed in measured if speed]
    fastest = max(speeds, default=None)

    def believed(replica: Replica) -> Replica:
        reported = replica.tokens_per_s
        if replica.local or reported is None:
            return replica
        if replica.answered:
            return replace(replica, tokens_per_s=min(reported, fastest or ASSUMED_TOKENS_PER_S))
        return replica if fastest is None else replace(replica, tokens_per_s=min(reported, CURIOSITY * fastest))

    return tuple(map(believed, replicas))


def speed_to_assume(replicas: Iterable[Replica]) -> float:
    """For a replica of unknown speed among `replicas`: better than the best, until it has been asked once."""
    speeds = [speed for speed in map(known_speed, replicas) if speed is not None]
    return CURIOSITY * max(speeds) if speeds else ASSUMED_TOKENS_PER_S


def expected_s(replica: Replica, tokens: int, assumed_tokens_per_s: float, choices: int = 1) -> float:
    """Seconds until `choices` answers of `tokens` would be whole there. Never less under more load."""
    writing_s = tokens / (known_speed(replica) or assumed_tokens_per_s)
    busy = replica.load if replica.slots_free >= choices else replica.slots
    once_begun_s = (replica.first_s or 0.0) + writing_s * crowding(busy, replica.slots)
    return waiting_s(replica, writing_s, choices) + once_begun_s


def waiting_s(replica: Replica, writing_s: float, choices: int = 1) -> float:
    """Seconds until `choices` slots are free for a newcomer: as reported, else as its queue would move up."""
    if replica.slots_free >= choices:
        return 0.0
    if replica.wait_s or (replica.wait_s is not None and not replica.slots_free):  # extra votes there give way at once
        return replica.wait_s
    full_s = writing_s * crowding(replica.slots, replica.slots)
    return (replica.waiting + choices) * full_s / max(replica.slots, 1)


def queued_behind(ahead: int, replica: Replica) -> Replica:
    """The replica as a request sees it that waits there already, with `ahead` others before it."""
    share = (ahead + 1) / (replica.waiting + 1)
    return replace(replica, waiting=ahead, wait_s=replica.wait_s * share if replica.wait_s else None)


def cost_s(replica: Replica, tokens: int, assumed_tokens_per_s: float, choices: int = 1) -> float:
    """What replicas are ordered by: the expected time, with the round trip, this node's advantage and the weight."""
    seconds = expected_s(replica, tokens, assumed_tokens_per_s, choices)
    if not replica.local:
        seconds += PEER_HANDICAP * tokens / (known_speed(replica) or assumed_tokens_per_s) + replica.rtt_s
    return seconds / replica.weight if replica.weight > 0 else seconds


RoutingReason = Literal[
    "only one", "upstream", "pinned", "others failing", "free slot", "strongest model", "warm prefix", "fastest",
    "here", "weight", "next best",
]  # fmt: skip
REASONS: tuple[str, ...] = get_args(RoutingReason)


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
    """Best first for seats in a ballot: as `by_preference`, but for the speeds that peers report of themselves."""
    places = {replica.key: replica for replica in replicas}
    silent = [replica if replica.local else replace(replica, tokens_per_s=None) for replica in replicas]
    return tuple(places[replica.key] for replica in by_preference(silent))


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


def reason_for(ranked: Sequence[Replica], choices: int = 1, tokens: int = EXPECTED_TOKENS) -> RoutingReason:
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


def _reason_among_equals(first: Replica, others: Sequence[Replica], choices: int, tokens: int) -> RoutingReason:
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
        if by_preference(unweighed, choices, tokens)[0].key != first.key:
            return "weight"
    assumed = speed_to_assume(everybody)
    takes_s, *rivals = (expected_s(replica, tokens, assumed, choices) for replica in everybody)
    return "here" if first.local and takes_s >= min(rivals) else "fastest"
