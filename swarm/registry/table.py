"""The model list and the fit of every model, as rows for programs and as plain text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from federation.printable_text import one_line
from swarm.registry.catalogue import GIGA, Catalogue, CatalogueChoice, Format
from swarm.registry.fit import LEAST_TOKENS_PER_S, Capacity, best_first, is_quick, rate_text
from swarm.registry.model_memory import size_text
from swarm.registry.stored import Role, StoredModel, StoredModels

JsonRow = dict[str, str | int | float | bool | None]

COLUMN_GAP = "  "
ROLE_WORDS: Mapping[Role, str | None] = {"writes": None, "embeds": "embedding", "reranks": "reranking"}
RIGHT_ALIGNED = frozenset({"PARAMS", "CONTEXT", "SIZE", "NEEDS", "TOKENS/S"})


@dataclass(frozen=True, slots=True)
class ListRow:
    """One model that can be had, or is here. Sizes of models that are not here are mostly estimates."""

    name: str
    role: str | None
    params_b: float | None
    active_params_b: float | None
    quant: str | None
    format: str
    context_tokens: int | None
    size_bytes: int
    size_estimated: bool
    path: str | None


@dataclass(frozen=True, slots=True)
class FitRow:
    """One model against this machine's memory; `why` says what is missing where it does not fit.

    `tokens_per_s` are expected, not measured, of one answer alone. `default` is what a node takes by itself.
    """

    name: str
    params_b: float
    active_params_b: float | None
    quant: str
    format: str
    size_bytes: int
    needs_bytes: int
    needs_estimated: bool
    tokens_per_s: float | None
    fits: bool
    why: str
    on_disk: bool
    default: bool


def row_json(row: ListRow | FitRow) -> JsonRow:
    """A row as a flat JSON object, field for field."""
    return asdict(row)


def list_rows(catalogue: Catalogue, local: StoredModels, formats: Sequence[Format] = ("gguf",)) -> list[ListRow]:
    """Of what an engine here loads, the catalogue in its order, then what else is on this machine."""
    here = local.by_id()
    rows = [_catalogue_row(choice, here.get(choice.id)) for choice in catalogue.choices(formats=formats)]
    return rows + [
        _local_row(model)
        for model in local.models
        if model.listed and not model.in_catalogue and model.format in formats
    ]


def fit_rows(choices: Sequence[CatalogueChoice], capacity: Capacity, local: StoredModels) -> list[FitRow]:
    """`choices` against `capacity`: what fits and is quick, best first, then what is slow, then what does not fit."""
    here = local.by_id()
    rows: list[FitRow] = []
    judged = best_first(choices, capacity)
    unasked = [choice for choice in choices if choice.entry.role == "general" and not choice.by_name_only]
    usual = best_first(unasked, capacity)
    default = usual[0].choice if usual and usual[0].fits else None
    for verdict in judged:
        choice, rate = verdict.choice, verdict.tokens_per_s
        rows.append(
            FitRow(
                name=choice.id,
                params_b=choice.entry.params_b,
                active_params_b=choice.entry.active_params_b,
                quant=choice.variant.quant,
                format=choice.variant.format,
                size_bytes=verdict.need.weights_bytes,
                needs_bytes=verdict.need.total_bytes,
                needs_estimated=verdict.need.estimated,
                tokens_per_s=None if rate is None else round(rate, 1),
                fits=verdict.fits,
                why=verdict.why,
                on_disk=choice.id in here,
                default=choice is default,
            )
        )
    return rows


def list_text(rows: Sequence[ListRow]) -> str:
    """The table of `swarm models list`."""
    return _table(
        ("NAME", "ROLE", "PARAMS", "CONTEXT", "FORMAT", "SIZE", "ON DISK"),
        [
            (
                row.name,
                row.role or "",
                _params(row.params_b, row.active_params_b),
                "" if row.context_tokens is None else str(row.context_tokens),
                row.format,
                _size(row.size_bytes, row.size_estimated),
                row.path or "",
            )
            for row in rows
        ],
    )


def fit_text(rows: Sequence[FitRow], capacity: Capacity) -> str:
    """The table of `swarm models fit`, under a line that says against what."""
    load = capacity.load
    head = f"{size_text(capacity.free_bytes)} free, {load.slots} x {load.context_tokens} tokens of context"
    if capacity.bytes_per_s is not None:
        head += (
            f"; tokens/s are expected, with {capacity.bytes_per_s / GIGA:.0f} GB of weights read a second: "
            f"below {LEAST_TOKENS_PER_S:.0f} is slow"
        )
    default = next((row.name for row in rows if row.default), None)
    last = "" if default is None else f"`swarm --auto` takes {default} where no model is on the disk\n"
    table = _table(
        ("NAME", "PARAMS", "FORMAT", "SIZE", "NEEDS", "TOKENS/S", "FITS", "ON DISK", "WHY NOT"),
        [
            (
                row.name,
                _params(row.params_b, row.active_params_b),
                row.format,
                _size(row.size_bytes, row.needs_estimated),
                _size(row.needs_bytes, row.needs_estimated),
                "" if row.tokens_per_s is None else f"~{rate_text(row.tokens_per_s)}",
                "no" if not row.fits else "yes" if is_quick(row.tokens_per_s) else "slow",
                "yes" if row.on_disk else "",
                row.why,
            )
            for row in rows
        ],
    )
    return f"{head}\n{table}{last}"


def _catalogue_row(choice: CatalogueChoice, here: StoredModel | None) -> ListRow:
    return ListRow(
        name=choice.id,
        role=choice.entry.role,
        params_b=choice.entry.params_b,
        active_params_b=choice.entry.active_params_b,
        quant=choice.variant.quant,
        format=choice.variant.format,
        context_tokens=choice.entry.context_tokens,
        size_bytes=here.size_bytes if here else choice.shape.weights_bytes,
        size_estimated=here is None and not choice.shape.weights_exact,
        path=str(here.path) if here else None,
    )


def _local_row(model: StoredModel) -> ListRow:
    facts = model.facts
    sparse = facts is not None and facts.active_params < facts.params
    return ListRow(
        name=model.id,
        role=ROLE_WORDS[model.role],
        params_b=facts.params / 1e9 if facts else None,
        active_params_b=facts.active_params / 1e9 if facts and sparse else None,
        quant=facts.quant if facts else None,
        format=model.format,
        context_tokens=facts.context_tokens if facts else None,
        size_bytes=model.size_bytes,
        size_estimated=False,
        path=str(model.path),
    )


def _params(params_b: float | None, active_params_b: float | None) -> str:
    """`8B`, `2.2M`, or for experts all and active, `30.5B/3.3B`."""
    return "/".join(_count(count_b) for count_b in (params_b, active_params_b) if count_b is not None)


def _count(count_b: float) -> str:
    return f"{count_b:.3g}B" if count_b >= 0.1 else f"{count_b * 1000:.3g}M"


def _size(size_bytes: int, estimated: bool) -> str:
    return f"~{size_text(size_bytes)}" if estimated else size_text(size_bytes)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, no trailing spaces; ends with a newline."""
    rows = [tuple(map(one_line, row)) for row in rows]  # names of files may be anything
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        aligned = (
            cell.rjust(width) if head in RIGHT_ALIGNED else cell.ljust(width)
            for head, cell, width in zip(heads, cells, widths, strict=True)
        )
        return COLUMN_GAP.join(aligned).rstrip()

    return "\n".join(line(cells) for cells in (heads, *rows)) + "\n"
