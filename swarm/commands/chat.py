"""`swarm chat`: a conversation in the terminal, with how each vote went."""

from __future__ import annotations

from typing import Any

from swarm.commands.node_client import NodeApi, post_stream
from swarm.commands.output import Stream, say, say_line


def chat(api: NodeApi, model: str, question: str) -> int:
    """Ask `question` and end, or without one hold a conversation until end of input."""
    if question:
        ask(api, model, [{"role": "user", "content": question}])
        return 0
    say("Ask the swarm; an empty line or Ctrl-D ends it.")
    messages: list[dict[str, Any]] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            say()
            return 0
        if not text:
            return 0
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": ask(api, model, messages)})


def ask(api: NodeApi, model: str, messages: list[dict[str, Any]]) -> str:
    """Print the answer while it comes, then one line on the vote. Returns the answer."""
    parts: list[str] = []
    shown = Stream()
    swarm: dict[str, Any] = {}
    for event in post_stream(api, "/v1/chat/completions", {"model": model, "messages": messages, "stream": True}):
        for choice in event["choices"]:
            text = choice["delta"].get("content") or ""
            parts.append(text)
            shown.show(text)
        swarm = event.get("swarm", swarm)
    say()
    if swarm:
        say_line(vote_line(swarm))
    return "".join(parts)


def vote_line(swarm: dict[str, Any]) -> str:
    """One line on who answered and how the vote went."""
    if swarm["strategy"] == "single":
        return f"  [{swarm['winner']}, {swarm['elapsed_ms']} ms]"
    agreement = "no agreement" if swarm["agreement"] is None else f"{swarm['agreement']:.0%} agree"
    outcome = "" if swarm.get("confirmed") is not False else f"; the vote preferred {swarm['winner']}"
    return f"  [{swarm['votes']} votes of {swarm['asked']} asked, {agreement}, {swarm['elapsed_ms']} ms{outcome}]"
