"""What `swarm agent` shows, in words: a step with its vote, a call, what came of it, how the run ended. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from pydantic import JsonValue

from federation.printable_text import clean_line, cut
from swarm.agent.approval import NOT_EXECUTED, ApprovalAnswer, Approved, NotApproved, UndecidedAnswer
from swarm.agent.events import EndReason, RunEnded, StepVoted, ToolAsked, ToolDone
from swarm.agent.session import INTERRUPTED
from swarm.agent.step_vote import why_undecided
from swarm.commands.chat_answer import vote_line

MOST_VALUE_COLUMNS: Final = 60  # of one argument in a line
MOST_CALL_COLUMNS: Final = 160
MOST_SHOWN_LINES: Final = 60  # of an argument, before somebody allows a call
MOST_SHOWN_COLUMNS: Final = 2000
MOST_SAID_COLUMNS: Final = 120  # of what a failing tool said
APPROVAL_KEYS: Final = "y once, a always, n no (n WHY tells the model why), e edit"
UNDECIDED_QUESTION: Final = "    take it all the same? y yes, r vote again, n stop"
ENDS: Final[Mapping[EndReason, str]] = {
    "done": "",
    "cut": "the last answer was cut off at the most tokens that an answer may have",
    "max_turns": "not done after {steps} steps: --max-turns sets how many there may be",
    "undecided": "a step was not decided, and was not taken",
    "aborted": "aborted",
    "failed": "",
}


def call_words(tool: str, arguments: Mapping[str, JsonValue] | None, text: str = "") -> str:
    """A call in one line: `edit path=a.py old=… new=…`."""
    if arguments is None:
        return cut(clean_line(f"{tool} {text}"), MOST_CALL_COLUMNS)
    parts = [f"{name}={_value(value)}" for name, value in arguments.items()]
    return cut(" ".join([clean_line(tool), *parts]), MOST_CALL_COLUMNS)


def _value(value: JsonValue) -> str:
    plain = isinstance(value, str) and value and not any(char.isspace() or char in "\"'=" for char in value)
    text = str(value) if plain else json.dumps(value, ensure_ascii=False)
    return cut(clean_line(text), MOST_VALUE_COLUMNS)


def asked_line(event: ToolAsked, vote: StepVoted | None) -> str:
    """A step's call, and how the step was decided, where this is its first."""
    how = vote_words(vote)
    return f"{event.step:>2}  {call_words(event.tool, event.arguments, event.text)}{f' · {how}' if how else ''}"


def vote_words(vote: StepVoted | None) -> str:
    """How a step was decided: `5 of 5 agree · 60 tokens · 1.2 s`."""
    return "" if vote is None else vote_line(vote.account)


def done_line(event: ToolDone) -> str:
    """What came of a call, in a line below it."""
    result = event.result
    if not event.executed and result.output == INTERRUPTED:  # it had begun
        return f"    {INTERRUPTED}"
    if not event.executed or result.exit_code:
        said = next((line for line in reversed(result.output.splitlines()) if line.strip()), "")
        said = said if event.executed else said.removeprefix(NOT_EXECUTED)
        how = "time is up" if result.timed_out else f"exit {result.exit_code}" if event.executed else "not run"
        return f"    {how} · {cut(clean_line(said), MOST_SAID_COLUMNS)}" if said else f"    {how}"
    lines = len(result.output.splitlines())
    size = "no output" if not lines else "1 line" if lines == 1 else f"{lines} lines"
    return f"    {size}{', shortened' if result.truncated else ''} · {result.ms} ms"


def end_line(ended: RunEnded) -> str:
    """Why a run ended, where it is not done; "" where there is nothing to say."""
    return ENDS[ended.reason].format(steps=ended.steps)


def approval_question(tool: str, arguments: Mapping[str, JsonValue]) -> str:
    """What is asked before a call that may not run unasked, with its arguments whole."""
    whole = [f"      {name}: {_whole(value)}" for name, value in arguments.items()]
    return "\n".join([f"    may {clean_line(tool)} run?", *whole, f"    {APPROVAL_KEYS}"])


def _whole(value: JsonValue) -> str:
    """A value as it is, each of its lines indented, so that none looks like one of this program's."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    lines = text.split("\n")
    if (more := len(lines) - MOST_SHOWN_LINES) > 0:
        lines[MOST_SHOWN_LINES:] = [f"[{more} more lines are not shown]"]
    return "\n        ".join(cut(line, MOST_SHOWN_COLUMNS) for line in lines)


def undecided_lines(vote: StepVoted) -> list[str]:
    """A step that was not decided: what the first of all that were proposed would do, and why it is not taken."""
    calls = [cut(clean_line(f"{call.tool} {call.arguments}"), MOST_CALL_COLUMNS) for call in vote.calls]
    return [
        *(f"{vote.step:>2}? {call}" for call in calls),
        f"    not decided: {clean_line(why_undecided(vote.account))}",
    ]


def read_approval(line: str) -> ApprovalAnswer | None:
    """What a person answered; None where it is no answer (`e` is asked further)."""
    word, _, rest = line.strip().partition(" ")
    match word.lower():
        case "y" | "yes" | "once":
            return Approved()
        case "a" | "always":
            return Approved(always=True)
        case "n" | "no":
            return NotApproved(rest.strip())
        case _:
            return None


def read_undecided(line: str) -> UndecidedAnswer | None:
    """What a person answered; None where it is no answer."""
    answers: dict[str, UndecidedAnswer] = {
        "y": "go on", "yes": "go on", "r": "again", "again": "again", "n": "stop", "no": "stop", "stop": "stop",
    }  # fmt: skip
    return answers.get(line.strip().lower())


def read_edited(line: str) -> dict[str, JsonValue] | None:
    """The arguments that a person typed as JSON; None where that is no object."""
    try:
        found: JsonValue = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
