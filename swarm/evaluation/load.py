"""What an endpoint carries: answers at several numbers of clients at once, summed up. Pure, but for the plot.

Closed loop: each client asks its next question when the last is answered, as people and agents do. So a saturated
endpoint is not asked more than it can answer, and its tokens a second at the knee are what it carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from swarm.errors import SetupError

WORDS: Final = (
    "river", "stone", "lantern", "harbour", "meadow", "copper", "winter", "signal", "garden", "bridge", "market",
    "violin", "engine", "forest", "letter", "mirror",
)  # fmt: skip
FEW: Final = 20  # answers at one level, below which a 95th percentile is the slowest but one at best


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """One request: when it began (seconds since the level did), its first token and end after that, and its tokens.

    `problem`: why there was no whole answer, such as `429`.
    """

    began_s: float
    first_token_s: float | None
    took_s: float
    tokens: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LoadLevel:
    """So many clients at once for `seconds`. Times are of whole answers; None where there was none.

    `tokens_per_s` counts all clients together, `tokens_per_s_each` is the median of one answer once it has begun.
    """

    clients: int
    seconds: float
    answers: int
    failed: dict[str, int]
    tokens_per_s: float
    tokens_per_s_each: float | None
    first_token_ms_p50: float | None
    first_token_ms_p95: float | None
    answer_ms_p50: float | None
    answer_ms_p95: float | None


def prompt_of(number: int, words: int) -> str:
    """A question of about so many words, unlike that of any other number: no cache has read its beginning."""
    turned = [WORDS[(number * 7 + at * (1 + number % 5)) % len(WORDS)] for at in range(max(0, words - 12))]
    return f"Note {number}: {' '.join(turned)}. Tell a short story in which these words occur."


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed (nearest rank); None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def sum_up(clients: int, seconds: float, answered: Sequence[LoadAnswer]) -> LoadLevel:
    """One level's figures; `seconds` it lasted, to the end of the last answer."""
    whole = [one for one in answered if one.problem is None]
    failed: dict[str, int] = {}
    for one in answered:
        if one.problem is not None:
            failed[one.problem] = failed.get(one.problem, 0) + 1
    firsts = [1000 * one.first_token_s for one in whole if one.first_token_s is not None]
    took = [1000 * one.took_s for one in whole]
    rates = [
        (one.tokens - 1) / (one.took_s - one.first_token_s)
        for one in whole
        if one.first_token_s is not None and one.tokens > 1 and one.took_s > one.first_token_s
    ]
    return LoadLevel(
        clients=clients,
        seconds=round(seconds, 3),
        answers=len(whole),
        failed=dict(sorted(failed.items())),
        tokens_per_s=round(sum(one.tokens for one in whole) / seconds, 1) if seconds > 0 else 0.0,
        tokens_per_s_each=_rounded(percentile(rates, 0.5)),
        first_token_ms_p50=_rounded(percentile(firsts, 0.5)),
        first_token_ms_p95=_rounded(percentile(firsts, 0.95)),
        answer_ms_p50=_rounded(percentile(took, 0.5)),
        answer_ms_p95=_rounded(percentile(took, 0.95)),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def knee(levels: Sequence[LoadLevel], share: float = 0.95) -> LoadLevel | None:
    """The fewest clients at which it gives nearly all (`share`) of the tokens a second that it ever gives."""
    most = max((level.tokens_per_s for level in levels), default=0.0)
    return next((level for level in levels if most > 0 and level.tokens_per_s >= share * most), None)


def verdict(levels: Sequence[LoadLevel]) -> str:
    """What the figures say, in a sentence."""
    best = knee(levels)
    if best is None:
        return "No answer came: nothing can be said of what it carries."
    failed = sum(sum(level.failed.values()) for level in levels)
    refused = f" {failed} requests had no whole answer." if failed else ""
    more = "" if best is not levels[-1] else " More clients than were tried may get more: see --clients."
    wait = "" if best.first_token_ms_p50 is None else f", the first token after {best.first_token_ms_p50:.0f} ms"
    clients = "one client has" if best.clients == 1 else f"{best.clients} clients have"
    return f"It carries {best.tokens_per_s:.0f} tokens/s: {clients} them{wait}.{refused}{more}"


def draw_load(levels: Sequence[LoadLevel], title: str, path: Path) -> None:
    """Tokens a second and times over the number of clients, as an SVG or PNG. Raises SetupError."""
    from swarm.evaluation.plots import STYLE, pyplot_or_refusal

    pyplot: Any = pyplot_or_refusal()
    clients = [level.clients for level in levels]
    with pyplot.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.6), layout="constrained")
        left.plot(clients, [level.tokens_per_s for level in levels], "o-", label="all answers together")
        left.plot(clients, [level.tokens_per_s_each or math.nan for level in levels], "s:", label="one answer (median)")
        left.set_ylabel("tokens/s")
        for name, of in (
            ("first token, median", [level.first_token_ms_p50 for level in levels]),
            ("first token, 95 %", [level.first_token_ms_p95 for level in levels]),
            ("whole answer, median", [level.answer_ms_p50 for level in levels]),
            ("whole answer, 95 %", [level.answer_ms_p95 for level in levels]),
        ):
            right.plot(clients, [math.nan if ms is None else ms / 1000 for ms in of], "o-", markersize=3, label=name)
        right.set_ylabel("seconds")
        right.set_ylim(bottom=0)
        for panel in (left, right):
            panel.set_xlabel("clients at once")
            panel.set_xscale("log", base=2)
            panel.set_xticks(clients, [str(count) for count in clients])
            panel.legend(fontsize=7)
        left.set_ylim(bottom=0)
        figure.suptitle(title, fontsize=9)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:  # ValueError: no such format
            raise SetupError(f"cannot write --plot {path}: {error}") from error
        finally:
            pyplot.close(figure)
