"""The page's rights and the owner's sessions at running nodes: from `swarm page` to a member that was invited there."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarm.cli import main
from swarm.commands import members
from swarm.commands.members import has_desktop
from swarm.control_messages import PAGE_PATH
from swarm.gateway.http.access import AccessRules, digest
from swarm.qr import qr_rows, qr_text
from tests.doubles.running_node import RunningNode
from tests.trust.conftest import MakeNode
from tests.trust.test_control_endpoint import asked, command, control_of

ALLOWED = "http://app.example"


class Browser:
    """A page of the node itself, as a browser sends its requests; it has what it was told and no more."""

    def __init__(self, session: aiohttp.ClientSession, node: RunningNode) -> None:
        self._session = session
        self._node = node
        self.headers: dict[str, str] = {}

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """The status, the JSON, and the headers."""
        own = {"Sec-Fetch-Site": "same-origin"} | ({"Origin": self._node.url} if method == "POST" else {})
        sent = {**own, **self.headers, **{name.replace("_", "-"): text for name, text in headers.items()}}
        async with self._session.request(
            method, f"{self._node.url}{path}", json=body, headers={name: text for name, text in sent.items() if text}
        ) as reply:
            return reply.status, json.loads(await reply.text() or "null"), reply.headers

    async def get(self, path: str, **headers: str) -> Any:
        status, told, _ = await self.ask("GET", path, **headers)
        assert status == 200, told
        return told

    async def post(self, path: str, body: object, **headers: str) -> Any:
        status, told, _ = await self.ask("POST", path, body, **headers)
        assert status == 200, told
        return told

    async def code(self, path: str, body: object, method: str = "POST", **headers: str) -> tuple[int, str]:
        status, told, _ = await self.ask(method, path, body, **headers)
        return status, told["error"]["code"]

    async def open(self, link: str) -> None:
        """As the page does with `#owner=...`."""
        opened = await self.post("/swarm/v1/page/owner", {"token": link.partition("#owner=")[2]})
        assert opened["expires_in_s"] == 12 * 3600
        self.headers["X-Swarm-Owner"] = opened["session"]
        self.headers["X-Swarm-Page"] = (await self.get("/swarm/v1/page"))["token"]


@asynccontextmanager
async def browsing(node: RunningNode) -> AsyncGenerator[Browser]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield Browser(session, node)


async def link_of(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    capsys.readouterr()
    assert await command("page", "--no-browser", "--data-dir", folder, *words) == 0
    return capsys.readouterr().out.strip()


async def test_a_link_opens_the_page_as_owner_once_and_the_owner_invites_and_revokes(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kitchen, study = make_node("kitchen"), make_node("study")
    async with kitchen, study, browsing(kitchen) as page, browsing(study) as other, browsing(kitchen) as late:
        told = await page.get("/swarm/v1/page")
        assert told["may"] == {"ask": True, "manage": True, "trust": False}
        assert "`swarm page`" in told["how"]["trust"]
        assert (told["node"], told["mode"], told["needs_key"]) == ("kitchen", "open", False)
        assert await page.code("/swarm/v1/trust/invite", {}) == (403, "trust_not_here")

        link = await link_of(capsys, tmp_path / "kitchen")
        assert re.fullmatch(rf"http://127\.0\.0\.1:{kitchen.address.port}/#owner=[\w-]{{43}}", link)
        await page.open(link)
        assert (await page.get("/swarm/v1/page"))["may"] == {"ask": True, "manage": True, "trust": True}
        assert await late.code("/swarm/v1/page/owner", {"token": link.partition("=")[2]}) == (403, "link_used")

        invited = await page.post("/swarm/v1/trust/invite", {"uses": 2, "life_s": 3600})
        assert invited["qr"] == qr_rows(invited["code"].upper())
        assert len(invited["qr"]) == len(invited["qr"][0])
        await other.open(await link_of(capsys, tmp_path / "study"))
        joined = await other.post("/swarm/v1/trust/join", {"code": invited["code"].upper()})
        assert joined["inviter"] == "kitchen"
        await kitchen.until(lambda: len(kitchen.membership.alive()) == 1)
        known = await page.get("/swarm/v1/trust/peers")
        assert [(node["name"], node["state"]) for node in known["nodes"]] == [("study", "alive")]
        assert known["codes"][0]["joined"] == ["study"]
        ended = await page.post("/swarm/v1/trust/withdraw", {"code": invited["id"]})
        assert [code["id"] for code in ended["codes"]] == [invited["id"]]
        revoked = await page.post("/swarm/v1/trust/revoke", {"who": "study"})
        assert (revoked["name"], revoked["itself"]) == ("study", False)
        status, told, _ = await page.ask("POST", "/swarm/v1/trust/revoke", {"who": "attic"})
        assert (status, "'attic' is not a member" in told["error"]["message"]) == (400, True)
        status, told, _ = await page.ask("POST", "/swarm/v1/trust/join", {"code": "swarm1nonsense"})
        assert (status, "mistyped" in told["error"]["message"]) == (400, True)
    said = caplog.text
    for line in ("invite 2 to the swarm", "revoke study", "withdraw codes", "link_used", "opened the page"):
        assert re.search(rf"127\.0\.0\.1.*{line}", said), line
    for secret in (link.partition("=")[2], *page.headers.values(), invited["code"]):
        assert secret not in said, "no secret is logged"


async def test_a_session_ends_when_it_is_ended_and_all_do_together(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with make_node("kitchen") as kitchen, browsing(kitchen) as page, browsing(kitchen) as other:
        assert await page.code("/swarm/v1/page/owner/end", {}) == (403, "no_session")
        await page.open(await link_of(capsys, tmp_path / "kitchen"))
        await other.open(await link_of(capsys, tmp_path / "kitchen"))
        assert await page.post("/swarm/v1/page/owner/end", {}) == {"ended": 1}
        assert not (await page.get("/swarm/v1/page"))["may"]["trust"]
        assert await page.code("/swarm/v1/trust/peers", None, "GET") == (403, "trust_not_here")
        await page.open(await link_of(capsys, tmp_path / "kitchen"))
        waiting = await link_of(capsys, tmp_path / "kitchen")
        assert await other.post("/swarm/v1/page/owner/end", {"all": True}) == {"ended": 2}
        assert not (await page.get("/swarm/v1/page"))["may"]["trust"]
        assert await page.code("/swarm/v1/page/owner", {"token": waiting.partition("=")[2]}) == (403, "link_unknown")


async def test_a_session_of_this_machine_is_worth_nothing_through_a_proxy_and_one_for_the_network_is(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyed = AccessRules(key_digests=(digest("sk"),), origins=frozenset({ALLOWED}))
    async with make_node("kitchen", access=keyed) as kitchen, browsing(kitchen) as page:
        told = await page.get("/swarm/v1/page")
        assert told["may"] == {"ask": False, "manage": False, "trust": False}
        assert (told["needs_key"], told["token"]) == (True, None)
        await page.open(await link_of(capsys, tmp_path / "kitchen"))
        assert (await page.get("/swarm/v1/page"))["may"] == {"ask": True, "manage": True, "trust": True}
        proxied = await page.get("/swarm/v1/page", X_Forwarded_For="192.168.1.9")
        assert (proxied["may"], proxied["token"]) == ({"ask": False, "manage": False, "trust": False}, None)
        lan = kitchen.page_access.redeem(kitchen.page_access.new_link(lan=True), "192.168.1.9", from_loopback=False)
        away = {"X_Forwarded_For": "192.168.1.9", "X_Swarm_Owner": lan.session}
        assert (await page.get("/swarm/v1/page", **away))["may"]["trust"]


async def test_what_the_page_is_told_is_told_to_no_other_page(make_node: MakeNode) -> None:
    """Not to one of an origin on the allow-list either."""
    allowed = AccessRules(origins=frozenset({ALLOWED}))
    async with make_node("kitchen", access=allowed) as kitchen, browsing(kitchen) as page:
        for origin in (ALLOWED, "http://evil.example", "null"):
            status, told, headers = await page.ask("GET", "/swarm/v1/page", Origin=origin, Sec_Fetch_Site="cross-site")
            assert (status, told["error"]["code"]) == (403, "origin_not_allowed"), origin
            assert "Access-Control-Allow-Origin" not in headers
            for path in ("/swarm/v1/page/owner", "/swarm/v1/page/owner/end"):
                assert await page.code(path, {"token": "x"}, Origin=origin) == (403, "origin_not_allowed")
        status, _, headers = await page.ask("GET", "/swarm/v1/page")
        assert (status, headers["Cache-Control"]) == (200, "no-store")
        assert (await page.code("/swarm/v1/page", None, "GET", Sec_Fetch_Site="cross-site"))[0] == 403


async def test_a_browser_changes_something_only_with_the_page_s_token_and_programs_need_none(
    make_node: MakeNode,
) -> None:
    async with make_node("kitchen") as kitchen, browsing(kitchen) as page:
        for given in ("", "wrong", "x" * 43):
            refused = await page.code("/v1/models/unload", {"model": "m"}, X_Swarm_Page=given)
            assert refused == (403, "page_token_missing")
        token = (await page.get("/swarm/v1/page"))["token"]
        assert (await page.post("/v1/models/pin", {"model": "m", "pinned": True}, X_Swarm_Page=token))["success"]
        program = {"Origin": "", "Sec_Fetch_Site": ""}
        assert (await page.post("/v1/models/pin", {"model": "m", "pinned": True}, **program))["success"]


async def test_the_control_endpoint_makes_links_for_its_secret_alone(make_node: MakeNode) -> None:
    async with make_node("kitchen") as kitchen:
        control = control_of(kitchen)
        secret = {"Authorization": f"Bearer {control.secret}"}
        assert await asked(control, "POST", PAGE_PATH, {}) == 401
        assert await asked(control, "POST", PAGE_PATH, {**secret, "Origin": kitchen.url}) == 403
        assert await asked(control, "POST", PAGE_PATH, secret) == 200


async def test_swarm_page_says_what_it_does_and_what_it_cannot(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(members, "_open_browser", opened.append)
    monkeypatch.setattr(members, "has_desktop", lambda environ, platform: True)
    assert await command("page", "--data-dir", tmp_path) == 2
    assert "no node runs here" in capsys.readouterr().err
    async with make_node("kitchen"):
        assert await command("page", "--data-dir", tmp_path / "kitchen") == 0
        told = capsys.readouterr()
        assert opened == [told.out.strip()], "the link alone is the output"
        assert "once, within 10 minutes" in told.err
        assert await command("page", "--json", "--data-dir", tmp_path / "kitchen") == 0
        link = json.loads(capsys.readouterr().out)
        assert (link["node"], link["life_s"], link["lan"], len(opened)) == ("kitchen", 600.0, False, 1)
        assert await command("page", "--lan", "--data-dir", tmp_path / "kitchen") == 2
        assert "which no other machine reaches" in capsys.readouterr().err


def test_a_link_for_the_network_comes_with_a_plain_warning() -> None:
    link = members.PageLink(url="http://192.168.1.5:17615/#owner=x", node="kitchen", life_s=600, lan=True)
    assert "UNENCRYPTED" in " ".join(members.page_lines(link))
    assert "UNENCRYPTED" not in " ".join(members.page_lines(link.model_copy(update={"lan": False})))


@pytest.mark.parametrize(
    ("environ", "platform", "has"),
    [
        ({"DISPLAY": ":0"}, "linux", True), ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True), ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False), ({}, "darwin", True), ({"SSH_CONNECTION": "a"}, "darwin", False),
        ({"DISPLAY": "localhost:10", "SSH_TTY": "/dev/pts/1"}, "linux", False),
    ],
)  # fmt: skip
def test_a_browser_is_opened_where_somebody_sees_it(environ: dict[str, str], platform: str, has: bool) -> None:
    assert has_desktop(environ, platform) is has


async def test_an_invitation_is_drawn_as_a_code_that_a_camera_reads(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The drawing says the very modules of the code, in 45 columns at most, with light around it."""
    async with make_node("kitchen"):
        assert await command("invite", "--qr", "--data-dir", tmp_path / "kitchen") == 0
        said = capsys.readouterr().out
        code = next(word for word in said.split() if word.startswith("swarm1"))
        drawn = said[said.index("█") :].rstrip("\n").split("\n")
        assert "\n".join(drawn) == qr_text(qr_rows(code.upper()), colours=False)
        assert all(len(line) <= 45 for line in drawn)
        halves = {"█": "00", "▀": "01", "▄": "10", " ": "11"}
        modules = ["".join(halves[char][half] for char in line) for line in drawn for half in (0, 1)]
        size = len(qr_rows(code.upper()))
        assert [row[2 : 2 + size] for row in modules[2 : 2 + size]] == qr_rows(code.upper())
        assert set("".join(modules[:2]) + "".join(row[:2] + row[-2:] for row in modules)) == {"0"}
    for words in (("--qr", "--json"), ("--qr", "--list")):
        assert await asyncio.to_thread(main, ["invite", *words]) == 2
