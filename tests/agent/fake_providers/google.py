"""Google's GenAI API, at its own URLs and at those of Vertex.

Shapes: google-genai's types (GenerateContentResponse), and ai.google.dev/api: generateContent, thought signatures,
models; errors are google.rpc.Status with its details.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field

from tests.agent.fake_providers.replies import Asked, Json, Refusal, Trouble, Turn

PATH = re.compile(
    r"^(?P<prefix>.*)/v1(beta1?)?/(?P<place>models|(projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models)/"
    r"(?P<model>[^:]+):(?P<method>generateContent|streamGenerateContent)$"
)
NO_SIGNATURE = base64.b64encode(b"skip_thought_signature_validator").decode()  # documented: for calls of other models

STATUSES: dict[Trouble, tuple[int, str, str]] = {
    Trouble.WRONG_KEY: (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    Trouble.FORBIDDEN: (
        403,
        "PERMISSION_DENIED",
        "Generative Language API has not been used in project 1 before or it is disabled.",
    ),
    Trouble.UNKNOWN_MODEL: (
        404,
        "NOT_FOUND",
        "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call ListModels "
        "to see the list of available models and their supported methods.",
    ),
    Trouble.RATE_LIMIT: (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    Trouble.NO_CREDIT: (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    Trouble.TOO_LONG: (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1209203) exceeds the maximum number of tokens allowed (1048576).",
    ),
    Trouble.OVERLOADED: (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    Trouble.BROKEN: (500, "INTERNAL", "An internal error has occurred."),
    Trouble.BAD_REQUEST: (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
}


def details(refusal: Refusal) -> list[Json]:
    """What Google adds to some errors, as google.rpc messages."""
    match refusal.trouble:
        case Trouble.WRONG_KEY:
            return [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                    "metadata": {"service": "generativelanguage.googleapis.com"},
                }
            ]
        case Trouble.RATE_LIMIT | Trouble.NO_CREDIT:
            span = "Minute" if refusal.trouble is Trouble.RATE_LIMIT else "Day"
            violation = {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": f"GenerateRequestsPer{span}PerProjectPerModel-FreeTier",
                "quotaValue": "10",
            }
            found: list[Json] = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}]
            if refusal.retry_after_s is not None:
                delay = f"{refusal.retry_after_s}s"
                found.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
            return found
        case _:
            return []


@dataclass(frozen=True)
class GoogleWire:
    """GenAI below `prefix`; `vertex`: at Vertex's paths, where a refused key is a 401."""

    prefix: str = ""
    vertex: bool = False
    sees_images: bool = True
    signed: set[str] = field(default_factory=set[str])

    def key_of(self, headers: dict[str, str]) -> str | None:
        return headers.get("x-goog-api-key") or headers.get("authorization", "").removeprefix("Bearer ") or None

    def asked(self, method: str, path: str, query: dict[str, str], body: Json) -> Asked | None:
        found = PATH.match(path)
        if method != "POST" or found is None or found["prefix"] != self.prefix:
            return None
        if self.vertex != ("publishers/" in found["place"]):
            return None
        streamed = found["method"] == "streamGenerateContent"
        if streamed and query.get("alt") != "sse":
            return None
        return Asked(found["model"], streamed, body)

    def lists(self, path: str) -> bool:
        return path.removeprefix(self.prefix) in ("/v1beta/models", "/v1beta1/publishers/google/models", "/v1/models")

    def fault(self, body: Json) -> str | None:
        calls: list[str] = []
        for content in body["contents"]:
            if content["role"] not in ("user", "model"):
                return "Please use a valid role: user, model."
            if not content.get("parts"):
                return "Unable to submit request because it must have at least one parts field."
            answers = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
            if sorted(answers) != sorted(calls):
                return (
                    "Please ensure that the number of function response parts is equal to the number of function call "
                    "parts of the function call turn."
                )
            calls = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
            for part in content["parts"]:
                signature = part.get("thoughtSignature")
                if (
                    signature is not None
                    and signature not in self.signed
                    and unpadded(signature) != unpadded(NO_SIGNATURE)
                ):
                    return "Thought signature is not valid."
                if "inlineData" in part and not self.sees_images:
                    return "Image input modality is not enabled for this model."
        return None if not calls else "Please ensure that function call turn comes before a function response turn."

    def _signature(self, thought: str) -> str:
        made = base64.b64encode(f"google:{hash(thought):x}".encode()).decode()
        self.signed.add(made)
        return made

    def _parts(self, turn: Turn) -> list[Json]:
        parts: list[Json] = [{"text": piece, "thought": True} for piece in turn.thinking]
        parts += [{"text": piece} for piece in turn.text]
        for at, call in enumerate(turn.calls):
            named = {"id": call.id} if call.id else {}  # most models of Google's give none
            part: Json = {"functionCall": {**named, "name": call.name, "args": json.loads(call.arguments)}}
            if (turn.thinking or turn.sealed) and at == 0:
                part["thoughtSignature"] = self._signature(turn.thought)
            parts.append(part)
        return parts

    def _answer(self, turn: Turn, asked: Asked, parts: list[Json], last: bool) -> Json:
        candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
        if last:
            candidate["finishReason"] = "MAX_TOKENS" if turn.cut else "STOP"
        thoughts = {"thoughtsTokenCount": len(turn.thinking)} if turn.thinking else {}
        return {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": turn.input_tokens,
                "candidatesTokenCount": turn.output_tokens,
                "totalTokenCount": turn.input_tokens + turn.output_tokens,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": turn.input_tokens}],
                **thoughts,
            },
            "modelVersion": asked.model,
            "responseId": "resp-1",
        }

    def whole(self, turn: Turn, asked: Asked) -> Json:
        joined = Turn(
            text=(turn.said,) if turn.text else (),
            thinking=(turn.thought,) if turn.thinking else (),
            calls=turn.calls,
            cut=turn.cut,
            sealed=turn.sealed,
        )
        return self._answer(joined, asked, self._parts(joined), last=True)

    def stream(self, turn: Turn, asked: Asked) -> list[bytes]:
        parts = [*self._parts(turn), {"text": ""}]
        return [
            self._event(self._answer(turn, asked, [part], last=at == len(parts) - 1)) for at, part in enumerate(parts)
        ]

    def _event(self, event: Json) -> bytes:
        return f"data: {json.dumps(event, separators=(',', ':'))}\r\n\r\n".encode()

    def error(self, refusal: Refusal, asked: Asked | None, key: str | None) -> tuple[int, dict[str, str], Json]:
        code, status, message = STATUSES[refusal.trouble]
        if self.vertex and refusal.trouble is Trouble.WRONG_KEY:
            code, status, message = 401, "UNAUTHENTICATED", "Request had invalid authentication credentials."
        said = refusal.message or message.format(model=asked.model if asked else "")
        error: Json = {"code": code, "message": said, "status": status}
        if found := details(refusal):
            error["details"] = found
        return code, {}, {"error": error}

    def error_in_stream(self, refusal: Refusal, asked: Asked) -> bytes:
        return self._event(self.error(refusal, asked, None)[2])

    def listing(self, models: tuple[str, ...]) -> Json:
        listed = [
            {
                "name": f"models/{model}",
                "version": "001",
                "displayName": model.title(),
                "description": "A model.",
                "inputTokenLimit": 1_048_576,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent", "countTokens"],
                "temperature": 1.0,
                "topP": 0.95,
                "topK": 64,
            }
            for model in models
        ]
        return {"models": listed}


def unpadded(signature: str) -> str:
    """Base64 in either alphabet, for comparing."""
    return signature.rstrip("=").replace("-", "+").replace("_", "/")
