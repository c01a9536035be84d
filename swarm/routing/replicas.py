"""Where models can be run, here and on peers, as one list of plain facts; and what this node says that it serves.

A model is its content, as far as that is known, and its name only what it is called: see `names_by_content`.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from federation.advertisement import (
    MAX_ENGINE_CHARS,
    MAX_NAME_CHARS,
    MAX_POOLED_NODES,
    MAX_WAIT_S,
    Capabilities,
    ServedModel,
)
from federation.hostport import neighbourhood
from federation.peer import Peer, PeerState
from swarm.engines.engine import Computation
from swarm.errors import BadRequest, UnknownModel
from swarm.registry.known_sizes import checked_params
from swarm.workers.model_workers import ModelState

SWARM_ALIAS = "swarm"  # "whatever this swarm does best"
FEW_MODELS = 500  # so many of all nodes together are named as soon as anything changes, in 10 ms
NAMING_S = 30e-6  # for one model, where every name is several contents'
NAMING_SHARE = 0.05  # of the time at most, for names of more
SHOWN_CHARS = 6  # of a content after a name that two contents have
WEAK_SHARE = 0.25  # members under this share of the strongest model's parameters lower a vote (arXiv 2502.00674)

UNTOLD = Capabilities()  # of a model that says nothing of itself
ReplicaKey = tuple[str, str]  # of a replica: its node's id and its model, by the name that it has there
CircuitState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Replica:
    """One model on one node. `url` is None for this node itself.

    `params` is the model's size as this node knows it (its own file, the catalogue's figure for that name), None where
    it cannot; `reported_params` and `reported_tokens_per_s` are what a peer says, which decides nothing. `owner` is for
    whom it counts in a vote (see `party`), and a `member` is a peer that somebody invited.

    `engine` is the name of what runs it, None of a peer; `computed_by` says in words with what, None where nobody told.
    `nodes` are the names of the machines that it lies on, none where that is its node alone: over several it is one
    replica all the same, its host's, which answers for it and has its one vote.

    An `upstream` is asked by this node, and is none. Of two replicas the one with the lower `rank` is preferred.
    A peer's load figures (`slots_free`, `waiting`, `wait_s`) were true at the monotonic instant `reported_at`.

    `fingerprint` and `sha256` are the content of the model, None where it is not known, `served_as` the name by which
    its node knows it where that is another than `model`. One whose `state` is not "ready" is not loaded: see
    `loadables.py`, which also fills `load_s` (how long that would take), `fits`, `size_bytes`, `also` (further names),
    `listed` and `at_work` (the requests that its whole node has).

    `node` is the name that is shown; `name` the node's own, where two nodes share one.

    What this node adds: whether it doubts the peer (`suspect`) or its requests there fail (`circuit`), what the user
    decided (`weight`; `pinned`, False where the model is pinned to others, None where to nobody), whether it has
    `answered` lately, what was measured then (`first_s` to the first event where a slot was free, and
    `own_tokens_per_s` from then on, as if nobody else were answered there), and whether the conversation's last answer
    came from there (`warm`). And of a request for `swarm`, for which models are compared (`preference.assessed`): the
    log odds of a right answer that were `measured`, where all of them were, and whether it is too `weak` to be asked
    beside the strongest.
    """

    node_id: str
    node: str
    model: str
    slots: int
    slots_free: int
    url: str | None = None
    params: int | None = None
    reported_params: int | None = None
    reported_tokens_per_s: float | None = None
    context_tokens: int | None = None
    tokens_per_s: float | None = None
    capabilities: Capabilities = UNTOLD
    engine: str | None = None
    rank: int = 0
    upstream: bool = False
    name: str = ""
    waiting: int = 0
    wait_s: float | None = None
    reported_at: float = 0.0
    rtt_s: float = 0.0
    suspect: bool = False
    circuit: CircuitState = "closed"
    weight: float = 1.0
    pinned: bool | None = None
    first_s: float | None = None
    own_tokens_per_s: float | None = None
    warm: bool = False
    answered: bool = False
    owner: str = ""
    member: bool = False
    measured: float | None = None
    weak: bool = False
    fingerprint: str | None = None
    sha256: str | None = None
    served_as: str = ""
    state: str = "ready"
    load_s: float | None = None
    fits: bool = True
    size_bytes: int | None = None
    also: tuple[str, ...] = ()
    listed: bool = True
    at_work: int = 0
    computed_by: str | None = None
    nodes: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """By what few have alike: a hash of all fields takes as long as all else that a plan does with a replica."""
        return hash((self.node_id, self.model))

    @property
    def local(self) -> bool:
        return self.url is None

    @property
    def key(self) -> ReplicaKey:
        return self.node_id, self.model_there

    @property
    def model_there(self) -> str:
        """The model by the name that its node knows."""
        return self.served_as or self.model

    @property
    def party(self) -> str:
        """Whom its seats are counted for: its node, or in an open swarm the address that several peers share."""
        return self.owner or self.node_id

    @property
    def load(self) -> int:
        """Requests that run or wait there."""
        return self.slots - self.slots_free + self.waiting

    @property
    def troubled(self) -> bool:
        """It may not answer at all: others are asked before it."""
        return self.suspect or self.circuit == "open"


def for_tools(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The replicas as a request with tools sees them: a model whose template knows none counts for WEAK_SHARE of it.

    It calls in a general form, which it was not trained on: so a smaller model that was is asked before it, unless it
    is so much smaller that it would have no vote beside it.
    """
    return tuple(
        replica
        if replica.capabilities.tools or replica.params is None
        else replace(replica, params=max(int(replica.params * WEAK_SHARE), 1))
        for replica in replicas
    )


def model_names(replicas: Iterable[Replica]) -> tuple[str, ...]:
    """Every served model id, each once, sorted."""
    return tuple(sorted({replica.model for replica in replicas}))


def named(name: str, replicas: Sequence[Replica]) -> tuple[Replica, ...]:
    """The replicas of the model called `name` here. Raises UnknownModel with the list of what there is.

    What another node calls so may be another content: which name is meant is for whoever has the names (`KnownNames`).
    """
    found = tuple(replica for replica in replicas if replica.model == name)
    if not found:
        raise UnknownModel(name, (*model_names(replicas), *([SWARM_ALIAS] if replicas else [])))
    return found


def able(name: str, replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """The replicas that may answer for `name`: that model's, or for the alias all that write text.

    Raises UnknownModel with the list of what there is.
    """
    everything = tuple(replicas)
    if name != SWARM_ALIAS:
        found = named(name, everything)
        if not any(replica.capabilities.generates for replica in found):
            raise BadRequest(f"model {name!r} writes no text: it is for embeddings or reranking", param="model")
        return tuple(replica for replica in found if replica.capabilities.generates)
    everything = tuple(replica for replica in everything if replica.capabilities.generates)
    if not everything:
        raise UnknownModel(name, (), "no node has loaded a model yet")
    return everything


def served_models(states: Iterable[ModelState]) -> tuple[ServedModel, ...]:
    """What this node reports to peers; a model whose engine is down is not served, and one that goes has no slots."""
    return tuple(_served(state) for state in states if state.problem is None and state.phase in ("ready", "draining"))


def _served(state: ModelState) -> ServedModel:
    takes_more = state.phase == "ready"
    return ServedModel(
        id=state.model_id,
        context_tokens=state.context_tokens,
        params=state.params,
        slots=state.slots if takes_more else 0,
        slots_free=state.slots_free if takes_more else 0,
        tokens_per_s=state.tokens_per_s,
        capabilities=state.capabilities,
        waiting=state.waiting,
        wait_s=None if state.wait_s is None else min(state.wait_s, MAX_WAIT_S),
        fingerprint=state.fingerprint,
        sha256=state.sha256,
        state=state.phase,
        engine=_computed_by(state),
        nodes=tuple(name[:MAX_NAME_CHARS] for name in state.nodes[:MAX_POOLED_NODES]),
    )


def _computed_by(state: ModelState) -> str | None:
    return None if state.computation is None else _engine_words(state.computation)


@lru_cache(256)
def _engine_words(computation: Computation) -> str:
    """Once for each: replicas are made for each request."""
    return str(computation)[:MAX_ENGINE_CHARS]


def local_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's own models that run; those on their way to that or from it are no replicas yet, or none any more."""
    return tuple(_local(state, node_id, node) for state in states if state.problem is None and state.phase == "ready")


def resting_replicas(states: Iterable[ModelState], node_id: str, node: str) -> tuple[Replica, ...]:
    """This node's models whose engines are being loaded again: nobody can be answered there, and they are known."""
    return tuple(_local(state, node_id, node) for state in states if state.problem is not None)


def _local(state: ModelState, node_id: str, node: str) -> Replica:
    takes_more = state.phase == "ready"
    return Replica(
        node_id=node_id,
        node=node,
        model=state.model_id,
        slots=state.slots if takes_more else 0,
        slots_free=state.slots_free if takes_more else 0,
        params=state.params,
        context_tokens=state.context_tokens,
        tokens_per_s=state.tokens_per_s,
        capabilities=state.capabilities,
        engine=state.engine,
        waiting=state.waiting,
        wait_s=None if state.wait_s is None else min(state.wait_s, MAX_WAIT_S),
        fingerprint=state.fingerprint,
        sha256=state.sha256,
        size_bytes=state.size_bytes,
        also=state.also,
        computed_by=_computed_by(state),
        nodes=state.nodes,
    )


def own_sizes(states: Iterable[ModelState]) -> dict[str, int]:
    """The parameters of this node's own models, by id: it has read their files."""
    return {state.model_id: state.params for state in states if state.params is not None}


def peer_replicas(
    peers: Iterable[Peer], own: Mapping[str, int] = MappingProxyType({}), members: bool = False
) -> tuple[Replica, ...]:
    """What peers serve. One under suspicion counts as busy: it is asked only where nobody else can answer.

    How large their models are is what this node knows of these names (`own` are its own models' sizes), not what they
    say. `members`: this node is paired, so that each peer is one by its certificate; else peers behind one address are
    taken for one.
    """
    return tuple(
        _of_peer(peer, model, own, members)
        for peer in peers
        for model in peer.description.models
        if model.slots and model.state == "ready" and not peer.description.draining
    )


def _of_peer(peer: Peer, model: ServedModel, own: Mapping[str, int], members: bool) -> Replica:
    """Made at once, and not from another: it is made of each peer for each request."""
    suspect = peer.state is not PeerState.ALIVE
    return Replica(
        node_id=peer.id,
        node=peer.label,
        model=model.id,
        slots=model.slots,
        slots_free=0 if suspect else min(model.slots_free, model.slots),
        url=peer.url,
        params=checked_params(model.id, own),
        reported_params=model.params,
        reported_tokens_per_s=model.tokens_per_s,
        context_tokens=model.context_tokens,
        tokens_per_s=model.tokens_per_s,
        capabilities=model.capabilities,
        name=peer.name,
        waiting=model.waiting,
        wait_s=model.wait_s,
        reported_at=peer.described_at,
        rtt_s=(peer.rtt_ms or 0.0) / 1000,
        suspect=suspect,
        owner=owner_of(peer, members),
        member=members,
        fingerprint=model.fingerprint,
        sha256=model.sha256,
        computed_by=model.engine,
        nodes=model.nodes,
    )


def owner_of(peer: Peer, members: bool) -> str:
    """For whom what a peer has counts, beside its own id (see `Replica.party`)."""
    return "" if members else neighbourhood(peer.addresses) or ""


# What is one model


class Identified(Protocol):
    """What a node says of one of its models: what it is called there, and what it is."""

    @property
    def id(self) -> str: ...
    @property
    def fingerprint(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def also(self) -> tuple[str, ...]: ...


class Identity(NamedTuple):
    """The least that is `Identified`."""

    id: str
    fingerprint: str | None = None
    sha256: str | None = None
    also: tuple[str, ...] = ()


class Holder(NamedTuple):
    """The models that one node has, loaded or not, as names are given by them; `party` as in `Replica`."""

    node_id: str
    party: str
    local: bool
    models: tuple[Identified, ...]


class Content(NamedTuple):
    """What a model is, as far as that is known: at least one is not empty."""

    fingerprint: str
    sha256: str

    def agrees(self, other: Content | None) -> bool:
        """Whether nothing that both know is different, and they know something that can be compared."""
        if other is None:
            return False
        pairs = [(own, its) for own, its in zip(self, other, strict=True) if own and its]
        return bool(pairs) and all(own == its for own, its in pairs)


@dataclass(frozen=True, slots=True)
class KnownNames:
    """What models are called here. `others` has the name of each that its node calls otherwise, by node and model.

    `contents` says which content a name stands for, and `content_of` which one each model is. `known` has for every
    name the further ones by which people may mean it, and `own` the same of this node's own models: those come first,
    for what peers say is a claim.
    """

    others: Mapping[ReplicaKey, str] = field(default_factory=dict[ReplicaKey, str])
    contents: Mapping[str, Content] = field(default_factory=dict[str, Content])
    content_of: Mapping[ReplicaKey, Content] = field(default_factory=dict[ReplicaKey, Content])
    known: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    own: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def of(self, node_id: str, model: str) -> str:
        return self.others.get((node_id, model), model)

    def has(self, node_id: str, model: Identified) -> bool:
        """Whether that model was there, with this content, when the names were found."""
        content = Content(model.fingerprint or "", model.sha256 or "")
        return not any(content) or content.agrees(self.content_of.get((node_id, model.id)))


class _Copy(NamedTuple):
    holder: Holder
    model: Identified


def names_by_content(holders: Iterable[Holder], before: KnownNames | None = None) -> KnownNames:
    """What each model is called here: one content has one name, whatever its nodes call it, and one name one content.

    A node may be given more than once; of two models that it calls alike the first counts. Contents are the same where
    all that both sides know of them is equal, the fingerprint of the header and the sha256 of the file. What tells
    neither counts by its name alone, as every model of an older node does.

    This node's own models keep their names. Of another content that several call differently, the name is the one that
    most parties use, else the one that it had `before`, else the first in the alphabet. Where two contents have one
    name, it is this node's own, else that of most parties, else of the one that had it before, else of the least
    fingerprint; the others get a part of theirs after it, as in `qwen3:4b@a1b2c3`. So no minority takes a name from
    those who have it, and whoever tells another content only puts itself apart.
    """
    copies = {(holder.node_id, model.id): _Copy(holder, model) for holder in merged(holders) for model in holder.models}
    had: Mapping[str, Content] = {} if before is None else before.contents
    content_of = _contents(copies, {} if before is None else before.content_of)
    of_content: dict[Content, list[_Copy]] = {}
    claimed: dict[str, set[Content | None]] = {}
    for key, copy in copies.items():
        content = content_of.get(key)
        claimed.setdefault(copy.model.id, set()).add(content)
        if content is not None:
            of_content.setdefault(content, []).append(copy)
    given = {copies[key].model.id: content for key, content in content_of.items() if copies[key].holder.local}
    called = {content: name for name, content in sorted(given.items(), reverse=True)}  # of two own names the first
    were_apart: dict[str, list[Content]] = {}  # those that had a part of theirs after this name
    for name, content in had.items():
        were_apart.setdefault(name.rpartition("@")[0], []).append(content)

    def had_name(content: Content, name: str) -> bool:
        return content.agrees(had.get(name)) or any(map(content.agrees, were_apart.get(name, ())))

    wanted = {
        content: _name_of(content, found, had_name) for content, found in of_content.items() if content not in called
    }

    def standing(content: Content) -> tuple[int, bool, Content]:
        return -_parties(of_content[content]), not content.agrees(had.get(wanted[content])), content

    had_by, here_by = _ByDigest((content, name) for name, content in had.items()), _ByDigest((c, "") for c in wanted)
    files_of = Counter(content.fingerprint for content in of_content)
    for content in sorted(wanted, key=standing):
        name = wanted[content]
        if name in given:
            tells = content.fingerprint if files_of[content.fingerprint] == 1 else content.sha256
            kept = [each for each in had_by.names_of(content) if each.rpartition("@")[0] == name]
            name = next(
                each
                for each in itertools.chain(kept, _names_apart(name, tells or content.sha256))
                if each not in given
                and claimed.get(each, set()) <= {content}
                and (each in kept or not any(other is not content for other in here_by.agreeing(had.get(each))))
            )
        given[name], called[content] = content, name
    others = {
        key: called[content]
        for key, content in content_of.items()
        if not copies[key].holder.local and called[content] != key[1]
    }
    known, own = (_further(copies, others, own=own) for own in (False, True))
    return KnownNames(others, given, content_of, known, own)


def merged(holders: Iterable[Holder]) -> tuple[Holder, ...]:
    """Each node once, in no order that depends on theirs, with the least that tells what its models are."""
    nodes: dict[str, tuple[Holder, dict[str, Identity]]] = {}
    for holder in holders:
        _, models = nodes.setdefault(holder.node_id, (holder, {}))
        for model in holder.models:
            known = models.get(model.id) or Identity(model.id, model.fingerprint, model.sha256, model.also)
            models[model.id] = known if known.also else known._replace(also=model.also)
    return tuple(
        Holder(node_id, holder.party, holder.local, tuple(models[name] for name in sorted(models)))
        for node_id, (holder, models) in sorted(nodes.items())
    )


class _ByDigest:
    """Contents with a name each, found by what they agree in. None of it takes long where thousands have one header."""

    def __init__(self, contents: Iterable[tuple[Content, str]]) -> None:
        self._found: dict[Content, list[tuple[Content, str]]] = {}
        self._alike: dict[str, list[tuple[Content, str]]] = {}  # by either digest
        for content, name in contents:
            self._found.setdefault(content, []).append((content, name))
            for digest in filter(None, (content.fingerprint, content.sha256)):
                self._alike.setdefault(digest, []).append((content, name))

    def agreeing(self, content: Content | None) -> list[Content]:
        """Those that may be the same as this one."""
        return [found for found, _ in self._near(content)]

    def names_of(self, content: Content) -> list[str]:
        """The names of those, each once."""
        return list(dict.fromkeys(name for _, name in self._near(content)))

    def _near(self, content: Content | None) -> Iterator[tuple[Content, str]]:
        if content is None:
            return
        fingerprint, sha256 = content.fingerprint, content.sha256
        if fingerprint and sha256:
            for each in (content, Content(fingerprint, ""), Content("", sha256)):
                yield from self._found.get(each, ())
        else:
            yield from self._alike.get(fingerprint or sha256, ())


def _names_apart(name: str, digest: str) -> Iterator[str]:
    """What a content may be called whose name is another's, best first; endless."""
    yield from (f"{name}@{digest[:count]}" for count in range(SHOWN_CHARS, len(digest) + 1))
    yield from (f"{name}@{digest}-{number}" for number in itertools.count(2))


def _further(
    copies: Mapping[ReplicaKey, _Copy], others: Mapping[ReplicaKey, str], own: bool
) -> dict[str, frozenset[str]]:
    """The further names of every name; of this node's `own` models only."""
    found: dict[str, set[str]] = {}
    for key, copy in copies.items():
        if copy.holder.local or not own:
            found.setdefault(others.get(key, key[1]), set()).update((copy.model.id, *copy.model.also))
    return {name: frozenset(further - {name}) for name, further in found.items()}


def _contents(copies: Mapping[ReplicaKey, _Copy], before: Mapping[ReplicaKey, Content]) -> dict[ReplicaKey, Content]:
    """The content of each copy of which anything is known.

    A fingerprint is known at once, a sha256 when a file was hashed. Who tells the first only, while there are several
    files of that header, is taken for one of those it was taken for `before`, else of this node's, else of most.
    """
    files: dict[str, dict[str, list[_Copy]]] = {}  # by fingerprint, then by sha256
    prints: dict[str, str] = {}  # by sha256
    for copy in copies.values():
        fingerprint, sha256 = copy.model.fingerprint or "", copy.model.sha256 or ""
        files.setdefault(fingerprint, {}).setdefault(sha256, []).append(copy)
        if fingerprint and sha256:
            prints[sha256] = min(fingerprint, prints.get(sha256, fingerprint))
    found: dict[ReplicaKey, Content] = {}
    for fingerprint, hashed in files.items():
        likeliest = min((sha256 for sha256 in hashed if sha256), key=lambda it: _standing(it, hashed[it]), default="")
        for sha256, held in hashed.items():
            for copy in held:
                key = copy.holder.node_id, copy.model.id
                was = before.get(key)
                if fingerprint and not sha256 and was is not None and was.sha256 in hashed:
                    found[key] = Content(fingerprint, was.sha256 or likeliest)
                elif fingerprint:
                    found[key] = Content(fingerprint, sha256 or likeliest)
                elif sha256:
                    found[key] = Content(prints.get(sha256, ""), sha256)
    return found


def _standing(sha256: str, copies: Sequence[_Copy]) -> tuple[bool, int, str]:
    return not any(copy.holder.local for copy in copies), -_parties(copies), sha256


def _name_of(content: Content, copies: Sequence[_Copy], had_name: Callable[[Content, str], bool]) -> str:
    """What a content that this node does not have itself would be called, were it alone.

    One that lost a name to another content, and had a part of its own after it, goes on wanting it: else it would be
    called otherwise the next time, though nothing changed.
    """
    callers: dict[str, list[_Copy]] = {}
    for copy in copies:
        callers.setdefault(copy.model.id, []).append(copy)
    return min(callers, key=lambda name: (-_parties(callers[name]), not had_name(content, name), name))


def _parties(copies: Iterable[_Copy]) -> int:
    return len({copy.holder.party for copy in copies})


def holders_of(replicas: Iterable[Replica]) -> tuple[Holder, ...]:
    """What the nodes of `replicas`, as they were told, have loaded."""
    return tuple(
        Holder(r.node_id, r.party, r.local, (Identity(r.model_there, r.fingerprint, r.sha256, r.also),))
        for r in replicas
    )


def called_by(names: KnownNames, replicas: Iterable[Replica], own: Mapping[str, int]) -> tuple[Replica, ...]:
    """The replicas, as they were told, under the names that their models have here.

    Whose content has no name yet is left out: it may be another than that which has its name.
    `own` are the sizes of this node's own models, by id: they are those of the same content, whatever it is called, and
    say nothing of another content of that name.
    """
    return tuple(
        _called(names.of(*replica.key), replica, own)
        for replica in replicas
        if names.has(replica.node_id, Identity(replica.model, replica.fingerprint, replica.sha256))
    )


def _called(name: str, told: Replica, own: Mapping[str, int]) -> Replica:
    if name == told.model:
        return told
    params = own.get(name) or (checked_params(told.model) if told.model in own else told.params)
    return replace(told, model=name, served_as=told.model, params=params)


class NameKeeper:
    """The names that models have here, found anew only where what nodes have has changed. `clock` is monotonic seconds.

    Nodes that have thousands of models, and others every second, cost no more than NAMING_SHARE of the time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: tuple[Holder, ...] = ()
        self._of: tuple[Holder, ...] = ()
        self._names = KnownNames()
        self._due_at = -math.inf

    def names(self, holders: tuple[Holder, ...]) -> KnownNames:
        """As `names_by_content`, going on from what it last said."""
        if holders == self._told:
            return self._names
        models = sum(len(holder.models) for holder in holders)
        if models > FEW_MODELS:
            now = self._clock()
            if now < self._due_at:
                return self._names
            self._due_at = now + models * NAMING_S / NAMING_SHARE
        self._told, found = holders, merged(holders)
        if found != self._of:
            self._of, self._names = found, names_by_content(found, self._names)
        return self._names
