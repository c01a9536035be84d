"""Answers held to a JSON schema by llguidance, for libraries that leave the sampling to us.

A `Form` says before each token which tokens may follow, as a mask over the vocabulary, and is told which did. Both
llguidance and numpy come with the engines that need them, and are imported with the first schema.
"""

from __future__ import annotations

import importlib
import json
from typing import Any, Final

from pydantic import JsonValue

from swarm.engines.llama_cpp.schema_words import DATA_KEYWORDS, NAMED_SCHEMAS
from swarm.errors import BadRequest, EngineFailed
from swarm.generation import JsonObject

# White space between the parts of JSON is as llama.cpp's own grammars have it: small models would write it for ever. An
# answer that keeps one of several forms may keep two: no grammar tells.
OPTIONS: Final = {"whitespace_pattern": r"( |\n[ \t]{0,20})?", "coerce_one_of": True}


class Form:
    """What one answer may still be."""

    def __init__(self, matcher: Any, mask: Any) -> None:
        self._matcher = matcher
        self._mask = mask
        self._fill = importlib.import_module("llguidance.numpy").fill_next_token_bitmask

    def allowed(self, size: int) -> Any:
        """Which of the first `size` tokens may come next: a numpy array of bool."""
        numpy = importlib.import_module("numpy")
        self._fill(self._matcher, self._mask)
        known = numpy.unpackbits(self._mask[0].view(numpy.uint8), bitorder="little")[:size].astype(bool)
        return known if len(known) == size else numpy.pad(known, (0, size - len(known)))  # what no token is for

    def accept(self, token: int) -> None:
        """`token` came next. Raises EngineFailed for one that may not."""
        if not self._matcher.consume_token(token):
            raise EngineFailed(f"the form of an answer was broken: {self._matcher.get_error()}")

    def copy(self) -> Form:
        """The same for another answer."""
        return Form(self._matcher.deep_copy(), self._mask.copy())


def form_of(tokenizer: Any, schema: JsonObject) -> Form:
    """The form of `schema` over the tokens of an LLTokenizer. BadRequest for a schema that cannot be kept.

    Takes up to a second for the largest schemas that are let through (`schema_refusal.py`).
    """
    llguidance = importlib.import_module("llguidance")
    numpy_side = importlib.import_module("llguidance.numpy")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(closed(schema)), overrides=dict(OPTIONS))
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        raise BadRequest(f"the schema cannot be kept: {' '.join(str(matcher.get_error()).split())}")
    return Form(matcher, numpy_side.allocate_token_bitmask(1, tokenizer.vocab_size))


def closed(schema: JsonValue) -> JsonValue:
    """`schema` with no further properties where some are named and nothing is said of others, as llama.cpp has it.

    A small model that may invent properties does, and never ends.
    """
    if not isinstance(schema, dict):
        return [closed(member) for member in schema] if isinstance(schema, list) else schema
    made: JsonObject = {}
    for keyword, value in schema.items():
        if keyword in NAMED_SCHEMAS and isinstance(value, dict):
            made[keyword] = {name: closed(member) for name, member in value.items()}
        else:
            made[keyword] = value if keyword in DATA_KEYWORDS else closed(value)
    if "properties" in made and not made.keys() & {
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
    }:
        made["additionalProperties"] = False
    return made
