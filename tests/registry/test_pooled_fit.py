"""Which machines hold which layers of a model that one does not hold, and what is said where none do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from swarm.errors import PooledMisfit
from swarm.registry.layer_sizes import BlockSizes, LayerSizes, estimated_layers
from swarm.registry.model_memory import GIB, MIB, AskedLoad, CachedLayer, LayerGroup, Load, ModelShape
from swarm.registry.pooled_fit import (
    LEAST_TOKENS_PER_S,
    MOST_RTT_S,
    SLOW_RTT_S,
    PooledPlan,
    PoolMachine,
    pooled_load,
    pooled_plan,
)

LOAD = Load(4096)


def model(blocks: int = 32, block_bytes: int = 200 * MIB, matrix_bytes: int = 250 * MIB) -> LayerSizes:
    """About 7 GiB in 32 blocks, each with a cache of 4 KiB a token, with an output matrix of its own."""
    size = blocks * block_bytes + 2 * matrix_bytes
    shape = ModelShape(size, True, 8.0, 32_768, None, 32_000, 4096)
    block = BlockSizes(block_bytes, block_bytes, block_bytes // 4, CachedLayer(LayerGroup(1, 8, 128, 128)))
    output = BlockSizes(matrix_bytes, matrix_bytes, matrix_bytes)
    return LayerSizes(shape, (block,) * blocks, matrix_bytes, output, tied=False, widest=14_336)


def host(free_gib: float, bytes_per_s: float | None = 30e9) -> PoolMachine:
    return PoolMachine("here", None, round(free_gib * GIB), bytes_per_s)


def lender(
    node: str,
    free_gib: float,
    rtt_s: float = 0.001,
    *,
    bytes_per_s: float | None = 30e9,
    link: float | None = 100e6,
    named: bool = False,
) -> PoolMachine:
    return PoolMachine(node, f"id-{node}", round(free_gib * GIB), bytes_per_s, rtt_s, link, named)


def layers_of(plan: PooledPlan) -> dict[str, int]:
    return {share.node: share.layers for share in plan.shares}


def test_one_machine_is_enough_where_it_holds_all() -> None:
    plan = pooled_plan(model(), LOAD, [host(16), lender("a", 64)])
    assert layers_of(plan) == {"here": 33}
    assert (plan.gpu_layers, plan.tensor_split, plan.nodes) == (0, (), ("here",))


def test_the_host_is_filled_first_and_the_rest_goes_to_as_few_as_hold_it() -> None:
    plan = pooled_plan(model(), LOAD, [host(4), lender("small", 2), lender("large", 8), lender("other", 3)])
    assert plan.nodes == ("here", "large")
    here, large = plan.shares
    assert here.layers + large.layers == 33
    assert here.layers > 8  # of 4 GiB all but what it needs beside layers
    assert here.bytes <= 4 * GIB < here.bytes + 220 * MIB
    assert plan.gpu_layers == large.layers == sum(plan.tensor_split)


def test_the_worst_link_carries_the_least_and_comes_last() -> None:
    machines = [host(3), lender("wifi", 4, 0.009), lender("cable", 4, 0.0005)]
    plan = pooled_plan(model(), LOAD, machines)
    assert plan.nodes == ("here", "cable", "wifi")
    assert layers_of(plan)["wifi"] < layers_of(plan)["cable"]


def test_of_two_that_would_do_the_one_with_the_better_link_is_taken() -> None:
    machines = [host(4), lender("wifi", 32, 0.009), lender("cable", 8, 0.0005)]
    assert pooled_plan(model(), LOAD, machines).nodes == ("here", "cable")


def test_a_link_of_unknown_bandwidth_is_not_preferred_for_that() -> None:
    machines = [host(4), lender("slow", 8, link=1e6), lender("quick", 8, link=120e6)]
    assert pooled_plan(model(), LOAD, machines).nodes == ("here", "quick")


def test_the_output_lies_with_whom_has_room_for_it() -> None:
    layers = model(24, matrix_bytes=2 * GIB)
    machines = [host(5), lender("small", 2, 0.005), lender("large", 6, 0.0005)]
    plan = pooled_plan(layers, LOAD, machines)
    assert plan.nodes == ("here", "small", "large")  # though the link of the small one is the worse


def test_a_tied_output_matrix_is_a_copy_only_away_from_the_host() -> None:
    layers = replace(model(), tied=True)
    alone = pooled_plan(layers, LOAD, [host(16)]).shares[0]
    own = pooled_plan(model(), LOAD, [host(16)]).shares[0]
    assert own.bytes - alone.bytes == 250 * MIB
    tied, untied = (pooled_plan(each, LOAD, [host(4), lender("a", 8)]).shares[1] for each in (layers, model()))
    assert tied == untied


def test_of_a_mixture_only_the_chosen_experts_are_read() -> None:
    sparse = replace(model(), blocks=tuple(replace(each, read_bytes=20 * MIB) for each in model().blocks))
    machines = [host(4), lender("a", 8)]
    dense, quick = (pooled_plan(each, LOAD, machines) for each in (model(), sparse))
    assert dense.shares == quick.shares
    assert (quick.tokens_per_s or 0) > 3 * (dense.tokens_per_s or 0)


def test_no_rate_is_told_where_a_machine_tells_no_speed() -> None:
    plan = pooled_plan(model(), LOAD, [host(4), lender("a", 8, bytes_per_s=None)])
    assert (plan.tokens_per_s, plan.prefill_tokens_per_s) == (None, None)
    assert plan.over == "here + a"


def test_a_slow_plan_says_how_slow() -> None:
    plan = pooled_plan(model(), LOAD, [host(4, 10e9), lender("old", 8, bytes_per_s=8e9)])
    assert 1 < (plan.tokens_per_s or 0) < 3
    assert plan.warnings == ("below 3 tokens/s each sentence takes a while",)


def test_a_plan_that_nobody_would_wait_for_is_refused_with_its_numbers_unless_the_lender_is_named() -> None:
    machines = [host(4, 10e9), lender("old", 8, bytes_per_s=1e9)]
    with pytest.raises(
        PooledMisfit, match=r"over here \+ old it would write about 0\.\d+ tokens/s, less than 1: .*old"
    ):
        pooled_plan(model(), LOAD, machines)
    plan = pooled_plan(model(), LOAD, [machines[0], replace(machines[1], named=True)])
    assert plan.nodes == ("here", "old")
    assert (plan.tokens_per_s or 0) < LEAST_TOKENS_PER_S


@pytest.mark.parametrize("rtt_s", [SLOW_RTT_S, 0.0004, 0])
def test_a_near_lender_is_taken_without_a_word(rtt_s: float) -> None:
    assert pooled_plan(model(), LOAD, [host(4), lender("a", 8, rtt_s)]).warnings == ()


@pytest.mark.parametrize("rtt_s", [0.011, MOST_RTT_S])
def test_a_lender_beyond_ten_milliseconds_is_named_with_its_distance(rtt_s: float) -> None:
    (warning,) = pooled_plan(model(), LOAD, [host(4), lender("wifi", 8, rtt_s)]).warnings
    assert f"wifi is {rtt_s * 1000:.0f} ms away" in warning


def test_wifi_at_forty_milliseconds_is_refused_unless_it_is_named() -> None:
    machines = [host(4), lender("wifi", 8, 0.040)]
    with pytest.raises(PooledMisfit, match=r'wifi \(8\.0 GiB\) is 40 ms away, more than 30 ms: pool = \["wifi"\]'):
        pooled_plan(model(), LOAD, machines)
    plan = pooled_plan(model(), LOAD, [machines[0], replace(machines[1], named=True)])
    assert "wifi is 40 ms away" in plan.warnings[0]


def test_what_holds_nothing_says_how_much_is_missing() -> None:
    with pytest.raises(PooledMisfit, match=r"needs 8\.\d GiB, .*free are here 4\.0 GiB, a 2\.0 GiB: 2\.\d GiB short"):
        pooled_plan(model(), LOAD, [host(4), lender("a", 2)])
    with pytest.raises(PooledMisfit, match=r"no node lends memory: start others with --lend"):
        pooled_plan(model(), LOAD, [host(4)])


def test_a_host_without_room_for_its_part_says_so() -> None:
    with pytest.raises(PooledMisfit, match=r"here serves the model and holds its embeddings .* 300 MiB is free"):
        pooled_plan(model(), LOAD, [host(300 / 1024), lender("a", 64)])


def test_a_pooled_model_carries_one_long_conversation_or_as_long_a_one_as_there_is_room_for() -> None:
    load, _ = pooled_load(model(), AskedLoad(), [host(4), lender("a", 16)])
    assert (load.context_tokens, load.slots) == (16_384, 1)
    tight, plan = pooled_load(model(), AskedLoad(), [host(4), lender("a", 5)])
    assert 1024 <= tight.context_tokens < 16_384
    assert plan.nodes == ("here", "a")
    asked, _ = pooled_load(model(), AskedLoad(2048, 3), [host(4), lender("a", 16)])
    assert (asked.context_tokens, asked.slots) == (2048, 3)
    with pytest.raises(PooledMisfit):
        pooled_load(model(), AskedLoad(32_768, 4), [host(4), lender("a", 5)])


def test_a_model_that_is_not_here_is_taken_to_have_layers_alike() -> None:
    shape = ModelShape(40 * GIB, False, 70.0, 131_072, None, 128_256, 8192)
    layers = estimated_layers(shape)
    held = sum(block.weights_bytes for block in layers.blocks) + layers.embeddings_bytes + layers.output.weights_bytes
    assert 0 <= held - shape.weights_bytes < len(layers.blocks)
    plan = pooled_plan(layers, LOAD, [host(24, 90e9), lender("a", 32, bytes_per_s=90e9)])
    assert plan.nodes == ("here", "a")


# --- whatever the machines


FREE = some.floats(0.1, 12, allow_nan=False)
SPEED = some.one_of(some.none(), some.floats(1e9, 1e12))
LENDERS = some.lists(
    some.builds(
        PoolMachine,
        node=some.sampled_from("abcdefgh"),
        node_id=some.just("id"),
        free_bytes=FREE.map(lambda gib: round(gib * GIB)),
        bytes_per_s=SPEED,
        rtt_s=some.floats(0, 0.05),
        link_bytes_per_s=some.one_of(some.none(), some.floats(1e5, 1e10)),
        named=some.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.node,
)
MODELS = some.builds(model, some.integers(1, 80), some.integers(MIB, 400 * MIB), some.integers(10 * MIB, 900 * MIB))


def planned(layers: LayerSizes, machines: list[PoolMachine]) -> PooledPlan | None:
    try:
        return pooled_plan(layers, LOAD, machines)
    except PooledMisfit:
        return None


@settings(deadline=None)
@given(MODELS, FREE, SPEED, LENDERS)
def test_every_layer_has_one_place_and_no_place_is_too_small(
    layers: LayerSizes, free_gib: float, speed: float | None, lenders: list[PoolMachine]
) -> None:
    here = host(free_gib, speed)
    plan = planned(layers, [here, *lenders])
    if plan is None:
        return
    assert sum(share.layers for share in plan.shares) == layers.layers
    assert all(share.layers > 0 for share in plan.shares)
    assert plan.shares[0].node_id is None
    assert len(set(plan.nodes)) == len(plan.nodes)
    by_name = {one.node: one for one in (here, *lenders)}
    for share in plan.shares:
        assert share.bytes <= by_name[share.node].free_bytes
    weights = sum(share.bytes for share in plan.shares)
    assert weights > layers.embeddings_bytes + sum(block.weights_bytes for block in layers.blocks)
    for lender_name in plan.nodes[1:]:
        assert by_name[lender_name].named or by_name[lender_name].rtt_s <= MOST_RTT_S
    assert (plan.tokens_per_s is None) == any(by_name[name].bytes_per_s is None for name in plan.nodes)


@settings(deadline=None)
@given(MODELS, FREE, LENDERS, some.floats(0, 8))
def test_more_memory_of_the_host_never_needs_more_machines_and_is_never_slower(
    layers: LayerSizes, free_gib: float, lenders: list[PoolMachine], more_gib: float
) -> None:
    """Where the host is as fast as its lenders: else what it takes over may be slower there, and is still its own."""
    alike = [replace(one, bytes_per_s=30e9, named=True) for one in lenders]
    before = planned(layers, [host(free_gib), *alike])
    after = planned(layers, [host(free_gib + more_gib), *alike])
    if before is None:
        return
    assert after is not None
    assert len(after.shares) <= len(before.shares)
    if after.nodes == before.nodes or len(after.shares) == 1:
        assert (after.tokens_per_s or 0) >= (before.tokens_per_s or 0) * 0.999


@settings(deadline=None)
@given(MODELS, FREE, LENDERS, some.floats(0.0001, 0.02))
def test_a_worse_link_is_never_faster(
    layers: LayerSizes, free_gib: float, lenders: list[PoolMachine], later_s: float
) -> None:
    near = [replace(one, rtt_s=0.001, link_bytes_per_s=1e8, bytes_per_s=30e9, named=True) for one in lenders]
    before = planned(layers, [host(free_gib), *near])
    after = planned(layers, [host(free_gib), *(replace(one, rtt_s=0.001 + later_s) for one in near)])
    assert (before is None) == (after is None)
    if before is not None and after is not None:
        assert after.shares == before.shares
        assert (after.tokens_per_s or 0) <= (before.tokens_per_s or 0)


@settings(deadline=None)
@given(MODELS, FREE, LENDERS, some.floats(0.1, 12))
def test_one_lender_more_never_makes_a_plan_impossible_nor_larger(
    layers: LayerSizes, free_gib: float, lenders: list[PoolMachine], free_more_gib: float
) -> None:
    quick = [replace(one, bytes_per_s=1e12, named=True) for one in lenders]
    before = planned(layers, [host(free_gib, 1e12), *quick])
    after = planned(layers, [host(free_gib, 1e12), *quick, lender("more", free_more_gib, bytes_per_s=1e12)])
    if before is not None:
        assert after is not None
        assert len(after.shares) <= len(before.shares)
