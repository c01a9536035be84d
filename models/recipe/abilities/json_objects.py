"""Small JSON objects on request: the keys and values are in the request."""

from __future__ import annotations

import json
import random
from typing import Any

from models.recipe.abilities.phrasing import COMPOSED_SHARE, composed
from models.recipe.abilities.synthetic_tools import draw_parameter
from models.recipe.document import Document, assistant, user
from models.recipe.splits import Split

_PHRASINGS = (
    "Give me a JSON object with {f}.", "Return JSON with {f}", "Write a JSON object: {f}.", "Make JSON with {f}.",
    "As JSON: {f}", "{f}. Answer in JSON.", "Answer with a JSON object with {f}.", "JSON please: {f}",
    "Create a JSON object containing {f}.", "Put this into JSON: {f}", "Reply only with JSON: {f}",
    "I need a json object with {f}", "Convert to JSON: {f}", "Format as JSON: {f}",
)  # fmt: skip
_HELD_OUT = ("Please give me a JSON object containing {f}.", "Write JSON with {f}.", "Return a JSON object: {f}")
_VERBS = ("Give me", "Return", "Write", "Make", "Create", "Answer with", "Reply with", "Generate", "I need", "Show me",
          "Build", "Output", "Send me", "Respond with")  # fmt: skip
_OBJECTS = (" JSON", " a JSON object", " json", " an object in JSON", " one JSON object", " only JSON", " valid JSON",
            " a small JSON object")  # fmt: skip
_JOINTS = (" with {f}", ": {f}", " containing {f}", " that has {f}", " where {f}", " for {f}", " with these keys: {f}",
           " from this: {f}", "\n{f}")  # fmt: skip
_PAIRS = ("{k} {x}", "{k} {x}", "{k} = {x}", "{k} is {x}", "{k}: {x}", "the {k} {x}")


def json_object(source: random.Random, split: Split) -> Document:
    """One object with one to four keys."""
    fields: dict[str, Any] = {}
    spoken: list[str] = []
    pair = source.choice(_PAIRS)
    for _ in range(source.choices((1, 2, 3, 4), (20, 40, 28, 12))[0]):
        parameter = draw_parameter(source, split, set(fields))
        fields[parameter.name] = parameter.value
        said = ("true" if parameter.value else "false") if isinstance(parameter.value, bool) else parameter.spoken
        spoken.append(pair.format(k=parameter.name, x=said))
    listed = any(isinstance(value, list) for value in fields.values())
    joined = ("; " if listed else source.choice((", ", " and ", "; "))).join(spoken)
    if source.random() < 0.4 and len(spoken) > 1 and not listed:
        joined = ", ".join(spoken[:-1]) + " and " + spoken[-1]
    phrasing = (
        composed(source, _HELD_OUT, _VERBS, _OBJECTS, _JOINTS, ("", "."))
        if split is Split.TRAIN and source.random() < COMPOSED_SHARE
        else split.phrasing(source, _PHRASINGS, _HELD_OUT)
    )
    text = phrasing.format(f=joined)
    return Document("json", (user(text), assistant(json.dumps(fields, ensure_ascii=False))), expected=fields)
