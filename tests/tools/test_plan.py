"""What options of a tool host mean, and which roots would give too much away."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.tools.plan import (
    TOOL_NAMES,
    SandboxChoice,
    ToolPlan,
    parse_sandbox,
    parse_tools,
    plan_tools,
)


def test_tools_are_in_one_order() -> None:
    assert parse_tools("grep, read") == ("read", "grep")
    assert parse_tools("all") == TOOL_NAMES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reed", "did you mean read?"),
        ("READ", "did you mean read?"),
        ("read,shell", "there is no tool 'shell'"),
        ("", "no tool is named"),
        (" , ", "no tool is named"),
        ("all,read", "there is no tool 'all'"),
    ],
)
def test_a_tool_that_there_is_not_is_refused(text: str, words: str) -> None:
    with pytest.raises(SetupError, match=words.replace("?", r"\?")):
        parse_tools(text)


def test_sandboxes_are_named() -> None:
    assert parse_sandbox("auto") == SandboxChoice()
    assert parse_sandbox("bwrap") == SandboxChoice("bwrap")
    assert parse_sandbox("podman:debian:stable") == SandboxChoice("podman", "debian:stable")
    assert str(parse_sandbox("docker:a/b@sha256:0")) == "docker:a/b@sha256:0"


@pytest.mark.parametrize("text", ["", "chroot", "podman", "podman:", "docker:-v/:/host", "docker:a b", "bwrap:image"])
def test_a_sandbox_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"sandbox"):
        parse_sandbox(text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in ("home/project/sub", "home/.local/share/local-swarm/models", "other"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "home/file").touch()
    return tmp_path / "home"


def plan(home: Path, root: str, *names: str) -> ToolPlan:
    return plan_tools(names or ("read",), home / root, home=home, data_dir=home / ".local/share/local-swarm")


def test_a_root_is_resolved(home: Path) -> None:
    (home / "link").symlink_to("project")
    found = plan(home, "link", "read", "bash")
    assert (found.root, found.names, found.writable) == (home / "project", ("read", "bash"), False)
    assert plan(home, "project/../../other", "write").root == home.parent / "other"
    assert plan(home, "project", "edit").writable


@pytest.mark.parametrize(
    ("root", "names", "words"),
    [
        ("absent", ("read",), "No such file"),
        ("file", ("read",), "is not a folder"),
        ("/", ("read",), "the whole file system"),
        (".", ("read",), "this node's keys"),
        ("..", ("read",), "this node's keys"),
        (".local/share/local-swarm", ("read",), "this node's keys"),
        (".local/share/local-swarm/models", ("read",), "this node's keys"),
        (".local", ("grep",), "this node's keys"),
        ("a\0b", ("read",), "null|embedded"),
    ],
)
def test_a_root_that_gives_too_much_away_is_refused(home: Path, root: str, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        plan(home, root, *names)


@pytest.mark.parametrize("name", ["write", "edit", "bash"])
def test_a_home_is_read_at_most(home: Path, name: str) -> None:
    assert plan_tools(("read",), home, home=home).root == home
    for root in (home, home.parent):
        with pytest.raises(SetupError, match=f"and {name} may change it"):
            plan_tools(("read", name), root, home=home)
