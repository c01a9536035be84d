"""The lines that a node and its engine's process exchange: one JSON value each, with no code in it.

The node sends, after one line with the order, objects with a `do`; some have a `call`, a number that their answer has:

    {"do": "render", "call", "messages", "tools", "variables"}   -> {"call", "result": text}
    {"do": "tokenize", "call", "text", "add_special", "parse_special"}   -> {"call", "result": [token, ...]}
    {"do": "pieces", "call", "tokens"}   -> {"call", "result": [bytes, ...]}
    {"do": "embed", "call", "tokens"}   -> {"call", "result": [number, ...]}
    {"do": "steps", "call"}   -> {"call", "result": [steps, busy]}, by the thread that computes, between two steps
    {"do": "begin", "job"}, {"do": "stop", "job", "choice"}, {"do": "forget", "call"}

The process answers {"facts"}, or {"error", "unknown_architecture"}, once; then `call`s as they are done ({"call",
"error"} for one that failed), and {"events": [...]} after steps. Bytes are strings of which each character is a byte.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swarm.engines.hosted.generator import (
    Broke,
    Called,
    Ended,
    GeneratorEvent,
    GeneratorFacts,
    Job,
    JobSampling,
    LoadOrder,
    Logprobs,
    Piece,
    Read,
    TokenLogprob,
)
from swarm.engines.openai_dialect import TemplateRefused
from swarm.errors import BadRequest, EngineFailed, SwarmError

HostMessage = dict[str, Any]
REFUSALS: Mapping[str, type[BadRequest]] = {"template": TemplateRefused, "bad request": BadRequest}


def line_of(message: Mapping[str, Any]) -> bytes:
    """`message` as one line. Half of a surrogate pair, which no UTF-8 has, travels as an escape."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def order_message(order: LoadOrder, load_limit_s: float) -> HostMessage:
    return {"order": {**asdict(order), "path": str(order.path)}, "load_limit_s": load_limit_s}


def order_in(message: HostMessage) -> tuple[LoadOrder, float]:
    """What is to be loaded, and in how many seconds."""
    fields: HostMessage = message["order"]
    made: HostMessage = {**fields, "path": Path(fields["path"])}
    return LoadOrder(**made), float(message["load_limit_s"])


def facts_message(facts: GeneratorFacts) -> HostMessage:
    return {"facts": asdict(facts)}


def facts_in(message: HostMessage) -> GeneratorFacts:
    fields: HostMessage = message["facts"]
    made: HostMessage = {**fields, "controls": tuple(fields["controls"]), "devices": tuple(fields["devices"])}
    return GeneratorFacts(**made)


def job_message(job: Job) -> HostMessage:
    return {"do": "begin", "job": asdict(job)}


def job_in(fields: HostMessage) -> Job:
    given: HostMessage = fields["sampling"]
    bias = tuple((int(token), float(value)) for token, value in given["logit_bias"])
    sampling: HostMessage = {**given, "logit_bias": bias}
    lists: HostMessage = {"prompt": tuple(fields["prompt"]), "tools": tuple(fields["tools"])}
    made: HostMessage = {**fields, **lists, "sampling": JobSampling(**sampling)}
    return Job(**made)


def pieces_message(pieces: Sequence[bytes]) -> list[str]:
    return [piece.decode("latin-1") for piece in pieces]


def pieces_in(message: Sequence[str]) -> list[bytes]:
    return [piece.encode("latin-1") for piece in message]


def error_message(error: SwarmError) -> HostMessage:
    """An error as it travels; what is no BadRequest has failed."""
    kind = next((name for name, refusal in REFUSALS.items() if isinstance(error, refusal)), "failed")
    return {"kind": kind, "message": str(error), "param": getattr(error, "param", None)}


def error_in(message: HostMessage) -> SwarmError:
    refusal = REFUSALS.get(message["kind"])
    return EngineFailed(message["message"]) if refusal is None else refusal(message["message"], message["param"])


def event_message(event: GeneratorEvent) -> list[Any]:
    """One event as a short list: there is one for each token."""
    match event:
        case Piece(job, choice, token, text, logprobs, kind):
            return ["p", job, choice, token, text.decode("latin-1"), _logprobs_message(logprobs), kind]
        case Read(job, cached):
            return ["r", job, cached]
        case Called(job, choice, index, name, arguments):
            return ["c", job, choice, index, name, arguments]
        case Ended(job, choice, reason, prompt, cached, completion):
            return ["e", job, choice, reason, prompt, cached, completion]
        case Broke(job, kind, words):
            return ["b", job, kind, words]


def event_in(message: Sequence[Any]) -> GeneratorEvent:
    """Raises ValueError for what is no event."""
    match message:
        case ["p", job, choice, token, text, logprobs, kind]:
            return Piece(job, choice, token, text.encode("latin-1"), _logprobs_in(logprobs), kind)
        case ["r", job, cached]:
            return Read(job, cached)
        case ["c", job, choice, index, name, arguments]:
            return Called(job, choice, index, name, arguments)
        case ["e", job, choice, reason, prompt, cached, completion]:
            return Ended(job, choice, reason, prompt, cached, completion)
        case ["b", job, kind, words]:
            return Broke(job, kind, words)
        case _:
            raise ValueError(f"the engine sent what is no event: {message!r:.100}")


def _logprobs_message(logprobs: Logprobs | None) -> list[Any] | None:
    if logprobs is None:
        return None
    return [[each.token, each.text.decode("latin-1"), each.logprob] for each in (logprobs.drawn, *logprobs.top)]


def _logprobs_in(message: Sequence[Any] | None) -> Logprobs | None:
    if message is None:
        return None
    drawn, *top = (TokenLogprob(token, text.encode("latin-1"), value) for token, text, value in message)
    return Logprobs(drawn, tuple(top))
