"""JSON from another program, on its way to becoming typed objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Wire = Mapping[str, Any]  # parsed, and not yet looked at: it travels no further than the reader that it arrives at


def as_object(value: object) -> Wire:
    """`value` if it is a JSON object, else an empty one."""
    return cast("Wire", value) if isinstance(value, dict) else {}
