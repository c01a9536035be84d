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
from swarm.commands.client_settings import CELLS, ClientEntry, by_kind, client_entries
from swarm.commands.launch import LaunchPlan, LaunchTarget, launch_plan, program_environment, settings_lines, too_small
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
ENTRIES = client_entries()
BY_NAME = {entry.name: entry for entry in ENTRIES if entry.launch is not None}


def target(key: str | None = "sk-1", model: str = "qwen3:4b", context: int | None = 32768) -> LaunchTarget:
    return LaunchTarget("http://10.0.0.2:17615", key, model, context)


def plan_of(name: str, pointed_at: LaunchTarget) -> LaunchPlan:
    return launch_plan(BY_NAME[name], pointed_at)


def test_the_help_names_every_program() -> None:
    assert tuple(BY_NAME) == LAUNCHED


@pytest.mark.parametrize("program", BY_NAME.values(), ids=lambda program: program.name)
@pytest.mark.parametrize("key", [None, "sk-1"])
def test_each_program_is_told_where_and_with_which_key(program: ClientEntry, key: str | None) -> None:
    plan = launch_plan(program, target(key))
    told = " ".join([*plan.words, *(f"{name}={value}" for name, value in plan.environment.items())])
    assert "http://10.0.0.2:17615" in told
    assert "qwen3:4b" in told
    assert ("sk-1" in told) is (key is not None)
    assert "sk-1" not in " ".join(plan.words), "the command line is for every user of the machine to see"


def test_codex_reads_its_provider_as_toml() -> None:
    words = plan_of("codex", target('a "quoted" key', model='odd "model"')).words
    settings = tomllib.loads("\n".join(word for word in words if word != "-c").replace('odd "model"', "odd"))
    assert settings["model_providers"]["swarm"] == {
        "name": "Local Swarm",
        "base_url": "http://10.0.0.2:17615/v1",
        "wire_api": "responses",
        "env_key": "SWARM_LAUNCH_KEY",
    }
    assert settings["model_context_window"] == 32768


def test_opencode_leaves_room_for_an_answer_in_a_short_context() -> None:
    config = json.loads(str(plan_of("opencode", target(context=8192)).environment["OPENCODE_CONFIG_CONTENT"]))
    assert config["provider"]["swarm"]["models"]["qwen3:4b"]["limit"] == {"context": 8192, "output": 2048}


def test_claude_asks_for_swarm_by_its_own_names_and_for_others_by_theirs() -> None:
    assert not [name for name in plan_of("claude", target(model="swarm")).environment if name.endswith("MODEL")]
    named = plan_of("claude", target()).environment
    assert {value for name, value in named.items() if name.endswith("MODEL")} == {"qwen3:4b"}


def test_what_would_be_in_the_way_is_removed_and_the_rest_is_kept() -> None:
    own = {"ANTHROPIC_API_KEY": "mine", "HOME": "/home/me"}
    environment = program_environment(own, plan_of("claude", target()))
    assert "ANTHROPIC_API_KEY" not in environment
    assert environment["HOME"] == "/home/me"


@pytest.mark.parametrize(
    ("name", "context", "remedy"),
    [("claude", 8192, "--context 16384"), ("codex", 8192, "--context 16384"), ("claude", 32768, None),
     ("claude", None, None), ("aider", 1024, None)],
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


def test_the_list_has_every_client_and_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--list", "--api-key", "sk-secret", "--url", "http://10.0.0.2:17615/"]) == 0
    text = capsys.readouterr().out
    assert "http://10.0.0.2:17615/v1" in text
    assert "sk-secret" not in text
    assert [entry.id for entry in ENTRIES if f"\n  {entry.id} " not in text] == []
    assert text.index("\nAgents\n") < text.index("\nSDKs\n")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert main(["launch", "--json", "--api-key", "sk-secret"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [program["name"] for program in listed["programs"]] == list(LAUNCHED)
    assert [client["id"] for client in listed["clients"]] == [entry.id for entry in ENTRIES]
    assert "sk-secret" not in json.dumps(listed)


@pytest.mark.parametrize("words", [["--settings", "open-webui"], ["--list", "open-webui"]])
def test_the_settings_of_one_client_are_ready_to_be_copied(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", *words, "--api-key", "sk-secret", "--url", "http://10.0.0.2:17615/", "--model", "big"]) == 0
    text = capsys.readouterr().out
    assert "\n    OPENAI_API_BASE_URL=http://10.0.0.2:17615/v1\n    OPENAI_API_KEY=KEY\n" in text
    assert "RAG_EMBEDDING_MODEL=big" in text
    assert "sk-secret" not in text


def test_the_context_in_settings_is_the_model_s(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, MODELS) as (url, _):
        assert main(["launch", "--settings", "codex", "--url", url, "--model", "big"]) == 0
        assert "model_context_window = 4096\n" in capsys.readouterr().out
        assert main(["launch", "--settings", "codex", "--url", url, "--model", "none"]) == 2
        assert "take one of swarm, qwen3:4b, big" in capsys.readouterr().err
    assert main(["launch", "--settings", "codex", "--url", url]) == 0
    text = capsys.readouterr().out
    assert "model_context_window = 32768\n" in text
    assert "no node could be asked for it" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--settings", "open-webiu"], "did you mean 'open-webui'?"),
        (["--list", "cluade"], "did you mean 'claude'?"),
        (["continue"], "`swarm launch --settings continue`"),
        (["zzz"], "no client is called 'zzz' (`swarm launch --list` has them all)"),
    ],
)
def test_a_client_that_is_none_or_not_started_is_told_what_to_do(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", *words]) == 2
    assert told in capsys.readouterr().err


def test_a_node_without_keys_is_told_no_variable_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Codex does not start where the variable that `env_key` names is not set."""
    with answering(200, MODELS) as (url, _):
        for words, wanted in (([], False), (["--api-key", "sk-1"], True)):
            assert main(["launch", "--settings", "codex", "--url", url, *words]) == 0
            assert ("env_key = " in capsys.readouterr().out) == wanted


@pytest.mark.parametrize("name", ["AIDER", "Claude Code", "Claude-Code", "open webui"])
def test_a_client_is_found_by_its_title_and_in_any_case(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--settings", name]) == 0
    assert capsys.readouterr().out.casefold().startswith(name.casefold().replace("-", " "))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_words_that_are_copied_stay_whole(entry: ClientEntry) -> None:
    told = " ".join(" ".join(settings_lines(entry, target())).split())
    for note in [*entry.notes, entry.phones_home, entry.where]:
        assert " ".join(note.split()) in told


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_each_entry_of_the_file_is_whole(entry: ClientEntry) -> None:
    """Templates are filled with nothing left over, no word has the key, and what it lacks are cells of the table."""
    lines = entry.lines("http://10.0.0.2:17615", "sk-1", "qwen3:4b", 4096)
    assert lines
    assert [line for line in lines for name in ("{url}", "{key}", "{model}", "{context}") if name in line] == []
    assert "http://10.0.0.2:17615" in "".join(lines)
    assert set(entry.only_with_key) <= set(entry.settings)
    said = [*entry.notes, *([entry.phones_home] if entry.phones_home else [])]
    assert [words for words in said if not words.endswith(".") or words[0].islower()] == [], "sentences, or code first"
    assert set(entry.lacks) <= set(CELLS)
    assert all(reason.strip() for reason in entry.lacks.values())
    assert [package for package in entry.packages if not package.startswith(("npm:", "pypi:"))] == []
    assert set(entry.api.split(", ")) <= {"chat", "responses", "messages", "ollama"}
    if entry.launch is not None:
        assert "{key}" not in "".join(entry.launch.words)
        assert launch_plan(entry, target()).environment.keys() >= set(entry.launch.remove)


def test_ids_and_programs_are_no_one_else_s_and_every_kind_has_a_heading() -> None:
    names = [name for entry in ENTRIES for name in {entry.id, entry.name}]
    assert len(names) == len(set(names))
    assert sorted(entry.id for of_kind in by_kind(ENTRIES).values() for entry in of_kind) == sorted(
        entry.id for entry in ENTRIES
    )
