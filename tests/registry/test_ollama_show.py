"""`/api/show` and the `details` of `/api/tags`: what files say, without loading them, and nothing that is made up."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from federation.advertisement import Capabilities
from swarm.errors import SetupError
from swarm.gateway.answers.model_names import NAMES
from swarm.gateway.ollama.listing import (
    capabilities,
    details_of,
    instant,
    parameters_text,
    quantization_text,
    shown,
    size_text,
    tag,
)
from swarm.gateway.openai.listing import ModelOnNodes
from swarm.registry.embedded import embedded_folder, embedded_model_path
from swarm.registry.gguf_header import read_gguf
from swarm.registry.mlx_folder import read_mlx
from swarm.registry.model_card import MAX_TEXT_BYTES, ModelCard, read_card
from swarm.routing.replicas import Replica
from swarm.workers.loadable import Loadable, LoadOption
from tests.doubles.clients import Client
from tests.doubles.running_node import RunningNode
from tests.doubles.tiny_models import write_encoder, write_named_model, write_reranker, write_templated_model
from tests.doubles.waiting import eventually
from tests.registry.test_page_pulls import node_with_a_disk

HF = embedded_folder() / "hf"
LONG = "{# " + "x" * 20_000 + " #}{{ messages }}"


@asynccontextmanager
async def node_with_models(folder: Path) -> AsyncGenerator[tuple[RunningNode, Client]]:
    """One that has a model that writes, one that embeds, and one that ranks."""
    place = folder / "models" / "owner--repo"
    place.mkdir(parents=True)
    write_named_model(place / "writer.gguf")
    write_encoder(place / "encoder.gguf")
    write_reranker(place / "ranker.gguf")
    async with node_with_a_disk(folder) as (node, client, _):
        await client.post("/api/show", {"model": "nothing"})
        await node.app[NAMES].look_again()
        yield node, client


async def show(client: Client, name: str, **more: object) -> Any:
    reply = await client.post("/api/show", {"model": name, **more})
    assert reply.status == 200, reply.text
    return reply.json


async def test_a_file_is_described_without_being_loaded(tmp_path: Path) -> None:
    async with node_with_models(tmp_path) as (node, client):
        told = await show(client, "writer:latest")
        facts = read_gguf(tmp_path / "models" / "owner--repo" / "writer.gguf")
        assert told["details"] == {
            "parent_model": "", "format": "gguf", "family": facts.architecture, "families": [facts.architecture],
            "parameter_size": size_text(facts.params), "quantization_level": (facts.quant or "?").upper(),
        }  # fmt: skip
        info = told["model_info"]
        architecture = info["general.architecture"]
        assert architecture == facts.architecture
        assert info["general.parameter_count"] == facts.params
        assert info[f"{architecture}.context_length"] == facts.context_tokens
        assert info[f"{architecture}.embedding_length"] == facts.embedding_length
        assert info[f"{architecture}.block_count"] == facts.layers
        assert info["tokenizer.ggml.tokens"] is None, "a vocabulary is too long to be shown"
        assert "tokenizer.chat_template" not in info
        assert "messages" in told["template"]
        assert told["capabilities"][:2] == ["completion", "tools"]
        assert node.pool.states() == ()


async def test_tags_have_the_same_details_and_the_files_own_time(tmp_path: Path) -> None:
    async with node_with_models(tmp_path) as (_, client):
        tags = {model["name"]: model for model in (await client.get("/api/tags")).json["models"]}
        for name in ("writer", "encoder", "ranker"):
            told = await show(client, name)
            assert tags[name]["details"] == told["details"]
            changed = (tmp_path / "models" / "owner--repo" / f"{name}.gguf").stat().st_mtime
            assert datetime.fromisoformat(tags[name]["modified_at"]).timestamp() == pytest.approx(changed, abs=1e-3)
        assert tags["encoder"]["details"]["family"] == "bert"
        swarm = tags["swarm"]["details"]
        assert (swarm["format"], swarm["parameter_size"], swarm["families"]) == ("", "", [])


async def test_a_model_that_only_embeds_says_so_and_is_loaded_by_asking_for_nothing(tmp_path: Path) -> None:
    async with node_with_models(tmp_path) as (node, client):
        assert (await show(client, "encoder"))["capabilities"] == ["embedding"]
        assert (await show(client, "ranker"))["capabilities"] == []
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/api/generate", {}), ("/api/chat", {"messages": []}),
            ("/api/embed", {"input": ""}), ("/api/embed", {"input": []}),
        ]  # fmt: skip
        for path, more in asked:
            body = {"model": "encoder", **more}
            reply = (await client.post(path, {**body, "keep_alive": 0})).json
            assert reply.get("done_reason") in ("unload", None)
            await eventually(lambda: node.pool.get("encoder") is None)
            reply = (await client.post(path, body)).json
            assert reply.get("embeddings", []) == []
            assert reply.get("done_reason") in ("load", None)
            assert node.pool.get("encoder") is not None
            assert reply["load_duration"] > 0
            again = (await client.post(path, body)).json
            assert again["load_duration"] == 0
        refused = await client.post("/api/generate", {"model": "encoder", "prompt": "a"})
        assert (refused.status, "writes no text" in refused.json["error"]) == (400, True)
        unknown = await client.post("/api/embed", {"model": "nothing", "input": ""})
        assert (unknown.status, "not found" in unknown.json["error"]) == (404, True)


async def test_what_went_meanwhile_is_shown_without_its_header(tmp_path: Path) -> None:
    async with node_with_models(tmp_path) as (_, client):
        (tmp_path / "models" / "owner--repo" / "writer.gguf").unlink()
        told = await show(client, "writer")
        assert told["template"] == ""
        assert told["details"]["format"] == "gguf"


# Cards


def test_a_card_has_the_whole_template_of_a_header(tmp_path: Path) -> None:
    write_templated_model(tmp_path / "a.gguf", LONG)
    card = read_card(read_gguf(tmp_path / "a.gguf"))
    assert card.template == LONG
    own = tmp_path / "template"
    own.write_text("{{ .Prompt }}")
    assert read_card(read_gguf(tmp_path / "a.gguf"), own).template == "{{ .Prompt }}", "as Ollama keeps it"
    with pytest.raises(SetupError, match="cannot read"):
        read_card(replace(read_gguf(tmp_path / "a.gguf"), parts=(tmp_path / "gone.gguf",)))
    (tmp_path / "b.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SetupError, match="cannot use"):
        read_card(replace(read_gguf(tmp_path / "a.gguf"), parts=(tmp_path / "b.gguf",)))


def test_an_mlx_folder_has_the_same_card_in_the_words_of_gguf(tmp_path: Path) -> None:
    card, other = read_card(read_mlx(HF).facts), read_card(read_gguf(HF.parent / "demo.gguf"))
    architecture = str(other.info["general.architecture"])
    for key in ("general.architecture", "general.parameter_count", f"{architecture}.context_length"):
        assert card.info[key] == other.info[key]
    assert card.info[f"{architecture}.embedding_length"] == other.info[f"{architecture}.embedding_length"]
    assert card.template
    folder = tmp_path / "model"
    shutil.copytree(HF, folder)
    (folder / "chat_template.jinja").write_text("own" * MAX_TEXT_BYTES)
    assert len(read_card(read_mlx(folder).facts).template) == MAX_TEXT_BYTES
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{")
    (folder / "chat_template.json").write_text("[1]")
    assert read_card(read_mlx(folder).facts).template == ""


def loadable(**known: Any) -> Loadable:
    async def load(_: LoadOption) -> Any:
        raise AssertionError

    option = LoadOption(1, 1, {"ram": 1})
    return Loadable(model_id="a", usual=option, options=lambda _: (option,), load=load, **known)


def on_nodes(stored: Loadable | None, **known: Any) -> ModelOnNodes:
    replica = Replica("id", "kitchen", "a", slots=1, slots_free=1, **known)
    return ModelOnNodes("a", (replica,), {"kitchen": "ready"}, stored=stored)


def test_the_format_is_told_truly_and_left_empty_where_nobody_knows() -> None:
    facts = read_mlx(HF).facts
    mlx = details_of(on_nodes(loadable(format="mlx", facts=replace(facts, quant="4bit"))))
    assert (mlx["format"], mlx["quantization_level"]) == ("safetensors", "4bit")
    unknown = details_of(on_nodes(None, params=3_200_000_000))
    assert unknown == {
        "parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "3.2B",
        "quantization_level": "",
    }  # fmt: skip
    assert [quantization_text(quant) for quant in (None, "q4_k_m", "bf16")] == ["", "Q4_K_M", "BF16"]


def test_what_nobody_knows_is_not_made_up() -> None:
    model = on_nodes(None, context_tokens=4096, capabilities=Capabilities(infill=True))
    told = shown(model, 60, ModelCard(), {})
    assert told["model_info"] == {"general.architecture": "unknown", "unknown.context_length": 4096}
    assert (told["template"], told["license"], told["parameters"]) == ("", "", "")
    assert tag(model, 60)["modified_at"] == instant(60) == "1970-01-01T00:01:00Z"
    assert capabilities(model) == ["completion", "tools", "insert"]


def test_the_users_sampling_is_told_in_ollamas_names() -> None:
    text = parameters_text({"temperature": 0.7, "max_tokens": 1_234_567, "top_p": 1.0})
    lines = [["num_predict", "1234567"], ["temperature", "0.7"], ["top_p", "1"]]
    assert [line.split() for line in text.splitlines()] == lines


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [(0.5, "1970-01-01T00:00:00.500000Z"), (1e12, "9999-12-31T23:59:59Z"), (-1e12, "0001-01-01T00:00:00Z")],
)
def test_a_file_of_any_date_has_an_instant(unix_s: float, text: str) -> None:
    assert instant(unix_s) == text


def test_arrays_are_shown_where_they_are_short() -> None:
    card = read_card(read_gguf(embedded_model_path("demo")))
    assert card.info["tokenizer.ggml.tokens"] is None
    assert all(not isinstance(value, tuple) or len(value) <= 64 for value in card.info.values())
