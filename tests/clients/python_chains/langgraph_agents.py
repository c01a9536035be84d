"""LangGraph: its prebuilt agent, LangChain's agent that is built on it, and a graph of one's own, all with a memory."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, create_react_agent, tools_condition
from with_langchain import City, get_weather, refusal

THREAD: Any = {"configurable": {"thread_id": "1"}}


def chat(node: Any, name: str | None = None) -> ChatOpenAI:
    return ChatOpenAI(model=name or node.model, base_url=node.base_url, api_key=node.key)


def graph(llm: ChatOpenAI, tools: Any) -> Any:
    """A model and its tools in turn, as LangGraph's own introduction writes it."""
    bound = llm.bind_tools(tools) if tools else llm

    async def ask(state: MessagesState) -> Any:
        return {"messages": [await bound.ainvoke(state["messages"])]}

    def ask_blocking(state: MessagesState) -> Any:
        return {"messages": [bound.invoke(state["messages"])]}

    made = StateGraph(MessagesState)
    made.add_node("model", RunnableLambda(ask_blocking, ask))
    made.add_node("tools", ToolNode(tools))
    made.add_edge(START, "model")
    made.add_conditional_edges("model", tools_condition)
    made.add_edge("tools", "model")
    return made.compile(checkpointer=InMemorySaver())


def react(llm: ChatOpenAI, tools: Any) -> Any:
    return create_react_agent(llm, tools, checkpointer=InMemorySaver())


def agent(llm: ChatOpenAI, tools: Any) -> Any:
    return create_agent(llm, tools, checkpointer=InMemorySaver())


MAKE: Any = {"graph": graph, "react": react, "agent": agent}


def asked(task: str) -> Any:
    return {"messages": [("user", task)]}


def text(kind: str, node: Any) -> Any:
    made = MAKE[kind](chat(node), [])
    first = made.invoke(asked(node.text_task), THREAD)["messages"][-1]
    again = made.invoke(asked("Thank you."), THREAD)["messages"]
    tokens = first.usage_metadata["output_tokens"]
    return {"text": first.text, "again": again[-1].text, "turns": len(again), "output_tokens": tokens}


def stream(kind: str, node: Any) -> Any:
    """Words as they come, and beside them what each step changed and the state after it."""
    seen: dict[str, list[Any]] = {"messages": [], "updates": [], "values": []}
    made = MAKE[kind](chat(node), [])
    for mode, what in made.stream(asked(node.text_task), THREAD, stream_mode=list(seen)):
        seen[mode].append(what)
    pieces = [part.text for part, _ in seen["messages"] if part.text]
    (update,) = [change for update in seen["updates"] for change in update.values()]
    states = [len(state["messages"]) for state in seen["values"]]
    return {"pieces": pieces, "text": update["messages"][-1].text, "states": states}


def loop(kind: str, node: Any, streamed: bool) -> Any:
    """To the end of the loop, and what the graph's memory has then."""
    made = MAKE[kind](chat(node), [get_weather])
    if streamed:
        for _ in made.stream(asked(node.tool_task), THREAD, stream_mode="messages"):
            pass
    else:
        made.invoke(asked(node.tool_task), THREAD)
    turns = made.get_state(THREAD).values["messages"]
    cities = [call["args"]["city"] for turn in turns for call in getattr(turn, "tool_calls", ())]
    return {"cities": cities, "text": turns[-1].text}


def tools(kind: str, node: Any) -> Any:
    return loop(kind, node, streamed=False)


def streamed_tools(kind: str, node: Any) -> Any:
    return loop(kind, node, streamed=True)


async def cancel_async(kind: str, node: Any) -> Any:
    made = MAKE[kind](chat(node), [])
    parts = made.astream(asked(node.endless_task), THREAD, stream_mode="messages")
    while not (await anext(parts))[0].text:
        pass
    await asyncio.to_thread(node.until_busy)
    await parts.aclose()
    await asyncio.to_thread(node.until_idle)
    return "left"


async def cancel_whole(kind: str, node: Any) -> Any:
    running = asyncio.ensure_future(MAKE[kind](chat(node), []).ainvoke(asked(node.endless_task), THREAD))
    await node.leaves(running)
    return "left"


def unknown_model(kind: str, node: Any) -> Any:
    made = MAKE[kind](chat(node, node.unknown_model), [])
    return refusal(node, 404, lambda: made.invoke(asked(node.text_task), THREAD))


def structured(make: Any, node: Any) -> Any:
    made = make(chat(node)).invoke(asked(node.object_task))["structured_response"]
    return {"type": type(made).__name__, "value": made.model_dump(), "asked": node.last_asked()}


STRUCTURED: Any = {
    "react structured": lambda llm: create_react_agent(llm, [], response_format=City),
    "agent structured by the server": lambda llm: create_agent(llm, [], response_format=ProviderStrategy(City)),
    "agent structured by a tool": lambda llm: create_agent(llm, [], response_format=ToolStrategy(City)),
}
EACH = (text, stream, tools, streamed_tools, cancel_async, cancel_whole, unknown_model)
CELLS = {
    **{f"{kind} {cell.__name__}": partial(cell, kind) for kind in MAKE for cell in EACH},
    **{name: partial(structured, make) for name, make in STRUCTURED.items()},
}
