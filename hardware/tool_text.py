"""What tools print, made usable: single values bounded and printable, None for "not known", and the JSON among it."""

from __future__ import annotations

import json

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

MAX_LINE_CHARS = 300  # a name or an error is shown on one line; tools may print pages

_UNKNOWN_WORDS = frozenset({"N/A", "UNKNOWN", "NONE", "ERR!"})
_MAX_DIGITS = 20  # more than any 64-bit quantity has


def one_line(text: str, limit_chars: int = MAX_LINE_CHARS) -> str:
    """`text` on one line, without control characters (they could drive a terminal), cut to `limit_chars`."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * limit_chars])
    line = " ".join(printable.split())
    return line if len(line) <= limit_chars else line[: limit_chars - 1] + "…"


def known_text(value: object) -> str | None:
    """A string that says something, as one line; None for "N/A", "[Not Supported]" and the like, and for no string."""
    line = one_line(value) if isinstance(value, str) else ""
    excused = line.upper() in _UNKNOWN_WORDS or (line.startswith("[") and line.endswith("]"))
    return None if not line or excused else line


def whole_number(value: object) -> int | None:
    """A non-negative integer, given as a number or as its digits; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else None
    return None


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
