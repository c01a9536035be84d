"""`swarm launch`: what programs are told, by their environment and command line alone, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from swarm.cli import main
from swarm.commands.arguments import LAUNCHED
from swarm.commands.launch import PROGRAMS, LaunchProgram, LaunchTarget, program_environment, too_small
from tests.commands.test_asking_a_node import answering

ROOT = Path(__file__).parents[2]
MODELS = json.dumps(
    {"data": [{"id": "swarm", "context_tokens": 32768}, {"id": "qwen3:4b", "aliases": ["big"], "context_tokens": 4096}]}
).encode()
STAND_IN = f"""#!{sys.executable}
import json, os, sys
print(json.dumps({{"words": sys.argv[1:], "environment": dict(os.environ)}}))
sys.exit(7)
"""
BY_NAME = {program.name: program for program in PROGRAMS}


def target(key: str | None = "sk-1", model: str = "qwen3:4b", context: int | None = 32768) -> LaunchTarget:
    return LaunchTarget("http://10.0.0.2:17615", key, model, context)


def test_the_help_names_every_program() -> None:
    assert tuple(BY_NAME) == LAUNCHED


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.parametrize("key", [None, "sk-1"])
def test_each_program_is_told_where_and_with_which_key(program: LaunchProgram, key: str | None) -> None:
    plan = program.plan(target(key))
    told = " ".join([*plan.words, *(f"{name}={value}" for name, value in plan.environment.items())])
    assert "http://10.0.0.2:17615" in told
    assert "qwen3:4b" in told
    assert ("sk-1" in told) is (key is not None)
    assert "sk-1" not in " ".join(plan.words), "the command line is for every user of the machine to see"


def test_codex_reads_its_provider_as_toml() -> None:
    words = BY_NAME["codex"].plan(target('a "quoted" key', model='odd "model"')).words
    settings = tomllib.loads("\n".join(word for word in words if word != "-c").replace('odd "model"', "odd"))
    assert settings["model_providers"]["swarm"] == {
        "name": "Local Swarm",
        "base_url": "http://10.0.0.2:17615/v1",
        "wire_api": "responses",
        "env_key": "SWARM_LAUNCH_KEY",
    }
    assert settings["model_context_window"] == 32768


def test_opencode_leaves_room_for_an_answer_in_a_short_context() -> None:
    config = json.loads(str(BY_NAME["opencode"].plan(target(context=8192)).environment["OPENCODE_CONFIG_CONTENT"]))
    assert config["provider"]["swarm"]["models"]["qwen3:4b"]["limit"] == {"context": 8192, "output": 2048}


def test_claude_asks_for_swarm_by_its_own_names_and_for_others_by_theirs() -> None:
    assert not [name for name in BY_NAME["claude"].plan(target(model="swarm")).environment if name.endswith("MODEL")]
    named = BY_NAME["claude"].plan(target()).environment
    assert {value for name, value in named.items() if name.endswith("MODEL")} == {"qwen3:4b"}


def test_what_would_be_in_the_way_is_removed_and_the_rest_is_kept() -> None:
    own = {"ANTHROPIC_API_KEY": "mine", "HOME": "/home/me"}
    environment = program_environment(own, BY_NAME["claude"].plan(target()))
    assert "ANTHROPIC_API_KEY" not in environment
    assert environment["HOME"] == "/home/me"


@pytest.mark.parametrize(
    ("name", "context", "remedy"),
    [("claude", 8192, "--context 32768"), ("codex", 8192, "--context 16384"), ("claude", 32768, None),
     ("claude", None, None), ("aider", 512, None)],
)  # fmt: skip
def test_a_context_that_is_too_small_is_told(name: str, context: int | None, remedy: str | None) -> None:
    told = too_small(BY_NAME[name], target(context=context))
    assert told is None if remedy is None else told is not None and remedy in told


def started(place: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a program of its own, since it becomes another one."""
    environment = {**os.environ, "PATH": f"{place}:/usr/bin:/bin", "HOME": str(place)}
    environment.pop("SWARM_API_KEY", None)
    command = [sys.executable, str(ROOT / "main.py"), "launch", "--url", url, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_it_becomes_the_program_with_the_words_behind_the_dashes(tmp_path: Path) -> None:
    (tmp_path / "claude").write_text(STAND_IN)
    (tmp_path / "claude").chmod(0o755)
    with answering(200, MODELS) as (url, asked):
        ended = started(tmp_path, url, "--api-key", "sk-2", "claude", "--", "-p", "--", "hello", "--url", "x")
    assert ended.returncode == 7, ended.stderr
    told = json.loads(ended.stdout)
    assert told["words"] == ["-p", "--", "hello", "--url", "x"]
    assert told["environment"]["ANTHROPIC_BASE_URL"] == url
    assert told["environment"]["ANTHROPIC_AUTH_TOKEN"] == "sk-2"
    assert asked == ["/v1/models Bearer sk-2"]
    assert "its own settings stay as they are" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["claude"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["claude"], 2, "npm install -g @anthropic-ai/claude-code"),
        (["cluade"], 2, "did you mean 'claude'"),
        ([], 2, "swarm launch --list"),
        (["aider", "--model", "none"], 2, "no model is called 'none' there: take one of swarm, qwen3:4b, big"),
    ],
)
def test_what_cannot_be_started_is_said_with_the_remedy(tmp_path: Path, words: list[str], code: int, told: str) -> None:
    (tmp_path / "aider").write_text(STAND_IN)
    (tmp_path / "aider").chmod(0o755)
    with answering(200, MODELS) as (url, _):
        ended = started(tmp_path, url, *words)
    assert ended.returncode == code
    assert told in ended.stderr


def test_the_list_shows_settings_and_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--list", "--api-key", "sk-secret", "--url", "http://10.0.0.2:17615/"]) == 0
    text = capsys.readouterr().out
    assert "http://10.0.0.2:17615/v1" in text
    assert "sk-secret" not in text
    assert main(["launch", "--json", "--api-key", "sk-secret"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [program["name"] for program in listed["programs"]] == list(LAUNCHED)
    assert "sk-secret" not in json.dumps(listed)
