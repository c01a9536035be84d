"""The tool host as the user set it: which tools, below which folder, in which sandbox; and who may reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from federation.hostport import unmapped
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules
from swarm.node.settings import Settings
from swarm.tools.local_host import LocalToolHost
from swarm.tools.plan import TOOL_NAMES, ToolPlan, parse_sandbox, plan_tools
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox


def read_tool_plan(settings: Settings) -> ToolPlan | None:
    """What this node's tool host may do; None where no tools are named. Blocks: looks at folders. Raises SetupError."""
    if settings.tool_server and settings.tools is not None:
        raise SetupError("--tool-server is the same as --tools all: leave out one of them")
    names = TOOL_NAMES if settings.tool_server else settings.tools
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
    if settings.tools_sandbox is not None:
        plan = replace(plan, sandbox=parse_sandbox(settings.tools_sandbox))
    return plan


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


def tool_host_words(host: LocalToolHost, access: AccessRules) -> str:
    """What the banner says of the tools: which, where, what holds commands, and for whom."""
    plan = host.plan
    words = f"{', '.join(tool.name for tool in host.tools())} below {plan.root}"
    if plan.unsandboxed and host.sandbox is not None:
        words += "; bash runs UNSANDBOXED: whoever calls it may do what you may (--tools-unsandboxed)"
    elif isinstance(host.sandbox, Sandbox):
        words += f"; bash in {host.sandbox.title}, {'with the' if plan.network else 'without'} network"
    return f"{words}; for {'whoever has an API key' if access.wants_key else 'this machine'}, at /mcp and /v1/tools"
