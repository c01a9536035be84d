"""The list of models as Anthropic's clients read it: entries, and the pages of the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue

from swarm.errors import BadRequest
from swarm.gateway.openai.listing import ModelOnNodes
from swarm.generation import JsonObject

MAX_PAGE = 1000  # Anthropic's bound; its default of 20 would hide models from clients that do not page


def model_info(model: ModelOnNodes, created_s: int) -> JsonObject:
    """One entry, there since the Unix time `created_s`. A prompt may fill the largest context there is.

    The keys that clients require are there; those of dates and families that no model here has are null.
    """
    most = model.context_tokens
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(created_s, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": most,
        "max_tokens": most,
        "capabilities": None,
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
    }


def page_of(infos: Sequence[JsonObject], query: Mapping[str, str]) -> JsonObject:
    """{"data", "has_more", "first_id", "last_id"}: what is asked for by `limit` and `after_id` or `before_id`.

    Raises BadRequest for a limit that is none, and for an id that is not in the list.
    """
    limit = _limit(query.get("limit"))
    found, after, before = list(infos), query.get("after_id"), query.get("before_id")
    if after is not None and before is not None:
        raise BadRequest("after_id and before_id: send one of the two", param="after_id")
    if after is not None:
        found = found[_place(found, after, "after_id") + 1 :]
    if before is not None:
        found = found[: _place(found, before, "before_id")]
        page = found[-limit:]
    else:
        page = found[:limit]
    ids: list[JsonValue] = [info["id"] for info in page]
    return {
        "data": list(page),
        "has_more": len(page) < len(found),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return MAX_PAGE
    if not (given.isascii() and given.isdecimal() and len(given) <= 4 and 1 <= int(given) <= MAX_PAGE):
        raise BadRequest(f"limit is {given[:20]!r}: use 1 to {MAX_PAGE}", param="limit")
    return int(given)


def _place(infos: Sequence[JsonObject], wanted: str, param: str) -> int:
    for place, info in enumerate(infos):
        if info["id"] == wanted:
            return place
    raise BadRequest(f"{param} is {wanted[:100]!r}, which is not in the list", param=param)
