"""The model list and the fit of every model, as rows for programs and as plain text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from federation.printable_text import aligned
from swarm.registry.catalogue import GIGA, Catalogue, CatalogueChoice, Format
from swarm.registry.elsewhere import NOWHERE, Whereabouts
from swarm.registry.fit import LEAST_TOKENS_PER_S, Capacity, Fit, best_first, is_quick, rate_text
from swarm.registry.model_memory import size_text
from swarm.registry.stored import ModelRole, StoredModel, StoredModels

JsonRow = dict[str, str | int | float | bool | list[str] | dict[str, str] | dict[str, list[str]] | None]
LookElsewhere = Callable[[Fit], Whereabouts]  # where else a model fits that does not fit here
STATES = ("ready", "loading", "draining", "unloading", "failed", "available")  # as they are listed

ROLE_WORDS: Mapping[ModelRole, str | None] = {"writes": None, "embeds": "embedding", "reranks": "reranking"}
NAMED = 3  # models of one sentence
RIGHT_ALIGNED = frozenset({"PARAMS", "CONTEXT", "SIZE", "NEEDS", "TOKENS/S"})


class RunningModel(Protocol):
    """A model as a running node lists it. `state` is its best on any of `nodes`, in the words of `STATES`.

    `states` says how it is on each, where the node says that; `pooled` has those of them that run it over several
    machines, and which these are.
    """

    @property
    def state(self) -> str: ...
    @property
    def nodes(self) -> tuple[str, ...]: ...
    @property
    def states(self) -> Mapping[str, str]: ...
    @property
    def pooled(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def context_tokens(self) -> int | None: ...
    @property
    def size_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRow:
    """One model that this machine or its swarm has, or that could be had.

    `state` is None for one that would have to be downloaded, whose size is mostly an estimate. `nodes` have it, as the
    running node knows them, those in `pooled` over several machines, which stand there; `source` and `path` say where
    it is on this disk, `also` by which other names it is known.
    """

    name: str
    state: str | None
    pinned: bool
    nodes: tuple[str, ...]
    states: Mapping[str, str]
    role: str | None
    params_b: float | None
    active_params_b: float | None
    quant: str | None
    format: str | None
    context_tokens: int | None
    size_bytes: int | None
    size_estimated: bool
    source: str | None
    path: str | None
    also: tuple[str, ...] = ()
    pooled: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


@dataclass(frozen=True, slots=True)
class FitRow:
    """One model against this machine's memory; `why` says what is missing where it does not fit.

    `tokens_per_s` are expected, not measured, of one answer alone. `default` is what a node takes by itself. One that
    does not fit here may fit alone `on` other nodes, else `over` several, this one first, with `over_tokens_per_s`
    expected, or is `refused` there, with `warnings`; `where` says in words which of these it is.
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
    where: str = "nowhere"
    on: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    over_tokens_per_s: float | None = None
    refused: str = ""
    warnings: tuple[str, ...] = ()


def nowhere(_: Fit) -> Whereabouts:
    """Where a machine is alone."""
    return NOWHERE


def row_json(row: ListRow | FitRow) -> JsonRow:
    """A row as a JSON object, field for field."""
    return asdict(row)


def list_rows(
    catalogue: Catalogue,
    stored: StoredModels,
    served: Mapping[str, RunningModel],
    formats: Sequence[Format] = ("gguf",),
    *,
    everything: bool = False,
) -> list[ListRow]:
    """What is loaded, then what could be, by name; with `everything` the rest of the catalogue in its order, too.

    Only what an engine here loads, of this disk and the catalogue. The embedded models are shown where they are loaded,
    and with `everything`.
    """
    choices = {choice.id: choice for choice in catalogue.choices(formats=formats)}
    here = {model.id: model for model in stored.models if model.format in formats}
    shown = [id_ for id_, model in here.items() if everything or model.listed or id_ in served]
    had = dict.fromkeys([*served, *shown])
    rows = [_row(id_, here.get(id_), served.get(id_), choices.get(id_)) for id_ in had]
    rows.sort(key=lambda row: (STATES.index(row.state) if row.state in STATES else len(STATES), row.name))
    if everything:
        rows += [_row(id_, None, None, choice) for id_, choice in choices.items() if id_ not in had]
    return rows


def fit_rows(
    choices: Sequence[CatalogueChoice], capacity: Capacity, local: StoredModels, look_elsewhere: LookElsewhere = nowhere
) -> list[FitRow]:
    """`choices` against `capacity`: what fits and is quick, best first, then what is slow, then what does not fit.

    `look_elsewhere` says of the latter where else they do.
    """
    here = local.by_id()
    rows: list[FitRow] = []
    judged = best_first(choices, capacity)
    unasked = [choice for choice in choices if choice.entry.role == "general" and not choice.by_name_only]
    usual = best_first(unasked, capacity)
    default = usual[0].choice if usual and usual[0].fits else None
    for verdict in judged:
        choice, rate = verdict.choice, verdict.tokens_per_s
        there = NOWHERE if verdict.fits else look_elsewhere(verdict)
        over = () if there.plan is None else there.plan.nodes
        over_rate = None if there.plan is None else there.plan.tokens_per_s
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
                where="fits here" if verdict.fits else there.words or "nowhere",
                on=there.on,
                over=over,
                over_tokens_per_s=None if over_rate is None else round(over_rate, 1),
                refused=there.refused,
                warnings=there.warnings,
            )
        )
    return rows


def list_text(rows: Sequence[ListRow]) -> str:
    """The table of `swarm models list`."""
    return _table(
        ("NAME", "STATE", "NODE", "ROLE", "PARAMS", "CONTEXT", "SIZE", "SOURCE", "ON THIS DISK"),
        [
            (
                row.name,
                f"{row.state or ''}{', pinned' if row.pinned else ''}",
                ", ".join(_on_node(row, node) for node in row.nodes),
                row.role or "",
                _params(row.params_b, row.active_params_b),
                "" if row.context_tokens is None else str(row.context_tokens),
                "" if row.size_bytes is None else _size(row.size_bytes, row.size_estimated),
                row.source or "",
                row.path or "",
            )
            for row in rows
        ],
    )


def _on_node(row: ListRow, node: str) -> str:
    """The node, with the machines that it has the model on beside itself (`den + attic`), and the state that the model
    has there where that is another one."""
    there = row.states.get(node, row.state)
    others = [name for name in row.pooled.get(node, ()) if name != node]
    where = " + ".join([node, *others])
    return where if there == row.state else f"{where} ({there})"


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
                "; ".join(words for words in (row.why, row.where if row.on or row.over else "") if words),
            )
            for row in rows
        ],
    )
    return f"{head}\n{table}{_warned(rows)}{last}"


def _warned(rows: Sequence[FitRow]) -> str:
    """What is to be said of pooled models, each sentence once, and how they are had."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for warning in row.warnings:
            about.setdefault(warning, []).append(row.name)
    lines = [f"{_some(names)}: {warning}\n" for warning, names in about.items()]
    if any(row.over for row in rows):
        lines.append("what fits only over several nodes is loaded by a node that was started with --pool\n")
    return "".join(lines)


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = len(names) - NAMED
    return f"{', '.join(names[:NAMED])}{f' and {more} more' if more > 0 else ''}"


def _row(name: str, here: StoredModel | None, there: RunningModel | None, choice: CatalogueChoice | None) -> ListRow:
    """What is known of one model: of a file the most exactly, else by the node that has it, else by the catalogue."""
    facts = None if here is None else here.facts
    entry = None if choice is None else choice.entry
    params_b, active_params_b = (None, None) if entry is None else (entry.params_b, entry.active_params_b)
    if facts is not None:
        sparse = facts.active_params < facts.params
        params_b, active_params_b = facts.params / GIGA, facts.active_params / GIGA if sparse else None
    size_bytes = choice.shape.weights_bytes if choice else None
    context_tokens = facts.context_tokens if facts else entry.context_tokens if entry else None
    if there is not None:
        size_bytes, context_tokens = there.size_bytes or size_bytes, there.context_tokens or context_tokens
    is_choice = here is None and there is None
    return ListRow(
        name=name,
        state=there.state if there else "available" if here else None,
        pinned=there is not None and there.pinned,
        nodes=there.nodes if there else (),
        states=there.states if there else {},
        role=(entry.role if entry else None) or (ROLE_WORDS[here.role] if here else None),
        params_b=params_b,
        active_params_b=active_params_b,
        quant=facts.quant if facts else choice.variant.quant if choice else None,
        format=here.format if here else choice.variant.format if choice else None,
        context_tokens=context_tokens,
        size_bytes=here.size_bytes if here else size_bytes,
        size_estimated=is_choice and choice is not None and not choice.shape.weights_exact,
        source=here.source if here else None,
        path=str(here.path) if here else None,
        also=(*(here.also if here else ()), *(there.aliases if there else ())),
        pooled=there.pooled if there else {},
    )


def _params(params_b: float | None, active_params_b: float | None) -> str:
    """`8B`, `2.2M`, or for experts all and active, `30.5B/3.3B`."""
    return "/".join(_count(count_b) for count_b in (params_b, active_params_b) if count_b is not None)


def _count(count_b: float) -> str:
    return f"{count_b:.3g}B" if count_b >= 0.1 else f"{count_b * 1000:.3g}M"


def _size(size_bytes: int, estimated: bool) -> str:
    return f"~{size_text(size_bytes)}" if estimated else size_text(size_bytes)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    right = {at for at, head in enumerate(heads) if head in RIGHT_ALIGNED}
    return "\n".join(aligned([heads, *rows], right)) + "\n"
