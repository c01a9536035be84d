"""What llama.cpp's own parsers leave in an answer's text: thoughts of a model whose template hides them, and calls;
and the DELETEs that keep what clients wrote from being tokens (`plain_text.py`)."""

from __future__ import annotations

from swarm.engines.llama_cpp.forced_call import CallGrammar, CallReader
from swarm.engines.llama_cpp.leading_thought import ThoughtReader
from swarm.engines.llama_cpp.plain_text import Restored
from swarm.generation import Delta, Finish


class AnswerReader:
    """Moves them out of the text of one answer. Completions (not `chat`) have no thoughts, and no broken tokens."""

    def __init__(self, chat: bool, calls: CallGrammar | None, restored: Restored) -> None:
        self._restored = restored if chat else None
        self._thoughts = ThoughtReader() if chat else None
        self._calls = None if calls is None else CallReader(calls)

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        """The events to show instead of `event`."""
        events = [event] if self._restored is None else self._restored.read(event)
        if self._thoughts is not None:
            events = [shown for each in events for shown in self._thoughts.read(each)]
        if self._calls is None:
            return events
        return [shown for event in events if (shown := self._calls.read(event)) is not None]
