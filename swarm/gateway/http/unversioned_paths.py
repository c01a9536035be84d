"""Both spellings of every path: with `/v1` as OpenAI's clients ask, and without it as llama.cpp's users do."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

PREFIX = "/v1"
NO_TWIN = "/v1/federation/"  # ours alone, and `/federation/` is where peers talk


def with_twins(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """`routes`, and beside each one under `/v1/` the same handler without that prefix, unless it is there already."""
    given = list(routes)
    taken = {(route.method, route.path) for route in given}
    twins = [
        web.RouteDef(route.method, path, route.handler, route.kwargs)
        for route in given
        if route.path.startswith(PREFIX + "/") and not route.path.startswith(NO_TWIN)
        if (route.method, path := route.path.removeprefix(PREFIX)) not in taken
    ]
    return given + twins
