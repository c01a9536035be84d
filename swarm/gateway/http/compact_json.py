"""JSON as the gateway writes it: no spaces, non-ASCII as it is, and always valid, whatever an engine or peer put in."""

from __future__ import annotations

import json
import math
import sys
from typing import cast

from aiohttp import web
from pydantic import JsonValue

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
MAX_WHOLE = int(sys.float_info.max)  # a whole number beyond it is read as a fraction, and that as infinite


def compact(value: object) -> str:
    """`value` as JSON. A lone surrogate (never valid UTF-8) becomes its escape, a number that is not finite null."""
    try:
        text = _encode(value)
    except ValueError:
        return compact(without_infinities(value))
    return text if text.isascii() or _encodable(text) else _encode_ascii(value)


def json_response(body: object) -> web.Response:
    return web.Response(text=compact(body), content_type="application/json")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_infinities(value: object) -> object:
    """A copy with null for every infinity and NaN, which JSON does not have."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: without_infinities(member) for key, member in cast("dict[str, object]", value).items()}
        case list() | tuple():
            return [without_infinities(member) for member in cast("list[object]", value)]
        case _:
            return value


def is_finite(value: JsonValue) -> bool:
    """Whether every number in `value` can be written as JSON again: parsers read 1e999 and NaN, and none write them."""
    match value:
        case float():
            return math.isfinite(value)
        case int():
            return abs(value) <= MAX_WHOLE
        case dict():
            return all(map(is_finite, value.values()))
        case list():
            return all(map(is_finite, value))
        case _:
            return True
