"""The picture of a swarm in a terminal, for `swarm top` and for the live part of a node: pure, from facts to lines.

A picture fits the columns and rows that there are: columns of little use go first, and what has no room is counted
("… and N more"). Nothing is said by colour alone. What others wrote is one clean line each (`screen.words`).
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

from rich.text import Text

from swarm.commands.screen import words
from swarm.commands.status import lasting
from swarm.quantities import left_words

if TYPE_CHECKING:
    from swarm.commands.swarm_state import SwarmState
    from swarm.gateway.observing.findings import FindingEntry
    from swarm.gateway.observing.node_states import NodeHardware, NodeState, PoolMemory
    from swarm.gateway.observing.view import LentEntry, OwnModel, RequestEntry, UpstreamEntry
    from swarm.gateway.observing.vote_history import VoteEntry

Row = TypeVar("Row")
Order = Literal["name", "state", "speed"]
ORDERS: Final[tuple[Order, ...]] = ("name", "state", "speed")
ORDER_WORDS: Final = {"name": "by name", "state": "what is wrong first", "speed": "the busiest first"}

GAP: Final = 2  # columns between two columns of a table
LEAST_NAME, MOST_NAME = 8, 24
MAX_DETAIL_ROWS: Final = 3  # of one sentence of a finding
SHOWN_VOTES: Final = 10

NODE_STYLES: Final = {"alive": "green", "suspect": "yellow", "dead": "bold red", "absent": "dim"}
MODEL_STYLES: Final = {
    "ready": "green", "loading": "yellow", "draining": "yellow", "unloading": "yellow", "failed": "bold red",
}  # fmt: skip
LEVEL_STYLES: Final = {"problem": "bold red", "warning": "yellow", "note": "cyan"}
OUTCOME_STYLES: Final = {"consensus": "green", "plurality": "yellow", "undecided": "yellow", "degraded": "bold red"}
GRAVITY: Final = {"problem": 0, "warning": 1, "note": 2}
NODE_GRAVITY: Final = {"dead": 0, "suspect": 1, "alive": 2, "absent": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What somebody chose to see. `first_model`: the first row of the models' list, where `models` alone are shown.

    `gone`: since when the node that tells all this does not answer, and why.
    """

    order: Order = "name"
    models: bool = False
    first_model: int = 0
    gone: tuple[datetime, str] | None = None
    keys: bool = True


@dataclass(frozen=True)
class Column(Generic[Row]):
    """`rank` says what goes first where there is little room: the highest; that of rank 0 stays. What is left over is
    for those that have use for it, up to `most`."""

    title: str
    width: int
    rank: int
    cell: Callable[[Row], Text]
    right: bool = False
    most: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """A title and its entries, each of one row or more. `least` rows are shown before others get more."""

    title: Text
    entries: Sequence[Sequence[Text]]
    least: int
    what: str = "more"

    @property
    def rows(self) -> int:
        return sum(map(len, self.entries))


def picture(state: SwarmState, now: datetime, columns: int, rows: int, shown: Shown = Shown()) -> list[Text]:
    """The swarm in at most `rows` lines of at most `columns`. `now` has the zone in which times are told."""
    head = header(state, columns, now, shown.gone)
    foot = [keys_line(shown, columns)] if shown.keys and rows > len(head) + 3 else []
    space = rows - len(head) - len(foot)
    if state.view is None:
        return [*head, *foot][:rows]
    if shown.models:
        body = model_list(state, columns, space, shown)
    else:
        body = laid_out(sections(state, now, columns, shown), space)
    if foot:
        body += [Text()] * (space - len(body))
    return [*head, *body, *foot][:rows]


def sections(state: SwarmState, now: datetime, columns: int, shown: Shown) -> list[Section]:
    """What is shown one below the other, the most important first; what is empty is left out."""
    nodes = ordered(state, shown.order)
    table = node_columns(nodes, own_rtts(state), None if state.view is None else state.view.node.id)
    table = fitting(table, columns)
    found = sorted(state.findings.values(), key=lambda finding: GRAVITY.get(finding.level, 3))
    models = model_rows(nodes)
    model_table = fitting(model_columns(models), columns)
    running = sorted((state.requests or {}).values(), key=lambda request: -request.running_s)
    running_table = fitting(request_columns(), columns)
    votes = sorted(state.votes.values(), key=lambda vote: (vote.state == "running", vote.began), reverse=True)
    vote_table = fitting(vote_columns(now), columns)
    lent = [(node, part) for node in nodes if node.lending is not None for part in node.lending.lent]
    lent_table = fitting(lent_columns(lent), columns)
    every = [
        Section(titles(table), [[node_row(node, table, columns, now)] for node in nodes], min(len(nodes), 4)),
        Section(heading(f"WRONG OR WORTH KNOWING ({len(found)})"), [finding_rows(one, columns) for one in found], 3),
        Section(
            heading(f"REQUESTS ({len(running)})", running_table),
            [[row(one, running_table, columns)] for one in running],
            2,
        ),
        Section(heading("LAST VOTES", vote_table), [[row(one, vote_table, columns)] for one in votes[:SHOWN_VOTES]], 2),
        Section(
            heading(f"MODELS ({len(models)})", model_table), [[row(one, model_table, columns)] for one in models], 3
        ),
        Section(heading("MEMORY LENT BY", lent_table), [[row(one, lent_table, columns)] for one in lent], 1),
    ]
    return [section for section in every if section.entries]


def model_list(state: SwarmState, columns: int, rows: int, shown: Shown) -> list[Text]:
    """The models of all nodes, from `first_model` on."""
    models = model_rows(ordered(state, shown.order))
    table = fitting(model_columns(models), columns)
    first = max(0, min(shown.first_model, len(models) - (rows - 2)))  # the last page is a whole one
    title = heading(f"MODELS ({len(models)})", table)
    above = [dim(f"… {first} before these")] if first else []
    section = Section(title, [[row(one, table, columns)] for one in models[first:]], 1)
    if not models:
        return [title, aligned(dim("no node has a model loaded"), columns)][:rows]
    return [title, *above, *laid_out([section], rows - len(above))[1:]][:rows]


# One line each


def header(state: SwarmState, columns: int, now: datetime, gone: tuple[datetime, str] | None) -> list[Text]:
    """Whose view this is, the swarm in figures, and what is wrong with the view itself."""
    view = state.view
    if view is None:
        lines = [Text("Local Swarm", "bold")]
    else:
        status = words(view.status, "green" if view.status == "ok" else "yellow")
        first = joined(
            [Text("the swarm as ") + words(view.node.name, "bold") + Text(" sees it"), status, words(view.node.mode)]
        )
        first = joined([first, words(view.node.url), words(f"version {view.node.version}", "dim")], columns)
        lines = [first, joined(figures(state), columns)]
    if view is not None:
        lines += map(upstream_line, view.upstreams)
    if gone is not None:
        at, why = gone
        text = f"! it does not answer since {clock(at, now)} ({lasting((now - at).total_seconds())}): asked again. "
        lines.append(Text(text, "bold red") + words(why))
    if state.unread:
        lines.append(Text(f"! {len(state.unread)} entries are in a form that this version does not read", "yellow"))
    for line in lines:
        line.truncate(columns, overflow="ellipsis")
    return lines


def figures(state: SwarmState) -> list[Text]:
    """How many nodes and models there are, and what they do."""
    states = Counter(node.state for node in state.nodes.values())
    others = [f"{states[name]} {name}" for name in ("suspect", "dead", "absent") if states[name]]
    nodes = Text(plural(len(state.nodes), "node"))
    if others:
        nodes.append(f" ({', '.join(others)})", "yellow")
    loaded = {model.id for node in state.nodes.values() for model in node.models}
    speed = sum(node.tokens_per_s for node in state.nodes.values())
    running = sum(node.running for node in state.nodes.values())
    waiting = sum(node.waiting for node in state.nodes.values())
    return [
        nodes,
        Text(plural(len(loaded), "model")),
        Text(f"{speed:.1f} tok/s", "bold" if speed else ""),
        Text(f"{running} running"),
        Text(f"{waiting} waiting", "yellow" if waiting else ""),
    ]


def upstream_line(upstream: UpstreamEntry) -> Text:
    """Where requests may go beside the nodes."""
    said = words(upstream.problem, "yellow") if upstream.problem else Text(f"{upstream.requests} sent so far")
    return joined([Text("upstream ") + words(upstream.host), words(upstream.mode), said])


def keys_line(shown: Shown, columns: int) -> Text:
    """What can be pressed."""
    models = "m the swarm" if shown.models else "m models"
    parts = ["q ends", f"s sorted {ORDER_WORDS[shown.order]}", models]
    parts += ["↑ ↓ and space move"] if shown.models else []
    line = dim("   ".join(parts))
    line.truncate(columns, overflow="ellipsis")
    return line


def finding_rows(finding: FindingEntry, columns: int) -> list[Text]:
    """What is wrong, and what to do, in as many rows as it takes up to a few."""
    mark = Text(f"{finding.level}: ", LEVEL_STYLES.get(finding.level, ""))
    what = wrapped(mark.plain + words(finding.what).plain, columns)
    what[0].stylize(LEVEL_STYLES.get(finding.level, ""), 0, len(mark))
    return [*what, *wrapped(f"  → {words(finding.remedy).plain}", columns, "    ")]


def wrapped(text: str, columns: int, indent: str = "  ") -> list[Text]:
    """A sentence in as few rows as it needs, MAX_DETAIL_ROWS at most."""
    lines = textwrap.wrap(text, max(columns, 12), subsequent_indent=indent, max_lines=MAX_DETAIL_ROWS, placeholder=" …")
    found = [Text(line) for line in lines] or [Text()]
    for line in found:
        line.truncate(columns, overflow="ellipsis")  # wide characters
    return found


def node_row(node: NodeState, table: Sequence[Column[NodeState]], columns: int, now: datetime) -> Text:
    """A node; of one that is not there since when and why, instead of figures that are old."""
    if node.state not in ("dead", "absent"):
        return row(node, table, columns)
    line = row(node, [column for column in table if column.rank <= STATE_RANK], columns)
    line.append(" " * GAP)
    if node.since is not None:
        at = moment(node.since)
        line.append(f"since {clock(at, now)} ({lasting(max(0.0, (now - at).total_seconds()))})")
        line.append(": " if node.why else "")
    line.append_text(words(node.why or ""))
    line.truncate(columns, overflow="ellipsis")
    return line


# Tables

STATE_RANK: Final = 1


def node_columns(nodes: Sequence[NodeState], rtts: dict[str, float], own_id: str | None) -> list[Column[NodeState]]:
    """What is told of each node; round-trip times are those from the node with `own_id`."""
    longest = max((words(node.name).cell_len for node in nodes), default=0)
    if any(node.id == own_id for node in nodes):
        longest = max(longest, *(words(node.name).cell_len + 2 for node in nodes if node.id == own_id))

    def name(node: NodeState) -> Text:
        return words(node.name, "bold" if node.id == own_id else "") + Text(" *" if node.id == own_id else "")

    def rtt(node: NodeState) -> Text:
        here = node.id == own_id
        return dim("here") if here else Text(f"{rtts[node.id]:.1f} ms") if node.id in rtts else dim("-")

    return [
        Column("NODE", LEAST_NAME, 0, name, most=max(LEAST_NAME, min(longest, MOST_NAME))),
        Column("STATE", 8, STATE_RANK, node_state_text),
        Column("TOK/S", 6, 2, lambda node: told(node, f"{node.tokens_per_s:.1f}", node.tokens_per_s > 0), right=True),
        Column("RUN", 3, 3, lambda node: told(node, str(node.running), node.running > 0), right=True),
        Column("WAIT", 4, 4, lambda node: told(node, str(node.waiting), node.waiting > 0, "yellow"), right=True),
        Column("MEMORY", 20, 5, memory_text),
        *([Column("LENT", 11, 6, lent_text, right=True)] if any(node.lending for node in nodes) else []),
        Column("RTT", 8, 6, rtt, right=True),
        Column("MODELS", 6, 9, lambda node: Text(str(len(node.models))), right=True),
        Column("HARDWARE", 16, 7, lambda node: hardware_text(node.hardware), most=40),
        Column("WEIGHTS + CACHE", 15, 8, held_text),
        Column("VERSION", 8, 10, lambda node: words(node.version, "dim")),
    ]


def node_state_text(node: NodeState) -> Text:
    """Its state, as the asked node sees it."""
    return words(node.state, NODE_STYLES.get(node.state, ""))


def told(node: NodeState, text: str, matters: bool, style: str = "bold") -> Text:
    """A figure of a node; one that tells nothing has none."""
    return dim("-") if node.source == "unknown" else Text(text, style if matters else "")


def hardware_text(hardware: NodeHardware) -> Text:
    """The machine in short: its GPU if it has one, the processor's cores, its memory."""
    parts = [Text(f"{hardware.cores} cores")] if hardware.cores else []
    parts += [Text(short(hardware.ram_bytes))] if hardware.ram_bytes else []
    if hardware.gpu:
        gpu = words(hardware.gpu.removeprefix("NVIDIA ").removeprefix("GeForce "))
        parts.insert(0, gpu + Text(f" {short(hardware.vram_bytes)}") if hardware.vram_bytes else gpu)
    return Text(", ").join(parts) if parts else dim("-")


def memory_text(node: NodeState) -> Text:
    """A bar of the pool that its models are in: weights, conversations, what is lent, others; and what is free."""
    pool = fullest(node.memory)
    if pool is None or not pool.total_bytes or pool.free_bytes is None:
        return dim("-")
    cells = 10
    weights, rest = shares(pool.weights_bytes, pool.kv_bytes, pool.total_bytes, cells)
    free = min(cells - weights - rest, round(cells * pool.free_bytes / pool.total_bytes))
    others = cells - weights - rest - free
    lent = min(others, max(1, round(cells * pool.lent_bytes / pool.total_bytes))) if pool.lent_bytes else 0
    others -= lent
    bar = Text.assemble(
        ("█" * weights, "blue"), ("▓" * rest, "cyan"), ("▚" * lent, "magenta"), ("▒" * others, "dim"),
        ("░" * free, "green"),
    )  # fmt: skip
    return bar + Text(f" {short(pool.free_bytes)} free", "yellow" if pool.free_bytes < pool.total_bytes / 20 else "")


def held_text(node: NodeState) -> Text:
    """What the models of that pool take for weights, and for conversations and buffers."""
    pool = fullest(node.memory)
    return dim("-") if pool is None else Text(f"{short(pool.weights_bytes)} + {short(pool.kv_bytes)}")


def shares(weights: int, rest: int, total: int, cells: int) -> tuple[int, int]:
    """How many of `cells` each takes: one at least of what is there, and never more than there are."""
    first = min(cells, max(1, round(cells * weights / total))) if weights else 0
    second = min(cells - first, max(1, round(cells * rest / total))) if rest else 0
    return first, second


def fullest(pools: Iterable[PoolMemory]) -> PoolMemory | None:
    """The pool in which the models take most; the first of those that are as full."""
    known = [pool for pool in pools if pool.total_bytes]
    return max(known, key=lambda pool: pool.weights_bytes + pool.kv_bytes + pool.lent_bytes, default=None)


def lent_text(node: NodeState) -> Text:
    """What it has lent, of what it lends."""
    if node.lending is None:
        return dim("-")
    lent_bytes = sum(lent.bytes for lent in node.lending.lent)
    if node.source == "unknown":  # it does not tell to whom
        lent_bytes = max(0, node.lending.total_bytes - node.lending.free_bytes)
    if node.lending.draining:
        return Text("wanted back" if lent_bytes else "no more", "yellow")
    lent = short(lent_bytes) if lent_bytes else "0"
    return Text(f"{lent} of {short(node.lending.total_bytes)}", "magenta" if lent_bytes else "")


LentRow = tuple["NodeState", "LentEntry"]


def lent_columns(lent: Sequence[LentRow]) -> list[Column[LentRow]]:
    """What is told of each part of a model that lies with another node than its host."""
    longest = max((words(part.model).cell_len for _, part in lent), default=0)
    names = max((words(part.node).cell_len for _, part in lent), default=0)
    return [
        Column("LENDER", 14, 0, lambda of: words(of[0].name), most=MOST_NAME),
        Column("TO", max(4, min(names, 16)), 1, lambda of: words(of[1].node)),
        Column("MEMORY", 6, 2, lambda of: Text(short(of[1].bytes)), right=True),
        Column("FOR", 10, 3, lambda of: words(of[1].model), most=max(10, min(longest, 40))),
    ]


ModelRow = tuple["NodeState", "OwnModel"]


def model_rows(nodes: Sequence[NodeState]) -> list[ModelRow]:
    """The models of nodes that are there: those that are not ready first, then those that work."""
    here = [(node, model) for node in nodes if node.state != "dead" for model in node.models]
    return sorted(here, key=lambda of: (of[1].state == "ready", of[1].slots_free == of[1].slots))


def model_columns(models: Sequence[ModelRow]) -> list[Column[ModelRow]]:
    """What is told of each model of each node."""
    longest = max((words(model.id).cell_len for _, model in models), default=0)
    names = max((min(machines_text(one).cell_len, 24 if one[1].nodes else 16) for one in models), default=0)
    return [
        Column("MODEL", 10, 0, lambda of: words(of[1].id), most=max(10, min(longest, 40))),
        Column("NODE", max(4, names), 1, machines_text),
        Column("STATE", 23, 2, lambda of: model_state_text(of[1])),
        Column("FREE SLOTS", 10, 3, lambda of: slots_text(of[1]), right=True),
        Column("MEMORY", 6, 4, lambda of: Text(short(of[1].taken_bytes)) if of[1].taken_bytes else dim("-"), True),
        Column("COMPUTED BY", 34, 5, lambda of: words(computed(of[1]), "dim")),
    ]


def machines_text(of: ModelRow) -> Text:
    """The node that answers for a model, and the machines that lend it memory: `den + attic`."""
    node, model = of
    others = [name for name in model.nodes if name != node.name]
    return words(node.name) + Text("".join(f" + {words(name).plain}" for name in others), "cyan")


def model_state_text(model: OwnModel) -> Text:
    """In which state a model is, how far its load is, or what is wrong with it."""
    style = MODEL_STYLES.get(model.state, "")
    if model.state == "loading" and model.loading is not None:
        share, left_s = model.loading.share, model.loading.left_s
        known = "" if share is None else f" {share:.0%}"
        return Text(f"loading{known}" + ("" if left_s is None else f", {left_words(max(1.0, left_s))} left"), style)
    wrong = model.problem or model.reason
    state = words(model.state, "yellow" if wrong and model.state == "ready" else style)
    if wrong:
        return state + Text(": ") + words(wrong)
    return state + Text(", pinned" if model.pinned else "", "dim")


def slots_text(model: OwnModel) -> Text:
    """Free slots, and who waits for one."""
    text = Text(
        f"{model.slots_free} of {model.slots}" if model.slots else "-", "yellow" if not model.slots_free else ""
    )
    return text if not model.waiting else Text(f"{model.waiting} wait", "yellow")


def computed(model: OwnModel) -> str:
    """With what it is computed, in words."""
    return model.engine if model.computation is None else model.computation.words


def request_columns() -> list[Column[RequestEntry]]:
    """What is told of each request in progress."""
    return [
        Column("MODEL", 12, 0, lambda one: words(one.model or "-"), most=30),
        Column("STATE", 7, 2, lambda one: words(one.state, "green" if one.state == "running" else "yellow")),
        Column("SINCE", 8, 3, lambda one: Text(lasting(one.running_s)), right=True),
        Column("TOKENS", 6, 4, lambda one: dim("-") if one.tokens is None else Text(str(one.tokens)), right=True),
        Column("KEY", 14, 5, lambda one: words(one.key or ("a node" if one.from_ == "node" else "-"))),
        Column("ASKED AT", 22, 6, lambda one: words(one.path, "dim")),
    ]


def vote_columns(now: datetime) -> list[Column[VoteEntry]]:
    """What is told of each vote."""
    return [
        Column("MODEL", 10, 0, lambda vote: words(vote.model), most=24),
        Column("AGREE", 14, 1, agreement_text),
        Column("OUTCOME", 10, 2, outcome_text),
        Column("TOOK", 8, 3, lambda vote: Text(took_text(vote.elapsed_ms)), right=True),
        Column("AT", 8, 4, lambda vote: Text(clock(moment(vote.began), now))),
        Column("KIND", 10, 5, lambda vote: words(vote.kind or "-")),
        Column("TOKENS", 7, 6, lambda vote: Text(str(vote.total_completion_tokens)), right=True),
        Column("WINNER", 24, 7, lambda vote: words(vote.winner or "-", "dim")),
    ]


def agreement_text(vote: VoteEntry) -> Text:
    """How many agree with the winner; while it runs, who has answered."""
    if vote.state == "running":
        return Text(f"{len(vote.candidates)} of {vote.asked or vote.wanted or '?'} here", "yellow")
    agree = sum(candidate.group == 0 for candidate in vote.candidates)
    return Text(f"{agree} of {vote.votes} agree") if vote.votes else dim("-")


def outcome_text(vote: VoteEntry) -> Text:
    """What came out of it."""
    if vote.state == "running":
        return Text("running", "yellow")
    if vote.state == "failed":
        return words(vote.stopped_by or "failed", "bold red")
    return words(vote.outcome or "done", OUTCOME_STYLES.get(vote.outcome or "", ""))


def took_text(elapsed_ms: int) -> str:
    """A time that something took."""
    return f"{elapsed_ms} ms" if elapsed_ms < 10_000 else lasting(elapsed_ms / 1000)


# Columns and rows


def fitting(columns: Sequence[Column[Row]], width: int) -> list[Column[Row]]:
    """The columns that have room, and how wide each is: those of the lowest rank stay."""
    kept: list[Column[Row]] = []
    taken = -GAP
    for column in sorted(columns, key=lambda column: column.rank):
        if taken + GAP + column.width <= width or not kept:
            kept.append(column)
            taken += GAP + column.width
        else:
            break
    left = max(0, width - taken)
    found: list[Column[Row]] = []
    for column in columns:
        if column in kept:
            more = min(left, max(0, column.most - column.width))
            left -= more
            found.append(replace(column, width=column.width + more))
    return found


def row(entry: Row, columns: Sequence[Column[Row]], width: int) -> Text:
    """One line of a table."""
    cells = [aligned(column.cell(entry), column.width, column.right) for column in columns]
    line = Text(" " * GAP).join(cells)
    line.rstrip()
    line.truncate(width, overflow="ellipsis")
    return line


def aligned(text: Text, width: int, right: bool = False) -> Text:
    """A text in exactly so many columns."""
    text = text.copy()
    text.truncate(width, overflow="ellipsis")
    text.align("right" if right else "left", width)
    return text


def titles(columns: Sequence[Column[NodeState]]) -> Text:
    """The titles of a table's columns."""
    return Text(" " * GAP).join([aligned(Text(column.title, "dim"), column.width, column.right) for column in columns])


def heading(title: str, columns: Sequence[Column[Row]] = ()) -> Text:
    """What a section has; above a table the titles of its columns, with its own instead of the first."""
    if not columns:
        return Text(title, "dim")
    rest = [aligned(Text(column.title, "dim"), column.width, column.right) for column in columns[1:]]
    return Text(" " * GAP).join([aligned(Text(title, "dim"), columns[0].width), *rest])


def laid_out(parts: Sequence[Section], rows: int) -> list[Text]:
    """The sections one below the other in so many rows, with an empty row between them where there is room."""
    given = allotted([(part.rows, part.least) for part in parts], rows)
    spare = rows - sum(1 + got for got in given if got)
    lines: list[Text] = []
    for part, got in zip(parts, given, strict=True):
        if not got:
            continue
        if lines and spare > 0:
            lines.append(Text())
            spare -= 1
        lines += [part.title, *first_rows(part, got)]
    return lines


def first_rows(section: Section, rows: int) -> list[Text]:
    """Whole entries in so many rows, and how many more there are."""
    if section.rows <= rows:
        return [line for entry in section.entries for line in entry]
    lines: list[Text] = []
    for number, entry in enumerate(section.entries):
        if len(lines) + len(entry) > rows - 1:
            left = len(section.entries) - number
            if lines:
                return [*lines, dim(f"… and {left} more")]
            return [*entry[: rows - 1], dim(f"… and {left - 1} more" if left > 1 else "…")] if rows > 1 else [entry[0]]
        lines += entry
    return lines


def allotted(wanted: Sequence[tuple[int, int]], rows: int) -> list[int]:
    """How many rows below its title each section gets; `wanted` has its rows and the least of them, by importance."""
    given = [0] * len(wanted)
    for at, (all_rows, least) in enumerate(wanted):
        got = min(all_rows, least, rows - 1)
        if got > 0:
            given[at] = got
            rows -= 1 + got
    while rows > 0:
        growing = [at for at, (all_rows, _) in enumerate(wanted) if 0 < given[at] < all_rows]
        if not growing:
            break
        for at in growing[:rows]:
            given[at] += 1
        rows -= len(growing[:rows])
    return given


# Words


def ordered(state: SwarmState, order: Order) -> list[NodeState]:
    """The nodes as they are shown; by name the asked node comes first."""
    own_id = None if state.view is None else state.view.node.id

    def key(node: NodeState) -> tuple[object, ...]:
        first = {"name": node.id != own_id, "state": NODE_GRAVITY.get(node.state, 0), "speed": -node.tokens_per_s}[
            order
        ]
        return first, -node.running if order == "speed" else 0, natural(node.name), node.id

    return sorted(state.nodes.values(), key=key)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """So that node-2 comes before node-10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", name.casefold())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def own_rtts(state: SwarmState) -> dict[str, float]:
    """Round-trip times from the node that tells them, in ms."""
    peers = () if state.view is None else state.view.peers
    return {peer.id: peer.rtt_ms for peer in peers if peer.rtt_ms is not None}


def joined(parts: Sequence[Text], columns: int | None = None) -> Text:
    """Facts in one line; those that have no room are left out."""
    line = Text()
    for number, part in enumerate(parts):
        if columns is not None and number and line.cell_len + 3 + part.cell_len > columns:
            break
        line = line + Text(" · ", "dim") + part if number else part
    return line


def dim(text: str) -> Text:
    """What matters little."""
    return Text(text, "dim")


def short(size_bytes: int) -> str:
    """A size in few columns, as options take it: `24G`, `1.5G`, `300M`."""
    for unit, of in (("T", 2**40), ("G", 2**30)):
        if size_bytes >= of:
            return (
                f"{size_bytes / of:.1f}".removesuffix(".0") + unit
                if size_bytes < 10 * of
                else f"{size_bytes / of:.0f}{unit}"
            )
    return f"{size_bytes / 2**20:.0f}M"


def plural(count: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def moment(at: str) -> datetime:
    """A time as nodes write it; the epoch for one that is none."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def clock(at: datetime, now: datetime) -> str:
    """The time of day, in the zone of `now`."""
    return f"{at.astimezone(now.tzinfo):%H:%M:%S}"
