"""The command line as a person meets it: help, exit codes, words for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from swarm.cli import build_parser, main
from swarm.commands.chat_answer import vote_line
from swarm.commands.parser import Parser
from swarm.commands.status import render
from swarm.commands.terminal import Terminal
from swarm.gateway.observing.view import parse_view

ROOT = Path(__file__).resolve().parents[2]


def test_help_is_grouped_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:" in text
    assert "swarm --federation" in text
    assert all(option in text for option in ("--votes", "--strategy", "--vote-stream"))
    assert all(group in text for group in ("network:", "model:", "voting:", "general:", "commands:"))
    assert len(text.splitlines()) <= 113


def parsers(parser: Parser) -> Iterator[Parser]:
    yield parser
    for below in parser.commands().values():
        yield from parsers(below)


def test_every_help_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = list(parsers(build_parser()))
    assert len(found) > 14
    too_long = [line for parser in found for line in parser.format_help().splitlines() if len(line) > 80]
    assert not too_long


def test_on_windows_a_node_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--federation"]) == 2
    assert "WSL 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--strategy", "dictator"], "majority"),
        (["--vote-stream", "loudly"], "reasoning"),
        (["--votes", "0"], "use 1 to 32"),
        (["--votes", "1", "--strategy", "judge"], "use 2 to 32"),
    ],
    ids=str,
)
def test_voting_that_cannot_work_is_wrong_usage(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as left:  # argparse's own way
        code = left.code
    assert code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "1.2.3.4"], "--host 1.2.3.4 is not an address of this machine"),
        (["--peer", "nonsense::1:x"], "neither a host name nor an IP address"),
        (["--votes", "99"], "--votes 99 is out of range"),
        (["--config", "/does/not/exist.toml"], "cannot read --config"),
        (["--model", "no-such-model"], "no model is called"),
        (["--model", "/does/not/exist.gguf"], "does not exist"),
    ],
)
def test_an_impossible_request_ends_with_2_and_the_reason(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--port", "0", "--data-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_wrong_usage_ends_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--no-such-flag"])
    assert caught.value.code == 2


@pytest.mark.parametrize("arguments", [["status"], ["chat", "hello"], ["vote", "hello"]])
def test_no_node_at_the_url_is_said_with_the_remedy(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--url", "http://127.0.0.1:9"]) == 1
    assert "no node answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_doctor_prints_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--hardware"]) == 0
    assert "CPU" in capsys.readouterr().out
    assert main(["doctor", "--hardware", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["total_bytes"] > 0


def test_models_are_listed_and_fitted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["models", "list", "--all", "--data-dir", str(tmp_path)]) == 0
    assert "qwen2.5-coder:7b:q4_k_m" in capsys.readouterr().out
    assert main(["models", "fit", "--json", "--data-dir", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert any(row["fits"] for row in rows)
    assert main(["models", "rm", "qwen3:4b", "--data-dir", str(tmp_path)]) == 2


def test_a_removed_model_is_gone(capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_model: Path) -> None:
    folder = tmp_path / "models" / "someone--tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(demo_model.read_bytes())
    assert main(["models", "rm", "tiny", "--data-dir", str(tmp_path)]) == 0
    assert not folder.exists()
    assert "removed tiny" in capsys.readouterr().out


def test_main_py_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: swarm" in done.stdout


def test_status_names_everyone() -> None:
    peer = {
        "name": "study", "url": "http://10.0.0.2:17615", "state": "alive", "last_seen_s": 0.4, "rtt_ms": 1.5,
        "source": "mdns", "slots_free": 4, "models": ["demo"], "id": "x",
    }  # fmt: skip
    node = {"name": "kitchen", "url": "http://10.0.0.1:17615", "version": "1", "mode": "open", "id": "y"}
    text = render(parse_view({"status": "ok", "node": node, "peers": [peer], "models": {"demo": ["kitchen", "study"]}}))
    assert "kitchen  http://10.0.0.1:17615  ok" in text
    assert "model demo: kitchen, study" in text
    assert "peer study" in text
    assert "found by mdns" in text


def test_status_says_what_each_model_of_the_node_does() -> None:
    node = {"name": "kitchen", "url": "http://10.0.0.1:17615", "version": "1", "mode": "open", "id": "y"}
    common = {"engine": "xllamacpp", "slots": 2, "slots_free": 1, "waiting": 0, "problem": None}
    own = [
        {**common, "id": "qwen3:4b", "state": "ready", "pinned": True, "taken_bytes": 3 << 30},
        {**common, "id": "demo", "state": "draining", "waiting": 2, "taken_bytes": 63 << 20, "problem": "it stalls"},
        {**common, "id": "demo:b", "state": "loading", "waiting": 3, "loading": {"share": 0.62, "left_s": 3.2}},
        {**common, "id": "demo:c", "state": "loading"},
        {**common, "id": "bad", "state": "failed", "reason": "its file is cut short"},
        {**common, "id": "old"},
    ]
    view = {"status": "ok", "node": node, "peers": [], "models": {}, "own_models": own}
    assert render(parse_view(view)).splitlines()[1:8] == [
        "  own model qwen3:4b: ready, 1 of 2 slots free, 3.0 GiB of memory, pinned",
        "  own model demo: draining, 1 of 2 slots free, 2 waiting, 63 MiB of memory, it stalls",
        "  loading demo:b 62 %, 3 s left (3 waiting for it)",
        "  loading demo:c",
        "  own model bad: failed: its file is cut short",
        "  own model old: ready, 1 of 2 slots free",
        "  memory: its 2 models take 3.1 GiB",
    ]


def test_status_says_since_when_and_why_a_peer_is_dead_and_who_is_absent() -> None:
    node = {"name": "kitchen", "url": "http://10.0.0.1:17615", "version": "1", "mode": "paired", "id": "y"}
    peer = {
        "name": "study", "url": "http://10.0.0.2:17615", "state": "dead", "last_seen_s": 7204.7, "rtt_ms": 5.0,
        "source": "mdns", "slots_free": 4, "models": ["demo"], "id": "x",
    }  # fmt: skip
    gone = {
        "at": (datetime.now(UTC) - timedelta(seconds=7200)).isoformat(), "peer": "study", "id": "x", "state": "dead",
        "reason": "nobody listens at 10.0.0.2:17615", "times": 1,
    }  # fmt: skip
    view = {"status": "ok", "node": node, "peers": [peer], "models": {}}
    text = render(parse_view({**view, "changes": [gone]}))
    assert "study  http://10.0.0.2:17615  dead for 2 h: nobody listens at 10.0.0.2:17615" in text
    assert "slots free" not in text
    assert "  dead: last seen 2 h ago" in render(parse_view(view))
    alone = {**view, "peers": [], "trust": {"mode": "paired", "problem": None, "absent": [{"id": "z", "name": "vm"}]}}
    assert "  member vm  absent: not seen since this node started" in render(parse_view(alone))
    assert "no peers" not in render(parse_view(alone))
    assert "no peers" in render(parse_view({**view, "peers": []}))


def test_a_vote_in_one_line() -> None:
    swarm = {"strategy": "auto", "votes": 4, "asked": 5, "quorum": True, "elapsed_ms": 12, "winner": "Zeus@kitchen"}
    candidates = [{"voter": str(number), "group": int(number > 2)} for number in range(4)]
    assert vote_line({**swarm, "candidates": candidates}) == "3 of 4 agree · 0 tokens · 12 ms"
    strongest = "3 of 4 agree, the strongest decides · 0 tokens · 12 ms"
    assert vote_line({**swarm, "candidates": candidates, "stopped_by": "strongest"}) == strongest
    assert vote_line({**swarm, "quorum": False}) == "no consensus, 4 of 5 voted · 0 tokens · 12 ms"
    assert vote_line({**swarm, "strategy": "single"}) == "Zeus@kitchen · 0 tokens · 12 ms"
    assert vote_line({**swarm, "winner": None}) == "nobody gave an answer · 0 tokens · 12 ms"
    assert vote_line({"strategy": 7}) == ""


def test_progress_in_a_log_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for done in range(101):
        terminal.progress("tiny", done, 100)
    lines = capsys.readouterr().out.splitlines()
    assert 9 <= len(lines) <= 12
    assert "100%" in lines[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--url", "http://127.0.0.1:9"]], ids=" ".join)
def test_help_and_status_import_nothing_heavy(arguments: list[str]) -> None:
    """Each of these takes longer to import than the command takes to answer."""
    program = (
        "import sys\nfrom swarm.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    assert "swarm.cli" in loaded
    heavy = {
        "pydantic",
        "aiohttp",
        "cryptography",
        "zeroconf",
        "psutil",
        "xllamacpp",
        "jsonschema",
        "rich",
        "prompt_toolkit",
    }
    drawing = {"rich", "prompt_toolkit"}
    assert (heavy | drawing) & loaded == set()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--fedration", "did you mean --federation?"),
        ("--feredation --model demo", "did you mean --federation?"),
        ("-federation", "did you mean --federation?"),
        ("--api_key=x", "did you mean --api-key?"),
        ("--models demo", "did you mean --model?"),
        ("statuss", "did you mean 'status'?"),
        ("model list", "did you mean 'models'?"),
        ("models lst", "did you mean 'list'?"),
        ("--strategy majorty", "did you mean 'majority'?"),
        ("status --jsn", "`swarm status --help`"),
        ("vote --temprature 0 hello", "did you mean --temperature?"),
        ("models list --federation", "--federation is an option of the node; `swarm models list` does not take it"),
        ("--interfase eth0", "did you mean --interface?"),
        ("--xyzzy status", "unrecognized arguments: --xyzzy"),
        ("--xyzzy", "(`swarm --help` lists what there is)"),
    ],
)
def test_what_is_misspelt_is_named_with_what_was_meant(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(line.split())
    assert left.value.code == 2
    assert told.replace("`swarm status --help`", "did you mean --json?") in capsys.readouterr().err


def test_words_of_a_wrong_line_reach_no_terminal_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """They may be names of files, by a pattern of the shell."""
    for words in (["--\x1b]0;owned\x07x"], ["\x9d0;x\x9cstatus"], ["status", "\x1b[2J"], ["--port", "\x1b[31m"]):
        with pytest.raises(SystemExit):
            main(words)
        written = capsys.readouterr().err
        assert all(char.isprintable() or char == "\n" for char in written), written


def test_an_interface_that_is_not_there_is_named_with_those_that_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--federation", "--interface", "eth99", "--port", "0", "--data-dir", str(tmp_path), "--model", "demo"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "--interface eth99" in told
    assert "this machine has " in told
    assert "(127.0.0.1" in told
    assert "--host" not in told


def test_an_interface_without_a_federation_is_not_passed_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--interface", "lo", "--port", "0", "--data-dir", str(tmp_path), "--model", "demo"]
    assert main(words) == 2
    assert "--interface lo is for a node that others find" in capsys.readouterr().err
    assert main([*words[2:], "--interface", "eth99", "--host", "127.0.0.1"]) == 2
    assert "--host 127.0.0.1 is on lo" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "code"), [("loud", 2), ("NOTSET", 2), ("5", 2), ("", 2)])
def test_a_level_of_the_log_that_there_is_not_is_a_sentence(
    level: str, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'log_level = "{level}"\n')
    assert main(["--config", str(config), "--model", "demo"]) == code
    assert "is no level: use debug, info, warning or error" in capsys.readouterr().err


def test_without_its_packages_the_program_says_how_to_start_it(tmp_path: Path) -> None:
    """`python main.py` of a fresh checkout, by a Python that has none of them."""
    bare = [sys.executable, "-S", "-E", str(ROOT / "main.py")]
    for words, code in ((["--model", "demo"], 2), (["models", "list"], 2), (["--help"], 0), (["--version"], 0)):
        done = subprocess.run([*bare, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert ("./scripts/run" in done.stderr) == (code == 2)
