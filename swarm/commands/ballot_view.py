"""A vote as lines of text. Pure: the same account, width and paint give the same lines, none wider than the width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from federation.printable_text import one_line
from swarm.commands.output import columns_of, cut, fitted
from swarm.commands.vote_stream import VoteAccount, VoterPart

MIN_COLUMNS = 20  # of a terminal; below it nothing is worth reading, and lines are simply cut
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


def standing_lines(account: VoteAccount, view: View, elapsed_ms: int) -> list[str]:
    """The vote while it runs: who was asked, what each said, how it stands."""
    tally = tally_rows(account, view.columns)
    parts = voter_rows(account, view.columns)
    if view.rows is not None:
        parts = shortened_rows(parts, view.rows - len(tally) - 4)
    rows = [head(account, elapsed_ms), [], *parts, *([[]] if tally else []), *tally]
    lines = [view.line(row) for row in rows]
    return lines if view.rows is None else lines[: max(view.rows, 1)]


def verdict_lines(account: VoteAccount, view: View) -> list[str]:
    """The vote when it is over: the same, what ended it, who disagreed, and what it cost."""
    rows = [[], *outcome_rows(account)]
    return [*standing_lines(account, view, account.elapsed_ms), *(view.line(row) for row in rows)]


def head(account: VoteAccount, elapsed_ms: int) -> Spans:
    kind = account.kind.replace("_", " ") if account.candidates else ""  # of no answers it says nothing
    rest = [account.strategy, kind, duration(elapsed_ms)]
    if account.seats_out and not account.final:
        rest.insert(2, f"{account.seats_out} out")
    return [("bold", voters(account)), ("dim", " · " + " · ".join(filter(None, rest)))]


def voters(account: VoteAccount) -> str:
    """How many were asked: of how many, where the load allows fewer or the rest may not be needed."""
    return (f"{account.asked} of " if account.asked < account.wanted else "") + counted(account.wanted, "voter")


def voter_rows(account: VoteAccount, columns: int) -> list[Spans]:
    """One row a voter: its answer's letter, who it is, what it said, what that cost; then who is out."""
    names = [part.voter for part in account.candidates] + [seats.node for seats in account.out]
    models = [seated.model for seated in (*account.candidates, *account.out)]
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
    for part, name, model in zip(account.candidates, names, models, strict=False):
        mark, style = ("–", "dim") if part.group is None else (letter(part.group), group_style(part.group))
        said = part.answer if part.abstained is None else f"abstains: {part.abstained}"
        rows.append(row(mark, style, name, model, said, f"{part.tokens} tok {duration(part.ms):>7}"))
    for seats, name, model in zip(account.out, names[len(rows) :], models[len(rows) :], strict=True):
        said = "still out" if seats.seats == 1 else f"{seats.seats} still out"
        rows.append(row("…", "dim", name, model, said if not account.final else "not waited for", ""))
    return rows


def shortened_rows(rows: list[Spans], room: int) -> list[Spans]:
    """As many as there is room for, and how many more there are."""
    if len(rows) <= max(room, 1):
        return rows
    kept = max(room - 1, 0)
    return [*rows[:kept], [("dim", f"    … and {len(rows) - kept} more")]]


def tally_rows(account: VoteAccount, columns: int) -> list[Spans]:
    """One bar an answer, as long as its share of all that is and may still be cast: past the middle it must win."""
    groups = account.groups
    cast = sum(part.weight for group in groups for part in group)
    if account.strategy in ("first", "single") or not cast:
        return []
    bar_columns = min(MAX_BAR_COLUMNS, max(columns - 34, 6))
    rows: list[Spans] = []
    for index, group in enumerate(groups):
        weight = sum(part.weight for part in group)
        filled = bar(weight / (cast + account.seats_out), bar_columns)
        said = speaker(account, group).answer
        figures = f"  {short_number(weight):>4}  {weight / cast:>4.0%}  "
        style = group_style(index)
        rows.append([(style, f"{letter(index):>2}  {filled}"), ("", figures), (style, said)])
    return rows


def speaker(account: VoteAccount, group: Sequence[VoterPart]) -> VoterPart:
    """Whose words stand for a group: the winner's where it is among them."""
    return next((part for part in group if part.voter == account.winner), group[0])


def outcome_rows(account: VoteAccount) -> list[Spans]:
    """What ended the vote, what it decided, who said otherwise, and what it cost."""
    rows = [_labelled("stopped", STOPPED.get(account.stopped_by or "", account.stopped_by or "unknown"))]
    rows.append(verdict_row(account))
    for index, group in enumerate(account.groups[1:], 1):
        names = [part.voter for part in group]
        more = f" and {len(names) - MAX_DISSENTERS} more" if len(names) > MAX_DISSENTERS else ""
        said = group[0].answer
        rows.append(_labelled("dissent", f"{letter(index)}  {', '.join(names[:MAX_DISSENTERS])}{more}: {said}"))
    if account.strategy == "judge":
        rows.append(_labelled("judge", "none decided: the vote stands" if account.judge is None else account.judge))
    return [*rows, _labelled("cost", cost_text(account))]


def verdict_row(account: VoteAccount) -> Spans:
    if account.winner is None:
        return _labelled("verdict", "nobody gave an answer", "warn")
    winner = account.winner
    if account.degraded or not account.quorum:
        voted = f"{account.votes} of {account.asked} voted"
        why = account.shortfall or "no quorum"
        return _labelled("verdict", f"no consensus, {voted} ({why}); the best there is: {winner}'s", "warn")
    if account.strategy in ("first", "single") or account.agreement is None:
        return _labelled("verdict", f"{winner}'s answer; it was compared with no other", "bold")
    agree = f"{account.agreement:.0%} agree, of {counted(account.votes, 'vote')}"
    likeness = "" if account.similarity is None else f", likeness to the others {account.similarity:.2f}"
    weights = ", weights as measured" if account.weights == "measured" else ""
    return _labelled("verdict", f"A: {agree}{likeness}{weights}; in {winner}'s words", "win")


def cost_text(account: VoteAccount) -> str:
    parts = [counted(account.total_completion_tokens, "token")]
    if account.wasted_tokens:
        parts.append(f"{account.wasted_tokens} wasted on cancelled answers")
    saved = account.asked - len(account.candidates) if account.saved is None else account.saved
    if saved > 0:
        parts.append(f"{counted(saved, 'answer')} saved")
    return ", ".join([*parts, duration(account.elapsed_ms)])


def arrival_line(account: VoteAccount, part: VoterPart) -> str:
    """One arrival as a line of a log: who said what, and how the vote stands with it."""
    said = part.answer if part.abstained is None else f"abstains: {part.abstained}"
    standing = "–".join(short_number(sum(voter.weight for voter in group)) for group in account.groups) or "no vote yet"
    out = f", {account.seats_out} out" if account.seats_out else ""
    who = f"{part.voter} ({part.model})"
    return f"{duration(account.elapsed_ms):>8}  {who}: {said}  [{standing}{out}]"


def asked_line(account: VoteAccount) -> str:
    """Who was asked, as the first line of a log."""
    seats = [f"{seat.seats} {seat.model}@{seat.node}" for seat in account.out]
    return f"   asked  {voters(account)}: {', '.join(seats)}"


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
