"""Schemathesis asks what the node's own document allows, and what it does not: no 5xx, no answer that is not in it.

The node runs in a thread of its own: schemathesis is synchronous.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_url
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from swarm.engines.engine import Engine, EngineSpec
from swarm.engines.registry import load_engine
from swarm.gateway.documentation.document import SSE, Operation
from swarm.gateway.documentation.operations import OPERATIONS
from tests.doubles.running_node import NodeOptions, RunningNode
from tests.doubles.scripted_tools import ScriptedTools

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STARTED_S, ANSWERED_S = 30.0, 30.0
LONG_ENOUGH_S = 30.0  # a deadline that passes is a 504, and no fault
EXAMPLES = 10  # of each operation and mode; all together take some 15 s of CPU, chat's large schema most of it
CANNOT_HERE = {"/v1/infill"}  # what the embedded model refuses
MODES = tuple(schemathesis.GenerationMode)
# A body can be wrong in many ways; a path, a text of any kind, in none.
CASES = [(operation, mode) for operation in OPERATIONS for mode in (MODES if operation.body else MODES[:1])]


async def serve(model: Path, url: Future[str], stop: Future[None]) -> None:
    async def load() -> Engine:
        return await load_engine("auto", EngineSpec("demo", model, 1024, 4, threads=1))

    async with RunningNode("kitchen", load, options=NodeOptions(tool_host=ScriptedTools())) as node:
        url.set_result(node.url)
        await asyncio.wrap_future(stop)


@pytest.fixture(scope="module")
def url(demo_model: Path) -> Iterator[str]:
    """Of a node with the embedded model."""
    started: Future[str] = Future()
    stop: Future[None] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(demo_model, started, stop)), name="node")
    thread.start()
    try:
        yield started.result(STARTED_S)
    finally:
        stop.set_result(None)
        thread.join()
        gc.collect()
        gc.freeze()  # strategies are kept for good: looking at them again would block the loops of later tests


@pytest.fixture(scope="module")
def schema(url: str) -> schemathesis.BaseSchema:
    return from_url(f"{url}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as opened:
        yield opened


def quick(case: schemathesis.Case) -> None:
    """The same case with an answer of a token or two, of a model that is there, in time."""
    body = case.body
    if isinstance(body, dict):
        if "messages" in body or "prompt" in body:
            body["max_tokens"] = 1
            body.pop("max_completion_tokens", None)
        for field, most in (("input", "max_output_tokens"), ("input_prefix", "n_predict")):
            if field in body:
                body[most] = 1
        if isinstance(body.get("model"), str) and body["model"]:
            body["model"] = "swarm"
        options = body.get("swarm")
        if isinstance(options, dict) and isinstance(options.get("deadline_s"), int | float):
            options["deadline_s"] = LONG_ENOUGH_S


@pytest.mark.parametrize("operation", [op for op in OPERATIONS if op.streams == SSE], ids=lambda op: op.path)
def test_every_stream_is_one_that_the_document_promises(
    schema: schemathesis.BaseSchema, session: requests.Session, operation: Operation
) -> None:
    """Drawn bodies hardly ever ask for a stream that begins."""
    described = schema[operation.path][operation.method.upper()]
    case = described.Case(body={**(operation.example or {}), "stream": True}, media_type="application/json")
    quick(case)
    response = case.call(session=session, timeout=ANSWERED_S)
    case.validate_response(response, checks=CHECKS)
    assert operation.path in CANNOT_HERE or response.headers["content-type"][0].startswith(SSE)


@pytest.mark.parametrize(
    ("operation", "mode"), CASES, ids=[f"{operation.method} {operation.path} {mode.value}" for operation, mode in CASES]
)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_every_answer_is_one_that_the_document_promises(
    schema: schemathesis.BaseSchema,
    session: requests.Session,
    operation: Operation,
    mode: schemathesis.GenerationMode,
    data: st.DataObject,
) -> None:
    described = schema[operation.path][operation.method.upper()]
    case = data.draw(described.as_strategy(generation_mode=mode))
    quick(case)
    case.validate_response(case.call(session=session, timeout=ANSWERED_S), checks=CHECKS)
