"""One step of a conversation with a model, through pydantic-ai: what is sent, what comes, and how it is kept.

The only module that knows pydantic-ai's messages, besides those that make its models. It is imported when a session
begins to work: pydantic-ai takes seconds to load.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import AgentRunError, UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition as PydanticTool

from swarm.agent.call_checks import AskedCall
from swarm.generation import JsonObject
from swarm.tools.tool import ToolDefinition, ToolResult

ACCOUNT: Final = "swarm"
KEPT_CHARS: Final = 200  # of an old result that is cut
LEFT_OUT: Final = "\n[the rest was left out: the conversation did not fit any more; call again for it]"
MODEL_ERRORS: Final = (AgentRunError, UserError)  # what pydantic-ai raises for an answer that it does not get, or read


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What the model said in one step. `account` is the node's `swarm` object, None from other servers.

    `cut`: it ended at the most tokens that an answer may have.
    """

    message: ModelResponse
    text: str
    calls: tuple[AskedCall, ...]
    account: JsonObject | None
    cut: bool


async def ask_model(
    model: Model[Any],
    settings: Mapping[str, Any],
    messages: Sequence[ModelMessage],
    tools: Sequence[ToolDefinition],
    on_text: Callable[[str], None],
    on_thought: Callable[[str], None],
) -> ModelAnswer:
    """The model's next answer; its words and thoughts are told while they come. Cancelling it ends the request."""
    parameters = ModelRequestParameters(
        function_tools=[
            PydanticTool(
                name=tool.name, parameters_json_schema=tool.parameters, description=tool.description, strict=False
            )
            for tool in tools
        ]
    )
    asked = model_request_stream(
        model,
        messages,
        model_settings=cast("ModelSettings", dict(settings)),
        model_request_parameters=parameters,
        instrument=False,
    )
    async with asked as stream:
        async for event in stream:
            match event:
                case (
                    PartStartEvent(part=TextPart(content=text))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                ):
                    on_text(text)
                case (
                    PartStartEvent(part=ThinkingPart(content=text))
                    | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(text)))
                ):
                    on_thought(text)
                case _:
                    pass
        message = stream.get()
    account = (message.provider_details or {}).get(ACCOUNT)
    return ModelAnswer(
        message,
        "".join(part.content for part in message.parts if isinstance(part, TextPart)),
        tuple(_asked(part) for part in message.parts if isinstance(part, ToolCallPart)),
        cast("JsonObject", account) if isinstance(account, dict) else None,
        message.finish_reason == "length",
    )


def _asked(part: ToolCallPart) -> AskedCall:
    text = part.args if isinstance(part.args, str) else "" if part.args is None else json.dumps(part.args)
    return AskedCall(part.tool_call_id, part.tool_name, text)


def said(texts: Sequence[str], instructions: str | None = None) -> ModelMessage:
    """A person's words."""
    return ModelRequest([UserPromptPart(text) for text in texts], instructions=instructions)


def results(
    done: Sequence[tuple[AskedCall, ToolResult]], texts: Sequence[str] = (), instructions: str | None = None
) -> ModelMessage:
    """What came of the calls of a step, and what was said meanwhile."""
    parts: list[ModelRequestPart] = [
        # A failed `outcome` would wrap the text into JSON, and escape each of its lines: the exit code says it.
        ToolReturnPart(call.tool, for_model(result), call.id)
        for call, result in done
    ]
    return ModelRequest([*parts, *(UserPromptPart(text) for text in texts)], instructions=instructions)


def for_model(result: ToolResult) -> str:
    """A result as the model reads it: its output, and how it ended where that says more."""
    told = result.output
    if result.timed_out:
        told += f"\n[ended: the time was up after {result.ms / 1000:.0f} s]"
    elif result.exit_code:
        told += f"\n[exit code {result.exit_code}]"
    return told.strip("\n") or "[no output]"


def with_results_shortened(messages: Sequence[ModelMessage], most_chars: int) -> tuple[list[ModelMessage], int]:
    """The conversation with its oldest results cut to their beginnings, and how many were cut.

    It stops when `most_chars` are gone. The results of the last step stay: the model goes on from them.
    """
    last = max((at for at, message in enumerate(messages) if _has_results(message)), default=0)
    made, gone, cut = list(messages), 0, 0
    for at, message in enumerate(made[:last]):
        parts = list(message.parts)
        for place, part in enumerate(parts):
            if not isinstance(part, ToolReturnPart) or not isinstance(part.content, str):
                continue
            if gone < most_chars and len(part.content) > KEPT_CHARS + len(LEFT_OUT):
                parts[place] = replace(part, content=part.content[:KEPT_CHARS] + LEFT_OUT)
                gone += len(part.content) - KEPT_CHARS
                cut += 1
        made[at] = replace(message, parts=parts)
    return made, cut


def _has_results(message: ModelMessage) -> bool:
    return any(isinstance(part, ToolReturnPart) for part in message.parts)


def orphaned(messages: Sequence[ModelMessage]) -> tuple[AskedCall, ...]:
    """The calls of the last answer that have no result: whoever asks on has to give them one first."""
    last = messages[-1] if messages else None
    if not isinstance(last, ModelResponse):
        return ()
    return tuple(_asked(part) for part in last.parts if isinstance(part, ToolCallPart))


def written(message: ModelMessage) -> JsonObject:
    """A message as JSON, for a file."""
    return cast("list[JsonObject]", ModelMessagesTypeAdapter.dump_python([message], mode="json"))[0]


def read(messages: Sequence[JsonObject]) -> list[ModelMessage]:
    """Messages as they were `written`. Raises ValueError for what are none."""
    return ModelMessagesTypeAdapter.validate_python(list(messages))
