"""What commands cannot do to this machine, on the real bwrap, as a user that is not root.

Each attack is a function of a host that says whether it came through: `test_guards.py` takes one guard away at a time,
and then it has to.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from swarm.tools.sandboxed_process import killed
from tests.doubles.tool_hosts import (
    SECRET,
    ToolHostProcess,
    marked,
    needs_bwrap,
    project_folder,
    tool_host,
    until,
)
from tests.tools import attacks

pytestmark = needs_bwrap
MIB = 1 << 20


@pytest.fixture(scope="module")
def host() -> Iterator[ToolHostProcess]:
    with (
        project_folder() as root,
        tool_host(
            root, environment=attacks.ENVIRONMENT, inherited=[str(root.parent)], limits=attacks.LIMITS
        ) as running,
    ):
        attacks.prepare(root)
        assert "bash" in running.first["tools"], running.first["sandbox"]
        yield running


@pytest.mark.parametrize("name", attacks.ON_ONE_HOST)
def test_an_attack_does_not_come_through(name: str, host: ToolHostProcess) -> None:
    assert not attacks.ON_ONE_HOST[name](host)


def test_a_command_says_what_it_says_with_its_exit_code(host: ToolHostProcess) -> None:
    result = host.bash("echo out; echo error >&2; exit 7")
    assert (result.output, result.exit_code, result.truncated, result.timed_out) == ("out\nerror\n", 7, False, False)
    assert host.bash("true").output == "(no output)"


def test_commands_work_in_the_root_which_is_called_what_it_is_outside(host: ToolHostProcess) -> None:
    result = host.bash("pwd; echo made > by-bash.txt")
    assert result.output.strip() == str(host.root)
    assert host.call("read", path="by-bash.txt").output == "1\tmade"


def test_standard_input_is_empty(host: ToolHostProcess) -> None:
    assert host.bash("cat; read line; echo $?").output == "1\n"


def test_output_is_only_shown(host: ToolHostProcess) -> None:
    result = host.bash(r"printf '\e[31mred\e[0m \e]0;title\a\u202eturned\u202c\ttab\rnew\x00\n'")
    assert result.output == "red turned\ttab\nnew\ufffd\n"


def test_a_gigabyte_of_output_is_not_held(host: ToolHostProcess) -> None:
    before = psutil.Process(host.process.pid).memory_info().rss
    result = host.bash("echo begins; yes | head -c 1073741824; echo ends", 120)
    assert result.output.startswith("begins\ny\ny\n")
    assert result.output.endswith("y\ny\nends\n")
    assert result.truncated
    assert f"[… {7 + (1 << 30) + 5 - 3000} characters cut …]" in result.output
    assert len(result.output) < 3100
    assert psutil.Process(host.process.pid).memory_info().rss - before < 64 * MIB


def test_each_call_has_its_own_folder_for_temporary_files(host: ToolHostProcess) -> None:
    host.bash("echo x > /tmp/left; echo x > $HOME/too")
    assert host.bash("ls -A /tmp").output == "(no output)"
    first = host.begin("bash", command="echo one > /tmp/same; while [ ! -e go ]; do :; done; cat /tmp/same")
    second = host.begin("bash", command="echo two > /tmp/same; while [ ! -e go ]; do :; done; cat /tmp/same")
    host.call("write", path="go", content="")
    said = {answer["id"]: answer["output"] for answer in (host.ended(), host.ended())}
    assert said == {first: "one\n", second: "two\n"}


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(host: ToolHostProcess) -> None:
    mark = secrets.token_hex(8)
    result = host.bash(f"echo begun; setsid sh -c 'sleep 1000 # {mark}' & sleep 1000 # {mark}", 1)
    assert (result.timed_out, result.exit_code) == (True, 124)
    assert result.output.startswith("begun\n\n[… ended after 1 s")
    assert not marked(mark)


def test_the_time_that_a_model_asks_for_counts(host: ToolHostProcess) -> None:
    assert host.call("bash", command="sleep 1000", timeout_s=0.5).timed_out


def test_what_runs_on_is_ended_with_the_command(host: ToolHostProcess) -> None:
    mark = secrets.token_hex(8)
    script = f"setsid sh -c 'sleep 1000 # {mark}' >/dev/null 2>&1 & (sleep 1000 & exec -a {mark} sleep 999) & echo gone"
    assert host.bash(script).output == "gone\n"
    assert not marked(mark)


def test_cancelling_ends_the_tree_before_it_is_over(host: ToolHostProcess) -> None:
    mark = secrets.token_hex(8)
    number = host.begin("bash", command=f"setsid sh -c 'sleep 1000 # {mark}' & sleep 1000 # {mark}")
    until(lambda: len(marked(mark)) >= 2)
    host.cancel(number)
    assert host.ended() == {"id": number, "cancelled": True}
    assert not marked(mark)


def test_a_host_that_is_killed_takes_its_commands_along() -> None:
    with project_folder() as root, tool_host(root) as running:
        mark = secrets.token_hex(8)
        running.begin("bash", command=f"setsid sh -c 'sleep 1000 # {mark}' & sleep 1000 # {mark}")
        until(lambda: len(marked(mark)) >= 2)
        running.kill()
        until(lambda: not marked(mark))


@pytest.mark.parametrize("time", range(6))
def test_a_host_that_is_killed_while_a_command_starts_leaves_none(time: int) -> None:
    """bwrap binds itself to its parent's life late in its set-up: what had begun before would go on for ever."""
    with project_folder() as root, tool_host(root) as running:
        mark = secrets.token_hex(8)
        running.begin("bash", command=f"sleep 1000 # {mark}")
        until(lambda: marked(mark))
        running.kill()
        until(lambda: not marked(mark))


def test_on_an_old_kernel_everything_ends_too() -> None:
    """Where no process can be held by a descriptor."""
    with project_folder() as root, tool_host(root, old_kernel=True) as running:
        assert running.bash("echo works").output == "works\n"
        mark = secrets.token_hex(8)
        assert running.bash(f"setsid sh -c 'sleep 1000 # {mark}' & sleep 1000 # {mark}", 1).timed_out
        until(lambda: not marked(mark))


OLD_BWRAP = {"lacking": ["ro-bind-fd", "disable-userns", "size"]}


def test_an_old_bwrap_protects_what_was_there_before_the_first_command() -> None:
    """It takes names only: what commands could have put there is not mounted by its name."""
    with project_folder() as root:
        attacks.prepare(root)
        with tool_host(root, weakened=OLD_BWRAP, limits=attacks.LIMITS) as running:
            assert running.bash("echo evil > .git/config; mv .git g; rm -rf .envrc; echo x >> .envrc").exit_code != 0
            assert (root / ".git/config").read_text() == (root / ".envrc").read_text() == "as it was\n"
            assert not attacks.uses_descriptors(running)
            assert not attacks.reads_outside(running)


@pytest.mark.parametrize("weakened", [None, OLD_BWRAP], ids=["this bwrap", "an old one"])
def test_a_folder_that_becomes_a_link_is_not_what_is_shown(weakened: dict[str, list[str]] | None) -> None:
    """What is protected is mounted by what was opened: by its name it could be a folder outside meanwhile."""
    with project_folder() as root, tool_host(root, weakened=weakened) as running:
        running.bash("true")
        outside = root.parent / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_text(SECRET)
        protected, other = root / ".vscode", root / "other"
        protected.mkdir()
        (protected / "own.txt").write_text("own")
        other.symlink_to(outside)
        stop = threading.Event()

        def swap() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            while not stop.is_set():  # in one step, RENAME_EXCHANGE: the name is always there
                libc.renameat2(-100, os.fsencode(protected), -100, os.fsencode(other), 2)

        swapping = threading.Thread(target=swap)
        swapping.start()
        try:
            said = {running.bash("cat .vscode/*.txt other/*.txt 2>/dev/null").output for _ in range(30)}
        finally:
            stop.set()
            swapping.join()
        assert not any(SECRET in output for output in said)
        assert any("own" in output for output in said)


def test_leaving_the_host_ends_what_runs() -> None:
    with project_folder() as root, tool_host(root) as running:
        mark = secrets.token_hex(8)
        running.begin("bash", command=f"sleep 1000 # {mark}")
        until(lambda: marked(mark))
        running.close()
        assert not marked(mark)


def test_without_a_tool_that_writes_the_root_is_read_only() -> None:
    with project_folder() as root, tool_host(root, tools=["read", "bash"]) as running:
        assert running.bash("touch made 2>&1 || echo refused").output.endswith("refused\n")
    with project_folder() as root, tool_host(root, tools=["edit", "bash"]) as running:
        assert running.bash("touch made && echo made").output == "made\n"


def test_the_network_is_there_where_it_was_asked_for() -> None:
    with (
        project_folder() as root,
        tool_host(root, network=True) as running,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        port = server.getsockname()[1]
        assert running.bash(f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached").output == "reached\n"


def test_a_root_that_vanishes_is_told(host: ToolHostProcess) -> None:
    with project_folder() as root, tool_host(root) as running:
        root.rename(root.with_name("elsewhere"))
        result = running.bash("echo here")
        assert result.exit_code == 1
        assert "is gone" in result.output
        root.with_name("elsewhere").rename(root)
        assert running.bash("echo here").output == "here\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [("echo \0", "zero character"), ("echo \ud800", "half a character"), ("x" * 100_001, "write a script")],
)
def test_a_command_that_no_system_takes_is_told(command: str, words: str, host: ToolHostProcess) -> None:
    result = host.bash(command)
    assert result.exit_code == 1
    assert words in result.output


def test_a_process_that_takes_too_much_memory_is_refused_it(host: ToolHostProcess) -> None:
    result = host.bash("head -c 536870912 /dev/zero | tail -n 1 >/dev/null; echo ${PIPESTATUS[1]}")
    assert "memory exhausted" in result.output
    assert result.output.endswith("1\n")


def test_processes_that_take_too_much_memory_together_are_ended(host: ToolHostProcess) -> None:
    one = "(head -c 167772160 /dev/zero; sleep 60) | tail -n 1 >/dev/null"
    result = host.bash(" & ".join([one] * 8) + " & sleep 60", 120)
    assert result.output == "[… ended: its processes together took more than 256 MiB of memory …]"
    assert (result.exit_code, result.timed_out) == (137, False)


def test_nothing_of_the_secret_was_ever_said(host: ToolHostProcess) -> None:
    assert (host.root.parent / "secret.txt").read_text() == SECRET
    assert SECRET not in host.bash("cat ../secret.txt ../../*/secret.txt /tmp/*/secret.txt").output


def ended(pid: int) -> None:
    """Return when that process is over; its exit code stays for who waits for it."""
    os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):  # asyncio has seen it already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def test_what_ended_by_itself_meanwhile_is_left_to_who_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        process = await asyncio.create_subprocess_exec("sleep", "60", stdout=asyncio.subprocess.PIPE)
        ended(process.pid)
        await killed(process)
        assert process.returncode == -signal.SIGKILL
    assert not caplog.records, "on a person's terminal"


def test_as_root_there_is_no_bash(tmp_path: Path) -> None:
    from swarm.tools.plan import AUTO
    from swarm.tools.sandboxed_process import NoSandbox, find_sandbox

    for bare in (False, True):
        found = find_sandbox(AUTO, unsandboxed=bare, uid=0, contained=False)
        assert isinstance(found, NoSandbox)
        assert "as root" in str(found)
        assert "another user" in found.remedy


def test_a_time_that_is_no_number_is_refused(host: ToolHostProcess) -> None:
    """Python's JSON has a NaN, which is neither below nor above any bound of a schema."""
    host.begin("bash", command="sleep 60", timeout_s=float("nan"))
    assert "timeout_s is nan" in host.ended()["error"]


def test_shared_memory_counts_as_memory(host: ToolHostProcess) -> None:
    result = host.bash(f'python3 -c "{attacks.SHARES_MEMORY}; time.sleep(60)"', 120)
    assert result.output == "[… ended: its processes together took more than 256 MiB of memory …]"
