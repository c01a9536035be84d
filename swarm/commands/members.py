"""`swarm invite`: a code with which one more node may join the swarm of the node that runs here.

`swarm join CODE`: make the node of this machine, running or not, a member of the swarm that invites it.

`swarm peers`: who belongs to the swarm.

`swarm revoke ID`: a node is no member any more, everywhere; this node's own id makes it leave the swarm.
"""

from __future__ import annotations

import sys
from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.control import as_json, ask_running
from swarm.commands.output import say
from swarm.commands.status import SHOWN_ID_CHARS
from swarm.control_messages import (
    INVITE_PATH,
    JOIN_PATH,
    MAX_WHO_CHARS,
    PEERS_PATH,
    REVOKE_PATH,
    Invited,
    JoinBody,
    Joined,
    Known,
    Message,
    Peers,
    RevokeBody,
    Revoked,
)
from swarm.errors import SetupError
from swarm.node.folder import folder_at_rest
from swarm.node.pairing import join_at_rest, peers_at_rest, revoke_at_rest


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


def peers(data_dir: Path, json: bool) -> int:
    """Print the members, with their states where a node runs."""
    found = ask_running(data_dir, PEERS_PATH, Peers) or peers_at_rest(data_dir)
    say(as_json(found) if json else peers_text(found))
    return 0


def peers_text(found: Peers) -> str:
    trust = "open: any node on the network may join" if found.mode == "open" else f"paired, swarm {found.swarm}"
    rows = [(found.name, found.id[:SHOWN_ID_CHARS], "this node", f"({trust})")]
    rows += [_row(known, found.running) for known in (*found.nodes, *found.revoked)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join((*map(str.ljust, row, widths), row[-1])).rstrip() for row in rows]
    if found.problem is not None:
        lines.insert(1, f"! {found.problem}")
    if not found.nodes:
        lines.append("nobody else" + ("" if found.mode == "open" else " yet: `swarm invite`"))
    if not found.running:
        lines.append("No node runs here now; this is from its data directory.")
    return "\n".join(map(one_line, lines))


def _row(known: Known, running: bool) -> tuple[str, str, str, str]:
    state = known.state if running or known.state == "revoked" else "not asked"
    return known.name, known.id[:SHOWN_ID_CHARS], state, ", ".join(known.addresses)


def revoke(data_dir: Path, who: str, json: bool) -> int:
    """Unpin `who`: an id, its beginning, or a name."""
    if not 1 <= len(who.strip()) <= MAX_WHO_CHARS:
        raise SetupError("say whom to revoke: a node id, its beginning, or a name; `swarm peers` shows them")
    revoked = ask_running(data_dir, REVOKE_PATH, Revoked, RevokeBody(who=who))
    if revoked is None:
        with folder_at_rest(data_dir):
            revoked = revoke_at_rest(data_dir, who)
    say(as_json(revoked) if json else revoke_text(revoked))
    return 0


def revoke_text(revoked: Revoked) -> str:
    if revoked.itself:
        told = f"; told {', '.join(revoked.told)}" if revoked.told else ""
        now = "stays closed to other nodes, because it has an API key" if revoked.closed else "is open again"
        return f"{revoked.name} has left its swarm and {now}{told}."
    lines = [f"{revoked.name} ({revoked.id}) is revoked: it gets nothing from this node any more."]
    if revoked.knows:
        lines.append("It knows that, and whom to ask for a new code.")
    if revoked.told:
        lines.append(f"Told: {', '.join(revoked.told)}.")
    if revoked.untold:
        lines.append(
            f"Not here now: {', '.join(revoked.untold)}; each hears of it as soon as it meets a member that knows."
        )
    return "\n".join(map(one_line, lines))
