"""How requests travel to other nodes: plain HTTP while this node is open, mutual TLS with pins once it is paired."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import aiohttp

from federation.printable_text import printable
from federation.trust import Trust

NOT_TAKEN: Final = "is a member, and does not take this node for one (any more): it may have to be invited again"
_NO_TLS_SIGNS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")  # OpenSSL's words
_MAX_SHOWN_CHARS: Final = 80  # of what OpenSSL says


def over_tls(url: str) -> str:
    """The same place, asked over TLS."""
    return url.replace("http://", "https://", 1)


class ResponseToCome(Awaitable[aiohttp.ClientResponse], AbstractAsyncContextManager[aiohttp.ClientResponse], Protocol):
    """What aiohttp's request methods return."""


class PeerLink:
    """A client session whose `http://` URLs become what this node's trust asks for at that moment."""

    def __init__(self, session: aiohttp.ClientSession, trust: Trust | None) -> None:
        self._session = session
        self._trust = trust

    def get(self, url: str, **options: Any) -> ResponseToCome:
        secured, context = self._secured(url)
        return self._session.get(secured, ssl=context, **options)

    def post(self, url: str, **options: Any) -> ResponseToCome:
        secured, context = self._secured(url)
        return self._session.post(secured, ssl=context, **options)

    def _secured(self, url: str) -> tuple[str, ssl.SSLContext | bool]:
        context = None if self._trust is None else self._trust.client_context
        return (url, True) if context is None else (over_tls(url), context)


def why_no_handshake(error: Exception) -> str:
    """What a failed TLS handshake, or its late refusal, means among nodes."""
    words = str(error).upper()
    if any(sign in words for sign in _NO_TLS_SIGNS):
        return "is an open node, or none: this node is paired and talks to members only (`swarm invite` invites it)"
    if "ALERT" in words:
        return NOT_TAKEN
    return f"breaks off the TLS handshake ({printable(words)[:_MAX_SHOWN_CHARS]})"
