"""A session of the agent: its messages, what it is doing, who listens, and the loop from what was asked to the end.

What follows from what is decided in plain functions beside this (`call_checks`, `approval`, `step_vote`); here are the
effects: asking the model, executing calls, waiting for people. One run at a time. Between two requests the messages
are always such that a model can be asked on: every call has a result, if only one that says why there is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import JsonValue

from federation.tasks import cancel_and_wait
from swarm.agent.approval import NOT_EXECUTED, ApprovalAnswer, ApprovalRules, NotApproved, UndecidedAnswer, refusal
from swarm.agent.call_checks import AskedCall, CheckedCall, batches, check_arguments, check_call
from swarm.agent.events import (
    AgentEvent,
    EndReason,
    ResultsCut,
    RunEnded,
    RunFailed,
    RunStarted,
    Steered,
    StepVoted,
    TextPiece,
    ThoughtPiece,
    ToolAsked,
    ToolDone,
    When,
)
from swarm.agent.step_vote import is_decided
from swarm.errors import BadRequest, ContextExceeded, SwarmError
from swarm.tools.tool import ToolDefinition, ToolHost, ToolResult

if TYPE_CHECKING:
    from collections.abc import Generator

    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model

    from swarm.agent.turns import ModelAnswer

DEFAULT_TURNS: Final = 25
CHARS_PER_TOKEN: Final = 4  # at most, in what tools print: so much is cut at least
ROOM: Final = 0.25  # of the context that is made free at once: each cut has the whole prompt read anew
NOT_RUN: Final = 126  # the exit code of a call that was not executed, as shells have it
ABORTED: Final = f"{NOT_EXECUTED}the run was aborted"
LOST: Final = "the agent ended before it kept a result: this may have been executed, in part or in whole"
INTERRUPTED: Final = "aborted while it ran: what it had done until then stays"

AgentListener = Callable[[AgentEvent], None]
SessionState = Literal["idle", "asking", "executing", "waiting"]
Approver = Callable[[ToolDefinition, Mapping[str, JsonValue]], Awaitable[ApprovalAnswer]]
Decider = Callable[[StepVoted], Awaitable[UndecidedAnswer]]
BeforeTool = Callable[[str, Mapping[str, JsonValue]], Awaitable[Mapping[str, JsonValue] | ToolResult | None]]
AfterTool = Callable[[str, Mapping[str, JsonValue], ToolResult], Awaitable[ToolResult | None]]


async def refuse_all(tool: ToolDefinition, _: Mapping[str, JsonValue]) -> ApprovalAnswer:
    """Nobody is there to ask."""
    return NotApproved(f"nobody is there to be asked whether {tool.name} may run (--yes {tool.name} lets it)")


async def stop_undecided(_: StepVoted) -> UndecidedAnswer:
    """Nobody is there to ask."""
    return "stop"


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a session is given. `settings` go with each request to the model; `explain` says what its errors mean.

    `approve` is asked for each call that `rules` do not let run unasked; `decide` for each step that calls tools and
    was not decided. `before_tool` may return other arguments, or the result in place of the call's; `after_tool`
    another result. `sequential`: calls never run side by side. `max_turns`: answers of the model in one run.
    """

    model: Model[Any]
    model_name: str
    explain: Callable[[Exception], SwarmError]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    hosts: Sequence[ToolHost] = ()
    instructions: str | None = None
    rules: ApprovalRules = field(default_factory=ApprovalRules)
    approve: Approver = refuse_all
    decide: Decider = stop_undecided
    before_tool: BeforeTool | None = None
    after_tool: AfterTool | None = None
    sequential: bool = False
    max_turns: int = DEFAULT_TURNS
    clock: Callable[[], float] = time.monotonic


class Session:
    """A conversation with an agent that acts. `keep` gets each message as it joins the conversation."""

    def __init__(
        self,
        name: str,
        options: SessionOptions,
        messages: Sequence[ModelMessage] = (),
        keep: Callable[[ModelMessage], None] | None = None,
    ) -> None:
        self.name = name
        self.state: SessionState = "idle"
        self.rules = options.rules
        self._options = options
        self._messages: list[ModelMessage] = list(messages)
        self._keep = keep
        self._listeners: list[AgentListener] = []
        self._queue: list[tuple[str, When]] = []
        self._work: asyncio.Task[RunEnded] | None = None
        self._step = 0
        self._waited_s = 0.0

    @property
    def messages(self) -> tuple[ModelMessage, ...]:
        """The conversation so far, as pydantic-ai's messages."""
        return tuple(self._messages)

    def subscribe(self, listener: AgentListener) -> Callable[[], None]:
        """Tell `listener` everything from now on; the function that is returned ends it.

        What a listener raises ends the run, as an error of the run itself does.
        """
        self._listeners.append(listener)

        def leave() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return leave

    def enqueue(self, text: str, when: When = "asap") -> None:
        """Words for a session that works: with its next step ("asap"), or when it would otherwise be done.

        What comes when nothing runs begins the next run, before what that is asked.
        """
        self._queue.append((text, when))

    def abort(self) -> None:
        """End the run: the model's answer is dropped, running tools end with all that they started."""
        if self._work is not None:
            self._work.cancel()

    async def run(self, prompt: str) -> RunEnded:
        """Work until the model calls no more tools. Cancelling it is an abort.

        Raises BadRequest where a run is under way, and the SwarmError for which a run cannot go on; both leave the
        session usable.
        """
        if self._work is not None:
            raise BadRequest("this session is at work: enqueue what you want to add, or abort it first")
        self._work = work = asyncio.create_task(self._run(prompt), name=f"agent {self.name}")
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            await cancel_and_wait(work)
            raise
        finally:
            self._work, self.state = None, "idle"
        return self._ended("aborted", "") if work.cancelled() else work.result()  # cancelled: before it began

    async def _run(self, prompt: str) -> RunEnded:
        from swarm.agent import turns

        began = self._options.clock()
        self._step, self._waited_s = 0, 0.0
        tools = self._tools()
        self._tell(RunStarted(self.name, self._options.model_name, tuple(tools), prompt))
        try:
            self._settle(LOST)
            self._add(turns.said([*self._taken("asap"), *self._taken("when_idle"), prompt], self._options.instructions))
            reason, output = await self._steps(tools)
        except SwarmError as error:
            self._tell(RunFailed(type(error).__name__, str(error)))
            self._ended("failed", "", began)
            raise
        except asyncio.CancelledError:
            self._settle(ABORTED)
            reason, output = "aborted", ""
        return self._ended(reason, output, began)

    async def _steps(self, tools: Mapping[str, tuple[ToolDefinition, ToolHost]]) -> tuple[EndReason, str]:
        from swarm.agent import turns

        definitions = [definition for definition, _ in tools.values()]
        output = ""
        while self._step < self._options.max_turns:
            self._step += 1
            answer, vote = await self._ask(definitions)
            output = answer.text or output
            if vote is not None and not vote.decided:
                decision = await self._decision(vote)
                if decision == "stop":
                    return "undecided", output
                if decision == "again":
                    continue
            self._add(answer.message)
            if answer.calls:
                checked = [check_call(call, definitions, cut=answer.cut) for call in answer.calls]
                done = await self._execute(checked, tools)
                self._add(turns.results(done, self._taken("asap"), self._options.instructions))
                continue
            if more := self._taken("asap") or self._taken("when_idle", most=1):
                self._add(turns.said(more, self._options.instructions))
                continue
            return ("cut" if answer.cut else "done"), output
        return "max_turns", output

    async def _ask(self, definitions: Sequence[ToolDefinition]) -> tuple[ModelAnswer, StepVoted | None]:
        """The model's answer, and how it was decided: None where nobody voted."""
        from swarm.agent import turns

        self.state = "asking"
        step, options = self._step, self._options
        began = options.clock()
        while True:
            try:
                with self._waiting():
                    answer = await turns.ask_model(
                        options.model,
                        options.settings,
                        self._messages,
                        definitions,
                        lambda text: self._tell(TextPiece(step, text)),
                        lambda text: self._tell(ThoughtPiece(step, text)),
                    )
                break
            except (SwarmError, *turns.MODEL_ERRORS) as error:
                explained = error if isinstance(error, SwarmError) else options.explain(error)
                if not (isinstance(explained, ContextExceeded) and self._shorten(explained)):
                    raise explained from error
        if answer.account is None:
            return answer, None
        decided = is_decided(answer.account, acts=_acts(answer, definitions))
        vote = StepVoted(step, answer.account, decided, round((options.clock() - began) * 1000), answer.calls)
        self._tell(vote)
        return answer, vote

    def _shorten(self, error: ContextExceeded) -> bool:
        """Cut old results, and whether there were any; what is kept on disk stays whole."""
        from swarm.agent import turns

        over_tokens = error.prompt_tokens - error.context_tokens + round(error.context_tokens * ROOM)
        self._messages, cut = turns.with_results_shortened(self._messages, over_tokens * CHARS_PER_TOKEN)
        if cut:
            self._tell(ResultsCut(self._step, cut))
        return cut > 0

    async def _decision(self, vote: StepVoted) -> UndecidedAnswer:
        self.state = "waiting"
        with self._waiting():
            return await self._options.decide(vote)

    async def _execute(
        self, calls: Sequence[CheckedCall], tools: Mapping[str, tuple[ToolDefinition, ToolHost]]
    ) -> list[tuple[AskedCall, ToolResult]]:
        """A result for each call, in their order. People are asked before the first one runs."""
        from swarm.agent import turns

        done: dict[str, ToolResult] = {}
        ready: list[CheckedCall] = []
        begun: set[str] = set()
        try:
            for call in calls:
                asked = call.asked
                self._tell(ToolAsked(self._step, asked.id, asked.tool, call.arguments, asked.arguments))
                allowed = call if call.problem is not None else await self._approved(call)
                if allowed.problem is None:
                    ready.append(allowed)
                else:
                    done[asked.id] = self._not_run(asked, allowed.problem)
            self.state = "executing"
            for batch in batches(ready, sequential=self._options.sequential):
                begun.update(call.asked.id for call in batch)
                with self._waiting():
                    await self._side_by_side(batch, tools, done)
        except asyncio.CancelledError:
            for call in calls:
                if call.asked.id not in done:
                    why = INTERRUPTED if call.asked.id in begun else ABORTED
                    done[call.asked.id] = self._not_run(call.asked, why)
            self._add(turns.results([(call.asked, done[call.asked.id]) for call in calls]))
            raise
        return [(call.asked, done[call.asked.id]) for call in calls]

    async def _side_by_side(
        self,
        batch: Sequence[CheckedCall],
        tools: Mapping[str, tuple[ToolDefinition, ToolHost]],
        done: dict[str, ToolResult],
    ) -> None:
        async def one(call: CheckedCall) -> None:
            host = tools[call.asked.tool][1]
            done[call.asked.id] = result = await self._call(host, call.asked.tool, call.arguments or {})
            self._tell(ToolDone(self._step, call.asked.id, call.asked.tool, result))

        running = [asyncio.create_task(one(call), name=f"tool {call.asked.tool}") for call in batch]
        try:
            await asyncio.gather(*running)
        finally:
            await cancel_and_wait(*running)

    async def _call(self, host: ToolHost, tool: str, arguments: Mapping[str, JsonValue]) -> ToolResult:
        if self._options.before_tool is not None:
            before = await self._options.before_tool(tool, arguments)
            if isinstance(before, ToolResult):
                return before
            arguments = arguments if before is None else before
        try:
            result = await host.execute(tool, arguments)
        except SwarmError as error:  # the model may know better, and the person sees it: the session goes on
            where = f" ({error.param})" if isinstance(error, BadRequest) and error.param else ""
            result = ToolResult(f"{NOT_EXECUTED}{error}{where}", NOT_RUN)
        if self._options.after_tool is not None:
            result = await self._options.after_tool(tool, arguments, result) or result
        return result

    async def _approved(self, call: CheckedCall) -> CheckedCall:
        """The call as it may run, or with the problem that it may not."""
        definition, arguments = call.definition, call.arguments
        assert definition is not None
        assert arguments is not None
        if self.rules.runs_unasked(definition):
            return call
        self.state = "waiting"
        with self._waiting():
            answer = await self._options.approve(definition, arguments)
        if isinstance(answer, NotApproved):
            return replace(call, problem=refusal(answer.why))
        if answer.always:
            self.rules = self.rules.with_granted(definition.name)
        if answer.arguments is None:
            return call
        return check_arguments(call.asked, definition, dict(answer.arguments))

    def _not_run(self, asked: AskedCall, why: str) -> ToolResult:
        result = ToolResult(why, NOT_RUN)
        self._tell(ToolDone(self._step, asked.id, asked.tool, result, executed=False))
        return result

    def _tools(self) -> dict[str, tuple[ToolDefinition, ToolHost]]:
        """All tools by name; of two with one name the host that was given first has it."""
        found: dict[str, tuple[ToolDefinition, ToolHost]] = {}
        for host in self._options.hosts:
            for definition in host.tools():
                found.setdefault(definition.name, (definition, host))
        return found

    def _taken(self, when: When, most: int | None = None) -> list[str]:
        """The words that wait for this moment; they have joined the conversation then."""
        found = [each for each in self._queue if each[1] == when][:most]
        for each in found:
            self._queue.remove(each)
            self._tell(Steered(*each))
        return [text for text, _ in found]

    def _settle(self, why: str) -> None:
        """Give each call of the last answer that has no result one that says why."""
        from swarm.agent import turns

        if missing := turns.orphaned(self._messages):
            told = [(call, ToolResult(why, NOT_RUN)) for call in missing]
            self._add(turns.results(told))

    def _add(self, message: ModelMessage) -> None:
        self._messages.append(message)
        if self._keep is not None:
            self._keep(message)

    def _ended(self, reason: EndReason, output: str, began: float | None = None) -> RunEnded:
        took_s = 0.0 if began is None else self._options.clock() - began
        ended = RunEnded(reason, output, self._step, round(took_s * 1000), round(self._waited_s * 1000))
        self._tell(ended)
        return ended

    def _tell(self, event: AgentEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    @contextmanager
    def _waiting(self) -> Generator[None]:
        """While the block runs, others work: the model, tools, people."""
        began = self._options.clock()
        try:
            yield
        finally:
            self._waited_s += self._options.clock() - began


def _acts(answer: ModelAnswer, definitions: Sequence[ToolDefinition]) -> bool:
    """Whether taking the step would run anything.

    Calls of tools that there are not, and with arguments that break the schema, abstain in votes, so that such a step
    is never decided; but none of them runs, and the model is to learn why.
    """
    return any(check_call(call, definitions, cut=answer.cut).problem is None for call in answer.calls)
