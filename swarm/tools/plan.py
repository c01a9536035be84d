"""What a tool host may do: which tools, below which folder, in which sandbox. Made of options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal, get_args

from swarm.errors import SetupError

TOOL_NAMES: Final = ("read", "write", "edit", "glob", "grep", "bash", "webfetch")  # as models are told of them
ALL_TOOLS: Final = "all"
_WRITING_TOOLS: Final = frozenset({"write", "edit"})
CHANGING_TOOLS: Final = _WRITING_TOOLS | {"bash"}

SandboxKind = Literal["auto", "bwrap", "sandbox-exec", "podman", "docker"]
_KINDS: Final[tuple[SandboxKind, ...]] = get_args(SandboxKind)
_WITH_IMAGE: Final = ("podman", "docker")


@dataclass(frozen=True, slots=True)
class SandboxChoice:
    """Which sandbox commands run in; `image` is the container's, for podman and docker. "auto": this system's own."""

    kind: SandboxKind = "auto"
    image: str | None = None

    def __str__(self) -> str:
        return self.kind if self.image is None else f"{self.kind}:{self.image}"


AUTO: Final = SandboxChoice()


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """The tools `names`, files below `root` only. Made by `plan_tools`, which refuses roots that give too much away.

    `network`: commands reach the network. `unsandboxed`: commands run as this user, with nothing between them and the
    machine.
    """

    names: tuple[str, ...]
    root: Path
    network: bool = False
    sandbox: SandboxChoice = AUTO
    unsandboxed: bool = False

    @property
    def writable(self) -> bool:
        """Whether commands may change files: where no tool that writes them is named, bash sees a read-only root."""
        return not _WRITING_TOOLS.isdisjoint(self.names)


def parse_tools(text: str) -> tuple[str, ...]:
    """The tools in `read,grep`, or every one in `all`, in the order in which models are told of them.

    Raises SetupError for a name that there is not, naming the nearest, and for an empty list.
    """
    named = [name for name in (part.strip() for part in text.split(",")) if name]
    if named == [ALL_TOOLS]:
        return TOOL_NAMES
    for name in named:
        if name not in TOOL_NAMES:
            near = get_close_matches(name.lower(), TOOL_NAMES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SetupError(f"there is no tool {name!r}: {hint}there are {', '.join(TOOL_NAMES)}, or {ALL_TOOLS}")
    if not named:
        raise SetupError(f"no tool is named: give some of {', '.join(TOOL_NAMES)}, or {ALL_TOOLS}")
    return tuple(name for name in TOOL_NAMES if name in named)


def parse_sandbox(text: str) -> SandboxChoice:
    """The sandbox in `auto`, `bwrap`, `sandbox-exec`, `podman:IMAGE` or `docker:IMAGE`. Raises SetupError."""
    kind, colon, image = text.strip().partition(":")
    for known in _KINDS:
        if kind != known:
            continue
        if known in _WITH_IMAGE:
            if not image or image.startswith("-") or any(char.isspace() for char in image):
                raise SetupError(f"sandbox {text!r} names no image: write {known}:IMAGE, such as {known}:debian:stable")
            return SandboxChoice(known, image)
        if not colon:
            return SandboxChoice(known)
    raise SetupError(f"there is no sandbox {text!r}: there are auto, bwrap, sandbox-exec, podman:IMAGE, docker:IMAGE")


def plan_tools(
    names: Iterable[str],
    root: Path,
    *,
    home: Path,
    data_dir: Path | None = None,
    network: bool = False,
    sandbox: SandboxChoice = AUTO,
    unsandboxed: bool = False,
) -> ToolPlan:
    """The plan with its root resolved. Blocks: looks at folders.

    Raises SetupError where `root` is no folder, is the whole file system, is `home` or holds it while a tool may change
    files, or is, holds or lies in `data_dir`, where the node keeps its keys.
    """
    names = tuple(names)
    try:
        root = root.expanduser().resolve(strict=True)
        if not root.is_dir():
            raise SetupError(f"the tools' root {root} is not a folder: name one")
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SetupError(f"the tools' root {root} cannot be used ({why}): name a folder that exists") from error
    if root == Path(root.anchor):
        raise SetupError("the tools' root is the whole file system: name a folder with --tools-root")
    if data_dir is not None:
        data_dir = data_dir.expanduser().resolve()
        if root == data_dir or root in data_dir.parents or data_dir in root.parents:
            raise SetupError(
                f"the tools' root {root} would give away this node's keys in {data_dir}: name a folder beside it, "
                "such as that of one project"
            )
    changing = [name for name in names if name in CHANGING_TOOLS]
    home = home.expanduser().resolve()
    if changing and (root == home or root in home.parents):
        raise SetupError(
            f"the tools' root {root} holds everything of a user, and {', '.join(changing)} may change it: "
            "name the folder of one project"
        )
    return ToolPlan(names, root, network, sandbox, unsandboxed)
