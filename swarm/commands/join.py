"""`swarm join CODE`: make the node of this machine, running or not, a member of the swarm that invites it."""

from __future__ import annotations

import sys
from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.control import as_json, ask_running
from swarm.commands.output import say
from swarm.control_messages import JOIN_PATH, JoinBody, Joined
from swarm.errors import SetupError
from swarm.node.folder import folder_at_rest
from swarm.node.pairing import join_at_rest

FROM_STANDARD_INPUT = "-"
MAX_TYPED_CHARS = 4096


def join(data_dir: Path, words: list[str], json: bool) -> int:
    """Join with a code; `-` reads it from standard input, where no `ps` shows it."""
    code = sys.stdin.read(MAX_TYPED_CHARS) if words == [FROM_STANDARD_INPUT] else "".join(words)
    if len(code) > MAX_TYPED_CHARS:
        raise SetupError("this is no invitation: `swarm invite` prints one word")
    joined = ask_running(data_dir, JOIN_PATH, Joined, JoinBody(code=code))
    if joined is None:
        with folder_at_rest(data_dir):
            joined = join_at_rest(data_dir, code)
    say(as_json(joined) if json else join_text(joined))
    return 0


def join_text(joined: Joined) -> str:
    others = ", ".join(joined.members)
    lines = [f"Joined the swarm of {joined.inviter}; members beside this node: {others}."]
    if joined.already:
        lines = [f"This node is a member of that swarm already, with {others}."]
    if not joined.running:
        lines.append("No node runs here now: start it with `swarm --federation`.")
    elif not joined.federated:
        lines.append("The node that runs here takes part in no federation: start it again with `swarm --federation`.")
    if joined.clock_ahead_s is not None:
        way = "ahead of" if joined.clock_ahead_s > 0 else "behind"
        lines.append(
            f"This machine's clock is {duration(abs(joined.clock_ahead_s))} {way} {joined.inviter}'s. "
            "The swarm does not mind; downloads and logs may: set it."
        )
    return "\n".join(map(one_line, lines))


def duration(seconds: float) -> str:
    """Roughly, for people."""
    for unit, length_s in (("year", 31_557_600), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}s"
    return f"{seconds:.0f} seconds"
