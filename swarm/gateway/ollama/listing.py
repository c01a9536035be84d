"""Models as Ollama's clients read them: those that there are, those that are loaded, and what is known of one.

Nothing is loaded to be described. What Ollama's registry knows and a node does not (families, licences) is empty.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pydantic import JsonValue

from swarm.gateway.openai.listing import ModelOnNodes
from swarm.generation import JsonObject

NEVER: Final = "9999-12-31T23:59:59Z"  # when a model goes for which no time is set
THOUSAND: Final = 1000


def instant(unix_s: float) -> str:
    """A Unix time as Ollama writes it."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")


def size_text(params: int | None) -> str:
    """A count of parameters as Ollama writes it: 3.2B, 134.5M; "" where it is not known."""
    if not params:
        return ""
    for unit, of in (("B", THOUSAND**3), ("M", THOUSAND**2), ("K", THOUSAND)):
        if params >= of:
            return f"{params / of:.1f}{unit}"
    return str(params)


def details_of(model: ModelOnNodes) -> JsonObject:
    """{"format", "parameter_size", ...}; every key is there, since clients index them."""
    params = next((replica.params or replica.reported_params for replica in model.replicas), None)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": "",
        "families": [],
        "parameter_size": size_text(params),
        "quantization_level": "",
    }


def _entry(model: ModelOnNodes) -> JsonObject:
    digest = next((replica.sha256 for replica in model.replicas if replica.sha256), None)
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes or 0,
        "digest": digest or "",
        "details": details_of(model),
    }


def tag(model: ModelOnNodes, created_s: int) -> JsonObject:
    """An entry of `/api/tags`, there since the Unix time `created_s`."""
    return {**_entry(model), "modified_at": instant(created_s)}


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


def shown(model: ModelOnNodes, created_s: int) -> JsonObject:
    """The answer of `/api/show`. The context is named as of an architecture that is called `llama`."""
    info: JsonObject = {"general.architecture": "llama"}
    params = next((replica.params for replica in model.replicas if replica.params), None)
    if params:
        info["general.parameter_count"] = params
    if model.context_tokens:
        info["llama.context_length"] = model.context_tokens
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "license": "",
        "details": details_of(model),
        "model_info": info,
        "capabilities": capabilities(model),
        "modified_at": instant(created_s),
    }


def capabilities(model: ModelOnNodes) -> list[JsonValue]:
    """Ollama's words for what a model can do: any model that writes is given tools (`tools` of `/v1/models`)."""
    can = [replica.capabilities for replica in model.replicas]
    writes = any(each.generates for each in can)
    kinds = {
        "completion": writes,
        "tools": writes,
        "insert": any(each.infill for each in can),
        "vision": any(each.vision for each in can),
        "thinking": any(each.reasoning for each in can),
        "embedding": any(each.embeddings for each in can),
    }
    return [kind for kind, there_is in kinds.items() if there_is]
