"""The options of `swarm` itself, which runs a node. They import nothing heavy: `swarm --help` answers at once.

Options before a command count as if they stood after it, or are refused: none is ignored.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from federation.hostport import DEFAULT_PORT
from federation.printable_text import clean_line
from swarm.commands.parser import Parser, closest, names_model, other_words, unknown_words
from swarm.consensus.options import MAX_VOTES, STRATEGIES, STREAM_MODES
from swarm.engines.registry import ENGINE_NAMES
from swarm.engines.upstream.address import DEFAULT_SLOTS, UPSTREAM_MODES
from swarm.errors import SetupError
from swarm.tools.plan import TOOL_NAMES

SPELLED = {("isolation", "always"): "isolate", ("isolation", "never"): "in-process"}  # not by the setting's own name
WHERE = frozenset({"host", "port", "peer"})  # what people give who mean --url
USAGE_LINE = "swarm [OPTIONS] [COMMAND ...]"  # argparse would list every option twice
UPSTREAM = "off unless --upstream is set; keys come from the environment alone"


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Every setting of a node that the command line takes, in groups. `parser` has no default for what is not given."""
    _add_network(parser.add_argument_group("network"))
    _add_access(parser.add_argument_group("access (also SWARM_API_KEY, SWARM_ALLOW_HOST, ...)"))
    _add_model(parser.add_argument_group("model"))
    _add_voting(parser.add_argument_group("voting"))
    _add_upstream(parser.add_argument_group("upstream", UPSTREAM))
    _add_tools(parser.add_argument_group("tools (none unless named; docs/tools.md)"))
    _add_general(parser.add_argument_group("general"))


def _add_network(group: Any) -> None:
    group.add_argument("--federation", action="store_true", help="find other nodes and be found (mDNS)")
    group.add_argument(
        "--peer", action="append", metavar="HOST:PORT", help="address of a node to join; one is enough; repeatable"
    )
    group.add_argument("--peer-file", type=Path, metavar="FILE", help="a file of such addresses, one a line")
    group.add_argument(
        "--interface",
        action="append",
        metavar="NAME",
        help="announce on this network interface only; repeatable",
    )
    group.add_argument("--host", metavar="IP", help="listen on and announce this address only")
    group.add_argument("--port", type=int, help=f"port to listen on (default {DEFAULT_PORT})")
    group.add_argument(
        "--also-port",
        action="append",
        type=int,
        metavar="PORT",
        help="listen there, too: 11434, as Ollama does; repeatable",
    )
    group.add_argument("--name", help="this node's name (default: the host name)")


def _add_access(group: Any) -> None:
    group.add_argument(
        "--api-key",
        action="append",
        metavar="KEY",
        help="clients need it; repeatable; `ps` shows it: rather use",
    )
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="keys, one a line, with names and limits",
    )
    group.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="F",
        help="keys that may manage this node from elsewhere",
    )
    group.add_argument(
        "--open-federation",
        action="store_true",
        help="with an API key: nodes that are not paired need none",
    )
    group.add_argument("--allow-host", action="append", metavar="NAME", help="answer to this host name too; repeatable")
    group.add_argument(
        "--allow-origin", action="append", metavar="URL", help="let pages of this origin ask (CORS); repeatable"
    )
    group.add_argument(
        "--answer-any-model",
        action="store_true",
        help="answer names that no node has (gpt-4o-mini) as `swarm`",
    )
    group.add_argument(
        "--fetch-images",
        action="store_true",
        help="fetch images that requests name by a web address",
    )
    group.add_argument(
        "--record",
        action="store_true",
        help="keep prompts of the last votes in memory",
    )


def _add_model(group: Any) -> None:
    group.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="demo | NAME[:SIZE[:QUANT]] | PATH.gguf | hf:OWNER/REPO/FILE; repeatable (default: the best)",
    )
    group.add_argument("--default-model", metavar="NAME", help="loaded for `swarm` where no model is")
    group.add_argument(
        "--models-dir", action="append", type=Path, metavar="DIR", help="look for models here, too; repeatable"
    )
    group.add_argument("--ttl", metavar="TIME", help="unload models idle this long: 30m (default: never)")
    group.add_argument("--max-models", type=int, metavar="N", help="loaded at once (default: as many as fit)")
    group.add_argument("--memory", metavar="SIZE", help="most that models may take: 8G (default: all free)")
    group.add_argument("--pool", action="store_true", help="load what is too large over peers that lend memory")
    group.add_argument("--kv-disk", metavar="SIZE", help="keep read prompts on the disk: 8G (default: in memory)")
    group.add_argument(
        "--lend", nargs="?", const="half", metavar="SIZE", help="lend memory to paired nodes' models: 8G (half)"
    )
    group.add_argument("--auto", action="store_true", help="take the best fitting model without asking")
    group.add_argument("--engine", choices=ENGINE_NAMES, metavar="NAME", help=",".join(ENGINE_NAMES))
    group.add_argument("--llama-server", type=Path, metavar="PATH", help="compute models with this llama.cpp program")
    group.add_argument("--engines-dir", type=Path, metavar="DIR", help="installed engines (default: DATA_DIR/engines)")
    group.add_argument("--workers", type=int, metavar="N", help="answers generated at once (default: up to 4, as fit)")
    group.add_argument("--queue", type=int, metavar="N", help="how many requests may wait (default 64)")
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (default: as many as there are cores)")
    group.add_argument(
        "--context", type=int, metavar="TOKENS", help="of a conversation (default: what fits, up to 32768)"
    )
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--isolate",
        dest="isolation",
        action="store_const",
        const="always",
        help="run the embedded model in its own process, too",
    )
    where.add_argument(
        "--in-process",
        dest="isolation",
        action="store_const",
        const="never",
        help="run models in this process: if one hangs, so does all",
    )


def _add_voting(group: Any) -> None:
    many = f"how many, 1 to {MAX_VOTES} (default: 5 if they count)"
    modes = "|".join(STREAM_MODES)
    group.add_argument("--votes", type=int, metavar="N", help=many)
    strategies = f"answers chosen by {', '.join(STRATEGIES)}".replace("auto", "auto (default)")
    group.add_argument("--strategy", choices=STRATEGIES, metavar="NAME", help=strategies)
    group.add_argument("--vote-stream", metavar="MODE", choices=STREAM_MODES, help=f"streamed votes show {modes}")


def _add_upstream(group: Any) -> None:
    group.add_argument(
        "--upstream",
        action="append",
        metavar="URL",
        help="an OpenAI API, or a provider (groq); repeatable",
    )
    group.add_argument(
        "--upstream-mode",
        choices=UPSTREAM_MODES,
        metavar="MODE",
        help="fallback: where no node can answer (default); voter: votes on `swarm`, too; only: no local model",
    )
    group.add_argument("--upstream-model", metavar="M", help="model to ask there for `swarm` (default: its first)")
    group.add_argument("--upstream-slots", type=int, metavar="N", help=f"requests at once (default {DEFAULT_SLOTS})")


def _add_tools(group: Any) -> None:
    group.add_argument("--tools", metavar="LIST", help=f"{','.join(TOOL_NAMES)}; or all")
    group.add_argument("--tools-root", type=Path, metavar="DIR", help="the folder below which they work")
    group.add_argument("--tools-network", action="store_true", help="commands of bash may use the network")
    group.add_argument("--tools-sandbox", metavar="KIND", help="bwrap, sandbox-exec, podman:IMAGE or docker:IMAGE")
    group.add_argument("--tools-unsandboxed", action="store_true", help="bash may do all that you may")
    group.add_argument("--tool-server", action="store_true", help="the same as --tools all")
    group.add_argument("--no-model", action="store_true", help="load no model: only run tools, or pass requests on")


def _add_general(group: Any) -> None:
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of these settings")
    where = "models, this node's identity (or SWARM_DATA_DIR)"
    group.add_argument("--data-dir", type=Path, metavar="DIR", help=where)
    levels = ("debug", "info", "warning", "error")
    group.add_argument("--log-level", choices=levels, metavar="LEVEL", help="debug, info, warning (default) or error")
    group.add_argument(
        "--log-format", choices=("text", "json"), metavar="FORMAT",
        help="text (default) or json: an object a line",
    )  # fmt: skip
    group.add_argument("--plain", action="store_true", help="on a terminal, too, lines only: no live part")


def read_line(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """What `parser` makes of the command line.

    Raises SetupError for an option whose command does not take it, and for the words of other programs.
    """
    if not words or not words[0].startswith("-"):
        _refuse_other_words(parser, words)
        return parser.parse_args(words)
    given, unknown = _node_parser().parse_known_args(words)
    command: list[str] = given.command_line
    if unknown and not any(word.partition("=")[0] in parser.options() for word in unknown):  # --help, --version
        parser.error(unknown_words(unknown, parser.prog, parser.options(), ()))
    if unknown or not command:
        return parser.parse_args(words)
    _refuse_other_words(parser, command)
    taken = parser.parse_args(command)
    names = 2 if hasattr(taken, "action") else 1  # `swarm models pull`, `swarm status`
    for option, value in vars(given).items():
        if option != "command_line" and not hasattr(taken, option):
            raise SetupError(
                _refusal(option, value, " ".join(("swarm", *command[:names])), has_url=hasattr(taken, "url"))
            )
    before = words[: len(words) - len(command)]
    return parser.parse_args([*command[:names], *before, *command[names:]])


def read_node_options(words: Sequence[str]) -> dict[str, Any]:
    """The settings that these options of a node give, as `make_settings` takes them. Ends with code 2 for others."""
    parser = Parser(
        prog="swarm", usage=USAGE_LINE, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    add_node_options(parser)
    given: argparse.Namespace = parser.parse_args(words)
    return dict(vars(given))


def _refuse_other_words(parser: Parser, words: Sequence[str]) -> None:
    """Raises SetupError for a command that is none here, where it is known what it may mean."""
    if not words:
        return
    commands = parser.commands()
    known = commands["models"].commands() if words[0] == "models" else commands
    if (instead := other_words(words, known)) is not None:
        raise SetupError(f"there is no `{clean_line(shlex.join(['swarm', *words[:2]]))}`: {instead}")
    if words[0] not in commands and closest(words[0], commands) is None and names_model(words[0]):
        raise SetupError(
            f"{words[0]!r} is not a command: `{shlex.join(['swarm', '--model', words[0]])}` serves that model"
        )


def _node_parser() -> Parser:
    """Takes options of the node up to the first word that is none, and leaves the rest in `command_line`."""
    parser = Parser(
        prog="swarm", usage=USAGE_LINE, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    add_node_options(parser)
    parser.add_argument("command_line", nargs=argparse.REMAINDER, default=[])
    return parser


def _refusal(option: str, value: Any, command: str, *, has_url: bool) -> str:
    remedy = "takes --url" if has_url and option in WHERE else "does not take it"
    spelled = next((name for key, name in SPELLED.items() if key == (option, value)), option.replace("_", "-"))
    return f"--{spelled} is an option of the node; `{command}` {remedy}"
