"""The content blocks of Anthropic's Messages API, as clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from swarm.gateway.http.finite import is_finite
from swarm.gateway.openai.messages import MAX_PARTS, Part
from swarm.generation import JsonObject


class TextBlock(TypedDict):
    """A plain dictionary: hundreds of thousands of them must parse without the garbage collector waking up."""

    type: Literal["text"]
    text: str


class ToolUseBlock(Part):
    """A call that the model made in an earlier turn."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: JsonObject

    @model_validator(mode="after")
    def _finite(self) -> ToolUseBlock:
        if not is_finite(self.input):
            raise ValueError("the input has a number that is not finite")
        return self


class ThinkingBlock(Part):
    """What a model reasoned in an earlier turn. Its signature is Anthropic's own affair."""

    type: Literal["thinking"]
    thinking: str


class UnusedBlock(Part):
    """What only Anthropic's own models and hosted tools can read; it is left out, as hosted tools themselves are."""

    type: Literal[
        "redacted_thinking",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
    ]


class UnreadableBlock(Part):
    """Content that is no text: a note takes its place."""

    type: Literal["image", "document", "search_result", "container_upload", "tool_reference", "browser_state"]


class ToolResultBlock(Part):
    """What a tool answered to the call `tool_use_id`."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: str | Annotated[list[ResultBlock], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None
    is_error: bool | None = None


ResultBlock = Annotated[TextBlock | UnreadableBlock, Field(discriminator="type")]
UserBlock = Annotated[TextBlock | ToolResultBlock | UnreadableBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock | UnusedBlock | UnreadableBlock, Field(discriminator="type")
]


class UserTurn(Part):
    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


class AssistantTurn(Part):
    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


class SystemTurn(Part):
    """An instruction in mid-conversation, which newer clients send."""

    role: Literal["system"]
    content: str | Annotated[list[TextBlock], Field(max_length=MAX_PARTS, fail_fast=True)]


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]
