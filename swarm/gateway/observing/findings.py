"""What is wrong now, and what to do about it, as far as a node's own view shows it: pure functions, for the page.

`swarm doctor` judges the same things by the same functions, with its own probes beside them: the words are here once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from federation import wire
from federation.peer import Source, Why
from hardware.snapshot import GIB_BYTES, MIB_BYTES, HardwareSnapshot
from hardware.snapshot_text import unused_gpu
from swarm.gateway.observing.board import EventBoard
from swarm.gateway.observing.changes import ViewChange, ViewChanges
from swarm.gateway.observing.view import FederationView, NodeView, OwnModel, PeerEntry, RejectedEntry

FindingLevel = Literal["problem", "warning", "note"]
MAX_FINDINGS: Final = 200  # told at once; whoever has more sees the gravest first
MAX_CHARS: Final = 400  # of each sentence: peers choose some of the words
WAITING: Final = "waiting for "  # how the reason begins of a model that no lenders can be had for

LITTLE_MEMORY_BYTES: Final = 2 * GIB_BYTES  # the smallest models worth talking to need about one
NO_MEMORY_BYTES: Final = 256 * MIB_BYTES  # a node with the embedded model takes 150 MiB
LITTLE_DISK_BYTES: Final = 2 * GIB_BYTES  # the smallest models worth downloading have about one
NO_DISK_BYTES: Final = 50 * MIB_BYTES  # the node's own files and a log

_REJECTED_REMEDY: Final = {
    Why.DOWN: "start the node there; check the address, and the firewall there",
    Why.NO_NODE: "check the address and the port: something else answers",
    Why.VERSION: "run the same version of local-swarm on both",
    Why.COPY: "delete node.pem in the data directory of the copy, and start it again",
    Why.FULL: "nothing to do: the others know the rest",
    Why.UNTRUSTED: "`swarm invite` here and `swarm join CODE` there, if it is one of yours; else check the address",
}  # what is not here is harmless: the node itself, and one that is leaving


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, and what to do about it."""

    level: FindingLevel
    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEntry:
    """One finding. `id` stays the same while it holds; `node`: the id of the node that it is about, if it is one."""

    id: str
    level: FindingLevel
    node: str | None
    what: str
    remedy: str


# What the doctor says in the same words


def rejected_trouble(why: str, source: str, reason: str) -> Trouble | None:
    """Of an address that leads to no peer; None where that is as it should be."""
    remedy = _REJECTED_REMEDY.get(Why(why)) if why in tuple(Why) else "see docs/discovery.md"
    if remedy is None or (why == Why.DOWN and source != Source.STATIC.word):
        return None
    return Trouble("warning", f"{why}: {reason}", remedy)


def put_out_trouble(problem: str) -> Trouble:
    """Of a node that is no member of its swarm any more."""
    return Trouble("problem", problem, "join again, or leave with `swarm leave`; until then it works alone")


def key_and_peers_trouble(with_key: bool, peers: str, runs: bool) -> Trouble | None:
    """Whether an API key keeps other nodes out, too; None where there is nothing to report.

    `peers`: who may ask this node as nodes (AccessRules.peers). `runs`: a node that runs here says so.
    """
    if not with_key or peers not in ("anyone", "nobody"):
        return None
    if peers == "anyone":
        said = f"clients need a key, but any machine that reaches the port may have answers generated at {wire.PREFIX}"
        return Trouble("warning", f"{said} without one (--open-federation)", "pair the nodes: `swarm invite`")
    remedy = "`swarm join CODE` with another node's code, or --open-federation"
    if runs:
        said = "the node that runs here has a key and no members, so no other node may ask it"
        return Trouble("warning", said, remedy)
    return Trouble("warning", "a node with this API key does not start in an open federation", remedy)


def versions_trouble(own: str, versions: Sequence[str]) -> Trouble | None:
    """Of peers in another version than this node's `own`."""
    others = sorted({version for version in versions if version != own})
    if not others:
        return None
    return Trouble("warning", f"this is {own}; peers run {', '.join(others)}", "they work together; update the older")


def gpu_trouble(snapshot: HardwareSnapshot, gpu_used: bool) -> Trouble | None:
    """Of a GPU that idles. One that shares the machine's memory brings less: that it is not used is no fault."""
    if gpu_used or not snapshot.has_gpu or (snapshot.gpus and all(gpu.integrated for gpu in snapshot.gpus)):
        return None
    remedy = "run `swarm engines install`, which looks at the machine and gets an engine that uses it"
    return Trouble("warning", unused_gpu(snapshot) or "", remedy)


def memory_trouble(free_bytes: int, limit: str = "") -> Trouble | None:
    """Of little memory; `limit` is what is said of a container's."""
    if free_bytes >= LITTLE_MEMORY_BYTES:
        return None
    remedy = "end other programs, give the container more, or serve a smaller model (swarm models fit)"
    level: FindingLevel = "problem" if free_bytes < NO_MEMORY_BYTES else "warning"
    return Trouble(level, f"{gib(free_bytes)} free{limit}", remedy)


def disk_trouble(path: str, free_bytes: int) -> Trouble | None:
    """Of a disk that is nearly full."""
    if free_bytes >= LITTLE_DISK_BYTES:
        return None
    remedy = "delete models (swarm models rm) or other files, or choose another disk with --data-dir"
    level: FindingLevel = "problem" if free_bytes < NO_DISK_BYTES else "warning"
    return Trouble(level, f"{path}: {gib(free_bytes)} free", remedy)


def gib(count_bytes: int) -> str:
    """A size in words."""
    return f"{count_bytes / GIB_BYTES:.1f} GiB" if count_bytes >= GIB_BYTES else f"{count_bytes / MIB_BYTES:.0f} MiB"


# What the view alone shows


def findings_of(
    view: FederationView, versions: Mapping[str, str], machine: Mapping[str, Trouble] | None = None
) -> dict[str, FindingEntry]:
    """Every finding by its id, the gravest first. `versions` are those of the peers, by their ids.

    `machine` has what is wrong with the machine, by what it is about (`gpu`, `disk`, `memory`).
    """
    found = [
        *_of_node(view),
        *_of_machine(view, machine or {}),
        *_of_models(view),
        *_of_lending(view),
        *_of_peers(view, versions),
    ]
    found.sort(key=lambda entry: ("problem", "warning", "note").index(entry.level))
    return {entry.id: entry for entry in found[:MAX_FINDINGS]}


def _entry(key: str, node: str | None, trouble: Trouble) -> FindingEntry:
    return FindingEntry(
        id=key, level=trouble.level, node=node, what=_bounded(trouble.what), remedy=_bounded(trouble.remedy)
    )


def _bounded(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"


def _of_node(view: FederationView) -> Iterator[FindingEntry]:
    own = view.node.id
    if view.trust.problem is not None:
        yield _entry("trust", own, put_out_trouble(view.trust.problem))
    access = key_and_peers_trouble(view.access.api == "key", view.access.peers, True)
    if access is not None:
        yield _entry("access", own, access)
    for source in view.sources:
        if source.problem is not None:
            remedy = "`swarm doctor` says what is in the way; --peer HOST:PORT leads to a node without it"
            yield _entry(
                f"source:{source.source}", own, Trouble("warning", f"{source.source} is off: {source.problem}", remedy)
            )
    for name in view.names:
        if name.problem is not None:
            said = f"no peer at {name.name}: it cannot be looked up ({name.problem})"
            yield _entry(f"name:{name.name}", own, Trouble("warning", said, "correct --peer, or the name's DNS entry"))
    for upstream in view.upstreams:
        if upstream.problem is None:
            continue
        said = f"upstream {upstream.host}: {upstream.problem}"
        trouble = Trouble("warning", said, "start it, or check --upstream and its key")
        yield _entry(f"upstream:{upstream.host}", own, trouble)
    if view.access.peers != "none" and not view.peers and not view.trust.absent:
        remedy = "`swarm doctor` says what may be in the way; --peer HOST:PORT leads to a node without mDNS"
        yield _entry("alone", own, Trouble("note", "no other node has been found yet", remedy))


def _of_machine(view: FederationView, machine: Mapping[str, Trouble]) -> Iterator[FindingEntry]:
    for key, trouble in machine.items():
        yield _entry(f"machine:{key}", view.node.id, trouble)


def _of_models(view: FederationView) -> Iterator[FindingEntry]:
    for model in view.own_models:
        if (trouble := model_trouble(model)) is not None:
            yield _entry(f"model:{model.id}", view.node.id, trouble)


def _of_lending(view: FederationView) -> Iterator[FindingEntry]:
    lending, others = view.lending, [*view.peers, *view.trust.absent]
    if lending is not None and lending.draining and lending.lent:
        who = ", ".join(sorted({lent.node for lent in lending.lent}))
        said = f"memory that this node lent to {who} is wanted back: their models are loaded anew without it"
        yield _entry("lending", view.node.id, Trouble("note", said, "nothing to do: it is over within half a minute"))
    elif lending is not None and not lending.draining and not others:
        said = f"this node lends {gib(lending.total_bytes)} of memory, and no other member is there to use it"
        remedy = "`swarm invite` here, `swarm join CODE` on another machine, and start that one with --pool"
        yield _entry("lending", view.node.id, Trouble("note", said, remedy))
    for peer in view.peers:
        if peer.lending is None or peer.lending.draining or peer.state == "dead":
            continue
        if peer.lending.problem is not None:
            said = f"{peer.name} lends memory that this node does not use: {peer.lending.problem}"
            remedy = "where the builds differ `swarm engines install native` on both; else look at its log"
            yield _entry(f"lender:{peer.id}", peer.id, Trouble("warning", said, remedy))


def model_trouble(model: OwnModel) -> Trouble | None:
    """Of a model that failed, or does not run as it should."""
    reason = model.problem or model.reason or "no reason is known"
    if model.state == "failed" and (model.nodes or reason.startswith(WAITING)):
        again = f"start {' and '.join(model.nodes[1:])} again, or lend" if model.nodes[1:] else "lend"
        remedy = f"{again} memory on another machine (`swarm --lend`): the model is loaded by itself then"
        return Trouble("problem", f"model {model.id} is not there: {reason}", remedy)
    if model.state == "failed":
        remedy = "load it again (`swarm models load`); `swarm doctor` looks at the engine and at the file"
        return Trouble("problem", f"model {model.id} failed: {model.reason or reason}", remedy)
    if model.problem is not None and model.nodes:
        remedy = "nothing to do: what runs on it may end, then it is loaded anew over whoever else lends memory"
        return Trouble("warning", f"model {model.id}: {model.problem}", remedy)
    if model.problem is not None:
        remedy = "wait a moment: its engine is started again; if it stays, unload it and load it anew"
        return Trouble("problem", f"model {model.id}: {model.problem}", remedy)
    return None


def _of_peers(view: FederationView, versions: Mapping[str, str]) -> Iterator[FindingEntry]:
    for rejected in view.rejected:
        if (trouble := _of_rejected(rejected)) is not None:
            yield _entry(f"rejected:{rejected.address}", None, trouble)
    for peer in view.peers:
        yield from _of_peer(peer)
    older = versions_trouble(view.node.version, [versions[peer.id] for peer in view.peers if peer.id in versions])
    if older is not None:
        yield _entry("versions", None, older)
    for member in view.trust.absent:
        remedy = "start its node, or name it with --peer HOST:PORT; `swarm revoke` removes one that is gone"
        yield _entry(f"absent:{member.id}", member.id, Trouble("note", f"{member.name} has not been seen", remedy))


def _of_rejected(rejected: RejectedEntry) -> Trouble | None:
    trouble = rejected_trouble(rejected.why, rejected.source, rejected.reason)
    if trouble is None:
        return None
    return Trouble(trouble.level, f"no peer at {rejected.address}: {trouble.what}", trouble.remedy)


def _of_peer(peer: PeerEntry) -> Iterator[FindingEntry]:
    if peer.state == "dead":
        said = f"{peer.name} does not answer any more"
        remedy = "start its node, or let the port in through the firewall there"
        yield _entry(f"dead:{peer.id}", peer.id, Trouble("warning", said, remedy))
    elif peer.circuit == "open":
        said = f"requests to {peer.name} fail: it is left alone for a while"
        yield _entry(
            f"circuit:{peer.id}", peer.id, Trouble("warning", said, "look at its log; `swarm doctor` there says more")
        )
    if peer.problems:
        remedy = "nothing is done about it by itself: look at that node, or `swarm revoke` it"
        yield _entry(
            f"conduct:{peer.id}", peer.id, Trouble("warning", f"{peer.name}: {'; '.join(peer.problems)}", remedy)
        )


def show_findings(
    board: EventBoard,
    look: Callable[[], NodeView],
    changes: ViewChanges,
    versions: Callable[[], Mapping[str, str]],
    machine: Callable[[], Mapping[str, Trouble]],
) -> None:
    """Keep the board's part `finding` while anybody watches it; what of the machine is wrong is asked with each."""
    end: list[Callable[[], None]] = []

    def put(view: FederationView) -> None:
        found = findings_of(view, versions(), machine())
        board.only("finding", {key: asdict(entry) for key, entry in found.items()})

    async def changed(change: ViewChange) -> None:
        put(change.after.federation)

    def watched(begins: bool) -> None:
        if begins:
            put(look().federation)
            end.append(changes.subscribe(changed))
        else:
            end.pop()()

    board.on_watch("finding", watched)
