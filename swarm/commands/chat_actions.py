"""What the commands of `swarm chat` do, each in a few lines to whoever typed it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from swarm.commands.chat_answer import call_line
from swarm.commands.chat_commands import (
    NONE,
    TypedCommand,
    WrongCommand,
    help_rows,
    split_file,
    temperature_of,
    votes_of,
    whole_file,
)
from swarm.commands.chat_files import path_of, read_image, read_text, save_text
from swarm.commands.chat_models import sees
from swarm.commands.chat_talk import Talk
from swarm.commands.conversation import Conversation, NoConversation, as_json, as_markdown, from_json
from swarm.commands.output import say, say_line
from swarm.errors import SwarmError

MARKDOWN_FILES: Final = (".md", ".markdown")


def do(talk: Talk, command: TypedCommand) -> bool:
    """Do what a command says; False: leave. Raises SwarmError for what cannot be done."""
    if command.name == "quit":
        return False
    ACTIONS[command.name](talk, command)
    return True


def _model(talk: Talk, command: TypedCommand) -> None:
    if not command.argument:
        talk.models.look()
        say_line(f"  {talk.conversation.model} answers. There are:")
        for line in talk.models.lines():
            say_line(f"    {line}")
        return
    entry = talk.models.named(command.argument)
    talk.change(model=command.argument)
    context = entry.get("context_tokens")
    size = f", its context holds {context:,} tokens" if isinstance(context, int) else ""
    say_line(f"  {command.argument} answers from now on{size}")


def _votes(talk: Talk, command: TypedCommand) -> None:
    if command.argument:
        talk.change(votes=votes_of(command.argument))
    votes = talk.conversation.votes
    if votes is None:
        say_line("  the node decides how many answers it votes on")
    else:
        say_line(f"  votes on {votes} answers" if votes > 1 else "  one answer, and no vote")


def _system(talk: Talk, command: TypedCommand) -> None:
    if command.argument:
        talk.change(system="" if command.argument.lower() == NONE else command.argument)
    system = talk.conversation.system
    say(f"  system prompt: {system}" if system else "  there is no system prompt")


def _temperature(talk: Talk, command: TypedCommand) -> None:
    if command.argument:
        talk.change(temperature=temperature_of(command.argument))
    value = talk.conversation.temperature
    say_line("  the node chooses the temperature" if value is None else f"  temperature {value:g}")


def _image(talk: Talk, command: TypedCommand) -> None:
    if command.argument.lower() == NONE:
        talk.attached.clear()
    if command.argument and command.argument.lower() != NONE:
        name, question = split_file(command.argument, lambda text: path_of(text).is_file())
        _refuse_blind(talk)
        url, about = read_image(path_of(name), [url for _, url in talk.attached])
        talk.attached.append((f"{name}: {about}", url))
        if question:
            talk.ask(question)
            return
    for about, _ in talk.attached:
        say_line(f"  {about}")
    say_line("  goes with your next question" if talk.attached else "  no picture is attached: /image FILE")


def _refuse_blind(talk: Talk) -> None:
    model = talk.conversation.model
    if sees(talk.models.named(model)):
        return
    talk.models.look()
    others = ", ".join(talk.models.seeing())
    if not others:
        raise SwarmError("no model here sees pictures: load one that does (docs/models.md)")
    raise SwarmError(f"{model} reads text only; these see: {others} (/model NAME)")


def _tools(talk: Talk, _: TypedCommand) -> None:
    answer = talk.conversation.last_answer or {}
    for call in answer.get("tool_calls") or ():
        say_line(f"  {call_line(call)}")
    if not answer.get("tool_calls"):
        say_line("  the last answer calls no tool")
    say_line("  the node has no tools of its own, and `swarm chat` gives models none; programs")
    say_line("  send theirs with each request (docs/compatibility.md)")


def _save(talk: Talk, command: TypedCommand) -> None:
    if not command.argument:
        raise WrongCommand("/save takes a file: /save talk.json, or talk.md for reading")
    path = path_of(whole_file(command.argument))
    readable = path.suffix.lower() in MARKDOWN_FILES
    save_text(path, (as_markdown if readable else as_json)(talk.conversation), command.replace)
    say_line(f"  {_messages(talk.conversation)} in {path}")


def _load(talk: Talk, command: TypedCommand) -> None:
    if not command.argument:
        raise WrongCommand("/load takes a file that /save or the page has written: /load talk.json")
    path = path_of(whole_file(command.argument))
    try:
        talk.begin(from_json(read_text(path)))
    except NoConversation as error:
        raise SwarmError(f"{path} holds no conversation: {error}; this one goes on as it was") from error
    say_line(
        f"  {talk.conversation.title or path.name}: {_messages(talk.conversation)}, {talk.conversation.settings()}"
    )


def _clear(talk: Talk, _: TypedCommand) -> None:
    talk.begin(replace(talk.conversation, turns=(), title="", sent_from=0))
    say_line(f"  a new conversation: {talk.conversation.settings()}")


def _vote(talk: Talk, _: TypedCommand) -> None:
    talk.show_vote()


def _retry(talk: Talk, _: TypedCommand) -> None:
    talk.ask_again()


def _help(_: Talk, __: TypedCommand) -> None:
    for left, right in help_rows():
        say_line(f"  {left:<22} {right}".rstrip())


def _messages(conversation: Conversation) -> str:
    count = len(conversation.turns)
    return f"{count} message" + ("" if count == 1 else "s")


ACTIONS: Final[dict[str, Callable[[Talk, TypedCommand], None]]] = {
    "model": _model,
    "votes": _votes,
    "vote": _vote,
    "system": _system,
    "temperature": _temperature,
    "image": _image,
    "retry": _retry,
    "tools": _tools,
    "save": _save,
    "load": _load,
    "clear": _clear,
    "help": _help,
}
