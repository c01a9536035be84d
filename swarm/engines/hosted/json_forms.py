"""Answers held to a JSON schema by llguidance, for libraries that leave the sampling to us.

A `Form` says before each token which tokens may follow, as a mask over the vocabulary, and is told which did. Both
llguidance and numpy come with the engines that need them, and are imported with the first schema.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from swarm.errors import BadRequest, EngineFailed
from swarm.generation import JsonObject

# Else a model that has lost its way writes white space until its tokens are used up.
MOST_WHITE_SPACE = r"[ \n\t]{1,20}"


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
    # An answer that keeps one of several forms may keep two: no grammar tells.
    options = {"whitespace_flexible": True, "whitespace_pattern": MOST_WHITE_SPACE, "coerce_one_of": True}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        raise BadRequest(f"the schema cannot be kept: {' '.join(str(matcher.get_error()).split())}")
    return Form(matcher, numpy_side.allocate_token_bitmask(1, tokenizer.vocab_size))
