"""Ask every source at once what this machine is."""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hardware.amd import probe_amd
from hardware.apple import probe_apple
from hardware.command import TOOL_TIMEOUT_S, RunTool, run_tool
from hardware.cpu import probe_cpu
from hardware.memory import probe_memory
from hardware.nvidia import probe_nvidia
from hardware.snapshot import HardwareSnapshot

_SOURCES = 4  # asked at the same time, so that the slowest one alone decides how long it takes


def probe_hardware(
    timeout_s: float = TOOL_TIMEOUT_S,
    run: RunTool = run_tool,
    root: Path = Path("/"),
    system: str | None = None,
) -> HardwareSnapshot:
    """What this machine is, now. Blocks for up to about `timeout_s`: call it off the event loop. Never raises for what
    a tool or file says.

    `run`, the filesystem `root` and the operating `system` ("Linux", "Darwin", "Windows") can be replaced for tests.
    """
    operating_system = platform.system() if system is None else system
    with ThreadPoolExecutor(_SOURCES, thread_name_prefix="hardware") as pool:
        cpu = pool.submit(probe_cpu, root, operating_system, run, timeout_s)
        memory = pool.submit(probe_memory, root)
        if operating_system == "Darwin":
            mac = pool.submit(probe_apple, run, timeout_s)
            apple, gpus, gpu_notes = mac.result()
        else:
            nvidia, amd = pool.submit(probe_nvidia, run, timeout_s), pool.submit(probe_amd, run, timeout_s)
            apple, gpus = None, (*nvidia.result()[0], *amd.result()[0])
            gpu_notes = (*nvidia.result()[1], *amd.result()[1])
        return HardwareSnapshot(
            cpu=cpu.result()[0],
            memory=memory.result()[0],
            gpus=gpus,
            apple=apple,
            operating_system=operating_system or None,
            notes=(*cpu.result()[1], *memory.result()[1], *gpu_notes),
        )
