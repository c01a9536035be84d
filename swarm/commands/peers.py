"""`swarm peers`: who belongs to the swarm."""

from __future__ import annotations

from pathlib import Path

from swarm.commands.control import as_json, ask_node, find_node
from swarm.gateway.control_messages import PEERS_PATH, Known, Peers
from swarm.pairing import peers_at_rest

SHOWN_ID_CHARS = 12  # enough for `swarm revoke`


def peers(data_dir: Path, json: bool) -> int:
    """Print the members, with their states where a node runs."""
    node = find_node(data_dir)
    found = None if node is None else ask_node(node, PEERS_PATH, Peers)
    if found is None:
        found = peers_at_rest(data_dir)
    print(as_json(found) if json else peers_text(found))
    return 0


def peers_text(found: Peers) -> str:
    trust = "open: any node on the network may join" if found.mode == "open" else f"paired, swarm {found.swarm}"
    lines = [f"{found.name}  {found.id[:SHOWN_ID_CHARS]}  this node  ({trust})"]
    if found.problem is not None:
        lines.append(f"! {found.problem}")
    lines += [_line(known, found.running) for known in (*found.nodes, *found.revoked)]
    if not found.nodes:
        lines.append("  nobody else" + ("" if found.mode == "open" else " yet: `swarm invite`"))
    if not found.running:
        lines.append("No node runs here now; this is from its data directory.")
    return "\n".join(lines)


def _line(known: Known, running: bool) -> str:
    state = known.state if running or known.state == "revoked" else "not asked"
    return f"{known.name}  {known.id[:SHOWN_ID_CHARS]}  {state}  {', '.join(known.addresses)}".rstrip()
