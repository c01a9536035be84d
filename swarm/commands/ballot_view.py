"""A vote as lines of text. Pure: the same vote, width and colours give the same lines, none wider than the width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.printable_text import one_line
from swarm.commands.output import columns_of, cut, fitted
from swarm.commands.vote_stream import VoterPart, VoteState

WIDE_COLUMNS = 64  # from here on a row has the model and what the answer cost
MAX_NAME_COLUMNS, MAX_MODEL_COLUMNS = 24, 20
MAX_BAR_COLUMNS = 30
COST_COLUMNS = 18  # "123456 tok  12.3 s"
MAX_DISSENTERS = 3  # named of each group; the rest are counted
EIGHTHS = " ▏▎▍▌▋▊▉"

STOPPED = {
    "all_in": "everyone has answered",
    "unbeatable_lead": "the lead cannot be beaten, so the rest was not waited for",
    "posterior": "the lead is 95 % sure to last, so the rest was not waited for",
    "deadline": "time was up for those still out",
    "first": "the first usable answer was taken",
    "single": "one voter was asked, so there was no vote",
}

Paint = Callable[[str, str], str]  # a style's name and a text, to the text in that style
Spans = list[tuple[str, str]]  # style and text
GROUP_STYLES = ("win", "second", "third", "fourth")


def plain(_: str, text: str) -> str:
    """No colours."""
    return text


_CODES = {
    "bold": "1", "dim": "2", "warn": "1;31",
    "win": "32", "second": "33", "third": "35", "fourth": "36",
}  # fmt: skip


def coloured(style: str, text: str) -> str:
    """The basic eight colours: a terminal's theme decides how they look."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style in _CODES and text else text


@dataclass(frozen=True, slots=True)
class View:
    """Where lines are for: `columns` wide; no more than `rows` of them, where that matters."""

    columns: int
    paint: Paint = plain
    rows: int | None = None

    def line(self, spans: Spans) -> str:
        left = self.columns
        painted: list[str] = []
        for style, text in spans:
            text = cut(one_line(text), left)
            left -= columns_of(text)
            painted.append(self.paint(style, text))
            if left <= 0:
                break
        return "".join(painted)


def standing_lines(state: VoteState, view: View, elapsed_ms: int) -> list[str]:
    """The vote while it runs: who was asked, what each said, how it stands."""
    tally = tally_rows(state, view.columns)
    parts = voter_rows(state, view.columns)
    if view.rows is not None:
        parts = shortened_rows(parts, view.rows - len(tally) - 4)
    rows = [head(state, elapsed_ms), [], *parts, *([[]] if tally else []), *tally]
    lines = [view.line(row) for row in rows]
    return lines if view.rows is None else lines[: max(view.rows, 1)]


def verdict_lines(state: VoteState, view: View) -> list[str]:
    """The vote when it is over: the same, what ended it, who disagreed, and what it cost."""
    rows = [[], *outcome_rows(state)]
    return [*standing_lines(state, view, state.elapsed_ms), *(view.line(row) for row in rows)]


def head(state: VoteState, elapsed_ms: int) -> Spans:
    kind = state.kind.replace("_", " ") if state.candidates else ""  # of no answers it says nothing
    rest = [state.strategy, kind, duration(elapsed_ms)]
    if state.seats_out and not state.final:
        rest.insert(2, f"{state.seats_out} out")
    return [("bold", voters(state)), ("dim", " · " + " · ".join(filter(None, rest)))]


def voters(state: VoteState) -> str:
    """How many were asked: of how many, where the load allows fewer or the rest may not be needed."""
    return (f"{state.asked} of " if state.asked < state.wanted else "") + counted(state.wanted, "voter")


def voter_rows(state: VoteState, columns: int) -> list[Spans]:
    """One row a voter: its answer's letter, who it is, what it said, what that cost; then who is out."""
    names = [part.voter for part in state.candidates] + [seats.node for seats in state.out]
    models = [seated.model for seated in (*state.candidates, *state.out)]
    wide = columns >= WIDE_COLUMNS
    name_columns = min(max(map(columns_of, names), default=0), MAX_NAME_COLUMNS, max(columns // 2, 8))
    model_columns = min(max(map(columns_of, models), default=0), MAX_MODEL_COLUMNS) if wide else 0
    answer_columns = columns - 4 - name_columns - 2 - (model_columns + 2 if wide else 0) - (COST_COLUMNS if wide else 0)

    def row(mark: str, style: str, name: str, model: str, said: str, cost: str) -> Spans:
        cells: Spans = [(style, fitted(mark, 2, right=True) + "  "), ("", fitted(name, name_columns) + "  ")]
        if wide:
            cells.append(("dim", fitted(model, model_columns) + "  "))
        cells.append((style, fitted(said, max(answer_columns, 0))))
        if wide:
            cells.append(("dim", fitted(cost, COST_COLUMNS, right=True)))
        return cells

    rows: list[Spans] = []
    for part, name, model in zip(state.candidates, names, models, strict=False):
        mark, style = ("–", "dim") if part.group is None else (letter(part.group), group_style(part.group))
        said = part.answer if part.abstained is None else f"abstains: {part.abstained}"
        rows.append(row(mark, style, name, model, said, f"{part.tokens} tok {duration(part.ms):>7}"))
    for seats, name, model in zip(state.out, names[len(rows) :], models[len(rows) :], strict=True):
        said = "still out" if seats.seats == 1 else f"{seats.seats} still out"
        rows.append(row("…", "dim", name, model, said if not state.final else "not waited for", ""))
    return rows


def shortened_rows(rows: list[Spans], room: int) -> list[Spans]:
    """As many as there is room for, and how many more there are."""
    if len(rows) <= max(room, 1):
        return rows
    kept = max(room - 1, 0)
    return [*rows[:kept], [("dim", f"    … and {len(rows) - kept} more")]]


def tally_rows(state: VoteState, columns: int) -> list[Spans]:
    """One bar an answer, as long as its share of all that is and may still be cast: past the middle it must win."""
    groups = state.groups
    cast = sum(part.weight for group in groups for part in group)
    if state.strategy == "first" or "single" in (state.strategy, state.stopped_by) or not cast:
        return []
    bar_columns = min(MAX_BAR_COLUMNS, max(columns - 34, 6))
    rows: list[Spans] = []
    for index, group in enumerate(groups):
        weight = sum(part.weight for part in group)
        filled = bar(weight / (cast + state.seats_out), bar_columns)
        said = speaker(state, group).answer
        figures = f"  {short_number(weight):>4}  {weight / cast:>4.0%}  "
        style = group_style(index)
        rows.append([(style, f"{letter(index):>2}  {filled}"), ("", figures), (style, said)])
    return rows


def speaker(state: VoteState, group: Sequence[VoterPart]) -> VoterPart:
    """Whose words stand for a group: the winner's where it is among them."""
    return next((part for part in group if part.voter == state.winner), group[0])


def outcome_rows(state: VoteState) -> list[Spans]:
    """What ended the vote, what it decided, who said otherwise, and what it cost."""
    rows = [_labelled("stopped", STOPPED.get(state.stopped_by or "", state.stopped_by or "unknown"))]
    rows.append(verdict_row(state))
    for index, group in enumerate(state.groups[1:], 1):
        names = [part.voter for part in group]
        more = f" and {len(names) - MAX_DISSENTERS} more" if len(names) > MAX_DISSENTERS else ""
        said = group[0].answer
        rows.append(_labelled("dissent", f"{letter(index)}  {', '.join(names[:MAX_DISSENTERS])}{more}: {said}"))
    if state.strategy == "judge":
        rows.append(_labelled("judge", "none decided: the vote stands" if state.judge is None else state.judge))
    rows += [_labelled("left out", f"{part.model}@{', '.join(part.nodes)}: {part.why}") for part in state.left_out]
    return [*rows, _labelled("cost", cost_text(state))]


def verdict_row(state: VoteState) -> Spans:
    if state.winner is None:
        return _labelled("verdict", "nobody gave an answer", "warn")
    winner = state.winner
    if state.degraded or not state.quorum:
        voted = f"{state.votes} of {state.asked} voted"
        why = state.shortfall or "no quorum"
        return _labelled("verdict", f"no consensus, {voted} ({why}); the best there is: {winner}'s", "warn")
    if state.strategy in ("first", "single") or state.agreement is None:
        why = f" ({state.why})" if state.why else ""
        return _labelled("verdict", f"{winner}'s answer; it was compared with no other{why}", "bold")
    majority = ", no majority" if state.outcome == "plurality" else ""
    agree = f"{state.agreement:.0%} agree, of {counted(state.votes, 'vote')}{majority}"
    likeness = "" if state.similarity is None else f", likeness to the others {state.similarity:.2f}"
    weights = ", weights as measured" if state.weights == "measured" else ""
    return _labelled("verdict", f"A: {agree}{likeness}{weights}; in {winner}'s words", "win")


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
    said = part.answer if part.abstained is None else f"abstains: {part.abstained}"
    standing = "–".join(short_number(sum(voter.weight for voter in group)) for group in state.groups) or "no vote yet"
    out = f", {state.seats_out} out" if state.seats_out else ""
    who = f"{part.voter} ({part.model})"
    return f"{duration(state.elapsed_ms):>8}  {who}: {said}  [{standing}{out}]"


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
    return fitted("█" * whole + (EIGHTHS[rest] if rest else ""), columns)


def duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def short_number(weight: float) -> str:
    """A weight with two decimals at most."""
    return f"{weight:.2f}".rstrip("0").rstrip(".")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _labelled(label: str, text: str, style: str = "") -> Spans:
    return [("dim", f"{label:>8}  "), (style, text)]
