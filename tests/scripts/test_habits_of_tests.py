"""Tests wait for conditions or move a clock of their own: a sleep is too short on a busy machine, or long on others.

And they patch no constant of ours.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# Where time itself is the matter, by file and function.
ALLOWED = {
    ("doubles/llama_server_program.py", "stay"): "a program that runs until it is ended",
    ("doubles/loop_watch.py", "beat"): "measures how late a clock is",
    ("doubles/lending_nodes.py", "__aenter__"): "looks again at a condition, of another process",
    ("doubles/opened_node.py", "never_closed"): "a program that hangs",
    ("doubles/scripted_generator.py", "_next"): "a generator takes its time for a token of an answer without an end",
    ("doubles/tool_hosts.py", "until"): "looks again at a condition, of another process",
    ("doubles/waiting.py", "eventually"): "looks again at a condition",
    ("e2e/waiting.py", "eventually"): "looks again at a condition, of another process",
    ("e2e/load.py", "watch"): "a load balancer looks at its nodes so often",
    ("e2e/load.py", "keep_asking"): "clients ask so often",
    ("e2e/test_e2e_wedges.py", "look"): "a node is looked at so often",
    ("faults/director.py", "_until"): "faults come when their schedule says",
    ("faults/slow_line.py", "deliver"): "a line that takes its time",
    ("faults/watch.py", "_again_and_again"): "nodes are looked at so often",
    ("federation/test_federation_client.py", "beat"): "a peer whose heartbeats come in time",
    (
        "lending/test_rogue_guests.py",
        "test_a_guest_that_never_reads_costs_the_lender_no_memory",
    ): "memory is watched a while",
    ("hostile/slow_clients.py", "_drip"): "an attacker whose bytes come slowly",
    ("hostile/test_hostile_states.py", "drip"): "a peer whose bytes come slowly",
}

PATCHED_CONSTANT = re.compile(r"setattr\([^()]*\"(?:[\w.]+\.)?(?P<name>_?[A-Z][A-Z0-9_]+)\"")
OF_OTHERS = {"HF_HUB_OFFLINE"}  # huggingface_hub's


def sleeps(tree: ast.AST, function: str = "") -> Iterator[str]:
    """The functions in which something sleeps, once for each sleep; one of zero only lets others run."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            only_yields = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            if name == "sleep" and not only_yields:
                yield inside
        yield from sleeps(node, inside)


def test_only_where_time_is_the_matter() -> None:
    found = {
        (path.relative_to(TESTS).as_posix(), function)
        for path in TESTS.rglob("*.py")
        for function in sleeps(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found - ALLOWED.keys() == set(), "wait for a condition (tests/doubles/waiting.py), or give it a clock"
    assert ALLOWED.keys() - found == set(), "these sleep no more"


def test_sleeps_are_found() -> None:
    text = "async def a():\n    await asyncio.sleep(0)\n    def b(): time.sleep(1)\nsleep(x)\ndef sleep(y): pass"
    assert list(sleeps(ast.parse(text))) == ["b", ""]


def test_no_constant_of_ours_is_patched() -> None:
    """What a test needs otherwise is a parameter: then it is seen where it is used, and no other test is changed."""
    found = {
        f"{path.relative_to(TESTS)}: {match['name']}"
        for path in TESTS.rglob("*.py")
        for match in PATCHED_CONSTANT.finditer(path.read_text(encoding="utf-8"))
        if match["name"] not in OF_OTHERS
    }
    assert found == set()
