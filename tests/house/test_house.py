"""The code is not cut finer again, and no walk passes ever more files. `benchmarks/house.py` measures.

Each bound is what the figure is now. Lower it where it got better; raise it only with a reason that a reader accepts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]

MOST_MODULES: Final = 385  # of `swarm/`, without `__init__.py`; 51 of them tools, agent and providers, 20 pooling
FRAGMENTS: Final = {  # modules under 30 lines, and why each is a subject of its own
    "swarm/environment.py": "read by the command line before anything heavy is imported",
    "swarm/gateway/http/keys.py": "what handlers of every API find in the application",
    "swarm/moving_mean.py": "one way to follow a figure, for engines, workers and routing alike",
}
SHARED_NAMES: Final = {  # that are types in two modules or more, and why
    "JsonObject": "means the same in both: `hardware` must not import `swarm`",
}
LATE_CIRCLES: Final[dict[tuple[str, ...], str]] = {}  # closed by an import within a function, and why
MOST_PASSED: Final = {  # as `benchmarks/walks.py` counts; what is touched depends a little on when a peer answers
    "chat": {"files": 42, "touched": 76, "hand_offs": 88, "generators": 6},
    # What peers told is kept peer by peer, in a file of its own beside what is made of it.
    "mdns": {"files": 17, "touched": 24, "hand_offs": 30, "generators": 0},
    # An engine is chosen among those that are here, and says what it can; a load that takes long says how far it is;
    # what does not fit is planned over members that lend.
    "model": {"files": 55, "touched": 66, "hand_offs": 114, "generators": 7},
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything that `benchmarks/house.py` measures, the walks through running nodes included."""
    told = tmp_path_factory.mktemp("house") / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "house.py"), "--walks", "--json", str(told)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(told.read_text())


def test_there_are_no_more_modules(figures: dict[str, Any]) -> None:
    assert figures["modules of swarm"] <= MOST_MODULES


def test_a_module_is_as_long_as_its_subject(figures: dict[str, Any]) -> None:
    """A fragment is merged into what it serves, or has a reason here."""
    assert figures["fragments"].keys() <= FRAGMENTS.keys()


def test_one_name_is_one_type(figures: dict[str, Any]) -> None:
    assert figures["shared type names"].keys() <= SHARED_NAMES.keys()


def test_no_modules_import_each_other_in_a_circle(figures: dict[str, Any]) -> None:
    assert figures["circles"] == []
    assert {tuple(circle) for circle in figures["circles while it runs"]} <= LATE_CIRCLES.keys()


@pytest.mark.parametrize("name", MOST_PASSED)
def test_a_walk_passes_no_more_files(name: str, figures: dict[str, Any]) -> None:
    walk = figures["walks"][name]
    passed = {kind: len(walk[kind]) for kind in ("files", "touched", "hand_offs")}
    passed["generators"] = sum(map(len, walk["generators"].values()))
    more = {kind: passed[kind] for kind, most in MOST_PASSED[name].items() if passed[kind] > most}
    assert not more, "\n".join(walk["touched"])
