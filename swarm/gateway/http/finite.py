"""Numbers that JSON cannot write again."""

from __future__ import annotations

import math
import sys

from pydantic import JsonValue

MAX_WHOLE = int(sys.float_info.max)  # a whole number beyond it is read as a fraction, and that as infinite


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
