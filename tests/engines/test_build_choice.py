"""Which build computes a model, on machines as their tools describe them; and of which GPU the memory counts then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.snapshot import AppleSilicon, Gpu, HardwareSnapshot, Memory
from swarm.engines.build_choice import (
    chosen_build,
    formats_of,
    gpus_of,
    loaded_formats,
    memory_of,
    not_ready,
    ranked,
    seen_by,
)
from swarm.engines.engine import Device, EngineBuild
from swarm.engines.registry import ENGINES
from swarm.errors import SetupError

GIB = 2**30
RAM = Memory(total_bytes=32 * GIB, free_bytes=24 * GIB)

# Machines. What nvidia-smi and rocm-smi said, as recorded in tests/hardware; a PC without them says nothing of its GPU.
RTX = Gpu("nvidia", "NVIDIA GeForce RTX 4090", 0, None, 24 * GIB, 23 * GIB, False, "8.9", "555.42")
SMALL_RTX = Gpu("nvidia", "NVIDIA GeForce RTX 3060", 1, None, 12 * GIB, 12 * GIB, False, "8.6", "555.42")
RADEON = Gpu("amd", "Radeon RX 7900 XTX", 0, None, 24 * GIB, 22 * GIB, False, "gfx1100")
IN_PROCESSOR = Gpu("amd", "AMD Radeon 780M Graphics", 0, None, GIB // 2, GIB // 4, True, "gfx1103")
OLD_CARD = Gpu("nvidia", "NVIDIA GeForce GT 710", 0, None, GIB, GIB, False, "3.5", "470.1")
CPU_ONLY = HardwareSnapshot(memory=RAM)
NVIDIA = replace(CPU_ONLY, gpus=(RTX,))
TWO_CARDS = replace(CPU_ONLY, gpus=(RTX, SMALL_RTX))
TWO_MAKERS = replace(CPU_ONLY, gpus=(RTX, RADEON))
AMD = replace(CPU_ONLY, gpus=(RADEON,))
LAPTOP = replace(CPU_ONLY, gpus=(IN_PROCESSOR,))
OLD_PC = replace(CPU_ONLY, gpus=(OLD_CARD,))
MAC = replace(CPU_ONLY, apple=AppleSilicon("Apple M2", memory_total_bytes=32 * GIB))

# Devices, as llama.cpp and mlx name them.
CUDA = Device("CUDA0", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB)
SMALL_CUDA = Device("CUDA0", "NVIDIA GeForce RTX 3060", 12 * GIB, 12 * GIB)
OLD_CUDA = Device("CUDA0", "NVIDIA GeForce GT 710", GIB, GIB)
ROCM = Device("ROCm0", "AMD Radeon RX 7900 XTX", 24 * GIB, 22 * GIB)
VULKAN_OF_RADEON = Device("Vulkan0", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24 * GIB, 22 * GIB)
VULKAN_OF_RTX = Device("Vulkan0", "NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB)
VULKAN_IN_PROCESSOR = Device("Vulkan0", "AMD Radeon 780M Graphics (RADV PHOENIX)", 16 * GIB, 15 * GIB)
VULKAN_OF_INTEL = Device("Vulkan0", "Intel(R) UHD Graphics 770 (ADL-S GT1)", 16 * GIB, 15 * GIB)
ARC = Device("SYCL0", "Intel(R) Arc(TM) A770 Graphics", 16 * GIB, 15 * GIB)
METAL = Device("MTL0", "Apple M2", 21 * GIB, 21 * GIB)
LLVMPIPE = Device("Vulkan0", "llvmpipe (LLVM 15.0.7, 256 bits)", 32 * GIB, 24 * GIB)
BLAS = Device("BLAS", "Accelerate", 0, 0)
RPC = Device("RPC0", "10.0.0.7:50052", 24 * GIB, 24 * GIB)

# Builds.
WHEEL = EngineBuild("xllamacpp", "2026.10", source="this environment")
WHEEL_CUDA = replace(WHEEL, devices=(CUDA,), packages=Path("/engines/xllamacpp-cuda"))
WHEEL_METAL = replace(WHEEL, devices=(METAL,))
SERVER = EngineBuild("llama-server", "b11434", program=Path("/usr/bin/llama-server"))
NATIVE = replace(SERVER, native=True, program=Path("/engines/llama-server-native/bin/llama-server"))
PYTHON = EngineBuild("llama-cpp-python", "0.3.36", native=True, packages=Path("/engines/llama-cpp-python-native"))
ECHO = EngineBuild("echo", "1")


def on(build: EngineBuild, *devices: Device) -> EngineBuild:
    return replace(build, devices=devices)


@pytest.mark.parametrize(
    ("machine", "builds", "taken", "pool"),
    [
        # NVIDIA, with the CPU wheel, and a CUDA llama-server on the PATH
        (NVIDIA, [WHEEL, on(SERVER, CUDA)], on(SERVER, CUDA), "vram"),
        (NVIDIA, [WHEEL_CUDA, WHEEL, on(SERVER, CUDA)], WHEEL_CUDA, "vram"),
        (NVIDIA, [WHEEL_CUDA, WHEEL, on(NATIVE, CUDA)], on(NATIVE, CUDA), "vram"),
        (NVIDIA, [WHEEL, on(SERVER, VULKAN_OF_RTX), on(PYTHON, CUDA)], on(PYTHON, CUDA), "vram"),
        (NVIDIA, [WHEEL, NATIVE], NATIVE, "ram"),
        (NVIDIA, [WHEEL], WHEEL, "ram"),
        (OLD_PC, [WHEEL, on(SERVER, OLD_CUDA)], WHEEL, "ram"),  # a card that can hold no model
        # AMD, with Vulkan, and with ROCm beside it
        (AMD, [WHEEL, on(SERVER, VULKAN_OF_RADEON)], on(SERVER, VULKAN_OF_RADEON), "vram"),
        (AMD, [WHEEL, on(NATIVE, VULKAN_OF_RADEON), on(SERVER, ROCM)], on(SERVER, ROCM), "vram"),
        (CPU_ONLY, [WHEEL, on(SERVER, VULKAN_OF_RADEON)], on(SERVER, VULKAN_OF_RADEON), "ram"),  # without rocm-smi
        # a GPU inside the processor
        (LAPTOP, [WHEEL, NATIVE, on(SERVER, VULKAN_IN_PROCESSOR)], on(SERVER, VULKAN_IN_PROCESSOR), "unified"),
        (CPU_ONLY, [WHEEL, on(SERVER, VULKAN_OF_INTEL)], on(SERVER, VULKAN_OF_INTEL), "ram"),
        (CPU_ONLY, [WHEEL, on(NATIVE, VULKAN_OF_INTEL), on(SERVER, ARC)], on(SERVER, ARC), "ram"),
        # Apple
        (MAC, [on(WHEEL_METAL, METAL, BLAS), on(SERVER, METAL)], on(WHEEL_METAL, METAL, BLAS), "unified"),
        (MAC, [WHEEL, on(SERVER, METAL)], on(SERVER, METAL), "unified"),
        # the processor only
        (CPU_ONLY, [WHEEL, SERVER], WHEEL, "ram"),
        (CPU_ONLY, [WHEEL, PYTHON, SERVER], PYTHON, "ram"),
        (CPU_ONLY, [WHEEL, PYTHON, NATIVE], NATIVE, "ram"),
        (CPU_ONLY, [SERVER, ECHO], SERVER, "ram"),
        (CPU_ONLY, [WHEEL, on(SERVER, LLVMPIPE)], WHEEL, "ram"),  # a GPU in software is none
        (CPU_ONLY, [WHEEL, on(SERVER, BLAS)], WHEEL, "ram"),
        (CPU_ONLY, [WHEEL, on(SERVER, RPC)], WHEEL, "ram"),  # another machine's is not this one's
    ],
)
def test_auto_takes_what_computes_fastest(
    machine: HardwareSnapshot, builds: list[EngineBuild], taken: EngineBuild, pool: str
) -> None:
    for order in (builds, builds[::-1]):
        assert chosen_build("auto", "gguf", order, machine) == taken
    assert memory_of(taken, machine).pool == pool


def test_the_embedded_models_stay_where_they_start_at_once() -> None:
    builds = [WHEEL_CUDA, WHEEL, on(NATIVE, CUDA)]
    assert chosen_build("auto", "gguf", builds, NVIDIA, shipped=True) == WHEEL
    assert chosen_build("llama-server", "gguf", builds, NVIDIA, shipped=True) == on(NATIVE, CUDA)
    assert chosen_build("auto", "gguf", [NATIVE], NVIDIA, shipped=True) == NATIVE, "where nothing else is there"


def test_what_the_user_named_comes_first() -> None:
    builds = [WHEEL_CUDA, WHEEL, NATIVE, SERVER]
    for shipped in (False, True):
        assert chosen_build("auto", "gguf", builds, NVIDIA, shipped, named=SERVER.program) == SERVER
    assert chosen_build("llama-server", "gguf", builds, NVIDIA, named=SERVER.program) == SERVER
    assert chosen_build("xllamacpp", "gguf", builds, NVIDIA, named=SERVER.program) == WHEEL_CUDA, "for one model"


def test_the_rest_follows_in_order_for_a_model_that_the_best_does_not_know() -> None:
    builds = [WHEEL, PYTHON, NATIVE, on(SERVER, CUDA), ECHO]
    assert ranked("auto", "gguf", builds, NVIDIA) == (on(SERVER, CUDA), NATIVE, PYTHON, WHEEL)
    assert ranked("llama-server", "gguf", builds, NVIDIA) == (on(SERVER, CUDA), NATIVE)
    assert ranked("echo", "gguf", builds, NVIDIA) == ()
    assert ranked("auto", "mlx", builds, NVIDIA) == ()


@pytest.mark.parametrize(
    ("name", "model_format", "words"),
    [
        ("llama-server", "gguf", "engine llama-server is not ready here: .*`swarm engines install native`"),
        ("llama-cpp-python", "gguf", "engine llama-cpp-python is not ready here: .*swarm engines install llama-cpp"),
        ("auto", "gguf", "no engine that runs such models is ready here: run `.*` or `swarm engines install native`"),
        ("echo", "gguf", "engine echo runs no such models: leave out --engine, or name xllamacpp, llama-server"),
    ],
)
def test_what_is_not_ready_names_the_command_that_makes_it_so(
    name: str, model_format: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.engines.llama_cpp.llama_server.why_not_available", lambda: "none was found")
    monkeypatch.setattr("swarm.engines.llama_cpp_python.engine.why_not_available", lambda: "none was found")
    with pytest.raises(SetupError, match=words):
        chosen_build(name, model_format, [], CPU_ONLY)  # type: ignore[arg-type]


def test_what_was_found_and_is_no_use_is_why() -> None:
    problem = "/usr/bin/llama-server is too old (build 1200): update it"
    words = "engine llama-server is not ready here: {}: run `swarm engines install native`"
    assert not_ready(ENGINES["llama-server"], [problem]) == words.format(problem)


# Of which GPU the memory counts


@pytest.mark.parametrize(
    ("machine", "devices", "seen"),
    [
        (TWO_CARDS, [CUDA, SMALL_CUDA], (RTX, SMALL_RTX)),
        (TWO_CARDS, [SMALL_CUDA], (SMALL_RTX,)),  # by CUDA_VISIBLE_DEVICES, the larger one is hidden
        (TWO_CARDS, [Device("CUDA0", "a name of another driver")], (RTX,)),  # of one maker's the one that is freest
        (TWO_MAKERS, [ROCM], (RADEON,)),
        (TWO_MAKERS, [CUDA], (RTX,)),
        (TWO_MAKERS, [replace(VULKAN_OF_RTX), replace(VULKAN_OF_RADEON, name="Vulkan1")], (RTX, RADEON)),
        (AMD, [CUDA], ()),
        (MAC, [], ()),
        (NVIDIA, [LLVMPIPE], ()),
    ],
)
def test_of_the_gpus_those_count_that_the_build_sees(
    machine: HardwareSnapshot, devices: list[Device], seen: tuple[Gpu, ...]
) -> None:
    found = seen_by(on(SERVER, *devices), machine)
    assert found.gpus == seen
    assert found.apple is None
    memory = memory_of(on(SERVER, *devices), machine)
    assert memory.gpu == (max(seen, key=lambda gpu: gpu.memory_free_bytes or 0) if seen else None)


def test_two_cards_of_one_name_are_two() -> None:
    twin = replace(RTX, index=1, memory_free_bytes=4 * GIB)
    machine = replace(CPU_ONLY, gpus=(RTX, twin))
    assert seen_by(on(SERVER, CUDA, replace(CUDA, name="CUDA1")), machine).gpus == (RTX, twin)
    assert seen_by(on(SERVER, CUDA), machine).gpus == (RTX,)


def test_an_intel_mac_computes_on_its_card_by_metal() -> None:
    card = Gpu("amd", "AMD Radeon Pro 5500M", memory_total_bytes=8 * GIB, memory_free_bytes=8 * GIB, integrated=False)
    metal = Device("MTL0", "AMD Radeon Pro 5500M", 8 * GIB, 8 * GIB)
    assert seen_by(on(WHEEL, metal), replace(CPU_ONLY, gpus=(card,))).gpus == (card,)


def test_what_is_no_gpu_is_left_out() -> None:
    assert gpus_of(on(SERVER, CUDA, BLAS, RPC, LLVMPIPE, Device("CPU", "AMD EPYC"))) == (CUDA,)


# What is offered


def test_models_are_offered_in_formats_that_are_quick_here() -> None:
    build = EngineBuild("mlx", "1")
    assert formats_of("auto", [WHEEL, build]) == ("gguf",)
    assert formats_of("auto", [WHEEL, on(build, METAL)]) == ("gguf", "mlx")
    assert formats_of("auto", [on(build, METAL)]) == ("mlx",)
    assert formats_of("mlx", [build]) == ("mlx",), "who names it has chosen"
    assert formats_of("auto", [ECHO]) == ()
    assert loaded_formats("auto", [WHEEL, build]) == ("gguf", "mlx"), "what is named, or brought"
    assert loaded_formats("mlx", []) == ("mlx",)
    assert chosen_build("auto", "mlx", [WHEEL, build], CPU_ONLY) == build, "and a model that is named is loaded"
