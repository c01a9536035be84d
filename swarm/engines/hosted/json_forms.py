"""Answers held to a JSON schema by llguidance, for libraries that leave the sampling to us.

A `Form` says before each token which tokens may follow, as a mask over the vocabulary, and is told which did. Both
llguidance and numpy come with the engines that need them, and are imported with the first schema.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any, Final

from pydantic import JsonValue

from swarm.engines.llama_cpp.schema_words import BOUNDS, DATA_KEYWORDS, NAMED_SCHEMAS
from swarm.errors import BadRequest
from swarm.generation import JsonObject

# White space between the parts of JSON is as llama.cpp's own grammars have it: small models would write it for ever. An
# answer that keeps one of several forms may keep two: no grammar tells. What no grammar says was told before
# (`llama_cpp/grammar.py`), and is left out.
OPTIONS: Final = {"whitespace_pattern": r"( |\n[ \t]{0,20})?", "coerce_one_of": True, "lenient": True}
LEXER_STATES: Final = 50_000  # a fifth of llguidance's own limit: each is a kilobyte or two, and somebody's memory
_ESCAPE_OR_OTHER = re.compile(r'\\\\(\\\\|["bfnrt])|\\.|[^\\]', re.DOTALL)
_ESCAPED = {'"': '"', "\\\\": "\\\\", "b": r"\x08", "f": r"\x0C", "n": r"\n", "r": r"\r", "t": r"\t"}
FAR: Final = 1e300  # bounds beyond it are none to a double, and no expression is made of them


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
        self._refuse_broken()
        known = numpy.unpackbits(self._mask[0].view(numpy.uint8), bitorder="little")[:size].astype(bool)
        return known if len(known) == size else numpy.pad(known, (0, size - len(known)))  # what no token is for

    def accept(self, token: int) -> None:
        """`token` came next: one that was allowed."""
        self._matcher.consume_token(token)
        self._refuse_broken()

    def _refuse_broken(self) -> None:
        """Raises BadRequest once llguidance has given up: some schemas take more with each token."""
        if self._matcher.is_error():
            why = " ".join(str(self._matcher.get_error()).split())
            raise BadRequest(f"the schema cannot be kept within an answer: {why:.200}")

    def copy(self) -> Form:
        """The same for another answer."""
        return Form(self._matcher.deep_copy(), self._mask.copy())


def form_of(tokenizer: Any, schema: JsonObject) -> Form:
    """The form of `schema` over the tokens of an LLTokenizer. BadRequest for a schema that cannot be kept.

    Takes up to a second for the largest schemas that are let through (`schema_refusal.py`).
    """
    llguidance = importlib.import_module("llguidance")
    numpy_side = importlib.import_module("llguidance.numpy")
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(closed(schema)), overrides=dict(OPTIONS))
    except ValueError as error:  # half of a surrogate pair, which is no JSON to it
        raise BadRequest(f"the schema cannot be kept: {' '.join(str(error).split()):.200}") from error
    limits = llguidance.LLParserLimits(max_lexer_states=LEXER_STATES)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        raise BadRequest(f"the schema cannot be kept: {' '.join(str(matcher.get_error()).split()):.200}")
    return Form(matcher, numpy_side.allocate_token_bitmask(1, tokenizer.vocab_size))


def closed(schema: JsonValue) -> JsonValue:
    """A schema that was written for llama.cpp's grammars (`llama_cpp/grammar.py`), as it means the same here.

    Objects have no further properties, and arrays no further items, where some are named and nothing is said of others:
    a small model that may invent some does, and never ends. Patterns are of the text, not of its JSON.
    """
    if not isinstance(schema, dict):
        return [closed(member) for member in schema] if isinstance(schema, list) else schema
    made: JsonObject = {}
    for keyword, value in schema.items():
        if keyword in BOUNDS and isinstance(value, int | float) and abs(value) >= FAR:
            continue
        if keyword == "pattern" and isinstance(value, str):
            made[keyword] = text_pattern(value)
        elif keyword in NAMED_SCHEMAS and isinstance(value, dict):
            made[keyword] = {name: closed(member) for name, member in value.items()}
        else:
            made[keyword] = value if keyword in DATA_KEYWORDS else closed(value)
    if "properties" in made and not made.keys() & {"additionalProperties", "patternProperties"}:
        made["additionalProperties"] = False
    first = made.get("prefixItems")
    if isinstance(first, list) and "items" not in made:
        made |= {"items": False, "minItems": len(first)}
    return made


def text_pattern(pattern: str) -> str:
    """What a `grammar_pattern` says of a text's JSON, said of the text: its escapes are the characters themselves."""
    return _ESCAPE_OR_OTHER.sub(lambda found: _ESCAPED.get(found[1] or "", found[0]), pattern)
