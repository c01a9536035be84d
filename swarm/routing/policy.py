"""How a request will be answered, decided before anybody is asked: alone or by a vote, by whom, and what is shown.

Pure choices over replicas (their order is `preference.py`'s), what the request says (`VoteOptions`), what this node
does by default, and what was measured of models. A `Plan` has the seats of a ballot, or the order of failover of one
answer; below it stands how seats become batches, and later waves.

A *batch* is one call to one replica, and its voters share a prefill; so they have one temperature, but for the first
where the engine can give it its own.

A *party* is what counts as one voter's owner: this node, a member of a paired swarm, or in an open swarm all peers
behind one address. A peer's share of the seats, whatever it says of itself, is what is left to each where all parties
have as many; own workers fill the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Literal

from swarm.consensus.cascade import Cascade
from swarm.consensus.count import MIN_VOTES_FOR_POSTERIOR
from swarm.consensus.options import (
    KINDS,
    MAX_VOTES,
    Ahead,
    Kind,
    NoQuorum,
    OnLoading,
    Stop,
    StopRule,
    Strategy,
    StreamMode,
)
from swarm.consensus.question import Question
from swarm.consensus.waves import SamplingChange, Voter
from swarm.consensus.weights import MAX_RATIO, VoterSource, VoterWeights, ballot_weights, log_odds
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest, RepairRule
from swarm.registry.weights_file import Measured, Weights, content_keys
from swarm.routing.preference import (
    by_our_measure,
    fit_to_vote,
    held_models,
    models_known_here,
    strength_in,
)
from swarm.routing.prefix import NO_PREFIXES, Prefixes
from swarm.routing.replicas import Replica, ReplicaKey, model_names

LONG_PROMPT_CHARS = 32_000  # about 8,000 tokens: beyond it `auto` asks one voter only (long contexts vote badly)
DEFAULT_VOTES = 5  # the least with which one error of two does no harm; gains beyond are small for what they cost
RATIOS = (MAX_RATIO, 3, 2, 1.5, 1)  # of the heaviest voter to the lightest, tried in this order
WhyOnce = Literal["asked for", "prose", "long prompt", "temperature 0", "one voter", "no idle seats"]
COUNTING = (
    Strategy.MAJORITY,
    Strategy.WEIGHTED,
    Strategy.CONFIDENT,
)  # chosen where there are answers to count, not prose to read

Seat = tuple[Replica, SamplingChange]


@dataclass(frozen=True, slots=True)
class VoteOptions:
    """What a request asks of a vote; None and `auto` mean "not said"."""

    strategy: Strategy = Strategy.AUTO
    votes: int | None = None
    min_votes: int | None = None
    deadline_s: float | None = None
    upstream: bool = True  # whether the request may go to the configured upstream
    stop: Stop = StopRule.LEAD
    on_no_quorum: NoQuorum = NoQuorum.BEST_EFFORT
    min_agreement: float | None = None  # a share, 0 to 1
    stream: StreamMode | None = None  # what a stream shows while the vote runs
    progress: bool = False  # whether a stream also says how the vote stands
    on_loading: OnLoading = OnLoading.WAIT
    node: str | None = None  # the only one that may be asked, by its name or id
    repair: RepairRule | None = None  # of calls that are not quite JSON; None: as is usual where they come from
    resume: bool = True  # whether a stream goes on elsewhere when its node is lost, where it would be the same there

    @property
    def explicit(self) -> bool:
        """The client itself wants a vote: it is honoured and queues, where a node's default only takes what is idle."""
        return self.votes is not None or self.strategy not in (Strategy.AUTO, Strategy.SINGLE)

    @property
    def alone(self) -> VoteOptions:
        """What of it concerns one answer, for an API on which nothing is voted on unless that is asked for."""
        return VoteOptions(
            Strategy.SINGLE,
            deadline_s=self.deadline_s,
            upstream=self.upstream,
            on_loading=self.on_loading,
            node=self.node,
            repair=self.repair,
            resume=self.resume,
        )

    @property
    def wants_a_vote(self) -> bool:
        """Whether something of it means a vote, whatever the question is."""
        return self.explicit or (self.min_votes or 1) > 1 or self.stop != StopRule.LEAD


@dataclass(frozen=True, slots=True)
class Defaults:
    """What this node does where a request does not say. `votes_on_all`: its owner wants a vote on every question."""

    votes: int = DEFAULT_VOTES
    strategy: Strategy = Strategy.AUTO
    stream: StreamMode | None = None  # None: by what is asked
    votes_on_all: bool = False

    @staticmethod
    def of(votes: int | None, strategy: Strategy, stream: StreamMode | None = None) -> Defaults:
        """As the node's owner has set it: a number of votes (None: not said), or a strategy other than `auto`.

        A cascade is none on prose, where no two answers are the same: that is the strongest's anyway.
        """
        on_all = strategy != Strategy.CASCADE and (votes is not None or strategy != Strategy.AUTO)
        return Defaults(votes or DEFAULT_VOTES, strategy, stream, on_all)


@dataclass(frozen=True, slots=True)
class Asking:
    """What of a request decides how often it is answered.

    `countable`: its answers can be told equal or not. `greedy`: it names a model and leaves nothing to chance
    (temperature 0), so that a second answer of that model would be the first again.
    """

    prompt_chars: int = 0
    choices: int = 1
    countable: bool = True
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that has no seat on these nodes, and why."""

    model: str
    nodes: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request will be answered: by one replica (strategy `single`), or by a vote.

    `seats` of a vote has the replica of every voter, in the order in which they are asked; else those that may answer,
    best first: whoever is first does, the others are the order of failover. `wanted` is what the setting asks for, in
    voters. `idle_only`: no other client waits for any of them. `parties` can vote, and so no peer has more than its
    `share` of the seats wanted. `prefixes` is what the conversation is known again by. `engines` are those of
    everybody who may answer, by name; None for those of peers. `requested` is the strategy that was asked for, by the
    request or the node, and `why` says for one answer of it why it is one. `left_out` has no part in it. The last seat
    of a `cascade` is that of its strong model, where it has one (see `cascading.py`). `node` is the id of the only
    node that may be asked, where the request names one.
    """

    strategy: Strategy
    wanted: int
    seats: tuple[Replica, ...]
    idle_only: bool = False
    parties: frozenset[str] = frozenset()
    engines: frozenset[str | None] = frozenset()
    prefixes: Prefixes = NO_PREFIXES
    requested: Strategy = Strategy.AUTO
    why: WhyOnce | None = None
    left_out: tuple[LeftOut, ...] = ()
    cascade: Cascade | None = None
    node: str | None = None

    @property
    def mode(self) -> Literal["single", "vote"]:
        return "single" if self.strategy == Strategy.SINGLE else "vote"

    @property
    def strong(self) -> str | None:
        """The model that answers where the others do not agree: of a cascade that has one."""
        return None if self.cascade is None else self.cascade.strong

    @property
    def asked(self) -> int:
        """How many voters, as far as the load allows."""
        return 1 if self.mode == "single" else len(self.seats)

    def share(self, without: str | None = None) -> int:
        """The most seats of one peer; `without` the party that was lost meanwhile."""
        return share_of_a_peer(len(self.parties - {without}), self.wanted)


def spread(
    replicas: Sequence[Replica], votes: int, idle_only: bool, *, in_turn: bool = False, by_model: bool = False
) -> tuple[Replica, ...]:
    """Deal `votes` out: a second slot of a node only when every node has one, and among those the model asked least.

    No peer gets more than its share (`share_of_a_peer`), whatever it says of itself; where that leaves fewer, there are
    fewer.
    With `idle_only` no replica gets more than its free slots (and an upstream one: nobody pays for votes unasked), else
    no more than its slots; where voters are asked `in_turn` a slot is asked again. `by_model`: every model has a seat
    before any has two.
    """
    idle = {r: min(r.slots_free, 1) if r.upstream else r.slots_free for r in replicas}
    slots = {r: votes if in_turn and r.slots and not r.upstream else r.slots for r in replicas}
    room = {r: (idle[r] if idle_only else slots[r]) for r in by_our_measure(replicas)}
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
        chosen = min(
            open_ones,
            key=lambda r: (
                of_model[r.model] if by_model else 0,
                of_party[r.party],
                of_node[r.node_id],
                of_model[r.model],
            ),
        )
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
    asking: Asking,
    peak_requests: int = 0,
    *,
    voters: Sequence[Replica] | None = None,
) -> Plan:
    """One answer or a ballot, and who is asked.

    `ranked` may answer alone, best first, and are not empty; `voters` may vote (by default the same).
    Several `choices` (OpenAI's n) are answers for the client to compare, never a vote. Votes that the request asks for
    (a number, a strategy) are honoured and queue. Else only idle slots are taken, down to one (or to `min_votes`); and
    where neither the request nor the node's owner asked for votes, only what can be counted is voted on at all: prose
    is answered once, as well as the best can. `peak_requests` ran at once lately: on this node they keep their slots.
    Raises BadRequest for a posterior stop that means nothing here.
    """
    requested = strategy_of(options, defaults.strategy)
    least = options.min_votes or 1
    wanted = min(max(options.votes or defaults.votes, least), MAX_VOTES)

    def once(why: WhyOnce, of: int = 1) -> Plan:
        return Plan(Strategy.SINGLE, of, tuple(ranked), requested=requested, why=why)

    if asking.choices > 1 or requested == Strategy.SINGLE or wanted == 1:
        return once("asked for")
    fit = fit_to_vote(ranked if voters is None else voters, options.wants_a_vote)
    if options.stop == StopRule.POSTERIOR:
        check_posterior(fit, wanted)

    def vote(seats: tuple[Replica, ...], idle_only: bool = False) -> Plan:
        return Plan(requested, wanted, seats, idle_only, parties_of(fit), requested=requested)

    if options.explicit:
        return vote(spread(fit, wanted, idle_only=False, in_turn=isinstance(options.stop, Ahead)))
    if not (options.wants_a_vote or defaults.votes_on_all):
        if not asking.countable:
            return once("prose")
        if asking.greedy:
            return once("temperature 0")
    if asking.prompt_chars > LONG_PROMPT_CHARS and least == 1:
        return once("long prompt", wanted)
    spare = tuple(replace(r, slots_free=spare_slots(r, peak_requests)) if r.local else r for r in fit)
    plan = vote(spread(spare, wanted, idle_only=True), idle_only=True)
    if plan.asked < least:
        plan = vote(spread(fit, least, idle_only=False))
    if plan.asked > 1:
        return plan
    return once("one voter" if sum(r.slots for r in fit) == 1 else "no idle seats", wanted)


def left_out(
    able: Sequence[Replica], voters: Sequence[Replica], asked_for: bool, sizes: Mapping[str, int | None]
) -> tuple[LeftOut, ...]:
    """Who of those that are `able` to answer has no part in a vote for which `voters` were found, and why.

    `sizes` has the parameters of each model: where tools are wanted, one that has no form for them counts for less.
    """
    fit = {replica.key for replica in fit_to_vote(voters, asked_for)}
    say = None if len(voters) == len(able) else {replica.key for replica in voters}  # the voters are of those able
    strength = strength_in(able)
    sizes_of = {(replica.model, replica.params): replica for replica in able}.values()
    strongest = max(sizes_of, key=lambda replica: (strength(replica)[1], replica.model))
    most = f"{strongest.model}'s {sized(sizes.get(strongest.model) or strength(strongest)[1])}"
    known, held = models_known_here(able), held_models(able)
    alike: dict[tuple[object, ...], list[Replica]] = {}
    for replica in able:
        if (key := replica.key) not in fit:
            facts = (replica.model, replica.params, replica.weak, replica.troubled, replica.pinned, replica.weight)
            alike.setdefault((*facts, say is None or key in say), []).append(replica)
    nodes: dict[tuple[str, str], list[str]] = {}
    for (*_, has_a_say), found in alike.items():
        first = found[0]
        why = (
            _why_out(first, strength(first)[1], sizes.get(first.model), most, known, held)
            if has_a_say
            else "measured to be no better than a guess"
        )
        nodes.setdefault((first.model, why), []).extend(replica.node for replica in found)
    return tuple(LeftOut(model, tuple(sorted(where)), why) for (model, why), where in sorted(nodes.items()))


def _why_out(
    replica: Replica, counted: int, params: int | None, most: str, known: Collection[str], held: Collection[str]
) -> str:
    if replica.weak and params is not None and params > counted:
        return f"has no form of its own for tools: its {sized(params)} parameters count for a quarter, beside {most}"
    if replica.weak:
        return f"{sized(counted)} parameters, less than a quarter of {most}"
    if replica.troubled:
        return "does not answer"
    if replica.weight <= 0:
        return "has weight 0 in [routing.weights]"
    if replica.pinned is False and replica.model in held:
        return "the model is pinned to other nodes"
    if replica.model not in known:
        return "its size is not known here: ask for it by its name"
    return "others go before"


def sized(params: int) -> str:
    """A model's parameters as people write them: 135M, 7.6B."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if params >= unit:
            return f"{params / unit:.1f}".removesuffix(".0") + letter
    return str(params)


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


def source_at(replica: Replica) -> VoterSource:
    """Whose an answer of this replica is."""
    return VoterSource(replica.model, replica.node_id)


def measured_there(known: Weights, replicas: Iterable[Replica]) -> dict[VoterSource, Mapping[str, Measured]]:
    """What was measured of the very nodes of `replicas`, with the model that they say they run now."""
    found: dict[VoterSource, Mapping[str, Measured]] = {}
    for replica in replicas if known.nodes else ():
        of_node = known.nodes.get(replica.node_id, {})
        keys = content_keys(replica.sha256, replica.fingerprint, replica.model_there)
        content = next((key for key in keys if key in of_node), None)
        if content is not None and not replica.upstream:
            found[source_at(replica)] = of_node[content]
    return found


def seat_weights(
    question: Question, known: Weights, seats: Sequence[Replica], others: Iterable[Replica] = ()
) -> VoterWeights:
    """The weights of a ballot with these seats, as measured, and less far apart where one peer would have half of it.

    Where only the model was measured, which one a peer runs it says itself: the name of a good one must not outvote
    everybody. Neither does a node that answered well when it was measured. Only this node, and a single member beside
    it, may have that much. `others` may get a seat later.
    """
    voters = [source_at(replica) for replica in seats]
    own = measured_there(known, (*seats, *others))
    for ratio in RATIOS:
        weights = ballot_weights(question.strategy, known.models, voters, ratio, own)
        if not any(_rules(weights, kind, seats) for kind in weights.by_kind):
            return weights
    return ballot_weights(Strategy.MAJORITY, known.models, voters, own=own)


def _rules(weights: VoterWeights, kind: Kind, seats: Sequence[Replica]) -> bool:
    """Whether one peer has half of the weight in `kind`, or more, in a ballot of three parties or with strangers."""
    if len({seat.party for seat in seats}) <= 2 and all(seat.local or seat.member for seat in seats):
        return False
    of_party: dict[str, Fraction] = {}
    for seat in seats:
        of_party[seat.party] = of_party.get(seat.party, Fraction(0)) + weights.of(source_at(seat), kind)
    peers = {seat.party for seat in seats if not seat.local}
    return len(of_party) > 1 and any(2 * of_party[party] >= sum(of_party.values()) for party in peers)


def with_a_say(replicas: Sequence[Replica], question: Question, known: Weights) -> tuple[Replica, ...]:
    """The replicas whose answer may weigh something; all, where that is nobody or nothing was measured.

    No say has a node, or a model, that was measured to be no better than a guess, in every kind to be expected in which
    it was measured.
    """
    own = measured_there(known, replicas)
    weights = ballot_weights(question.strategy, known.models, [source_at(replica) for replica in replicas], own=own)
    kinds = kinds_to_expect(question)
    able: list[Replica] = []
    for replica in replicas:
        source = source_at(replica)
        said = [weights.of(source, kind) for kind in kinds if weights.is_measured(source, kind)]
        if not said or any(said):
            able.append(replica)
    return tuple(able or replicas)


def stream_mode(question: Question, mode: StreamMode | None) -> StreamMode:
    """What of the leader's answer may be shown, where `mode` is asked for (None: by what is asked).

    What would be acted on (calls of tools, JSON, a number that is asked for) is shown only when it is decided. Where
    tools are offered that leaves the words, which a person reads.
    """
    if question.strategy in (Strategy.FIRST, Strategy.CASCADE):  # nobody leads before it is decided who answers
        return StreamMode.BUFFER
    if mode == StreamMode.BUFFER or mode == StreamMode.REASONING:
        return mode
    if question.wants_json or question.wants_final_answer or (mode is None and question.strategy in COUNTING):
        return StreamMode.BUFFER
    return StreamMode.WORDS if question.tools else mode or StreamMode.LEADER


@dataclass(frozen=True, slots=True)
class MeasuredOdds:
    """By model the log odds of being right; of all models or of none. `weighed`: a vote is weighed by these very."""

    of: Mapping[str, float] = field(default_factory=dict[str, float])
    weighed: bool = False


NOT_MEASURED = MeasuredOdds()


def measured_odds(known: Weights, question: Question, replicas: Iterable[Replica]) -> MeasuredOdds:
    """How good the models of `replicas` were measured to be at what `question` asks for.

    A model that was measured on single nodes only is as good as those were together that were better than a guess.
    Nobody measures prose or programs by counting: where that is asked, what all were measured at stands for it.
    """
    nodes = tuple(replica for replica in replicas if not replica.upstream)
    own = measured_there(known, nodes)
    counts = {
        model: {**_together(of for source, of in own.items() if source.model == model), **known.models.get(model, {})}
        for model in sorted({replica.model for replica in nodes})
    }
    kind = question.expected_kind
    if all(kind in of_model for of_model in counts.values()):
        odds = {model: log_odds(of_model[kind]) for model, of_model in counts.items()}
        known_all = all(
            kind in own.get(source_at(replica), {}) or kind in known.models.get(replica.model, {}) for replica in nodes
        )
        return MeasuredOdds(odds, weighed=bool(odds) and known_all and question.strategy != Strategy.MAJORITY)
    common = [kind for kind in KINDS if all(kind in of_model for of_model in counts.values())]
    if kind not in ("text", "code") or not common:
        return NOT_MEASURED
    mean = (sum(log_odds(of_model[kind]) for kind in common) / len(common) for of_model in counts.values())
    return MeasuredOdds(dict(zip(counts, mean, strict=True)))


def _together(counts: Iterable[Mapping[str, Measured]]) -> dict[str, Measured]:
    """What several nodes with one model were right at; none that was no better than a guess at it."""
    total: dict[str, Measured] = {}
    for of_node in counts:
        for kind, measured in of_node.items():
            if log_odds(measured) > 0:
                total[kind] = total[kind] + measured if kind in total else measured
    return total


def no_better_than_a_guess(known: Weights, question: Question, replicas: Iterable[Replica]) -> frozenset[ReplicaKey]:
    """The nodes that were themselves measured to be that, in every kind to be expected in which they were measured."""
    replicas, kinds = tuple(replicas), kinds_to_expect(question)
    own = measured_there(known, replicas)
    found: set[ReplicaKey] = set()
    for replica in replicas:
        of_node = own.get(source_at(replica), {})
        odds = [log_odds(of_node[kind]) for kind in kinds if kind in of_node]
        if odds and max(odds) <= 0:
            found.add(replica.key)
    return frozenset(found)


def strongest_first(seats: Sequence[Replica], odds: Mapping[str, float] = MappingProxyType({})) -> tuple[Replica, ...]:
    """The strongest voter, who leads, before the others: by what was measured, and the model's size.

    Of equals the one who knows the conversation, then this node's.
    """

    def key(place: int) -> tuple[float, int, bool, bool]:
        replica = seats[place]
        return -odds.get(replica.model, 0.0), -(replica.params or 0), not replica.warm, not replica.local

    first = min(range(len(seats)), key=key)
    return (seats[first], *seats[:first], *seats[first + 1 :])


def as_can_be_weighed(question: Question, seats: Sequence[Replica], stop: Stop) -> Question:
    """`question`, whose votes weigh by confidence unasked only where all give one, and no stop counts them by heads."""
    if question.strategy == Strategy.CONFIDENT or not question.by_confidence:
        return question
    able = len(seats) > 1 and all(seat.capabilities.logprobs for seat in seats)
    return replace(question, by_confidence=able and stop == StopRule.LEAD)


def strongest_models(seats: Sequence[Replica], odds: Mapping[str, float] = MappingProxyType({})) -> frozenset[str]:
    """The models in a ballot than which none is stronger; none where that is all of them."""
    strength = {seat.model: (odds.get(seat.model, 0.0), seat.params or 0) for seat in seats}
    most = max(strength.values(), default=None)
    strongest = frozenset(model for model, own in strength.items() if own == most)
    return strongest if len(strongest) < len(strength) else frozenset()


@dataclass(frozen=True, slots=True)
class Batch:
    """Voters of one replica that run together: one prefill, and one temperature but for the first's.

    One that `gives_way` is stopped for whoever waits for a worker there: votes that nobody asked for, but the first.
    """

    replica: Replica
    samplings: tuple[SamplingChange, ...]
    gives_way: bool = False

    @property
    def sources(self) -> tuple[VoterSource, ...]:
        """Whose the answers of its voters are, one for each."""
        return (source_at(self.replica),) * len(self.samplings)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple((self.replica, sampling) for sampling in self.samplings)

    @property
    def first_apart(self) -> bool:
        """Whether the first voter has a temperature of its own."""
        return self.samplings[0].temperature != self.samplings[-1].temperature

    def moved(self, replica: Replica, seats: int | None = None) -> Batch:
        """The same voters elsewhere, all or the first `seats`; where one temperature is all there is, the others'."""
        samplings = self.samplings[:seats]
        if len(samplings) > 1 and not draws_first_apart(replica):
            samplings = tuple(replace(sampling, temperature=samplings[-1].temperature) for sampling in samplings)
        return replace(self, replica=replica, samplings=samplings)


@dataclass(frozen=True, slots=True)
class OwnVoters:
    """What a ballot's own voters mean for the next: `running` at each place, `warm` where a prompt is in a cache.

    `seated` is how many seats each party has had so far, whatever became of them; `asked` are the nodes that had any.
    """

    running: Mapping[ReplicaKey, int]
    warm: frozenset[ReplicaKey]
    seated: Mapping[str, int] = field(default_factory=dict[str, int])
    asked: frozenset[str] = frozenset()


Reseat = Callable[[Sequence[Batch], OwnVoters], tuple[Batch, ...]]


def key_of(replica: Replica) -> ReplicaKey:
    return replica.key


def batches_of(seats: Iterable[Seat]) -> tuple[Batch, ...]:
    """The seats by replica, in their order; where a replica gets several temperatures it runs a batch for each.

    Of two temperatures the first seat alone may have the one: this node's engines that can draw it so make them one
    batch, if there are slots for all.
    """
    together: dict[tuple[ReplicaKey, float | None], Batch] = {}
    for replica, sampling in seats:
        at = key_of(replica), sampling.temperature
        before = together[at].samplings if at in together else ()
        together[at] = Batch(replica, (*before, sampling))
    for place in {place for place, _ in together}:
        batches = [(at, batch) for at, batch in together.items() if at[0] == place]
        if len(batches) == 2 and can_be_one(batches[0][1], batches[1][1]):
            (at, first), (later, others) = batches
            together[at] = Batch(first.replica, first.samplings + others.samplings)
            del together[later]
    return tuple(together.values())


def can_be_one(first: Batch, others: Batch) -> bool:
    """Whether one voter and others of the same replica, which have another temperature, may be one batch."""
    slots = first.replica.slots
    return len(first.samplings) == 1 and len(others.samplings) < slots and draws_first_apart(first.replica)


def draws_first_apart(replica: Replica) -> bool:
    """Whether the first voter of a batch there can have a temperature of its own: a peer is not told of it."""
    return replica.local and replica.capabilities.first_temperature


def voter_in(replica: Replica, request: GenerationRequest) -> Voter:
    """What the sampling of a seat there depends on."""
    thinks = replica.capabilities.reasoning and request.thinking is not False
    return Voter(replica.model, own=replica.local and not replica.upstream, choosy=thinks or replica.upstream)


def in_waves(
    seats: Sequence[Replica],
    samplings: Sequence[SamplingChange],
    first: int,
    *,
    give_way: bool = False,
    one_by_one: bool = False,
    in_stages: bool = False,
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """The batches of the first `first` seats, and those of the rest; each seat has its own sampling.

    `one_by_one`: the rest may be asked in any number, so that each is a batch of its own. `in_stages`: of what is held
    back, too, the first `first` seats may be asked without the rest.

    Where votes `give_way`, all but the first do, which runs by itself: of answers that share a prefill none can be
    stopped alone. The others at its place are held back until the prompt is in the cache there.
    """
    dealt = list(zip(seats, samplings, strict=True))
    if one_by_one:
        return batches_of(dealt[:first]), tuple(Batch(replica, (sampling,)) for replica, sampling in dealt[first:])
    if not give_way:
        return batches_of(dealt[:first]), batches_of(dealt[first:])
    lead, *extra = dealt
    now = [seat for seat in extra[: first - 1] if key_of(seat[0]) != key_of(lead[0])]
    soon = [seat for seat in extra[: first - 1] if seat not in now]
    last = extra[first - 1 :]
    held = (soon, last) if in_stages else ([*soon, *last],)

    def yielding(some: Sequence[Seat]) -> tuple[Batch, ...]:
        return tuple(replace(batch, gives_way=True) for batch in batches_of(some))

    return (*batches_of([lead]), *yielding(now)), tuple(batch for stage in held for batch in yielding(stage))


def seated_as_planned(held: Sequence[Batch], _: OwnVoters) -> tuple[Batch, ...]:
    return tuple(held)


def seated_anew(
    held: Sequence[Batch], own: OwnVoters, now: Iterable[Replica], *, idle_only: bool, share: int | None = None
) -> tuple[Batch, ...]:
    """Where the batches held back run now: at home, or where the same model has room and the prompt in a cache already.

    A batch moves as a whole, so that its seeds do not depend on who was how fast. With `idle_only` no more is asked of
    any place than is idle by now: spare capacity is what nobody else wants. Without it voters queue at home. No peer
    gets more than its `share` of the ballot's seats by a move, and the first voter of a node does not move: every node
    is asked before any is asked twice.
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
        if home not in own.warm and batch.replica.node_id in own.asked and better:
            place = min(better)
            chosen.add(place)
            planned[batch.replica.party] -= seats
            planned[places[place].party] += seats
            seated.append(batch.moved(places[place]))
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
