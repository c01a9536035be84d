"""How fast this machine reads a model's weights: measured for the CPU, estimated for graphics cards and Apple's chips.

Generating a token reads every active weight once, so that this speed and a model's size tell its tokens per second:
memory is slower than arithmetic on all machines but those without vector instructions (`CORE_BYTES_PER_S`).
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from functools import cache
from typing import Final

from hardware.snapshot import GIB_BYTES, MIB_BYTES, HardwareSnapshot, ModelMemory

COPY_S: Final = 0.03  # of copying; with the first touch of its memory a measurement takes some 0.15 s
COPY_BYTES: Final = 128 * MIB_BYTES  # touched in all: more than most caches hold
LITTLE_COPY_BYTES: Final = 32 * MIB_BYTES  # on machines with little memory, whose caches are small
LITTLE_MEMORY_BYTES: Final = 4 * GIB_BYTES
MOST_COPIERS: Final = 8  # a desktop's memory is busy with fewer
TRAFFIC: Final = 2  # bytes that pass for each byte copied: one is read, one written

# What of the memory's speed decoding gets, and what one core decodes, in bytes of weights a second: llama.cpp of 2026,
# 0.5B to 1B parameters in Q4_K and Q8_0, took 9 to 12 GB/s on one core whose copies passed 17; older cores take less.
MEMORY_SHARE: Final = 0.7
CORE_BYTES_PER_S: Final = 10e9
# ... of builds for the very machine, on a core with products of whole numbers: 28 GB/s of Q8_0 where copies pass 42.
NATIVE_CORE_BYTES_PER_S: Final = 28e9
NATIVE_VECTORS: Final = frozenset({"avx512_vnni", "avx_vnni"})
PLAIN_CORE_BYTES_PER_S: Final = 2.5e9  # without vector instructions for whole numbers
VECTORS: Final = frozenset({"avx2", "avx512f", "neon", "dotprod"})

# The slowest cards of each size, in GB/s: RTX 3050 and RX 6400, RTX 4060 Ti 16 GB, RTX A6000 and L40, A100 80 GB.
CARD_BYTES_PER_S: Final = ((12, 190e9), (30, 280e9), (60, 600e9), (math.inf, 1500e9))  # below this many GiB
# Apple's published figures, the smaller where a chip comes in two.
APPLE_BYTES_PER_S: Final = {
    "M1": 68e9, "M1 Pro": 200e9, "M1 Max": 400e9, "M1 Ultra": 800e9,
    "M2": 100e9, "M2 Pro": 200e9, "M2 Max": 400e9, "M2 Ultra": 800e9,
    "M3": 100e9, "M3 Pro": 150e9, "M3 Max": 300e9, "M3 Ultra": 800e9,
    "M4": 120e9, "M4 Pro": 273e9, "M4 Max": 410e9,
}  # fmt: skip


def weights_bytes_per_s(
    snapshot: HardwareSnapshot, memory: ModelMemory, threads: int | None = None, *, native: bool = False
) -> float:
    """Bytes of weights read a second by a model in `memory`, computed by `threads` (None: all usable cores but one).

    `native`: by a build of llama.cpp that was made for this machine's processor, as one that lends or pools is.
    Blocks for about 0.2 s the first time where the CPU computes, or an unknown chip.
    """
    if memory.pool == "vram":
        size_gib = ((memory.gpu and memory.gpu.memory_total_bytes) or 0) / GIB_BYTES
        return MEMORY_SHARE * next(speed for below, speed in CARD_BYTES_PER_S if size_gib < below)
    usable = snapshot.cpu.usable_cores or 2
    touched_bytes = COPY_BYTES if (snapshot.memory.free_bytes or 0) > LITTLE_MEMORY_BYTES else LITTLE_COPY_BYTES
    if memory.pool == "unified":
        chip = (snapshot.apple.chip if snapshot.apple else "").removeprefix("Apple").strip()
        return MEMORY_SHARE * (
            APPLE_BYTES_PER_S.get(chip) or copied_bytes_per_s(min(usable, MOST_COPIERS), touched_bytes)
        )
    threads = threads or max(1, usable - 1)
    known = snapshot.cpu.instruction_sets
    has_vectors = known is None or not VECTORS.isdisjoint(known)
    core_bytes_per_s = CORE_BYTES_PER_S if has_vectors else PLAIN_CORE_BYTES_PER_S
    if native and not NATIVE_VECTORS.isdisjoint(known or ()):
        core_bytes_per_s = NATIVE_CORE_BYTES_PER_S
    arithmetic = threads * core_bytes_per_s
    return min(MEMORY_SHARE * copied_bytes_per_s(min(threads, MOST_COPIERS), touched_bytes), arithmetic)


@cache
def copied_bytes_per_s(threads: int, touched_bytes: int = COPY_BYTES) -> float:
    """Bytes that pass between `threads` cores and memory in a second, reads and writes together. Measured once.

    Each thread's own time counts: programs that share its core do not make the memory look slower.
    """
    size_bytes = touched_bytes // (2 * threads)
    rates: list[float] = []
    start = threading.Barrier(threads)

    def copy() -> None:
        buffers = [(ctypes.c_char * size_bytes)() for _ in range(2)]
        there, back = (ctypes.addressof(buffer) for buffer in buffers)
        for into in (there, back):  # the first touch makes the pages
            ctypes.memset(into, 1, size_bytes)
        start.wait()
        done_bytes, began_s, end = 0, time.thread_time(), time.monotonic() + COPY_S
        while not done_bytes or time.monotonic() < end:
            ctypes.memmove(there, back, size_bytes)
            done_bytes += size_bytes
        rates.append(done_bytes * TRAFFIC / max(time.thread_time() - began_s, 1e-6))

    copiers = [threading.Thread(target=copy, name="memory speed", daemon=True) for _ in range(threads)]
    for copier in copiers:
        copier.start()
    for copier in copiers:
        copier.join()
    return sum(rates)
