"""llama.cpp's error objects, as errors of ours."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from swarm.engines.llama_cpp.continued_turn import begun_turn
from swarm.engines.llama_cpp.forced_call import demanded_schema
from swarm.engines.wire import Wire, as_object
from swarm.errors import BadRequest, ContextExceeded, EngineFailed, SwarmError
from swarm.generation import GenerationRequest

SCHEMA_COMPLAINT = "Unable to generate parser for this template. Automatic parser generation failed: "
SCHEMA_WORDS = re.compile("schema|grammar", re.IGNORECASE)
UNREADABLE = "does not match the expected"  # an answer and the turn it continues, together, in the template's form
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process\D+(\d+)")
NO_TOKENS = (
    "these numbers are not tokens of this model: send text, or what its own /tokenize gives "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


def translate_error(status: int, body: Wire) -> SwarmError:
    """llama.cpp's error object as one of ours."""
    detail = as_object(body.get("error"))
    message = str(detail.get("message") or f"the engine answered {status}")
    if detail.get("type") == "exceed_context_size_error":
        return ContextExceeded(int(detail.get("n_prompt_tokens", 0)), int(detail.get("n_ctx", 0)))
    if too_large := _TOO_LARGE.match(message):  # a text that must be pooled at once; llama.cpp calls it a server error
        had, most = too_large.groups()
        return BadRequest(f"a text has {had} tokens, and this model takes {most} at once here: split it", param="input")
    if "invalid tokens" in message or "_M_range_check" in message:
        return BadRequest(NO_TOKENS, param="tokens")
    if status in (400, 404, 422, 501):
        return BadRequest(message.removeprefix(SCHEMA_COMPLAINT))
    return EngineFailed(f"the engine failed: {message}")


@asynccontextmanager
async def blaming_the_field(request: GenerationRequest) -> AsyncGenerator[None]:
    """Names the field in a refusal that only llama.cpp could find a reason for: of a schema, or of a begun turn."""
    try:
        yield
    except BadRequest as error:
        if error.param is not None or not SCHEMA_WORDS.search(str(error)):
            raise
        field = "tools" if demanded_schema(request.response_format) is None else "response_format"
        raise BadRequest(f"{field}: {error}", param=field) from error
    except EngineFailed as error:
        if UNREADABLE not in str(error) or begun_turn(request.messages) is None:
            raise
        raise BadRequest(
            "messages: the last one is an assistant's and begins something that this model cannot go on with, "
            "such as half of a call: leave the turn out",
            param="messages",
        ) from error
