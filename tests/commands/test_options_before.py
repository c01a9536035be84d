"""Options before a command: honoured by each command that takes them, refused by the others, dropped by none."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from swarm.cli import build_parser, main
from swarm.commands.node_arguments import read_line
from swarm.commands.parser import (
    ASKS,
    LISTS,
    LOADS,
    LOOKS,
    OTHERS,
    PAIRS,
    PULLS,
    REMOVES,
    SERVES,
    STOPS,
    UNLOADS,
    other_words,
)
from swarm.errors import SetupError

VALUES = {
    "--federation": (), "--peer": ("10.0.0.2:17615",), "--peer-file": ("peers",), "--interface": ("wg0",),
    "--host": ("127.0.0.1",), "--port": ("17701",), "--also-port": ("11434",),
    "--name": ("status",), "--api-key": ("key",),
    "--api-key-file": ("keys",), "--admin-key-file": ("admins",), "--open-federation": (), "--answer-any-model": (),
    "--fetch-images": (), "--record": (),
    "--allow-host": ("house",), "--allow-origin": ("http://house",), "--model": ("demo",),
    "--default-model": ("demo",), "--models-dir": ("there",), "--ttl": ("30m",), "--max-models": ("2",),
    "--memory": ("8G",), "--kv-disk": ("8G",), "--lend": ("8G",), "--pool": (), "--llama-server": ("/bin/sh",),
    "--engines-dir": ("engines",),
    "--auto": (), "--engine": ("auto",), "--workers": ("2",), "--queue": ("9",), "--threads": ("1",),
    "--context": ("512",), "--isolate": (), "--in-process": (), "--votes": ("3",), "--strategy": ("medoid",),
    "--vote-stream": ("buffer",),
    "--upstream": ("http://127.0.0.1:9",), "--upstream-mode": ("only",), "--upstream-model": ("m",),
    "--upstream-slots": ("2",), "--config": ("file.toml",), "--data-dir": ("elsewhere",), "--log-level": ("debug",),
    "--log-format": ("json",), "--plain": (), "--tools": ("read",), "--tools-root": (".",), "--tools-network": (),
    "--tools-sandbox": ("bwrap",), "--tools-unsandboxed": (), "--tool-server": (), "--no-model": (),
}  # fmt: skip
TAKES: dict[tuple[str, ...], set[str]] = {
    ("status",): {"--api-key"},
    ("top",): {"--api-key"},
    ("chat", "hello"): {"--api-key", "--model", "--plain"},
    ("vote", "hello"): {"--api-key", "--model", "--votes", "--strategy"},
    ("agent", "hello"): {"--tools", "--api-key", "--model", "--votes"},
    ("launch", "claude"): {"--api-key", "--model"},
    ("bench", "load"): {"--api-key", "--model", "--votes"},
    ("bench", "votes"): {"--api-key", "--strategy", "--data-dir"},
    ("doctor",): {"--peer", "--peer-file", "--port", "--host", "--interface", "--data-dir", "--config"},
    ("engines",): {"--data-dir", "--config", "--engine", "--engines-dir", "--llama-server"},
    ("engines", "list"): {"--data-dir", "--config", "--engine", "--engines-dir", "--llama-server"},
    ("providers",): set(),
    ("providers", "list"): set(),
    ("providers", "models", "groq"): {"--data-dir"},
    ("providers", "check", "groq"): {"--data-dir", "--model"},
    ("models", "list"): {"--data-dir", "--models-dir", "--config", "--api-key"},
    ("models", "fit"): {"--data-dir", "--models-dir", "--config", "--api-key", "--context", "--workers"},
    ("models", "load", "qwen3:4b"): {"--data-dir", "--models-dir", "--config", "--api-key"},
    ("models", "unload", "qwen3:4b"): {"--data-dir", "--models-dir", "--config", "--api-key"},
    ("models", "pin", "qwen3:4b"): {"--data-dir", "--models-dir", "--config", "--api-key"},
    ("models", "pull", "qwen3:4b"): {"--data-dir", "--models-dir", "--config", "--peer"},
    ("models", "rm", "qwen3:4b"): {"--data-dir", "--models-dir", "--config", "--api-key"},
    ("completion", "zsh"): set(),
    ("invite",): {"--data-dir"},
    ("join", "-"): {"--data-dir"},
    ("peers",): {"--data-dir"},
    ("lend",): {"--data-dir"},
    ("leave",): {"--data-dir"},
    ("forget",): {"--data-dir"},
    ("service", "status"): set(),
    ("revoke", "study"): {"--data-dir"},
    ("page", "--no-browser"): {"--data-dir"},
}


def test_the_table_has_every_option_and_every_command() -> None:
    text = build_parser().format_help()
    options = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE)) - {"--version"}
    assert set(VALUES) == options
    commands = re.search(r"^commands:\n  COMMAND\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert commands is not None
    assert {command[0] for command in TAKES} == set(re.findall(r"^    ([a-z]+)", commands[1], re.MULTILINE))


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("command", TAKES, ids=" ".join)
def test_an_option_before_a_command_counts_or_is_refused(command: tuple[str, ...], option: str) -> None:
    parser, words = build_parser(), (option, *VALUES[option])
    if option in TAKES[command]:
        assert vars(read_line(parser, [*words, *command])) == vars(read_line(parser, [*command, *words]))
        assert vars(read_line(parser, [*words, *command])) != vars(read_line(parser, command))
        return
    with pytest.raises(SetupError, match=rf"^{option} is an option of the node; `swarm {command[0]}"):
        read_line(parser, [*words, *command])


def test_what_stands_after_the_command_wins_and_lists_are_one() -> None:
    parser = build_parser()
    given = read_line(parser, ["--port", "1", "--peer", "a:1", "doctor", "--peer", "b:2", "--port=2"])
    assert (given.port, given.peer) == (2, ["a:1", "b:2"])
    assert read_line(parser, ["--model=a", "chat", "--model", "b", "status"]).question == ["status"]
    assert read_line(parser, ["--votes", "3", "vote", "--", "--why"]).question == ["--why"]


def test_an_option_s_value_is_no_command() -> None:
    given = read_line(build_parser(), ["--name", "status", "--model", "chat"])
    assert (given.name, given.model, given.command) == ("status", ["chat"], None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--port 17701 status", "--port is an option of the node; `swarm status` takes --url"),
        ("--host 10.0.0.2 chat hello", "--host is an option of the node; `swarm chat` takes --url"),
        ("--peer a:1 --votes 3 vote hello", "--peer is an option of the node; `swarm vote` takes --url"),
        ("--data-dir x status", "--data-dir is an option of the node; `swarm status` does not take it"),
        ("--isolate models list", "--isolate is an option of the node; `swarm models list` does not take it"),
        ("--in-process status", "--in-process is an option of the node; `swarm status` does not take it"),
        ("--isolate --in-process", "argument --in-process: not allowed with argument --isolate"),
        ("--port x status", "invalid int value"),
        ("--strategy judge bench votes", "invalid choice: 'judge'"),
        ("--no-such-option status", "unrecognized arguments: --no-such-option"),
        ("--port 1 statis", "invalid choice: 'statis'"),
        ("models list --workers 2", "unrecognized arguments: --workers 2"),
    ],
)
def test_what_cannot_be_ends_with_2_and_is_named(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(line.split())
    except SystemExit as left:  # argparse's own way
        code = left.code
    assert code == 2
    assert told in capsys.readouterr().err


def test_the_data_directory_before_the_command_is_the_one_that_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_model: Path
) -> None:
    for command in (["peers"], ["invite"], ["revoke", "study"]):
        assert main(["--data-dir", str(tmp_path), *command]) == 2
        assert str(tmp_path) in capsys.readouterr().err
    folder = tmp_path / "models" / "someone--tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(demo_model.read_bytes())
    assert main(["--data-dir", str(tmp_path), "models", "rm", "tiny"]) == 0
    assert not folder.exists()


@pytest.mark.parametrize("command", TAKES, ids=" ".join)
def test_help_after_an_option_is_the_command_s(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--federation", *command[:2], "--help"])
    assert left.value.code == 0
    assert f"usage: swarm {command[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["peers"], ["invite"], ["revoke", "study"]], ids=" ".join)
def test_without_the_option_the_environment_names_the_data_directory(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SWARM_DATA_DIR", str(tmp_path / "environment"))
    assert main(command) == 2
    assert str(tmp_path / "environment") in capsys.readouterr().err
    assert main([*command, "--data-dir", str(tmp_path / "given")]) == 2
    assert str(tmp_path / "given") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run demo", "there is no `swarm run demo`: `swarm --model demo` serves demo until Ctrl-C, and `swarm chat`"),
        ("run qwen3:4b why is the sky blue", "`swarm --model qwen3:4b` serves qwen3:4b"),
        ("--port 1 run demo", "`swarm --model demo` serves demo"),
        ("serve", "`swarm --federation` serves a model"),
        ("serve --port 8000", "`swarm --port 8000` serves a model"),
        ("start --model demo", "`swarm --model demo` serves a model"),
        ("up", "`swarm --federation` serves"),
        ("load demo:b", "there is no `swarm load demo:b`: `swarm models load demo:b`"),
        ("unload demo:b", "`swarm models unload demo:b`"),
        ("pin", "`swarm models pin NAME`"),
        ("models eject demo", "there is no `swarm models eject`: `swarm models unload demo`"),
        ("pull qwen3:4b", "`swarm models pull qwen3:4b`"),
        ("download", "`swarm models pull NAME`"),
        ("rm qwen3:4b", "`swarm models rm qwen3:4b`"),
        ("list", "`swarm models list`"),
        ("ls", "`swarm models list`"),
        ("models show", "`swarm models list`"),
        ("models delete qwen3:4b", "there is no `swarm models delete`: `swarm models rm qwen3:4b`"),
        ("models run demo", "`swarm --model demo` serves"),
        ("ps", "`swarm status`"),
        ("stop", "Ctrl-C where the node runs"),
        ("PS", "`swarm status`"),
        ("ask 'why is it so?'", "`swarm chat 'why is it so?'`"),
        ("login", "`swarm join CODE`"),
        ("help", "`swarm --help`"),
        ("version", "`swarm --version`"),
        ("demo", "'demo' is not a command: `swarm --model demo` serves that model"),
        ("qwen3:4b", "`swarm --model qwen3:4b` serves that model"),
        ("./my.gguf", "`swarm --model ./my.gguf` serves that model"),
    ],
)
def test_the_words_of_other_programs_are_told_what_to_write(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("swarm: ")
    assert err.count("\n") == 1


def test_what_is_suggested_instead_exists() -> None:
    """Every line in backquotes is one that the parser takes."""
    words = [*SERVES, *PULLS, *LOADS, *UNLOADS, *REMOVES, *LISTS, *LOOKS, *STOPS, *ASKS, *PAIRS, *OTHERS]
    parser = build_parser()
    for word in words:
        said = other_words([word, "demo"], parser.commands())
        assert said is not None or word in parser.commands(), word
        for line in re.findall(r"`swarm ([^`]+)`", said or ""):
            if "COMMAND" in line or line in ("--help", "--version"):
                continue
            assert read_line(build_parser(), shlex.split(line)), line
