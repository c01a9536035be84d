"""The memory formula against worked examples and published sizes; the picker against what it promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import SetupError
from swarm.registry.catalogue import Catalogue, CatalogueChoice, CatalogueEntry, Variant
from swarm.registry.fit import LEAST_TOKENS_PER_S, Capacity, best_first, explain_misfit, judge, offers, pick, ranked
from swarm.registry.model_memory import (
    GIB,
    MIB,
    MIN_CONTEXT_TOKENS,
    RESERVE_BYTES,
    AskedLoad,
    CacheShape,
    CacheType,
    LayerGroup,
    Load,
    MemoryNeed,
    ModelShape,
    memory_needed,
    size_text,
    small_cache_tokens,
)

CATALOGUE = Catalogue.load()
CHOICES = {choice.id: choice for choice in CATALOGUE.choices()}
GENERAL = CATALOGUE.choices(roles=["general"], formats=["gguf"])

# Bytes in GB (1e9) of files that their publishers list; the catalogue's estimates must not be below them.
PUBLISHED_GB = {
    "qwen2.5-coder:0.5b:q4_k_m": 0.491, "qwen2.5-coder:0.5b:q8_0": 0.676, "qwen3:8b:q4_k_m": 5.03,
    "qwen3:14b:q4_k_m": 9.00, "qwen3:32b:q4_k_m": 19.76, "qwen3:30b-a3b:q4_k_m": 18.56, "qwen3.5:4b:q4_k_m": 2.74,
    "qwen3.5:9b:q4_k_m": 5.68, "qwen3.5:27b:q4_k_m": 16.74, "qwen3.5:35b-a3b:q4_k_m": 22.02,
    "llama3.2:1b:q4_k_m": 0.808, "llama3.2:3b:q4_k_m": 2.02, "llama3.1:8b:q4_k_m": 4.92, "llama3.1:8b:q8_0": 8.54,
    "llama3.3:70b:q4_k_m": 42.52, "gemma3:1b:q4_k_m": 0.806, "gemma3:12b:q4_k_m": 7.30, "gemma3:27b:q4_k_m": 16.55,
    "gemma4:e4b:q4_k_m": 4.98, "gemma4:31b:q4_k_m": 18.32, "gpt-oss:20b:mxfp4": 12.11, "gpt-oss:120b:mxfp4": 63.39,
    "glm-4.7-flash:30b-a3b:q4_k_m": 18.31,
}  # fmt: skip


def shape(*groups: LayerGroup, state_bytes_per_slot: int = 0, weights_bytes: int = 0) -> ModelShape:
    return ModelShape(
        weights_bytes=weights_bytes,
        weights_exact=True,
        params_b=8.0,
        context_tokens=None,
        cache=CacheShape(groups, state_bytes_per_slot),
        vocab_size=128_256,
        embedding_length=4096,
    )


LLAMA_8B = shape(LayerGroup(32, 8, 128, 128))


def test_the_cache_of_a_well_known_model() -> None:
    """llama.cpp prints `KV buffer size = 1024.00 MiB` for Llama 3.1 8B at 8192 tokens in f16."""
    assert memory_needed(LLAMA_8B, Load(8192)).kv_bytes == GIB


@pytest.mark.parametrize(
    ("load", "factor"),
    [
        (Load(8192, slots=4), 4.0),
        (Load(8192, cache_type="f32"), 2.0),
        (Load(8192, cache_type="q8_0"), 34 / 64),
        (Load(8192, cache_type="q4_0"), 18 / 64),
        (Load(7937), 1.0),  # cells are rounded up to 256
        (Load(4096), 0.5),
    ],
)
def test_the_cache_scales_with_slots_context_and_type(load: Load, factor: float) -> None:
    assert memory_needed(LLAMA_8B, load).kv_bytes == GIB * factor


def test_keys_and_values_may_differ_in_length() -> None:
    latent = shape(LayerGroup(47, 1, 576, 512))
    assert memory_needed(latent, Load(1024)).kv_bytes == 47 * (576 + 512) * 2 * 1024


def test_windowed_layers_stop_growing() -> None:
    windowed = shape(LayerGroup(2, 1, 64, 64, window_tokens=1024))
    per_cell = 2 * (64 + 64) * 2
    assert memory_needed(windowed, Load(512)).kv_bytes == 512 * per_cell
    assert memory_needed(windowed, Load(32_768)).kv_bytes == (1024 + 512) * per_cell
    assert memory_needed(windowed, Load(32_768, slots=3)).kv_bytes == (3 * 1024 + 512) * per_cell


def test_recurrent_state_is_per_slot_not_per_token() -> None:
    recurrent = shape(state_bytes_per_slot=1000)
    assert memory_needed(recurrent, Load(512, slots=3)).kv_bytes == 3000
    assert memory_needed(recurrent, Load(65_536, slots=3)).kv_bytes == 3000


def test_the_parts_add_up() -> None:
    need = memory_needed(replace(LLAMA_8B, weights_bytes=5 * GIB), Load(8192))
    logits_bytes = 512 * 128_256 * 4
    assert logits_bytes < need.compute_bytes < 2 * logits_bytes
    assert need.reserve_bytes == RESERVE_BYTES
    assert need.total_bytes == 6 * GIB + need.compute_bytes + RESERVE_BYTES
    assert not need.estimated


@pytest.mark.parametrize("name", PUBLISHED_GB)
def test_estimated_weights_bound_published_sizes_closely(name: str) -> None:
    estimate_gb = CHOICES[name].shape.weights_bytes / 1e9
    assert 0.99 * PUBLISHED_GB[name] <= estimate_gb <= 1.27 * PUBLISHED_GB[name]


MULTI_HEAD = {"smollm2", "codellama", "deepseek-coder", "deepseek-coder-v2-lite"}  # every head of theirs caches
GROUPED = [c for c in CATALOGUE.choices(formats=["gguf"]) if c.entry.cache and c.entry.family not in MULTI_HEAD]


@pytest.mark.parametrize("choice", GROUPED, ids=lambda choice: choice.id)
def test_the_estimate_for_an_unknown_cache_is_an_upper_bound(choice: CatalogueChoice) -> None:
    real = memory_needed(choice.shape, Load(16_384)).kv_bytes
    assert memory_needed(replace(choice.shape, cache=None), Load(16_384)).kv_bytes >= real * 0.99


def test_an_unknown_cache_is_estimated_and_says_so() -> None:
    unknown = replace(LLAMA_8B, cache=None)
    need = memory_needed(unknown, Load(8192))
    assert need.estimated
    assert memory_needed(unknown, Load(8192, cache_type="q8_0")).kv_bytes == need.kv_bytes * 34 // 64
    assert memory_needed(replace(unknown, params_b=70.0), Load(8192)).kv_bytes > need.kv_bytes


@pytest.mark.parametrize(("context", "slots"), [(0, 1), (1, 0), (-5, 1)])
def test_a_load_of_nothing_is_refused(context: int, slots: int) -> None:
    with pytest.raises(SetupError, match="give 1 or more of each"):
        Load(context, slots)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 MiB"), (1, "1 MiB"), (GIB - 1, "1024 MiB"), (GIB, "1.0 GiB"), (5 * GIB // 2, "2.5 GiB")],
)
def test_sizes_read_well(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


def model(
    family: str, params_b: float, *quants: str, active_b: float | None = None, context: int = 32_768
) -> list[CatalogueChoice]:
    entry = CatalogueEntry(
        family=family,
        size="x",
        params_b=params_b,
        active_params_b=active_b,
        context_tokens=context,
        role="general",
        vocab_size=1000,
        cache=None,
        variants=tuple(
            Variant(
                quant=quant,
                format="mlx" if quant.endswith("bit") else "gguf",
                repo=f"o/{family}",
                file=None if quant.endswith("bit") else f"{family}-{quant}.gguf",
                sha256=None,
                size_bytes=None,
            )
            for quant in quants
        ),
    )
    return [CatalogueChoice(entry, variant) for variant in entry.variants]


def order(*groups: list[CatalogueChoice]) -> list[str]:
    return [choice.id for choice in ranked([choice for group in groups for choice in group], ("gguf",))]


def test_larger_is_better_then_more_bits() -> None:
    assert order(model("small", 4, "q8_0"), model("large", 8, "q4_k_m", "q8_0")) == [
        "large:x:q8_0",
        "large:x:q4_k_m",
        "small:x:q8_0",
    ]


def test_below_four_bits_loses_to_any_smaller_model_above() -> None:
    assert order(model("large", 70, "q2_k", "q3_k_l"), model("small", 1, "q4_k_m")) == [
        "small:x:q4_k_m",
        "large:x:q3_k_l",
        "large:x:q2_k",
    ]


def test_experts_count_by_the_geometric_mean() -> None:
    experts = model("experts", 30, "q4_k_m", active_b=3)
    assert order(model("eight", 8, "q4_k_m"), experts, model("twelve", 12, "q4_k_m")) == [
        "twelve:x:q4_k_m",
        "experts:x:q4_k_m",
        "eight:x:q4_k_m",
    ]


def test_equals_keep_the_order_of_the_catalogue() -> None:
    assert order(model("newer", 4, "q4_k_m"), model("older", 4, "q4_k_m")) == ["newer:x:q4_k_m", "older:x:q4_k_m"]


def test_the_preferred_format_comes_before_more_bits() -> None:
    both = model("both", 4, "q8_0", "4bit")
    assert pick(both, Capacity(64 * GIB, Load(4096), ("mlx", "gguf"))).choice.id == "both:x:4bit"
    assert pick(both, Capacity(64 * GIB, Load(4096), ("gguf", "mlx"))).choice.id == "both:x:q8_0"
    assert pick(both, Capacity(64 * GIB, Load(4096), ("mlx",))).choice.id == "both:x:4bit"


def test_the_reason_names_what_was_passed_over() -> None:
    choices = [*model("large", 70, "q4_k_m"), *model("small", 4, "q4_k_m")]
    taken = pick(choices, Capacity(8 * GIB, Load(4096)))
    assert taken.choice.id == "small:x:q4_k_m"
    assert taken.need == memory_needed(taken.choice.shape, Load(4096))
    assert taken.reason.startswith("the best that fits: needs ")
    assert " of 8.0 GiB free (the next better, large:x:q4_k_m: " in taken.reason
    assert taken.reason.endswith(" GiB short)")
    assert pick(choices, Capacity(80 * GIB, Load(4096))).reason.startswith("the best there is: needs ")


def test_a_context_that_the_model_lacks_passes_it_over() -> None:
    choices = [*model("short", 8, "q4_k_m", context=2048), *model("long", 4, "q4_k_m")]
    taken = pick(choices, Capacity(80 * GIB, Load(4096)))
    assert taken.choice.id == "long:x:q4_k_m"
    assert "short:x:q4_k_m: its context is 2048 tokens and 4096 were asked" in taken.reason


DENSE, EXPERTS, SMALL = (
    model("dense", 70, "q4_k_m"), model("experts", 30, "q4_k_m", active_b=3), model("small", 4, "q4_k_m"),
)  # fmt: skip


def test_what_would_answer_too_slowly_is_passed_over() -> None:
    taken = pick([*DENSE, *EXPERTS, *SMALL], Capacity(80 * GIB, Load(4096), bytes_per_s=20e9))
    assert taken.choice.id == "experts:x:q4_k_m"
    assert "free, about 10 tokens/s expected (the next better, dense:x:q4_k_m: too slow here, about 0.5" in taken.reason


def test_where_nothing_is_quick_the_fastest_is_taken() -> None:
    taken = pick([*DENSE, *SMALL], Capacity(80 * GIB, Load(4096), bytes_per_s=2e9))
    assert taken.choice.id == "small:x:q4_k_m"
    assert taken.reason.startswith("the fastest that fits: needs ")


def test_the_order_is_quick_slow_too_large() -> None:
    judged = best_first(
        [*DENSE, *EXPERTS, *SMALL, *model("tiny", 1, "q4_k_m")], Capacity(21 * GIB, Load(4096), bytes_per_s=8e9)
    )
    assert [(fit.choice.entry.family, fit.fits, fit.is_quick) for fit in judged] == [
        ("tiny", True, True), ("experts", True, False), ("small", True, False), ("dense", False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("id_", "rate"), [("qwen3:0.6b:q8_0", 14.8), ("qwen3:30b-a3b:q4_k_m", 4.9), ("llama3.2:1b:q4_k_m", 11.8)]
)
def test_a_token_reads_each_active_weight_once(id_: str, rate: float) -> None:
    room = Capacity(64 * GIB, Load(4096), bytes_per_s=10e9)
    assert room.tokens_per_s(CHOICES[id_]) == pytest.approx(rate, abs=0.1)
    assert replace(room, bytes_per_s=None).tokens_per_s(CHOICES[id_]) is None


@pytest.mark.parametrize("gigabytes_per_s", [2, 5, 10, 30, 100, 300, 1500])
@pytest.mark.parametrize("free_gib", [2, 4, 8, 16, 22, 64])
def test_what_is_offered_is_quick_and_goes_down_to_half_a_gigabyte(gigabytes_per_s: int, free_gib: int) -> None:
    room = Capacity(free_gib * GIB, Load(4096, slots=4), bytes_per_s=gigabytes_per_s * 1e9)
    offered = offers(GENERAL, room, 5)
    assert offered[0].choice == pick(GENERAL, room).choice
    assert all(fit.fits and (fit.tokens_per_s or 0) >= LEAST_TOKENS_PER_S for fit in offered)
    sizes = [fit.need.weights_bytes for fit in offered]
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] <= 0.6e9
    assert len(offered) <= 5


def test_real_numbers_replace_estimates() -> None:
    (choice,) = model("known", 8, "q4_k_m")
    tiny = replace(LLAMA_8B, weights_bytes=GIB)
    room = Capacity(3 * GIB, Load(4096))
    assert not judge(choice, room).fits
    verdict = judge(choice, replace(room, measured={choice.id: tiny}))
    assert verdict.fits
    assert verdict.need == memory_needed(tiny, Load(4096))


def test_nothing_fits_says_what_is_missing() -> None:
    with pytest.raises(SetupError) as caught:
        pick(GENERAL, Capacity(GIB, Load(8192, slots=4)))
    said = str(caught.value)
    assert said.startswith("no model fits; the smallest is ")
    for part in ("weights", "KV cache", "4 x 8192 tokens", "compute", "reserve", "1.0 GiB is free", "short"):
        assert part in said


def test_no_format_to_choose_from_is_an_error() -> None:
    with pytest.raises(SetupError, match="no model to choose from as mlx"):
        pick(model("only", 4, "q4_k_m"), Capacity(8 * GIB, Load(4096), ("mlx",)))


def test_a_misfit_names_a_smaller_load_and_smaller_models() -> None:
    choice = CHOICES["qwen3:14b:q4_k_m"]
    room = Capacity(12 * GIB, Load(32_768, slots=4))
    said = explain_misfit(choice.id, choice.shape, room, GENERAL)
    assert said.startswith("qwen3:14b:q4_k_m needs about ")
    assert "What would fit: the same with --context 2048 --workers 4; or " in said
    assert judge(choice, replace(room, load=Load(2048, 4))).fits
    assert not judge(choice, replace(room, load=Load(4096, 4))).fits
    for name in [part.split(" ")[0] for part in said.split("; or ")[1:]]:
        assert judge(CHOICES[name], room).fits


@pytest.mark.parametrize("cut", [Load(16_384, 4), Load(8192, 4), Load(4096, 4), Load(1024, 4), Load(2048, 1)])
def test_a_misfit_asks_for_no_more_than_needed(cut: Load) -> None:
    free_bytes = memory_needed(LLAMA_8B, cut).total_bytes
    said = explain_misfit("mine", LLAMA_8B, Capacity(free_bytes, Load(32_768, slots=4)), [])
    assert said.endswith(f"What would fit: the same with --context {cut.context_tokens} --workers {cut.slots}")


def test_a_smaller_cache_is_offered_where_it_is_enough() -> None:
    load = Load(16_384, 2)
    whole, small = (memory_needed(LLAMA_8B, replace(load, cache_type=kind)).total_bytes for kind in ("f16", "q8_0"))
    choice = CHOICES["qwen3:14b:q4_k_m"]
    measured = {choice.id: LLAMA_8B}
    for free_bytes, offered in ((small, True), (small - 1, False), (whole - 1, True)):
        capacity = Capacity(free_bytes, load, measured=measured)
        assert judge(choice, capacity).why.endswith('short; fits with kv_cache = "q8_0"') == offered
        said = explain_misfit("mine", LLAMA_8B, capacity, [])
        assert ('fit: the same with kv_cache = "q8_0" in [models."mine"]; or the same with' in said) == offered
    assert judge(choice, Capacity(whole, load, measured=measured)).fits


@pytest.mark.parametrize(
    ("free_gib", "given", "tokens"),
    [
        (3.5, Load(16_384), None),  # it has what is needed
        (2.5, Load(8192), 16_384),
        (1.5, Load(3072), 6144),
        (2.5, Load(8192, cache_type="q8_0"), None),  # it has that cache already
        (None, Load(8192), None),  # nobody knows how much is free
    ],
)
def test_what_a_smaller_cache_buys(free_gib: float | None, given: Load, tokens: int | None) -> None:
    free_bytes = None if free_gib is None else int(free_gib * GIB)
    if free_bytes is not None and given.cache_type == "f16":
        assert AskedLoad(slots=1).largest(LLAMA_8B, free_bytes, memory_needed) == given
    assert small_cache_tokens(LLAMA_8B, given, free_bytes, memory_needed) == tokens


def test_a_misfit_of_a_file_outside_the_catalogue_is_explained_too() -> None:
    said = explain_misfit("mine", replace(LLAMA_8B, weights_bytes=40 * GIB), Capacity(4 * GIB, Load(4096)), GENERAL)
    assert said.startswith("mine needs ")
    assert "about" not in said.partition("What would fit")[0]
    assert "the same with" not in said


def test_a_context_beyond_the_model_is_explained() -> None:
    choice = CHOICES["smollm2:1.7b:q4_k_m"]
    said = explain_misfit(choice.id, choice.shape, Capacity(64 * GIB, Load(32_768)), GENERAL)
    assert said == (
        "smollm2:1.7b:q4_k_m has a context of 8192 tokens and 32768 were asked: give --context 8192 or less"
    )


loads = st.builds(
    Load, st.integers(1, 131_072), st.integers(1, 16), st.sampled_from(["f16", "q8_0", "q4_0"])
)  # fmt: skip


@given(st.integers(0, 200 * GIB), loads)
def test_what_is_picked_fits_and_nothing_better_does(free_bytes: int, load: Load) -> None:
    room = Capacity(free_bytes, load)
    try:
        taken = pick(GENERAL, room)
    except SetupError:
        assert not any(judge(choice, room).fits for choice in GENERAL)
        return
    assert taken.need.total_bytes <= free_bytes
    assert taken.choice.entry.context_tokens >= load.context_tokens
    better = ranked(GENERAL, room.formats)
    assert not any(judge(choice, room).fits for choice in better[: better.index(taken.choice)])


@given(st.sampled_from(GENERAL), loads)
def test_more_to_carry_never_needs_less(choice: CatalogueChoice, load: Load) -> None:
    need = memory_needed(choice.shape, load).total_bytes
    assert memory_needed(choice.shape, replace(load, slots=load.slots + 1)).total_bytes >= need
    assert memory_needed(choice.shape, replace(load, context_tokens=load.context_tokens + 256)).total_bytes >= need


def test_cheaper_cache_types_cost_less() -> None:
    types: list[CacheType] = ["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
    costs = [memory_needed(LLAMA_8B, Load(8192, cache_type=cache_type)).kv_bytes for cache_type in types]
    assert all(more > less for more, less in pairwise(costs))


# What a node takes on where nobody said: a conversation as long as fits, before many workers.


def plain(shape: ModelShape, load: Load) -> MemoryNeed:
    """100 MiB, and a MiB for each 1,024 tokens of each worker."""
    return MemoryNeed(100 * MIB, load.context_tokens * load.slots * 1024, 0, 0, estimated=False)


@pytest.mark.parametrize(
    ("free_mib", "trained", "asked", "load"),
    [
        (10_000, 131_072, AskedLoad(), Load(32_768, 4)),
        (10_000, 8192, AskedLoad(), Load(8192, 4)),  # all that it has
        (10_000, None, AskedLoad(), Load(32_768, 4)),
        (10_000, 700, AskedLoad(), Load(700, 4)),
        (450, 131_072, AskedLoad(), Load(32_768, 3)),  # a third one leaves half of the memory free, a fourth does not
        (190, 131_072, AskedLoad(), Load(32_768, 2)),
        (150, 131_072, AskedLoad(), Load(32_768, 1)),  # the conversation comes before a second worker
        (140, 131_072, AskedLoad(), Load(24_576, 1)),
        (105, 131_072, AskedLoad(), Load(4096, 1)),  # all of the memory only where a tenth of it is too much
        (101, 131_072, AskedLoad(), Load(MIN_CONTEXT_TOKENS, 1)),
        (100, 131_072, AskedLoad(), None),
        (150, 131_072, AskedLoad(slots=4), Load(8192, 4)),
        (10_000, 131_072, AskedLoad(context_tokens=65_536), Load(65_536, 4)),
        (160, 131_072, AskedLoad(context_tokens=50_000), Load(50_000, 1)),
        (140, 131_072, AskedLoad(context_tokens=50_000), None),  # never less than was asked
        (10_000, 8192, AskedLoad(context_tokens=9000), None),
        (10_000, 131_072, AskedLoad(2048, 7), Load(2048, 7)),
        (None, 131_072, AskedLoad(), Load(8192, 2)),
        (None, 2048, AskedLoad(slots=1), Load(2048, 1)),
        (None, 2048, AskedLoad(4096), None),
    ],
)
def test_the_largest_load_that_fits(free_mib: int | None, trained: int | None, asked: AskedLoad, load: Load) -> None:
    free_bytes = None if free_mib is None else free_mib * MIB
    assert asked.largest(replace(LLAMA_8B, context_tokens=trained), free_bytes, plain) == load


def test_a_model_that_is_chosen_has_room_for_one_long_conversation_or_all_that_it_has() -> None:
    small = replace(LLAMA_8B, context_tokens=8192)
    assert AskedLoad().judged.carried_by(LLAMA_8B).context_tokens == 16_384
    assert AskedLoad().judged.carried_by(small).context_tokens == 8192
    assert AskedLoad(context_tokens=9000).judged.carried_by(small).context_tokens == 9000, "as asked, and refused"
