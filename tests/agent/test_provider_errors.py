"""What providers say when they refuse, in the forms that clouds have and in any other: one tree, no secret in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelTimeoutError,
    UnexpectedModelBehavior,
)

from swarm.agent.provider_errors import (
    AGAIN_S,
    MAX_SAID_CHARS,
    SOON_S,
    AskedProvider,
    message_of,
    near_names,
    translated,
    wait_before_again,
    without_secrets,
)
from swarm.errors import (
    BadRequest,
    ContextExceeded,
    Forbidden,
    LimitReached,
    NoSuchModel,
    SwarmError,
    Unauthorized,
    Unavailable,
    UnknownModel,
    UpstreamFailed,
    UpstreamRefused,
)

KEY = "sk-secret-0123456789"
ASKED = AskedProvider("groq", "Groq", "api.groq.com", "llama-3.3-70b", ("GROQ_API_KEY",), KEY, ("header-secret",))


def refused(
    category: type[ModelAPIError],
    status: int,
    said: str = "no",
    code: str | None = None,
    retry_after: float | None = None,
) -> ModelHTTPError:
    return ModelHTTPError.for_category(
        category,  # type: ignore[arg-type]
        status_code=status,
        model_name="m",
        body={"message": said},
        provider_error_code=code,
        retry_after=retry_after,
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refused(ModelAuthenticationError, 401), Unauthorized),
        (refused(ModelAuthenticationError, 403), Forbidden),
        (refused(ModelRequestRejectedError, 400, "Incorrect API key provided: x"), Unauthorized),
        (refused(ModelNotFoundError, 404, "model llama-3.3-70b does not exist"), NoSuchModel),
        (refused(ModelNotFoundError, 404, "models/x is not found", "NOT_FOUND"), NoSuchModel),
        (refused(ModelRequestRejectedError, 400, "Model Not Exist"), NoSuchModel),
        (refused(ModelNotFoundError, 404, "404 page not found"), UpstreamRefused),
        (refused(ModelContextWindowExceededError, 400, "has 9000 tokens, 8192 fit"), ContextExceeded),
        (refused(ModelContextWindowExceededError, 400, "much too long"), BadRequest),
        (
            refused(ModelContextWindowExceededError, 400, "8192 fit, 9203 came, 8203 of text, 1000 free"),
            BadRequest,
        ),
        (refused(ModelRequestRejectedError, 400, "exceeds the available context size (9000 > 4096)"), ContextExceeded),
        (refused(ModelQuotaExceededError, 429), UpstreamRefused),
        (refused(ModelRateLimitError, 429, "you have used all available credits"), UpstreamRefused),
        (refused(ModelRateLimitError, 429), LimitReached),
        (refused(ModelOverloadedError, 529), Unavailable),
        (refused(ModelServerError, 500), UpstreamFailed),
        (refused(ModelRequestRejectedError, 422), BadRequest),
        (ModelHTTPError(413, "m", {"message": "too large"}), UpstreamRefused),
        (ModelHTTPError(302, "m", None), UpstreamRefused),
        (ModelConnectionError("m", "refused", phase="connect"), Unavailable),
        (ModelConnectionError("m", "reset", phase="read"), UpstreamFailed),
        (ModelTimeoutError("m", "slow", phase="read"), UpstreamFailed),
        (ModelAPIError("m", "odd"), UpstreamFailed),
        (UnexpectedModelBehavior("no JSON"), UpstreamFailed),
        (TypeError("'NoneType' object is not iterable"), UpstreamFailed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
def test_every_kind_of_error_has_its_place_in_the_tree(error: Exception, kind: type[SwarmError]) -> None:
    found = translated(error, ASKED)
    assert type(found) is kind, str(found)


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = BadRequest("no")
    assert translated(error, ASKED) is error


def test_when_to_come_back_is_told_in_whole_seconds_that_have_passed_then() -> None:
    found = translated(refused(ModelRateLimitError, 429, retry_after=6.2), ASKED)
    assert isinstance(found, LimitReached)
    assert found.again_in_s == 7
    unsaid = translated(refused(ModelRateLimitError, 429), ASKED)
    assert isinstance(unsaid, LimitReached)
    assert unsaid.again_in_s == AGAIN_S
    busy = translated(refused(ModelOverloadedError, 503, retry_after=0.0), ASKED)
    assert isinstance(busy, Unavailable)
    assert busy.retry_after_s == 1


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (refused(ModelRateLimitError, 429, retry_after=6.2), 7),
        (refused(ModelRateLimitError, 429, retry_after=0.0), 1),
        (refused(ModelRateLimitError, 429, retry_after=60.0), 60),
        (refused(ModelRateLimitError, 429, retry_after=61.0), None),
        (refused(ModelRateLimitError, 429), None),
        (refused(ModelOverloadedError, 529), SOON_S),
        (refused(ModelOverloadedError, 503, retry_after=9.0), 9),
        (refused(ModelServerError, 500), SOON_S),
        (refused(ModelAuthenticationError, 401, retry_after=1.0), None),
        (refused(ModelQuotaExceededError, 429, retry_after=1.0), None),
        (refused(ModelRequestRejectedError, 400), None),
        (ModelConnectionError("m", "reset", phase="read"), None),
        (ModelConnectionError("m", "refused", phase="connect"), None),
        (UnexpectedModelBehavior("no JSON"), None),
        (ModelHTTPError(500, "m", None, headers={"x-should-retry": "false"}), None),
        (
            ModelHTTPError.for_category(
                ModelServerError, status_code=500, model_name="m", headers={"x-should-retry": "false"}
            ),
            None,
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_worth_repeating_and_when(error: Exception, wait_s: int | None) -> None:
    assert wait_before_again(error) == wait_s


def test_a_key_that_is_wanted_or_refused_is_told_with_where_to_set_it() -> None:
    keyless = AskedProvider("groq", "Groq", "api.groq.com", "m", ("GROQ_API_KEY",))
    for asked, given_key, words in ((keyless, False, "wants a key"), (ASKED, True, "refuses the key")):
        found = translated(refused(ModelAuthenticationError, 401), asked)
        assert isinstance(found, Unauthorized)
        assert found.given is given_key
        assert words in str(found)
        assert "GROQ_API_KEY" in str(found)


def test_a_model_that_there_is_not_is_also_an_unknown_model_to_whoever_asks_for_those() -> None:
    names = ("llama-3.3-70b-versatile", "llama-3.1-8b-instant", "whisper-large")
    found = translated(refused(ModelNotFoundError, 404, "llama-3.3-70b"), ASKED, lambda: names)
    assert isinstance(found, UnknownModel)
    assert found.known == names
    assert str(found) == (
        "groq has no model 'llama-3.3-70b': did you mean llama-3.3-70b-versatile or llama-3.1-8b-instant? "
        "`swarm providers models groq` lists what it has"
    )


def test_names_are_near_with_or_without_their_maker_in_any_case() -> None:
    known = ("anthropic/claude-sonnet-4.5", "openai/gpt-5.2", "qwen/qwen3-32b")
    assert near_names("claude-sonnet-45", known) == ("anthropic/claude-sonnet-4.5",)
    assert near_names("GPT-5.2", known)[0] == "openai/gpt-5.2"
    assert near_names("nothing like it at all", known) == ()
    assert near_names("x", ()) == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "a"}, "a"),
        ({"error": {"message": "b"}}, "b"),
        ({"error": "c"}, "c"),
        ([{"error": {"message": "d"}}], "d"),
        ("e", "e"),
        ("", "HTTP status 418"),
        ({"error": {"message": 3}}, "HTTP status 418"),
        ({"error": None}, "HTTP status 418"),
        ([], "HTTP status 418"),
        (None, "HTTP status 418"),
        ({"message": "two\nlines\x1b[31m and a colour"}, "two lines and a colour"),
    ],
)
def test_a_providers_words_are_found_in_whatever_form_they_come(body: object, said: str) -> None:
    assert message_of(ModelHTTPError(418, "m", body), ASKED) == said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.just(f"the key {KEY} is wrong"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type"]), inner, max_size=3)
    ),
    max_leaves=8,
)
CATEGORIES = [
    None,
    ModelAuthenticationError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
]


@given(json_values, st.sampled_from(CATEGORIES), st.integers(200, 599))
@settings(deadline=None, max_examples=400)
def test_whatever_is_sent_becomes_one_error_that_can_be_shown(
    body: object, category: type[ModelAPIError] | None, status: int
) -> None:
    error = ModelHTTPError.for_category(category, status_code=status, model_name="m", body=body)  # type: ignore[arg-type]
    told = str(translated(error, ASKED))
    assert told.isprintable()
    assert KEY not in told
    assert len(told) < MAX_SAID_CHARS + 300


def test_a_secret_is_gone_before_words_are_cut() -> None:
    """Cutting first could leave all but the last letter of it."""
    words = "x" * (MAX_SAID_CHARS - 10) + KEY
    told = str(translated(refused(ModelRequestRejectedError, 400, words), ASKED))
    assert KEY[:8] not in told
    assert without_secrets(f"{KEY} and header-secret", ASKED) == "[secret] and [secret]"
    assert KEY not in repr(ASKED)
