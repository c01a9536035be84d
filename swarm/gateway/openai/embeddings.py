"""OpenAI's embeddings: a vector for each text, by one model: this node's, a peer's or the upstream's."""

from __future__ import annotations

import asyncio
import base64
import struct

from aiohttp import web

from swarm.errors import BadRequest
from swarm.gateway.answers.leaving import may_leave
from swarm.gateway.answers.utility_calls import BATCH, embed
from swarm.gateway.http.bodies import read_body
from swarm.gateway.http.compact_json import compact
from swarm.gateway.llama.endpoints import ask
from swarm.gateway.openai.embedding_body import EmbeddingBody

VECTORS_AT_ONCE = 4  # encoded between two turns of the event loop: 16,384 numbers at 4,096 a vector, some 15 ms


async def embeddings(request: web.Request) -> web.Response:
    body = await read_body(request, EmbeddingBody)
    as_base64 = body.encoding_format == "base64"
    texts = [text if isinstance(text, str) else list(text) for text in body.texts]
    model, tokens = body.model, 0
    rows: list[str] = []
    upstream = may_leave(request, body.options)
    for start in range(0, len(texts), BATCH):
        part = body.model_copy(update={"input": texts[start : start + BATCH]})
        batch, replica = await ask(request.app, model, embed(part), upstream)
        model = replica.model  # the next batch's too, whoever computes it
        check_dimensions(body, len(batch.vectors[0]))
        tokens += batch.prompt_tokens
        for vector in batch.vectors:
            embedding = to_base64(vector) if as_base64 else vector
            rows.append(compact({"object": "embedding", "index": len(rows), "embedding": embedding}))
            if len(rows) % VECTORS_AT_ONCE == 0:
                await asyncio.sleep(0)
    usage = compact({"prompt_tokens": tokens, "total_tokens": tokens})
    text = f'{{"object":"list","data":[{",".join(rows)}],"model":{compact(model)},"usage":{usage}}}'
    return web.Response(text=text, content_type="application/json")


def check_dimensions(body: EmbeddingBody, size: int) -> None:
    """Raises BadRequest where the client wants vectors of another size than the model's."""
    if body.dimensions not in (None, size):
        raise BadRequest(
            f"dimensions is {body.dimensions}; {body.model!r} gives vectors of {size} numbers and none shorter",
            param="dimensions",
        )


def to_base64(vector: tuple[float, ...]) -> str:
    """A vector as base64 of little-endian float32, which is what the OpenAI SDK asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def routes() -> list[web.RouteDef]:
    return [web.post("/v1/embeddings", embeddings)]
