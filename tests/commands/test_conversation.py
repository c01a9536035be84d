"""A conversation as data: what is asked, what is saved, and that the page and `swarm chat` read each other's files."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from swarm.commands.conversation import Conversation, NoConversation, as_json, as_markdown, from_json, still_fitting
from swarm.errors import ContextExceeded

PAGE = Path(__file__).parents[2] / "swarm/gateway/page/static/js/conversations.js"
PICTURE = "data:image/png;base64,iVBORw0KGgo="

# As the page exports one (`asJson` of conversations.js), with all that it keeps of a turn.
EXPORTED: dict[str, Any] = {
    "title": "What is on this picture?",
    "model": "gemma3:4b",
    "system": "Be brief.\nBe kind.",
    "temperature": 0.7,
    "votes": 3,
    "messages": [
        {"role": "user", "content": "What is on this picture?", "images": [PICTURE]},
        {
            "role": "assistant",
            "content": "A cat.",
            "reasoning": "It has whiskers.",
            "tool_calls": [{"name": "look", "arguments": '{"at": "it"}'}],
            "replaced": "A dog.",
            "reason": "stop",
            "ballot": {"strategy": "medoid", "winner": "Zeus@a", "candidates": [], "out": [], "final": True},
        },
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Ye", "stopped": True},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "", "problem": "the node broke off"},
    ],
}


def test_what_the_page_exports_is_read_whole_and_saved_as_it_was() -> None:
    read = from_json(json.dumps(EXPORTED))
    assert json.loads(as_json(read)) == EXPORTED
    assert read.body() == {
        "model": "gemma3:4b",
        "messages": [
            {"role": "system", "content": "Be brief.\nBe kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is on this picture?"},
                    {"type": "image_url", "image_url": {"url": PICTURE}},
                ],
            },
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Ye"},
            {"role": "user", "content": "And now?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "swarm": {"progress": True, "votes": 3},
    }


def test_the_page_reads_what_is_saved_and_asks_the_same(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    saved = Conversation().asking("Wie heißt\ndas? 🎈").answered({"role": "assistant", "content": "So."})
    for number, talk in enumerate((saved, from_json(json.dumps(EXPORTED)))):
        file = tmp_path / f"{number}.json"
        file.write_text(as_json(talk), "utf-8")
        code = (
            f"import {{ asJson, asMarkdown, fromJson, messagesOf }} from {json.dumps(PAGE.as_uri())};"
            'import { readFileSync } from "node:fs";'
            f'const talk = fromJson(readFileSync({json.dumps(str(file))}, "utf8"));'
            "const as = (image) => image;"
            "console.log(JSON.stringify({file: JSON.parse(asJson(talk, as)), messages: messagesOf(talk, as)}))"
        )
        done = subprocess.run([node, "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
        page = json.loads(done.stdout)
        assert page["file"] == json.loads(as_json(talk))
        assert page["messages"] == talk.messages()


def test_markdown_is_for_reading() -> None:
    text = as_markdown(from_json(json.dumps(EXPORTED)))
    assert text.startswith(
        "# What is on this picture?\n\n> Be brief.\n> Be kind.\n\n"
        "## user\n\nWhat is on this picture?\n\n*(1 picture)*\n"
    )
    assert "## assistant\n\nA cat.\n" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"messages": None}, 'there are no "messages"'),
        ({"messages": {}}, 'there are no "messages"'),
        ({"messages": ["hello"]}, "message 1 is no object"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'its text belongs into "system"'),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has the role 'tool'"),
        ({"messages": [{"content": "x"}]}, "message 1 has the role 'None'"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, 'the "content" of message 1 is no text'),
        ({"messages": [{"role": "user", "content": "", "images": ["file:///etc/passwd"]}]}, "not a list of data: URLs"),
        ({"messages": [{"role": "user", "content": "", "images": PICTURE}]}, "not a list of data: URLs"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": "x"}]}, 'the "tool_calls" of message 1'),
        ({"messages": [{"role": "assistant", "content": "", "ballot": "x"}]}, 'the "ballot" of message 1'),
        ({"temperature": 3}, 'its "temperature" is 3, and may be 0 to 2'),
        ({"temperature": True}, 'its "temperature" is no number'),
        ({"temperature": float("nan")}, 'its "temperature" is no number'),
        ({"votes": 33}, 'its "votes" are 33, and may be 1 to 32'),
        ({"votes": "3"}, 'its "votes" are 3'),
        ({"model": 7}, 'its "model" is no text'),
        ({"system": []}, 'its "system" is no text'),
    ],
)
def test_what_is_no_conversation_is_said(change: dict[str, Any], told: str) -> None:
    with pytest.raises(NoConversation) as raised:
        from_json(json.dumps({**EXPORTED, **change}))
    assert told in str(raised.value)


@pytest.mark.parametrize("text", ["", "hello", "[]", "7", "[" * 100_000, '{"messages": [', "\x00"])
def test_what_is_no_json_is_said(text: str) -> None:
    with pytest.raises(NoConversation):
        from_json(text)


def test_only_messages_are_needed() -> None:
    assert from_json('{"messages": []}') == Conversation()


def test_a_question_gives_the_title_and_can_be_taken_back() -> None:
    talk = Conversation().asking("why \n is the sky blue? " + "x" * 100)
    assert talk.title.startswith("why is the sky blue? x")
    assert len(talk.title) == 60
    assert talk.without_last() == (Conversation(title=talk.title), talk.turns[0])
    assert talk.answered({"role": "assistant", "content": "so"}).asking("more").title == talk.title
    assert Conversation().without_last() == (Conversation(), None)


def test_the_oldest_are_left_out_where_the_context_is_too_small() -> None:
    talk = Conversation()
    for number in range(6):
        talk = talk.asking(f"{number}" * 100).answered({"role": "assistant", "content": "a" * 100})
    talk = talk.asking("last")
    problem = str(ContextExceeded(2000, 1000))
    first = still_fitting(talk, problem)
    assert 0 < first < len(talk.turns) - 1
    assert talk.turns[first]["role"] == "user"
    assert still_fitting(talk, "no such model") == 0
    assert still_fitting(Conversation().asking("x" * 9000), problem) == 0, "one question alone is not left out"
