"""How a request will be answered, decided before anybody is asked: alone or by a vote, by whom, and what is shown.

Pure choices over replicas (their order is `preference.py`'s), what the request says (`VoteOptions`), what this node
does by default, and what was measured of models. A `Plan` has the seats of a ballot, or the order of failover of one
answer; below it stands how seats become batches, and later waves.

A *batch* is one call to one replica, and its voters share a prefill; so they have one temperature.

A *party* is what counts as one voter's owner: this node, a member of a paired swarm, or in an open swarm all peers
behind one address. A peer's share of the seats, whatever it says of itself, is what is left to each where all parties
have as many; own workers fill the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from swarm.consensus.count import MIN_VOTES_FOR_POSTERIOR
from swarm.consensus.options import KINDS, MAX_VOTES, Kind, NoQuorum, StopRule, Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.waves import SamplingChange
from swarm.consensus.weights import EQUAL, MAX_RATIO, VoterWeights, ballot_weights, log_odds
from swarm.errors import BadRequest
from swarm.registry.weights_file import Measurements
from swarm.routing.preference import by_our_measure, fit_to_vote
from swarm.routing.prefix import NO_PREFIXES, Prefixes
from swarm.routing.replicas import Replica, ReplicaKey, model_names

LONG_PROMPT_CHARS = 32_000  # about 8,000 tokens: beyond it `auto` asks one voter only (long contexts vote badly)
RATIOS = (MAX_RATIO, 3, 2, 1.5, 1)  # of the heaviest voter to the lightest, tried in this order
COUNTING = (Strategy.MAJORITY, Strategy.WEIGHTED)  # chosen where there are answers to count, not prose to read

Strength = Callable[[Replica], float]
Seat = tuple[Replica, SamplingChange]


@dataclass(frozen=True, slots=True)
class VoteOptions:
    """What a request asks of a vote; None and `auto` mean "not said"."""

    strategy: Strategy = Strategy.AUTO
    votes: int | None = None
    min_votes: int | None = None
    deadline_s: float | None = None
    upstream: bool = True  # whether the request may go to the configured upstream
    stop: StopRule = StopRule.LEAD
    on_no_quorum: NoQuorum = NoQuorum.BEST_EFFORT
    min_agreement: float | None = None  # a share, 0 to 1
    stream: StreamMode | None = None  # what a stream shows while the vote runs
    progress: bool = False  # whether a stream also says how the vote stands

    @property
    def explicit(self) -> bool:
        """The client itself wants a vote: it is honoured and queues, where a node's default only takes what is idle."""
        return self.votes is not None or self.strategy not in (Strategy.AUTO, Strategy.SINGLE)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What this node does where a request does not say."""

    votes: int
    strategy: Strategy = Strategy.AUTO
    stream: StreamMode | None = None  # None: by what is asked


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be answered: by one replica (strategy `single`), or by a vote.

    `seats` of a vote has the replica of every voter, in the order in which they are asked; else those that may answer,
    best first: whoever is first does, the others are the order of failover. `wanted` is what the setting asks for, in
    voters. `idle_only`: no other client waits for any of them. `parties` can vote, and so no peer has more than its
    `share` of the seats wanted. `prefixes` is what the conversation is known again by. `engines` are those of
    everybody who may answer, by name; None for those of peers.
    """

    strategy: Strategy
    wanted: int
    seats: tuple[Replica, ...]
    idle_only: bool = False
    parties: frozenset[str] = frozenset()
    engines: frozenset[str | None] = frozenset()
    prefixes: Prefixes = NO_PREFIXES

    @property
    def mode(self) -> Literal["single", "vote"]:
        return "single" if self.strategy == Strategy.SINGLE else "vote"

    @property
    def asked(self) -> int:
        """How many voters, as far as the load allows."""
        return 1 if self.mode == "single" else len(self.seats)

    def share(self, without: str | None = None) -> int:
        """The most seats of one peer; `without` the party that was lost meanwhile."""
        return share_of_a_peer(len(self.parties - {without}), self.wanted)


def spread(replicas: Sequence[Replica], votes: int, idle_only: bool) -> tuple[Replica, ...]:
    """Deal `votes` out: a second slot of a node only when every node has one, and among those the model asked least.

    No peer gets more than its share (`share_of_a_peer`), whatever it says of itself; where that leaves fewer, there are
    fewer.
    With `idle_only` no replica gets more than its free slots (and an upstream one: nobody pays for votes unasked), else
    no more than its slots.
    """
    idle = {r: min(r.slots_free, 1) if r.upstream else r.slots_free for r in replicas}
    room = {r: (idle[r] if idle_only else r.slots) for r in by_our_measure(replicas)}
    limits = seat_limits(room, votes)
    given: dict[Replica, int] = dict.fromkeys(room, 0)
    of_model: Counter[str] = Counter()
    of_party: Counter[str] = Counter()
    of_node: Counter[str] = Counter()
    seats: list[Replica] = []
    for _ in range(votes):
        open_ones = [r for r in room if given[r] < room[r] and of_party[r.party] < limits[r.party]]
        if not open_ones:
            break
        # min keeps the order of preference among equals
        chosen = min(open_ones, key=lambda r: (of_party[r.party], of_node[r.node_id], of_model[r.model]))
        seats.append(chosen)
        given[chosen] += 1
        of_party[chosen.party] += 1
        of_node[chosen.node_id] += 1
        of_model[chosen.model] += 1
    return tuple(seats)


def strategy_of(options: VoteOptions, default: Strategy) -> Strategy:
    """The request's strategy, else the node's; a node that answers singly still votes where a request wants votes."""
    if options.strategy != Strategy.AUTO:
        return options.strategy
    return Strategy.AUTO if default == Strategy.SINGLE and options.explicit else default


def make_plan(
    ranked: Sequence[Replica],
    options: VoteOptions,
    defaults: Defaults,
    prompt_chars: int,
    choices: int = 1,
    peak_requests: int = 0,
    *,
    voters: Sequence[Replica] | None = None,
) -> Plan:
    """One answer or a ballot, and who is asked.

    `ranked` may answer alone, best first, and are not empty; `voters` may vote (by default the same).
    Several `choices` (OpenAI's n) are answers for the client to compare, never a vote. An explicit number of votes or a
    named strategy is honoured and queues; else only idle slots are taken, down to one (or to `min_votes`), and one for
    a very long prompt. `peak_requests` ran at once lately: on this node they keep their slots. Raises BadRequest for a
    posterior stop that means nothing here.
    """
    strategy = strategy_of(options, defaults.strategy)
    least = options.min_votes or 1
    wanted = min(max(options.votes or defaults.votes, least), MAX_VOTES)
    if choices > 1 or strategy == Strategy.SINGLE or wanted == 1:
        return Plan(Strategy.SINGLE, 1, tuple(ranked))
    single = Plan(Strategy.SINGLE, wanted, tuple(ranked))
    fit = fit_to_vote(ranked if voters is None else voters)
    if options.stop == StopRule.POSTERIOR:
        check_posterior(fit, wanted)
    parties = parties_of(fit)
    if options.explicit:
        return Plan(strategy, wanted, spread(fit, wanted, idle_only=False), parties=parties)
    if prompt_chars > LONG_PROMPT_CHARS and least == 1:
        return single
    spare = tuple(replace(r, slots_free=spare_slots(r, peak_requests)) if r.local else r for r in fit)
    plan = Plan(strategy, wanted, spread(spare, wanted, idle_only=True), idle_only=True, parties=parties)
    if plan.asked < least:
        plan = Plan(strategy, wanted, spread(fit, least, idle_only=False), parties=parties)
    return plan if plan.asked > 1 else single


def spare_slots(replica: Replica, peak_requests: int) -> int:
    """How many idle slots of this node's `replica` one more request may take.

    It is taken for one of the `peak_requests` that ran at once lately. So a client that asks one question after the
    other has all slots, and as many clients as there are slots have one each, even when all are ready at one instant.
    """
    return min(replica.slots_free, max(1, replica.slots - max(0, peak_requests - 1)))


def check_posterior(replicas: Sequence[Replica], wanted: int) -> None:
    """Raises BadRequest where the posterior stop means nothing: few votes, or voters that differ."""
    if wanted < MIN_VOTES_FOR_POSTERIOR:
        raise BadRequest(
            f"the posterior stop needs {MIN_VOTES_FOR_POSTERIOR} to {MAX_VOTES} votes, and {wanted} are wanted: set "
            "swarm.votes, or leave swarm.stop out",
            param="swarm.stop",
        )
    models = model_names(replicas)
    if len(models) > 1:
        raise BadRequest(
            f"the posterior stop compares answers of one model, and {', '.join(models)} may vote: name one as model, "
            "or leave swarm.stop out",
            param="swarm.stop",
        )


def kinds_to_expect(question: Question) -> tuple[Kind, ...]:
    """The kinds that answers may turn out to be, as far as the request says."""
    prose: tuple[Kind, ...] = KINDS
    if question.wants_json:
        prose = ("json",)
    elif question.wants_final_answer:
        prose = ("number", "choice")
    return ("tool_calls", *(kind for kind in prose if kind != "tool_calls")) if question.tools else prose


def seat_weights(question: Question, measurements: Measurements, seats: Sequence[Replica]) -> VoterWeights:
    """The weights of a ballot with these seats, as measured, and less far apart where one peer would have half of it.

    A weight belongs to a model, and which model a peer runs it says itself: the name of a good one must not outvote
    everybody. Only this node, and a single member beside it, may have that much.
    """
    models = [replica.model for replica in seats]
    for ratio in RATIOS:
        weights = ballot_weights(question.strategy, measurements, models, ratio)
        if not any(_rules(weights, kind, seats) for kind in weights.by_kind):
            return weights
    return EQUAL


def _rules(weights: VoterWeights, kind: Kind, seats: Sequence[Replica]) -> bool:
    """Whether one peer has half of the weight in `kind`, or more, in a ballot of three parties or with strangers."""
    if len({seat.party for seat in seats}) <= 2 and all(seat.local or seat.member for seat in seats):
        return False
    of_party: dict[str, Fraction] = {}
    for seat in seats:
        of_party[seat.party] = of_party.get(seat.party, Fraction(0)) + weights.of(seat.model, kind)
    peers = {seat.party for seat in seats if not seat.local}
    return len(of_party) > 1 and any(2 * of_party[party] >= sum(of_party.values()) for party in peers)


def with_a_say(replicas: Sequence[Replica], question: Question, measurements: Measurements) -> tuple[Replica, ...]:
    """The replicas whose answer may weigh something; all, where that is nobody or nothing was measured.

    A model has no say that was measured to be no better than a guess, in every kind to be expected that was measured.
    """
    weights = ballot_weights(question.strategy, measurements, [replica.model for replica in replicas])
    counted = [weights.by_kind[kind] for kind in kinds_to_expect(question) if kind in weights.by_kind]
    able = tuple(r for r in replicas if not counted or any(of_kind.get(r.model, 1) > 0 for of_kind in counted))
    return able or tuple(replicas)


def stream_mode(question: Question, mode: StreamMode | None) -> StreamMode:
    """What of the leader's answer may be shown, where `mode` is asked for (None: by what is asked).

    An answer that would be acted on (tools, JSON, a number that is asked for) is shown only when it is decided.
    """
    if question.strategy == Strategy.FIRST:
        return StreamMode.BUFFER
    if mode == StreamMode.BUFFER or mode == StreamMode.REASONING:
        return mode
    if question.tools or question.wants_json or question.wants_final_answer:
        return StreamMode.BUFFER
    return StreamMode.BUFFER if mode is None and question.strategy in COUNTING else StreamMode.LEADER


def measured_strength(measurements: Measurements, question: Question, models: Iterable[str]) -> Strength:
    """How good each of `models` was measured to be at what `question` asks for; all alike where one was not."""
    kind = _expected_kind(question)
    counts = {model: measurements.get(model, {}).get(kind) for model in models}
    odds = {model: log_odds(measured) for model, measured in counts.items() if measured is not None}
    return lambda replica: odds.get(replica.model, 0.0) if len(odds) == len(counts) else 0.0


def _expected_kind(question: Question) -> Kind:
    if question.tools:
        return "tool_calls"
    if question.wants_json:
        return "json"
    return "number" if question.wants_final_answer else "text"


def strongest_first(seats: Sequence[Replica], strength: Strength = lambda _: 0.0) -> tuple[Replica, ...]:
    """The strongest voter, who leads, before the others: by what was measured, and the model's size.

    Of equals the one who knows the conversation, then this node's.
    """

    def key(place: int) -> tuple[float, int, bool, bool]:
        replica = seats[place]
        return -strength(replica), -(replica.params or 0), not replica.warm, not replica.local

    first = min(range(len(seats)), key=key)
    return (seats[first], *seats[:first], *seats[first + 1 :])


@dataclass(frozen=True, slots=True)
class Batch:
    """Voters of one replica that run together: same temperature, one prefill.

    One that `gives_way` is stopped for whoever waits for a worker there: votes that nobody asked for, but the first.
    """

    replica: Replica
    samplings: tuple[SamplingChange, ...]
    gives_way: bool = False

    @property
    def models(self) -> tuple[str, ...]:
        """The model of every voter."""
        return (self.replica.model,) * len(self.samplings)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple((self.replica, sampling) for sampling in self.samplings)


@dataclass(frozen=True, slots=True)
class OwnVoters:
    """What a ballot's own voters mean for the next: `running` at each place, `warm` where a prompt is in a cache.

    `seated` is how many seats each party has had so far, whatever became of them.
    """

    running: Mapping[ReplicaKey, int]
    warm: frozenset[ReplicaKey]
    seated: Mapping[str, int] = field(default_factory=dict[str, int])


Reseat = Callable[[Sequence[Batch], OwnVoters], tuple[Batch, ...]]


def key_of(replica: Replica) -> ReplicaKey:
    return replica.key


def batches_of(seats: Iterable[Seat]) -> tuple[Batch, ...]:
    """The seats by replica, in their order; where a replica gets several temperatures it runs a batch for each."""
    together: dict[tuple[ReplicaKey, float | None], tuple[Replica, list[SamplingChange]]] = {}
    for replica, sampling in seats:
        together.setdefault((key_of(replica), sampling.temperature), (replica, []))[1].append(sampling)
    return tuple(Batch(replica, tuple(samplings)) for replica, samplings in together.values())


def sampled_here_too(seats: Sequence[Replica], samplings: Sequence[SamplingChange]) -> tuple[SamplingChange, ...]:
    """The samplings, with the client's own temperature for this node's first voter as well where a peer leads.

    The leader has it, because the strongest model's best answer is the best there is. But which model a peer runs is
    its own word: whoever takes the lead by a name must not take the best sample from everybody.
    """
    here = next((index for index, seat in enumerate(seats) if seat.local), 0)
    own = samplings[0].temperature
    return tuple(replace(s, temperature=own) if index == here else s for index, s in enumerate(samplings))


def in_waves(
    seats: Sequence[Replica],
    samplings: Sequence[SamplingChange],
    first: int,
    *,
    give_way: bool = False,
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """The batches of the first `first` seats, and those of the rest; each seat has its own sampling.

    Where votes `give_way`, all but the first do, which runs by itself: of answers that share a prefill none can be
    stopped alone. The others at its place are held back until the prompt is in the cache there.
    """
    dealt = list(zip(seats, samplings, strict=True))
    if not give_way:
        return batches_of(dealt[:first]), batches_of(dealt[first:])
    lead, *extra = dealt
    now = [seat for seat in extra[: first - 1] if key_of(seat[0]) != key_of(lead[0])]
    later = [seat for seat in extra if seat not in now]
    batches, held = (tuple(replace(batch, gives_way=True) for batch in batches_of(some)) for some in (now, later))
    return (*batches_of([lead]), *batches), held


def seated_as_planned(held: Sequence[Batch], _: OwnVoters) -> tuple[Batch, ...]:
    return tuple(held)


def seated_anew(
    held: Sequence[Batch], own: OwnVoters, now: Iterable[Replica], *, idle_only: bool, share: int | None = None
) -> tuple[Batch, ...]:
    """Where the batches held back run now: at home, or where the same model has room and the prompt in a cache already.

    A batch moves as a whole, so that its seeds do not depend on who was how fast. With `idle_only` no more is asked of
    any place than is idle by now: spare capacity is what nobody else wants. Without it voters queue at home. No peer
    gets more than its `share` of the ballot's seats by a move.
    """
    planned = Counter(own.seated)
    for batch in held:
        planned[batch.replica.party] += len(batch.samplings)
    places = {key_of(replica): replica for replica in now}
    seated: list[Batch] = []
    chosen: set[ReplicaKey] = {key_of(batch.replica) for batch in held if key_of(batch.replica) in own.warm}
    for batch in held:
        home, seats = key_of(batch.replica), len(batch.samplings)
        if batch.replica.upstream:
            seated.append(batch)
            continue
        better = [
            place
            for place, replica in places.items()
            if replica.model == batch.replica.model
            and place in own.warm - chosen
            and replica.slots_free >= seats
            and not replica.troubled
            and (share is None or replica.local or planned[replica.party] + seats <= share)
        ]
        if home not in own.warm and better:
            place = min(better)
            chosen.add(place)
            planned[batch.replica.party] -= seats
            planned[places[place].party] += seats
            seated.append(replace(batch, replica=places[place]))
            continue
        room = _idle_at_home(batch, places.get(home), own) if idle_only else seats
        if room > 0:
            seated.append(replace(batch, samplings=batch.samplings[:room]))
    return tuple(seated)


def _idle_at_home(batch: Batch, now: Replica | None, own: OwnVoters) -> int:
    """Slots idle where `batch` was planned. What a peer reports is old, and may be this very ballot's first wave."""
    free = 0 if now is None else now.slots_free
    if batch.replica.local or now is None:
        return free
    return max(free, batch.replica.slots_free - own.running.get(key_of(batch.replica), 0))


def parties_of(replicas: Iterable[Replica]) -> frozenset[str]:
    """Everybody that these replicas belong to."""
    return frozenset(replica.party for replica in replicas)


def share_of_a_peer(parties: int, votes: int) -> int:
    """The seats that one peer may have of `votes`, where so many parties can vote."""
    return max(1, votes // max(1, parties))


def seat_limits(room: Mapping[Replica, int], votes: int) -> dict[str, int]:
    """The most seats of each party; `room` has everybody who can vote, best first, and for how many seats.

    This node has no limit but its room. Beside it a peer has its share, and less where its seats would be half of those
    that there is room for: one each may be as many as this node's. Where this node serves nothing, what is left goes
    one each to the peers whose speed it has measured, best first: to nobody for what it says of itself.
    """
    roomy: dict[str, int] = {}
    for replica, seats in room.items():
        roomy[replica.party] = roomy.get(replica.party, 0) + seats
    own = {replica.party for replica in room if replica.local}
    share = share_of_a_peer(len(roomy), votes)
    if own:
        while share > 1 and _could_be_half(share, roomy, own, votes):
            share -= 1
    limits = {replica.party: votes if replica.local else share for replica in room}
    if own:
        return limits
    left = votes - sum(min(share, roomy[party]) for party in limits)
    measured = dict.fromkeys(replica.party for replica in room if replica.own_tokens_per_s is not None)
    for party in [party for party in measured if roomy[party] > share][: max(0, left)]:
        limits[party] += 1
    return limits


def _could_be_half(share: int, roomy: Mapping[str, int], own: Collection[str], votes: int) -> bool:
    """Whether one peer with so many seats would have half of a ballot of `votes`, or more, for lack of room."""
    seats = sum(min(share, room) for party, room in roomy.items() if party not in own)
    seats = min(votes, seats + sum(roomy[party] for party in own))
    most = max((min(share, room) for party, room in roomy.items() if party not in own), default=0)
    return 2 * most >= seats


def room_left(replica: Replica, share: int, seated: Mapping[str, int]) -> int:
    """How many more seats `replica` may take at once in a ballot in which each party has `seated` so many."""
    limit = replica.slots if replica.local else share
    return max(0, min(replica.slots, limit - seated.get(replica.party, 0)))
