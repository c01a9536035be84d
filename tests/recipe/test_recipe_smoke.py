"""The recipe from the first document to the models and figures, in its smoke form. Needs the extra `recipe`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.registry.embedded import CHECKSUMS_FILE

ROOT = Path(__file__).parents[2]
LIMIT_S = 300  # half a minute on two idle cores

installed = importlib.util.find_spec("torch") is not None
pytestmark = pytest.mark.skipif(
    not installed and "CI" not in os.environ, reason="the extra `recipe` (PyTorch) is not installed"
)


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "models.recipe.build", "--smoke", "--out", str(out), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_one_command_makes_three_models_and_their_figures(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    sizes = [(tmp_path / f"{stem}.gguf").stat().st_size for stem in ("demo", "demo-b", "demo-c")]
    assert all(size > 10**6 for size in sizes)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names <= {path.name for path in (tmp_path / "hf").iterdir()}
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert len(figures["siblings"]) == len(figures["greedy"])
    assert "demo:c" in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert len((tmp_path / CHECKSUMS_FILE).read_text(encoding="ascii").splitlines()) == 3

    better = tmp_path / "demo.figures.json"
    better.write_text(json.dumps({"quality": 0.99}), encoding="utf-8")
    before = (tmp_path / "demo.gguf").read_bytes()
    refused = build(tmp_path, "--only", "demo")
    assert refused.returncode == 1
    assert "demo: the model in" in refused.stderr
    assert "--force replaces" in refused.stderr
    assert (tmp_path / "demo.gguf").read_bytes() == before
    assert build(tmp_path, "--only", "demo", "--force").returncode == 0
    assert json.loads(better.read_text(encoding="utf-8"))["quality"] < 0.99
