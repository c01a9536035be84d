"""`weights.json` in the data directory: what `swarm bench votes --save-weights` has measured of each model.

{"version": 1, "models": {"demo": {"number": {"correct": 29, "asked": 50, "options": 5}}}}

How often a model was right when it was asked questions with known answers, by kind of answer. Plain counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from federation.small_files import write_atomically
from swarm.errors import SetupError

OPEN_OPTIONS = 5  # what an open question is taken to have: wrong answers are many, but a few of them are common


@dataclass(frozen=True, slots=True)
class Measured:
    """`correct` of `asked` questions, each with `options` answers to choose from (OPEN_OPTIONS where it is open)."""

    correct: int
    asked: int
    options: int = OPEN_OPTIONS

    def __add__(self, other: Measured) -> Measured:
        """Both together. Where they differ in options the fewer count: a guess is credited less."""
        return Measured(self.correct + other.correct, self.asked + other.asked, min(self.options, other.options))


Measurements = Mapping[str, Mapping[str, Measured]]  # by model id (which names its quantization), then by kind


def merged(old: Measurements, new: Measurements) -> Measurements:
    """The counts of both, added up where both have the model and the kind."""
    return {model: _added(old.get(model, {}), new.get(model, {})) for model in sorted({*old, *new})}


def _added(old: Mapping[str, Measured], new: Mapping[str, Measured]) -> dict[str, Measured]:
    kinds = dict(old)
    for kind, counts in new.items():
        kinds[kind] = kinds[kind] + counts if kind in kinds else counts
    return dict(sorted(kinds.items()))


WEIGHTS_FILE = "weights.json"
MAX_FILE_BYTES = 2**20  # about 3,000 models with every kind
MAX_QUESTIONS = 10**9  # more were never asked; keeps every sum exact as a double, whoever reads the file

_REMEDY = "delete it and run `swarm bench votes --save-weights` again"


class _Counts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    correct: Annotated[int, Field(ge=0, le=MAX_QUESTIONS)]
    asked: Annotated[int, Field(ge=1, le=MAX_QUESTIONS)]
    options: Annotated[int, Field(ge=2, le=MAX_QUESTIONS)] = OPEN_OPTIONS

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.correct > self.asked:
            raise ValueError(f"{self.correct} correct of {self.asked} asked")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[1] = 1
    models: dict[str, dict[str, _Counts]]


def read_weights(path: Path) -> Measurements:
    """What has been measured; empty where there is no file. Blocks. Raises SetupError naming what is wrong with it."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SetupError(f"cannot read {path} ({error.strerror}): make it readable, or delete it") from error
    if len(raw) > MAX_FILE_BYTES:
        raise SetupError(f"{path} is larger than {MAX_FILE_BYTES} bytes: {_REMEDY}")
    try:
        found = _File.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file"
        raise SetupError(f"{path} holds no measured weights ({place}: {first['msg']}): {_REMEDY}") from error
    return {
        model: {kind: Measured(counts.correct, counts.asked, counts.options) for kind, counts in kinds.items()}
        for model, kinds in found.models.items()
    }


def add_weights(path: Path, new: Measurements) -> Measurements:
    """Add `new` counts to those in the file, all or nothing, and return the sum. Blocks. Raises SetupError."""
    total = merged(read_weights(path), new)
    file = _File.model_validate(
        {
            "models": {
                model: {
                    kind: {"correct": counts.correct, "asked": counts.asked, "options": counts.options}
                    for kind, counts in kinds.items()
                }
                for model, kinds in total.items()
            }
        }
    )
    try:
        write_atomically(path, file.model_dump_json(indent=1).encode() + b"\n")
    except OSError as error:
        raise SetupError(
            f"cannot write {path} ({error.strerror}): make its folder writable, or use --data-dir"
        ) from error
    return total
