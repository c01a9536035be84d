"""What a run of `swarm agent` looks like: for a person line by line, for programs as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from typing import Final

from swarm.agent.events import (
    AgentEvent,
    ResultsCut,
    RunEnded,
    RunFailed,
    RunStarted,
    Steered,
    StepVoted,
    TextPiece,
    ThoughtPiece,
    ToolAsked,
    ToolDone,
    as_json,
)
from swarm.commands.agent_lines import asked_line, done_line, end_line, undecided_lines, vote_words
from swarm.commands.ballot_view import counted
from swarm.commands.output import Stream, complain, is_terminal, may_redraw, say, say_line, show_progress, write

ASKING: Final = "asking the swarm …"


class AgentScreen:
    """For a person. Each step is a line with its vote; words come as they are made, and their vote after them."""

    def __init__(self) -> None:
        self._live = is_terminal(sys.stdout) and may_redraw(sys.stdout, os.environ)
        self._stream: Stream | None = None  # of words whose line has not ended
        self._vote: StepVoted | None = None
        self._last = ""

    def tell(self, event: AgentEvent) -> None:
        """Show what happened."""
        match event:
            case RunStarted():
                self._waits()
            case TextPiece():
                if self._stream is None:
                    self._stream = Stream()
                self._stream.show(event.text)
                self._last = event.text or self._last
            case ThoughtPiece():
                pass  # `--json` has them
            case StepVoted():
                self._vote = event
                if not event.decided:
                    self._end_words()
                    for line in undecided_lines(event):
                        say_line(line)
            case ToolAsked():
                self._end_words()
                say_line(asked_line(event, self._vote))
                self._vote = None
            case ToolDone():
                say_line(done_line(event))
                self._waits()
            case Steered():
                self._end_words()
                say_line(f"    + {event.text}")
            case ResultsCut():
                say_line(f"    {counted(event.results, 'old result')} cut: the conversation did not fit any more")
            case RunFailed():
                self._end_words()
            case RunEnded():
                self._end_words()
                if (self._vote is None or self._vote.decided) and (how := vote_words(self._vote)):
                    say_line(f"    [{how}]")
                self._vote = None
                if line := end_line(event):
                    complain(f"swarm: {line}")

    def _end_words(self) -> None:
        if self._stream is not None:
            self._stream = None
            if not self._last.endswith("\n"):
                say()

    def _waits(self) -> None:
        if self._live:
            show_progress(sys.stdout, f"    {ASKING}", passing=True)


class JsonLines:
    """For programs: each event as a JSON object on a line of its own (docs/agent.md)."""

    def tell(self, event: AgentEvent) -> None:
        """Write what happened."""
        write(sys.stdout, json.dumps(as_json(event)) + "\n")
