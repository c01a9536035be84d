"""What is read of the folders that `swarm engines install` made, and what is said of those that are spoilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.engine import Device, EngineBuild
from swarm.engines.installed import installed_engines, read_installed, unreadable_engines

SERVER = {
    "engine": "llama-server",
    "flavour": "native",
    "version": "b11434",
    "native": True,
    "program": "bin/llama-server",
    "packages": None,
    "made": "2026-11-30",
    "with": "cmake -DGGML_NATIVE=ON",
}
MLX = {
    "engine": "mlx",
    "flavour": "cpu",
    "version": "0.32.0",
    "native": False,
    "program": None,
    "packages": ".",
    "made": "2026-11-30",
    "with": "pip install mlx[cpu] mlx-lm",
}


def put(folder: Path, description: object, program: str | None = None) -> Path:
    folder.mkdir(parents=True)
    text = description if isinstance(description, str) else json.dumps(description)
    (folder / "engine.json").write_text(text)
    if program is not None:
        (folder / program).parent.mkdir(parents=True, exist_ok=True)
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    return folder


def test_engines_are_read_with_whole_paths_and_written_as_they_were(tmp_path: Path) -> None:
    server = put(tmp_path / "llama-server-native", SERVER, "bin/llama-server")
    mlx = put(tmp_path / "mlx-cpu", MLX)
    put(tmp_path / ".mlx-cpu.abcdefgh", MLX)  # one that is being made
    (tmp_path / "engines.lock").touch()
    found = installed_engines(tmp_path)
    assert [engine.name for engine in found] == ["llama-server-native", "mlx-cpu"]
    assert [engine.as_json() for engine in found] == [SERVER, MLX]
    assert installed_engines(tmp_path, "mlx")[0].packages == mlx
    gpu = (Device("CUDA0", "a card"),)
    program, source = server / "bin" / "llama-server", f"installed in {server}"
    assert found[0].build(gpu) == EngineBuild("llama-server", "b11434", gpu, True, program, None, source)
    assert unreadable_engines(tmp_path) == ()


def test_where_there_is_nothing_nothing_is_found(tmp_path: Path) -> None:
    for nowhere in (None, tmp_path, tmp_path / "not there"):
        assert installed_engines(nowhere) == unreadable_engines(nowhere) == ()


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("", "Expecting value"),
        ("[" * 100_000, ""),
        ("[]", "no object"),
        ({**SERVER, "engine": "../evil"}, 'no name as "engine"'),
        ({**SERVER, "flavour": None}, 'no name as "flavour"'),
        ({**SERVER, "version": 7}, 'no text as "version"'),
        ({**SERVER, "program": "bin/gone"}, "bin/gone is not there"),
        ({**SERVER, "program": "/bin/sh"}, "leads out of it"),
        ({**SERVER, "program": "../../bin/sh"}, "leads out of it"),
        ({**SERVER, "program": "bin"}, "cannot be run"),
        ({**SERVER, "program": "a" * 5000}, ""),
        ({**SERVER, "program": None}, 'neither "program" nor "packages"'),
        ({**SERVER, "packages": 1}, 'no path as "packages"'),
        ({**SERVER, "packages": "lib"}, "lib is not there"),
        ("x" * 100_000, "larger than"),
    ],
)
def test_a_spoilt_one_is_left_out_and_said_with_the_remedy(tmp_path: Path, description: Any, why: str) -> None:
    folder = put(tmp_path / "llama-server-native", description, "bin/llama-server")
    put(tmp_path / "mlx-cpu", MLX)
    assert [engine.name for engine in installed_engines(tmp_path)] == ["mlx-cpu"]
    (said,) = unreadable_engines(tmp_path)
    assert why in said
    assert "`swarm engines rm llama-server-native`" in said
    with pytest.raises(ValueError, match="no engine that can be used"):
        read_installed(folder)


def test_a_folder_without_a_description_is_said(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    assert installed_engines(tmp_path) == ()
    assert "cannot read the engine's file" in unreadable_engines(tmp_path)[0]
    assert "`swarm engines rm half`" in unreadable_engines(tmp_path)[0]
    (tmp_path / "half" / "thesis.txt").write_text("of somebody")
    assert "it has no engine.json; remove it yourself" in unreadable_engines(tmp_path)[0]


def test_control_characters_of_a_description_reach_no_terminal(tmp_path: Path) -> None:
    put(tmp_path / "mlx-cpu", {**MLX, "version": "\x1b[2J1", "with": "a\nb"})
    (engine,) = installed_engines(tmp_path)
    assert (engine.version, engine.made_with) == ("1", "a b")
