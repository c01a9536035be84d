"""What `--model` may say, parsed once: a catalogue name, a file, a file on the hub, or the embedded model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice, Format
from swarm.registry.gguf_bytes import BITS_PER_WEIGHT, USUAL_FOUR_BITS

MAX_NAME_CHARS = 1024  # a path may be long; anything longer is a mistake
MAX_HUB_FOLDERS = 4  # repositories that keep each quantization in a folder have one
EMBEDDED_NAMES = ("demo", "demo:b", "demo:c")
FORMS = "NAME:SIZE[:QUANT], PATH.gguf, hf:OWNER/REPO/FILE.gguf, or demo"

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_QUANT = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")
_HUB_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")  # the hub's own rule for owners and repositories
_HUB_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")
_HUB_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
HUB_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
HUB_PAGES = frozenset({"resolve", "blob", "raw", "tree"})  # before a revision, in an address
HUB_OTHERS = frozenset({"datasets", "spaces", "collections", "papers", "api"})  # no owners
REVISION = "main"


class NoSuchName(SetupError):
    """A name that nothing known here has: of a family, of a size or a quantization of it, of a file of the hub."""


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
    """A file of a hub repository, `file` relative to it; None is the whole repository, as MLX models are.

    `quant` is set where the repository is named with the quantization to take, as `OWNER/REPO:Q4_K_M`.
    """

    repo: str
    file: str | None
    quant: str | None = None

    def __str__(self) -> str:
        below = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"hf:{self.repo}{below}"


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
    if text.lower() in EMBEDDED_NAMES:
        return EmbeddedRef(text.lower())
    if (hub_path := _hub_path(text)) is not None:
        return _parse_hub(text, hub_path)
    if text.lower().startswith("file://"):
        return FileRef(Path(unquote(urlsplit(text).path)))
    if text.lower().endswith(".gguf") or "/" in text or "\\" in text:
        return FileRef(Path(text).expanduser())
    return _parse_catalogue(text)


def _hub_path(text: str) -> str | None:
    """`OWNER/REPO...` of what is on the hub, in the spellings that people copy; None for what is not on it.

    Raises SetupError for another address: nothing is fetched from there.
    """
    is_hub = text[:3].lower() == "hf:"
    rest = text[3:].removeprefix("//") if is_hub else text
    scheme, separator, after = rest.partition("://")
    is_address = bool(separator) and scheme.lower() in ("http", "https")
    host, _, path = (after if is_address else rest).partition("/")
    if host.lower() in HUB_HOSTS:
        return unquote(re.split(r"[?#]", path)[0].rstrip("/"))
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if is_address and mirror and rest.startswith(f"{mirror}/"):
        return unquote(re.split(r"[?#]", rest.removeprefix(f"{mirror}/"))[0].rstrip("/"))
    if is_address:
        raise SetupError(
            f"{text!r} is not on the hub, and models are fetched from no other address: download it yourself and give "
            "--model PATH.gguf, or name a file of the hub, hf:OWNER/REPO/FILE.gguf"
        )
    return rest if is_hub else None


def _parse_hub(text: str, path: str) -> HubRef:
    owner, _, rest = path.partition("/")
    repo, _, file = rest.partition("/")
    repo, colon, quant = repo.partition(":")
    if owner in HUB_OTHERS or not all(
        _HUB_PART.fullmatch(part) and ".." not in part and "--" not in part for part in (owner, repo)
    ):
        raise SetupError(f"{text!r} does not name a hub repository: give hf:OWNER/REPO/FILE.gguf")
    if colon and (file or not _HUB_TAG.fullmatch(quant)):
        raise SetupError(f"{text!r} is not a file of a repository: give hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO:QUANT")
    page, _, below = file.partition("/")
    if page in HUB_PAGES and below:
        revision, _, file = below.partition("/")
        if revision != REVISION:
            raise SetupError(
                f"{text!r} names the revision {revision!r}; only {REVISION!r} is fetched: give hf:{owner}/{repo}/"
                f"{file or 'FILE.gguf'}, or download it yourself and give --model PATH.gguf"
            )
        if page == "tree" and file:
            raise SetupError(f"{text!r} is a folder: give one file of it, hf:{owner}/{repo}/{file}/FILE")
    if not file:
        return HubRef(f"{owner}/{repo}", None, quant.lower() or None)
    check_hub_file(file)
    if not file.lower().endswith(".gguf"):
        raise SetupError(
            f"{text!r} is not a .gguf file: give hf:OWNER/REPO/FILE.gguf, or hf:{owner}/{repo} to see some"
        )
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
    ref: CatalogueRef, catalogue: Catalogue, formats: Sequence[Format] = ("gguf",), local_names: Iterable[str] = ()
) -> tuple[CatalogueChoice, ...]:
    """Every variant that `ref` may stand for in one of `formats`, for the picker to choose from; at least one.

    Raises SetupError naming what there is instead, at the first part of the name that does not exist; `local_names`
    are the models of this disk.
    """
    family = _family(ref, catalogue, local_names)
    sized = [choice for choice in family if ref.size in (None, choice.entry.size)]
    if not sized:
        sizes = dict.fromkeys(choice.entry.size for choice in family)
        raise NoSuchName(f"{ref.family} does not come in size {ref.size!r}; it comes in {_listed(sizes)}")
    found = [choice for choice in sized if choice.variant.format in formats]
    exact = [choice for choice in found if ref.quant == choice.variant.quant or _is_meant(choice, ref)]
    if exact:
        return tuple(exact)
    there = f"there is {_listed(choice.id for choice in found)}" if found else "choose another of `swarm models list`"
    others = {choice.variant.format for choice in sized if ref.quant in (None, choice.variant.quant)}
    if others:
        kind = " or ".join(sorted(others)).upper()
        raise SetupError(f"{ref} comes as {kind} only, which no engine here runs; {there}")
    raise NoSuchName(f"there is no {ref}; {there}")


def _is_meant(choice: CatalogueChoice, ref: CatalogueRef) -> bool:
    """Whether a name without a quantization may mean `choice`."""
    return ref.quant is None and not choice.by_name_only


def is_catalogued(ref: CatalogueRef, catalogue: Catalogue) -> bool:
    """Whether `ref` stands for anything in the catalogue, in whatever format."""
    return any(
        choice.entry.family == ref.family
        and ref.size in (None, choice.entry.size)
        and ref.quant in (None, choice.variant.quant)
        for choice in catalogue.choices()
    )


def resolve(
    ref: CatalogueRef, catalogue: Catalogue, formats: Sequence[Format] = ("gguf",), local_names: Iterable[str] = ()
) -> CatalogueChoice:
    """The one variant that `ref` names: `formats` in order of preference, four bits where no quant is given.

    Raises SetupError where the name does not exist, or leaves the size open and there are several.
    """
    found = matches(ref, catalogue, formats, local_names)
    sizes = dict.fromkeys(choice.entry.size for choice in found)
    if len(sizes) > 1:
        raise SetupError(f"{ref} comes in {_listed(sizes)}: name one, such as {ref.family}:{next(iter(sizes))}")
    return min(found, key=lambda choice: (formats.index(choice.variant.format), _quant_rank(choice)))


def _family(ref: CatalogueRef, catalogue: Catalogue, local_names: Iterable[str]) -> list[CatalogueChoice]:
    """The models that `ref.family` is the family of; or the one whose file is called so."""
    family = [choice for choice in catalogue.choices() if choice.entry.family == ref.family]
    if not family and ref.size is None:
        family = [choice for choice in catalogue.choices() if _file_stem(choice) == ref.family]
    if family:
        return family
    names = [*catalogue.families, *local_names]
    close = get_close_matches(ref.family, names, n=3, cutoff=0.5)
    there = f"did you mean {' or '.join(close)}? There are" if close else "there are"
    raise NoSuchName(f"no model is called {ref.family!r}; {there}: {_listed(names)}")


def _file_stem(choice: CatalogueChoice) -> str | None:
    return None if choice.variant.file is None else PurePath(choice.variant.file).stem.lower()


def _quant_rank(choice: CatalogueChoice) -> tuple[int, float]:
    """Sort key, better is smaller: the usual ones of four bits in their order, then few bits."""
    own = choice.variant.quant
    order = USUAL_FOUR_BITS
    return order.index(own) if own in order else len(order), BITS_PER_WEIGHT[own]


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
