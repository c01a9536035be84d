"""Swarms of any size as a node's event stream tells them."""

from __future__ import annotations

from typing import Any

from swarm.commands.swarm_state import SwarmState, after

GIB = 2**30
OWN = "a" * 64


def node_id(number: int) -> str:
    return OWN if number == 0 else f"{number:064x}"


def node_entry(number: int, models: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
    """The part `node`'s entry of one node that is well."""
    return {
        "id": node_id(number), "name": f"node-{number}", "url": f"http://10.0.0.{number}:17615", "version": "1.4.0",
        "mode": "open", "status": "ok", "source": "peer" if number else "own", "age_s": 0.4, "state": "alive",
        "since": None, "why": None,
        "hardware": {"cpu": "AMD Ryzen 9", "cores": 16, "ram_bytes": 64 * GIB, "gpu": "NVIDIA GeForce RTX 3090",
                     "vram_bytes": 24 * GIB},
        "memory": [{"pool": "ram", "total_bytes": 64 * GIB, "free_bytes": 40 * GIB, "weights_bytes": 12 * GIB,
                    "kv_bytes": 3 * GIB}],
        "models": models, "loadable": 3, "tokens_per_s": 0.0, "running": 0, "waiting": 0, "peers": [], **given,
    }  # fmt: skip


def model_entry(name: str, **given: Any) -> dict[str, Any]:
    """A model that is ready and free."""
    return {
        "id": name, "engine": "llama.cpp", "slots": 4, "slots_free": 4, "waiting": 0, "problem": None,
        "state": "ready", "reason": None, "pinned": False, "size_bytes": 3 * GIB, "taken_bytes": 4 * GIB,
        "loading": None,
        "computation": {"name": "llama.cpp", "version": "b6000", "devices": ["CUDA0"], "gpu_layers": 33, "layers": 33,
                        "words": "llama.cpp b6000 on CUDA0"}, **given,
    }  # fmt: skip


def view_entry(peers: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
    """The part `view`."""
    return {
        "status": "ok",
        "node": {"id": OWN, "name": "node-0", "version": "1.4.0", "url": "http://10.0.0.0:17615", "mode": "open"},
        "peers": peers, "models": {}, **given,
    }  # fmt: skip


def peer_entry(number: int, **given: Any) -> dict[str, Any]:
    """A peer in the view."""
    return {
        "id": node_id(number), "name": f"node-{number}", "url": f"http://10.0.0.{number}:17615", "state": "alive",
        "models": [], "rtt_ms": 1.2 + number, "last_seen_s": 0.5, "slots_free": 4, "source": "mdns", **given,
    }  # fmt: skip


def vote_entry(number: int, **given: Any) -> dict[str, Any]:
    """A vote that four of five agreed in."""
    candidates = [
        {
            "voter": f"w{at}@node-{at}",
            "model": "qwen3:4b",
            "group": int(at == 4),
            "weight": 1.0,
            "tokens": 50,
            "ms": 900,
        }
        for at in range(5)
    ]
    return {
        "id": f"vote-{number}", "request_id": f"r{number}", "began": f"2026-11-30T12:0{number % 10}:00Z",
        "elapsed_ms": 1240, "state": "done", "model": "swarm", "strategy": "majority", "kind": "number",
        "outcome": "consensus", "votes": 5, "asked": 5, "wanted": 5, "agreement": 0.8, "margin": 0.6,
        "stopped_by": "lead", "winner": "w0@node-0", "coordinator": "node-0", "confirmed": None,
        "total_completion_tokens": 250, "wasted_tokens": 0, "candidates": candidates, "out": [], **given,
    }  # fmt: skip


def request_entry(number: int, **given: Any) -> dict[str, Any]:
    """A request that runs."""
    return {
        "id": f"r{number}", "path": "/v1/chat/completions", "from": "client", "key": "anna", "model": "qwen3:4b",
        "state": "running", "tokens": 96, "running_s": 12.3 + number, **given,
    }  # fmt: skip


def finding_entry(number: int, **given: Any) -> dict[str, Any]:
    """Something that is wrong."""
    return {
        "id": f"finding-{number}", "level": "warning", "node": OWN,
        "what": "node-0 computes on the processor although it has a GPU (NVIDIA GeForce RTX 3090)",
        "remedy": "install the build for it: `swarm engines install llama.cpp --gpu`", **given,
    }  # fmt: skip


def parts_of(nodes: int, models: int) -> dict[str, dict[str, Any]]:
    """A swarm in which the second node is dead, one model loads, something runs and something is wrong."""
    told = {}
    for number in range(nodes):
        of_node = [model_entry(f"model-{number}-{at}:4b") for at in range(models)]
        if number == 0 and models:
            of_node[0] |= {"slots_free": 3, "id": "qwen3:4b", "pinned": True}
        if number == 2 and models:
            of_node[0] |= {"state": "loading", "loading": {"share": 0.4, "left_s": 12.0}, "slots": 0, "slots_free": 0}
        told[node_id(number)] = node_entry(number, of_node)
    told[OWN] |= {"tokens_per_s": 31.5, "running": 1}
    if nodes > 1:
        told[node_id(1)] |= {
            "state": "dead", "source": "unknown", "since": "2026-11-30T12:03:00Z", "why": "connection refused",
            "memory": [],
        }  # fmt: skip
    return {
        "view": {"": view_entry([peer_entry(number) for number in range(1, nodes)])},
        "node": told,
        "vote": {f"vote-{number}": vote_entry(number) for number in range(3)},
        "finding": {"finding-0": finding_entry(0)},
        "request": {"r0": request_entry(0)},
    }


def swarm_of(nodes: int, models: int) -> SwarmState:
    """What somebody who manages the node knows of that swarm."""
    return after(SwarmState(requests={}), "snapshot", parts_of(nodes, models))
