"""Who is asked first, and in one word why. Pure: everything that decides stands in the replicas.

The order, first difference decides: the rank (an upstream that is the only engine, or only a fallback); no open
circuit; who is not too weak beside the strongest; no suspicion; pins; a weight of 0 goes last; the stronger model, for
which a request waits; where the conversation's last answer was made, if a slot is free there; the expected time; here;
the names.

How strong a model is: what was measured of it, where that was of all; else its parameters, as far as this node can
check them. What a peer says of its own model is neither.

The expected time is waiting, then writing, in seconds, as far as either can be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from swarm.errors import BadRequest
from swarm.generation import GenerationRequest
from swarm.routing.replicas import WEAK_SHARE, Replica

EXPECTED_TOKENS = 256  # of an answer that is not bounded to less: two or three paragraphs
ASSUMED_TOKENS_PER_S = 20.0  # where nobody's speed is known: a small model on a plain machine
CURIOSITY = 1.5  # an unmeasured replica is taken for this much faster than the fastest, so that it is measured soon
CROWDING_COST = 1.0  # a node whose slots are all at work writes each answer in 1 + this times the time of a lone one
MAX_COPIES = 4096  # a few times what a full table of peers has to be marked
MOST_RANKED = 64  # of a large swarm: who fails is left out, and the order made anew, long before that many are asked
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


class KeptCopies:
    """Replicas with something changed, each made once: of a large swarm most are as they were in the plan before."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Replica, dict[str, object], Replica]] = {}  # by `id`, beside whose it is

    def of(self, replica: Replica, **changed: Any) -> Replica:
        """As `replace`; the same object as the last time, where that was the same."""
        made = self._made.get(id(replica))
        if made is None or made[1] != changed:
            if len(self._made) >= MAX_COPIES:
                self._made.clear()
            made = self._made[id(replica)] = replica, changed, replace(replica, **changed)
        return made[2]


def fastest_measured(replicas: Iterable[Replica]) -> float | None:
    """Tokens per second of the fastest of `replicas` that was measured, here or from here."""
    return fastest_of(r.own_tokens_per_s or (r.tokens_per_s if r.local else None) for r in replicas)


def fastest_of(measured: Iterable[float | None]) -> float | None:
    """The highest speed of those that are known."""
    return max((speed for speed in measured if speed), default=None)


def within_reason(
    replicas: Sequence[Replica], fastest: float | None, copies: KeptCopies | None = None
) -> tuple[Replica, ...]:
    """The replicas, what peers report of their speed cut to what an unmeasured one is taken for.

    `fastest` is the speed of the fastest of all that was measured. So whoever overclaims is asked no sooner than one
    that reports nothing: once, and then what was measured counts. One that has answered, and whose speed could not be
    measured all the same, is not taken for faster than anybody who was.
    """

    unmeasured = math.inf if fastest is None else CURIOSITY * fastest
    answered = fastest or ASSUMED_TOKENS_PER_S

    copies = copies or KeptCopies()

    def believed(replica: Replica, reported: float) -> Replica:
        most = answered if replica.answered else unmeasured
        return replica if reported <= most else copies.of(replica, tokens_per_s=most)

    return tuple(
        replica if (reported := replica.tokens_per_s) is None or replica.local else believed(replica, reported)
        for replica in replicas
    )


def speed_to_assume(replicas: Iterable[Replica]) -> float:
    """For a replica of unknown speed among `replicas`: better than the best, until it has been asked once."""
    speeds = [speed for speed in map(known_speed, replicas) if speed is not None]
    return CURIOSITY * max(speeds) if speeds else ASSUMED_TOKENS_PER_S


def expected_s(replica: Replica, tokens: int, assumed_tokens_per_s: float, choices: int = 1) -> float:
    """Seconds until `choices` answers of `tokens` would be whole there. Never less under more load."""
    writing_s = tokens / (known_speed(replica) or assumed_tokens_per_s)
    busy = replica.load if replica.slots_free >= choices else replica.slots
    once_begun_s = (replica.first_s or 0.0) + writing_s * crowding(busy, replica.slots)
    # Of this node's own queue nothing is known while no answer has ended here: those before it are as long as most are,
    # however short this one is to be.
    ahead_s = writing_s * EXPECTED_TOKENS / tokens if replica.local and replica.wait_s is None else writing_s
    return waiting_s(replica, ahead_s, choices) + once_begun_s


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


def by_preference(
    replicas: Iterable[Replica], choices: int = 1, tokens: int = EXPECTED_TOKENS, most: int | None = None
) -> tuple[Replica, ...]:
    """Best first for `choices` answers at once, of about `tokens`; the rest are the order of failover.

    With `most`, only so many of the best, or some more.
    """
    everything = tuple(replicas)
    assumed = speed_to_assume(everything)
    strength = strength_in(everything)
    held = held_models(everything)
    if most is not None and len(everything) > most:
        everything = _foremost(everything, strength, most)

    def key(replica: Replica) -> tuple[int, bool, bool, bool, bool, bool, Strength, bool, float, bool, str, str]:
        measured, params = strength(replica)
        return (
            replica.rank,
            replica.circuit == "open",
            replica.weak,
            replica.suspect,
            replica.pinned is False and replica.model in held,
            replica.weight <= 0,
            (-measured, -params),
            not is_warm(replica, choices),
            cost_s(replica, tokens, assumed, choices),
            not replica.local,
            replica.node_id,
            replica.model,
        )

    return tuple(sorted(everything, key=key))


Strength = tuple[float, int]


def _foremost(replicas: tuple[Replica, ...], strength: Callable[[Replica], Strength], most: int) -> tuple[Replica, ...]:
    """Those of whom nobody else comes before, at least `most`; all, where that is not seen at a glance.

    What comes before the expected time in the order is looked at only where nothing speaks against a replica: those
    come first, the strongest models before others.
    """
    if any(replica.pinned is False or replica.weight <= 0 for replica in replicas):
        return replicas
    rank = min(replica.rank for replica in replicas)
    sound = [
        replica
        for replica in replicas
        if not replica.weak and replica.rank == rank and replica.circuit != "open" and not replica.suspect
    ]
    if len(sound) < most:
        return replicas
    of_strength: dict[Strength, list[Replica]] = {}
    for replica in sound:
        of_strength.setdefault(strength(replica), []).append(replica)
    found: list[Replica] = []
    for alike in sorted(of_strength, reverse=True):
        found += of_strength[alike]
        if len(found) >= most:
            break
    return tuple(found)


def strength_in(replicas: Iterable[Replica]) -> Callable[[Replica], Strength]:
    """How strong a replica is: what was measured, then its parameters, or where they are not known those of its model.

    0 for what is not known.
    """
    known: dict[str, int] = {}
    for replica in replicas:
        params = replica.params
        if params is not None and params > known.get(replica.model, 0):
            known[replica.model] = params
    return lambda replica: (replica.measured or 0.0, replica.params or known.get(replica.model, 0))


def assessed(
    replicas: Sequence[Replica],
    odds: Mapping[str, float],
    *,
    weighed: bool = False,
    copies: KeptCopies | None = None,
) -> tuple[Replica, ...]:
    """The replicas that may answer for `swarm`, each with how it stands to the strongest of them.

    `odds`: by model, the log odds of being right that were measured; they say who is strong where all models have them.
    Too weak is one with less than WEAK_SHARE of the most parameters. Where answers are `weighed` by what was measured,
    nobody is: the weights see to that. One whose size is not known is never called weak (see `fit_to_vote`).
    """
    models = {replica.model for replica in replicas if not replica.upstream}
    if len(models) < 2:
        return tuple(replicas)
    if odds.keys() >= models:
        replicas = [replace(r, measured=odds[r.model]) if r.model in odds else r for r in replicas]
    if weighed:
        return tuple(replicas)
    strength = strength_in(replicas)
    wanted = [replica for replica in replicas if replica.weight > 0 and replica.pinned is not False] or replicas
    most = max(strength(replica)[1] for replica in wanted)
    copies, least = copies or KeptCopies(), WEAK_SHARE * most
    return tuple(copies.of(r, weak=True) if 0 < strength(r)[1] < least else r for r in replicas)


ENOUGH_PARTIES = 3  # whose word for the size of their models makes a fact of it: more than one or two can lie


def strong_enough(replicas: Sequence[Replica], asked_for: bool = False) -> list[Replica]:
    """Those that are not too weak, however few; everybody, where requests to all the strong ones fail.

    A peer's model is known by its name alone, so whoever takes a large one makes others look weak. That puts nobody out
    of a vote that was `asked_for`, where it is the word of one or two peers; not so this node's own file, or the one
    other member of a paired swarm, beside which there is no majority to protect.
    """
    strong = [replica for replica in replicas if not replica.weak]
    if all(replica.circuit == "open" for replica in strong):
        return list(replicas)
    return strong if not asked_for or _beyond_doubt(strong, replicas) else list(replicas)


def _beyond_doubt(strong: Sequence[Replica], everybody: Sequence[Replica]) -> bool:
    parties = {replica.party for replica in everybody}
    invited = len(parties) <= 2 and all(replica.local or replica.member for replica in everybody)
    if invited or len(parties) == 1 or any(replica.local for replica in strong):
        return True
    return len({replica.party for replica in strong if replica.params is not None}) >= ENOUGH_PARTIES


def models_known_here(replicas: Iterable[Replica]) -> frozenset[str]:
    """The models that this node runs itself, has measured, or whose size it knows from elsewhere than their peers."""
    known = (r for r in replicas if not r.upstream and (r.local or r.params is not None or r.measured is not None))
    return frozenset(replica.model for replica in known)


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


def with_slots_for(choices: int, replicas: Sequence[Replica], tokens: int = EXPECTED_TOKENS) -> tuple[Replica, ...]:
    """Those that can give `choices` answers at once, best first, of very many only the first.

    Raises BadRequest if that is more than any has.
    """
    able = (replica for replica in replicas if replica.slots >= choices)
    found = by_preference(able, choices, tokens, most=MOST_RANKED)
    if not found:
        most = max(replicas, key=lambda replica: replica.slots)
        raise BadRequest(
            f"n is {choices}; {most.model!r} gives at most {most.slots} answers at once (--workers on {most.node})",
            param="n",
        )
    return found


def fit_to_vote(replicas: Sequence[Replica], asked_for: bool = False) -> tuple[Replica, ...]:
    """Those whom a ballot asks: not the troubled while others can, only the pinned where there are, no weight of 0.

    Of several models (the alias), one that is too weak has no seat (see `strong_enough`), and one whose size this node
    cannot check has none while others can vote: nobody outvotes anybody by a name that says nothing.
    """
    fit = strong_enough(replicas, asked_for)
    fit = [replica for replica in fit if not replica.troubled] or fit
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
    if not first.weak and all(other.weak for other in others):
        return "strongest model"
    others = [other for other in others if other.troubled == first.troubled]
    if first.pinned and any(other.pinned is False and other.model == first.model for other in others):
        return "pinned"
    if first.weight > 0 and all(other.weight <= 0 for other in others):
        return "weight"
    return _reason_among_equals(first, others, choices, tokens)


def _reason_among_equals(first: Replica, others: Sequence[Replica], choices: int, tokens: int) -> RoutingReason:
    strength = strength_in((first, *others))
    others = [other for other in others if other.weak == first.weak and strength(other) == strength(first)]
    if not others:
        return "strongest model"
    if first.slots_free >= choices and all(other.slots_free < choices for other in others):
        return "free slot"
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
