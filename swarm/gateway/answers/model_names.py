"""Which model the name in a request means: one rule for every API.

A name is, in this order: `swarm`; the id of a model of this node; an alias of this node's configuration, or one that
was given while it ran; the id of a model that a peer or an upstream has; in any case, a further name of a model
(Ollama's, `hf:...`, LM Studio's); the beginning of a name that only one model has, up to a `:`, `-`, `@`, `.` or `_`.
This node's own models come before those of which peers say so. `NAME:latest` is NAME where nothing is called so. A name
reaches only what a node has stored: no request downloads anything, or opens a path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.small_files import TextFileError, read_text_file, write_atomically
from swarm.errors import BadRequest, UnknownModel
from swarm.generation import GenerationRequest
from swarm.registry.model_ids import AmbiguousModel, meant
from swarm.registry.names import EMBEDDED_NAMES
from swarm.routing.dispatcher import Dispatcher
from swarm.routing.replicas import SWARM_ALIAS, KnownNames

GIVEN_NAMES_FILE: Final = "given_names.json"
MAX_GIVEN: Final = 256  # as many as a configuration may have
MAX_NAME_CHARS: Final = 256
MAX_ID_CHARS: Final = 512  # of the model that a name means: an upstream's may have as many
MAX_FILE_BYTES: Final = 2**20  # more than MAX_GIVEN names take
NO_MODEL: Final = ""  # of a request that names none
LATEST: Final = ":latest"  # which Ollama's users, and clients, say of a name that has no other tag
ANTHROPICS: Final = "claude-"  # how the models are called that Anthropic's clients ask for

MOST_MEANINGS: Final = 1000  # kept; finding one among thousands of names takes milliseconds

log = logging.getLogger(__name__)

LookAgain = Callable[[], Awaitable[object]]
Unusable = Callable[[str], str | None]
SamplingOf = Callable[[str, Collection[str]], Mapping[str, float | int]]


async def look_at_nothing() -> None:
    """Of a node whose models do not change."""


def as_engines_have_it(model_id: str, also: Collection[str]) -> Mapping[str, float | int]:
    """Where nobody has decided how a model is sampled."""
    del model_id, also
    return {}


def everything_is_usable(name: str) -> str | None:
    """Of a node that knows of no file that is no model."""
    del name
    return None


GivenName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]


class KeptNames(BaseModel):
    """The file: what each name means, an id of a model or `swarm`."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    names: Annotated[
        dict[GivenName, Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]], Field(max_length=MAX_GIVEN)
    ]


def read_given_names(path: Path) -> dict[str, str]:
    """What each name means; nothing where there is no file, or one that cannot be used, which the log says. Blocks."""
    if not path.exists():
        return {}
    try:
        return KeptNames.model_validate_json(read_text_file(path, "names of models", MAX_FILE_BYTES)).names
    except (TextFileError, ValidationError) as error:
        log.warning("%s is not used, so that names given to models are lost: %s", path, str(error).partition("\n")[0])
        return {}


class GivenNames:
    """What each name means, in any case of its letters. They are kept in `path`; None keeps them in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        kept = {} if path is None else read_given_names(path)
        self._names = {name.casefold(): (name, model) for name, model in kept.items()}
        self._writing = asyncio.Lock()

    def meaning(self, name: str) -> str | None:
        """The model that `name` was given to."""
        found = self._names.get(name.casefold())
        return None if found is None else found[1]

    def all(self) -> Mapping[str, str]:
        """Each name as it was given, and what it means."""
        return dict(self._names.values())

    async def give(self, name: str, model: str) -> str | None:
        """Let `name` mean `model` from now on; why it holds until this node stops only, None where it is kept.

        Raises BadRequest for one name too many, and a model whose id is too long to be kept.
        """
        if len(model) > MAX_ID_CHARS:
            raise BadRequest(f"the model's id has {len(model)} characters; one of {MAX_ID_CHARS} can be given a name")
        if name.casefold() not in self._names and len(self._names) >= MAX_GIVEN:
            raise BadRequest(f"{len(self._names)} names were given to models, which is all: delete one first")
        self._names[name.casefold()] = (name, model)
        return await self._keep()

    async def take_back(self, name: str) -> str | None:
        """Let `name` mean nothing by itself any more; why that holds until this node stops only, if it does."""
        self._names.pop(name.casefold(), None)
        return await self._keep()

    async def _keep(self) -> str | None:
        path = self._path
        if path is None:
            return "this node has no data directory to keep it in"
        async with self._writing:
            content = KeptNames(names=dict(self.all())).model_dump_json(indent=1).encode()
            try:
                await asyncio.to_thread(write_atomically, path, content)
            except OSError as error:
                log.warning("names given to models are not kept: %s: %s", path, error.strerror or error)
                return f"{path} cannot be written: {error.strerror or error}"
        return None


class RequestedNames:
    """What names mean on this node. `aliases` are the user's, and `given` those that were given while it ran.

    `look_again` looks for models that are new on the disk.

    `sampling` has what the user decided of a model, given with its id and its further names: fields of a request that
    hold where it does not say them. `unusable` says why a name that means no model has a file here all the same. With
    `answers_any` names that nobody knows mean `swarm`, and so does none at all.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        aliases: Mapping[str, str] | None = None,
        answers_any: bool = False,
        look_again: LookAgain = look_at_nothing,
        sampling: SamplingOf = as_engines_have_it,
        unusable: Unusable = everything_is_usable,
        given: GivenNames | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self.given = given or GivenNames()
        self._aliases = {alias.casefold(): (alias, name) for alias, name in (aliases or {}).items()}
        self._answers_any = answers_any
        self.look_again = look_again
        self._sampling = sampling
        self._unusable = unusable
        self._names = KnownNames()
        self._meanings: dict[str, str | None] = {}  # what further names mean while models are called as in `_names`

    async def answering(self, name: str, upstream: bool = True) -> str:
        """The model that answers for `name`, by the `upstream` if need be; the answer bears this name.

        Anthropic's clients ask for claude-..., several names in one session, and most cannot be told otherwise: such
        names are `swarm` where no node has them. Any other that nobody knows is returned as it is, or as the alias
        stands for it, and is unknown to whoever plans the answer. Raises AmbiguousModel for one that may mean several,
        UnknownModel for one whose file is no model.
        """
        if name == NO_MODEL and not self._answers_any:
            raise BadRequest("model: this field is required: an id of /v1/models, or swarm", param="model")
        found = self.found(name, upstream)
        if found is not None:
            return found
        wanted = self._unaliased(name)
        if self._answers_any or (wanted == name and name.startswith(ANTHROPICS)):
            return SWARM_ALIAS
        await self.look_again()
        found = self.found(name, upstream)
        if found is None and self._unusable(wanted) is not None:
            raise self.unknown(wanted)
        return found or wanted

    def unknown(self, name: str) -> UnknownModel:
        """What to raise for a name that means no model."""
        return UnknownModel(name, self.known(), self._unusable(name) or "")

    def known(self) -> tuple[str, ...]:
        """The names that whoever mistypes one is told: of models, and those that were given to some."""
        return (*self._dispatcher.model_names(), *sorted(self.given.all()))

    def found(self, name: str, upstream: bool = True) -> str | None:
        """The model that a request means by `name`, also where it says `:latest`. Raises AmbiguousModel."""
        for said in dict.fromkeys((name, name.removesuffix(LATEST) or name)):
            if (found := self.meant(said, upstream)) is not None:
                return found
            if said.casefold() == SWARM_ALIAS:
                return SWARM_ALIAS
        return None

    def meant(self, name: str, upstream: bool = True) -> str | None:
        """The model that `name` means; None where no node is known to have it. Raises AmbiguousModel."""
        names = self._dispatcher.names
        if name == SWARM_ALIAS or name in names.own:
            return name
        wanted = self._unaliased(name)
        if wanted == SWARM_ALIAS or wanted in names.known:
            return wanted
        offered = {replica.model: () for replica in self._dispatcher.offered(upstream) if replica.upstream}
        if wanted in offered:
            return wanted
        if offered:
            return meant(wanted, names.own, loose=False) or meant(wanted, {**offered, **names.known}, loose=False)
        if names is not self._names or len(self._meanings) >= MOST_MEANINGS:
            self._names, self._meanings = names, {}
        if wanted not in self._meanings:
            found = meant(wanted, names.own, loose=False) or meant(wanted, names.known, loose=False)
            self._meanings[wanted] = found
        return self._meanings[wanted]

    def _unaliased(self, name: str) -> str:
        if (alias := self._aliases.get(name.casefold())) is not None:
            return alias[1]
        return self.given.meaning(name) or name

    def second_name(self, name: str) -> str | None:
        """What `name` stands for before any model that has it for a further name; None where it is no second name."""
        stands_for = self._unaliased(name)
        return None if stands_for == name or name in self._dispatcher.names.own else stands_for

    def is_configured(self, name: str) -> bool:
        """Whether it is an alias of this node's configuration."""
        return name.casefold() in self._aliases

    async def give(self, name: str, model: str) -> str | None:
        """Let `name` mean `model`, an id or `swarm`; why not beyond this node's end, None where it is kept.

        Raises BadRequest for what is no name, or is taken.
        """
        wanted, shown = name.casefold(), repr(name[:MAX_NAME_CHARS])
        if not name.strip() or name != name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise BadRequest(f"{shown} is no name for a model: use 1 to {MAX_NAME_CHARS} characters on one line")
        if wanted == SWARM_ALIAS or wanted in EMBEDDED_NAMES:
            raise BadRequest(f"{shown} is taken: it comes with this program")
        if self.is_configured(name):
            raise BadRequest(f"{shown} is taken: this node's configuration says what it means")
        for id_, also in self._dispatcher.names.known.items():
            if wanted in {id_.casefold(), *(other.casefold() for other in also)}:
                raise BadRequest(f"{shown} is taken: it is a name of the model {id_!r}")
        if self.given.meaning(name) is None:
            try:
                meant_now = self.meant(name)
            except AmbiguousModel:  # from now on it means one
                meant_now = None
            if meant_now not in (None, model):
                raise BadRequest(f"{shown} is taken: it means {meant_now!r}, whose name begins so")
        return await self.given.give(name, model)

    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """The user's aliases, and those that were given, by the models that they mean."""
        pairs = [*self._aliases.values(), *self.given.all().items()]
        if not pairs:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        wanted = {name.casefold() for _, name in pairs}
        for model_id, also in self._dispatcher.names.known.items():
            its = wanted.intersection(name.casefold() for name in (model_id, *also))
            if its:
                found[model_id] = tuple(sorted({alias for alias, name in pairs if name.casefold() in its}))
        return found

    def further(self, model_id: str) -> frozenset[str]:
        """The names beside its id by which people may mean a model."""
        return self._dispatcher.names.known.get(model_id, frozenset())

    def sampling_of(self, model_id: str) -> Mapping[str, float | int]:
        """What the user decided for requests of this model that do not say: nothing for `swarm`."""
        return {} if model_id == SWARM_ALIAS else self._sampling(model_id, self.further(model_id))

    def sampled(self, request: GenerationRequest) -> GenerationRequest:
        """`request` with what the user decided for its model where it does not say."""
        given = self.sampling_of(request.model)
        unsaid = {name: value for name, value in given.items() if getattr(request, name) is None}
        return request.model_copy(update=unsaid) if unsaid else request


NAMES = web.AppKey("names", RequestedNames)
