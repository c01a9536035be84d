"""The list of models: what is known of each, on whatever node it lies or runs; `swarm`, which is all of them, first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web
from pydantic import JsonValue

from swarm.engines.engine import Capabilities
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.answers.request_context import may_leave
from swarm.gateway.http.keys import DISPATCHER, POOL
from swarm.gateway.observing.view import computation_entry, json_object, load_entry
from swarm.generation import JsonObject
from swarm.routing.replicas import SWARM_ALIAS, Replica
from swarm.workers.loadable import Loadable
from swarm.workers.model_workers import ModelState

STATES: Final = ("ready", "loading", "draining", "unloading", "available", "failed")  # of a model, the best first
_LLAMAS: Final[Mapping[str, str]] = {"ready": "loaded", "loading": "loading"}  # llama-server's words; else unloaded


@dataclass(frozen=True, slots=True)
class ModelOnNodes:
    """One entry, of a model or of all. `states` says how it is on each node; `own` is its life on this one.

    `stored` is what lies of it on this node's disk.
    """

    name: str
    replicas: tuple[Replica, ...]
    states: Mapping[str, str]
    own: ModelState | None = None
    aliases: tuple[str, ...] = ()
    stored: Loadable | None = None

    @property
    def state(self) -> str:
        """Where it is furthest."""
        return min(self.states.values(), key=_rank)

    @property
    def listed(self) -> bool:
        """Whether clients are shown it: models that only tests and examples use are while they run."""
        return self.state != "available" or any(replica.listed for replica in self.replicas)

    @property
    def writing(self) -> tuple[Replica, ...]:
        """Where it writes text."""
        return tuple(replica for replica in self.replicas if replica.capabilities.generates)

    @property
    def context_tokens(self) -> int | None:
        """The largest context of those that run it; of those that could, where nobody does."""
        running = [replica for replica in self.replicas if replica.state == "ready"]
        contexts = (replica.context_tokens for replica in running or self.replicas)
        return max((context for context in contexts if context is not None), default=None)

    @property
    def size_bytes(self) -> int | None:
        """Of its file; of all models it is no size."""
        if self.name == SWARM_ALIAS:
            return None
        return next((replica.size_bytes for replica in self.replicas if replica.size_bytes), None)


def _rank(state: str) -> int:
    return STATES.index(state) if state in STATES else len(STATES)


def model_list(request: web.Request) -> list[ModelOnNodes]:
    """Every model that a client is shown, by its name, after `swarm`; nothing where there is none."""
    listed = [model for model in _models(request).values() if model.listed]
    return [_swarm(listed), *listed] if listed else []


def model_named(request: web.Request, name: str) -> ModelOnNodes:
    """One of them, or one that is not shown, by any of its names. Raises UnknownModel, and BadRequest for several."""
    found = _by_id(_models(request), request.app[NAMES].found(name, may_leave(request)))
    if found is None:
        raise request.app[NAMES].unknown(name)
    return found


def models_given_names(request: web.Request) -> dict[str, ModelOnNodes]:
    """Each name that was given to a model while this node ran, of those models that some node has now."""
    given = request.app[NAMES].given.all()
    models = _models(request) if given else {}
    found = {name: _by_id(models, model_id) for name, model_id in sorted(given.items())}
    return {name: model for name, model in found.items() if model is not None}


def _by_id(models: Mapping[str, ModelOnNodes], model_id: str | None) -> ModelOnNodes | None:
    """One of them by its id, or all of them."""
    if model_id == SWARM_ALIAS and models:
        return _swarm([model for model in models.values() if model.listed] or list(models.values()))
    return models.get(model_id or "")


def _models(request: web.Request) -> dict[str, ModelOnNodes]:
    app = request.app
    dispatcher, names = app[DISPATCHER], app[NAMES]
    own = {state.model_id: state for state in app[POOL].states()}
    found: dict[str, dict[tuple[str, str], Replica]] = {}
    for replica in dispatcher.known(may_leave(request), unlisted=True):
        found.setdefault(replica.model, {}).setdefault(replica.key, replica)
    models: dict[str, ModelOnNodes] = {}
    aliases = names.aliases()
    stored = {model.model_id: model for model in app[POOL].stored()}
    for name in sorted(found):
        replicas = tuple(found[name].values())
        states: dict[str, str] = {}
        for replica in replicas:
            state = own[name].phase if replica.local and name in own else replica.state
            states[replica.node] = min(states.get(replica.node, state), state, key=_rank)
        states = {node: states[node] for node in sorted(states)}
        models[name] = ModelOnNodes(name, replicas, states, own.get(name), aliases.get(name, ()), stored.get(name))
    return models


def _swarm(models: Sequence[ModelOnNodes]) -> ModelOnNodes:
    """All models as one: it is as far on each node as the one that is furthest there."""
    states: dict[str, str] = {}
    for model in models:
        for node, state in model.states.items():
            states[node] = min(states.get(node, state), state, key=_rank)
    replicas = tuple(replica for model in models for replica in model.replicas)
    return ModelOnNodes(SWARM_ALIAS, replicas, {node: states[node] for node in sorted(states)})


def model_object(model: ModelOnNodes, created: int) -> JsonObject:
    """The entry in OpenAI's form, and llama-server's `status`, `architecture` and `meta`; the rest is our own.

    Tools are `native` to a model whose chat template knows them, and `general` where a form of ours stands for that.
    `engine` is what computes it on this node, `engines` says in words what does on each node that tells. `pooled` has
    the nodes that run it over several machines, and which these are.
    """
    upstream = {replica.node for replica in model.replicas if replica.upstream and model.name != SWARM_ALIAS}
    nodes: list[JsonValue] = list(model.states)
    read = _input(model.replicas)
    made = _output([replica.capabilities for replica in model.replicas])
    sizes: JsonObject = {"n_ctx": model.context_tokens, "size": model.size_bytes}
    entry: JsonObject = {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": next(iter(upstream)) if len(nodes) == len(upstream) == 1 else "local-swarm",
        "state": model.state,
        "status": {"value": _LLAMAS.get(model.state, "unloaded")},
        "nodes": nodes,
        "states": dict[str, JsonValue](model.states),
        "context_tokens": model.context_tokens,
        "size_bytes": model.size_bytes,
        "modalities": {"input": read, "output": made},
        "architecture": {"input_modalities": read, "output_modalities": made},
        "meta": {name: size for name, size in sizes.items() if size is not None},
    }
    if model.writing:
        entry["tools"] = "native" if any(replica.capabilities.tools for replica in model.writing) else "general"
    if model.aliases:
        entry["aliases"] = list[JsonValue](model.aliases)
    engines = {replica.node: replica.computed_by for replica in model.replicas if replica.computed_by}
    if engines and model.name != SWARM_ALIAS:
        entry["engines"] = dict[str, JsonValue](engines)
    pooled = {replica.node: list[JsonValue](replica.nodes) for replica in model.replicas if replica.nodes}
    if pooled and model.name != SWARM_ALIAS:
        entry["pooled"] = dict[str, JsonValue](pooled)
    if model.own is not None and model.own.computation is not None:
        entry["engine"] = cast("JsonObject", json_object(computation_entry(model.own.computation)))
    if model.own is not None:
        entry["pinned"] = model.own.pinned
        if model.own.load is not None:
            load = load_entry(model.own.load)
            entry["loading"] = {"share": load.share, "left_s": load.left_s}
    return entry


def _input(replicas: Sequence[Replica]) -> list[JsonValue]:
    """Whether an upstream's model sees is not known."""
    sees = any(replica.capabilities.vision and not replica.upstream for replica in replicas)
    return ["text", "image"] if sees else ["text"]


def _output(abilities: Sequence[Capabilities]) -> list[JsonValue]:
    kinds = {
        "text": any(can.generates for can in abilities),
        "embeddings": any(can.embeddings for can in abilities),
        "scores": any(can.rerank for can in abilities),
    }
    return [kind for kind, there_is in kinds.items() if there_is]
