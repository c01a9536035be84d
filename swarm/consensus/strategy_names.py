"""The strategies by name, importable by the command line without anything else."""

from __future__ import annotations

from typing import Literal, get_args

Strategy = Literal["auto", "majority", "weighted", "medoid", "judge", "first", "single"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
