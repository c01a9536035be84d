"""What the user decided, from the command line and a TOML file, as one frozen object."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from platformdirs import user_data_path
from pydantic import TypeAdapter, ValidationError

from federation.hostport import DEFAULT_PORT
from swarm.engines.load import EngineName, Isolation
from swarm.errors import SetupError
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
    host: str | None = None
    port: int = DEFAULT_PORT
    name: str | None = None
    model: str | None = None
    auto: bool = False
    engine: EngineName = "auto"
    isolation: Isolation = "auto"
    workers: int = 4
    queue: int = DEFAULT_QUEUE
    threads: int | None = None
    context: int | None = None
    votes: int = 5
    strategy: str = "auto"
    data_dir: Path | None = None
    log_level: str = "warning"

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
        return self.federation or bool(self.peer)


NAMES = tuple(field.name for field in fields(Settings))
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
    return values


def make_settings(given: dict[str, Any], config: Path | None = None) -> Settings:
    """The command line's values over the file's over the defaults. Raises SetupError naming the bad one."""
    values = {**(read_config(config) if config else {}), **{k: v for k, v in given.items() if v is not None}}
    try:
        settings = _checker.validate_python(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise SetupError(f"--{problem['loc'][0]}: {problem['msg']} (got {problem.get('input')!r})") from error
    for name, value, least, most in (
        ("port", settings.port, 0, 65535),
        ("workers", settings.workers, 1, 64),
        ("queue", settings.queue, 0, MAX_QUEUE),
        ("context", settings.context, 256, 10_000_000),
        ("votes", settings.votes, 1, 32),
        ("threads", settings.threads, 1, 512),
    ):
        if value is not None and not least <= value <= most:
            raise SetupError(f"--{name} {value} is out of range: use {least} to {most}")
    return replace(settings, data_dir=settings.data_path.expanduser())
