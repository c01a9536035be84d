"""The page's types (`types.d.ts`) are what the node tells: every field, and whether it may be null or left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import TypeAdapter

from swarm.control_messages import KnownCode, KnownNode, KnownNodes
from swarm.gateway.observing.events import MANAGED_PARTS, OPEN_PARTS
from swarm.gateway.observing.findings import FindingEntry
from swarm.gateway.observing.node_states import NodeState
from swarm.gateway.observing.performance import PerformanceView
from swarm.gateway.observing.usage import UsageEntry
from swarm.gateway.observing.view import FederationView, LendingEntry, OwnModel, RequestEntry, UpstreamEntry
from swarm.gateway.observing.vote_history import VoteCandidate, VoteEntry, VoteInFull
from swarm.gateway.page.models import StoredListing, StoredRow
from swarm.gateway.page.pulls import PullEntry
from swarm.gateway.page.rights import InvitedWithQr, OwnerSessionBody, PageRights
from swarm.logs import LogLine

TYPES: Final = Path(__file__).parents[2] / "swarm/gateway/page/static/js/types.d.ts"
KINDS: Final[Mapping[str, Any]] = {
    "OwnModel": OwnModel, "NodeState": NodeState, "FederationView": FederationView, "FindingEntry": FindingEntry,
    "VoteCandidate": VoteCandidate, "VoteEntry": VoteEntry, "VoteInFull": VoteInFull, "RequestEntry": RequestEntry,
    "UsageEntry": UsageEntry, "LogLine": LogLine, "PullEntry": PullEntry, "PageRights": PageRights,
    "OwnerSession": OwnerSessionBody, "StoredModel": StoredRow, "StoredModels": StoredListing,
    "Performance": PerformanceView, "KnownNode": KnownNode, "KnownCode": KnownCode, "KnownNodes": KnownNodes,
    "Invited": InvitedWithQr, "UpstreamEntry": UpstreamEntry, "LendingEntry": LendingEntry,
}  # fmt: skip
LEFT_OUT: Final = {"abstained", "answer"}  # fields of candidates that are there only with a value (`vote_object`)
TOKEN: Final = re.compile(r'\s*(?:(\w+)|("[^"]*")|(.))')

# A type is a set of alternatives: "string", "number", "boolean", "null", a literal with its quotation marks, or one of
# these tuples: ("array", type), ("record", type), ("object", {name: (whether it may be left out, type)})
Type = list[Any]


class Declarations:
    """What a file of types declares, read by a parser for as much of TypeScript as it uses."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        self._tokens = [match[1] or match[2] or match[3] for match in TOKEN.finditer(text.strip())]
        self._at = 0
        self.interfaces: dict[str, dict[str, tuple[bool, Type]]] = {}
        self.types: dict[str, Type] = {}
        while self._at < len(self._tokens):
            self._take("export")
            kind, name = self._next(), self._next()
            if kind == "type":
                self._take("=")
                self.types[name] = self._union()
                self._take(";")
                continue
            assert kind == "interface", kind
            inherited = self.interfaces[self._next()] if self._given("extends") else {}
            self.interfaces[name] = {**inherited, **self._fields()}

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _given(self, token: str) -> bool:
        given = self._tokens[self._at] == token
        self._at += given
        return given

    def _take(self, token: str) -> None:
        assert self._given(token), f"{token} is missing before {' '.join(self._tokens[self._at : self._at + 8])}"

    def _fields(self) -> dict[str, tuple[bool, Type]]:
        fields: dict[str, tuple[bool, Type]] = {}
        self._take("{")
        while not self._given("}"):
            name, optional = self._next(), self._given("?")
            self._take(":")
            fields[name] = optional, self._union()
            if not self._given("}"):
                self._take(";")
                continue
            break
        return fields

    def _union(self) -> Type:
        self._given("|")
        found = self._one()
        while self._given("|"):
            found = found + self._one()
        return found

    def _one(self) -> Type:
        if self._tokens[self._at] == "{":
            found: Type = [("object", self._fields())]
        elif self._given("("):
            found = self._union()
            self._take(")")
        else:
            found = self._named(self._next())
        while self._given("["):
            if self._given("]"):
                found = [("array", found)]
                continue
            [(_, fields)] = found
            found = fields[self._next().strip('"')][1]
            self._take("]")
        return found

    def _named(self, name: str) -> Type:
        if name == "Record":
            for token in ("<", "string", ","):
                self._take(token)
            found = [("record", self._union())]
            self._take(">")
            return found
        if name in self.interfaces:
            return [("object", self.interfaces[name])]
        return self.types.get(name, [name])


def told(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Type:
    """A JSON schema as a type."""
    if "$ref" in schema:
        return told(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        return [one for each in schema["anyOf"] for one in told(each, defs)]
    if "const" in schema or "enum" in schema:
        return [f'"{value}"' for value in schema.get("enum", [schema.get("const")])]
    kind = schema["type"]
    if kind == "array":
        return [("array", told(schema["items"], defs))]
    if kind == "object" and "properties" in schema:
        fields = {name: told(each, defs) for name, each in schema["properties"].items()}
        left_out = LEFT_OUT if "abstained" in fields else set[str]()
        return [
            (
                "object",
                {
                    name: (name in left_out, [one for one in each if name not in left_out or one != "null"])
                    for name, each in fields.items()
                },
            )
        ]
    if kind == "object":
        return [("record", told(schema["additionalProperties"], defs))]
    return ["number" if kind == "integer" else kind]


def differences(known: Type, told: Type, where: str) -> Iterator[str]:
    """How a type of the page is another than what the node tells. A page may know which words a text can be."""
    words = [one for one in known if str(one).startswith('"')]
    plain = [one for one in known if isinstance(one, str) and one not in words]
    plain_told = [one for one in told if isinstance(one, str) and not (one == "string" and words)]
    if sorted(set(plain + ([] if "string" in told else words))) != sorted(set(plain_told)):
        yield f"{where}: the page knows {known}, the node tells {told}"
    made = [one for one in known if not isinstance(one, str)]
    made_told = [one for one in told if not isinstance(one, str)]
    if [kind for kind, _ in made] != [kind for kind, _ in made_told]:
        yield f"{where}: the page knows {made}, the node tells {made_told}"
        return
    for (kind, inner), (_, inner_told) in zip(made, made_told, strict=True):
        if kind != "object":
            yield from differences(inner, inner_told, f"{where}[]")
            continue
        for name in sorted({*inner, *inner_told}):
            at = f"{where}.{name}"
            if name not in inner or name not in inner_told:
                yield f"{at}: only {'the page knows' if name in inner else 'the node tells'} it"
                continue
            if inner[name][0] != inner_told[name][0]:
                yield f"{at}: only {'the page thinks' if inner[name][0] else 'the node has it'} that it may be left out"
            yield from differences(inner[name][1], inner_told[name][1], at)


PAGE: Final = Declarations(TYPES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", KINDS)
def test_the_page_knows_what_the_node_tells(name: str) -> None:
    schema = TypeAdapter(KINDS[name]).json_schema(mode="serialization")
    node = told(schema, schema.get("$defs", {}))
    assert list(differences([("object", PAGE.interfaces[name])], node, name)) == []


def test_every_type_of_the_page_is_held_to_one_of_the_node() -> None:
    assert set(PAGE.interfaces) == set(KINDS)
    assert {one.strip('"') for one in PAGE.types["PartName"]} == {*OPEN_PARTS, *MANAGED_PARTS}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("a: string; b: number | null; c: { d: boolean }[]; e: Record<string, string[]>; f?: string", []),
        ('a: "x" | "y"; b: null | number; c: { d: boolean }[]; e: Record<string, string[]>; f?: string', []),
        ("a: string; b: number; c: { d: boolean }[]; e: Record<string, string[]>; f?: string", ["X.b: the page knows"]),
        ("a: string; b: number | null; c: { g: boolean }[]; e: Record<string, string[]>; f?: string", [
            "X.c[].d: only the node tells it", "X.c[].g: only the page knows it",
        ]),
        ("a: string; b: number | null; c: { d: boolean }; e: Record<string, string[]>; f: string", [
            "X.c: the page knows", "X.f: only the node has it that it may be left out",
        ]),
    ],
)  # fmt: skip
def test_differences_are_found(page: str, said: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string"}, "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "c": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "boolean"}}}},
            "e": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
        },
    }  # fmt: skip
    [(kind, fields)] = told(schema, {})
    node = [(kind, {**fields, "f": (True, ["string"])})]
    known = Declarations(f"export interface X {{ {page} }}").interfaces["X"]
    found = list(differences([("object", known)], node, "X"))
    assert len(found) == len(said), found
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), found
