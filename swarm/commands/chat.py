"""`swarm chat`: a conversation in the terminal, with how each vote went.

On a terminal an answer is shown as Markdown while it comes. Where a vote then prefers another one, that is said, and
the winner follows: it is what the conversation goes on with. In a file or a pipe there are only the winner's words.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast
from urllib.parse import quote

from federation.printable_text import clean_line
from swarm.commands.chat_answer import AnswerSoFar, call_line, is_vote, overruled_line, vote_line
from swarm.commands.chat_commands import (
    NONE,
    TypedCommand,
    WrongCommand,
    help_rows,
    nearest,
    read_typed,
    split_file,
    temperature_of,
    votes_of,
    whole_file,
)
from swarm.commands.conversation import (
    MOST_FILE_BYTES,
    ChatTurn,
    Conversation,
    NoConversation,
    as_json,
    as_markdown,
    from_json,
    still_fitting,
)
from swarm.commands.node_client import NodeApi, get_json, post_stream
from swarm.commands.output import Stream, complain, interrupted, is_terminal, may_redraw, say, say_line, terminal_size
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.commands.vote_stream import VoteState

DONE, STOPPED = 0, 1  # exit codes
STOPPED_LINE: Final = "stopped"
CUT_LINE: Final = "cut off at the most tokens that an answer may have here"
FIRST_LINE: Final = "Ask the swarm. Ctrl-C stops an answer, Ctrl-D ends; /help lists the commands."
LEAVING_LINE: Final = "Ctrl-C once more ends the conversation; so does Ctrl-D"
ALL_OF_VOTE: Final = "/vote shows all of it"
MARKDOWN_FILES: Final = (".md", ".markdown")


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
            return talk.do(typed)
        talk.ask(text.strip() if typed is None else typed.text)
    except SwarmError as error:
        complain(f"swarm: {error}")
    return True


# How an answer is shown


class AnswerScreen(Protocol):
    """Shows one answer while it comes, within a context; after it, what is to be said of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def status(self, line: str, /) -> None: ...

    def show(self, answer: AnswerSoFar, /) -> None: ...

    def overrule(self, answer: AnswerSoFar, /) -> None: ...

    def note(self, line: str, /) -> None: ...

    def vote(self, state: VoteState, /) -> None: ...


def _markdown() -> AnswerScreen:
    from swarm.commands.chat_markdown import MarkdownScreen

    return MarkdownScreen(sys.stdout)


class PlainWords:
    """The words alone, as they come. `live`: somebody looks at them, and may be told more than the answer."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self._stream = Stream()
        self._shown = 0  # characters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(error[1], KeyboardInterrupt):
            interrupted()
        elif self._shown or error[1] is None:
            say()

    def status(self, line: str) -> None:
        """Nothing: there is no line that could be replaced."""

    def show(self, answer: AnswerSoFar) -> None:
        self._stream.show(answer.text[self._shown :])
        self._shown = len(answer.text)

    def overrule(self, answer: AnswerSoFar) -> None:
        if self.live:
            self.note(overruled_line(answer.account))
            Stream().show(answer.winner or "")
            say()

    def note(self, line: str) -> None:
        if self.live:
            say_line(f"  [{line}]")

    def vote(self, state: VoteState) -> None:
        from swarm.commands.ballot_view import verdict
        from swarm.commands.screen import lines_of

        columns = max(terminal_size(sys.stdout).columns - 1, 1)
        for line in lines_of(verdict(state, columns), columns):
            say_line(line)


# The conversation


class KnownModels:
    """What the node says of its models: by id, as `/v1/models` has them. Empty where it does not answer."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._known: dict[str, Mapping[str, Any]] = {}
        self._looked = False

    def look(self) -> None:
        """Ask the node; what was known stays where it does not answer."""
        self._looked = True
        with suppress(SwarmError):
            data: object = get_json(self._api, "/v1/models").get("data")
            entries = cast("list[object]", data) if isinstance(data, list) else []
            found = [cast("Mapping[str, Any]", entry) for entry in entries if isinstance(entry, dict)]
            self._known = {str(entry["id"]): entry for entry in found if _is_name(entry.get("id"))}

    def names(self) -> list[str]:
        """Their ids; the node is asked once."""
        if not self._looked:
            self.look()
        return list(self._known)

    def lines(self) -> list[str]:
        return [f"{name}  {self._known[name].get('state', '')}" for name in self.names()]

    def named(self, name: str) -> Mapping[str, Any]:
        """What the node says of one, by any of its names. Raises SwarmError as it refuses it, with the nearest."""
        try:
            entry = get_json(self._api, f"/v1/models/{quote(name, safe='')}")
        except SwarmError as error:
            self.look()
            near = nearest(name, self.names())
            raise SwarmError(f"{error}" + (f" (did you mean {near}?)" if near else "")) from error
        if _is_name(entry.get("id")):
            self._known[name] = entry
        return entry

    def context_tokens(self, name: str) -> int | None:
        tokens = self._known.get(name, {}).get("context_tokens")
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    def seeing(self) -> list[str]:
        """Those that see pictures."""
        return [name for name in self.names() if sees(self._known[name])]


def _is_name(name: object) -> bool:
    """Whether it can be shown and typed as it is."""
    return isinstance(name, str) and bool(name) and clean_line(name) == name


def sees(entry: Mapping[str, Any]) -> bool:
    modalities: object = entry.get("modalities")
    kinds: object = cast("Mapping[str, object]", modalities).get("input") if isinstance(modalities, dict) else None
    return isinstance(kinds, list) and "image" in cast("list[object]", kinds)


class Talk:
    """A conversation with a node: questions, commands, and what is known between two of them."""

    def __init__(self, api: NodeApi, conversation: Conversation, shown: Callable[[], AnswerScreen]) -> None:
        self.conversation = conversation
        self.models = KnownModels(api)
        self._api = api
        self._shown = shown
        self._images: list[tuple[str, str]] = []  # name and data URL, for the next question
        self._taken_back: ChatTurn | None = None  # the last question, where it got no answer
        self._fits_from = 0  # the first turn that would fit, after the node said that they are too many
        self._tokens: int | None = None  # of the context, that the last answer filled
        self._knows_vote = False

    def standing(self) -> str:
        """The bottom line: who answers, how, and how full the context is."""
        talk = self.conversation
        parts = [talk.model, f"votes {'auto' if talk.votes is None else talk.votes}"]
        context = self.models.context_tokens(talk.model)
        if self._tokens is not None and context is not None:
            parts.append(f"{self._tokens / context:.0%} of {context:,} tokens")
        if self._images:
            parts.append(f"{len(self._images)} attached")
        return clean_line(" · ".join([*parts, "/help"]))

    def ask(self, question: str) -> ChatTurn:
        """Put the question, show the answer and one line on the vote. Ctrl-C stops it, here and at the node.

        What was shown of an answer that was stopped or cut off stays part of the conversation; a question without any
        answer does not, but `/retry` knows it. Raises SwarmError after the answer is cut off, or refused.
        """
        images = [url for _, url in self._images]
        turn = self._put(self.conversation.asking(question, images))
        self._images.clear()
        return turn

    def _put(self, asked: Conversation) -> ChatTurn:
        """Ask the last question of `asked`."""
        answer, shown = AnswerSoFar(), self._shown()
        problem: SwarmError | None = None
        stopped = False
        body = asked.body()
        if isinstance(shown, PlainWords) and not shown.live:
            body["swarm"] = {**body["swarm"], "progress": False, "stream": "buffer"}
        try:
            with _without_echo(), shown, closing(self._events(body, shown)) as events:
                for event in events:
                    answer.take(event)
                    shown.show(answer)
        except KeyboardInterrupt:
            stopped = True
        except SwarmError as error:
            problem = error
        turn = answer.turn(**({"stopped": True} if stopped else {} if problem is None else {"problem": str(problem)}))
        self._keep(asked, turn)
        if problem is not None:
            raise self._with_remedy(asked, problem)
        self._say_how(answer, turn, shown)
        return turn

    def _events(self, body: dict[str, Any], shown: AnswerScreen) -> Generator[dict[str, Any]]:
        return post_stream(self._api, "/v1/chat/completions", body, shown.status)

    def _keep(self, asked: Conversation, turn: ChatTurn) -> None:
        self._fits_from = 0
        if turn["content"] or turn.get("tool_calls"):
            self.conversation, self._taken_back = asked.answered(turn), None
        elif len(asked.turns) > len(self.conversation.turns):
            self._taken_back = asked.turns[-1]

    def _say_how(self, answer: AnswerSoFar, turn: ChatTurn, shown: AnswerScreen) -> None:
        if turn.get("stopped"):
            shown.note(STOPPED_LINE)
            return
        if answer.winner is not None:
            shown.overrule(answer)
        if isinstance(shown, PlainWords) and not shown.live:
            return
        self._tokens = answer.tokens
        if answer.reason == "length":
            shown.note(CUT_LINE)
        line = vote_line(answer.account) if answer.account else ""
        if is_vote(answer.account) and not self._knows_vote:
            self._knows_vote = True
            line = f"{line} · {ALL_OF_VOTE}" if line else ""
        if line:
            shown.note(line)

    def _with_remedy(self, asked: Conversation, problem: SwarmError) -> SwarmError:
        first = still_fitting(asked, str(problem))
        if first <= asked.sent_from:
            return problem
        self._fits_from = first
        return SwarmError(f"{problem}. Without the first {first} messages it would fit: /retry leaves them out")

    # Commands

    def do(self, command: TypedCommand) -> bool:
        """Do what a command says; False: leave. Raises SwarmError for what cannot be done."""
        if command.name == "quit":
            return False
        does: dict[str, Callable[[TypedCommand], None]] = {
            "model": self._model,
            "votes": self._votes,
            "vote": self._vote,
            "system": self._system,
            "temperature": self._temperature,
            "image": self._image,
            "retry": self._retry,
            "tools": self._tools,
            "save": self._save,
            "load": self._load,
            "clear": self._clear,
            "help": _help,
        }
        does[command.name](command)
        return True

    def _set(self, **change: Any) -> None:
        self.conversation = replace(self.conversation, **change)

    def _model(self, command: TypedCommand) -> None:
        if not command.argument:
            self.models.look()
            say_line(f"  {self.conversation.model} answers. There are:")
            for line in self.models.lines():
                say_line(f"    {line}")
            return
        entry = self.models.named(command.argument)
        self._set(model=command.argument)
        context = entry.get("context_tokens")
        size = f", its context holds {context:,} tokens" if isinstance(context, int) else ""
        say_line(f"  {command.argument} answers from now on{size}")

    def _votes(self, command: TypedCommand) -> None:
        if command.argument:
            self._set(votes=votes_of(command.argument))
        votes = self.conversation.votes
        if votes is None:
            say_line("  the node decides how many answers it votes on")
        else:
            say_line(f"  votes on {votes} answers" if votes > 1 else "  one answer, and no vote")

    def _vote(self, _: TypedCommand) -> None:
        answer = self.conversation.last_answer
        if answer is None or not answer.get("ballot"):
            raise WrongCommand("there is no answer yet whose vote could be shown")
        from swarm.commands.vote_stream import read_state

        self._shown().vote(read_state(answer["ballot"]))

    def _system(self, command: TypedCommand) -> None:
        if command.argument:
            self._set(system="" if command.argument.lower() == NONE else command.argument)
        system = self.conversation.system
        say(f"  system prompt: {system}" if system else "  there is no system prompt")

    def _temperature(self, command: TypedCommand) -> None:
        if command.argument:
            self._set(temperature=temperature_of(command.argument))
        value = self.conversation.temperature
        say_line("  the node chooses the temperature" if value is None else f"  temperature {value:g}")

    def _image(self, command: TypedCommand) -> None:
        if command.argument.lower() == NONE:
            self._images.clear()
        if command.argument and command.argument.lower() != NONE:
            name, question = split_file(command.argument, lambda text: _path(text).is_file())
            self._refuse_blind()
            url, about = read_image(_path(name), [url for _, url in self._images])
            self._images.append((f"{name}: {about}", url))
            if question:
                self.ask(question)
                return
        for about, _ in self._images:
            say_line(f"  {about}")
        say_line("  goes with your next question" if self._images else "  no picture is attached: /image FILE")

    def _refuse_blind(self) -> None:
        model = self.conversation.model
        if sees(self.models.named(model)):
            return
        self.models.look()
        others = ", ".join(self.models.seeing())
        if not others:
            raise SwarmError("no model here sees pictures: load one that does (docs/models.md)")
        raise SwarmError(f"{model} reads text only; these see: {others} (/model NAME)")

    def _retry(self, _: TypedCommand) -> None:
        talk, question = self.conversation.without_last()
        if self._taken_back is not None:
            talk, question = self.conversation, self._taken_back
        if question is None:
            raise WrongCommand("there is no question yet that could be asked again")
        talk = replace(talk, sent_from=self._fits_from or min(talk.sent_from, len(talk.turns)))
        shown = clean_line(question["content"])
        say_line(f"  asking again: {shown[:60]}{'…' if len(shown) > 60 else ''}")
        self._put(talk.asking(question["content"], question.get("images") or ()))
        self._images.clear()  # those of the question that got no answer

    def _tools(self, _: TypedCommand) -> None:
        answer = self.conversation.last_answer or {}
        for call in answer.get("tool_calls") or ():
            say_line(f"  {call_line(call)}")
        if not answer.get("tool_calls"):
            say_line("  the last answer calls no tool")
        say_line("  the node has no tools of its own, and `swarm chat` gives models none; programs")
        say_line("  send theirs with each request (docs/compatibility.md)")

    def _save(self, command: TypedCommand) -> None:
        if not command.argument:
            raise WrongCommand("/save takes a file: /save talk.json, or talk.md for reading")
        path = _path(whole_file(command.argument))
        readable = path.suffix.lower() in MARKDOWN_FILES
        save_text(path, (as_markdown if readable else as_json)(self.conversation), command.replace)
        say_line(f"  {_messages(self.conversation)} in {path}")

    def _load(self, command: TypedCommand) -> None:
        if not command.argument:
            raise WrongCommand("/load takes a file that /save or the page has written: /load talk.json")
        path = _path(whole_file(command.argument))
        try:
            self._begin(from_json(read_text(path)))
        except NoConversation as error:
            raise SwarmError(f"{path} holds no conversation: {error}; this one goes on as it was") from error
        say_line(
            f"  {self.conversation.title or path.name}: {_messages(self.conversation)}, {self.conversation.settings()}"
        )

    def _clear(self, _: TypedCommand) -> None:
        self._begin(replace(self.conversation, turns=(), title="", sent_from=0))
        say_line(f"  a new conversation: {self.conversation.settings()}")

    def _begin(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self._taken_back, self._tokens, self._fits_from = None, None, 0
        self._images.clear()


def _help(_: TypedCommand) -> None:
    for left, right in help_rows():
        say_line(f"  {left:<22} {right}".rstrip())


def _messages(conversation: Conversation) -> str:
    count = len(conversation.turns)
    return f"{count} message" + ("" if count == 1 else "s")


@contextmanager
def _without_echo() -> Generator[None]:
    """What is typed during an answer waits for the next prompt, and is not written into the answer."""
    if sys.platform == "win32" or not is_terminal(sys.stdin):
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


# Files


def _path(name: str) -> Path:
    with suppress(RuntimeError):  # "~nobody"
        return Path(name).expanduser()
    return Path(name)


def read_image(path: Path, beside: Sequence[str] = ()) -> tuple[str, str]:
    """A picture as a data URL, and its kind and size in words. Raises SwarmError for what a node would not take.

    `beside`: those that go with the same question.
    """
    from swarm.images import MAX_IMAGE_BYTES_TOGETHER, ImageBudget, data_of, data_url, header_of

    budget = ImageBudget()
    try:
        for url in beside:
            known = data_of(url)
            budget.take(header_of(known), len(known))
        with path.open("rb") as file:
            raw = file.read(MAX_IMAGE_BYTES_TOGETHER + 1)
        header = header_of(raw)
        budget.take(header, len(raw) if len(raw) <= MAX_IMAGE_BYTES_TOGETHER else path.stat().st_size)
    except OSError as error:
        raise SwarmError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SwarmError(f"{path} {error}") from error
    return data_url(raw, header), f"{header.kind}, {header.width} x {header.height} pixels"


def read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_FILE_BYTES:
            raise SwarmError(f"{path} has more than {MOST_FILE_BYTES >> 20} MiB, which no conversation has")
        return path.read_text("utf-8")
    except OSError as error:
        raise SwarmError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise NoConversation(f"it is no text ({error.reason})") from error


def save_text(path: Path, text: str, may_replace: bool) -> None:
    """Write all of it, or leave what was there. Raises SwarmError, also for a file that is there already."""
    if path.exists() and not may_replace:
        raise SwarmError(f"{path} is there already: `/save! {path}` replaces it")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(text.encode("utf-8", "replace"))
        part.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise SwarmError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error
