"""What the document says of one route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from swarm.gateway.http.route_kinds import Kind, kind_of
from swarm.generation import JsonObject

Method = Literal["get", "post", "delete", "put", "patch"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route for clients. `answer` is the JSON body of its 200, `streams` the media type it may have instead.

    `errors` is the body of every refusal; `others` are the answers of further statuses, whose body is not an error.
    Which refusals there are follows from the rest: see `document.refusals`.
    """

    method: Method
    path: str
    summary: str
    tag: str
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    streams: str | None = None
    errors: type[BaseModel] | None = None
    others: Mapping[int, type[BaseModel]] = field(default_factory=dict[int, type[BaseModel]])
    example: JsonObject | None = None

    @property
    def kind(self) -> Kind:
        """What it does, and so who may ask it."""
        kind = kind_of(self.method.upper(), self.path)
        assert kind is not None, f"{self.method} {self.path} has no kind: name it in `route_kinds.py`"
        return kind

    @property
    def voted(self) -> bool:
        """Whether its answers tell how the vote went."""
        return self.answer is not None and "swarm" in self.answer.model_fields and self.body is not None
