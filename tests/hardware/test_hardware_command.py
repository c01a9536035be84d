"""Tools as real processes: whatever they do, `run_tool` is back in time and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hardware import command
from hardware.command import Failed, Missing, RunTool, TimedOut, ToolOutput, default_search_path, explain, run_tool

SHORT_S = 1.0  # long enough for a shell to start on a busy machine
PATIENT_S = 60.0  # never reached unless something is broken

Install = Callable[[str, str], Path]


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another process brings about."""
    deadline_s = time.monotonic() + PATIENT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never came true"
        threading.Event().wait(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # dead; whoever adopted it has not looked yet
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(params=["select", "threads"])
def collector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of reading outputs; Windows has only the second."""
    if request.param == "threads":
        monkeypatch.setattr(command, "_collect", command._collect_with_threads)


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Fails a test after which this process has more open files or children than before."""
    process = psutil.Process()
    files, children = process.num_fds(), len(process.children())
    yield
    assert process.num_fds() == files
    assert len(process.children()) == children


@pytest.mark.usefixtures("collector", "no_leak")
class TestBothCollectors:
    def test_output_of_a_tool_that_works(self, install: Install, run_fake: RunTool) -> None:
        install("tool", 'echo "got $1"; echo noise >&2')
        assert run_fake(["tool", "this"], PATIENT_S) == ToolOutput("got this\n", "noise\n")

    def test_a_failure_has_the_exit_code_and_both_outputs(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "echo partial; echo reason >&2; exit 9")
        assert run_fake(["tool"], PATIENT_S) == Failed("tool", 9, "partial\n", "reason\n")

    def test_more_than_a_pipe_holds_on_both_outputs(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero")
        outcome = run_fake(["tool"], PATIENT_S)
        assert isinstance(outcome, ToolOutput)
        assert len(outcome.stdout) == 300_000

    def test_a_tool_that_hangs_is_given_up(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "echo starting; exec sleep 600")
        started_s = time.monotonic()
        assert run_fake(["tool"], 0.2) == TimedOut("tool", 0.2)
        assert time.monotonic() - started_s < PATIENT_S / 2

    def test_a_tool_that_ignores_polite_signals_is_killed(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "trap '' TERM INT HUP; while :; do sleep 600; done")
        assert run_fake(["tool"], SHORT_S) == TimedOut("tool", SHORT_S)

    def test_children_of_a_hanging_tool_die_with_it(self, install: Install, run_fake: RunTool, tmp_path: Path) -> None:
        child = tmp_path / "child"
        install("tool", f"sleep 600 & echo $! > {child}; wait")
        assert run_fake(["tool"], SHORT_S) == TimedOut("tool", SHORT_S)
        until(lambda: gone(int(child.read_text())))

    def test_too_much_output_is_an_error(self, install: Install, run_fake: RunTool) -> None:
        install("tool", f"head -c {command.MAX_OUTPUT_BYTES + 1} /dev/zero")
        outcome = run_fake(["tool"], PATIENT_S)
        assert isinstance(outcome, Failed)
        assert outcome.exit_code is None
        assert f"more than {command.MAX_OUTPUT_BYTES} bytes" in outcome.stderr

    def test_stdin_is_empty(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "cat; echo read")
        assert run_fake(["tool"], PATIENT_S) == ToolOutput("read\n")

    def test_bytes_that_are_no_text_are_kept_readable(self, install: Install, run_fake: RunTool) -> None:
        install("tool", r"printf 'a\377b'")
        assert run_fake(["tool"], PATIENT_S) == ToolOutput("a\N{REPLACEMENT CHARACTER}b")


@pytest.mark.usefixtures("no_leak")
class TestOnPosix:
    def test_an_endless_flood_is_stopped(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "exec yes")
        assert isinstance(run_fake(["tool"], PATIENT_S), Failed)

    def test_a_grandchild_that_keeps_the_pipes_does_not_delay(
        self, install: Install, run_fake: RunTool, tmp_path: Path
    ) -> None:
        child = tmp_path / "child"
        install("tool", f"sleep 600 & echo $! > {child}; echo done")
        started_s = time.monotonic()
        try:
            assert run_fake(["tool"], PATIENT_S) == ToolOutput("done\n")
            assert time.monotonic() - started_s < PATIENT_S / 2
        finally:
            os.kill(int(child.read_text()), signal.SIGKILL)

    def test_a_tool_that_closes_its_outputs_and_stays_is_given_up(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "exec >&- 2>&-; exec sleep 600")
        assert run_fake(["tool"], SHORT_S) == TimedOut("tool", SHORT_S)

    def test_no_time_left_at_all(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "exec sleep 600")
        assert run_fake(["tool"], 0.0) == TimedOut("tool", 0.0)

    def test_a_tool_of_an_unknown_format_cannot_start(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "").write_bytes(b"\x00\x01 no program")
        outcome = run_fake(["tool"], PATIENT_S)
        assert isinstance(outcome, Failed)
        assert explain(outcome).startswith("tool: cannot be started: ")

    def test_tools_speak_english(self, install: Install, run_fake: RunTool) -> None:
        install("tool", "echo $LC_ALL")
        assert run_fake(["tool"], PATIENT_S) == ToolOutput("C\n")


def test_a_tool_stuck_in_the_kernel_is_left_to_a_reaper(
    install: Install, run_fake: RunTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(command, "_kill", lambda process: left.append(process.pid))  # SIGKILL has to wait there
    install("tool", "exec sleep 600")
    assert run_fake(["tool"], 0.1) == TimedOut("tool", 0.1)
    [reaper] = [thread for thread in threading.enumerate() if thread.name == f"reap-{left[0]}"]
    assert reaper.daemon
    os.kill(left[0], signal.SIGKILL)  # the driver lets go
    reaper.join(PATIENT_S)
    assert not psutil.pid_exists(left[0])


def test_an_interrupt_while_waiting_kills_the_tool(
    install: Install, run_fake: RunTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def interrupted(process: subprocess.Popen[bytes], deadline_s: float) -> None:
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_collect", interrupted)
    install("tool", "exec sleep 600")
    with contextlib.suppress(KeyboardInterrupt):
        run_fake(["tool"], PATIENT_S)
    assert gone(started[0])


def test_a_missing_tool(run_fake: RunTool, install: Install) -> None:
    assert run_fake(["nvidia-smi"], PATIENT_S) == Missing("nvidia-smi")


def test_path_comes_before_the_vendors_directories(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    install("rocm-smi", "echo mine")
    assert run_tool(["rocm-smi"], PATIENT_S) == ToolOutput("mine\n")
    assert default_search_path().split(os.pathsep)[0] == str(tmp_path / "bin")
    assert "/opt/rocm/bin" in default_search_path().split(os.pathsep)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Missing("nvidia-smi"), "nvidia-smi: not installed"),
        (TimedOut("nvidia-smi", 3.0), "nvidia-smi: gave up after 3 s"),
        (TimedOut("nvidia-smi", 1.23456), "nvidia-smi: gave up after 1.23 s"),
        (Failed("t", 9, "on stdout\n\n", " \n"), "t: failed (exit code 9): on stdout"),
        (Failed("t", 1, "output", "two\nlines"), "t: failed (exit code 1): two lines"),
        (Failed("t", 6, "", ""), "t: failed (exit code 6): said nothing"),
        (Failed("t", None, "", "cannot be started"), "t: cannot be started"),
    ],
)
def test_explanations(outcome: Missing | TimedOut | Failed, text: str) -> None:
    assert explain(outcome) == text
