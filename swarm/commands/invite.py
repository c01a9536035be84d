"""`swarm invite`: a code with which one more node may join the swarm of the node that runs here."""

from __future__ import annotations

from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.control import as_json, ask_running
from swarm.commands.output import say
from swarm.control_messages import INVITE_PATH, Invited, Message
from swarm.errors import SetupError


def invite(data_dir: Path, json: bool) -> int:
    """Print a new code."""
    invited = ask_running(data_dir, INVITE_PATH, Invited, Message())
    if invited is None:
        raise SetupError(
            f"no node runs here with {data_dir}, so nobody could answer whom you invite: "
            "start one with `swarm --federation`, then invite (--data-dir, if you gave it one)"
        )
    say(as_json(invited) if json else invite_text(invited))
    return 0


def invite_text(invited: Invited) -> str:
    lines = [
        f"On the machine that is to join {invited.node}:",
        "",
        f"  swarm join {invited.code}",
        "",
        f"Good once, for {invited.life_s / 60:.0f} minutes; whoever has it may join. It leads to "
        f"{', '.join(invited.addresses)}.",
    ]
    if invited.other_port is not None:
        lines.append(
            f"Joining goes to TCP {invited.other_port} this time, as the port next to the node's is taken: a firewall "
            "here must let that in."
        )
    if invited.was_open:
        lines.append(
            f"{invited.node} is paired from now on: open nodes get nothing from it any more. Invite each of your nodes."
        )
    return "\n".join(map(one_line, lines))
