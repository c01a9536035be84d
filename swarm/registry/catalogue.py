"""The curated models: what `catalogue.json` says, checked once and frozen.

Its order is a preference: of two models of equal size, the one that stands first is picked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarm.errors import SetupError
from swarm.registry.gguf_bytes import BITS_PER_WEIGHT
from swarm.registry.model_memory import CacheShape, LayerGroup, ModelShape

Format = Literal["gguf", "mlx"]
Role = Literal["general", "code", "reasoning"]

GIGA = 1_000_000_000
# An estimated file size errs on the large side: quantizers keep some tensors at more bits than the name says, and
# the embeddings of small models weigh more. Checked against published sizes in tests/registry/test_fit.py.
ESTIMATE_MARGIN = 1.05
GGUF_EXTRA_BYTES = 200_000_000

_Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
_Count = Annotated[int, Field(gt=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Group(_Strict):
    layers: _Count
    kv_heads: _Count
    key_length: _Count
    value_length: _Count
    window_tokens: _Count | None


class _Cache(_Strict):
    groups: tuple[_Group, ...]
    state_bytes_per_slot: Annotated[int, Field(ge=0)]


class Wheel(_Strict):
    """A wheel of a Python package index that has a model's file inside, at `member`; `licence` is the package's.

    Always this version and this very file: its hash is known, and nothing else of it is ever read or run.
    """

    package: _Slug
    version: Annotated[str, Field(pattern=r"^[0-9][0-9a-z.]*$", max_length=32)]
    file: Annotated[str, Field(pattern=r"^[\w.]+-[\w.]+-[\w.]+-[\w.]+-[\w.]+\.whl$")]
    sha256: _Sha256
    size_bytes: _Count
    member: Annotated[str, Field(pattern=r"^[\w./-]+\.gguf$")]
    licence: str


class Variant(_Strict):
    """One way to get a model: a GGUF file, or an MLX repository (`file` is None). `sha256` is of `file`.

    It comes from the hub's `repo`, or out of a `wheel`. What comes out of a wheel is for where no hub can be reached,
    and for tests: it is taken by its full name only, never offered, advised or picked.
    """

    quant: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    format: Format
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None
    file: Annotated[str, Field(pattern=r"^[\w.+-]+\.gguf$")] | None
    sha256: _Sha256 | None
    size_bytes: _Count | None
    wheel: Wheel | None = None

    @property
    def place(self) -> str:
        """`OWNER/REPO` on the hub, or `pypi/PACKAGE==VERSION`, which no repository can be called: where it is from, and
        with `--` for the slash the folder that it is kept in.
        """
        if self.repo is not None:
            return self.repo
        assert self.wheel is not None
        return f"pypi/{self.wheel.package}=={self.wheel.version}"

    @model_validator(mode="after")
    def _consistent(self) -> Variant:
        if (self.format == "gguf") != (self.file is not None):
            raise ValueError("a gguf variant names a file, an mlx variant does not")
        if (self.repo is None) == (self.wheel is None):
            raise ValueError("a variant is from a repo of the hub or out of a wheel, and from one of them")
        if self.wheel is not None and (self.sha256 is None or self.size_bytes is None):
            raise ValueError("a file out of a wheel has a known sha256 and size_bytes")
        if self.quant not in BITS_PER_WEIGHT:
            raise ValueError(f"quant {self.quant!r} is not in quants.BITS_PER_WEIGHT")
        return self


class CatalogueEntry(_Strict):
    """One model in one size. `active_params_b` is set for mixtures of experts; `cache` is None where unsure."""

    family: _Slug
    size: _Slug
    params_b: Annotated[float, Field(gt=0)]
    active_params_b: Annotated[float, Field(gt=0)] | None
    context_tokens: _Count
    role: Role
    vocab_size: _Count | None
    cache: _Cache | None
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]

    @property
    def name(self) -> str:
        return f"{self.family}:{self.size}"

    @property
    def effective_params_b(self) -> float:
        """How large a dense model this one answers like: for experts the geometric mean of all and active.

        The usual rule of thumb (Mistral's, for Mixtral): 30B with 3B active answers like a dense 10B.
        """
        return (self.params_b * (self.active_params_b or self.params_b)) ** 0.5


@dataclass(frozen=True, slots=True)
class CatalogueChoice:
    """One variant of one model: what a full name stands for."""

    entry: CatalogueEntry
    variant: Variant

    @property
    def id(self) -> str:
        """`family:size:quant`, unique in the catalogue."""
        return f"{self.entry.name}:{self.variant.quant}"

    @property
    def by_name_only(self) -> bool:
        """Whether this is never taken unless its full name is given."""
        return self.variant.wheel is not None

    @property
    def bits_per_weight(self) -> float:
        return BITS_PER_WEIGHT[self.variant.quant]

    @property
    def shape(self) -> ModelShape:
        """As the memory formula needs it; the weights are estimated where the catalogue has no file size."""
        cached = self.entry.cache
        return ModelShape(
            weights_bytes=self.variant.size_bytes or self._estimated_weights_bytes(),
            weights_exact=self.variant.size_bytes is not None,
            params_b=self.entry.params_b,
            context_tokens=self.entry.context_tokens,
            cache=None
            if cached is None
            else CacheShape(tuple(LayerGroup(**g.model_dump()) for g in cached.groups), cached.state_bytes_per_slot),
            vocab_size=self.entry.vocab_size,
        )

    def _estimated_weights_bytes(self) -> int:
        weights = self.entry.params_b * GIGA * self.bits_per_weight / 8 * ESTIMATE_MARGIN
        return round(weights) + (GGUF_EXTRA_BYTES if self.variant.format == "gguf" else 0)


class Catalogue(_Strict):
    """Every curated model, in order of preference."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    models: tuple[CatalogueEntry, ...]

    @model_validator(mode="after")
    def _unique(self) -> Catalogue:
        ids = [choice.id for choice in self.choices()]
        twice = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if twice:
            raise ValueError(f"listed twice: {', '.join(twice)}")
        return self

    @staticmethod
    def load(path: Path | None = None) -> Catalogue:
        """The catalogue of this package, or the one in `path`. Raises SetupError where it is unreadable or wrong."""
        return _shipped() if path is None else _parsed(path.name, _text(path))

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.family for entry in self.models))

    @property
    def by_name_only(self) -> frozenset[str]:
        """The ids of what is never taken by itself, not even where it is on the disk."""
        return frozenset(choice.id for choice in self.choices() if choice.by_name_only)

    def choices(
        self,
        roles: Iterable[Role] | None = None,
        formats: Iterable[Format] | None = None,
        *,
        unasked: bool = False,
    ) -> tuple[CatalogueChoice, ...]:
        """All variants, in order; narrowed to `roles` and `formats` where given.

        `unasked` leaves out what is taken by its full name only.
        """
        wanted_roles = None if roles is None else set(roles)
        wanted_formats = None if formats is None else set(formats)
        return tuple(
            CatalogueChoice(entry, variant)
            for entry in self.models
            if wanted_roles is None or entry.role in wanted_roles
            for variant in entry.variants
            if wanted_formats is None or variant.format in wanted_formats
            if not unasked or variant.wheel is None
        )


@cache
def _shipped() -> Catalogue:
    return _parsed("catalogue.json", files("swarm.registry").joinpath("catalogue.json").read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read the model catalogue {path}: {error}") from error


def _parsed(name: str, text: str) -> Catalogue:
    try:
        return Catalogue.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SetupError(f"model catalogue {name}: {where}: {first['msg']}") from error
