"""Answers that can be read, whatever library makes them: its raw answers in, what clients are shown out.

A library shows tools by the model's template or not at all, writes calls and thoughts as text, and now and then
something that is in no form that can be read. `AnswerReader` moves what is no text out of the text of one answer: calls
that were demanded (`demanded_answer.py`), the DELETEs that keep what clients wrote from being tokens (`plain_text.py`),
and thoughts of a model whose template says nothing of them (`thoughts.py`). `ReadableAnswers` tries again where that
helps: with the tools in words where a template cannot show them, with another sample where one cannot be read, and with
a call alone where words began one (`begun_call.py`).
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from pydantic import JsonValue

from swarm.engines.assembly import drawn_as, numbered, sampled_anew, together
from swarm.engines.chat_turns import TemplateAbilities
from swarm.engines.llama_cpp.begun_call import BegunCallReader, CallForm, call_of, may_call
from swarm.engines.llama_cpp.demanded_answer import CallGrammar, CallReader, QuotedText, call_grammar, is_quoted
from swarm.engines.llama_cpp.plain_text import Restored
from swarm.engines.openai_dialect import TemplateRefused
from swarm.engines.thoughts import ThoughtReader
from swarm.errors import EngineDied, EngineFailed, Unavailable
from swarm.generation import Delta, EventStream, Finish, GenerationRequest, Usage

MAX_NOT_SHOWN = 1024  # of 32 bytes each
# What llama.cpp says of an answer (with the turn that it continues) that is not in the form of the template, and we
# of one that is no call where one must be.
UNREADABLE = re.compile("does not match the expected|Invalid diff|Failed to parse tool call|did not make the call")
SAMPLES = 3  # of an answer, until one can be read

log = logging.getLogger(__name__)


class AnswerSource(Protocol):
    """A library with its model, as the answers here are made of it."""

    @property
    def template(self) -> TemplateAbilities:
        """What the model's chat template can say."""
        ...

    @property
    def call_form(self) -> CallForm | None:
        """How its template writes calls, where those are left in the text of an answer; None where they are read."""
        ...

    def answers(self, request: GenerationRequest, n: int, can: TemplateAbilities) -> EventStream:
        """`n` answers, read by `AnswerReader`, in turns that `can` be said.

        Raises TemplateRefused, and an EngineFailed that `is_unreadable` where another sample may be readable.
        """
        ...

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Tokens of the prompt."""
        ...


def is_unreadable(error: EngineFailed) -> bool:
    """Whether the engine works, and only what the model wrote could not be read: another sample may be."""
    return not isinstance(error, EngineDied) and UNREADABLE.search(str(error)) is not None


class AnswerReader:
    """What is no text moved out of the text of one answer. Completions (not `chat`) have no thoughts or DELETEs.

    Of an answer that was to have no token nothing is shown: llama.cpp makes one all the same. And of a token's
    likeliest neighbours no more than were asked for.
    """

    def __init__(self, request: GenerationRequest, calls: CallGrammar | None, restored: Restored) -> None:
        chat = request.messages is not None
        self._nothing = request.max_tokens == 0
        self._without_neighbours = request.logprobs and not request.top_logprobs
        self._restored = restored if chat else None
        self._thoughts = ThoughtReader() if chat else None
        self._calls = None if calls is None else CallReader(calls)
        self._quoted = QuotedText() if is_quoted(request) else None

    def read(self, event: Delta | Finish) -> list[Delta | Finish]:
        """The events to show instead of `event`."""
        if self._nothing:
            return [_with_no_token(event)] if isinstance(event, Finish) else []
        if self._without_neighbours and isinstance(event, Delta) and event.logprobs is not None:
            event = replace(event, logprobs=_without_neighbours(event.logprobs))
        events = [event] if self._restored is None else self._restored.read(event)
        if self._thoughts is not None:
            events = [shown for each in events for shown in self._thoughts.read(each)]
        if self._calls is not None:
            events = [shown for event in events if (shown := self._calls.read(event)) is not None]
        return events if self._quoted is None else [self._quoted.read(event) for event in events]


def _with_no_token(end: Finish) -> Finish:
    timings = end.timings and end.timings.model_copy(update={"predicted_ms": 0.0})
    return Finish(end.choice, "length", end.usage.model_copy(update={"completion_tokens": 0}), timings=timings)


def _without_neighbours(logprobs: JsonValue) -> JsonValue:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = content if isinstance(content, list) else []
    return {"content": [{**entry, "top_logprobs": []} for entry in entries if isinstance(entry, dict)]}


class ReadableAnswers:
    """The answers of one `source`."""

    def __init__(self, source: AnswerSource, not_shown: set[bytes] | None = None) -> None:
        self._source = source
        # Digests of tools that the template cannot show all the same: some read their schemas.
        self._not_shown: set[bytes] = set() if not_shown is None else not_shown

    def over(self, source: AnswerSource) -> ReadableAnswers:
        """The answers of another `source` with the same model."""
        return ReadableAnswers(source, self._not_shown)

    def stream(self, request: GenerationRequest, n: int) -> EventStream:
        """Events of `n` answers; closing the iterator stops the engine."""
        return self._with_tools(request, n) if request.tools else self._readable(request, n)

    def can_say(self, request: GenerationRequest) -> TemplateAbilities:
        if self._not_shown and tools_digest(request) in self._not_shown:
            return replace(self._source.template, tools=False)
        return self._source.template

    async def _with_tools(self, request: GenerationRequest, n: int) -> EventStream:
        """Answers with the tools as the template shows them; where it cannot, as for one that knows none."""
        while True:
            can, begun = self.can_say(request), False
            words = may_call(request) and not (can.tools and self._source.call_form is None)
            try:
                async with aclosing((self._words_or_calls if words else self._readable)(request, n)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except TemplateRefused:
                if begun or not self.note_refusal(request, can):
                    raise

    def note_refusal(self, request: GenerationRequest, can: TemplateAbilities) -> bool:
        """Whether to try once more, without the template's own way to show tools: that may have been the reason."""
        digest = tools_digest(request)
        if not can.tools:  # it was not
            self._not_shown.discard(digest)
            return False
        if not request.tools:
            return False
        if len(self._not_shown) >= MAX_NOT_SHOWN:
            self._not_shown.clear()
        self._not_shown.add(digest)
        return True

    async def _readable(self, request: GenerationRequest, n: int) -> EventStream:
        """Answers, each of which can be read: of those that could not be, what was shown, else another sample."""
        spoken, unfinished = [0] * n, set(range(n))
        try:
            async with aclosing(self._source.answers(request, n, self.can_say(request))) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        unfinished.discard(event.choice)
                    else:
                        spoken[event.choice] += 1
                    yield event
            return
        except EngineFailed as error:
            if not is_unreadable(error):
                raise
            log.info("an answer could not be read: %s", error)
        for choice in sorted(unfinished):
            if spoken[choice]:
                yield await self._cut(request, choice, spoken[choice])
                continue
            async with aclosing(self._sampled_again(numbered(request, choice))) as events:
                async for event in events:
                    yield replace(event, choice=choice)

    async def _sampled_again(self, request: GenerationRequest) -> EventStream:
        """One answer; where calls are the model's own choice, the last sample is text, whatever it looks like."""
        for number in range(1, SAMPLES):
            another = sampled_anew(request, number)
            if number == SAMPLES - 1 and request.tools and call_grammar(request) is None:
                another = another.model_copy(update={"tool_choice": "none"})
            spoken = 0
            try:
                async with aclosing(self._source.answers(another, 1, self.can_say(another))) as events:
                    async for event in events:
                        spoken += isinstance(event, Delta)
                        yield event
                return
            except EngineFailed as error:
                if not is_unreadable(error):
                    raise
                if spoken:
                    yield await self._cut(request, 0, spoken)
                    return
        if request.max_tokens is None:
            raise Unavailable(f"{SAMPLES} answers in a row were in no form that can be read: ask again")
        # Cut within what would have been its beginning: a fence before JSON, which the grammar of llama.cpp allows.
        yield await self._cut(request, 0, request.max_tokens)

    async def _cut(self, request: GenerationRequest, choice: int, spoken: int) -> Finish:
        """The end of an answer of which `spoken` tokens were shown, and whose rest could not be read."""
        prompt_tokens = await self._source.count_tokens(request)
        return Finish(choice, "length", Usage(prompt_tokens=prompt_tokens, completion_tokens=spoken))

    async def _words_or_calls(self, request: GenerationRequest, n: int) -> EventStream:
        """Answers in words, each until it begins a call, if it does: that is generated anew, as a call alone."""
        names, form = [tool.function.name for tool in request.tools], self._source.call_form
        readers = [BegunCallReader(names, form) for _ in range(n)]
        unfinished = set(range(n))
        async with aclosing(self._readable(request, n)) as words:
            async for event in words:
                reader = readers[event.choice]
                if isinstance(event, Finish):
                    unfinished.discard(event.choice)
                for shown in reader.read(event):
                    yield shown
                if all(readers[choice].called is not None for choice in unfinished):
                    break
        calling = [choice for choice, reader in enumerate(readers) if reader.called is not None]
        calls = [
            self._readable(
                call_of(drawn_as(request, choice), readers[choice].called or "", readers[choice].spoken_tokens), 1
            )
            for choice in calling
        ]
        async with aclosing(together(calls)) as events:
            async for event in events:
                choice = calling[event.choice]
                if isinstance(event, Delta):  # what was thought before the call has been shown
                    yield replace(event, choice=choice, reasoning="")
                else:
                    counted = event.usage.completion_tokens + readers[choice].spoken_tokens
                    usage = event.usage.model_copy(update={"completion_tokens": counted})
                    yield replace(event, choice=choice, usage=usage, timings=None)  # they are of the call alone


def tools_digest(request: GenerationRequest) -> bytes:
    """By which the tools of a request are known again."""
    return hashlib.sha256("\n".join(tool.model_dump_json() for tool in request.tools).encode()).digest()
