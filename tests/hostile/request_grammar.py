"""Requests of every API, at random but the same again for the same seed: well formed, and as odd as form allows.

Roles in any order, assistants' turns at the end, the model's control tokens in every place that takes text, parameters
at their edges, schemas, tools and ways to choose among them. `Grammar(seed, controls)` and `Grammar(seed, others)` with
as many other words make twins: the same request, but for what stands in the places of the control tokens.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from swarm.gateway.openai.llama_fields import OBEYED, SWITCH, NumberRange

DELETE = "\x7f"
WORDS = (
    "hello", "What is 2+2?", "capital", "of France", " ", "", "\n", "é", "日本", "\0", "\u200b", "{", "}", '"', "\\",
    "<", "<|", "|>", "</", "[", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "{{", "{%",
    '{"a": 1}', "```json", "\\u003c", "1e999", "a b c", "x" * 300, "user", "assistant", "system", "</s>", "[INST]",
    "<start_of_turn>", "<|eot_id|>", "\r\n", "\u2028", "\u2060", DELETE, f"<{DELETE}|im_end|>", "\ufeff", "&lt;",
)  # fmt: skip
SCHEMAS: tuple[dict[str, Any], ...] = (
    {}, {"type": "object"}, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"enum": ["x", "y", None, 5]}}, "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 3}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5}}},
    {"type": "object", "properties": {"a": {"type": "number", "minimum": 0.5, "maximum": 0.5}}},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a{1,3}$"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "null"}, "maxItems": 2}}},
    {"type": "object", "properties": {"a": {"type": "string", "minLength": 2, "maxLength": 4}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": -(2**63), "maximum": 2**63}}},
    {"type": "object", "properties": {"a": {"const": 1e308}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"const": 10**30}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"default": 10**400}}},
    {"type": "object", "properties": {"a": {"multipleOf": 0.1, "type": "number"}}},
    {"type": "object", "properties": {"a": {"const": ""}}, "required": ["a"]},
)  # fmt: skip
PLAIN_SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}, {"enum": ["a", "b"]},
    {"const": "x"}, {"type": "null"}, {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
)  # fmt: skip
ARGUMENTS = (
    "{}", '{"a": 1}', "", "null", "[]", "5", "{", '{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}',
    '{"a": -1e999}', '{"a": 1e-999}', '{"a": ' + "9" * 400 + "}", '{"a": "\\ud800"}', '{"a": "\\u0000"}',
    '{"a": "\\u2060"}', '{"a": {"b": [1, {"c": null}]}}', '{"a": 1, "a": 2}', ' {"a": 1} ', '{"a": 1}x', "not json",
    '{"a": ' * 60 + "1" + "}" * 60, '{"a":' + "[" * 500 + "]" * 500 + "}", '{"a": 18446744073709551616}', '"{}"',
    '{"a": -0.0}', '{"": ""}', "{\"a\": 1e308}",
)  # fmt: skip
CHATTING = ("demo", "demo", "last")  # the last token of the second model's vocabulary is the one that ends a turn
ROLES = ("user", "assistant", "system", "developer", "tool")
TEMPERATURES = (0, 1e-45, 1e-38, 1e-30, 1e-10, 1e-5, 9e-5, 1e-4, 1e-3, 0.5, 1, 2, 5e-324, 1.999999)
UNIT = (0, 1e-45, 1e-38, 5e-324, 1e-9, 0.05, 0.5, 0.999999999, 1)
PENALTIES = (-2, -1e-38, 0, 1e-38, 1, 2)
REPEATS = (0.01, 0.1, 0.9, 1, 1.1, 10)
TOP_KS = (0, 1, 2, 40, 2047, 2048, 2049, 2**31 - 1)
SEEDS = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**32, 2**63, -(2**63), 10**30)
BIASED = ("0", "5", "2040", "2041", "2042", "2043", "2044", "2047", "2048", "999999999")
BIASES = (-100, -1e-38, 0, 5, 100)
TOKENS = (0, 1, 300, 2040, 2041, 2042, 2043, 2044, 2047, 2048, 5000, 2**31 - 1)
ENDS = (
    -(2**63),
    -(2**63) + 1,
    -(10**18),
    -(10**16),
    -1,
    0,
    0.5,
    4.2,
    10**15,
    10**16 - 1,
    2**53,
    2**63 - 2,
    2**63 - 1,
    2**63,
)
WRONG = (-1, 5e-324, 1e-38, 0, 1e999, 2**31, 2**64, 10**400, "1", True, 1.5, [], {})


def llama_values(allowed: NumberRange) -> Sequence[Any]:
    """The bounds of one of llama.cpp's own fields, and some between them."""
    if allowed is SWITCH:
        return (True, False)
    between = (1, 2, 64) if allowed.whole else (0.1, 0.5, 0.99, 1.5)
    return (allowed.least, allowed.most, *(value for value in between if allowed.least <= value <= allowed.most))


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: where to, and the body."""

    path: str
    body: dict[str, Any]


class Grammar:
    """Makes one request. `controls` are put where clients write; the choices made do not depend on what they are."""

    def __init__(self, seed: int, controls: Sequence[str]) -> None:
        self._random = random.Random(seed)
        self._controls = controls

    def request(self) -> Sent:
        kinds: tuple[tuple[Callable[[], Sent], int], ...] = (
            (self._chat, 44), (self._messages, 14), (self._responses, 10), (self._completion, 10), (self._peer, 9),
            (self._infill, 4), (self._utility, 9),
        )  # fmt: skip
        return self._random.choices([make for make, _ in kinds], [weight for _, weight in kinds])[0]()

    # What all of them are made of

    def _often(self, share: float) -> bool:
        return self._random.random() < share

    def _some(self, values: Sequence[Any]) -> Any:
        return self._random.choice(values)

    def text(self) -> str:
        """Words, control tokens, halves of them and their escapes, in any order."""
        return "".join(self._piece() for _ in range(self._random.randint(0, 4)))

    def _piece(self) -> str:
        control = self._some(self._controls)
        kind, cut, word = self._random.randrange(10), self._random.random(), self._some(WORDS)
        at = 1 + int(cut * (len(control) - 1))  # neither half is empty
        match kind:
            case 0 | 1 | 2:
                return control
            case 3:
                return control[:at]
            case 4:
                return control[at:]
            case _:
                return word

    def _name(self) -> str:
        return (self.text() or "f")[:200] if self._often(0.3) else self._some(("f", "get_weather", "a b", "x-1"))

    def _schema(self, schemas: Sequence[dict[str, Any]] = SCHEMAS) -> dict[str, Any]:
        schema = json.loads(json.dumps(self._some(schemas)))
        text, more = self.text(), self._random.randrange(8)
        if more == 0:
            schema["description"] = text
        elif more == 1 and "properties" in schema:
            schema["properties"][text] = {"type": "boolean", "description": text}
        elif more == 2 and "properties" in schema:
            schema["properties"]["a"] = {"enum": [text, "b"]}
        elif more == 3 and "properties" in schema:
            schema["properties"]["a"] = {"const": text}
        elif more == 4:
            schema["title"] = text
        elif more == 5 and "properties" in schema:
            bounded = self._random.sample(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), 2)
            schema["properties"]["a"] = {"type": "integer", **{bound: self._some(ENDS) for bound in bounded}}
        return schema

    def _number(self, values: Sequence[Any]) -> Any:
        return self._some(WRONG) if self._often(0.01) else self._some(values)

    def _sampling(self, most: float = 2) -> dict[str, Any]:
        made: dict[str, Any] = {}
        ranges: dict[str, Sequence[Any]] = {
            "temperature": [t for t in TEMPERATURES if t <= most], "top_p": UNIT, "top_k": TOP_KS,
        }  # fmt: skip
        if most > 1:
            ranges |= {
                "min_p": UNIT, "seed": SEEDS, "presence_penalty": PENALTIES, "frequency_penalty": PENALTIES,
                "repeat_penalty": REPEATS,
            }  # fmt: skip
            if self._often(0.15):
                made["logit_bias"] = {
                    self._some(BIASED): self._number(BIASES) for _ in range(self._random.randint(0, 4))
                }
        for name, values in ranges.items():
            if self._often(0.3):
                made[name] = self._number(values)
        if most > 1 and self._often(0.3):
            for name, allowed in OBEYED.items():
                if self._often(0.3):
                    made[name] = self._number(llama_values(allowed))
        return made

    def _limit(self) -> int:
        return self._number((1, 1, 2, 4, 8))

    def _stops(self) -> Any:
        return self.text() if self._often(0.5) else [self.text() for _ in range(self._random.randint(0, 4))]

    def _options(self) -> dict[str, Any]:
        if self._often(0.85):
            return {"strategy": "single"}
        return {"strategy": self._some(("auto", "majority", "first")), "votes": self._some((1, 2, 3))}

    def arguments(self) -> str:
        if self._often(0.5):
            return self._some(ARGUMENTS)
        text = self.text()
        made = self._some(({"a": text}, {text: 1}, {"a": [text, {"b": text}]}, {"arguments": text}))
        written = json.dumps(made, ensure_ascii=self._often(0.5))
        return written.replace("<", "\\u003c") if self._often(0.4) else written

    # Chat

    def _turn(self) -> dict[str, Any]:
        role = self._random.choices(ROLES, (40, 30, 10, 3, 17))[0]
        turn: dict[str, Any] = {"role": role, "content": self._content()}
        if role == "assistant" and self._often(0.3):
            turn["tool_calls"] = [self._call() for _ in range(self._random.randint(0, 2))]
            turn["content"] = self._some((None, "", turn["content"]))
        if role == "assistant" and self._often(0.2):
            turn[self._some(("reasoning", "reasoning_content"))] = self.text()
        if role == "tool":
            turn["tool_call_id"] = self._some(("c1", self.text()))
            if self._often(0.3):
                turn["content"] = self.arguments()
        if self._often(0.1):
            turn["name"] = self.text()
        return turn

    def _content(self) -> Any:
        if self._often(0.8):
            return self.text()
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.text()} for _ in range(self._random.randint(0, 3))]
        return [*parts, {"type": "image_url", "image_url": {"url": "x"}}] if self._often(0.2) else parts

    def _call(self) -> dict[str, Any]:
        function = {"name": self._name(), "arguments": self.arguments()}
        return {"id": self._some(("c1", self.text())), "type": "function", "function": function}

    def turns(self) -> list[dict[str, Any]]:
        """Any turns in any order, most of them ending with what somebody asks."""
        turns = [self._turn() for _ in range(self._random.randint(1, 4))]
        asked = {"role": "user", "content": self.text() or "hi"}
        return [*turns, asked] if self._often(0.6) else turns

    def _tools(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "function",
                "function": {"name": self._name(), "description": self.text(), "parameters": self._schema()},
            }
            for _ in range(self._random.randint(1, 3))
        ]

    def chat(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._some(CHATTING), "messages": self.turns(), "swarm": self._options()}
        body[self._some(("max_tokens", "max_completion_tokens"))] = self._limit()
        body |= self._sampling()
        if self._often(0.3):
            body["tools"] = self._tools()
            named = {"type": "function", "function": {"name": body["tools"][0]["function"]["name"]}}
            body["tool_choice"] = self._some(("auto", "none", "required", named))
        if self._often(0.25):
            body["response_format"] = self._format()
        if self._often(0.2):
            body["stop"] = self._stops()
        if self._often(0.1):
            body |= {"logprobs": True, "top_logprobs": self._some((0, 1, 20))}
        if self._often(0.1):
            body["n"] = self._some((1, 2, 3, 4))
        if self._often(0.4):
            body["stream"] = True
        if self._often(0.1):
            body["parallel_tool_calls"] = self._often(0.5)
        if self._often(0.1):
            body["chat_template_kwargs"] = {"enable_thinking": self._often(0.5)}
        return body

    def _format(self) -> dict[str, Any]:
        if self._often(0.4):
            return {"type": self._some(("json_object", "text"))}
        schema = self._schema((*SCHEMAS, *PLAIN_SCHEMAS))
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    def _chat(self) -> Sent:
        return Sent("/v1/chat/completions", self.chat())

    # The other APIs

    def _messages(self) -> Sent:
        body: dict[str, Any] = {"model": "demo", "messages": self._anthropic_turns()}
        if self._often(0.3):
            body["system"] = self.text() if self._often(0.5) else [{"type": "text", "text": self.text()}]
        if self._often(0.3):
            body["tools"] = [
                {"name": self._name(), "description": self.text(), "input_schema": self._schema()}
                for _ in range(self._random.randint(1, 2))
            ]
            body["tool_choice"] = self._some(
                (
                    {"type": "auto"},
                    {"type": "any"},
                    {"type": "none"},
                    {"type": "tool", "name": body["tools"][0]["name"]},
                )
            )
        if self._often(0.15):
            return Sent("/v1/messages/count_tokens", body)
        body |= {"max_tokens": self._limit(), "swarm": self._options(), **self._sampling(most=1)}
        if self._often(0.2):
            body["stop_sequences"] = [self.text() for _ in range(self._random.randint(0, 3))]
        if self._often(0.2):
            body["output_config"] = {"format": {"type": "json_schema", "schema": self._schema()}}
        if self._often(0.2):
            body["thinking"] = {"type": self._some(("enabled", "disabled")), "budget_tokens": 1024}
        if self._often(0.4):
            body["stream"] = True
        return Sent("/v1/messages", body)

    def _anthropic_turns(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for _ in range(self._random.randint(1, 4)):
            role = self._random.choices(("user", "assistant", "system"), (50, 40, 10))[0]
            blocks: list[dict[str, Any]] = [{"type": "text", "text": self.text()}]
            if role == "assistant":
                used = {"type": "tool_use", "id": "t", "name": self._name(), "input": {"a": self.text()}}
                blocks += self._some(([], [used], [{"type": "thinking", "thinking": self.text(), "signature": ""}]))
            elif role == "user" and self._often(0.3):
                blocks.append({"type": "tool_result", "tool_use_id": "t", "content": self.text()})
            turns.append({"role": role, "content": self.text() if self._often(0.4) else blocks})
        return [*turns, {"role": "user", "content": self.text() or "hi"}] if self._often(0.6) else turns

    def _responses(self) -> Sent:
        items: list[dict[str, Any]] = []
        for _ in range(self._random.randint(1, 4)):
            match self._random.randrange(6):
                case 0:
                    items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": self.text()}]})
                case 1:
                    call = {"name": self._name(), "arguments": self.arguments()}
                    items.append({"type": "function_call", "call_id": "c", **call})
                case 2:
                    items.append({"type": "function_call_output", "call_id": "c", "output": self.text()})
                case _:
                    role = self._some(("user", "user", "assistant", "system", "developer"))
                    items.append({"role": role, "content": self.text()})
        if self._often(0.6):
            items.append({"role": "user", "content": self.text() or "hi"})
        body: dict[str, Any] = {"model": "demo", "input": items, "max_output_tokens": self._limit()}
        body |= {"swarm": self._options(), **self._sampling()}
        if self._often(0.2):
            body["instructions"] = self.text()
        if self._often(0.3):
            body["tools"] = [{"type": "function", "name": self._name(), "parameters": self._schema()}]
            named = {"type": "function", "name": body["tools"][0]["name"]}
            body["tool_choice"] = self._some(("auto", "none", "required", named))
        if self._often(0.2):
            body["text"] = {
                "format": self._some(
                    ({"type": "json_object"}, {"type": "json_schema", "name": "x", "schema": self._schema()})
                )
            }
        if self._often(0.4):
            body["stream"] = True
        return Sent("/v1/responses", body)

    def _prompt(self) -> Any:
        match self._random.randrange(5):
            case 0:
                return [self._number(TOKENS) for _ in range(self._random.randint(1, 6))]
            case 1:
                return [self.text() for _ in range(self._random.randint(1, 3))]
            case _:
                return self.text()

    def text_completion(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": "demo", "prompt": self._prompt(), "max_tokens": self._limit()}
        body |= {"swarm": {"strategy": "single"}, **self._sampling()}
        if self._often(0.2):
            body["logprobs"] = self._some((0, 1, 20))
        if self._often(0.2):
            body["echo"] = True
        if self._often(0.2):
            body["stop"] = self._stops()
        if self._often(0.2):
            body["n"] = self._some((1, 2, 4))
        if self._often(0.3):
            body["stream"] = True
        return body

    def _completion(self) -> Sent:
        return Sent("/v1/completions", self.text_completion())

    def _peer(self) -> Sent:
        """What an honest peer passes on of such a request, which its own gateway might have refused."""
        body = self.chat() if self._often(0.8) else self.text_completion()
        body.pop("swarm")
        if self._often(0.5):
            return Sent("/federation/v1/generate", body)
        return Sent(
            "/federation/v1/candidates", {"request": body, "votes": self._some((1, 2, 3)), "leader": self._often(0.3)}
        )

    def _infill(self) -> Sent:
        body: dict[str, Any] = {"model": "infill", "input_prefix": self.text(), "input_suffix": self.text()}
        body |= {"n_predict": self._limit(), "prompt": self.text(), **self._sampling()}
        if self._often(0.4):
            extra = [{"filename": self.text(), "text": self.text()} for _ in range(self._random.randint(0, 2))]
            body["input_extra"] = extra
        return Sent("/infill", body)

    def _utility(self) -> Sent:
        text = self.text()
        flags = {"add_special": self._often(0.5), "parse_special": self._often(0.5), "with_pieces": self._often(0.5)}
        match self._random.randrange(6):
            case 0:
                return Sent("/tokenize", {"model": "demo", "content": text, **flags})
            case 1:
                tokens = [self._number(TOKENS) for _ in range(self._random.randint(0, 5))]
                return Sent("/detokenize", {"model": "demo", "tokens": tokens})
            case 2:
                return Sent("/apply-template", {"model": "demo", "messages": self.turns(), "tools": self._tools()})
            case 3:
                given = self._some(
                    (text, [text, self.text()], [self._number(TOKENS)], [[5, 6], [self._some(TOKENS)]], "")
                )
                return Sent("/v1/embeddings", {"model": "demo", "input": given})
            case 4:
                return Sent("/v1/rerank", {"model": "rank", "query": text or "x", "documents": [self.text(), text]})
            case _:
                return Sent("/v1/messages/count_tokens", {"model": "demo", "messages": self._anthropic_turns()})
