"""Conversations of coding agents, as long as theirs are, and in the three APIs that they speak.

What they say has their structure (instructions in sections, a dozen and more tools with their schemas, reminders in the
user's turn) in words of its own. Two agents of different names share nothing but the frame.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

WORDS = (
    "file", "line", "error", "test", "build", "value", "list", "open", "read", "branch", "merge", "token", "model",
    "folder", "change", "result", "answer", "before", "after", "never", "always", "only", "when", "write", "search",
)  # fmt: skip
TOOLS = ("Read", "Write", "Edit", "Bash", "Glob", "Grep", "Task", "WebFetch", "WebSearch", "NotebookEdit", "TodoWrite",
         "KillShell", "BashOutput", "Skill", "AskUser", "PlanMode")  # fmt: skip
SECTION_WORDS, TOOL_WORDS, REMINDER_WORDS, QUESTION_WORDS = 120, 150, 200, 20


def sentences(dice: random.Random, words: int) -> str:
    """So many words, in sentences of ten."""
    chosen = [dice.choice(WORDS) for _ in range(words)]
    rows = [chosen[at : at + 10] for at in range(0, words, 10)]
    return " ".join(" ".join(row).capitalize() + "." for row in rows)


@dataclass(slots=True)
class AgentTalk:
    """One agent's conversation. `sections` of instructions, and `shows` so many tools, make its prompt long.

    `messages` are Anthropic's; `said` and `answered` add to them. A question of its title is `title`.
    """

    name: str
    sections: int
    shows: int = len(TOOLS)
    model: str = "swarm"
    max_tokens: int = 8
    messages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _asked: int = 0

    @property
    def _dice(self) -> random.Random:
        return random.Random(self.name)

    @property
    def system(self) -> list[dict[str, Any]]:
        """Its instructions; the first line is another one in each request, as Claude Code has it."""
        dice = self._dice
        rules = [
            f"# {dice.choice(WORDS).capitalize()} {number}\n\n"
            + "\n".join(f"- {sentences(dice, SECTION_WORDS // 4)}" for _ in range(4))
            for number in range(self.sections)
        ]
        kept = {"type": "ephemeral"}
        return [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={self._asked};"},
            {"type": "text", "text": f"You are {self.name}, an agent that works on code.", "cache_control": kept},
            {"type": "text", "text": "\n\n".join(rules), "cache_control": kept},
        ]

    @property
    def tools(self) -> list[dict[str, Any]]:
        dice = self._dice
        return [
            {
                "name": name,
                "description": sentences(dice, TOOL_WORDS),
                "input_schema": {
                    "type": "object",
                    "properties": {
                        f"{dice.choice(WORDS)}_{at}": {"type": "string", "description": sentences(dice, 20)}
                        for at in range(3)
                    },
                    "additionalProperties": False,
                },
            }
            for name in TOOLS[: self.shows]
        ]

    def says(self, text: str | None = None) -> None:
        """A user's turn: a question, and with the first one the reminders."""
        dice = random.Random(f"{self.name} {len(self.messages)}")
        blocks = (
            []
            if self.messages
            else [_block(f"<system-reminder>\n{sentences(dice, REMINDER_WORDS)}\n</system-reminder>")]
        )
        self.messages.append({"role": "user", "content": [*blocks, _block(text or sentences(dice, QUESTION_WORDS))]})

    def says_otherwise(self, text: str) -> None:
        """The last turn of the user is another one."""
        *kept, _ = self.messages[-1]["content"]
        self.messages[-1] = {"role": "user", "content": [*kept, _block(text)]}

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": [_block(text or ".")]})

    def to_messages(self) -> dict[str, Any]:
        """The body for `/v1/messages`."""
        self._asked += 1
        asked = {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0.0}
        return {**asked, "system": self.system, "tools": self.tools, "messages": self.messages}

    def to_chat(self) -> dict[str, Any]:
        """The body for `/v1/chat/completions`."""
        system = {"role": "system", "content": "\n".join(block["text"] for block in self.system[1:])}
        turns = [{"role": each["role"], "content": _text(each)} for each in self.messages]
        functions = [
            {"name": each["name"], "description": each["description"], "parameters": each["input_schema"]}
            for each in self.tools
        ]
        asked = {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0.0}
        return {
            **asked,
            "messages": [system, *turns],
            "tools": [{"type": "function", "function": f} for f in functions],
        }

    def to_responses(self) -> dict[str, Any]:
        """The body for `/v1/responses`."""
        chat = self.to_chat()
        system, *turns = chat["messages"]
        return {
            "model": self.model,
            "max_output_tokens": max(self.max_tokens, 16),
            "temperature": 0.0,
            "store": False,
            "instructions": system["content"],
            "input": turns,
            "tools": [{"type": "function", "strict": False, **each["function"]} for each in chat["tools"]],
        }

    def title(self) -> dict[str, Any]:
        """What agents and chat programs ask beside a question, by `/v1/chat/completions`: the conversation's name."""
        asked = {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0.0}
        system = "You write titles. Answer with a title of at most five words for what the user says, and nothing else."
        said = json.dumps(_text(self.messages[-1])[-400:])
        return {**asked, "messages": [{"role": "system", "content": system}, {"role": "user", "content": said}]}


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _text(message: dict[str, Any]) -> str:
    return "\n".join(block["text"] for block in message["content"])
