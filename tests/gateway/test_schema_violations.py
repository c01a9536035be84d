"""An answer that breaks a schema: made anew once, without a say in votes, and it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.consensus.json_answer import schema_violations
from swarm.errors import EngineFailed
from swarm.gateway.documentation.answer_bodies import SwarmReport
from swarm.generation import Candidate, Delta, GenerationRequest, ToolCall, ToolCallDelta
from tests.doubles.clients import chat_body, connect
from tests.doubles.running_node import RunningNode, ready
from tests.doubles.schemas import record
from tests.doubles.scripted_engine import Script, ScriptedEngine, ending, saying

PRICE = {**record(price={"type": "number", "maximum": 100}), "additionalProperties": False}
CODE = record(code={"type": "string", "pattern": r"^(?:[A-Z]{3})$|^(x+x+)+y$"})
GOOD, BAD, WORSE = '{"price": 41}', '{"price": 141}', '{"price": "x", "more": 1}'
SINGLE = {"strategy": "single"}
TOLD = {"path": "$.price", "keyword": "maximum", "message": "141 is greater than the maximum of 100"}


def formed(schema: Any, **fields: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return chat_body(response_format=wanted, swarm=SINGLE, **fields)


def calling(*arguments: str) -> Script:
    """Voter 0 calls with the first arguments, voter 1 with the second, ..."""
    return lambda _, voter: [
        Delta(0, tool_calls=(ToolCallDelta(0, "call_1", "f", arguments[min(voter, len(arguments) - 1)]),)),
        ending("tool_calls"),
    ]


@pytest.mark.parametrize(
    ("texts", "fields", "given", "asked", "violations"),
    [
        ((GOOD,), {}, GOOD, 1, None),
        ((BAD, GOOD), {}, GOOD, 2, None),
        ((BAD, BAD), {}, BAD, 2, [TOLD]),
        ((BAD, GOOD), {"temperature": 0}, BAD, 1, [TOLD]),
        ((WORSE, BAD), {}, BAD, 2, [TOLD]),
    ],
)
async def test_an_answer_that_breaks_its_schema_is_made_anew_once(
    texts: tuple[str, ...], fields: dict[str, Any], given: str, asked: int, violations: Any
) -> None:
    engine = ScriptedEngine(saying(*texts))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = (await client.post("/v1/chat/completions", formed(PRICE, **fields))).json
    assert reply["choices"][0]["message"]["content"] == given
    account = reply["swarm"]
    assert (account.get("schema_violations"), account.get("made_anew")) == (violations, True if asked > 1 else None)
    assert account["total_completion_tokens"] == asked
    assert len(engine.requests) == asked
    SwarmReport.model_validate(account, strict=True)


async def test_of_a_seed_there_is_one_other_sample() -> None:
    engine = ScriptedEngine(saying(BAD))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        await client.post("/v1/chat/completions", formed(PRICE, seed=7))
    assert [request.seed for request in engine.requests] == [7, 8]


async def test_where_there_is_no_second_answer_the_first_stands() -> None:
    def script(_: GenerationRequest, voter: int) -> Any:
        return [BAD] if voter == 0 else [EngineFailed("broken")]

    async with RunningNode("kitchen", ready(ScriptedEngine(script))) as node, connect(node.url) as client:
        reply = await client.post("/v1/chat/completions", formed(PRICE))
    assert (reply.status, reply.json["swarm"]["schema_violations"]) == (200, [TOLD])


async def test_a_stream_cannot_be_made_anew_and_says_so_in_its_last_chunk() -> None:
    engine = ScriptedEngine(saying(BAD, GOOD))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = await client.post("/v1/chat/completions", formed(PRICE, stream=True))
    assert reply.chunks[-1]["swarm"]["schema_violations"] == [TOLD]
    assert len(engine.requests) == 1


async def test_each_of_several_choices_says_what_it_breaks() -> None:
    engine = ScriptedEngine(saying(GOOD, BAD))
    body = formed(PRICE, n=2) | {"swarm": {}}
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = (await client.post("/v1/chat/completions", body)).json
    assert reply["swarm"] == {"schema_violations": [{"choice": 1, **TOLD}]}


async def test_in_a_vote_it_abstains() -> None:
    engine = ScriptedEngine(saying(BAD, BAD, GOOD))
    body = formed(PRICE) | {"swarm": {"votes": 3, "strategy": "majority"}}
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = (await client.post("/v1/chat/completions", body)).json
    assert reply["choices"][0]["message"]["content"] == GOOD
    assert "schema_violations" not in reply["swarm"]
    assert [c.get("abstained") for c in reply["swarm"]["candidates"]].count("breaks the schema: $.price: maximum") == 2


async def test_where_all_of_a_vote_break_it_the_answer_says_so() -> None:
    body = formed(PRICE) | {"swarm": {"votes": 2, "strategy": "majority"}}
    async with RunningNode("kitchen", ready(ScriptedEngine(saying(BAD)))) as node, connect(node.url) as client:
        reply = (await client.post("/v1/chat/completions", body)).json
    assert (reply["swarm"]["degraded"], reply["swarm"]["schema_violations"]) == (True, [TOLD])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_call_says_what_it_breaks_on_every_api(path: str) -> None:
    function = {"name": "f", "parameters": CODE}
    bodies: dict[str, Any] = {
        "/v1/chat/completions": chat_body(tools=[{"type": "function", "function": function}]),
        "/v1/messages": chat_body(tools=[{"name": "f", "input_schema": CODE}], max_tokens=9),
        "/v1/responses": {"model": "swarm", "input": "x", "tools": [{"type": "function", **function}]},
    }
    engine = ScriptedEngine(calling(f'{{"code": "{"x" * 60}"}}'))
    async with RunningNode("kitchen", ready(engine)) as node, connect(node.url) as client:
        reply = (await client.post(path, {**bodies[path], "swarm": SINGLE})).json
    (told,) = reply["swarm"]["schema_violations"]
    assert (told["path"], told["keyword"], len(engine.requests)) == ("tool_calls[0].arguments.code", "pattern", 2)


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"model": "m", "messages": ({"role": "user", "content": "x"},), **fields})


FORMED = request(response_format={"type": "json_schema", "json_schema": {"schema": PRICE}})
TOOLS = request(tools=[{"type": "function", "function": {"name": "f", "parameters": PRICE}}])


@pytest.mark.parametrize(
    ("asked", "answer", "keywords"),
    [
        (FORMED, {"text": GOOD}, []),
        (FORMED, {"text": WORSE}, ["type", "additionalProperties"]),
        (FORMED, {"text": "Well."}, ["type"]),
        (FORMED, {"text": '{"price": 1', "finish_reason": "length"}, []),
        (FORMED, {"error": "broken"}, []),
        (FORMED, {"text": json.dumps({"price": 1, "more": "x" * 300_000})}, []),
        (request(response_format={"type": "json_object"}), {"text": "[1]"}, ["type"]),
        (request(), {"text": "Well."}, []),
        (TOOLS, {"text": "Well."}, []),
        (TOOLS, {"tool_calls": ("f", BAD)}, ["maximum"]),
        (TOOLS, {"tool_calls": ("f", "[]")}, ["type"]),
        (TOOLS, {"tool_calls": ("f", "")}, ["required"]),
        (TOOLS, {"tool_calls": ("f", "{")}, ["type"]),
        (TOOLS, {"tool_calls": ("other", BAD)}, []),
    ],
)
def test_what_is_told_of_an_answer(asked: GenerationRequest, answer: dict[str, Any], keywords: list[str]) -> None:
    fields = {"voter": "Zeus@kitchen", "finish_reason": "stop", **answer}
    if "tool_calls" in answer:
        name, arguments = answer["tool_calls"]
        fields["tool_calls"] = (ToolCall(id="1", name=name, arguments=arguments),)
    assert [each.keyword for each in schema_violations(asked, Candidate(**fields))] == keywords


def test_a_long_message_is_cut() -> None:
    found = schema_violations(
        FORMED, Candidate(voter="Zeus", text=json.dumps({"price": "x" * 5000}), finish_reason="stop")
    )
    assert len(found[0].message) == 200
