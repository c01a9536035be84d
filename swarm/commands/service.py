"""`swarm service install|remove|status`: a node that the system starts, by systemd or launchd.

It prints what it writes and runs, replaces and removes only what it has written itself, and with `--dry-run` does
nothing. What is written is decided in `service_files.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from federation.small_files import write_atomically
from swarm.commands.node_arguments import read_node_options
from swarm.commands.output import say
from swarm.commands.service_files import (
    DEFAULT_OPTIONS,
    LABEL,
    SERVICE,
    SOCKET,
    SYSTEM_DATA,
    NodeCommand,
    Scope,
    ServiceFile,
    Standing,
    absolute_options,
    launchd_file,
    program_of,
    standing_of,
    systemd_files,
)
from swarm.errors import SetupError, SwarmError
from swarm.node.listeners import open_listeners
from swarm.node.settings import NAMES, Settings, default_data_dir, make_settings

Manager = Literal["systemd", "launchd"]
ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGED: Final = ROOT / "swarm" / "deploy"
COMMAND_S: Final = 120.0  # a node that is stopped takes at most 80
ALL_IPV4, ALL_IPV6, LOOPBACK = "0.0.0.0", "::", "127.0.0.1"
IPV6_STATE: Final = Path("/proc/net/if_inet6")
ACTIVE = "active"


def run_command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What the command said. Raises SwarmError where it cannot be run, or does not end."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SwarmError(f"`{' '.join(words)}` did not work: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a service depends on here; tests have others."""

    platform: str = sys.platform
    user_id: int = field(default_factory=os.geteuid)
    home: Path = field(default_factory=Path.home)
    root: Path = Path("/")  # above the folders of the system's units
    booted: Path = Path("/run/systemd/system")  # sd_booted(3)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    executable: Path = Path(sys.executable)
    run: Callable[[Sequence[str]], subprocess.CompletedProcess[str]] = run_command

    def checked(self, words: Sequence[str]) -> None:
        """Run a command. Raises SwarmError with its own words."""
        done = self.run(words)
        if done.returncode != 0:
            why = done.stderr.strip() or f"exit code {done.returncode}"
            raise SwarmError(
                f"`{' '.join(words)}` did not work: {why}. The files stay: `swarm service remove` takes them away"
            )


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """Which manager of services, and whose services: one user's or the system's."""

    manager: Manager
    scope: Scope

    def control(self, *words: str) -> tuple[str, ...]:
        return ("systemctl", *(("--user",) if self.scope == "user" else ()), *words)


def place_of(machine: Machine, scope: Scope | None) -> ServicePlace:
    """Where services go on this machine. Raises SetupError where there is no manager that is known here."""
    scope = scope or ("system" if machine.user_id == 0 else "user")
    match machine.platform:
        case "linux":
            return ServicePlace("systemd", scope)
        case "darwin":
            return ServicePlace("launchd", scope)
        case other:
            raise SetupError(f"services are made for systemd and launchd, and this is {other}: see docs/deploy.md")


def check_running(machine: Machine, place: ServicePlace) -> None:
    """Raises SetupError where the manager does not run, or not for this user."""
    if place.scope == "system" and machine.user_id != 0:
        raise SetupError("the system's services are root's: use sudo, or --user for one of your own")
    if place.manager == "launchd":
        return
    if not machine.booted.is_dir():
        raise SetupError(
            f"systemd does not run here (process 1 is {_first_process()}), so nothing would start the service. In a "
            "container let its runtime restart the node (docs/deploy.md); --dry-run shows the files"
        )
    if place.scope == "user" and machine.run(place.control("show-environment")).returncode != 0:
        raise SetupError(
            "your own systemd cannot be reached from here: log in as that user itself (over ssh or at the console, not "
            "with su), or use --system"
        )


def _first_process() -> str:
    try:
        return Path("/proc/1/comm").read_text().strip()
    except OSError:
        return "unknown"


# What is asked for


def install(scope: Scope | None, options: Sequence[str], dry_run: bool, machine: Machine | None = None) -> int:
    """Write the service's files, and have it start now and at boot."""
    machine = machine or Machine()
    place = place_of(machine, scope)
    command, settings = node_command(machine, options)
    files = files_of(machine, place, command)
    standings = _standings(files)
    _refuse_others(standings)
    is_new = all(standing is Standing.ABSENT for standing in standings.values())
    if not dry_run:
        check_running(machine, place)
        for listener in open_listeners(command.hosts, command.port) if is_new else ():  # raises where it is taken
            listener.close()
    for file in files:
        _show(file, standings[file.path], dry_run)
        if not dry_run:
            _write(file)
    for words in _starting(machine, place, files, is_new=is_new):
        _do(machine, words, dry_run)
    say("Nothing was written or run (--dry-run)." if dry_run else "The service runs.")
    for line in _afterwards(machine, place, settings):
        say(line)
    return 0


def remove(scope: Scope | None, dry_run: bool, machine: Machine | None = None) -> int:
    """Stop the service and remove its files; models and the node's identity stay."""
    machine = machine or Machine()
    place = place_of(machine, scope)
    files = files_of(machine, place, node_command(machine, ())[0])
    standings = _standings(files)
    there = [path for path, standing in standings.items() if standing is not Standing.ABSENT]
    if not there:
        say(f"There is no service here ({files[0].path}).")
        return 0
    _refuse_others(standings)
    if not dry_run:
        check_running(machine, place)
    _do(machine, _stopping(machine, place, there), dry_run, may_fail=True)
    for path in there:
        say(f"remove {path}")
        if not dry_run:
            path.unlink(missing_ok=True)
    if place.manager == "systemd":
        _do(machine, place.control("daemon-reload"), dry_run)
    say("Nothing was removed or run (--dry-run)." if dry_run else "The service is gone.")
    say(f"Its models and its identity stay in {data_of(place)}.")
    return 0


def status(scope: Scope | None, as_json: bool, machine: Machine | None = None) -> int:
    """Say whether there is a service and whether it runs: 0 if so."""
    machine = machine or Machine()
    place = place_of(machine, scope)
    standings = _standings(files_of(machine, place, node_command(machine, ())[0]))
    is_there = any(standing is not Standing.ABSENT for standing in standings.values())
    state = _state(machine, place) if is_there else "not installed"
    if as_json:
        files = {str(path): standing.value for path, standing in standings.items()}
        found = {"scope": place.scope, "manager": place.manager, "state": state, "files": files}
        say(json.dumps(found, indent=2))
    else:
        say(f"{place.scope}'s service ({place.manager}): {state}")
        for path, standing in standings.items():
            say(f"  {path}: {standing.value}")
        say(f"  log: {log_of(place)}; the swarm: swarm status")
    return 0 if state.split()[0] == ACTIVE else 1


# Facts


def node_command(machine: Machine, options: Sequence[str]) -> tuple[NodeCommand, Settings]:
    """How the node is to be started. Raises SetupError for options that it would not take."""
    given = absolute_options(tuple(options) or DEFAULT_OPTIONS, Path.cwd())
    named = read_node_options(given)
    settings = make_settings({name: named[name] for name in NAMES if name in named}, named.get("config"))
    if settings.port == 0:
        raise SetupError("--port 0 would be another port with every start: give the service one of its own")
    for name in ("api_key_file", "admin_key_file", "config"):
        path: Path | None = getattr(settings, name)
        if path is not None and not path.is_file():
            raise SetupError(f"--{name.replace('_', '-')} {path} does not exist: make it first")
    if settings.host is not None:
        hosts = (settings.host,)
    elif settings.federated:
        hosts = (ALL_IPV4, ALL_IPV6) if machine.platform != "linux" or IPV6_STATE.exists() else (ALL_IPV4,)
    else:
        hosts = (LOOPBACK,)
    return NodeCommand(program_of(machine.executable, ROOT), given, hosts, settings.port), settings


def files_of(machine: Machine, place: ServicePlace, command: NodeCommand) -> tuple[ServiceFile, ...]:
    """What belongs to the service. Raises SetupError as `systemd_files` does."""
    templates = PACKAGED if PACKAGED.is_dir() else ROOT / "deploy"
    if place.manager == "systemd":
        return systemd_files(command, place.scope, templates, machine.home, machine.root)
    user = machine.environ.get("SUDO_USER") or machine.environ.get("USER") or "root"
    if place.scope == "system" and user == "root":
        raise SetupError("a node does not run as root: use sudo from the account that it is to run as")
    return (launchd_file(command, place.scope, templates, machine.home, machine.root, user),)


def data_of(place: ServicePlace) -> Path:
    return SYSTEM_DATA if place == ServicePlace("systemd", "system") else default_data_dir()


def log_of(place: ServicePlace) -> str:
    if place.manager == "launchd":
        return "/Library/Logs/local-swarm.log" if place.scope == "system" else "~/Library/Logs/local-swarm.log"
    return "journalctl -u swarm" if place.scope == "system" else "journalctl --user -u swarm"


def _standings(files: Sequence[ServiceFile]) -> dict[Path, Standing]:
    return {file.path: standing_of(_read(file.path)) for file in files}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}") from error


def _refuse_others(standings: Mapping[Path, Standing]) -> None:
    for path, standing in standings.items():
        if standing in (Standing.FOREIGN, Standing.CHANGED):
            raise SetupError(
                f"{path} is {standing.value}, so it is neither replaced nor removed: move it away first (what is to be "
                "kept of it goes into `systemctl edit swarm`, which stays through updates)"
            )


def _state(machine: Machine, place: ServicePlace) -> str:
    if place.manager == "launchd":
        listed = machine.run(("launchctl", "print", f"{_domain(machine, place)}/{LABEL}"))
        return ACTIVE if "state = running" in listed.stdout else "not running"
    if not machine.booted.is_dir():
        return f"unknown: systemd does not run here (process 1 is {_first_process()})"
    shown = machine.run(place.control("show", SERVICE, "-p", "ActiveState,SubState,UnitFileState,NRestarts"))
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    active, sub, enabled = (facts.get(name) or "?" for name in ("ActiveState", "SubState", "UnitFileState"))
    restarts = facts.get("NRestarts", "0")
    again = "" if restarts == "0" else f", restarted {restarts} times: see the log"
    return f"{active} ({sub}), {enabled}{again}"


def _domain(machine: Machine, place: ServicePlace) -> str:
    return "system" if place.scope == "system" else f"gui/{machine.user_id}"


# Effects


def _do(machine: Machine, words: Sequence[str], dry_run: bool, *, may_fail: bool = False) -> None:
    say(f"$ {' '.join(words)}")
    if dry_run:
        return
    if may_fail:
        machine.run(words)
    else:
        machine.checked(words)


def _show(file: ServiceFile, standing: Standing, dry_run: bool) -> None:
    say(f"{'replace' if standing is Standing.OURS else 'write'} {file.path}")
    if dry_run:
        say("".join(f"    {line}\n" for line in file.content.splitlines()), end="")


def _write(file: ServiceFile) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file.path, file.content.encode())
        file.path.chmod(0o644)  # nothing in it is secret, and managers want to read it
    except OSError as error:
        raise SwarmError(f"cannot write {file.path}: {error.strerror}") from error


def _starting(
    machine: Machine, place: ServicePlace, files: Sequence[ServiceFile], *, is_new: bool
) -> tuple[tuple[str, ...], ...]:
    if place.manager == "launchd":
        bootstrap = ("launchctl", "bootstrap", _domain(machine, place), str(files[0].path))
        return (bootstrap,) if is_new else (_stopping(machine, place, ()), bootstrap)
    reload, enable = place.control("daemon-reload"), place.control("enable", "--now", SOCKET, SERVICE)
    return (reload, enable) if is_new else (reload, enable, place.control("restart", SERVICE))


def _stopping(machine: Machine, place: ServicePlace, there: Sequence[Path]) -> tuple[str, ...]:
    if place.manager == "launchd":
        return ("launchctl", "bootout", f"{_domain(machine, place)}/{LABEL}")
    return place.control(
        "disable", "--now", *(path.name for path in reversed(there))
    )  # the socket would start it again


def _afterwards(machine: Machine, place: ServicePlace, settings: Settings) -> list[str]:
    """What whoever installed it should know."""
    lines = [f"Its log: {log_of(place)}; the swarm: swarm status"]
    if place == ServicePlace("systemd", "system"):
        lines.append(f"Its commands need its folder: sudo swarm invite --data-dir {SYSTEM_DATA}")
    if place == ServicePlace("systemd", "user"):
        lines.append("It runs while you are logged in; from boot on: loginctl enable-linger")
    ignored = sorted(name for name in machine.environ if name.startswith("SWARM_"))
    if ignored:
        lines.append(f"It does not see your shell's {', '.join(ignored)}: give options instead (after `--`).")
    if settings.upstream or settings.upstreams:
        lines.append("The key of --upstream comes from its environment alone: `systemctl edit swarm`, EnvironmentFile=")
    return lines
