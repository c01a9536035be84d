"""A node that is started by `benchmarks/paced_node.py`, as `scaling.py` does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import aiohttp

from benchmarks.paced_time import Pace
from tests.e2e.node_process import ROOT, NodeProcess
from tests.e2e.waiting import eventually


async def test_it_is_a_node_that_takes_its_time_and_tells_what_its_engine_did(tmp_path: Path) -> None:
    Pace((0.002,), ((1, 0.0001),)).write(tmp_path / "pace.json")
    program = (
        sys.executable, str(ROOT / "benchmarks" / "paced_node.py"), "--pace", str(tmp_path / "pace.json"),
        "--times", "2", "--told", "told.json", "--",
    )  # fmt: skip
    arguments = ("--model", "slow", "--workers", "2", "--context", "512")
    body = {"model": "slow", "messages": [{"role": "user", "content": "one two three four five"}]}
    with NodeProcess("kitchen", tmp_path / "kitchen", None, arguments, program=program) as node:
        await node.ready()
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{node.url}/v1/chat/completions", json=body) as response,
        ):
            said = await response.json()
        assert said["choices"][0]["message"]["content"] == "one two three four five"
        assert said["timings"]["predicted_ms"] >= 4 * 0.9 * 4

        async def told() -> bool:
            return json.loads((tmp_path / "kitchen" / "told.json").read_text())["written"] == 5

        await eventually(told, 10, "the engine's counts are in the file")
