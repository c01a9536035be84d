"""A conversation of `swarm chat` with a node: what is asked, and how an answer is shown while it comes.

On a terminal an answer is shown as Markdown while it comes. Where a vote then prefers another one, that is said, and
the winner follows: it is what the conversation goes on with. In a file or a pipe there are only the winner's words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from federation.printable_text import clean_line
from swarm.commands.chat_answer import AnswerSoFar, is_vote, overruled_line, vote_line
from swarm.commands.chat_commands import WrongCommand
from swarm.commands.chat_models import KnownModels
from swarm.commands.conversation import ChatTurn, Conversation, still_fitting
from swarm.commands.node_client import NodeApi, post_stream
from swarm.commands.output import Stream, interrupted, is_terminal, say, say_line, terminal_size
from swarm.errors import SwarmError

if TYPE_CHECKING:
    from swarm.commands.vote_stream import VoteState

STOPPED_LINE: Final = "stopped"
CUT_LINE: Final = "cut off at the most tokens that an answer may have here"
ALL_OF_VOTE: Final = "/vote shows all of it"


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


class Talk:
    """A conversation with a node: questions, and what is known between two of them."""

    def __init__(self, api: NodeApi, conversation: Conversation, shown: Callable[[], AnswerScreen]) -> None:
        self.conversation = conversation
        self.models = KnownModels(api)
        self._api = api
        self._shown = shown
        self.attached: list[tuple[str, str]] = []  # pictures for the next question: in words, and as data URLs
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
        if self.attached:
            parts.append(f"{len(self.attached)} attached")
        return clean_line(" · ".join([*parts, "/help"]))

    def ask(self, question: str) -> ChatTurn:
        """Put the question, show the answer and one line on the vote. Ctrl-C stops it, here and at the node.

        What was shown of an answer that was stopped or cut off stays part of the conversation; a question without any
        answer does not, but `/retry` knows it. Raises SwarmError after the answer is cut off, or refused.
        """
        images = [url for _, url in self.attached]
        turn = self._put(self.conversation.asking(question, images))
        self.attached.clear()
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

    def ask_again(self) -> None:
        """Put the last question once more. Raises as `ask` does, and WrongCommand where there is none."""
        talk, question = self.conversation.without_last()
        if self._taken_back is not None:
            talk, question = self.conversation, self._taken_back
        if question is None:
            raise WrongCommand("there is no question yet that could be asked again")
        talk = replace(talk, sent_from=self._fits_from or min(talk.sent_from, len(talk.turns)))
        shown = clean_line(question["content"])
        say_line(f"  asking again: {shown[:60]}{'…' if len(shown) > 60 else ''}")
        self._put(talk.asking(question["content"], question.get("images") or ()))
        self.attached.clear()  # those of the question that got no answer

    def show_vote(self) -> None:
        """The whole vote on the last answer. Raises WrongCommand where there is none."""
        answer = self.conversation.last_answer
        if answer is None or not answer.get("ballot"):
            raise WrongCommand("there is no answer yet whose vote could be shown")
        from swarm.commands.vote_stream import read_state

        self._shown().vote(read_state(answer["ballot"]))

    def change(self, **change: Any) -> None:
        """Other settings from now on."""
        self.conversation = replace(self.conversation, **change)

    def begin(self, conversation: Conversation) -> None:
        """Go on with another conversation."""
        self.conversation = conversation
        self._taken_back, self._tokens, self._fits_from = None, None, 0
        self.attached.clear()


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
