"""The tokens of one answer as text that clients may see: whole characters, and nothing of a stop string. Pure.

A token's bytes may be part of a character, and a stop string may be spread over tokens. So text waits for the rest of a
character, and for as long as it may become a stop string; no longer. Log-probabilities go with the text of their token:
those of a stop string are not shown, as its text is not.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from swarm.engines.hosted.generator import Ended, JobSampling, Logprobs, Piece, TokenLogprob
from swarm.generation import (
    MIN_REPEAT_PENALTY,
    Delta,
    Finish,
    FinishReason,
    GenerationRequest,
    JsonObject,
    Usage,
    steady_temperature,
)

# llama.cpp's own defaults, for every engine: a request that leaves them open is answered alike by all.
TEMPERATURE, TOP_P, TOP_K, MIN_P = 0.8, 0.95, 40, 0.05


class ShownText:
    """One answer as it grows. `stop` is the stop string that ended it, once one has."""

    def __init__(self, choice: int, stops: Sequence[str] = ()) -> None:
        self._choice = choice
        self._stops = tuple(filter(None, stops))
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._thoughts = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._logprobs: list[tuple[int, JsonValue]] = []  # where in `held` the text of each begins
        self.stop: str | None = None
        self.tokens = 0

    def read(self, piece: Piece) -> list[Delta]:
        """What to show of one token; nothing follows after `stop`."""
        self.tokens += 1
        if piece.kind == "call":
            return []
        if piece.kind == "thought":
            logprobs = None if piece.logprobs is None else _content([logprobs_in_chat(piece.logprobs)])
            thought = self._thoughts.decode(piece.text)
            return [Delta(self._choice, reasoning=thought, logprobs=logprobs)] if thought or logprobs else []
        if piece.logprobs is not None:
            self._logprobs.append((len(self._held), logprobs_in_chat(piece.logprobs)))
        searched = max(0, len(self._held) - self._longest + 1)
        self._held += self._decoder.decode(piece.text)
        found = _first_stop(self._held, self._stops, searched)
        if found is None:
            return self._released(len(self._held) - self._waiting())
        at, self.stop = found
        shown = self._released(at)
        self._held, self._logprobs = "", []
        return shown

    def rest(self) -> list[Delta]:
        """What to show once the answer has ended: half a character is one that cannot be read."""
        thought, self._held = self._thoughts.decode(b"", True), self._held + self._decoder.decode(b"", True)
        shown = [Delta(self._choice, reasoning=thought)] if thought else []
        return [*shown, *self._released(len(self._held) + 1)]

    def finish(self, ended: Ended, called: bool) -> Finish:
        """The answer's end; `called` where there were calls in it."""
        reason: FinishReason = "tool_calls" if called and ended.reason == "stop" else ended.reason
        usage = Usage(
            prompt_tokens=ended.prompt_tokens,
            completion_tokens=ended.completion_tokens,
            cached_tokens=ended.cached_tokens,
        )
        return Finish(self._choice, reason, usage)

    def stopped(self, prompt_tokens: int, cached_tokens: int, reason: FinishReason = "stop") -> Finish:
        """The end of an answer that one of its stop strings ended, or the one call that it may have."""
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=self.tokens, cached_tokens=cached_tokens)
        return Finish(self._choice, reason, usage, self.stop)

    def _waiting(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        most = min(self._longest - 1, len(self._held))
        return next(
            (size for size in range(most, 0, -1) if any(stop.startswith(self._held[-size:]) for stop in self._stops)), 0
        )

    def _released(self, size: int) -> list[Delta]:
        """The first `size` characters of what is held, with what goes with the tokens that begin in them."""
        text, self._held = self._held[:size], self._held[size:]
        shown = [entry for at, entry in self._logprobs if at < size]
        self._logprobs = [(at - size, entry) for at, entry in self._logprobs if at >= size]
        if not text and not shown:
            return []
        return [Delta(self._choice, text, logprobs=_content(shown) if shown else None)]


def _first_stop(text: str, stops: Iterable[str], searched: int) -> tuple[int, str] | None:
    """Where the first of `stops` begins in `text`, and which it is: of those that begin together the longest."""
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop, searched)) >= 0]
    if not found:
        return None
    at, _, stop = min(found)
    return at, stop


def _content(entries: list[JsonValue]) -> JsonObject:
    return {"content": entries}


def logprobs_in_chat(logprobs: Logprobs) -> JsonObject:
    """One token's log-probabilities in chat's form."""
    return {**_entry(logprobs.drawn), "top_logprobs": [_entry(each) for each in logprobs.top]}


def _entry(each: TokenLogprob) -> JsonObject:
    return {"token": each.text.decode("utf-8", "replace"), "logprob": each.logprob, "bytes": list(each.text)}


def sampling_of(request: GenerationRequest, seed: int) -> JobSampling:
    """How tokens are drawn for `request`; `seed` where it names none."""
    given = request.seed
    return JobSampling(
        temperature=steady_temperature(TEMPERATURE if request.temperature is None else request.temperature),
        top_p=TOP_P if request.top_p is None else request.top_p,
        top_k=TOP_K if request.top_k is None else request.top_k,
        min_p=MIN_P if request.min_p is None else request.min_p,
        repeat_penalty=1.0 if request.repeat_penalty is None else max(request.repeat_penalty, MIN_REPEAT_PENALTY),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        seed=seed if given is None else given,
        logit_bias=tuple((int(token), value) for token, value in (request.logit_bias or {}).items()),
        top_logprobs=request.top_logprobs if request.logprobs else None,
        first_temperature=None if request.first_temperature is None else steady_temperature(request.first_temperature),
    )
