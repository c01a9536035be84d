"""What this node has observed: of the demand on itself, and of how much, how fast and how well each peer answers.

Pure machines, each with its clock given, fed by the router and the dispatcher:

* `Demand`: how much is asked of this node lately. What is idle at one instant is not spare, if its clients want it the
  next.
* `Outstanding`: what this node has asked of each peer, so that a figure reported a moment ago can be corrected by what
  came since. A peer reports its idle slots once a second; a burst of requests within that second must not all see the
  same idle slot.
* `MeasuredSpeeds`: how fast each replica answers this node's own requests, measured where the answer arrives, as
  moving means.
* `Conduct`: how each peer has behaved, in counts, and what of that a person should know. Nothing is ever done about it
  here: a weak model dissents often, and whom to revoke is a person's decision.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from swarm.consensus.options import Kind
from swarm.consensus.verdict import Verdict
from swarm.generation import Usage
from swarm.moving_mean import moving_mean
from swarm.registry.known_sizes import refutes
from swarm.routing.preference import crowding
from swarm.routing.prefix import Prefixes
from swarm.routing.replicas import Replica, ReplicaKey

DEMAND_WINDOW_S = 2.0  # a client that asks again at all does so within moments; a rush may be forgotten soon after
MAX_NOTED = 4096  # changes within one window; a node that sees more of them has nothing to spare anyway
MAX_ENDED = 1024  # calls remembered per place after their end: more within one probe interval is no one-second figure
MAX_PACES = 1024  # places remembered, the latest; each is some 200 bytes
PACE_LIFETIME_S = 120.0  # then what the node reports of itself counts: one bad moment must not keep it idle for long
SHORT_PROMPT_TOKENS = 512  # reading more than that takes its own time, which says nothing of the next prompt
MIN_TOKENS = 8  # shorter answers come in one or two packets, and say nothing of the speed
MAX_PEERS_COUNTED = 256  # twice a peer table; the one seen longest ago is forgotten first
MAX_COUNT = 512  # then an account is halved: what a peer did last week weighs less than what it does today
COUNTABLE: frozenset[Kind] = frozenset({"number", "choice", "json", "tool_calls"})  # of which two answers are equal
MIN_VOTES = 20  # countable votes before dissent is worth a word
MIN_FAULTS = 3  # malformed answers, or impossible counts, before they are: one may be a broken connection
MIN_FAULT_SHARE = 0.05
MIN_PACED = 5  # answers measured before an overclaim is
MIN_REFUTED_SHARE = 0.8
OVERCLAIM = 4.0  # times as fast as measured: a busy node and a slow network explain less
Z_99 = 2.58  # of the normal distribution: an interval that holds the true share 99 times in 100
MAX_CONVERSATIONS = 4096  # remembered, the least recently used forgotten first; each is some 200 bytes
CONVERSATION_LIFETIME_S = 900.0  # after a quarter of an hour a slot has most likely been used for something else

UNSEEN_TOKENS = 64  # an answer may have beyond one for each byte of it: markup around calls and thoughts


class Demand:
    """How many requests were answered at once, lately. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running = 0
        self._noted: deque[tuple[float, int]] = deque(maxlen=MAX_NOTED)  # how many ran until that instant

    @contextmanager
    def request(self) -> Generator[None]:
        """A request that is being answered within the block."""
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def peak(self) -> int:
        """The most requests that ran at once within the last DEMAND_WINDOW_S."""
        horizon = self._clock() - DEMAND_WINDOW_S
        while self._noted and self._noted[0][0] < horizon:
            self._noted.popleft()
        return max([self._running, *(running for _, running in self._noted)])

    def _note(self, change: int) -> None:
        self._noted.append((self._clock(), self._running))
        self._running += change


@dataclass(frozen=True, slots=True)
class SlotsSince:
    """Slots asked of one place: taken `begun` after some instant, held before it and `ended` since, `running` now."""

    begun: int = 0
    ended: int = 0
    running: int = 0


NOTHING = SlotsSince()


@dataclass(slots=True)
class _Calls:
    """The calls to one place: those that run by number, oldest first, as (start, slots); those over as (start, end)."""

    running: dict[int, tuple[float, int]] = field(default_factory=dict[int, tuple[float, int]])
    ended: deque[tuple[float, float, int]] = field(default_factory=lambda: deque(maxlen=MAX_ENDED))
    held: int = 0  # slots of those that run


class Outstanding:
    """A ledger of calls by place. `clock` is monotonic seconds, the one on which `Replica.reported_at` stands."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[ReplicaKey, _Calls] = {}  # bounded by the peers that are routed to: see `keep`
        self._numbers = 0

    @contextmanager
    def asked(self, place: ReplicaKey, slots: int = 1) -> Generator[None]:
        """A call that holds or awaits `slots` at `place` within the block."""
        calls = self._calls.setdefault(place, _Calls())
        self._numbers += 1
        number, began = self._numbers, self._clock()
        calls.running[number] = (began, slots)
        calls.held += slots
        try:
            yield
        finally:
            del calls.running[number]
            calls.held -= slots
            calls.ended.append((began, self._clock(), slots))

    def since(self, place: ReplicaKey, instant: float) -> SlotsSince:
        """What was asked of `place`, as seen against a figure that was true at `instant`."""
        calls = self._calls.get(place)
        if calls is None:
            return NOTHING
        begun = ended = 0
        for began, slots in reversed(calls.running.values()):
            if began < instant:
                break
            begun += slots
        for began, end, slots in reversed(calls.ended):
            if end < instant:
                break
            if began < instant:
                ended += slots
        return SlotsSince(begun, ended, calls.held)

    def places(self) -> Iterable[ReplicaKey]:
        """Those that were asked, as far as that is still of use."""
        return self._calls

    def keep(self, places: Container[ReplicaKey]) -> None:
        """Forget what is over at every other place; called with those that can be asked now."""
        for place in [place for place in self._calls if place not in places]:
            if not self._calls[place].running:
                del self._calls[place]


def corrected(reported: Replica, since: SlotsSince) -> Replica:
    """`reported` as it must be by now. Others' requests are as reported; no less is at work than this node has asked.

    The wait that it reported holds for the queue that it reported: of another one it is in proportion.
    """
    if since == NOTHING or reported.suspect:
        return reported
    load = max(reported.load + since.begun - since.ended, since.running, 0)
    if load == reported.load:
        return reported
    waiting = max(0, load - reported.slots)
    return replace(
        reported,
        slots_free=max(0, reported.slots - load),
        waiting=waiting,
        wait_s=reported.wait_s * (waiting + 1) / (reported.waiting + 1)
        if reported.wait_s and load >= reported.slots
        else None,
    )


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """`first_s` to the first event, of a short prompt where a slot was free; `tokens_per_s` from then on, if alone."""

    first_s: float | None
    tokens_per_s: float | None
    noted_at: float


class MeasuredSpeeds:
    """By place. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces: OrderedDict[ReplicaKey, MeasuredSpeed] = OrderedDict()

    def of(self, place: ReplicaKey) -> MeasuredSpeed | None:
        """What was measured there lately."""
        pace = self._paces.get(place)
        return None if pace is None or self._clock() - pace.noted_at > PACE_LIFETIME_S else pace

    def places(self) -> Iterable[ReplicaKey]:
        """Those of which anything was measured."""
        return self._paces

    def speeds(self) -> dict[ReplicaKey, float]:
        """Tokens per second of every place where that was measured lately."""
        oldest = self._clock() - PACE_LIFETIME_S
        return {
            place: pace.tokens_per_s
            for place, pace in self._paces.items()
            if pace.noted_at >= oldest and pace.tokens_per_s is not None
        }

    def note(self, asked: Replica, first_s: float, writing_s: float, usage: Usage) -> None:
        """A whole answer of `asked`, which is as it was when it was asked."""
        tokens, read_tokens = usage.completion_tokens, usage.prompt_tokens - usage.cached_tokens
        before = self.of(asked.key)
        first = None if before is None else before.first_s
        speed = None if before is None else before.tokens_per_s
        if asked.slots_free and read_tokens <= SHORT_PROMPT_TOKENS:
            first = moving_mean(first, first_s)
        if tokens >= MIN_TOKENS and writing_s > 0:
            alone = tokens / writing_s * crowding(min(asked.load, asked.slots - 1), asked.slots)
            speed = moving_mean(speed, alone)
        self._paces[asked.key] = MeasuredSpeed(first, speed, self._clock())
        self._paces.move_to_end(asked.key)
        if len(self._paces) > MAX_PACES:
            self._paces.popitem(last=False)


@dataclass(frozen=True, slots=True)
class ConductCounts:
    """`answers` were well formed and `malformed` none; `overstated` named more tokens than they have bytes.

    Of `votes`, its ballots in countable votes that others settled, `dissent` were against them. Of `paced` answers the
    speed was measured, and `refuted` came from a peer that claimed over OVERCLAIM times as much. Of `replays`, answers
    that others had begun, `differing` were not the same: it takes two to differ, and roundings to differ are enough, so
    that this is told and blamed on nobody.
    """

    answers: int = 0
    malformed: int = 0
    overstated: int = 0
    votes: int = 0
    dissent: int = 0
    paced: int = 0
    refuted: int = 0
    replays: int = 0
    differing: int = 0

    def plus(self, **counts: int) -> ConductCounts:
        """With so many more of each."""
        added = {name: self.count(name) + counts.get(name, 0) for name in NAMES}
        largest = max(added.values())
        return ConductCounts(**{name: count // 2 if largest > MAX_COUNT else count for name, count in added.items()})

    def count(self, name: str) -> int:
        """One of the counts."""
        value: int = getattr(self, name)
        return value


NAMES = tuple(ConductCounts.__dataclass_fields__)
_BLANK = ConductCounts()


class Conduct:
    """The accounts, by node id."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, ConductCounts] = OrderedDict()

    def note(self, node_id: str, **counts: int) -> None:
        """So many more of each count."""
        self._accounts[node_id] = self.of(node_id).plus(**counts)
        self._accounts.move_to_end(node_id)
        if len(self._accounts) > MAX_PEERS_COUNTED:
            self._accounts.popitem(last=False)

    def of(self, node_id: str) -> ConductCounts:
        return self._accounts.get(node_id, _BLANK)

    def others(self, node_id: str) -> ConductCounts:
        """The votes and dissent of everybody else, together."""
        rest = [account for known, account in self._accounts.items() if known != node_id]
        return ConductCounts(
            votes=sum(account.votes for account in rest), dissent=sum(account.dissent for account in rest)
        )


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


def findings(account: ConductCounts, others: ConductCounts) -> tuple[str, ...]:
    """What a person should know of a peer, each as a fact with its numbers; nothing of one that is like the rest."""
    found: list[str] = []
    if is_dissenter(account, others):
        rest = f"; all others together {others.dissent} of {others.votes}" if others.votes else ""
        found.append(f"{account.dissent} of {account.votes} countable votes against the rest{rest}")
    received = account.answers + account.malformed
    if account.malformed >= MIN_FAULTS and account.malformed >= MIN_FAULT_SHARE * received:
        found.append(f"{account.malformed} of {received} answers were none")
    if account.overstated >= MIN_FAULTS and account.overstated >= MIN_FAULT_SHARE * received:
        found.append(f"{account.overstated} of {received} answers named more tokens than they have bytes")
    if account.paced >= MIN_PACED and account.refuted >= MIN_REFUTED_SHARE * account.paced:
        found.append(
            f"claims over {OVERCLAIM:.0f} times the speed measured in {account.refuted} of {account.paced} answers"
        )
    return tuple(found)


def size_mismatch(replica: Replica) -> tuple[str, ...]:
    """What to say where a peer's figure for a model's size is not that of a model of this name."""
    if not refutes(replica.reported_params, replica.params):
        return ()
    return (f"says that {replica.model} has {replica.reported_params:,} parameters; it has about {replica.params:,}",)


def is_dissenter(account: ConductCounts, others: ConductCounts) -> bool:
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


def possible_tokens(reported: int, sent_bytes: int) -> int:
    """How many of the tokens that a peer names can be in what it sent: a token has a byte, but for unseen ones."""
    return min(reported, sent_bytes + UNSEEN_TOKENS)


class Affinity:
    """Where each conversation was answered last: its prompt is in the cache there. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: OrderedDict[bytes, tuple[ReplicaKey, float]] = OrderedDict()

    def place_of(self, prefixes: Prefixes) -> ReplicaKey | None:
        """Who answered the longest known beginning."""
        now_s = self._clock()
        for prefix in prefixes.earlier:
            found = self._places.get(prefix)
            if found is not None and now_s - found[1] <= CONVERSATION_LIFETIME_S:
                return found[0]
        return None

    def answered(self, prefixes: Prefixes, place: ReplicaKey) -> None:
        """`place` has answered."""
        if prefixes.whole is None:
            return
        self._places[prefixes.whole] = (place, self._clock())
        self._places.move_to_end(prefixes.whole)
        if len(self._places) > MAX_CONVERSATIONS:
            self._places.popitem(last=False)
