"""What is installed on which machine: recorded machines, and what is said where something is too old or missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hardware.gpu_software import Compilers, GpuSoftware
from hardware.snapshot import GIB_BYTES, AppleSilicon, Cpu, Gpu, HardwareSnapshot
from swarm.engines.installed import NAME
from swarm.engines.machine_engines import WANTED, InstallPlan, MachineFacts, WantedEngine, meaning_of, plan_install

TOOLS = Compilers(cxx="/usr/bin/c++", cmake="/usr/bin/cmake", make="/usr/bin/make")
NVCC = "/usr/local/cuda/bin/nvcc"


def machine(
    *gpus: Gpu,
    compilers: Compilers | None = None,
    system: str = "Linux",
    chip: str = "x86_64",
    apple: AppleSilicon | None = None,
    **software: Any,
) -> MachineFacts:
    snapshot = HardwareSnapshot(
        cpu=Cpu(architecture=chip, usable_cores=4), gpus=gpus, apple=apple, operating_system=system
    )
    return MachineFacts(snapshot, GpuSoftware(**{"glibc": (2, 36), **software}), compilers or Compilers())


def nvidia(name: str, capability: str | None, driver: str = "570.124.06", memory: int = 24) -> Gpu:
    return Gpu("nvidia", name, 0, None, memory * GIB_BYTES, None, False, capability, driver)


def amd(name: str, architecture: str | None) -> Gpu:
    return Gpu("amd", name, 0, None, 24 * GIB_BYTES, None, False, architecture)


RTX_4090 = nvidia("NVIDIA GeForce RTX 4090", "8.9")
H200 = nvidia("NVIDIA H200", "9.0")
RX_7900 = amd("Radeon RX 7900 XTX", "gfx1100")
M4 = AppleSilicon("Apple M4 Pro")


def made(plan: InstallPlan) -> list[str]:
    """What the plan would make, each with the folder of the index where there is one."""
    return [f"{recipe.name} {recipe.index or recipe.about.rpartition(' ')[2]}" for recipe in plan.recipes]


@pytest.mark.parametrize(
    ("gpu", "cuda", "indexes"),
    [
        (RTX_4090, (12, 8), ["cu128"]),
        (RTX_4090, (12, 4), ["cu128"]),  # its own code runs with any driver of that CUDA major
        (RTX_4090, (13, 0), ["cu132", "cu128"]),
        (RTX_4090, (11, 8), []),
        (nvidia("NVIDIA GeForce RTX 5090", "12.0"), (13, 2), ["cu132", "cu128"]),
        (nvidia("NVIDIA GB10", "12.1"), (13, 0), ["cu132", "cu128"]),
        (nvidia("NVIDIA GB10", "12.1"), (12, 9), ["cu128"]),
        (H200, (13, 2), ["cu132", "cu128"]),
        (H200, (13, 0), ["cu128"]),  # the driver cannot compile what is for a newer CUDA than its own
        (H200, (12, 8), ["cu128"]),
        (H200, (12, 4), []),
        (nvidia("Tesla T4", "7.5"), (13, 0), ["cu132", "cu128"]),
        (nvidia("Tesla T4", "7.5"), (12, 8), ["cu128"]),
        (nvidia("Tesla V100", "7.0"), (13, 2), ["cu128"]),
        (nvidia("NVIDIA GeForce GTX 1080 Ti", "6.1"), (13, 0), ["cu128"]),
        (nvidia("Tesla K80", "3.7"), (12, 8), []),
        (nvidia("an NVIDIA GPU", None), (12, 8), ["cu128"]),
        (nvidia("an NVIDIA GPU", "[N/A]"), (12, 4), []),
    ],
)
def test_the_wheel_for_an_nvidia_gpu_and_its_driver(gpu: Gpu, cuda: tuple[int, int], indexes: list[str]) -> None:
    plan = plan_install(machine(gpu, cuda=cuda), "cuda")
    assert [recipe.index for recipe in plan.recipes] == indexes
    assert bool(plan.said) is not bool(indexes)
    assert all(recipe.needs_gpu and recipe.name == "xllamacpp-cuda" for recipe in plan.recipes)


@pytest.mark.parametrize(
    ("this", "wanted", "words"),
    [
        (machine(), "cuda", "no NVIDIA GPU here: install NVIDIA's driver"),
        (machine(RTX_4090, cuda=(11, 4)), "cuda", "need 12.0: update NVIDIA's driver to 525 or newer"),
        (machine(H200, cuda=(12, 4)), "cuda", "570.124.06 runs CUDA 12.4 and the wheels for NVIDIA H200 need 12.8"),
        (machine(H200, cuda=(12, 4)), "cuda", "update NVIDIA's driver to 570 or newer"),
        (machine(RTX_4090), "cuda", "does not say which CUDA it runs: update"),
        (machine(RTX_4090, cuda=(12, 8), cuda_library=False), "cuda", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        (machine(RTX_4090, cuda=(12, 8), glibc=None), "cuda", "another C library"),
        (machine(RTX_4090, cuda=(12, 8), glibc=(2, 31)), "cuda", "need glibc 2.35 and this system has 2.31"),
        (machine(RTX_4090, cuda=(12, 8), system="Windows"), "cuda", "no wheels for Windows"),
        (machine(nvidia("Tesla K80", "3.7"), cuda=(12, 8)), "cuda", "compute capability 3.7) is older than all"),
        (machine(), "rocm", "no AMD GPU here: install AMD's ROCm"),
        (machine(RX_7900), "rocm", "no ROCm in /opt/rocm: install ROCm 7.2"),
        (machine(RX_7900, rocm=(5, 7)), "rocm", "5.7 is here, and there are wheels for 6.4 and 7.2"),
        (machine(amd("a card", "gfx1201"), rocm=(6, 4)), "rocm", "no code for a card (gfx1201): install ROCm 7.2"),
        (machine(amd("a card", "gfx900"), rocm=(7, 2)), "rocm", "use Vulkan, or build it here"),
        (machine(RTX_4090), "vulkan", "apt install libvulkan1"),
        (machine(system="Darwin", apple=M4), "vulkan", "through Metal"),
        (machine(), "metal", "this is no Mac"),
        (machine(), "native", "no C++ compiler is here to build it with: install one (Debian and Ubuntu: apt install"),
        (machine(system="Darwin", apple=M4), "native", "xcode-select --install"),
        (machine(system="Windows", compilers=TOOLS), "native", "use WSL 2"),
        (machine(compilers=replace(TOOLS, cmake=None)), "native", "no cmake is here"),
        (machine(compilers=replace(TOOLS, make=None)), "native", "neither ninja nor make is here"),
        (machine(), "llama-cpp", "no C++ compiler"),
        (machine(system="Windows"), "mlx", "this is Windows"),
        (machine(glibc=(2, 31)), "mlx", "need glibc 2.35"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_remedy(this: MachineFacts, wanted: WantedEngine, words: str) -> None:
    plan = plan_install(this, wanted)
    assert (plan.recipes, plan.ready) == ((), None)
    assert words in "\n".join(plan.said)


@pytest.mark.parametrize(
    ("this", "wanted", "recipes"),
    [
        (machine(RX_7900, rocm=(6, 4)), "rocm", ["xllamacpp-rocm rocm-6.4.1"]),
        (machine(RX_7900, rocm=(7, 2)), "rocm", ["xllamacpp-rocm rocm-7.2.4"]),
        (machine(RX_7900, rocm=(7, 0)), "rocm", ["xllamacpp-rocm rocm-7.2.4"]),  # and it is said
        (machine(RX_7900, vulkan=True), "vulkan", ["xllamacpp-vulkan vulkan"]),
        (machine(vulkan=True), "vulkan", ["xllamacpp-vulkan vulkan"]),  # a GPU that the probe does not know
        (machine(compilers=TOOLS), "native", ["llama-server-native processor"]),
        (
            machine(RTX_4090, cuda=(13, 0), compilers=replace(TOOLS, nvcc=NVCC, cuda=(13, 0))),
            "native",
            ["llama-server-native CUDA", "llama-server-native processor"],
        ),
        (machine(compilers=replace(TOOLS, nvcc=NVCC, cuda=(13, 0))), "native", ["llama-server-native processor"]),
        (
            machine(RTX_4090, cuda=(12, 8), compilers=replace(TOOLS, nvcc=NVCC, cuda=(13, 0))),
            "native",
            ["llama-server-native processor"],
        ),
        (
            machine(RX_7900, compilers=replace(TOOLS, hipcc="/opt/rocm/bin/hipcc")),
            "llama-cpp",
            ["llama-cpp-python-native ROCm", "llama-cpp-python-native processor"],
        ),
        (
            machine(vulkan=True, compilers=replace(TOOLS, glslc="/usr/bin/glslc")),
            "native",
            ["llama-server-native Vulkan", "llama-server-native processor"],
        ),
        (
            machine(system="Darwin", apple=M4, compilers=TOOLS),
            "native",
            ["llama-server-native Metal", "llama-server-native processor"],
        ),
        (machine(compilers=replace(TOOLS, cmake=None)), "llama-cpp", ["llama-cpp-python-native processor"]),
        (machine(), "mlx", ["mlx-cpu wheels"]),
        (machine(system="Darwin", apple=M4), "mlx", ["mlx-metal wheels"]),
        (machine(RTX_4090, cuda=(12, 8)), "mlx", ["mlx-cuda wheels"]),
        (machine(nvidia("Tesla V100", "7.0"), cuda=(12, 8)), "mlx", ["mlx-cpu wheels"]),
    ],
)  # fmt: skip
def test_what_is_made_where(this: MachineFacts, wanted: WantedEngine, recipes: list[str]) -> None:
    assert made(plan_install(this, wanted)) == recipes


@pytest.mark.parametrize(
    ("this", "recipes"),
    [
        (machine(RTX_4090, cuda=(12, 8)), ["xllamacpp-cuda cu128"]),
        (machine(RTX_4090, cuda=(11, 4), vulkan=True), ["xllamacpp-vulkan vulkan"]),  # a driver too old for CUDA
        (
            machine(RTX_4090, cuda=(13, 0), vulkan=True, compilers=TOOLS),
            [
                "xllamacpp-cuda cu132",
                "xllamacpp-cuda cu128",
                "xllamacpp-vulkan vulkan",
                "llama-server-native processor",
            ],
        ),
        (machine(RX_7900, rocm=(6, 4), vulkan=True), ["xllamacpp-rocm rocm-6.4.1", "xllamacpp-vulkan vulkan"]),
        (machine(RX_7900, vulkan=True), ["xllamacpp-vulkan vulkan"]),
        (machine(RTX_4090, cuda=(12, 8), glibc=(2, 31), compilers=TOOLS), ["llama-server-native processor"]),
        (machine(compilers=TOOLS), ["llama-server-native processor"]),
    ],
)
def test_the_best_for_a_machine_comes_first_and_what_works_too_after_it(this: MachineFacts, recipes: list[str]) -> None:
    assert made(plan_install(this)) == recipes


@pytest.mark.parametrize(
    ("this", "wanted", "words"),
    [
        (machine(), None, "no GPU here and no compiler"),
        (machine(), "cpu", "computes on the CPU already"),
        (machine(system="Darwin", apple=M4), None, "uses Metal on Apple M4 Pro already"),
        (machine(system="Darwin", apple=M4), "metal", "uses Metal on Apple M4 Pro already"),
    ],
)
def test_where_nothing_is_to_be_installed_that_is_said(
    this: MachineFacts, wanted: WantedEngine | None, words: str
) -> None:
    plan = plan_install(this, wanted)
    assert plan.recipes == ()
    assert words in (plan.ready or "")


def test_a_program_is_built_for_this_processor_and_says_its_build() -> None:
    with_gpu, without = plan_install(
        machine(RTX_4090, cuda=(13, 0), compilers=replace(TOOLS, nvcc=NVCC, cuda=(13, 0))), "native"
    ).recipes
    assert {"-DGGML_NATIVE=ON", "-DLLAMA_BUILD_NUMBER=11434", "-DBUILD_SHARED_LIBS=OFF"} <= set(without.cmake)
    assert set(with_gpu.cmake) - set(without.cmake) == {"-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={NVCC}"}
    assert (with_gpu.needs_gpu, without.needs_gpu) == (True, False)
    assert (with_gpu.build_minutes, without.build_minutes) == (20, 4)  # on four cores
    assert with_gpu.native
    assert without.native


def test_every_name_is_one_that_a_folder_may_have_and_the_reader_takes() -> None:
    this = machine(RTX_4090, RX_7900, cuda=(13, 0), rocm=(7, 2), vulkan=True, compilers=TOOLS)
    for wanted in WANTED:
        for recipe in plan_install(this, wanted).recipes:
            assert NAME.fullmatch(recipe.name)
            assert NAME.fullmatch(recipe.flavour)


@pytest.mark.parametrize(
    ("failure", "meaning"),
    [
        ("ggml_cuda_init: CUDA driver version is insufficient for CUDA runtime version", "update"),
        ("the provided PTX was compiled with an unsupported toolchain.", "update NVIDIA's driver"),
        ("Failed to initialize NVML: Driver/library version mismatch", "restart this machine"),
        ("system has unsupported display driver / cuda driver combination", "two versions"),
        ("CUDA error: no kernel image is available for execution on the device", "no code for this GPU"),
        ("ImportError: libcuda.so.1: cannot open shared object file", "install NVIDIA's driver"),
        ("/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found", "C library is older"),
        ("it ended by signal 4 (Illegal instruction)", "newer processor"),
        ("something that nobody has seen", None),
    ],
)  # fmt: skip
def test_what_libraries_say_of_a_driver_that_is_not_theirs_is_said_with_the_remedy(
    failure: str, meaning: str | None
) -> None:
    assert (meaning_of(failure) is None) if meaning is None else (meaning in (meaning_of(failure) or ""))
