"""MCP servers of others, as a configuration names them (`[mcp.servers.NAME]`), and what their tools are called here.

A server's tool `search` of `[mcp.servers.github]` is called `github__search`: with a dot, as people write it, most APIs
of models would refuse the name. Whoever calls it may write `github.search`, too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from swarm.errors import SetupError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SERVERS: Final = 32
MAX_SERVER_NAME_CHARS: Final = 32
MAX_TOOL_NAME_CHARS: Final = 64  # OpenAI's and Anthropic's limit
MAX_WORDS: Final = 256  # of a command line, and of a list of tools
MAX_VARIABLES: Final = 64
MAX_FOLDERS: Final = 16
MIN_KEY_CHARS: Final = 8
MAX_SHOWN_VALUE_CHARS: Final = 100  # of one that is refused
SEPARATOR: Final = "__"  # between a server's name and its tool's: neither OpenAI nor Anthropic takes a dot

_SERVER: Final = re.compile(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*")  # so that SEPARATOR is in no name
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset(
    {"accept", "content-type", "content-length", "host", "connection", "transfer-encoding", "mcp-protocol-version"}
    | {"mcp-method", "mcp-name", "mcp-session-id"}
)  # what the protocol itself says
_EXAMPLE: Final = 'command = ["uvx", "mcp-server-git"] or url = "https://host/mcp"'


def _server_name(name: str) -> str:
    if len(name) > MAX_SERVER_NAME_CHARS or not _SERVER.fullmatch(name):
        raise PydanticCustomError(
            "server_name",
            "is no name of a server: use 1 to {most} letters and digits, with single - and _ between them",
            {"most": MAX_SERVER_NAME_CHARS},
        )
    return name


def _command(value: object) -> object:
    """A list of words, or one text that is cut into words as a shell does it."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise PydanticCustomError("command", "is no command line: {why}", {"why": str(error)}) from None


def _url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        port_is_one = parts.port != 0
    except ValueError:
        parts, port_is_one = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or not port_is_one:
        raise PydanticCustomError("url", "is no http:// or https:// address")
    if "@" in parts.netloc:
        raise PydanticCustomError("url", "holds a user: a key belongs in `headers`")
    return url.strip()


def _variables(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if not name or "=" in name or "\0" in name + value:
            raise PydanticCustomError("variable", "holds what is no environment variable")
    return values


def _headers(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if not _HEADER.fullmatch(name) or not value.isprintable() or not value.isascii():
            raise PydanticCustomError("header", "holds what is no header of a request")
        if name.lower() in _OWN_HEADERS:
            raise PydanticCustomError("header", "holds {name}, which the protocol itself sets", {"name": name})
    return values


ServerName = Annotated[str, AfterValidator(_server_name)]
_Word = Annotated[str, Field(min_length=1, max_length=32_768)]
_WordList = Annotated[tuple[_Word, ...], Field(max_length=MAX_WORDS)]
_Secrets = Annotated[Mapping[str, str], Field(max_length=MAX_VARIABLES)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class McpServerSettings:
    """`[mcp.servers.NAME]`: a `command`, which is run in the tools' sandbox, or the `url` of a server.

    `env` are variables that the command has beside the few of every sandbox, `headers` those of each request to the
    URL; `${NAME}` in them is a variable of the node's own environment, so that no key has to stand in a file.
    `network`: the command reaches the network. It may read `folders` beside what every sandbox shows: where it is
    installed, say. `tools`: only these, by the server's own names; None for all.
    """

    command: Annotated[_WordList, BeforeValidator(_command)] = ()
    url: Annotated[str, AfterValidator(_url)] | None = None
    env: Annotated[_Secrets, AfterValidator(_variables)] = field(default_factory=dict[str, str], repr=False)
    headers: Annotated[_Secrets, AfterValidator(_headers)] = field(default_factory=dict[str, str], repr=False)
    network: StrictBool = False
    folders: Annotated[tuple[Path, ...], Field(max_length=MAX_FOLDERS)] = ()
    tools: _WordList | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> McpServerSettings:
        if bool(self.command) == (self.url is not None):
            raise PydanticCustomError(
                "mcp_server", "needs a command or a url, and has {both}: write {example}",
                {"both": "both" if self.command else "neither", "example": _EXAMPLE},
            )  # fmt: skip
        of_other = ("headers",) if self.command else ("env", "network", "folders")
        for name in of_other:
            if getattr(self, name):
                kind = "command" if self.command else "url"
                raise PydanticCustomError(
                    "mcp_server", "has {name}, which a server with a {kind} does not take",
                    {"name": name, "kind": kind},
                )  # fmt: skip
        return self


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class McpSettings:
    """`[mcp]`: the servers of others whose tools this node has, by their names."""

    servers: Annotated[Mapping[ServerName, McpServerSettings], Field(max_length=MAX_SERVERS)] = field(
        default_factory=dict[str, McpServerSettings]
    )


def expanded(name: str, server: McpServerSettings, environment: Mapping[str, str]) -> McpServerSettings:
    """`server` with the variables that its `env` and `headers` name. Raises SetupError for one that is not set."""

    def filled(setting: str, values: Mapping[str, str]) -> Mapping[str, str]:
        def value_of(found: re.Match[str]) -> str:
            if (value := environment.get(found[1])) is None:
                raise SetupError(
                    f"[mcp.servers.{name}] {setting} names the environment variable {found[1]}, which is not set here"
                )
            return value

        return {key: _VARIABLE.sub(value_of, value) for key, value in values.items()}

    env, headers = filled("env", server.env), filled("headers", server.headers)
    try:
        return replace(server, env=env, headers=headers)
    except ValidationError:  # not said what: it may be a key
        raise SetupError(
            f"[mcp.servers.{name}]: an environment variable that it names holds what cannot be sent: a key is one line "
            "of ASCII"
        ) from None


def keys_of(server: McpServerSettings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """What is never shown of a server as its configuration names it: variables that it is given, words of headers.

    The longest first. Places are no keys, nor is what is shorter than `MIN_KEY_CHARS`: both stand in many a text.
    """
    values = (*server.env.values(), *server.headers.values())
    named = {environment.get(variable, "") for value in values for variable in _VARIABLE.findall(value)}
    words = {word for value in (*named, *server.headers.values()) for word in value.split()}
    keys = (word for word in words if len(word) >= MIN_KEY_CHARS and not word.startswith("/") and "://" not in word)
    return tuple(sorted(keys, key=len, reverse=True))


def with_folders(name: str, server: McpServerSettings, data_dir: Path) -> McpServerSettings:
    """`server` with the folders that it may read as they are, and its program where a `~` stands for a home. Blocks.

    Raises SetupError for what is no folder, the whole file system, and what holds or lies in `data_dir`, where the node
    keeps its keys.
    """
    kept = data_dir.expanduser().resolve()
    found: list[Path] = []
    for folder in server.folders:
        try:
            path = folder.expanduser().resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SetupError(f"[mcp.servers.{name}] folders: {folder} cannot be used ({why})") from error
        if not path.is_dir():
            raise SetupError(f"[mcp.servers.{name}] folders: {folder} is not a folder")
        if path in (Path(path.anchor), kept) or path in kept.parents or kept in path.parents:
            raise SetupError(
                f"[mcp.servers.{name}] folders: {folder} would show this node's keys, which are in {kept}: name the "
                "folder that the server is installed in"
            )
        found.append(path)
    program = tuple(os.path.expanduser(word) for word in server.command[:1])  # noqa: PTH111 (uvx stays uvx)
    return replace(server, command=(*program, *server.command[1:]), folders=tuple(found))


def place_in_servers(problem: ErrorDetails) -> str:
    """Where in `[mcp]` of a configuration file something is wrong, with its value, where that is no secret."""
    name, setting, *_ = [*map(str, problem["loc"][2:]), "", ""]
    shown = f"{repr(problem['input'])[:MAX_SHOWN_VALUE_CHARS]} "
    if not name:
        return f"[{'.'.join(map(str, problem['loc'][:2]))}] "
    if setting == "[key]":
        return f"[mcp.servers] {shown}"
    if not setting:
        return f"[mcp.servers.{name}] "
    if problem["type"] == "unexpected_keyword_argument":
        return f"[mcp.servers.{name}] {setting!r} "
    is_secret = setting in ("env", "headers") or (setting == "url" and "@" in shown)
    return f"[mcp.servers.{name}] {setting} " + ("" if is_secret else f"= {shown}")


def tool_name(server: str, tool: str) -> str:
    """What a server's tool is called here: of at most `MAX_TOOL_NAME_CHARS` letters, digits, `_` and `-`.

    What does not fit is replaced or cut, and then ends in eight characters that only this tool's name gives.
    """
    plain = f"{server}{SEPARATOR}{_NOT_IN_NAMES.sub('_', tool)}"
    if plain == f"{server}{SEPARATOR}{tool}" and len(plain) <= MAX_TOOL_NAME_CHARS:
        return plain
    mark = hashlib.sha256(f"{server}\0{tool}".encode(errors="replace")).hexdigest()[:8]
    return f"{plain[: MAX_TOOL_NAME_CHARS - 9]}_{mark}"


def as_called(name: str) -> str:
    """`name` as tools are called here: `github.search` is `github__search`."""
    server, dot, tool = name.partition(".")
    return tool_name(server, tool) if dot and _SERVER.fullmatch(server) and tool else name
