"""A conversation as data: what was said, what it is asked with, and the file form that the node's page has, too.

The file is `{"title", "model", "system", "temperature", "votes", "messages": [{"role", "content", ...}]}`: what
`swarm chat` saves the page imports, and the other way round. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from swarm.errors import SwarmError

MOST_FILE_BYTES: Final = 256 << 20  # of a conversation's file: a long one with dozens of pictures
MOST_VOTES: Final = 32  # as a node takes them
MOST_TEMPERATURE: Final = 2.0
TITLE_CHARS: Final = 60
MOST_TITLE_CHARS: Final = 200
FOR_THE_ANSWER: Final = 0.2  # of the context, where the beginning of a conversation is left out
TURN_CHARS: Final = 12  # what a turn takes beside its words
_TOO_LONG: Final = re.compile(r"has (?:at least )?([\d,]+) tokens and the context holds ([\d,]+)")

ChatTurn = dict[str, Any]
"""`role` ("user" or "assistant") and `content`; of a question `images` (data URLs), of an answer `reasoning`,
`tool_calls` (`[{"name", "arguments"}]`), `ballot` (the node's `swarm` object), `replaced` (what was shown before the
vote preferred another), `problem`, `stopped`, `reason` (why it ended). Other fields are kept as they are."""


class NoConversation(SwarmError):
    """A file that holds no conversation, with what is wrong."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`temperature` and `votes` None leave it to the node. `sent_from`: the turns before it are no longer sent."""

    model: str = "swarm"
    title: str = ""
    system: str = ""
    temperature: float | None = None
    votes: int | None = None
    turns: tuple[ChatTurn, ...] = field(default=())
    sent_from: int = 0

    def asking(self, question: str, images: Sequence[str] = ()) -> Conversation:
        """With one more question, which gives it its title where it has none."""
        turn: ChatTurn = {"role": "user", "content": question, **({"images": list(images)} if images else {})}
        title = self.title or " ".join(question.split())[:TITLE_CHARS]
        return replace(self, title=title, turns=(*self.turns, turn))

    def answered(self, turn: ChatTurn) -> Conversation:
        return replace(self, turns=(*self.turns, turn))

    def without_last(self) -> tuple[Conversation, ChatTurn | None]:
        """Before the last question, and that question."""
        for at in range(len(self.turns) - 1, -1, -1):
            if self.turns[at]["role"] == "user":
                return replace(self, turns=self.turns[:at]), self.turns[at]
        return self, None

    @property
    def last_answer(self) -> ChatTurn | None:
        return next((turn for turn in reversed(self.turns) if turn["role"] == "assistant"), None)

    def messages(self) -> list[dict[str, Any]]:
        """As a request has them. Turns without words say nothing, thoughts are not sent back."""
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        said: list[dict[str, Any]] = []
        for turn in self.turns[self.sent_from :]:
            images = [{"type": "image_url", "image_url": {"url": url}} for url in turn.get("images") or ()]
            if images:
                text = [{"type": "text", "text": turn["content"]}] if turn["content"] else []
                said.append({"role": turn["role"], "content": [*text, *images]})
            elif turn["content"]:
                said.append({"role": turn["role"], "content": turn["content"]})
        return [*system, *said]

    def body(self) -> dict[str, Any]:
        """Of a request whose answer is shown while it comes, with how its vote stands."""
        chosen = {} if self.votes is None else {"votes": self.votes}
        body: dict[str, Any] = {"model": self.model, "messages": self.messages(), "stream": True}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return {**body, "stream_options": {"include_usage": True}, "swarm": {"progress": True, **chosen}}

    def settings(self) -> str:
        """What it is asked with, in words."""
        votes = "votes as the node decides" if self.votes is None else f"votes {self.votes}"
        parts = [f"model {self.model}", votes]
        if self.temperature is not None:
            parts.append(f"temperature {self.temperature:g}")
        if self.system.strip():
            parts.append("with a system prompt")
        return ", ".join(parts)


def still_fitting(conversation: Conversation, problem: str) -> int:
    """From which turn on a conversation fits, by the node's words for one that does not; 0 where they say otherwise.

    The oldest are left out by their share of all characters, so that some of the context is free for the answer. What
    is sent begins with a question.
    """
    found = _TOO_LONG.search(problem)
    if found is None:
        return 0
    tokens, context = (int(digits.replace(",", "")) for digits in found.groups())
    turns, at = conversation.turns, conversation.sent_from
    chars = [len(turn["content"]) + TURN_CHARS for turn in turns]
    left = sum(chars[at:])
    allowed = left * context * (1 - FOR_THE_ANSWER) / max(tokens, 1)
    while at < len(turns) - 1 and (left > allowed or turns[at]["role"] != "user"):
        left -= chars[at]
        at += 1
    return at


# As a file


def as_json(conversation: Conversation) -> str:
    chosen = {name: getattr(conversation, name) for name in ("title", "model", "system", "temperature", "votes")}
    return json.dumps({**chosen, "messages": list(conversation.turns)}, indent=2, ensure_ascii=False) + "\n"


def as_markdown(conversation: Conversation) -> str:
    parts = [f"# {conversation.title or 'Conversation'}"]
    if conversation.system:
        parts.append("> " + conversation.system.replace("\n", "\n> "))
    for turn in conversation.turns:
        pictures = len(turn.get("images") or ())
        parts += [f"## {turn['role']}", turn["content"]]
        parts += [f"*({pictures} picture{'s' if pictures > 1 else ''})*"] if pictures else []
    return "\n\n".join(parts) + "\n"


def from_json(text: str) -> Conversation:
    """A conversation from what `as_json` or the page wrote. Raises NoConversation for anything else, saying what."""
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoConversation(f"it is no JSON ({error})") from error
    if not isinstance(read, dict):
        raise NoConversation('it is JSON, but no object with "messages"')
    saved = cast("dict[str, object]", read)
    messages = saved.get("messages")
    if not isinstance(messages, list):
        raise NoConversation('there are no "messages" in it')
    turns = tuple(_turn(number, message) for number, message in enumerate(cast("list[object]", messages), 1))
    return Conversation(
        model=_text(saved, "model") or "swarm",
        title=_text(saved, "title")[:MOST_TITLE_CHARS],
        system=_text(saved, "system"),
        temperature=_temperature(saved.get("temperature")),
        votes=_votes(saved.get("votes")),
        turns=turns,
    )


def _turn(number: int, message: object) -> ChatTurn:
    if not isinstance(message, dict):
        raise NoConversation(f"message {number} is no object")
    turn = cast("ChatTurn", message)
    role = turn.get("role")
    if role == "system":
        raise NoConversation(
            f'message {number} has the role "system": its text belongs into "system", beside "messages"'
        )
    if role not in ("user", "assistant"):
        raise NoConversation(f'message {number} has the role {str(role)[:40]!r}; "user" and "assistant" are read')
    if not isinstance(turn.get("content"), str):
        raise NoConversation(f'the "content" of message {number} is no text')
    images: object = turn.get("images", [])
    if not isinstance(images, list) or not all(
        isinstance(url, str) and url.startswith("data:image/") for url in cast("list[object]", images)
    ):
        raise NoConversation(f'the "images" of message {number} are not a list of data: URLs')
    calls: object = turn.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in cast("list[object]", calls)):
        raise NoConversation(f'the "tool_calls" of message {number} are not a list of objects')
    if not isinstance(turn.get("ballot") or {}, dict):
        raise NoConversation(f'the "ballot" of message {number} is no object')
    return turn


def _text(saved: Mapping[str, object], name: str) -> str:
    text = saved.get(name)
    if text is not None and not isinstance(text, str):
        raise NoConversation(f'its "{name}" is no text')
    return text or ""


def _temperature(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise NoConversation('its "temperature" is no number')
    if not 0 <= value <= MOST_TEMPERATURE:
        raise NoConversation(f'its "temperature" is {value:g}, and may be 0 to {MOST_TEMPERATURE:g}')
    return value


def _votes(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_VOTES:
        raise NoConversation(f'its "votes" are {str(value)[:40]}, and may be 1 to {MOST_VOTES}')
    return value
