"""A node that lies about everything it can: its size, its slots, its speed, its queue, and in every answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from federation.advertisement import NodeDescription
from swarm.generation import GenerationRequest
from tests.doubles.running_node import Loader, NodeOptions, RunningNode, ready
from tests.doubles.scripted_engine import ScriptedEngine

LARGE = "llama3.3:70b:q4_k_m"  # a name of the catalogue, which anybody can use
SLOTS = 32
_SUM = re.compile(r"-?\d+(?: [+-] \d+)+")


@dataclass(frozen=True, slots=True)
class Claims:
    """What the liar says of itself beside its model's name, which its engine has."""

    params: int | None = 10**15
    slots: int = 4096
    tokens_per_s: float | None = 1e7


class LyingNode(RunningNode):
    """As `RunningNode`; what it tells peers of its models are the claims."""

    def __init__(self, name: str, loader: Loader, options: NodeOptions, claims: Claims | None = None) -> None:
        super().__init__(name, loader, options=options)
        self._claims = claims or Claims()

    def describe(self) -> NodeDescription:
        honest, claims = super().describe(), self._claims
        boast = {
            "params": claims.params,
            "slots": claims.slots,
            "slots_free": claims.slots,
            "tokens_per_s": claims.tokens_per_s,
            "waiting": 0,
            "wait_s": None,
        }
        models = tuple(model.model_copy(update=boast) for model in honest.models)
        return honest.model_copy(update={"models": models, "slots_free": claims.slots})


def lie(request: GenerationRequest) -> str:
    """A wrong answer that looks right: a sum that is asked for, and one more; else always the same number."""
    asked = " ".join(str(message.get("content")) for message in request.messages or ())
    found = _SUM.search(asked)
    terms = re.findall(r"([+-]?) ?(\d+)", found.group()) if found else []
    total = sum(-int(number) if sign == "-" else int(number) for sign, number in terms)
    return f"Answer: {total + 1 if found else 13}"


def liar(name: str, options: NodeOptions, *, model: str, claims: Claims | None = None) -> LyingNode:
    """A node "name" that serves `model` by name, and lies; to be made in a running event loop."""
    engine = ScriptedEngine(lambda request, _: [lie(request)], model_id=model, slots=SLOTS)
    return LyingNode(name, ready(engine), options, claims)
