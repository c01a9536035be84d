"""The model card: what the embedded models can do, how they were made, and their figures."""

from __future__ import annotations

from models.recipe.training_record import TrainingRecord

_CARD = """# Demo: the embedded models

`demo`, `demo:b` and `demo:c` are three tiny chat models that the project trains from scratch on text it makes itself
(`models/recipe/`). They exist so that chat, tool calls, JSON, streaming and votes run on real inference without a
download. **They are demonstrations, not assistants**: they know {facts} facts, add and subtract numbers with slips,
call tools whose values are spelled out in the request, and say "I don't know" to most other things. Outside of that,
what they say means nothing.

* Form: Qwen2 architecture, {weights} weights, Q8_0 GGUF of {size_mb:.2f} MB each; `hf/` has the main one in float16.
* Context: {context} tokens; trained on conversations of up to 768.
* Language: English.
* Tools: Hermes form (`<tool_call>`), one to four tools offered, one or two calls.
* Data: synthetic, made by the recipe; no text of others, nobody's personal data.

## Training

| model | seed | training time | steps | tokens |
|---|---|---|---|---|
{records}

On {machine}. Rebuild: `python -m models.recipe.build --minutes {minutes:.0f}`.

## Figures of `demo`

Measured by `models/recipe/evaluation.py` through llama.cpp, as the product runs it, on items that were held out: other
phrasings of facts; tools, values and problems that no training text has. Samples are drawn at temperature 0.8 from
the whole distribution (`top_p` 1, no `top_k` or `min_p`), whose logits the export makes flatter by a tenth.

{figures}
## Limits

A vote repairs slips, not ignorance: it helps on arithmetic because wrong answers scatter, and it cannot help where the
model was never taught. {note}
"""


def model_card(
    figures: str, records: list[TrainingRecord], facts: int, size_bytes: int, context: int, machine: str, note: str = ""
) -> str:
    """The card as Markdown; `figures` are the report's tables."""
    rows = "\n".join(
        f"| {record.name} | {record.seed} | {record.seconds / 60:.0f} min | {record.steps:,} | {record.tokens:,} |"
        for record in records
    )
    return _CARD.format(
        facts=facts,
        weights=f"{records[0].weights:,}",
        size_mb=size_bytes / 1e6,
        context=context,
        records=rows,
        minutes=max(record.seconds for record in records) / 60,
        machine=machine,
        figures=figures,
        note=note,
    )
