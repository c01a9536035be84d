"""NVIDIA GPUs, through nvidia-smi: its CSV query, and its XML report for GPUs that are split into MIG slices.

Every value may be missing: drivers say "[N/A]", "[Not Supported]", "[Insufficient Permissions]" or "[Unknown Error]".
"""

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware.command import TOOL_TIMEOUT_S, Failed, RunTool, ToolOutcome, ToolOutput, explain
from hardware.snapshot import MIB_BYTES, Gpu
from hardware.tool_text import known_text, whole_number

# The last two fields are unknown to old drivers (mig.mode before 450, compute_cap before 510), which then refuse all.
_CORE_FIELDS = ("index", "uuid", "name", "driver_version", "memory.total", "memory.free")
_NEWER_FIELDS = ("compute_cap", "mig.mode.current")
_FORMAT = "--format=csv,noheader,nounits"
QUERY_COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_CORE_FIELDS + _NEWER_FIELDS)}", _FORMAT)
OLD_DRIVER_COMMAND = ("nvidia-smi", f"--query-gpu={','.join(_CORE_FIELDS)}", _FORMAT)
REPORT_COMMAND = ("nvidia-smi", "-q", "-x")

MAX_GPUS = 256  # the largest machines have 16 GPUs of at most 7 slices

# GPUs that share the CPU's memory: Jetson Nano, TX2, Xavier, Orin, Thor (two spellings), GB10 (DGX Spark).
# https://developer.nvidia.com/cuda-gpus
_INTEGRATED_CAPABILITIES = frozenset({"5.3", "6.2", "7.2", "8.7", "10.1", "11.0", "12.1"})


@dataclass(frozen=True, slots=True)
class NvidiaRow:
    """One line of the query: a GPU, the UUID under which the XML report has it, and whether it is in MIG mode."""

    gpu: Gpu
    uuid: str | None
    mig_enabled: bool


def parse_query(text: str) -> tuple[NvidiaRow, ...]:
    """The lines of QUERY_COMMAND or OLD_DRIVER_COMMAND; lines of another shape (messages) are skipped."""
    rows: list[NvidiaRow] = []
    for line in text.splitlines():
        values = [known_text(cell) for cell in line.split(",")]  # nvidia-smi quotes nothing: no value has a comma
        index = whole_number(values[0])
        if index is not None and len(values) in (len(_CORE_FIELDS), len(_CORE_FIELDS + _NEWER_FIELDS)):
            rows.append(_row(index, values))
    return tuple(rows[:MAX_GPUS])


def _row(index: int, values: Sequence[str | None]) -> NvidiaRow:
    _, uuid, name, driver, total, free, capability, mig = (*values, None, None)[: len(_CORE_FIELDS + _NEWER_FIELDS)]
    gpu = Gpu(
        vendor="nvidia",
        name=name or "NVIDIA GPU",
        index=index,
        memory_total_bytes=_from_mib(total),
        memory_free_bytes=_from_mib(free),
        integrated=None if capability is None else capability in _INTEGRATED_CAPABILITIES,
        architecture=capability,
        driver_version=driver,
    )
    return NvidiaRow(gpu, uuid, mig == "Enabled")


def _from_mib(text: str | None) -> int | None:
    """ "24564" or "24564 MiB" in bytes."""
    mib = whole_number((text or "").removesuffix("MiB"))
    return None if mib is None else mib * MIB_BYTES


def parse_mig_report(text: str) -> Mapping[str, tuple[tuple[int, int | None, int | None], ...]]:
    """`nvidia-smi -q -x` as GPU UUID -> its MIG devices: (index, total bytes, free bytes). {} if it is not XML."""
    try:
        report = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    return {
        known_text(gpu.findtext("uuid")) or "": tuple(
            (index, _from_mib(_memory(device, "total")), _from_mib(_memory(device, "free")))
            for device in gpu.findall("mig_devices/mig_device")
            if (index := whole_number(device.findtext("index"))) is not None
        )
        for gpu in report.findall("gpu")
    }


def _memory(device: ElementTree.Element, which: str) -> str | None:
    return known_text(device.findtext(f"fb_memory_usage/{which}"))


def expand_mig(rows: Sequence[NvidiaRow], report: str) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """The GPUs with each one in MIG mode replaced by its slices, which are all that programs can use; and notes."""
    slices = parse_mig_report(report)
    gpus: list[Gpu] = []
    notes: list[str] = []
    for row in rows:
        if not row.mig_enabled:
            gpus.append(row.gpu)
            continue
        devices = slices.get(row.uuid or "", ())
        gpus.extend(_slice(row.gpu, *device) for device in devices)
        if not devices:
            notes.append(
                f"nvidia-smi: GPU {row.gpu.index} is in MIG mode and shows no MIG device: "
                "create one (nvidia-smi mig -cgi), or leave MIG mode (nvidia-smi -mig 0)"
            )
    return tuple(gpus[:MAX_GPUS]), tuple(notes)


def _slice(gpu: Gpu, index: int, total_bytes: int | None, free_bytes: int | None) -> Gpu:
    return Gpu(
        vendor="nvidia",
        name=f"{gpu.name} MIG {index}",
        index=gpu.index,
        partition_index=index,
        memory_total_bytes=total_bytes,
        memory_free_bytes=free_bytes,
        integrated=gpu.integrated,
        architecture=gpu.architecture,
        driver_version=gpu.driver_version,
    )


def probe_nvidia(run: RunTool, timeout_s: float = TOOL_TIMEOUT_S) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """All NVIDIA GPUs, and notes on what nvidia-smi said; up to three runs share `timeout_s`; never raises."""
    deadline_s = time.monotonic() + timeout_s
    outcome = run(QUERY_COMMAND, timeout_s)
    if _refused_a_field(outcome):
        outcome = run(OLD_DRIVER_COMMAND, max(0.0, deadline_s - time.monotonic()))
    rows = parse_query(outcome.stdout) if isinstance(outcome, ToolOutput | Failed) else ()
    notes = () if isinstance(outcome, ToolOutput) else (explain(outcome),)  # one lost GPU fails the query of the others
    if not rows:
        return (), notes or ("nvidia-smi: reported no GPU",)
    if not any(row.mig_enabled for row in rows):
        return tuple(row.gpu for row in rows), notes
    report = run(REPORT_COMMAND, max(0.0, deadline_s - time.monotonic()))
    if not isinstance(report, ToolOutput):
        whole = tuple(row.gpu for row in rows if not row.mig_enabled)
        return whole, (*notes, explain(report), "nvidia-smi: MIG devices are left out, their memory is unknown")
    gpus, mig_notes = expand_mig(rows, report.stdout)
    return gpus, (*notes, *mig_notes)


def _refused_a_field(outcome: ToolOutcome) -> bool:
    return isinstance(outcome, Failed) and "not a valid field" in outcome.stdout + outcome.stderr
