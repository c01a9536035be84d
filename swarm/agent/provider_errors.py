"""Errors of providers, of whatever protocol, as errors of the one tree. Pure.

pydantic-ai has sorted them by status and code already. Here is what it cannot know: the words of those who have no
codes, what a person can do, and what must not be shown. What a provider wrote is text of others: bounded, printable,
without the key.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
)

from federation.printable_text import clean_line
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    Forbidden,
    LimitReached,
    NoSuchModel,
    SwarmError,
    Unauthorized,
    Unavailable,
    UpstreamFailed,
    UpstreamRefusal,
    UpstreamRefused,
)

MAX_SAID_CHARS: Final = 400  # of a provider's own words
MOST_NEAR: Final = 3  # names that may have been meant
LIKENESS: Final = 0.5  # of those, as difflib counts
MOST_WAIT_S: Final = 60  # who asks to wait longer is not waited for
SOON_S: Final = 2  # where a provider is overloaded or failed, and does not say when it may be better
AGAIN_S: Final = 30  # where a provider says that there was too much, and not when to come back
MOST_CAUSES: Final = 8  # of an error, one within the other
SECRET_CHARS: Final = 8  # what is shorter than that is no key, and may stand in any text
LEAST_CONTEXT: Final = 512  # tokens: smaller numbers in such a sentence are something else

# Of providers that send no code for it, or the same as for something else.
_WRONG_KEY: Final = ("incorrect api key", "invalid api key", "api key not valid", "authentication fails")
_NO_MODEL: Final = ("model not exist", "unknown model", "not a valid model", "model_not_found")
_TOO_LONG: Final = ("maximum prompt length", "maximum context length", "available context size", "context window")
_NO_CREDIT: Final = ("all available credits", "spending limit", "insufficient balance")
_NUMBER: Final = re.compile(r"\d[\d,]*")


@dataclass(frozen=True, slots=True)
class AskedProvider:
    """Who was asked for what, as far as an error has to say it.

    `name` is that of `swarm providers`, `variables` are where its key is looked for, `key` is the one that was sent.
    """

    name: str
    title: str
    host: str
    model: str
    variables: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # other values that no text may show: custom headers'


def translated(error: Exception, asked: AskedProvider, known: Callable[[], Collection[str]] = tuple) -> SwarmError:
    """`error` of a request to a provider, as one of the tree. `known` has names of its models, for the nearest."""
    if (ours := _ours_in(error)) is not None:
        return ours
    if not isinstance(error, ModelAPIError):  # what it sent follows no protocol
        return UpstreamFailed(asked.host, f"what it sent cannot be read: {_said(str(error), asked)}")
    said = message_of(error, asked)
    lowered = said.lower()
    if _says(lowered, _WRONG_KEY) or (isinstance(error, ModelAuthenticationError) and _status(error) != 403):
        return Unauthorized(_key_refused(asked, said), given=asked.key is not None)
    match error:
        case ModelAuthenticationError():
            return Forbidden(f"{asked.title} refuses the request: {said}", "provider_refuses")
        case ModelNotFoundError() | ModelRequestRejectedError() if _names_no_model(error, lowered, asked.model):
            names = tuple(known())
            return NoSuchModel(asked.name, asked.model, names, near_names(asked.model, names))
        case ModelNotFoundError():
            return UpstreamRefused(
                asked.host,
                UpstreamRefusal(404, f"there is nothing at the address that was asked: is the base URL right? {said}"),
            )
        case ModelContextWindowExceededError():
            return _too_long(asked, said)
        case ModelRequestRejectedError() if _says(lowered, _TOO_LONG):
            return _too_long(asked, said)
        case ModelQuotaExceededError() | ModelRateLimitError() if isinstance(error, ModelQuotaExceededError) or _says(
            lowered, _NO_CREDIT
        ):
            refusal = UpstreamRefusal(402, f"the account's credit or quota is used up: {said}", code="no_credit")
            return UpstreamRefused(asked.host, refusal)
        case ModelRateLimitError():
            again_s = seconds_until(error)
            return LimitReached(
                f"{asked.title} takes no more requests now, and will again in {again_s} s: {said}", "requests", again_s
            )
        case ModelUnavailableError():
            return Unavailable(f"{asked.title} cannot answer now: {said}", seconds_until(error))
        case ModelTimeoutError():
            return UpstreamFailed(asked.host, "it did not answer in time")
        case ModelConnectionError() if error.phase in ("connect", "pool"):
            return Unavailable(f"{asked.title} cannot be reached at {asked.host}: {_reason(error, asked)}")
        case ModelConnectionError():
            return UpstreamFailed(asked.host, f"its answer broke off: {_reason(error, asked)}")
        case ModelRequestRejectedError():
            return BadRequest(f"{asked.title} refuses the request: {said}")
        case _ if (status := _status(error)) is not None and status < 500:
            return UpstreamRefused(asked.host, UpstreamRefusal(status, said))
        case _:
            return UpstreamFailed(asked.host, f"it failed: {said}")


def _ours_in(error: BaseException | None) -> SwarmError | None:
    """An error of the tree that a library has wrapped into its own: what broke off has a reason."""
    for _ in range(MOST_CAUSES):
        if error is None or isinstance(error, SwarmError):
            return error
        error = error.__cause__
    return None


def _reason(error: BaseException, asked: AskedProvider) -> str:
    return _said(innermost_words(error), asked)


def innermost_words(error: BaseException) -> str:
    """What the innermost error says that says something. The SDKs' own say "Connection error" alone."""
    said = ""
    inner: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if inner is None:
            break
        said = str(inner) or said
        inner = inner.__cause__ or inner.__context__
    return said


def seconds_until(error: ModelAPIError) -> int:
    """When a provider may be asked again, in whole seconds, as it says; `AGAIN_S` where it does not."""
    return AGAIN_S if error.retry_after is None else max(1, math.ceil(error.retry_after))


def wait_before_again(error: Exception) -> int | None:
    """In how many whole seconds a request that failed before its answer began is worth repeating; None: it is not.

    As the provider says, where it takes no more requests or is overloaded; a little later where it says nothing, or has
    failed. What nobody refused on purpose may have been paid for: broken connections are not repeated.
    """
    if not isinstance(error, ModelRateLimitError | ModelUnavailableError | ModelServerError):
        return None
    if isinstance(error, ModelHTTPError) and error.provider_retry_hint is False:
        return None
    if error.retry_after is not None:
        return seconds_until(error) if error.retry_after <= MOST_WAIT_S else None
    return None if isinstance(error, ModelRateLimitError) else SOON_S


def near_names(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Names of `known` that may have been meant by `name`, the likest first; a maker's name may be left out."""
    by_end: dict[str, str] = {}
    for full in known:
        by_end.setdefault(full.lower(), full)
        by_end.setdefault(full.lower().rpartition("/")[2], full)
    found = difflib.get_close_matches(name.lower(), by_end, n=2 * MOST_NEAR, cutoff=LIKENESS)
    return tuple(dict.fromkeys(by_end[near] for near in found))[:MOST_NEAR]


def message_of(error: ModelAPIError, asked: AskedProvider) -> str:
    """What the provider said, of its error object in whichever form; else what the error is called."""
    body = error.body
    if isinstance(body, list) and len(cast("list[object]", body)) == 1:  # Google's, at some addresses
        body = cast("list[object]", body)[0]
    if isinstance(body, Mapping):
        fields = cast("Mapping[str, Any]", body)
        inner: object = fields.get("error", fields)
        if isinstance(inner, Mapping):
            inner = cast("Mapping[str, Any]", inner).get("message")
        if isinstance(inner, str) and inner.strip():
            return _said(inner, asked)
    if isinstance(body, str) and body.strip():
        return _said(body, asked)
    if isinstance(error, ModelHTTPError):
        return f"HTTP status {error.status_code}"
    return _said(error.message, asked)


def without_secrets(text: str, asked: AskedProvider) -> str:
    """`text` without the key and other secrets, should somebody have sent them back."""
    for secret in (asked.key, *asked.secrets):
        if secret is not None and len(secret) >= SECRET_CHARS:
            text = text.replace(secret, "[secret]")
    return text


def _said(text: str, asked: AskedProvider) -> str:
    # The secrets go first: cutting could leave a part of one.
    said = clean_line(without_secrets(text, asked))
    return said if len(said) <= MAX_SAID_CHARS else f"{said[:MAX_SAID_CHARS]}…"


def _status(error: ModelAPIError) -> int | None:
    return error.status_code if isinstance(error, ModelHTTPError) else None


def _says(lowered: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in lowered for phrase in phrases)


def _names_no_model(error: ModelAPIError, lowered: str, model: str) -> bool:
    """Whether it is the model that there isn't; a 404 may as well be of a wrong address."""
    if _says(lowered, _NO_MODEL) or error.provider_error_code in ("model_not_found", "NOT_FOUND"):
        return True
    return isinstance(error, ModelNotFoundError) and model.lower().rpartition("/")[2] in lowered


def _key_refused(asked: AskedProvider, said: str) -> str:
    where = f"set {' or '.join(asked.variables)} in the environment" if asked.variables else "give another key"
    if asked.key is None:
        return f"{asked.title} wants a key: {where}"
    return f"{asked.title} refuses the key ({said}): {where}"


def _too_long(asked: AskedProvider, said: str) -> BadRequest:
    """Most providers say both counts in a sentence of their own, of which the larger one is the prompt's.

    Where they say more numbers, which is which cannot be told, and the sentence itself has to do.
    """
    counts = sorted(
        {count for found in _NUMBER.findall(said) if (count := int(found.replace(",", ""))) >= LEAST_CONTEXT}
    )
    remedy = "begin anew, or take a model with a larger context"
    if len(counts) != 2:
        return BadRequest(f"the conversation is too long for {asked.model}: {said}; {remedy}")
    return ContextExceeded(counts[1], counts[0], remedy=remedy)
