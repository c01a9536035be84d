"""Anthropic's conversations in the form that chat templates take: one message for each turn and each tool result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile

from pydantic import JsonValue

from swarm.gateway.anthropic.blocks import (
    AssistantBlock,
    ResultBlock,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UnreadableBlock,
    UserBlock,
)
from swarm.gateway.openai.messages import left_out
from swarm.generation import JsonObject

# Claude Code begins its system prompt with a line about itself that differs in every request: no model needs it, and
# with it no two prompts share a beginning, so that the whole conversation would be prefilled anew each time.
ATTRIBUTION = "x-anthropic-billing-header:"
FAILED = "Error: "  # before the result of a tool that failed: chat templates have no other word for it
# Many chat templates refuse a system message after the first. Moved to the front it would change the beginning of every
# later prompt; so it is said where it stands, in the words by which Claude Code marks its own notes to the model.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"

Blocks = Sequence[UserBlock | AssistantBlock]


def engine_messages(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> tuple[JsonObject, ...]:
    """The conversation as OpenAI's messages. Turns of one role in a row are one turn, as Anthropic has it."""
    messages: list[JsonObject] = []
    leading = list(takewhile(lambda turn: isinstance(turn, SystemTurn), turns))
    said = [system_text(turn.content) for turn in leading if isinstance(turn, SystemTurn)]
    instructions = "\n".join(filter(None, (system_text(system or ""), *said)))
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for answered, group in groupby(turns[len(leading) :], key=lambda turn: turn.role == "assistant"):
        blocks = [block for turn in group for block in _blocks(turn)]
        messages.extend([_assistant(blocks)] if answered else _user(blocks))
    return tuple(messages)


def system_text(system: str | Sequence[TextBlock]) -> str:
    """The instructions as one text, without ATTRIBUTION's line."""
    blocks = [system] if isinstance(system, str) else [block["text"] for block in system]
    return "\n".join(text for text in map(_without_attribution, blocks) if text)


def _without_attribution(text: str) -> str:
    return text.partition("\n")[2].lstrip("\n") if text.startswith(ATTRIBUTION) else text


def _blocks(turn: Turn) -> Blocks:
    if isinstance(turn, SystemTurn):
        return (TextBlock(type="text", text=REMINDER.format(system_text(turn.content))),)
    if isinstance(turn.content, str):
        return (TextBlock(type="text", text=turn.content),)
    return turn.content


def _texts(blocks: Iterable[UserBlock | AssistantBlock | ResultBlock]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, dict):
            yield block["text"]
        elif isinstance(block, UnreadableBlock):
            yield left_out(block.type)


def _user(blocks: Blocks) -> list[JsonObject]:
    """Tool results first: templates want them right after the calls. Then what the user says, if anything."""
    results = [_result(block) for block in blocks if isinstance(block, ToolResultBlock)]
    texts = list(_texts(blocks))
    return results if results and not texts else [*results, {"role": "user", "content": "\n".join(texts)}]


def _result(block: ToolResultBlock) -> JsonObject:
    content = block.content or ""
    text = content if isinstance(content, str) else "\n".join(_texts(content))
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": FAILED + text if block.is_error else text,
    }


def _assistant(blocks: Blocks) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": "".join(_texts(blocks))}
    reasoning = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    if reasoning:
        message["reasoning_content"] = reasoning
    calls: list[JsonValue] = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUseBlock) -> JsonObject:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}
