"""The command line of `swarm agent`, and what becomes of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from federation.printable_text import clean_line
from swarm.environment import TOOL_KEY
from swarm.errors import SetupError

if TYPE_CHECKING:
    from swarm.providers import ThinkingLevel

HERE: Final = "here"
OWN_NODE: Final = "node"
DEFAULT_TOOLS: Final = "read,write,edit,glob,grep,bash"
EXAMPLES: Final = """\
examples:
  swarm agent "make the failing test pass"
  swarm agent "what does this program do?" --tools read,glob,grep
  swarm agent --votes 5 --ahead 3 --yes edit,bash "rename Cat to Dog everywhere"
  swarm agent --resume 20260103-5e1f      go on with a session

While it works: a line steers it, +LINE waits until it would be done, Ctrl-C
aborts, once more ends. Exit code: 0 done, 1 failed or aborted, 2 wrong usage,
3 a step was not decided. More in docs/agent.md."""


def add_agent(commands: Any, add_url: Callable[[argparse.ArgumentParser], None], run: Callable[..., int]) -> None:
    """The command. `add_url` adds the options by which a node is asked; `run` is what it does."""
    parser = commands.add_parser(
        "agent",
        help="have work done by tools, each step voted on",
        description="Do what is asked by calling tools in this folder; each step is decided by a\n"
        "vote of the swarm. Reading runs unasked, the rest asks first. Without TASK it\n"
        "is a conversation.",
        usage="swarm agent [OPTIONS] [TASK]\n       swarm agent --list [--json]",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    cloud = parser.add_argument_group("a cloud's model in place of the swarm's (no votes)")
    cloud.add_argument("--provider", metavar="NAME", help="a row of `swarm providers`, or any base URL; with --model")
    cloud.add_argument("--base-url", metavar="URL", help="another address of that provider")
    steps = parser.add_argument_group("steps")
    steps.add_argument(
        "--votes", type=int, metavar="N", help="answers that each step is voted on (default: the node's)"
    )
    steps.add_argument("--ahead", type=int, metavar="K", help="a step is decided when it is K votes ahead of others")
    steps.add_argument("--min-agreement", type=float, metavar="S", help="a smaller share (0 to 1) decides nothing")
    steps.add_argument("--max-turns", type=int, default=25, metavar="N", help="answers in one run (default 25)")
    steps.add_argument("--think", metavar="LEVEL", help="off, minimal, low, medium, high or xhigh")
    steps.add_argument("--system", metavar="TEXT", help="a system message before the conversation")
    tools = parser.add_argument_group("tools")
    tools.add_argument(
        "--tool-host", nargs="?", const=OWN_NODE, default=HERE, metavar="URL",
        help="here (the default), or a node that runs tools; without URL the node that is asked",
    )  # fmt: skip
    tools.add_argument("--tool-key", metavar="KEY", help=f"that node's API key (default: {TOOL_KEY})")
    tools.add_argument("--root", type=Path, metavar="DIR", help="of the tools here (default: this folder)")
    tools.add_argument("--tools", metavar="LIST", help=f"of those here (default {DEFAULT_TOOLS})")
    tools.add_argument("--yes", metavar="LIST", default="", help="tools that run unasked, or all")
    parser.add_argument("--json", action="store_true", help="each event as a line of JSON; nobody is asked")
    parser.add_argument("--resume", metavar="ID", help="go on with a session; the beginning of its id is enough")
    parser.add_argument("--list", action="store_true", help="the sessions that can be resumed")
    parser.add_argument("task", nargs="*", metavar="TASK", help="what is to be done; - reads it from standard input")
    parser.set_defaults(run=run)


def run_agent(arguments: argparse.Namespace, key: str | None) -> int:
    """Do what the command line says; `key` is the API key for the node."""
    from swarm.commands.agent import AgentOptions, agent, list_sessions
    from swarm.commands.node_client import NodeApi, is_address
    from swarm.node.settings import default_data_dir

    if sys.platform == "win32":  # its event loop has neither signals nor a terminal that can be waited for
        raise SetupError("the agent does not run on Windows itself: run it in WSL 2 (`wsl --install`; README.md)")
    folder = default_data_dir() / "agent"
    if arguments.list:
        return list_sessions(folder, arguments.json)
    for name in ("votes", "ahead", "max_turns"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SetupError(f"--{name.replace('_', '-')} is {value}, and at least 1")
    if arguments.min_agreement is not None and not 0 <= arguments.min_agreement <= 1:
        raise SetupError(f"--min-agreement is {arguments.min_agreement:g}, and a share from 0 to 1")
    _look_at_provider(arguments)
    here = arguments.tool_host == HERE
    for name in ("root", "tools"):
        if not here and getattr(arguments, name) is not None:
            raise SetupError(f"--{name} is for tools here; a node that runs tools has its own (swarm --tools-root)")
    if arguments.tool_host not in (HERE, OWN_NODE) and not is_address(arguments.tool_host):
        raise SetupError(
            f"--tool-host {clean_line(arguments.tool_host)!r} is no address of a node: use one like "
            "http://127.0.0.1:17615, or none, after the task"
        )
    options = AgentOptions(
        model=arguments.model,
        host=None if here else arguments.url if arguments.tool_host == OWN_NODE else arguments.tool_host,
        host_key=_tool_key(arguments, key),
        root=arguments.root,
        tools=DEFAULT_TOOLS if arguments.tools is None else arguments.tools,
        votes=arguments.votes,
        ahead=arguments.ahead,
        min_agreement=arguments.min_agreement,
        max_turns=arguments.max_turns,
        grants=tuple(name for name in (part.strip() for part in arguments.yes.split(",")) if name),
        system=arguments.system,
        json=arguments.json,
        resume=arguments.resume,
        think=_think(arguments.think),
        provider=arguments.provider,
        base_url=arguments.base_url,
        provider_key=arguments.api_key,
    )
    return agent(NodeApi(arguments.url, key), arguments.task, options, folder)


def _look_at_provider(arguments: argparse.Namespace) -> None:
    if arguments.provider is None:
        if arguments.base_url is not None:
            raise SetupError("--base-url is another address of a provider: name it with --provider")
        return
    if arguments.model == "swarm":
        raise SetupError(
            f"name a model of {arguments.provider}: --model NAME (`swarm providers models NAME` lists them)"
        )
    if (arguments.votes, arguments.ahead, arguments.min_agreement) != (None,) * 3:
        raise SetupError(
            "a provider's own answers are not voted on; behind a node they are: "
            f"`swarm --upstream {arguments.provider}`, and `swarm agent` without --provider"
        )
    if arguments.tool_host == OWN_NODE:
        raise SetupError("--tool-host needs a URL with --provider: no node is asked")


def _tool_key(arguments: argparse.Namespace, node_key: str | None) -> str | None:
    """The key for the node that runs the tools: no other one is sent there, and least of all a provider's."""
    if arguments.tool_key is not None:
        return arguments.tool_key
    same = arguments.provider is None and arguments.tool_host in (OWN_NODE, arguments.url)
    return node_key if same else os.environ.get(TOOL_KEY) or None


def _think(word: str | None) -> ThinkingLevel | None:
    """The level of that name; the table of providers is loaded for it alone. Raises SetupError."""
    from swarm.providers import THINKING_LEVELS

    for level in THINKING_LEVELS:
        if level == word:
            return level
    if word is not None:
        raise SetupError(f"--think {word!r} is no level of thought: there are {', '.join(THINKING_LEVELS)}")
    return None
