"""`swarm chat`: a conversation in the terminal, with how each vote went: what is typed at the prompt, or read by lines.

What becomes of it is beside this: `Talk` puts questions and shows answers, `chat_actions` does what commands say.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from swarm.commands.chat_actions import do
from swarm.commands.chat_commands import TypedCommand, read_typed
from swarm.commands.chat_models import KnownModels
from swarm.commands.chat_talk import AnswerScreen, PlainWords, Talk
from swarm.commands.conversation import Conversation
from swarm.commands.node_client import NodeApi
from swarm.commands.output import complain, interrupted, is_terminal, may_redraw, say, say_line
from swarm.errors import SwarmError

DONE, STOPPED = 0, 1  # exit codes
FIRST_LINE: Final = "Ask the swarm. Ctrl-C stops an answer, Ctrl-D ends; /help lists the commands."
LEAVING_LINE: Final = "Ctrl-C once more ends the conversation; so does Ctrl-D"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """`plain`: words only, on a terminal, too. `history`: what is typed is kept for the next time."""

    model: str = "swarm"
    plain: bool = False
    history: bool = True


def chat(api: NodeApi, question: str, options: ChatOptions) -> int:
    """Ask `question` and end, or without one hold a conversation until the input ends.

    Raises SwarmError for a lone question that gets no whole answer; a conversation says so and goes on.
    """
    typed = is_terminal(sys.stdin)
    watched = is_terminal(sys.stdout) and (typed or bool(question))  # else the answers alone are wanted
    drawn = watched and not options.plain and may_redraw(sys.stdout, os.environ)
    talk = Talk(api, Conversation(options.model), _markdown if drawn else lambda: PlainWords(watched))
    if question:
        return STOPPED if talk.ask(question).get("stopped") else DONE
    if typed and drawn:
        return _at_the_prompt(talk, options.history)
    return _line_by_line(talk, typed)


def _markdown() -> AnswerScreen:
    from swarm.commands.chat_markdown import MarkdownScreen

    return MarkdownScreen(sys.stdout)


def _at_the_prompt(talk: Talk, history: bool) -> int:
    from swarm.commands.chat_prompt import ChatPrompt, Left, history_file, open_history

    kept = open_history(history_file() if history else None, lambda problem: complain(f"swarm: {problem}"))
    prompt = ChatPrompt(kept, talk.models.names, talk.standing, lambda: _in_background(talk.models))
    say(FIRST_LINE)
    leaving = False
    while True:
        try:
            text = prompt.read()
            leaving = False
            if not _goes_on(talk, text, commands=True):
                return DONE
            say()
        except Left:
            return DONE
        except KeyboardInterrupt:
            if leaving:
                return DONE
            leaving = True
            say_line(f"  {LEAVING_LINE}")


def _in_background(models: KnownModels) -> None:
    """What the first answer needs, while the first question is typed."""

    def prepare() -> None:
        models.look()
        for name in ("chat_markdown", "vote_stream"):
            importlib.import_module(f"swarm.commands.{name}")

    threading.Thread(target=prepare, name="models", daemon=True).start()


def _line_by_line(talk: Talk, typed: bool) -> int:
    """Without a terminal that can be drawn on: each line is a question. Only what is typed may be a command."""
    if typed:
        say(FIRST_LINE)
        if is_terminal(sys.stdout):
            with suppress(ImportError):
                importlib.import_module("readline")  # from now on `input` has a history and can be edited
    while True:
        try:
            text = input("> ") if typed else input()
            if not _goes_on(talk, text, commands=typed):
                return DONE
        except EOFError:
            if typed:
                say()
            return DONE
        except KeyboardInterrupt:
            interrupted()
            return DONE
        except UnicodeDecodeError as error:
            complain(f"swarm: that cannot be read as text ({error.reason}): say it again")


def _goes_on(talk: Talk, text: str, commands: bool) -> bool:
    """Do what was typed, and say what goes wrong. False: leave."""
    if not text.strip():
        return True
    try:
        typed = read_typed(text) if commands else None
        if isinstance(typed, TypedCommand):
            return do(talk, typed)
        talk.ask(text.strip() if typed is None else typed.text)
    except SwarmError as error:
        complain(f"swarm: {error}")
    return True
