"""Tools nobody has seen before: names, parameters and values drawn at random, and a request that fits.

What is learned is not any tool but the way from a request to a call: find the tool whose words are in the request, copy
its name, copy the values under the right keys.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from models.recipe.abilities.known_tools import KNOWN_NAMES
from models.recipe.abilities.values import (
    ARRAY_PARAMETERS,
    BOOLEAN_PARAMETERS,
    ENUMS,
    INTEGER_PARAMETERS,
    NOUNS,
    NUMBER_PARAMETERS,
    PARAMETERS,
    VERBS,
    integer_value,
    invented_word,
    number_value,
    string_value,
)
from models.recipe.document import Tool
from models.recipe.splits import Split

INVENTED_SHARE = 0.35  # of the nouns in tool names: these can only be copied
_TYPES = (("string", 46), ("integer", 18), ("number", 9), ("boolean", 8), ("enum", 10), ("array", 9))


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    schema: dict[str, Any]
    value: Any
    spoken: str  # the value as a request says it


@dataclass(frozen=True, slots=True)
class SyntheticTool:
    name: str
    verb: str
    noun: str
    description: str
    parameters: tuple[Parameter, ...]
    required: tuple[str, ...]

    def schema(self) -> Tool:
        properties = {parameter.name: parameter.schema for parameter in self.parameters}
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if self.required:
            parameters["required"] = list(self.required)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def draw_parameter(source: random.Random, split: Split, taken: set[str]) -> Parameter:
    """A parameter with a value of its type; its name is none of `taken`."""
    while True:
        kind = source.choices([name for name, _ in _TYPES], [weight for _, weight in _TYPES])[0]
        parameter = _parameter_of(source, split, kind)
        if parameter.name not in taken:
            return parameter


def _parameter_of(source: random.Random, split: Split, kind: str) -> Parameter:
    match kind:
        case "integer":
            whole = integer_value(source, split)
            return _named(source, source.choice(INTEGER_PARAMETERS), {"type": "integer"}, whole, str(whole))
        case "number":
            number = number_value(source, split)
            return _named(source, source.choice(NUMBER_PARAMETERS), {"type": "number"}, number, str(number))
        case "boolean":
            truth = source.random() < 0.5
            spoken = source.choice(("true", "yes", "on") if truth else ("false", "no", "off"))
            return _named(source, source.choice(BOOLEAN_PARAMETERS), {"type": "boolean"}, truth, spoken)
        case "enum":
            name, options = source.choice(ENUMS)
            if source.random() < 0.3:
                options = tuple(split.draw(lambda: invented_word(source)) for _ in range(3))
            value = source.choice(options)
            return _named(source, name, {"type": "string", "enum": list(options)}, value, value)
        case "array":
            wholes = source.random() < 0.2
            made = [_item(source, split, wholes) for _ in range(source.randint(1, 3))]
            schema = {"type": "array", "items": {"type": "integer" if wholes else "string"}}
            return _named(source, source.choice(ARRAY_PARAMETERS), schema, made, _listed([str(item) for item in made]))
        case _:
            text = string_value(source, split)
            name = source.choice(PARAMETERS) if source.random() < 0.75 else invented_word(source)
            return _named(source, name, {"type": "string"}, text, text)


def _item(source: random.Random, split: Split, whole: bool) -> int | str:
    if whole:
        return integer_value(source, split)
    return split.draw(lambda: string_value(source, split).split(" ")[0])


def _named(source: random.Random, name: str, schema: dict[str, Any], value: Any, spoken: str) -> Parameter:
    if source.random() < 0.12:
        name = f"{source.choice(('max', 'min', 'new', 'main', 'first', 'target'))}_{name}"
    if source.random() < 0.2:
        schema = {**schema, "description": f"The {name.replace('_', ' ')}"}
    return Parameter(name, schema, value, spoken)


def draw_tool(source: random.Random, split: Split, arguments: int) -> SyntheticTool:
    """A tool with so many parameters; its name belongs to this side."""
    while True:
        verb = source.choice(VERBS) if source.random() < 0.85 else invented_word(source)
        noun = invented_word(source) if source.random() < INVENTED_SHARE else source.choice(NOUNS)
        if source.random() < 0.15:
            noun = f"{source.choice(NOUNS)}_{noun}"
        name = f"{verb}_{noun}" if source.random() < 0.85 else verb + noun.title().replace("_", "")
        if split.owns(name) and name not in KNOWN_NAMES:
            break
    spoken_noun = noun.replace("_", " ")
    parameters: list[Parameter] = []
    for _ in range(arguments):
        parameters.append(draw_parameter(source, split, {parameter.name for parameter in parameters}))
    needed = source.choices((len(parameters), 0, source.randint(0, len(parameters))), (75, 13, 12))[0]
    required = tuple(parameter.name for parameter in parameters[:needed])
    article = source.choice(("a", "the", "one", ""))
    described = source.random() < 0.75
    description = " ".join(f"{verb.capitalize()} {article} {spoken_noun}".split()) if described else ""
    return SyntheticTool(name, verb, spoken_noun, description, tuple(parameters), required)


_ACTIONS = (
    "{v} the {n}", "{v} a {n}", "please {v} the {n}", "can you {v} the {n}", "I want to {v} a {n}", "{v} {n}",
    "could you {v} one {n}", "I need to {v} the {n}", "{v} my {n}", "use {t}", "call {t}", "run {t}", "{t}",
    "please use {t}", "help me {v} the {n}", "now {v} the {n}", "let's {v} a {n}", "you should {v} the {n}",
    "use the tool {t}", "what is the {n}, {v} it",
)  # fmt: skip
CODE_SHARE = 0.05  # of the requests are written as a call
_AS_CODE = ("{c}", "What is {c}?", "What is the value of {c}? Use the tool.", "Run {c}", "Call {c}.", "Give me {c}")
_JOINTS = (" with ", ": ", ", ", " for ", " where ", " using ")
_PAIRS = ("{k} {x}", "{k} {x}", "{k} = {x}", "{k} is {x}", "the {k} {x}", "{k}: {x}", "{x} as {k}", '{k} "{x}"')
_SEPARATORS = (" and ", ", ", " and ", "; ")


def request_for(source: random.Random, tool: SyntheticTool, parameters: tuple[Parameter, ...]) -> str:
    """A request that names the tool or what it does, and every value."""
    if parameters and source.random() < CODE_SHARE:
        values = ", ".join(parameter.spoken for parameter in parameters)
        return source.choice(_AS_CODE).format(c=f"{tool.name}({values})")
    text = source.choice(_ACTIONS).format(v=tool.verb, n=tool.noun, t=tool.name)
    if source.random() < 0.5:
        text = text[0].upper() + text[1:]
    if parameters:
        alone = len(parameters) == 1 and parameters[0].schema["type"] in ("string", "array")
        if alone and source.random() < 0.4:
            text += source.choice((" {x}", " for {x}", ": {x}", ' "{x}"', " of {x}", " in {x}", " with {x}")).format(
                x=parameters[0].spoken
            )
        else:
            listed = any(p.schema["type"] == "array" for p in parameters)
            pair, separator = source.choice(_PAIRS), "; " if listed else source.choice(_SEPARATORS)
            keys = source.random() < 0.5
            texts = [pair.format(k=p.name.replace("_", " ") if keys else p.name, x=p.spoken) for p in parameters]
            text += source.choice(_JOINTS) + separator.join(texts)
    return text + source.choice((".", "", "", "?", "!", " please", ". Thanks"))


def arguments_of(source: random.Random, tool: SyntheticTool) -> tuple[Parameter, ...]:
    """The parameters that a request gives a value to: all required ones, and some of the others."""
    must = len(tool.required)
    optional = range(must, len(tool.parameters))
    kept = set(source.sample(optional, source.randint(0 if must or not optional else 1, len(optional))))
    return tuple(parameter for at, parameter in enumerate(tool.parameters) if at < must or at in kept)
