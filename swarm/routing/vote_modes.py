"""What the options of a vote may be, importable by the command line without anything else."""

from __future__ import annotations

from typing import Literal, get_args

MAX_VOTES = 32  # gains flatten at 10-20 votes; more is a typing error or an attack

StreamMode = Literal["leader", "buffer", "reasoning"]
STREAM_MODES: tuple[str, ...] = get_args(StreamMode)
