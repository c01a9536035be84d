"""The kinds of answers by name: as the `swarm` object reports them and as the weights file counts them."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["tool_calls", "json", "code", "number", "choice", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
