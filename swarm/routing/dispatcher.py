"""Answer a request with whoever can: one replica with failover, or a ballot of many. The effects beside `policy.py`."""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TypeVar

from federation.advertisement import LoadableModel
from federation.client import PeerClient
from swarm.consensus.options import Ahead, NoQuorum, OnLoading, StopRule, Strategy, StreamMode
from swarm.consensus.question import Question
from swarm.consensus.strategies import Group
from swarm.consensus.swarm_object import BallotStanding
from swarm.consensus.verdict import Verdict
from swarm.consensus.waves import ballot_samplings, first_wave, moved, temperatures
from swarm.errors import BadRequest, DeadlineExceeded, EngineDied, NoConsensus, SwarmError, Unavailable, UnknownModel
from swarm.generation import (
    Candidate,
    Delta,
    Finish,
    GenerationRequest,
    JsonObject,
    has_images,
    is_greedy,
    prompt_chars,
)
from swarm.quantities import load_words
from swarm.registry.weights_file import NO_WEIGHTS, Weights
from swarm.routing.ballot import best_judge, hold_ballot, judgement
from swarm.routing.ballot_box import (
    BallotCall,
    BallotObserver,
    BallotResult,
    Begun,
    Failure,
    RunVoters,
    no_consensus,
    nobody_watches,
)
from swarm.routing.cascading import as_cascade, soonest_now, unranked
from swarm.routing.loadables import (
    OwnLoadables,
    Stock,
    StockIndex,
    loadable_replicas,
    ready_in_s,
    requests_at_work,
    soonest_ready,
    worth_a_second,
)
from swarm.routing.observations import ConductCounts, Demand, dissents, findings, size_mismatch
from swarm.routing.peer_answers import OnEvent
from swarm.routing.peer_models import Action, ModelDone, ask_to
from swarm.routing.poison_pills import PoisonPills, RequestContent
from swarm.routing.policy import (
    LONG_PROMPT_CHARS,
    NOT_MEASURED,
    Asking,
    Batch,
    Defaults,
    LeftOut,
    MeasuredOdds,
    OwnVoters,
    Plan,
    Reseat,
    VoteOptions,
    as_can_be_weighed,
    in_waves,
    left_out,
    make_plan,
    measured_odds,
    no_better_than_a_guess,
    room_left,
    seat_weights,
    seated_anew,
    source_at,
    strategy_of,
    stream_mode,
    strongest_first,
    strongest_models,
    voter_in,
    with_a_say,
)
from swarm.routing.preference import (
    KeptCopies,
    assessed,
    by_our_measure,
    by_preference,
    expected_tokens,
    fit_to_vote,
    with_slots_for,
)
from swarm.routing.prefix import Prefixes, prefixes_of
from swarm.routing.replica_client import Meter, OnServed, ReplicaClient, bare, with_samplings, without_logprobs
from swarm.routing.replicas import (
    SWARM_ALIAS,
    CircuitState,
    Holder,
    KnownNames,
    NameKeeper,
    Replica,
    ReplicaKey,
    holders_of,
    local_replicas,
    model_names,
    own_sizes,
    resting_replicas,
    served_models,
)
from swarm.routing.resumption import computes_alike
from swarm.routing.router import DEFAULT_LIMITS, AnswerListener, FailureLimits, Router, RoutingListener
from swarm.routing.rules import RoutingRules, names_of, node_called, on_node
from swarm.routing.single import FAILING_OVER, SingleAnswer
from swarm.routing.told_models import NamedKeeper, ServedByPeers, ToldModels, told_replicas
from swarm.routing.upstream import UpstreamOffer, Upstreams, last_resorts, order_for, upstream_replicas, who_can
from swarm.routing.utilities import UtilityCall, UtilityRoom
from swarm.workers.model_workers import LoadProgress
from swarm.workers.pool import WorkerPool
from swarm.workers.slots import retry_after_s

log = logging.getLogger(__name__)

BEGIN_S = 5.0  # for a peer to say that it begins a load
DEFAULT_DEADLINE_S = 600.0  # a long answer of a large model on a small machine; requests may ask for less

A = TypeVar("A")


class NotLoaded(Unavailable):
    """A request that does not wait for a load, which begins all the same, where `replica` is."""

    def __init__(self, replica: Replica, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s)
        self.replica = replica


class Dispatcher:
    """Everything the gateway needs: plans, ballots, single answers, utilities. Deadlines are monotonic instants."""

    def __init__(
        self,
        pool: WorkerPool,
        peers: Callable[[], tuple[ToldModels, ...]],
        client: PeerClient,
        report_traffic: Callable[[str, bool], None],
        node_id: str,
        node: str,
        default_votes: int | None,
        default_strategy: Strategy,
        upstreams: Upstreams | None = None,
        default_stream: StreamMode | None = None,
        weights: Weights = NO_WEIGHTS,
        leaving: Callable[[], bool] = lambda: False,
        rules: RoutingRules | None = None,
        failure_limits: FailureLimits = DEFAULT_LIMITS,
        utilities: UtilityRoom | None = None,
        loadables: OwnLoadables | None = None,
        peer_stocks: Callable[[], tuple[Stock, ...]] = tuple,
        default_model: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._default_model = default_model
        self._pool = pool
        self._told = peers
        self._loadables = loadables or OwnLoadables()
        self._peer_stocks = peer_stocks
        self._names = NameKeeper()
        self._named = NamedKeeper()
        self._weak = KeptCopies()
        self._stock_index = StockIndex()
        self._stored_sizes: tuple[tuple[LoadableModel, ...], dict[str, int]] = ((), {})
        self._router = Router(report_traffic, rules, limits=failure_limits)
        self.upstreams = upstreams or Upstreams()
        self._peer_client = client
        self._client = ReplicaClient(
            pool, client, self._router, self.upstreams, self._peers_idle, self._is_peer, utilities
        )
        self._node_id = self.node_id = node_id
        self.node = node
        self._defaults = Defaults.of(default_votes, default_strategy, default_stream)
        self._weights = weights
        self._demand = Demand()
        self._leaving = leaving

    def replicas(self, local_only: bool = False) -> tuple[Replica, ...]:
        """Where models are run for new requests: here first, unless this node leaves, then on live peers."""
        if local_only:
            return self._router.with_local_knowledge(self._here(), everything=False)
        return self._router.with_local_knowledge(self._peers()) if self._leaving() else self._everywhere()

    def _replicas_of(self, name: str) -> tuple[Replica, ...]:
        """Those of `replicas()` that are of one model, without a look at all the others."""
        here, served = () if self._leaving() else self._here(), self._served()
        wanted = (*(replica for replica in here if replica.model == name), *served.called(name))
        return self._router.with_local_knowledge_of(wanted, here, served)

    def _here(self) -> tuple[Replica, ...]:
        return local_replicas(self._pool.states(), self._node_id, self.node)

    def _everywhere(self, node: str | None = None) -> tuple[Replica, ...]:
        """What a vote that has begun may use: this node, too, while it waits for that vote before it leaves.

        Only that `node`, where the request names one.
        """
        return on_node(node, self._router.with_local_knowledge(self._here() + self._peers()))

    def _node_meant(self, name: str | None) -> str | None:
        """The id of the node called `name`. Raises BadRequest naming those there are; None: a request names none."""
        if name is None:
            return None
        known: dict[str, tuple[str, ...]] = {self._node_id: (self.node,)}
        for stock in self._peer_stocks():
            known[stock.node_id] = (stock.node, stock.name or stock.node)
        for replica in told_replicas(self._told()):
            known[replica.node_id] = names_of(replica)[1:]
        return node_called(name, known)

    def _peers(self) -> tuple[Replica, ...]:
        """What peers serve, by the names that models have here."""
        return self._served().replicas

    def _served(self) -> ServedByPeers:
        told = self._told()
        names = self._model_names(told, self._peer_stocks()) if told else KnownNames()
        return self._named.of(told, names, self._own_sizes() if told else {})

    def _own_sizes(self) -> dict[str, int]:
        models, sizes = self._stored_sizes
        if models is not (now := self._loadables.models()):
            sizes = {model.id: model.params for model in now if model.params is not None}
            self._stored_sizes = now, sizes
        return sizes | own_sizes(self._pool.states())

    def _model_names(self, told: tuple[ToldModels, ...], stocks: tuple[Stock, ...]) -> KnownNames:
        """What models are called here, by what this node and its peers have, loaded or not."""
        states = self._pool.states()
        own = local_replicas(states, self._node_id, self.node) + resting_replicas(states, self._node_id, self.node)
        stored = Holder(self._node_id, self._node_id, True, self._loadables.models())
        served = (each.holder for each in told if each.holder is not None)
        return self._names.names((*holders_of(own), *served, stored, *(stock.holder for stock in stocks)))

    @property
    def names(self) -> KnownNames:
        """What models are called here, and by which further names people may mean them."""
        return self._model_names(self._told(), self._peer_stocks())

    def loadable(self, model: str | None = None) -> tuple[Replica, ...]:
        """Where models could be loaded, here (unless this node leaves) and on peers; only `model`, where it is given.

        Not in any order: see `soonest_ready`. None where it runs: what a peer says of its load comes before its list.
        """
        stocks, told = self._peer_stocks(), self._told()
        names, sizes = self._model_names(told, stocks), self._own_sizes()
        running = {replica.key for replica in told_replicas(told)}
        running |= {(self._node_id, state.model_id) for state in self._pool.states() if state.phase == "ready"}
        if not self._leaving():
            stocks = (self._own_stock(), *stocks)
        could = loadable_replicas(stocks, names, sizes, model, self._stock_index)
        found = [each for each in could if each.key not in running]
        return self._router.with_local_knowledge(found, everything=False)

    def _standing(
        self,
        name: str,
        local_only: bool = False,
        seeing: bool = False,
        node: str | None = None,
        only: bool = False,
    ) -> tuple[Replica, ...]:
        """Where models run, and behind them where the one called `name` could be loaded, if nobody runs it.

        Or, for a request that wants one `seeing`, where it could be loaded with its image part, if nobody runs it so. A
        model that runs is loaded once more where its queue is longer than that takes. For the alias nothing is loaded
        while anything runs; then it is this node's default model. Where the request names a `node`, only of that one.
        `only`: others that run are of no use to the request, where that one does.
        """
        if only and not local_only and name != SWARM_ALIAS and (of_it := on_node(node, self._replicas_of(name))):
            ready = running = of_it
        else:
            ready = on_node(node, self.replicas(local_only))
            if name == SWARM_ALIAS:
                if any(replica.capabilities.generates for replica in ready):
                    return ready
                default = self._default_model()
                return ready if default is None else (*ready, *self._could_load(default, local_only, node))
            running = [replica for replica in ready if replica.model == name]
        if not running:
            return (*ready, *self._could_load(name, local_only, node))
        if seeing and not any(replica.capabilities.vision for replica in running):
            could = self._could_load(running[0].model, local_only, node)
            return (*ready, *(replica for replica in could if replica.capabilities.vision))
        if local_only or any(replica.slots_free for replica in running):
            return ready
        second = worth_a_second(running, on_node(node, self.loadable(running[0].model)))
        return ready if second is None else (*ready, replace(second, wait_s=ready_in_s(second)))

    def _standing_for(
        self, request: GenerationRequest, local_only: bool, node: str | None = None
    ) -> tuple[Replica, ...]:
        seeing = has_images(request)
        only = not seeing and request.suffix is None  # where a skill is wanted, it is told who else has it
        return self._standing(request.model, local_only, seeing, node, only)

    def _could_load(self, name: str, local_only: bool, node: str | None) -> tuple[Replica, ...]:
        """The places, the best first."""
        found = (replica for replica in on_node(node, self.loadable(name)) if replica.local or not local_only)
        return soonest_ready(found)

    def _own_stock(self) -> Stock:
        served = served_models(self._pool.states())
        models, unlisted = self._loadables.models(), self._loadables.unlisted
        return Stock(self._node_id, self.node, models, at_work=requests_at_work(served), unlisted=unlisted)

    async def have(self, peer: Replica, action: Action, body: JsonObject, deadline: float) -> ModelDone:
        """What the node of `peer` does with its model `body["model"]`. Raises as `peer_models.ask_to` does."""
        return await ask_to(self._peer_client, peer, action, body, deadline, self.model_names())

    async def begin_there(self, peer: Replica) -> None:
        """Have a peer begin to load a model; whether it does is up to it."""
        body: JsonObject = {"model": peer.model_there, "wait": False}
        try:
            await self.have(peer, "load", body, time.monotonic() + BEGIN_S)
        except SwarmError as error:
            log.info("%s is not loaded on %s: %s", peer.model, peer.node, error)

    def model_names(self) -> tuple[str, ...]:
        """Every name that clients are shown: the alias, and models, some of them only while they run."""
        names = model_names((*self.known(), *(replica for replica in self.loadable() if replica.listed)))
        return (*names, SWARM_ALIAS) if names else ()

    def load_words(self, replica: Replica, since_s: float) -> str | None:
        """How far the load of a model is that was asked for `since_s` ago, in a line; None once it is over.

        What a peer loads is told by the time that it takes there.
        """
        name = replica.model if replica.local else f"{replica.model} on {replica.node}"
        progress = LoadProgress(since_s, replica.load_s)
        if replica.local:
            state = next((state for state in self._pool.states() if state.model_id == replica.model_there), None)
            if state is not None and state.phase in ("ready", "failed"):
                return None
            if state is None or state.load is None:  # others have to make room first
                return f"waiting to load {name}"
            progress = state.load
        return load_words(name, progress.share, progress.left_s)

    def load_took_s(self, replica: Replica) -> float | None:
        """How long the last load of this node's model took; None of another's, and where it is not known."""
        states = self._pool.states() if replica.local else ()
        return next((state.load_s for state in states if state.model_id == replica.model_there), None)

    def _peers_idle(self) -> bool:
        return any(replica.slots_free for replica in self._router.with_local_knowledge(self._peers(), everything=False))

    def _is_peer(self, node_id: str) -> bool:
        return any(told.node_id == node_id for told in self._told())

    @property
    def pills(self) -> PoisonPills:
        """The requests that are asked of nobody, because engines ended over them."""
        return self._router.pills

    @property
    def utilities(self) -> UtilityRoom:
        """Turns of calls that lease no worker, and of prompts that are counted before they wait for one."""
        return self._client.utilities

    def circuits(self) -> Mapping[str, CircuitState]:
        """How requests to each peer fare, by node id; closed for those that are not named."""
        return self._router.circuits()

    def conduct(self) -> Mapping[str, tuple[ConductCounts, tuple[str, ...]]]:
        """How each peer that serves a model has behaved, by node id, and what of that a person should know."""
        found_of: dict[str, tuple[ConductCounts, tuple[str, ...]]] = {}
        for replica in self._peers():
            account, mismatch = self._router.conduct.of(replica.node_id), size_mismatch(replica)
            before = found_of.get(replica.node_id)
            found = findings(account, self._router.conduct.others(replica.node_id)) if before is None else before[1]
            found_of[replica.node_id] = (account, (*found, *mismatch))
        return found_of

    @property
    def listeners(self) -> list[RoutingListener]:
        """Who is called with what becomes of requests; add to it at any time."""
        return self._router.listeners

    @property
    def answer_listeners(self) -> list[AnswerListener]:
        """Who is called with how quickly single answers come; add to it at any time."""
        return self._router.answer_listeners

    def _offers(self, allowed: bool = True, local_only: bool = False) -> tuple[UpstreamOffer, ...]:
        """What upstreams offer to a request, where it may leave this node for them."""
        return self.upstreams.offers() if allowed and not local_only else ()

    def offered(self, allowed: bool = True) -> tuple[Replica, ...]:
        """Every place where a client may have a model run: upstreams' models, too, that nobody else serves."""
        replicas = self.replicas()
        return (*replicas, *upstream_replicas(replicas, self._offers(allowed)))

    def known(self, allowed: bool = True, unlisted: bool = False) -> tuple[Replica, ...]:
        """What is offered, this node's models that are being loaded again, and what could be loaded and is listed.

        And what is `unlisted`, where that is wanted.
        """
        resting = self._resting()
        here = {replica.key for replica in resting}
        could = (each for each in self.loadable() if (unlisted or each.listed) and each.key not in here)
        return (*self.offered(allowed), *resting, *could)

    def _resting(self) -> tuple[Replica, ...]:
        return () if self._leaving() else resting_replicas(self._pool.states(), self._node_id, self.node)

    def knows_any(self) -> bool:
        """Whether there is a model anywhere that runs or could be loaded."""
        stocks = self._peer_stocks() if self._leaving() else (self._own_stock(), *self._peer_stocks())
        return bool(any(stock.models for stock in stocks) or self._resting() or self.offered())

    @contextmanager
    def _choosing(self, node: str | None = None) -> Generator[None]:
        """A choice of who answers. A model of this node that is being loaded again is not unknown but Unavailable."""
        try:
            yield
        except UnknownModel as error:
            wanted = None if error.name == SWARM_ALIAS else error.name
            elsewhere = node not in (None, self._node_id)
            refusal = None if self._leaving() or elsewhere else self._pool.refusal(wanted)
            if refusal is not None:
                raise refusal from error
            if node is not None:
                there = on_node(node, (*self.replicas(), *self.loadable()))
                name = next((replica.node for replica in there), node)
                raise UnknownModel(
                    error.name, model_names(there), f"by {name}, the only node that swarm.node lets be asked"
                ) from error
            if not error.known:
                raise
            raise UnknownModel(error.name, self.model_names(), error.why) from error  # what could be loaded, too

    def plan(self, request: GenerationRequest, options: VoteOptions, choices: int, local_only: bool = False) -> Plan:
        """Who will answer. Raises UnknownModel, Unavailable or BadRequest before anything is generated.

        And EngineDied for a request that an engine has ended over. The engines of the plan are to be asked whether they
        can answer `request` at all (`EngineEntry.check`): that takes its time, and this does not.
        """
        self.pills.refuse(RequestContent.of(request))  # first: the engine that it ended may still be gone
        if request.max_tokens == 0:  # it reads a prompt and says nothing: there is nothing to vote on
            options = replace(options, strategy=Strategy.SINGLE)
        node = self._node_meant(options.node)
        offers, prefixes = self._offers(options.upstream and node is None, local_only), prefixes_of(request)
        strategy = strategy_of(options, self._defaults.strategy)
        able = self._able(request, self._standing_for(request, local_only, node), offers, strategy, node)
        if is_loaded_first := not any(replica.state == "ready" for replica in able):
            self._refuse_to_load(able[0], options)
        voters = able[:1] if is_loaded_first else tuple(r for r in able if r.state == "ready")
        ready = voters
        if self._weights:
            voters = with_a_say(voters, Question.of(request, strategy), self._weights)
        ranked = self._ranked(request, able, offers, prefixes, choices)
        chars = prompt_chars(request)
        # Reading what a long prompt wants takes its time, and where it decides nothing it is not read.
        decided = local_only or options.wants_a_vote or chars > LONG_PROMPT_CHARS
        asking = Asking(
            prompt_chars=chars,
            choices=choices,
            countable=decided or Question.of(request, strategy).countable,
            greedy=request.model != SWARM_ALIAS and is_greedy(request),
        )
        plan = make_plan(ranked, options, self._defaults, asking, self._demand.peak(), voters=voters)
        if plan.mode == "vote" and strategy == Strategy.CASCADE:
            kind = Question.of(request, strategy).expected_kind
            plan = as_cascade(plan, voters, options.votes, self._weights.cascade, kind, queues=options.explicit)
        if plan.strong is not None:  # the weak have seats there
            able, voters = unranked(able), unranked(voters)
        return replace(
            plan,
            prefixes=prefixes,
            node=node,
            engines=frozenset(replica.engine for replica in able),
            left_out=() if plan.why == "asked for" else self._left_out(able, ready, voters, options),
        )

    def sees(
        self, request: GenerationRequest, local_only: bool = False, upstream: bool = True, node: str | None = None
    ) -> bool | None:
        """Whether those who may answer `request` see its images; None where upstreams do, which look for themselves.

        Raises as `plan` does, and BadRequest where nobody can see what is asked about.
        """
        only = self._node_meant(node)
        offers = self._offers(upstream and only is None, local_only)
        able = self._able(request, self._standing_for(request, local_only, only), offers, node=only)
        nodes = [replica for replica in able if not replica.upstream]
        return any(replica.capabilities.vision for replica in nodes) if nodes else None

    def _refuse_to_load(self, replica: Replica, options: VoteOptions) -> None:
        """Raises Unavailable where the request is not to wait for a load; the load begins all the same."""
        if options.on_loading != OnLoading.REJECT:
            return
        seconds = math.ceil(ready_in_s(replica))
        if replica.local:
            self._pool.begin(replica.model_there)
        raise NotLoaded(
            replica,
            f"model {replica.model!r} is not loaded; {replica.node} needs about {seconds} s for that: come back then, "
            'or say "on_loading": "wait"',
            retry_after_s(seconds),
        )

    def _left_out(
        self, able: Sequence[Replica], ready: Sequence[Replica], voters: Sequence[Replica], options: VoteOptions
    ) -> tuple[LeftOut, ...]:
        if len({replica.model for replica in able}) < 2:  # nearly always: no models are compared, and nodes by weights
            said = {replica.key for replica in voters}
            able = () if voters is ready else tuple(replica for replica in ready if replica.key not in said)
        if not able:
            return ()
        everybody = (*self._here(), *self._peers())
        sizes = {replica.model: replica.params for replica in everybody if replica.params is not None}
        return left_out(able, voters, options.wants_a_vote, sizes)

    def _able(
        self,
        request: GenerationRequest,
        replicas: Sequence[Replica],
        offers: Sequence[UpstreamOffer] = (),
        strategy: Strategy = Strategy.AUTO,
        node: str | None = None,
    ) -> tuple[Replica, ...]:
        """Who of `replicas` may answer `request` now, as voters or alone; for the alias with how strong each is."""
        with self._choosing(node):
            able = who_can(request, replicas, offers, self.known)
        guessing = self._guessing(request, strategy, able)
        sound = (tuple(replica for replica in able if replica.key not in guessing) if guessing else able) or able
        last = () if sound is able else tuple(replace(r, weak=True) for r in able if r.key in guessing)
        if request.model != SWARM_ALIAS:
            return (*sound, *last)
        odds = self._odds(request, strategy, sound)
        return (*assessed(sound, odds.of, weighed=odds.weighed, copies=self._weak), *last)

    def _odds(self, request: GenerationRequest, strategy: Strategy, replicas: Sequence[Replica]) -> MeasuredOdds:
        if not self._weights:
            return NOT_MEASURED
        return measured_odds(self._weights, Question.of(request, strategy), replicas)

    def _guessing(
        self, request: GenerationRequest, strategy: Strategy, replicas: Sequence[Replica]
    ) -> frozenset[ReplicaKey]:
        """Who was measured to be no better than a guess: whatever it says it runs, it is asked after everybody."""
        if not self._weights.nodes:
            return frozenset()
        return no_better_than_a_guess(self._weights, Question.of(request, strategy), replicas)

    def _with_a_say(
        self, request: GenerationRequest, strategy: Strategy, replicas: Sequence[Replica]
    ) -> tuple[Replica, ...]:
        """Who of `replicas` may get a seat later, in a ballot that has begun; maybe nobody."""
        guessing = self._guessing(request, strategy, replicas)
        return tuple(replica for replica in replicas if replica.key not in guessing)

    def _able_among(self, others: Sequence[Replica], request: GenerationRequest) -> tuple[Replica, ...]:
        """Who of the nodes can answer `request`; maybe nobody."""
        try:
            return self._able(request, others)
        except (UnknownModel, BadRequest, Unavailable):
            return ()

    def _ranked(
        self,
        request: GenerationRequest,
        able: Sequence[Replica],
        offers: Sequence[UpstreamOffer],
        prefixes: Prefixes,
        choices: int,
    ) -> tuple[Replica, ...]:
        """Who gives `choices` answers alone, best first; then the upstreams that had no part so far."""
        if any(replica.state == "ready" for replica in able):
            ranked = with_slots_for(choices, self._router.warmed(able, prefixes), expected_tokens(request))
        else:  # in the order in which every node would load it
            with_slots_for(choices, able)
            ranked = tuple(replica for replica in able if replica.slots >= choices)
        return (*ranked, *last_resorts(request.model, ranked, offers))

    async def vote(
        self,
        request: GenerationRequest,
        plan: Plan,
        options: VoteOptions,
        deadline: float,
        stream: bool,
        observer: BallotObserver | None = None,
    ) -> AsyncGenerator[Delta | Begun | BallotStanding | BallotResult, None]:
        """Hold the planned ballot; where nobody in it can answer, and nothing was shown yet, somebody else does.

        The `observer` is told how it stands whether or not the client wants to know that.

        With `stream` the strongest voter's answer comes while it is made, as far as it may be shown. Raises what no
        answer can be given for, and NoConsensus for a degraded verdict, where the client wants none.
        """
        self._router.attempt()
        shown = alone = False
        with self._demand.request():
            while True:
                ballot = hold_ballot(self._call(request, plan, options, deadline, stream, observer))
                try:
                    async with aclosing(ballot) as progress:
                        async for item in progress:
                            if isinstance(item, BallotStanding):
                                if observer is not None:
                                    observer.stands(item)
                                if not options.progress:
                                    continue
                            if isinstance(item, BallotResult):
                                if observer is not None:
                                    observer.counted(item)
                                self._remember(plan, item)
                                if item.resumed is not None:
                                    for listener in self._router.listeners:
                                        listener.resumed()
                                self._settle(item.verdict, options)
                            shown = shown or isinstance(item, Delta)
                            yield item
                    return
                except (EngineDied, DeadlineExceeded, NoConsensus):
                    raise
                except FAILING_OVER as error:
                    last = None if shown or alone else self._left_over(request, plan, options)
                    if last is None:
                        raise
                    log.warning("no voter could answer, asking %s: %s", last.node, error)
                    plan, alone = replace(plan, seats=(last,)), True

    def _remember(self, plan: Plan, result: BallotResult) -> None:
        """Note where the conversation was answered: where the winner is, or the leader whose words were shown."""
        answer = result.leader or result.verdict.winner
        if answer is not None and answer.error is None:
            asked = (*plan.seats, *self._everywhere(plan.node))  # a voter may have been replaced, or moved
            place = next((r.key for r in asked if (r.node, r.model) == (answer.node, answer.model)), None)
            if place is not None:
                self._router.affinity.answered(plan.prefixes, place)

    def _settle(self, verdict: Verdict, options: VoteOptions) -> None:
        """Note who dissented. Raises NoConsensus for a degraded verdict, where the client wants none."""
        nodes = {replica.node: replica.node_id for replica in self._peers()}
        for node_id, dissented in dissents(verdict, nodes):
            self._router.conduct.note(node_id, votes=1, dissent=int(dissented))
        if verdict.degraded and options.on_no_quorum == NoQuorum.ERROR:
            raise no_consensus(verdict.shortfall)

    def _left_over(self, request: GenerationRequest, plan: Plan, options: VoteOptions) -> Replica | None:
        """Who may still answer where no voter could: a node with no seat (its model is weaker), then an upstream."""
        asked = {replica.node_id for replica in plan.seats}
        others = [replica for replica in on_node(plan.node, self.replicas()) if replica.node_id not in asked]
        best = next(iter(by_preference(self._able_among(others, request))), None)
        above = last_resorts(request.model, plan.seats, self._offers(options.upstream and plan.node is None))
        return best or next(iter(above), None)

    def _call(
        self,
        request: GenerationRequest,
        plan: Plan,
        options: VoteOptions,
        deadline: float,
        stream: bool,
        observer: BallotObserver | None,
    ) -> BallotCall:
        """The planned ballot: who is asked at first and later, how they are run, replaced and judged."""
        question = as_can_be_weighed(Question.of(request, plan.strategy), plan.seats, options.stop)
        weights = seat_weights(question, self._weights, plan.seats, self._everywhere() if self._weights.nodes else ())
        odds = self._odds(request, plan.strategy, plan.seats).of
        seats = strongest_first(self._router.warmed(plan.seats, plan.prefixes), odds)
        if plan.strong is not None:
            small = strongest_first(self._router.warmed(plan.seats[:-1], plan.prefixes), odds)
            seats = (*small, plan.seats[-1])
        repeatable = request.seed is not None or is_greedy(request)
        base = RequestContent.of(request).seed if repeatable else random.getrandbits(31)
        voters = [voter_in(replica, request) for replica in seats]
        samplings = ballot_samplings(request, question, voters, base_seed=base)
        greedy = Counter(voter.model for voter, each in zip(voters, samplings, strict=True) if each.greedy)
        # Waves save nothing where only the last answer decides, and in a race: they would only cost time.
        in_turn = question.may_settle_early or options.stop == StopRule.POSTERIOR
        first = first_wave(list(map(source_at, seats)), weights, options.min_votes or 1) if in_turn else len(seats)
        ahead = options.stop.by if isinstance(options.stop, Ahead) else None
        if ahead is not None:
            first = min(len(seats), max(ahead, options.min_votes or 1))
        if plan.strong is not None:
            first = len(seats) - 1
        give_way = plan.idle_only and (options.min_votes or 1) == 1
        enough = first if question.by_confidence and ahead is None and first < len(seats) else None
        batches, later = in_waves(
            seats,
            samplings,
            first,
            give_way=give_way and plan.strong is None,
            one_by_one=ahead is not None,
            in_stages=enough is not None,
        )
        if plan.strong is not None and give_way:  # the strongest answers then
            batches = tuple(replace(batch, gives_way=True) for batch in batches)
        return BallotCall(
            question=question,
            wanted=plan.wanted,
            batches=batches,
            later=later,
            deadline=deadline,
            run=self._run(request, deadline, sure=question.by_confidence),
            replace=lambda failure, seated: self._replacement(request, question, plan, failure, seated, greedy),
            reseat=self._reseat(request, plan),
            ask_judge=lambda groups: self._judge(request, plan, groups, deadline),
            stream_leader=stream,
            live=stream_mode(question, options.stream or self._defaults.stream),
            weights=weights,
            stop=options.stop,
            min_votes=options.min_votes or 1,
            min_agreement=options.min_agreement,
            progress=options.progress,
            is_watched=nobody_watches if observer is None else lambda: observer.is_watched,
            strongest=strongest_models(seats, odds) if plan.strong is None else frozenset((seats[-1].model,)),
            repeatable=repeatable,
            cascade=plan.cascade,
            enough=enough,
            favourite=seats[0].model if greedy[seats[0].model] else None,
            resumes=repeatable and options.resume,
        )

    def _reseat(self, request: GenerationRequest, plan: Plan) -> Reseat:
        """Where those held back are asked, as things are when they are."""

        def reseat(held: Sequence[Batch], own: OwnVoters) -> tuple[Batch, ...]:
            now = self._with_a_say(request, plan.strategy, self._everywhere(plan.node))
            if plan.strong is not None:
                return soonest_now(held, now)
            return seated_anew(held, own, now, idle_only=plan.idle_only, share=plan.share())

        return reseat

    def _run(self, request: GenerationRequest, deadline: float, sure: bool) -> RunVoters:
        """How voters of `request` are run; `sure`: log-probabilities are wanted, of those whose engines give them."""
        hidden = sure and not request.logprobs

        def run(batch: Batch, on_event: OnEvent | None, meter: Meter) -> AsyncGenerator[Candidate, None]:
            replica, samplings = batch.replica, batch.samplings
            # An upstream's one voter gets the client's own sampling: some models take no other, and it is one vote.
            unchanged = replica.upstream and len(samplings) == 1
            sampled = request if unchanged else with_samplings(request, batch)
            if not (hidden and replica.capabilities.logprobs):
                return self._client.candidates(
                    replica, sampled, len(samplings), deadline, on_event, meter, batch.gives_way
                )
            sampled = sampled.model_copy(update={"logprobs": True})
            shown = None if on_event is None else without_logprobs(on_event)
            return bare(
                self._client.candidates(replica, sampled, len(samplings), deadline, shown, meter, batch.gives_way)
            )

        return run

    async def _judge(
        self, request: GenerationRequest, plan: Plan, groups: Sequence[Group], deadline: float
    ) -> Candidate:
        """What the strongest of all that may answer `request` says of a vote's disputed answers."""
        try:
            able = self._able(request, self._everywhere(plan.node))
        except (UnknownModel, BadRequest, Unavailable):  # whoever voted has left since, or is an upstream
            able = plan.seats
        return await judgement(self._client, best_judge(able), request, groups, deadline)

    def _replacement(
        self,
        request: GenerationRequest,
        question: Question,
        plan: Plan,
        failure: Failure,
        seated: Mapping[str, int],
        greedy: Counter[str],
    ) -> Batch | None:
        """The same voters elsewhere, for a failure that is the node's and not the request's.

        `greedy` counts the seats of each model that were given so, those lost included.

        Where the best has its share of the seats already, the next best that has not; else own workers, which queue.
        A leader of whose answer the client has a part is replaced alone, where it says the same.
        """
        if isinstance(failure.error, BadRequest | EngineDied) or not failure.missing:
            return None
        lost = failure.batch.replica
        share = plan.share(without=lost.party)
        rest = self._with_a_say(request, plan.strategy, self._everywhere(plan.node))
        others = [replica for replica in rest if replica.node_id != lost.node_id]
        if plan.strong is not None:
            if lost.model != plan.strong:  # of the others it is decided without the lost
                return None
            others = [replica for replica in others if replica.model == lost.model]
        if failure.resumes:
            others = [replica for replica in others if computes_alike(lost, replica)]
        fit = fit_to_vote(self._able_among(others, request), asked_for=not plan.idle_only)
        room = {replica: room_left(replica, share, seated) for replica in by_our_measure(fit)}
        best = next((r for r in room if room[r]), None) or next((r for r in room if r.local), None)
        if best is None or not self._router.may_retry(lost, failure.error):
            return None
        if failure.resumes:
            return failure.batch.moved(best, 1)
        batch = failure.batch.moved(best, min(failure.missing, room[best] or best.slots))
        others = greedy - Counter({lost.model: sum(each.greedy for each in batch.samplings)})
        drawn = temperatures(request, question)
        return replace(batch, samplings=moved(batch.samplings, voter_in(best, request), drawn, frozenset(others)))

    def single(
        self,
        request: GenerationRequest,
        plan: Plan,
        choices: int,
        deadline: float,
        on_served: OnServed,
        local_only: bool = False,
        upstream: bool = True,
        whole: bool = False,
        resume: bool = True,
    ) -> AsyncGenerator[Delta | Finish, None]:
        """`choices` answers of the best replica in the `plan`; before the first event the next best may take over.

        A prompt too long for one replica goes to the next too: contexts differ. And so does one who would
        wait beyond `deadline`. Of a `whole` answer nothing is handed out before it is complete, so that the next best
        may take over until then. Another one goes on elsewhere where it may `resume`.
        """

        def rank_again() -> tuple[Replica, ...]:
            offers = self._offers(upstream and plan.node is None, local_only)
            standing = self._standing_for(request, local_only, plan.node)
            able = self._able(request, standing, offers, plan.requested, plan.node)
            return self._ranked(request, able, offers, plan.prefixes, choices)

        answer = SingleAnswer(
            self._client,
            self._router,
            request,
            plan,
            rank_again,
            choices,
            deadline,
            on_served,
            whole,
            stays=local_only,
            resumes=resume,
        )
        return answer.events(self._demand)

    async def utility(
        self, model: str, call: UtilityCall[A], deadline: float, local_only: bool = False, upstream: bool = True
    ) -> tuple[A, Replica]:
        """The answer to a call that generates nothing, and whose it is: this node's own where it can, else a peer's.

        Upstreams are the last to be asked, and only for what OpenAI's API has.
        """
        self.pills.refuse(call.content)
        with self._choosing():
            replicas = order_for(call, model, self._standing(model, local_only), self._offers(upstream, local_only))
        self._router.attempt()
        for replica in replicas[:-1]:
            try:
                return await self._client.utility(replica, call, deadline, local_only), replica
            except EngineDied:
                raise
            except FAILING_OVER as error:
                self._router.fail_over(replica, error)
        return await self._client.utility(replicas[-1], call, deadline, local_only), replicas[-1]
