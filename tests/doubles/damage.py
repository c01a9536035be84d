"""Bodies that went wrong: thousands of them, each the same again for the same seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

MOST_DAMAGES = 4
DEEPEST = 3000  # levels: far beyond every parser's limit
NESTS = (3, 40, 126, 129, 255, DEEPEST)  # about the limits of parsers, and beyond them
_NEST = "@nest"  # stands for arrays too deep for a writer of JSON

Place = tuple[str | int, ...]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "\0", "\ud800", "\udfff\ud800", "é", "😀" * 50, "9" * 400, "0.5", "true", "null", "{}",
    "[]", "object", "function", "text", "tool", "system", "assistant", "user", "required", "none", "auto", "any",
    "base64", "data:image/png;base64,", "a" * 10_000, [], {}, [[]], [{}], [None], {"": None}, {"type": None},
    {"type": "text"}, {"type": "text", "text": 5}, {"type": "image_url", "image_url": {"url": "x"}},
    {"type": "array", "items": []}, {"$ref": "#/a"}, {"$ref": "#"}, {"enum": []}, {"pattern": "(" * 50},
    {"type": "string", "pattern": "^(a+)+$"}, {"minItems": 10**9}, {"anyOf": []}, {"properties": []}, ["\ud800"],
    _NEST, [_NEST], {"a": _NEST},
)  # fmt: skip
NAMES = ("type", "role", "content", "text", "name", "function", "parameters", "input", "tools", "stream", "n", "x", "")


def places(body: Any, at: Place = ()) -> list[Place]:
    """Every path into `body` but the empty one."""
    inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    return [place for key, value in inside for place in ((*at, key), *places(value, (*at, key)))]


def spoiled_value(source: random.Random, value: Any) -> Any:
    """Something else in the place of `value`: of another type, wrapped, doubled, or beyond all bounds."""
    match source.randrange(8):
        case 0:
            return [value]
        case 1:
            return {source.choice(NAMES): value}
        case 2:
            return json.dumps(value, default=str)[:200]
        case 3 if isinstance(value, list):
            return value * source.choice((2, 30))
        case _:
            return copy.deepcopy(source.choice(VALUES))


def damage(source: random.Random, body: Any) -> Any:
    """`body` with some of its parts replaced, removed, moved or joined by something new."""
    body = copy.deepcopy(body)
    for _ in range(source.randint(1, MOST_DAMAGES)):
        here = places(body)
        if not here:
            return source.choice(VALUES)
        *way, last = source.choice(here)
        holder = body
        for key in way:
            holder = holder[key]
        match source.randrange(6):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[source.choice(NAMES)] = holder.pop(last)
            case 2 if isinstance(holder, dict):
                holder[source.choice(NAMES)] = copy.deepcopy(source.choice(VALUES))
            case _:
                holder[last] = spoiled_value(source, holder[last])
    return body


def written(source: random.Random, body: Any) -> bytes:
    """`body` as it goes out; one in eight is damaged on the way."""
    levels = source.choice(NESTS)
    raw = json.dumps(body).replace(json.dumps(_NEST), "[" * levels + "]" * levels).encode()
    if source.randrange(8) or not raw:
        return raw
    cut, junk = source.randrange(len(raw)), source.randbytes(source.randrange(6))
    return raw[:cut] + junk + raw[cut + source.randrange(8) :]


def damaged_bodies(seed: int, bodies: tuple[Any, ...], limits: dict[str, int]) -> Iterator[bytes]:
    """Endlessly many. `limits` are set where a body still asks for generation, so that it asks for little."""
    source = random.Random(seed)
    while True:
        body = damage(source, source.choice(bodies))
        for holder in (body, body.get("request")) if isinstance(body, dict) else ():
            if isinstance(holder, dict) and source.randrange(50):  # now and then the limits themselves are damaged
                holder.update({name: limit for name, limit in limits.items() if name in holder or "model" in holder})
        yield written(source, body)
