"""The kinds of answers by name: as the `swarm` object reports them and as the weights file counts them.

The strategies by name, importable by the command line without anything else.

What the options of a vote may be, importable by the command line without anything else.
"""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["tool_calls", "json", "code", "number", "choice", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)


Strategy = Literal["auto", "majority", "weighted", "medoid", "judge", "first", "single"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


MAX_VOTES = 32  # gains flatten at 10-20 votes; more is a typing error or an attack

StreamMode = Literal["leader", "buffer", "reasoning"]
STREAM_MODES: tuple[str, ...] = get_args(StreamMode)
