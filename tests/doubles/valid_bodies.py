"""Bodies that every POST endpoint takes, rich in fields: what tests damage before they send it."""

from __future__ import annotations

from typing import Any

WORDS: dict[str, Any] = {"type": "object", "properties": {"a": {}}}
SINGLE = {"strategy": "single"}

CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "a"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "5"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": WORDS}}],
    "tool_choice": "auto",
    "n": 1,
    "stop": ["x"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 1,
    "top_k": 5,
    "min_p": 0,
    "seed": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repeat_penalty": 1,
    "logit_bias": {"5": 1},
    "logprobs": False,
    "parallel_tool_calls": True,
    "swarm": {"strategy": "auto", "votes": 2, "min_votes": 1, "deadline_s": 30},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": WORDS}}
JSON_CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "x"}],
    "response_format": FORMAT,
    "swarm": SINGLE,
}
TEXT: dict[str, Any] = {
    "model": "demo",
    "prompt": "hello",
    "echo": True,
    "logprobs": 1,
    "n": 1,
    "stop": "x",
    "suffix": None,
    "max_tokens": 1,
}
EMBED: dict[str, Any] = {"model": "demo", "input": ["hello", "you"], "encoding_format": "float", "dimensions": None}
RESPONSE: dict[str, Any] = {
    "model": "demo",
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "5"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": WORDS}, {"type": "web_search"}],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    "reasoning": {"effort": "low"},
    "max_output_tokens": 1,
    "stream": True,
    "store": False,
    "include": [],
    "metadata": {},
    "swarm": SINGLE,
}
MESSAGE: dict[str, Any] = {
    "model": "demo",
    "max_tokens": 1,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "5"}]},
    ],
    "tools": [{"name": "f", "description": "f", "input_schema": WORDS}],
    "tool_choice": {"type": "auto"},
    "stop_sequences": ["x"],
    "thinking": {"type": "disabled"},
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 1,
    "stream": True,
    "metadata": {"user_id": "a"},
    "swarm": SINGLE,
}
RERANK: dict[str, Any] = {"model": "demo", "query": "hello", "documents": ["hello", "you"], "top_n": 1}
INFILL: dict[str, Any] = {"model": "demo", "input_prefix": "a", "input_suffix": "b", "prompt": "", "n_predict": 1}
PLAIN: dict[str, Any] = {
    "model": "demo", "prompt": "a", "n_predict": 1, "n_probs": 1, "stop": ["."], "response_fields": ["content"],
    "cache_prompt": False, "dry_multiplier": 0.5, "repeat_last_n": 8, "logit_bias": [[1, 0.5], [2, False]], "lora": [],
}  # fmt: skip
TOKENIZE: dict[str, Any] = {"model": "demo", "content": "hello", "add_special": True, "with_pieces": True}
DETOKENIZE: dict[str, Any] = {"model": "demo", "tokens": [1, 2, 3]}
TEMPLATE: dict[str, Any] = {"model": "demo", "messages": CHAT["messages"], "tools": CHAT["tools"]}
CANDIDATES: dict[str, Any] = {"request": CHAT, "votes": 2}

EXECUTE: dict[str, Any] = {"tool": "say", "arguments": {"text": "hello"}, "timeout_s": 5}  # of `scripted_tools.py`
MCP: dict[str, Any] = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "say", "arguments": {"text": "hello"}},
}  # fmt: skip

OLLAMA_OPTIONS: dict[str, Any] = {
    "num_predict": 1, "stop": ["x"], "seed": 1, "temperature": 0.5, "top_k": 5, "top_p": 1, "min_p": 0,
    "repeat_penalty": 1.1, "presence_penalty": 0, "frequency_penalty": 0, "num_ctx": 1024,
}  # fmt: skip
OLLAMA_CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "a",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "tool_name": "f", "content": "5"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "f", "parameters": WORDS}}],
    "think": False,
    "format": WORDS,
    "options": OLLAMA_OPTIONS,
    "keep_alive": "5m",
    "stream": True,
    "swarm": SINGLE,
}
OLLAMA_TEXT: dict[str, Any] = {
    "model": "demo", "prompt": "a", "system": "b", "format": "json", "options": OLLAMA_OPTIONS, "stream": False,
}  # fmt: skip

BODIES: dict[str, tuple[dict[str, Any], ...]] = {
    "/chat/completions": (CHAT, JSON_CHAT),
    "/completions": (TEXT,),
    "/embeddings": (EMBED,),
    "/responses": (RESPONSE,),
    "/messages": (MESSAGE,),
    "/messages/count_tokens": (MESSAGE,),
    "/rerank": (RERANK,),
    "/infill": (INFILL,),
    "/completion": (PLAIN,),
    "/embedding": ({"model": "demo", "content": ["a", "b"], "embd_normalize": 2},),
    "/chat/completions/input_tokens": (TEMPLATE,),
    "/tokenize": (TOKENIZE,),
    "/detokenize": (DETOKENIZE,),
    "/apply-template": (TEMPLATE,),
    "/tools/execute": (EXECUTE,),
    "/mcp": (MCP,),
    "/api/chat": (OLLAMA_CHAT,),
    "/api/generate": (OLLAMA_TEXT,),
    "/api/embed": (EMBED,),
    "/api/embeddings": ({"model": "demo", "prompt": "hello"},),
    "/api/show": ({"model": "demo"},),
    "/api/pull": ({"model": "demo", "stream": False},),
    "/federation/v1/candidates": (CANDIDATES,),
    "/federation/v1/generate": (CHAT, TEXT),
}


def bodies_for(path: str) -> tuple[dict[str, Any], ...]:
    """What the endpoint at `path` takes; everything there is for one that this file does not know."""
    everything = tuple(body for bodies in BODIES.values() for body in bodies)
    return BODIES.get(path.removeprefix("/v1"), everything)
