"""`swarm service`: systemd and launchd read what it writes as it is meant, and what is not its own it leaves alone."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from swarm.cli import main
from swarm.commands.service import Machine, install, remove, status
from swarm.commands.service_files import Standing, absolute_options, program_of, standing_of, systemd_word
from swarm.errors import SetupError, SwarmError
from swarm.node.leaving import GONE_S

UNIT = Path("etc/systemd/system/swarm.service")
SOCKET_UNIT = Path("etc/systemd/system/swarm.socket")


@dataclass
class Manager:
    """Takes the place of systemctl and launchctl: what was run, and what fails."""

    ran: list[str] = field(default_factory=list)
    fails: str = ""
    says: str = "ActiveState=active\nSubState=running\nUnitFileState=enabled\nNRestarts=0\n"

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        line = " ".join(words)
        self.ran.append(line)
        failed = bool(self.fails) and self.fails in line
        return subprocess.CompletedProcess(words, int(failed), self.says, "Access denied" if failed else "")


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def port() -> int:
    """One that is free, and below those that the system gives to others meanwhile."""
    for number in range(20_000 + os.getpid() % 9000, 32_000):
        with suppress(OSError), socket.create_server(("0.0.0.0", number)):
            return number
    pytest.fail("no port is free")


@pytest.fixture
def machine(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Root's, with systemd. The program is in /opt, as its own service sees no home directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWARM_API_KEY", "SWARM_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "run").mkdir()
    return Machine(
        platform="linux",
        user_id=0,
        home=tmp_path / "home",
        root=tmp_path,
        booted=tmp_path / "run",
        environ={},
        executable=Path("/opt/local-swarm/bin/python"),
        run=manager.run,
    )


@pytest.fixture(autouse=True)
def _program_in_opt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.commands.service.program_of", lambda *_: ("/opt/local-swarm/bin/swarm",))


def started(unit: str) -> list[str]:
    """The words of ExecStart= as systemd splits them."""
    line = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert line is not None
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line[1])]


def verified(*paths: Path) -> list[str]:
    """What systemd itself has to say against the units."""
    if shutil.which("systemd-analyze") is None:
        return []
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return [line for line in ran.stderr.splitlines() if "swarm." in line and "is not executable" not in line]


def test_the_system_s_service_gets_keys_as_credentials_and_its_own_folder(
    machine: Machine, manager: Manager, tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys of the office"
    keys.write_text("sesame\n")
    options = ["--federation", "--auto", "--api-key-file", keys.name, "--port", str(port), "--name", '50% of $x "y"']
    assert install("system", options, dry_run=False, machine=machine) == 0
    unit = (tmp_path / UNIT).read_text()
    assert started(unit) == [
        "/opt/local-swarm/bin/swarm", "--federation", "--auto",
        "--api-key-file", "${CREDENTIALS_DIRECTORY}/api-keys",
        "--port", str(port), "--name", '50% of $x "y"', "--data-dir", "${STATE_DIRECTORY}",
    ]  # fmt: skip
    assert f"\nLoadCredential=api-keys:{keys}\n" in unit
    assert "sesame" not in unit
    for line in ("DynamicUser=yes", "StateDirectory=local-swarm", "ProtectSystem=strict", "WantedBy=multi-user.target"):
        assert f"\n{line}\n" in unit
    sockets = (tmp_path / SOCKET_UNIT).read_text()
    assert f"ListenStream=0.0.0.0:{port}\n" in sockets
    assert sockets.count("ListenStream=") == (2 if Path("/proc/net/if_inet6").exists() else 1)
    assert manager.ran == ["systemctl daemon-reload", "systemctl enable --now swarm.socket swarm.service"]
    assert (tmp_path / UNIT).stat().st_mode & 0o777 == 0o644
    said = capsys.readouterr().out
    assert f"write {tmp_path / UNIT}" in said
    assert "$ systemctl enable --now swarm.socket swarm.service" in said
    assert "sudo swarm invite --data-dir /var/lib/local-swarm" in said
    assert verified(tmp_path / UNIT, tmp_path / SOCKET_UNIT) == []


def test_a_user_s_service_has_nothing_that_only_the_system_may(
    machine: Machine, manager: Manager, tmp_path: Path, port: int
) -> None:
    mine = replace(machine, user_id=1000, environ={"SWARM_ALLOW_HOST": "nas"})
    assert install(None, ["--model", "demo", "--port", str(port)], dry_run=False, machine=mine) == 0
    folder = tmp_path / "home/.config/systemd/user"
    unit = (folder / "swarm.service").read_text()
    for word in ("DynamicUser", "Protect", "Capability", "StateDirectory", "multi-user", "network-online"):
        assert word not in unit
    assert "WantedBy=default.target" in unit
    assert float(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > GONE_S
    assert started(unit)[1:] == ["--model", "demo", "--port", str(port)]
    assert f"ListenStream=127.0.0.1:{port}\n" in (folder / "swarm.socket").read_text(), "as wide as the node, no wider"
    assert manager.ran[1:] == [
        "systemctl --user daemon-reload", "systemctl --user enable --now swarm.socket swarm.service",
    ]  # fmt: skip
    assert verified(folder / "swarm.service", folder / "swarm.socket") == []


def test_dry_run_writes_and_runs_nothing_anywhere(
    machine: Machine, manager: Manager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    nowhere = replace(machine, booted=tmp_path / "no systemd", user_id=1000)
    assert install("user", [], dry_run=True, machine=nowhere) == 0
    said = capsys.readouterr().out
    assert "    ExecStart=/opt/local-swarm/bin/swarm --federation --auto" in said
    assert "Nothing was written or run" in said
    assert (sorted(tmp_path.rglob("*")), manager.ran) == (before, [])


def test_it_is_replaced_restarted_shown_and_removed(
    machine: Machine, manager: Manager, tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("system", as_json=False, machine=machine) == 1
    assert "not installed" in capsys.readouterr().out
    for options in (["--federation", "--port", str(port)], ["--federation", "--port", str(port), "--votes", "3"]):
        assert install("system", options, dry_run=False, machine=machine) == 0
    assert "--votes 3" in (tmp_path / UNIT).read_text()
    assert manager.ran[-1] == "systemctl restart swarm.service"
    capsys.readouterr()
    assert status("system", as_json=True, machine=machine) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "active (running), enabled"
    assert set(shown["files"].values()) == {Standing.OURS.value}
    manager.says = "ActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled\nNRestarts=7\n"
    assert status("system", as_json=False, machine=machine) == 1
    assert "restarted 7 times: see the log" in capsys.readouterr().out
    assert remove("system", dry_run=True, machine=machine) == 0
    assert (tmp_path / UNIT).exists()
    manager.ran.clear()
    assert remove("system", dry_run=False, machine=machine) == 0
    assert manager.ran == ["systemctl disable --now swarm.socket swarm.service", "systemctl daemon-reload"]
    assert not (tmp_path / UNIT).exists()
    assert not (tmp_path / SOCKET_UNIT).exists()
    assert "stay in /var/lib/local-swarm" in capsys.readouterr().out
    assert remove("system", dry_run=False, machine=machine) == 0
    assert "There is no service here" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["foreign", "changed"])
def test_a_file_that_is_not_its_own_is_neither_replaced_nor_removed(
    machine: Machine, manager: Manager, tmp_path: Path, port: int, change: str
) -> None:
    if change == "foreign":
        (tmp_path / SOCKET_UNIT.parent).mkdir(parents=True)
        (tmp_path / SOCKET_UNIT).write_text("[Socket]\nListenStream=1\n")
    else:
        install("system", ["--federation", "--port", str(port)], dry_run=False, machine=machine)
        (tmp_path / SOCKET_UNIT).write_text((tmp_path / SOCKET_UNIT).read_text() + "# mine\n")
    kept, ran = (tmp_path / SOCKET_UNIT).read_text(), list(manager.ran)
    for dry_run in (True, False):
        with pytest.raises(SetupError, match=r"swarm\.socket is .*neither replaced nor removed: move it away first"):
            install("system", ["--federation", "--port", str(port)], dry_run=dry_run, machine=machine)
        with pytest.raises(SetupError, match="neither replaced nor removed"):
            remove("system", dry_run=dry_run, machine=machine)
    assert ((tmp_path / SOCKET_UNIT).read_text(), manager.ran) == (kept, ran)


@pytest.mark.parametrize(
    ("changes", "scope", "options", "words"),
    [
        ({"booted": Path("/nonesuch")}, "system", [], "systemd does not run here (process 1 is "),
        ({"user_id": 1000}, "system", [], "use sudo, or --user"),
        ({"platform": "win32"}, None, [], "this is win32"),
        ({}, "system", ["--port", "0"], "--port 0 would be another port"),
        ({}, "system", ["--api-key", "x"], "give --api-key-file FILE"),
        ({}, "system", ["--api-key=x"], "give --api-key-file FILE"),
        ({}, "system", ["--api-key-file", "nonesuch"], "does not exist: make it first"),
        ({}, "system", ["--data-dir", "/srv/x"], "keeps its data in /var/lib/local-swarm"),
        ({}, "system", ["--peer-file", "/home/a/peers"], "sees no /home/a/peers"),
        ({}, "system", ["--model", "/root/x.gguf"], "sees no /root/x.gguf"),
        (
            {},
            "system",
            ["--tools", "read,bash", "--tools-root", "/srv/p"],
            "leave bash out of --tools, or install a service of your own with --user",
        ),
        ({}, "system", ["--tools=all", "--tools-root", "/srv/p"], "commands have no sandbox in it"),
        ({}, "system", ["--tool-server", "--tools-root", "/srv/p"], "commands have no sandbox in it"),
        ({}, "system", ["--tools", "read", "--tools-root", "/home/a/p"], "sees no /home/a/p"),
        ({}, "system", ["--votes", "0"], "out of range"),
        ({}, "system", ["--name", "a\nb"], "line break"),
    ],
)
def test_what_cannot_become_a_service_is_said(
    machine: Machine, tmp_path: Path, changes: dict[str, object], scope: object, options: list[str], words: str
) -> None:
    with pytest.raises(SetupError) as caught:
        install(scope, ["--federation", *options], dry_run=False, machine=replace(machine, **changes))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert not (tmp_path / UNIT).exists()


def test_the_system_s_service_does_not_start_a_program_in_somebody_s_home(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.commands.service.program_of", lambda *_: ("/home/anna/.venv/bin/swarm",))
    with pytest.raises(SetupError, match=r"sees no /home/anna.*/opt/local-swarm.*--user"):
        install("system", [], dry_run=True, machine=machine)


def test_a_port_that_is_taken_and_a_manager_that_refuses_are_told(
    machine: Machine, manager: Manager, tmp_path: Path, port: int
) -> None:
    with (
        socket.create_server(("0.0.0.0", port)),
        pytest.raises(SetupError, match=rf"port {port} is in use"),
    ):
        install("system", ["--federation", "--port", str(port)], dry_run=False, machine=machine)
    assert not (tmp_path / UNIT).exists()
    manager.fails = "enable"
    with pytest.raises(SwarmError, match=r"enable --now .* did not work: Access denied.*swarm service remove"):
        install("system", ["--federation", "--port", str(port)], dry_run=False, machine=machine)
    mine = replace(machine, user_id=1000)
    manager.fails = "show-environment"
    with pytest.raises(SetupError, match="log in as that user itself"):
        install("user", [], dry_run=False, machine=mine)


def test_launchd_gets_an_agent_that_starts_the_same(
    machine: Machine, manager: Manager, tmp_path: Path, port: int
) -> None:
    mac = replace(machine, platform="darwin", user_id=501)
    name = 'a "b" & <c>'
    assert install(None, ["--federation", "--port", str(port), "--name", name], dry_run=False, machine=mac) == 0
    path = tmp_path / "home/Library/LaunchAgents/local-swarm.plist"
    settings = plistlib.loads(path.read_bytes())
    assert settings["ProgramArguments"][1:] == ["--federation", "--port", str(port), "--name", name]
    assert settings["ExitTimeOut"] > GONE_S
    assert settings["KeepAlive"] == {"SuccessfulExit": False}
    assert standing_of(path.read_text()) is Standing.OURS
    assert manager.ran == [f"launchctl bootstrap gui/501 {path}"]
    assert install(None, ["--federation", "--port", str(port)], dry_run=False, machine=mac) == 0
    assert manager.ran[1:] == ["launchctl bootout gui/501/local-swarm", f"launchctl bootstrap gui/501 {path}"]
    manager.says = "\tstate = running\n"
    assert status(None, as_json=False, machine=mac) == 0
    assert remove(None, dry_run=False, machine=mac) == 0
    assert not path.exists()
    daemon = replace(mac, user_id=0, environ={"SUDO_USER": "anna"})
    assert install(None, ["--federation", "--port", str(port)], dry_run=False, machine=daemon) == 0
    settings = plistlib.loads((tmp_path / "Library/LaunchDaemons/local-swarm.plist").read_bytes())
    assert settings["UserName"] == "anna"
    with pytest.raises(SetupError, match="does not run as root"):
        install(None, [], dry_run=True, machine=replace(daemon, environ={}))


def test_how_words_are_written_and_files_are_found(tmp_path: Path) -> None:
    assert [systemd_word(word) for word in ("--x", "a b", "", 'q"\\', "5%", "$HOME", "${STATE_DIRECTORY}")] == [
        "--x", '"a b"', '""', '"q\\"\\\\"', "5%%", "$$HOME", "${STATE_DIRECTORY}",
    ]  # fmt: skip
    (tmp_path / "x.gguf").touch()
    given = ["--config=c", "--model", "x.gguf", "--model", "demo", "--model=hf:a/b", "--models-dir=m", "--votes=3"]
    given += ["--tools", "read", "--tools-root", "p"]
    config, model = str(tmp_path / "c"), str(tmp_path / "x.gguf")
    assert absolute_options(given, tmp_path) == (
        "--config", config, "--model", model, "--model", "demo", "--model", "hf:a/b",
        "--models-dir", str(tmp_path / "m"), "--votes=3", "--tools", "read", "--tools-root", str(tmp_path / "p"),
    )  # fmt: skip
    assert program_of(tmp_path / "python", tmp_path) == (str(tmp_path / "python"), "-m", "swarm.cli")
    (tmp_path / "main.py").touch()
    assert program_of(tmp_path / "python", tmp_path) == (str(tmp_path / "python"), str(tmp_path / "main.py"))
    (tmp_path / "swarm").touch()
    assert program_of(tmp_path / "python", tmp_path) == (str(tmp_path / "swarm"),)


def test_the_command_line_passes_the_node_s_options_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["service", "install", "--user", "--dry-run", "--", "--federation", "--votes", "3"]) == 0
    assert "ExecStart=/opt/local-swarm/bin/swarm --federation --votes 3" in capsys.readouterr().out
    for words in (["--", "--fedration"], ["--", "status"], ["--fedration"]):
        with pytest.raises(SystemExit) as caught:
            main(["service", "install", "--user", "--dry-run", *words])
        assert caught.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err
