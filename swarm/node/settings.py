"""What the user decided, from the command line, the environment and a TOML file, as one frozen object.

`Settings` is the one place that says which settings there are, of which types and within which bounds: a new one is a
field here and an option in `commands/node_arguments.py`. Whatever is refused is named with where it came from.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from federation.hostport import DEFAULT_PORT, MAX_PORT
from swarm.consensus.cascade import LEAST_VOTES
from swarm.consensus.options import MAX_VOTES, Strategy, StreamMode
from swarm.engines.registry import EngineName, Isolation
from swarm.engines.upstream.address import DEFAULT_SLOTS, URL_VARIABLE, UpstreamMode
from swarm.environment import texts
from swarm.errors import SetupError
from swarm.logs import LOG_FORMATS
from swarm.node.model_settings import (
    MAX_SHOWN_CHARS,
    MAX_UPSTREAMS,
    MOST_LOADED,
    AliasTable,
    ByName,
    ExpandedPath,
    Folders,
    LentSize,
    MemorySize,
    ModelName,
    ModelSettings,
    PeerRules,
    Texts,
    TimeToLive,
    UpstreamSettings,
    UpstreamTables,
    ambiguous_alias,
    between,
    known_in,
    place_of,
)
from swarm.routing.rules import RoutingRules, read_rules
from swarm.tools.mcp_servers import McpSettings, place_in_servers
from swarm.tools.plan import parse_sandbox, parse_tools
from swarm.workers.model_workers import DEFAULT_QUEUE

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

APPLICATION = "local-swarm"
MAX_QUEUE = 1024  # of --queue: half of all that a node takes on (`gateway/http/in_progress.py`)
LEVELS = ("debug", "info", "warning", "error")


def default_data_dir() -> Path:
    """Where models, the node's identity and known peers are kept, after each system's custom."""
    return user_data_path(APPLICATION, appauthor=False)


def _level(name: str) -> str:
    if name.lower() not in LEVELS:
        raise PydanticCustomError("log_level", "is no level: use debug, info, warning or error")
    return name


def _log_format(name: str) -> str:
    if name not in LOG_FORMATS:
        raise PydanticCustomError("log_format", "is no format: use text or json")
    return name


def _program(path: Path) -> Path:
    """The whole path, so that it means the same wherever it is run from; a bare name is looked up as a shell does."""
    found = path
    try:
        if len(found.parts) == 1 and not found.exists() and (on_path := shutil.which(str(found))) is not None:
            found = Path(on_path)
        if found.is_dir():
            raise PydanticCustomError(
                "program", "is a folder: give the program in it, as {one}", {"one": f"{found}/llama-server"}
            )
        if not found.is_file():
            raise PydanticCustomError("program", "is not there: give the path of a llama.cpp server")
    except OSError as error:  # a folder on the way that is not open to this user, a name that is too long
        raise PydanticCustomError(
            "program", "cannot be looked at ({why}): give one that can", {"why": error.strerror or str(error)}
        ) from None
    return found.absolute()


def _tool_names(value: object) -> object:
    """`read,grep`, or a list of such, as tools' names in their own order; what is neither is refused as that."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        return value
    try:
        return parse_tools(",".join(map(str, cast("Sequence[object]", parts))))
    except SetupError as error:
        raise PydanticCustomError("tools", "cannot be had: {problem}", {"problem": str(error)}) from None


def _sandbox(text: str) -> str:
    try:
        parse_sandbox(text)
    except SetupError as error:
        raise PydanticCustomError("sandbox", "cannot be had: {problem}", {"problem": str(error)}) from None
    return text


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, str | int) else value


def _pool(value: object) -> object:
    """`true`, or the names of lenders that are taken in any case."""
    if isinstance(value, bool):
        return value
    names = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()
    if names and all(isinstance(one, str) and one for one in names):
        return tuple(names)
    raise PydanticCustomError("pool", 'is neither true nor names of nodes: use true, or ["attic"]')


MAX_ALSO_PORTS = 8
PortNumber = Annotated[int, between(1, MAX_PORT)]
Ports = Annotated[tuple[PortNumber, ...], Field(max_length=MAX_ALSO_PORTS), BeforeValidator(_one_or_several)]
Models = Annotated[Texts, Field(max_length=MOST_LOADED)]
Upstreamed = Annotated[Texts, Field(max_length=MAX_UPSTREAMS)]
ToolNames = Annotated[tuple[str, ...], BeforeValidator(_tool_names)]
SandboxName = Annotated[str, AfterValidator(_sandbox)]
PoolChoice = Annotated[bool | tuple[str, ...], BeforeValidator(_pool)]
LogLevel = Annotated[str, AfterValidator(_level)]
LogFormat = Annotated[str, AfterValidator(_log_format)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Settings:
    """One node's settings, checked. None lets the node choose. A single text stands for a list of one.

    `ttl` is seconds, infinite for `never`; `memory`, `kv_disk` and `lend` bytes. `aliases`, `mcp`, `models`, `peers`,
    `routing`, `tool_instructions` and `upstreams` (its tables `[upstream.NAME]`) are in a configuration file only.
    `pool` may be names of lenders that are taken whatever their link is like, in a configuration file.
    `upstream` names tables of it, rows of the table of providers, and base URLs; left empty, all of its tables count.
    """

    federation: bool = False
    peer: Texts = ()
    peer_file: Path | None = None
    host: str | None = None
    interface: Texts = ()
    port: Annotated[int, between(0, 65535)] = DEFAULT_PORT
    also_port: Ports = ()
    name: str | None = None
    api_key: Texts = field(default=(), repr=False)
    api_key_file: Path | None = None
    admin_key_file: Path | None = None
    open_federation: bool = False
    allow_host: Texts = ()
    allow_origin: Texts = ()
    answer_any_model: bool = False
    fetch_images: bool = False
    record: bool = False
    model: Models = ()
    models_dir: Folders = ()
    default_model: ModelName | None = None
    ttl: TimeToLive | None = None
    max_models: Annotated[int, between(1, MOST_LOADED)] | None = None
    memory: MemorySize | None = None
    pool: PoolChoice = False
    kv_disk: MemorySize | None = None
    lend: LentSize = None
    aliases: AliasTable = field(default_factory=dict[str, str])
    models: ByName = field(default_factory=dict[str, ModelSettings])
    peers: PeerRules = field(default_factory=PeerRules)
    auto: bool = False
    engine: EngineName = "auto"
    engines_dir: ExpandedPath | None = None
    llama_server: Annotated[ExpandedPath, AfterValidator(_program)] | None = None
    isolation: Isolation = "auto"
    workers: Annotated[int, between(1, 64)] | None = None
    queue: Annotated[int, between(0, MAX_QUEUE)] = DEFAULT_QUEUE
    threads: Annotated[int, between(1, 512)] | None = None
    context: Annotated[int, between(256, 10_000_000)] | None = None
    votes: Annotated[int, between(1, MAX_VOTES)] | None = None
    strategy: Strategy = Strategy.AUTO
    vote_stream: StreamMode | None = None
    upstream: Upstreamed = ()
    upstreams: UpstreamTables = field(default_factory=dict[str, UpstreamSettings])
    upstream_mode: UpstreamMode | None = None
    upstream_model: str | None = None
    upstream_slots: Annotated[int, between(1, 256)] = DEFAULT_SLOTS
    routing: RoutingRules = field(default_factory=RoutingRules)
    tools: ToolNames | None = None
    tools_root: ExpandedPath | None = None
    tools_network: bool = False
    tools_sandbox: SandboxName | None = None
    tools_unsandboxed: bool = False
    tool_server: bool = False
    no_model: bool = False
    tool_instructions: ExpandedPath | None = None
    mcp: McpSettings = field(default_factory=McpSettings)
    data_dir: ExpandedPath | None = None
    log_level: LogLevel = "warning"
    log_format: LogFormat = "text"
    plain: bool = False
    config: Path | None = None

    @field_validator("strategy")
    @classmethod
    def _has_answers_to_choose_from(cls, strategy: Strategy, info: ValidationInfo) -> Strategy:
        if (strategy, info.data.get("votes")) == (Strategy.JUDGE, 1):
            raise PydanticCustomError(
                "judge", "needs answers to choose from: use 2 to {most} votes (got 1)", {"most": MAX_VOTES}
            )
        if strategy == Strategy.CASCADE and (votes := info.data.get("votes")) is not None and votes < LEAST_VOTES:
            raise PydanticCustomError(
                "cascade",
                "asks the strongest model where two others do not agree: use {least} to {most} votes (got {votes})",
                {"least": LEAST_VOTES, "most": MAX_VOTES, "votes": votes},
            )
        return strategy

    @field_validator("max_models")
    @classmethod
    def _room_for_those_named(cls, most: int | None, info: ValidationInfo) -> int | None:
        named: Sequence[str] = info.data.get("model", ())
        if most is not None and most < len(named):
            raise PydanticCustomError(
                "max_models",
                "is fewer than the {named} of --model, which stay loaded: use {named} or more",
                {"named": len(named)},
            )
        return most

    @field_validator("aliases", "models")
    @classmethod
    def _one_meaning_each(cls, value: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        if info.field_name == "aliases":
            pairs: list[tuple[str, str]] = list(value.items())
        else:
            pairs = [*info.data.get("aliases", {}).items()]
            pairs += [(alias, name) for name, model in value.items() for alias in model.aliases]
        if (problem := ambiguous_alias(pairs)) is not None:
            raise PydanticCustomError("alias", "{problem}", {"problem": problem})
        return value

    @property
    def data_path(self) -> Path:
        return self.data_dir or default_data_dir()

    @property
    def own_models_dir(self) -> Path:
        """Where downloaded models are kept."""
        return self.data_path / "models"

    @property
    def saved_prompts_dir(self) -> Path:
        """Where what was read of prompts is kept, if `kv_disk` says so."""
        return self.data_path / "kv"

    @property
    def engines_path(self) -> Path:
        """Where `swarm engines install` puts what it makes."""
        return self.engines_dir or self.data_path / "engines"

    @property
    def all_aliases(self) -> Mapping[str, str]:
        """Those of `[aliases]`, and those that `[models."NAME"]` gives to its model."""
        return {alias: name for name, model in self.models.items() for alias in model.aliases} | dict(self.aliases)

    @property
    def federated(self) -> bool:
        """A --peer is as good a reason to federate as --federation."""
        return self.federation or bool(self.peer) or self.peer_file is not None


NAMES = tuple(setting.name for setting in fields(Settings) if setting.name not in ("config", "upstreams"))
SEVERAL = tuple(setting.name for setting in fields(Settings) if setting.default == ())
BY_OWN_NAME = (
    "api_key", "api_key_file", "admin_key_file", "open_federation", "allow_host", "allow_origin", "answer_any_model",
    "record", "data_dir", "engines_dir", "llama_server", "log_format", "plain",
)  # fmt: skip
ENVIRONMENT = {name: f"SWARM_{name.upper()}" for name in BY_OWN_NAME} | {"upstream": URL_VARIABLE}
SECRET = frozenset({"api_key"})  # no message repeats their values
TABLES = frozenset(
    {"aliases", "models", "peers", "upstreams"}
)  # of a configuration file, with settings of their own in them


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, unchecked but for `[routing]`.

    Raises SetupError for a file that cannot be read, is not TOML, or names unknown settings.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise SetupError(f"cannot read --config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"--config {path} is not TOML: {error}") from error
    unknown = sorted(set(values) - set(NAMES))
    if unknown:
        raise SetupError(f"--config {path}: unknown setting {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if isinstance(values.get("upstream"), dict):  # tables of upstreams, not a list of their addresses
        values["upstreams"] = values.pop("upstream")
    if "routing" in values:
        try:
            values["routing"] = read_rules(values["routing"])
        except SetupError as error:
            raise SetupError(f"--config {path}: {error}") from error
    return values


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings in the environment; empty variables count as unset, lists are separated by commas or spaces."""
    found = {
        name: texts(environment, variable) if name in SEVERAL else environment.get(variable, "").strip()
        for name, variable in ENVIRONMENT.items()
    }
    return {name: value for name, value in found.items() if value}


def make_settings(
    given: Mapping[str, Any], config: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The command line's values (None: not given) over the environment's over the file's over the defaults.

    Raises SetupError naming the bad value, where it came from, and what to use instead. `environment` None is this
    process's own.
    """
    sources: tuple[tuple[Mapping[str, Any], Callable[[str], str]], ...] = (
        (read_config(config) if config else {}, lambda name: f"--config {config}: {name} = "),
        (read_environment(os.environ if environment is None else environment), lambda name: f"{ENVIRONMENT[name]}="),
        ({name: value for name, value in given.items() if value is not None}, lambda name: f"{option_of(name)} "),
    )
    values: dict[str, Any] = {"config": config}
    written: dict[str, str] = {}  # what stands before each value where the user wrote it
    for found, before in sources:
        values |= found
        written |= {name: before(name) for name in found}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise _refused(error.errors(include_url=False)[0], written) from None  # what it came from holds the bad value


def option_of(name: str) -> str:
    """The option of the command line that sets what is called `name` here."""
    return f"--{name.replace('_', '-')}"


def _refused(problem: ErrorDetails, written: Mapping[str, str]) -> SetupError:
    name, value = str(problem["loc"][0]), problem["input"]
    value = str(value) if isinstance(value, Path) else value
    before = written.get(name, f"{option_of(name)} ")
    if name in SECRET:
        return SetupError(f"{before.rstrip('= ')}: {_what_is_wrong(problem)}")
    if name == "mcp" and len(problem["loc"]) > 1:
        where = before.removesuffix("mcp = ").removesuffix("--mcp ")
        return SetupError(f"{where}{place_in_servers(problem)}{_what_is_wrong(problem)}")
    if name in TABLES and (len(problem["loc"]) > 1 or problem["type"] == "alias"):
        where = before.removesuffix(f"{name} = ").removesuffix(f"{option_of(name)} ")
        return SetupError(f"{where}{place_of(problem)}{_what_is_wrong(problem)}")
    as_typed = isinstance(value, str) and value.strip() and not before.endswith("= ")
    shown: str = value if as_typed else repr(value)
    return SetupError(f"{before}{shown[:MAX_SHOWN_CHARS]} {_what_is_wrong(problem)}")


def _what_is_wrong(problem: ErrorDetails) -> str:
    """The rest of a sentence that begins with the value."""
    kind, context = problem["type"], problem.get("ctx", {})
    match kind.partition("_")[0]:
        case "literal" | "enum":
            return f"is none of the choices: use {context['expected']}"
        case "int":
            return "is not a whole number"
        case "float":
            return "is not a number"
        case "bool":
            return "is neither true nor false"
        case "string" | "path":
            return "is not text"
        case "tuple":
            return "is not a list"
        case "dict" | "dataclass":
            return "is not a table"
        case "too":
            return f"has {context['actual_length']} entries: use {context['max_length']} at most"
        case "unexpected":
            known = ", ".join(known_in(problem["loc"]) or NAMES)
            return f"is no setting; there are: {known}"
        case _:
            return problem["msg"]
