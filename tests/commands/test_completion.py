"""TAB in bash, zsh and fish: what may stand there by the parser, asked by each shell itself where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.cli import build_parser, main
from swarm.commands.arguments import SHELLS
from swarm.commands.completion import SAFE_NAME, SCRIPTS, WORDS, complete, model_names
from tests.doubles.tiny_models import write_named_model
from tests.doubles.typist import at_a_terminal_of
from tests.e2e.node_process import PROGRAM

MODELS = ("demo", "demo:b", "qwen3:4b:q4_k_m", "qwen3:8b:q4_k_m")
HERE_ALREADY = ("demo", "tiny-q8_0")
SHELL_S = 60.0


def words(line: str) -> list[str]:
    """What may stand at the end of `line`."""
    return [
        word
        for word, _ in complete(build_parser(), line.split(" "), lambda here: HERE_ALREADY if here else MODELS).words
    ]


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("", ["status", "chat", "models", "completion"], ["--federation", "list"]),
        ("st", ["status"], ["chat"]),
        ("--fed", ["--federation"], ["--peer"]),
        ("--federation --", ["--peer", "--model"], ["--federation", "-h"]),
        ("--peer a:1 --pe", ["--peer", "--peer-file"], []),
        ("--port 1 ", ["status"], ["--port"]),
        ("--model ", list(MODELS), ["status"]),
        ("--model q", ["qwen3:4b:q4_k_m", "qwen3:8b:q4_k_m"], ["demo"]),
        ("--model=qwen3:8", ["--model=qwen3:8b:q4_k_m"], ["--model=demo"]),
        ("--strategy m", ["majority", "medoid"], ["auto"]),
        ("--engine ", ["auto", "xllamacpp"], ["status"]),
        ("--name ", [], ["status"]),
        ("models ", ["list", "load", "unload", "pin", "fit", "pull", "rm"], ["status"]),
        ("models --data-dir x ", [], ["list"]),
        ("models pull ", list(MODELS), ["list"]),
        ("models pull demo ", [], list(MODELS)),
        ("models load ", list(HERE_ALREADY), ["qwen3:4b:q4_k_m"]),
        ("models unload t", ["tiny-q8_0"], ["demo"]),
        ("models pin x --", ["--off", "--on"], ["--pin"]),
        ("models rm ", list(HERE_ALREADY), ["qwen3:4b:q4_k_m"]),
        ("--default-model q", ["qwen3:4b:q4_k_m"], ["demo"]),
        ("--model demo --mod", ["--model", "--models-dir"], []),
        ("models fit --", ["--context", "--json"], ["--federation"]),
        ("chat --model d", ["demo", "demo:b"], []),
        ("chat hello ", [], ["status"]),
        ("vote --json --j", [], ["--jsonl"]),
        ("vote --votes 3 --strategy ju", ["judge"], []),
        ("vote -- --st", [], ["--strategy"]),
        ("bench votes --models demo q", ["qwen3:4b:q4_k_m"], ["status"]),
        ("bench votes --models demo --embedded ", [], ["demo"]),
        ("launch ", ["claude", "codex"], ["open-webui", "openai-python"]),
        ("launch --settings open", ["opencode", "open-webui", "openai-python"], ["codex"]),
        ("completion ", ["bash", "zsh", "fish"], []),
        ("completion bash ", [], ["bash"]),
        ("nonsense --", [], ["--federation"]),
        ("models nonsense ", [], ["list"]),
        ("--no-such x", [], ["status"]),
        ("--no-such=", [], ["status"]),
    ],
)
def test_what_may_stand_there(line: str, some: list[str], none: list[str]) -> None:
    found = words(line)
    assert set(some) <= set(found)
    assert not set(none) & set(found)
    assert some or not found


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("--config ", "files"), ("--config=", "files"), ("--peer-file x", "files"), ("--data-dir ", "directories"),
        ("--models-dir ", "directories"), ("models list --data-dir x", "directories"),
        ("bench votes --plot ", "directories"),
        ("bench votes --report x", "files"), ("--model ", "words"),
    ],
)  # fmt: skip
def test_files_are_the_shell_s_to_find(line: str, kind: str) -> None:
    assert complete(build_parser(), line.split(" "), lambda here: HERE_ALREADY if here else MODELS).kind == kind


def test_every_command_and_option_is_offered() -> None:
    parser = build_parser()
    assert set(words("")) == set(parser.commands())
    for name, command in parser.commands().items():
        for path, below in ((name, command), *((f"{name} {action}", of) for action, of in command.commands().items())):
            long = {option for option in below.options() if option.startswith("--")}
            assert set(words(f"{path} --")) == long, path
    assert all("\t" not in about and "\n" not in about for _, about in complete(parser, ["-"], lambda _: ()).words)


def test_the_models_are_those_that_may_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWARM_DATA_DIR", str(tmp_path))
    folder = tmp_path / "models" / "someone--tiny"
    folder.mkdir(parents=True)
    for name in ("tiny", "evil\x1b]0;owned\x07", "with space", "$(reboot)", "`reboot`"):
        write_named_model(folder / f"{name}.gguf")
    found = model_names()
    assert {"demo", "qwen3:4b:q4_k_m"} <= set(found)
    assert any("tiny" in name for name in found)
    assert all(SAFE_NAME.fullmatch(name) for name in found), "a shell would act on it, or show it"


def test_no_damage_makes_a_tab_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWARM_DATA_DIR", "/dev/null/none")
    monkeypatch.setenv(WORDS, "--model\n\n")
    assert main(["completion", "bash"]) == 0
    assert "demo\t" in capsys.readouterr().out


def test_each_shell_is_given_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(SCRIPTS) == SHELLS
    for shell, script in SCRIPTS.items():
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script


# In real shells


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with some files, and in `bin` a program called swarm."""
    program = tmp_path / "bin" / "swarm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM[1]} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "my keys.txt").touch()
    (tmp_path / "myfolder").mkdir()
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TERM": "xterm"}


def in_bash(home: Path, line: str) -> list[str]:
    script = (
        "source <(swarm completion bash); COMP_LINE=$1; COMP_POINT=${#1}; _swarm_completion; "
        'printf "%s\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "-c", script, "bash", f"swarm {line}"]
    done = subprocess.run(
        command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=SHELL_S, check=True
    )
    assert not done.stderr
    return [found for found in done.stdout.splitlines() if found]


def in_fish(home: Path, line: str) -> list[str]:
    script = "swarm completion fish | source; complete -C $argv[1]"
    command = ["fish", "--no-config", "-c", script, f"swarm {line}"]
    done = subprocess.run(
        command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=SHELL_S, check=True
    )
    return [found.partition("\t")[0] for found in done.stdout.splitlines()]


Ask = Callable[[Path, str], list[str]]


@pytest.mark.parametrize(
    "ask",
    [pytest.param(in_bash, marks=needs("bash")), pytest.param(in_fish, marks=needs("fish"))],
    ids=["bash", "fish"],
)
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sta", ["status"]),
        ("models ", ["fit", "list", "load", "pin", "pull", "rm", "unload"]),
        ("--fed", ["--federation"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("--model dem", ["demo", "demo:b", "demo:c"]),
        ("chat --nonsense", []),
    ],
)
def test_a_shell_shows_them(ask: Ask, home: Path, line: str, found: list[str]) -> None:
    assert sorted(ask(home, line)) == found


@needs("bash")
def test_bash_has_words_of_its_own_at_colons_and_signs(home: Path) -> None:
    assert sorted(in_bash(home, "--model demo:")) == ["b", "c"]
    assert sorted(in_bash(home, "--model=demo:")) == ["b", "c"]
    assert sorted(in_bash(home, "--strategy=me")) == ["medoid"]
    assert sorted(in_bash(home, "--config my")) == ["my keys.txt", "myfolder"]
    assert in_bash(home, "--data-dir=my") == ["myfolder"]


@needs("fish")
def test_fish_takes_the_whole_word(home: Path) -> None:
    assert sorted(in_fish(home, "--model demo:")) == ["demo:b", "demo:c"]
    assert in_fish(home, "--strategy=me") == ["--strategy=medoid"]
    assert "myfolder/" in in_fish(home, "--config my")
    assert in_fish(home, "--data-dir=my") == ["--data-dir=myfolder/"]


@needs("zsh")
async def test_zsh_completes_what_is_typed(home: Path) -> None:
    """Asked as a person asks it: at its prompt, with TAB."""
    (home / ".zshrc").write_text("PS1='%% '\nautoload -Uz compinit && compinit -u\nsource <(swarm completion zsh)\n")
    async with at_a_terminal_of(["zsh", "-i"], environment(home), home) as me:
        await me.sees("% ")
        for typed, completed in (
            (b"swarm --fed\t", "--federation"),
            (b"swarm stat\t", "status"),
            (b"swarm --strategy=med\t", "--strategy=medoid"),
            (b"swarm --data-dir myf\t", "myfolder"),
            (b"swarm models pull qwen3:8\t", "qwen3:8b:q4_k_m"),
        ):
            me.type(typed)
            await me.sees(completed)
            me.type(b"\x15")  # takes the line back; Ctrl-C would meet a completion that is not over yet
