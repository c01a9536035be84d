"""Run with mlx-lm on the path: how `AnswerText` reads answers by the library's own machine and parsers.

Each line of standard input is one case, and each line of standard output what came of it: see `read`.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from swarm.engines.mlx.answer_text import AnswerText, UnreadableCall, transitions


def read(case: dict[str, Any]) -> list[Any]:
    """[text, kind, calls] of each token of `case["tokens"]` (a character is a byte), then of the end; or the error."""
    machine: Any = importlib.import_module("mlx_lm.generate").TextStateMachine
    parser: Any = importlib.import_module(f"mlx_lm.tool_parsers.{case['parser']}") if case["parser"] else None
    calls = (parser.tool_call_start, parser.tool_call_end) if parser is not None else None
    tools = [{"type": "function", "function": {"name": name}} for name in case["tools"]]
    states = transitions(calls, tuple(case["thoughts"]) if case["thoughts"] else None)
    answer = AnswerText(machine(states), case["state"], parser and parser.parse_tool_call, tools)
    told: list[Any] = []
    try:
        parts = [answer.read(token.encode("latin-1")) for token in case["tokens"]] + answer.end(whole=case["whole"])
        told += [[part.text, part.kind, [[call.name, call.arguments] for call in part.calls]] for part in parts]
    except UnreadableCall as error:
        told.append(str(error))
    return told


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(read(json.loads(line))) + "\n")
