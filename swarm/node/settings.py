"""What the user decided, from the command line, the environment and a TOML file, as one frozen object."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from pydantic import TypeAdapter, ValidationError

from federation.hostport import DEFAULT_PORT
from swarm.consensus.options import MAX_VOTES, Strategy, StreamMode
from swarm.engines.registry import EngineName, Isolation
from swarm.engines.upstream.address import DEFAULT_SLOTS, URL_VARIABLE, UpstreamMode
from swarm.environment import texts
from swarm.errors import SetupError
from swarm.routing.rules import RoutingRules, read_rules
from swarm.workers.pool import DEFAULT_QUEUE

APPLICATION = "local-swarm"
MAX_QUEUE = 1024  # of --queue: half of all that a node takes on (`gateway/admission.py`)
DEFAULT_CONTEXT_TOKENS = 4096  # a long chat; more costs memory that a better model could use


def default_data_dir() -> Path:
    """Where models, the node's identity and known peers are kept, after each system's custom."""
    return user_data_path(APPLICATION, appauthor=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """One node's settings. None lets the node choose."""

    federation: bool = False
    peer: tuple[str, ...] = ()
    peer_file: Path | None = None
    host: str | None = None
    interface: tuple[str, ...] = ()
    port: int = DEFAULT_PORT
    name: str | None = None
    api_key: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: Path | None = None
    admin_key_file: Path | None = None
    open_federation: bool = False
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    model: str | None = None
    auto: bool = False
    engine: EngineName = "auto"
    isolation: Isolation = "auto"
    workers: int = 4
    queue: int = DEFAULT_QUEUE
    threads: int | None = None
    context: int | None = None
    votes: int = 5
    strategy: Strategy = "auto"
    vote_stream: StreamMode | None = None
    upstream: str | None = None
    upstream_mode: UpstreamMode | None = None
    upstream_model: str | None = None
    upstream_slots: int = DEFAULT_SLOTS
    routing: RoutingRules = field(default_factory=RoutingRules)  # in a configuration file only
    data_dir: Path | None = None
    log_level: str = "warning"
    config: Path | None = None

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
SEVERAL = ("peer", "interface", "api_key", "allow_host", "allow_origin")  # a single text stands for a list of one
BY_OWN_NAME = (
    "api_key", "api_key_file", "admin_key_file", "open_federation", "allow_host", "allow_origin", "data_dir",
)  # fmt: skip
ENVIRONMENT = {name: f"SWARM_{name.upper()}" for name in BY_OWN_NAME} | {"upstream": URL_VARIABLE}
SECRET = frozenset({"api_key"})  # no message repeats their values
_checker: TypeAdapter[Settings] = TypeAdapter(Settings)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, unchecked. Raises SetupError for a file that is none or names unknown settings."""
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
    """The settings that the environment names; empty variables count as unset, lists part at commas and spaces."""
    found = {
        name: texts(environment, variable) if name in SEVERAL else environment.get(variable, "").strip()
        for name, variable in ENVIRONMENT.items()
    }
    return {name: value for name, value in found.items() if value}


def make_settings(
    given: dict[str, Any], config: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """The command line's values over the environment's over the file's over the defaults.

    Raises SetupError naming the bad one. `environment` None is this process's own.
    """
    values = {
        **(read_config(config) if config else {}),
        **read_environment(os.environ if environment is None else environment),
        **{name: value for name, value in given.items() if value is not None},
        "config": config,
    }
    for name in SEVERAL:
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    try:
        settings = _checker.validate_python(values)
    except ValidationError as error:
        raise _refused(error) from None  # what it came from holds the bad value
    for name, value, least, most in (
        ("port", settings.port, 0, 65535),
        ("workers", settings.workers, 1, 64),
        ("queue", settings.queue, 0, MAX_QUEUE),
        ("context", settings.context, 256, 10_000_000),
        ("votes", settings.votes, 1, MAX_VOTES),
        ("upstream-slots", settings.upstream_slots, 1, 256),
        ("threads", settings.threads, 1, 512),
    ):
        if value is not None and not least <= value <= most:
            raise SetupError(f"--{name} {value} is out of range: use {least} to {most}")
    if (settings.strategy, settings.votes) == ("judge", 1):
        raise SetupError(f"--strategy judge needs answers to choose from: use 2 to {MAX_VOTES} for --votes (got 1)")
    return replace(settings, data_dir=settings.data_path.expanduser())


def _refused(error: ValidationError) -> SetupError:
    problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])
    value = "" if name in SECRET else f" (got {problem.get('input')!r})"
    return SetupError(f"--{name.replace('_', '-')}: {problem['msg']}{value}")
