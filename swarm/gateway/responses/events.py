"""The event stream of one response as text: what is open, what has been sent, and the next sequence number."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue

from swarm.errors import BadRequest, ContextExceeded, SwarmError, UnknownModel
from swarm.gateway.answers.answer_form import CallOpening
from swarm.gateway.http.bodies import compact
from swarm.gateway.http.errors import http_error
from swarm.gateway.openai.tools import OfferedTool, input_of
from swarm.gateway.responses.response_object import (
    ResponseObject,
    Status,
    call_item,
    call_item_id,
    logprob_entries,
    message_item,
    new_id,
    reasoning_item,
    status_of,
    text_part,
)
from swarm.generation import Delta, FinishReason, JsonObject, ToolCallDelta, Usage


@dataclass(frozen=True, slots=True)
class _Part:
    """How the events of one kind of content are called."""

    item_prefix: str
    events: str  # of the part: <events>.added, <events>.done
    text: str  # of its text: <text>.delta, <text>.done
    index: str
    type: str


_MESSAGE = _Part("msg", "response.content_part", "response.output_text", "content_index", "output_text")
_THOUGHT = _Part("rs", "response.content_part", "response.reasoning_text", "content_index", "reasoning_text")
_SUMMARY = _Part(
    "rs", "response.reasoning_summary_part", "response.reasoning_summary_text", "summary_index", "summary_text"
)


@dataclass(slots=True)
class _OpenText:
    """A message or reasoning item that is being written."""

    part: _Part
    id: str
    output_index: int
    head: str  # of its deltas, up to what changes
    text: list[str] = field(default_factory=list[str])
    logprobs: list[JsonValue] = field(default_factory=list[JsonValue])

    @property
    def place(self) -> JsonObject:
        return {"item_id": self.id, "output_index": self.output_index, self.part.index: 0}


@dataclass(slots=True)
class _OpenCall:
    """A call that is being written. Its arguments go out as they come; a custom tool's input is text, and they JSON."""

    id: str
    output_index: int
    call_id: str
    tool: OfferedTool
    head: str
    arguments: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """What the call says, as far as it has come."""
        said = "".join(self.arguments)
        return input_of(said) if self.tool.custom and said else said

    def item(self, status: Status) -> JsonObject:
        return call_item(self.id, self.call_id, self.tool, self.text, status)


class ResponseEvents:
    """Each method returns the events that a step of the answer makes.

    Calls stay open until the answer's end: parallel ones may grow in turns.
    """

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._sequence = 0
        self._output: list[JsonValue] = []
        self._text: _OpenText | None = None
        self._calls: list[_OpenCall] = []
        self._opening = CallOpening()

    def begin(self) -> str:
        """The two events with which every response begins, once."""
        if self._sequence:
            return ""
        response = self._response.begun()
        begun = self._event("response.created", {"response": response})
        return begun + self._event("response.in_progress", {"response": response})

    def still(self) -> str:
        """That the work goes on, for a stream that has had no event for long."""
        return self.begin() or self._event("response.in_progress", {"response": self._response.begun()})

    def delta(self, event: Delta) -> str:
        """What was thought, said and called in one step."""
        written = self.begin()
        if event.reasoning:
            summed = self._response.thought_form == "summary_text"
            written += self._grow(_SUMMARY if summed else _THOUGHT, event.reasoning)
        if event.text or (event.logprobs is not None and self._is_open(_MESSAGE)):  # a call's tokens have them too
            written += self._grow(_MESSAGE, event.text, event.logprobs)
        for call in event.tool_calls:
            written += self._grow_call(self._opening.opened(call))
        return written

    def finish(self, reason: FinishReason) -> str:
        """The ends of all items. An answer has at least one; the last is the one that may be cut short."""
        written = self.begin()
        if not self._output:
            written += self._open(_MESSAGE)[1]
        status = status_of(reason)
        written += self._close("completed" if self._calls else status)
        for place, call in enumerate(self._calls, 1):
            written += self._close_call(call, status if place == len(self._calls) else "completed")
        self._calls.clear()
        return written

    def end(self, reason: FinishReason, usage: Usage, extension: JsonObject | None) -> str:
        """The last event, with the whole response."""
        response = self._response.ended(reason, self._output, usage, extension)
        return self._event(f"response.{response['status']}", {"response": response})

    def failed(self, error: SwarmError) -> bytes:
        """The failure twice: SDKs raise at the first event, and agents that know only terminal ones read the second."""
        mapped = http_error(error)
        top: JsonObject = {"code": mapped.code, "message": mapped.message, "param": mapped.param}
        detail: JsonObject = {"type": mapped.type, **top}
        # OpenAI documents the fields at the top and sends them below `error`; clients have been written for either.
        raised: JsonObject = {**top, "error": detail}
        response = self._response.failed(self._complete_items(), {**detail, "code": _failure_code(error)})
        written = self.begin() + self._event("error", raised) + self._event("response.failed", {"response": response})
        return written.encode()

    def _complete_items(self) -> list[JsonValue]:
        """The output without what is still open: half a call must not look like one."""
        still_open = {call.output_index for call in self._calls}
        if self._text is not None:
            still_open.add(self._text.output_index)
        return [item for place, item in enumerate(self._output) if place not in still_open]

    def _is_open(self, part: _Part) -> bool:
        return self._text is not None and self._text.part is part

    def _event(self, name: str, fields: JsonObject) -> str:
        event: JsonObject = {"type": name, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return f"event: {name}\ndata: {compact(event)}\n\n"

    def _grow(self, part: _Part, text: str, logprobs: JsonValue = None) -> str:
        written, item = "", self._text
        if item is None or item.part is not part:
            written = self._close("completed")
            item, opened = self._open(part)
            written += opened
        item.text.append(text)
        more = ""
        if part is _MESSAGE:
            entries = logprob_entries(logprobs)
            item.logprobs += entries
            more = f',"logprobs":{compact(entries)}'
        return written + self._delta(item.head, text, more)

    def _delta(self, head: str, text: str, more: str = "") -> str:
        """The event made per token: its head was encoded when its item opened."""
        event = f'{head}"sequence_number":{self._sequence},"delta":{compact(text)}{more}}}\n\n'
        self._sequence += 1
        return event

    def _open(self, part: _Part) -> tuple[_OpenText, str]:
        item = self._text = _OpenText(part, new_id(part.item_prefix), len(self._output), "")
        item.head = _delta_head(part.text, item.place)
        begun = self._text_item(item, "in_progress", [])
        self._output.append(begun)
        added = self._event("response.output_item.added", {"output_index": item.output_index, "item": begun})
        return item, added + self._event(f"{part.events}.added", {**item.place, "part": _part_object(item)})

    def _close(self, status: Status) -> str:
        """The end of the text that is open, if there is one."""
        item, self._text = self._text, None
        if item is None:
            return ""
        part = _part_object(item)
        done: JsonObject = {**item.place, "text": "".join(item.text)}
        if item.part is _MESSAGE:
            done["logprobs"] = item.logprobs
        whole = self._output[item.output_index] = self._text_item(item, status, [part])
        return (
            self._event(f"{item.part.text}.done", done)
            + self._event(f"{item.part.events}.done", {**item.place, "part": part})
            + self._event("response.output_item.done", {"output_index": item.output_index, "item": whole})
        )

    def _text_item(self, item: _OpenText, status: Status, content: list[JsonValue]) -> JsonObject:
        if item.part is _MESSAGE:
            return message_item(item.id, content, status)
        return reasoning_item(item.id, self._response.thought_form, "".join(item.text) if content else "")

    def _grow_call(self, delta: ToolCallDelta) -> str:
        written = ""
        if delta.id is not None:
            written = self._close("completed") + self._open_call(delta.id, delta.name or "")
        call = self._calls[delta.index]
        if not delta.arguments:
            return written
        call.arguments.append(delta.arguments)
        return written if call.tool.custom else written + self._delta(call.head, delta.arguments)

    def _open_call(self, call_id: str, name: str) -> str:
        tool = self._response.tool(name)
        item_id, output_index = call_item_id(tool), len(self._output)
        place: JsonObject = {"item_id": item_id, "output_index": output_index}
        call = _OpenCall(item_id, output_index, call_id, tool, _delta_head(_events_of(tool), place))
        self._calls.append(call)
        begun = call.item("in_progress")
        self._output.append(begun)
        return self._event("response.output_item.added", {"output_index": output_index, "item": begun})

    def _close_call(self, call: _OpenCall, status: Status) -> str:
        whole = self._output[call.output_index] = call.item(status)
        done: JsonObject = {"item_id": call.id, "output_index": call.output_index}
        if call.tool.custom:
            written = self._delta(call.head, call.text)
            done["input"] = call.text
        else:
            written = ""
            done.update(name=call.tool.name, arguments=call.text)
        return (
            written
            + self._event(f"{_events_of(call.tool)}.done", done)
            + self._event("response.output_item.done", {"output_index": call.output_index, "item": whole})
        )


def _events_of(tool: OfferedTool) -> str:
    """How the events of a call's text are called: <events>.delta, <events>.done."""
    return "response.custom_tool_call_input" if tool.custom else "response.function_call_arguments"


def _delta_head(text: str, place: JsonObject) -> str:
    name = f"{text}.delta"
    return f"event: {name}\ndata: {compact({'type': name, **place})[:-1]},"


def _part_object(item: _OpenText) -> JsonObject:
    text = "".join(item.text)
    if item.part is _MESSAGE:
        return text_part(text, {"content": item.logprobs})
    return {"type": item.part.type, "text": text}


def _failure_code(error: SwarmError) -> str:
    """OpenAI's word for a failure. Agents stop at the first two, and try again after the third."""
    match error:
        case ContextExceeded():
            return "context_length_exceeded"
        case BadRequest() | UnknownModel():
            return "invalid_prompt"
        case _:
            return "server_error"
