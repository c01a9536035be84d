"""Models whose next tokens are guessed: which model guesses, and how many answers are written at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from hardware.snapshot import Cpu, HardwareSnapshot, Memory
from swarm.engines.engine import EngineSpec
from swarm.node.engines import NodeEngines
from swarm.node.model_choice import model_store
from swarm.node.model_settings import ModelSettings
from swarm.node.models import NodeModels, draft_among
from swarm.node.settings import Settings
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import GgufFacts, read_model, why_no_draft
from swarm.registry.stored import StoredModel
from tests.doubles.tiny_models import write_named_model

SNAPSHOT = HardwareSnapshot(Cpu(usable_cores=2), Memory(total_bytes=16 << 30, free_bytes=8 << 30))


@pytest.fixture(scope="module")
def facts() -> GgufFacts:
    return read_model(embedded_model_path("demo")).facts


@pytest.mark.parametrize(
    ("unlike", "words"),
    [
        ({}, None),
        ({"vocab_size": 100_000}, "it has 100000 tokens, not"),
        ({"vocab_size": None}, None),
        ({"tokenizer": "bert"}, "its tokens are of another kind (bert, not gpt2)"),
        ({"pooling_type": 1}, "it takes two models that write text"),
    ],
)
def test_a_model_of_other_tokens_cannot_guess(facts: GgufFacts, unlike: dict[str, object], words: str | None) -> None:
    draft = replace(facts, parts=(Path("other.gguf"),), **unlike)  # type: ignore[arg-type]  # fields by name
    why = why_no_draft(facts, draft)
    assert why is None if words is None else why is not None and words in why


def test_which_model_guesses_is_found_by_its_name_or_said_not_to_be_there(facts: GgufFacts) -> None:
    def stored(id_: str, path: str) -> StoredModel:
        return StoredModel(
            id_, Path(path), "gguf", 1, "own", id_, None, replace(facts, parts=(Path(path),)), in_catalogue=False
        )

    models = {model.id: model for model in (stored("big:4b", "big.gguf"), stored("small:q8", "small.gguf"))}
    big = models["big:4b"].facts
    assert big is not None
    assert draft_among(models, big, "small") == models["small:q8"]
    assert draft_among(models, big, "big:4b") == "big:4b: it is the model itself"
    assert draft_among(models, big, "tiny") == "'tiny' is not on this disk: `swarm models pull tiny` fetches it"
    models["smaller"] = stored("smaller", "smaller.gguf")
    assert "small:q8 or smaller" in str(draft_among(models, big, "smal"))


async def spec_of(settings: Settings, model_id: str, monkeypatch: pytest.MonkeyPatch) -> EngineSpec:
    """What the engine is asked to load on a machine with so many workers."""
    made: list[EngineSpec] = []

    async def load(self: object, spec: EngineSpec, isolation: object) -> None:
        made.append(spec)
        raise AssertionError("it is not loaded")

    monkeypatch.setattr("swarm.engines.registry.EngineEntry.load", load)
    store = await asyncio.to_thread(model_store, settings)
    await asyncio.to_thread(store.look)
    models = await asyncio.to_thread(NodeModels, store, settings, NodeEngines.look(settings, SNAPSHOT))
    loadable = models.find(model_id)
    assert loadable is not None
    with pytest.raises(AssertionError, match="it is not loaded"):
        await loadable.load(loadable.usual)
    return made[0]


@pytest.mark.parametrize(
    ("decided", "slots", "ngram", "draft", "said"),
    [
        (ModelSettings(), 4, False, None, ""),
        (ModelSettings(speculate=True), 1, True, None, ""),
        (ModelSettings(speculate=True, slots=3), 3, True, None, ""),
        (ModelSettings(draft="small"), 1, False, "small.gguf", ""),
        (ModelSettings(draft="none"), 1, False, None, "big: nobody guesses its next tokens: its draft 'none' is not"),
        (ModelSettings(speculate=True, engine="echo"), 4, False, None, "no tokens are guessed: the engine echo cannot"),
    ],
)
async def test_one_answer_at_a_time_is_guessed(
    decided: ModelSettings,
    slots: int,
    ngram: bool,
    draft: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("big", "small"):
        write_named_model(tmp_path / f"{name}.gguf")
    settings = Settings(
        data_dir=tmp_path / "data", models_dir=(tmp_path,), context=512, workers=4, models={"big": decided}
    )
    spec = await spec_of(settings, "big", monkeypatch)
    assert (spec.slots, spec.ngram, spec.draft and spec.draft.name) == (slots, ngram, draft)
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)
