"""`swarm revoke ID`: a node is no member any more, everywhere; this node's own id makes it leave the swarm."""

from __future__ import annotations

from pathlib import Path

from federation.printable_text import one_line
from swarm.commands.control import as_json, ask_running
from swarm.commands.output import say
from swarm.control_messages import MAX_WHO_CHARS, REVOKE_PATH, RevokeBody, Revoked
from swarm.errors import SetupError
from swarm.node.folder import folder_at_rest
from swarm.node.pairing import revoke_at_rest


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
