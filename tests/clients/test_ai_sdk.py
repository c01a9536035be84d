"""The AI SDK from npm, which opencode is built on: streamed text, and tool loops to the end, over three APIs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

FOLDER = Path(__file__).parent / "ai_sdk"
PACKAGES = FOLDER / "package.json"
INSTALL_S = 300.0  # 17 packages, 40 MB
SCENARIO_S = 120.0  # a second on an idle machine
MISSING = [program for program in ("node", "npm") if shutil.which(program) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")


def installed() -> Path:
    """A folder outside the tree with the packages that package.json pins; kept for the next run."""
    folder = user_cache_path("local-swarm-tests") / f"ai-sdk-{hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as started:
            made = Path(started) / "made"
            made.mkdir()
            shutil.copy(PACKAGES, made)
            command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            done = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            if done.returncode and "CI" not in os.environ:  # no network, no access to npm's registry, an old Node
                pytest.skip(f"npm could not install the AI SDK: {done.stderr.strip()[-300:]}")
            assert done.returncode == 0, done.stderr
            made.rename(folder)
    return folder


@pytest.fixture(scope="module")
def told(base_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the scenario saw."""
    place = tmp_path_factory.mktemp("ai_sdk")
    (place / "node_modules").symlink_to(installed() / "node_modules")
    shutil.copy(FOLDER / "scenario.mjs", place)
    command = ["node", "scenario.mjs", base_url]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SCENARIO_S, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


EVERY_API = pytest.mark.parametrize("api", ["chat", "messages", "responses"])


@EVERY_API
def test_a_text_streams_with_its_usage(told: Any, api: str) -> None:
    text = told[api]["text"]
    assert text["text"] == text["whole"] != ""
    assert "Paris" in text["text"]
    assert text["reason"] == "stop"
    usage = text["usage"]
    assert usage["inputTokens"] + usage["outputTokens"] == usage["totalTokens"]
    assert usage["outputTokens"] > 0


@EVERY_API
@pytest.mark.parametrize("way", ["streamed", "whole"])
def test_a_tool_is_called_and_its_result_told(told: Any, api: str, way: str) -> None:
    loop = told[api][way]
    assert loop["reasons"] == ["tool-calls", "stop"]
    assert loop["cities"] == ["Paris"]
    assert "21" in loop["text"]
    assert "sunny" in loop["text"]


@EVERY_API
def test_a_streamed_call_comes_in_the_sdks_own_parts(told: Any, api: str) -> None:
    parts = ["tool-input-start", "tool-input-delta", "tool-input-end", "tool-call", "tool-result", "text-delta"]
    kinds = told[api]["streamed"]["kinds"]
    assert [kind for kind in kinds if kind in parts] == parts
    assert "error" not in kinds


def test_a_refusal_is_told_and_not_repeated(told: Any) -> None:
    refusal = told["refusal"]
    assert refusal["status"] == 404
    assert "no-such-model" in refusal["message"]
    assert refusal["retryable"] is False
