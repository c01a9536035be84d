"""Who is asked: pure choices over replicas, for one answer and for a ballot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from swarm.routing.replicas import Replica

MAX_VOTES = 32  # gains flatten at 10-20 votes; more is a typing error or an attack
LONG_PROMPT_CHARS = 32_000  # about 8,000 tokens: beyond it `auto` asks one voter only (long contexts vote badly)


@dataclass(frozen=True, slots=True)
class VoteOptions:
    """What the request or the node asks of a vote; None means "not said"."""

    strategy: str = "auto"
    votes: int | None = None
    min_votes: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """`count` voters of one replica."""

    replica: Replica
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be answered. `wanted` is what the setting asks for, `asked` what the load allows."""

    mode: Literal["single", "vote"]
    wanted: int
    assignments: tuple[Assignment, ...]

    @property
    def asked(self) -> int:
        return sum(assignment.count for assignment in self.assignments)


def preference(replica: Replica) -> tuple[bool, int, bool, float, int, str]:
    """Sort key for a single answer: a free slot, the stronger model, here before elsewhere, speed, room, id."""
    return (
        replica.slots_free <= 0,
        -(replica.params or 0),
        not replica.local,
        -(replica.tokens_per_s or 0.0),
        -replica.slots_free,
        replica.node_id,
    )


def by_preference(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """Best first; the rest are the order of failover."""
    return tuple(sorted(replicas, key=preference))


def spread(replicas: Sequence[Replica], votes: int, idle_only: bool) -> tuple[Assignment, ...]:
    """Deal `votes` over models first, then nodes, then slots: a second slot of a node only when every node has one.

    With `idle_only` no replica gets more than its free slots, else no more than its slots.
    """
    room = {r: (r.slots_free if idle_only else r.slots) for r in by_preference(replicas)}
    given: dict[Replica, int] = dict.fromkeys(room, 0)
    of_model: dict[str, int] = {}
    of_node: dict[str, int] = {}
    for _ in range(votes):
        open_ones = [replica for replica in room if given[replica] < room[replica]]
        if not open_ones:
            break
        # min keeps the order of preference among equals
        chosen = min(open_ones, key=lambda r: (of_node.get(r.node_id, 0), of_model.get(r.model, 0)))
        given[chosen] += 1
        of_node[chosen.node_id] = of_node.get(chosen.node_id, 0) + 1
        of_model[chosen.model] = of_model.get(chosen.model, 0) + 1
    return tuple(Assignment(replica, count) for replica, count in given.items() if count)


def make_plan(
    replicas: Sequence[Replica], options: VoteOptions, default_votes: int, prompt_chars: int, choices: int = 1
) -> Plan:
    """One answer or a ballot, and who is asked.

    Several `choices` (OpenAI's n) are answers for the client to compare, never a vote. An explicit number of votes or a
    named strategy is honoured and queues; `auto` takes only idle slots, down to one, and one for a very long prompt.
    """
    best = by_preference(replicas)
    explicit = options.votes is not None or options.strategy not in ("auto", "single")
    wanted = min(options.votes or default_votes, MAX_VOTES)
    single = Plan("single", wanted, (Assignment(best[0], 1),))
    if choices > 1 or options.strategy == "single" or wanted == 1:
        return Plan("single", 1, (Assignment(best[0], choices),))
    if not explicit and prompt_chars > LONG_PROMPT_CHARS:
        return single
    assignments = spread(best, wanted, idle_only=not explicit)
    plan = Plan("vote", wanted, assignments)
    return plan if plan.asked > 1 or (explicit and plan.asked) else single
