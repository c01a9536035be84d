"""The tool host as the user set it: which tools, below which folder, in which sandbox; and who may reach it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from federation.hostport import unmapped
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules
from swarm.node.settings import Settings
from swarm.tools.local_host import LocalToolHost
from swarm.tools.mcp_connections import ServerPlace
from swarm.tools.mcp_host import McpToolHost, server_hosts
from swarm.tools.mcp_servers import McpServerSettings, with_folders
from swarm.tools.plan import AUTO, CHANGING_TOOLS, TOOL_NAMES, ToolPlan, parse_sandbox, plan_tools
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox


def read_tool_plan(settings: Settings) -> ToolPlan | None:
    """What this node's tool host may do; None where no tools are named. Blocks: looks at folders. Raises SetupError.

    Without tools, MCP servers of others may have a folder all the same: then it is a plan with no names.
    """
    if settings.tool_server and settings.tools is not None:
        raise SetupError("--tool-server is the same as --tools all: leave out one of them")
    names = TOOL_NAMES if settings.tool_server else settings.tools
    if names is None and settings.mcp.servers:  # theirs are the folder and the sandbox
        names = ()
    if names is None:
        given = {
            "--tools-root": settings.tools_root is not None,
            "--tools-network": settings.tools_network,
            "--tools-unsandboxed": settings.tools_unsandboxed,
            "--tools-sandbox": settings.tools_sandbox is not None,
        }
        unused = [option for option, is_given in given.items() if is_given]
        if unused:
            raise SetupError(f"{unused[0]} is for the tools of --tools, and none are named: add --tools read,grep,glob")
        return None
    if settings.tools_root is None and not names:
        return None
    if settings.tools_root is None:
        raise SetupError(
            f"--tools {','.join(names)} needs --tools-root DIR, the folder below which they work: "
            "name that of one project, or . for the folder you are in"
        )
    plan = plan_tools(
        names,
        settings.tools_root,
        home=Path.home(),
        data_dir=settings.data_path,
        network=settings.tools_network,
        unsandboxed=settings.tools_unsandboxed,
    )
    _refuse_own_files(settings, plan)
    if settings.tools_sandbox is not None:
        plan = replace(plan, sandbox=parse_sandbox(settings.tools_sandbox))
    return plan


def _refuse_own_files(settings: Settings, plan: ToolPlan) -> None:
    """Raises SetupError where a file of this node's own lies below the root: its keys, and what says what it does."""
    own = {
        "--api-key-file": settings.api_key_file,
        "--admin-key-file": settings.admin_key_file,
        "--config": settings.config,
    }
    if not CHANGING_TOOLS.isdisjoint(plan.names):
        own |= {"--peer-file": settings.peer_file, "tool_instructions": settings.tool_instructions}
    for option, path in own.items():
        if path is not None and path.expanduser().resolve().is_relative_to(plan.root):
            raise SetupError(
                f"{option} {path} lies below the tools' root {plan.root}, where a model could read or change it: "
                "move that file, or name another folder with --tools-root"
            )


def check_reach(access: AccessRules, bind_hosts: Sequence[str]) -> None:
    """Raises SetupError where others than this machine could have tools executed without a key. For a node with tools.

    A key that manages the node is none that clients need: without another one the API stands open.
    """
    if access.wants_key or all(map(_is_loopback, bind_hosts)):
        return
    raise SetupError(
        f"tools are executed here, and this node listens on {' and '.join(bind_hosts)}: any machine that reaches it "
        "could have them. Give it a key (--api-key-file FILE), or have it listen on this machine only "
        "(--host 127.0.0.1, without --federation)"
    )


def _is_loopback(host: str) -> bool:
    try:
        return unmapped(ipaddress.ip_address(host)).is_loopback
    except ValueError:
        return False


def check_no_model(settings: Settings) -> None:
    """Raises SetupError where a node is to load no model and is told which."""
    if not settings.no_model:
        return
    asked = {
        "--model": bool(settings.model),
        "--default-model": settings.default_model is not None,
        "--auto": settings.auto,
    }
    also = next((option for option, is_given in asked.items() if is_given), None)
    if also is not None:
        raise SetupError(f"--no-model loads none, and {also} is about the model to load: leave out one of them")


@asynccontextmanager
async def opened_tools(plan: ToolPlan) -> AsyncGenerator[LocalToolHost]:
    """The tools of this machine, ready to be called. Raises SetupError for `bash` where no sandbox works."""
    async with LocalToolHost(plan) as host:
        if isinstance(host.sandbox, NoSandbox):
            raise SetupError(
                f"--tools has bash, and {host.sandbox.reason}: {host.sandbox.remedy}. Or leave bash out: --tools "
                + ",".join(name for name in plan.names if name != "bash")
            )
        yield host


@asynccontextmanager
async def opened_servers(
    settings: Settings, plan: ToolPlan | None, found: Sandbox | NoSandbox | None, say: Callable[[str], None]
) -> AsyncGenerator[tuple[McpToolHost, ...]]:
    """The MCP servers of others that are named, on their way: each is connected to beside everything else.

    `found` is the sandbox that commands run in, where it is known. Raises SetupError where a server's command has none,
    and for what its settings name and there is not.
    """
    servers = await asyncio.to_thread(_with_folders, settings)
    place: ServerPlace | NoSandbox | None = None
    if any(server.command for server in servers.values()):
        if found is None:
            choice = AUTO if settings.tools_sandbox is None else parse_sandbox(settings.tools_sandbox)
            found = await asyncio.to_thread(find_sandbox, choice, unsandboxed=settings.tools_unsandboxed)
        if isinstance(found, NoSandbox):
            place = found
        else:
            place = ServerPlace(found) if plan is None else ServerPlace(found, plan.root, plan.writable)
    async with AsyncExitStack() as stack:
        hosts = server_hosts(servers, place, os.environ, say)
        for host in hosts:
            await stack.enter_async_context(host)
        yield hosts


def _with_folders(settings: Settings) -> dict[str, McpServerSettings]:
    return {name: with_folders(name, server, settings.data_path) for name, server in settings.mcp.servers.items()}


def server_words(hosts: Sequence[McpToolHost], access: AccessRules) -> str:
    """What the banner says of MCP servers of others, whose tools are not known yet."""
    names = ", ".join(host.name for host in hosts)
    return f"of {names}, as each of them is there; for {_for_whom(access)}, at /mcp and /v1/tools"


def _for_whom(access: AccessRules) -> str:
    return "whoever has an API key" if access.wants_key else "this machine"


def tool_host_words(host: LocalToolHost, access: AccessRules) -> str:
    """What the banner says of the tools: which, where, what holds commands, and for whom."""
    plan = host.plan
    words = f"{', '.join(tool.name for tool in host.tools())} below {plan.root}"
    if plan.unsandboxed and host.sandbox is not None:
        words += "; bash runs UNSANDBOXED: whoever calls it may do what you may (--tools-unsandboxed)"
    elif isinstance(host.sandbox, Sandbox):
        words += f"; bash in {host.sandbox.title}, {'with the' if plan.network else 'without'} network"
    return f"{words}; for {_for_whom(access)}, at /mcp and /v1/tools"
