"""Which sandbox works here, what others' command lines say, and commands without one."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.tools.plan import SandboxChoice
from swarm.tools.sandbox import (
    START_GUARD,
    CommandLimits,
    Confinement,
    KeptPath,
    Sandbox,
    StartLines,
    SystemView,
    environment_inside,
    sandbox_profile,
)
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox, memory_bytes
from tests.doubles.tool_hosts import NOBODY, marked, needs_bwrap, project_folder, tool_host, until

ROOT = Path("/home/anna/my project")
HELD = Confinement(
    ROOT,
    7,
    writable=True,
    kept=(KeptPath(ROOT / ".git", 8),),
    limits=CommandLimits(memory_bytes=1 << 30, cpu_s=10, processes=50, file_bytes=1 << 20, open_files=99),
    environment={"CI": "1"},
)
READING = Confinement(ROOT, 7, network=True)
BWRAP = Sandbox(
    "bwrap",
    "/usr/bin/bwrap",
    view=SystemView(("/usr",), (("/bin", "usr/bin"),), ("/etc/passwd",), "/r"),
    options=frozenset({"bind-fd", "ro-bind-fd"}),
)
COMMAND = ("bash", "-c", "echo --bind / /")


def pairs(line: tuple[str, ...], option: str, count: int = 2) -> list[tuple[str, ...]]:
    return [line[at + 1 : at + 1 + count] for at, word in enumerate(line) if word == option]


def test_bwrap_binds_what_is_held_open_and_keeps_what_is_protected() -> None:
    line = BWRAP.command_line(HELD, COMMAND, start=StartLines(10, 11, 12))
    assert line[: line.index(BWRAP.program)] == ("/bin/bash", "-c", START_GUARD, "bash", "12", "10 11 7 8")
    own = line[line.index(BWRAP.program) : line.index("--as-pid-1")]
    assert pairs(own, "--bind-fd") == [("7", str(ROOT))]
    assert pairs(own, "--ro-bind-fd") == [("8", str(ROOT / ".git"))]
    assert own.index("--ro-bind-fd") > own.index("--bind-fd")
    assert not any(word.startswith("/proc/self") for word in own)  # bwrap would make a name of it
    assert {"--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"} <= set(own)
    assert pairs(own, "--info-fd", 1) == [("10",)]
    assert line[-len(COMMAND) - 3 :] == ("7 8", "11", "-c 0 -d 1048576 -f 1024 -n 99 -t 10 -u 50", *COMMAND)


def test_bwrap_shares_the_network_and_how_names_are_looked_up_only_where_asked() -> None:
    line = BWRAP.command_line(READING, COMMAND)
    assert "--unshare-net" not in line
    assert ("/r", "/etc/resolv.conf") in pairs(line, "--ro-bind")
    assert pairs(line, "--bind") == []
    assert pairs(line, "--ro-bind-fd") == [("7", str(ROOT))]
    assert "/r" not in BWRAP.command_line(HELD, COMMAND)


def test_options_that_a_version_does_not_have_are_left_out() -> None:
    older = replace(BWRAP, options=frozenset())
    line = older.command_line(HELD, COMMAND)
    assert not {"--size", "--disable-userns", "--clearenv", "--bind-fd", "--ro-bind-fd"} & set(line)
    assert (str(ROOT), str(ROOT)) in pairs(line, "--bind")
    assert (str(ROOT / ".git"), str(ROOT / ".git")) in pairs(line, "--ro-bind")
    assert BWRAP.takes_descriptors
    assert not older.takes_descriptors
    newer = Sandbox("bwrap", "bwrap", view=BWRAP.view, options=frozenset({"size", "disable-userns", "clearenv"}))
    assert {"--size", "--disable-userns", "--clearenv"} <= set(newer.command_line(HELD, COMMAND))


def test_where_the_limit_counts_all_processes_of_the_user_it_is_larger() -> None:
    line = replace(BWRAP, processes_beside=4096).command_line(HELD, COMMAND)
    assert "-c 0 -d 1048576 -f 1024 -n 99 -t 10 -u 4146" in line


def test_the_environment_inside_is_new() -> None:
    inside = environment_inside(BWRAP, HELD)
    assert set(inside) == {"PATH", "HOME", "TMPDIR", "LANG", "TERM", "CI"}
    assert not set(inside["PATH"].split(":")) & set(str(ROOT))


@pytest.mark.parametrize("kind", ["podman", "docker"])
def test_a_container_has_the_root_and_nothing_else(kind: str) -> None:
    sandbox = Sandbox(kind, f"/usr/bin/{kind}", image="debian:stable", user="1000:1000")  # type: ignore[arg-type]
    line = sandbox.command_line(HELD, COMMAND, name="swarm-tool-1")
    own = line[: line.index("debian:stable") + 1]
    assert pairs(own, "--mount", 1) == [
        (f'type=bind,"source={ROOT}","target={ROOT}"',),
        (f'type=bind,"source={ROOT}/.git","target={ROOT}/.git",readonly',),
    ]
    assert pairs(own, "--network", 1) == [("none",)]
    for option, value in {
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--pids-limit": "50",
        "--memory": str(1 << 30),
        "--memory-swap": str(1 << 30),
        "--pull": "never",
        "--name": "swarm-tool-1",
        "--workdir": str(ROOT),
    }.items():
        assert pairs(own, option, 1) == [(value,)]
    assert {"--rm", "--read-only", "--init", "--interactive"} <= set(own)
    assert not {"--privileged", "--volume", "-v", "--device", "--pid", "--ipc"} & set(own)
    assert ("--user" in own) == (kind == "docker")
    assert line[-len(COMMAND) :] == COMMAND
    reading = sandbox.command_line(READING, COMMAND, name="n")
    assert pairs(reading, "--mount", 1) == [(f'type=bind,"source={ROOT}","target={ROOT}",readonly',)]
    assert pairs(reading, "--network", 1) == []


def test_a_root_with_a_comma_or_a_quote_is_one_mount() -> None:
    import csv

    confinement = Confinement(Path('/a,readonly=false/b"c'), 7)
    line = Sandbox("docker", "docker", image="i").command_line(confinement, COMMAND, name="n")
    [fields] = csv.reader([pairs(line, "--mount", 1)[0][0]])
    assert fields == ["type=bind", 'source=/a,readonly=false/b"c', 'target=/a,readonly=false/b"c', "readonly"]


def test_the_profile_of_macos_denies_first_and_allows_the_root() -> None:
    lines = sandbox_profile(HELD).splitlines()
    assert lines[0] == "(version 1)"
    assert lines.index("(deny file-write*)") < lines.index(f'(allow file-write* (subpath "{ROOT}"))')
    assert lines.index(f'(allow file-write* (subpath "{ROOT}"))') < lines.index(
        f'(deny file-write* (subpath "{ROOT}/.git"))'
    )
    assert "(deny network*)" in lines
    own = replace(HELD, temporary=Path("/private/var/t"))
    assert '(allow file-read* file-write* (subpath "/private/var/t"))' in sandbox_profile(own)
    assert environment_inside(Sandbox("sandbox-exec"), own)["TMPDIR"] == "/private/var/t"
    reading = sandbox_profile(READING)
    assert "(deny network*)" not in reading
    assert f'(allow file-write* (subpath "{ROOT}"))' not in reading
    assert r'(subpath "/a\"b\\c")' in sandbox_profile(Confinement(Path('/a"b\\c'), 7))
    line = Sandbox("sandbox-exec", "/usr/bin/sandbox-exec").command_line(HELD, COMMAND)
    assert line[:3] == ("/usr/bin/sandbox-exec", "-p", sandbox_profile(HELD))
    assert line[-len(COMMAND) :] == COMMAND


@needs_bwrap
def test_a_sandbox_that_was_found_has_been_tried() -> None:
    found = find_sandbox(SandboxChoice(), uid=NOBODY)
    assert isinstance(found, Sandbox), found
    assert found.title == "bwrap"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1",
            "No permissions to create a new namespace",
        ),
        ("exit 3", "ended with exit code 3"),
        ("echo swarm-sandbox-works", "does not work here"),  # and made no file in the root
        ("kill -9 $$", "ended with exit code -9"),
    ],
)
@pytest.mark.parametrize("kind", ["bwrap", "podman"])
def test_a_sandbox_that_does_not_work_is_none(kind: str, script: str, words: str, tmp_path: Path) -> None:
    (tmp_path / kind).write_text(f'#!/bin/sh\n[ "$1" = --help ] && exit 0\n{script}\n')
    (tmp_path / kind).chmod(0o755)
    image = "debian:stable" if kind == "podman" else None
    found = find_sandbox(SandboxChoice(kind, image), uid=NOBODY, programs=f"{tmp_path}:/usr/bin:/bin")  # type: ignore[arg-type]
    assert isinstance(found, NoSandbox)
    assert words in found.reason
    assert found.remedy
    if kind == "podman":
        assert "podman pull debian:stable" in found.remedy


@pytest.mark.parametrize("kind", ["bwrap", "sandbox-exec", "podman", "docker"])
def test_a_sandbox_that_is_not_installed_says_how_it_is(kind: str, tmp_path: Path) -> None:
    found = find_sandbox(SandboxChoice(kind, "i"), uid=NOBODY, programs=str(tmp_path))  # type: ignore[arg-type]
    assert isinstance(found, NoSandbox)
    assert kind in found.reason
    assert found.remedy


def test_memory_is_that_of_a_whole_tree() -> None:
    script = "import sys; b = bytearray(64 << 20); sys.stdout.write('x\\n'); sys.stdout.flush(); sys.stdin.read()"
    line = shlex.join([sys.executable, "-c", script])
    with subprocess.Popen(  # a shell gives what runs in the background no input, unless it is told to
        ["sh", "-c", f"exec 3<&0; {line} <&3 & {line}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as tree:
        assert tree.stdout is not None
        assert tree.stdin is not None
        assert tree.stdout.read(4) == b"x\nx\n"
        try:
            if sys.platform.startswith("linux"):
                assert memory_bytes(tree.pid, 1 << 40) > 128 << 20
                assert memory_bytes(tree.pid, 0) > 128 << 20  # by shares
                assert memory_bytes(tree.pid, 0) < 512 << 20
        finally:
            tree.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_without_a_sandbox_a_command_does_what_the_user_may_and_ends_with_its_call() -> None:
    with project_folder() as root, tool_host(root, unsandboxed=True, environment={"SWARM_API_KEY": "sk-1"}) as running:
        assert "kind='none'" in running.first["sandbox"]
        assert running.bash("cat ../secret.txt; env").output.startswith("the-secret-outside")
        assert "sk-1" not in running.bash("env").output  # its own variables it keeps to itself all the same
        assert running.bash("cat; echo $?; exit 3").exit_code == 3
        folder = Path(running.bash("echo x > $TMPDIR/left; echo $TMPDIR").output.strip())
        assert folder.name.startswith("swarm-tool-")
        assert not folder.exists()
        assert running.bash("echo $HOME").output.strip() == os.environ["HOME"]
        mark = secrets.token_hex(8)
        assert running.bash(f"(exec -a {mark} sleep 600) & echo over").output == "over\n"
        assert not marked(mark)
        result = running.bash(f"setsid bash -c 'exec -a {mark} sleep 600' & exec -a {mark} sleep 600", 0.5)
        assert result.timed_out
        assert not marked(mark)


def test_without_a_sandbox_a_host_that_is_killed_still_ends_its_commands() -> None:
    with project_folder() as root, tool_host(root, unsandboxed=True) as running:
        mark = secrets.token_hex(8)
        running.begin("bash", command=f"(exec -a {mark} sleep 600) & exec -a {mark} sleep 600")
        until(lambda: len([one for one in marked(mark) if one.name() == "sleep"]) == 2)
        running.kill()
        until(lambda: not marked(mark))
