"""Fields by which other servers constrain an answer: obeyed, or a 400 that names them; others stay accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.errors import BadRequest
from swarm.gateway.openai.constraints import MEANINGS, constrained
from swarm.generation import ResponseFormat
from tests.doubles.clients import Client, chat_body, connect
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.schemas import record
from tests.doubles.scripted_engine import ScriptedEngine, saying

pytestmark = pytest.mark.asyncio(loop_scope="module")

SURE = record(sure={"type": "boolean"})
COLOURS = ["red", "dark blue"]
OBEYED: dict[str, tuple[dict[str, Any], str]] = {
    "vllm: json": ({"structured_outputs": {"json": SURE}}, "json"),
    "vllm: json as text": ({"guided_json": json.dumps(SURE)}, "json"),
    "vllm: choice": ({"structured_outputs": {"choice": COLOURS, "disable_fallback": True}}, "choice"),
    "vllm: choice, before": ({"guided_choice": COLOURS, "guided_decoding_backend": "xgrammar"}, "choice"),
    "vllm: regex": ({"guided_regex": r"\d{3}-[a-c]{2}"}, "regex"),
    "vllm: object": ({"structured_outputs": {"json_object": True}}, "object"),
    "sglang: regex": ({"regex": r"\d{3}-[a-c]{2}"}, "regex"),
    "llama.cpp: schema": ({"json_schema": SURE}, "json"),
    "llama.cpp: schema in a format": ({"response_format": {"type": "json_object", "schema": SURE}}, "json"),
    "openai's form at the top": ({"json_schema": {"name": "x", "schema": SURE, "strict": True}}, "json"),
    "tgi: schema": ({"grammar": {"type": "json", "value": SURE}}, "json"),
    "tgi: regex": ({"grammar": {"type": "regex", "value": r"\d{3}-[a-c]{2}"}}, "regex"),
    "ollama: schema": ({"format": SURE}, "json"),
    "ollama: json": ({"format": "json"}, "object"),
    "in an extra body": ({"extra_body": {"guided_choice": COLOURS}}, "choice"),
    "a format in an extra body": ({"extra_body": {"response_format": {"type": "json_object"}}}, "object"),
}
FOREIGN: dict[str, dict[str, Any]] = {
    "grammar": {"grammar": 'root ::= "a"'},
    "guided_grammar": {"guided_grammar": 'root ::= "a"'},
    "structured_outputs.grammar": {"structured_outputs": {"grammar": 'root ::= "a"'}},
    "structured_outputs.structural_tag": {"structured_outputs": {"structural_tag": "{}"}},
    "extra_body.ebnf": {"extra_body": {"ebnf": "root = 'a'"}},
    "guided_regex": {"guided_regex": "(?=a)b"},
    "bad_words": {"bad_words": ["never"]},
}
WRONG: dict[str, dict[str, Any]] = {
    "guided_json": {"guided_json": "{"},
    "guided_choice": {"guided_choice": "red"},
    "guided_regex": {"guided_regex": 5},
    "format": {"format": "yaml"},
    "structured_outputs": {"structured_outputs": "x"},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
}
HARMLESS: dict[str, Any] = {
    "guided_json": None, "format": "", "structured_outputs": {}, "grammar": "", "json_schema": {},
    "guided_decoding_backend": "auto", "mirostat": 2, "user_defined": {"grammar": "x"}, "extra_body": {"top_a": 1},
}  # fmt: skip


def chat(fields: dict[str, Any]) -> dict[str, Any]:
    swarm = {"strategy": "single"}
    return chat_body(model="demo", temperature=1.2, seed=3, max_tokens=120, swarm=swarm) | fields


def keeps(text: str, kind: str) -> bool:
    match kind:
        case "json":
            return isinstance(json.loads(text)["sure"], bool)
        case "object":
            return text.lstrip().startswith("{")
        case "choice":
            return text in COLOURS
        case _:
            return len(text) == 6 and text[:3].isdecimal() and text[3] == "-" and set(text[4:]) <= set("abc")


@pytest.mark.parametrize("name", OBEYED)
async def test_what_means_the_same_here_is_obeyed(client: Client, name: str) -> None:
    fields, kind = OBEYED[name]
    reply = await client.post("/v1/chat/completions", chat(fields))
    assert keeps(reply.json["choices"][0]["message"]["content"], kind), reply.text
    streamed = await client.post("/v1/chat/completions", chat(fields) | {"stream": True})
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in streamed.chunks if c["choices"])
    assert keeps(text, kind), text


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_other_apis_obey_them_too(client: Client, path: str) -> None:
    body = {"model": "demo", "guided_choice": COLOURS, "swarm": {"strategy": "single"}}
    asked: dict[str, Any] = (
        {"messages": chat_body()["messages"], "max_tokens": 60} if path == "/v1/messages" else {"input": "x"}
    )
    refused = await client.post(path, {**body, **asked, "response_format": {"type": "json_object"}})
    assert refused.status == 400  # two demands
    reply = (await client.post(path, {**body, **asked})).json
    content = reply["content"] if path == "/v1/messages" else reply["output"][0]["content"]
    assert content[0]["text"] in COLOURS


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_cannot_be_enforced_is_a_400_that_names_it(client: Client, name: str, stream: bool) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": chat({}),
        "/v1/messages": chat_body(model="demo", max_tokens=5),
        "/v1/responses": {"model": "demo", "input": "x"},
        "/v1/completions": {"model": "demo", "prompt": "x"},
    }
    for path, body in bodies.items():
        reply = await client.post(path, {**body, "stream": stream, **FOREIGN[name]})
        assert (reply.status, name in json.loads(reply.text)["error"]["message"]) == (400, True), (path, reply.text)


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": COLOURS},
        {"json_schema": SURE},
        {"grammar": "root ::= [a]"},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_a_completion_is_not_held_to_a_form_and_says_so(client: Client, fields: dict[str, Any]) -> None:
    reply = await client.post("/v1/completions", {"model": "demo", "prompt": "x", **fields})
    assert (reply.status, reply.error["param"]) == (400, next(iter(fields)))


@pytest.mark.parametrize("name", WRONG)
async def test_what_means_nothing_is_a_400_that_names_it(client: Client, name: str) -> None:
    reply = await client.post("/v1/chat/completions", chat(WRONG[name]))
    assert (reply.status, name in reply.error["message"]) == (400, True)


async def test_two_demands_at_once_are_a_400() -> None:
    for extra in ({"guided_json": SURE, "format": "json"}, {"structured_outputs": {"json": SURE, "regex": "a"}}):
        with pytest.raises(BadRequest, match="send one of them"):
            constrained(extra, None)
    with pytest.raises(BadRequest, match=r"text.format and guided_regex"):
        constrained({"guided_regex": "a"}, ResponseFormat(type="json_object"), "text.format")


async def test_what_constrains_nothing_stays_accepted(client: Client) -> None:
    assert (await client.post("/v1/chat/completions", chat({**HARMLESS, "max_tokens": 2}))).status == 200
    assert constrained(HARMLESS, None) == (None, None)
    assert constrained(HARMLESS, text := ResponseFormat()) == (text, None)
    assert MEANINGS


async def test_choices_are_voted_on_as_choices() -> None:
    engine = ScriptedEngine(saying("dark blue", "red", "red"))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        body = chat_body(guided_choice=COLOURS, swarm={"votes": 3, "strategy": "majority"})
        reply = (await client.post("/v1/chat/completions", body)).json
    assert (reply["choices"][0]["message"]["content"], reply["swarm"]["kind"]) == ("red", "choice")
