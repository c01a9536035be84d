"""rocm-smi: recorded answers of old and new releases, cards and processors with a GPU."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.amd import QUERY_COMMAND, parse_rocm, probe_amd
from hardware.command import Failed, Missing, TimedOut, ToolOutput
from hardware.snapshot import Gpu

Recorded = Callable[[str], str]
CARD_BYTES = 12868124672


def test_an_old_release(recorded: Recorded) -> None:
    [gpu] = parse_rocm(recorded("amd/rocm_4_3_rx6700xt.json"))
    assert gpu == Gpu(
        vendor="amd",
        name="AMD GPU (0x73df)",  # it prints a number where the name belongs
        index=0,
        memory_total_bytes=CARD_BYTES,
        memory_free_bytes=CARD_BYTES - 1622728704,
        driver_version="6.3.6",
    )


def test_the_same_card_in_a_newer_release(recorded: Recorded) -> None:
    [gpu] = parse_rocm(recorded("amd/rocm_6_1_rx6700xt.json"))
    assert gpu.name == "Navi 22 [Radeon RX 6700/6700 XT / 6800M]"
    assert (gpu.architecture, gpu.integrated) == ("gfx1031", False)
    assert gpu.memory_free_bytes == CARD_BYTES - 1572745216


def test_lower_case_keys_and_several_cards(recorded: Recorded) -> None:
    gpus = parse_rocm(recorded("amd/rocm_6_0_four_mi100.json"))
    assert [gpu.index for gpu in gpus] == [0, 1, 2, 3]
    assert {gpu.name for gpu in gpus} == {"Arcturus GL-XL [Instinct MI100]"}
    assert {gpu.memory_total_bytes for gpu in gpus} == {34342961152}


def test_a_processors_gpu_is_told_from_a_card(recorded: Recorded) -> None:
    card, apu = parse_rocm(recorded("amd/rocm_6_4_card_and_apu.json"))
    assert (card.integrated, apu.integrated) == (False, True)
    assert (apu.name, apu.memory_total_bytes) == ("Raphael", 64 * 1024**2)


def test_a_large_apu_whose_name_is_unknown(recorded: Recorded) -> None:
    [gpu] = parse_rocm(recorded("amd/rocm_7_strix_halo.json"))
    assert (gpu.name, gpu.integrated, gpu.memory_total_bytes) == ("AMD GPU (gfx1151)", True, 48 * 1024**3)


def test_a_warning_before_the_json(recorded: Recorded) -> None:
    [gpu] = parse_rocm(recorded("amd/rocm_7_low_power.json"))
    assert (gpu.name, gpu.driver_version) == ("Radeon RX 7900 XT", None)


def test_cards_are_ordered_by_number_not_by_name() -> None:
    text = json.dumps({f"card{index}": {} for index in (10, 2, 0)})
    assert [gpu.index for gpu in parse_rocm(text)] == [0, 2, 10]


def test_every_field_may_be_missing() -> None:
    assert parse_rocm('{"card0": {}}') == (Gpu(vendor="amd", name="AMD GPU", index=0),)
    [gpu] = parse_rocm('{"card0": {"VRAM Total Memory (B)": "N/A", "VRAM Total Used Memory (B)": "5"}}')
    assert (gpu.memory_total_bytes, gpu.memory_free_bytes) == (None, None)


def test_without_an_architecture_a_tiny_memory_is_a_processors() -> None:
    [gpu] = parse_rocm('{"card0": {"VRAM Total Memory (B)": "536870912"}}')
    assert gpu.integrated is True


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"card0": 1, "cardx": {}, "system": []}', "{" * 100_000])
def test_no_card_in_it(text: str) -> None:
    assert parse_rocm(text) == ()


def test_deeply_nested_json_is_refused() -> None:
    assert parse_rocm('{"card0":' * 100_000) == ()


def test_no_gpu_and_why(recorded: Recorded, scripted: type) -> None:
    said = recorded("amd/no_gpu.txt")
    assert probe_amd(scripted({QUERY_COMMAND: ToolOutput(said)})) == (
        (),
        ("rocm-smi: reported no GPU: WARNING: No AMD GPUs specified WARNING: No JSON data to report",),
    )
    assert probe_amd(scripted({QUERY_COMMAND: ToolOutput("")})) == ((), ("rocm-smi: reported no GPU",))


def test_failures_are_explained(recorded: Recorded, scripted: type) -> None:
    failure = Failed("rocm-smi", 1, "", recorded("amd/driver_not_loaded.txt"))
    gpus, [note] = probe_amd(scripted({QUERY_COMMAND: failure}))
    assert gpus == ()
    assert note.endswith("ERROR:root:Driver not initialized (amdgpu not found in modules)")
    assert probe_amd(scripted({QUERY_COMMAND: Missing("rocm-smi")}))[1] == ("rocm-smi: not installed",)
    assert probe_amd(scripted({QUERY_COMMAND: TimedOut("rocm-smi", 3.0)}))[1] == ("rocm-smi: gave up after 3 s",)


def test_a_failure_after_the_answer_keeps_the_answer(recorded: Recorded, scripted: type) -> None:
    failure = Failed("rocm-smi", 2, recorded("amd/rocm_6_1_rx6700xt.json"), "one sensor did not answer")
    gpus, [note] = probe_amd(scripted({QUERY_COMMAND: failure}))
    assert len(gpus) == 1
    assert "one sensor" in note


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["VRAM Total Memory (B)", "VRAM Total Used Memory (B)", "Card Series", "GFX Version", "GPU ID"])


@given(st.text(), st.dictionaries(keys, json_values), json_values)
def test_no_answer_breaks_the_parser(text: str, card: dict[str, object], system: object) -> None:
    parse_rocm(text)
    [gpu] = parse_rocm(text.replace("{", "") + json.dumps({"card0": card, "system": system}))
    assert gpu.memory_free_bytes is None or gpu.memory_free_bytes >= 0
