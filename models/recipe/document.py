"""What one training document is, and how a conversation becomes the text that the model sees.

The chat template is ChatML with tools in the Hermes form (`<tool_call>` around one JSON object per call), which
llama.cpp's own parser recognises; `chat_template.jinja` is embedded in both exports and `render` mirrors it, because
running Jinja for every document would cost more than making it. A test holds the two equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT, TURN_START, TURN_END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip

_TOOLS_BEFORE = "# Tools\n\nYou may call functions. Signatures:\n<tools>"
_TOOLS_AFTER = (
    '\n</tools>\n\nCall format:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation. `ability` names the generator that made it; evaluation reads `expected` where it is set."""

    ability: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    expected: Any = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text; the model is trained to produce it only where `target`."""

    text: str
    target: bool


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def tool_result(text: str) -> Message:
    return {"role": "tool", "content": text}


def assistant_calls(calls: Sequence[tuple[str, dict[str, Any]]]) -> Message:
    """An assistant's turn that calls tools: (name, arguments) each."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls
        ],
    }


def assistant_text(message: Message) -> str:
    """What the model writes for this turn, without the end-of-turn token."""
    calls = message.get("tool_calls") or ()
    texts = [message["content"]] if message["content"] else []
    for call in calls:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        texts.append(f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(texts)


def render(document: Document) -> list[Piece]:
    """The document's text in order, cut where it changes between given and to be learned."""
    messages = list(document.messages)
    pieces: list[Piece] = []
    first = messages[0]["content"] if messages[0]["role"] == "system" else None
    if first is not None:
        messages = messages[1:]
    if document.tools:
        opening = "" if first is None else first + "\n\n"
        listing = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in document.tools)
        pieces.append(Piece(f"{TURN_START}system\n{opening}{_TOOLS_BEFORE}{listing}{_TOOLS_AFTER}{TURN_END}\n", False))
    elif first is not None:
        pieces.append(Piece(f"{TURN_START}system\n{first}{TURN_END}\n", False))
    for at, message in enumerate(messages):
        match message["role"]:
            case "assistant":
                pieces.append(Piece(f"{TURN_START}assistant\n", False))
                pieces.append(Piece(assistant_text(message) + TURN_END, True))
                pieces.append(Piece("\n", False))
            case "tool":
                before = at == 0 or messages[at - 1]["role"] != "tool"
                after = at + 1 == len(messages) or messages[at + 1]["role"] != "tool"
                body = f"\n<tool_response>\n{message['content']}\n</tool_response>"
                opening = f"{TURN_START}user" if before else ""
                pieces.append(Piece(opening + body + (f"{TURN_END}\n" if after else ""), False))
            case role:
                pieces.append(Piece(f"{TURN_START}{role}\n{message['content']}{TURN_END}\n", False))
    return pieces


def prompt_text(document: Document) -> str:
    """The text up to where the model starts its last answer."""
    pieces = render(document)
    last = max(at for at, piece in enumerate(pieces) if piece.target)
    return "".join(piece.text for piece in pieces[:last])
