"""What the user decided, from the command line, the environment and a TOML file, as one frozen object.

`Settings` is the one place that says which settings there are, of which types and within which bounds: a new one is a
field here and an option in `commands/node_arguments.py`. Whatever is refused is named with where it came from.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from platformdirs import user_data_path
from pydantic import AfterValidator, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from federation.hostport import DEFAULT_PORT
from swarm.consensus.options import MAX_VOTES, Strategy, StreamMode
from swarm.engines.registry import EngineName, Isolation
from swarm.engines.upstream.address import DEFAULT_SLOTS, URL_VARIABLE, UpstreamMode
from swarm.environment import texts
from swarm.errors import SetupError
from swarm.routing.rules import RoutingRules, read_rules
from swarm.workers.pool import DEFAULT_QUEUE

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

APPLICATION = "local-swarm"
MAX_QUEUE = 1024  # of --queue: half of all that a node takes on (`gateway/http/in_progress.py`)
LEVELS = ("debug", "info", "warning", "error")
MAX_SHOWN_CHARS = 100  # of a value that is refused


def default_data_dir() -> Path:
    """Where models, the node's identity and known peers are kept, after each system's custom."""
    return user_data_path(APPLICATION, appauthor=False)


def _between(least: int, most: int) -> AfterValidator:
    def check(value: int) -> int:
        if not least <= value <= most:
            raise PydanticCustomError("range", "is out of range: use {least} to {most}", {"least": least, "most": most})
        return value

    return AfterValidator(check)


def _level(name: str) -> str:
    if name.lower() not in LEVELS:
        raise PydanticCustomError("log_level", "is no level: use debug, info, warning or error")
    return name


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
LogLevel = Annotated[str, AfterValidator(_level)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Settings:
    """One node's settings, checked. None lets the node choose. A single text stands for a list of one."""

    federation: bool = False
    peer: Texts = ()
    peer_file: Path | None = None
    host: str | None = None
    interface: Texts = ()
    port: Annotated[int, _between(0, 65535)] = DEFAULT_PORT
    name: str | None = None
    api_key: Texts = field(default=(), repr=False)
    api_key_file: Path | None = None
    admin_key_file: Path | None = None
    open_federation: bool = False
    allow_host: Texts = ()
    allow_origin: Texts = ()
    answer_any_model: bool = False
    model: str | None = None
    auto: bool = False
    engine: EngineName = "auto"
    isolation: Isolation = "auto"
    workers: Annotated[int, _between(1, 64)] | None = None
    queue: Annotated[int, _between(0, MAX_QUEUE)] = DEFAULT_QUEUE
    threads: Annotated[int, _between(1, 512)] | None = None
    context: Annotated[int, _between(256, 10_000_000)] | None = None
    votes: Annotated[int, _between(1, MAX_VOTES)] | None = None
    strategy: Strategy = Strategy.AUTO
    vote_stream: StreamMode | None = None
    upstream: str | None = None
    upstream_mode: UpstreamMode | None = None
    upstream_model: str | None = None
    upstream_slots: Annotated[int, _between(1, 256)] = DEFAULT_SLOTS
    routing: RoutingRules = field(default_factory=RoutingRules)  # in a configuration file only
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    log_level: LogLevel = "warning"
    config: Path | None = None

    @field_validator("strategy")
    @classmethod
    def _judge_has_answers(cls, strategy: Strategy, info: ValidationInfo) -> Strategy:
        if (strategy, info.data.get("votes")) == (Strategy.JUDGE, 1):
            raise PydanticCustomError(
                "judge", "needs answers to choose from: use 2 to {most} votes (got 1)", {"most": MAX_VOTES}
            )
        return strategy

    @property
    def data_path(self) -> Path:
        return self.data_dir or default_data_dir()

    @property
    def models_dir(self) -> Path:
        """Where downloaded models are kept."""
        return self.data_path / "models"

    @property
    def federated(self) -> bool:
        """A --peer is as good a reason to federate as --federation."""
        return self.federation or bool(self.peer) or self.peer_file is not None


NAMES = tuple(setting.name for setting in fields(Settings) if setting.name != "config")
SEVERAL = tuple(setting.name for setting in fields(Settings) if setting.default == ())
BY_OWN_NAME = (
    "api_key", "api_key_file", "admin_key_file", "open_federation", "allow_host", "allow_origin", "answer_any_model",
    "data_dir",
)  # fmt: skip
ENVIRONMENT = {name: f"SWARM_{name.upper()}" for name in BY_OWN_NAME} | {"upstream": URL_VARIABLE}
SECRET = frozenset({"api_key"})  # no message repeats their values


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
    before = written.get(name, f"{option_of(name)} ")
    if name in SECRET:
        return SetupError(f"{before.rstrip('= ')}: {_what_is_wrong(problem)}")
    shown = value if isinstance(value, str) and not before.endswith("= ") else repr(value)
    return SetupError(f"{before}{shown[:MAX_SHOWN_CHARS]} {_what_is_wrong(problem)}")


def _what_is_wrong(problem: ErrorDetails) -> str:
    """The rest of a sentence that begins with the value."""
    kind, context = problem["type"], problem.get("ctx", {})
    match kind.partition("_")[0]:
        case "literal" | "enum":
            return f"is none of the choices: use {context['expected']}"
        case "int":
            return "is not a whole number"
        case "bool":
            return "is neither true nor false"
        case "string" | "path":
            return "is not text"
        case "tuple":
            return "is not a list"
        case "unexpected":
            return f"is no setting; there are: {', '.join(NAMES)}"
        case _:
            return problem["msg"]
