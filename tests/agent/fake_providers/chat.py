"""OpenAI's Chat Completions, and the dialects of those who are compatible with it.

Shapes: openai-python's types (ChatCompletion, ChatCompletionChunk), OpenAI's error guide, and each vendor's reference
where it differs: the field of thinking, and the body of an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.agent.fake_providers.replies import Asked, Json, Refusal, Trouble, Turn

CREATED = 1_760_000_000
MAX_ID_CHARS = 40  # OpenAI: "string too long. Expected a string with maximum length 40"


def openai_error(message: str, kind: str, code: str | None) -> Json:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def masked(key: str | None) -> str:
    """A refused key as OpenAI shows it."""
    return f"{key[:7]}{'*' * 8}{key[-4:]}" if key else ""


def openai_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """developers.openai.com/api/docs/guides/error-codes."""
    match trouble:
        case Trouble.WRONG_KEY:
            said = (
                f"Incorrect API key provided: {masked(key)}. You can find your API key at "
                "https://platform.openai.com/account/api-keys."
            )
            return 401, openai_error(said, "invalid_request_error", "invalid_api_key")
        case Trouble.FORBIDDEN:
            said = "Country, region, or territory not supported"
            return 403, openai_error(said, "request_forbidden", "unsupported_country_region_territory")
        case Trouble.UNKNOWN_MODEL:
            said = f"The model `{model}` does not exist or you do not have access to it."
            return 404, openai_error(said, "invalid_request_error", "model_not_found")
        case Trouble.RATE_LIMIT:
            said = (
                f"Rate limit reached for {model} on tokens per min (TPM): Limit 30000, Used 29100, Requested 1200. "
                "Please try again in 600ms."
            )
            return 429, openai_error(said, "tokens", "rate_limit_exceeded")
        case Trouble.NO_CREDIT:
            said = "You exceeded your current quota, please check your plan and billing details."
            return 429, openai_error(said, "insufficient_quota", "insufficient_quota")
        case Trouble.TOO_LONG:
            said = (
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9203 tokens. "
                "Please reduce the length of the messages."
            )
            return 400, openai_error(said, "invalid_request_error", "context_length_exceeded")
        case Trouble.OVERLOADED:
            return 503, openai_error("The engine is currently overloaded, please try again later", "server_error", None)
        case Trouble.BROKEN:
            return 500, openai_error("The server had an error while processing your request", "server_error", None)
        case Trouble.BAD_REQUEST:
            return 400, openai_error("Invalid request.", "invalid_request_error", None)


def xai_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """docs.x.ai: a code in words, and the message as `error`."""
    match trouble:
        case Trouble.WRONG_KEY:
            said = f"Incorrect API key provided: {masked(key)}. You can obtain an API key from https://console.x.ai."
            return 400, {"code": "Client specified an invalid argument", "error": said}
        case Trouble.UNKNOWN_MODEL:
            said = f"The model {model} does not exist or your team does not have access to it."
            return 404, {"code": "Some requested entity was not found", "error": said}
        case Trouble.RATE_LIMIT:
            return 429, {"code": "Some resource has been exhausted", "error": "Too many requests"}
        case Trouble.NO_CREDIT:
            said = "Your team has either used all available credits or reached its monthly spending limit."
            return 429, {"code": "Some resource has been exhausted", "error": said}
        case Trouble.TOO_LONG:
            said = "This model's maximum prompt length is 131072 but the request contains 137832 tokens."
            return 400, {"code": "Client specified an invalid argument", "error": said}
        case _:
            status, body = openai_refusal(trouble, model, key)
            return status, {"code": "The request failed", "error": body["error"]["message"]}


def groq_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """console.groq.com/docs/errors."""
    match trouble:
        case Trouble.WRONG_KEY:
            error = {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"}
            return 401, {"error": error}
        case Trouble.UNKNOWN_MODEL:
            said = f"The model `{model}` does not exist or you do not have access to it."
            return 404, {"error": {"message": said, "type": "invalid_request_error", "code": "model_not_found"}}
        case Trouble.OVERLOADED:
            return 503, {"error": {"message": f"{model} is currently over capacity.", "type": "internal_server_error"}}
        case _:
            return openai_refusal(trouble, model, key)


def openrouter_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """openrouter.ai/docs/api-reference/errors: the status as a number in `code`."""
    match trouble:
        case Trouble.WRONG_KEY:
            return 401, {"error": {"message": "User not found.", "code": 401}}
        case Trouble.UNKNOWN_MODEL:
            return 400, {"error": {"message": f"{model} is not a valid model ID", "code": 400}, "user_id": "user_2x"}
        case Trouble.NO_CREDIT:
            return 402, {"error": {"message": "Insufficient credits. Add more to continue.", "code": 402}}
        case _:
            status, body = openai_refusal(trouble, model, key)
            return status, {"error": {"message": body["error"]["message"], "code": status}, "user_id": "user_2x"}


def deepseek_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """api-docs.deepseek.com/quick_start/error_codes."""
    match trouble:
        case Trouble.WRONG_KEY:
            said = f"Authentication Fails, Your api key: ****{(key or '')[-4:]} is invalid"
            return 401, openai_error(said, "authentication_error", "invalid_request_error")
        case Trouble.UNKNOWN_MODEL:
            return 400, openai_error("Model Not Exist", "invalid_request_error", "invalid_request_error")
        case Trouble.NO_CREDIT:
            return 402, openai_error("Insufficient Balance", "unknown_error", "invalid_request_error")
        case _:
            return openai_refusal(trouble, model, key)


def zai_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """docs.z.ai/api-reference/api-code: numbers, as strings."""
    match trouble:
        case Trouble.WRONG_KEY:
            return 401, {"error": {"code": "1000", "message": "Authentication Failed"}}
        case Trouble.UNKNOWN_MODEL:
            return 400, {"error": {"code": "1211", "message": "Unknown Model, please check the model code."}}
        case Trouble.RATE_LIMIT:
            return 429, {"error": {"code": "1302", "message": "Rate limit reached for requests"}}
        case Trouble.NO_CREDIT:
            return 429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}}
        case _:
            status, body = openai_refusal(trouble, model, key)
            return status, {"error": {"code": "500", "message": body["error"]["message"]}}


def ollama_refusal(trouble: Trouble, model: str, key: str | None) -> tuple[int, Json]:
    """docs.ollama.com/api/openai-compatibility: no codes."""
    match trouble:
        case Trouble.WRONG_KEY:
            return 401, {"error": {"message": "unauthorized", "type": "api_error", "param": None, "code": None}}
        case Trouble.UNKNOWN_MODEL:
            said = f"model '{model}' not found"
            return 404, {"error": {"message": said, "type": "not_found_error", "param": None, "code": None}}
        case _:
            return openai_refusal(trouble, model, key)


@dataclass(frozen=True)
class ChatWire:
    """Chat Completions below `prefix`.

    `thinking_field` is where a vendor puts what its model thought; None for one that doesn't show it.
    """

    prefix: str = "/v1"
    thinking_field: str | None = None
    refusal: Callable[[Trouble, str, str | None], tuple[int, Json]] = openai_refusal
    sees_images: bool = True
    added: Json = field(default_factory=dict[str, Any])  # to every answer and chunk

    def key_of(self, headers: dict[str, str]) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return key if scheme == "Bearer" else None

    def asked(self, method: str, path: str, query: dict[str, str], body: Json) -> Asked | None:
        if method != "POST" or path != f"{self.prefix}/chat/completions":
            return None
        return Asked(body.get("model", ""), bool(body.get("stream")), body)

    def lists(self, path: str) -> bool:
        return path == f"{self.prefix}/models"

    def fault(self, body: Json) -> str | None:
        """What OpenAI's own server refuses of the history that it is sent."""
        waiting: list[str] = []
        for at, message in enumerate(body["messages"]):
            role = message["role"]
            if role == "tool":
                if message["tool_call_id"] not in waiting:
                    return (
                        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                        f"'tool_calls'. (messages[{at}])"
                    )
                waiting.remove(message["tool_call_id"])
                continue
            if waiting:
                return (
                    "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                    f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}"
                )
            if role == "assistant" and not message.get("content") and not message.get("tool_calls"):
                return f"Invalid value for 'content': expected a string, got null. (messages[{at}])"
            for call in message.get("tool_calls") or ():
                if len(call["id"]) > MAX_ID_CHARS:
                    return (
                        f"Invalid 'messages[{at}].tool_calls[0].id': string too long. Expected a string with maximum "
                        f"length {MAX_ID_CHARS}, but got a string with length {len(call['id'])} instead."
                    )
                json.loads(call["function"]["arguments"])
                waiting.append(call["id"])
            if not self.sees_images and isinstance(message.get("content"), list):
                for part in message["content"]:
                    if part["type"] != "text":
                        return f"Invalid content type. {part['type']} is only supported by certain models."
        if waiting:
            return (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(waiting)}"
            )
        return None

    def thinking(self, piece: str, whole: str | None) -> Json:
        """The fields of a message or a delta with a piece of thought; `whole` is all of it, where this is the last."""
        return {self.thinking_field: piece} if self.thinking_field else {}

    def finished(self, finish: str | None) -> Json:
        """The fields of a choice that say why it ended."""
        return {"finish_reason": finish}

    def _finish(self, turn: Turn) -> str:
        return "length" if turn.cut else "tool_calls" if turn.calls else "stop"

    def _usage(self, turn: Turn) -> Json:
        return {
            "prompt_tokens": turn.input_tokens,
            "completion_tokens": turn.output_tokens,
            "total_tokens": turn.input_tokens + turn.output_tokens,
        }

    def whole(self, turn: Turn, asked: Asked) -> Json:
        message: Json = {"role": "assistant", "content": turn.said if turn.text else None, "refusal": None}
        if turn.thinking:
            message |= self.thinking(turn.thought, turn.thought)
        if turn.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in turn.calls
            ]
        whole: Json = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": CREATED,
            "model": asked.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, **self.finished(self._finish(turn))}],
            "usage": self._usage(turn),
            **self.added,
        }
        return whole if turn.swarm is None else {**whole, "swarm": turn.swarm}

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        def chunk(delta: Json, finish: str | None = None, **more: object) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, **self.finished(finish)}
            return self._event(asked, [choice], more)

        events = [chunk({"role": "assistant", "content": ""})]
        for at, piece in enumerate(turn.thinking):
            last = at == len(turn.thinking) - 1
            events += [chunk(delta) for delta in (self.thinking(piece, turn.thought if last else None),) if delta]
        events += [chunk({"content": piece}) for piece in turn.text]
        for index, call in enumerate(turn.calls):
            function = {"name": call.name, "arguments": ""}
            events.append(
                chunk({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]})
            )
            half = len(call.arguments) // 2
            events += [
                chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                for piece in (call.arguments[:half], call.arguments[half:])
                if piece
            ]
        events.append(chunk({}, self._finish(turn), **({} if turn.swarm is None else {"swarm": turn.swarm})))
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            events.append(self._event(asked, [], {"usage": self._usage(turn)}))
        return [*events, b"data: [DONE]\n\n"]

    def _event(self, asked: Asked, choices: list[Json], more: dict[str, object]) -> bytes:
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": asked.model,
            "choices": choices,
            **self.added,
            **more,
        }
        return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()

    def error(self, refusal: Refusal, asked: Asked | None, key: str | None) -> tuple[int, dict[str, str], Json]:
        status, body = self.refusal(refusal.trouble, asked.model if asked else "", key)
        if refusal.message is not None:
            if isinstance(body["error"], str):
                body["error"] = refusal.message
            else:
                body["error"]["message"] = refusal.message
        headers = {"x-request-id": "req_1"}
        if refusal.retry_after_s is not None:
            headers["retry-after"] = str(refusal.retry_after_s)
        return status, headers, body

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        return f"data: {json.dumps(self.error(refusal, asked, None)[2])}\n\n".encode()

    def listing(self, models: tuple[str, ...]) -> Json:
        listed = [{"id": model, "object": "model", "created": CREATED, "owned_by": "fake"} for model in models]
        return {"object": "list", "data": listed}


@dataclass(frozen=True)
class OpenRouterWire(ChatWire):
    """OpenRouter's: thoughts a second time as details, which whoever thought them has signed, and who answered.

    openrouter.ai/docs/use-cases/reasoning-tokens.
    """

    prefix: str = "/api/v1"
    thinking_field: str | None = "reasoning"
    refusal: Callable[[Trouble, str, str | None], tuple[int, Json]] = openrouter_refusal
    added: Json = field(default_factory=lambda: {"provider": "Anthropic"})
    signed: set[str] = field(default_factory=set[str])

    def thinking(self, piece: str, whole: str | None) -> Json:
        detail: Json = {"type": "reasoning.text", "text": piece, "format": "anthropic-claude-v1", "index": 0}
        if whole is not None:
            detail["signature"] = f"openrouter:{hash(whole):x}"
            self.signed.add(detail["signature"])
        return {**super().thinking(piece, whole), "reasoning_details": [detail]}

    def fault(self, body: Json) -> str | None:
        for message in body["messages"]:
            for detail in message.get("reasoning_details") or ():
                if detail.get("signature") not in self.signed:
                    return "Invalid `signature` in `thinking` block"
        return super().fault(body)

    def finished(self, finish: str | None) -> Json:
        return {"finish_reason": finish, "native_finish_reason": finish}

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        return [b": OPENROUTER PROCESSING\n\n", *super().stream(turn, asked)]

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        """Beside a choice, in a chunk like the others."""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, **self.finished(None)}
        return self._event(asked, [choice], {"error": self.error(refusal, asked, None)[2]["error"]})
