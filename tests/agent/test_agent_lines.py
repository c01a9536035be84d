"""What `swarm agent` shows and reads, in words."""

from __future__ import annotations

import pytest

from swarm.agent.approval import (
    ApprovalAnswer,
    ApprovalRules,
    Approved,
    NotApproved,
    UndecidedAnswer,
    refusal,
    unknown_grants,
)
from swarm.agent.call_checks import AskedCall, batches, check_call
from swarm.agent.events import RunEnded, StepVoted, ToolAsked, ToolDone, as_json
from swarm.agent.session import INTERRUPTED
from swarm.agent.step_vote import StepVotes, is_decided, why_undecided
from swarm.commands.agent_lines import (
    MOST_SHOWN_LINES,
    approval_question,
    asked_line,
    call_words,
    done_line,
    end_line,
    read_approval,
    read_edited,
    read_undecided,
    undecided_lines,
)
from swarm.generation import JsonObject
from swarm.tools.definitions import DEFINITIONS
from swarm.tools.tool import ToolResult

VOTE: JsonObject = {
    "strategy": "auto", "kind": "tool_calls", "outcome": "consensus", "votes": 5, "asked": 5, "quorum": True,
    "winner": "kitchen", "elapsed_ms": 1200, "total_completion_tokens": 60, "stopped_by": "all_in",
    "candidates": [{"voter": f"v{n}", "group": 0 if n < 4 else 1} for n in range(5)],
}  # fmt: skip


def test_a_step_is_one_line_with_its_vote() -> None:
    asked = ToolAsked(3, "c", "edit", {"path": "a.py", "old": "x = 1\ny", "all": True}, "")
    assert asked_line(asked, StepVoted(3, VOTE, True, 1200)) == (
        ' 3  edit path=a.py old="x = 1\\ny" all=true · 4 of 5 agree · 60 tokens · 1.2 s'
    )
    assert asked_line(asked, None) == ' 3  edit path=a.py old="x = 1\\ny" all=true'


def test_a_call_in_a_line_is_bounded_and_its_values_cannot_pass_for_others() -> None:
    assert call_words("t", {"a": "", "b": "c=d", "n": 1.5, "none": None}) == 't a="" b="c=d" n=1.5 none=null'
    assert len(call_words("t", {str(n): "x" * 500 for n in range(9)})) <= 160
    assert call_words("t", None, '{"n": 5') == 't {"n": 5'
    assert "\x1b" not in call_words("\x1b[2Jt", {"a": "\x1b[31m red"})


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (ToolResult("a\nb\n", ms=7), "    2 lines · 7 ms"),
        (ToolResult("a", ms=7), "    1 line · 7 ms"),
        (ToolResult("", ms=7), "    no output · 7 ms"),
        (ToolResult("a", truncated=True, ms=7), "    1 line, shortened · 7 ms"),
        (ToolResult("one\nlast\n\n", 2), "    exit 2 · last"),
        (ToolResult("", 2), "    exit 2"),
        (ToolResult("so far", 1, timed_out=True), "    time is up · so far"),
    ],
)
def test_what_came_of_a_call_is_one_line(result: ToolResult, line: str) -> None:
    assert done_line(ToolDone(1, "c", "bash", result)) == line


def test_a_call_that_never_ran_says_so() -> None:
    assert done_line(ToolDone(1, "c", "bash", ToolResult("no", 126), executed=False)) == "    not run · no"
    refused = ToolResult(refusal("not that file"), 126)
    said = "    not run · the person who is asked did not allow it: not that file"
    assert done_line(ToolDone(1, "c", "bash", refused, executed=False)) == said


def test_a_call_that_was_aborted_while_it_ran_is_not_said_not_to_have_run() -> None:
    assert done_line(ToolDone(1, "c", "bash", ToolResult(INTERRUPTED, 126), executed=False)) == f"    {INTERRUPTED}"


def test_before_it_is_allowed_a_call_is_shown_whole_and_indented() -> None:
    shown = approval_question("bash", {"command": "cd x\n    may bash run?", "timeout_s": 5})
    assert shown.splitlines()[:4] == [
        "    may bash run?", "      command: cd x", "            may bash run?", "      timeout_s: 5",
    ]  # fmt: skip
    long = approval_question("write", {"content": "\n".join(map(str, range(200)))})
    assert f"[{200 - MOST_SHOWN_LINES} more lines are not shown]" in long


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("y", Approved()), ("Yes \n", Approved()), ("a", Approved(always=True)), ("n", NotApproved()),
        ("n  too slow ", NotApproved("too slow")), ("", None), ("also run the tests", None), ("yn", None), ("e", None),
    ],
)  # fmt: skip
def test_only_a_clear_word_allows_anything(line: str, answer: ApprovalAnswer | None) -> None:
    assert read_approval(line) == answer


@pytest.mark.parametrize(
    ("line", "answer"), [("y", "go on"), (" R ", "again"), ("n", "stop"), ("", None), ("perhaps", None)]
)
def test_an_undecided_step_is_taken_by_a_clear_word_only(line: str, answer: UndecidedAnswer | None) -> None:
    assert read_undecided(line) == answer


def test_edited_arguments_are_an_object() -> None:
    assert read_edited('{"a": 1}') == {"a": 1}
    assert [read_edited(text) for text in ("[1]", "{", "", "[" * 100_000)] == [None] * 4


def test_what_is_undecided_says_why() -> None:
    vote = StepVoted(3, {"shortfall": "it leads by 2 of 5"}, False, 1, (AskedCall("c", "bash", '{"command": "ls"}'),))
    assert undecided_lines(vote) == [' 3? bash {"command": "ls"}', "    not decided: it leads by 2 of 5"]
    assert why_undecided({"votes": 4}).startswith("of 4 votes no step")
    assert why_undecided({"votes": "many", "shortfall": 3}).startswith("no step")


def test_only_steps_that_act_need_a_decision() -> None:
    for outcome in ("undecided", "degraded"):
        assert not is_decided({"outcome": outcome}, acts=True)
        assert is_decided({"outcome": outcome}, acts=False)
    assert is_decided({}, acts=True), "a node that tells nothing claims nothing"


def test_the_request_says_of_the_vote_what_was_asked_for() -> None:
    assert StepVotes().body() == {}
    assert StepVotes(5).body() == {"votes": 5}
    assert StepVotes(None, 3).body() == {"stop": {"ahead": 3}}
    assert StepVotes(9, 3).body() == {"votes": 9, "stop": {"ahead": 3}}


def test_how_a_run_ended_is_said_where_it_is_not_done() -> None:
    assert end_line(RunEnded("done", "", 2)) == ""
    assert "not done after 25 steps" in end_line(RunEnded("max_turns", "", 25))


def test_reading_runs_unasked_and_the_rest_does_not() -> None:
    rules = ApprovalRules()
    assert [name for name, tool in DEFINITIONS.items() if rules.runs_unasked(tool)] == ["read", "glob", "grep"]
    assert rules.with_granted("bash").runs_unasked(DEFINITIONS["bash"])
    assert not rules.runs_unasked(DEFINITIONS["bash"])
    assert all(map(ApprovalRules(frozenset({"all"})).runs_unasked, DEFINITIONS.values()))
    assert unknown_grants(["all", "bash", "raed"], ["bash"]) == ["raed"]


def test_those_that_run_alone_stand_between_those_that_do_not() -> None:
    tools = [*DEFINITIONS.values()]
    made = ["read", "grep", "write", "read", "bash", "edit", "glob"]
    arguments = {
        "write": '{"path": "a", "content": ""}', "edit": '{"path": "a", "old": "b", "new": "c"}',
        "read": '{"path": "a"}', "grep": '{"pattern": "a"}', "glob": '{"pattern": "a"}', "bash": '{"command": "a"}',
    }  # fmt: skip
    checked = [check_call(AskedCall(str(n), name, arguments[name]), tools) for n, name in enumerate(made)]
    assert [call.problem for call in checked] == [None] * 7
    together = [[call.asked.tool for call in batch] for batch in batches(checked)]
    assert [len(batch) for batch in batches(checked, sequential=True)] == [1] * 7
    assert ["read", "grep"] in together
    assert all(len(batch) == 1 for batch in together if DEFINITIONS[batch[0]].alone)
    assert [name for batch in together for name in batch] == made


def test_every_event_is_json_with_its_type_first() -> None:
    event = as_json(ToolDone(1, "c", "read", ToolResult("x")))
    assert next(iter(event.items())) == ("type", "tool_result")
    assert event["result"] == {"output": "x", "exit_code": 0, "truncated": False, "timed_out": False, "ms": 0}
