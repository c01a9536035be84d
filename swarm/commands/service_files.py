"""What `swarm service install` writes: the files of deploy/, made for this machine. Pure, but for reading those files.

Each file that was written says so in its first lines, with the SHA-256 of the rest: what is not ours, or was changed by
hand since, is told from what may be replaced and removed.
"""

from __future__ import annotations

import hashlib
import plistlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from swarm.errors import SetupError

Scope = Literal["user", "system"]

SERVICE, SOCKET, AGENT = "swarm.service", "swarm.socket", "local-swarm.plist"
LABEL: Final = "local-swarm"
SYSTEM_UNITS: Final = Path("etc/systemd/system")
SYSTEM_DATA: Final = Path("/var/lib/local-swarm")
DEFAULT_OPTIONS: Final = ("--federation", "--auto")
CREDENTIALS: Final = {"--api-key-file": "api-keys", "--admin-key-file": "admin-keys", "--config": "config"}
FILE_OPTIONS: Final = frozenset({*CREDENTIALS, "--peer-file", "--data-dir", "--models-dir", "--tools-root"})
PRIVATE_FOLDERS: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # hidden by ProtectHome= and PrivateTmp=
_PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./${}-]+")
_MARK: Final = re.compile(r"^(?:# |<!-- )Written by `swarm service install`; sha256 of the rest: ([0-9a-f]{64})", re.M)


class Standing(StrEnum):
    """Whose a file is."""

    ABSENT = "not there"
    OURS = "as `swarm service` wrote it"
    CHANGED = "changed by hand since `swarm service` wrote it"
    FOREIGN = "not written by `swarm service`"


@dataclass(frozen=True, slots=True)
class ServiceFile:
    path: Path
    content: str


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """How the node is started: the program, its options as they were typed, and where it will listen."""

    program: tuple[str, ...]
    options: tuple[str, ...]
    hosts: tuple[str, ...]
    port: int


def standing_of(text: str | None) -> Standing:
    """Whose the file with this content is; None: there is none."""
    if text is None:
        return Standing.ABSENT
    match = _MARK.search(text)
    if match is None:
        return Standing.FOREIGN
    line_end = text.find("\n", match.start())
    rest = text[: match.start()] + text[line_end + 1 :]
    return Standing.OURS if _digest(rest) == match[1] else Standing.CHANGED


def program_of(executable: Path, root: Path) -> tuple[str, ...]:
    """What starts this very program: the command beside this Python, a checkout's main.py, or the module."""
    command = executable.with_name("swarm")
    if command.is_file():
        return (str(command),)
    main = root / "main.py"
    return (str(executable), str(main)) if main.is_file() else (str(executable), "-m", "swarm.cli")


def absolute_options(options: Sequence[str], here: Path) -> tuple[str, ...]:
    """The options with each file as it is found from anywhere. Raises SetupError for a key on the command line."""
    found: list[str] = []
    words = iter(options)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--api-key":
            raise SetupError(
                "--api-key would stand in a file that every user of this machine can read: write the key into a file "
                "of yours (chmod 600) and give --api-key-file FILE"
            )
        takes_file = option in FILE_OPTIONS or option == "--model"
        if not takes_file:
            found.append(word)
            continue
        value = value if equals else next(words, "")
        found += [option, _absolute(value, here) if option != "--model" or _is_file(value, here) else value]
    return tuple(found)


def _is_file(model: str, here: Path) -> bool:
    return not model.startswith(("hf:", "http")) and (here / Path(model).expanduser()).is_file()


def _absolute(value: str, here: Path) -> str:
    return str(Path(*(here / Path(value).expanduser()).parts))


def systemd_files(
    command: NodeCommand, scope: Scope, templates: Path, home: Path, root: Path = Path("/")
) -> tuple[ServiceFile, ServiceFile]:
    """The service and the socket that holds its port. Raises SetupError for what the system's service cannot reach."""
    folder = root / SYSTEM_UNITS if scope == "system" else home / ".config/systemd/user"
    service = _body(templates / SERVICE)
    options, credentials = command.options, tuple[str, ...]()
    if scope == "system":
        _check_reach(command)
        options, credentials = _as_credentials(command.options)
        options = (*options, "--data-dir", "${STATE_DIRECTORY}")
    else:
        service = _for_a_user(service)
    line = f"ExecStart={' '.join(map(systemd_word, (*command.program, *options)))}"
    service = _one_line(service, "ExecStart=", "\n".join((*credentials, line)))
    socket = _body(templates / SOCKET)
    listens = "\n".join(f"ListenStream={_listens(host, command.port)}" for host in command.hosts)
    socket = _one_line(re.sub(r"^ListenStream=.*\n(?=ListenStream=)", "", socket, flags=re.M), "ListenStream=", listens)
    return ServiceFile(folder / SERVICE, _marked(service)), ServiceFile(folder / SOCKET, _marked(socket))


def launchd_file(command: NodeCommand, scope: Scope, templates: Path, home: Path, root: Path, user: str) -> ServiceFile:
    """The agent of one user, or the system's daemon, which runs as `user`."""
    settings = plistlib.loads((templates / AGENT).read_bytes())
    settings["ProgramArguments"] = [*command.program, *command.options]
    log = home / "Library/Logs/local-swarm.log" if scope == "user" else Path("/Library/Logs/local-swarm.log")
    settings["StandardOutPath"] = settings["StandardErrorPath"] = str(log)
    folder = home / "Library/LaunchAgents"
    if scope == "system":
        settings["UserName"], folder = user, root / "Library/LaunchDaemons"
    plain = plistlib.dumps(settings, sort_keys=False).decode()
    head, rest = plain.split("\n", 1)
    mark = f"<!-- Written by `swarm service install`; sha256 of the rest: {_digest(plain)} -->"
    return ServiceFile(folder / AGENT, f"{head}\n{mark}\n{rest}")


def systemd_word(word: str) -> str:
    """A word of ExecStart= that systemd reads as just this; its own `${VARIABLE}` is left alone."""
    is_variable = word.startswith(("${STATE_DIRECTORY}", "${CREDENTIALS_DIRECTORY}/"))
    word = word.replace("%", "%%") if is_variable else word.replace("%", "%%").replace("$", "$$")
    if word and _PLAIN.fullmatch(word):
        return word
    if "\n" in word or "\0" in word:
        raise SetupError(f"{word[:40]!r} has a line break, which no unit file can hold")
    quoted = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'


def _as_credentials(options: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options with secrets as systemd hands them over, which reads their files as root, and the lines for that."""
    found: list[str] = []
    lines: list[str] = []
    words = iter(options)
    for word in words:
        found.append(word)
        if (name := CREDENTIALS.get(word)) is not None:
            lines.append(f"LoadCredential={name}:{next(words, '')}")
            found.append("${CREDENTIALS_DIRECTORY}/" + name)
    return tuple(found), tuple(lines)


def _check_reach(command: NodeCommand) -> None:
    """Raises SetupError for what a service that sees no home directories could not start with."""
    if "--data-dir" in command.options:
        raise SetupError(f"the system's service keeps its data in {SYSTEM_DATA}: leave --data-dir out, or use --user")
    for path in command.program:
        if _is_private(path):
            raise SetupError(
                f"the system's service sees no {path}: install the program into /opt/local-swarm (docs/deploy.md), and "
                "give this command from there; or install a service of your own with --user"
            )
    if _runs_commands(command.options):
        raise SetupError(
            "the system's service may make no namespaces, so that commands have no sandbox in it: leave bash out of "
            "--tools, or install a service of your own with --user"
        )
    secret = {value for option, value in pairwise(command.options) if option in CREDENTIALS}
    for word in command.options:
        if word not in secret and _is_private(word):
            raise SetupError(f"the system's service sees no {word}: copy it to /srv or /var/lib, say; or use --user")


def _runs_commands(options: Sequence[str]) -> bool:
    """Whether a node with these options has `bash` among its tools, in a sandbox."""
    named = [value for option, value in pairwise(options) if option == "--tools"]
    named += [word.partition("=")[2] for word in options if word.startswith("--tools=")]
    has = "--tool-server" in options or any({"bash", "all"} & set(value.split(",")) for value in named)
    return has and "--tools-unsandboxed" not in options


def _is_private(path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in PRIVATE_FOLDERS)


def _for_a_user(service: str) -> str:
    """Without what only the system's manager may do or knows."""
    start, end = service.index("# A user of its own"), service.index("[Install]")
    service = f"{service[:start].rstrip()}\n\n{service[end:]}"
    service = service.replace("WantedBy=multi-user.target", "WantedBy=default.target")
    return service.replace(
        "After=network-online.target swarm.socket\nWants=network-online.target\n", "After=swarm.socket\n"
    )


def _body(template: Path) -> str:
    """A unit without the comment that it begins with, which says how to install it by hand."""
    text = template.read_text(encoding="utf-8")
    return text[text.index("[Unit]") :]


def _one_line(text: str, begins: str, line: str) -> str:
    found, count = re.subn(rf"^{re.escape(begins)}.*$", lambda _: line, text, flags=re.M)
    assert count == 1, f"{count} lines begin with {begins}"
    return found


def _listens(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _marked(text: str) -> str:
    return f"# Written by `swarm service install`; sha256 of the rest: {_digest(text)}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
