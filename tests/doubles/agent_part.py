"""What a model does for coding agents: it works with the tools that each brings, by their names and their schemas.

It reads a file, writes what it read into another, changes that one, and says so; everything else is as in played_node.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tests.doubles.played_engine import Call, Conversation, Part, Say, calls
from tests.doubles.played_node import ENDLESS, ENDLESS_TASK, OBJECT, OBJECT_TASK, said_last, usual

WORK: Final = "Copy the word of SECRET into ANSWER, then make it two."  # with the paths of both files
SECRET: Final = "the word is "  # and then it: what stands in the file that is read
EDIT_TASK: Final = "Let answer.txt have a second line."  # for an agent without tools: the file comes with it
EDIT: Final = "answer.txt\n```\none\ntwo\n```\n"  # a whole file, as aider wants it of models that it does not know
DONE: Final = "Both words are there: "

# What agents call their tools and the arguments of them, by what they are for.
TOOLS: Final[Mapping[str, Sequence[str]]] = {
    "read": ("read", "read_file", "view", "read_files"),
    "write": ("write", "write_file", "write_to_file", "create_file", "save"),
    "edit": ("edit", "edit_file", "replace", "replace_in_file", "patch"),
    "run": ("exec_command", "bash", "shell", "run_shell_command", "execute_command"),
}
ARGUMENTS: Final[Mapping[str, Sequence[str]]] = {
    "path": ("path", "file_path", "filepath", "absolute_path"),
    "content": ("content", "contents", "file_text"),
    "old": ("old_string", "oldstring", "old_text", "oldtext", "search"),
    "new": ("new_string", "newstring", "new_text", "newtext"),
    "command": ("command", "cmd"),
}


def work_of(secret: str, answer: str) -> str:
    """The task, about these two files."""
    return WORK.replace("SECRET", secret).replace("ANSWER", answer)


def for_agents(never: asyncio.Event) -> Part:
    """The part of a model that an agent asks. What an agent asks beside its task, it is told without any tool."""
    others = usual(never)

    def play(conversation: Conversation) -> Say:
        task = next((said for said in reversed(conversation.said) if WORK[:12] in said), None)
        if task is not None and conversation.tools:
            return _next_step(conversation, task)
        if not conversation.tools and "title" in _instructions(conversation) + said_last(conversation):
            return Say("A conversation")  # Codex and opencode have the model name a conversation
        if ENDLESS_TASK in said_last(conversation):
            return Say(f"{ENDLESS}\n\n4 5 6\n\n7", gate=never)  # most show a line when it is whole
        if EDIT_TASK in said_last(conversation):
            return Say(EDIT)
        if OBJECT_TASK in said_last(conversation):
            return _object(conversation)
        answer = others(conversation)
        assert isinstance(answer, Say)
        return answer

    return play


def _object(conversation: Conversation) -> Say:
    """By the tool that takes such an object, where there is one; else as text."""
    tools = [name for name, schema in conversation.parameters.items() if "city" in str(schema.get("properties"))]
    if tools and not conversation.results:
        return calls(Call(tools[0], OBJECT))
    return Say("There it is." if tools else OBJECT)


def _instructions(conversation: Conversation) -> str:
    first = conversation.messages[0] if conversation.messages else {}
    return str(first.get("content", ""))[:500] if first.get("role") == "system" else ""


def _next_step(conversation: Conversation, task: str) -> Say:
    """One call after the other, each with what the last one said. A tool's failure is said, and ends it."""
    secret, answer = re.findall(r"(\S+) into (\S+),", task)[-1]
    results = conversation.all_results
    if not results:
        return _use(conversation, "read", path=secret) or _run(conversation, f"cat {shlex.quote(secret)}")
    found = re.search(rf"{SECRET}(\w+)", results[0])
    if found is None:
        return Say(f"I could not read it: {results[0]}")
    word = found[1]
    if len(results) == 1:
        quoted = shlex.quote(answer)
        return _use(conversation, "write", path=answer, content=word) or _run(
            conversation, f"printf {word} > {quoted} && echo written"
        )
    if len(results) == 2:  # some edit only what was read
        return _use(conversation, "read", path=answer) or _run(conversation, f"cat {shlex.quote(answer)}")
    if len(results) == 3:
        return _use(conversation, "edit", path=answer, old=word, new=f"{word} {word}") or _run(
            conversation, f"sed -i 's/{word}/& &/' {shlex.quote(answer)} && echo changed"
        )
    return Say(DONE + word)


def _run(conversation: Conversation, command: str) -> Say:
    return _use(conversation, "run", command=command) or Say("I have no tool for that.")


def _use(conversation: Conversation, purpose: str, **values: str) -> Say | None:
    """A call of the tool for that; None where there is none."""
    known = {name.lower(): name for name in conversation.tools}
    name = next((known[name] for name in TOOLS[purpose] if name in known), None)
    if name is None:
        return None
    return calls(Call(name, arguments_for(conversation.parameters[name], values)))


def arguments_for(schema: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The arguments that `schema` wants, filled with `values` by what they are for.

    A list of objects is filled as one of them, other required words with "as asked". Raises AssertionError where there
    is no argument for a value.
    """
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    filled: dict[str, Any] = {}
    left = dict(values)
    for name, description in properties.items():
        purpose = next((purpose for purpose in left if name.lower() in ARGUMENTS[purpose]), None)
        if purpose is not None:
            value = left.pop(purpose)
            filled[name] = ["bash", "-c", value] if description.get("type") == "array" else value
    for name, description in properties.items():
        if left and name not in filled and description.get("type") == "array":
            filled[name] = [arguments_for(description["items"], left)]
            left.clear()
    assert not left, f"no argument of {sorted(properties)} is for {sorted(left)}"
    for name in schema.get("required", ()):
        if name not in filled:
            filled[name] = {"boolean": False, "integer": 1, "number": 1}.get(str(properties[name]["type"]), "as asked")
    return filled
