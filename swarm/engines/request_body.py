"""A request as OpenAI's JSON: what peers, upstreams and, after a few changes, llama.cpp are sent."""

from __future__ import annotations

from typing import Any

from swarm.generation import GenerationRequest

FORMED = {"logprobs", "top_logprobs", "tool_choice", "tools", "thinking"}  # what has another form in OpenAI's JSON


def request_body(request: GenerationRequest, n: int) -> dict[str, Any]:
    """OpenAI's JSON for `n` streamed answers to `request`: what peers take."""
    body = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=FORMED)
    if request.tools:
        body["tools"] = [tool.model_dump(mode="json", exclude_none=True) for tool in request.tools]
        choice = request.tool_choice
        body["tool_choice"] = choice if isinstance(choice, str) else choice.model_dump(mode="json")
    else:
        body.pop("parallel_tool_calls", None)
    if not request.input_extra:
        body.pop("input_extra")
    if request.logprobs:
        if request.messages is None:
            body["logprobs"] = max(request.top_logprobs, 1)
        else:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
    if request.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": request.thinking}  # vLLM's and llama.cpp's name
    body["n"] = n
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    return body
