"""A conversation that ends with an assistant's turn: the answer goes on where that turn ends.

What is defined for every API, whatever llama.cpp would make of it:

* a last turn of an assistant with text, or with thoughts, is continued; the answer is what follows it;
* one that says nothing is left out, and the answer is a new turn;
* one with tool calls cannot be continued: what follows are the results of the tools;
* under a grammar (a response format, a call that must be made) nothing is continued. llama.cpp feeds the begun turn to
  the grammar: text that breaks the schema is an error, and a token that ends a turn ends the process.
"""

from __future__ import annotations

from typing import Any

from swarm.engines.llama_cpp.forced_call import call_grammar, demanded_schema
from swarm.errors import BadRequest
from swarm.generation import GenerationRequest, JsonObject

SAID = ("content", "reasoning_content", "tool_calls")


def begun_turn(messages: tuple[JsonObject, ...] | None) -> int | None:
    """Which of `messages` is the assistant's turn that the answer continues; None where it is a turn of its own."""
    kept = len(spoken_turns(messages or ()))
    return kept - 1 if messages and kept and messages[kept - 1]["role"] == "assistant" else None


def spoken_turns(messages: tuple[JsonObject, ...]) -> tuple[JsonObject, ...]:
    """`messages` without turns of an assistant at the end that say nothing."""
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant" and not any(messages[end - 1].get(part) for part in SAID):
        end -= 1
    return messages[:end]


def refuse_impossible_turns(request: GenerationRequest) -> None:
    """Raises BadRequest naming the turn that cannot be continued as `request` asks."""
    messages = request.messages
    if messages is None:
        return
    if not spoken_turns(messages):
        raise BadRequest("messages: nothing is said in any of them: send a user's message", param="messages")
    last = begun_turn(messages)
    if last is None:
        return
    if messages[last].get("tool_calls"):
        raise BadRequest(
            "messages: the last one is an assistant's with tool_calls, and an answer follows their results: send those "
            "as messages of role tool, or leave the turn out",
            param="messages",
        )
    field = "response_format" if demanded_schema(request.response_format) is not None else "tool_choice"
    if field == "response_format" or call_grammar(request) is not None:
        raise BadRequest(
            f"messages: the last one is an assistant's, which the answer would continue, and {field} fixes the form of "
            f"the whole answer: end with a user's message, or leave {field} out",
            param="messages",
        )


def continuing(request: GenerationRequest) -> dict[str, Any]:
    """The turns for llama.cpp, and what tells it to go on with the last one: by itself it does so where it likes."""
    assert request.messages is not None
    turns: dict[str, Any] = {"messages": list(spoken_turns(request.messages))}
    if begun_turn(request.messages) is not None:
        turns |= {"continue_final_message": True, "add_generation_prompt": False}
    return turns
