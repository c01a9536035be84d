"""The tools of this machine as models are told of them, and the check of what they ask.

Models read all of it with every step, so each word has to earn its place: a test counts the tokens. How long a text may
be is no business of theirs, and said where it is too long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import JsonValue

from swarm.errors import BadRequest
from swarm.generation import JsonObject
from swarm.tools.tool import DEFAULT_TIMEOUT_S, MOST_TIMEOUT_S, ToolDefinition

MAX_FILE_BYTES: Final = 1_000_000  # of a file that is read, written or edited; bash has the rest
MAX_COMMAND_CHARS: Final = 100_000  # the kernel takes 128 KiB in one argument
MAX_MESSAGE_CHARS: Final = 200  # of what is wrong with an argument; it quotes the argument

_PATH: Final[JsonObject] = {"type": "string"}


def _schema(required: tuple[str, ...], **properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


READ: Final = ToolDefinition(
    "read",
    "Read a text file, with line numbers.",
    _schema(
        ("path",),
        path=_PATH,
        offset={"type": "integer", "minimum": 1, "description": "first line"},
        limit={"type": "integer", "minimum": 1, "description": "lines"},
    ),
    reads_only=True,
)
WRITE: Final = ToolDefinition(
    "write",
    "Write a file, replacing all of it; folders are made.",
    _schema(("path", "content"), path=_PATH, content={"type": "string"}),
    alone=True,
)
EDIT: Final = ToolDefinition(
    "edit",
    "Replace text in a file. `old` must be exact and occur once, unless `all`.",
    _schema(
        ("path", "old", "new"),
        path=_PATH,
        old={"type": "string"},
        new={"type": "string"},
        all={"type": "boolean"},
    ),
    alone=True,
)
GLOB: Final = ToolDefinition(
    "glob",
    "List files by pattern, such as **/*.py.",
    _schema(("pattern",), pattern=_PATH, path={**_PATH, "description": "folder"}),
    reads_only=True,
)
GREP: Final = ToolDefinition(
    "grep",
    "Search file contents by regular expression.",
    _schema(
        ("pattern",),
        pattern={"type": "string"},
        path={**_PATH, "description": "file or folder"},
        glob={**_PATH, "description": "only these files"},
        ignore_case={"type": "boolean"},
    ),
    reads_only=True,
)
BASH: Final = ToolDefinition(
    "bash",
    "Run a bash command in the project's folder. No input; nothing runs on after it.",
    _schema(
        ("command",),
        command={"type": "string"},
        timeout_s={
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MOST_TIMEOUT_S,
            "description": f"default {DEFAULT_TIMEOUT_S:.0f}",
        },
    ),
    alone=True,
)
DEFINITIONS: Final = {tool.name: tool for tool in (READ, WRITE, EDIT, GLOB, GREP, BASH)}  # webfetch has its own


def check_arguments(definition: ToolDefinition, arguments: Mapping[str, JsonValue]) -> None:
    """Raise BadRequest where `arguments` do not keep the tool's schema, its `param` the path of the value to blame.

    For tools of this machine only: a schema of others may take for ever.
    """
    from jsonschema import Draft202012Validator  # a tenth of a second, for the first call

    errors = sorted(cast("Any", Draft202012Validator(definition.parameters)).iter_errors(dict(arguments)), key=_depth)
    if not errors:
        return
    first = errors[0]
    path = "arguments" + first.json_path.removeprefix("$")
    if first.validator == "required":
        missing = next(name for name in first.validator_value if name not in first.instance)
        raise BadRequest(f"{definition.name} needs {missing}: {_shape(definition)}", param=f"{path}.{missing}")
    if first.validator == "additionalProperties":
        unknown = sorted(set(first.instance) - set(first.schema["properties"]))[0][:MAX_MESSAGE_CHARS]
        raise BadRequest(f"{definition.name} takes no {unknown!r}: {_shape(definition)}", param=f"{path}.{unknown}")
    message = first.message
    if len(message) > MAX_MESSAGE_CHARS:
        message = f"{message[: MAX_MESSAGE_CHARS // 2]} … {message[-MAX_MESSAGE_CHARS // 2 :]}"
    raise BadRequest(f"{path}: {message}", param=path)


def _depth(error: Any) -> int:
    """A missing argument is told before a wrong one: it is what the others are about."""
    return 0 if error.validator in ("required", "additionalProperties") else 1 + len(error.path)


def _shape(definition: ToolDefinition) -> str:
    properties: Any = definition.parameters["properties"]
    required: Any = definition.parameters["required"]
    return f"it takes {', '.join(name if name in required else f'[{name}]' for name in properties)}"
