"""The recipe from the first document to the models and figures, in its smoke form.

Needs PyTorch and the other packages that `models/recipe/README.md` names: RECIPE_PYTHON says where they are installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120


@pytest.mark.slow
def test_one_command_makes_three_models_and_their_figures(tmp_path: Path) -> None:
    python = os.environ.get("RECIPE_PYTHON", sys.executable)
    command = [python, "-m", "models.recipe.build", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = [(tmp_path / f"{stem}.gguf").stat().st_size for stem in ("demo", "demo-b", "demo-c")]
    assert all(size > 10**6 for size in sizes)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names <= {path.name for path in (tmp_path / "hf").iterdir()}
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["abilities"]["well-formed calls returned as tool_calls"]["right"] >= 0
    assert len(figures["siblings"]) == len(figures["arithmetic"])
