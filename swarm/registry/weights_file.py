"""`weights.json` in the data directory: what `swarm bench votes --save-weights` has measured of models and of nodes.

{"version": 1, "models": {"demo": {"number": {"correct": 29, "asked": 50, "options": 5}}},
 "nodes": {"<node id>": {"<content>": {"number": {"correct": 0, "asked": 50, "options": 5}}}}},
 "cascade": {"number": {"small": ["demo", "demo:b"], "strong": "demo:c", "votes": 4, "agreement": 0.75, "asked": 150}}}

How often a model was right when it was asked questions with known answers, by kind of answer: wherever it ran, or on
one node (`--node`), with what that node said its content is (`content_keys`). Plain counts. And from which share of
agreement on small models answer for a strong one (`MeasuredCascade`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
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
NodeMeasurements = Mapping[str, Measurements]  # by node id, then by the content of the model, then by kind


def content_keys(sha256: str | None, fingerprint: str | None, name: str) -> tuple[str, ...]:
    """What a node's model is known again by, best first: what its node says of its content, else its name there.

    The name only where it says nothing: whoever says something else later is somebody else.
    """
    return tuple(key for key in (sha256, fingerprint) if key) or (f"name:{name}",)


@dataclass(frozen=True, slots=True)
class MeasuredCascade:
    """From which share of agreement on the answer of the `small` models stands before that of the `strong` one.

    Measured on `asked` questions of one kind, with `votes` of the small ones; `agreement` is above 0, and 1 at most.
    """

    small: tuple[str, ...]
    strong: str
    votes: int
    agreement: float
    asked: int


def merged(old: Measurements, new: Measurements) -> Measurements:
    """The counts of both, added up where both have the model and the kind."""
    return {model: _added(old.get(model, {}), new.get(model, {})) for model in sorted({*old, *new})}


def merged_nodes(old: NodeMeasurements, new: NodeMeasurements) -> NodeMeasurements:
    """The counts of both, added up where both have the node, the content and the kind."""
    return {node: merged(old.get(node, {}), new.get(node, {})) for node in sorted({*old, *new})}


def _added(old: Mapping[str, Measured], new: Mapping[str, Measured]) -> dict[str, Measured]:
    kinds = dict(old)
    for kind, counts in new.items():
        kinds[kind] = kinds[kind] + counts if kind in kinds else counts
    return dict(sorted(kinds.items()))


WEIGHTS_FILE = "weights.json"
MAX_FILE_BYTES = 2**20  # about 3,000 models with every kind, on whatever nodes
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


_Kinds = dict[str, _Counts]


class _Cascade(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    small: Annotated[tuple[str, ...], Field(min_length=1)]
    strong: str
    votes: Annotated[int, Field(ge=2, le=MAX_QUESTIONS)]
    agreement: Annotated[float, Field(gt=0, le=1)]
    asked: Annotated[int, Field(ge=1, le=MAX_QUESTIONS)]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Literal[1] = 1
    models: dict[str, _Kinds]
    nodes: dict[str, dict[str, _Kinds]] = {}
    cascade: dict[str, _Cascade] = {}


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a weights file: what was measured of models wherever they ran, and of those of one node.

    `cascade` has by kind when small models answer for a strong one; for the weight of a voter it says nothing.
    """

    models: Measurements = field(default_factory=dict[str, Mapping[str, Measured]])
    nodes: NodeMeasurements = field(default_factory=dict[str, Measurements])
    cascade: Mapping[str, MeasuredCascade] = field(default_factory=dict[str, MeasuredCascade])

    def __bool__(self) -> bool:
        return bool(self.models or self.nodes)


NO_WEIGHTS = Weights()


def read_weights(path: Path) -> Weights:
    """What has been measured; nothing without a file. Blocks. Raises SetupError naming what is wrong with it."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return NO_WEIGHTS
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
    return Weights(
        _measurements(found.models),
        {node: _measurements(of) for node, of in found.nodes.items()},
        {
            kind: MeasuredCascade(one.small, one.strong, one.votes, one.agreement, one.asked)
            for kind, one in found.cascade.items()
        },
    )


def _measurements(counted: Mapping[str, _Kinds]) -> Measurements:
    return {
        model: {kind: Measured(counts.correct, counts.asked, counts.options) for kind, counts in kinds.items()}
        for model, kinds in counted.items()
    }


def _counts(measurements: Measurements) -> dict[str, dict[str, dict[str, int]]]:
    return {model: {kind: asdict(counts) for kind, counts in kinds.items()} for model, kinds in measurements.items()}


def add_weights(
    path: Path,
    new: Measurements,
    nodes: NodeMeasurements = MappingProxyType({}),
    cascade: Mapping[str, MeasuredCascade] = MappingProxyType({}),
) -> Weights:
    """Add the `new` counts, of models and of `nodes`, to those in the file, all or nothing, and return the sum.

    A `cascade` takes the place of what was measured before of its kind: two thresholds do not add up.

    Blocks. Raises SetupError.
    """
    old = read_weights(path)
    total = Weights(merged(old.models, new), merged_nodes(old.nodes, nodes), {**old.cascade, **cascade})
    file = _File.model_validate(
        {
            "models": _counts(total.models),
            "nodes": {node: _counts(of) for node, of in total.nodes.items()},
            "cascade": {kind: asdict(one) for kind, one in sorted(total.cascade.items())},
        }
    )
    try:
        # Without nodes and cascades as it always was: nothing is written that was not measured.
        empty = {name for name in ("nodes", "cascade") if not getattr(total, name)}
        raw = file.model_dump_json(indent=1, exclude=empty).encode() + b"\n"
        if len(raw) > MAX_FILE_BYTES:
            raise SetupError(f"{path} would be larger than {MAX_FILE_BYTES} bytes: {_REMEDY}")
        write_atomically(path, raw)
    except OSError as error:
        raise SetupError(
            f"cannot write {path} ({error.strerror}): make its folder writable, or use --data-dir"
        ) from error
    return total
