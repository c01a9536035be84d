"""What `--model` may say, parsed once: a catalogue name, a file, a file on the hub, or the embedded model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice, Format
from swarm.registry.gguf_bytes import ALIASES, BITS_PER_WEIGHT

MAX_NAME_CHARS = 1024  # a path may be long; anything longer is a mistake
MAX_HUB_FOLDERS = 4  # repositories that keep each quantization in a folder have one
EMBEDDED_NAMES = ("demo", "demo:b", "demo:c")
FORMS = "NAME:SIZE[:QUANT], PATH.gguf, hf:OWNER/REPO/FILE.gguf, or demo"

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_QUANT = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
_HUB_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")  # the hub's own rule for owners and repositories
_HUB_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")


@dataclass(frozen=True, slots=True)
class EmbeddedRef:
    """The model that comes with the program, or one of its siblings."""

    name: str


@dataclass(frozen=True, slots=True)
class FileRef:
    """A GGUF file, or the folder of an MLX model. Whether it exists is for whoever opens it to find out."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubRef:
    """A file of a hub repository, `file` relative to it; None is the whole repository, as MLX models are."""

    repo: str
    file: str | None


@dataclass(frozen=True, slots=True)
class CatalogueRef:
    """`NAME[:SIZE[:QUANT]]` in lower case; what is None is for the picker to choose."""

    family: str
    size: str | None = None
    quant: str | None = None

    def __str__(self) -> str:
        return ":".join(part for part in (self.family, self.size, self.quant) if part is not None)


ModelRef = EmbeddedRef | FileRef | HubRef | CatalogueRef


def parse_model(text: str) -> ModelRef:
    """What `text` names. Raises SetupError for what cannot be a name; existence is checked later."""
    if not text or len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise SetupError(f"{text[:80]!r} is not a model name: give {FORMS}")
    if text in EMBEDDED_NAMES:
        return EmbeddedRef(text)
    if text.startswith("hf:"):
        return _parse_hub(text)
    if text.lower().endswith(".gguf") or "/" in text or "\\" in text:
        return FileRef(Path(text).expanduser())
    return _parse_catalogue(text)


def _parse_hub(text: str) -> HubRef:
    owner, _, rest = text.removeprefix("hf:").partition("/")
    repo, _, file = rest.partition("/")
    if not all(_HUB_PART.fullmatch(part) and ".." not in part and "--" not in part for part in (owner, repo)):
        raise SetupError(f"{text!r} does not name a hub repository: give hf:OWNER/REPO/FILE.gguf")
    if not file:
        return HubRef(f"{owner}/{repo}", None)
    check_hub_file(file)
    if not file.endswith(".gguf"):
        raise SetupError(f"{text!r} is not a .gguf file; for an MLX model give the repository alone, hf:{owner}/{repo}")
    return HubRef(f"{owner}/{repo}", file)


def check_hub_file(file: str) -> None:
    """Raises SetupError unless `file` is a plain relative path: it becomes part of a path on this machine."""
    parts = file.split("/")
    if len(parts) > MAX_HUB_FOLDERS or not all(_HUB_FILE.fullmatch(part) for part in parts):
        raise SetupError(f"{file!r} is not a plain file name in a hub repository, such as model-q4_k_m.gguf")


def _parse_catalogue(text: str) -> CatalogueRef:
    parts = text.lower().split(":")
    patterns = (_SLUG, _SLUG, _QUANT)
    if len(parts) > len(patterns) or not all(p.fullmatch(part) for p, part in zip(patterns, parts, strict=False)):
        raise SetupError(f"{text!r} is not a model name: give {FORMS}")
    return CatalogueRef(*parts)


def matches(
    ref: CatalogueRef, catalogue: Catalogue, formats: Sequence[Format] = ("gguf",)
) -> tuple[CatalogueChoice, ...]:
    """Every variant that `ref` may stand for in one of `formats`, for the picker to choose from; at least one.

    Raises SetupError naming what there is instead, at the first part of the name that does not exist.
    """
    family = _family(ref, catalogue)
    sized = [choice for choice in family if ref.size in (None, choice.entry.size)]
    if not sized:
        sizes = dict.fromkeys(choice.entry.size for choice in family)
        raise SetupError(f"{ref.family} does not come in size {ref.size!r}; it comes in {_listed(sizes)}")
    found = [choice for choice in sized if choice.variant.format in formats and _quant_matches(ref.quant, choice)]
    if found:
        return tuple(found)
    wanted = f"{ref} as {' or '.join(formats)}" if ref.quant is None else f"{ref} in {' or '.join(formats)} format"
    existing = (f"{choice.id} ({choice.variant.format})" for choice in sized)
    raise SetupError(f"there is no {wanted}; there is {_listed(existing)}")


def resolve(ref: CatalogueRef, catalogue: Catalogue, formats: Sequence[Format] = ("gguf",)) -> CatalogueChoice:
    """The one variant that `ref` names: `formats` in order of preference, four bits where no quant is given.

    Raises SetupError where the name does not exist, or leaves the size open and there are several.
    """
    found = matches(ref, catalogue, formats)
    sizes = dict.fromkeys(choice.entry.size for choice in found)
    if len(sizes) > 1:
        raise SetupError(f"{ref} comes in {_listed(sizes)}: name one, such as {ref.family}:{next(iter(sizes))}")
    return min(found, key=lambda choice: (formats.index(choice.variant.format), _quant_rank(ref.quant, choice)))


def _family(ref: CatalogueRef, catalogue: Catalogue) -> list[CatalogueChoice]:
    family = [choice for choice in catalogue.choices() if choice.entry.family == ref.family]
    if family:
        return family
    close = get_close_matches(ref.family, catalogue.families, n=3, cutoff=0.5)
    there = f"did you mean {' or '.join(close)}? There are" if close else "there are"
    raise SetupError(f"no model is called {ref.family!r}; {there}: {_listed(catalogue.families)}")


def _quant_matches(quant: str | None, choice: CatalogueChoice) -> bool:
    return quant is None or quant == choice.variant.quant or choice.variant.quant in ALIASES.get(quant, ())


def _quant_rank(quant: str | None, choice: CatalogueChoice) -> tuple[int, float]:
    """Sort key, better is smaller: the alias's order, then few bits."""
    order = ALIASES.get(quant or "4bit", ())
    own = choice.variant.quant
    return order.index(own) if own in order else len(order), BITS_PER_WEIGHT[own]


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
