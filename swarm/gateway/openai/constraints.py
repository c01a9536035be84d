"""Fields by which other servers constrain an answer: obeyed where they mean what ours mean, else never dropped.

vLLM has `structured_outputs`, and `guided_json` and its like before that; SGLang `regex`, `ebnf` and `json_schema`;
llama.cpp `grammar` and `json_schema`; text-generation-inference `grammar` with a type; Ollama `format`. Clients send
them at the top of a body, or in an `extra_body` that was to be unpacked. A schema, a list of choices and an expression
are enforced as `response_format` is, strictly: nobody sends them as a hint. A grammar is not: what it would cost
llama.cpp nobody can tell, and some stop it for everybody. That, and what else has no meaning here, is `foreign`:
refused by engines of this swarm, and passed on to an upstream.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from pydantic import ValidationError

from swarm.errors import BadRequest
from swarm.gateway.http.bodies import is_finite
from swarm.generation import JsonObject, JsonSchemaFormat, ResponseFormat

Made = ResponseFormat | None  # what a field means here; None for what only an upstream may know
_JSON_MODE = "json"
_WRAPPED = frozenset({"name", "description", "schema", "strict"})  # OpenAI's own form of a schema


def constrained(
    extra: Mapping[str, object], own: ResponseFormat | None, own_field: str = "response_format"
) -> tuple[ResponseFormat | None, str | None]:
    """The form of an answer that a body's `extra` fields ask for, or its `own`; and a field that is foreign.

    Raises BadRequest for values that mean nothing, and for two demands at once.
    """
    found = list(_found(extra))
    found += [(f"extra_body.{name}", made) for name, made in _found(fields_of(extra.get("extra_body")))]
    demanded = [own_field] if own is not None and own.type != "text" else []
    demanded += [name for name, _ in found]
    if len(demanded) > 1:
        both = f"{demanded[0]} and {demanded[1]} both say what form the answer must have: send one of them"
        raise BadRequest(both, param=demanded[1])
    if not found:
        return own, None
    name, made = found[0]
    return (own, name) if made is None else (made.model_copy(update={"field": name}), None)


def _found(extra: Mapping[str, object]) -> Iterator[tuple[str, Made]]:
    for name, meaning in MEANINGS.items():
        value = extra.get(name)
        if value is None or value in ("", [], {}, False):
            continue
        try:
            yield from meaning(name, value)
        except ValidationError as error:
            raise BadRequest(f"{name}: {error.errors()[0]['msg']}", param=name) from error


def schema_form(name: str, schema: object) -> ResponseFormat:
    """The form of an answer that keeps `schema`, a JSON schema or its text."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise BadRequest(f"{name} is no JSON schema: {error}", param=name) from error
    if not isinstance(schema, dict):
        raise BadRequest(f"{name} is {schema!r:.60}: it must be a JSON schema", param=name)
    given = cast("JsonObject", schema)
    if isinstance(given.get("schema"), dict) and given.keys() <= _WRAPPED:
        given = cast("JsonObject", given["schema"])
    if not is_finite(given):
        raise BadRequest(f"{name} has a number that is not finite", param=name)
    return ResponseFormat(type="json_schema", json_schema=JsonSchemaFormat(schema=given, strict=True))


def _schema(name: str, value: object) -> Iterator[tuple[str, Made]]:
    yield name, schema_form(name, value)


def _choice(name: str, value: object) -> Iterator[tuple[str, Made]]:
    texts = cast("list[object]", value) if isinstance(value, list) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise BadRequest(f"{name} must be a list of texts, and not an empty one", param=name)
    yield name, ResponseFormat(type="choice", choice=tuple(cast("list[str]", texts)))


def _regex(name: str, value: object) -> Iterator[tuple[str, Made]]:
    if not isinstance(value, str):
        raise BadRequest(f"{name} is {value!r:.60}: it must be a regular expression", param=name)
    yield name, ResponseFormat(type="regex", regex=value)


def _foreign(name: str, value: object) -> Iterator[tuple[str, Made]]:
    yield name, None


def _grammar(name: str, value: object) -> Iterator[tuple[str, Made]]:
    """A grammar as text; text-generation-inference has schemas and expressions under the same name."""
    typed = fields_of(value)
    match typed.get("type"):
        case "json" | "json_object" | "json_schema":
            yield name, schema_form(name, typed.get("value"))
        case "regex":
            yield from _regex(name, typed.get("value"))
        case _:
            yield name, None


def _format(name: str, value: object) -> Iterator[tuple[str, Made]]:
    """Ollama's: `json`, or a schema."""
    if value == _JSON_MODE:
        yield name, ResponseFormat(type="json_object")
    elif isinstance(value, dict):
        yield name, schema_form(name, cast("object", value))
    else:
        raise BadRequest(f'{name} is {value!r:.60}: it must be "json" or a JSON schema', param=name)


def _structured(name: str, value: object) -> Iterator[tuple[str, Made]]:
    """vLLM's object of one demand."""
    if not isinstance(value, dict):
        raise BadRequest(f'{name} is {value!r:.60}: it must be an object such as {{"choice": [...]}}', param=name)
    for kind, demand in cast("Mapping[str, object]", value).items():
        if demand is None or demand is False or kind.startswith(("_", "disable_")):
            continue
        meaning = STRUCTURED.get(kind)
        yield from (_foreign if meaning is None else meaning)(f"{name}.{kind}", demand)


def _json_object(name: str, value: object) -> Iterator[tuple[str, Made]]:
    yield name, ResponseFormat(type="json_object")


def _response_format(name: str, value: object) -> Iterator[tuple[str, Made]]:
    """OpenAI's own, where an API has another place for it."""
    form = ResponseFormat.model_validate(with_its_schema(value))
    if form.type != "text":
        yield name, form


def fields_of(value: object) -> Mapping[str, object]:
    """The fields of a JSON object; of anything else none."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def with_its_schema(value: object) -> object:
    """A `response_format` as OpenAI has it: llama.cpp has the schema beside the type, which may be `json_object`."""
    given = fields_of(value)
    if given.get("type") not in ("json_object", "json_schema") or given.get("json_schema") is not None:
        return value
    if given.get("schema") in (None, {}):
        return value
    return {"type": "json_schema", "json_schema": {"schema": given["schema"], "strict": given.get("strict")}}


Meaning = Callable[[str, object], Iterator[tuple[str, Made]]]
STRUCTURED: Mapping[str, Meaning] = {
    "json": _schema, "choice": _choice, "regex": _regex, "json_object": _json_object
}  # fmt: skip
MEANINGS: Mapping[str, Meaning] = {
    "guided_json": _schema,
    "guided_choice": _choice,
    "guided_regex": _regex,
    "guided_grammar": _foreign,
    "guided_whitespace_pattern": _foreign,
    "structured_outputs": _structured,
    "structural_tag": _foreign,
    "json_schema": _schema,
    "grammar": _grammar,
    "grammar_lazy": _foreign,
    "grammar_triggers": _foreign,
    "regex": _regex,
    "ebnf": _foreign,
    "format": _format,
    "response_format": _response_format,
    "allowed_token_ids": _foreign,
    "bad_words": _foreign,
}
