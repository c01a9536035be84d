"""`swarm engines install` and `rm`: engines in folders of their own, which the node's environment never is.

One is made in a folder beside, tried there, and only then renamed: what does not work replaces nothing, and whatever
ends this process leaves the engines as they were. `engines/machine_engines.py` says what is made, `engine_steps.py`
makes it, `engine_trial.py` tries it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, Final

from federation.printable_text import one_line
from federation.small_files import write_atomically
from hardware.gpu_software import find_compilers, probe_gpu_software
from hardware.probe import probe_hardware
from swarm.commands.engine_index import IndexFailed, find_wheel
from swarm.commands.engine_steps import MadeEngine, Making, StepFailed, exact_bytes, make, pip_command
from swarm.commands.engine_trial import Trial, try_engine
from swarm.commands.output import complain, interrupted, say
from swarm.commands.terminal import Terminal
from swarm.engines.build_choice import gpus_of
from swarm.engines.engine import EnginePlaces
from swarm.engines.installed import ENGINE_FILE, NAME, InstalledEngine, installed_engines, is_removable, read_installed
from swarm.engines.machine_engines import WHEEL_INDEX, InstallPlan, MachineFacts, Recipe, WantedEngine, plan_install
from swarm.engines.registry import ENGINES
from swarm.errors import SetupError, SwarmError
from swarm.node.settings import make_settings
from swarm.registry.model_memory import size_text

ASK_BYTES: Final = 300 * 2**20  # a larger download is asked about, where somebody is there
LOCK_FILE: Final = ".lock"
MAKING, OLD, REMOVED = ".making-", ".old-", ".removed-"  # folders that whoever holds the lock may remove

Try = Callable[[InstalledEngine, bool], Trial]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `installed` is None where nothing had to be, as `said` tells; without `made` it was there."""

    installed: InstalledEngine | None
    made: bool = False
    devices: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        one = self.installed
        made = None if one is None else {"name": one.name, "folder": str(one.folder), **one.as_json()}
        return {
            "installed": made,
            "made": self.made,
            "devices": list(self.devices),
            "said": list(self.said),
            "failed": list(self.failed),
        }


@dataclass
class Installing:
    """One run: where to, and what whoever started it wants. Without `asks` nothing is asked.

    `index` is the folder of folders with wheels. `again`: also what is there already in that version. A download
    of more than `ask_bytes` is asked about.
    """

    engines_dir: Path
    index: str = WHEEL_INDEX
    again: bool = False
    asks: bool = False
    quiet: bool = False
    try_out: Try = try_engine
    ask_bytes: int = ASK_BYTES
    _terminal: Terminal = field(default_factory=Terminal)
    _shown_tenth: int = -1

    def install(self, machine: MachineFacts, plan: InstallPlan) -> Outcome:
        """Make the first of the plan's engines that can be made. Blocks for as long as that takes.

        Raises SetupError where none can; the engines that were there are there.
        """
        if not plan.recipes and plan.ready is None:
            raise SetupError("; ".join(plan.said))
        for sentence in plan.said:
            self.tell(sentence)
        if plan.ready is not None:
            self.tell(plan.ready)
            return Outcome(None, said=(*plan.said, plan.ready))
        failed: list[str] = []
        with _ended_by_signals(), self._alone():
            for recipe in plan.recipes:
                try:
                    outcome = self._install_one(machine, recipe)
                    return replace(outcome, said=plan.said, failed=tuple(failed))
                except (StepFailed, IndexFailed) as error:
                    failed.append(f"{recipe.about}: {one_line(str(error)).rstrip('. ')}")
                    self.tell(f"not installed: {failed[-1]}")
                except OSError as error:
                    raise SetupError(f"{self.engines_dir} cannot be written: {error.strerror or error}") from error
        raise SetupError(
            f"no engine was installed, and the node computes with what it had: {'; '.join(failed)}. "
            "`swarm engines` lists what is here"
        )

    def remove(self, name: str) -> None:
        """Remove the engine of that name. Raises SetupError where there is none."""
        folder = self.engines_dir / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            here = ", ".join(engine.name for engine in installed_engines(self.engines_dir)) or "none"
            raise SetupError(f"no engine {name!r} is installed in {self.engines_dir}; there are: {here}")
        with self._alone():
            try:
                if not is_removable(folder):
                    raise SetupError(
                        f"{folder} has no {ENGINE_FILE}, so that it may hold more than an engine: remove it yourself"
                    )
                removed = Path(tempfile.mkdtemp(prefix=REMOVED, dir=self.engines_dir))
                folder.rename(removed / name)
            except OSError as error:
                raise SetupError(f"{folder} cannot be removed: {error.strerror or error}") from error
            shutil.rmtree(removed, ignore_errors=True)
        self.tell(f"{name} is removed; a node that computes with it goes on until it ends")

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to answer."""
        return self.asks and self._terminal.can_ask

    def confirm(self, question: str) -> bool:
        return self._terminal.confirm(question)

    def tell(self, line: str) -> None:
        if self.quiet:
            complain(one_line(line))
        else:
            self._terminal.say(line)

    def downloading(self, what: str, done_bytes: int, total_bytes: int | None) -> None:
        if not self.quiet:
            self._terminal.progress(what, done_bytes, total_bytes)

    def building(self, what: str, share: float | None) -> None:
        if self.quiet:
            return
        words = f"building {what}" if share is None else f"building {what}: {share:.0%}"
        if self._terminal.is_live:
            self._terminal.loading(words, share)
        elif share is None or int(share * 10) > self._shown_tenth:
            self._terminal.say(f"  {words}")
            self._shown_tenth = -1 if share is None else int(share * 10)

    def _install_one(self, machine: MachineFacts, recipe: Recipe) -> Outcome:
        """Raises StepFailed or IndexFailed where it cannot be made, or does not work."""
        pip = pip_command()
        file = (
            None
            if recipe.index is None
            else find_wheel(f"{self.index.rstrip('/')}/{recipe.index}", "xllamacpp", _own())
        )
        here = next((one for one in installed_engines(self.engines_dir) if one.name == recipe.name), None)
        version = recipe.version if file is None else file.version
        if here is not None and not self.again and here.version == version and self._does(here, recipe):
            self.tell(f"{here.name} {here.version} is installed already (--again makes it anew)")
            return Outcome(here)
        with self._temporary() as temporary:
            exact = exact_bytes(recipe, temporary, pip) if file is None else file.size_bytes
            self._announce(recipe, exact)
            self._refuse_full_disk(recipe, exact)
            folder = temporary / "new" / recipe.name
            folder.mkdir(parents=True)
            self._terminal, self._shown_tenth = Terminal(), -1
            jobs = machine.snapshot.cpu.usable_cores or os.cpu_count() or 1
            tools = machine.compilers
            made = make(Making(recipe, folder, temporary, pip, self, jobs, exact, tools.cmake, tools.ninja), file)
            installed = _describe(recipe, folder, made)
            self.tell(f"trying {installed.name} with the embedded model")
            trial = self.try_out(installed, recipe.needs_gpu)
            installed = self._put_in_place(installed)
        where = f", and computes on {' and '.join(trial.devices)}" if trial.devices else ""
        self.tell(f"{installed.name} {installed.version} works{where}. Nodes take it from their next start")
        return Outcome(installed, made=True, devices=trial.devices)

    def _does(self, here: InstalledEngine, recipe: Recipe) -> bool:
        """Whether what is there does what `recipe` is for: it may be without the GPU, or for another driver."""
        if not recipe.needs_gpu:
            return True
        try:
            self.try_out(here, True)
        except StepFailed as error:
            why = one_line(str(error)).rstrip(". ")
            self.tell(f"{here.name} {here.version} is here and is not what it should be ({why}): it is made anew")
            return False
        return True

    def _announce(self, recipe: Recipe, exact: int | None) -> None:
        """Say what is done and how large it is; ask where it is large and somebody is there."""
        size = f"about {size_text(recipe.about_bytes)}" if exact is None else size_text(exact)
        takes = f", then about {recipe.build_minutes} min of compiling" if recipe.build_minutes else ""
        self.tell(f"installing {recipe.about}: {size} to download{takes}, into {self.engines_dir / recipe.name}")
        if self.can_ask and (exact or recipe.about_bytes) > self.ask_bytes and not self.confirm("Go on?"):
            raise SetupError("nothing was installed")

    def _refuse_full_disk(self, recipe: Recipe, exact: int | None) -> None:
        needed = max(recipe.disk_bytes, 5 * (exact or 0))
        free = shutil.disk_usage(self.engines_dir).free
        if free < needed:
            raise StepFailed(
                f"{self.engines_dir} has {size_text(free)} free and this takes {size_text(needed)} meanwhile: "
                "make room, or name another folder with --engines-dir"
            )

    def _put_in_place(self, installed: InstalledEngine) -> InstalledEngine:
        """The whole of it at once; what had the name until now is removed after that."""
        place = self.engines_dir / installed.name
        old = self.engines_dir / f"{OLD}{installed.name}"
        had = place.exists()
        if had:
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        try:
            installed.folder.rename(place)
        except OSError:
            if had:
                old.rename(place)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return read_installed(place)

    @contextmanager
    def _temporary(self) -> Generator[Path]:
        path = Path(tempfile.mkdtemp(prefix=MAKING, dir=self.engines_dir)).resolve()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """No other process installs or removes meanwhile; what one left that was killed is removed, or put back."""
        filelock: Any = importlib.import_module("filelock")  # comes with huggingface_hub
        try:
            self.engines_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = filelock.FileLock(self.engines_dir / LOCK_FILE)
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise SetupError(
                f"another `swarm engines` installs or removes in {self.engines_dir} now: wait until it has ended"
            ) from error
        except OSError as error:
            raise SetupError(
                f"{self.engines_dir} cannot be written ({error.strerror or error}): name another with --engines-dir"
            ) from error
        try:
            _clean(self.engines_dir)
            yield
        finally:
            lock.release()


def install(
    installing: Installing, wanted: WantedEngine | None, as_json: bool, machine: MachineFacts | None = None
) -> int:
    """Install what is wanted, else the best for this machine, and say what came of it."""
    machine = machine or this_machine()
    installing.tell(machine_words(machine))
    outcome = installing.install(machine, plan_install(machine, wanted))
    if as_json:
        say(json.dumps(outcome.as_json(), indent=2))
    return 0


def offer(installing: Installing, machine: MachineFacts | None = None) -> int:
    """At a first start: where a GPU is here that no engine uses, ask whether to install one, or say how. Blocks.

    It is asked before the first model is chosen, which is chosen by the memory that its engine can use: whoever
    installs the engine afterwards has a model for the CPU. Nobody is held up: without a terminal it is one line, and
    what fails is said and leaves the node to start as it is.
    """
    machine = machine or this_machine()
    gpus = [gpu.name for gpu in machine.snapshot.gpus]
    if not gpus or uses_gpu(installing.engines_dir):
        return 0
    plan = plan_install(machine)
    best = plan.recipes[0] if plan.recipes and plan.recipes[0].needs_gpu else None
    found = f"GPU found: {' and '.join(gpus)}, and no engine here computes on it"
    if best is None:
        installing.tell(f"{found}: {'; '.join(plan.said) or 'there is none for it'}")
        return 0
    if not installing.can_ask:
        installing.tell(f"{found}: run `swarm engines install`")
        return 0
    if not installing.confirm(f"{found}. Install {best.about} now (about {size_text(best.about_bytes)})?"):
        installing.tell("`swarm engines install` does it at any time")
        return 0
    try:
        replace(installing, asks=False).install(machine, plan)
    except SetupError as error:
        installing.tell(str(error))
    return 0


def offer_at_first_start(words: Sequence[str]) -> None:
    """What `scripts/run` does when it has just made the environment; `words` are the node's own. Never fails."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--data-dir", "--engines-dir", "--config"):
        parser.add_argument(option, type=Path)
    try:
        given = vars(parser.parse_known_args(words)[0])
        offer(Installing(make_settings(given, given.pop("config")).engines_path, asks=True))
    except argparse.ArgumentError:
        return  # the node says what is wrong with it
    except SwarmError as error:
        complain(f"swarm: {one_line(str(error))}")
    except KeyboardInterrupt:
        interrupted()


def uses_gpu(engines_dir: Path) -> bool:
    """Whether some engine here sees a GPU. Blocks: each is asked."""
    places = EnginePlaces(engines_dir=engines_dir, ask_devices=True)
    return any(gpus_of(build) for entry in ENGINES.values() if entry.formats for build in entry.builds(places))


def this_machine() -> MachineFacts:
    """What is here. Blocks for some seconds at most."""
    snapshot = probe_hardware()
    return MachineFacts(snapshot, probe_gpu_software(snapshot), find_compilers())


def machine_words(machine: MachineFacts) -> str:
    """The machine as far as the choice of an engine goes, in one line."""
    snapshot, software = machine.snapshot, machine.software
    parts: list[str] = []
    for gpu in snapshot.gpus:
        runs = software.cuda if gpu.vendor == "nvidia" else software.rocm if gpu.vendor == "amd" else None
        library = "CUDA" if gpu.vendor == "nvidia" else "ROCm"
        parts.append(gpu.name if runs is None else f"{gpu.name} ({library} {runs[0]}.{runs[1]})")
    if snapshot.apple is not None:
        parts.append(f"{snapshot.apple.chip} (Metal)")
    found = " and ".join(parts) or "no GPU that its maker's tools show"
    tools = [name for name in ("nvcc", "hipcc", "cmake") if getattr(machine.compilers, name)]
    tools += ["a C++ compiler"] if machine.compilers.cxx else []
    also = (["Vulkan"] if software.vulkan else []) + tools
    return f"here: {found}{'; ' + ', '.join(also) if also else ''}"


def _own() -> str | None:
    """The version of the engine in this environment, which another build of it had better have, too."""
    with suppress(PackageNotFoundError):
        return version("xllamacpp")
    return None


def _describe(recipe: Recipe, folder: Path, made: MadeEngine) -> InstalledEngine:
    """Write the engine.json; what it names is there, or StepFailed is raised."""
    installed = InstalledEngine(
        folder,
        recipe.engine,
        recipe.flavour,
        made.version,
        recipe.native,
        None if made.program is None else folder / made.program,
        None if made.packages is None else folder / made.packages,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        made.made_with,
    )
    write_atomically(folder / ENGINE_FILE, json.dumps(installed.as_json(), indent=2).encode() + b"\n")
    try:
        return read_installed(folder)
    except ValueError as error:
        raise StepFailed(f"what was made is no engine: {error}") from error


def _clean(engines_dir: Path) -> None:
    """What a killed process left: an engine that was moved aside goes back where none took its place."""
    for old in engines_dir.glob(f"{OLD}*"):
        place = engines_dir / old.name.removeprefix(OLD)
        if not place.exists():
            old.rename(place)
    for prefix in (MAKING, OLD, REMOVED):
        for left in engines_dir.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP end an install as Ctrl-C does: what it started is ended, and nothing half-made stays."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
