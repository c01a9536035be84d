"""What stands below the lines of a node on its terminal: the node, its models, what runs, its peers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.text import Text

from swarm.commands.dashboard import NODE_STYLES, dim, joined, model_state_text, moment, plural
from swarm.commands.screen import words
from swarm.commands.status import lasting

if TYPE_CHECKING:
    from swarm.gateway.observing.view import ChangeEntry, OwnModel, PeerEntry, RequestEntry
    from swarm.node.console import NodeNow

LABEL_COLUMNS: Final = 13  # as the banner's lines begin
SHOWN_MODELS: Final = 3  # of a peer


def live_lines(now: NodeNow, columns: int, rows: int) -> list[Text]:
    """In at most `rows` lines of at most `columns`; what has no room is counted."""
    view = now.view.federation
    kinds = [
        ("model", [model_line(model, now.tokens_per_s.get(model.id, 0.0)) for model in ordered_models(now)]),
        ("request", [request_line(request) for request in now.requests]),
        (
            "peer",
            [peer_line(peer, view.changes) for peer in sorted(view.peers, key=lambda peer: peer.state == "alive")],
        ),
    ]
    lines = [rule(now, columns)]
    if view.trust.problem:
        lines.append(Text("! ", "bold red") + words(view.trust.problem))
    given = shared([len(entries) for _, entries in kinds], rows - len(lines))
    for (kind, entries), got in zip(kinds, given, strict=True):
        shown = entries if len(entries) <= got else entries[: got - 1]
        lines += [labelled(kind, entry) for entry in shown]
        if got > len(shown):
            left = len(entries) - len(shown)
            lines.append(labelled(kind, dim(f"… and {left} more" if shown else plural(left, kind))))
    for line in lines:
        line.truncate(columns, overflow="ellipsis")
    return lines[:rows]


def rule(now: NodeNow, columns: int) -> Text:
    """The node in one line, which parts it from the lines above."""
    view = now.view.federation
    states = Counter(peer.state for peer in view.peers)
    gone = ", ".join(f"{states[state]} {state}" for state in ("suspect", "dead") if states[state])
    waiting = sum(request.state == "waiting" for request in now.requests)
    speed = sum(now.tokens_per_s.values())
    parts = [words(view.node.name, "bold"), words(view.status, "green" if view.status == "ok" else "yellow")]
    parts += [Text(plural(len(view.peers), "peer") + (f" ({gone})" if gone else ""))] if view.peers else []
    parts += [Text(f"{len(now.requests) - waiting} running")]
    parts += [Text(f"{waiting} waiting", "yellow")] if waiting else []
    parts += [Text(f"{speed:.1f} tok/s", "bold")] if speed else []
    return Text("── ", "dim") + joined(parts, max(1, columns - 6)) + Text(" ──", "dim")  # short: it is to wrap seldom


def ordered_models(now: NodeNow) -> list[OwnModel]:
    """Those that come, go or fail first, then those that work."""
    return sorted(now.view.models, key=lambda model: (model.state == "ready", model.slots_free == model.slots))


def model_line(model: OwnModel, tokens_per_s: float) -> Text:
    """One model of this node."""
    parts = [words(model.id), model_state_text(model)]
    parts += [Text(f"{model.slots_free} of {model.slots} slots free")] if model.slots else []
    parts += [Text(f"{model.waiting} waiting", "yellow")] if model.waiting else []
    parts += [Text(f"{tokens_per_s:.1f} tok/s", "bold")] if tokens_per_s else []
    return joined(parts)


def request_line(request: RequestEntry) -> Text:
    """One request in progress, from whom by the name of its key."""
    state = Text(f"{request.state} {lasting(request.running_s)}", "green" if request.state == "running" else "yellow")
    whose = words(request.key or ("a node" if request.from_ == "node" else "a client"))
    came = [] if request.tokens is None else [Text(f"{request.tokens} tokens")]
    return joined([words(request.model or "-"), state, *came, whose, words(request.path, "dim")])


def peer_line(peer: PeerEntry, changes: Sequence[ChangeEntry]) -> Text:
    """One peer; of a dead one since when and why."""
    parts = [words(peer.name), words(peer.state, NODE_STYLES.get(peer.state, ""))]
    if peer.state == "dead":
        last = next((one for one in reversed(changes) if (one.id, one.state) == (peer.id, "dead")), None)
        if last is not None:
            parts.append(Text(f"since {moment(last.at).astimezone():%H:%M:%S}: ") + words(last.reason))
        return joined(parts)
    parts += [] if peer.rtt_ms is None else [Text(f"{peer.rtt_ms:.1f} ms")]
    more = len(peer.models) - SHOWN_MODELS
    served = ", ".join(peer.models[:SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")
    parts.append(words(served or "no model yet"))
    return joined(parts)


def labelled(kind: str, text: Text) -> Text:
    """A line in the form of the banner's."""
    return Text(f"  {kind:<{LABEL_COLUMNS - 2}}", "dim") + text


def shared(counts: Sequence[int], rows: int) -> list[int]:
    """How many rows each kind gets: one after the other, as long as there are rows and entries."""
    given = [0] * len(counts)
    while rows > 0 and any(got < count for got, count in zip(given, counts, strict=True)):
        for at, count in enumerate(counts):
            if rows > 0 and given[at] < count:
                given[at] += 1
                rows -= 1
    return given
