"""How long an answer would take at each replica, as far as can be told: waiting, then writing. Plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from swarm.generation import GenerationRequest
from swarm.routing.replicas import Replica

EXPECTED_TOKENS = 256  # of an answer that is not bounded to less: two or three paragraphs
ASSUMED_TOKENS_PER_S = 20.0  # where nobody's speed is known: a small model on a plain machine
CURIOSITY = 1.5  # an unmeasured replica is taken for this much faster than the fastest, so that it is measured soon
FULL_HOUSE = 1.0  # a node whose slots are all at work writes each answer in 1 + this times the time of a lone one
ELSEWHERE = 0.15  # of a lone answer's time: so much sooner must a peer be than this node; near-equals do not flap


def expected_tokens(request: GenerationRequest) -> int:
    """How long an answer to plan for."""
    return EXPECTED_TOKENS if request.max_tokens is None else max(1, min(request.max_tokens, EXPECTED_TOKENS))


def crowding(busy: int, slots: int) -> float:
    """How much longer an answer takes while `busy` other slots of `slots` are at work: they share one machine."""
    return 1 + FULL_HOUSE * max(0, min(busy, slots - 1)) / max(slots, 1)


def known_speed(replica: Replica) -> float | None:
    """Tokens per second of a lone answer: as measured from here, else as told."""
    return replica.own_tokens_per_s or replica.tokens_per_s or None


def within_reason(replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """The replicas, what peers tell of their speed cut to what an unmeasured one is taken for.

    So whoever boasts is asked no sooner than one that tells nothing: once, and then what was measured counts. One that
    has answered, and whose speed could not be measured all the same, is not taken for faster than anybody who was.
    """
    measured = [r.own_tokens_per_s or (r.tokens_per_s if r.local else None) for r in replicas]
    speeds = [speed for speed in measured if speed]
    fastest = max(speeds, default=None)

    def believed(replica: Replica) -> Replica:
        told = replica.tokens_per_s
        if replica.local or told is None:
            return replica
        if replica.answered:
            return replace(replica, tokens_per_s=min(told, fastest or ASSUMED_TOKENS_PER_S))
        return replica if fastest is None else replace(replica, tokens_per_s=min(told, CURIOSITY * fastest))

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
    """Seconds until `choices` slots are free for a newcomer: as told, else as its queue would move up."""
    if replica.slots_free >= choices:
        return 0.0
    if replica.wait_s:
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
        seconds += ELSEWHERE * tokens / (known_speed(replica) or assumed_tokens_per_s) + replica.rtt_s
    return seconds / replica.weight if replica.weight > 0 else seconds
