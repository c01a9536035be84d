"""Macs: recorded descriptions of M1 to M4, virtual machines and Intel."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.apple import PROFILER_COMMAND, SYSCTL_COMMAND, parse_apple_silicon, parse_mac_gpus, probe_apple
from hardware.command import Failed, Missing, TimedOut, ToolOutput
from hardware.snapshot import GIB_BYTES, MIB_BYTES, AppleSilicon, Gpu

Recorded = Callable[[str], str]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("m1_air", AppleSilicon("Apple M1", "MacBookAir10,1", 16 * GIB_BYTES, 7, 4, 4)),
        ("m2_pro_macos27", AppleSilicon("Apple M2 Pro", "Mac14,10", 16 * GIB_BYTES, 19, 8, 4)),
        ("m3_max", AppleSilicon("Apple M3 Max", "Mac15,8", 64 * GIB_BYTES, 40, 12, 4)),
        ("m4_air", AppleSilicon("Apple M4", "Mac16,12", 16 * GIB_BYTES, 10, 4, 6)),
        ("m4_max_virtual", AppleSilicon("Apple M4 Max (Virtual)", "VirtualMac2,1", 4 * GIB_BYTES)),
    ],
)
def test_apple_chips(recorded: Recorded, file: str, expected: AppleSilicon) -> None:
    text = recorded(f"apple/{file}.json")
    assert parse_apple_silicon(text) == expected
    assert parse_mac_gpus(text) == ()


def test_an_intel_mac_has_gpus_instead(recorded: Recorded) -> None:
    text = recorded("apple/intel_two_gpus.json")
    assert parse_apple_silicon(text, recorded("apple/intel_sysctl.txt")) is None
    assert parse_mac_gpus(text) == (
        Gpu(vendor="intel", name="Intel UHD Graphics 630", index=0, integrated=True),
        Gpu(vendor="amd", name="AMD Radeon Pro 5500M", index=1, integrated=False, memory_total_bytes=8 * GIB_BYTES),
    )


@pytest.mark.parametrize(
    ("memory_gib", "share_mib"), [(16, 10922), (24, 16384), (32, 21845), (36, 27648), (64, 49152), (128, 98304)]
)
def test_the_gpus_default_share(memory_gib: int, share_mib: int) -> None:
    limit_bytes = AppleSilicon("Apple M1", memory_total_bytes=memory_gib * GIB_BYTES).gpu_limit_bytes
    assert limit_bytes is not None
    assert limit_bytes // MIB_BYTES == share_mib


def test_limits_of_the_system_and_of_the_owner(recorded: Recorded) -> None:
    default = parse_apple_silicon(recorded("apple/m4_air.json"), recorded("apple/limits_default_sysctl.txt"))
    raised = parse_apple_silicon(recorded("apple/m3_max.json"), recorded("apple/limits_raised_sysctl.txt"))
    assert default is not None
    assert raised is not None
    assert (default.wired_limit_bytes, default.gpu_limit_bytes) == (None, 16 * GIB_BYTES * 2 // 3)
    assert (raised.wired_limit_bytes, raised.gpu_limit_bytes) == (56 * GIB_BYTES, 56 * GIB_BYTES)


def test_the_limit_of_a_chip_of_unknown_memory_is_unknown() -> None:
    assert AppleSilicon("Apple M9").gpu_limit_bytes is None


def test_sysctl_alone_identifies_the_chip(recorded: Recorded, scripted: type) -> None:
    run = scripted(
        {
            SYSCTL_COMMAND: ToolOutput(recorded("apple/limits_default_sysctl.txt")),
            PROFILER_COMMAND: TimedOut("system_profiler", 3.0),
        }
    )
    apple, gpus, notes = probe_apple(run, 3.0)
    assert apple == AppleSilicon("Apple M4", memory_total_bytes=16 * GIB_BYTES)
    assert (gpus, notes) == ((), ("system_profiler: gave up after 3 s",))


def test_a_sysctl_that_knows_one_name_less(recorded: Recorded, scripted: type) -> None:
    partial = "hw.memsize: 17179869184\n"
    failure = Failed("sysctl", 1, partial, "sysctl: unknown oid 'iogpu.wired_limit_mb'\n")
    run = scripted({SYSCTL_COMMAND: failure, PROFILER_COMMAND: ToolOutput(recorded("apple/m1_air.json"))})
    apple, _, notes = probe_apple(run, 3.0)
    assert apple is not None
    assert apple.memory_total_bytes == 16 * GIB_BYTES
    assert notes == ()
    (_, first_limit_s), (_, second_limit_s) = run.asked
    assert second_limit_s < first_limit_s == 3.0


def test_a_mac_that_describes_nothing(scripted: type) -> None:
    run = scripted({SYSCTL_COMMAND: ToolOutput(""), PROFILER_COMMAND: ToolOutput("{}")})
    assert probe_apple(run) == (None, (), ("system_profiler: described neither an Apple chip nor a GPU",))
    run = scripted({SYSCTL_COMMAND: Missing("sysctl"), PROFILER_COMMAND: Missing("system_profiler")})
    assert probe_apple(run) == (None, (), ("sysctl: not installed", "system_profiler: not installed"))


@given(st.text(), st.dictionaries(st.sampled_from(["chip_type", "number_processors", "physical_memory"]), st.text()))
def test_no_description_breaks_the_parsers(text: str, hardware: dict[str, str]) -> None:
    described = json.dumps({"SPHardwareDataType": [hardware | {"chip_type": "Apple M1"}], "SPDisplaysDataType": text})
    assert parse_apple_silicon(described, text) is not None
    parse_apple_silicon(text, text)
    parse_mac_gpus(text)


@pytest.mark.parametrize("cores", ["proc 8", "proc a:b:c", "8:4:4", f"proc {'9' * 5000}:1:1", "", None, True, 8])
def test_core_counts_of_another_form_are_unknown(cores: object) -> None:
    text = json.dumps({"SPHardwareDataType": [{"chip_type": "Apple M1", "number_processors": cores}]})
    assert parse_apple_silicon(text) == AppleSilicon("Apple M1")
