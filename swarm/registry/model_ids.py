"""What a model is called: its id, made from its file in one place, and which id a name that somebody gives means.

One content has one id on a node, and no two contents have the same: of several that would be called alike the first
keeps the name, the others are told apart by their fingerprint (`qwen3-4b-q4_k_m`, `qwen3-4b-q4_k_m@a1b2c3`). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.printable_text import printable
from swarm.errors import BadRequest, SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice
from swarm.registry.names import EMBEDDED_NAMES, CatalogueRef, parse_model

MAX_ID_CHARS = 200  # a file's name has 255 at most; leaves room for what tells it apart, within what peers take
FINGERPRINT_DIGITS = 6
BOUNDARIES = frozenset(":-@._")  # where the beginning of a name may end that stands for the whole
REPOSITORY_ENDS = frozenset(":/")
MAX_NAMED = 8  # models that a message names


class AmbiguousModel(BadRequest):
    """A name that may mean several models; `ids` are theirs."""

    def __init__(self, name: str, ids: Sequence[str]) -> None:
        more = f" or {len(ids) - MAX_NAMED} more" if len(ids) > MAX_NAMED else ""
        super().__init__(f"{name!r} may be {' or '.join(ids[:MAX_NAMED])}{more}: give one of them", param="model")
        self.ids = tuple(ids)


@dataclass(frozen=True, slots=True, order=True)
class NameClaim:
    """One content that wants to be called `name`. Of several the least one gets it: by `rank`, then by content.

    `fingerprint` is of its header; `content` tells apart what has the same header, too.
    """

    name: str
    rank: int
    fingerprint: str
    content: str = ""


class NamesOfCatalogue:
    """Which names the catalogue has taken, and which files are its variants; made once, as files are many."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._by_file: dict[str, list[CatalogueChoice]] = {}
        self._by_sha256: dict[str, CatalogueChoice] = {}
        self._by_repo: dict[str, CatalogueChoice] = {}  # of MLX, where a repository is one model
        self._taken = set(EMBEDDED_NAMES)
        for choice in catalogue.choices():
            variant = choice.variant
            if variant.file is None:
                self._by_repo.setdefault(variant.place.lower(), choice)
            else:
                self._by_file.setdefault(variant.file.lower(), []).append(choice)
            if variant.sha256 is not None:
                self._by_sha256.setdefault(variant.sha256, choice)
            self._taken |= {choice.entry.family, choice.entry.name, choice.id}

    def choice(self, files: Sequence[str], repo: str | None, sha256: str | None) -> CatalogueChoice | None:
        """The variant that a GGUF file is: by its sha256 where both know one; else by one of the names that its file
        has, and by its repository (`owner/repo`) where that is known.
        """
        if sha256 is not None and (choice := self._by_sha256.get(sha256)) is not None:
            return choice
        for file in files:
            for choice in self._by_file.get(file.lower(), ()):
                is_repo = repo is None or repo.lower() == choice.variant.place.lower()
                if is_repo and (sha256 is None or choice.variant.sha256 is None):
                    return choice
        return None

    def mlx_choice(self, repo: str | None) -> CatalogueChoice | None:
        """The variant that is the whole of this repository."""
        return self._by_repo.get((repo or "").lower())

    def is_mlx_repo(self, repo: str | None) -> bool:
        """Whether the weights of this repository are MLX's, and not of another kind in files of the same kind."""
        return self.mlx_choice(repo) is not None or (repo or "").lower().startswith("mlx-community/")

    @property
    def taken(self) -> frozenset[str]:
        """Every name by which the catalogue has something, and those of the embedded models."""
        return frozenset(self._taken)

    def id_of_stem(self, stem: str, ending: str = ".gguf") -> str:
        """What a model of this name is called, if its file is none of the catalogue's: the name in lower case.

        It keeps the ending of its file, or what its folder has instead, where the name alone would mean another model.
        """
        name = printable(stem).strip().lower()[:MAX_ID_CHARS].rstrip()
        return name if self.is_free(name) else f"{name}{ending}"

    def is_free(self, name: str) -> bool:
        """Whether `name` alone means nothing else: in the catalogue, on the hub, or as a path."""
        name = name.strip().lower()
        if not name or name in self._taken:
            return False
        try:
            return isinstance(parse_model(name), CatalogueRef)
        except SetupError:  # no name of anything else
            return True


def repo_of(folder: Path) -> str | None:
    """`owner/repo` of a folder in our own layout (OWNER--REPO), the hub cache's (models--OWNER--REPO/...), or below."""
    for part in (folder.name, *folder.parts[-4:-1][::-1]):
        owner, separator, repo = part.removeprefix("models--").partition("--")
        if separator and owner and repo:
            return f"{owner}/{repo}"
    return None


def assign_ids(claims: Collection[NameClaim]) -> dict[NameClaim, str]:
    """An id for each content, unique, whatever order they come in. Blocks nothing, raises nothing."""
    first: dict[str, NameClaim] = {}
    for claim in sorted(set(claims)):
        first.setdefault(claim.name, claim)
    ids = {claim: name for name, claim in first.items()}
    taken = set(first)
    for claim in sorted(set(claims) - set(ids)):
        ids[claim] = next(name for name in _told_apart(claim) if name not in taken)
        taken.add(ids[claim])
    return ids


def _told_apart(claim: NameClaim) -> list[str]:
    short = f"{claim.name}@{claim.fingerprint[:FINGERPRINT_DIGITS]}"
    digits = range(FINGERPRINT_DIGITS, len(claim.content) + 1, FINGERPRINT_DIGITS)
    longer = [f"{short}-{claim.content[:count]}" for count in digits]
    whole = f"{claim.name}@{claim.fingerprint}-{claim.content}"
    return [short, *longer, whole, *(f"{whole}-{number}" for number in range(2, 1000))]


def meant(name: str, known: Mapping[str, Collection[str]], *, loose: bool) -> str | None:
    """The id of `known` (id -> its other names) that `name` means; None: none.

    The id itself; else, in any case, an id or another name; else the beginning that only one has, of an id or of
    another name: any (`loose`, for people who type), or one that ends before a `:`, `-`, `@`, `.` or `_`; of what has a
    `/` in it, only one that ends before a `/` or `:`. Raises AmbiguousModel naming those that it may mean.
    """
    if name in known:
        return name
    wanted = name.strip().casefold()
    if not wanted:
        return None
    spellings = {id_: {id_.strip().casefold(), *(other.strip().casefold() for other in known[id_])} for id_ in known}
    as_ids = [id_ for id_ in known if id_.strip().casefold() == wanted]
    whole = as_ids or [id_ for id_, names in spellings.items() if wanted in names]
    fitting = whole or [id_ for id_, names in spellings.items() if any(_begins(text, wanted, loose) for text in names)]
    if len(fitting) > 1:
        raise AmbiguousModel(name.strip(), sorted(fitting))
    return fitting[0] if fitting else None


def _begins(text: str, wanted: str, loose: bool) -> bool:
    if not text.startswith(wanted):
        return False
    following = text[len(wanted) : len(wanted) + 1]
    if "/" in wanted:  # a repository's name: one that begins alike is another one
        return following in REPOSITORY_ENDS
    return loose or following in BOUNDARIES
