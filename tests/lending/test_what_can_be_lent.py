"""What a machine can lend with, and how much; what cannot be is refused before anything is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hardware.snapshot import GIB_BYTES, HardwareSnapshot, Memory
from swarm.engines.engine import EngineBuild
from swarm.engines.llama_cpp.rpc_confinement import RpcProgram
from swarm.errors import SetupError
from swarm.node.lending import LendingParts, lending_parts, wanted_bytes
from swarm.node.settings import Settings
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox

MACHINE = HardwareSnapshot(memory=Memory(total_bytes=16 * GIB_BYTES, free_bytes=8 * GIB_BYTES))
PARTS = LendingParts(
    Sandbox("bwrap"), RpcProgram(Path("/llama/ggml-rpc-server"), "b11434"), "ram", 16 * GIB_BYTES, 4, Path("/kept")
)
BWRAP = Sandbox("bwrap", "/usr/bin/bwrap")


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.node.lending.sys.platform", "linux")
    monkeypatch.setattr("swarm.node.lending.find_sandbox", lambda *_, **__: BWRAP)


def build_in(folder: Path, *programs: str) -> EngineBuild:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("llama-server", *programs):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return EngineBuild("llama-server", "b11434", program=folder / "llama-server")


@pytest.mark.parametrize(
    ("asked", "lent"), [(None, 8 * GIB_BYTES), (GIB_BYTES, GIB_BYTES), (15 * GIB_BYTES, 15 * GIB_BYTES)]
)
def test_how_much_is_lent(asked: int | None, lent: int) -> None:
    assert wanted_bytes(asked, PARTS) == lent


def test_more_than_there_is_names_what_there_is() -> None:
    with pytest.raises(SetupError, match=r"16\.0 GiB are more than can be lent.*has 16\.0 GiB.*lend 15\.2 GiB or less"):
        wanted_bytes(16 * GIB_BYTES, PARTS)


@pytest.mark.usefixtures("linux")
def test_the_first_build_with_an_rpc_server_lends(tmp_path: Path) -> None:
    without, with_one = build_in(tmp_path / "a"), build_in(tmp_path / "b", "ggml-rpc-server")
    settings = Settings(data_dir=tmp_path, threads=3)
    parts = lending_parts(settings, MACHINE, [EngineBuild("xllamacpp", "1"), without, with_one])
    assert parts.program == RpcProgram(tmp_path / "b" / "ggml-rpc-server", "b11434")
    assert (parts.pool, parts.total_bytes, parts.threads) == ("ram", 16 * GIB_BYTES, 3)


@pytest.mark.usefixtures("linux")
def test_without_an_rpc_server_the_remedy_is_named(tmp_path: Path) -> None:
    build = build_in(tmp_path / "a")
    with pytest.raises(SetupError, match=rf"none lies beside {build.program}.*`swarm engines install native`"):
        lending_parts(Settings(data_dir=tmp_path), MACHINE, [build])
    with pytest.raises(SetupError, match=r"no llama\.cpp here that has one"):
        lending_parts(Settings(data_dir=tmp_path), MACHINE, [])


def test_without_a_sandbox_nothing_is_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.node.lending.sys.platform", "linux")
    missing = NoSandbox("bwrap is not installed", "install the package bubblewrap")
    monkeypatch.setattr("swarm.node.lending.find_sandbox", lambda *_, **__: missing)
    with pytest.raises(SetupError, match="from inside a sandbox only, and bwrap is not installed: install the package"):
        lending_parts(Settings(data_dir=tmp_path), MACHINE, [])


def test_other_systems_do_not_lend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.node.lending.sys.platform", "darwin")
    with pytest.raises(SetupError, match="on Linux only"):
        lending_parts(Settings(data_dir=tmp_path), MACHINE, [])


def test_a_node_in_no_swarm_does_not_start_with_lend(tmp_path: Path) -> None:
    words = ["--lend", "8G", "--no-model", "--port", "0", "--data-dir", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).parents[2] / "main.py"), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "members of a paired swarm only, and this node is in none" in ran.stderr
    assert "`swarm lend on`" in ran.stderr
