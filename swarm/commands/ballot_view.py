"""A vote as it is drawn and as it is said. Pure: the same vote and width give the same lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from federation.printable_text import one_line
from swarm.commands.screen import words
from swarm.commands.vote_stream import CascadePart, VoterPart, VoteState

WIDE_COLUMNS = 64  # from here on a row has the model and what the answer cost
MAX_NAME_COLUMNS, MAX_MODEL_COLUMNS = 24, 20
MAX_BAR_COLUMNS = 30
LABEL_COLUMNS = 8
MAX_DISSENTERS = 3  # named of each group; the rest are counted
EIGHTHS = " ▏▎▍▌▋▊▉"

STOPPED = {
    "all_in": "everyone has answered",
    "unbeatable_lead": "the lead cannot be beaten, so the rest was not waited for",
    "posterior": "the lead is 95 % sure to last, so the rest was not waited for",
    "ahead": "one answer is as far ahead as was asked for",
    "agreed": "enough of those asked first agree, so nobody else was asked",
    "strongest": "the smaller models did not agree, so the strongest answered",
    "out_of_reach": "with the votes left no answer could get as far ahead as was asked for",
    "deadline": "time was up for those still out",
    "first": "the first usable answer was taken",
    "single": "one voter was asked, so there was no vote",
}

GROUP_STYLES = ("win", "second", "third", "fourth")


def ballot(state: VoteState, elapsed_ms: int, columns: int, rows: int | None = None) -> RenderableType:
    """The vote while it runs: who was asked, what each said, how it stands. Where `rows` is given, the voters that are
    too many for so many lines are counted."""
    tally = tally_rows(state, columns)
    parts: list[RenderableType] = [head(state, elapsed_ms)]
    if voters_shown := voter_rows(state):
        room = len(voters_shown) if rows is None else max(rows - len(tally) - 3, 1)
        kept = voters_shown if len(voters_shown) <= room else voters_shown[: room - 1]
        parts += ["", voter_table(kept, columns)]
        if len(voters_shown) > len(kept):
            parts.append(line((f"    … and {len(voters_shown) - len(kept)} more", "dim")))
    return Group(*parts, *([""] if tally else []), *tally)


def verdict(state: VoteState, columns: int) -> RenderableType:
    """The vote when it is over: the same, what ended it, who disagreed, and what it cost."""
    outcome = Table.grid(padding=(0, 2, 0, 0))
    outcome.add_column(width=LABEL_COLUMNS, justify="right", style="dim", no_wrap=True)
    outcome.add_column(overflow="fold")
    for row in outcome_rows(state):
        outcome.add_row(row.label, words(row.text, row.style))
    return Group(ballot(state, state.elapsed_ms, columns), "", outcome)


def line(*parts: tuple[str, str]) -> Text:
    """Texts, each with its style, as one line that is cut where the terminal ends."""
    cleaned = [(one_line(text), style) for text, style in parts]
    return Text.assemble(*cleaned, no_wrap=True, overflow="ellipsis")


def head(state: VoteState, elapsed_ms: int) -> Text:
    kind = state.kind.replace("_", " ") if state.candidates else ""  # of no answers it says nothing
    rest = [state.strategy, kind, duration(elapsed_ms)]
    if state.seats_out and not state.final:
        rest.insert(2, f"{state.seats_out} out")
    return line((voters(state), "bold"), (" · " + " · ".join(filter(None, rest)), "dim"))


def voters(state: VoteState) -> str:
    """How many were asked: of how many, where the load allows fewer or the rest may not be needed."""
    return (f"{state.asked} of " if state.asked < state.wanted else "") + counted(state.wanted, "voter")


@dataclass(frozen=True, slots=True)
class VoterRow:
    """A voter's line: its answer's letter and style, who it is, what it said, what that cost."""

    mark: str
    style: str
    name: str
    model: str
    said: str
    cost: str = ""


def voter_rows(state: VoteState) -> list[VoterRow]:
    """One row a voter that has answered, then who is out."""
    rows: list[VoterRow] = []
    for part in state.candidates:
        mark, style = ("–", "dim") if part.group is None else (letter(part.group), group_style(part.group))
        cost = f"{part.tokens} tok {duration(part.ms):>7}"
        rows.append(VoterRow(mark, style, part.voter, part.model, said(part), cost))
    for seats in state.out:
        standing = "not waited for" if state.final else "still out" if seats.seats == 1 else f"{seats.seats} still out"
        rows.append(VoterRow("…", "dim", seats.node, seats.model, standing))
    return rows


def said(part: VoterPart) -> str:
    return part.answer if part.abstained is None else f"abstains: {part.abstained}"


def voter_table(rows: Sequence[VoterRow], columns: int) -> Table:
    """Each voter on one line; on a narrow terminal without its model and what the answer cost."""
    wide = columns >= WIDE_COLUMNS
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=2, justify="right", no_wrap=True)
    table.add_column(max_width=min(MAX_NAME_COLUMNS, max(columns // 2, 8)), no_wrap=True)
    if wide:
        table.add_column(max_width=MAX_MODEL_COLUMNS, style="dim", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    if wide:
        table.add_column(style="dim", justify="right", no_wrap=True)
    for row in rows:
        cells = [line((row.mark, row.style)), line((row.name, ""))]
        cells += [line((row.model, ""))] if wide else []
        cells.append(line((row.said, row.style)))
        cells += [line((row.cost, ""))] if wide else []
        table.add_row(*cells)
    return table


def tally_rows(state: VoteState, columns: int) -> list[Text]:
    """One bar an answer, as long as its share of all that is and may still be cast: past the middle it must win."""
    groups = state.groups
    cast = sum(part.weight for group in groups for part in group)
    if state.strategy == "first" or "single" in (state.strategy, state.stopped_by) or not cast:
        return []
    bar_columns = min(MAX_BAR_COLUMNS, max(columns - 34, 6))
    rows: list[Text] = []
    for index, group in enumerate(groups):
        weight = sum(part.weight for part in group)
        filled = bar(weight / (cast + state.seats_out), bar_columns)
        figures = f"  {short_number(weight):>4}  {weight / cast:>4.0%}  "
        style = group_style(index)
        rows.append(
            line((f"{letter(index):>2}  {filled}", style), (figures, ""), (speaker(state, group).answer, style))
        )
    return rows


def speaker(state: VoteState, group: Sequence[VoterPart]) -> VoterPart:
    """Whose words stand for a group: the winner's where it is among them."""
    return next((part for part in group if part.voter == state.winner), group[0])


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One thing to say of a vote that is over."""

    label: str
    text: str
    style: str = ""

    @property
    def line(self) -> str:
        return f"{self.label:>{LABEL_COLUMNS}}  {self.text}"


def outcome_rows(state: VoteState) -> list[OutcomeRow]:
    """What ended the vote, what it decided, who said otherwise, and what it cost."""
    rows = [OutcomeRow("stopped", STOPPED.get(state.stopped_by or "", state.stopped_by or "unknown"))]
    rows.append(verdict_row(state))
    for index, group in enumerate(state.groups[1:], 1):
        names = [part.voter for part in group]
        more = f" and {len(names) - MAX_DISSENTERS} more" if len(names) > MAX_DISSENTERS else ""
        who = f"{', '.join(names[:MAX_DISSENTERS])}{more}"
        rows.append(OutcomeRow("dissent", f"{letter(index)}  {who}: {group[0].answer}"))
    if state.strategy == "judge":
        rows.append(OutcomeRow("judge", "none decided: the vote stands" if state.judge is None else state.judge))
    if state.cascade is not None:
        rows.append(OutcomeRow("cascade", cascade_text(state.cascade)))
    rows += [OutcomeRow("left out", f"{part.model}@{', '.join(part.nodes)}: {part.why}") for part in state.left_out]
    return [*rows, OutcomeRow("cost", cost_text(state))]


def cascade_text(cascade: CascadePart) -> str:
    """Whether the strongest model was asked, and how far the smaller ones agreed; or why it was a plain vote."""
    if cascade.strong is None:
        return f"a plain vote: {cascade.why_not or 'no model is stronger'}"
    asked = f"{cascade.strong} {'was' if cascade.asked else 'was not'} asked"
    if cascade.agreement is None or cascade.threshold is None:
        return asked
    basis = "as measured" if cascade.measured else "not measured"
    return (
        f"{asked}; {cascade.agreement:.0%} of the smaller models' votes agree, {cascade.threshold:.0%} must ({basis})"
    )


def verdict_row(state: VoteState) -> OutcomeRow:
    if state.winner is None:
        return OutcomeRow("verdict", "nobody gave an answer", "warn")
    winner = state.winner
    if state.degraded or not state.quorum:
        voted = f"{state.votes} of {state.asked} voted"
        why = state.shortfall or "no quorum"
        return OutcomeRow("verdict", f"no consensus, {voted} ({why}); the best there is: {winner}'s", "warn")
    if state.strategy in ("first", "single") or state.agreement is None:
        why = f" ({state.why})" if state.why else ""
        return OutcomeRow("verdict", f"{winner}'s answer; it was compared with no other{why}", "bold")
    majority = ", no majority" if state.outcome == "plurality" else ""
    agree = f"{state.agreement:.0%} agree, of {counted(state.votes, 'vote')}{majority}"
    likeness = "" if state.similarity is None else f", likeness to the others {state.similarity:.2f}"
    weights = ", weights as measured" if state.weights == "measured" else ""
    return OutcomeRow("verdict", f"A: {agree}{likeness}{weights}; in {winner}'s words", "win")


def cost_text(state: VoteState) -> str:
    parts = [counted(state.total_completion_tokens, "token")]
    if state.wasted_tokens:
        parts.append(f"{state.wasted_tokens} wasted on cancelled answers")
    saved = state.asked - len(state.candidates) if state.saved is None else state.saved
    if saved > 0:
        parts.append(f"{counted(saved, 'answer')} saved")
    return ", ".join([*parts, duration(state.elapsed_ms)])


def arrival_line(state: VoteState, part: VoterPart) -> str:
    """One arrival as a line of a log: who said what, and how the vote stands with it."""
    standing = "–".join(short_number(sum(voter.weight for voter in group)) for group in state.groups) or "no vote yet"
    out = f", {state.seats_out} out" if state.seats_out else ""
    who = f"{part.voter} ({part.model})"
    return f"{duration(state.elapsed_ms):>8}  {who}: {said(part)}  [{standing}{out}]"


def asked_line(state: VoteState) -> str:
    """Who was asked, as the first line of a log."""
    seats = [f"{seat.seats} {seat.model}@{seat.node}" for seat in state.out]
    return f"   asked  {voters(state)}: {', '.join(seats)}"


def letter(group: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    before, last = divmod(group, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def group_style(group: int) -> str:
    return GROUP_STYLES[0] if group == 0 else GROUP_STYLES[1 + (group - 1) % (len(GROUP_STYLES) - 1)]


def bar(share: float, columns: int) -> str:
    """A bar of `share` of the `columns`, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * columns * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(columns)


def duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def short_number(weight: float) -> str:
    """A weight with two decimals at most."""
    return f"{weight:.2f}".rstrip("0").rstrip(".")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
