"""The tool host as a node is told of it: what is refused before it starts, and what its banner says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules, digest
from swarm.node.settings import Settings, make_settings
from swarm.node.tools import check_no_model, check_reach, opened_tools, read_tool_plan, tool_host_words
from swarm.tools.plan import TOOL_NAMES, SandboxChoice, ToolPlan
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox

KEY, ADMIN = AccessRules(key_digests=(digest("a"),)), AccessRules(admin_digests=(digest("a"),))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def settings(project: Path, **given: Any) -> Settings:
    return make_settings({"data_dir": project.parent / "data", **given}, environment={})


def test_a_node_runs_no_tools_unless_some_are_named(project: Path) -> None:
    assert read_tool_plan(settings(project)) is None


def test_tools_are_named_by_the_command_line_or_by_a_file(project: Path, tmp_path: Path) -> None:
    given = settings(project, tools="grep,read", tools_root=project, tools_sandbox="podman:debian:stable")
    assert read_tool_plan(given) == ToolPlan(
        ("read", "grep"), project.resolve(), sandbox=SandboxChoice("podman", "debian:stable")
    )
    config = tmp_path / "swarm.toml"
    config.write_text(
        f'tools = ["read", "bash"]\ntools_root = "{project}"\ntools_network = true\ndata_dir = "{tmp_path}/data"\n'
    )
    assert read_tool_plan(make_settings({}, config, {})) == ToolPlan(("read", "bash"), project.resolve(), network=True)


def test_a_tool_server_has_all(project: Path) -> None:
    plan = read_tool_plan(settings(project, tool_server=True, tools_root=project, tools_unsandboxed=True))
    assert plan is not None
    assert plan.names == TOOL_NAMES
    assert plan.unsandboxed


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"tools": "read"},
            "--tools read needs --tools-root DIR, the folder below which they work: name that of one project",
        ),
        ({"tool_server": True}, "needs --tools-root DIR"),
        ({"tool_server": True, "tools": "read"}, "--tool-server is the same as --tools all: leave out one"),
        ({"tools_network": True}, "--tools-network is for the tools of --tools, and none are named: add --tools"),
        ({"tools_unsandboxed": True}, "--tools-unsandboxed is for the tools"),
        ({"tools_sandbox": "bwrap"}, "--tools-sandbox is for the tools"),
        ({"tools_root": "."}, "--tools-root is for the tools"),
        ({"tools": "read", "tools_root": "/"}, "the whole file system"),
        ({"tools": "read", "tools_root": "/no/such/folder"}, r"/no/such/folder cannot be used .*: name a folder"),
        ({"tools": "bash", "tools_root": Path.home()}, "holds everything of a user"),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(project: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(SetupError, match=told):
        read_tool_plan(settings(project, **given))


def test_the_nodes_own_folder_is_no_root(project: Path) -> None:
    given = settings(project, tools="read", tools_root=project.parent)
    with pytest.raises(SetupError, match="would give away this node's keys"):
        read_tool_plan(given)


@pytest.mark.parametrize("option", ["api_key_file", "admin_key_file", "peer_file"])
def test_a_file_of_the_nodes_own_below_the_root_keeps_it_from_starting(project: Path, option: str) -> None:
    own, link = project / "keys", project.parent / "link"
    own.write_text("sk-anna\n")
    link.symlink_to(own)
    for path in (own, link):
        given = settings(project, tools="read,write", tools_root=project, **{option: path})
        with pytest.raises(SetupError, match=f"--{option.replace('_', '-')} .* lies below the tools' root .*: move"):
            read_tool_plan(given)
    beside = project.parent / "beside"
    beside.write_text("sk-anna\n")
    assert read_tool_plan(settings(project, tools="read", tools_root=project, **{option: beside}))


def test_neither_do_what_says_what_it_does_and_what_models_are_told(project: Path) -> None:
    config = project / "swarm.toml"
    config.write_text(f'tools = "read"\ntools_root = "{project}"\ndata_dir = "{project.parent}/data"\n')
    with pytest.raises(SetupError, match=r"--config .* lies below the tools' root"):
        read_tool_plan(make_settings({}, config, {}))
    outside = config.rename(project.parent / "swarm.toml")
    outside.write_text(outside.read_text() + f'tool_instructions = "{project}/words.txt"\n')
    assert read_tool_plan(make_settings({}, outside, {}))
    with pytest.raises(SetupError, match=r"tool_instructions .* lies below the tools' root"):
        read_tool_plan(make_settings({"tools": "read,write"}, outside, {}))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tools": "raed"}, "--tools raed cannot be had: there is no tool 'raed': did you mean read"),
        ({"tools": ","}, "--tools , cannot be had: no tool is named"),
        ({"tools_sandbox": "podman"}, "--tools-sandbox podman cannot be had: sandbox 'podman' names no image"),
        ({"tools_sandbox": "chroot"}, "--tools-sandbox chroot cannot be had: there is no sandbox 'chroot'"),
    ],
)
def test_names_that_there_are_not_are_refused_where_they_stand(project: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(SetupError, match=told):
        settings(project, **given)


def test_a_file_with_a_bad_name_is_named(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    for text in ('tools = ["read", 5]', 'tools = ["raed"]', "tools = 5"):
        config.write_text(text)
        with pytest.raises(SetupError, match=f"--config {config}: tools = "):
            make_settings({}, config, {})


@pytest.mark.parametrize(
    ("access", "hosts", "may"),
    [
        (AccessRules(), ("127.0.0.1",), True),
        (AccessRules(), ("::1",), True),
        (AccessRules(), ("127.0.0.1", "::1"), True),
        (AccessRules(), ("0.0.0.0",), False),
        (AccessRules(), ("::",), False),
        (AccessRules(), ("127.0.0.1", "192.168.1.5"), False),
        (AccessRules(), ("192.168.1.5",), False),
        (AccessRules(), ("100.64.0.1",), False),
        (AccessRules(), ("::ffff:192.168.1.5",), False),
        (AccessRules(), ("localhost",), False),  # not an address: in doubt it is elsewhere
        (ADMIN, ("0.0.0.0",), False),
        (KEY, ("0.0.0.0", "::"), True),
        (KEY, ("127.0.0.1",), True),
    ],
)
def test_beyond_loopback_it_takes_a_key(access: AccessRules, hosts: tuple[str, ...], may: bool) -> None:
    if may:
        check_reach(access, hosts)
        return
    with pytest.raises(SetupError, match=r"any machine that reaches it could have them\. Give it a key"):
        check_reach(access, hosts)


def test_a_node_without_a_model_is_not_told_which(project: Path) -> None:
    check_no_model(settings(project))
    check_no_model(settings(project, no_model=True))
    check_no_model(settings(project, model=["demo"]))
    for also in ({"model": ["demo"]}, {"default_model": "demo"}, {"auto": True}):
        with pytest.raises(SetupError, match="--no-model loads none"):
            check_no_model(settings(project, no_model=True, **also))


async def test_bash_without_a_sandbox_keeps_the_node_from_starting(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = NoSandbox("bwrap is not installed", "install the package bubblewrap")
    monkeypatch.setattr("swarm.tools.local_host.find_sandbox", lambda *_, **__: missing)
    told = r"--tools has bash, and bwrap is not installed: install .* bubblewrap\. Or leave bash out: --tools read,grep"
    with pytest.raises(SetupError, match=told):
        async with opened_tools(ToolPlan(("read", "grep", "bash"), project)):
            pass
    async with opened_tools(ToolPlan(("read", "grep"), project)) as host:
        assert "read" in tool_host_words(host, AccessRules())


@pytest.mark.parametrize(
    ("plan", "sandbox", "access", "told"),
    [
        (
            {},
            Sandbox("bwrap"),
            AccessRules(),
            r"bash below .*; bash in bwrap, without network; for this machine, at /mcp",
        ),
        ({"network": True}, Sandbox("bwrap"), KEY, r"bash in bwrap, with the network; for whoever has an API key"),
        ({}, Sandbox("docker", image="debian"), KEY, r"bash in docker debian, without network"),
        ({"unsandboxed": True}, Sandbox("none"), KEY, r"bash runs UNSANDBOXED: whoever calls it may do what you may"),
    ],
)
async def test_the_banner_says_what_holds_commands_and_for_whom(
    project: Path, monkeypatch: pytest.MonkeyPatch, plan: Any, sandbox: Sandbox, access: AccessRules, told: str
) -> None:
    monkeypatch.setattr("swarm.tools.local_host.find_sandbox", lambda *_, **__: sandbox)
    async with opened_tools(ToolPlan(("read", "bash"), project, **plan)) as host:
        words = tool_host_words(host, access)
    assert re.search(told, words), words
    assert str(project) in words
