"""Probes of this machine: the engine, the data directory, keys, packages. Each blocks; none changes anything."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from federation.errors import IdentityError
from federation.identity import IDENTITY_FILE, load_identity
from swarm.doctor.machine_checks import DataFolder, EngineFacts, McpServerFacts, SecretFile
from swarm.engines.engine import EngineSpec
from swarm.engines.registry import load_engine
from swarm.errors import SetupError, SwarmError
from swarm.generation import Delta, GenerationRequest
from swarm.node.access import read_key_file
from swarm.node.settings import Settings
from swarm.node.tools import opened_servers
from swarm.registry.embedded import embedded_model_path
from swarm.registry.gguf_header import is_later_part, read_gguf
from swarm.tools.plan import ToolPlan
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox

ENGINE_TIMEOUT_S: Final = 60.0  # takes a second; a slow board with a cold disk needs twenty
SERVER_TIMEOUT_S: Final = 20.0  # some fetch their own program first
MAX_MODEL_FILES: Final = 1000  # reading a header takes milliseconds
DISTRIBUTION: Final = "local-swarm"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_AT_LEAST = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9.]+)$")


def probe_engine() -> EngineFacts:
    """Load the embedded model in a process of its own, so that a native crash is a finding, and ask it one question."""
    began = time.monotonic()
    try:
        tokens = asyncio.run(_generate())
    except TimeoutError:
        return EngineFacts("xllamacpp", 0, 0.0, f"the engine did not answer within {ENGINE_TIMEOUT_S:.0f} s")
    except SwarmError as error:
        return EngineFacts("xllamacpp", 0, 0.0, str(error))
    except (ImportError, OSError) as error:
        return EngineFacts("xllamacpp", 0, 0.0, f"the engine cannot be loaded: {error}")
    return EngineFacts("xllamacpp", tokens, time.monotonic() - began)


def probe_mcp_servers(
    settings: Settings, plan: ToolPlan | None, found: Sandbox | NoSandbox
) -> tuple[McpServerFacts, ...]:
    """Connect to the MCP servers of others that the settings name, as a node with this `plan` does, and leave them.

    Raises SetupError where a node would not start with them.
    """

    async def looked_at() -> tuple[McpServerFacts, ...]:
        async with opened_servers(settings, plan, found, lambda _: None) as hosts:
            are_there = await asyncio.gather(*(host.settled(SERVER_TIMEOUT_S) for host in hosts))
            slow = f"did not say its tools within {SERVER_TIMEOUT_S:.0f} s"
            return tuple(
                McpServerFacts(host.name, len(host.tools()))
                if there
                else McpServerFacts(host.name, 0, host.problem or slow)
                for host, there in zip(hosts, are_there, strict=True)
            )

    return asyncio.run(looked_at())


async def _generate() -> int:
    """How many pieces of text it generates for a short prompt."""
    spec = EngineSpec("demo", embedded_model_path(), context_tokens=256, slots=1, threads=1)
    request = GenerationRequest(model="demo", prompt="Hello", max_tokens=4, temperature=0.0)
    async with asyncio.timeout(ENGINE_TIMEOUT_S):
        engine = await load_engine("auto", spec, "always")
        try:
            async with aclosing(engine.candidates(request, 1)) as events:
                return sum([isinstance(event, Delta) async for event in events])
        finally:
            await engine.aclose()


def probe_models(models_dir: Path) -> tuple[dict[str, str], int]:
    """The damaged model files, each with what is wrong; and how many are whole."""
    defects: dict[str, str] = {}
    whole = 0
    try:
        paths = sorted(path for path in models_dir.rglob("*.gguf") if not is_later_part(path))[:MAX_MODEL_FILES]
    except OSError as error:
        return {str(models_dir): f"cannot read {models_dir}: {error.strerror}"}, 0
    for path in paths:
        try:
            read_gguf(path)
        except SetupError as error:
            defects[str(path)] = str(error)
        else:
            whole += 1
    return defects, whole


def probe_data_folder(path: Path) -> DataFolder:
    """Whether a file can be written there. Folders that do not exist yet are judged by the nearest one that does."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not existing.is_dir():
        return DataFolder(str(path), None, f"{existing} is a file, not a folder")
    try:
        free_bytes = shutil.disk_usage(existing).free
        with tempfile.TemporaryFile(dir=existing) as trial:
            trial.write(bytes(4096))
            trial.flush()
    except OSError as error:
        return DataFolder(str(path), None, f"cannot be written to ({error.strerror})")
    return DataFolder(str(path), free_bytes)


def probe_keys(data_dir: Path, key_files: Iterable[tuple[Path | None, str]] = ()) -> list[SecretFile]:
    """The identity and the files with keys, each with its option, read as the node would read them."""
    found: list[SecretFile] = []
    identity = data_dir / IDENTITY_FILE
    if identity.exists():
        exposed, problem = _is_exposed(identity), None  # looked at first: reading it makes it private again
        try:
            load_identity(data_dir)
        except IdentityError as error:
            problem = str(error)
        found.append(SecretFile(str(identity), problem, exposed))
    for key_file, option in key_files:
        if key_file is None:
            continue
        problem = None
        try:
            read_key_file(key_file, option)
        except SetupError as error:
            problem = str(error)
        found.append(SecretFile(str(key_file), problem, _is_exposed(key_file)))
    return found


def probe_requirements() -> list[str]:
    """The requirements that are not met, in words; none for a copy that was never installed."""
    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        wanted = []
    problems = [_unmet(match[1], match[2]) for text in wanted if (match := _AT_LEAST.match(text)) is not None]
    return [problem for problem in problems if problem is not None]


def python_version() -> str:
    return platform.python_version()


def _unmet(name: str, least: str) -> str | None:
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    return None if _numbers(installed) >= _numbers(least) else f"{name} {installed} is older than {least}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _is_exposed(path: Path) -> bool:
    return os.name == "posix" and path.exists() and bool(path.stat().st_mode & _OTHERS)
