"""Names that whoever manages this node gives to models while it runs: aliases that `POST /api/copy` makes.

They are kept in the data directory and hold after a restart. Those of the configuration go before them. A file that is
damaged is said to be, and begun anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.small_files import TextFileError, read_text_file, write_atomically
from swarm.errors import BadRequest

GIVEN_NAMES_FILE: Final = "given_names.json"
MAX_GIVEN: Final = 256  # as many as a configuration may have
MAX_NAME_CHARS: Final = 256
MAX_FILE_BYTES: Final = 2**20  # a few times what MAX_GIVEN names take

log = logging.getLogger(__name__)

GivenName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]


class KeptNames(BaseModel):
    """The file: what each name means, an id of a model or `swarm`."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    names: Annotated[dict[GivenName, GivenName], Field(max_length=MAX_GIVEN)]


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

        Raises BadRequest for one name too many.
        """
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
