"""What a lent RPC server may reach, as bwrap's command line, and when it has to end. Nothing is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.lending import FROZEN, MEMORY_ENDED, SERVER_ENDED
from swarm.engines.llama_cpp.rpc_confinement import (
    MOST_PROCESSES,
    MOST_THREADS,
    OVER_S,
    PROGRAM_BYTES,
    STOPPED_S,
    Look,
    PythonInside,
    RpcPlan,
    RpcProgram,
    ServerWatch,
    rpc_command,
    shown_folders,
)
from swarm.registry.model_memory import GIB
from swarm.tools.sandbox import Sandbox, SystemView

VIEW = SystemView(("/usr",), (("/bin", "usr/bin"),))
NEW = Sandbox(
    "bwrap", "/usr/bin/bwrap", view=VIEW, options=frozenset({"disable-userns", "cap-drop", "clearenv", "size"})
)
OLD = Sandbox("bwrap", "/usr/bin/bwrap", view=VIEW)
PROGRAM = RpcProgram(Path("/home/user/llama/bin/ggml-rpc-server"), "b11434")
PLAN = RpcPlan(PROGRAM, GIB, 4)
PYTHON = PythonInside(Path("/home/user/.pyenv/3.11/bin/python3.11"), (Path("/home/user/.pyenv/3.11"),))
CALM = Look(0.0, GIB // 2, 2, 8, stopped=False)


def command(sandbox: Sandbox = NEW, plan: RpcPlan = PLAN, **more: object) -> list[str]:
    return list(rpc_command(sandbox, plan, PYTHON, Path("/src/rpc_sandbox.py"), line=7, calls=8, **more))  # type: ignore[arg-type]


def values(line: list[str], option: str) -> list[tuple[str, str]]:
    """The two words after each of that option."""
    return [(line[at + 1], line[at + 2]) for at, word in enumerate(line) if word == option]


@pytest.mark.parametrize("sandbox", [NEW, OLD])
def test_nothing_of_the_machine_is_shared(sandbox: Sandbox) -> None:
    line = command(sandbox)
    for own in ("net", "pid", "ipc", "uts", "user"):
        assert f"--unshare-{own}" in line
    assert "--share-net" not in line
    assert "--bind" not in line, "nothing can be written where nothing is kept"
    assert "--dev-bind" not in line
    assert dict(values(line, "--ro-bind")) == {
        "/usr": "/usr",
        "/home/user/llama/bin": "/home/user/llama/bin",
        "/home/user/.pyenv/3.11": "/home/user/.pyenv/3.11",
        "/src/rpc_sandbox.py": "/rpc_sandbox.py",
    }
    assert line[line.index("--seccomp") + 1] == "8"
    assert {name for name, _ in values(line, "--setenv")} == {"PATH", "HOME", "LANG", "LLAMA_CACHE"}
    assert line.index("--remount-ro") < line.index("--as-pid-1")


def test_what_newer_programs_can_is_used() -> None:
    for option in ("--disable-userns", "--cap-drop", "--clearenv"):
        assert option in command(NEW)
        assert option not in command(OLD)


def test_a_cache_is_all_that_can_be_written() -> None:
    line = command(plan=replace(PLAN, cache=Path("/data/lent-weights/a")))
    assert values(line, "--bind") == [("/data/lent-weights/a", "/cache/rpc")]
    assert line[-1] == "-c"


def test_devices_are_for_programs_that_need_one() -> None:
    on_gpu = replace(PLAN, program=replace(PROGRAM, on_gpu=True))
    line = command(plan=on_gpu, devices=(Path("/dev/nvidia0"),), environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert values(line, "--dev-bind") == [("/dev/nvidia0", "/dev/nvidia0")]
    assert ("CUDA_VISIBLE_DEVICES", "0") in values(line, "--setenv")
    assert (on_gpu.data_bytes, PLAN.data_bytes > PLAN.most_bytes > PLAN.bytes) == (0, True)


def test_neither_the_life_of_the_parent_nor_a_report_can_leave_a_half_made_sandbox_behind() -> None:
    assert not {"--die-with-parent", "--info-fd", "--json-status-fd"} & set(command())


def test_each_folder_is_shown_once_and_none_that_the_system_shows(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    program = tmp_path / "bin" / "ggml-rpc-server"
    python = PythonInside(Path("/usr/bin/python3"), (Path("/usr/lib/python3"), tmp_path / "bin"))
    assert sorted(shown_folders(program, python)) == [tmp_path / "bin", tmp_path / "lib"]
    assert shown_folders(program, PythonInside(tmp_path / "python", (tmp_path,))) == (tmp_path,)


def code(*looks: Look) -> str | None:
    watch = ServerWatch(PLAN)
    found = None
    for look in looks:
        found = watch.end(look)
    return None if found is None else found.code


MUCH = PLAN.most_bytes + 1


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([CALM], None),
        ([replace(CALM, bytes=PLAN.most_bytes)], None),
        ([replace(CALM, bytes=MUCH)], None),
        ([replace(CALM, bytes=MUCH), replace(CALM, bytes=MUCH, at=OVER_S)], MEMORY_ENDED),
        ([replace(CALM, bytes=MUCH), replace(CALM, at=1.0), replace(CALM, bytes=MUCH, at=OVER_S)], None),
        ([replace(CALM, bytes=PLAN.most_bytes + GIB + 1)], MEMORY_ENDED),
        ([replace(CALM, stopped=True)], None),
        ([replace(CALM, stopped=True), replace(CALM, stopped=True, at=STOPPED_S)], FROZEN),
        ([replace(CALM, stopped=True), replace(CALM, at=1.0), replace(CALM, stopped=True, at=STOPPED_S)], None),
        ([replace(CALM, processes=MOST_PROCESSES + 1)], SERVER_ENDED),
        ([replace(CALM, threads=MOST_THREADS + 1)], SERVER_ENDED),
    ],
)
def test_when_a_server_has_to_end(looks: list[Look], expected: str | None) -> None:
    started = [replace(look, at=look.at + 100.0) for look in looks]
    assert code(*started) == expected


def test_the_bound_leaves_room_for_the_program_itself() -> None:
    assert RpcPlan(PROGRAM, 1, 1).most_bytes > PROGRAM_BYTES
