"""AMD GPUs, through `rocm-smi --json`, whose keys change with the release ("Card series", then "Card Series")."""

import re

from hardware.command import TOOL_TIMEOUT_S, Failed, RunTool, ToolOutput, explain
from hardware.snapshot import GIB_BYTES, Gpu
from hardware.tool_text import JsonObject, first_json_object, known_text, one_line, whole_number

QUERY_COMMAND = ("rocm-smi", "--showid", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")

MAX_GPUS = 256  # the largest machines have 8 GPUs of at most 8 partitions

# GPUs inside a processor: Raven, Renoir, Van Gogh, Rembrandt, Raphael, Phoenix, Strix (Halo), Krackan.
# https://llvm.org/docs/AMDGPUUsage.html#processors (those marked APU)
_INTEGRATED_ARCHITECTURES = frozenset(
    {
        "gfx902",
        "gfx909",
        "gfx90c",
        "gfx1013",
        "gfx1033",
        "gfx1035",
        "gfx1036",
        "gfx1103",
        "gfx1150",
        "gfx1151",
        "gfx1152",
        "gfx1153",
    }
)
# Releases before 6.1 do not tell the architecture. No dedicated GPU that ROCm supports has as little memory as this.
_MAX_CARVE_OUT_BYTES = 2 * GIB_BYTES

_CARD = re.compile(r"card([0-9]{1,4})")
_HEX = re.compile(r"0x[0-9a-fA-F]+")


def parse_rocm(text: str) -> tuple[Gpu, ...]:
    """All cards in rocm-smi's JSON, by number; () if there is none or no JSON."""
    report = first_json_object(text) or {}
    system = report.get("system")
    driver = known_text(_lowered(system).get("driver version")) if isinstance(system, dict) else None
    cards = {
        int(match[1]): _lowered(card)
        for name, card in report.items()
        if (match := _CARD.fullmatch(name)) is not None and isinstance(card, dict)
    }
    return tuple(_gpu(index, cards[index], driver) for index in sorted(cards)[:MAX_GPUS])


def _lowered(card: JsonObject) -> JsonObject:
    return {key.strip().lower(): value for key, value in card.items()}


def _gpu(index: int, card: JsonObject, driver_version: str | None) -> Gpu:
    total_bytes = whole_number(card.get("vram total memory (b)"))
    used_bytes = whole_number(card.get("vram total used memory (b)"))
    architecture = known_text(card.get("gfx version"))
    return Gpu(
        vendor="amd",
        name=_name(card, architecture),
        index=index,
        memory_total_bytes=total_bytes,
        memory_free_bytes=None if total_bytes is None or used_bytes is None else max(0, total_bytes - used_bytes),
        integrated=_integrated(architecture, total_bytes),
        architecture=architecture,
        driver_version=driver_version,
    )


def _name(card: JsonObject, architecture: str | None) -> str:
    """The product's name; releases that do not know it print a device number instead."""
    known = (known_text(card.get(key)) for key in ("card series", "device name", "card model"))
    named = next((name for name in known if name is not None and not _HEX.fullmatch(name)), None)
    if named is not None:
        return named
    number = architecture or known_text(card.get("device id")) or known_text(card.get("gpu id"))
    return f"AMD GPU ({number})" if number else "AMD GPU"


def _integrated(architecture: str | None, total_bytes: int | None) -> bool | None:
    if architecture is not None:
        return architecture.lower() in _INTEGRATED_ARCHITECTURES
    return True if total_bytes is not None and total_bytes <= _MAX_CARVE_OUT_BYTES else None


def probe_amd(run: RunTool, timeout_s: float = TOOL_TIMEOUT_S) -> tuple[tuple[Gpu, ...], tuple[str, ...]]:
    """All AMD GPUs, and notes on what rocm-smi said; never raises."""
    outcome = run(QUERY_COMMAND, timeout_s)
    gpus = parse_rocm(outcome.stdout) if isinstance(outcome, ToolOutput | Failed) else ()
    if not isinstance(outcome, ToolOutput):
        return gpus, (explain(outcome),)
    said = one_line(outcome.stdout)
    return gpus, () if gpus else (f"rocm-smi: reported no GPU{f': {said}' if said else ''}",)
