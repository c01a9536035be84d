"""The command line: parse, dispatch, exit codes (0 ok, 2 wrong usage or impossible request, 1 anything else).

Each command imports what it needs when it runs, so that `swarm --help` and `swarm status` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from federation.printable_text import one_line
from swarm import checked_out, program_version
from swarm.commands.arguments import add_asking_commands, add_completion, add_doctor, add_forget, add_service
from swarm.commands.engine_arguments import add_engines
from swarm.commands.member_arguments import add_member_commands
from swarm.commands.model_arguments import add_models
from swarm.commands.node_arguments import USAGE_LINE, add_node_options, read_line
from swarm.commands.output import (
    OutputLost,
    clean_tracebacks,
    complain,
    flush,
    in_background,
    interrupted,
    open_standard_streams,
    say,
)
from swarm.commands.parser import Parser
from swarm.commands.provider_arguments import add_providers
from swarm.environment import keep_this_machine_direct
from swarm.errors import SetupError, SwarmError
from swarm.logs import set_up_logging

OK, FAILED, USAGE = 0, 1, 2
OWN_PACKAGES = frozenset({"swarm", "federation", "hardware"})

DESCRIPTION = """\
Run a node of your local swarm: it serves a language model that fits this
machine, finds the other nodes of your network, and answers the OpenAI API at
http://127.0.0.1:17615/v1 with the power of all of them."""

EXAMPLES = """\
examples:
  swarm --federation               join the swarm of this network
  swarm --peer 192.168.1.20:17615  where mDNS does not reach: one node is enough
  swarm --host 0.0.0.0 --api-key-file keys  clients need one of these keys
  swarm --upstream http://127.0.0.1:11434   ask Ollama where no node can answer
"""


class ShowVersion(argparse.Action):
    """Prints the version and ends. argparse's own action would look it up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        commit = checked_out()
        say(f"local-swarm {program_version()}" + (f" (commit {commit})" if commit else ""))
        parser.exit()


def build_parser() -> Parser:
    parser = Parser(
        prog="swarm",
        usage=USAGE_LINE,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # so that what a command has is what its own parser says
    )
    parser.set_defaults(run=run)
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show program's version number and exit")
    add_node_options(parser)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", prog="swarm")
    add_asking_commands(commands)
    add_doctor(commands)
    add_models(commands)
    add_engines(commands)
    add_providers(commands)
    add_forget(commands)
    add_member_commands(commands)
    add_service(commands)
    add_completion(commands, build_parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """`swarm` without a command: run a node until it is stopped; 0 is a clean stop."""
    if sys.platform == "win32":  # its event loop has no signal handlers, and cannot accept from a socket of our own
        raise SetupError("a node does not run on Windows itself: run it in WSL 2 (`wsl --install`; README.md)")
    from swarm.commands.live_part import live_part
    from swarm.commands.terminal import Terminal
    from swarm.node.run import end_process, serve
    from swarm.node.settings import ENVIRONMENT, NAMES, make_settings

    given = {name: getattr(arguments, name, None) for name in NAMES}
    settings = make_settings(given, getattr(arguments, "config", None))
    os.environ.pop(ENVIRONMENT["api_key"], None)  # no process that this one starts has business with it
    set_up_logging(settings.log_level, complain, settings.log_format)
    with in_background():
        serve(settings, Terminal(None if settings.plain else live_part()))
    end_process()
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    if argv is None:  # run as a program
        open_standard_streams()
        clean_tracebacks()
    keep_this_machine_direct(os.environ)
    try:
        try:
            arguments = read_line(build_parser(), sys.argv[1:] if argv is None else argv)
            return arguments.run(arguments)
        finally:
            flush()
    except SetupError as error:
        complain(f"swarm: {one_line(str(error))}")
        return USAGE
    except SwarmError as error:
        complain(f"swarm: {one_line(str(error))}")
        return FAILED
    except OutputLost as error:
        if not error.by_reader:
            complain(f"swarm: the output cannot be written: {error.strerror}")
        return FAILED
    except ModuleNotFoundError as error:
        if (package := str(error.name).partition(".")[0]) in OWN_PACKAGES:
            raise
        complain(f"swarm: {missing_package(package)}")
        return USAGE
    except KeyboardInterrupt:
        interrupted()
        return FAILED


def missing_package(package: str) -> str:
    """What to do where a package that this program needs is not there."""
    return (
        f"the package {package!r} is missing from this Python ({sys.executable}). In a checkout start with "
        "./scripts/run instead, which makes an environment with everything in .venv; or run .venv/bin/python main.py"
    )


if __name__ == "__main__":
    sys.exit(main())
