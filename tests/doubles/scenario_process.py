"""Scenarios of clients that need an environment of their own: programs that ask a played node, and tell what they saw.

They may say in between what they wait for, so that a client is seen to leave while its program lives on.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.commands.client_settings import client_entries
from tests.doubles.played_node import (
    BUSY_TASK,
    ENDLESS_TASK,
    KEY,
    MODEL,
    OBJECT_TASK,
    TEXT_TASK,
    TOOL_TASK,
    UNKNOWN_MODEL,
    PlayedNode,
)

PROGRAM = Path(__file__).with_name("scenario_program.py")
SCENARIO_S = 240.0  # a few seconds on an idle machine; most of them are the client's imports


def told_node(node: PlayedNode) -> dict[str, Any]:
    """What a scenario is told of its node, and what users are told to write into each client."""
    return {
        "url": node.url,
        "key": KEY,
        "model": MODEL,
        "unknown_model": UNKNOWN_MODEL,
        "text_task": TEXT_TASK,
        "tool_task": TOOL_TASK,
        "object_task": OBJECT_TASK,
        "endless_task": ENDLESS_TASK,
        "busy_task": BUSY_TASK,
        "settings": {entry.id: entry.settings for entry in client_entries()},
    }


def python_scenario(
    python: Path, scenario: Path, node: PlayedNode, home: Path, environment: Mapping[str, str] | None = None
) -> Any:
    """What each of the scenario's cells gave, by name."""
    command = [str(python), "-P", str(PROGRAM), str(scenario), json.dumps(told_node(node))]
    return run_scenario(command, node, home, environment)


def run_scenario(
    command: Sequence[str], node: PlayedNode, home: Path, environment: Mapping[str, str] | None = None
) -> Any:
    """What the program tells in its last line, {"cells": ...}; any line before it is a question.

    {"wait": "busy"} and {"wait": "idle"} are answered by a line (null) when it is so, {"answered": STATUS} by a number,
    {"asked": "last"} by what bound the newest answer: {"schema": BOOL, "tools": [NAMES]}. The program has a home of its
    own, and of this environment only what finds programs.
    """
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **(environment or {})}
    with (
        (home / "stderr.txt").open("w+") as errors,
        subprocess.Popen(
            command,
            cwd=home,
            env=surroundings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        watchdog = threading.Timer(SCENARIO_S, process.kill)
        watchdog.start()
        try:
            cells = answered_until_told(process, node)
            process.wait()
        finally:
            watchdog.cancel()
            process.kill()
        errors.seek(0)
        assert process.returncode == 0 and cells is not None, errors.read()  # noqa: PT018  one reason for both
    return cells


def answered_until_told(process: subprocess.Popen[str], node: PlayedNode) -> Any:
    """What the program told; None if it ended without that."""
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if "cells" in said:
            process.stdin.close()
            return said["cells"]
        answer = None
        if "answered" in said:
            answer = node.answered(said["answered"])
        elif "asked" in said:
            last = node.asked[-1]
            answer = {"schema": last.response_format is not None, "tools": [each.function.name for each in last.tools]}
        elif said["wait"] == "busy":
            node.until_busy()
        else:
            node.until_idle()
        process.stdin.write(f"{json.dumps(answer)}\n")
        process.stdin.flush()
    return None
