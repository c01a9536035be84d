"""Chat templates of the kinds that there are, in few words, and the embedded model behind any of them.

Each has a habit of templates that are in use: what it refuses, what it leaves out without a word.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import xllamacpp

from swarm.engines.llama_cpp.http import LlamaHttp

_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_ALTERNATING = (
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + _TURN + "{% endfor %}" + _BEGIN
)
PLAIN = "{% for m in messages %}" + _TURN + "{% endfor %}" + _BEGIN
_OFFER = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
_CALLS = (
    "{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
)

TEMPLATES: Mapping[str, str] = {
    "knows no tools": PLAIN,
    "leaves unknown roles out": (
        "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}" + _TURN + "{% endif %}{% endfor %}"
    )
    + _BEGIN,
    "roles alternate, no system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% set rest = messages %}" + _ALTERNATING
    ),
    "roles alternate after a system turn": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}" + _ALTERNATING
    ),
    "refuses a later system turn": (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('System message must be at the beginning.') }}{% endif %}" + _TURN + "{% endfor %}" + _BEGIN
    ),
    "leaves a later system turn out": (
        "{% for m in messages %}{% if m.role != 'system' or loop.first %}" + _TURN + "{% endif %}{% endfor %}" + _BEGIN
    ),
    "shows tools and no calls": _OFFER + PLAIN,
    "takes short ids and one call a turn": (
        _OFFER + "{% for m in messages %}{% if m.tool_calls %}"
        "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
        "{% if m.tool_calls[0].id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
        "<|im_start|>assistant\n" + _CALLS + "<|im_end|>\n{% else %}" + _TURN + "{% endif %}{% endfor %}" + _BEGIN
    ),
    "roles alternate but for calls": (
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}" + _OFFER + "{% set ns = namespace(index=0) %}"
        "{% for m in rest %}{% if m.role != 'tool' and not m.tool_calls %}"
        "{% if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set ns.index = ns.index + 1 %}{% endif %}"
        "{% if m.tool_calls %}<|im_start|>assistant\n" + _CALLS + "<|im_end|>\n"
        "{% elif m.role == 'user' and loop.last and system %}"
        "<|im_start|>user\n{{ system }}\n{{ m.content }}<|im_end|>\n"
        "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _BEGIN
    ),
    "reads the schemas of tools": (
        "{% for t in tools or [] %}{{ t.function.description }}: "
        "{% for name, each in t.function.parameters.properties.items() %}"
        "{{ {'string': 'str', 'integer': 'int'}[each.type] }}{% endfor %}\n{% endfor %}"
        "{% for m in messages %}" + _TURN + "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}"
        "{% endfor %}{% endfor %}" + _BEGIN
    ),
    "needs a user": (
        "{% if not messages | selectattr('role', 'equalto', 'user') | list %}"
        "{{ raise_exception('No user query found in messages.') }}{% endif %}" + PLAIN
    ),
}


class Dictated(LlamaHttp):
    """An engine whose model says `words`, by grammar: the demo model does not think of itself, and calls what it likes.

    A form that the answer must have goes before the words.
    """

    words: str | None = None

    @asynccontextmanager
    async def _post(self, path: str, body: Any) -> AsyncIterator[Any]:
        if self.words is not None and path == "/v1/chat/completions" and "response_format" not in body:
            body = {**body, "grammar": f"root ::= {json.dumps(self.words)}"}
        async with super()._post(path, body) as response:
            yield response


@asynccontextmanager
async def templated(model: Path, template: str, words: str | None = None, slots: int = 1) -> AsyncIterator[Dictated]:
    """The model behind another chat template, untried: `loaded()` tries it."""
    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel, params.n_ctx, params.kv_unified = slots, 1024 * slots, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.chat_template, params.use_jinja = template, True
    params.endpoint_metrics = True
    params.ui, params.verbosity, params.port, params.hostnames = False, -1, 0, ["127.0.0.1"]
    server: Any = xllamacpp.Server(params)
    http = Dictated(server.listening_address, "")
    http.words = words
    try:
        yield http
    finally:
        await http.aclose()
        del server
