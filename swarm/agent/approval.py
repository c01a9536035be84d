"""Which calls may run unasked, and what a person may answer to one that may not. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import JsonValue

from swarm.tools.tool import ToolDefinition

ALL: Final = "all"
NOT_EXECUTED: Final = "not executed: "  # so begins what a model reads of a call that was not


@dataclass(frozen=True, slots=True)
class Approved:
    """It may run: this once, or from now on `always`; `arguments` where they were put right, else None."""

    always: bool = False
    arguments: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class NotApproved:
    """It may not run; `why` is told to the model."""

    why: str = ""


ApprovalAnswer = Approved | NotApproved
UndecidedAnswer = Literal["go on", "again", "stop"]


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """`granted` are the names of tools that run unasked besides those that only read; ALL in it is every tool."""

    granted: frozenset[str] = field(default_factory=frozenset[str])

    def runs_unasked(self, tool: ToolDefinition) -> bool:
        return tool.reads_only or ALL in self.granted or tool.name in self.granted

    def with_granted(self, name: str) -> ApprovalRules:
        """The same, and that tool runs unasked from now on."""
        return ApprovalRules(self.granted | {name})


def refusal(why: str) -> str:
    """What the model reads in place of a result."""
    said = f": {why}" if why else ""
    return f"{NOT_EXECUTED}the person who is asked did not allow it{said}"


def unknown_grants(granted: Collection[str], tools: Collection[str]) -> list[str]:
    """The names that were granted and are no tool here: a slip must not go unnoticed."""
    return sorted(name for name in granted if name != ALL and name not in tools)
