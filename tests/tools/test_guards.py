"""Each guard is taken away, one at a time: the attack that it holds off comes through, or its test could not fail."""

from __future__ import annotations

import secrets
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from swarm.tools.beneath import RESOLVE_NO_MAGICLINKS, Opener, best_opener, open_by_kernel, open_by_steps
from swarm.tools.rooted_files import RootedFiles
from swarm.tools.tool import ToolFailure
from tests.doubles.tool_hosts import SECRET, end_marked, marked, names, needs_bwrap, project_folder, tool_host, until
from tests.tools import attacks

SPACE = ("--size", str(512 << 20))
# Which attack comes through where the sandbox lacks what. `before`: what the node's own start would hand down.
GUARDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "a network of its own": ("reaches_loopback", {"without": [["--unshare-net"]]}),
    "an empty environment": (
        "reads_the_environment",
        {"before": ["/usr/bin/env", f"SWARM_API_KEY={attacks.KEY}"], "without": [["--clearenv"]]},
    ),
    "processes of its own": (
        "outlives_its_call",
        {"without": [["--unshare-pid"], ["--as-pid-1"], ["--die-with-parent"]]},
    ),
    "other processes unseen": ("sees_other_processes", {"without": [["--unshare-pid"], ["--as-pid-1"]]}),
    "closed descriptors": ("uses_descriptors", {"instead": [["exec {fd}<&-", ":"]], "lacking": ["ro-bind-fd"]}),
    "a limit of processes": ("makes_many_processes", {"instead": [[" -u 64", ""]]}),
    "a limit of file sizes": ("writes_a_large_file", {"instead": [["-f 8192", ""]]}),
    "a small /tmp": ("fills_tmp", {"without": [list(SPACE)]}),
    "a file system that is read-only": ("writes_beside_the_root", {"without": [["--remount-ro", "/"]]}),
    "devices that are read-only": ("writes_beside_the_root", {"without": [["--remount-ro", "/dev"]]}),
    "no namespaces inside": ("makes_namespaces", {"without": [["--disable-userns"]]}),
    "shared memory of its own": ("leaves_shared_memory", {"without": [["--unshare-ipc"]]}),
    "a filter of system calls": ("reads_keys_of_the_session", {"unfiltered": True}),
    "system folders only": ("reads_this_machines_files", {"instead": [["/etc/passwd", "/etc"]]}),
}


@needs_bwrap
@pytest.mark.parametrize("guard", GUARDS)
def test_without_a_guard_of_the_sandbox_its_attack_comes_through(guard: str) -> None:
    name, weakened = GUARDS[guard]
    attack = attacks.ON_ONE_HOST[name]
    with project_folder() as root:
        attacks.prepare(root)
        environment = attacks.ENVIRONMENT
        with tool_host(root, limits=attacks.LIMITS, weakened=weakened, environment=environment) as running:
            assert attack(running)


@needs_bwrap
def test_what_runs_by_itself_is_changed_where_nothing_protects_it() -> None:
    with project_folder() as root:
        attacks.prepare(root)
        with tool_host(root, limits=attacks.LIMITS, unprotected=True) as running:
            assert attacks.changes_what_runs_by_itself(running)


@needs_bwrap
@pytest.mark.parametrize("attack", [attacks.takes_memory, attacks.takes_memory_together, attacks.takes_shared_memory])
def test_memory_is_taken_where_more_is_allowed(attack: attacks.Attack) -> None:
    with project_folder() as root, tool_host(root, limits={**attacks.LIMITS, "memory_bytes": 2 << 30}) as running:
        assert attack(running)


@needs_bwrap
def test_a_killed_host_leaves_commands_behind_that_would_not_die_with_it() -> None:
    with project_folder() as root, tool_host(root, weakened={"without": [["--die-with-parent"]]}) as running:
        mark = secrets.token_hex(8)
        running.begin("bash", command=f"exec -a {mark} sleep 600")
        until(lambda: "sleep" in names(mark))
        running.kill()
        left = names(mark)
        end_marked(mark)
    assert "bwrap" in left


@needs_bwrap
@pytest.mark.slow
def test_a_command_that_does_not_wait_for_the_node_outlives_one_killed_as_it_starts() -> None:
    """It depends on a moment of some microseconds, which a busy machine hardly meets: some of many tries do."""
    weakened = {"instead": [["read -r -u $line || exit 125", "read -r -u $line"]]}
    left: set[str] = set()
    with project_folder() as root:
        for _ in range(300):
            mark = secrets.token_hex(8)
            with tool_host(root, weakened=weakened) as running:
                running.begin("bash", command=f"exec -a {mark} sleep 600")
                until(lambda mark=mark: marked(mark))
                running.kill()
            until(lambda mark=mark: "sleep" in names(mark) or not names(mark))
            left = names(mark)
            end_marked(mark)
            if left:
                break
    assert left


@needs_bwrap
def test_every_attack_on_a_host_is_tried_without_its_guard() -> None:
    """But what has no single guard: a bomb is held by a limit and by the end of its time, files outside by many."""
    several = {"bombs", "reads_outside"}
    others = {"takes_memory", "takes_memory_together", "takes_shared_memory", "changes_what_runs_by_itself"}  # below
    assert {name for name, _ in GUARDS.values()} | several | others == set(attacks.ON_ONE_HOST)


WEAK_OPENERS: Final[dict[str, Opener]] = {
    "the kernel, not beneath": partial(open_by_kernel, resolve=RESOLVE_NO_MAGICLINKS),
    "steps that follow links": partial(open_by_steps, step_flags=0),
}
LEADING_OUT: Final = ("link", "absolute", "up/secret.txt")


def _says(files: RootedFiles, path: str) -> str:
    try:
        return files.read(path).decode()
    except ToolFailure as failure:
        return str(failure)


@pytest.mark.parametrize("path", LEADING_OUT)
@pytest.mark.parametrize("opener", [open_by_kernel, open_by_steps])
def test_links_that_lead_out_lead_nowhere(opener: Opener, path: str) -> None:
    with project_folder() as root:
        attacks.prepare(root)
        assert "leads out of the root" in _says(RootedFiles(root, opener), path)


@pytest.mark.parametrize("path", LEADING_OUT)
@pytest.mark.parametrize("opener", WEAK_OPENERS)
def test_without_the_guard_of_a_walk_links_lead_out(opener: str, path: str) -> None:
    with project_folder() as root:
        attacks.prepare(root)
        assert _says(RootedFiles(root, WEAK_OPENERS[opener]), path) == SECRET


def test_what_runs_by_itself_is_written_where_nothing_protects_it(tmp_path: Path) -> None:
    attacks.prepare(tmp_path)
    for name in attacks.PROTECTED_FILES:
        with pytest.raises(ToolFailure, match="is protected, since"):
            RootedFiles(tmp_path).write(name, b"evil")
        RootedFiles(tmp_path, rules=()).write(name, b"evil")
        assert (tmp_path / name).read_bytes() == b"evil"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="openat2 is Linux's")
def test_the_kernel_s_walk_is_there() -> None:
    """Where it were not, half of these tests would be about the other one."""
    assert best_opener() is open_by_kernel
