"""The Response object, and the items of its output."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from swarm.gateway.answers.answer_form import with_unique_ids
from swarm.gateway.openai.tools import HostedTool, OfferedTool, input_of
from swarm.gateway.responses.bodies import ResponsesBody
from swarm.gateway.responses.tools import CustomTextTool, FunctionTool, NamespaceTool, ResponsesTool
from swarm.generation import Candidate, FinishReason, JsonObject, Usage

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ThoughtForm = Literal["reasoning_text", "summary_text"]
ToolOf = Callable[[str], OfferedTool]  # by the name that a model uses

_CUT_SHORT: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def new_id(prefix: str) -> str:
    """A random id: `prefix`_32 hex digits."""
    return f"{prefix}_{secrets.token_hex(16)}"


def status_of(reason: FinishReason) -> Literal["completed", "incomplete"]:
    """Whether an answer that ended so is complete."""
    return "incomplete" if reason in _CUT_SHORT else "completed"


def text_part(text: str, logprobs: JsonValue) -> JsonObject:
    """The one part of a message. `logprobs` are chat's, whose entries are the same here."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprob_entries(logprobs)}


def logprob_entries(logprobs: JsonValue) -> list[JsonValue]:
    """Chat's list of one object for each token; empty where there are none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return content if isinstance(content, list) else []


def message_item(item_id: str, content: list[JsonValue], status: Status) -> JsonObject:
    """{"id", "type": "message", "status", "role": "assistant", "content"}."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def reasoning_item(item_id: str, form: ThoughtForm, text: str) -> JsonObject:
    """Thoughts, as the text they are or under the name of a summary; an item without text has just begun."""
    parts: list[JsonValue] = [{"type": form, "text": text}] if text else []
    if form == "summary_text":
        return {"id": item_id, "type": "reasoning", "summary": parts}
    return {"id": item_id, "type": "reasoning", "summary": [], "content": parts}


def call_item(item_id: str, call_id: str, tool: OfferedTool, arguments: str, status: Status) -> JsonObject:
    """{"id", "type", "status", "call_id", "name"} and "arguments", or the "input" of a custom tool."""
    kind, said = ("custom_tool_call", "input") if tool.custom else ("function_call", "arguments")
    item: JsonObject = {"id": item_id, "type": kind, "status": status, "call_id": call_id, "name": tool.name}
    if tool.namespace is not None:
        item["namespace"] = tool.namespace
    return {**item, said: arguments}


def call_item_id(tool: OfferedTool) -> str:
    """A new id for a call of `tool`."""
    return new_id("ctc" if tool.custom else "fc")


def output_of(candidate: Candidate, form: ThoughtForm, tool_of: ToolOf) -> list[JsonValue]:
    """A whole answer's items: what was thought, said, and called. There is always one; the last may be cut short."""
    output: list[JsonValue] = []
    status = status_of(candidate.finish_reason or "stop")
    if candidate.reasoning:
        output.append(reasoning_item(new_id("rs"), form, candidate.reasoning))
    if candidate.text or not (output or candidate.tool_calls):
        ended = "completed" if candidate.tool_calls else status
        output.append(message_item(new_id("msg"), [text_part(candidate.text, candidate.logprobs)], ended))
    calls = with_unique_ids(candidate.tool_calls)
    for place, call in enumerate(calls, 1):
        called = status if place == len(calls) else "completed"
        tool = tool_of(call.name)
        said = input_of(call.arguments) if tool.custom else call.arguments
        output.append(call_item(call_item_id(tool), call.id, tool, said, called))
    return output


def usage_object(usage: Usage, output: Sequence[JsonValue]) -> JsonObject:
    """{"input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"}."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens(usage.completion_tokens, output)},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def reasoning_tokens(completion_tokens: int, output: Sequence[JsonValue]) -> int:
    """The thoughts' share of an answer's tokens, by length of text: engines count the answer as one."""
    thought = sum(_chars(item) for item in output if _is_thought(item))
    return round(completion_tokens * thought / sum(map(_chars, output))) if thought else 0


def _is_thought(item: JsonValue) -> bool:
    return isinstance(item, dict) and item["type"] == "reasoning"


def _chars(value: JsonValue) -> int:
    """How much text an item or its parts have."""
    match value:
        case {"text": str(text)} | {"arguments": str(text)} | {"input": str(text)}:
            return len(text)
        case dict():
            return sum(_chars(value.get(parts)) for parts in ("summary", "content"))
        case list():
            return sum(map(_chars, value))
        case _:
            return 0


@dataclass(frozen=True)
class ResponseObject:
    """One response's constant parts, made when its request is accepted."""

    body: ResponsesBody
    id: str = field(default_factory=lambda: new_id("resp"))
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def thought_form(self) -> ThoughtForm:
        """Clients that ask for a summary show nothing else; no second model writes one, so they get the thoughts."""
        reasoning = self.body.reasoning
        return "summary_text" if reasoning is not None and reasoning.summary is not None else "reasoning_text"

    def tool(self, name: str) -> OfferedTool:
        """What the client knows a function as that a model calls `name`: models call what was not offered, too."""
        known = self.body.offered.get(name)
        return OfferedTool(name) if known is None else known[0]

    def begun(self) -> JsonObject:
        """The response before there is any of it."""
        return self._with("in_progress", [], None)

    def failed(self, output: list[JsonValue], error: JsonObject) -> JsonObject:
        """The response that ended by `error`, with the items that were complete by then."""
        return {**self._with("failed", output, None), "error": error}

    def whole(self, candidate: Candidate, extension: JsonObject | None) -> JsonObject:
        """The response of a request that does not stream; `extension` is the `swarm` object."""
        output = output_of(candidate, self.thought_form, self.tool)
        return self.ended(candidate.finish_reason or "stop", output, candidate.usage, extension)

    def ended(
        self, reason: FinishReason, output: list[JsonValue], usage: Usage, extension: JsonObject | None
    ) -> JsonObject:
        """The response when everything is known; `extension` is the `swarm` object."""
        response = self._with(status_of(reason), output, usage_object(usage, output))
        if reason in _CUT_SHORT:
            response["incomplete_details"] = {"reason": _CUT_SHORT[reason]}
        else:
            response["completed_at"] = int(time.time())
        return response if extension is None else {**response, "swarm": extension}

    def _with(self, status: Status, output: list[JsonValue], usage: JsonObject | None) -> JsonObject:
        body = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},  # a local model thinks as much as it does
            "background": False,
            "store": False,
            "service_tier": "default",
            "truncation": "disabled",
            # The schema wants numbers; where a client leaves them to the model they are OpenAI's defaults.
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": _format(body)},
            "tool_choice": _choice(body),
            "tools": _tools(body.tools or ()),
            "usage": usage,
            "user": None,
            "safety_identifier": None,
            "prompt_cache_key": None,
            "metadata": dict(body.metadata or {}),
        }


def _format(body: ResponsesBody) -> JsonObject:
    wanted = body.text.format if body.text else None
    if wanted is None or wanted.schema_ is None or wanted.type != "json_schema":
        return {"type": wanted.type if wanted else "text"}
    return {
        "type": "json_schema",
        "name": wanted.name or "response",
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": bool(wanted.strict),
    }


def _choice(body: ResponsesBody) -> JsonValue:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)


def _tools(tools: Iterable[ResponsesTool]) -> list[JsonValue]:
    """Those that were offered to the model, as OpenAI writes them."""
    return [_tool(tool) for tool in tools if not isinstance(tool, HostedTool)]


def _tool(tool: FunctionTool | CustomTextTool | NamespaceTool) -> JsonObject:
    if isinstance(tool, NamespaceTool):
        return {
            "type": "namespace",
            "name": tool.name,
            "description": tool.description or "",
            "tools": _tools(tool.tools),
        }
    if isinstance(tool, CustomTextTool):
        return tool.model_dump(mode="json", exclude_none=True)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
