"""`swarm engines`, `--llama-server`, and the engines of a node: what is here, what is chosen, and what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from hardware.snapshot import Gpu, HardwareSnapshot, Memory
from swarm.cli import main
from swarm.engines import echo, registry
from swarm.engines.engine import Device, EngineBuild, EnginePlaces
from swarm.engines.llama_cpp import llama_server, xllamacpp
from swarm.engines.llama_cpp_python import engine as llama_cpp_python
from swarm.engines.mlx import engine as mlx
from swarm.errors import SetupError
from swarm.node.engines import NodeEngines, formats_here, machine_words
from swarm.node.settings import Settings

GIB = 2**30
CARD = HardwareSnapshot(
    memory=Memory(16 * GIB, 8 * GIB),
    gpus=(Gpu("nvidia", "NVIDIA GeForce RTX 4090", 0, None, 24 * GIB, 23 * GIB, False, "8.9", "555.42"),),
)
CUDA = Device("CUDA0", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB)
WHEEL = EngineBuild("xllamacpp", "2026.10", source="this environment")
SERVER = EngineBuild("llama-server", "b11434", (CUDA,), program=Path("/usr/bin/llama-server"), source="on the PATH")
OLD = "/opt/old/llama-server is too old (b99): update it, or run `swarm engines install native`"
MISSING = "it is not installed: run `swarm engines install X`"


class Here:
    """What each engine says of this machine; `asked` has the places where they were told to look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.builds: tuple[EngineBuild, ...] = (WHEEL,)
        self.problems: dict[str, tuple[str, ...]] = {}
        self.asked: list[tuple[str, EnginePlaces]] = []
        modules = {
            "xllamacpp": xllamacpp,
            "llama-server": llama_server,
            "llama-cpp-python": llama_cpp_python,
            "mlx": mlx,
        }
        for name, module in modules.items():
            monkeypatch.setattr(module, "builds", lambda places, name=name: self._builds(name, places))
            monkeypatch.setattr(module, "problems", lambda places, name=name: self.problems.get(name, ()))
            monkeypatch.setattr(module, "why_not_available", lambda: MISSING)

    def _builds(self, name: str, places: EnginePlaces) -> tuple[EngineBuild, ...]:
        self.asked.append((name, places))
        return tuple(build for build in self.builds if build.engine == name)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    for command in ("engines", "doctor"):
        monkeypatch.setattr(f"swarm.commands.{command}.probe_hardware", lambda: CARD)
    return Here(monkeypatch)


def test_the_list_names_what_computes_what_is_no_use_and_the_command_for_the_rest(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here.builds, here.problems = (WHEEL, SERVER), {"llama-server": (OLD,)}
    assert main(["engines", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for line in (
        "this machine: an unknown processor, NVIDIA GeForce RTX 4090",
        "GGUF models are computed by llama-server b11434 on NVIDIA GeForce RTX 4090",
        "the embedded models are computed by xllamacpp 2026.10, which starts at once",
        "    2026.10 on the CPU, this environment",
        "  * b11434 on NVIDIA GeForce RTX 4090, on the PATH",
        f"  ! {OLD}",
        "mlx               not ready  MLX models by mlx-lm, on Apple Silicon",
        f"    {MISSING}",
        "    what makes it ready: `swarm engines install mlx`",
    ):
        assert line in text.splitlines(), line
    assert "not used" not in text
    assert all(places.ask_devices for _, places in here.asked), "who asks for the list wants to know"


def test_a_gpu_that_nothing_uses_is_said_with_the_command(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "list", "--data-dir", str(tmp_path)]) == 0
    assert "! NVIDIA GeForce RTX 4090: not used" in (text := capsys.readouterr().out)
    assert "`swarm engines install`" in text
    here.builds = ()
    assert main(["engines", "--engine", "mlx", "--data-dir", str(tmp_path)]) == 0
    assert "no model can be computed here (--engine mlx)" in capsys.readouterr().out


def test_the_list_for_programs(here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here.builds = (WHEEL, SERVER)
    assert main(["engines", "--json", "--data-dir", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chosen"]["gguf"]["program"] == "/usr/bin/llama-server"
    engines = {entry["name"]: entry for entry in told["engines"]}
    assert list(engines) == [name for name in registry.ENGINE_NAMES if name != "auto"]
    assert {name: entry["ready"] for name, entry in engines.items()} == {
        "xllamacpp": True, "llama-server": True, "llama-cpp-python": False, "mlx": False, "echo": True
    }  # fmt: skip
    (build,) = engines["llama-server"]["builds"]
    assert (build["chosen"], build["devices"][0]["total_bytes"]) == (True, 24 * GIB)
    assert engines["mlx"]["why_not"] == MISSING
    assert engines["mlx"]["ready_by"] == "swarm engines install mlx"


def test_an_engine_that_cannot_say_what_is_here_keeps_no_other_from_it(
    here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(places: EnginePlaces) -> tuple[EngineBuild, ...]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(mlx, "builds", broken)
    monkeypatch.setattr(mlx, "problems", broken)
    assert main(["engines", "--data-dir", str(tmp_path)]) == 0
    assert "GGUF models are computed by xllamacpp" in (text := capsys.readouterr().out)
    assert "it could not say what is here: RuntimeError: a defect" in text


# The engines of a node


def test_only_what_may_compute_a_model_is_asked_and_devices_only_where_a_gpu_is(here: Here, tmp_path: Path) -> None:
    NodeEngines.look(Settings(data_dir=tmp_path), HardwareSnapshot())
    assert [name for name, _ in here.asked] == ["xllamacpp", "llama-server", "llama-cpp-python", "mlx"]
    assert not any(places.ask_devices for _, places in here.asked)
    here.asked.clear()
    NodeEngines.look(Settings(data_dir=tmp_path, engine="xllamacpp"), CARD)
    ((name, places),) = here.asked
    assert (name, places.ask_devices, places.machine) == ("xllamacpp", True, "NVIDIA GeForce RTX 4090  555.42")
    assert (places.engines_dir, places.answers) == (tmp_path / "engines", tmp_path / "engines.json")
    here.asked.clear()
    assert formats_here(Settings(data_dir=tmp_path)) == ("gguf",)
    assert not any(places.ask_devices for _, places in here.asked)


def test_another_driver_is_another_machine() -> None:
    assert machine_words(CARD) != machine_words(HardwareSnapshot())


def test_an_engine_that_is_not_ready_is_refused_with_what_was_found_and_the_command(here: Here, tmp_path: Path) -> None:
    here.problems = {"llama-server": (OLD,)}
    engines = NodeEngines.look(Settings(data_dir=tmp_path, engine="llama-server"), CARD)
    with pytest.raises(SetupError, match=r"engine llama-server is not ready here: .*too old.*engines install native"):
        engines.best("gguf")
    here.builds = ()
    with pytest.raises(SetupError, match="no engine that runs such models is ready here"):
        _ = NodeEngines.look(Settings(data_dir=tmp_path), CARD).usual


def named_program(folder: Path) -> Path:
    path = folder / "llama-server"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_named_program_is_used_or_refused_at_the_start(here: Here, tmp_path: Path) -> None:
    path = named_program(tmp_path)
    settings = Settings(data_dir=tmp_path, llama_server=path)
    with pytest.raises(SetupError, match=f"--llama-server {path} is no llama.cpp server"):
        NodeEngines.look(settings, CARD)
    here.problems = {"llama-server": (f"{path} hung when it was asked", OLD)}
    with pytest.raises(SetupError, match=f"^{path} hung when it was asked$"):
        NodeEngines.look(settings, CARD)
    named = EngineBuild("llama-server", "b1", program=path)
    here.builds = (WHEEL, SERVER, named)
    engines = NodeEngines.look(settings, CARD)
    assert engines.usual == engines.best("gguf", shipped=True) == named
    with pytest.raises(SetupError, match="is not used by --engine xllamacpp: leave one of the two out"):
        NodeEngines.look(Settings(data_dir=tmp_path, llama_server=path, engine="xllamacpp"), CARD)
    one = {"big": {"engine": "llama-server"}}
    other = Settings(data_dir=tmp_path, llama_server=path, engine="xllamacpp", models=one)  # type: ignore[arg-type]
    assert NodeEngines.look(other, CARD).usual == WHEEL


def test_the_path_of_a_program_is_looked_up_as_a_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = named_program(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert Settings(llama_server="llama-server").llama_server == path  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    assert Settings(llama_server="./llama-server").llama_server == path  # type: ignore[arg-type]
    for given, said in (
        (tmp_path, "is a folder: give the program in it"),
        (tmp_path / "none", "is not there"),
        ("~no-such-user/llama-server", "begins with a user who has no home here"),
    ):
        assert main(["engines", "--llama-server", str(given)]) == 2
        assert f"--llama-server {given} {said}" in capsys.readouterr().err
    assert main(["engines", "--llama-server", "a" * 3000]) == 2
    assert re.search("cannot be looked at|is not there", capsys.readouterr().err)  # by the version of Python


def test_echo_needs_no_builds_of_others(here: Here, tmp_path: Path) -> None:
    engines = NodeEngines.look(Settings(data_dir=tmp_path, engine="echo"), CARD)
    assert not here.asked
    assert engines.builds == echo.builds(EnginePlaces())
    assert engines.gpu_line is None
