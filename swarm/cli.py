"""The command line: parse, dispatch, exit codes (0 ok, 2 wrong usage or impossible request, 1 anything else)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation.hostport import DEFAULT_PORT
from swarm.commands.bench_options import add_bench
from swarm.commands.member_arguments import add_member_commands
from swarm.commands.vote_arguments import add_vote
from swarm.consensus.strategy_names import STRATEGIES
from swarm.engines.load import ENGINE_NAMES
from swarm.engines.upstream_address import DEFAULT_SLOTS, KEY_VARIABLE, UPSTREAM_MODES, URL_VARIABLE
from swarm.errors import SetupError, SwarmError
from swarm.routing.policy import MAX_VOTES, STREAM_MODES
from swarm.tracing import RequestIdFilter
from swarm.version import program_version

if TYPE_CHECKING:
    from swarm.settings import Settings

OK, FAILED, USAGE = 0, 1, 2

DESCRIPTION = """\
Run a node of your local swarm: it serves a language model that fits this machine, finds the other nodes of your
network, and answers the OpenAI API at http://127.0.0.1:17615/v1 with the power of all of them."""

EXAMPLES = """\
examples:
  swarm --federation                        join the swarm of this network, choose a model that fits
  swarm --federation --model demo           with the tiny embedded model: no download
  swarm --peer 192.168.1.20:17615           where mDNS does not reach: name one node, learn the rest from it
  swarm --model qwen3:4b:q4_k_m             serve this model, this machine only
  swarm --federation --api-key-file keys    clients need one of these keys (or --api-key, SWARM_API_KEY)
  swarm --upstream http://127.0.0.1:11434   ask this Ollama where no node can answer
  swarm models fit                          what would run here
  swarm status                              the swarm as this node sees it
  swarm chat                                talk to it
  swarm invite                              a code to `swarm join` with: only members are peers from then on
"""

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
UPSTREAM = f"Off unless --upstream is set: nothing leaves your network. The key comes from {KEY_VARIABLE} alone."


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swarm",
        usage="swarm [OPTIONS] [COMMAND ...]",  # argparse would list every option twice
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=_serve)
    parser.add_argument("--version", action="version", version=f"local-swarm {program_version()}")
    _add_network(parser.add_argument_group("network"))
    _add_access(parser.add_argument_group("access", "also from the environment: SWARM_API_KEY, SWARM_ALLOW_HOST, ..."))
    _add_model(parser.add_argument_group("model"))
    _add_voting(parser.add_argument_group("voting"))
    _add_upstream(parser.add_argument_group("upstream", UPSTREAM))
    _add_general(parser.add_argument_group("general"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="swarm")
    _add_status(commands)
    _add_chat(commands)
    add_vote(commands, _add_url, _client_key)
    _add_doctor(commands)
    _add_models(commands)
    add_bench(commands, DEFAULT_URL, _client_key)
    add_member_commands(commands)
    return parser


def _add_network(group: Any) -> None:
    group.add_argument("--federation", action="store_true", default=None, help="find other nodes and be found (mDNS)")
    group.add_argument(
        "--peer", action="append", metavar="HOST:PORT", help="a node to join; repeatable, one knows the rest"
    )
    group.add_argument("--peer-file", type=Path, metavar="FILE", help="a list of peers, one a line")
    group.add_argument(
        "--interface",
        action="append",
        metavar="NAME",
        help="announce here only, be it a VPN; repeatable",
    )
    group.add_argument("--host", metavar="IP", help="listen on and announce this address only")
    group.add_argument("--port", type=int, help=f"port to listen on (default {DEFAULT_PORT})")
    group.add_argument("--name", help="this node's name (default: the host name)")


def _add_access(group: Any) -> None:
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="clients need this key (default: no key); repeatable; `ps` shows it, so rather use:",
    )
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="one key a line, # begins a comment")
    group.add_argument("--allow-host", action="append", metavar="NAME", help="answer to this host name too; repeatable")
    group.add_argument(
        "--allow-origin", action="append", metavar="URL", help="let pages of this origin ask (CORS); repeatable"
    )


def _add_model(group: Any) -> None:
    group.add_argument(
        "--model",
        metavar="MODEL",
        help="demo | NAME[:SIZE[:QUANT]] | PATH.gguf | hf:OWNER/REPO/FILE (default: best that fits)",
    )
    group.add_argument("--auto", action="store_true", default=None, help="take the best fitting model without asking")
    group.add_argument(
        "--engine", choices=ENGINE_NAMES, metavar="NAME", help=f"inference library: {', '.join(ENGINE_NAMES)}"
    )
    group.add_argument("--workers", type=int, metavar="N", help="answers generated at once (default 4)")
    group.add_argument("--queue", type=int, metavar="N", help="how many requests may wait (default 64)")
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (default: all cores but one)")
    group.add_argument(
        "--context", type=int, metavar="TOKENS", help="tokens per answer, prompt included (default 4096)"
    )
    group.add_argument(
        "--isolate",
        dest="isolation",
        action="store_const",
        const="always",
        help="each engine in a process of its own (large ones are)",
    )


def _add_voting(group: Any) -> None:
    many, modes = f"votes where slots are idle, 1 to {MAX_VOTES} (default 5)", " | ".join(STREAM_MODES)
    group.add_argument("--votes", type=int, metavar="N", help=many)
    group.add_argument("--strategy", choices=STRATEGIES, help="how answers are chosen (default auto)")
    group.add_argument("--vote-stream", metavar="MODE", choices=STREAM_MODES, help=f"what streams show: {modes}")


def _add_upstream(group: Any) -> None:
    group.add_argument(
        "--upstream",
        metavar="URL",
        help=f"base URL of an OpenAI API: cloud, llama-server, Ollama, LM Studio (or {URL_VARIABLE})",
    )
    group.add_argument(
        "--upstream-mode",
        choices=UPSTREAM_MODES,
        metavar="MODE",
        help="fallback: asked where no node can answer (default); voter: one more vote on `swarm`, too; "
        "only: it answers everything, no local model is loaded",
    )
    group.add_argument("--upstream-model", metavar="NAME", help="what `swarm` means there (default: its first)")
    group.add_argument("--upstream-slots", type=int, metavar="N", help=f"requests at once (default {DEFAULT_SLOTS})")


def _add_general(group: Any) -> None:
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of these settings")
    group.add_argument("--data-dir", type=Path, metavar="DIR", help="where models and this node's identity are kept")
    levels = ("debug", "info", "warning", "error")
    group.add_argument("--log-level", choices=levels, metavar="LEVEL", help="debug, info, warning (default) or error")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help="any node of the swarm (default %(default)s)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="where the node wants one (default: the first of SWARM_API_KEY)"
    )


def _add_status(commands: Any) -> None:
    parser = commands.add_parser("status", help="the swarm as one node sees it")
    _add_url(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_status)


def _add_chat(commands: Any) -> None:
    parser = commands.add_parser("chat", help="talk to the swarm")
    _add_url(parser)
    parser.add_argument("--model", default="swarm", help="a model id, or swarm for the best there is")
    parser.add_argument("question", nargs="*", help="ask this and leave (default: a conversation)")
    parser.set_defaults(run=_chat)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="what is wrong here, and the remedy")
    parser.add_argument("--hardware", action="store_true", help="CPU, memory, GPUs, and where each fact is from")
    parser.add_argument("--peer", action="append", metavar="HOST:PORT", help="look at this node, too; repeatable")
    parser.add_argument("--port", type=int, help=f"that of the node (default {DEFAULT_PORT})")
    parser.add_argument("--host", metavar="IP", help="as given to the node")
    parser.add_argument("--interface", action="append", metavar="NAME", help="as given to the node")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="as given to the node")
    parser.add_argument("--config", type=Path, metavar="FILE", help="as given to the node")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_doctor)


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="list, fit, pull, rm")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, text in (("list", "every model in the registry"), ("fit", "what fits this machine, best first")):
        action = actions.add_parser(name, help=text)
        action.add_argument("--json", action="store_true", help="as JSON")
        action.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="default 4096")
        action.add_argument("--workers", type=int, default=4, metavar="N", help="default 4")
        action.add_argument("--data-dir", type=Path, metavar="DIR")
        action.set_defaults(run=_models_list if name == "list" else _models_fit)
    for name, text in (("pull", "bring a model, from a peer or the hub"), ("rm", "remove a downloaded model")):
        action = actions.add_parser(name, help=text)
        action.add_argument("model", metavar="NAME[:SIZE[:QUANT]]")
        action.add_argument("--data-dir", type=Path, metavar="DIR")
        if name == "pull":
            words = "a node that may have it; repeatable"
            action.add_argument("--peer", action="append", default=argparse.SUPPRESS, metavar="HOST:PORT", help=words)
        action.set_defaults(run=_models_pull if name == "pull" else _models_rm)


# Each command imports what it needs when it runs, so that `swarm --help` and `swarm status` answer at once.


def _serve(arguments: argparse.Namespace) -> int:
    from swarm.commands.serve import serve
    from swarm.settings import ENVIRONMENT, NAMES, make_settings

    given = {name: getattr(arguments, name, None) for name in NAMES}
    settings = make_settings(given, arguments.config)
    os.environ.pop(ENVIRONMENT["api_key"], None)  # no process that this one starts has business with it
    set_up_logging(settings.log_level)
    return serve(settings)


def _status(arguments: argparse.Namespace) -> int:
    from swarm.commands.http import NodeDoor
    from swarm.commands.status import status

    return status(NodeDoor(arguments.url, _client_key(arguments)), arguments.json)


def _chat(arguments: argparse.Namespace) -> int:
    from swarm.commands.chat import chat
    from swarm.commands.http import NodeDoor

    return chat(NodeDoor(arguments.url, _client_key(arguments)), arguments.model, " ".join(arguments.question))


def _client_key(arguments: argparse.Namespace) -> str | None:
    """The key to send: the one given, or the first of those that a node started here would want."""
    from swarm.settings import read_environment

    given = [arguments.api_key] if arguments.api_key else read_environment(os.environ).get("api_key", [])
    return next(iter(given), None)


def _doctor(arguments: argparse.Namespace) -> int:
    from swarm.commands.doctor import doctor, hardware
    from swarm.settings import make_settings

    if arguments.hardware:
        return hardware(arguments.json)
    names = ("peer", "port", "host", "interface", "data_dir")
    given = {name: getattr(arguments, name) for name in names}
    return doctor(make_settings(given, arguments.config), arguments.json)


def _models_list(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import list_models

    return list_models(_settings(arguments), arguments.json)


def _models_fit(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import fit_models
    from swarm.registry.memory import Load

    return fit_models(_settings(arguments), Load(arguments.context, arguments.workers), arguments.json)


def _models_pull(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import pull_model

    return pull_model(_settings(arguments), arguments.model)


def _models_rm(arguments: argparse.Namespace) -> int:
    from swarm.commands.models import remove_model

    return remove_model(_settings(arguments), arguments.model)


def _settings(arguments: argparse.Namespace) -> Settings:
    from swarm.settings import make_settings

    return make_settings({"data_dir": arguments.data_dir, "peer": arguments.peer})


def set_up_logging(level: str) -> None:
    """Log lines on standard error, each with the id of its request."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except SetupError as error:
        print(f"swarm: {error}", file=sys.stderr)
        return USAGE
    except SwarmError as error:
        print(f"swarm: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
