"""The commands' command lines: names, options, help. What a command does is imported when it runs.

`node_arguments.py` has the options of `swarm` itself, `bench_options.py` those of `swarm bench`, `model_arguments.py`
those of `swarm models`, `member_arguments.py` those of the commands that say who belongs to the swarm.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation.hostport import DEFAULT_PORT
from swarm.commands.agent_arguments import add_agent, run_agent
from swarm.commands.bench_options import add_bench, read_bench, read_load, read_speculation
from swarm.commands.parser import Parser
from swarm.consensus.options import STRATEGIES
from swarm.environment import API_KEY, texts
from swarm.errors import SetupError

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
SHELLS = ("bash", "zsh", "fish")
COMPLETION_EXAMPLES = """\
  bash: source <(swarm completion bash)   in ~/.bashrc
  zsh:  source <(swarm completion zsh)    in ~/.zshrc, after compinit
  fish: swarm completion fish | source    in ~/.config/fish/config.fish
"""
DATA_DIR = "the node's data directory, if you gave it one"
LAUNCHED = ("claude", "codex", "opencode", "aider", "qwen")
LAUNCH_EXAMPLES = """\
examples:
  swarm launch claude              Claude Code, in this folder
  swarm launch codex -- exec "what does this repository do?"
  swarm launch --list              what is here; every client that works
  swarm launch --settings codex    what to write into its own settings

More in docs/compatibility.md."""
SERVICE = (
    "A node that the system starts at boot, and again when it fails: by systemd (Linux) or launchd (macOS). It prints "
    "what it writes and runs, and never touches a file that it has not written."
)
INSTALL_SERVICE = """\
Write the service and start it. What follows `--` are the node's own options
(default: --federation --auto); for other options give the command again."""
CHAT_EXAMPLES = """\
examples:
  swarm chat                            a conversation; Ctrl-D ends it
  swarm chat --model qwen3:4b           with one model
  swarm chat "why is the sky blue?"     one question
  echo "why is the sky blue?" | swarm chat > answer.txt

More in docs/terminal.md."""
SERVICE_EXAMPLES = """\
examples:
  swarm service install --dry-run               show what would be written
  swarm service install -- --federation --model qwen3:4b
  sudo /opt/local-swarm/bin/swarm service install -- \\
      --federation --auto --api-key-file /etc/local-swarm/keys

More in docs/deploy.md."""


def add_asking_commands(commands: Any) -> None:
    """Those that ask a node as any client does: status, top, chat, vote, agent, launch, bench."""
    _add_status(commands)
    _add_top(commands)
    _add_chat(commands)
    _add_vote(commands)
    add_agent(commands, _add_url, _agent)
    _add_launch(commands)
    add_bench(commands, DEFAULT_URL, _bench)


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="any node of the swarm (default %(default)s)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="where the node wants one (default: the first of SWARM_API_KEY)"
    )


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="show the swarm as one node sees it",
        description="The swarm as one node sees it: who is in, who is not and why, and who serves what.",
        epilog="Exit code: 0 the node is ready, 1 it is not, or none answers.",
    )
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_status)


def _add_top(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="watch the swarm: nodes, models, requests, votes",
        description="The swarm as one node sees it, live: its nodes, what they run, the last\n"
        "votes, what is wrong. Keys: q ends, s changes the order, m lists the models\n"
        "(arrows and space move). Where nobody looks (a file, a pipe) it prints once.",
        epilog="Exit code: 0 ended, or printed; 1 printed of a node that is not ready, or none\nanswers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_url(parser)
    parser.add_argument("--once", action="store_true", help="print one picture and end")
    parser.add_argument("--json", action="store_true", help="once, as JSON: {part: {key: entry}}, as /v1/events tells")
    parser.set_defaults(run=_top)


def _add_chat(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="talk to the swarm",
        description="Talk to the swarm: answers as they come, and how each vote went. In the\n"
        "conversation /help lists its commands. In a pipe each line is a question, and\n"
        "only the answers come out.",
        epilog=CHAT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("--plain", action="store_true", help="words only: no Markdown, no colours, nothing drawn anew")
    parser.add_argument("--no-history", action="store_true", help="keep nothing of what is typed")
    parser.add_argument("question", nargs="*", help="ask this and leave (default: a conversation)")
    parser.set_defaults(run=_chat)


def _add_vote(commands: Any) -> None:
    parser = commands.add_parser(
        "vote",
        help="put a question to the vote and watch it",
        description="Put a question to the vote and watch every voter's answer, the tally and the result.",
        epilog="Exit code: 0 a verdict with a quorum, 1 a degraded one or none, 2 wrong usage.",
    )
    _add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("--votes", type=int, metavar="N", help="voters to ask (default 5)")
    strategies = f"how the answer is chosen (default: the node's): {', '.join(STRATEGIES)}"
    parser.add_argument("--strategy", choices=STRATEGIES, metavar="NAME", help=strategies)
    parser.add_argument("--system", metavar="TEXT", help="a system message before the question")
    parser.add_argument("--seed", type=int, metavar="N", help="each voter derives its own from it (default: random)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 to 2; 0 is for the first voter alone")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of each answer")
    output = parser.add_mutually_exclusive_group()
    for name, text in (("json", "the result as one JSON object"), ("jsonl", "each event as a line of JSON")):
        output.add_argument(f"--{name}", dest="output", action="store_const", const=name, help=text)
    parser.add_argument("question", nargs="+", metavar="QUESTION", help="- reads it from standard input")
    parser.set_defaults(run=_vote, output="text")


def _add_launch(commands: Any) -> None:
    parser = commands.add_parser(
        "launch",
        help="start a coding agent against the swarm",
        description="Start Claude Code, Codex, opencode or aider against the swarm. What it needs is\n"
        "said on its command line and in its environment: its own files stay as they are.",
        usage="swarm launch [--url URL] [--api-key KEY] [--model MODEL] PROGRAM [-- ARG]\n"
        "       swarm launch --list [--json]\n"
        "       swarm launch --settings CLIENT [--json]",
        epilog=LAUNCH_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("--list", action="store_true", help="what is installed, and every client that works")
    parser.add_argument("--settings", metavar="CLIENT", help="what to write into the settings of that client")
    parser.add_argument("--json", action="store_true", help="that list, or those settings, as JSON")
    parser.add_argument("program", nargs="?", metavar="PROGRAM", help=" | ".join(LAUNCHED))
    parser.rest = "words"
    parser.set_defaults(run=_launch, words=[])


def _status(arguments: argparse.Namespace) -> int:
    from swarm.commands.node_client import NodeApi
    from swarm.commands.status import status

    return status(NodeApi(arguments.url, client_key(arguments)), arguments.json)


def _top(arguments: argparse.Namespace) -> int:
    from swarm.commands.node_client import NodeApi
    from swarm.commands.top import top

    return top(NodeApi(arguments.url, client_key(arguments)), arguments.once, arguments.json)


def _chat(arguments: argparse.Namespace) -> int:
    from swarm.commands.chat import ChatOptions, chat
    from swarm.commands.node_client import NodeApi

    options = ChatOptions(arguments.model, arguments.plain, history=not arguments.no_history)
    return chat(NodeApi(arguments.url, client_key(arguments)), " ".join(arguments.question), options)


def _vote(arguments: argparse.Namespace) -> int:
    from swarm.commands.node_client import NodeApi
    from swarm.commands.vote import read_question, vote
    from swarm.commands.vote_stream import VoteRequest

    request = VoteRequest(
        read_question(arguments.question),
        model=arguments.model,
        system=arguments.system,
        votes=arguments.votes,
        strategy=arguments.strategy,
        seed=arguments.seed,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
    )
    return vote(NodeApi(arguments.url, client_key(arguments)), request, arguments.output)


def _agent(arguments: argparse.Namespace) -> int:
    return run_agent(arguments, client_key(arguments))


def _launch(arguments: argparse.Namespace) -> int:
    from swarm.commands.launch import launch, list_clients, show_settings
    from swarm.commands.node_client import NodeApi

    api = NodeApi(arguments.url, client_key(arguments))
    listing = arguments.list or arguments.json
    if (client := arguments.settings or (arguments.program if listing else None)) is not None:
        return show_settings(api, client, arguments.model, arguments.json)
    if listing:
        return list_clients(api, arguments.model, arguments.json)
    if arguments.program is None:
        raise SetupError("name a program: `swarm launch claude`; `swarm launch --list` says which are installed")
    return launch(api, arguments.program, arguments.model, arguments.words)


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.action == "speculation":
        from swarm.commands.bench_speculation import bench_speculation

        return bench_speculation(read_speculation(arguments))
    if arguments.action == "load":
        from swarm.commands.bench_load import bench_load

        return bench_load(read_load(arguments, client_key(arguments)))
    from swarm.commands.bench import bench_votes

    return bench_votes(read_bench(arguments, client_key(arguments)))


def client_key(arguments: argparse.Namespace) -> str | None:
    """The key to send: the one given, or the first of those that a node started here would want."""
    return arguments.api_key or next(iter(texts(os.environ, API_KEY)), None)


def add_doctor(commands: Any) -> None:
    """The command."""
    parser = commands.add_parser(
        "doctor",
        help="check machine and network; name remedies",
        description="Check this machine, its network and each peer, and name the remedy for each problem. "
        "Nothing is changed.",
        epilog="Exit code: 0 nothing failed, 1 something did. More in docs/discovery.md.",
    )
    parser.add_argument("--hardware", action="store_true", help="CPU, memory, GPUs, and where each fact is from")
    parser.add_argument("--peer", action="append", metavar="HOST:PORT", help="check this node, too; repeatable")
    parser.add_argument("--peer-file", type=Path, metavar="FILE", help="check the nodes that it lists, too")
    parser.add_argument("--port", type=int, help=f"the node's port (default {DEFAULT_PORT})")
    parser.add_argument("--host", metavar="IP", help="as you gave it to the node")
    parser.add_argument("--interface", action="append", metavar="NAME", help="as you gave it to the node")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as you gave it to the node")
    parser.add_argument("--config", type=Path, metavar="FILE", help="as you gave it to the node")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from swarm.commands.doctor import doctor, hardware
    from swarm.node.settings import make_settings

    names = ("peer", "peer_file", "port", "host", "interface", "data_dir")
    given = {name: getattr(arguments, name) for name in names}
    settings = make_settings(given, arguments.config)
    return hardware(settings, arguments.json) if arguments.hardware else doctor(settings, arguments.json)


def add_forget(commands: Any) -> None:
    """The command."""
    parser = commands.add_parser(
        "forget",
        help="remove what was read of prompts from this disk",
        description="Remove what `swarm --kv-disk` keeps of conversations on this disk. A node that runs keeps nothing "
        "that it read before; what it has in memory goes with it.",
        epilog="Exit code: 0 there is nothing of it any more, 2 the folder cannot be written. More in docs/models.md.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=DATA_DIR)
    parser.set_defaults(run=_forget)


def _forget(arguments: argparse.Namespace) -> int:
    from swarm.commands.forget import forget_prompts
    from swarm.node.settings import make_settings

    return forget_prompts(make_settings({"data_dir": arguments.data_dir}).saved_prompts_dir, arguments.json)


def add_completion(commands: Any, make_parser: Callable[[], Parser]) -> None:
    """The command, which asks `make_parser` for all that there is to complete."""
    parser = commands.add_parser(
        "completion",
        help="print what makes TAB complete commands in a shell",
        description="Print what makes TAB complete commands, options, files and model names.\n"
        "For good: put the line of your shell into its start-up file.",
        epilog=COMPLETION_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=" | ".join(SHELLS))

    def run(arguments: argparse.Namespace) -> int:
        from swarm.commands.completion import completion

        return completion(arguments.shell, os.environ, make_parser())

    parser.set_defaults(run=run)


def add_service(commands: Any) -> None:
    """The command and its actions."""
    parser = commands.add_parser(
        "service", help="start a node at boot (systemd, launchd)", description=SERVICE, epilog="More in docs/deploy.md."
    )
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    texts = {
        "install": "write the service and start it",
        "remove": "stop it and remove it",
        "status": "whether it runs",
    }
    for name, text in texts.items():
        action = actions.add_parser(
            name,
            help=text,
            description=INSTALL_SERVICE if name == "install" else f"{text[0].upper()}{text[1:]}.",
            epilog=SERVICE_EXAMPLES if name == "install" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter if name == "install" else argparse.HelpFormatter,
        )
        scope = action.add_mutually_exclusive_group()
        for whose, words in (
            ("user", "your own service"),
            ("system", "the system's, as a user of its own; needs root"),
        ):
            words = f"{words} (default for {'root' if whose == 'system' else 'others'})"
            scope.add_argument(f"--{whose}", dest="scope", action="store_const", const=whose, default=None, help=words)
        if name == "status":
            action.add_argument("--json", action="store_true", help="as JSON")
        else:
            action.add_argument("--dry-run", action="store_true", help="only show what would be written and run")
        if name == "install":
            action.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of the node")
        action.set_defaults(
            run={"install": _service_install, "remove": _service_remove, "status": _service_status}[name]
        )


def _service_install(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import install

    return install(arguments.scope, arguments.options, arguments.dry_run)


def _service_remove(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import remove

    return remove(arguments.scope, arguments.dry_run)


def _service_status(arguments: argparse.Namespace) -> int:
    from swarm.commands.service import status

    return status(arguments.scope, arguments.json)
