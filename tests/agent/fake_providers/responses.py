"""OpenAI's Responses.

Shapes: openai-python's types (Response, ResponseStreamEvent) and developers.openai.com/api/docs: function calling,
reasoning, streaming.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.agent.fake_providers.chat import CREATED, ChatWire
from tests.agent.fake_providers.replies import Asked, Json, Refusal, Trouble, Turn

MAX_CALL_ID_CHARS = 64

IN_STREAM = {  # `response.failed` has codes of its own
    Trouble.RATE_LIMIT: "rate_limit_exceeded",
    Trouble.BROKEN: "server_error",
    Trouble.OVERLOADED: "server_is_overloaded",
}


@dataclass(frozen=True)
class ResponsesWire(ChatWire):
    """The Responses API; keys, errors and the list of models are those of Chat Completions."""

    encrypted: set[str] = field(default_factory=set[str])

    def asked(self, method: str, path: str, query: dict[str, str], body: Json) -> Asked | None:
        if method != "POST" or path != f"{self.prefix}/responses":
            return None
        return Asked(body.get("model", ""), bool(body.get("stream")), body)

    def fault(self, body: Json) -> str | None:
        items = [{"type": "message", "content": body["input"]}] if isinstance(body["input"], str) else body["input"]
        calls: dict[str, bool] = {}
        for at, item in enumerate(items):
            match item.get("type", "message"):
                case "function_call":
                    if len(item["call_id"]) > MAX_CALL_ID_CHARS:
                        return (
                            f"Invalid 'input[{at}].call_id': string too long. Expected a string with maximum length "
                            f"{MAX_CALL_ID_CHARS}, but got a string with length {len(item['call_id'])} instead."
                        )
                    if item.get("id") and not item["id"].startswith("fc"):
                        return f"Invalid 'input[{at}].id': '{item['id']}'. Expected an ID that begins with 'fc'."
                    calls[item["call_id"]] = False
                case "function_call_output":
                    if item["call_id"] not in calls:
                        return f"No tool call found for function call output with call_id {item['call_id']}."
                    calls[item["call_id"]] = True
                case "reasoning":
                    sealed = item.get("encrypted_content")
                    if sealed not in self.encrypted:
                        return f"The encrypted content for item {item.get('id')} could not be verified."
                case "message":
                    parts = item["content"] if isinstance(item["content"], list) else []
                    if not self.sees_images and any(part["type"] == "input_image" for part in parts):
                        return "Invalid content type. input_image is only supported by certain models."
                case _:
                    return f"Invalid value: '{item['type']}'."
        if unanswered := [call for call, answered in calls.items() if not answered]:
            return f"No tool output found for function call {unanswered[0]}."
        return None

    def _sealed(self, thought: str) -> str:
        made = f"gAAAAA{hash(thought):x}"
        self.encrypted.add(made)
        return made

    def _items(self, turn: Turn) -> list[Json]:
        items: list[Json] = []
        if turn.thinking or turn.sealed:
            items.append(
                {
                    "id": "rs_1",
                    "type": "reasoning",
                    "content": [],
                    "encrypted_content": self._sealed(turn.thought),
                    "summary": [{"type": "summary_text", "text": turn.thought}] if turn.thinking else [],
                }
            )
        if turn.text:
            text = {"type": "output_text", "text": turn.said, "annotations": [], "logprobs": []}
            items.append(
                {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
            )
        for at, call in enumerate(turn.calls):
            items.append(
                {
                    "id": f"fc_{at}",
                    "type": "function_call",
                    "call_id": call.id,
                    "name": call.name,
                    "arguments": call.arguments,
                    "status": "completed",
                }
            )
        return items

    def _response(self, turn: Turn, asked: Asked, status: str, output: list[Json]) -> Json:
        ended = status in ("completed", "incomplete")
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.body.get("instructions"),
            "max_output_tokens": asked.body.get("max_output_tokens"),
            "metadata": {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": (asked.body.get("reasoning") or {}).get("effort"), "summary": None},
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": {
                "input_tokens": turn.input_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": turn.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": turn.input_tokens + turn.output_tokens,
            }
            if ended
            else None,
        }

    def whole(self, turn: Turn, asked: Asked) -> Json:
        return self._response(turn, asked, "incomplete" if turn.cut else "completed", self._items(turn))

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        events: list[Json] = []

        def add(kind: str, **fields: object) -> None:
            events.append({"type": kind, "sequence_number": len(events), **fields})

        add("response.created", response=self._response(turn, asked, "in_progress", []))
        add("response.in_progress", response=self._response(turn, asked, "in_progress", []))
        items = self._items(turn)
        for at, item in enumerate(items):
            place = {"item_id": item["id"], "output_index": at}
            match item["type"]:
                case "reasoning":
                    add("response.output_item.added", output_index=at, item={**item, "summary": []})
                    if not turn.thinking:
                        add("response.output_item.done", output_index=at, item=item)
                        continue
                    part = {**place, "summary_index": 0}
                    add(
                        "response.reasoning_summary_part.added",
                        **part,
                        part={"type": "summary_text", "text": ""},
                    )
                    for piece in turn.thinking:
                        add("response.reasoning_summary_text.delta", **part, delta=piece)
                    add("response.reasoning_summary_text.done", **part, text=turn.thought)
                    add("response.reasoning_summary_part.done", **part, part=item["summary"][0])
                case "message":
                    add(
                        "response.output_item.added",
                        output_index=at,
                        item={**item, "status": "in_progress", "content": []},
                    )
                    part = {**place, "content_index": 0}
                    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                    add("response.content_part.added", **part, part=empty)
                    for piece in turn.text:
                        add("response.output_text.delta", **part, delta=piece, logprobs=[], obfuscation="x")
                    add("response.output_text.done", **part, text=turn.said, logprobs=[])
                    add("response.content_part.done", **part, part=item["content"][0])
                case _:
                    started = {**item, "status": "in_progress", "arguments": ""}
                    add("response.output_item.added", output_index=at, item=started)
                    half = len(item["arguments"]) // 2
                    for piece in (item["arguments"][:half], item["arguments"][half:]):
                        add("response.function_call_arguments.delta", **place, delta=piece, obfuscation="x")
                    add("response.function_call_arguments.done", **place, arguments=item["arguments"])
            add("response.output_item.done", output_index=at, item=item)
        status = "incomplete" if turn.cut else "completed"
        add(f"response.{status}", response=self._response(turn, asked, status, items))
        return [self._sent(event) for event in events]

    def _sent(self, event: Json) -> bytes:
        return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        """A response that failed, as `response.failed` says it."""
        said = self.error(refusal, asked, None)[2]["error"]["message"]
        code = IN_STREAM.get(refusal.trouble, "server_error")
        failed = {**self._response(Turn(), asked, "failed", []), "error": {"code": code, "message": said}}
        return self._sent({"type": "response.failed", "sequence_number": 99, "response": failed})
