"""`swarm status`: the swarm as one node sees it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from swarm.commands.http import NodeDoor, get_json

SHOWN_CHANGES = 5  # the last few; all that is kept is in --json


def status(door: NodeDoor, as_json: bool) -> int:
    """Print the federation view of the node behind `door`; 1 if it is not ready."""
    view = get_json(door, "/v1/federation/health")
    print(json.dumps(view, indent=2) if as_json else render(view))
    return 0 if view["status"] == "ok" else 1


def upstream_line(upstream: dict[str, Any]) -> str:
    """Where requests may go beside the nodes, and how many went."""
    state = upstream["problem"] or f"`swarm` there is {upstream['model']}, of {upstream['models']} models"
    where = "on this machine" if upstream["reach"] == "machine" else "requests may leave this machine"
    where = "requests may LEAVE THIS NETWORK" if upstream["reach"] == "internet" else where
    return f"  upstream {upstream['host']} ({upstream['mode']}): {where}; {upstream['requests']} sent so far; {state}"


def ago(at: str, now: datetime) -> str:
    """How long before `now` that was, in words."""
    passed_s = max(0, round((now - datetime.fromisoformat(at.replace("Z", "+00:00"))).total_seconds()))
    for unit, size_s in (("h", 3600), ("min", 60)):
        if passed_s >= 2 * size_s:
            return f"{passed_s // size_s} {unit} ago"
    return f"{passed_s} s ago"


def change_line(change: dict[str, Any], now: datetime) -> str:
    """One change among the peers."""
    times = f" ({change['times']} times within a minute)" if change["times"] > 1 else ""
    return f"  {ago(change['at'], now)}: {change['peer']} is {change['state']}: {change['reason']}{times}"


def render(view: dict[str, Any]) -> str:
    """The view as text for people."""
    node = view["node"]
    lines = [f"{node['name']}  {node['url']}  {view['status']}  (version {node['version']}, {node['mode']})"]
    if problem := view.get("trust", {}).get("problem"):
        lines.append(f"! {problem}")
    if view["status"] == "draining":
        lines.append("  this node is shutting down: it ends what it has begun and passes new requests on to its peers")
    if view.get("upstream"):
        lines.append(upstream_line(view["upstream"]))
    for model, nodes in sorted(view["models"].items()):
        lines.append(f"  model {model}: {', '.join(nodes)}")
    if not view["models"] and not (view.get("upstream") and view["upstream"]["model"]):
        lines.append("  no model is running yet")
    for peer in view["peers"]:
        rtt = "" if peer["rtt_ms"] is None else f", {peer['rtt_ms']} ms"
        lines.append(
            f"  peer {peer['name']}  {peer['url']}  {peer['state']} (seen {peer['last_seen_s']} s ago{rtt}, "
            f"found by {peer['source']}, {peer['slots_free']} slots free)"
        )
    if not view["peers"]:
        lines.append("  no peers")
    now = datetime.now(UTC)
    lines += [change_line(change, now) for change in view.get("changes", ())[-SHOWN_CHANGES:]]
    lines += [
        f"  no peer at {rejected['address']} ({rejected['source']}): {rejected['why']}: {rejected['reason']}"
        for rejected in view.get("rejected", ())
        if rejected["source"] == "static" or rejected["why"] not in ("itself", "down")
    ]
    lines += [
        f"  no peer at {name['name']}: it cannot be looked up ({name['problem']})"
        for name in view.get("names", ())
        if name["problem"]
    ]
    lines += [
        f"  {source['source']} is off: {source['problem']}" for source in view.get("sources", ()) if source["problem"]
    ]
    return "\n".join(lines)
