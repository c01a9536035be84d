"""The agent as a library: what it asks, what it may do, and sessions of it.

Making one loads nothing heavy. pydantic-ai, which speaks the protocols, is loaded when a session is opened.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from swarm.agent.approval import ApprovalRules
from swarm.agent.events import RunEnded
from swarm.agent.function_tools import FunctionHost, Tool
from swarm.agent.session import (
    DEFAULT_TURNS,
    AfterTool,
    AgentListener,
    Approver,
    BeforeTool,
    Decider,
    Session,
    SessionOptions,
    refuse_all,
    stop_undecided,
)
from swarm.agent.step_vote import StepVotes
from swarm.errors import EngineFailed, SetupError, SwarmError
from swarm.providers import ThinkingLevel
from swarm.tools.tool import ToolHost

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model

DEFAULT_URL: Final = "http://127.0.0.1:17615"  # of a node on this machine
INSTALL: Final = "pip install 'local-swarm[agent]'"


def _unexplained(error: Exception) -> SwarmError:
    return error if isinstance(error, SwarmError) else EngineFailed(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model of pydantic-ai that is there already, what to call it, and the settings of its requests.

    `explain` says what the errors of its requests mean, as one of `swarm/errors.py`. `host` is where it is, if known.
    """

    model: Model[Any]
    name: str
    host: str | None = None
    explain: Callable[[Exception], SwarmError] = _unexplained
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Agent:
    """Does what it is asked by calling tools, each step decided by a vote of the swarm.

    ```python
    from swarm.agent import Agent, Tool

    def temperature(city: str) -> float:
        "The temperature in a city, in degrees Celsius."
        return 21.5

    agent = Agent(tools=[Tool(temperature, reads_only=True)], votes=5, ahead=3)
    ended = await agent.run("How warm is it in Paris?")
    print(ended.output)
    ```

    `model` is a name that the node at `url` serves ("swarm" is the best that there is), or a ModelChoice: any model
    of pydantic-ai. `api_key` is for the node. `tools` are functions; `hosts` are tool hosts, which sessions enter and
    leave. `votes`, `ahead` and `min_agreement` say how each step is voted on, None leaves it to the node; `thinking`
    how much the node's model is to think. They are for a name: with a ModelChoice, which has settings of its own, they
    raise SetupError.

    `grants` are the tools that run unasked, besides those that only read ("all": every tool); for the others
    `approve` is asked, and without one they are refused. `decide` is asked where a step with calls was not decided;
    without one the run ends. `before_tool` and `after_tool` see each call, and may change it. `sequential`: calls of
    one step never run side by side. `max_turns`: answers of the model in one run. `tell` is told, in a sentence, that
    the node is busy and will be asked again.
    """

    def __init__(
        self,
        model: str | ModelChoice = "swarm",
        *,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        tools: Sequence[Tool] = (),
        hosts: Sequence[ToolHost] = (),
        instructions: str | None = None,
        votes: int | None = None,
        ahead: int | None = None,
        min_agreement: float | None = None,
        thinking: ThinkingLevel | None = None,
        grants: Collection[str] = (),
        approve: Approver = refuse_all,
        decide: Decider = stop_undecided,
        before_tool: BeforeTool | None = None,
        after_tool: AfterTool | None = None,
        sequential: bool = False,
        max_turns: int = DEFAULT_TURNS,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if max_turns < 1:
            raise SetupError(f"max_turns is {max_turns}, and at least 1")
        if isinstance(model, ModelChoice) and (votes, ahead, min_agreement, thinking) != (None,) * 4:
            raise SetupError("votes, ahead and thinking are for a node's model; a ModelChoice has settings of its own")
        self._model, self._url, self._key = model, url, api_key
        self._hosts: list[ToolHost] = [*hosts, *([FunctionHost(tools)] if tools else [])]
        self._tell = tell
        self._votes = StepVotes(votes, ahead, min_agreement)
        self._thinking: ThinkingLevel | None = thinking
        self._rules = ApprovalRules(frozenset(grants))
        self._rest: dict[str, Any] = {
            "instructions": instructions,
            "approve": approve,
            "decide": decide,
            "before_tool": before_tool,
            "after_tool": after_tool,
            "sequential": sequential,
            "max_turns": max_turns,
        }

    @asynccontextmanager
    async def session(
        self,
        name: str | None = None,
        messages: Sequence[ModelMessage] = (),
        keep: Callable[[ModelMessage], None] | None = None,
    ) -> AsyncGenerator[Session]:
        """A conversation that goes on from `messages`. Leaving it aborts what runs, and ends what tools have started.

        `keep` gets each message as it joins. Raises SetupError where pydantic-ai is not installed, and what a host
        raises that cannot be entered.
        """
        await asyncio.to_thread(require_pydantic_ai)  # the first time it takes seconds
        async with AsyncExitStack() as stack:
            choice = self._chosen()
            await stack.enter_async_context(choice.model)
            yield await self._opened(choice, stack, name or secrets.token_hex(4), messages, keep)

    async def _opened(
        self,
        choice: ModelChoice,
        stack: AsyncExitStack,
        name: str,
        messages: Sequence[ModelMessage],
        keep: Callable[[ModelMessage], None] | None,
    ) -> Session:
        options = SessionOptions(
            model=choice.model,
            model_name=choice.name,
            explain=choice.explain,
            settings=choice.settings,
            hosts=self._hosts,
            rules=self._rules,
            **self._rest,
        )
        for host in self._hosts:
            await stack.enter_async_context(host)
        return Session(name, options, messages, keep)

    async def run(self, prompt: str, listener: AgentListener | None = None) -> RunEnded:
        """Do what `prompt` asks in a session of its own. Raises SwarmError where that fails."""
        async with self.session() as session:
            if listener is not None:
                session.subscribe(listener)
            return await session.run(prompt)

    def _chosen(self) -> ModelChoice:
        if isinstance(self._model, ModelChoice):
            return self._model
        from swarm.agent.swarm_model import make_swarm_model, node_error, swarm_settings

        model = make_swarm_model(self._url, self._model, self._key, tell=self._tell)
        settings = dict(swarm_settings(self._votes, self._thinking))
        return ModelChoice(model, self._model, explain=lambda error: node_error(error, self._url), settings=settings)


def require_pydantic_ai() -> None:
    """Load what the agent needs. Blocks. Raises SetupError, with the remedy, where it is not installed."""
    try:
        for module in ("swarm_model", "turns"):
            importlib.import_module(f"swarm.agent.{module}")
    except ModuleNotFoundError as error:
        raise SetupError(f"the agent needs {error.name}, which is not installed: {INSTALL}") from error
