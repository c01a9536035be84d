"""A model's chat template, as Hugging Face's libraries render it: jinja2 in its sandbox, with what templates expect.

Templates come with models, and models from strangers. The sandbox keeps them from Python's objects; nothing keeps them
from never ending, which is for whoever watches the process. jinja2 comes with the libraries whose models need it, and
is imported when the first conversation is rendered.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from swarm.engines.openai_dialect import TemplateRefused
from swarm.generation import JsonObject

# Of a model that has none, as llama.cpp has it.
CHATML = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class ChatTemplate:
    """One model's. `with_tools` is the one for conversations with tools, where a model has two."""

    def __init__(self, source: str, bos_token: str, eos_token: str, with_tools: str | None = None) -> None:
        self._sources = {False: source or CHATML, True: with_tools or source or CHATML}
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._compiled: dict[bool, Any] = {}

    def render(
        self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], variables: Mapping[str, object]
    ) -> str:
        """See `Generator.render`."""
        try:
            template = self._template(bool(tools))
            return str(template.render(messages=list(messages), tools=list(tools) or None, **self._tokens, **variables))
        except Exception as error:  # whatever a stranger's program does wrong
            why = str(error) or type(error).__name__
            raise TemplateRefused(
                f"this model's chat template does not take this conversation: {why}", param="messages"
            ) from error

    def _template(self, tools: bool) -> Any:
        if tools not in self._compiled:
            self._compiled[tools] = _environment().from_string(self._sources[tools])
        return self._compiled[tools]


def _environment() -> Any:
    jinja2 = importlib.import_module("jinja2")
    sandbox = importlib.import_module("jinja2.sandbox")
    extension = importlib.import_module("jinja2.ext")

    class Generation(extension.Extension):
        """`{% generation %}` marks for training what an assistant says, and changes nothing here."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            parser.stream.skip(1)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": _now}
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, and not as HTML has it, which is jinja2's own."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
