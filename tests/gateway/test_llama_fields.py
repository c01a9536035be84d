"""Each field of llama-server's requests does here what `docs/llama-server.md` says: obeyed, refused, or no effect."""

from __future__ import annotations

import asyncio
import json
import re
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swarm.engines.llama_cpp.http import engine_body
from swarm.errors import BadRequest
from swarm.gateway.llama.plain_form import PlainCompletionBody
from swarm.gateway.ollama.bodies import OllamaGenerateBody
from swarm.gateway.openai.bodies import ChatCompletionBody
from swarm.gateway.openai.llama_fields import (
    OBEYED,
    REFUSED,
    SWITCH,
    WITHOUT_EFFECT,
    obeyed_fields,
    refused_field,
)
from swarm.generation import JsonObject
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.llama_cpp_sources import llama_cpp_sources
from tests.doubles.running_node import NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine, saying
from tests.doubles.upstream_house import house
from tests.doubles.upstream_server import DONE, UpstreamServer, ending, text, usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "llama-server.md"
ROW = re.compile(r"\| (?P<names>`.*?`) \| (?P<kind>obeyed|refused|no effect) \|")
PROMPT = "One day a"
# Of each that is obeyed a value that is not llama.cpp's own default; `tests/hostile` sends all that are allowed.
VALUES: dict[str, float | bool] = {
    "cache_prompt": False, "ignore_eos": True, "t_max_predict_ms": 500, "min_keep": 3, "typical_p": 0.5,
    "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2, "repeat_last_n": 7, "dry_multiplier": 0.8,
    "dry_base": 2.5, "dry_allowed_length": 3, "dry_penalty_last_n": 9,
}  # fmt: skip
ASKING: dict[str, list[Any]] = {
    "lora": [[{"id": 0, "scale": 0.5}], [5], "x"],
    "n_indent": [2],
    "post_sampling_probs": [True],
    "n_cmpl": [2],
    "return_tokens": [True],
    "grammar": ['root ::= "a"'],
    "grammar_lazy": [True],
    "grammar_triggers": [[{"type": 0, "value": "x"}]],
}
HARMLESS: dict[str, list[Any]] = {
    "lora": [[], None, [{"id": 0, "scale": 0}]], "n_indent": [0, None], "post_sampling_probs": [False],
    "n_cmpl": [1, None], "return_tokens": [False], "grammar": ["", None], "grammar_lazy": [False],
    "grammar_triggers": [[]],
}  # fmt: skip


def documented() -> dict[str, str]:
    """What the page says of each field."""
    part = PAGE.read_text(encoding="utf-8").partition("<!-- the fields")[2].partition("<!-- end of the fields")[0]
    rows = [match for line in part.splitlines() if (match := ROW.match(line))]
    return {name: row["kind"] for row in rows for name in re.findall(r"`(\w+)`", row["names"])}


async def test_the_page_says_what_the_code_does() -> None:
    said = documented()
    kinds = {kind: {name for name, told in said.items() if told == kind} for kind in ("obeyed", "refused", "no effect")}
    assert kinds["no effect"] == WITHOUT_EFFECT | {"echo"}
    assert kinds["refused"] == REFUSED.keys() | {"return_tokens", "grammar", "grammar_lazy", "grammar_triggers"}
    own = set(PlainCompletionBody.model_fields) | {"json_schema"}
    assert kinds["obeyed"] - OBEYED.keys() <= own
    assert kinds["obeyed"] >= OBEYED.keys()
    assert VALUES.keys() == OBEYED.keys()
    assert ASKING.keys() == HARMLESS.keys() == kinds["refused"]


def schema_source(archive: Path) -> str:
    """What llama.cpp's sources say of the fields, but for what is switched off. Blocks."""
    with tarfile.open(archive) as opened:
        (schema,) = [member for member in opened.getmembers() if member.name.endswith("/server/server-schema.cpp")]
        source = opened.extractfile(schema)
        assert source is not None
        return re.sub(r"#if 0.*?#endif", "", source.read().decode(), flags=re.DOTALL)


async def test_no_field_of_llama_servers_is_left_out(request: pytest.FixtureRequest) -> None:
    said = await asyncio.to_thread(lambda: schema_source(llama_cpp_sources(request)))
    fields = set(re.findall(r'add\(\(new field_\w+\("([\w.]+)"', said))
    assert len(fields) > 60
    assert fields - documented().keys() == set()


@pytest.mark.parametrize("name", sorted(OBEYED))
async def test_what_is_obeyed_reaches_llama_cpp_from_every_form(name: str) -> None:
    plain = PlainCompletionBody.model_validate({"prompt": PROMPT, name: VALUES[name]}).requests()[0]
    chat = ChatCompletionBody.model_validate({**chat_body(), name: VALUES[name]}).to_request()
    for request in (plain, chat):
        assert request.llama_options == {name: VALUES[name]}
        assert engine_body(request, 1, None)[name] == VALUES[name]
    without = PlainCompletionBody.model_validate({"prompt": PROMPT, name: None}).requests()[0]
    assert name not in engine_body(without, 1, None)


async def test_ollamas_options_of_the_same_names_mean_the_same() -> None:
    options = {"repeat_last_n": 9, "typical_p": 0.5, "mirostat": 2}
    body = OllamaGenerateBody.model_validate({"model": "demo", "prompt": PROMPT, "options": options})
    assert body.to_request("demo").llama_options == {"repeat_last_n": 9, "typical_p": 0.5}
    without = OllamaGenerateBody.model_validate({"model": "demo", "prompt": PROMPT, "options": {"repeat_last_n": -1}})
    assert without.to_request("demo").llama_options == {}


@pytest.mark.parametrize("name", sorted(OBEYED))
async def test_beyond_its_range_and_of_another_type_it_is_refused(name: str) -> None:
    allowed = OBEYED[name]
    wrong: list[Any] = ["x", [], {}, "1"]
    if allowed is SWITCH:
        wrong += [0, 1, 0.5]
    else:
        wrong += [True, allowed.least - 1, allowed.most * 2 + 1, float("nan"), float("inf")]
        wrong += [1.5] if allowed.whole else []
    for value in wrong:
        with pytest.raises(BadRequest) as refused:
            obeyed_fields({name: value})
        assert refused.value.param == name
        assert name in str(refused.value)


@pytest.mark.parametrize("name", sorted(ASKING))
@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
async def test_what_is_refused_is_a_400_that_names_it_unless_it_asks_for_nothing(
    client: Client, name: str, path: str
) -> None:
    if name == "return_tokens" and path != "/completion":
        pytest.skip("a field of that form alone")
    body = chat_body(model="demo", max_tokens=1) if "chat" in path else {"model": "demo", "prompt": PROMPT, "n": 1}
    for value in ASKING[name]:
        reply = await client.post(path, {**body, "max_tokens": 1, name: value})
        assert reply.status == 400, value
        assert name in reply.error["message"]
    for value in HARMLESS[name]:
        reply = await client.post(path, {**body, "max_tokens": 1, name: value})
        assert reply.status == 200, reply.text


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
async def test_what_has_no_effect_changes_nothing(client: Client, name: str) -> None:
    body: dict[str, Any] = {"model": "demo", "prompt": PROMPT, "n_predict": 5, "temperature": 0}
    plain = await client.post("/completion", body)
    for value in (1, True, "x"):
        reply = await client.post("/completion", {**body, name: value})
        assert reply.status == 200, reply.text
        assert reply.json["content"] == plain.json["content"]
        assert reply.json.keys() == plain.json.keys()


# What is obeyed does what it is for


async def text_of(client: Client, **fields: Any) -> str:
    body = {"model": "demo", "prompt": "one two one two one two", "n_predict": 12, "temperature": 0, **fields}
    reply = await client.post("/completion", body)
    assert reply.status == 200, reply.text
    return reply.json["content"]


async def test_penalties_look_back_as_far_as_they_are_told(client: Client) -> None:
    plain, punished = await text_of(client), await text_of(client, repeat_penalty=9)
    assert punished != plain
    assert await text_of(client, repeat_penalty=9, repeat_last_n=0) == plain
    assert await text_of(client, repeat_penalty=9, repeat_last_n=-1) == punished


async def test_samplers_change_what_is_said(client: Client) -> None:
    varied: dict[str, Any] = {"temperature": 2.0, "seed": 5, "top_k": 0, "min_p": 0, "top_p": 1}
    plain = await text_of(client, **varied)
    assert await text_of(client, **varied) == plain
    assert await text_of(client, **varied, typical_p=0.05) != plain
    assert await text_of(client, **varied, top_n_sigma=0.1) != plain
    assert await text_of(client, **varied, xtc_probability=1, xtc_threshold=0.001) != plain
    # At temperature 0 nothing is left to chance: there the likeliest are never taken away.
    assert await text_of(client, xtc_probability=1, xtc_threshold=0.001) == await text_of(client)
    said = await text_of(client, logit_bias=[[ord("a"), 0]], dry_multiplier=10, dry_base=4, dry_allowed_length=1)
    assert said != await text_of(client)


async def test_the_end_is_ignored_where_that_is_asked_and_never_beneath_a_form(client: Client) -> None:
    body = chat_body("What is the capital of France?", model="demo", max_tokens=60, temperature=0)
    ended = (await client.post("/v1/chat/completions", body)).json["choices"][0]
    assert ended["finish_reason"] == "stop"
    on = (await client.post("/v1/chat/completions", {**body, "ignore_eos": True})).json
    assert on["choices"][0]["finish_reason"] == "length"
    assert on["usage"]["completion_tokens"] == 60
    formed = {**body, "ignore_eos": True, "guided_choice": ["red", "blue"], "swarm": {"strategy": "single"}}
    reply = await client.post("/v1/chat/completions", formed)
    assert reply.json["choices"][0]["message"]["content"] in ("red", "blue")


@pytest.mark.parametrize("words", [8, 170], ids=["short", "in slices"])
async def test_a_prompt_is_read_anew_where_the_cache_is_not_wanted(client: Client, words: int) -> None:
    body = {"model": "demo", "prompt": f"The number {words} and " + "one two three " * words, "n_predict": 2}
    whole = (await client.post("/completion", body)).json
    known = (await client.post("/completion", body)).json
    anew = (await client.post("/completion", {**body, "cache_prompt": False})).json
    assert known["timings"]["cache_n"] > 0
    assert (anew["timings"]["cache_n"], anew["tokens_cached"]) == (0, 0)
    assert anew["timings"]["prompt_n"] == whole["tokens_evaluated"]
    assert (await client.post("/completion", body)).json["timings"]["cache_n"] > 0  # it is cached all the same


async def test_a_token_is_banned_in_llama_cpps_words(client: Client) -> None:
    body: dict[str, Any] = {"model": "demo", "prompt": PROMPT, "n_predict": 1, "temperature": 0, "n_probs": 1}
    (first,) = (await client.post("/completion", body)).json["completion_probabilities"]
    for form in ([[first["id"], False]], {str(first["id"]): False}, [[first["id"], -100]]):
        (other,) = (await client.post("/completion", {**body, "logit_bias": form})).json["completion_probabilities"]
        assert other["id"] != first["id"]
    for wrong in ([["text", 1]], [[1]], [5], [[1, "x"]], [[1, 1000]]):
        assert (await client.post("/completion", {**body, "logit_bias": wrong})).status == 400


async def test_probabilities_have_llama_servers_form(client: Client) -> None:
    body = {"model": "demo", "prompt": PROMPT, "n_predict": 3, "n_probs": 2}
    listed = (await client.post("/completion", body)).json["completion_probabilities"]
    assert len(listed) == 3
    for token in listed:
        assert token.keys() >= {"id", "token", "bytes", "logprob", "top_logprobs"}
        assert [each.keys() >= {"id", "token", "bytes", "logprob"} for each in token["top_logprobs"]] == [True, True]


async def test_a_random_seed_is_none(client: Client) -> None:
    for seed in (-1, 2**32 - 1):
        assert PlainCompletionBody.model_validate({"prompt": PROMPT, "seed": seed}).requests()[0].seed is None
        assert ChatCompletionBody.model_validate(chat_body(seed=seed)).to_request().seed is None
    drawn = {await text_of(client, seed=-1, temperature=2, top_k=0, top_p=1, min_p=0) for _ in range(4)}
    assert len(drawn) > 1


async def test_fields_of_an_answer_are_picked_by_their_paths(client: Client) -> None:
    body = {"model": "demo", "prompt": PROMPT, "n_predict": 2}
    fields = ["content", "timings/predicted_n", "timings/none", "generation_settings/n_predict", "none"]
    reply = await client.post("/completion", {**body, "response_fields": fields})
    assert reply.json.keys() == {"content", "timings/predicted_n"}
    assert reply.json["timings/predicted_n"] == 2


@pytest.mark.parametrize("name", ["n_predict", "max_tokens", "max_completion_tokens"])
async def test_all_names_of_the_limit_count(client: Client, name: str) -> None:
    reply = await client.post("/completion", {"model": "demo", "prompt": PROMPT, name: 3})
    assert reply.json["tokens_predicted"] == 3


@pytest.mark.parametrize("form", [{"content": "a text"}, {"input": "a text"}, {"content": ["a text", "b"]}])
async def test_vectors_in_llama_cpps_own_form(client: Client, form: dict[str, Any]) -> None:
    reply = await client.post("/embedding", {**form, "embd_normalize": 2})
    texts = next(iter(form.values()))
    expected = (await client.post("/v1/embeddings", {"model": "demo", "input": texts})).json["data"]
    assert [row["index"] for row in reply.json] == [row["index"] for row in expected]
    assert reply.json[0]["embedding"][0] == pytest.approx(expected[0]["embedding"], abs=1e-4)
    refused = await client.post("/v1/embedding", {**form, "embd_normalize": -1})
    assert refused.status == 400
    assert "embd_normalize" in refused.error["message"]


# Between nodes


@asynccontextmanager
async def kitchen_and_study() -> AsyncGenerator[tuple[Client, ScriptedEngine]]:
    """A client of a node without a model, and the engine of its peer."""
    engine = ScriptedEngine(saying("16"), model_id="m")
    async with RunningNode("study", ready(engine)) as study:
        node = RunningNode("kitchen", options=NodeOptions(peers=[study.address]))
        async with node, connect(node.url) as asked:
            yield asked, engine


@pytest.mark.parametrize("votes", [{}, {"swarm": {"strategy": "majority", "votes": 2}}])
async def test_what_is_obeyed_travels_to_peers(votes: dict[str, Any]) -> None:
    options: JsonObject = {"cache_prompt": False, "dry_multiplier": 0.8}
    async with kitchen_and_study() as (asked, engine):
        reply = await asked.chat("What is 4 * 4?", model="m", **options, **votes)
        assert reply.status == 200, reply.text
        assert {json.dumps(request.llama_options) for request in engine.requests} == {json.dumps(options)}


async def test_what_only_an_upstream_may_know_goes_there_as_it_came() -> None:
    pieces = (text("from ", "above"), ending(), usage(), DONE)
    async with UpstreamServer(pieces=pieces) as server, house(server, "only") as at:
        await at.found()
        adapters = [{"id": 0, "scale": 0.5}]
        assert (await at.client.chat(model="big", lora=adapters, dry_multiplier=0.8)).status == 200
        assert server.asked[-1].body["lora"] == adapters
        assert server.asked[-1].body["dry_multiplier"] == 0.8


@pytest.mark.parametrize("extra", [{}, {"lora": []}, {"n_indent": 0, "n_cmpl": 1}])
async def test_nothing_is_refused_where_nothing_is_asked(extra: dict[str, Any]) -> None:
    assert refused_field(extra) is None
