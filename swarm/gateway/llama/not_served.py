"""What other servers have and a node does not, each refused with why, and with what to do instead.

Without these a client would read that there is no such endpoint, and look for its own mistake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NoReturn

from aiohttp import web

from swarm.errors import NotServed

Refusing = Callable[[web.Request], Awaitable[NoReturn]]

ADAPTERS: Final = (
    "a node loads no LoRA adapters: every node has to answer alike for a model's name. Merge the adapter into the "
    "model (llama.cpp's llama-export-lora), and serve that as a model of its own"
)
LM_STUDIO: Final = (
    "LM Studio's own API is not built: ask /v1/models and /v1/chat/completions, which it has, too, or Ollama's API "
    "at /api"
)
SOUND: Final = "no model here hears or speaks: ask a server for that, such as whisper.cpp's; chats take text and images"
PICTURES: Final = "no model here draws: ask a server for that; chats take images where the model sees"

REFUSED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "/v1/lora-adapters": (("GET", "POST"), ADAPTERS),
    "/api/v0/{path:.+}": (("GET", "POST"), LM_STUDIO),
    "/v1/audio/{path:.+}": (("POST",), SOUND),
    "/v1/images/{path:.+}": (("POST",), PICTURES),
}


def _refusing(why: str) -> Refusing:
    async def refuse(_: web.Request) -> NoReturn:
        raise NotServed(why)

    return refuse


def routes() -> list[web.RouteDef]:
    """Each of them, with `/v1` and without."""
    return [
        web.RouteDef(method, path, _refusing(why), {}) for path, (methods, why) in REFUSED.items() for method in methods
    ]
