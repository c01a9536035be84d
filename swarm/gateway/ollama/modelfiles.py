"""`POST /api/create` is always refused: no models are made here. But what a Modelfile asks for, a node has elsewhere.

Its instructions (https://docs.ollama.com/modelfile) and the fields of the request mean the same. Each is answered with
where that is said to a node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from swarm.gateway.ollama.bodies import OllamaNamedBody
from swarm.gateway.openai.bodies import MAX_MODEL_CHARS

MAX_MODELFILE_CHARS: Final = 1 << 20
MAX_SHOWN_CHARS: Final = 100  # of a model's name, in the answer

NO_MODELFILES: Final = "models are not made here"
NO_BLOBS: Final = (
    "files are not sent to a node: POST /api/pull brings a model to it, by name or as hf:OWNER/REPO/FILE.gguf; a file "
    "of your own is put into its models folder"
)
NO_PUSH: Final = "models are not published from a node: other nodes of its swarm copy them by themselves"
# What is asked for: in a Modelfile, and in the request. In the order of what matters most.
REMEDIES: Final[Mapping[str, str]] = {
    "from": "a second name for {base} is made by POST /api/copy, or by [aliases] in the node's configuration",
    "files": "a GGUF file is put into the node's models folder, or brought by POST /api/pull",
    "adapters": "an adapter is merged into its model first, with llama.cpp's llama-export-lora",
    "quantize": "another quantization is brought by its name, such as qwen3:4b:q8_0, by POST /api/pull",
    "parameters": 'sampling is set in [models."NAME".sampling] of the configuration, or in `options` of each request',
    "system": "a system prompt is sent with each request, as a message of the role system or in `system`",
    "messages": "messages are sent with each request",
    "template": "every model keeps the chat template of its own file; `raw` of /api/generate takes a whole prompt",
    "license": "a licence is what the file says",
}
INSTRUCTIONS: Final[Mapping[str, str]] = {
    "FROM": "from", "ADAPTER": "adapters", "PARAMETER": "parameters", "SYSTEM": "system", "MESSAGE": "messages",
    "TEMPLATE": "template", "LICENSE": "license",
}  # fmt: skip
_INSTRUCTION: Final = re.compile(rf"^[ \t]*({'|'.join(INSTRUCTIONS)})[ \t]+(\S.*)$", re.IGNORECASE | re.MULTILINE)
_QUOTED: Final = re.compile(r'"""(?:.*?)"""', re.DOTALL)


class OllamaCreateBody(OllamaNamedBody):
    """`POST /api/create`, which is refused whatever it has."""

    base: Annotated[str, Field(max_length=MAX_MODEL_CHARS, alias="from")] = ""
    modelfile: Annotated[str, Field(max_length=MAX_MODELFILE_CHARS)] = ""
    files: dict[str, Any] | None = None
    adapters: dict[str, Any] | None = None
    quantize: str | None = None
    parameters: dict[str, Any] | None = None
    system: str | None = None
    messages: list[Any] | None = None
    template: str | None = None
    license: Any = None


def asked_for(modelfile: str) -> dict[str, str]:
    """What a Modelfile asks for, by the request's fields, with the first value of each; long texts are skipped."""
    found: dict[str, str] = {}
    for instruction, value in _INSTRUCTION.findall(_QUOTED.sub('""', modelfile)):
        found.setdefault(INSTRUCTIONS[instruction.upper()], value.strip())
    return found


def why_not_made(body: OllamaCreateBody) -> str:
    """What to answer: where each thing that is asked for is said instead."""
    asked = asked_for(body.modelfile)
    fields = {**asked, **{name: given for name in REMEDIES if (given := getattr(body, name, None))}}
    if body.base:
        fields["from"] = body.base
    base = str(fields.get("from") or "a model")[:MAX_SHOWN_CHARS]
    remedies = [words.format(base=base) for name, words in REMEDIES.items() if name in fields]
    return f"{NO_MODELFILES}: {'; '.join(remedies or [REMEDIES['files'], REMEDIES['parameters']])}"
