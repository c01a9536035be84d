"""A session of the agent against a real node with a scripted model: what is asked, executed, told, and kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import pytest

from swarm.agent import Agent, Tool, turns
from swarm.agent.approval import ApprovalAnswer, Approved, NotApproved, UndecidedAnswer
from swarm.agent.events import AgentEvent, ResultsCut, RunEnded, RunFailed, Steered, StepVoted, ToolDone, as_json
from swarm.errors import BadRequest, ContextExceeded, EngineFailed, SwarmError
from swarm.generation import GenerationRequest
from swarm.tools.tool import ToolDefinition, ToolResult
from tests.agent.scripted_turns import RecordingHost, answered, calls, node_taking, seen
from tests.doubles.running_node import NodeOptions
from tests.doubles.waiting import eventually

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
LOOK = ToolDefinition("look", "Look at number n", dict(NUMBER), reads_only=True)
CHANGE = ToolDefinition("change", "Change number n", dict(NUMBER))
ALONE = ToolDefinition("alone", "Alone", dict(NUMBER), reads_only=True, alone=True)


def agent(url: str, host: RecordingHost, **more: Any) -> Agent:
    return Agent(url=url, hosts=[host], **more)


async def run_of(made: Agent, prompt: str = "go") -> tuple[RunEnded, list[AgentEvent]]:
    told: list[AgentEvent] = []
    return await made.run(prompt, told.append), told


Kind = TypeVar("Kind")


def of_kind(told: list[AgentEvent], kind: type[Kind]) -> list[Kind]:
    return [event for event in told if isinstance(event, kind)]


async def test_a_run_is_told_from_its_start_to_its_end() -> None:
    host = RecordingHost(LOOK)
    async with node_taking(calls(("look", {"n": 3})), ["All ", "done."]) as (node, engine):
        ended, told = await run_of(agent(node.url, host), "count to three")
    assert [event.type for event in told] == [
        "start", "vote", "tool_call", "tool_result", "text", "text", "vote", "end",
    ]  # fmt: skip
    assert (ended.reason, ended.output, ended.steps) == ("done", "All done.", 2)
    assert host.executed == [("look", {"n": 3})]
    assert host.left
    assert seen(engine) == [("user", "count to three"), ("assistant", ""), ("tool", "look did it")]
    assert as_json(told[0])["tools"] == ("look",)
    assert ended.waited_ms <= ended.ms


async def test_each_call_is_voted_on_and_the_vote_is_told() -> None:
    host = RecordingHost(LOOK)

    def split(_: object, voter: int) -> list[Any]:
        return calls(("look", {"n": 1 if voter in (0, 1, 3, 4) else 9}))

    async with node_taking(split, ["ok"], options=NodeOptions()) as (node, engine):
        _, told = await run_of(agent(node.url, host, votes=5))
        assert len(engine.requests) >= 4
    vote = of_kind(told, StepVoted)[0]
    assert (vote.account["kind"], vote.account["winner"] is not None, vote.decided) == ("tool_calls", True, True)
    assert host.executed == [("look", {"n": 1})]


@pytest.mark.parametrize(("answer", "reason", "executed"), [("stop", "undecided", 0), ("go on", "done", 1)])
async def test_an_undecided_step_is_not_taken_unasked(answer: UndecidedAnswer, reason: str, executed: int) -> None:
    host = RecordingHost(LOOK)
    questions: list[StepVoted] = []

    async def decide(vote: StepVoted) -> UndecidedAnswer:
        questions.append(vote)
        return answer

    def differ(_: object, voter: int) -> list[Any]:
        return calls(("look", {"n": voter}))

    async with node_taking(differ, ["ok"], options=NodeOptions()) as (node, _):
        ended, _ = await run_of(agent(node.url, host, votes=4, ahead=2, decide=decide))
    assert (ended.reason, len(host.executed), len(questions)) == (reason, executed, 1)
    assert questions[0].account["outcome"] == "undecided"


async def test_a_share_that_is_too_small_decides_nothing() -> None:
    def differ(_: object, voter: int) -> list[Any]:
        return calls(("look", {"n": 1 if voter < 2 else voter}))

    for share, reason in ((0.2, "done"), (0.9, "undecided")):
        async with node_taking(differ, ["ok"], options=NodeOptions()) as (node, _):
            ended, _ = await run_of(agent(node.url, RecordingHost(LOOK), votes=4, min_agreement=share))
        assert ended.reason == reason


async def test_an_undecided_step_can_be_voted_on_again() -> None:
    host = RecordingHost(LOOK)
    asked = 0

    async def again(_: StepVoted) -> UndecidedAnswer:
        nonlocal asked
        asked += 1
        return "again" if asked == 1 else "stop"

    def differ_at_first(_: object, voter: int) -> list[Any]:
        return calls(("look", {"n": voter if voter < 4 else 100}))

    async with node_taking(differ_at_first, ["ok"], options=NodeOptions()) as (node, _):
        ended, told = await run_of(agent(node.url, host, votes=4, ahead=2, decide=again))
    assert (ended.reason, ended.steps, asked) == ("done", 3, 1)
    assert host.executed == [("look", {"n": 100})], "the step that was not decided left nothing"
    assert [vote.decided for vote in of_kind(told, StepVoted)] == [False, True, True]


async def test_nobody_there_ends_an_undecided_run_and_refuses_what_may_not_run_unasked() -> None:
    host = RecordingHost(LOOK, CHANGE)

    def differ(_: object, voter: int) -> list[Any]:
        return calls(("look", {"n": voter}))

    async with node_taking(differ, options=NodeOptions()) as (node, _):
        ended, _ = await run_of(agent(node.url, host, votes=4, ahead=2))
    assert ended.reason == "undecided"
    async with node_taking(calls(("change", {"n": 1})), ["then not"]) as (node, engine):
        ended, told = await run_of(agent(node.url, host))
        assert "nobody is there" in str(seen(engine)[-1])
    assert (ended.reason, host.executed) == ("done", [])
    assert [done.executed for done in of_kind(told, ToolDone)] == [False]


@pytest.mark.parametrize(
    ("arguments", "executed", "told"),
    [
        ({"n": "5"}, {"n": 5}, None),
        ({"n": 5.0}, {"n": 5}, None),
        ({"n": "five"}, None, "arguments.n"),
        ({"n": 1, "m": 2}, None, "'m'"),
        ({}, None, "'n' is a required property"),
        ('{"n": 5', None, "cannot be read"),
        ("[1]", None, "have to be an object"),
    ],
)
async def test_arguments_are_checked_as_votes_read_them(
    arguments: Mapping[str, Any] | str, executed: Mapping[str, Any] | None, told: str | None
) -> None:
    host = RecordingHost(LOOK)
    async with node_taking(calls(("look", arguments)), ["ok"]) as (node, engine):
        ended, _ = await run_of(agent(node.url, host))
        assert told is None or told in str(seen(engine)[-1])
    assert host.executed == ([] if executed is None else [("look", executed)])
    assert ended.reason == "done"


async def test_a_tool_that_there_is_not_is_named_with_the_nearest() -> None:
    host = RecordingHost(LOOK)
    async with node_taking(calls(("lok", {"n": 1})), ["ok"]) as (node, engine):
        ended, _ = await run_of(agent(node.url, host))
        assert "did you mean look?" in str(seen(engine)[-1])
    assert ended.reason == "done"


async def test_calls_run_side_by_side_but_those_that_run_alone() -> None:
    together = asyncio.Barrier(2)
    order: list[str] = []

    async def does(tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        if tool == "look":
            async with asyncio.timeout(5):
                await together.wait()
        order.append(f"{tool}{arguments['n']}")
        return ToolResult(f"{tool} {arguments['n']}")

    host = RecordingHost(LOOK, ALONE, does=does)
    made = calls(("look", {"n": 1}), ("look", {"n": 2}), ("alone", {"n": 3}), ("look", {"n": 4}), ("look", {"n": 5}))
    async with node_taking(made, ["ok"]) as (node, engine):
        await run_of(agent(node.url, host))
        results = [content for role, content in seen(engine) if role == "tool"]
    assert results == ["look 1", "look 2", "alone 3", "look 4", "look 5"], "in the order of the calls"
    assert order[2] == "alone3"


async def test_a_sequential_run_executes_one_call_after_the_other() -> None:
    running = most = 0

    async def does(tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return ToolResult("")

    made = calls(("look", {"n": 1}), ("look", {"n": 2}))
    for sequential, expected in ((False, 2), (True, 1)):
        most = 0
        async with node_taking(made, ["ok"]) as (node, _):
            await run_of(agent(node.url, RecordingHost(LOOK, does=does), sequential=sequential))
        assert most == expected


async def test_people_allow_once_always_not_at_all_or_something_else() -> None:
    answers: list[ApprovalAnswer] = [
        Approved(), NotApproved("too dangerous"), Approved(arguments={"n": "7"}), Approved(arguments={"n": "x"}),
        Approved(always=True),
    ]  # fmt: skip
    questions: list[object] = []

    async def approve(tool: ToolDefinition, arguments: Mapping[str, Any]) -> ApprovalAnswer:
        questions.append((tool.name, dict(arguments)))
        return answers[len(questions) - 1]

    host = RecordingHost(LOOK, CHANGE)
    turns = [calls(("change", {"n": n})) for n in range(6)]
    async with node_taking(*turns, ["ok"]) as (node, engine):
        ended, _ = await run_of(agent(node.url, host, approve=approve))
        results = [str(content) for role, content in seen(engine) if role == "tool"]
    assert ended.reason == "done"
    assert len(questions) == 5, "the sixth runs, since it is allowed always"
    assert host.executed == [("change", {"n": n}) for n in (0, 7, 4, 5)]
    assert "too dangerous" in results[1]
    assert "arguments.n" in results[3]


async def test_granted_tools_run_unasked() -> None:
    for grants in (("change",), ("all",)):
        host = RecordingHost(CHANGE)
        async with node_taking(calls(("change", {"n": 1})), ["ok"]) as (node, _):
            await run_of(agent(node.url, host, grants=grants))
        assert host.executed == [("change", {"n": 1})]


async def test_hooks_see_and_change_calls_and_results() -> None:
    async def before(tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any] | ToolResult | None:
        return {1: None, 2: {"n": 20}, 3: ToolResult("from the hook")}[int(arguments["n"])]

    async def after(tool: str, arguments: Mapping[str, Any], result: ToolResult) -> ToolResult | None:
        return ToolResult(result.output.upper()) if arguments["n"] == 20 else None

    host = RecordingHost(LOOK)
    made = calls(("look", {"n": 1}), ("look", {"n": 2}), ("look", {"n": 3}))
    async with node_taking(made, ["ok"]) as (node, engine):
        await run_of(agent(node.url, host, before_tool=before, after_tool=after))
        results = [content for role, content in seen(engine) if role == "tool"]
    assert results == ["look did it", "LOOK DID IT", "from the hook"]
    assert host.executed == [("look", {"n": 1}), ("look", {"n": 20})]


async def test_what_is_said_meanwhile_steers_and_what_follows_waits() -> None:
    async def does(tool: str, _: Mapping[str, Any]) -> ToolResult:
        session.enqueue("later", "when_idle")
        session.enqueue("now")
        return ToolResult("looked")

    told: list[AgentEvent] = []
    async with node_taking(calls(("look", {"n": 1})), ["first"], ["second"]) as (node, engine):
        async with agent(node.url, RecordingHost(LOOK, does=does)).session() as session:
            leave = session.subscribe(told.append)
            ended = await session.run("go")
            leave()
            leave()
        assert seen(engine) == [
            ("user", "go"), ("assistant", ""), ("tool", "looked"), ("user", "now"), ("assistant", "first"),
            ("user", "later"),
        ]  # fmt: skip
    assert (ended.output, ended.steps) == ("second", 3)
    assert [(event.text, event.when) for event in of_kind(told, Steered)] == [("now", "asap"), ("later", "when_idle")]


async def test_words_for_the_next_step_keep_a_run_from_ending() -> None:
    gate = asyncio.Event()
    async with node_taking([gate, "first"], ["second"]) as (node, engine):
        async with agent(node.url, RecordingHost()).session() as session:
            run = asyncio.create_task(session.run("go"))
            await eventually(lambda: engine.running == 1)
            session.enqueue("and more")
            gate.set()
            ended = await run
        assert seen(engine)[-1] == ("user", "and more")
    assert ended.output == "second"


async def test_an_abort_ends_the_model_s_answer_at_the_node() -> None:
    told: list[AgentEvent] = []
    async with node_taking([asyncio.Event()], ["never"]) as (node, engine):
        async with agent(node.url, RecordingHost()).session() as session:
            session.subscribe(told.append)
            run = asyncio.create_task(session.run("go"))
            await eventually(lambda: engine.running == 1)
            session.abort()
            ended = await run
            await eventually(lambda: engine.cancelled == 1)
            engine.script = lambda _, __: ["now"]
            assert (await session.run("again")).output == "now", "the session stays usable"
        assert [content for _, content in seen(engine)] == ["go", "again"]
    assert (ended.reason, told[1].type) == ("aborted", "end")


async def test_an_abort_ends_running_tools_and_leaves_no_call_without_a_result() -> None:
    stopped: list[int] = []

    async def does(tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        if arguments["n"] == 1:
            return ToolResult("quick")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(int(arguments["n"]))
        raise AssertionError("never")

    host = RecordingHost(LOOK, ALONE, does=does)
    made = calls(("look", {"n": 1}), ("look", {"n": 2}), ("alone", {"n": 3}))
    async with node_taking(made, ["ok"]) as (node, engine):
        async with agent(node.url, host).session() as session:
            run = asyncio.create_task(session.run("go"))
            await eventually(lambda: len(host.executed) == 2)
            await asyncio.sleep(0)
            session.abort()
            assert (await run).reason == "aborted"
            assert (await session.run("go on")).reason == "done"
        results = [str(content) for role, content in seen(engine) if role == "tool"]
    assert stopped == [2]
    assert results[0] == "quick"
    assert "aborted while it ran" in results[1]
    assert "not executed" in results[2]


async def test_cancelling_who_waits_is_an_abort() -> None:
    async with (
        node_taking([asyncio.Event()]) as (node, engine),
        agent(node.url, RecordingHost()).session() as session,
    ):
        run = asyncio.create_task(session.run("go"))
        await eventually(lambda: engine.running == 1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert session.state == "idle"
        await eventually(lambda: engine.cancelled == 1)


async def test_a_run_ends_at_its_most_turns() -> None:
    async with node_taking(calls(("look", {"n": 1}))) as (node, engine):
        ended, _ = await run_of(agent(node.url, RecordingHost(LOOK), max_turns=3))
        assert len(engine.requests) == 3
    assert (ended.reason, ended.steps) == ("max_turns", 3)


async def test_a_model_s_error_is_of_the_tree_and_the_session_goes_on() -> None:
    told: list[AgentEvent] = []
    async with node_taking([EngineFailed("it broke")], ["fine"]) as (node, engine):
        async with agent(node.url, RecordingHost(), model="nope").session() as session:
            session.subscribe(told.append)
            with pytest.raises(BadRequest, match="'nope' is not served"):
                await session.run("go")
        assert [event.type for event in told] == ["start", "error", "end"]
        assert of_kind(told, RunFailed)[0].kind == "BadRequest"
        async with agent(node.url, RecordingHost()).session() as session:
            with pytest.raises(SwarmError):
                await session.run("go")
            engine.script = lambda _, __: ["fine"]
            assert (await session.run("go")).output == "fine"


async def test_a_tool_host_s_error_is_a_result_for_the_model() -> None:
    async def does(tool: str, _: Mapping[str, Any]) -> ToolResult:
        raise BadRequest("there is no such path", "arguments.path")

    async with node_taking(calls(("look", {"n": 1})), ["ok"]) as (node, engine):
        ended, told = await run_of(agent(node.url, RecordingHost(LOOK, does=does)))
        assert "there is no such path (arguments.path)" in str(seen(engine)[-1])
    assert ended.reason == "done"
    assert of_kind(told, ToolDone)[0].result.exit_code != 0


async def test_one_run_at_a_time() -> None:
    async with (
        node_taking([asyncio.Event()]) as (node, engine),
        agent(node.url, RecordingHost()).session() as session,
    ):
        run = asyncio.create_task(session.run("go"))
        await eventually(lambda: engine.running == 1)
        with pytest.raises(BadRequest, match="at work"):
            await session.run("me, too")
        session.abort()
        await run


async def test_functions_are_tools() -> None:
    def temperature(city: str, unit: str = "celsius") -> dict[str, object]:
        """The temperature in a city."""
        return {"city": city, "degrees": 21.5, "unit": unit}

    async def slow(times: int) -> str:
        raise ValueError(f"not {times} times")

    tools = [Tool(temperature, reads_only=True), Tool(slow, reads_only=True)]
    assert tools[0].definition.description == "The temperature in a city."
    made = calls(("temperature", {"city": "Paris"}), ("slow", {"times": 2}))
    async with node_taking(made, ["warm"]) as (node, engine):
        ended = await Agent(url=node.url, tools=tools).run("how warm is it?")
        results = [content for role, content in seen(engine) if role == "tool"]
        assert answered(engine.requests[-1]) == 1
    assert results[0] == '{"city": "Paris", "degrees": 21.5, "unit": "celsius"}'
    assert "ValueError: not 2 times" in str(results[1])
    assert ended.output == "warm"


def test_importing_the_agent_loads_nothing_of_what_it_needs_later() -> None:
    script = (
        "import swarm.agent, sys; swarm.agent.Agent(tools=[swarm.agent.Tool(lambda: 1, name='one')]);"
        "print([name for name in ('pydantic_ai', 'openai', 'anthropic', 'google.genai', 'httpx', 'httpx2', 'aiohttp')"
        " if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_a_conversation_that_no_longer_fits_goes_on_with_its_oldest_results_cut() -> None:
    fits_chars = 7000

    async def does(tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult(f"result {arguments['n']} " + "x" * 2500)

    def turn(n: int) -> Any:
        def steps(request: GenerationRequest, _: int) -> list[Any]:
            chars = sum(len(str(message["content"])) for message in request.messages or ())
            if chars > fits_chars:
                return [ContextExceeded(chars // 4, fits_chars // 4)]
            return calls(("look", {"n": n})) if n < 5 else ["Done."]

        return steps

    host = RecordingHost(LOOK, does=does)
    kept: list[Any] = []
    told: list[AgentEvent] = []
    async with node_taking(*(turn(n) for n in range(6))) as (node, engine):
        async with agent(node.url, host).session(keep=kept.append) as session:
            session.subscribe(told.append)
            ended = await session.run("go")
        results = [str(content) for role, content in seen(engine) if role == "tool"]
    assert (ended.reason, ended.steps, len(host.executed)) == ("done", 6, 5)
    assert results[0].startswith("result 0 x")
    assert "left out" in results[0]
    assert len(results[-1]) > 2500, "the last one is what the model goes on from"
    assert sum(event.results for event in told if isinstance(event, ResultsCut)) == 3
    assert all(len(turns.written(message)["parts"][0]["content"]) > 2500 for message in kept[2::2]), (
        "on disk all is whole"
    )


async def test_a_prompt_that_can_never_fit_is_an_error_with_both_counts() -> None:
    async with node_taking([ContextExceeded(9000, 8192)]) as (node, _):
        with pytest.raises(ContextExceeded, match="9000 tokens and the context holds 8192"):
            await agent(node.url, RecordingHost()).run("too long")
