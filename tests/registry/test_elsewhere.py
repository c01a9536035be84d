"""Where a model fits that this machine does not hold: on another node, over several, or nowhere, and what is said."""

from __future__ import annotations

import json

import pytest

from swarm.registry.catalogue import Catalogue
from swarm.registry.elsewhere import NOWHERE, OtherNode, SwarmMemory, Whereabouts, where_else
from swarm.registry.fit import Capacity, Fit
from swarm.registry.layer_sizes import LayerSizes, estimated_layers
from swarm.registry.model_memory import GIB, Load, ModelShape
from swarm.registry.pooled_fit import PoolMachine
from swarm.registry.stored import StoredModels
from swarm.registry.table import fit_rows, fit_text, row_json

LOAD = Load(8192)
SHAPE = ModelShape(20 * GIB, False, 32.8, 40_960, None, 152_000, 5120)
HERE = PoolMachine("this node", None, 12 * GIB, 30e9)


def layers() -> LayerSizes:
    return estimated_layers(SHAPE)


def never() -> LayerSizes:
    raise AssertionError("the file is not read where another node holds the model")


def lends(node: str, gib: int, *, rtt_s: float = 0.001, bytes_per_s: float | None = 30e9) -> PoolMachine:
    return PoolMachine(node, f"id-{node}", gib * GIB, bytes_per_s, rtt_s)


def test_one_machine_comes_first_the_roomiest_of_all() -> None:
    lender = OtherNode("hall", 14 * GIB, lends("hall", 14))
    memory = SwarmMemory(HERE, (OtherNode("attic", 30 * GIB), lender, OtherNode("den", 40 * GIB), OtherNode("loft")))
    found = where_else(25 * GIB, never, LOAD, memory)
    assert found == Whereabouts(on=("den", "attic"))
    assert found.words == "fits on den and attic"


def test_where_nobody_holds_it_alone_it_lies_over_those_who_lend() -> None:
    memory = SwarmMemory(HERE, (OtherNode("attic", 20 * GIB), OtherNode("hall", 18 * GIB, lends("hall", 16))))
    found = where_else(25 * GIB, layers, LOAD, memory)
    assert found.plan is not None
    assert found.plan.nodes == ("this node", "hall")
    assert found.words.startswith("only over this node + hall (about 1.")
    assert found.words.endswith(" tokens/s)")
    assert found.warnings == ("below 3 tokens/s each sentence takes a while",)


def test_only_gguf_is_put_over_several() -> None:
    memory = SwarmMemory(HERE, (OtherNode("hall", 18 * GIB, lends("hall", 16)),))
    assert where_else(25 * GIB, never, LOAD, memory, gguf=False) is NOWHERE


def test_nobody_lends_and_nothing_is_said() -> None:
    found = where_else(25 * GIB, never, LOAD, SwarmMemory(HERE, (OtherNode("attic", 20 * GIB),)))
    assert (found.words, found.refused) == ("", "")


@pytest.mark.parametrize(
    ("lender", "why"),
    [
        (lends("hall", 16, rtt_s=0.04), "hall (16.0 GiB) is 40 ms away, more than 30 ms"),
        (lends("hall", 16, bytes_per_s=5e9), "it would write about 0."),
        (lends("hall", 2), "GiB short"),
    ],
)
def test_what_nobody_would_wait_for_fits_nowhere_and_says_why(lender: PoolMachine, why: str) -> None:
    found = where_else(25 * GIB, layers, LOAD, SwarmMemory(HERE, (OtherNode("hall", 16 * GIB, lender),)))
    assert found.words == ""
    assert why in found.refused


def test_the_fit_table_says_where_each_model_fits() -> None:
    wanted = {"qwen3:32b:q4_k_m", "qwen3:30b-a3b:q4_k_m", "qwen3:14b:q4_k_m", "qwen3:4b:q4_k_m"}
    choices = [choice for choice in Catalogue.load().choices() if choice.id in wanted]
    capacity = Capacity(7 * GIB, Load(2048), bytes_per_s=28e9)
    memory = SwarmMemory(
        PoolMachine("this node", None, 7 * GIB, 28e9),
        (OtherNode("attic", 12 * GIB, lends("attic", 12, rtt_s=0.012)), OtherNode("hall", 9 * GIB, lends("hall", 8))),
    )

    def elsewhere(fit: Fit) -> Whereabouts:
        shape = fit.choice.shape
        active = (fit.choice.entry.active_params_b or shape.params_b) / shape.params_b
        return where_else(fit.need.total_bytes, lambda: estimated_layers(shape, active), capacity.load, memory)

    rows = {row.name: row for row in fit_rows(choices, capacity, StoredModels(), elsewhere)}
    here, alone, pooled, mixture = (rows[f"qwen3:{size}:q4_k_m"] for size in ("4b", "14b", "32b", "30b-a3b"))
    assert (here.where, here.on, here.over) == ("fits here", (), ())
    assert (alone.where, alone.on, alone.fits) == ("fits on attic", ("attic",), False)
    assert pooled.over == ("this node", "hall", "attic"), "the worst link last"
    assert pooled.where == f"only over this node + hall + attic (about {pooled.over_tokens_per_s} tokens/s)"
    assert (mixture.over_tokens_per_s or 0) > 3 * (pooled.over_tokens_per_s or 0), "few of its weights are read"
    text = fit_text(list(rows.values()), capacity)
    assert f"; {pooled.where}\n" in text
    assert "; fits on attic\n" in text
    assert "attic is 12 ms away: above 10 ms" in text
    assert text.count("attic is 12 ms away") == 1
    assert "is loaded by a node that was started with --pool\n" in text
    told = json.loads(json.dumps(row_json(pooled)))
    assert told["over"] == ["this node", "hall", "attic"]
    assert told["where"] == pooled.where
    assert any("12 ms" in warning for warning in told["warnings"])
