"""Over which machines a model is put that is too large for one, and how fast it will be there. Pure.

The host serves, and lends itself its memory first; the fewest lenders that hold the rest are added, those with the best
links first, so that the slowest link carries the least. llama.cpp computes a token in one machine after the other: with
`--gpu-layers G` the first `layers + 1 - G` layers are the host's, the others its devices' in the order of
`--tensor-split`, the output last (src/llama-model.cpp, `load_tensors`). So

    time of a token = sum over machines (bytes read / memory speed)
                    + sum over lenders (round trips + link time of what passes + overhead of a graph)

What others tell of their speed decides which words are said, and which plan is refused as too slow; never how much is
put where. The constants are measured: `benchmarks/pooled_forecast.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from swarm.errors import PooledMisfit
from swarm.registry.fit import TOKEN_OVERHEAD_S, rate_text
from swarm.registry.layer_sizes import LayerSizes
from swarm.registry.model_memory import (
    CONTEXT_STEPS,
    FLOAT32_BYTES,
    JUDGED_CONTEXT_TOKENS,
    MIB,
    RESERVE_BYTES,
    UBATCH_TOKENS,
    AskedLoad,
    Load,
    size_text,
)

MOST_LENDERS: Final = (
    14  # llama.cpp schedules 16 backends (GGML_SCHED_MAX_BACKENDS): the host's processor and a GPU too
)
LENDER_RESERVE_BYTES: Final = 48 * MIB  # of ggml-rpc-server beside its buffers, which are counted apart

SLOW_TOKENS_PER_S: Final = 3.0  # below it a person waits for each sentence: said
LEAST_TOKENS_PER_S: Final = 1.0  # below it nobody waits for an answer: refused, unless each lender is named
SLOW_RTT_S: Final = 0.010  # above it a lender costs more than its memory gives for small models: said
MOST_RTT_S: Final = 0.030  # above it (a busy Wi-Fi, another town) a lender is taken only by its name

UNKNOWN_RTT_S: Final = 0.001  # of a peer that was never measured: a LAN's

TRIPS_PER_TOKEN: Final = 1.0  # round trips to a lender for one graph
GRAPH_OVERHEAD_S: Final = 0.0004  # of a graph call on a lender, beside its round trips


@dataclass(frozen=True, slots=True)
class PoolMachine:
    """A machine that may hold layers. `node_id` is None for the host; `rtt_s` and `link_bytes_per_s` are from it.

    `bytes_per_s` of weights are read there, as it says itself. `named`: the user named it, and takes what comes of it.
    """

    node: str
    node_id: str | None
    free_bytes: int
    bytes_per_s: float | None
    rtt_s: float = 0.0
    link_bytes_per_s: float | None = None
    named: bool = False


@dataclass(frozen=True, slots=True)
class PooledShare:
    """What one machine holds: `layers` in a row, the output counted as the last, and the memory they take in bytes."""

    node: str
    node_id: str | None
    layers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PooledPlan:
    """A model over its machines, the host's share first. Rates are expected; None where a machine's is unknown.

    That of a prompt is a careful guess: a token of it takes a single core about as long as one that is written, beside
    what the links cost once a batch; several cores, or a graphics card, read prompts much faster.
    """

    shares: tuple[PooledShare, ...]
    tokens_per_s: float | None
    prefill_tokens_per_s: float | None
    warnings: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(share.node for share in self.shares)

    @property
    def gpu_layers(self) -> int:
        """llama.cpp's `--gpu-layers`: those that are not the host's."""
        return sum(share.layers for share in self.shares[1:])

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """llama.cpp's `--tensor-split`: layers of each lender, in the order of its `--rpc`."""
        return tuple(share.layers for share in self.shares[1:])

    @property
    def over(self) -> str:
        """`A + B (about 4 tokens/s)`, the host first."""
        rate = "" if self.tokens_per_s is None else f" (about {rate_text(self.tokens_per_s)} tokens/s)"
        return " + ".join(self.nodes) + rate


def pooled_plan(layers: LayerSizes, load: Load, machines: Sequence[PoolMachine]) -> PooledPlan:
    """How the model lies over `machines`, of which the first is the host; on it alone where it holds all.

    Raises PooledMisfit, with the numbers and the remedy, where they do not hold it, and where what holds it is too far
    away or too slow to be taken unasked.
    """
    host, lenders = machines[0], list(machines[1:])
    near = sorted((one for one in lenders if one.named or one.rtt_s <= MOST_RTT_S), key=_link_rank)
    far = [one for one in lenders if one not in near]
    model = _WeighedLayers(layers, load)
    if model.fits(0, layers.layers, host):
        return _described(model, [host], [layers.layers])
    if not model.fits(0, 1, host):
        short = model.bytes(0, 1, host) - host.free_bytes
        raise PooledMisfit(
            f"{host.node} serves the model and holds its embeddings and a layer: {size_text(model.bytes(0, 1, host))}, "
            f"of which {size_text(host.free_bytes)} is free, {size_text(short)} short; free some memory there, or ask "
            "another node to serve it"
        )
    for count in range(1, min(len(near), MOST_LENDERS, layers.layers - 1) + 1):
        if (found := _held_by(model, host, near, count)) is not None:
            plan = _described(model, [host, *(lender for lender, _ in found[1])], [found[0], *(n for _, n in found[1])])
            _refuse_slow(plan, [lender for lender, _ in found[1]])
            return plan
    raise PooledMisfit(_misfit(model, host, near, far))


def pooled_load(layers: LayerSizes, asked: AskedLoad, machines: Sequence[PoolMachine]) -> tuple[Load, PooledPlan]:
    """What a pooled model carries, and how it lies: what was asked, else one long conversation, shorter where it must.

    Raises as `pooled_plan` does, for the least load.
    """
    trained = layers.shape.context_tokens or JUDGED_CONTEXT_TOKENS
    most = min(JUDGED_CONTEXT_TOKENS, trained)
    steps = [most, *(step for step in CONTEXT_STEPS if step < most)] if asked.context_tokens is None else []
    slots = asked.slots or 1
    for context_tokens in steps[:-1]:
        load = Load(context_tokens, slots)
        try:
            return load, pooled_plan(layers, load, machines)
        except PooledMisfit:
            continue
    load = Load(asked.context_tokens or steps[-1], slots)
    return load, pooled_plan(layers, load, machines)


def laid_out(layers: LayerSizes, load: Load, machines: Sequence[PoolMachine], counts: Sequence[int]) -> PooledPlan:
    """The plan that puts `counts` layers on each of `machines`, the host first, whether they have room or not."""
    return _described(_WeighedLayers(layers, load), machines, counts)


class _WeighedLayers:
    """The layers under a load, with what any run of them takes; sums are made once."""

    def __init__(self, layers: LayerSizes, load: Load) -> None:
        self.layers = layers
        self.load = load
        blocks = range(len(layers.blocks))
        units = [*layers.blocks, layers.output]
        self._weights = [0, *accumulate(unit.weights_bytes for unit in units)]
        self._read = [0, *accumulate(unit.read_bytes for unit in units)]
        self._caches = [0, *accumulate(layers.cache_bytes(block, load) for block in blocks)]
        self._caches.append(self._caches[-1])
        self._largest = [unit.largest_bytes for unit in units]
        self._compute = {output: layers.compute_bytes(load, output=output) for output in (False, True)}

    def bytes(self, first: int, end: int, machine: PoolMachine) -> int:
        """Memory that `machine` needs for the layers `first` to `end`, without `end`."""
        has_output = end == self.layers.layers
        weights = self._weights[end] - self._weights[first]
        works = self._caches[end] - self._caches[first] + self._compute[has_output]
        if machine.node_id is None:
            tied = self.layers.output.largest_bytes if has_output and self.layers.tied else 0
            return self.layers.embeddings_bytes + weights - tied + works + RESERVE_BYTES
        arriving = max(self._largest[first:end])  # ggml-rpc-server receives a whole tensor before it is put in place
        return weights + max(works, arriving) + LENDER_RESERVE_BYTES

    @property
    def weights_bytes(self) -> int:
        """Of all layers, which lie somewhere whatever the plan."""
        return self._weights[-1]

    @property
    def compute_bytes(self) -> int:
        """What every machine takes to compute, beside the layers."""
        return self._compute[False]

    def fits(self, first: int, end: int, machine: PoolMachine) -> bool:
        return self.bytes(first, end, machine) <= machine.free_bytes

    def read_bytes(self, first: int, end: int) -> int:
        return self._read[end] - self._read[first]

    def most(self, first: int, limit: int, machine: PoolMachine) -> int:
        """How many layers from `first` the machine holds, at most up to `limit`; 0 where not even one."""
        low, high = 0, limit - first
        while low < high:  # more layers never take less
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(first, first + middle, machine) else (low, middle - 1)
        return low


def _link_rank(machine: PoolMachine) -> tuple[float, float, float, int, str]:
    """The better links first, in steps of two, since no measure of one is exact; then faster and larger machines."""
    bandwidth = machine.link_bytes_per_s
    return (
        round(math.log2(max(machine.rtt_s, 0.0005))),
        -math.inf if bandwidth is None else -round(math.log2(max(bandwidth, 1.0))),
        -(machine.bytes_per_s or 0.0),
        -machine.free_bytes,
        machine.node,
    )


def _held_by(
    model: _WeighedLayers, host: PoolMachine, near: Sequence[PoolMachine], count: int
) -> tuple[int, list[tuple[PoolMachine, int]]] | None:
    """Layers of the host, and of each of `count` lenders; None where no such number of them holds the model.

    Of ever more lenders, the best links first, those with the most memory: so a bad link is used only where it must be.
    """
    most_bytes = sum(sorted((one.free_bytes for one in near), reverse=True)[:count]) + host.free_bytes
    if most_bytes < model.weights_bytes:
        return None  # plainly: with a hundred lenders there are thousands of ways, and an event loop waits meanwhile
    before: list[PoolMachine] = []
    for among in range(count, len(near) + 1):
        largest = sorted(near[:among], key=lambda one: -one.free_bytes)[:count]
        chosen = [one for one in near[:among] if one in largest]
        if chosen == before or sum(one.free_bytes for one in chosen) + host.free_bytes < model.weights_bytes:
            continue  # nothing new, or plainly too little
        before = chosen
        for last in reversed(chosen):  # the slowest link last, with what is left; the output may need another's memory
            chain = [*(one for one in chosen if one is not last), last]
            if (found := _filled(model, host, chain)) is not None:
                return found
    return None


def _filled(
    model: _WeighedLayers, host: PoolMachine, chain: Sequence[PoolMachine]
) -> tuple[int, list[tuple[PoolMachine, int]]] | None:
    """As much as each holds, one after the other, one layer at least for each and the rest for the last."""
    total = model.layers.layers
    at = first = model.most(0, total - len(chain), host)
    counts: list[int] = []
    for later, machine in zip(range(len(chain) - 1, -1, -1), chain, strict=True):
        taken = model.most(at, total - later, machine)
        if not taken or (not later and at + taken < total):
            return None
        counts.append(taken)
        at += taken
    return (first, list(zip(chain, counts, strict=True))) if first else None


def _described(model: _WeighedLayers, machines: Sequence[PoolMachine], counts: Sequence[int]) -> PooledPlan:
    ends = list(accumulate(counts))
    shares = tuple(
        PooledShare(machine.node, machine.node_id, count, model.bytes(end - count, end, machine))
        for machine, count, end in zip(machines, counts, ends, strict=True)
    )
    token_s = _pass_s(model, machines, counts, 1)
    prompt_s = _pass_s(model, machines, counts, UBATCH_TOKENS)
    tokens_per_s = None if token_s is None else 1 / token_s
    prefill = None if prompt_s is None else UBATCH_TOKENS / prompt_s
    return PooledPlan(shares, tokens_per_s, prefill, tuple(_warnings(machines[1:], tokens_per_s)))


def _pass_s(model: _WeighedLayers, machines: Sequence[PoolMachine], counts: Sequence[int], tokens: int) -> float | None:
    """Seconds that `tokens` take through all machines: one that is written, or a batch of a prompt."""
    layers, seconds, end = model.layers, TOKEN_OVERHEAD_S, 0
    for machine, count in zip(machines, counts, strict=True):
        if machine.bytes_per_s is None:
            return None
        end += count
        seconds += model.read_bytes(end - count, end) * tokens / machine.bytes_per_s
        if machine.node_id is not None:
            passing = layers.hidden * tokens + (layers.vocab if end == layers.layers else layers.hidden * tokens)
            link_s = 0.0 if machine.link_bytes_per_s is None else passing * FLOAT32_BYTES / machine.link_bytes_per_s
            seconds += TRIPS_PER_TOKEN * machine.rtt_s + GRAPH_OVERHEAD_S + link_s
    return seconds


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _warnings(lenders: Iterable[PoolMachine], tokens_per_s: float | None) -> Iterable[str]:
    if tokens_per_s is not None and tokens_per_s < SLOW_TOKENS_PER_S:
        yield f"below {SLOW_TOKENS_PER_S:.0f} tokens/s each sentence takes a while"
    for lender in lenders:
        if lender.rtt_s > SLOW_RTT_S:
            yield (
                f"{lender.node} is {_ms(lender.rtt_s)} away: above {_ms(SLOW_RTT_S)} the link costs much of the speed; "
                "a cable is faster than Wi-Fi"
            )


def too_far(machines: Sequence[PoolMachine]) -> tuple[str, ...]:
    """Of those lenders among `machines` that are too far away to be taken unasked, how far, and what has them taken."""
    return tuple(_too_far(one for one in machines[1:] if not one.named and one.rtt_s > MOST_RTT_S))


def _too_far(lenders: Iterable[PoolMachine]) -> Iterable[str]:
    for one in lenders:
        yield (
            f"{one.node} ({size_text(one.free_bytes)}) is {_ms(one.rtt_s)} away, more than {_ms(MOST_RTT_S)}: "
            f"pool = {json.dumps([one.node])} in the configuration takes it anyway"
        )


def _refuse_slow(plan: PooledPlan, lenders: Sequence[PoolMachine]) -> None:
    rate = plan.tokens_per_s
    if rate is not None and rate < LEAST_TOKENS_PER_S and not all(lender.named for lender in lenders):
        raise PooledMisfit(
            f"over {' + '.join(plan.nodes)} it would write about {rate:.2g} tokens/s, less than "
            f"{LEAST_TOKENS_PER_S:.0f}: take a smaller model or a smaller quantization of it; pool = "
            f"{json.dumps([lender.node for lender in lenders])} in the configuration has it anyway"
        )


def _misfit(model: _WeighedLayers, host: PoolMachine, near: Sequence[PoolMachine], far: Sequence[PoolMachine]) -> str:
    """Why the machines do not hold the model, with each one's memory, and what would help."""
    total = model.layers.layers
    need = model.bytes(0, total, host)
    free = [f"{one.node} {size_text(one.free_bytes)}" for one in (host, *near)]
    each = model.compute_bytes + LENDER_RESERVE_BYTES
    held = host.free_bytes + sum(max(0, one.free_bytes - each) for one in near)
    short = f": {size_text(need - held)} short" if held < need else ": its layers do not fit into these pieces"
    away = "".join(f"; {words}" for words in _too_far(far))
    lend = "" if near or far else "; no node lends memory: start others with --lend"
    return (
        f"it needs {size_text(need)}, {size_text(each)} more on each lender, and free are {', '.join(free)}"
        f"{short}{away}{lend}. A smaller model or "
        "quantization, a shorter --context, or more lent memory would help"
    )
