"""`swarm models list`, `load`, `unload` and `pin`: the models of the node that runs here, its swarm, and this disk.

They ask the node by its HTTP API, as any client does. What a person calls a model is turned into its id here, with all
that this disk knows of it: a request may name no path, and nothing that would have to be downloaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swarm.commands.arguments import DEFAULT_URL
from swarm.commands.members import ask_running
from swarm.commands.node_client import NodeApi, get_json, post_json
from swarm.commands.output import complain, may_redraw, say
from swarm.control_messages import PEERS_PATH, KnownNodes
from swarm.errors import SetupError, SwarmError
from swarm.node.engines import formats_here
from swarm.node.model_choice import model_store
from swarm.node.settings import Settings
from swarm.quantities import left_words, load_words
from swarm.registry.catalogue import Catalogue, Format
from swarm.registry.model_ids import AmbiguousModel, meant
from swarm.registry.model_memory import size_text
from swarm.registry.names import FileRef, HubRef, parse_model
from swarm.registry.stored import StoredModel, StoredModels
from swarm.registry.table import list_rows, list_text, row_json
from swarm.registry.unfinished import arrived_bytes, unfinished

if TYPE_CHECKING:
    from rich.console import RenderableType

MODELS_PATH, HEALTH_PATH = "/v1/models", "/v1/federation/health"
IN_MEMORY = frozenset({"loading", "ready", "draining", "unloading"})
SWARM = "swarm"  # an entry of the node's list that is no model
LOAD_TIMEOUT_S = 5400.0  # an hour for a copy over the network, and half an hour for the largest models from slow disks
DRAIN_TIMEOUT_S = 1800.0  # what a model runs may take so long to end
LOOKS_PER_S = 2  # at how far a load is


@dataclass(frozen=True, slots=True)
class NodePlace:
    """The node to ask, as the user named it: None is the one that runs here."""

    url: str | None = None
    api_key: str | None = None


class LoadShare(BaseModel):
    """How far a load is, as far as anybody knows."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    share: float | None = None
    left_s: float | None = None


class OfferedModel(BaseModel):
    """An entry of a node's list of models. Nodes of earlier versions list what is loaded, and no more than ids."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    state: str = "ready"
    nodes: tuple[str, ...] = ()
    states: Mapping[str, str] = Field(default_factory=dict[str, str])
    pooled: Mapping[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    context_tokens: int | None = None
    size_bytes: int | None = None
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    loading: LoadShare | None = None


class OfferedModels(BaseModel):
    """What `GET /v1/models` answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    data: tuple[OfferedModel, ...] = Field(default=())

    @property
    def models(self) -> Mapping[str, OfferedModel]:
        return {model.id: model for model in self.data if model.id != SWARM}


class Done(BaseModel):
    """What a node answers when it has loaded, unloaded or pinned a model."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    model: str
    node: str
    state: str = ""
    load_ms: float | None = None
    pinned: bool | None = None


# The commands


def list_models(settings: Settings, place: NodePlace, *, everything: bool, as_json: bool) -> int:
    """Print what this machine and its swarm have, and with `everything` what could be downloaded."""
    node = running_node(settings, place)
    served = _listed_by(node, place)
    catalogue, formats = Catalogue.load(), formats_here(settings)
    stored = StoredModels() if place.url else model_store(settings).look()
    rows = list_rows(catalogue, stored, served, formats, everything=everything)
    if as_json:
        say(json.dumps([row_json(row) for row in rows], indent=2))
    elif rows:
        say(list_text(rows), end="")
    else:
        say("there is no model here yet: `swarm models fit` shows which fit, `swarm models pull NAME` brings one")
    for problem in [*stored.problems, *_unusable(stored, formats)]:
        complain(f"swarm: not listed: {problem}")
    if not place.url:
        for name, arrived in _unfinished(settings, catalogue):
            rest = f"`swarm models pull {name}` goes on with it, `swarm models rm {name}` removes it"
            complain(f"swarm: not listed: of {name} {size_text(arrived)} arrived, not all of it: {rest}")
    return 0


def _unfinished(settings: Settings, catalogue: Catalogue) -> Iterator[tuple[str, int]]:
    """The downloads that broke off, as they are named to go on, and how many bytes have arrived."""
    ids = {(choice.variant.place, choice.variant.file): choice.id for choice in catalogue.choices()}
    for one in unfinished(settings.own_models_dir):
        is_repository = (one.place, None) in ids or not one.files
        for file in () if one.is_going else (None,) if is_repository else one.files:
            name = ids.get((one.place, file)) or "/".join(["hf:" + one.place, *([file] if file else [])])
            yield name, arrived_bytes(settings.own_models_dir, one.place, file)


def load_model(settings: Settings, place: NodePlace, name: str, *, on: str | None, pin: bool | None) -> int:
    """Have a node load the model and print that it answers, however long that takes."""
    node = _needed(settings, place)
    model_id = meant_id(settings, place, node, name)
    body: dict[str, Any] = {"model": model_id, **({"node": on} if on else {}), **({} if pin is None else {"pin": pin})}
    with LoadShown(node, model_id, on).shown():
        done = _done(node, "/load", body, LOAD_TIMEOUT_S)
    took = f" ({left_words(done.load_ms / 1000)})" if done.load_ms and done.load_ms >= 500 else ""
    say(f"{done.model} is ready on {done.node}{took}{', and stays' if pin else ''}")
    return 0


def unload_model(settings: Settings, place: NodePlace, name: str, *, on: str | None) -> int:
    """Have a node unload the model, when it has finished what it runs."""
    node = _needed(settings, place)
    model_id = meant_id(settings, place, node, name)
    done = _done(node, "/unload", {"model": model_id, **({"node": on} if on else {})}, DRAIN_TIMEOUT_S)
    say(f"{done.model} is unloaded on {done.node}: it loads again when it is asked for")
    return 0


def pin_model(settings: Settings, place: NodePlace, name: str, *, on: str | None, pinned: bool) -> int:
    """Have a node keep the model loaded, or not any more."""
    node = _needed(settings, place)
    model_id = meant_id(settings, place, node, name)
    body: dict[str, Any] = {"model": model_id, "pinned": pinned, **({"node": on} if on else {})}
    with LoadShown(node, model_id, on).shown():
        done = _done(node, "/pin", body, LOAD_TIMEOUT_S)
    if pinned:
        kept = "stays loaded until it is unloaded"
    else:
        kept = "is not loaded, and not kept" if done.state == "available" else "is unloaded where its memory is wanted"
    say(f"{done.model} on {done.node} {kept}")
    return 0


# The node


def running_node(settings: Settings, place: NodePlace) -> NodeApi | None:
    """The node that is named; else the one that runs with this data directory; None where none does.

    Where no data directory is named either, the node at the usual port counts: a service has a directory of its own.
    """
    if place.url is not None:
        return NodeApi(place.url, place.api_key)
    try:
        known = ask_running(settings.data_path, PEERS_PATH, KnownNodes)
    except SwarmError:
        if settings.data_dir is not None:
            raise
        known = None
    if known is not None:
        return NodeApi(known.api or DEFAULT_URL, place.api_key)
    if settings.data_dir is not None:
        return None
    usual = NodeApi(DEFAULT_URL, place.api_key)
    with suppress(SwarmError):  # nobody listens there, or no node
        get_json(usual, "/livez")
        return usual
    return None


def _needed(settings: Settings, place: NodePlace) -> NodeApi:
    node = running_node(settings, place)
    if node is None:
        raise SetupError(
            f"no node runs here with {settings.data_path}: start one with `swarm`, which loads models when they are "
            "asked for, or name one with --url"
        )
    return node


def served_by(node: NodeApi) -> Mapping[str, OfferedModel]:
    """The models that the node lists, by id. Raises SwarmError."""
    try:
        return OfferedModels.model_validate(get_json(node, MODELS_PATH)).models
    except ValidationError as error:
        raise SwarmError(f"{node.url} lists its models in a form that this version does not read") from error


def _listed_by(node: NodeApi | None, place: NodePlace) -> Mapping[str, OfferedModel]:
    """What the node lists. Where nobody named it, this disk can be listed without it."""
    if node is None:
        return {}
    try:
        return served_by(node)
    except SwarmError as error:
        if place.url is not None:
            raise
        complain(f"swarm: this disk only: {error}")
        return {}


def _done(node: NodeApi, path: str, body: dict[str, Any], timeout_s: float) -> Done:
    try:
        return Done.model_validate(post_json(node, f"{MODELS_PATH}{path}", body, timeout_s))
    except ValidationError as error:
        raise SwarmError(f"{node.url} answers in a form that this version does not read") from error


class AnsweringNode(BaseModel):
    """The node that answers."""

    name: str


class OwnHealth(BaseModel):
    """What is used of `/v1/federation/health`: that node's models which are more than files on its disk."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    node: AnsweringNode
    own_models: tuple[OfferedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has a model: `here` is its state on the node that runs here, None where it is not loaded there."""

    here: str | None = None
    others: tuple[str, ...] = ()


def holders_of(settings: Settings, place: NodePlace, model_id: str) -> Holders:
    """Who has the model, as the running node knows; nobody where none runs, or it does not say."""
    try:
        node = running_node(settings, place)
        if node is None:
            return Holders()
        entry, own = served_by(node).get(model_id), OwnHealth.model_validate(get_json(node, HEALTH_PATH))
    except (SwarmError, ValidationError) as error:
        complain(f"swarm: whether a node has it loaded is not known: {error}")
        return Holders()
    states = {model.id: model.state for model in own.own_models}
    here = states.get(model_id)
    others = () if entry is None else tuple(node for node in entry.nodes if node != own.node.name)
    return Holders(here if here in IN_MEMORY else None, others)


class LoadShown:
    """How far a load is, as the node that it is asked of says."""

    def __init__(self, node: NodeApi, model_id: str, on: str | None) -> None:
        self._node = node
        self._model_id = model_id
        self._where = f" on {on}" if on else ""
        self._began = time.monotonic()

    def shown(self) -> AbstractContextManager[object]:
        """Shows it while the block runs, in a terminal: in a file or a pipe there is only its end."""
        if not may_redraw(sys.stdout, os.environ):
            return nullcontext()
        from swarm.commands.screen import LiveView, console, progress  # see there

        shown = console(sys.stdout)

        def drawn() -> RenderableType:
            return progress(*self.look(), shown.width)

        return LiveView(shown, get_renderable=drawn, per_second=LOOKS_PER_S, transient=True)

    def look(self) -> tuple[str, float | None]:
        """In words and, where it is known, as a share."""
        loading = None
        with suppress(SwarmError):
            entry = served_by(self._node).get(self._model_id)
            loading = None if entry is None or entry.state != "loading" else entry.loading
        if loading is None or (loading.share is None and loading.left_s is None):
            passed_s = time.monotonic() - self._began
            return f"loading {self._model_id}{self._where}: {left_words(passed_s)} so far", None
        return load_words(self._model_id + self._where, loading.share, loading.left_s), loading.share


# Names


def meant_id(settings: Settings, place: NodePlace, node: NodeApi, name: str) -> str:
    """The id of the model that a person calls `name`; the name itself where nothing here knows it: the node may.

    Raises SetupError for what may be several, and for a file or a repository that is not there.
    """
    stored = StoredModels() if place.url else model_store(settings).look()
    if (here := _of_file(stored, name)) is not None:
        return here.id
    served = served_by(node)
    known: dict[str, Sequence[str]] = {id_: entry.aliases for id_, entry in served.items()}
    known |= {model.id: (*model.also, *known.get(model.id, ())) for model in stored.models}
    try:
        return meant(name, known, loose=True) or name
    except AmbiguousModel as error:
        raise SetupError(str(error)) from error


def _of_file(stored: StoredModels, name: str) -> StoredModel | None:
    """The model that is called by a path or by where it is on the hub; None for another kind of name."""
    try:
        ref = parse_model(name)
    except SetupError:  # files may be called anything
        return None
    if not isinstance(ref, FileRef | HubRef):
        return None
    found = stored.named(name)
    if found is None and isinstance(ref, HubRef):
        raise SetupError(f"{name} is not on this disk: `swarm models pull {name}` brings it")
    if found is None:
        raise SetupError(
            f"{name} is in none of the folders that a node looks into: give the node's folders as you gave them to it "
            "(--models-dir, --data-dir), or put the file into one of them"
        )
    return found


def _unusable(stored: StoredModels, formats: Sequence[Format]) -> list[str]:
    return [f"{model.path} is {model.format.upper()}" for model in stored.models if model.format not in formats]
