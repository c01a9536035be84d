"""`swarm peers`: who belongs to the swarm."""

from __future__ import annotations

from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.control import as_json, ask_running
from swarm.commands.output import say
from swarm.commands.status import SHOWN_ID_CHARS
from swarm.control_messages import PEERS_PATH, Known, Peers
from swarm.node.pairing import peers_at_rest


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
