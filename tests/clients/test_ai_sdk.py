"""The AI SDK from npm, which opencode is built on: streamed text, and tool loops to the end, over three APIs.

It is 6 here, with the embedded model; what 6 and 7 do with a model that plays its part is in test_node_clients.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.npm_packages import npm_packages

FOLDER = Path(__file__).parent / "ai_sdk"
PACKAGES = FOLDER / "package.json"
SCENARIO_S = 120.0  # a second on an idle machine


@pytest.fixture(scope="module")
def told(base_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the scenario saw."""
    place = tmp_path_factory.mktemp("ai_sdk")
    (place / "node_modules").symlink_to(npm_packages(PACKAGES))
    shutil.copy(FOLDER / "scenario.mjs", place)
    command = ["node", "scenario.mjs", base_url]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SCENARIO_S, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def proves(*cells: str) -> pytest.MarkDecorator:
    """The cells of the table that a test proves."""
    return pytest.mark.client("ai-sdk-6", *cells, folder=FOLDER.name)


EVERY_API = pytest.mark.parametrize("api", ["chat", "messages", "responses"])


@proves("text", "stream")
@EVERY_API
def test_a_text_streams_with_its_usage(told: Any, api: str) -> None:
    text = told[api]["text"]
    assert text["text"] == text["whole"] != ""
    assert "Paris" in text["text"]
    assert text["reason"] == "stop"
    usage = text["usage"]
    assert usage["inputTokens"] + usage["outputTokens"] == usage["totalTokens"]
    assert usage["outputTokens"] > 0


@proves("tools")
@EVERY_API
@pytest.mark.parametrize("way", ["streamed", "whole"])
def test_a_tool_is_called_and_its_result_told(told: Any, api: str, way: str) -> None:
    loop = told[api][way]
    assert loop["reasons"] == ["tool-calls", "stop"]
    assert loop["cities"] == ["Paris"]
    assert "21" in loop["text"]
    assert "sunny" in loop["text"]


@proves("stream", "tools")
@EVERY_API
def test_a_streamed_call_comes_in_the_sdks_own_parts(told: Any, api: str) -> None:
    parts = ["tool-input-start", "tool-input-delta", "tool-input-end", "tool-call", "tool-result", "text-delta"]
    kinds = told[api]["streamed"]["kinds"]
    assert [kind for kind in kinds if kind in parts] == parts
    assert "error" not in kinds


@proves("errors")
def test_a_refusal_is_told_and_not_repeated(told: Any) -> None:
    refusal = told["refusal"]
    assert refusal["status"] == 404
    assert "no-such-model" in refusal["message"]
    assert refusal["retryable"] is False
