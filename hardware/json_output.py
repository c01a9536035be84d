"""JSON as tools print it: typed, and found behind the warnings that some print first."""

from __future__ import annotations

import json

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]


def first_json_object(text: str) -> JsonObject | None:
    """The first JSON object in `text`, whatever stands before and after it; None if there is none."""
    start = text.find("{")
    if start < 0:
        return None
    try:
        found: JsonValue = json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError):  # RecursionError: brackets nested beyond reason
        return None
    return found if isinstance(found, dict) else None


def objects_in(value: JsonValue) -> tuple[JsonObject, ...]:
    """The objects of a JSON array; () if `value` is something else."""
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()
