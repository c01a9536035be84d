"""Fields of llama-server's requests that OpenAI has none for: obeyed, refused, or without effect on this side.

`docs/llama-server.md` has all of them in one table, which a test holds against these, and against llama.cpp's sources.
Obeyed is what can neither end llama.cpp nor cost others anything, by engines that are llama.cpp; others have no such
samplers, and answer without. What would change the answer's words or form, and cannot be done, is refused; the rest
says how a server works, which here is the node's to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from swarm.engines.openai_dialect import as_object
from swarm.errors import BadRequest
from swarm.generation import LlamaOptions

LEAST_TYPICAL = 0.01
MOST_REMEMBERED = 65_536  # tokens to look back at: llama.cpp takes memory for as many as it is told


@dataclass(frozen=True, slots=True)
class NumberRange:
    """What a number may be; `whole` ones are counts. Below `counts_from` it says nothing, and is left out."""

    least: float
    most: float
    whole: bool = False
    counts_from: float = -math.inf


SWITCH: Final = NumberRange(0, 1, whole=True)
OBEYED: Final[Mapping[str, NumberRange]] = {
    "cache_prompt": SWITCH,
    "ignore_eos": SWITCH,
    "t_max_predict_ms": NumberRange(-1, 2**31 - 1, whole=True, counts_from=1),
    "min_keep": NumberRange(0, 1000, whole=True),
    "typical_p": NumberRange(LEAST_TYPICAL, 1),
    "top_n_sigma": NumberRange(-1, 100, counts_from=0.01),
    "xtc_probability": NumberRange(0, 1),
    "xtc_threshold": NumberRange(0, 1),
    "repeat_last_n": NumberRange(-1, MOST_REMEMBERED, whole=True, counts_from=0),
    "dry_multiplier": NumberRange(0, 10),
    "dry_base": NumberRange(1, 10),
    "dry_allowed_length": NumberRange(1, MOST_REMEMBERED, whole=True),
    "dry_penalty_last_n": NumberRange(-1, MOST_REMEMBERED, whole=True, counts_from=0),
}

REFUSED: Final[Mapping[str, str]] = {
    "lora": "a node loads no LoRA adapters: serve the merged model as one of its own, and name that",
    "n_indent": "no indentation is kept here: leave it out",
    "post_sampling_probs": "probabilities are told before sampling only (n_probs, logprobs): leave it out",
    "n_cmpl": "send n, to /v1/completions or /v1/chat/completions",
}
"""Each with what it says beyond null, false, 0, 1 and an empty list, which change nothing."""

WITHOUT_EFFECT: Final = frozenset({
    "id_slot", "n_keep", "n_discard", "n_cache_reuse", "dry_sequence_breakers", "samplers", "backend_sampling",
    "mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range", "dynatemp_exponent", "adaptive_target",
    "adaptive_decay", "timings_per_token", "return_progress", "sse_ping_interval", "verbose", "reasoning_format",
    "reasoning_control", "reasoning_budget_tokens", "reasoning_budget_start_tag", "reasoning_budget_end_tags",
    "reasoning_budget_message", "chat_format", "chat_parser", "generation_prompt", "parse_tool_calls",
    "continue_final_message", "preserved_tokens", "t_max_prompt_ms",
})  # fmt: skip


def obeyed_fields(extra: Mapping[str, object]) -> LlamaOptions:
    """What a body's `extra` fields say to llama.cpp. Raises BadRequest for a value that is none."""
    options: LlamaOptions = {}
    for name in OBEYED.keys() & extra.keys():
        value = extra[name]
        if value is None:
            continue
        number = _number(name, value, OBEYED[name])
        if number >= OBEYED[name].counts_from:
            options[name] = number
    return dict(sorted(options.items()))


def _number(name: str, value: object, allowed: NumberRange) -> float | int | bool:
    if allowed is SWITCH:
        if not isinstance(value, bool):
            raise BadRequest(f"{name} is {value!r:.60}: it must be true or false", param=name)
        return value
    kinds = int if allowed.whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "a whole number" if allowed.whole else "a number"
        raise BadRequest(f"{name} is {value!r:.60}: it must be {kind}", param=name)
    if not allowed.least <= value <= allowed.most:
        raise BadRequest(f"{name} is {value}; it may be {allowed.least:g} to {allowed.most:g}", param=name)
    return value


def refused_field(extra: Mapping[str, object]) -> tuple[str, str] | None:
    """A field that asks for what cannot be done here, and why; None where there is none."""
    for name, why in REFUSED.items():
        if _asks(name, extra.get(name)):
            return name, f"{name}: {why}"
    return None


def _asks(name: str, value: object) -> bool:
    if name == "lora" and isinstance(value, list):  # adapters of no weight change nothing
        adapters = map(as_object, cast("list[object]", value))
        return any(adapter.get("scale") != 0 for adapter in adapters)
    return value not in (None, False, 0, 1 if name == "n_cmpl" else 0)
