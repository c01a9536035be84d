"""The agent: a client of a swarm like any other, that does what was asked by tools, each step decided by votes.

`from swarm.agent import Agent, Tool` is the library; importing it loads nothing that a node does not need.
"""

from swarm.agent.agent import Agent, ModelChoice
from swarm.agent.function_tools import Tool

__all__ = ["Agent", "ModelChoice", "Tool"]
