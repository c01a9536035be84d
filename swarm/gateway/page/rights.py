"""What the page may do: `GET /swarm/v1/page`, the owner's sessions, and who belongs to the swarm (`/swarm/v1/trust`).

Whoever may ask is decided in `http/access.py`; here it is told in words, with what to type for more. Everything that
changes something is logged with where it came from.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from pydantic import BaseModel, Field, StrictBool

from federation.printable_text import clean_line
from swarm import program_version
from swarm.control_messages import InviteBody, Invited, JoinBody, RevokeBody, WithdrawBody
from swarm.errors import BadRequest, Forbidden, SetupError, SwarmError, Unauthorized, Unavailable
from swarm.gateway.http.access import (
    OWNER_HEADER,
    PAGE_PATH,
    TRUST_PATH,
    AccessRules,
    Caller,
    check_key,
    check_management,
)
from swarm.gateway.http.access_middleware import ACCESS, PAGE_ACCESS, caller_of
from swarm.gateway.http.bodies import Part, json_response, read_body
from swarm.gateway.http.keys import DISPATCHER, TRUST
from swarm.gateway.observing.view import json_object
from swarm.gateway.peers.control import TrustCommands

MAX_TOKEN_CHARS: Final = 256
MAX_NAMED_CHARS: Final = 200  # of what somebody asked for, in the log

TRUST_COMMANDS: web.AppKey[Callable[[], TrustCommands | None]] = web.AppKey("trust_commands")
RECORDS = web.AppKey("records", bool)  # whether this node keeps the words of votes (--record)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PageMay:
    """What its caller may do."""

    ask: bool
    manage: bool
    trust: bool


@dataclass(frozen=True, slots=True)
class PageHow:
    """Why it may, or how it gets to, in words."""

    ask: str
    manage: str
    trust: str


@dataclass(frozen=True, slots=True)
class PageRights:
    """The answer of `GET /swarm/v1/page`. `token`: what a page sends as X-Swarm-Page; null where it changes nothing."""

    node: str
    version: str
    mode: str
    needs_key: bool
    may: PageMay
    how: PageHow
    token: str | None
    records: bool


class OwnerBody(Part):
    """`POST /swarm/v1/page/owner`: what stands behind `#owner=` in the link of `swarm page`."""

    token: str = Field(min_length=1, max_length=MAX_TOKEN_CHARS, repr=False)


class OwnerSessionBody(BaseModel):
    """What a link opened: send `session` as X-Swarm-Owner."""

    session: str
    expires_in_s: float


class InvitedWithQr(Invited):
    """`qr`: the code in capitals as a QR code, rows of 0 and 1 (dark) without the margin."""

    qr: tuple[str, ...]


class EndBody(Part):
    """`POST /swarm/v1/page/owner/end`. `all`: every session of this node's, and every link."""

    all: StrictBool = False


class EndedBody(BaseModel):
    """How many sessions ended."""

    ended: int


def rights_of(rules: AccessRules, caller: Caller) -> tuple[PageMay, PageHow]:
    """What a caller may, by the rules that its requests are judged by, and why or how."""
    may = PageMay(
        ask=caller.own_origin and _passes(lambda: check_key(rules, caller)),
        manage=_passes(lambda: check_management(rules, caller)),
        trust=caller.is_owner,
    )
    return may, PageHow(_how_to_ask(rules, may, caller), _how_to_manage(rules, may, caller), _how_to_trust(caller))


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except (Forbidden, Unauthorized):
        return False
    return True


def _how_to_ask(rules: AccessRules, may: PageMay, caller: Caller) -> str:
    if not rules.wants_key:
        return "this node answers without a key"
    if may.ask:
        return "by the link of `swarm page`" if caller.is_owner else "by the API key that you gave"
    wrong = "this node does not know that API key. " if caller.keys else ""
    return f"{wrong}This node wants an API key: ask whoever runs it (--api-key-file) and enter it here"


def _how_to_manage(rules: AccessRules, may: PageMay, caller: Caller) -> str:
    if may.manage:
        if caller.is_owner:
            return "by the link of `swarm page`"
        return "this browser is on the node's machine" if caller.from_loopback else "by the admin key that you gave"
    ways = "type `swarm page` on the node's machine and open the link that it prints (`swarm page --lan` for this one)"
    if rules.admin_digests:
        return f"{ways}, or enter an admin key of this node (--admin-key-file)"
    if caller.from_loopback:
        return f"enter the node's API key, or {ways}"
    return f"{ways}, or start the node with --admin-key-file FILE and enter a key of that file"


def _how_to_trust(caller: Caller) -> str:
    if caller.is_owner:
        return "by the link of `swarm page`"
    return (
        "type `swarm page` on the node's machine and open the link that it prints (`swarm page --lan` for another "
        "machine's browser); `swarm invite`, `join` and `revoke` there do it without a page"
    )


async def page_rights(request: web.Request) -> web.Response:
    """For the node's own page and for programs. It holds the page's token, and no cache keeps it."""
    caller, trust = caller_of(request), request.app.get(TRUST)
    rules = request.app[ACCESS]
    may, how = rights_of(rules, caller)
    rights = PageRights(
        node=request.app[DISPATCHER].node,
        version=program_version(),
        mode="open" if trust is None else trust.mode,
        needs_key=rules.wants_key,
        may=may,
        how=how,
        token=request.app[PAGE_ACCESS].token if may.manage or may.trust else None,
        records=request.app.get(RECORDS, False),
    )
    return _private(json_response(json_object(rights)))


async def open_session(request: web.Request) -> web.Response:
    """The session that a link opens, once."""
    body = await read_body(request, OwnerBody)
    caller = caller_of(request)
    if caller.is_node:
        raise Forbidden("no node is another's owner", "link_not_from_here")
    try:
        opened = request.app[PAGE_ACCESS].redeem(body.token, request.remote or "", caller.from_loopback)
    except Forbidden as error:
        log.warning("%s tried a link of `swarm page`: %s", request.remote, error.code)
        raise
    log.warning("%s opened the page of this node as its owner, by a link of `swarm page`", request.remote)
    answer = {"session": opened.session, "expires_in_s": opened.expires_in_s}
    return _private(json_response(answer))


async def end_session(request: web.Request) -> web.Response:
    """This session, or all of them. For who has one."""
    body = await read_body(request, EndBody) if request.can_read_body else EndBody()
    if not caller_of(request).is_owner:
        raise Forbidden(f"there is no such session: send it as {OWNER_HEADER}; it may have ended", "no_session")
    access = request.app[PAGE_ACCESS]
    ended = access.end_all() if body.all else access.end(request.headers[OWNER_HEADER])
    log.warning("%s ended %s", request.remote, f"all sessions of the owner ({ended})" if body.all else "its session")
    return json_response({"ended": ended})


def _private(response: web.Response) -> web.Response:
    response.headers["Cache-Control"] = "no-store"
    return response


# Who belongs to the swarm


async def _done(request: web.Request, what: str, work: Callable[[TrustCommands], Awaitable[BaseModel]]) -> BaseModel:
    """What the node's commands answer; their refusals as a client of HTTP gets them. Logged, done or not."""
    commands = request.app[TRUST_COMMANDS]()
    if commands is None:
        raise Unavailable("this node is still starting: try again in a moment")
    try:
        found = await work(commands)
    except (SetupError, BadRequest) as error:
        log.warning("%s, as the owner, would %s: %s", request.remote, what, error)
        raise BadRequest(str(error)) from error
    except SwarmError as error:
        log.warning("%s, as the owner, would %s: %s", request.remote, what, error)
        if isinstance(error, Forbidden | Unavailable):
            raise
        raise Unavailable(str(error)) from error  # what did not work this time
    log.warning("%s, as the owner: %s", request.remote, what)
    return found


async def peers(request: web.Request) -> web.Response:
    """The members, and the codes that are good."""
    commands = request.app[TRUST_COMMANDS]()
    if commands is None:
        raise Unavailable("this node is still starting: try again in a moment")
    return _private(json_response(commands.peers().model_dump(mode="json")))


async def invite(request: web.Request) -> web.Response:
    """A code, and `qr`: its QR code as rows of 0 and 1, without the margin.

    In capitals, which `swarm join` takes, too: they need fewer modules.
    """
    body = await read_body(request, InviteBody)

    async def work(commands: TrustCommands) -> BaseModel:
        return await commands.invite(body.uses, body.life_s)

    invited = await _done(request, f"invite {body.uses} to the swarm", work)
    fields = invited.model_dump(mode="json")
    from swarm.qr import qr_rows  # few nodes ever draw one

    return _private(json_response({**fields, "qr": qr_rows(str(fields["code"]).upper())}))


async def join(request: web.Request) -> web.Response:
    """This node becomes a member of the swarm that gave the code."""
    body = await read_body(request, JoinBody)
    joined = await _done(request, "join a swarm by a code", lambda commands: commands.join(body.code))
    return json_response(joined.model_dump(mode="json"))


async def revoke(request: web.Request) -> web.Response:
    """Put a member out; this node's own id makes it leave."""
    body = await read_body(request, RevokeBody)
    named = clean_line(body.who[:MAX_NAMED_CHARS])
    revoked = await _done(request, f"revoke {named}", lambda commands: commands.revoke(body.who))
    return json_response(revoked.model_dump(mode="json"))


async def withdraw(request: web.Request) -> web.Response:
    """End a code: by its text, its id, or `all`."""
    body = await read_body(request, WithdrawBody)

    async def work(commands: TrustCommands) -> BaseModel:
        return commands.withdraw(body.code)

    return json_response((await _done(request, "withdraw codes", work)).model_dump(mode="json"))


def routes() -> list[web.RouteDef]:
    """What the page's rights are, and what only the owner may."""
    return [
        web.get(PAGE_PATH, page_rights),
        web.post(f"{PAGE_PATH}/owner", open_session),
        web.post(f"{PAGE_PATH}/owner/end", end_session),
        web.get(f"{TRUST_PATH}/peers", peers),
        web.post(f"{TRUST_PATH}/invite", invite),
        web.post(f"{TRUST_PATH}/join", join),
        web.post(f"{TRUST_PATH}/revoke", revoke),
        web.post(f"{TRUST_PATH}/withdraw", withdraw),
    ]
