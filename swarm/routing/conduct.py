"""How each peer has behaved towards this node, in counts, and what of that a person should be told. Pure.

Nothing is ever done about it here: a weak model dissents often, and whom to revoke is a person's decision.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from swarm.consensus.options import Kind
from swarm.consensus.verdict import Verdict
from swarm.registry.known_sizes import refutes
from swarm.routing.replicas import Replica

MAX_PEERS_COUNTED = 256  # twice a peer table; the one heard of longest ago is forgotten first
MAX_COUNT = 512  # then an account is halved: what a peer did last week weighs less than what it does today
COUNTABLE: frozenset[Kind] = frozenset({"number", "choice", "json", "tool_calls"})  # of which two answers are equal

MIN_VOTES = 20  # countable votes before dissent is worth a word
MIN_FAULTS = 3  # malformed answers, or impossible counts, before they are: one may be a broken connection
MIN_FAULT_SHARE = 0.05
MIN_PACED = 5  # answers measured before a boast is
MIN_REFUTED_SHARE = 0.8
BOAST = 4.0  # times as fast as measured: a busy node and a slow network explain less
Z_99 = 2.58  # of the normal distribution: an interval that holds the true share 99 times in 100
UNSEEN_TOKENS = 64  # an answer may have beyond one for each byte of it: markup around calls and thoughts


@dataclass(frozen=True, slots=True)
class Account:
    """`answers` were well formed and `malformed` none; `overstated` named more tokens than they have bytes.

    Of `votes`, its ballots in countable votes that others settled, `dissent` were against them. Of `paced` answers the
    speed was measured, and `refuted` came from a peer that claimed over BOAST times as much.
    """

    answers: int = 0
    malformed: int = 0
    overstated: int = 0
    votes: int = 0
    dissent: int = 0
    paced: int = 0
    refuted: int = 0

    def plus(self, **counts: int) -> Account:
        """With so many more of each."""
        added = {name: self.count(name) + counts.get(name, 0) for name in NAMES}
        largest = max(added.values())
        return Account(**{name: count // 2 if largest > MAX_COUNT else count for name, count in added.items()})

    def count(self, name: str) -> int:
        """One of the counts."""
        value: int = getattr(self, name)
        return value


NAMES = tuple(Account.__dataclass_fields__)
_BLANK = Account()


class Conduct:
    """The accounts, by node id."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def note(self, node_id: str, **counts: int) -> None:
        """So many more of each count."""
        self._accounts[node_id] = self.of(node_id).plus(**counts)
        self._accounts.move_to_end(node_id)
        if len(self._accounts) > MAX_PEERS_COUNTED:
            self._accounts.popitem(last=False)

    def of(self, node_id: str) -> Account:
        return self._accounts.get(node_id, _BLANK)

    def others(self, node_id: str) -> Account:
        """The votes and dissent of everybody else, together."""
        rest = [account for known, account in self._accounts.items() if known != node_id]
        return Account(votes=sum(account.votes for account in rest), dissent=sum(account.dissent for account in rest))


def dissents(verdict: Verdict, nodes: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Whose ballots were counted in a vote that is settled, and whether against the rest; nothing of any other vote.

    `nodes` has the ids of the peers by the node names of their voters. Settled: countable, and over half of the weight,
    of more than one node, agrees.
    """
    agreeing = {node_of(part.voter) for part in verdict.candidates if part.group == 0}
    settled = verdict.outcome == "consensus" and (verdict.agreement or 0.0) > 0.5 and len(agreeing) > 1
    if verdict.kind not in COUNTABLE or not settled:
        return []
    voted = [(nodes.get(node_of(part.voter)), part.group) for part in verdict.candidates if part.group is not None]
    return [(node_id, group != 0) for node_id, group in voted if node_id is not None]


def node_of(voter: str) -> str:
    """The node's name in a voter's."""
    return voter.partition("@")[2]


def findings(account: Account, others: Account) -> tuple[str, ...]:
    """What a person should be told of a peer, each as a fact with its numbers; nothing of one that is like the rest."""
    found: list[str] = []
    if is_dissenter(account, others):
        rest = f"; all others together {others.dissent} of {others.votes}" if others.votes else ""
        found.append(f"{account.dissent} of {account.votes} countable votes against the rest{rest}")
    heard = account.answers + account.malformed
    if account.malformed >= MIN_FAULTS and account.malformed >= MIN_FAULT_SHARE * heard:
        found.append(f"{account.malformed} of {heard} answers were none")
    if account.overstated >= MIN_FAULTS and account.overstated >= MIN_FAULT_SHARE * heard:
        found.append(f"{account.overstated} of {heard} answers named more tokens than they have bytes")
    if account.paced >= MIN_PACED and account.refuted >= MIN_REFUTED_SHARE * account.paced:
        found.append(
            f"claims over {BOAST:.0f} times the speed measured in {account.refuted} of {account.paced} answers"
        )
    return tuple(found)


def size_lie(replica: Replica) -> tuple[str, ...]:
    """What to tell where a peer's figure for a model's size is not that of a model of this name."""
    if not refutes(replica.told_params, replica.params):
        return ()
    return (f"says that {replica.model} has {replica.told_params:,} parameters; it has about {replica.params:,}",)


def is_dissenter(account: Account, others: Account) -> bool:
    """Whether it is against the rest in more than half of the votes, and in more than the others are, 99 % sure."""
    if account.votes < MIN_VOTES:
        return False
    least, _ = wilson(account.dissent, account.votes)
    _, most_of_others = wilson(others.dissent, others.votes) if others.votes >= MIN_VOTES else (0.0, 0.0)
    return least > max(0.5, most_of_others)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The interval (Wilson's) that holds the true share 99 times in 100, after `hits` of `of`."""
    share, spread = hits / of, Z_99**2 / of
    middle, half = share + spread / 2, Z_99 * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)


def possible_tokens(told: int, sent_bytes: int) -> int:
    """How many of the tokens that a peer names can be in what it sent: a token has a byte, but for unseen ones."""
    return min(told, sent_bytes + UNSEEN_TOKENS)
