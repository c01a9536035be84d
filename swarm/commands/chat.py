"""`swarm chat`: a conversation in the terminal, with how each vote went.

On a terminal an answer is shown while it comes. Where a vote then prefers another one, that is said, and the winner
follows: it is what the conversation goes on with. In a file or a pipe there is only the winner.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from swarm.commands.node_client import NodeApi, post_stream
from swarm.commands.output import Stream, complain, interrupted, is_terminal, say, say_line
from swarm.errors import SwarmError

DONE, STOPPED = 0, 1  # exit codes
STOPPED_LINE = "  [stopped]"


def chat(api: NodeApi, model: str, question: str) -> int:
    """Ask `question` and end, or without one hold a conversation until the input ends.

    Raises SwarmError for a lone question that gets no whole answer; a conversation says so and goes on.
    """
    live = is_terminal(sys.stdout)
    conversation = Conversation(api, model, live)
    if question:
        return STOPPED if conversation.ask(question).stopped else DONE
    typed = is_terminal(sys.stdin)
    if typed:
        say("Ask the swarm. Ctrl-C stops an answer, Ctrl-D ends the conversation.")
        if live:
            with suppress(ImportError):
                importlib.import_module("readline")  # from now on `input` has a history and can be edited
    while True:
        try:
            text = (input("> ") if typed else input()).strip()
        except EOFError:
            if typed:
                say()
            return DONE
        except KeyboardInterrupt:
            interrupted()
            return DONE
        except UnicodeDecodeError as error:
            complain(f"swarm: that cannot be read as text ({error.reason}): say it again")
            continue
        if not text:
            continue
        try:
            conversation.ask(text)
        except SwarmError as error:
            complain(f"swarm: {error}")


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What an answer came to: the words that count, and whether somebody stopped it."""

    text: str
    stopped: bool = False


@dataclass(slots=True)
class Conversation:
    """Questions and the answers that counted, in `messages`. `live`: answers are shown while they come."""

    api: NodeApi
    model: str
    live: bool
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def ask(self, question: str) -> ChatAnswer:
        """Put the question, show the answer and one line on the vote. Ctrl-C stops it, here and at the node.

        What was shown of an answer that was stopped or cut off stays part of the conversation; a question without any
        answer does not. Raises SwarmError after the answer is cut off, or refused.
        """
        self.messages.append({"role": "user", "content": question})
        shown = Shown()
        try:
            answered = self._ask(shown)
        except BaseException:
            if shown.text:
                say()
            self._keep(shown.text)
            raise
        self._keep(answered.text)
        return answered

    def _ask(self, shown: Shown) -> ChatAnswer:
        try:
            with closing(post_stream(self.api, "/v1/chat/completions", self._body())) as events:
                for event in events:
                    shown.take(event)
        except KeyboardInterrupt:
            interrupted()
            say_line(STOPPED_LINE)
            return ChatAnswer(shown.text, stopped=True)
        say()
        winner = winning_words(shown.account)
        if winner is not None:
            say_line(overruled_line(shown.account))
            Stream().show(winner)
            say()
        if shown.account:
            say_line(vote_line(shown.account))
        return ChatAnswer(shown.text if winner is None else winner)

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": self.messages, "stream": True}
        return body if self.live else {**body, "swarm": {"stream": "buffer"}}

    def _keep(self, answer: str) -> None:
        if answer:
            self.messages.append({"role": "assistant", "content": answer})
        else:
            self.messages.pop()


class Shown:
    """An answer while it comes: its words, and the last that was said of the vote."""

    def __init__(self) -> None:
        self.text = ""
        self.account: Mapping[str, Any] = {}
        self._stream = Stream()

    def take(self, event: Mapping[str, Any]) -> None:
        for choice in _objects(event.get("choices")):
            text = _object(choice.get("delta")).get("content")
            if isinstance(text, str):
                self.text += text
                self._stream.show(text)
        self.account = _object(event.get("swarm")) or self.account


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [_object(item) for item in cast("list[object]", value)] if isinstance(value, list) else []


def winning_words(account: Mapping[str, Any]) -> str | None:
    """The winner's answer where it is not the one that was shown."""
    content = _object(account.get("winner_message")).get("content")
    return content if isinstance(content, str) else None


def overruled_line(account: Mapping[str, Any]) -> str:
    """What is said between the answer that was shown and the one that counts."""
    winner = account.get("winner", "another voter")
    if account.get("confirmed") is False:
        return f"  [the vote preferred the answer of {winner}:]"
    return f"  [this was not put to the vote in time; the best answer is that of {winner}:]"


def vote_line(account: Mapping[str, Any]) -> str:
    """One line on who answered and how the vote went."""
    ms = f"{account.get('elapsed_ms', '?')} ms"
    if "single" in (account.get("strategy"), account.get("stopped_by")):
        return f"  [{account.get('winner')}, {ms}]"
    share = account.get("agreement")
    agreement = f"{share:.0%} agree" if isinstance(share, int | float) else "no agreement"
    outcome = "" if account.get("confirmed") is not False else f"; the vote preferred {account.get('winner')}"
    return f"  [{account.get('votes')} votes of {account.get('asked')} asked, {agreement}, {ms}{outcome}]"
