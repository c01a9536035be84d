"""What loads took on this node, in seconds and in memory, and what the next one is expected to take.

A model that was loaded before takes about as long again. Another one takes as long as its bytes do, at the speed at
which files of the same source were read: those of one program lie on one disk. What a model was measured to take
corrects what is estimated for it. Everything is kept in one small JSON file, which is no loss where it is lost:

    {"version": 1, "bytes_per_s": {"own": 1.2e9},
     "models": {"<fingerprint>": {"seconds": 2.5, "taken": {"8192x2": 3221225472}}}}
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.small_files import write_atomically
from swarm.moving_mean import moving_mean
from swarm.registry.model_memory import MIB

START_S = 0.5  # of a load of any size: a process, the library, and the first words to see how fast it reads
UNKNOWN_BYTES_PER_S = 500e6  # while nothing was measured: a cheap SSD
LEAST_TELLING_BYTES = 64 * MIB  # a smaller file's load says nothing of how fast the disk is
MOST_SECONDS = 24 * 3600.0
# A model that was just loaded has not filled its cache of prompts yet; that much more is left to it, where the estimate
# has it.
HEADROOM_BYTES = 256 * MIB
MOST_MODELS, MOST_SOURCES, MOST_OPTIONS = 512, 32, 16  # kept; those written first are forgotten first
MAX_FILE_BYTES = 2**20

log = logging.getLogger(__name__)

_Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
_Size = Annotated[int, Field(gt=0, lt=2**60)]


class _ModelLoads(BaseModel):
    model_config = ConfigDict(extra="ignore")
    seconds: _Seconds | None = None
    taken: dict[str, _Size] = Field(default_factory=dict)


class _LoadsFile(BaseModel):
    model_config = ConfigDict(extra="ignore")
    version: Literal[1] = 1
    bytes_per_s: dict[str, Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]] = Field(default_factory=dict)
    models: dict[str, _ModelLoads] = Field(default_factory=dict)


class LoadRecords:
    """See the module. Pure but for `read` and `write`. `changed` tells that something was noted since the last write.

    A model is known by its `fingerprint`, where it lies by its `source`.
    """

    def __init__(self) -> None:
        self._kept = _LoadsFile()
        self.changed = False

    @staticmethod
    def read(path: Path) -> LoadRecords:
        """What `path` has; nothing where it is missing or damaged. Blocks, never raises."""
        records = LoadRecords()
        try:
            with path.open("rb") as file:
                records._kept = _LoadsFile.model_validate_json(file.read(MAX_FILE_BYTES))
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            why = "it is damaged" if isinstance(error, ValidationError) else error
            log.warning("%s is not read, what loads take is measured anew: %s", path, why)
        return records

    def write(self, path: Path) -> None:
        """Keep everything in `path`. Blocks. Raises OSError."""
        self.changed = False
        write_atomically(path, self._kept.model_dump_json(exclude_none=True).encode() + b"\n")

    def expected_s(self, fingerprint: str, size_bytes: int, source: str) -> float:
        """How long a load is expected to take, in seconds."""
        model = self._kept.models.get(fingerprint)
        if model is not None and model.seconds is not None:
            return model.seconds
        return START_S + size_bytes / self._bytes_per_s(source)

    def _bytes_per_s(self, source: str) -> float:
        rates = self._kept.bytes_per_s
        return rates.get(source) or min(rates.values(), default=UNKNOWN_BYTES_PER_S)

    def note_load(self, fingerprint: str, size_bytes: int, source: str, seconds: float) -> None:
        """A load of `size_bytes` took so long."""
        seconds = min(max(seconds, 0.0), MOST_SECONDS)
        model = self._model(fingerprint)
        model.seconds = moving_mean(model.seconds, seconds)
        if size_bytes >= LEAST_TELLING_BYTES:
            rates = self._kept.bytes_per_s
            rates[source] = moving_mean(rates.get(source), size_bytes / max(seconds - START_S, START_S / 10))
            _forget_first(rates, MOST_SOURCES)

    def need_bytes(self, fingerprint: str, context_tokens: int, slots: int, estimated_bytes: int) -> int:
        """What a load is to have room for: `estimated_bytes`, corrected by what the same one was measured to take."""
        model = self._kept.models.get(fingerprint)
        taken = None if model is None else model.taken.get(_option(context_tokens, slots))
        return estimated_bytes if taken is None else max(taken, min(estimated_bytes, taken + HEADROOM_BYTES))

    def note_taken(self, fingerprint: str, context_tokens: int, slots: int, taken_bytes: int) -> None:
        """A model was measured to take so much; the most of all times counts."""
        if taken_bytes <= 0:
            return
        taken = self._model(fingerprint).taken
        option = _option(context_tokens, slots)
        taken[option] = max(taken.pop(option, 0), taken_bytes)
        _forget_first(taken, MOST_OPTIONS)

    def _model(self, fingerprint: str) -> _ModelLoads:
        """To be changed; it is the last one to be forgotten."""
        models = self._kept.models
        model = models.pop(fingerprint, None) or _ModelLoads()
        models[fingerprint] = model
        _forget_first(models, MOST_MODELS)
        self.changed = True
        return model


def _option(context_tokens: int, slots: int) -> str:
    return f"{context_tokens}x{slots}"


def _forget_first(entries: dict[str, float] | dict[str, int] | dict[str, _ModelLoads], most: int) -> None:
    while len(entries) > most:
        del entries[next(iter(entries))]
