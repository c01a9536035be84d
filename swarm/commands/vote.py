"""`swarm vote`: one question put to the vote, watched while the voters answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from typing import Literal

from swarm.commands.http import NodeDoor
from swarm.commands.output import complain
from swarm.commands.vote_screens import JsonScreen, LiveScreen, LogScreen, Screen, may_colour, may_redraw
from swarm.commands.vote_stream import Ballot, End, Moment, hold_vote
from swarm.errors import SetupError

CONSENSUS, NONE = 0, 1  # exit codes: a verdict with a quorum, and anything less
STDIN = "-"
STDOUT = 1  # the file descriptor
MAX_QUESTION_CHARS = 16 * 2**20  # of standard input: the node reads no more in one body

Output = Literal["text", "json", "jsonl"]


def vote(door: NodeDoor, ballot: Ballot, output: Output) -> int:
    """Hold the vote and show it; 0 if its verdict has a quorum. Ctrl-C cancels it at the node."""
    screen = _screen(output)
    try:
        with screen.ticking() if isinstance(screen, LiveScreen) else nullcontext():
            end = _watch(door, ballot, screen)
    except KeyboardInterrupt:
        complain("swarm: cancelled; the node lets its voters go")
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # else the interpreter complains at its end
        return NONE
    return CONSENSUS if end.account.quorum and not end.account.degraded else NONE


def _watch(door: NodeDoor, ballot: Ballot, screen: Screen) -> End:
    with closing(hold_vote(door, ballot)) as vote_held:
        for event in vote_held:
            if isinstance(event, Moment):
                screen.moment(event)
                continue
            screen.end(event)
            return event
    raise AssertionError("a vote ends with its end, or raises")


def _screen(output: Output) -> Screen:
    if output != "text":
        return JsonScreen(sys.stdout, every_moment=output == "jsonl")
    if may_redraw(sys.stdout, os.environ):
        return LiveScreen(sys.stdout, may_colour(os.environ))
    return LogScreen(sys.stdout)


def read_question(words: Sequence[str]) -> str:
    """The question of the command line, or of standard input where that is `-`. Raises SetupError for none."""
    question = sys.stdin.read(MAX_QUESTION_CHARS) if list(words) == [STDIN] else " ".join(words)
    if not question.strip():
        raise SetupError('the question is empty: swarm vote "QUESTION", or `-` to read it from standard input')
    return question.strip()
