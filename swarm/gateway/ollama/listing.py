"""Models as Ollama's clients read them: those that there are, those that are loaded, and what is known of one.

Nothing is loaded to be described: what a model on this node's disk is, its files say. What nobody here knows is empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from pydantic import JsonValue

from swarm.gateway.openai.listing import ModelOnNodes
from swarm.generation import JsonObject
from swarm.registry.model_card import ModelCard
from swarm.routing.replicas import SWARM_ALIAS

NEVER: Final = "9999-12-31T23:59:59Z"  # when a model goes for which no time is set: the last instant that is written
FIRST: Final = "0001-01-01T00:00:00Z"
THOUSAND: Final = 1000
FORMATS: Final = {"gguf": "gguf", "mlx": "safetensors"}  # Ollama's words for kinds of files
UNKNOWN: Final = "unknown"
PARAMETERS: Final = {"max_tokens": "num_predict"}  # that Ollama calls otherwise


def instant(unix_s: float) -> str:
    """A Unix time as Ollama writes it; of one that no date is for, such as a file's may be, the nearest."""
    try:
        moment = datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        return NEVER if unix_s > 0 else FIRST
    return moment.isoformat().replace("+00:00", "Z")


def size_text(params: int | None) -> str:
    """A count of parameters as Ollama writes it: 3.2B, 134.5M; "" where it is not known."""
    if not params:
        return ""
    for unit, of in (("B", THOUSAND**3), ("M", THOUSAND**2), ("K", THOUSAND)):
        if params >= of:
            return f"{params / of:.1f}{unit}"
    return str(params)


def details_of(model: ModelOnNodes) -> JsonObject:
    """{"format", "family", ...}: of a model on this node's disk what its files say; "" for what is not known.

    Every key is there, since clients index them.
    """
    stored = model.stored
    facts = stored.facts if stored is not None else None
    known = model.replicas if model.name != SWARM_ALIAS else ()
    params = next((params for replica in known if (params := replica.params or replica.reported_params)), None)
    return {
        "parent_model": "",
        "format": FORMATS.get((stored and stored.format) or "", ""),
        "family": facts.architecture if facts else "",
        "families": [facts.architecture] if facts else [],
        "parameter_size": size_text(facts.params if facts else params),
        "quantization_level": quantization_text(facts.quant) if facts else "",
    }


def quantization_text(quant: str | None) -> str:
    """As Ollama writes it: Q4_K_M, F16; MLX's own words (4bit) stay."""
    return "" if quant is None else quant if quant.endswith("bit") else quant.upper()


def digest_of(model: ModelOnNodes) -> str:
    """The SHA-256 of its file; where that is not known, and of all models, one of its name and of what it can do.

    Clients take models of one digest for one model under several names, and keep what they know of a digest.
    """
    known = next((replica.sha256 for replica in model.replicas if replica.sha256), None)
    if known is not None and model.name != SWARM_ALIAS:
        return known
    return hashlib.sha256(json.dumps([model.name, capabilities(model)]).encode()).hexdigest()


def _entry(model: ModelOnNodes) -> JsonObject:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes or 0,
        "digest": digest_of(model),
        "details": details_of(model),
    }


def _modified(model: ModelOnNodes, created_s: int) -> str:
    """When its file here was last changed; of others since when this node can tell of it."""
    known = None if model.stored is None else model.stored.modified_s
    return instant(created_s if known is None else known)


def tag(model: ModelOnNodes, created_s: int) -> JsonObject:
    """An entry of `/api/tags`; the node started at the Unix time `created_s`."""
    return {**_entry(model), "modified_at": _modified(model, created_s)}


def running(model: ModelOnNodes, now_s: float) -> JsonObject:
    """An entry of `/api/ps` at the Unix time `now_s`.

    `size` is what it takes where this node runs it, `size_vram` what of that is a GPU's. When a model of other nodes
    alone goes, they do not tell: `expires_at` is left out.
    """
    own = model.own
    gpus = 0 if own is None else sum(size for pool, size in own.taken.items() if pool != "ram")
    return {
        **_entry(model),
        "size": (own and own.taken_bytes) or model.size_bytes or 0,
        "size_vram": gpus,
        **({} if own is None else {"expires_at": expiry(own.unloads_in_s, now_s)}),
        "context_length": model.context_tokens or 0,
    }


def expiry(unloads_in_s: float | None, now_s: float) -> str:
    """When a model goes that nobody asks for from now on; None: no time is set."""
    return NEVER if unloads_in_s is None else instant(now_s + unloads_in_s)


def shown(model: ModelOnNodes, created_s: int, card: ModelCard, sampling: Mapping[str, float | int]) -> JsonObject:
    """The answer of `/api/show`, with what its files say (`card`) and what the user decided of its `sampling`.

    Clients look for the context by an architecture's name: of one that nobody here knows it is `unknown`.
    """
    info: JsonObject = {key: list(value) if isinstance(value, tuple) else value for key, value in card.info.items()}
    architecture = info.setdefault("general.architecture", UNKNOWN)
    params = next((replica.params for replica in model.replicas if replica.params), None)
    if params and model.name != SWARM_ALIAS:
        info.setdefault("general.parameter_count", params)
    if model.context_tokens:
        info.setdefault(f"{architecture}.context_length", model.context_tokens)
    return {
        "modelfile": "",
        "parameters": parameters_text(sampling),
        "template": card.template,
        "license": card.license,
        "details": details_of(model),
        "model_info": info,
        "capabilities": capabilities(model),
        "modified_at": _modified(model, created_s),
    }


def parameters_text(sampling: Mapping[str, float | int]) -> str:
    """A line for each parameter that requests of this model have where they do not say it, in Ollama's names."""
    told = {name: str(value) if isinstance(value, int) else f"{value:g}" for name, value in sampling.items()}
    return "\n".join(f"{PARAMETERS.get(name, name):<30} {value}" for name, value in sorted(told.items()))


def capabilities(model: ModelOnNodes) -> list[JsonValue]:
    """Ollama's words for what a model is for: any model that writes is given tools (`tools` of `/v1/models`).

    `embedding` is one that does nothing else, as clients take it: nearly all that write make vectors, too.
    """
    can = [replica.capabilities for replica in model.replicas]
    writes = any(each.generates for each in can)
    kinds = {
        "completion": writes,
        "tools": writes,
        "insert": any(each.infill for each in can),
        "vision": any(each.vision for each in can),
        "thinking": any(each.reasoning for each in can),
        "embedding": any(each.embeddings for each in can) and not writes,
    }
    return [kind for kind, there_is in kinds.items() if there_is]
