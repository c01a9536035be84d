"""Anthropic's Messages, which MiniMax and Kimi Coding speak too.

Shapes: anthropic-sdk-python's types (Message, RawMessageStreamEvent), and platform.claude.com/docs/en/api: errors,
streaming, extended thinking, tool use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from tests.agent.fake_providers.replies import Asked, Json, Refusal, Trouble, Turn

ID = re.compile(r"^[a-zA-Z0-9_-]+$")
TOOL_NAME = re.compile(r"^[a-zA-Z0-9_-]{1,128}$")

STATUSES = {
    Trouble.WRONG_KEY: (401, "authentication_error", "invalid x-api-key"),
    Trouble.FORBIDDEN: (
        403,
        "permission_error",
        "Your API key does not have permission to use the specified resource.",
    ),
    Trouble.UNKNOWN_MODEL: (404, "not_found_error", "model: {model}"),
    Trouble.RATE_LIMIT: (
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 30,000 input tokens per minute.",
    ),
    Trouble.NO_CREDIT: (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    ),
    Trouble.TOO_LONG: (400, "invalid_request_error", "prompt is too long: 209203 tokens > 200000 maximum"),
    Trouble.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    Trouble.BROKEN: (500, "api_error", "Internal server error"),
    Trouble.BAD_REQUEST: (400, "invalid_request_error", "Bad request"),
}


@dataclass(frozen=True)
class MessagesWire:
    """The Messages API below `prefix`; `name` goes into its signatures, so that those of another are known as foreign.

    `bearer`: keys come as a bearer token, as some who are compatible want them.
    """

    prefix: str = ""
    name: str = "anthropic"
    bearer: bool = False
    sees_images: bool = True
    signed: set[str] = field(default_factory=set[str])

    def signature(self, thought: str) -> str:
        """What proves that this server's model thought it."""
        made = f"{self.name}:{hash(thought):x}"
        self.signed.add(made)
        return made

    def key_of(self, headers: dict[str, str]) -> str | None:
        if "anthropic-version" not in headers:
            return None
        return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ") or None

    def asked(self, method: str, path: str, query: dict[str, str], body: Json) -> Asked | None:
        if method != "POST" or path != f"{self.prefix}/v1/messages":
            return None
        return Asked(body.get("model", ""), bool(body.get("stream")), body)

    def lists(self, path: str) -> bool:
        return path == f"{self.prefix}/v1/models"

    def fault(self, body: Json) -> str | None:
        if "max_tokens" not in body:
            return "max_tokens: Field required"
        thinking = body.get("thinking") or {}
        if thinking.get("type") == "enabled":
            if thinking["budget_tokens"] < 1024:
                return "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
            if thinking["budget_tokens"] >= body["max_tokens"]:
                return "`max_tokens` must be greater than `thinking.budget_tokens`."
        for at, tool in enumerate(body.get("tools") or ()):
            if not TOOL_NAME.match(tool["name"]):
                return f"tools.{at}.custom.name: String should match pattern '{TOOL_NAME.pattern}'"
        messages = body["messages"]
        if not messages:
            return "messages: at least one message is required"
        if thinking.get("type") == "enabled" and (fault := self._unthought(messages)) is not None:
            return fault
        open_calls: list[str] = []
        for at, message in enumerate(messages):
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
            if missing := [call for call in open_calls if call not in results]:
                return (
                    f"messages.{at - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                    f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                    "next message."
                )
            for result in results:
                if result not in open_calls:
                    return (
                        f"messages.{at}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {result}. "
                        "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
                    )
            open_calls = []
            for index, block in enumerate(blocks):
                where = f"messages.{at}.content.{index}"
                if (fault := self._block_fault(where, block)) is not None:
                    return fault
                if block["type"] == "tool_use":
                    if block["id"] in open_calls:
                        return f"messages.{at}: `tool_use` ids must be unique"
                    open_calls.append(block["id"])
        if open_calls:
            return (
                f"messages.{len(messages) - 1}: `tool_use` ids were found without `tool_result` blocks immediately "
                f"after: {', '.join(open_calls)}."
            )
        return None

    def _unthought(self, messages: list[Json]) -> str | None:
        """The last turn has to begin with its thought, where results of its calls follow."""
        spoken = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if not spoken or isinstance(content := messages[spoken[-1]]["content"], str):
            return None
        kinds = [block["type"] for block in content]
        if "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking"):
            return (
                f"messages.{spoken[-1]}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kinds[0]}`. When `thinking` is enabled, a final `assistant` message must start with a thinking "
                "block."
            )
        return None

    def _block_fault(self, where: str, block: Json) -> str | None:
        match block["type"]:
            case "text" if not block["text"].strip():
                return f"{where}: text content blocks must contain non-whitespace text"
            case "tool_use" if not ID.match(block["id"]):
                return f"{where}.tool_use.id: String should match pattern '{ID.pattern}'"
            case "tool_result" if not ID.match(block["tool_use_id"]):
                return f"{where}.tool_result.tool_use_id: String should match pattern '{ID.pattern}'"
            case "thinking" if block["signature"] not in self.signed:
                return f"{where}: Invalid `signature` in `thinking` block"
            case "image" if not self.sees_images:
                return f"{where}: image input is not supported by this model"
            case _:
                return None

    def _stop(self, turn: Turn) -> str:
        return "max_tokens" if turn.cut else "tool_use" if turn.calls else "end_turn"

    def _usage(self, turn: Turn, output_tokens: int) -> Json:
        return {
            "input_tokens": turn.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "standard",
            "inference_geo": "global",
        }

    def whole(self, turn: Turn, asked: Asked) -> Json:
        content: list[Json] = []
        if turn.thinking or turn.sealed:
            signature = self.signature(turn.thought)
            content.append({"type": "thinking", "thinking": turn.thought, "signature": signature})
        if turn.text:
            content.append({"type": "text", "text": turn.said})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
            for call in turn.calls
        ]
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": content,
            "stop_reason": self._stop(turn),
            "stop_sequence": None,
            "stop_details": None,
            "usage": self._usage(turn, turn.output_tokens),
        }

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": self._usage(turn, 1),
        }
        events: list[Json] = [{"type": "message_start", "message": message}]
        index = 0

        def block(start: Json, deltas: list[Json]) -> None:
            nonlocal index
            events.append({"type": "content_block_start", "index": index, "content_block": start})
            if index == 0:
                events.append({"type": "ping"})
            events.extend({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
            events.append({"type": "content_block_stop", "index": index})
            index += 1

        if turn.thinking or turn.sealed:
            deltas: list[Json] = [{"type": "thinking_delta", "thinking": piece} for piece in turn.thinking]
            deltas.append({"type": "signature_delta", "signature": self.signature(turn.thought)})
            block({"type": "thinking", "thinking": "", "signature": ""}, deltas)
        if turn.text:
            block({"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in turn.text])
        for call in turn.calls:
            half = len(call.arguments) // 2
            pieces = ("", call.arguments[:half], call.arguments[half:])
            block(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": {}},
                [{"type": "input_json_delta", "partial_json": piece} for piece in pieces],
            )
        delta = {"stop_reason": self._stop(turn), "stop_sequence": None, "stop_details": None}
        counted = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        usage = {name: self._usage(turn, turn.output_tokens)[name] for name in counted}
        events.append({"type": "message_delta", "delta": delta, "usage": usage})
        events.append({"type": "message_stop"})
        return [self._event(event) for event in events]

    def _event(self, event: Json) -> bytes:
        return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()

    def error(self, refusal: Refusal, asked: Asked | None, key: str | None) -> tuple[int, dict[str, str], Json]:
        status, kind, message = STATUSES[refusal.trouble]
        said = refusal.message or message.format(model=asked.model if asked else "")
        headers = {"request-id": "req_1", "x-should-retry": "true" if status in (429, 500, 529) else "false"}
        if refusal.retry_after_s is not None:
            headers["retry-after"] = str(refusal.retry_after_s)
        return status, headers, {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_1"}

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        body = self.error(refusal, asked, None)[2]
        return f"event: error\ndata: {json.dumps({'type': 'error', 'error': body['error']})}\n\n".encode()

    def listing(self, models: tuple[str, ...]) -> Json:
        listed = [
            {
                "type": "model",
                "id": model,
                "display_name": model.title(),
                "created_at": "2026-02-19T00:00:00Z",
                "lifecycle": "active",
                "max_input_tokens": 200_000,
                "max_tokens": 64_000,
            }
            for model in models
        ]
        return {"data": listed, "has_more": False, "first_id": models[0], "last_id": models[-1]}
