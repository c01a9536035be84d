"""JSON as text that is equal exactly where the values are equal: RFC 8785 (JCS), extended to integers beyond 2^53."""

from __future__ import annotations

import json
import math
import re
import unicodedata

import rfc8785
from pydantic import JsonValue

MAX_JSON_CHARS = 262_144  # an answer of about 65,000 tokens; parsing stays within milliseconds
MAX_JSON_DEPTH = 64  # real answers nest a dozen levels; keeps every recursion far from the interpreter's limit
MAX_JSON_NODES = 10_000  # values in one answer
MAX_NUMBER_CHARS = 400  # a double needs 24; longer ones are an attack on quadratic integer parsing

_MAX_SAFE_INTEGER = 2**53 - 1  # RFC 8785's limit, after which doubles skip integers
_TAG = "\0"  # marks an integer written as a string; true strings that begin with it are given a second one
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str) -> JsonValue:
    """The value of `text`, in NFC and with 1.0 as 1. Raises ValueError if it is no JSON that two machines agree on.

    That excludes NaN and Infinity, numbers beyond a double, lone surrogates, and what breaks the limits above.
    """
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"over {MAX_JSON_CHARS} characters")
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return normalised(value)


def normalised(value: JsonValue) -> JsonValue:
    """`value` with NFC strings and whole floats as integers. Raises ValueError as `parse_json` does."""
    return _Normaliser().value(value, MAX_JSON_DEPTH)


def canonical_json(value: JsonValue) -> str:
    """One text per value, for a value that `normalised` has passed."""
    return rfc8785.dumps(_tagged(value)).decode()


class _Normaliser:
    """Counts the nodes it has passed, so that one answer cannot be arbitrarily wide."""

    def __init__(self) -> None:
        self._nodes_left = MAX_JSON_NODES

    def value(self, value: JsonValue, depth_left: int) -> JsonValue:
        self._nodes_left -= 1
        if depth_left == 0 or self._nodes_left < 0:
            raise ValueError(f"more than {MAX_JSON_DEPTH} levels or {MAX_JSON_NODES} values")
        match value:
            case str():
                return _text(value)
            case float():
                return _whole(value)
            case list():
                return [self.value(item, depth_left - 1) for item in value]
            case dict():
                return {_text(key): self.value(member, depth_left - 1) for key, member in value.items()}
            case _:
                return value


def _text(text: str) -> str:
    if text.isascii():
        return text
    if _SURROGATE.search(text):
        raise ValueError("a lone surrogate is no character")
    return unicodedata.normalize("NFC", text)


def _whole(number: float) -> int | float:
    if not math.isfinite(number):
        raise ValueError("a number beyond the range of a double")
    return int(number) if number.is_integer() else number


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(digits)} characters")
    return float(digits)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _tagged(value: JsonValue) -> JsonValue:
    match value:
        case bool():
            return value
        case int():
            return value if abs(value) <= _MAX_SAFE_INTEGER else f"{_TAG}{value}"
        case str():
            return _TAG + value if value.startswith(_TAG) else value
        case list():
            return [_tagged(item) for item in value]
        case dict():
            return {key: _tagged(member) for key, member in value.items()}
        case _:
            return value
