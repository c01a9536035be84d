"""Tokens, templates, facts, ranks and the middle of texts: each endpoint under all its paths, on the real engine."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from tests.doubles.clients import Client, connect, openai_client
from tests.doubles.running_node import RunningNode
from tests.doubles.tiny_models import write_infill_model, write_reranker

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def versatile_node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningNode]:
    """A node that serves a model for ranking, "rank", and one that fills in the middle, "infill"."""
    folder = tmp_path_factory.mktemp("models")
    write_reranker(folder / "rank.gguf")
    write_infill_model(folder / "infill.gguf")

    async def rank() -> Engine:
        return await load_engine("auto", EngineSpec("rank", folder / "rank.gguf", 1024, 2, threads=1))

    async def infill() -> Engine:
        return await load_engine("auto", EngineSpec("infill", folder / "infill.gguf", 1024, 2, threads=1))

    async with RunningNode("versatile", rank, infill) as node:
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def versatile(versatile_node: RunningNode) -> AsyncIterator[Client]:
    async with connect(versatile_node.url) as connected:
        yield connected


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_text_becomes_tokens_and_text_again(client: Client, prefix: str) -> None:
    tokens = (await client.post(f"{prefix}/tokenize", {"content": "one two three"})).json["tokens"]
    assert all(isinstance(token, int) for token in tokens)
    reply = await client.post(f"{prefix}/detokenize", {"tokens": tokens})
    assert reply.json == {"content": "one two three"}
    assert (await client.post("/tokenize", {"content": "", "model": "demo"})).json == {"tokens": []}


async def test_pieces_come_with_their_tokens_and_bytes_where_they_are_no_text(client: Client) -> None:
    reply = await client.post("/tokenize", {"content": "one é日", "with_pieces": True})
    pieces = [token["piece"] for token in reply.json["tokens"]]
    raw = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    assert raw.decode() == "one é日"
    assert any(isinstance(piece, list) for piece in pieces)


async def test_special_marks_are_one_token_unless_told_otherwise(client: Client) -> None:
    as_mark = (await client.post("/tokenize", {"content": "<|im_end|>"})).json["tokens"]
    as_text = (await client.post("/tokenize", {"content": "<|im_end|>", "parse_special": False})).json["tokens"]
    assert len(as_mark) == 1 < len(as_text)


async def test_the_template_gives_the_prompt_that_is_counted(client: Client) -> None:
    prompt = (await client.post("/apply-template", HELLO)).json["prompt"]
    assert "hello" in prompt
    tokens = (await client.post("/tokenize", {"content": prompt, "add_special": True})).json["tokens"]
    usage = (await client.post("/v1/chat/completions", {"model": "demo", **HELLO, "max_tokens": 1})).json["usage"]
    assert usage["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize("path", ["/props", "/v1/props", "/props?model=demo", "/props?model=swarm"])
async def test_props_are_facts_and_never_paths(client: Client, path: str, demo_model: Path) -> None:
    reply = await client.get(path)
    facts = reply.json
    assert facts["model_alias"] == "demo"
    assert facts["total_slots"] == 4
    assert facts["default_generation_settings"]["n_ctx"] == 1024
    assert "messages" in facts["chat_template"]
    assert facts["swarm"]["node"] == "kitchen"
    assert facts["swarm"]["can"]["rerank"] is False
    assert str(demo_model.parent) not in reply.text


async def test_props_cannot_be_changed(client: Client) -> None:
    reply = await client.post("/props", {"chat_template": "x"})
    assert reply.status == 400
    assert "cannot be changed" in reply.error["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
async def test_documents_are_ranked_best_first(versatile: Client, path: str) -> None:
    documents = ["cats are animals", {"text": "x"}, "the cat"]
    body = {"model": "rank", "query": "what is a cat", "documents": documents, "return_documents": True}
    reply = await versatile.post(path, body)
    assert reply.status == 200, reply.text
    results = reply.json["results"]
    assert sorted(row["index"] for row in results) == [0, 1, 2]
    scores = [row["relevance_score"] for row in results]
    assert scores == sorted(scores, reverse=True)
    assert all(row["document"]["text"] == ["cats are animals", "x", "the cat"][row["index"]] for row in results)
    assert reply.json["model"] == "rank"
    assert reply.json["usage"]["prompt_tokens"] > 0


async def test_many_documents_are_ranked_in_batches_and_cut_to_the_best(versatile: Client) -> None:
    body = {"query": "what is a cat", "documents": [f"text {number}" for number in range(70)]}
    every = (await versatile.post("/rerank", body)).json["results"]
    best = (await versatile.post("/rerank", {**body, "top_n": 3})).json["results"]
    assert len(every) == 70
    assert [row["index"] for row in best] == [row["index"] for row in every[:3]]
    assert all("document" not in row for row in best)


async def test_the_other_form_of_ranking_is_answered_in_its_own_shape(versatile: Client) -> None:
    body = {"query": "what is a cat", "texts": ["a", "b"], "return_text": True}
    rows = (await versatile.post("/rerank", body)).json
    assert {row["index"]: row["text"] for row in rows} == {0: "a", 1: "b"}
    assert all(isinstance(row["score"], float) for row in rows)


async def test_a_model_that_cannot_rank_says_which_can(client: Client, versatile: Client) -> None:
    body = {"query": "a", "documents": ["b"]}
    reply = await client.post("/v1/rerank", {"model": "demo", **body})
    assert reply.status == 400
    assert "'demo' cannot rerank; it takes a reranking model" in reply.error["message"]
    assert reply.error["param"] == "model"
    reply = await versatile.post("/v1/rerank", {"model": "infill", **body})
    assert "these can: rank" in reply.error["message"]


async def test_a_reranker_is_left_out_of_chats_and_says_so_when_named(versatile: Client) -> None:
    assert (await versatile.chat(max_tokens=2)).status == 200
    reply = await versatile.chat(model="rank", max_tokens=2)
    assert reply.status == 400
    assert "writes no text" in reply.error["message"]
    assert (await versatile.post("/v1/embeddings", {"model": "rank", "input": "x"})).status == 400


INFILL = {"input_prefix": "def f(x):\n", "prompt": "    return ", "input_suffix": "\n", "n_predict": 4}


@pytest.mark.parametrize("path", ["/infill", "/v1/infill"])
async def test_the_middle_is_filled_in(versatile: Client, path: str) -> None:
    extra = [{"filename": "a.py", "text": "import math"}]
    reply = await versatile.post(path, {**INFILL, "input_extra": extra, "temperature": 0})
    assert reply.status == 200, reply.text
    assert reply.json["stop"] is True
    assert reply.json["tokens_predicted"] <= 4
    assert reply.json["tokens_evaluated"] > 5
    assert isinstance(reply.json["content"], str)


async def test_the_middle_streams_in_the_same_shape(versatile: Client) -> None:
    body = {**INFILL, "model": "infill", "temperature": 0, "logit_bias": {"0": -100, "1": -100}}
    whole = (await versatile.post("/infill", body)).json
    reply = await versatile.post("/infill", {**body, "stream": True})
    *pieces, last = reply.chunks
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert last["stop"] is True
    assert not reply.done


async def test_a_suffix_is_filled_in_where_the_model_can(versatile_node: RunningNode) -> None:
    async with openai_client(versatile_node.url, max_retries=0) as ai:
        fields: dict[str, Any] = {"model": "infill", "prompt": "a = ", "max_tokens": 4, "temperature": 0}
        answer = await ai.completions.create(**fields, suffix="\nprint(a)")
        assert answer.usage is not None
        plain = await ai.completions.create(**fields)
        assert plain.usage is not None
        assert answer.usage.prompt_tokens > plain.usage.prompt_tokens
        with pytest.raises(BadRequestError, match="no logprobs"):
            await ai.completions.create(**fields, suffix="x", logprobs=1)


async def test_a_model_that_cannot_fill_in_says_so(client: Client) -> None:
    for path, body in (
        ("/infill", INFILL),
        ("/v1/completions", {"model": "demo", "prompt": "a", "suffix": "b"}),
    ):
        reply = await client.post(path, body)
        assert reply.status == 400
        assert "cannot fill in the middle" in reply.error["message"]


async def test_several_prompts_are_answered_in_order(ai: AsyncOpenAI) -> None:
    prompts = ["one two", "The capital of", "hello"]
    fields: dict[str, Any] = {"model": "demo", "max_tokens": 3, "temperature": 0, "echo": True}
    together = await ai.completions.create(prompt=prompts, n=2, **fields)
    assert [choice.index for choice in together.choices] == list(range(6))
    assert [choice.text.startswith(prompts[index // 2]) for index, choice in enumerate(together.choices)] == [True] * 6
    alone = [await ai.completions.create(prompt=prompt, **fields) for prompt in prompts]
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone if answer.usage)


async def test_a_prompt_of_tokens_is_answered_like_its_text(ai: AsyncOpenAI, client: Client) -> None:
    tokens = (await client.post("/tokenize", {"content": "The capital of", "add_special": True})).json["tokens"]
    fields: dict[str, Any] = {"model": "demo", "max_tokens": 4, "temperature": 0, "echo": True}
    of_text = await ai.completions.create(prompt="The capital of", **fields)
    of_tokens = await ai.completions.create(prompt=tokens, **fields)
    several = await ai.completions.create(prompt=[tokens, tokens], **fields)
    assert of_tokens.choices[0].text == of_text.choices[0].text
    assert [choice.text for choice in several.choices] == [of_text.choices[0].text] * 2


async def test_tokens_are_embedded_like_their_text(ai: AsyncOpenAI, client: Client) -> None:
    """What LangChain's OpenAIEmbeddings sends: lists of tokens."""
    tokens = (await client.post("/tokenize", {"content": "the cat", "add_special": True})).json["tokens"]
    of_text = (await ai.embeddings.create(model="demo", input="the cat")).data[0].embedding
    of_tokens = (await ai.embeddings.create(model="demo", input=tokens)).data[0].embedding
    several = (await ai.embeddings.create(model="demo", input=[tokens, [5, 6]])).data
    assert of_tokens == pytest.approx(of_text, abs=1e-4)
    assert several[0].embedding == pytest.approx(of_text, abs=1e-3)
    assert len(several) == 2


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/embeddings", {"model": "demo", "input": [99999]}, "check_embedding_ctx_length"),
        ("/v1/embeddings", {"model": "demo", "input": [[1], [99999]]}, "not tokens of this model"),
        ("/v1/embeddings", {"model": "demo", "input": [-1]}, r"input\[0\]"),
        ("/v1/embeddings", {"model": "demo", "input": [[]]}, "input"),
        ("/v1/embeddings", {"model": "demo", "input": []}, "input"),
        ("/v1/completions", {"model": "demo", "prompt": [99999], "max_tokens": 1}, "not tokens of this model"),
        ("/v1/completions", {"model": "swarm", "prompt": [5]}, "name it"),
        ("/v1/completions", {"model": "demo", "prompt": []}, "prompt is an empty list"),
        ("/v1/completions", {"model": "demo", "prompt": ["a"] * 33}, "32"),
        ("/v1/completions", {"model": "demo", "prompt": ["a", "b"], "stream": True}, "not streamed"),
        ("/v1/completions", {"model": "demo", "prompt": [1.5]}, "prompt"),
        ("/tokenize", {}, "content: this field is required"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "x" * (2**20 + 1)}, "split it"),
        ("/tokenize", {"content": "x" * (2**18 + 1), "with_pieces": True}, "split it"),
        ("/detokenize", {"tokens": [-1]}, r"tokens\[0\]"),
        ("/detokenize", {"tokens": [10**12]}, r"tokens\[0\]"),
        ("/detokenize", {"tokens": [2**31 - 1]}, "not tokens of this model"),
        ("/detokenize", {"tokens": ["a"]}, r"tokens\[0\]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "user"}]}, "content"),
        ("/rerank", {"query": "a"}, "documents"),
        ("/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": ["a"], "texts": ["b"]}, "documents"),
        ("/rerank", {"query": "a", "documents": ["a"] * 1025}, "1024"),
        ("/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/infill", {"input_prefix": "a"}, "input_suffix"),
        ("/infill", {"input_prefix": 5, "input_suffix": "b"}, "input_prefix"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_cannot_work_is_refused_by_name(client: Client, path: str, body: Any, message: str) -> None:
    reply = await client.post(path, body)
    assert reply.status == 400, reply.text
    assert re.search(message, reply.error["message"]), reply.error["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template"])
async def test_an_unknown_model_is_not_found(client: Client, path: str) -> None:
    reply = await client.post(path, {"model": "gpt-9", "content": "x", "tokens": [1], **HELLO})
    assert reply.status == 404
    assert reply.error["code"] == "model_not_found"


async def test_every_path_has_its_twin(client: Client, demo_node: RunningNode) -> None:
    assert (await client.get("/models")).json["data"][1]["id"] == "demo"
    assert (await client.get("/models/demo")).json["id"] == "demo"
    assert (await client.post("/embeddings", {"model": "demo", "input": "x"})).status == 200
    completion = await client.post("/completions", {"model": "demo", "prompt": "x", "max_tokens": 1})
    assert completion.json["object"] == "text_completion"
    chat = await client.post("/chat/completions", {"model": "demo", **HELLO, "max_tokens": 1})
    assert chat.json["object"] == "chat.completion"
    assert (await client.get("/federation/health")).status == 404


async def test_llama_cpps_own_completion_in_its_own_form(client: Client) -> None:
    body = {"prompt": "The capital of", "n_predict": 3, "temperature": 0, "n_probs": 2}
    whole = (await client.post("/completion", body)).json
    assert (whole["stop"], whole["stop_type"], whole["tokens_predicted"]) == (True, "limit", 3)
    assert len(whole["completion_probabilities"]) == 3
    *pieces, last = (await client.post("/completion", {**body, "stream": True})).chunks
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert last["stop"] is True
    several = (await client.post("/completion", {**body, "prompt": ["one two", "The capital of"]})).json
    assert [answer["index"] for answer in several] == [0, 1]
    assert several[1]["content"] == whole["content"]
    named = (await client.post("/completion", {**body, "response_fields": ["content", "model"]})).json
    assert named == {"content": whole["content"], "model": "swarm"}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"return_tokens": True}, "/tokenize"),
        ({"n": 2}, "/v1/completions"),
        ({"prompt": [1, 2]}, "name it"),
        ({"prompt": []}, "empty list"),
        ({"prompt": ["a", "b"], "stream": True}, "not streamed"),
        ({"n_predict": -2}, "n_predict"),
    ],
)
async def test_what_llama_cpps_completion_cannot_have_here(client: Client, fields: dict[str, Any], word: str) -> None:
    reply = await client.post("/completion", {"prompt": "a", **fields})
    assert reply.status == 400
    assert word in reply.error["message"]


CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.mark.parametrize("fields", [{}, {"model": None}], ids=["none", "null"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 2}),
    ],
    ids=["chat", "text", "embeddings", "responses"],
)
async def test_no_model_is_refused_unless_any_is_answered(
    client: Client, path: str, body: dict[str, Any], fields: dict[str, Any]
) -> None:
    reply = await client.post(path, {**body, **fields})
    assert reply.status == 400
    assert reply.error["message"].startswith("model: this field is required")


async def test_what_llama_cpp_alone_has_needs_no_model(client: Client) -> None:
    counted = (await client.post("/v1/chat/completions/input_tokens", {"messages": CHAT["messages"]})).json
    assert counted["input_tokens"] > 1
    assert (await client.post("/completion", {"prompt": "a", "n_predict": 1, "model": None})).status == 200
