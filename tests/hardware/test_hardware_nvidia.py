"""nvidia-smi: recorded answers, and how the probe gets them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.command import Failed, Missing, RunTool, TimedOut, ToolOutput
from hardware.nvidia import (
    MAX_GPUS,
    OLD_DRIVER_COMMAND,
    QUERY_COMMAND,
    REPORT_COMMAND,
    parse_mig_report,
    parse_query,
    probe_nvidia,
)
from hardware.snapshot import MIB_BYTES, Gpu

Recorded = Callable[[str], str]


def test_one_gpu(recorded: Recorded) -> None:
    [row] = parse_query(recorded("nvidia/one_gpu.csv"))
    assert row.gpu == Gpu(
        vendor="nvidia",
        name="NVIDIA GeForce RTX 5090",
        index=0,
        memory_total_bytes=32607 * MIB_BYTES,
        memory_free_bytes=32119 * MIB_BYTES,
        integrated=False,
        architecture="12.0",
        driver_version="595.71.05",
    )
    assert not row.mig_enabled


def test_all_of_many_gpus_in_their_order(recorded: Recorded) -> None:
    gpus = [row.gpu for row in parse_query(recorded("nvidia/eight_gpus.csv"))]
    assert [gpu.index for gpu in gpus] == list(range(8))
    assert {gpu.memory_total_bytes for gpu in gpus} == {81920 * MIB_BYTES}
    assert gpus[5].memory_free_bytes == 81148 * MIB_BYTES


def test_a_gpu_without_memory_of_its_own(recorded: Recorded) -> None:
    [row] = parse_query(recorded("nvidia/gb10.csv"))
    assert row.gpu.name == "NVIDIA GB10"
    assert row.gpu.memory_total_bytes is None
    assert row.gpu.memory_free_bytes is None
    assert row.gpu.integrated is True


def test_an_old_driver_tells_less(recorded: Recorded) -> None:
    first, second = (row.gpu for row in parse_query(recorded("nvidia/old_driver.csv")))
    assert (first.name, first.memory_free_bytes) == ("GeForce GTX 1080 Ti", 10403 * MIB_BYTES)
    assert (second.integrated, second.architecture, second.driver_version) == (None, None, "440.33.01")


@pytest.mark.parametrize(
    "word", ["[N/A]", "[Not Supported]", "[Unknown Error]", "[GPU is lost]", "ERR!", "", "-1", "1e3"]
)
def test_every_field_may_be_missing(word: str) -> None:
    [row] = parse_query(f"3, {', '.join([word] * 7)}\n")
    assert row.gpu.index == 3
    assert row.gpu.memory_total_bytes is None
    assert row.gpu.memory_free_bytes is None
    assert row.gpu.name
    assert not row.mig_enabled


@pytest.mark.parametrize(
    "name", ["driver_not_running.txt", "library_mismatch.txt", "no_devices.txt", "field_refused.txt", "mig.xml"]
)
def test_messages_are_no_gpus(recorded: Recorded, name: str) -> None:
    assert parse_query(recorded(f"nvidia/{name}")) == ()


def test_the_number_of_gpus_is_bounded() -> None:
    line = "0, GPU-1, GPU, 1.0, 1, 1\n"
    assert len(parse_query(line * (MAX_GPUS + 1))) == MAX_GPUS


def test_mig_report(recorded: Recorded) -> None:
    report = parse_mig_report(recorded("nvidia/mig.xml"))
    slice_bytes = (19968 * MIB_BYTES, 19955 * MIB_BYTES)
    assert report == {
        "GPU-513536b6-0000-4000-8000-000000000000": tuple((index, *slice_bytes) for index in range(4)),
        "GPU-513536b6-0000-4000-8000-000000000001": (),
    }
    assert parse_mig_report("NVIDIA-SMI has failed") == {}


def test_a_split_gpu_is_replaced_by_its_slices(recorded: Recorded, scripted: type) -> None:
    run = scripted(
        {QUERY_COMMAND: ToolOutput(recorded("nvidia/mig.csv")), REPORT_COMMAND: ToolOutput(recorded("nvidia/mig.xml"))}
    )
    gpus, notes = probe_nvidia(run)
    assert [(gpu.index, gpu.partition_index) for gpu in gpus] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, None)]
    assert gpus[1] == Gpu(
        vendor="nvidia",
        name="NVIDIA A100-SXM4-80GB MIG 1",
        index=0,
        partition_index=1,
        memory_total_bytes=19968 * MIB_BYTES,
        memory_free_bytes=19955 * MIB_BYTES,
        integrated=False,
        architecture="8.0",
        driver_version="535.54.03",
    )
    assert gpus[4].memory_free_bytes == 80999 * MIB_BYTES
    assert notes == ()


def test_mig_mode_without_slices_says_what_to_do(recorded: Recorded, scripted: type) -> None:
    report = recorded("nvidia/mig.xml").replace("mig_device>", "other>")
    run = scripted({QUERY_COMMAND: ToolOutput(recorded("nvidia/mig.csv")), REPORT_COMMAND: ToolOutput(report)})
    gpus, notes = probe_nvidia(run)
    assert [gpu.index for gpu in gpus] == [1]
    assert len(notes) == 1
    assert "GPU 0 is in MIG mode" in notes[0]
    assert "nvidia-smi -mig 0" in notes[0]


def test_a_hanging_report_costs_only_the_slices(recorded: Recorded, scripted: type) -> None:
    run = scripted({QUERY_COMMAND: ToolOutput(recorded("nvidia/mig.csv")), REPORT_COMMAND: TimedOut("nvidia-smi", 3.0)})
    gpus, notes = probe_nvidia(run, 3.0)
    assert [gpu.index for gpu in gpus] == [1]
    assert notes[0] == "nvidia-smi: gave up after 3 s"


def test_an_old_driver_is_asked_again_for_less_in_the_same_time(recorded: Recorded, scripted: type) -> None:
    refusal = Failed("nvidia-smi", 2, recorded("nvidia/field_refused.txt"), "")
    run = scripted({QUERY_COMMAND: refusal, OLD_DRIVER_COMMAND: ToolOutput(recorded("nvidia/old_driver.csv"))})
    gpus, notes = probe_nvidia(run, 3.0)
    assert len(gpus) == 2
    assert notes == ()
    (_, first_limit_s), (_, second_limit_s) = run.asked
    assert second_limit_s < first_limit_s == 3.0


def test_the_others_survive_a_lost_gpu(recorded: Recorded, scripted: type) -> None:
    run = scripted({QUERY_COMMAND: Failed("nvidia-smi", 15, recorded("nvidia/one_gpu_lost.csv"), "")})
    gpus, notes = probe_nvidia(run)
    assert [(gpu.index, gpu.memory_free_bytes) for gpu in gpus] == [(0, 48676 * MIB_BYTES), (2, None)]
    assert notes[0].startswith(
        "nvidia-smi: failed (exit code 15): Unable to determine the device handle for GPU1: 0000:34:00.0: Unknown Error"
    )


@pytest.mark.parametrize(
    ("outcome", "note"),
    [
        (Missing("nvidia-smi"), "nvidia-smi: not installed"),
        (TimedOut("nvidia-smi", 3.0), "nvidia-smi: gave up after 3 s"),
        (ToolOutput(""), "nvidia-smi: reported no GPU"),
        (ToolOutput("\x00garbage, [[[\n{{}}"), "nvidia-smi: reported no GPU"),
    ],
)
def test_nothing_found_and_why(scripted: type, outcome: Missing | TimedOut | ToolOutput, note: str) -> None:
    assert probe_nvidia(scripted({QUERY_COMMAND: outcome})) == ((), (note,))


@pytest.mark.parametrize(
    ("file", "exit_code", "reason"),
    [
        ("driver_not_running.txt", 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
        ("library_mismatch.txt", 18, "Failed to initialize NVML: Driver/library version mismatch"),
        ("no_devices.txt", 6, "No devices were found"),
    ],
)
def test_driver_errors_from_a_real_process(
    recorded: Recorded, install: Callable[[str, str], object], run_fake: RunTool, file: str, exit_code: int, reason: str
) -> None:
    install("nvidia-smi", f"cat <<'END'\n{recorded(f'nvidia/{file}')}END\nexit {exit_code}")
    gpus, [note] = probe_nvidia(run_fake, 60.0)
    assert gpus == ()
    assert note.startswith(f"nvidia-smi: failed (exit code {exit_code}): {reason}")
    assert "\n" not in note


@given(st.text(), st.text())
def test_no_text_breaks_the_parsers(before: str, after: str) -> None:
    parse_query(before)
    parse_mig_report(before)
    device = f"<mig_device><index>{before}</index></mig_device>"
    parse_mig_report(f"<r>{before}<gpu><uuid>{after}</uuid><mig_devices>{device}</mig_devices></gpu></r>")
    for row in parse_query(f"0, u, {before}, {after}, {before}, {after}, {before}, Enabled"):
        assert row.gpu.index == 0
        assert "\n" not in row.gpu.name
