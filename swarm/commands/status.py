"""`swarm status`: the swarm as one node sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from federation.printable_text import one_line
from swarm.commands.node_client import NodeApi, get_json
from swarm.commands.output import say
from swarm.quantities import load_words

if TYPE_CHECKING:
    from swarm.gateway.observing.view import (
        AccessEntry,
        ChangeEntry,
        FederationView,
        LendingEntry,
        OwnModel,
        PeerEntry,
        UpstreamEntry,
    )

SHOWN_ID_CHARS = 12  # enough for `swarm revoke`
SHOWN_ENGINES = 4  # models of a peer
SHOWN_CHANGES = 5  # the last few; all that is kept is in --json


def status(api: NodeApi, as_json: bool) -> int:
    """Print the swarm as the node at `api` sees it; 1 if that node is not ready."""
    answer = get_json(api, "/v1/federation/health")
    if as_json:
        say(json.dumps(answer, indent=2))
    else:
        from swarm.gateway.observing.view import parse_view  # with pydantic: only for an answer that is there

        say(render(parse_view(answer)))
    return 0 if answer.get("status") == "ok" else 1


def upstream_line(upstream: UpstreamEntry) -> str:
    """Where requests may go beside the nodes, and how many went."""
    state = upstream.problem or f"`swarm` there is {upstream.model}, of {upstream.models} models"
    where = "on this machine" if upstream.reach == "machine" else "requests may leave this machine"
    where = "requests may LEAVE THIS NETWORK" if upstream.reach == "internet" else where
    return f"  upstream {upstream.host} ({upstream.mode}): {where}; {upstream.requests} sent so far; {state}"


def access_line(access: AccessEntry) -> str | None:
    """What an API key does not close, or closes beside the API; None where that goes without saying."""
    match access.api, access.peers:
        case "key", "anyone":
            return "! open to nodes without the API key: any machine may have answers generated (--open-federation)"
        case "key", "nobody":
            return "! closed to other nodes: this one has an API key and no members (`swarm invite`, `swarm join CODE`)"
        case _:
            return None


def alone_line(access: AccessEntry) -> str:
    """Of a node without peers, and what to do about it."""
    if access.peers == "none":
        return "  no peers: this node takes part in no federation (start it with `swarm --federation`)"
    return "  no peers: `swarm doctor` says what may be in the way; --peer HOST:PORT leads to a node without mDNS"


def since(at: str, now: datetime) -> str:
    """The time from then to `now`, in words."""
    return lasting(max(0.0, (now - datetime.fromisoformat(at.replace("Z", "+00:00"))).total_seconds()))


def lasting(passed_s: float) -> str:
    """So many seconds, in words."""
    whole_s = round(passed_s)
    for unit, size_s in (("h", 3600), ("min", 60)):
        if whole_s >= 2 * size_s:
            return f"{whole_s // size_s} {unit}"
    return f"{whole_s} s"


def peer_line(peer: PeerEntry, changes: Sequence[ChangeEntry], now: datetime) -> str:
    """One peer; of a dead one, whose figures are old, since when and why; `changes` have the oldest first."""
    who = f"  peer {peer.name}  {peer.url}  "
    if peer.state != "dead":
        rtt = "" if peer.rtt_ms is None else f", {peer.rtt_ms} ms"
        seen = f"seen {peer.last_seen_s} s ago{rtt}, found by {peer.source}, {peer.slots_free} slots free"
        return f"{who}{peer.state} ({seen})"
    for change in reversed(changes):
        if (change.id, change.state) == (peer.id, "dead"):
            return f"{who}dead for {since(change.at, now)}: {change.reason}"
    return f"{who}dead: last seen {lasting(peer.last_seen_s)} ago"


def problem_lines(peer: PeerEntry, mode: str) -> list[str]:
    """What stands out of how a peer behaves, and what a person can do about it; nothing for one like the rest."""
    if not peer.problems:
        return []
    if mode == "paired":
        remedy = f"if that is no weak model or a defect: swarm revoke {peer.id[:SHOWN_ID_CHARS]}"
    else:
        remedy = "this swarm is open, and nobody can be put out: `swarm invite` pairs your own machines"
    return [f"  ! {peer.name} ({peer.id[:SHOWN_ID_CHARS]}): {'; '.join(peer.problems)}", f"    {remedy}"]


def own_model_line(model: OwnModel) -> str:
    """One model of the node that was asked: in which state it is, what it takes, and how far it is loaded."""
    from swarm.registry.model_memory import size_text  # only for an answer that is there

    if model.state == "loading":
        share, left_s = (None, None) if model.loading is None else (model.loading.share, model.loading.left_s)
        waiting = f" ({model.waiting} waiting for it)" if model.waiting else ""
        over = f" {over_words(model.nodes)}" if model.nodes else ""
        return f"  {load_words(model.id + over, share, left_s)}{waiting}"
    reason = model.problem or model.reason if model.state == "failed" else model.reason  # the newest alone
    facts = [f"{model.state}: {reason}" if reason else model.state]
    if model.state in ("ready", "draining"):
        facts.append(f"{model.slots_free} of {model.slots} slots free")
    facts += [f"{model.waiting} waiting"] if model.waiting else []
    facts += [f"{size_text(model.taken_bytes)} of memory"] if model.taken_bytes and model.state != "failed" else []
    facts += ["pinned"] if model.pinned else []
    facts += [over_words(model.nodes)] if model.nodes and not model.computation else []
    facts += [f"by {model.computation.words}"] if model.computation else []
    facts += [model.problem] if model.problem and model.problem != reason else []
    return f"  own model {model.id}: {', '.join(facts)}"


def over_words(nodes: Sequence[str]) -> str:
    """Which machines a model lies on, the host first."""
    return f"over {' + '.join(nodes)}"


def engine_lines(peer: PeerEntry) -> list[str]:
    """With what a peer computes its models and over which machines, as it says."""
    told = [
        f"    {model}: {f'by {peer.engines[model]}' if model in peer.engines else over_words(peer.pooled[model])}"
        for model in sorted({*peer.engines, *peer.pooled})
    ]
    more = len(told) - SHOWN_ENGINES
    return told if more <= 0 else [*told[:SHOWN_ENGINES], f"    and {more} more (--json)"]


def offer_words(lending: LendingEntry) -> str:
    """What a node lends, and what of that is to be had."""
    from swarm.registry.model_memory import size_text

    if lending.draining:
        return "lends no more memory"
    unused = "" if lending.problem is None else f", unused: {lending.problem}"
    return f"lends {size_text(lending.total_bytes)} of memory, {size_text(lending.free_bytes)} free{unused}"


def lending_lines(lending: LendingEntry | None) -> list[str]:
    """What the node that was asked lends, and to whom."""
    from swarm.registry.model_memory import size_text

    if lending is None:
        return []
    wanted = ": what is lent goes back" if lending.draining and lending.lent else ""
    head = f"  {offer_words(lending)}{wanted} (llama.cpp {lending.build})"
    return [head, *(f"    {size_text(lent.bytes)} to {lent.node} for {lent.model}" for lent in lending.lent)]


def memory_lines(models: Sequence[OwnModel]) -> list[str]:
    """What the models of the node take together, where there are several."""
    from swarm.registry.model_memory import size_text

    taken = [model.taken_bytes for model in models if model.taken_bytes]
    return [f"  memory: its {len(taken)} models take {size_text(sum(taken))}"] if len(taken) > 1 else []


def change_line(change: ChangeEntry, now: datetime) -> str:
    """One change among the peers."""
    times = f" ({change.times} times within a minute)" if change.times > 1 else ""
    return f"  {since(change.at, now)} ago: {change.peer} is {change.state}: {change.reason}{times}"


def render(view: FederationView) -> str:
    """The view as text for people."""
    node, now = view.node, datetime.now(UTC)
    lines = [f"{node.name}  {node.url}  {view.status}  (version {node.version}, {node.mode})"]
    if view.trust.problem:
        lines.append(f"! {view.trust.problem}")
    if warning := access_line(view.access):
        lines.append(warning)
    if view.status == "draining":
        lines.append("  this node is shutting down: it ends what it has begun and passes new requests on to its peers")
    lines += map(upstream_line, view.upstreams)
    if view.tools:
        lines.append(f"  tools: {', '.join(view.tools)} (for agents and MCP clients: {node.url}/mcp)")
    if view.records:
        lines.append("! records prompts of the last votes, in memory, for those who manage this node (--record)")
    for model, nodes in sorted(view.models.items()):
        lines.append(f"  model {model}: {', '.join(nodes)}")
    lines += map(own_model_line, view.own_models)
    lines += memory_lines(view.own_models)
    lines += lending_lines(view.lending)
    if not view.models and not view.own_models and not any(entry.model for entry in view.upstreams):
        lines.append("  no model is running" + ("" if view.status == "ok" else " yet"))
    for peer in view.peers:
        lends = [f"    {offer_words(peer.lending)}"] if peer.lending is not None and peer.state != "dead" else []
        lines += [peer_line(peer, view.changes, now), *engine_lines(peer), *lends, *problem_lines(peer, node.mode)]
    lines += [
        f"  member {member.name}  absent: not seen since this node started, or for over ten minutes"
        for member in view.trust.absent
    ]
    if not view.peers and not view.trust.absent:
        lines.append(alone_line(view.access))
    lines += [change_line(change, now) for change in view.changes[-SHOWN_CHANGES:]]
    lines += [
        f"  no peer at {rejected.address} ({rejected.source}): {rejected.why}: {rejected.reason}"
        for rejected in view.rejected
        if rejected.source == "static" or rejected.why not in ("itself", "down")
    ]
    lines += [
        f"  no peer at {name.name}: it cannot be looked up ({name.problem})" for name in view.names if name.problem
    ]
    lines += [f"  {source.source} is off: {source.problem}" for source in view.sources if source.problem]
    return "\n".join(map(one_line, lines))
