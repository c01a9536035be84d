"""The OpenAPI 3.1 document, from the operations (what it says of one route) and the types that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from pydantic import BaseModel, JsonValue, TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from swarm.gateway.documentation.answer_bodies import ErrorBody
from swarm.gateway.http.access import RouteKind, kind_of
from swarm.generation import JsonObject

Method = Literal["get", "post", "delete", "put", "patch"]
REF = "#/components/schemas/"
REFUSALS = {
    400: "The request can never work; `param` names the field to blame",
    401: "The node wants an API key, and does not know the one that was given, if any",
    403: "The request names a foreign host, comes from a web page of a foreign origin, or may not manage this node",
    404: "There is no such model, or no such request",
    408: "The body did not arrive in time",
    409: "Whoever manages the node cancelled the request",
    413: "The body is too large",
    500: "The engine failed; repeating does not help",
    502: "Another node failed, or an engine ended over the request (`engine_failed`); repeating does not help",
    503: "Nothing can serve this now; Retry-After says when to come back",
    504: "The answer was not complete by the request's deadline",
}
OF_VOTES: Mapping[str, tuple[str, JsonObject]] = {
    "X-Swarm-Node": ("The node that held the vote", {"type": "string"}),
    "X-Swarm-Votes": ("Valid ballots; only where the answer does not stream", {"type": "integer"}),
    "X-Swarm-Agreement": ("`agreement` of the `swarm` object; not where the answer streams", {"type": "number"}),
}
OF_ALL, OF_LOCKED, OF_NAMED, OF_BODIES = (400, 403), (401,), (404,), (404, 408, 409, 413, 500, 502, 503, 504)
DESCRIPTION = """\
Any node answers for the whole swarm. `model` is an id from `/v1/models`, or `swarm` for whatever the swarm does best;
the `swarm` object of a request says how to vote, that of an answer how the vote went. Unknown fields are ignored.
A key is needed only where the node was started with one. Management is for the node's own machine, and for admin keys.
An upstream's refusals come with its own status."""
SSE = "text/event-stream"
# OpenAPI 3.1 has no word for a stream: as in OpenAI's own document, `schema` is that of one event.
EVENT: JsonObject = {
    "type": "object",
    "description": "One event. `data` is JSON, but for the [DONE] with which OpenAI's older streams end",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "minLength": 1}},
}
_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One route for clients. `answer` is the JSON body of its 200, `streams` the media type it may have instead.

    `errors` is the body of every refusal; `others` are the answers of further statuses, whose body is not an error.
    `accepts`: it may answer by a 202, which has no body.
    Which refusals there are follows from the rest: see `document.refusals`.
    """

    method: Method
    path: str
    summary: str
    tag: str
    answer: type[object] | None = None
    body: type[BaseModel] | None = None
    streams: str | None = None
    errors: type[BaseModel] | None = None
    others: Mapping[int, type[BaseModel]] = field(default_factory=dict[int, type[BaseModel]])
    example: JsonObject | None = None
    accepts: bool = False

    @property
    def kind(self) -> RouteKind:
        """What it does, and so who may ask it."""
        kind = kind_of(self.method.upper(), self.path)
        assert kind is not None, f"{self.method} {self.path} has no kind: name it in `http/access.py`"
        return kind

    @property
    def voted(self) -> bool:
        """Whether its answers say how the vote went."""
        if self.answer is None or self.body is None or not issubclass(self.answer, BaseModel):
            return False
        return "swarm" in self.answer.model_fields


PUBLIC = (
    RouteKind.HEALTH,
    RouteKind.DOCUMENTATION,
    RouteKind.PAGE,
)  # answered without a key, whatever the node's settings are


def make_document(operations: Sequence[Operation], version: str) -> JsonObject:
    """The document. Takes a tenth of a second: do it once."""
    refs, schemas = _schemas(operations)
    paths: dict[str, JsonValue] = {}
    for operation in operations:
        described = cast("dict[str, JsonValue]", paths.setdefault(operation.path, {}))
        described[operation.method] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Local Swarm", "version": version, "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }  # fmt: skip


def refusals(operation: Operation) -> tuple[int, ...]:
    """The statuses with which a route may refuse."""
    return (
        *OF_ALL,
        *(() if operation.kind in PUBLIC else OF_LOCKED),
        *(OF_NAMED if "{" in operation.path else ()),
        *(OF_BODIES if operation.body else ()),
    )


Refs = dict[type[object], JsonObject]


def _schemas(operations: Sequence[Operation]) -> tuple[Refs, JsonObject]:
    """The reference of each type that an operation names, and all their schemas."""
    named: dict[type[object], None] = {ErrorBody: None}
    for operation in operations:
        for kind in (operation.body, operation.answer, operation.errors, *operation.others.values()):
            if kind is not None:
                named[kind] = None
    # As read, not as written: a field with a default may be missing in both directions.
    inputs: list[tuple[type[object], JsonSchemaMode, TypeAdapter[object]]] = [
        (kind, "validation", TypeAdapter(kind)) for kind in named
    ]
    by_kind, definitions = TypeAdapter.json_schemas(inputs, ref_template=REF + "{model}")
    refs = {kind: cast("JsonObject", by_kind[kind, "validation"]) for kind in named}
    return refs, cast("JsonObject", definitions["$defs"])


def _operation(operation: Operation, refs: Refs) -> JsonObject:
    described: JsonObject = {
        "operationId": _identifier(operation),
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation, refs),
        "security": [] if operation.kind in PUBLIC else [{}, {"bearer": []}, {"apiKey": []}],
    }
    parameters = _PARAMETER.findall(operation.path)
    if parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in parameters
        ]
    if operation.body:
        content: JsonObject = {"schema": refs[operation.body]}
        if operation.example is not None:
            content["example"] = operation.example
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described


def _responses(operation: Operation, refs: Refs) -> JsonObject:
    content: JsonObject = {}
    if operation.answer:
        content["application/json"] = {"schema": refs[operation.answer]}
    if operation.streams:
        content[operation.streams] = {"schema": EVENT if operation.streams == SSE else {"type": "string"}}
    found: dict[int, JsonValue] = {200: _response("The answer", content, voted=operation.voted)}
    if operation.accepts:
        found[202] = _response("It was taken; no answer is owed", {})
    error: JsonObject = {"application/json": {"schema": refs[operation.errors or ErrorBody]}}
    for status in refusals(operation):
        found[status] = _response(REFUSALS[status], error, retry=status == 503)
    for status, model in operation.others.items():
        content = {"application/json": {"schema": refs[model]}}
        found[status] = _response(REFUSALS.get(status, "Another answer"), content, retry=status == 503)
    return {str(status): found[status] for status in sorted(found)}


def _response(description: str, content: JsonObject, *, retry: bool = False, voted: bool = False) -> JsonObject:
    headers: JsonObject = {
        "X-Request-Id": {"description": "Names the request in the node's log", "schema": {"type": "string"}}
    }
    if voted:
        headers.update({name: {"description": text, "schema": schema} for name, (text, schema) in OF_VOTES.items()})
    if retry:
        headers["Retry-After"] = {"description": "Seconds", "required": True, "schema": {"type": "integer"}}
    return {"description": description, "headers": headers, "content": content}


def _identifier(operation: Operation) -> str:
    """post /v1/chat/completions → post_v1_chat_completions."""
    return re.sub(r"\W+", "_", f"{operation.method}{operation.path}").strip("_")
