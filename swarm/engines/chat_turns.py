"""A conversation in turns that a chat template can say. Pure: what a template can say is found by `TEMPLATE_PROBES`.

Templates differ in what they take. Some refuse a system turn that is not the first, or two turns of one role in a row;
many leave such a turn out without a word; others know no tools, so that neither these nor what was called and answered
is in the prompt. Clients send all of it to any model. So a conversation is brought into turns that the loaded model's
template has shown to render (`said_by`):

* *Tools* that it does not show stand in the system turn, with the form of a call: the JSON object that calls are
  generated under elsewhere (`{"name": ..., "arguments": {...}}`). Calls in the history are that object in the
  assistant's text, and results are a user's text.
* *System turns* after the first are said in the user's turn, before the user's own text, in the words by which Claude
  Code marks its own notes to the model. Moved to the front they would change the beginning of every later prompt. Where
  there is no system turn at all, the first one stands before the first user's text.
* *Turns of one role in a row* are one, where they must alternate. Calls of one turn that a template takes one by one
  are turns of their own, and so are the words beside a call that it would leave out.

What a template can say stays as it came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from swarm.generation import FunctionSpec, GenerationRequest, JsonObject, JsonValue, ToolSpec
from swarm.images import joined

REMINDER = "<system-reminder>\n{}\n</system-reminder>"
_OFFER = (
    "You can call functions. Each line is one, with its parameters as a JSON schema:\n{}\n\n"
    "To call a function, answer with one JSON object and nothing else, in this form:\n"
    '{{"name": "<function>", "arguments": {{<parameters>}}}}\n'
    "Its result comes with the next message. Where no function is needed, answer in words."
)
_RESULT = "Result of {}:\n{}"


@dataclass(frozen=True, slots=True)
class TemplateAbilities:
    """What a chat template renders: all of it, until it has been tried.

    `tools`: the tools that are offered. `calls`: an assistant's call and its result; `results_alone`: a result without
    its call; `parallel_calls`: several calls in one turn; `words_beside_calls`: an assistant's words in a turn with a
    call; `any_call_ids`: of calls, whatever they look like; `words_after_results`: a user's turn right behind results.
    `system`: a system turn at the beginning; `system_alone`: nothing but that; `several_systems`: more than one at the
    beginning; `later_systems`: one in mid-conversation. `repeated_roles`: two turns of one role in a row.
    `assistant_first`: a conversation that an assistant begins.
    """

    tools: bool = True
    calls: bool = True
    results_alone: bool = True
    parallel_calls: bool = True
    words_beside_calls: bool = True
    any_call_ids: bool = True
    words_after_results: bool = True
    system: bool = True
    system_alone: bool = True
    several_systems: bool = True
    later_systems: bool = True
    repeated_roles: bool = True
    assistant_first: bool = True


CAN_SAY_ALL = TemplateAbilities()


@dataclass(frozen=True, slots=True)
class TemplateProbe:
    """A conversation to render; `marks` are in the prompt where the template leaves nothing of it out."""

    messages: tuple[JsonObject, ...]
    marks: tuple[str, ...]
    tools: tuple[JsonObject, ...] = ()


def _said(role: str, content: JsonValue) -> JsonObject:
    return {"role": role, "content": content}


PROBED_CALL = "probed"  # the function of the calls below, and the arguments of the first
PROBED_ARGUMENTS: JsonObject = {"of": "argumentmark"}


def _probed_call(call_id: str, mark: str) -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": PROBED_CALL, "arguments": f'{{"of": "{mark}"}}'}}


def _probed_calls(*calls: JsonValue, words: str = "") -> JsonObject:
    return {"role": "assistant", "content": words, "tool_calls": list(calls)}


def _probed_result(call_id: str, mark: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": call_id, "content": mark}


ID_CHARS = 9  # Mistral's templates take ids of nine letters and digits, and no others
_ID, _OTHER_ID, _USUAL_ID = "probe0001", "probe0002", "call_0123456789abcdef01234567"
_OFFERED: tuple[JsonObject, ...] = (
    {
        "type": "function",
        "function": {
            "name": "probed",
            "description": "toolmark",
            "parameters": {"type": "object", "properties": {"of": {"type": "string"}}},
        },
    },
)
_ASKED, _ANSWERED = _said("user", "askedmark"), _said("assistant", "answeredmark")
_FIRST, _SECOND = _said("system", "firstmark"), _said("system", "secondmark")
_CALLED, _RESULTED = _probed_calls(_probed_call(_ID, "argumentmark")), _probed_result(_ID, "resultmark")
_CALL_MARKS = ("argumentmark", "resultmark")

# By the ability that each shows, as `TemplateAbilities` has them; `system_and_results` is more of `system`, ...
TEMPLATE_PROBES: Mapping[str, TemplateProbe] = {
    "tools": TemplateProbe((_ASKED,), ("toolmark", "askedmark"), _OFFERED),
    "calls": TemplateProbe((_ASKED, _CALLED, _RESULTED), _CALL_MARKS, _OFFERED),
    "results_alone": TemplateProbe((_ASKED, _RESULTED), ("resultmark",), _OFFERED),
    "parallel_calls": TemplateProbe(
        (
            _ASKED,
            _probed_calls(_probed_call(_ID, "argumentmark"), _probed_call(_OTHER_ID, "furthermark")),
            _RESULTED,
            _probed_result(_OTHER_ID, "laterresult"),
        ),
        (*_CALL_MARKS, "furthermark", "laterresult"),
        _OFFERED,
    ),
    "words_beside_calls": TemplateProbe(
        (_ASKED, _probed_calls(_probed_call(_ID, "argumentmark"), words="wordmark"), _RESULTED),
        (*_CALL_MARKS, "wordmark"),
        _OFFERED,
    ),
    "any_call_ids": TemplateProbe(
        (_ASKED, _probed_calls(_probed_call(_USUAL_ID, "argumentmark")), _probed_result(_USUAL_ID, "resultmark")),
        _CALL_MARKS,
        _OFFERED,
    ),
    "words_after_results": TemplateProbe(
        (_ASKED, _CALLED, _RESULTED, _said("user", "wordmark")), (*_CALL_MARKS, "wordmark"), _OFFERED
    ),
    "system": TemplateProbe((_FIRST, _ASKED), ("firstmark", "askedmark")),
    "system_and_results": TemplateProbe((_FIRST, _ASKED, _CALLED, _RESULTED), ("firstmark", *_CALL_MARKS), _OFFERED),
    "system_alone": TemplateProbe((_FIRST,), ("firstmark",)),
    "system_alone_with_tools": TemplateProbe((_FIRST,), ("firstmark", "toolmark"), _OFFERED),
    "several_systems": TemplateProbe((_FIRST, _SECOND, _ASKED), ("firstmark", "secondmark", "askedmark")),
    "later_systems": TemplateProbe(
        (_FIRST, _ASKED, _ANSWERED, _SECOND, _said("user", "wordmark")), ("firstmark", "secondmark", "wordmark")
    ),
    "repeated_roles": TemplateProbe((_ASKED, _said("user", "wordmark")), ("askedmark", "wordmark")),
    "assistant_first": TemplateProbe((_ANSWERED, _ASKED), ("answeredmark", "askedmark")),
}


def abilities(rendered: Mapping[str, str | None]) -> TemplateAbilities:
    """What a template can say, from the prompts that it made of TEMPLATE_PROBES; None for one that it refused."""
    shown = {
        name: (text := rendered[name]) is not None and all(mark in text for mark in probe.marks)
        for name, probe in TEMPLATE_PROBES.items()
    }
    # Some show it only while a user's turn is the last.
    shown["system"] = shown["system"] and (shown["system_and_results"] or not shown["calls"])
    shown["system_alone"] = shown["system_alone"] and (shown["system_alone_with_tools"] or not shown["tools"])
    return TemplateAbilities(**{each.name: shown[each.name] for each in fields(TemplateAbilities)})


def said_by(can: TemplateAbilities, request: GenerationRequest) -> GenerationRequest:
    """`request` with turns that a template which `can` say so much renders whole. Its tools stay, for the grammar."""
    if request.messages is None or can == CAN_SAY_ALL:
        return request
    turns = list(request.messages)
    if request.tools and not can.tools:
        turns = with_offer(turns, request.tools)
    turns = systems_in_place(can, turns)
    turns = calls_in_words(turns) if not (can.tools and can.calls) else calls_in_place(can, turns)
    if not can.assistant_first:
        turns = _begun_by_a_user(turns)
    if not can.repeated_roles:
        turns = alternating(turns)
    return request.model_copy(update={"messages": tuple(turns)})


def calls_in_words(
    turns: Sequence[JsonObject], which: Callable[[Sequence[JsonObject], int], bool] = lambda _, __: True
) -> list[JsonObject]:
    """`turns` with calls as text of the assistant's and results as text of the user's; none of them is empty.

    Those for which `which` is true of the turns and the place among them.
    """
    names: dict[str, str] = {}
    said: list[JsonObject] = []
    for place, turn in enumerate(turns):
        names |= {str(call.get("id")): str(_function(call).get("name")) for call in _calls(turn)}
        results = turn["role"] == "tool"
        if not (results or _calls(turn)) or not which(turns, place):
            said.append(turn)
        elif not results:
            words = "\n".join(filter(None, (_text(turn), *map(_call_text, _calls(turn)))))
            said.append({**{key: value for key, value in turn.items() if key != "tool_calls"}, "content": words})
        else:
            name = names.get(str(turn.get("tool_call_id"))) or str(turn.get("name") or "the call")
            words = joined([_RESULT.format(name, ""), turn.get("content")])
            if said and said[-1].get("role") == "user" and place and turns[place - 1]["role"] == "tool":
                said[-1] = _said("user", _joined(said[-1].get("content"), words))
            else:
                said.append(_said("user", words))
    return said


def calls_in_place(can: TemplateAbilities, turns: Sequence[JsonObject]) -> list[JsonObject]:
    """`turns` with calls and results as a template that `can` say them takes them."""
    said = list(turns)
    if not can.words_after_results:
        said = calls_in_words(said, _words_follow)
    if not can.results_alone:
        said = calls_in_words(said, _has_no_call)
    if not can.parallel_calls:
        said = one_call_a_turn(said)
    if not can.words_beside_calls and can.repeated_roles:
        said = [part for turn in said for part in _words_before_calls(turn)]
    return said if can.any_call_ids else list(map(_with_short_ids, said))


def one_call_a_turn(turns: Sequence[JsonObject]) -> list[JsonObject]:
    """`turns` with each call in a turn of its own, its result behind it; the words stand before the first call."""
    said: list[JsonObject] = []
    place = 0
    while place < len(turns):
        turn, calls = turns[place], _calls(turns[place])
        place += 1
        if len(calls) < 2:
            said.append(turn)
            continue
        end = next((at for at in range(place, len(turns)) if turns[at]["role"] != "tool"), len(turns))
        results = list(turns[place:end])
        place = end
        for number, call in enumerate(calls):
            made: JsonObject = {**(_said("assistant", "") if number else turn)}
            made["tool_calls"] = [call]
            said.append(made)
            own = next((each for each in results if each.get("tool_call_id") == call.get("id")), None)
            if own is not None:
                results.remove(own)
                said.append(own)
        said += results
    return said


def _words_before_calls(turn: JsonObject) -> list[JsonObject]:
    if not _calls(turn) or not _text(turn):
        return [turn]
    words = {key: value for key, value in turn.items() if key != "tool_calls"}
    return [words, _said("assistant", "") | {"tool_calls": turn["tool_calls"]}]


def _with_short_ids(turn: JsonObject) -> JsonObject:
    """`turn` with ids that every template takes, the same for the same id."""
    if turn["role"] == "tool":
        return {**turn, "tool_call_id": short_id(str(turn.get("tool_call_id")))}
    if calls := _calls(turn):
        return {**turn, "tool_calls": [{**call, "id": short_id(str(call.get("id")))} for call in calls]}
    return turn


def short_id(call_id: str) -> str:
    """ID_CHARS letters and digits that stand for `call_id`."""
    if len(call_id) == ID_CHARS and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:ID_CHARS]


def _words_follow(turns: Sequence[JsonObject], place: int) -> bool:
    """Whether the results that stand at `place`, or answer the calls there, are followed by a user's words."""
    after = next((turn for turn in turns[place + 1 :] if turn["role"] != "tool"), None)
    return after is not None and after["role"] in ("user", "system")


def _has_no_call(turns: Sequence[JsonObject], place: int) -> bool:
    """Whether the turn at `place` is a result, and none of the calls right before it is its own."""
    if turns[place]["role"] != "tool":
        return False
    before = next((turn for turn in reversed(turns[:place]) if turn["role"] != "tool"), None)
    called = [] if before is None else [call.get("id") for call in _calls(before)]
    return turns[place].get("tool_call_id") not in called


def _calls(turn: JsonObject) -> list[JsonObject]:
    calls = turn.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _function(call: JsonObject) -> JsonObject:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _call_text(call: JsonObject) -> str:
    """The call in the form in which calls are generated."""
    function = _function(call)
    arguments: JsonValue = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(function.get("name"), ensure_ascii=False)}, "arguments": {text}}}'


def _text(turn: JsonObject) -> str:
    """What a system's or an assistant's turn says: they have no images."""
    return str(turn.get("content") or "")


def with_offer(turns: Sequence[JsonObject], tools: Sequence[ToolSpec]) -> list[JsonObject]:
    """`turns` whose first is a system turn that ends with what can be called, and how."""
    offer = _OFFER.format("\n".join(_offered(tool.function) for tool in tools))
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": _joined(_text(turns[0]), offer)}, *turns[1:]]
    return [_said("system", offer), *turns]


def _offered(function: FunctionSpec) -> str:
    known: JsonObject = {"name": function.name, "description": function.description, "parameters": function.parameters}
    return json.dumps({key: value for key, value in known.items() if value}, ensure_ascii=False)


def systems_in_place(can: TemplateAbilities, turns: Sequence[JsonObject]) -> list[JsonObject]:
    """`turns` with system turns only where a template which `can` say so much takes them."""
    first = next((place for place, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    leading, rest = list(turns[:first]), list(turns[first:])
    kept = can.system and (bool(rest) or can.system_alone)
    if len(leading) > 1 and not (kept and can.several_systems):
        leading = [_said("system", _joined(*map(_text, leading)))]
    if not can.later_systems:
        rest = reminded(rest)
    if kept or not leading:
        return [*leading, *rest]
    instructions = _text(leading[0])
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": _joined(instructions, rest[0].get("content"))}, *rest[1:]]
    return [_said("user", instructions), *rest]


def reminded(turns: Sequence[JsonObject]) -> list[JsonObject]:
    """`turns` with each system turn said in a user's, before the words that it precedes or, if none, follows.

    So a user's own words stay the last. Between an assistant's turns a system turn is a user's turn of its own.
    """
    said: list[JsonObject] = []
    run: list[JsonObject] = []
    for turn in turns:
        if turn["role"] != "assistant":
            run.append(turn)
            continue
        said += [*_reminded_run(run), turn]
        run = []
    return said + _reminded_run(run)


def _reminded_run(run: Sequence[JsonObject]) -> list[JsonObject]:
    """The same for turns between two of an assistant's: users', systems' and results."""
    last = max((place for place, turn in enumerate(run) if turn["role"] == "user"), default=None)
    trailing = [turn for turn in run[last + 1 :] if turn["role"] == "system"] if last is not None else []
    notes: list[str] = []
    said: list[JsonObject] = []
    for place, turn in enumerate(run):
        if turn["role"] == "system":
            if last is None or place < last:
                notes.append(REMINDER.format(_text(turn)))
            continue
        if place == last:
            notes += [REMINDER.format(_text(each)) for each in trailing]
        if turn["role"] == "user" and notes:
            turn, notes = {**turn, "content": joined([*notes, turn.get("content")], "\n")}, []
        said.append(turn)
    return [*said, _said("user", "\n".join(notes))] if notes else said


def alternating(turns: Iterable[JsonObject]) -> list[JsonObject]:
    """`turns` with neighbours of one role as one. Results and calls that are still such stay apart."""
    said: list[JsonObject] = []
    for turn in turns:
        before = said[-1] if said else None
        same = before is not None and before["role"] == turn["role"] and turn["role"] != "tool"
        if before is None or not same or _calls(before):
            said.append(turn)
            continue
        thoughts = [each["reasoning_content"] for each in (before, turn) if each.get("reasoning_content")]
        reasoning: JsonObject = {"reasoning_content": _joined(*thoughts)} if thoughts else {}
        said[-1] = {**before, **turn, "content": _joined(before.get("content"), turn.get("content")), **reasoning}
    return said


def _begun_by_a_user(turns: Sequence[JsonObject]) -> list[JsonObject]:
    """`turns` with a user's that says nothing before an assistant's that begins the conversation."""
    first = next((place for place, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    if first == len(turns) or turns[first]["role"] == "user":
        return list(turns)
    return [*turns[:first], _said("user", ""), *turns[first:]]


def _joined(*contents: JsonValue) -> JsonValue:
    return joined(contents, "\n\n")
