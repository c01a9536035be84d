"""What `swarm engines install` made: folders of an engines directory, each with an `engine.json` that says what it is.

    ENGINES_DIR/llama-server-native/engine.json   {"engine": "llama-server", "flavour": "native", "version": "b11434",
                                                   "native": true, "program": "bin/llama-server", "packages": null,
                                                   "made": "2026-11-30", "with": "what was run"}

Only whole engines are there: one is made in a folder whose name begins with a dot, tried, and then renamed. The node's
own environment is none of them and is never changed. Reading them starts no program.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from federation.printable_text import one_line
from federation.small_files import TextFileError, read_text_file
from swarm.engines.engine import Device, EngineBuild

ENGINE_FILE: Final = "engine.json"
MAX_FILE_BYTES: Final = 64 * 1024
MAX_ENGINES: Final = 64  # of one directory; there are a dozen that could be made
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")  # of an engine, a flavour, and a folder of both


@dataclass(frozen=True, slots=True)
class InstalledEngine:
    """An engine in a folder of its own. `program` and `packages` are whole paths, inside `folder`, that are there.

    `program` is what is run; `packages` a folder of Python packages. `made` is the day, `made_with` what was run then.
    """

    folder: Path
    engine: str
    flavour: str
    version: str
    native: bool = False
    program: Path | None = None
    packages: Path | None = None
    made: str = ""
    made_with: str = ""

    @property
    def name(self) -> str:
        """What `swarm engines rm` calls it."""
        return self.folder.name

    def build(self, devices: tuple[Device, ...] = ()) -> EngineBuild:
        """It, as a way in which its engine can run; `devices` are what it sees."""
        source = f"installed in {self.folder}"
        return EngineBuild(self.engine, self.version, devices, self.native, self.program, self.packages, source)

    def as_json(self) -> dict[str, Any]:
        """What its `engine.json` holds."""
        return {
            "engine": self.engine,
            "flavour": self.flavour,
            "version": self.version,
            "native": self.native,
            "program": None if self.program is None else self.program.relative_to(self.folder).as_posix(),
            "packages": None if self.packages is None else self.packages.relative_to(self.folder).as_posix(),
            "made": self.made,
            "with": self.made_with,
        }


def installed_engines(engines_dir: Path | None, engine: str | None = None) -> tuple[InstalledEngine, ...]:
    """The engines that are there, by name; with `engine` only those of that one. Blocks for a moment, never raises."""
    found = (_read(folder) for folder in _folders(engines_dir))
    return tuple(one for one in found if isinstance(one, InstalledEngine) and engine in (None, one.engine))


def unreadable_engines(engines_dir: Path | None) -> tuple[str, ...]:
    """What lies there and is no whole engine, each a sentence with the remedy. Blocks for a moment, never raises."""
    found = (_read(folder) for folder in _folders(engines_dir))
    return tuple(one for one in found if isinstance(one, str))


def read_installed(folder: Path) -> InstalledEngine:
    """The engine of that folder. Blocks. Raises ValueError, saying in a sentence what to do."""
    found = _read(folder)
    if isinstance(found, str):
        raise ValueError(found)
    return found


def is_removable(folder: Path) -> bool:
    """Whether nothing is lost but an engine, whole or spoilt, with that folder. Blocks. Raises OSError."""
    return os.path.lexists(folder / ENGINE_FILE) or not any(folder.iterdir())


def _folders(engines_dir: Path | None) -> list[Path]:
    if engines_dir is None:
        return []
    try:
        with os.scandir(engines_dir) as entries:
            names = [entry.name for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return []
    return [engines_dir / name for name in sorted(names)[:MAX_ENGINES]]


def _read(folder: Path) -> InstalledEngine | str:
    """The engine, or why that folder is none."""
    try:
        raw = json.loads(read_text_file(folder / ENGINE_FILE, "the engine's file", MAX_FILE_BYTES))
        if not isinstance(raw, dict):
            raise ValueError("it holds no object")
        fields = cast("Mapping[str, object]", raw)
        if fields.get("program") is None and fields.get("packages") is None:
            raise ValueError(f'its {ENGINE_FILE} has neither "program" nor "packages"')
        return InstalledEngine(
            folder,
            _name(fields, "engine"),
            _name(fields, "flavour"),
            _text(fields, "version"),
            fields.get("native") is True,
            _inside(folder, fields, "program", is_folder=False),
            _inside(folder, fields, "packages", is_folder=True),
            _text(fields, "made"),
            _text(fields, "with"),
        )
    except (TextFileError, ValueError, RecursionError) as error:
        return f"{folder} is no engine that can be used ({one_line(str(error))}): {_remedy(folder)}"


def _remedy(folder: Path) -> str:
    with suppress(OSError):
        if not is_removable(folder):
            return f"it has no {ENGINE_FILE}; remove it yourself if it is of no use, or name another --engines-dir"
    return f"`swarm engines rm {folder.name}` removes it, `swarm engines install` makes one anew"


def _name(fields: Mapping[str, object], field: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f'its {ENGINE_FILE} has no name as "{field}"')
    return value


def _text(fields: Mapping[str, object], field: str) -> str:
    value = fields.get(field, "")
    if not isinstance(value, str):
        raise ValueError(f'its {ENGINE_FILE} has no text as "{field}"')
    return one_line(value)


def _inside(folder: Path, fields: Mapping[str, object], field: str, *, is_folder: bool) -> Path | None:
    """The path that `field` names, which is there and within the folder: what is run is what was installed."""
    value = fields.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f'its {ENGINE_FILE} has no path as "{field}"')
    path = folder / value
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError(f'"{field}" in its {ENGINE_FILE} leads out of it')
    try:
        is_there = path.is_dir() if is_folder else path.is_file() and os.access(path, os.X_OK)
    except OSError as error:  # a name that is too long, a folder that is closed
        raise ValueError(f'what its {ENGINE_FILE} names as "{field}" cannot be looked at: {error.strerror}') from None
    if not is_there:
        raise ValueError(f"{value} is not there{'' if is_folder else ', or cannot be run'}")
    return path
