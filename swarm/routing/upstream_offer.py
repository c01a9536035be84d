"""What part the upstream has in a request: pure choices over replicas and what the upstream offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from swarm.engines.upstream_address import UpstreamMode
from swarm.errors import Unavailable, UnknownModel
from swarm.routing.replicas import SWARM_ALIAS, Replica, able

FIRST, LAST = -1, 1  # its rank among replicas: the only engine here, or asked only where nobody else can answer
MAX_TOLD = 10  # names in an error message; some servers have hundreds
RETRY_AFTER_S = 5  # told to clients while it cannot be reached


@dataclass(frozen=True, slots=True)
class UpstreamOffer:
    """The upstream at this moment. `default` answers for the alias; `problem` says why there is no list of models."""

    mode: UpstreamMode
    host: str
    models: tuple[str, ...]
    default: str | None
    slots: int
    slots_free: int
    problem: str | None = None

    def model_for(self, name: str) -> str | None:
        """What it calls the model that a client calls `name`: no other model ever stands in for a named one."""
        if name == SWARM_ALIAS:
            return self.default
        return name if name in self.models else None

    def replica(self, model: str) -> Replica:
        return Replica(
            node_id=f"upstream:{self.host}",
            node=self.host,
            model=model,
            slots=self.slots,
            slots_free=self.slots_free,
            rank=FIRST if self.mode == "only" else LAST,
            upstream=True,
        )

    def voter(self, model: str) -> Replica:
        """The upstream beside others: where it is not this node's engine it has one vote, however much room it has."""
        whole = self.replica(model)
        return whole if self.mode == "only" else replace(whole, slots=1, slots_free=min(whole.slots_free, 1))


def able_with(name: str, replicas: Iterable[Replica], offer: UpstreamOffer) -> tuple[Replica, ...]:
    """The replicas that may answer for `name`, the upstream among them where its mode gives it a part.

    As the only engine it takes part in everything it has a model for, as a voter in what is asked of the alias; else,
    and in every mode, it answers what nobody else serves. Raises UnknownModel, and Unavailable while the upstream
    cannot be reached and might serve it.
    """
    here = tuple(replicas)
    model = offer.model_for(name)
    joins = offer.mode == "only" or (offer.mode == "voter" and name == SWARM_ALIAS)
    if model is not None and joins:
        others = here if name == SWARM_ALIAS else tuple(replica for replica in here if replica.model == name)
        return (*able(name, others), offer.voter(model)) if others else (offer.replica(model),)
    try:
        return able(name, here)
    except UnknownModel as error:
        if model is not None:
            return (offer.replica(model),)
        if offer.problem is not None:
            raise Unavailable(f"{error}; {offer.problem}", RETRY_AFTER_S) from error
        raise UnknownModel(name, error.known, what_it_has(offer)) from error


def what_it_has(offer: UpstreamOffer) -> str:
    """Some of its models, for an error message."""
    told = ", ".join(offer.models[:MAX_TOLD]) or "no model"
    more = f" and {len(offer.models) - MAX_TOLD} more" if len(offer.models) > MAX_TOLD else ""
    return f"upstream {offer.host} has {told}{more}"


def upstream_replicas(others: Iterable[Replica], offer: UpstreamOffer) -> tuple[Replica, ...]:
    """The upstream's models that it can be asked for by name: as the only engine all, else those that nobody serves."""
    served = {SWARM_ALIAS} if offer.mode == "only" else {SWARM_ALIAS, *(replica.model for replica in others)}
    return tuple(offer.replica(model) for model in offer.models if model not in served)


def last_resort(name: str, tried: Iterable[Replica], offer: UpstreamOffer) -> Replica | None:
    """The upstream, for a request that everybody asked so far has failed; None where it was asked, or has no model."""
    model = offer.model_for(name)
    if model is None or any(replica.upstream for replica in tried):
        return None
    return offer.replica(model)
